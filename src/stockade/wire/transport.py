"""TCP, UDP, ICMP and ICMPv6 headers (RFC 9293 §3.1, 768, 792, 4443), and packets that carry them.

Decoders read one segment: the bytes from the protocol's own header to the end of the packet. `build_*` make
whole IP packets with right checksums, as tests, probes and the laboratory need them.
"""

from dataclasses import dataclass
from enum import IntFlag
from struct import Struct

from stockade.model.addresses import Address, Endpoint
from stockade.model.reasons import ReasonCode, StockadeError, error_for
from stockade.model.traffic import ICMP, ICMPV6, TCP, UDP
from stockade.wire.checksum import internet_checksum, transport_checksum
from stockade.wire.ip import build_packet

UDP_HEADER_SIZE = 8
TCP_HEADER_SIZE = 20
ICMP_HEADER_SIZE = 8

ICMP_ECHO_REQUEST, ICMP_ECHO_REPLY = 8, 0
ICMPV6_ECHO_REQUEST, ICMPV6_ECHO_REPLY = 128, 129

_UDP = Struct("!HHHH")
_TCP = Struct("!HHIIHHHH")
_ICMP = Struct("!BBHHH")


class TcpFlag(IntFlag):
    FIN = 1
    SYN = 2
    RST = 4
    PSH = 8
    ACK = 16
    URG = 32
    ECE = 64
    CWR = 128
    AE = 256


def _short(what: str, expected: int, found: int) -> StockadeError:
    return error_for(
        ReasonCode.MALFORMED_PACKET, f"{what}: {expected} bytes expected, {found} left", offset=0
    )


@dataclass(frozen=True, slots=True)
class UdpHeader:
    """`length` counts header and data (8–65535); a `checksum` of 0 means none (IPv4)."""

    source_port: int
    destination_port: int
    length: int
    checksum: int = 0

    def encode(self) -> bytes:
        return _UDP.pack(self.source_port, self.destination_port, self.length, self.checksum)


def decode_udp(segment: bytes) -> UdpHeader:
    """The UDP header of `segment`; the length must not exceed it. `PeerError` MALFORMED_PACKET."""
    if len(segment) < UDP_HEADER_SIZE:
        raise _short("UDP header", UDP_HEADER_SIZE, len(segment))
    header = UdpHeader(*_UDP.unpack_from(segment))
    if not UDP_HEADER_SIZE <= header.length <= len(segment):
        raise error_for(
            ReasonCode.MALFORMED_PACKET,
            f"UDP header: length {header.length}, 8 to {len(segment)} expected",
            offset=4,
        )
    return header


@dataclass(frozen=True, slots=True)
class TcpHeader:
    """`flags` as in `TcpFlag` (9 bits), `options` a multiple of 4 bytes, at most 40."""

    source_port: int
    destination_port: int
    sequence: int
    acknowledgement: int
    flags: int
    window: int
    checksum: int = 0
    urgent: int = 0
    options: bytes = b""

    def __post_init__(self) -> None:
        if len(self.options) % 4 or len(self.options) > 40:
            raise ValueError(f"TCP options of {len(self.options)} bytes, a multiple of 4 up to 40 expected")
        if not 0 <= self.flags <= 0x1FF:
            raise ValueError(f"TCP flags {self.flags:#x} are outside 9 bits")

    @property
    def header_length(self) -> int:
        return TCP_HEADER_SIZE + len(self.options)

    def encode(self) -> bytes:
        fixed = _TCP.pack(
            self.source_port,
            self.destination_port,
            self.sequence,
            self.acknowledgement,
            self.header_length // 4 << 12 | self.flags,
            self.window,
            self.checksum,
            self.urgent,
        )
        return fixed + self.options


