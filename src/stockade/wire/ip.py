"""IPv4 and IPv6 headers (RFC 791, RFC 8200) and what a packet's flow is. TCP, UDP and ICMP: `wire.transport`.

`parse_packet` walks options and extension headers up to the protocol that a filter names. It trusts nothing:
a header that a stack behind us could read differently from us is an error, because a filter decides on what
we read. Bytes behind the packet's own length (padding of the link) are not part of it. Left out: jumbograms.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from struct import Struct

from stockade.model.addresses import Address
from stockade.model.reasons import ReasonCode, StockadeError, error_for
from stockade.model.traffic import AH, ESP, ICMP, ICMPV6, PROTOCOLS_WITH_PORTS, SCTP, TCP, UDP, Flow
from stockade.wire.checksum import internet_checksum

__all__ = [
    "AH",
    "ESP",
    "ICMP",
    "ICMPV6",
    "SCTP",
    "TCP",
    "UDP",
    "IpPacket",
    "build_packet",
    "flow_of",
    "flow_of_packet",
    "ipv4_checksum_is_right",
    "parse_packet",
    "replace_payload",
]

IPV4_HEADER_SIZE = 20
IPV6_HEADER_SIZE = 40
MAXIMUM_PACKET = 65535
MAXIMUM_EXTENSION_HEADERS = 8

HOP_BY_HOP, ROUTING, FRAGMENT, NO_NEXT_HEADER, DESTINATION_OPTIONS = 0, 43, 44, 59, 60

_IPV4 = Struct("!BBHHHBBH4s4s")
_IPV6 = Struct("!IHBB16s16s")
_DONT_FRAGMENT = 0x4000
_MORE_FRAGMENTS = 0x2000
_TINY_FRAGMENT_OFFSET = 8


@dataclass(frozen=True, slots=True)
class IpPacket:
    """What the headers of one IP packet say. Offsets and lengths in bytes from the packet's first byte.

    `header_length`: the IPv4 header with its options; for IPv6 the fixed 40 bytes. `payload_offset`: where
    `protocol`'s own header begins, behind all IPv6 extension headers. `protocol_offset`: the byte that names
    `protocol`. `total_length`: the whole packet without what the link appended. `fragment_offset`: of the
    payload in the original one; `identification` is 0 for IPv6 without a fragment header.
    """

    version: int
    source: Address
    destination: Address
    protocol: int
    header_length: int
    payload_offset: int
    protocol_offset: int
    total_length: int
    hop_limit: int
    traffic_class: int
    identification: int = 0
    flow_label: int = 0
    fragment_offset: int = 0
    more_fragments: bool = False
    dont_fragment: bool = False

    @property
    def is_fragment(self) -> bool:
        return self.more_fragments or self.fragment_offset > 0

    @property
    def payload_length(self) -> int:
        return self.total_length - self.payload_offset


def _malformed(detail: str, offset: int) -> StockadeError:
    return error_for(ReasonCode.MALFORMED_PACKET, detail, offset=offset)


def parse_packet(data: bytes) -> IpPacket:
    """The headers of the IPv4 or IPv6 packet at the start of `data`. `PeerError` MALFORMED_PACKET otherwise.
    The IPv4 header checksum is not looked at (`ipv4_checksum_is_right`)."""
    if not data:
        raise _malformed("IP header: an empty packet", 0)
    version = data[0] >> 4
    if version == 4:
        return _parse_ipv4(data)
    if version == 6:
        return _parse_ipv6(data)
    raise _malformed(f"IP header: version {version}, 4 or 6 expected", 0)


def _parse_ipv4(data: bytes) -> IpPacket:
    if len(data) < IPV4_HEADER_SIZE:
        raise _malformed(f"IPv4 header: {IPV4_HEADER_SIZE} bytes expected, {len(data)} left", 0)
    first, tos, total, identification, fragment, ttl, protocol, _, source, destination = _IPV4.unpack_from(
        data
    )
    header_length = (first & 0xF) * 4
    if header_length < IPV4_HEADER_SIZE:
        raise _malformed(f"IPv4 header: a header of {header_length} bytes, at least 20 expected", 0)
    if not header_length <= total <= len(data):
        raise _malformed(f"IPv4 header: total length {total}, {header_length} to {len(data)} expected", 2)
    if header_length > IPV4_HEADER_SIZE:
        _check_ipv4_options(data, header_length)
    fragment_offset = (fragment & 0x1FFF) * 8
    if fragment_offset + total - header_length > MAXIMUM_PACKET:
        raise _malformed("IPv4 header: the fragment ends behind 65535 bytes", 6)
    return IpPacket(
        version=4,
        source=IPv4Address(source),
        destination=IPv4Address(destination),
        protocol=protocol,
        header_length=header_length,
        payload_offset=header_length,
        protocol_offset=9,
        total_length=total,
        hop_limit=ttl,
        traffic_class=tos,
        identification=identification,
        fragment_offset=fragment_offset,
        more_fragments=bool(fragment & _MORE_FRAGMENTS),
        dont_fragment=bool(fragment & _DONT_FRAGMENT),
    )


def _check_ipv4_options(data: bytes, header_length: int) -> None:
    position = IPV4_HEADER_SIZE
    while position < header_length:
        kind = data[position]
        if kind == 0:  # end of options: the rest is padding
            return
        if kind == 1:  # no operation
            position += 1
            continue
        size = data[position + 1] if position + 1 < header_length else 0
        if size < 2 or position + size > header_length:
            raise _malformed(f"IPv4 option {kind}: length {size} does not fit", position)
        position += size


def _parse_ipv6(data: bytes) -> IpPacket:
    if len(data) < IPV6_HEADER_SIZE:
        raise _malformed(f"IPv6 header: {IPV6_HEADER_SIZE} bytes expected, {len(data)} left", 0)
    first, payload_length, protocol, hop_limit, source, destination = _IPV6.unpack_from(data)
    total = IPV6_HEADER_SIZE + payload_length
    if total > len(data):
        raise _malformed(
            f"IPv6 header: payload length {payload_length}, at most {len(data) - IPV6_HEADER_SIZE} expected",
            4,
        )
    position, protocol_offset = IPV6_HEADER_SIZE, 6
    identification, fragment_offset, more_fragments, fragmented = 0, 0, False, False
    for count in range(MAXIMUM_EXTENSION_HEADERS + 1):
        if protocol not in (HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS) or fragment_offset:
            break
        if count == MAXIMUM_EXTENSION_HEADERS:
            raise _malformed(f"IPv6: more than {MAXIMUM_EXTENSION_HEADERS} extension headers", position)
        if position + 8 > total:
            raise _malformed(
                f"IPv6 extension header {protocol}: 8 bytes expected, {total - position} left", position
            )
        if protocol == FRAGMENT:
            if fragmented:
                raise _malformed("IPv6: two fragment headers", position)
            fragmented = True
            size = 8
            word = int.from_bytes(data[position + 2 : position + 4], "big")
            fragment_offset, more_fragments = word & 0xFFF8, bool(word & 1)
            identification = int.from_bytes(data[position + 4 : position + 8], "big")
        else:
            if protocol == HOP_BY_HOP and count:
                raise _malformed("IPv6: hop-by-hop options behind another extension header", position)
            size = 8 + data[position + 1] * 8
            if position + size > total:
                raise _malformed(
                    f"IPv6 extension header {protocol}: {size} bytes expected, {total - position} left",
                    position,
                )
            if protocol == ROUTING and data[position + 3]:
                # The destination in the fixed header is not where the packet ends, so no filter fits it
                # (RFC 5095 forbids type 0 for that).
                raise _malformed("IPv6 routing header: segments left", position + 3)
        protocol, protocol_offset = data[position], position
        position += size
    if fragment_offset + total - position > MAXIMUM_PACKET:
        raise _malformed("IPv6: the fragment ends behind 65535 bytes", position)
    return IpPacket(
        version=6,
        source=IPv6Address(source),
        destination=IPv6Address(destination),
        protocol=protocol,
        header_length=IPV6_HEADER_SIZE,
        payload_offset=position,
        protocol_offset=protocol_offset,
        total_length=total,
        hop_limit=hop_limit,
        traffic_class=(first >> 20) & 0xFF,
        identification=identification,
        flow_label=first & 0xFFFFF,
        fragment_offset=fragment_offset,
        more_fragments=more_fragments,
        dont_fragment=True,
    )


def flow_of(data: bytes) -> Flow:
    """The flow of an IP packet, for filters. Ports are those of protocols that have them; 0 in a later
    fragment (whose protocol, for IPv6, may be that of an extension header in the first fragment).

    `PeerError` MALFORMED_PACKET as `parse_packet`, and where a packet is too short for its ports, or a
    TCP fragment begins behind the first 8 bytes (RFC 1858 §3: it could rewrite the flags).
    """
    return flow_of_packet(parse_packet(data), data)


def flow_of_packet(packet: IpPacket, data: bytes) -> Flow:
    """As `flow_of`, for a packet that is parsed already."""
    protocol, start = packet.protocol, packet.payload_offset
    if protocol not in PROTOCOLS_WITH_PORTS:
        return Flow(packet.source, packet.destination, protocol)
    if packet.fragment_offset:
        if protocol == TCP and packet.fragment_offset == _TINY_FRAGMENT_OFFSET:
            raise _malformed("TCP: a fragment begins inside the TCP header", start)
        return Flow(packet.source, packet.destination, protocol)
    if packet.payload_length < 4:
        raise _malformed(
            f"protocol {protocol}: 4 bytes of ports expected, {packet.payload_length} left", start
        )
    return Flow(
        packet.source,
        packet.destination,
        protocol,
        int.from_bytes(data[start : start + 2], "big"),
        int.from_bytes(data[start + 2 : start + 4], "big"),
    )


def ipv4_checksum_is_right(data: bytes) -> bool:
    """Whether the IPv4 header at the start of `data` (parsed before) has the right checksum."""
    return internet_checksum(data[: (data[0] & 0xF) * 4]) == 0


def build_packet(
    source: Address,
    destination: Address,
    protocol: int,
    payload: bytes,
    *,
    hop_limit: int = 64,
    traffic_class: int = 0,
    identification: int = 0,
    flow_label: int = 0,
    dont_fragment: bool = True,
    more_fragments: bool = False,
    fragment_offset: int = 0,
    options: bytes = b"",
) -> bytes:
    """A packet with `payload` behind its header. Raises `ValueError` for what the header cannot say.

    IPv4: `options` (a multiple of 4 bytes, at most 40) follow the header. IPv6: `options` are extension
    headers, `protocol` names the first of them; fragments and identification are theirs, not this header's.
    """
    if source.version != destination.version:
        raise ValueError(f"{source} -> {destination} mixes IPv4 and IPv6")
    for value, limit in ((protocol, 0xFF), (hop_limit, 0xFF), (traffic_class, 0xFF)):
        if not 0 <= value <= limit:
            raise ValueError(f"header field {value} is outside 0–{limit}")
    if source.version == 6:
        if more_fragments or fragment_offset or identification:
            raise ValueError("IPv6 fragments need an extension header")
        size = len(options) + len(payload)
        if size > MAXIMUM_PACKET or not 0 <= flow_label <= 0xFFFFF:
            raise ValueError(f"IPv6 payload of {size} bytes or flow label {flow_label} is too large")
        first = 6 << 28 | traffic_class << 20 | flow_label
        header = _IPV6.pack(first, size, protocol, hop_limit, source.packed, destination.packed)
        return header + options + payload
    if len(options) % 4 or len(options) > 40:
        raise ValueError(f"IPv4 options of {len(options)} bytes, a multiple of 4 up to 40 expected")
    if fragment_offset % 8 or not 0 <= fragment_offset <= 0xFFF8:
        raise ValueError(f"fragment offset {fragment_offset}, a multiple of 8 up to 65528 expected")
    header_length = IPV4_HEADER_SIZE + len(options)
    total = header_length + len(payload)
    if total > MAXIMUM_PACKET or not 0 <= identification <= 0xFFFF:
        raise ValueError(f"IPv4 packet of {total} bytes or identification {identification} is too large")
    fragment = fragment_offset // 8
    fragment |= (_DONT_FRAGMENT if dont_fragment else 0) | (_MORE_FRAGMENTS if more_fragments else 0)
    fields = (0x40 | header_length // 4, traffic_class, total, identification, fragment, hop_limit, protocol)
    addresses = (source.packed, destination.packed)
    checksum = internet_checksum(_IPV4.pack(*fields, 0, *addresses), options)
    return _IPV4.pack(*fields, checksum, *addresses) + options + payload


def replace_payload(packet: IpPacket, data: bytes, protocol: int, payload: bytes) -> bytes:
    """The same packet carrying another protocol: options, extension headers, addresses and identification
    stay; protocol, length and the IPv4 checksum are new (ESP in transport mode, RFC 4303 §3.1.1). Raises
    `ValueError` where it becomes longer than 65535 bytes."""
    header = bytearray(data[: packet.payload_offset])
    header[packet.protocol_offset] = protocol
    if packet.version == 4:
        total = len(header) + len(payload)
        if total > MAXIMUM_PACKET:
            raise ValueError(f"IPv4 packet of {total} bytes is too long")
        header[2:4] = total.to_bytes(2, "big")
        header[10:12] = b"\0\0"
        header[10:12] = internet_checksum(bytes(header)).to_bytes(2, "big")
    else:
        size = len(header) - IPV6_HEADER_SIZE + len(payload)
        if size > MAXIMUM_PACKET:
            raise ValueError(f"IPv6 payload of {size} bytes is too long")
        header[4:6] = size.to_bytes(2, "big")
    return bytes(header) + payload
