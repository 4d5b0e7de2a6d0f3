"""`stockade metrics`: the agent's figures, in Prometheus' text form or as rows."""

from stockade.agent.client import AgentClient
from stockade.console.output import give


def run_metrics(client: AgentClient, form: str) -> int:
    """The exit status. Errors: AGENT_NOT_RUNNING, NOT_PRIVILEGED."""
    text = client.text("/metrics")
    give([] if form == "text" else samples(text), form, text.rstrip("\n"))
    return 0


def samples(text: str) -> list[dict[str, object]]:
    """Each figure of the text form (Prometheus' exposition format 0.0.4), with its labels."""
    from prometheus_client.parser import text_string_to_metric_families  # late: only for these forms

    return [
        {"name": sample.name, "labels": dict(sample.labels), "value": sample.value}
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]
