"""The user-space driver over IPv6 with real packets; the capture on the switch must see no clear one."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stockade.lab.netns import Network
from stockade.model.suites import Encryption, Hash

sys.path.insert(0, str(Path(__file__).parent))
from driver_net import AgentSide, add_pair, two_hosts
from streams import connects, transfer
from wire_watch import IPV6, WireWatch

POLICY = [
    {"action": "block", "protocol": 6, "port": 23, "version": 6},
    {"action": "permit", "protocol": 6, "port": 22, "version": 6},
    {"action": "negotiate", "version": 6},
]
TCP, ESP, FRAGMENT, ICMPV6 = 6, 50, 44, 58
BETA = "2001:db8:9::2"
Pair = tuple[Network, AgentSide, AgentSide]

if not Path("/proc/sys/net/ipv6/conf/all").exists():
    pytest.skip("the kernel has no IPv6", allow_module_level=True)


class Capture(WireWatch):
    """IPv6 packets that left the hosts, without neighbour discovery and multicast."""

    def __init__(self, network: Network) -> None:
        self.packets: list[bytes] = []
        self.discovery = 0
        super().__init__(network)

    def take(self, frame: bytes) -> None:
        packet = frame[14:]
        if frame[12:14] != IPV6:
            return
        if packet[6] == ICMPV6 and packet[7] == 255 and 133 <= packet[40] <= 137:
            self.discovery += 1
        elif packet[24] != 0xFF:
            self.packets.append(packet)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with two_hosts(tmp_path, ipv6=True) as (network, alpha, beta):
        for side in (alpha, beta):
            side.call("start")
            side.call("install", rules=POLICY)
        yield network, alpha, beta


def ping(network: Network, *options: str) -> int:
    result = network["alpha"].run(
        ["ping", "-6", "-c", "3", "-i", "0.1", "-W", "20", *options, BETA], check=False
    )
    return sum("bytes from" in line for line in result.stdout.splitlines())


@pytest.mark.parametrize(
    ("encryption", "integrity"), [(Encryption.AES_GCM_128, None), (Encryption.AES_CBC_256, Hash.SHA_256)]
)
def test_a_file_and_pings_pass_secured(pair: Pair, encryption: Encryption, integrity: Hash | None) -> None:
    network, alpha, beta = pair
    add_pair(alpha, beta, encryption=encryption, integrity=integrity, version=6)
    data = os.urandom(1 << 20) * 20
    with Capture(network) as wire:
        assert ping(network) == 3
        assert transfer(network["alpha"], network["beta"], BETA, data)
    assert {packet[6] for packet in wire.packets} == {ESP}
    assert max(map(len, wire.packets)) <= 1500
    assert alpha.call("statistics")["refused"] == {}


def test_neighbours_are_found_though_everything_is_negotiated(pair: Pair) -> None:
    network, alpha, beta = pair
    add_pair(alpha, beta, version=6)
    for name in ("alpha", "beta"):
        network[name].run(["ip", "-6", "neigh", "flush", "all"])
    with Capture(network) as wire:
        assert ping(network) == 3
    assert wire.discovery > 0
    assert {packet[6] for packet in wire.packets} == {ESP}


def test_the_first_packet_waits_for_the_sa(pair: Pair) -> None:
    network, alpha, beta = pair
    pings = network["alpha"].popen(["ping", "-6", "-c", "1", "-W", "60", BETA])
    assert alpha.wait_for("acquire")["peer"] == BETA
    add_pair(alpha, beta, version=6)
    assert pings.wait(90) == 0


def test_blocked_stays_blocked_and_permitted_goes_clear(pair: Pair) -> None:
    network, _, _ = pair
    with Capture(network) as wire:
        assert not connects(network["alpha"], network["beta"], BETA, 23, 1.5)
        assert connects(network["alpha"], network["beta"], BETA, 22)
    assert {packet[6] for packet in wire.packets} == {TCP}
    assert all((22).to_bytes(2, "big") in (packet[40:42], packet[42:44]) for packet in wire.packets)


def test_clear_packets_of_a_host_without_ipsec_are_refused_and_reported(tmp_path: Path) -> None:
    with two_hosts(tmp_path, ipv6=True) as (network, _, beta):
        beta.call("start")
        beta.call("install", rules=POLICY)
        assert ping(network, "-W", "1") == 0
        event = beta.wait_for("refused")
        assert (event["reason"], event["source"]) == ("clear-dropped", "2001:db8:9::1")


def test_large_datagrams_are_fragmented_after_sealing(pair: Pair) -> None:
    network, alpha, beta = pair
    add_pair(alpha, beta, version=6)
    with Capture(network) as wire:
        assert ping(network, "-s", "4000") == 2  # ping counts "packet too big" as an answer
        assert ping(network, "-s", "4000") == 3
    assert {packet[6] for packet in wire.packets} == {FRAGMENT}
    assert {packet[40] for packet in wire.packets} == {ESP}
    assert max(map(len, wire.packets)) <= 1500


def test_a_killed_agent_leaves_the_host_closed(pair: Pair) -> None:
    network, alpha, beta = pair
    add_pair(alpha, beta, version=6)
    assert ping(network) == 3
    with Capture(network) as wire:
        alpha.kill()
        assert ping(network, "-W", "0.3") == 0
        assert not connects(network["alpha"], network["beta"], BETA, 5000, 1.5)
    assert {packet[6] for packet in wire.packets} <= {ESP}


def test_stop_leaves_nothing(tmp_path: Path) -> None:
    def state(network: Network) -> str:
        script = "nft list ruleset; ip -6 rule; ip -6 route show table all | grep -v -e local -e multicast"
        return network["alpha"].run(["/bin/sh", "-c", script]).stdout

    with two_hosts(tmp_path, ipv6=True) as (network, alpha, _):
        clean = state(network)
        alpha.call("start")
        alpha.call("install", rules=POLICY)
        assert "stockade0" in state(network)
        alpha.call("stop")
        assert state(network) == clean
