"""The kernel's driver and packets ahead of their SA: copies of them, and of nothing else, come again once the
SA is there. This kernel may have no ESP, so raw sockets count what comes."""

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_interface

import pytest

from stockade.driver.kernel.ahead import EXPECTED, SECONDS, SPARE_SECONDS, PacketsAhead
from stockade.lab.netns import Namespace, Network
from stockade.model.traffic import AH, ESP, UDP

OURS, THEIRS = ("10.7.4.1", "fd74::1"), ("10.7.4.2", "fd74::2")
PATIENCE = 30.0


@pytest.fixture
def hosts() -> Iterator[tuple[Namespace, Namespace]]:
    hosts = {"ours": ip_interface(f"{OURS[0]}/24"), "theirs": ip_interface(f"{THEIRS[0]}/24")}
    with Network(hosts) as network:
        for name, address in (("ours", OURS[1]), ("theirs", THEIRS[1])):
            network[name].run(["sysctl", "-q", "-w", "net.ipv6.conf.all.disable_ipv6=0"])
            network[name].run(["sysctl", "-q", "-w", "net.ipv6.conf.eth0.disable_ipv6=0"])
            network[name].ip(f"address add {address}/64 dev eth0 nodad")
        yield network["ours"], network["theirs"]


def payload(protocol: int, spi: int, number: int) -> bytes:
    body = spi.to_bytes(4) + number.to_bytes(4) + b"sealed"
    if protocol == AH:
        return b"\x04\x04\0\0" + body
    if protocol == UDP:
        return struct.pack(">HHHH", 4500, 4500, 8 + len(body), 0) + body
    return body


class Wire:
    """A sender there and a counter here, of one protocol and IP version."""

    def __init__(
        self, stack: ExitStack, hosts: tuple[Namespace, Namespace], protocol: int, version: int
    ) -> None:
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        self._protocol, self._target = protocol, OURS[version == 6]
        self._receiving, self._sending = (
            stack.enter_context(one.call(lambda: socket.socket(family, socket.SOCK_RAW, protocol)))
            for one in hosts
        )
        self._header = 20 if version == 4 else 0
        self._receiving.settimeout(PATIENCE)

    def send(self, spi: int, number: int) -> None:
        self._sending.sendto(payload(self._protocol, spi, number), (self._target, 0))

    def next(self) -> tuple[int, int]:
        """SPI and number of what comes next."""
        data = self._receiving.recv(2048)[self._header :]
        start = {AH: 4, UDP: 8}.get(self._protocol, 0)
        spi, number = struct.unpack_from(">II", data, start)
        return spi, number


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", [ESP, AH, UDP])
def test_what_came_under_an_expected_spi_comes_again_and_nothing_else(
    hosts: tuple[Namespace, Namespace], protocol: int, version: int
) -> None:
    if (protocol, version) == (UDP, 6):
        pytest.skip("the sender's raw socket would have to make the checksum")
    with ExitStack() as stack:
        wire = Wire(stack, hosts, protocol, version)
        ahead = PacketsAhead()
        stack.callback(ahead.close)
        now = time.monotonic()
        hosts[0].call(lambda: ahead.expect(0x1111_1111, version, now))
        hosts[0].call(lambda: ahead.expect(0x2222_2222, version, now))
        sent = [(0x1111_1111, 1), (0x3333_3333, 2), (0x2222_2222, 3), (0x1111_1111, 4)]
        for spi, number in sent:
            wire.send(spi, number)
        assert [wire.next() for _ in sent] == sent
        hosts[0].call(lambda: ahead.release(0x1111_1111))
        wire.send(0x4444_4444, 5)
        assert [wire.next() for _ in range(3)] == [(0x1111_1111, 1), (0x1111_1111, 4), (0x4444_4444, 5)]
        hosts[0].call(lambda: ahead.release(0x1111_1111))  # is an SA by now
        hosts[0].call(lambda: ahead.release(0x2222_2222))
        assert wire.next() == (0x2222_2222, 3)


def test_all_spis_that_are_waited_for_fit_the_filter(hosts: tuple[Namespace, Namespace]) -> None:
    with ExitStack() as stack:
        wire = Wire(stack, hosts, ESP, 4)
        ahead = PacketsAhead()
        stack.callback(ahead.close)
        spis = range(0x1000, 0x1000 + EXPECTED + 1)  # one too many: the first is given up
        for spi in spis:
            hosts[0].call(lambda spi=spi: ahead.expect(spi, 4, time.monotonic()))
        for spi in spis:
            wire.send(spi, 1)
        assert [wire.next()[0] for _ in spis] == list(spis)
        for spi in spis:
            hosts[0].call(lambda spi=spi: ahead.release(spi))
        assert [wire.next()[0] for _ in spis[1:]] == list(spis[1:])


def test_what_waited_for_too_long_is_given_up_and_the_sockets_in_the_end(
    hosts: tuple[Namespace, Namespace],
) -> None:
    with ExitStack() as stack:
        wire = Wire(stack, hosts, ESP, 4)
        ahead = PacketsAhead()
        stack.callback(ahead.close)
        now = time.monotonic()
        hosts[0].call(lambda: ahead.expect(0x1111_1111, 4, now))
        wire.send(0x1111_1111, 1)
        assert wire.next() == (0x1111_1111, 1)
        ahead.look(now + SECONDS)
        assert ahead._taking
        hosts[0].call(lambda: ahead.release(0x1111_1111))
        wire.send(0x1111_1111, 2)
        assert wire.next() == (0x1111_1111, 2)
        ahead.look(now + SPARE_SECONDS)
        assert not ahead._taking
