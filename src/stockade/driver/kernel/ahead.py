"""Secured packets that come before their SA is in the kernel (see `driver.early`, which says why they do).

The kernel drops them. So while an SPI is reserved and is no SA yet, copies of what comes under it are taken
from the wire by a packet socket, whose filter in the kernel lets nothing else through. When the SA is in, the
copies go the way that the originals went, through loopback, and get all the checks that any packet gets:

    get_spi ──▶ expect ──▶ filter          wire ──▶ copy ─┐                   ┌─▶ ESP, AH, ESP in UDP
                                              └──▶ kernel: no SA, dropped     │
    add_sa ──▶ release ─────────────────────────────▶ copies ──▶ loopback ────┘

What came in the moment between the SA and `release` comes twice, and is a replay the second time. Left out:
fragments, and IPv6 with extension headers. Where the system does not give the sockets, packets ahead of their
SA are lost, as without all this."""

import ctypes
import socket
import struct
import threading
import time
from collections import OrderedDict
from contextlib import suppress
from ipaddress import ip_address
from typing import Final

from stockade.driver.early import EarlyPackets
from stockade.driver.kernel.listener import bypass_socket
from stockade.model.traffic import AH, ESP, UDP
from stockade.wire.udp_encapsulation import NAT_TRAVERSAL_PORT

EXPECTED: Final = 64
"""SPIs at a time: the oldest is no longer waited for."""
SECONDS: Final = 10.0
"""A negotiation that takes longer has a peer that is not in a hurry."""
SPARE_SECONDS: Final = 30.0
"""The sockets stay so long without an SPI: to close one takes the kernel a moment."""
LONGEST: Final = 65_535
_BUFFER_BYTES: Final = 2 << 20
_BATCH: Final = 1024
_TO_THIS_HOST: Final = 0
_SO_ATTACH_FILTER: Final = 26
_SO_RCVBUFFORCE: Final = 33
_LINK_TYPES: Final = {4: 0x0800, 6: 0x86DD}
_INSTRUCTION: Final = struct.Struct("=HBBI")

# Codes of classic BPF (linux/bpf_common.h)
_LOAD_WORD, _LOAD_HALF, _LOAD_BYTE = 0x20, 0x28, 0x30
_LOAD_WORD_X, _LOAD_HALF_X = 0x40, 0x48
_X_HEADER_LENGTH, _X_CONSTANT = 0xB1, 0x01
_JUMP, _IF_EQUAL, _IF_ANY_BIT = 0x05, 0x15, 0x45
_RETURN = 0x06

_Instruction = tuple[int, int, int, int]


def filter_of(version: int, spis: tuple[int, ...]) -> bytes:
    """The program that takes whole packets of this IP version which carry ESP, AH or ESP in UDP with one of
    the SPIs. They begin with their IP header."""
    if not spis:
        return _INSTRUCTION.pack(_RETURN, 0, 0, 0)
    compare: list[_Instruction] = []
    for number, spi in enumerate(spis):
        to_accept = 2 * (len(spis) - number) - 1
        # A jump that depends on something spans 255 instructions at most: two for each SPI.
        compare += [(_IF_EQUAL, 0, 1, spi), (_JUMP, 0, 0, to_accept)]
    compare += [(_RETURN, 0, 0, 0), (_RETURN, 0, 0, 0xFFFF_FFFF)]
    by_protocol: list[_Instruction] = [
        (_IF_EQUAL, 0, 2, ESP),
        (_LOAD_WORD_X, 0, 0, 0),
        (_JUMP, 0, 0, 9),
        (_IF_EQUAL, 0, 2, AH),
        (_LOAD_WORD_X, 0, 0, 4),
        (_JUMP, 0, 0, 6),
        (_IF_EQUAL, 0, 3, UDP),
        (_LOAD_HALF_X, 0, 0, 2),
        (_IF_EQUAL, 0, 1, NAT_TRAVERSAL_PORT),
        (_JUMP, 0, 0, 1),
        (_RETURN, 0, 0, 0),
        (_LOAD_WORD_X, 0, 0, 8),
    ]
    if version == 4:
        start = [
            (_LOAD_HALF, 0, 0, 6),
            (_IF_ANY_BIT, 0, 1, 0x3FFF),  # more fragments, or not the first
            (_RETURN, 0, 0, 0),
            (_X_HEADER_LENGTH, 0, 0, 0),
            (_LOAD_BYTE, 0, 0, 9),
        ]
    else:
        start = [(_X_CONSTANT, 0, 0, 40), (_LOAD_BYTE, 0, 0, 6)]
    return b"".join(_INSTRUCTION.pack(*one) for one in (*start, *by_protocol, *compare))


