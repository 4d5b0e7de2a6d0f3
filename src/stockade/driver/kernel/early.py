"""Secured packets that come before their SA (see `driver.early`), on the kernel's data plane.

The kernel drops what it has no keys for, and a peer that sends from the moment that it answers (libreswan
does) gives us its keys no sooner than that. So while we wait for an answer, raw sockets take copies of what
comes with the SPIs that we told to peers, chosen by a filter in the kernel; when the SA is in, they are given
to the kernel again by a TUN device, and it treats them as it does all others: sequence numbers, integrity,
policy. Nothing is opened here.

A responder has its SA before its answer leaves and would not need this, but what becomes of an SPI is not
known when it is reserved. Left out: hosts whose reverse-path filter is strict for all devices (the kernel
drops what comes by ours), AH behind IPv6 extension headers, and SPIs beyond the `WATCHED` newest."""

import fcntl
import os
import socket
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from struct import Struct
from typing import Final

from stockade.driver.early import EarlyPackets
from stockade.driver.kernel.listener import bypass_socket
from stockade.driver.netlink import NetlinkSocket
from stockade.driver.userspace.raw import Receiver, attach_filter, open_receiving
from stockade.model.addresses import Address
from stockade.model.reasons import StockadeError
from stockade.model.traffic import AH, ESP, UDP
from stockade.wire import rtnetlink
from stockade.wire.ip import IPV6_HEADER_SIZE
from stockade.wire.udp_encapsulation import NAT_TRAVERSAL_PORT

WATCHED: Final = 64
"""SPIs that are waited for at a time: every packet of IPsec meets so many comparisons meanwhile."""

KEEP_SECONDS: Final = 10.0
"""The sockets stay open for so long after the last SPI that was waited for."""

READS: Final = 64
"""Of a socket, for one SA, of some packets each: who knows an SPI and sends faster than we read keeps nobody
waiting."""

DEVICE: Final = "stockade1"
DEVICE_MTU: Final = 65535

_TUNSETIFF: Final = 0x4004_54CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_IFREQ: Final = Struct("16sH22x")
_BPF: Final = Struct("=HBBI")
_LOAD_HEADER_LENGTH, _LOAD_HALF_BEHIND, _LOAD_WORD_BEHIND = 0xB1, 0x48, 0x40
_LOAD_ZERO, _IS, _GIVE = 0x01, 0x15, 0x06
_ALL: Final = 0xFFFF_FFFF
_SPI_AT: Final = {ESP: 0, AH: 4, UDP: 8}


def spi_filter(version: int, protocol: int, spis: list[int]) -> bytes:
    """A classic BPF program for a raw socket: packets with one of these SPIs. It sees the IPv4 header too,
    and not the IPv6 one."""
    program = [(_LOAD_HEADER_LENGTH, 0, 0, 0) if version == 4 else (_LOAD_ZERO, 0, 0, 0)]  # X
    if protocol == UDP:
        program += [(_LOAD_HALF_BEHIND, 0, 0, 2), (_IS, 1, 0, NAT_TRAVERSAL_PORT), (_GIVE, 0, 0, 0)]
    program.append((_LOAD_WORD_BEHIND, 0, 0, _SPI_AT[protocol]))  # beyond the end: not taken
    for spi in spis:
        program += [(_IS, 0, 1, spi), (_GIVE, 0, 0, _ALL)]
    program.append((_GIVE, 0, 0, 0))
    return b"".join(_BPF.pack(*instruction) for instruction in program)


