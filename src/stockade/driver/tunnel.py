"""Tunnel mode: the outer header that is put around a packet, and what is taken over from it (RFC 4301
§5.1.2).

    outer          made from the inner packet            given back to it

    DSCP           copied                                never (§5.1.2.1, note 5)

    ECN            copied                                as RFC 6040 §4.2 says, see `_joined`

    DF (IPv4)      copied from IPv4, off for IPv6 (§8.1) never

    TTL            64                                    never; forwarding has counted the inner one down

    flow label     0                                     never

Any family in any other. A packet that must not be fragmented and does not fit is answered with ICMP instead.
"""

from struct import Struct
from typing import Final

from stockade.driver.packets import DONT_FRAGMENT, IPV6_HEADER, MINIMUM_HEADER
from stockade.model.addresses import Address
from stockade.model.reasons import PeerError
from stockade.wire.ip import parse_packet

IP_IN_IP: Final = {4: 4, 6: 41}
"""The next header of a packet of this version (RFC 2003, RFC 2473)."""

HOP_LIMIT: Final = 64
NOT_CAPABLE, CAPABLE_1, CAPABLE_0, CONGESTION = 0, 1, 2, 3
"""The ECN field (RFC 3168 §5): Not-ECT, ECT(1), ECT(0), CE."""

_ECN: Final = 3
_IPV4_START: Final = Struct(">BBHHHBBH")
_IPV6_START: Final = Struct(">IHBB")


def outer_size(outer_version: int) -> int:
    return MINIMUM_HEADER if outer_version == 4 else IPV6_HEADER


def shape_of(packet: bytes) -> tuple[int, int, bool]:
    """(version, traffic class, don't fragment): packets of the same shape get the same outer header."""
    if packet[0] >> 4 == 4:
        return 4, packet[1], bool(packet[6] & DONT_FRAGMENT)
    return 6, (packet[0] & 15) << 4 | packet[1] >> 4, False


def outer_header(source: Address, destination: Address, shape: tuple[int, int, bool], number: int) -> bytes:
    """The header around packets of this shape; length, protocol and checksum are for `packets.with_header` to
    fill in. `number` is the IPv4 identification."""
    _, traffic_class, dont_fragment = shape
    if source.version == 6:
        return (
            _IPV6_START.pack(6 << 28 | traffic_class << 20, 0, 0, HOP_LIMIT)
            + source.packed
            + destination.packed
        )
    flags = DONT_FRAGMENT << 8 if dont_fragment else 0
    start = _IPV4_START.pack(0x45, traffic_class, 0, number & 0xFFFF or 1, flags, HOP_LIMIT, 0, 0)
    return start + source.packed + destination.packed


def take_out(outer: bytes, next_header: int, payload: bytes) -> bytes | None:
    """The packet inside. None where there is none of the version that the next header names, or where the
    network reports congestion to somebody who does not listen. Traffic-flow padding behind it (RFC 4303 §2.7)
    goes."""
    version = payload[0] >> 4 if payload else 0
    if IP_IN_IP.get(version) != next_header:
        return None
    try:
        packet = payload[: parse_packet(payload).total_length]
    except PeerError:
        return None
    outer_class = outer[1] if outer[0] >> 4 == 4 else outer[1] >> 4
    ecn = shape_of(packet)[1] & _ECN
    joined = _joined(ecn, outer_class & _ECN)
    if joined is None or joined == ecn:
        return None if joined is None else packet
    if version == 6:
        return packet[:1] + bytes((packet[1] & ~(_ECN << 4) | joined << 4,)) + packet[2:]
    tos = packet[1] & ~_ECN | joined
    # RFC 1624: a wrong checksum stays wrong.
    value = ((packet[10] << 8 | packet[11]) + packet[1] - tos) % 65535
    return packet[:1] + bytes((tos,)) + packet[2:10] + value.to_bytes(2, "big") + packet[12:]


def _joined(inner: int, outer: int) -> int | None:
    """The ECN field of what leaves the tunnel (RFC 6040 §4.2, figure 4); None: dropped, for the network
    reports congestion to somebody who does not listen."""
    if inner == NOT_CAPABLE:
        return None if outer == CONGESTION else NOT_CAPABLE
    if outer == CONGESTION or inner == CONGESTION:
        return CONGESTION
    return CAPABLE_1 if outer == CAPABLE_1 else inner