def spi_of(packet: bytes) -> bytes:
    """Of a packet that the filter took; nothing where it is too short for one."""
    version_4 = packet[:1] >= b"\x40" and packet[0] >> 4 == 4
    start, protocol = ((packet[0] & 15) * 4, packet[9:10]) if version_4 else (40, packet[6:7])
    start += {ESP: 0, AH: 4, UDP: 8}.get(int.from_bytes(protocol), LONGEST)
    spi = packet[start : start + 4]
    return spi if len(spi) == 4 else b""


class PacketsAhead:
    """Of one network namespace. Nothing here raises: what cannot be had is not waited for."""

    def __init__(self) -> None:
        self._expected: OrderedDict[bytes, tuple[int, float]] = OrderedDict()
        self._taking: dict[int, socket.socket] = {}
        self._kept = EarlyPackets(lambda: None)
        self._used = 0.0

    def expect(self, spi: int, version: int, now: float) -> None:
        """Take what comes under this SPI from now on."""
        self._expected[spi.to_bytes(4)] = version, now
        if len(self._expected) > EXPECTED:
            self._expected.popitem(last=False)
        self._used = now
        with suppress(OSError):
            if version not in self._taking:
                self._taking[version] = _open(version)
            self._choose(version)

    def release(self, *spis: int) -> None:
        """The SAs are in the kernel: let what came before them go the way again."""
        keys = [spi.to_bytes(4) for spi in spis]
        expected = [key for key in keys if key in self._expected]
        if not expected:
            return
        self._read()
        for key in expected:
            del self._expected[key]
            packets = self._kept.take(key)
            with suppress(OSError):
                _send(packets)

    def look(self, now: float) -> None:
        """Give up what waited for too long; to be called every second or so."""
        if not self._taking:
            return
        self._read()
        self._kept.expire(now)
        for key in [key for key, (_, since) in self._expected.items() if now - since >= SECONDS]:
            del self._expected[key]
        if not self._expected and now - self._used >= SPARE_SECONDS:
            self.close()

    def close(self) -> None:
        self._expected.clear()
        if self._taking:
            # The kernel waits until no processor is in the filter any more: not in the way of anybody.
            threading.Thread(target=_close, args=(list(self._taking.values()),), daemon=True).start()
            self._taking.clear()

    def _choose(self, version: int) -> None:
        spis = tuple(int.from_bytes(key) for key, (one, _) in self._expected.items() if one == version)
        _attach(self._taking[version], filter_of(version, spis))

    def _read(self) -> None:
        now = time.monotonic()
        for taking in self._taking.values():
            for _ in range(_BATCH):
                try:
                    packet, sender = taking.recvfrom(LONGEST)
                except OSError:
                    break
                key = spi_of(packet)
                if sender[2] == _TO_THIS_HOST and key in self._expected:
                    self._kept.add(key, packet, now)


def _attach(target: socket.socket, program: bytes) -> None:
    buffer = ctypes.create_string_buffer(program, len(program))  # the kernel copies it
    header = struct.pack("@HP", len(program) // _INSTRUCTION.size, ctypes.addressof(buffer))
    target.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, header)


def _close(sockets: list[socket.socket]) -> None:
    for one in sockets:
        one.close()


def _open(version: int) -> socket.socket:
    """What it takes before it has a filter is left aside when it is read."""
    kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    taking = socket.socket(socket.AF_PACKET, kind, socket.htons(_LINK_TYPES[version]))
    try:
        _attach(taking, filter_of(version, ()))
        with suppress(OSError):
            taking.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    except OSError:
        taking.close()
        raise
    return taking


def _send(packets: list[bytes]) -> None:
    """Whole packets to this host itself, as they came."""
    by_version: dict[int, list[bytes]] = {}
    for packet in packets:
        by_version.setdefault(packet[0] >> 4, []).append(packet)
    for version, some in by_version.items():
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW) as sending:
            bypass_socket(sending)
            for packet in some:
                target = packet[16:20] if version == 4 else packet[24:40]
                with suppress(OSError):
                    sending.sendto(packet, (str(ip_address(target)), 0))
