"""Agents that speak through a NAT: main mode moves to port 4500, ESP goes in UDP, and nothing but UDP 500 and
4500 is on the wire outside."""

import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from nat_world import ONE, OUTER_INTERFACE, OUTSIDE, PUBLIC, NatWorld
from stockade_node import StockadeNode

from stockade.lab.capture import Capture, PacketKind, WireWatch
from stockade.lab.netns import Namespace
from stockade.model.traffic import ICMP, TCP, UDP, Flow
from stockade.wire.ip import flow_of
from stockade.wire.udp_encapsulation import KEEPALIVE

PORT = 7001


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def policy(peer: str) -> str:
    return f"""\
ipsec static delete all
ipsec static add filterlist name=traffic
ipsec static add filter filterlist=traffic srcaddr=me dstaddr={peer} protocol=ICMP mirrored=yes
ipsec static add filter filterlist=traffic srcaddr=me dstaddr={peer} protocol=TCP mirrored=yes
ipsec static add filteraction name=secure action=negotiate inpass=no soft=no qmsecmethods="ESP[AES128,SHA1]"
ipsec static add policy name=nat activatedefaultrule=no mmsecmethods="AES128-SHA256-ECP256"
ipsec static add rule name=traffic policy=nat filterlist=traffic filteraction=secure psk="a key"
ipsec static set policy name=nat assign=yes
"""


def ping(source: Namespace, target: str, count: int = 3, patience: float = 30) -> int:
    command = ["ping", "-n", "-c", str(count), "-i", "0.1", "-W", str(patience), target]
    found = re.search(r"(\d+) received", source.run(command, timeout=120, check=False).stdout)
    assert found
    return int(found[1])


def tunnel_policy(here: str, there: str, own: str, peer: str) -> str:
    """Two rules, as an administrator of Windows writes a tunnel."""
    rules = "".join(
        f"ipsec static add filter filterlist={name} srcaddr={source} dstaddr={target} mirrored=no\n"
        f"ipsec static add rule name={name} policy=nat filterlist={name} filteraction=secure tunnel={end}"
        ' psk="a key"\n'
        for name, source, target, end in (("out", here, there, peer), ("in", there, here, own))
    )
    return (
        "ipsec static delete all\n"
        'ipsec static add filteraction name=secure action=negotiate qmsecmethods="ESP[AES128,SHA1]"\n'
        'ipsec static add policy name=nat activatedefaultrule=no mmsecmethods="AES128-SHA1-2"\n'
        f"{rules}ipsec static set policy name=nat assign=yes\n"
    )


def node(
    stack: ExitStack, namespace: Namespace, folder: Path, script: str, settings: str = ""
) -> StockadeNode:
    home = folder / namespace.name
    (home / "home").mkdir(parents=True, mode=0o700)
    (home / "home" / "agent.toml").write_text(settings, encoding="utf-8")
    started = StockadeNode(namespace, home)
    started.apply(script)
    return stack.enter_context(started)


def must_not_be(flow: Flow) -> bool:
    """Clear traffic of the two protocols that are secured."""
    return flow.protocol in (ICMP, TCP)


class Outside(WireWatch):
    """Sees the wire beyond the NAT: what is neither IKE nor ESP in UDP, and the keep-alives."""

    def __init__(self) -> None:
        super().__init__(must_not_be)
        self.others: Counter[str] = Counter()
        self.keepalives: Counter[tuple[str, int]] = Counter()

    def see(self, packet: bytes) -> PacketKind:
        if packet[0] >> 4 == 4:
            flow = flow_of(packet)
            if flow.protocol != UDP or not {500, 4500} & {flow.source_port, flow.destination_port}:
                self.others[str(flow)] += 1
            elif packet[28:] == KEEPALIVE:
                self.keepalives[str(flow.source), flow.destination_port] += 1
        return super().see(packet)


