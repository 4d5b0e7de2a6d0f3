"""`stockade lab`: the laboratories on virtual time."""

import argparse
from pathlib import Path

from stockade.lab.laboratory import CLIENTS, SCENARIOS, run_all
from stockade.lab.laboratory_report import as_json, as_svg, as_text
from stockade.model.reasons import ReasonCode, error_for


def run_failover(options: argparse.Namespace) -> int:
    """Exit code 0: all clients came back."""
    scenarios = [name for name in SCENARIOS if options.scenario is None or options.scenario in name]
    clients = [one for one in CLIENTS if options.client is None or options.client.lower() in one.name.lower()]
    if not scenarios or not clients:
        raise error_for(
            ReasonCode.UNKNOWN_NAME,
            f"there are the scenarios {', '.join(SCENARIOS)} and the clients "
            f"{', '.join(client.name for client in CLIENTS)}",
        )
    outcomes = run_all(scenarios, clients, options.seed)
    if options.picture is not None:
        try:
            Path(options.picture).write_text(as_svg(outcomes), encoding="utf-8")
        except OSError as error:
            raise error_for(ReasonCode.NOT_PRIVILEGED, f"{options.picture}: {error.strerror}") from error
    print(as_json(outcomes) if options.format == "json" else as_text(outcomes, time_lines=options.time_lines))
    return 0 if all(outcome.reconnect_s is not None for outcome in outcomes) else 1
