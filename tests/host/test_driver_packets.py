"""The user-space driver with real packets: two hosts, SAs installed by hand, and a capture that must see no
clear one.

The capture stands on the switch between the hosts, so what it sees is what left them."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stockade.driver.userspace.system import DEVICE, MARK_MASK, SECURE_MARK
from stockade.lab.netns import Network
from stockade.model.suites import Encryption, Hash

sys.path.insert(0, str(Path(__file__).parent))
from driver_net import AgentSide, add_pair, two_hosts
from streams import connects, transfer
from wire_watch import WireWatch, is_ipv4

POLICY = [
    {"action": "block", "protocol": 6, "port": 23},
    {"action": "permit", "protocol": 6, "port": 22},
    {"action": "negotiate", "protocol": 6},
    {"action": "negotiate", "protocol": 1},
    {"action": "negotiate", "protocol": 17},
]
ICMP, TCP, UDP, ESP = 1, 6, 17, 50


class Capture(WireWatch):
    """Protocols and bytes of the IPv4 packets on the wire."""

    def __init__(self, network: Network) -> None:
        self.packets: list[tuple[int, bytes]] = []
        super().__init__(network)

    def take(self, frame: bytes) -> None:
        if is_ipv4(frame):
            self.packets.append((frame[23], frame[14:]))


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Network, AgentSide, AgentSide]]:
    with two_hosts(tmp_path) as (network, alpha, beta):
        for side in (alpha, beta):
            side.call("start")
            side.call("install", rules=POLICY)
        yield network, alpha, beta


Pair = tuple[Network, AgentSide, AgentSide]


def ping(network: Network, *options: str) -> int:
    """How many of three came back."""
    result = network["alpha"].run(
        ["ping", "-c", "3", "-i", "0.1", "-W", "20", *options, "10.9.0.2"], check=False
    )
    return sum("bytes from" in line for line in result.stdout.splitlines())


@pytest.mark.parametrize(
    ("encryption", "integrity"),
    [
        (Encryption.AES_GCM_128, None),
        (Encryption.AES_CBC_128, Hash.SHA1),
        (Encryption.AES_CBC_256, Hash.SHA_256),
    ],
)
def test_a_file_and_pings_pass_secured(pair: Pair, encryption: Encryption, integrity: Hash | None) -> None:
    network, alpha, beta = pair
    add_pair(alpha, beta, encryption=encryption, integrity=integrity)
    data = os.urandom(1 << 20) * 20
    with Capture(network) as wire:
        assert ping(network) == 3
        assert transfer(network["alpha"], network["beta"], "10.9.0.2", data)
    assert {protocol for protocol, _ in wire.packets} == {ESP}
    assert max(len(packet) for _, packet in wire.packets) <= 1500
    statistics = alpha.call("statistics")
    assert statistics["refused"] == {}
    assert statistics["sas"]["outbound"] > 14_000


def test_3des_moves_a_smaller_file(pair: Pair) -> None:
    network, alpha, beta = pair
    add_pair(alpha, beta, encryption=Encryption.TRIPLE_DES_CBC, integrity=Hash.SHA1)
    data = os.urandom(2 << 20)
    assert transfer(network["alpha"], network["beta"], "10.9.0.2", data)


def test_the_first_packet_waits_for_the_sa(pair: Pair) -> None:
    network, alpha, beta = pair
    pings = network["alpha"].popen(["ping", "-c", "1", "-W", "60", "10.9.0.2"])
    event = alpha.wait_for("acquire")
    assert event["peer"] == "10.9.0.2"
    add_pair(alpha, beta)
    assert pings.wait(90) == 0


def test_blocked_stays_blocked_and_permitted_goes_clear(pair: Pair) -> None:
    network, _, _ = pair
    with Capture(network) as wire:
        assert not connects(network["alpha"], network["beta"], "10.9.0.2", 23, 1.5)
        assert connects(network["alpha"], network["beta"], "10.9.0.2", 22)
    protocols = {protocol for protocol, _ in wire.packets}
    assert protocols == {TCP}
    assert {packet[22:24] for _, packet in wire.packets} | {packet[20:22] for _, packet in wire.packets} >= {
        (22).to_bytes(2, "big")
    }
    assert not any((23).to_bytes(2, "big") in (packet[20:22], packet[22:24]) for _, packet in wire.packets)


def test_clear_packets_of_a_host_without_ipsec_are_refused_and_reported(tmp_path: Path) -> None:
    with two_hosts(tmp_path) as (network, alpha, beta):
        beta.call("start")
        beta.call("install", rules=POLICY)
        assert ping(network, "-W", "1") == 0
        assert not connects(network["alpha"], network["beta"], "10.9.0.2", 5000, 1.5)
        event = beta.wait_for("refused")
        assert (event["reason"], event["source"]) == ("clear-dropped", "10.9.0.1")
        beta.call("install", rules=[{"action": "negotiate", "accept_clear": True}])
        acquired = network["alpha"].popen(["ping", "-c", "1", "-W", "1", "10.9.0.2"])
        assert beta.wait_for("acquire")["peer"] == "10.9.0.1"  # the answer wants security
        acquired.wait(60)
        alpha.close()


def test_large_datagrams_are_fragmented_after_sealing(pair: Pair) -> None:
    network, alpha, beta = pair
    add_pair(alpha, beta)
    with Capture(network) as wire:
        assert ping(network, "-s", "4000", "-M", "dont") == 3
    assert {protocol for protocol, _ in wire.packets} == {ESP}
    # And with DF the sender learns what fits.
    result = network["alpha"].run(
        ["ping", "-c", "2", "-W", "1", "-s", "1472", "-M", "do", "10.9.0.2"], check=False
    )
    assert "mtu = 1466" in result.stdout
    assert ping(network, "-s", str(1466 - 28), "-M", "do") == 3


@pytest.mark.parametrize("value", ["0", "1", "2"])
def test_reverse_path_filters_of_the_host_do_not_hurt(tmp_path: Path, value: str) -> None:
    with two_hosts(tmp_path) as (network, alpha, beta):
        for name in ("all", "default"):
            network["alpha"].call(
                lambda name=name: Path(f"/proc/sys/net/ipv4/conf/{name}/rp_filter").write_text(value)
            )
        for side in (alpha, beta):
            side.call("start")
            side.call("install", rules=POLICY)
        add_pair(alpha, beta)
        assert ping(network) == 3
        alpha.call("stop")
        kept = network["alpha"].call(lambda: Path("/proc/sys/net/ipv4/conf/all/rp_filter").read_text())
        assert kept.strip() == value


# ---- when things die


def comes_back(pair: Pair, before: object) -> None:
    """Alpha's data plane was process `before`; there is another one, and with other SAs packets pass."""
    network, alpha, beta = pair
    alpha.wait_for_another_process(before)
    for direction, spi in (("inbound", 0x1000), ("outbound", 0x1001)):
        beta.call("remove", direction=direction, spi=spi, peer="10.9.0.1")
    add_pair(alpha, beta, base=0x2000)
    assert ping(network) == 3


