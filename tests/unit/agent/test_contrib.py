"""The dashboard and the alert rules ask only for what `/metrics` tells, with labels that it has."""

import json
import re
from pathlib import Path

import pytest
import yaml

from stockade.agent.metric_table import METRICS, MetricType
from stockade.model.reasons import ReasonCode

CONTRIB = Path(__file__).parents[3] / "contrib"
RULES = CONTRIB / "prometheus" / "stockade.rules.yml"
DASHBOARD = CONTRIB / "grafana" / "stockade.json"
ADDED = {"instance", "job", "le"}  # by Prometheus itself
KNOWN = {
    name: {*metric.labels, *ADDED}
    for metric in METRICS
    for name in (
        [f"{metric.name}_{part}" for part in ("bucket", "sum", "count")]
        if metric.type is MetricType.HISTOGRAM
        else [metric.name]
    )
}


def rules():
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    return group["rules"]


def dashboard_expressions():
    return [
        target["expr"] for panel in json.loads(DASHBOARD.read_text())["panels"] for target in panel["targets"]
    ]


def check(expression):
    assert expression.count("(") == expression.count(")")
    assert expression.count("{") == expression.count("}")
    names = set(re.findall(r"\bstockade_\w+", expression.replace('job="stockade"', "")))
    assert names <= KNOWN.keys(), expression
    labels = set(re.findall(r"[{,]\s*(\w+)\s*=", expression))
    for group in re.findall(r"(?:by|on)\s*\(([^)]*)\)", expression):
        labels |= {word.strip() for word in group.split(",")}
    allowed = set.intersection(*(KNOWN[name] for name in names)) if names else ADDED
    assert labels <= allowed, f"{expression}: {labels - allowed}"


def test_alert_rules_ask_for_what_there_is():
    assert len(rules()) >= 10
    for rule in rules():
        check(rule["expr"])
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"]["summary"]


def test_alert_rules_tell_of_labels_that_their_result_has():
    for rule in rules():
        told = " ".join(rule["annotations"].values())
        names = set(re.findall(r"\bstockade_\w+", rule["expr"]))
        has = set.union(*(KNOWN[name] for name in names)) if names else ADDED
        grouped = re.findall(r"sum by \(([^)]*)\)", rule["expr"])
        if grouped:
            has = {word.strip() for word in grouped[0].split(",")}
        assert set(re.findall(r"\$labels\.(\w+)", told)) <= has, rule["alert"]


def test_reasons_in_alert_rules_are_reasons():
    words = [code.word for code in ReasonCode]
    for rule in rules():
        for alternatives in re.findall(r'reason=~"([^"]*)"', rule["expr"]):
            for pattern in alternatives.split("|"):
                assert any(re.fullmatch(pattern, word) for word in words), pattern


def test_the_dashboard_asks_for_what_there_is():
    assert len(dashboard_expressions()) >= 15
    for expression in dashboard_expressions():
        check(expression.replace("$__rate_interval", "5m").replace("$instance", ".*"))


def test_panels_do_not_lie_over_each_other():
    taken = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


@pytest.mark.parametrize("expression", ["stockade_nothing", 'stockade_filters{colour="red"}'])
def test_the_check_itself_finds_what_is_not_there(expression):
    with pytest.raises(AssertionError):
        check(expression)
