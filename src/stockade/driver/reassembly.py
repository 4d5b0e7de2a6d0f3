"""Fragments put together before IPsec looks at them (RFC 791 §3.2, RFC 8200 §4.5): transport mode secures
whole datagrams (RFC 4303 §3.3.4), and only a whole one has the ports that filters ask for.

Bounded in datagrams, in bytes and in age. Fragments that overlap end their datagram, with those of its
fragments that are still to come (RFC 5722 §4, and for IPv4 just the same: no honest sender makes them, and
whoever reads them otherwise than we could be fooled). However small the fragments (RFC 1858), filters see
nothing but the whole datagram.
"""

from collections import OrderedDict
from typing import Final

from stockade.driver.packets import IPV6_HEADER, with_payload
from stockade.model.reasons import ReasonCode, error_for
from stockade.wire.ip import FRAGMENT, IpPacket, parse_packet

DATAGRAMS: Final = 64
PIECES: Final = 256
"""Fragments of one datagram; 65535 bytes in pieces of 256 bytes and more."""

BYTES: Final = 4 << 20
SECONDS: Final = 15.0


class _Datagram:
    __slots__ = ("began", "broken", "bytes", "end", "first", "pieces")

    def __init__(self, now: float) -> None:
        self.began = now
        self.broken = False
        self.bytes = 0
        self.end = -1
        self.first = b""
        self.pieces: dict[int, bytes] = {}


class Reassembled(bytes):
    """A datagram that came in fragments. Its header says that it may be fragmented again."""


class Reassembly:
    """Datagrams in the making. `dropped` counts those that were given up."""

    def __init__(self) -> None:
        self._datagrams: OrderedDict[bytes, _Datagram] = OrderedDict()
        self._bytes = 0
        self.dropped = 0

    def add(self, packet: bytes, now: float) -> Reassembled | None:
        """The datagram that this fragment completes, None while some are missing. `PeerError`
        (MALFORMED_PACKET) for what is no fragment, or not one of a datagram that could be."""
        parsed = parse_packet(packet)
        if not parsed.is_fragment or len(packet) != parsed.total_length:
            raise error_for(ReasonCode.MALFORMED_PACKET, "neither a whole packet nor a fragment")
        at = parsed.header_length if parsed.version == 4 else _behind_fragment_header(packet)
        payload, start = packet[at:], parsed.fragment_offset
        if not payload or (parsed.more_fragments and len(payload) % 8):
            raise error_for(ReasonCode.MALFORMED_PACKET, "a fragment that is empty or no multiple of 8 bytes")
        self._expire(now)
        key = _key(parsed, packet)
        datagram = self._datagrams.setdefault(key, _Datagram(now))
        if datagram.broken:
            raise error_for(ReasonCode.MALFORMED_PACKET, "a fragment of a datagram that was given up")
        end = start + len(payload)
        if datagram.pieces.get(start) == payload:  # the network doubled it
            return None
        overlaps = any(start < other + len(piece) and other < end for other, piece in datagram.pieces.items())
        too_far = datagram.end >= 0 and (end > datagram.end or not parsed.more_fragments)
        too_short = not parsed.more_fragments and any(other >= end for other in datagram.pieces)
        if overlaps or too_far or too_short or len(datagram.pieces) >= PIECES:
            self._break(datagram)
            raise error_for(ReasonCode.MALFORMED_PACKET, "fragments that overlap or do not fit together")
        datagram.pieces[start] = payload
        datagram.bytes += len(payload)
        self._bytes += len(payload)
        if not parsed.more_fragments:
            datagram.end = end
        if start == 0:
            datagram.first = packet[:at]
        if datagram.bytes != datagram.end:
            while len(self._datagrams) > DATAGRAMS or self._bytes > BYTES:
                self._drop(next(iter(self._datagrams)))
            return None
        self._forget(key)
        return _joined(datagram)

    def _expire(self, now: float) -> None:
        while self._datagrams:
            key, datagram = next(iter(self._datagrams.items()))
            if now - datagram.began < SECONDS:
                return
            self._drop(key)

    def _break(self, datagram: _Datagram) -> None:
        """Keep nothing of it but that the rest of it is not taken either, until it would have expired."""
        self.dropped += 1
        self._bytes -= datagram.bytes
        datagram.broken, datagram.bytes, datagram.first = True, 0, b""
        datagram.pieces.clear()

    def _drop(self, key: bytes) -> None:
        self.dropped += not self._datagrams[key].broken
        self._forget(key)

    def _forget(self, key: bytes) -> None:
        self._bytes -= self._datagrams.pop(key).bytes


def _key(parsed: IpPacket, packet: bytes) -> bytes:
    if parsed.version == 4:
        return packet[9:10] + packet[4:6] + packet[12:20]
    return parsed.identification.to_bytes(4, "big") + packet[8:40]


def _fragment_header(packet: bytes) -> tuple[int, int]:
    """Where the fragment header stands, and the byte that names it. `parse_packet` has found one."""
    named, at, protocol = 6, IPV6_HEADER, packet[6]
    while protocol != FRAGMENT:
        named, protocol, at = at, packet[at], at + 8 + packet[at + 1] * 8
    return at, named


def _behind_fragment_header(packet: bytes) -> int:
    return _fragment_header(packet)[0] + 8


def _joined(datagram: _Datagram) -> Reassembled:
    payload = b"".join(piece for _, piece in sorted(datagram.pieces.items()))
    first = datagram.first
    if len(first) + len(payload) > 65535:
        raise error_for(ReasonCode.MALFORMED_PACKET, "fragments of more than 65535 bytes")
    if first[0] >> 4 == 4:
        whole = first[:6] + b"\0\0" + first[8:]
        return Reassembled(with_payload(whole, first[9], len(payload)) + payload)
    at, named = _fragment_header(first)
    header = bytearray(first[:at])
    header[named] = first[at]
    header[4:6] = (at - IPV6_HEADER + len(payload)).to_bytes(2, "big")
    return Reassembled(bytes(header) + payload)
