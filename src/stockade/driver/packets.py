"""What the packet path does to IP packets, fast: flow keys, checksums, TCP segments cut and joined, ICMP.

These functions see millions of packets, so they work on slices of bytes and not on the objects of `wire/`
(which read what is rare: IPv6 extension headers). They take packets that `locate` has passed; `at` is where
the upper layer's header begins, as `locate` says. Checksums (RFC 1071) use that 2**16 ≡ 1 modulo 65535: the
one's complement sum of a string is the string as one big integer, modulo 65535, which Python computes in C.
"""

import os
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address
from struct import Struct
from typing import Final

from stockade.model.addresses import Address
from stockade.model.reasons import PeerError
from stockade.model.traffic import PROTOCOLS_WITH_PORTS
from stockade.wire.ip import DESTINATION_OPTIONS, FRAGMENT, HOP_BY_HOP, ROUTING, parse_packet

TCP: Final = 6
UDP: Final = 17
ESP: Final = 50
UDP_HEADER: Final = 8
MINIMUM_HEADER: Final = 20
IPV6_HEADER: Final = 40
SMALLEST_IPV6_MTU: Final = 1280
"""What every IPv6 link takes (RFC 8200 §5)."""

EXTENSION_HEADERS: Final = frozenset({HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS})

_SHORT = Struct(">H")
_TWO_SHORTS = Struct(">HH")
_PROTOCOL_AND_CHECKSUM = Struct(">BH")
_TCP_START = Struct(">4sI5sB2sH")  # ports, sequence, acknowledgement and offset, flags, window, checksum

_SYN_URG: Final = 0x22

_FIN_PSH: Final = 0x09
_CWR: Final = 0x80
DONT_FRAGMENT: Final = 0x40


def locate(packet: bytes) -> tuple[int, int] | None:
    """(offset, protocol) of the upper layer's header in a whole IPv4 or IPv6 packet that is exactly as long
    as it says. None for anything else, fragments included. IPv6 extension headers count as part of the
    header."""
    if len(packet) < MINIMUM_HEADER:
        return None
    first = packet[0]
    if first >> 4 == 4:
        header = (first & 15) * 4
        if (
            not MINIMUM_HEADER <= header <= len(packet) == packet[2] << 8 | packet[3]
            or packet[6] & 0x3F
            or packet[7]
        ):
            return None
        return header, packet[9]
    if (
        first >> 4 != 6
        or len(packet) < IPV6_HEADER
        or len(packet) != IPV6_HEADER + (packet[4] << 8 | packet[5])
    ):
        return None
    if packet[6] not in EXTENSION_HEADERS:
        return IPV6_HEADER, packet[6]
    try:
        parsed = parse_packet(packet)
    except PeerError:
        return None
    return None if parsed.is_fragment else (parsed.payload_offset, parsed.protocol)


def addresses_of(packet: bytes) -> tuple[Address, Address]:
    """(source, destination) of a packet whose header is whole."""
    if packet[0] >> 4 == 4:
        return IPv4Address(packet[12:16]), IPv4Address(packet[16:20])
    return IPv6Address(packet[8:24]), IPv6Address(packet[24:40])


def flow_key(packet: bytes, at: int, protocol: int) -> bytes:
    """Protocol, addresses and ports: equal exactly for packets of the same flow. Ports are missing where the
    protocol has none or the packet is too short for them. The families differ in length."""
    if packet[0] >> 4 == 4:
        if protocol not in PROTOCOLS_WITH_PORTS:
            return packet[9:10] + packet[12:20]
        if at == MINIMUM_HEADER:
            return packet[9:10] + packet[12:24]
        return packet[9:10] + packet[12:20] + packet[at : at + 4]
    if protocol not in PROTOCOLS_WITH_PORTS:
        return bytes((protocol,)) + packet[8:40]
    return bytes((protocol,)) + packet[8:40] + packet[at : at + 4]


def is_neighbour_discovery(packet: bytes) -> bool:
    """ICMPv6 133-137 with hop limit 255: from a neighbour, for no router forwards it unchanged (RFC 4861
    §11.2). It must work before the first IKE message can be sent, so no filter is asked about it."""
    return (
        len(packet) > IPV6_HEADER
        and packet[0] >> 4 == 6
        and packet[6] == 58
        and packet[7] == 255
        and 133 <= packet[IPV6_HEADER] <= 137
    )


def ones_complement_sum(data: bytes) -> int:
    """The one's complement sum of RFC 1071, 0–65534 (65535 comes out as its equal 0)."""
    value = int.from_bytes(data, "big")
    return (value << 8 if len(data) & 1 else value) % 65535


def checksum(data: bytes) -> int:
    """The Internet checksum over `data` (with its own field zero)."""
    return (65535 - ones_complement_sum(data)) % 65535


def with_payload(header: bytes, protocol: int, payload_length: int) -> bytes:
    """An IPv4 header for another payload: protocol, total length and checksum renewed."""
    start = header[:2] + _SHORT.pack(len(header) + payload_length) + header[4:9] + bytes((protocol,))
    value = 65535 - int.from_bytes(start + header[12:], "big") % 65535
    return start + _SHORT.pack(value % 65535) + header[12:]


