"""Stockade, strongSwan and libreswan protect each other's traffic, all on the kernel's own ESP, in one go.

    ours: `stockade agent run --driver kernel` ──┬── strongswan: charon, an address for each case
                                                 └── libreswan: pluto, an address for each case

A program of its own, since the machine that the tests run on may have no ESP: `test_interop.py` starts it
in a User-Mode-Linux kernel and reads its results:

    python interop_scenarios.py --results FILE --folder DIR [CASE/PEER/ROLE ...]

FILE gets a JSON object, `case/peer/role` -> {"outcome", "seconds", "detail"}, rewritten after every trial.
"""

import argparse
import json
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from interop_both_phases import begun
from interop_cases import PEERS
from interop_laboratory import Laboratory
from interop_trials import all_trials, attempt
from interop_world import OUR_HOSTS, PEER_HOSTS, PeersFiles, make_ours, make_peers, new_public, started
from libreswan_node import build

from stockade.driver.probe import kernel_capabilities
from stockade.lab.netns import Network
from stockade.model.negotiation import Mode


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--folder", type=Path, help="where logs go (default: a temporary folder)")
    parser.add_argument("trials", nargs="*", help="some of: CASE/PEER/ROLE (default: all)")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="stockade-interop-"))
    results: dict[str, dict[str, object]] = {}
    began = time.monotonic()
    public = new_public()
    without = build()
    absent = {} if isinstance(without, Path) else {"libreswan": without}
    tunnels = Mode.TUNNEL in kernel_capabilities().modes
    with ExitStack() as stack:
        network = stack.enter_context(Network(OUR_HOSTS | PEER_HOSTS))
        peers = make_peers(network, folder, PeersFiles.of(public), with_libreswan=not absent)
        stockade = make_ours(network, folder / "ours", public, "kernel", tunnels=tunnels)
        stack.enter_context(started(peers))
        stack.enter_context(stockade)
        refused = stockade.client.get("/v1/status")["policy_refused"]
        assert refused is None, refused
        wires = {peer: (network.switch, network.port(peer)) for peer in PEERS}
        laboratory = Laboratory(
            stockade, peers, wires, absent, network["nat"], tunnels=tunnels, overtaken=("libreswan",)
        )
        trials = options.trials or tuple(all_trials())
        stack.enter_context(begun(laboratory, trials))
        print(f"ready after {time.monotonic() - began:.1f} s", flush=True)
        for name in trials:
            began = time.monotonic()
            outcome, detail = attempt(laboratory, name)
            seconds = round(time.monotonic() - began, 1)
            print(f"{name}: {outcome} in {seconds} s", flush=True)
            results[name] = {"outcome": outcome, "seconds": seconds, "detail": detail}
            options.results.write_text(json.dumps(results, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
