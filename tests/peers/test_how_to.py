"""The files for strongSwan and libreswan in the manual bring up a secured pair, as they are written there
(how_to_scenarios.py)."""

from collections.abc import Mapping
from pathlib import Path

import libreswan_node
import pytest
from user_mode_linux import LIMIT_SECONDS, TESTS, Result, run_scenarios

pytestmark = pytest.mark.timeout(LIMIT_SECONDS + 60)
PEERS = ("strongswan", "libreswan")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Result]:
    absent = not isinstance(libreswan_node.build(), Path)  # fetched here: inside everything is read-only
    folder = tmp_path_factory.mktemp("how-to")
    return run_scenarios(TESTS / "peers" / "how_to_scenarios.py", folder, PEERS[:1] if absent else PEERS)


@pytest.mark.parametrize("peer", PEERS)
def test_the_files_of_the_manual_work(peer: str, results: Mapping[str, Result]) -> None:
    if peer not in results:
        pytest.skip("libreswan could not be had")
    assert results[peer]["outcome"] == "passed", results[peer]["detail"]
