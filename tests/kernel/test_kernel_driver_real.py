"""The scenarios of kernel_scenarios.py: the kernel's data plane with real XFRM. They run once, in one go;
each has a test of its own here that reads what became of it."""

from collections.abc import Mapping

import pytest
from kernel_scenarios import SCENARIOS
from user_mode_linux import LIMIT_SECONDS, TESTS, Result, run_scenarios

pytestmark = pytest.mark.timeout(LIMIT_SECONDS + 60)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Result]:
    folder = tmp_path_factory.mktemp("kernel")
    return run_scenarios(TESTS / "kernel" / "kernel_scenarios.py", folder, SCENARIOS)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(scenario: str, results: Mapping[str, Result]) -> None:
    assert results[scenario]["outcome"] == "passed", results[scenario]["detail"]