def exchange_payload(packet: bytes, at: int, protocol: int, payload: bytes) -> bytes:
    """The packet with another payload behind its header of `at` bytes. The checksum of an IPv4 header is
    updated, not made anew (RFC 1624), so a wrong one stays wrong; protocol and length are in the sum as they
    are in the packet."""
    if packet[0] >> 4 != 4:
        return with_header(packet, at, protocol, (payload,))[0]
    total = at + len(payload)
    value = (packet[10] << 8 | packet[11]) + (packet[2] << 8 | packet[3]) + packet[9] - total - protocol
    return b"".join(
        (
            packet[:2],
            _SHORT.pack(total),
            packet[4:9],
            _PROTOCOL_AND_CHECKSUM.pack(protocol, value % 65535),
            packet[12:at],
            payload,
        )
    )


def with_header(packet: bytes, header: int, protocol: int, payloads: Sequence[bytes]) -> list[bytes]:
    """Packets of these payloads with the header of `packet` (of `header` bytes), its protocol exchanged; IPv4
    identifications counted up from its own."""
    if packet[0] >> 4 != 4:
        return _with_ipv6_header(packet, header, protocol, payloads)
    start, middle, end = packet[:2], packet[6:9] + bytes((protocol,)), packet[12:header]
    fixed = int.from_bytes(start + middle + end, "big") % 65535
    identification = packet[4] << 8 | packet[5]
    pack, pack_short = _TWO_SHORTS.pack, _SHORT.pack
    packets = []
    for payload in payloads:
        total = header + len(payload)
        packets.append(
            b"".join(
                (
                    start,
                    pack(total, identification),
                    middle,
                    pack_short((65535 - (fixed + total + identification) % 65535) % 65535),
                    end,
                    payload,
                )
            )
        )
        identification = (identification + 1) & 0xFFFF
    return packets


def _with_ipv6_header(packet: bytes, header: int, protocol: int, payloads: Sequence[bytes]) -> list[bytes]:
    where = 6 if header == IPV6_HEADER else parse_packet(packet).protocol_offset
    end = packet[6:where] + bytes((protocol,)) + packet[where + 1 : header]
    extensions = header - IPV6_HEADER
    start, pack = packet[:4], _SHORT.pack
    return [b"".join((start, pack(extensions + len(payload)), end, payload)) for payload in payloads]


def fragment(packet: bytes, mtu: int) -> list[bytes]:
    """The fragments of a whole packet that is longer than `mtu` (RFC 791 §3.2, RFC 8200 §4.5). IPv4 options
    and IPv6 extension headers stand in each of them. The packet alone where it fits or cannot be cut."""
    place = locate(packet)
    if place is None or len(packet) <= mtu:
        return [packet]
    at, protocol = place
    if packet[0] >> 4 == 4:
        size = (mtu - at) & ~7
        # 0 would be exchanged by the kernel, piece by piece.
        identification = packet[4:6] if packet[4:6] != b"\0\0" else b"\0\1"
        header = packet[:4] + identification
    else:
        size = (mtu - at - 8) & ~7
        identification = os.urandom(4)
    if size <= 0:
        return [packet]
    pieces = []
    for start in range(at, len(packet), size):
        payload = packet[start : start + size]
        more = start + size < len(packet)
        if packet[0] >> 4 == 4:
            flags = _SHORT.pack((start - at) >> 3 | 0x2000 * more)
            pieces.append(with_payload(header + flags + packet[8:at], protocol, len(payload)) + payload)
        else:
            extension = bytes((protocol, 0)) + _SHORT.pack(start - at | more) + identification
            pieces += with_header(packet, at, FRAGMENT, (extension + payload,))
    return pieces


def in_udp(payloads: Sequence[bytes], source_port: int, destination_port: int) -> list[bytes]:
    """ESP packets as UDP datagrams (RFC 3948 §2.1). The checksum is 0, as that section wants it, over IPv6
    too (RFC 6935 allows it for tunnels, and ESP has its own integrity)."""
    ports, pack = _TWO_SHORTS.pack(source_port, destination_port), _SHORT.pack
    return [b"".join((ports, pack(UDP_HEADER + len(payload)), b"\0\0", payload)) for payload in payloads]


def out_of_udp(packet: bytes, at: int) -> bytes | None:
    """A packet with ESP in UDP as one with bare ESP; None where there is no ESP in it (IKE has four zero
    bytes in the SPI's place, RFC 3948 §2.2; a keepalive is one byte)."""
    size = len(packet) - at
    if size < UDP_HEADER + 8 or packet[at + 4] << 8 | packet[at + 5] != size:
        return None
    esp = at + UDP_HEADER
    if packet[esp : esp + 4] == b"\0\0\0\0":
        return None
    return exchange_payload(packet, at, ESP, packet[esp:])


