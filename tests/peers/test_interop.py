"""The trials of interop_trials.py: strongSwan and libreswan as peers, on the kernel's own ESP as we are.
They run once, in one go (interop_scenarios.py), in a User-Mode-Linux kernel; each has a test of its own here
that reads what became of it, and the run ends with the matrix (conftest.py)."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeGuard

import libreswan_node
import pytest
from interop_trials import all_trials
from user_mode_linux import LIMIT_SECONDS, TESTS, Result, run_scenarios

pytestmark = pytest.mark.timeout(LIMIT_SECONDS + 60)

TRIALS = tuple(all_trials())


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Mapping[str, Result]:
    libreswan_node.build()  # fetched here: inside everything is read-only
    folder = tmp_path_factory.mktemp("interop")
    chosen = {item.callspec.params["trial"] for item in request.session.items if wanted(item)}
    trials = [trial for trial in TRIALS if trial in chosen]
    return run_scenarios(TESTS / "peers" / "interop_scenarios.py", folder, trials)


def wanted(item: pytest.Item) -> TypeGuard[pytest.Function]:
    """Whether this is a test of ours that the run has chosen."""
    return isinstance(item, pytest.Function) and item.path == Path(__file__)


@pytest.mark.parametrize("trial", TRIALS)
def test_trial(
    trial: str, results: Mapping[str, Result], record_property: Callable[[str, object], None]
) -> None:
    result = results[trial]
    record_property("interop", trial)
    record_property("interop_plane", "kernel")
    record_property("interop_outcome", result["outcome"])
    record_property("interop_detail", result["detail"] if "cannot" in result["outcome"] else "")
    if "cannot" in result["outcome"]:
        pytest.skip(f"{result['outcome'].replace('cannot', 'cannot:')} {result['detail']}")
    if result["outcome"] != "passed":
        pytest.fail(f"{result['outcome']}:\n{result['detail']}", pytrace=False)
