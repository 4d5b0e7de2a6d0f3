"""The doors of an IKE port: the kernel sends first messages to one, what bears a cookie of ours to another,
the rest to a third."""

import os
import socket
from collections.abc import Iterator
from ipaddress import ip_interface

import pytest

from stockade.agent.udp import IKE_PORT, UdpSockets
from stockade.ike.cookies import KEY_SIZE, CookieMark, new_cookie
from stockade.ike.flood import Verdict, is_first_message
from stockade.lab.netns import Namespace, Network
from stockade.model.reasons import HostError, ReasonCode, error_for
from stockade.wire.udp_encapsulation import NAT_TRAVERSAL_PORT, NON_ESP_MARKER

FIRST = b"\1" * 8 + bytes(8) + b"\1\x10\2\0" + bytes(4) + (40).to_bytes(4, "big") + bytes(12)
QUICK = b"\1" * 8 + b"\2" * 8 + b"\x08\x10\x20\1" + b"\3" * 4 + (40).to_bytes(4, "big") + bytes(12)


@pytest.fixture
def hosts() -> Iterator[tuple[Namespace, Namespace]]:
    with Network({"ours": ip_interface("10.7.3.1/24"), "theirs": ip_interface("10.7.3.2/24")}) as network:
        yield network["ours"], network["theirs"]


def sender(namespace: Namespace, port: int = 500) -> socket.socket:
    def opened() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("10.7.3.2", port))
        sock.settimeout(2.0)
        return sock

    return namespace.call(opened)


def read_main(doors: UdpSockets) -> list[bytes]:
    return [datagram for _, read in doors.main_doors() for datagram, _, _ in read()]


def read_strays(doors: UdpSockets) -> list[bytes]:
    return [datagram for _, read in doors.strays_doors() for datagram, _, _ in read()]


def read_strangers(doors: UdpSockets, verdict: bytes | Verdict) -> tuple[list[bytes], list[bytes]]:
    """What was admitted, and the origins that were screened."""
    origins: list[bytes] = []

    def screen(datagram: bytes, origin: bytes, now: float) -> bytes | Verdict:
        assert is_first_message(datagram)
        origins.append(origin)
        return verdict

    admitted = [entry[0] for _, read in doors.strangers_doors() for entry in read(screen, 0.0, 64)]
    return admitted, origins


@pytest.mark.parametrize("port", [IKE_PORT, NAT_TRAVERSAL_PORT])
def test_first_messages_come_to_the_strangers_door_and_the_rest_to_the_main_one(
    hosts: tuple[Namespace, Namespace], port: int
) -> None:
    ours, theirs = hosts
    doors = ours.call(lambda: UdpSockets(None))
    marker = NON_ESP_MARKER if port == NAT_TRAVERSAL_PORT else b""
    repeated = FIRST[:8] + b"\0\0\0\0\0\0\0\5" + FIRST[16:]
    others = [QUICK, repeated, FIRST[:18] + b"\5" + FIRST[19:], FIRST[:18], b"\1" * 30]
    with sender(theirs) as peer:
        for datagram in (FIRST, *others):
            peer.sendto(marker + datagram, ("10.7.3.1", port))
        assert read_main(doors) == [marker + datagram for datagram in others]
        admitted, origins = read_strangers(doors, Verdict.ADMIT)
        assert admitted == [marker + FIRST]
        assert origins == [
            socket.inet_aton("10.7.3.1")
            + socket.inet_aton("10.7.3.2")
            + (port << 16 | 500).to_bytes(4, "big")
        ]
        peer.sendto(marker + FIRST, ("10.7.3.1", port))
        assert read_strangers(doors, b"a cookie")[0] == []
        assert peer.recvfrom(100) == (marker + b"a cookie", ("10.7.3.1", port))
        peer.sendto(marker + FIRST, ("10.7.3.1", port))
        assert read_strangers(doors, Verdict.DROP)[0] == []
    doors.close()