def test_a_killed_data_plane_leaks_nothing_and_comes_back(pair: Pair) -> None:
    network, alpha, beta = pair
    add_pair(alpha, beta)
    assert ping(network) == 3
    before = alpha.call("pid")
    with Capture(network) as wire:
        os.kill(int(str(before)), 9)
        assert ping(network, "-W", "0.3") == 0
    assert {protocol for protocol, _ in wire.packets} <= {ESP}
    events = alpha.call("events")
    kinds = [event["event"] for event in events]
    assert kinds[0] == "failed"
    assert {(event["spi"], event["hard"]) for event in events[1:3]} == {(0x1000, True), (0x1001, True)}
    comes_back(pair, before)


@pytest.mark.parametrize("values", [{}, {"queues": 3}, {"without": "burst"}], ids=["one", "queues", "python"])
def test_without_its_device_the_data_plane_ends_and_comes_back(
    tmp_path: Path, values: dict[str, object]
) -> None:
    with two_hosts(tmp_path) as (network, alpha, beta):
        alpha.call("start", **values)
        beta.call("start")
        for side in (alpha, beta):
            side.call("install", rules=POLICY)
        add_pair(alpha, beta)
        assert ping(network) == 3
        before = alpha.call("pid")
        with Capture(network) as wire:
            network["alpha"].run(["ip", "link", "delete", DEVICE])
            assert ping(network, "-W", "0.3") == 0
            assert alpha.wait_for("failed")["reason"] == "driver-failed"
        assert {protocol for protocol, _ in wire.packets} <= {ESP}
        comes_back((network, alpha, beta), before)


def test_a_killed_agent_leaks_nothing_and_a_new_one_heals(pair: Pair, tmp_path: Path) -> None:
    network, alpha, beta = pair
    add_pair(alpha, beta)
    assert ping(network) == 3
    data_plane = int(str(alpha.call("pid")))
    with Capture(network) as wire:
        alpha.kill()
        deadline = time.monotonic() + 60
        while Path(f"/proc/{data_plane}").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not Path(f"/proc/{data_plane}").exists()
        assert ping(network, "-W", "0.3") == 0
        assert not connects(network["alpha"], network["beta"], "10.9.0.2", 5000, 1.5)
        assert not connects(network["alpha"], network["beta"], "10.9.0.2", 23, 1.5)
        assert connects(network["alpha"], network["beta"], "10.9.0.2", 22)
        again = AgentSide(network["alpha"], tmp_path / "alpha")
        try:
            again.call("start")
            assert ping(network, "-W", "0.3") == 0
            again.call("install", rules=POLICY)
            for direction, spi in (("inbound", 0x1000), ("outbound", 0x1001)):
                beta.call("remove", direction=direction, spi=spi, peer="10.9.0.1")
            add_pair(again, beta, base=0x2000)
            assert ping(network) == 3
            again.call("stop")
        finally:
            again.close()
    for protocol, packet in wire.packets:
        permitted = protocol == TCP and (22).to_bytes(2, "big") in (packet[20:22], packet[22:24])
        assert protocol == ESP or permitted, packet[:40].hex()


