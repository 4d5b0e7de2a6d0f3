"""What the packet path does to IPv4 packets, fast: flow keys, checksums, TCP segments cut and joined, ICMP.

These functions see millions of packets, so they work on slices of bytes and not on the objects of `wire/`. They take
packets that `is_plain_ipv4` has passed. Checksums (RFC 1071) use that 2**16 ≡ 1 modulo 65535: the one's complement
sum of a string is the string as one big integer, modulo 65535, which Python computes in C.
"""

from struct import Struct
from typing import Final

from stockade.model.traffic import PROTOCOLS_WITH_PORTS

TCP: Final = 6
ESP: Final = 50
MINIMUM_HEADER: Final = 20

_LENGTH_AND_FRAGMENT = Struct(
    ">HHHBB"
)  # bytes 2–9 of IPv4: total length, id, flags and offset, TTL, protocol
_SHORT = Struct(">H")
_LONG = Struct(">I")

_FIN_PSH: Final = 0x09
_CWR: Final = 0x80
DONT_FRAGMENT: Final = 0x40


def is_plain_ipv4(packet: bytes) -> bool:
    """Whether this is a whole IPv4 packet with a sane header and exactly as long as it says; fragments are not."""
    if len(packet) < MINIMUM_HEADER or packet[0] >> 4 != 4:
        return False
    header = (packet[0] & 15) * 4
    return (
        MINIMUM_HEADER <= header <= len(packet) == packet[2] << 8 | packet[3]
        and not packet[6] & 0x3F
        and not packet[7]
    )


def header_length(packet: bytes) -> int:
    return (packet[0] & 15) * 4


def flow_key(packet: bytes) -> bytes:
    """Protocol, addresses and ports: equal exactly for packets of the same flow. Ports are missing where the protocol
    has none or the packet is too short for them."""
    protocol = packet[9]
    if protocol not in PROTOCOLS_WITH_PORTS:
        return packet[9:10] + packet[12:20]
    if packet[0] == 0x45:
        return packet[9:10] + packet[12:24]
    header = (packet[0] & 15) * 4
    return packet[9:10] + packet[12:20] + packet[header : header + 4]


def ones_complement_sum(data: bytes) -> int:
    """The one's complement sum of RFC 1071, 0–65534 (65535 comes out as its equal 0)."""
    value = int.from_bytes(data, "big")
    return (value << 8 if len(data) & 1 else value) % 65535


def checksum(data: bytes) -> int:
    """The Internet checksum over `data` (with its own field zero)."""
    return (65535 - ones_complement_sum(data)) % 65535


def with_payload(
    header: bytes, protocol: int, payload_length: int, identification: int | None = None
) -> bytes:
    """An IPv4 header for another payload: protocol, total length, perhaps identification, and checksum renewed."""
    start = header[:2] + _SHORT.pack(len(header) + payload_length)
    start += header[4:6] if identification is None else _SHORT.pack(identification)
    start += header[6:9] + bytes((protocol,))
    end = header[12:]
    value = 65535 - int.from_bytes(start + end, "big") % 65535
    return start + _SHORT.pack(value % 65535) + end


def segment_tcp(packet: bytes, largest: int) -> list[bytes] | None:
    """Cut an oversize TCP packet (as TSO hands it over) into TCP segments of at most `largest` bytes each, header
    included, with their checksums. None where that cannot be done (header broken, no room, urgent data).

    Sequence numbers run on, FIN and PSH stand on the last segment only, CWR on the first (RFC 3168 §6.1.2)."""
    at = header_length(packet)
    if len(packet) < at + 20:
        return None
    tcp_header = (packet[at + 12] >> 4) * 4
    flags = packet[at + 13]
    size = (largest - tcp_header) & ~1  # even, so that only the last segment can have an odd checksum
    if (
        tcp_header < 20 or len(packet) < at + tcp_header or size < 8 or flags & 0x22
    ):  # SYN and URG are not cut
        return None
    ports = packet[at : at + 4]
    sequence = int.from_bytes(packet[at + 4 : at + 8], "big")
    acknowledgement = packet[at + 8 : at + 13]  # and the data offset
    window = packet[at + 14 : at + 16]
    rest = packet[at + 18 : at + tcp_header]  # urgent pointer and options
    fixed = int.from_bytes(packet[12:20] + ports + window + rest, "big") + TCP
    fixed += int.from_bytes(acknowledgement[:4], "big") + (acknowledgement[4] << 8) + tcp_header
    start, end = at + tcp_header, len(packet)
    middle = flags & ~(_FIN_PSH | _CWR)
    pack_long, pack_short, from_bytes = _LONG.pack, _SHORT.pack, int.from_bytes
    segments = []
    for position in range(start, end, size):
        data = packet[position : position + size]
        now = middle
        if position == start:
            now |= flags & _CWR
        if position + size >= end:
            now |= flags & _FIN_PSH
        value = from_bytes(data, "big")
        if len(data) & 1:
            value <<= 8
        total = (fixed + sequence + now + len(data) + value) % 65535
        segments.append(
            b"".join(
                (
                    ports,
                    pack_long(sequence),
                    acknowledgement,
                    bytes((now,)),
                    window,
                    pack_short((65535 - total) % 65535),
                    rest,
                    data,
                )
            )
        )
        sequence = (sequence + size) & 0xFFFF_FFFF
    return segments


def fragmentation_needed(packet: bytes, mtu: int) -> bytes:
    """ICMP type 3 code 4 (RFC 1191 §4) to the packet's sender, as if from its destination: a local address as the
    source would be refused as a martian."""
    quoted = packet[: min(len(packet), 548)]
    icmp = b"\x03\x04\x00\x00\x00\x00" + _SHORT.pack(mtu) + quoted
    icmp = icmp[:2] + _SHORT.pack(checksum(icmp)) + icmp[4:]
    header = b"\x45\xc0\x00\x00\x00\x00\x40\x00\x40\x01\x00\x00" + packet[16:20] + packet[12:16]
    return with_payload(header, 1, len(icmp)) + icmp
