"""The IKE sockets: UDP 500 and 4500, IPv4 and IPv6, with the local address of every datagram.

A wildcard socket serves all addresses of the host; IP_PKTINFO (RFC 3542 for IPv6) says which one a datagram
came to and sets the one that an answer leaves from: IKE peers look for the address that they wrote to.

    datagram ─▶ kernel: a cookie of ours? ───────yes─▶ main door         read first, whatever else comes
                        message 1 of main mode? ─yes─▶ strangers' door   a small queue, a bounded time
                        anything else ───────────────▶ strays' door      a small queue, a few at a time

Each port has three sockets (SO_REUSEPORT), and a filter in the kernel says which of them a datagram goes to
(`doors.py`). First messages and made-up ones are what strangers can send at any rate from forged addresses;
what belongs to something carries a cookie of ours. So a flood overflows its own queue, at the price of a
dropped packet, and never that of the peers that we know. Where the kernel takes no such filter there is one
socket for all.
"""

import errno
import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache, partial
from ipaddress import ip_address
from types import MappingProxyType
from typing import Protocol

from stockade.agent.doors import ENOUGH_STRAYS, attach, attach_choice, choose_door
from stockade.ike.cookies import CookieMark
from stockade.ike.flood import Verdict, is_first_message
from stockade.model.addresses import Endpoint, address_text
from stockade.model.reasons import ReasonCode, StockadeError, error_for
from stockade.wire.udp_encapsulation import NAT_TRAVERSAL_PORT, NON_ESP_MARKER

IKE_PORT = 500
MAXIMUM_DATAGRAM = 65_535
BATCH = 64
"""Datagrams read from one socket before timers and the driver have their turn."""
STRANGERS = 16
STRANGERS_IN_FLOOD = 96
"""First messages read at once: a few where each may cost a main mode, more where each costs an answer."""
LONGEST_FIRST_MESSAGE = 8192
MAIN_QUEUE, STRANGERS_QUEUE, STRAYS_QUEUE = 4 << 20, 1 << 20, 1 << 18
"""Bytes of the kernel's queues. Those of strangers are short, so that what is read is not old."""

Batch = list[tuple[bytes, Endpoint, Endpoint]]


class Screen(Protocol):
    """Decides about first messages before anything is made of them: `HostCore.screen`."""

    def __call__(self, datagram: bytes, origin: bytes, now: float, /) -> bytes | Verdict: ...


_IP_PKTINFO = 8
_SO_MARK = 36
_SO_ATTACH_FILTER = 26
_SO_RCVBUFFORCE = 33
_IKE_ONLY = (
    # Classic BPF over UDP header and payload: on port 4500 ESP has its SPI where IKE has four zero bytes.
    # ESP is the data plane's, which has a socket of its own for it; copies would only keep this one busy.
    (0x20, 0, 0, 8),  # A = the word behind the UDP header; a keepalive is too short and is not taken
    (0x15, 0, 1, 0),
    (0x06, 0, 0, 0xFFFF_FFFF),
    (0x06, 0, 0, 0),
)


