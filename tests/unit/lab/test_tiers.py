"""The last line of a test run, checked in a run of its own: pytest in pytest, with the real conftest."""

import os
import subprocess
import sys
from pathlib import Path

CONFTEST = Path(__file__).parents[2] / "conftest.py"

UNIT = """
import pytest

def test_good(): pass
def test_bad(): assert False
def test_not_here(): pytest.skip("no moon tonight")
"""
PEERS = """
def test_peer(): pass
"""
FORCE = """
from stockade.lab import needs
needs.TIERS["peers"] = (lambda: "strongSwan is not installed",)
"""


def run(folder: Path, *arguments: str) -> str:
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, "PYTEST_ADDOPTS": "", "PYTHONDONTWRITEBYTECODE": "1"},
    )
    return result.stdout


def make(folder: Path) -> Path:
    for tier, text in (("unit", UNIT), ("peers", PEERS)):
        (folder / "tests" / tier).mkdir(parents=True)
        (folder / "tests" / tier / f"test_{tier}_things.py").write_text(text)
    (folder / "tests" / "conftest.py").write_text(CONFTEST.read_text() + FORCE)
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib\n")
    return folder


def test_the_run_ends_with_the_tiers_and_why_one_was_skipped(tmp_path: Path) -> None:
    output = run(make(tmp_path))
    expected = (
        "tiers: unit 1 passed, 1 failed, 1 skipped (no moon tonight)"
        " · peers 1 skipped (strongSwan is not installed)"
    )
    assert expected in output.splitlines()


def test_the_line_is_the_same_with_several_workers(tmp_path: Path) -> None:
    output = run(make(tmp_path), "-n", "1")
    assert "tiers: unit 1 passed, 1 failed, 1 skipped" in output
    assert "peers 1 skipped (strongSwan is not installed)" in output


def test_only_tiers_that_were_asked_for_are_named(tmp_path: Path) -> None:
    output = run(make(tmp_path), "tests/unit", "-k", "good")
    assert "tiers: unit 1 passed" in output.splitlines()
