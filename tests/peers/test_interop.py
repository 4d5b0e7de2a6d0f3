"""The trials of interop_trials.py: strongSwan and libreswan as peers, on the kernel's own ESP as we are.
They run once, in one go (interop_scenarios.py), in a User-Mode-Linux kernel; each has a test of its own here
that reads what became of it, and the run ends with the matrix (conftest.py)."""

from collections.abc import Callable, Mapping

import libreswan_node
import pytest
from interop_trials import all_trials
from user_mode_linux import LIMIT_SECONDS, TESTS, Result, chosen, run_scenarios

pytestmark = pytest.mark.timeout(LIMIT_SECONDS + 60)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Mapping[str, Result]:
    libreswan_node.build()  # fetched here: inside everything is read-only
    folder = tmp_path_factory.mktemp("interop")
    trials = chosen(request.session, __file__, "trial")
    return run_scenarios(TESTS / "peers" / "interop_scenarios.py", folder, trials)


@pytest.mark.parametrize("trial", tuple(all_trials()))
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
