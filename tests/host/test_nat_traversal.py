"""Agents that speak through a NAT: main mode moves to port 4500, ESP goes in UDP, and no clear TCP or
ICMP is on the wire outside."""

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from nat_world import OUTER_INTERFACE, OUTSIDE, PUBLIC, NatWorld
from stockade_node import StockadeNode

from stockade.lab.capture import Capture, WireWatch
from stockade.lab.netns import Namespace
from stockade.model.traffic import ICMP, TCP, UDP, Flow

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


def ping(source: Namespace, target: str, count: int = 3, patience: float = 3) -> int:
    command = ["ping", "-n", "-c", str(count), "-i", "0.1", "-W", str(patience), target]
    found = re.search(r"(\d+) received", source.run(command, timeout=60, check=False).stdout)
    assert found
    return int(found[1])


def node(stack: ExitStack, namespace: Namespace, folder: Path, script: str) -> StockadeNode:
    home = folder / namespace.name
    home.mkdir()
    started = StockadeNode(namespace, home)
    started.apply(script)
    return stack.enter_context(started)


def must_not_be(flow: Flow) -> bool:
    """Clear traffic of the two protocols that are secured."""
    return flow.protocol in (ICMP, TCP)


def stays_in_udp(flow: Flow) -> bool:
    return flow.protocol != UDP or 4500 not in (flow.source_port, flow.destination_port)


def test_a_client_behind_a_nat(stack: ExitStack, tmp_path: Path) -> None:
    world = stack.enter_context(NatWorld())
    client = node(stack, world.one, tmp_path, policy(OUTSIDE))
    server = node(stack, world.outside, tmp_path, policy(PUBLIC))
    with Capture(world.nat, OUTER_INTERFACE, WireWatch(must_not_be)) as wire:
        assert ping(world.one, OUTSIDE) == 3, client.output() + server.output()
        assert ping(world.outside, PUBLIC) == 3
        exchange(world.one, world.outside, OUTSIDE)
        tally = wire.tally()
    assert tally.protected_clear == 0, tally
    assert tally.esp > 0, tally
    assert tally.missed == 0, tally
    (row, *_) = server.main_modes()
    address, port = str(row["peer"]).rsplit(":", 1)
    assert address == PUBLIC
    assert 20_000 <= int(port) < 30_000, row
    assert str(row["local"]).endswith(":4500"), row
    (row, *_) = client.main_modes()
    assert str(row["local"]).endswith(":4500"), row


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
    listener.settimeout(20)
    count = 0

    def serve() -> None:
        nonlocal count
        with listener, listener.accept()[0] as connection:
            connection.settimeout(20)
            while part := connection.recv(65536):
                count += len(part)
            connection.sendall(b"done")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with source.call(lambda: socket.create_connection((address, PORT), timeout=20)) as client:
        client.sendall(bytes(size))
        client.shutdown(socket.SHUT_WR)
        assert client.recv(16) == b"done"
    thread.join(20)
    assert count == size