def big_sum(data: bytes) -> int:
    """`ones_complement_sum` of a long string of even length. Folding halves is cheaper than dividing the
    whole."""
    value = int.from_bytes(data, "big")
    bits = len(data) * 8
    while bits > 1024:
        bits = (bits // 2 + 15) & ~15
        value = (value >> bits) + (value & ((1 << bits) - 1))
    return value % 65535


_array_sums: "Callable[[bytes, int, int, int], list[int]] | None" = None


def load_accelerator() -> bool:
    """Use NumPy, where it is installed, for the checksums of cut packets: five times as fast. Takes a fifth
    of a second, so it is not done at import; may run in a thread. False where there is none."""
    global _array_sums
    try:
        import numpy
    except ImportError:
        return False

    def sums(packet: bytes, start: int, size: int, count: int) -> list[int]:
        words = numpy.frombuffer(packet, dtype="<u4", count=size // 4 * count, offset=start)
        totals: list[int] = words.reshape(count, size // 4).sum(axis=1, dtype=numpy.uint64).tolist()
        # The one's complement sum does not care about byte order until the end (RFC 1071 §2 B).
        return [(value % 65535 & 0xFF) << 8 | value % 65535 >> 8 for value in totals]

    _array_sums = sums
    return True


def segment_tcp(packet: bytes, largest: int, at: int) -> list[bytes] | None:
    """Cut an oversize TCP packet (as TSO hands it over) into TCP segments of at most `largest` bytes each,
    header included, with their checksums. None where that cannot be done (header broken, no room, SYN, urgent
    data).

    Sequence numbers run on, FIN and PSH stand on the last segment only, CWR on the first (RFC 3168
    §6.1.2)."""
    if len(packet) < at + 20:
        return None
    tcp_header = (packet[at + 12] >> 4) * 4
    flags = packet[at + 13]
    size = (largest - tcp_header) & ~3
    if tcp_header < 20 or len(packet) < at + tcp_header or size < 8 or flags & _SYN_URG:
        return None
    ports, sequence = packet[at : at + 4], int.from_bytes(packet[at + 4 : at + 8], "big")
    acknowledgement = packet[at + 8 : at + 13]  # and the data offset
    window = packet[at + 14 : at + 16]
    rest = packet[at + 18 : at + tcp_header]  # urgent pointer and options
    addresses = packet[12:20] if packet[0] >> 4 == 4 else packet[8:40]
    fixed = int.from_bytes(addresses + ports + window + rest + acknowledgement[:4], "big") % 65535
    fixed += TCP + tcp_header + (acknowledgement[4] << 8)
    start, end = at + tcp_header, len(packet)
    whole = (end - start) // size
    if _array_sums is not None and whole:
        sums = _array_sums(packet, start, size, whole)
    else:
        sums = [big_sum(packet[start + size * n : start + size * (n + 1)]) for n in range(whole)]
    if start + size * whole < end:
        sums.append(ones_complement_sum(packet[start + size * whole :]))
    middle = flags & ~(_FIN_PSH | _CWR)
    pack = _TCP_START.pack
    segments = []
    position = start
    for value in sums:
        after = position + size
        now = middle
        if position == start:
            now |= flags & _CWR
        if after >= end:
            now |= flags & _FIN_PSH
            after = end
        total = (fixed + sequence + now + after - position + value) % 65535
        segments.append(
            pack(ports, sequence, acknowledgement, now, window, (65535 - total) % 65535)
            + rest
            + packet[position:after]
        )
        sequence = (sequence + size) & 0xFFFF_FFFF
        position = after
    return segments


def too_big(packet: bytes, mtu: int) -> bytes:
    """The ICMP message that tells the packet's sender what fits, as if from its destination: a local address
    as the source would be refused as a martian. IPv4: type 3 code 4 (RFC 1191 §4); IPv6: type 2 (RFC 4443
    §3.2), `mtu` at least 1280."""
    if packet[0] >> 4 == 4:
        quoted = packet[: min(len(packet), 548)]
        icmp = b"\x03\x04\x00\x00\x00\x00" + _SHORT.pack(mtu) + quoted
        icmp = icmp[:2] + _SHORT.pack(checksum(icmp)) + icmp[4:]
        header = b"\x45\xc0\x00\x00\x00\x00\x40\x00\x40\x01\x00\x00" + packet[16:20] + packet[12:16]
        return with_payload(header, 1, len(icmp)) + icmp
    quoted = packet[: min(len(packet), SMALLEST_IPV6_MTU - IPV6_HEADER - 8)]
    icmp = b"\x02\x00\x00\x00" + mtu.to_bytes(4, "big") + quoted
    header = b"\x60\x00\x00\x00" + _SHORT.pack(len(icmp)) + b"\x3a\x40" + packet[24:40] + packet[8:24]
    value = checksum(header[8:40] + len(icmp).to_bytes(4, "big") + b"\x00\x00\x00\x3a" + icmp)
    return header + icmp[:2] + _SHORT.pack(value) + icmp[4:]