class UdpSockets:
    """Opens the sockets (all or none). `prepare(socket, port)` is called for each before it is bound: where
    the kernel takes ESP from them, it takes ESP from any of a port, as soon as it is there. `cookies`: how
    cookies of ours are marked; without it there are no strays. `kept`: the main sockets of port 4500 of an
    earlier agent, by IP version, which are gone on with. `join(socket)` is called for each when all are
    there. Errors: `HostError` PORT_TAKEN, NOT_PRIVILEGED, and those of `prepare` and `join`."""

    def __init__(
        self,
        mark: int | None,
        prepare: Callable[[socket.socket, int], None] = lambda sock, port: None,
        cookies: CookieMark | None = None,
        kept: Mapping[int, socket.socket] = MappingProxyType({}),
        join: Callable[[socket.socket], None] = lambda sock: None,
    ) -> None:
        self._mark = mark
        self._prepare = prepare
        self._cookies = cookies
        self._kept = kept
        self._strays: dict[tuple[int, int], socket.socket] = {}
        self._sockets: dict[tuple[int, int], socket.socket] = {}
        self._strangers: dict[tuple[int, int], socket.socket] = {}
        try:
            for port in (IKE_PORT, NAT_TRAVERSAL_PORT):
                for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
                    with suppress(_NoIpv6):
                        self._open_doors(version, family, port)
            for doors in (self._sockets, self._strangers, self._strays):
                for sock in doors.values():
                    join(sock)
        except BaseException:
            self.close()
            raise

    def _open_doors(self, version: int, family: socket.AddressFamily, port: int) -> None:
        main = self._kept.get(version) if port == NAT_TRAVERSAL_PORT else None
        if main is None:
            # With SO_REUSEPORT alone a second agent could bind beside this one and take part of what comes.
            self._open(family, port, share=False).close()
            main = self._open(family, port, share=True)
        else:
            self._prepare(main, port)  # another data plane may have left it
        self._sockets[version, port] = main
        try:
            attach_choice(main, choose_door(4 if port == NAT_TRAVERSAL_PORT else 0, self._cookies))
        except OSError:
            return  # a kernel without it: one door
        self._strangers[version, port] = self._open(family, port, share=True)
        self._strays[version, port] = self._open(family, port, share=True)
        for sock, size in (
            (main, MAIN_QUEUE),
            (self._strangers[version, port], STRANGERS_QUEUE),
            (self._strays[version, port], STRAYS_QUEUE),
        ):
            with suppress(OSError):  # without the privilege the queue is as long as the system's limit allows
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
                sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)

    def _open(self, family: int, port: int, *, share: bool) -> socket.socket:
        try:
            sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError as error:
            if family == socket.AF_INET6 and error.errno == errno.EAFNOSUPPORT:
                raise _NoIpv6 from error
            raise
        try:
            if family == socket.AF_INET:
                sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            if self._mark is not None:
                sock.setsockopt(socket.SOL_SOCKET, _SO_MARK, self._mark)
            if port == NAT_TRAVERSAL_PORT:
                attach(sock, _SO_ATTACH_FILTER, _IKE_ONLY)
            if share:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self._prepare(sock, port)
            sock.bind(("", port))
        except StockadeError:
            sock.close()
            raise
        except OSError as error:
            sock.close()
            if family == socket.AF_INET6 and error.errno == errno.EADDRNOTAVAIL:
                raise _NoIpv6 from error
            if error.errno == errno.EADDRINUSE:
                raise error_for(ReasonCode.PORT_TAKEN, f"UDP port {port}") from error
            if error.errno in (errno.EACCES, errno.EPERM):
                raise error_for(ReasonCode.NOT_PRIVILEGED, f"opening UDP port {port}") from error
            raise
        return sock

    def descriptors(self) -> Iterator[tuple[int, Callable[[], Batch]]]:
        """(file descriptor, function that reads a batch) of every socket, for a loop that screens nothing."""
        yield from self.main_doors()
        for (version, port), sock in self._strangers.items():
            yield sock.fileno(), partial(_read, sock, version, port)
        yield from self.strays_doors()

    def main_doors(self) -> Iterator[tuple[int, Callable[[], Batch]]]:
        """(file descriptor, function that reads a batch) for all but first messages."""
        for (version, port), sock in self._sockets.items():
            yield sock.fileno(), partial(_read, sock, version, port)

    def nat_doors(self) -> Iterator[tuple[int, socket.socket]]:
        """(IP version, socket) of the main doors of port 4500."""
        for (version, port), sock in self._sockets.items():
            if port == NAT_TRAVERSAL_PORT:
                yield version, sock

    def strays_doors(self) -> Iterator[tuple[int, Callable[[], Batch]]]:
        """(file descriptor, function that reads a few) for what belongs to nothing that we know."""
        for (version, port), sock in self._strays.items():
            yield sock.fileno(), partial(_read, sock, version, port, ENOUGH_STRAYS)

    def strangers_doors(self) -> Iterator[tuple[int, Callable[[Screen, float, int], Batch]]]:
        """(file descriptor, function that reads and screens so many first messages and returns what was
        admitted; answers leave at once)."""
        for (version, port), sock in self._strangers.items():
            yield sock.fileno(), partial(_read_strangers, sock, version, port)

    def send(self, datagram: bytes, local: Endpoint, remote: Endpoint) -> None:
        """Send from `local`. Raises OSError where the network refuses (no route, address gone)."""
        version = remote.address.version
        sock = self._sockets.get((version, local.port))
        if sock is None:
            raise OSError(errno.EAFNOSUPPORT, f"no IPv{version} socket on port {local.port}")
        sock.sendmsg(
            [datagram], _leaving_from(local.address.packed), 0, (address_text(remote.address), remote.port)
        )

    def close(self) -> None:
        for doors in (self._sockets, self._strangers, self._strays):
            for sock in doors.values():
                sock.close()
            doors.clear()


