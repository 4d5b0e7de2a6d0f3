"""A cluster of real nodes: a client, two agents behind one virtual address, which moves.

client 10.79.0.1 ──┬── one  10.79.0.11 ┐
                   └── two  10.79.0.12 ┘ virtual 10.79.0.100
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from ipaddress import IPv4Interface
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from cluster_harness import CLIENT, NODES, PATIENCE, VIRTUAL, Host, eventually, write_cluster

from stockade.lab import moving
from stockade.lab.examples import STOCKADE
from stockade.lab.netns import Network
from stockade.lab.real import Follower


class Cluster:
    def __init__(self, network: Network, folder: Path) -> None:
        self.client = Host(network["client"], folder / "client")
        self.nodes = {name: Host(network[name], folder / name) for name in NODES}
        self.client.write_policy(str(VIRTUAL.ip))
        for name, node in self.nodes.items():
            node.write_policy(CLIENT)
            write_cluster(node, name, folder / "hook")
        self.called = folder / "called"
        hook = folder / "hook"
        hook.write_text(f"#!/bin/sh\nenv | grep ^STOCKADE_ | sort | tr '\\n' ' ' >>{self.called}\n")
        hook.chmod(0o755)

    @property
    def one(self) -> Host:
        return self.nodes["one"]

    @property
    def two(self) -> Host:
        return self.nodes["two"]

    def start(self) -> None:
        moving.give(self.one.namespace, VIRTUAL)
        hosts = (self.client, *self.nodes.values())
        for host in hosts:
            host.agent.start()
        for host in hosts:
            host.agent.wait_until_ready()
        assert self.client.ping(str(VIRTUAL.ip))
        assert eventually(lambda: self.two.cluster()["members"][0]["quick_modes"] == 1), self.two.cluster()

    def story(self) -> str:
        """What all of them noted, in order, for a test that failed."""
        entries = []
        for name, host in (("client", self.client), *self.nodes.items()):
            lines = (host.home / "journal" / "journal.jsonl").read_text().splitlines()
            entries += [
                (entry["time"], name, entry["kind"], entry["text"]) for entry in map(json.loads, lines)
            ]
        return "\n" + "\n".join(" ".join(entry) for entry in sorted(entries))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    addresses = {"client": CLIENT, **NODES}
    with Network({name: IPv4Interface(f"{one}/24") for name, one in addresses.items()}) as network:
        yield Cluster(network, tmp_path)


def test_the_surviving_node_has_the_peers_at_once_when_it_gets_the_address(cluster: Cluster) -> None:
    cluster.start()
    client, one, two = cluster.client, cluster.one, cluster.two
    with Follower(client.namespace, str(VIRTUAL.ip)) as follower:
        assert follower.wait_for_answer(0.0, PATIENCE) is not None
        old = client.inbound_spis()
        assert old
        one.agent.kill()
        moving.take(one.namespace, VIRTUAL)
        began = time.monotonic()
        moving.give(two.namespace, VIRTUAL)
        moved = time.monotonic()
        answered = follower.wait_for_answer(moved, PATIENCE)
        assert answered is not None, two.journal("cluster-address-came")
        print(f"address moved in {moved - began:.3f} s; answered {answered - moved:.3f} s after that")
    (came,) = two.journal("cluster-address-came")
    assert str(VIRTUAL.ip) in came["text"]
    assert two.journal("main-mode-established")
    # The node said that it has nothing older: what the client had with the dead one is gone, by no timer.
    assert not old & client.inbound_spis()
    assert eventually(lambda: two.journal("cluster-member-lost"))
    # The first node comes back, without the address, and may take it over again.
    one.agent.start()
    one.agent.wait_until_ready()
    assert eventually(lambda: one.cluster()["members"][0]["quick_modes"] == 1)


def test_a_node_that_never_heard_of_a_peer_proves_that_its_sas_are_gone(cluster: Cluster) -> None:
    """The second node is started when the first is dead: nobody has told it whom it takes over."""
    client, one, two = cluster.client, cluster.one, cluster.two
    moving.give(one.namespace, VIRTUAL)
    for host in (client, one):
        host.agent.start()
    for host in (client, one):
        host.agent.wait_until_ready()
    with Follower(client.namespace, str(VIRTUAL.ip)) as follower:
        assert follower.wait_for_answer(0.0, PATIENCE) is not None
        old = client.inbound_spis()
        one.agent.kill()
        moving.take(one.namespace, VIRTUAL)
        moving.give(two.namespace, VIRTUAL)
        two.agent.start()
        two.agent.wait_until_ready()
        ready = time.monotonic()
        answered = follower.wait_for_answer(ready, PATIENCE)
        assert answered is not None, cluster.story()
        print(f"answered {answered - ready:.3f} s after the second node was ready")
    assert not old & client.inbound_spis()
    reasons = {entry["reason"] for entry in client.journal("quick-mode-deleted")}
    assert reasons == {"peer-lost-state"}, cluster.story()
    status = json.loads(two.stockade("status", "--format", "json"))
    assert status["ike"]["proofs_sent"] >= 1


def test_a_planned_failover_loses_nothing(cluster: Cluster) -> None:
    cluster.start()
    client, one, two = cluster.client, cluster.one, cluster.two
    with Follower(client.namespace, str(VIRTUAL.ip)) as follower:
        assert follower.wait_for_answer(0.0, PATIENCE) is not None
        assert "may be moved" in one.stockade("cluster", "release")
        moving.take(one.namespace, VIRTUAL)
        moving.give(two.namespace, VIRTUAL)
        moved = time.monotonic()
        answered = follower.wait_for_answer(moved, PATIENCE)
        assert answered is not None
        print(f"answered {answered - moved:.3f} s after the address had moved")
    assert client.journal("quick-mode-deleted")
    assert one.cluster()["holds"] == []
    assert two.cluster()["holds"] == [str(VIRTUAL.ip)]
    # And back again.
    two.stockade("cluster", "release", str(VIRTUAL.ip))
    moving.take(two.namespace, VIRTUAL)
    moving.give(one.namespace, VIRTUAL)
    assert client.ping(str(VIRTUAL.ip)), cluster.story()
    assert len(one.journal("cluster-address-came")) == 1


def test_a_peer_that_comes_to_another_node_calls_the_hook(cluster: Cluster) -> None:
    """As behind a balancer: both nodes have the address, and the peer is sent to the other one."""
    cluster.start()
    client, two = cluster.client, cluster.two
    hardware = json.loads(two.namespace.run(["ip", "-j", "link", "show", "eth0"]).stdout)[0]["address"]
    two.namespace.run(["ip", "address", "add", str(VIRTUAL), "dev", "eth0"])
    # Taking the address over begins with the peer; the balancer still sends its packets to the first node,
    # so the second gets no answer. Then it is moved.
    client.namespace.run(["ip", "neigh", "replace", str(VIRTUAL.ip), "lladdr", hardware, "dev", "eth0"])
    assert client.ping(str(VIRTUAL.ip), count=3)
    assert eventually(cluster.called.exists), two.journal("cluster-peer")
    words = cluster.called.read_text().split()
    assert "STOCKADE_EVENT=peer-of-another-node" in words
    assert f"STOCKADE_PEER={CLIENT}" in words
    assert "STOCKADE_OWNER=one" in words
    assert "STOCKADE_NODE=two" in words
    assert two.journal("cluster-peer")


def test_what_is_wrong_in_the_settings_is_named(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    (home / "agent.toml").write_text('[cluster]\naddresses = ["10.0.0.1"]\nhoook = []\n')
    argv = [*STOCKADE, "--home", str(home), "agent", "run"]
    result = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 1
    assert "cluster.hoook" in result.stderr