class EarlyWatch:
    """Of one network namespace: that of the thread that calls. What fails here costs packets that would be
    lost without it, so nothing is raised. The kernel has counted all of them when they came."""

    def __init__(self) -> None:
        self._packets = EarlyPackets(lambda: None)
        self._awaited: OrderedDict[int, int] = OrderedDict()
        self._changed = False
        self._sockets: dict[tuple[int, int], tuple[socket.socket, Receiver]] = {}
        self._last = 0.0
        self._device = -1

    def expect(self, spi: int, version: int) -> None:
        """A negotiation has reserved this SPI: it is listened for from the next `listen` on."""
        self._awaited[spi] = version
        while len(self._awaited) > WATCHED:
            self._awaited.popitem(last=False)
        self._changed = True

    def settle(self, spi: int) -> None:
        """Its SA is there, or will never be."""
        self._changed = self._awaited.pop(spi, None) is not None or self._changed

    def listen(self, now: float) -> None:
        """To be called before messages are sent, and now and then."""
        if self._awaited:
            self._last = now
        if self._changed:
            self._changed = False
            self._attach()
        if len(self._packets):
            self._packets.expire(now)
        if self._sockets and not self._awaited and now - self._last > KEEP_SECONDS:
            self._close_sockets()

    def take(self, destination: Address, spis: list[tuple[int, int]], now: float) -> list[bytes]:
        """What came early for SAs to `destination`: their protocols (ESP, AH) and SPIs."""
        self._read(now)
        found: list[bytes] = []
        for protocol, spi in spis:
            for kind in (ESP, UDP) if protocol == ESP else (AH,):
                found += self._packets.take(_key(kind, destination.packed, spi.to_bytes(4, "big")))
        return found

    def give(self, packets: list[bytes]) -> int:
        """Let the kernel receive them again; how many it took."""
        if self._device < 0:
            self._device = _open_device()
        taken = 0
        for packet in packets:
            with suppress(OSError):
                taken += os.write(self._device, packet) == len(packet)
        return taken

    def close(self) -> None:
        self._close_sockets()
        self._awaited.clear()
        if self._device >= 0:
            os.close(self._device)
            self._device = -1

    def _attach(self) -> None:
        for version in set(self._awaited.values()):
            for protocol in (ESP, AH, UDP):
                if (version, protocol) not in self._sockets:
                    with suppress(OSError):
                        self._open(version, protocol)
        for (version, protocol), (sock, _) in self._sockets.items():
            spis = [spi for spi, of_version in self._awaited.items() if of_version == version]
            with suppress(OSError):
                attach_filter(sock, spi_filter(version, protocol, spis))

    def _open(self, version: int, protocol: int) -> None:
        sock = open_receiving(version, protocol, spi_filter(version, protocol, []))
        try:
            bypass_socket(sock)
        except OSError:
            sock.close()
            raise
        self._sockets[version, protocol] = sock, Receiver(sock, version, protocol, batches=False)

    def _close_sockets(self) -> None:
        for sock, _ in self._sockets.values():
            sock.close()
        self._sockets.clear()

    def _read(self, now: float) -> None:
        for (version, protocol), (_, receiver) in self._sockets.items():
            for _ in range(READS):
                for packet in (packets := receiver.receive()):
                    if (key := _key_of(packet, version, protocol)) is not None:
                        self._packets.add(key, packet, now)
                if not packets:
                    break


def _key(protocol: int, destination: bytes, spi: bytes) -> bytes:
    return bytes((protocol,)) + destination + spi


def _key_of(packet: bytes, version: int, protocol: int) -> bytes | None:
    at = (packet[0] & 15) * 4 if version == 4 else IPV6_HEADER_SIZE
    spi = packet[at + _SPI_AT[protocol] : at + _SPI_AT[protocol] + 4]
    destination = packet[16:20] if version == 4 else packet[24:40]
    return _key(protocol, destination, spi) if len(spi) == 4 else None


def _open_device() -> int:
    """A TUN device that receives only; -1 where there can be none."""
    try:
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return -1
    netlink: NetlinkSocket | None = None
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, _IFREQ.pack(DEVICE.encode(), _IFF_TUN | _IFF_NO_PI))
        ipv4, ipv6 = (Path(f"/proc/sys/net/{family}/conf") / DEVICE for family in ("ipv4", "ipv6"))
        (ipv4 / "rp_filter").write_text("0")
        if ipv6.exists():
            (ipv6 / "addr_gen_mode").write_text("1")
            for name in ("accept_ra", "router_solicitations", "disable_ipv6"):
                (ipv6 / name).write_text("0")
        netlink = NetlinkSocket()
        link = rtnetlink.set_link(socket.if_nametoindex(DEVICE), mtu=DEVICE_MTU, queue=1)
        netlink.change(rtnetlink.MessageType.NEW_LINK, link)
    except (OSError, StockadeError):
        os.close(descriptor)
        return -1
    finally:
        if netlink is not None:
            netlink.close()
    return descriptor
