"""Runs a program of scenarios in a User-Mode-Linux kernel over the same files (scripts/uml)."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypedDict

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
SCRIPTS = CHECKOUT / "scripts" / "uml"
TESTS = CHECKOUT / "tests"
EVERY = "STOCKADE_EVERY_COMBINATION"
# four to six minutes where little else runs, but for all that peers can be tried with (tests/peers)
LIMIT_SECONDS = 3000 if EVERY in os.environ else 1500


class Result(TypedDict):
    """What became of one scenario."""

    outcome: str
    detail: str


def run_scenarios(program: Path, folder: Path, names: Iterable[str], *options: str) -> Mapping[str, Result]:
    """Run the named scenarios in one go. Skips where there is no User-Mode Linux."""
    built = subprocess.run(
        [SCRIPTS / "build-uml.sh"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if built.returncode != 0:
        reason = (built.stderr.strip().splitlines() or ["build-uml.sh failed"])[-1]
        pytest.skip(f"there is no User-Mode Linux: {reason}")
    file = folder / "results.json"
    runner = [SCRIPTS / "uml-run.sh", "-t", str(LIMIT_SECONDS), "-s", folder]
    command = [sys.executable, program, "--results", file, *options, *names]
    every = [f"{EVERY}=1"] if EVERY in os.environ else []
    process = subprocess.run(
        [*runner, "--", "env", f"PYTHONPATH={CHECKOUT / 'src'}", *every, *command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        cwd=CHECKOUT,
    )
    said = f"{process.stdout[-8000:]}\n{process.stderr[-4000:]}"
    if not file.exists():
        pytest.fail(f"no scenario was run (exit status {process.returncode}):\n{said}")
    loaded: dict[str, Result] = json.loads(file.read_text(encoding="utf-8"))
    missing = Result(outcome="not run", detail=f"exit status {process.returncode}:\n{said}")
    return {name: loaded.get(name, missing) for name in names}


def chosen(session: pytest.Session, file: str, parameter: str) -> list[str]:
    """The values of a parameter that this run has chosen of the tests of a file, in their order."""
    found = (
        item.callspec.params[parameter]
        for item in session.items
        if isinstance(item, pytest.Function) and item.path == Path(file) and hasattr(item, "callspec")
    )
    return list(dict.fromkeys(str(value) for value in found))
