"""`stockade lab`: the laboratories on virtual time."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from stockade.console.output import give
from stockade.lab.laboratory import CLIENTS, SCENARIOS, Outcome, run_all
from stockade.lab.laboratory_picture import as_png, as_svg
from stockade.lab.laboratory_report import as_text
from stockade.model.reasons import ReasonCode, error_for

OUTCOME_COLUMNS = ("scenario", "client", "reconnect_s", "gap_s", "given_up")


def run_failover(options: argparse.Namespace) -> int:
    """Exit code 0: all clients came back."""
    scenarios = [name for name in SCENARIOS if options.scenario is None or options.scenario in name]
    clients = [one for one in CLIENTS if options.client is None or options.client.lower() in one.name.lower()]
    if not scenarios or not clients:
        raise error_for(
            ReasonCode.UNKNOWN_NAME,
            f"{options.scenario!r} is part of no scenario's name; there are {', '.join(SCENARIOS)}"
            if not scenarios
            else f"{options.client!r} is part of no client's name; there are "
            f"{', '.join(client.name for client in CLIENTS)}",
        )
    if options.picture is not None:
        _check_ending(options.picture)
    outcomes = run_all(scenarios, clients, options.seed)
    if options.picture is not None:
        _draw(outcomes, Path(options.picture))
    answer = [outcome.as_dict() for outcome in outcomes]
    give(answer, options.format, as_text(outcomes, time_lines=options.time_lines), OUTCOME_COLUMNS)
    return 0 if all(outcome.reconnect_s is not None for outcome in outcomes) else 1


def _check_ending(name: str) -> None:
    if Path(name).suffix.lower() not in (".svg", ".png"):
        raise error_for(
            ReasonCode.SYNTAX, f"--picture {name}: the name must end in .svg or .png", expected=".svg or .png"
        )


def _draw(outcomes: Sequence[Outcome], path: Path) -> None:
    content = as_png(outcomes) if path.suffix.lower() == ".png" else as_svg(outcomes).encode()
    try:
        path.write_bytes(content)
    except OSError as error:
        raise error_for(ReasonCode.NOT_PRIVILEGED, f"{path}: {error.strerror}") from error
