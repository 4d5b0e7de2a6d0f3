"""What the network says about sealed packets that were too long for it (RFC 1191, RFC 8201), believed only
where it proves itself (RFC 4301 §8.2).

    | IP | ICMP 3/4 or ICMPv6 2, MTU | quoted: our IP header | (UDP) | SPI | sequence number | …

Anybody can send such a message. It counts only if what it quotes is a packet that one of our SAs sent a
moment ago: both addresses, the ports, the SPI and a sequence number among the last ones. Who sees our packets
can make them; it gains what it has anyhow, since it can drop them. And no message makes the estimate smaller
than what every path must take, nor larger than it was; after `AGE` the first estimate is tried again.

An estimate belongs to a pair of hosts, for all their SAs and for those that follow a rekey.
"""

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from struct import Struct
from typing import Final

from stockade.driver.packets import ESP, IPV6_HEADER, MINIMUM_HEADER, SMALLEST_IPV6_MTU, UDP, UDP_HEADER
from stockade.driver.sad import OutboundEntry, SaDatabase
from stockade.model.addresses import Address
from stockade.model.traffic import AH, ICMP, ICMPV6
from stockade.wire.ip import FRAGMENT

AGE: Final = 600.0
"""Seconds that an estimate is kept (RFC 1191 §6.3)."""

RECENT: Final = 1 << 20
"""How many packets ago the quoted one may have been sent: a second's worth of the fastest SA."""

SMALLEST_MTU: Final = {4: 576, 6: SMALLEST_IPV6_MTU}
"""RFC 791 says 68, but nothing in use is so narrow, and a forged 68 would stop an SA (RFC 4301 §8.2.2)."""

MAXIMUM_PATHS: Final = 4096

_FRAGMENTATION_NEEDED: Final = (3, 4)
_PACKET_TOO_BIG: Final = (2, 0)
_ICMP_HEADER: Final = 8
_WORDS: Final = Struct(">II")
_PORTS: Final = Struct(">HH")


@dataclass(frozen=True, slots=True)
class Report:
    """What one message says: `mtu` in bytes (0: the router did not say), and of the quoted packet addresses,
    protocol (ESP or AH), ports (None without UDP), SPI and sequence number (its low 32 bits)."""

    mtu: int
    source: Address
    destination: Address
    protocol: int
    ports: tuple[int, int] | None
    spi: int
    sequence: int


def read_report(packet: bytes) -> Report | None:
    """The report in a whole IP packet; None for whatever else it is, or too little quoted to prove itself."""
    version = packet[0] >> 4 if packet else 0
    if version == 4:
        at = (packet[0] & 15) * 4
        is_icmp = at >= MINIMUM_HEADER and len(packet) > at and packet[9] == ICMP
        is_whole = is_icmp and not packet[6] & 0x3F and not packet[7]
    elif version == 6:
        at = IPV6_HEADER
        is_whole = len(packet) > at and packet[6] == ICMPV6
    else:
        return None
    if not is_whole or len(packet) < at + _ICMP_HEADER + MINIMUM_HEADER:
        return None
    kind = packet[at], packet[at + 1]
    if kind != (_FRAGMENTATION_NEEDED if version == 4 else _PACKET_TOO_BIG):
        return None
    (mtu,) = _WORDS.unpack_from(packet, at)[1:]
    quoted = packet[at + _ICMP_HEADER :]
    if quoted[0] >> 4 != version:
        return None
    return _read_quoted(mtu & 0xFFFF if version == 4 else mtu, quoted)


def _read_quoted(mtu: int, quoted: bytes) -> Report | None:
    if quoted[0] >> 4 == 4:
        at, protocol = (quoted[0] & 15) * 4, quoted[9]
        source, destination = quoted[12:16], quoted[16:20]
        is_first = at >= MINIMUM_HEADER and not quoted[6] & 0x1F and not quoted[7]
    else:
        if len(quoted) < IPV6_HEADER + 8:
            return None
        at, protocol = IPV6_HEADER, quoted[6]
        source, destination = quoted[8:24], quoted[24:40]
        is_first = True
        if protocol == FRAGMENT:
            is_first = not quoted[at + 2] and not quoted[at + 3] & 0xF8
            protocol, at = quoted[at], at + 8
    ports: tuple[int, int] | None = None
    if protocol == UDP and len(quoted) >= at + UDP_HEADER:
        ports = _PORTS.unpack_from(quoted, at)
        protocol, at = ESP, at + UDP_HEADER
    elif protocol == AH:
        at += 4
    if not is_first or protocol not in (ESP, AH) or len(quoted) < at + _WORDS.size:
        return None
    spi, sequence = _WORDS.unpack_from(quoted, at)
    return Report(mtu, ip_address(source), ip_address(destination), protocol, ports, spi, sequence)


@dataclass(slots=True)
class _Path:
    mtu: int
    end: float


class PathMtu:
    """The estimates of one host. `ignored` is called for each report that quotes a secured packet and proves
    nothing. Messages that quote something else are not about us: the host's own stack has them too."""

    def __init__(self, sad: SaDatabase, ignored: Callable[[], None] = lambda: None) -> None:
        self._sad = sad
        self._paths: dict[tuple[Address, Address], _Path] = {}
        self._ignored = ignored

    def estimate(self, source: Address, destination: Address, first: int) -> int:
        """For a new SA, whose interface takes `first` bytes."""
        path = self._paths.get((source, destination))
        return first if path is None else min(first, path.mtu)

    def take(self, packet: bytes, now: float) -> bool:
        """Look at an ICMP packet; True where an estimate became smaller by it."""
        report = read_report(packet)
        if report is None:
            return False
        entry = self._proven(report)
        if entry is None:
            self._ignored()
            return False
        source, destination = report.source, report.destination
        # Routers older than RFC 1191 do not say; 576 is what is left then (its §7.1 has a table to try).
        mtu = max(report.mtu, SMALLEST_MTU[source.version])
        if mtu >= entry.mtu:
            return False
        if len(self._paths) >= MAXIMUM_PATHS and (source, destination) not in self._paths:
            self._forget(next(iter(self._paths)))
        self._paths[source, destination] = _Path(mtu, now + AGE)
        for each in self._of_path(source, destination):
            each.mtu = min(each.mtu, mtu)
        return True

    def tick(self, now: float) -> None:
        """Try larger packets again where the estimate is old."""
        for path, known in list(self._paths.items()):
            if now >= known.end:
                self._forget(path)

    def _forget(self, path: tuple[Address, Address]) -> None:
        del self._paths[path]
        for each in self._of_path(*path):
            each.mtu = each.first_mtu

    def _of_path(self, source: Address, destination: Address) -> list[OutboundEntry]:
        return [
            each
            for each in self._sad
            if isinstance(each, OutboundEntry)
            and (each.sa.source, each.sa.destination) == (source, destination)
        ]

    def _proven(self, report: Report) -> OutboundEntry | None:
        entry = self._sad.outbound_by_spi(report.spi, report.destination, is_ah=report.protocol == AH)
        if entry is None or entry.sa.source != report.source:
            return None
        udp = entry.sa.udp
        ports = None if udp is None else (udp.source_port, udp.destination_port)
        behind = (entry.sequence - report.sequence) & 0xFFFF_FFFF
        return entry if ports == report.ports and behind < min(RECENT, entry.sequence) else None