@pytest.mark.parametrize("port", [IKE_PORT, NAT_TRAVERSAL_PORT])
def test_what_bears_no_cookie_of_ours_goes_its_own_way(hosts: tuple[Namespace, Namespace], port: int) -> None:
    ours, theirs = hosts
    mark = CookieMark(os.urandom(KEY_SIZE))
    doors = ours.call(lambda: UdpSockets(None, cookies=mark))
    marker = NON_ESP_MARKER if port == NAT_TRAVERSAL_PORT else b""
    own = [new_cookie(os.urandom, mark) for _ in range(20)]
    print([cookie.hex() for cookie in own])
    known = [cookie + FIRST[8:18] + b"\5" + FIRST[19:] for cookie in own]  # a peer answers us in clear
    known += [QUICK[:8] + cookie + QUICK[16:] for cookie in own]
    known += [cookie + QUICK[8:] for cookie in own]
    damaged = [cookie[:7] + bytes([cookie[7] ^ 1]) for cookie in own]
    strays = [QUICK, QUICK[:18], FIRST[:18] + b"\4" + FIRST[19:], FIRST[:19] + b"\1" + FIRST[20:]]
    strays += [QUICK[:8] + cookie + QUICK[16:] for cookie in damaged[:5]]
    strays += [cookie + QUICK[8:] for cookie in damaged[5:10]]
    with sender(theirs) as peer:
        for datagram in (*strays, FIRST, *known):
            peer.sendto(marker + datagram, ("10.7.3.1", port))
        assert read_main(doors) == [marker + datagram for datagram in known]
        assert read_strangers(doors, Verdict.ADMIT)[0] == [marker + FIRST]
        assert read_strays(doors) == [marker + datagram for datagram in strays]
        for _ in range(20_000):
            peer.sendto(marker + QUICK, ("10.7.3.1", port))
        for datagram in (known[0], FIRST):
            peer.sendto(marker + datagram, ("10.7.3.1", port))
        assert read_main(doors) == [marker + known[0]]
        assert read_strangers(doors, Verdict.ADMIT)[0] == [marker + FIRST]
        assert 0 < len(read_strays(doors)) <= 16
    doors.close()


def test_a_flood_fills_its_own_queue_only(hosts: tuple[Namespace, Namespace]) -> None:
    ours, theirs = hosts
    doors = ours.call(lambda: UdpSockets(None))
    with sender(theirs) as peer:
        for _ in range(20_000):
            peer.sendto(FIRST, ("10.7.3.1", IKE_PORT))
        peer.sendto(QUICK, ("10.7.3.1", IKE_PORT))
    assert read_main(doors) == [QUICK]
    waiting = 0
    while admitted := read_strangers(doors, Verdict.ADMIT)[0]:
        waiting += len(admitted)
    assert 100 < waiting < 20_000
    doors.close()


def test_a_second_agent_gets_no_part_of_the_port(hosts: tuple[Namespace, Namespace]) -> None:
    ours, _ = hosts
    doors = ours.call(lambda: UdpSockets(None))
    with pytest.raises(HostError) as caught:
        ours.call(lambda: UdpSockets(None))
    assert caught.value.reason.code is ReasonCode.PORT_TAKEN
    doors.close()
    ours.call(lambda: UdpSockets(None)).close()


def test_a_socket_is_prepared_before_the_kernel_can_choose_it(hosts: tuple[Namespace, Namespace]) -> None:
    """The kernel spreads ESP over all sockets of port 4500: what is bound and does not open it loses it."""
    ours, _ = hosts
    prepared: list[tuple[int, int, socket.socket]] = []
    joined: list[socket.socket] = []

    def prepare(sock: socket.socket, port: int) -> None:
        assert not joined
        prepared.append((port, sock.getsockname()[1], sock))

    doors = ours.call(lambda: UdpSockets(None, prepare, join=joined.append))
    try:
        assert {port for port, _, _ in prepared} == {IKE_PORT, NAT_TRAVERSAL_PORT}
        assert all(bound_to == 0 for _, bound_to, _ in prepared)
        assert len(joined) == len(list(doors.descriptors()))
        assert {id(sock) for sock in joined} <= {id(sock) for _, _, sock in prepared}
        kept = {version: sock.dup() for version, sock in doors.nat_doors()}
    finally:
        doors.close()
    prepared.clear()
    joined.clear()
    doors = ours.call(lambda: UdpSockets(None, prepare, kept=kept, join=joined.append))
    try:
        left = set(map(id, kept.values()))
        assert {id(sock) for _, bound_to, sock in prepared if bound_to} == left
        assert left < {id(sock) for sock in joined} <= {id(sock) for _, _, sock in prepared}
    finally:
        doors.close()


def test_a_port_that_cannot_be_prepared_is_left(hosts: tuple[Namespace, Namespace]) -> None:
    ours, _ = hosts

    def refuse(sock: socket.socket, port: int) -> None:
        if port == NAT_TRAVERSAL_PORT:
            raise error_for(ReasonCode.DRIVER_FAILED, "a test refuses")

    with pytest.raises(HostError) as caught:
        ours.call(lambda: UdpSockets(None, refuse))
    assert caught.value.reason.code is ReasonCode.DRIVER_FAILED
    ours.call(lambda: UdpSockets(None)).close()
