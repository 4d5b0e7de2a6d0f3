"""strongSwan as the peer of our kernel driver, both on the kernel's own ESP: some of the scenarios with which
the user-space driver is tried (tests/peers/vm_scenarios.py)."""

from collections.abc import Mapping

import pytest
from user_mode_linux import LIMIT_SECONDS, TESTS, Result, run_scenarios

from stockade.lab import needs

SCENARIOS = (
    "clear-traffic-is-refused",
    "we-initiate-tcp-only",
    "strongswan-initiates-tcp-only",
    "a-wrong-key-is-told",
)
"""What tests/peers/test_interop.py does not try: suites and roles are there."""

pytestmark = pytest.mark.timeout(LIMIT_SECONDS + 60)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Result]:
    missing = needs.strongswan()
    if missing is not None:
        pytest.skip(missing)
    folder = tmp_path_factory.mktemp("kernel-strongswan")
    return run_scenarios(TESTS / "peers" / "vm_scenarios.py", folder, SCENARIOS, "--driver", "kernel")


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(scenario: str, results: Mapping[str, Result]) -> None:
    assert results[scenario]["outcome"] == "passed", results[scenario]["detail"]