def eventually(question: Callable[[], object], patience: float = 60.0) -> object:
    deadline = time.monotonic() + patience
    while not (answer := question()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return answer


def test_a_client_behind_a_nat(stack: ExitStack, tmp_path: Path) -> None:
    world = stack.enter_context(NatWorld())
    client = node(stack, world.one, tmp_path, policy(OUTSIDE), "[ike]\nnat_keepalive_seconds = 1\n")
    server = node(stack, world.outside, tmp_path, policy(PUBLIC))
    outside = Outside()
    with Capture(world.nat, OUTER_INTERFACE, outside) as wire:
        assert ping(world.one, OUTSIDE) == 3, client.output() + server.output()
        assert ping(world.outside, PUBLIC) == 3
        exchange(world.one, world.outside, OUTSIDE)
        assert eventually(lambda: outside.keepalives.total() >= 3), outside.keepalives
        tally = wire.tally()
    assert tally.protected_clear == 0, tally
    assert tally.esp > 0, tally
    assert tally.missed == 0, tally
    assert not outside.others, outside.others
    assert set(outside.keepalives) == {(PUBLIC, 4500)}, "the end behind the NAT alone"
    (row, *_) = server.main_modes()
    address, port = str(row["peer"]).rsplit(":", 1)
    assert address == PUBLIC
    assert 20_000 <= int(port) < 30_000, row
    assert str(row["local"]).endswith(":4500"), row
    (row, *_) = client.main_modes()
    assert str(row["local"]).endswith(":4500"), row
    forged_packets_move_nobody(world, server)


def forged_packets_move_nobody(world: NatWorld, server: StockadeNode) -> None:
    """Whoever can send from the client's public address, but has no key, from another port than the
    client's."""
    pairs, (mode,) = server.quick_modes(), server.main_modes()
    spi = int(str(pairs[0]["inbound_spi"]), 0).to_bytes(4, "big")
    cookies = bytes.fromhex(str(mode["cookies"]).replace(":", ""))
    header = cookies + bytes((8, 0x10)) + bytes((32, 1)) + b"\0\0\x12\x34" + (92).to_bytes(4, "big")
    forger = world.nat.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with forger:
        forger.bind((PUBLIC, 45_678))
        for number in range(1000, 1020):
            forger.sendto(spi + number.to_bytes(4, "big") + bytes(96), (OUTSIDE, 4500))
            forger.sendto(bytes(4) + header + bytes(64), (OUTSIDE, 4500))
    assert eventually(lambda: "integrity-failed" in server.reasons()), server.reasons()
    assert [row["peer"] for row in server.main_modes()] == [mode["peer"]]
    assert ping(world.one, OUTSIDE) == 3, "and the pair goes on"
    after = [row["inbound_spi"] for row in server.quick_modes()]
    assert after == [row["inbound_spi"] for row in pairs]


def test_a_tunnel_in_udp_with_a_client_that_knows_the_draft_only(stack: ExitStack, tmp_path: Path) -> None:
    """Windows 2003 at home, behind a NAT, with a tunnel to the net behind the server."""
    world = stack.enter_context(NatWorld())
    world.outside.ip("address add 10.99.0.1/32 dev lo", f"route add {ONE}/32 via {PUBLIC}")
    net = "10.99.0.0/24"
    client = node(
        stack, world.one, tmp_path, tunnel_policy(ONE, net, ONE, OUTSIDE), "[ike]\nmicrosoft_version = 4\n"
    )
    server = node(stack, world.outside, tmp_path, tunnel_policy(net, ONE, OUTSIDE, PUBLIC))
    outside = Outside()
    with Capture(world.nat, OUTER_INTERFACE, outside):
        assert ping(world.one, "10.99.0.1") == 3, client.output() + server.output()
        exchange(world.one, world.outside, "10.99.0.1")
    assert not outside.others, outside.others
    (row,) = server.quick_modes()
    assert row["traffic"] == f"any {net} -> {ONE}"
    assert int(str(row["inbound_packets"])) > 3


def test_a_mapping_that_changes_is_followed(stack: ExitStack, tmp_path: Path) -> None:
    """The NAT forgets its table; the client says nothing but what its applications say, which is enough."""
    world = stack.enter_context(NatWorld())
    client = node(stack, world.one, tmp_path, policy(OUTSIDE))
    server = node(stack, world.outside, tmp_path, policy(PUBLIC))
    exchange(world.one, world.outside, OUTSIDE, 1 << 14)
    (before,) = server.quick_modes()
    with Capture(world.nat, OUTER_INTERFACE, WireWatch(must_not_be)) as wire:
        world.translate("30000-39999")
        exchange(world.one, world.outside, OUTSIDE)
        tally = wire.tally()
    assert tally.protected_clear == 0, tally
    (after,) = server.quick_modes()
    assert after["inbound_spi"] == before["inbound_spi"], "the pair goes on, it is not made anew"
    (row,) = server.main_modes()
    assert 30_000 <= int(str(row["peer"]).rsplit(":", 1)[1]) < 40_000, (row, client.output())


def test_two_clients_behind_one_nat(stack: ExitStack, tmp_path: Path) -> None:
    world = stack.enter_context(NatWorld())
    for name in ("one", "two"):
        node(stack, world.network[name], tmp_path, policy(OUTSIDE))
    server = node(stack, world.outside, tmp_path, policy(PUBLIC))
    with Capture(world.nat, OUTER_INTERFACE, WireWatch(must_not_be)) as wire:
        for _ in range(2):
            for client in (world.one, world.two):
                exchange(client, world.outside, OUTSIDE, 1 << 17)
        tally = wire.tally()
    assert tally.protected_clear == 0, tally
    rows = server.quick_modes()
    assert len(rows) == 2, rows
    assert all(int(str(row["inbound_packets"])) > 50 for row in rows), rows
    assert all(int(str(row["outbound_packets"])) > 5 for row in rows), rows
    assert len({row["peer"] for row in server.main_modes()}) == 2


def exchange(source: Namespace, target: Namespace, address: str, size: int = 1 << 20) -> None:
    """A TCP connection that carries `size` bytes there and a word back: checksums that a NAT has broken are
    no hindrance."""
    listener = target.call(lambda: socket.create_server(("", PORT)))
    listener.settimeout(60)
    count = 0

    def serve() -> None:
        nonlocal count
        with listener, listener.accept()[0] as connection:
            connection.settimeout(60)
            while part := connection.recv(65536):
                count += len(part)
            connection.sendall(b"done")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with source.call(lambda: socket.create_connection((address, PORT), timeout=60)) as client:
        client.sendall(bytes(size))
        client.shutdown(socket.SHUT_WR)
        assert client.recv(16) == b"done"
    thread.join(120)
    assert count == size
