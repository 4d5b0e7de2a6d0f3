"""ICMP unreachable from a real kernel: heard before the filters drop it, and turned into a question."""

import json
import socket
import sys
import time
from collections.abc import Iterator
from ipaddress import ip_address, ip_interface
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from cluster_harness import Host, eventually

from stockade.agent.unreachable import UnreachableReports
from stockade.lab.netns import Namespace, Network
from stockade.wire.unreachable import Unreachable

OURS, THEIRS = "10.7.4.1", "10.7.4.2"
OURS6, THEIRS6 = "fd07:4::1", "fd07:4::2"
PATIENCE = 60.0
ESP = (0x1234_5678).to_bytes(4, "big") + bytes(60)
DROP_ICMP = """table inet closed {
  chain input {
    type filter hook input priority -150; policy accept;
    icmpv6 type { destination-unreachable, echo-reply } drop
    meta l4proto icmp drop
  }
}
"""


@pytest.fixture
def hosts() -> Iterator[tuple[Namespace, Namespace]]:
    with Network({"ours": ip_interface(f"{OURS}/24"), "theirs": ip_interface(f"{THEIRS}/24")}) as network:
        yield network["ours"], network["theirs"]


def heard(reports: UnreachableReports, send, wanted: Unreachable) -> bool:
    """Whether it comes; it is provoked again and again, as kernels answer at a bounded rate."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        send()
        time.sleep(0.1)
        if wanted in reports.read():
            return True
    return False


@pytest.mark.parametrize("version", [4, 6])
def test_the_kernel_tells_of_closed_ports_and_of_esp_that_nobody_takes(
    hosts: tuple[Namespace, Namespace], version: int
) -> None:
    ours, theirs = hosts
    if version == 6:
        for namespace, address in ((ours, OURS6), (theirs, THEIRS6)):
            namespace.run(["sysctl", "-qw", "net.ipv6.conf.eth0.disable_ipv6=0"])
            namespace.ip(f"address add {address}/64 dev eth0 nodad")
    ours.run(["nft", "-f", "-"], input_text=DROP_ICMP)
    own, peer = (OURS, THEIRS) if version == 4 else (OURS6, THEIRS6)
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    reports = ours.call(UnreachableReports)
    try:
        assert len(list(reports.filenos())) == 2
        ends = ip_address(peer), ip_address(own), ip_address(peer)
        datagrams = ours.call(lambda: socket.socket(family, socket.SOCK_DGRAM))
        with datagrams:
            datagrams.bind((own, 500))
            send = lambda: datagrams.sendto(b"\1" * 28, (peer, 500))  # noqa: E731
            assert heard(reports, send, Unreachable(*ends, "port", None))
        if version == 4:  # of IPv6 the kernel answers with "unknown next header", another type
            with ours.call(lambda: socket.socket(family, socket.SOCK_RAW, 50)) as raw:
                send = lambda: raw.sendto(ESP, (peer, 0))  # noqa: E731
                assert heard(reports, send, Unreachable(*ends, "protocol", 0x1234_5678))
            with ours.call(lambda: socket.socket(family, socket.SOCK_DGRAM)) as other:
                other.sendto(b"\1" * 28, (peer, 77))  # no IKE
                time.sleep(0.3)
                assert reports.read() == []
    finally:
        reports.close()


def test_an_agent_hears_that_its_peer_has_left_the_network(tmp_path: Path) -> None:
    """The next hop does not answer any more: our own kernel says so, about packets that carry ESP."""
    addresses = {"client": ip_interface(f"{OURS}/24"), "server": ip_interface(f"{THEIRS}/24")}
    with Network(addresses) as network:
        client, server = (Host(network[name], tmp_path / name) for name in addresses)
        client.write_policy(THEIRS)
        server.write_policy(OURS)
        for each in (client, server):
            each.agent.start()
        for each in (client, server):
            each.agent.wait_until_ready()
        assert client.ping(THEIRS)
        told_people = client.stockade("explain", "peer", THEIRS)
        assert "at most 20 s after the first packet without an answer" in told_people
        assert "proves that it lost its state" in told_people
        plan = json.loads(client.stockade("explain", "peer", THEIRS, "--format", "json"))
        assert (plan["known"], plan["notice_seconds"]) == (True, 20.0)
        assert sum(rung["seconds"] for rung in plan["rungs"]) == plan["notice_seconds"]
        server.namespace.run(["ip", "link", "set", "eth0", "down"])
        client.namespace.run(["ip", "neigh", "flush", "dev", "eth0"])

        def told() -> bool:
            client.ping(THEIRS, seconds=1)
            status = json.loads(client.stockade("status", "--format", "json"))
            return bool(status["ike"]["unreachables_received"])

        assert eventually(told, 60.0)
        entries = client.journal("notification")
        assert any(entry["reason"] == "peer-unreachable" for entry in entries), entries
