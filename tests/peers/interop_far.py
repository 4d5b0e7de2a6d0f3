"""strongSwan and libreswan on the ESP of a User-Mode-Linux kernel, for an agent of ours outside it.

A program that interop_remote.py starts inside with two network devices, which are two TAP devices outside:
`vec0` is put on the wire of the peers, over `vec1` it takes calls, one JSON object a line:

    {"peer": "strongswan", "call": "begin", "arguments": ["psk-3des-sha1-modp2048"]}
    {"result": null}   or   {"error": "AssertionError: …"}
"""

import argparse
import json
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from interop_cases import BY_NAME
from interop_world import PEER_HOSTS, LocalPeer, PeersFiles, make_peers, started
from libreswan_node import build

from stockade.lab.netns import Network

CONTROL_ADDRESS, CONTROL_PORT = "10.255.7.2", 7777


def calls(peer: LocalPeer) -> dict[str, Callable[..., object]]:
    host = peer.host
    return {
        "begin": lambda case: peer.begin(BY_NAME[case]),
        "delete": lambda case: peer.delete(BY_NAME[case]),
        "kill": peer.kill,
        "start": peer.start,
        "log": peer.log,
        "run": lambda command, check: host.run(command, check=check),
        "ip": host.ip,
        "listen": host.listen,
        "received": host.received,
        "send": lambda ends, size: host.send((ends[0], ends[1]), size),
        "drop_fragments": host.drop_fragments,
    }


def serve(peers: dict[str, LocalPeer], listener: socket.socket) -> None:
    """Take calls until the other end goes."""
    known = {name: calls(peer) for name, peer in peers.items()}
    connection, _ = listener.accept()
    with connection, connection.makefile("rw", encoding="utf-8") as lines:
        for line in lines:
            order = json.loads(line)
            try:
                answer = {"result": known[order["peer"]][order["call"]](*order["arguments"])}
            except Exception:
                answer = {"error": traceback.format_exc()}
            lines.write(json.dumps(answer) + "\n")
            lines.flush()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=Path, required=True, help="PeersFiles as JSON")
    options = parser.parse_args()
    files = PeersFiles.from_json(json.loads(options.files.read_text(encoding="utf-8")))
    folder = Path(tempfile.mkdtemp(prefix="stockade-interop-"))
    with Network(PEER_HOSTS) as network:
        network.switch.run(["ip", "link", "show", "wire"])
        root = ["ip", "link", "set", "vec0", "netns", network.switch.full_name]
        network.switch.run(["nsenter", "--net=/proc/1/ns/net", *root])
        network.switch.ip("link set vec0 master wire up")
        peers = make_peers(network, folder, files, with_libreswan=isinstance(build(), Path))
        with started(peers), socket.create_server((CONTROL_ADDRESS, CONTROL_PORT)) as listener:
            serve(peers, listener)
    return 0


if __name__ == "__main__":
    sys.exit(main())
