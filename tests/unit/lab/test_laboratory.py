"""The failover laboratory. Virtual time: the figures are exact, and the same in every run."""

import json
import xml.etree.ElementTree as ElementTree
from functools import cache

import pytest

from stockade.console.main import main
from stockade.lab.laboratory import CLIENTS, SCENARIOS, Outcome, Scene, run_one
from stockade.lab.laboratory_report import as_json, as_svg, as_text, shortened

BY_NAME = {client.name: client for client in CLIENTS}


@cache
def outcome(scenario: str, client: str) -> Outcome:
    return run_one(scenario, BY_NAME[client], 1)


@pytest.mark.parametrize(
    ("client", "least", "most"),
    [
        ("Windows 2000", 300, 366),
        ("Windows 2003", 115, 180),
        ("Windows 2003 with hotfix", 10, 15),
        ("Vista and later with hotfix", 10, 15),
        ("third party, DPD 120 s", 60, 125),
        ("Stockade", 0, 1),
    ],
)
def test_a_cluster_node_crashes(client: str, least: float, most: float) -> None:
    found = outcome("cluster node crash", client)
    assert found.reconnect_s is not None
    assert least <= found.reconnect_s <= most


def test_a_planned_failover_costs_less_than_a_fifth_of_a_second() -> None:
    found = outcome("planned failover", "Stockade")
    assert found.gap_s is not None
    assert found.gap_s < 0.2


def test_a_restarted_server_of_ours_is_back_at_once() -> None:
    found = outcome("server restart", "Stockade")
    assert found.reconnect_s is not None
    assert found.reconnect_s < 0.5
    other = outcome("server restart", "Windows 2003").reconnect_s
    assert other is not None
    assert other > 60


def test_after_a_cut_we_are_back_within_a_second() -> None:
    found = outcome("network cut and return", "Stockade").reconnect_s
    assert found is not None
    assert found <= 1.1


@pytest.mark.parametrize("scenario", ["overloaded node", "lossy path"])
def test_trouble_is_no_death(scenario: str) -> None:
    assert outcome(scenario, "Stockade").given_up == 0


def test_an_hour_of_heavy_loss_is_no_false_alarm() -> None:
    """30 % of all packets, in both directions."""
    scene = Scene(BY_NAME["Stockade"], 3)
    scene.fails("loss")
    scene.network.loss = 0.3
    scene.clock.run(3600.0)
    assert scene.given_up == 0
    assert len(scene.answers) > 500


def test_every_client_comes_back_everywhere() -> None:
    for scenario in SCENARIOS:
        if scenario != "lossy path":
            assert outcome(scenario, "Windows 2003 with hotfix").reconnect_s is not None


def test_the_same_seed_gives_the_same_story() -> None:
    assert run_one("cluster node crash", BY_NAME["Stockade"], 4) == run_one(
        "cluster node crash", BY_NAME["Stockade"], 4
    )


def test_what_is_printed_can_be_read_back() -> None:
    outcomes = [outcome("cluster node crash", name) for name in ("Windows 2003", "Stockade")]
    read = json.loads(as_json(outcomes))
    assert [entry["client"] for entry in read] == ["Windows 2003", "Stockade"]
    assert read[0]["events"][0]["what"] == "node a crashes"
    picture = ElementTree.fromstring(as_svg(outcomes))
    assert sum(element.tag.endswith("rect") for element in picture.iter()) == 3
    text = as_text(outcomes)
    assert "2 min" in text
    assert "first packet secured and answered" in text
    assert len(shortened(outcomes[0].events)) <= len(outcomes[0].events)


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: object) -> None:
    picture = f"{tmp_path}/failover.svg"
    words = ["lab", "failover", "--scenario", "crash", "--client", "stockade", "--picture", picture]
    assert main([*words, "--format", "json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["reconnect_s"] < 1
    assert main(["lab", "failover", "--client", "nobody"]) != 0
    assert "Windows 2000" in capsys.readouterr().err
