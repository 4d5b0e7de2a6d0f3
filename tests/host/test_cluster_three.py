"""Three nodes behind one IPv6 address; nobody tells which of the two others gets it.

client fd79::1 ──┬── one    fd79::11 ┐
                 ├── two    fd79::12 ├ virtual fd79::100
                 └── three  fd79::13 ┘
"""

import sys
import time
from collections.abc import Iterator
from functools import partial
from ipaddress import IPv6Interface
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from cluster_harness import Host, eventually, write_cluster

from stockade.lab import moving
from stockade.lab.netns import Network

CLIENT = IPv6Interface("fd79::1/64")
NODES = {name: IPv6Interface(f"fd79::1{number}/64") for number, name in enumerate(("one", "two", "three"), 1)}
VIRTUAL = IPv6Interface("fd79::100/64")
PATIENCE = 60.0


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[dict[str, Host]]:
    with Network({"client": CLIENT, **NODES}) as network:
        made = {name: Host(network[name], tmp_path / name) for name in ("client", *NODES)}
        for name, host in made.items():
            host.write_policy(str(VIRTUAL.ip if name == "client" else CLIENT.ip))
            if name != "client":
                addresses = {one: str(each.ip) for one, each in NODES.items()}
                write_cluster(host, name, members=addresses, virtual=str(VIRTUAL.ip))
        yield made


def test_the_address_goes_from_node_to_node(hosts: dict[str, Host]) -> None:
    client, nodes = hosts["client"], {name: hosts[name] for name in NODES}
    moving.give(nodes["one"].namespace, VIRTUAL)
    for host in hosts.values():
        host.agent.start()
    for host in hosts.values():
        host.agent.wait_until_ready()
    assert eventually(lambda: client.ping(str(VIRTUAL.ip), seconds=2), PATIENCE)
    for before, after in (("one", "three"), ("three", "two")):
        for name in nodes:  # all that live know the peer
            if name not in ("one", before):
                assert eventually(partial(knows, nodes[name], before), PATIENCE), nodes[name].cluster()
        old = client.inbound_spis()
        nodes[before].agent.kill()
        moving.take(nodes[before].namespace, VIRTUAL)
        moving.give(nodes[after].namespace, VIRTUAL)
        moved = time.monotonic()
        # The client says nothing meanwhile: it is the node that begins.
        assert eventually(partial(nodes[after].journal, "quick-mode-established"), PATIENCE)
        assert eventually(lambda: client.ping(str(VIRTUAL.ip), seconds=2), PATIENCE)
        print(f"{after} serves {time.monotonic() - moved:.2f} s after it got the address (with a ping)")
        assert not old & client.inbound_spis()
        (came,) = nodes[after].journal("cluster-address-came")
        assert str(VIRTUAL.ip) in came["text"]


def knows(node: Host, other: str) -> bool:
    return any(member["name"] == other and member["quick_modes"] == 1 for member in node.cluster()["members"])
