"""What the packet path does to IPv4 packets, fast: flow keys, checksums, TCP segments cut and joined, ICMP.

These functions see millions of packets, so they work on slices of bytes and not on the objects of `wire/`.
They take packets that `is_plain_ipv4` has passed. Checksums (RFC 1071) use that 2**16 ≡ 1 modulo 65535: the
one's complement sum of a string is the string as one big integer, modulo 65535, which Python computes in C.
"""

from collections.abc import Callable, Sequence
from struct import Struct
from typing import Final

from stockade.model.traffic import PROTOCOLS_WITH_PORTS

TCP: Final = 6
ESP: Final = 50
MINIMUM_HEADER: Final = 20

_SHORT = Struct(">H")
_TWO_SHORTS = Struct(">HH")
_PROTOCOL_AND_CHECKSUM = Struct(">BH")
_TCP_START = Struct(">4sI5sB2sH")  # ports, sequence, acknowledgement and offset, flags, window, checksum

_SYN_URG: Final = 0x22

_FIN_PSH: Final = 0x09
_CWR: Final = 0x80
DONT_FRAGMENT: Final = 0x40


def is_plain_ipv4(packet: bytes) -> bool:
    """Whether this is a whole IPv4 packet with a sane header and exactly as long as it says; fragments are
    not."""
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
    """Protocol, addresses and ports: equal exactly for packets of the same flow. Ports are missing where the
    protocol has none or the packet is too short for them."""
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


def with_payload(header: bytes, protocol: int, payload_length: int) -> bytes:
    """An IPv4 header for another payload: protocol, total length and checksum renewed."""
    start = header[:2] + _SHORT.pack(len(header) + payload_length) + header[4:9] + bytes((protocol,))
    value = 65535 - int.from_bytes(start + header[12:], "big") % 65535
    return start + _SHORT.pack(value % 65535) + header[12:]


def exchange_payload(packet: bytes, header: int, protocol: int, payload: bytes) -> bytes:
    """The packet with another payload. Its checksum is updated, not made anew (RFC 1624), so a wrong one
    stays wrong. `header` is the header's length; protocol and length are in the sum as they are in the
    packet."""
    total = header + len(payload)
    value = (packet[10] << 8 | packet[11]) + (packet[2] << 8 | packet[3]) + packet[9] - total - protocol
    return b"".join(
        (
            packet[:2],
            _SHORT.pack(total),
            packet[4:9],
            _PROTOCOL_AND_CHECKSUM.pack(protocol, value % 65535),
            packet[12:header],
            payload,
        )
    )


def with_header(packet: bytes, header: int, protocol: int, payloads: Sequence[bytes]) -> list[bytes]:
    """Packets of these payloads with the header of `packet`, identifications counted up from its own."""
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


def segment_tcp(packet: bytes, largest: int) -> list[bytes] | None:
    """Cut an oversize TCP packet (as TSO hands it over) into TCP segments of at most `largest` bytes each,
    header included, with their checksums. None where that cannot be done (header broken, no room, SYN, urgent
    data).

    Sequence numbers run on, FIN and PSH stand on the last segment only, CWR on the first (RFC 3168
    §6.1.2)."""
    at = header_length(packet)
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
    fixed = int.from_bytes(packet[12:20] + ports + window + rest + acknowledgement[:4], "big") % 65535
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


def fragmentation_needed(packet: bytes, mtu: int) -> bytes:
    """ICMP type 3 code 4 (RFC 1191 §4) to the packet's sender, as if from its destination: a local address as
    the source would be refused as a martian."""
    quoted = packet[: min(len(packet), 548)]
    icmp = b"\x03\x04\x00\x00\x00\x00" + _SHORT.pack(mtu) + quoted
    icmp = icmp[:2] + _SHORT.pack(checksum(icmp)) + icmp[4:]
    header = b"\x45\xc0\x00\x00\x00\x00\x40\x00\x40\x01\x00\x00" + packet[16:20] + packet[12:16]
    return with_payload(header, 1, len(icmp)) + icmp
