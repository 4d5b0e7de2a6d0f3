"""Where the network says that a peer cannot be reached: a packet socket for ICMP unreachable messages.

Not the error queue of the IKE sockets: where all traffic with a peer must be secured, the filters drop clear
ICMP from it before any socket hears of it; and it must be heard for ESP packets of either data plane too. A
packet socket looks before the filters do. The kernel sends us such a message itself where the next hop does
not answer.

Anybody can send one, so it is a reason to ask the peer, never more (`ike.evidence`). The kernel filters, the
queue is short, and a turn of the loop reads a few: a flood costs what it costs to drop it.
"""

import ctypes
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress

from stockade.model.traffic import AH, ESP, ICMP, ICMPV6, UDP
from stockade.wire.unreachable import ICMP_UNREACHABLE, ICMPV6_UNREACHABLE, Unreachable, read_unreachable

BATCH = 16
QUEUE = 64 * 1024
QUOTE = 256
"""Bytes of a message that are read: what it quotes beyond them is of no use."""
_SO_ATTACH_FILTER = 26
_PACKET_HOST = 0
_TYPES = {4: 0x0800, 6: 0x86DD}
_KEEP, _DROP = (0x06, 0, 0, 0xFFFF), (0x06, 0, 0, 0)
_FILTERS: dict[int, tuple[tuple[int, int, int, int], ...]] = {
    4: (
        (0x30, 0, 0, 9),  # the protocol is ICMP,
        (0x15, 0, 12, ICMP),
        (0x28, 0, 0, 6),  # no fragment,
        (0x45, 10, 0, 0x3FFF),
        (0xB1, 0, 0, 0),  # X = the header's length
        (0x50, 0, 0, 0),  # type
        (0x15, 0, 7, ICMP_UNREACHABLE),
        (0x50, 0, 0, 1),  # code: "fragmentation needed" is the data plane's business
        (0x15, 5, 0, 4),
        (0x50, 0, 0, 8 + 9),  # the quoted packet's protocol
        (0x15, 2, 0, ESP),
        (0x15, 1, 0, AH),
        (0x15, 0, 1, UDP),
        _KEEP,
        _DROP,
    ),
    6: (
        (0x30, 0, 0, 6),
        (0x15, 0, 8, ICMPV6),
        (0x30, 0, 0, 40),
        (0x15, 0, 6, ICMPV6_UNREACHABLE),
        (0x30, 0, 0, 40 + 8 + 6),
        (0x15, 3, 0, ESP),
        (0x15, 2, 0, AH),
        (0x15, 1, 0, UDP),
        (0x15, 0, 1, 44),  # the first fragment of one
        _KEEP,
        _DROP,
    ),
}


class UnreachableReports:
    """One socket per IP version. Without the privilege, or on a kernel without packet sockets, there are
    none: peers are then asked when their silence is noticed."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []
        for version in _TYPES:
            with suppress(OSError):
                self._sockets.append(_open(version))

    def filenos(self) -> Iterator[int]:
        for sock in self._sockets:
            yield sock.fileno()

    def read(self) -> list[Unreachable]:
        """What has come: at most `BATCH` messages of each IP version."""
        found: list[Unreachable] = []
        for sock in self._sockets:
            for _ in range(BATCH):
                try:
                    packet, address = sock.recvfrom(QUOTE)
                except OSError:
                    break  # nothing left, or a device went down: the next call reads on
                # Device, protocol, kind …: what the host itself sends is seen a second time on its way out.
                report = read_unreachable(packet) if address[2] == _PACKET_HOST else None
                if report is not None:
                    found.append(report)
        return found

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()
        self._sockets.clear()


def _open(version: int) -> socket.socket:
    kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    sock = socket.socket(socket.AF_PACKET, kind, socket.htons(_TYPES[version]))
    try:
        program = b"".join(struct.pack("=HBBI", *instruction) for instruction in _FILTERS[version])
        buffer = ctypes.create_string_buffer(program, len(program))  # the kernel copies it
        header = struct.pack("@HP", len(_FILTERS[version]), ctypes.addressof(buffer))
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, header)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, QUEUE)
        with suppress(BlockingIOError):
            for _ in range(QUEUE):  # what came before the filter was there
                sock.recv(1)
    except OSError:
        sock.close()
        raise
    return sock