def state(network: Network) -> str:
    script = (
        "nft list ruleset; ip rule; ip -br link | sed 's/@.*//'; ip route show table all | grep -v ' local '"
    )
    return network["alpha"].run(["/bin/sh", "-c", script]).stdout


def test_stop_leaves_nothing_in_any_order(tmp_path: Path) -> None:
    with two_hosts(tmp_path) as (network, alpha, _):
        network["alpha"].run(["nft", "add table ip somebody"])
        clean = state(network)
        alpha.call("stop")
        assert state(network) == clean
        alpha.call("start")
        alpha.call("start")
        alpha.call("stop")
        assert state(network) == clean
        alpha.call("start")
        alpha.call("install", rules=POLICY)
        assert "stockade0" in state(network)
        alpha.call("stop")
        alpha.call("stop")
        assert state(network) == clean
        # And what a killed run left.
        alpha.call("start")
        alpha.call("install", rules=POLICY)
        data_plane = int(str(alpha.call("pid")))
        alpha.kill()
        deadline = time.monotonic() + 60
        while Path(f"/proc/{data_plane}").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert "table inet stockade" in state(network)
        again = AgentSide(network["alpha"], tmp_path / "alpha")
        try:
            again.call("stop")
            assert state(network) == clean
        finally:
            again.close()


def test_stop_with_filters_kept_stays_closed(pair: Pair) -> None:
    network, alpha, beta = pair
    add_pair(alpha, beta)
    alpha.call("stop", keep=True)
    with Capture(network) as wire:
        assert ping(network, "-W", "0.3") == 0
        assert not connects(network["alpha"], network["beta"], "10.9.0.2", 5000, 1.5)
        assert connects(network["alpha"], network["beta"], "10.9.0.2", 22)
    assert {protocol for protocol, _ in wire.packets} == {TCP}
    assert all((22).to_bytes(2, "big") in (packet[20:22], packet[22:24]) for _, packet in wire.packets)
    alpha.call("start")
    alpha.call("stop")
    assert "stockade" not in state(network)


def test_two_agents_in_one_namespace_do_not_hurt_each_other(pair: Pair, tmp_path: Path) -> None:
    network, alpha, beta = pair
    add_pair(alpha, beta)
    second = AgentSide(network["alpha"], tmp_path / "second")
    try:
        assert second.try_call("start").get("error") == "driver-failed"
        second.call("stop")
    finally:
        second.close()
    assert ping(network) == 3


def test_the_data_plane_has_no_privileges(pair: Pair) -> None:
    _, alpha, _ = pair
    pid = alpha.call("pid")
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    assert status["Uid"].split() == ["65534"] * 4
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
    assert b"--descriptors" in arguments


def test_filters_count_and_errors_change_nothing(pair: Pair) -> None:
    network, alpha, beta = pair
    add_pair(alpha, beta)
    assert ping(network) == 3
    counted = alpha.call("statistics")["filters"]
    assert [packets for name, packets in counted.items() if name.startswith("00030001")] == [3]
    reply = alpha.try_call(
        "add",
        source="10.9.0.1",
        destination="10.9.0.2",
        spi=0x1000,
        pair=0x1001,
        direction="outbound",
        encryption="aes-gcm-128",
        encryption_key="00" * 20,
        integrity_key="",
    )
    assert reply["error"] == "driver-lacks"
    assert ping(network) == 3


def test_an_administrators_firewall_can_let_authenticated_peers_pass(pair: Pair) -> None:
    """What came out of an SA bears the mark; what came in clear does not, whatever it is."""
    network, alpha, beta = pair
    add_pair(alpha, beta)
    network["beta"].run(
        [
            "nft",
            "add table inet firewall;"
            "add chain inet firewall input { type filter hook input priority 10; policy drop; };"
            "add rule inet firewall input meta l4proto esp accept;"
            f"add rule inet firewall input meta mark and {MARK_MASK:#x} == {SECURE_MARK:#x} counter accept",
        ]
    )
    assert ping(network) == 3
    assert connects(network["alpha"], network["beta"], "10.9.0.2", 5001)
    assert not connects(
        network["alpha"], network["beta"], "10.9.0.2", 22, 1.5
    )  # permitted in clear by the policy, and by this firewall not