def decode_tcp(segment: bytes) -> TcpHeader:
    """The TCP header of `segment`; reserved bits are ignored. `PeerError` MALFORMED_PACKET."""
    if len(segment) < TCP_HEADER_SIZE:
        raise _short("TCP header", TCP_HEADER_SIZE, len(segment))
    source, destination, sequence, acknowledgement, word, window, checksum, urgent = _TCP.unpack_from(segment)
    header_length = (word >> 12) * 4
    if not TCP_HEADER_SIZE <= header_length <= len(segment):
        raise error_for(
            ReasonCode.MALFORMED_PACKET,
            f"TCP header: a header of {header_length} bytes, 20 to {len(segment)} expected",
            offset=12,
        )
    options = bytes(segment[TCP_HEADER_SIZE:header_length])
    return TcpHeader(
        source, destination, sequence, acknowledgement, word & 0x1FF, window, checksum, urgent, options
    )


@dataclass(frozen=True, slots=True)
class IcmpHeader:
    """ICMP or ICMPv6. `identifier` and `sequence` are the second word, whatever the type calls it."""

    type: int
    code: int
    checksum: int = 0
    identifier: int = 0
    sequence: int = 0

    def encode(self) -> bytes:
        return _ICMP.pack(self.type, self.code, self.checksum, self.identifier, self.sequence)


def decode_icmp(segment: bytes) -> IcmpHeader:
    """The first 8 bytes of an ICMP or ICMPv6 message. `PeerError` MALFORMED_PACKET."""
    if len(segment) < ICMP_HEADER_SIZE:
        raise _short("ICMP header", ICMP_HEADER_SIZE, len(segment))
    return IcmpHeader(*_ICMP.unpack_from(segment))


def _with_checksum(
    source: Address, destination: Address, protocol: int, segment: bytes, offset: int
) -> bytes:
    if protocol == ICMP:
        checksum = internet_checksum(segment)
    else:
        checksum = transport_checksum(source, destination, protocol, segment)
    if protocol == UDP and not checksum:
        checksum = 0xFFFF  # 0 would say "no checksum" (RFC 768)
    return segment[:offset] + checksum.to_bytes(2, "big") + segment[offset + 2 :]


def build_udp(source: Endpoint, destination: Endpoint, payload: bytes, *, hop_limit: int = 64) -> bytes:
    """An IP packet with one UDP datagram."""
    header = UdpHeader(source.port, destination.port, UDP_HEADER_SIZE + len(payload)).encode()
    segment = _with_checksum(source.address, destination.address, UDP, header + payload, 6)
    return build_packet(source.address, destination.address, UDP, segment, hop_limit=hop_limit)


def build_tcp(
    source: Endpoint,
    destination: Endpoint,
    payload: bytes = b"",
    *,
    sequence: int = 0,
    acknowledgement: int = 0,
    flags: int = TcpFlag.ACK,
    window: int = 65535,
    options: bytes = b"",
    hop_limit: int = 64,
) -> bytes:
    """An IP packet with one TCP segment."""
    header = TcpHeader(
        source.port, destination.port, sequence, acknowledgement, flags, window, options=options
    ).encode()
    segment = _with_checksum(source.address, destination.address, TCP, header + payload, 16)
    return build_packet(source.address, destination.address, TCP, segment, hop_limit=hop_limit)


def build_echo(
    source: Address,
    destination: Address,
    *,
    identifier: int,
    sequence: int,
    payload: bytes = b"",
    reply: bool = False,
    hop_limit: int = 64,
) -> bytes:
    """An IP packet with an echo request or reply: ICMP over IPv4, ICMPv6 over IPv6."""
    if source.version == 4:
        protocol, kind = ICMP, ICMP_ECHO_REPLY if reply else ICMP_ECHO_REQUEST
    else:
        protocol, kind = ICMPV6, ICMPV6_ECHO_REPLY if reply else ICMPV6_ECHO_REQUEST
    header = IcmpHeader(kind, 0, identifier=identifier, sequence=sequence).encode()
    segment = _with_checksum(source, destination, protocol, header + payload, 2)
    return build_packet(source, destination, protocol, segment, hop_limit=hop_limit)
