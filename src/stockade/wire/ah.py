"""The Authentication Header (RFC 4302 §2), and the IP header as its integrity check sees it (§3.3.3.1).

     | next header (1) | payload length (1) | 0 (2) | SPI (4) | sequence number (4) | ICV … | padding |

The payload length counts 32-bit words, less 2. The header is a multiple of 4 bytes in IPv4 and of 8 in IPv6;
padding is part of what the ICV covers. Fields that change on the way count as zero, and so does the ICV
itself. IPv4 options that a router may change, and those that nobody knows, are zeroed whole (Appendix A1); of
IPv6 options the data where the option says that it may change (Appendix A2).
"""

from dataclasses import dataclass
from struct import Struct

from stockade.model.reasons import ReasonCode, StockadeError, error_for
from stockade.wire.ip import DESTINATION_OPTIONS, HOP_BY_HOP, IPV4_HEADER_SIZE, IPV6_HEADER_SIZE, ROUTING

AH_FIXED_SIZE = 12
MAXIMUM_PADDING = 7

_FIXED = Struct("!BBHII")
_IMMUTABLE_OPTIONS = frozenset({0, 1, 130, 133, 134, 148, 149})
_MAY_CHANGE = 0x20


@dataclass(frozen=True, slots=True)
class AuthenticationHeader:
    """`icv` with its padding, as it stands in the packet; a multiple of 4 bytes, at most 1016."""

    next_header: int
    spi: int
    sequence: int
    icv: bytes

    def __post_init__(self) -> None:
        if not 0 <= self.next_header <= 0xFF or not 1 <= self.spi <= 0xFFFF_FFFF:
            raise ValueError(f"next header {self.next_header} or SPI {self.spi} is out of range")
        if not 0 <= self.sequence <= 0xFFFF_FFFF:
            raise ValueError(f"sequence number {self.sequence} is outside 32 bits")
        if len(self.icv) % 4 or len(self.icv) > 1016:
            raise ValueError(f"an ICV of {len(self.icv)} bytes with padding does not fill whole words")

    @property
    def size(self) -> int:
        return AH_FIXED_SIZE + len(self.icv)

    def encode(self) -> bytes:
        return _FIXED.pack(self.next_header, self.size // 4 - 2, 0, self.spi, self.sequence) + self.icv


def padded_icv_size(icv_size: int, version: int) -> int:
    """Bytes of ICV and padding: the whole header a multiple of 4 (IPv4) or 8 bytes (IPv6)."""
    multiple = 4 if version == 4 else 8
    return -(-(AH_FIXED_SIZE + icv_size) // multiple) * multiple - AH_FIXED_SIZE


def decode_ah_header(packet: bytes, offset: int = 0) -> AuthenticationHeader:
    """The header at `offset`. `PeerError` MALFORMED_PACKET where it is short or the SPI is 0, which never
    appears on the wire (RFC 4302 §2.4)."""
    if offset < 0 or len(packet) - offset < AH_FIXED_SIZE:
        raise _malformed(f"{AH_FIXED_SIZE} bytes expected, {max(0, len(packet) - offset)} left")
    next_header, words, _, spi, sequence = _FIXED.unpack_from(packet, offset)
    size = (words + 2) * 4
    if not AH_FIXED_SIZE <= size <= len(packet) - offset:
        raise _malformed(f"a header of {size} bytes, {AH_FIXED_SIZE} to {len(packet) - offset} expected")
    if spi == 0:
        raise _malformed("SPI 0")
    return AuthenticationHeader(next_header, spi, sequence, packet[offset + AH_FIXED_SIZE : offset + size])


def immutable_header(header: bytes) -> bytes:
    """An IP header (with options or extension headers, up to the AH) with zeros where a router may write. It
    has been parsed before (`wire.ip.parse_packet`); `PeerError` MALFORMED_PACKET all the same where its
    options or extension headers do not fit."""
    if header[0] >> 4 == 4:
        fixed = header[:1] + b"\0" + header[2:6] + b"\0\0\0" + header[9:10] + b"\0\0" + header[12:20]
        return fixed if len(header) == IPV4_HEADER_SIZE else fixed + _ipv4_options(header[IPV4_HEADER_SIZE:])
    fixed = b"\x60\0\0\0" + header[4:7] + b"\0" + header[8:40]
    if len(header) == IPV6_HEADER_SIZE:
        return fixed
    return fixed + _extension_headers(header[6], header[IPV6_HEADER_SIZE:])


def _ipv4_options(options: bytes) -> bytes:
    result = bytearray(options)
    at = 0
    while at < len(options):
        kind = options[at]
        if kind == 0:
            break
        if kind == 1:
            at += 1
            continue
        size = options[at + 1] if at + 1 < len(options) else 0
        if size < 2 or at + size > len(options):
            raise _malformed(f"IPv4 option {kind} does not fit")
        if kind not in _IMMUTABLE_OPTIONS:
            result[at : at + size] = bytes(size)
        at += size
    return bytes(result)


def _extension_headers(protocol: int, headers: bytes) -> bytes:
    result = bytearray(headers)
    at = 0
    while at < len(headers):
        size = 8 + headers[at + 1] * 8 if at + 1 < len(headers) else 0
        if protocol not in (HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS) or not size or at + size > len(headers):
            raise _malformed(f"IPv6 extension header {protocol} does not fit")
        if protocol != ROUTING:
            _mute_options(result, at + 2, at + size)
        protocol, at = headers[at], at + size
    return bytes(result)


def _mute_options(result: bytearray, at: int, end: int) -> None:
    while at < end:
        kind = result[at]
        if kind == 0:
            at += 1
            continue
        size = result[at + 1] if at + 1 < end else end
        if at + 2 + size > end:
            raise _malformed(f"IPv6 option {kind} does not fit")
        if kind & _MAY_CHANGE:
            result[at + 2 : at + 2 + size] = bytes(size)
        at += 2 + size


def _malformed(detail: str) -> StockadeError:
    return error_for(ReasonCode.MALFORMED_PACKET, f"AH: {detail}")
