"""The trials of interop_trials.py with our user-space data plane on this machine; strongSwan and libreswan
run on the ESP of a User-Mode-Linux kernel (interop_remote.py)."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import libreswan_node
import pytest
from interop_both_phases import begun
from interop_cases import PEERS
from interop_laboratory import Laboratory
from interop_remote import WIRE, FarMachine, RemotePeer
from interop_trials import all_trials, attempt
from interop_world import OUR_HOSTS, PeersFiles, make_ours, new_public
from user_mode_linux import SCRIPTS, chosen

from stockade.lab.netns import Network

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def laboratory(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Laboratory]:
    built = subprocess.run(
        [SCRIPTS / "build-uml.sh"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if built.returncode != 0:
        pytest.skip(f"there is no User-Mode Linux: {(built.stderr.strip().splitlines() or ['?'])[-1]}")
    without = libreswan_node.build()
    absent = {} if isinstance(without, Path) else {"libreswan": without}
    folder = tmp_path_factory.mktemp("interop")
    (folder / "far").mkdir()
    public = new_public()
    with (
        Network(OUR_HOSTS) as network,
        FarMachine(network.switch, folder / "far", PeersFiles.of(public)) as far,
        make_ours(network, folder / "ours", public, "userspace", tunnels=True) as stockade,
    ):
        refused = stockade.client.get("/v1/status")["policy_refused"]
        assert refused is None, refused
        peers = {name: RemotePeer(far, name) for name in PEERS if name not in absent}
        wires = dict.fromkeys(PEERS, (network.switch, WIRE))
        made = Laboratory(stockade, peers, wires, absent, network["nat"], tunnels=True)
        with begun(made, chosen(request.session, __file__, "trial")):
            yield made


@pytest.mark.parametrize("trial", tuple(all_trials()))
def test_trial(trial: str, laboratory: Laboratory, record_property: Callable[[str, object], None]) -> None:
    outcome, detail = attempt(laboratory, trial)
    record_property("interop", trial)
    record_property("interop_plane", "user space")
    record_property("interop_outcome", outcome)
    record_property("interop_detail", detail if "cannot" in outcome else "")
    if "cannot" in outcome:
        pytest.skip(f"{outcome.replace('cannot', 'cannot:')} {detail}")
    if outcome != "passed":
        pytest.fail(f"{outcome}:\n{detail}", pytrace=False)
