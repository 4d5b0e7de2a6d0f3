"""ICMP messages that say that something of ours did not arrive (RFC 792 type 3, RFC 4443 type 1).

    | IP | ICMP 3 or ICMPv6 1, code | quoted: our IP header | ESP, AH, or UDP of port 500 or 4500 …

Anybody can send one; what it is worth is for the reader to judge. `spi` is what only who saw the packet
knows. Not here: "fragmentation needed" (`driver.path_mtu`), and packets that are neither IKE nor IPsec.
"""

from dataclasses import dataclass
from ipaddress import ip_address
from struct import Struct

from stockade.model.addresses import Address
from stockade.model.traffic import AH, ESP, ICMP, ICMPV6, UDP
from stockade.wire.ip import FRAGMENT, IPV4_HEADER_SIZE, IPV6_HEADER_SIZE
from stockade.wire.udp_encapsulation import IKE_PORT, NAT_TRAVERSAL_PORT, NON_ESP_MARKER

ICMP_HEADER = 8
ICMP_UNREACHABLE, ICMPV6_UNREACHABLE = 3, 1
FRAGMENTATION_NEEDED = 4
_WORD = Struct("!I")
_PORTS = Struct("!HH")
_WHAT = {
    4: {0: "network", 1: "host", 2: "protocol", 3: "port", 9: "network, by an administrator",
        10: "host, by an administrator", 13: "host, by an administrator"},
    6: {0: "network", 1: "host, by an administrator", 3: "host", 4: "port"},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Unreachable:
    """`reporter` says that a packet from `local` to `peer` did not arrive. `spi`: of the ESP or AH packet
    that is quoted; None where it was IKE, or so little is quoted that one cannot tell."""

    reporter: Address
    local: Address
    peer: Address
    what: str
    spi: int | None


def read_unreachable(packet: bytes) -> Unreachable | None:
    """What a whole IP packet says; None for whatever else it is. Never raises."""
    version = packet[0] >> 4 if packet else 0
    if version == 4:
        at = (packet[0] & 15) * 4
        if len(packet) < IPV4_HEADER_SIZE or packet[9] != ICMP or packet[6] & 0x3F or packet[7]:
            return None  # a fragment says nothing whole
        reporter, kind = packet[12:16], ICMP_UNREACHABLE
    elif version == 6:
        at = IPV6_HEADER_SIZE
        if len(packet) < at or packet[6] != ICMPV6:
            return None
        reporter, kind = packet[8:24], ICMPV6_UNREACHABLE
    else:
        return None
    quoted = packet[at + ICMP_HEADER :]
    if at < IPV4_HEADER_SIZE or not quoted or packet[at] != kind or quoted[0] >> 4 != version:
        return None
    code = packet[at + 1]
    if version == 4 and code == FRAGMENTATION_NEEDED:
        return None
    found = _read_quoted(version, quoted)
    if found is None:
        return None
    local, peer, spi = found
    what = _WHAT[version].get(code, f"code {code}")
    return Unreachable(ip_address(reporter), ip_address(local), ip_address(peer), what, spi)


def _read_quoted(version: int, quoted: bytes) -> tuple[bytes, bytes, int | None] | None:
    """Addresses and SPI of the packet of ours that is quoted; None where it was neither IKE nor IPsec."""
    if version == 4:
        at = (quoted[0] & 15) * 4
        if at < IPV4_HEADER_SIZE or len(quoted) < at or quoted[6] & 0x1F or quoted[7]:
            return None
        protocol, local, peer = quoted[9], quoted[12:16], quoted[16:20]
    else:
        at = IPV6_HEADER_SIZE
        if len(quoted) < at:
            return None
        protocol, local, peer = quoted[6], quoted[8:24], quoted[24:40]
        if protocol == FRAGMENT and len(quoted) >= at + 8:
            if quoted[at + 2] or quoted[at + 3] & 0xF8:
                return None
            protocol, at = quoted[at], at + 8
    if protocol == UDP:
        return _read_datagram(quoted, at, local, peer)
    if protocol == AH:
        at += 4
    elif protocol != ESP:
        return None
    spi = _WORD.unpack_from(quoted, at)[0] if len(quoted) >= at + _WORD.size else None
    return local, peer, spi


def _read_datagram(
    quoted: bytes, at: int, local: bytes, peer: bytes
) -> tuple[bytes, bytes, int | None] | None:
    """IKE, or ESP in UDP. Only our own port is looked at: behind a NAT the peer's can be any."""
    if len(quoted) < at + _PORTS.size:
        return None
    own_port = _PORTS.unpack_from(quoted, at)[0]
    if own_port not in (IKE_PORT, NAT_TRAVERSAL_PORT):
        return None
    first = quoted[at + 8 : at + 8 + _WORD.size]
    if own_port == IKE_PORT or len(first) < _WORD.size or first == NON_ESP_MARKER:
        return local, peer, None
    return local, peer, _WORD.unpack(first)[0]