class _NoIpv6(Exception):
    pass


def _leaving_from(local: bytes) -> list[tuple[int, int, bytes]]:
    if len(local) == 4:
        return [(socket.IPPROTO_IP, _IP_PKTINFO, struct.pack("=I4s4s", 0, local, bytes(4)))]
    return [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, local + struct.pack("=I", 0))]


def _read(sock: socket.socket, version: int, port: int, number: int = BATCH) -> Batch:
    """Up to `number` datagrams: (bytes, local endpoint, remote endpoint)."""
    batch: Batch = []
    for _ in range(number):
        try:
            datagram, ancillary, flags, remote = sock.recvmsg(MAXIMUM_DATAGRAM, 64)
        except BlockingIOError:
            break
        except OSError:
            continue  # an ICMP error of an earlier send is reported here; retransmission deals with silence
        local = _local_address(ancillary)
        if local is None or flags & socket.MSG_TRUNC:
            continue
        batch.append(_received(datagram, local, port, remote))
    return batch


def _received(
    datagram: bytes, local: bytes, port: int, remote: tuple[str, int]
) -> tuple[bytes, Endpoint, Endpoint]:
    return datagram, _own_end(local, port), _other_end(remote[0], remote[1])


@lru_cache(maxsize=256)
def _own_end(local: bytes, port: int) -> Endpoint:
    return Endpoint(ip_address(local), port)


@lru_cache(maxsize=1024)  # a handshake is some messages from one end; strangers can only make it forget
def _other_end(host: str, port: int) -> Endpoint:
    return Endpoint(ip_address(host.partition("%")[0]), port)


def _read_strangers(
    sock: socket.socket, version: int, port: int, screen: Screen, now: float, number: int
) -> Batch:
    """Up to `number` first messages, those that the screen admits. No object is made of the others."""
    batch: Batch = []
    marker = NON_ESP_MARKER if port == NAT_TRAVERSAL_PORT else b""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    own_port = port << 16
    for _ in range(number):
        try:
            datagram, ancillary, flags, remote = sock.recvmsg(LONGEST_FIRST_MESSAGE, 64)
        except BlockingIOError:
            break
        except OSError:
            continue
        local = _local_address(ancillary)
        if local is None or flags & socket.MSG_TRUNC:
            continue
        message = datagram[len(marker) :] if marker else datagram
        verdict: bytes | Verdict = Verdict.ADMIT  # what only looks like one is the engine's business
        if is_first_message(message):
            address = socket.inet_pton(family, remote[0].partition("%")[0])
            origin = local + address + (own_port | remote[1]).to_bytes(4, "big")
            verdict = screen(message, origin, now)
        if verdict is Verdict.ADMIT:
            batch.append(_received(datagram, local, port, remote))
        elif isinstance(verdict, bytes):
            with suppress(OSError):  # the answer to a forged address is nobody's loss
                sock.sendmsg([marker + verdict], _leaving_from(local), 0, remote)
    return batch


def _local_address(ancillary: list[tuple[int, int, bytes]]) -> bytes | None:
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO and len(data) >= 12:
            return data[8:12]
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO and len(data) >= 20:
            return data[:16]
    return None
