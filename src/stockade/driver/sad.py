"""The SA database (RFC 4301 §4.4.2): what each SA has carried, and how a packet finds its SA.

Inbound by (destination, SPI), the bytes of both as they stand in a packet.
Outbound by the pair of hosts (in tunnel mode by the negotiation), newest first: after a rekey the new SA is
used as soon as it is there.

Where there is a burst path, an SA that it can take is in it too: it then keeps the sequence number and the
replay window, for both paths.

A bundle (AH over ESP) is two entries that know each other as `other`. Packets find the ESP one; it is used
only with the other beside it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from stockade.driver.ah import Authenticator, Verifier
from stockade.driver.burst.engine import Burst, BurstSa
from stockade.driver.ended import EndedSas
from stockade.driver.esp import (
    MAXIMUM_EXTENDED_SEQUENCE,
    MAXIMUM_SEQUENCE,
    Opener,
    Sealer,
    make_opener,
    make_sealer,
)
from stockade.driver.nat import checksum_mender
from stockade.driver.packets import UDP_HEADER
from stockade.driver.replay import ReplayWindow
from stockade.driver.spis import SpisInUse
from stockade.model.addresses import Address
from stockade.model.filters import Direction
from stockade.model.negotiation import Mode
from stockade.model.reasons import ReasonCode, error_for
from stockade.model.sa import SaCounters, SecurityAssociation, UdpEncapsulation
from stockade.model.traffic import Flow

SEQUENCE_REKEY = 0xF000_0000
"""Packets after which a rekey is asked for, whatever the lifetimes say: numbers must not run out. With
extended sequence numbers 2^32 times as many."""

MAXIMUM_KNOWN_FLOWS = 4096
"""Flows whose check an inbound SA remembers; beyond that it forgets all and checks anew."""


class Entry:
    """What both directions of an SA have in common. Times in seconds of the caller's clock."""

    __slots__ = (
        "alive",
        "burst",
        "bytes",
        "due",
        "idle_reported",
        "installed",
        "integrity_failures",
        "other",
        "packets",
        "replays",
        "sa",
        "selector_mismatches",
        "soft_reported",
        "unanswered",
        "used",
    )

    def __init__(self, sa: SecurityAssociation, now: float) -> None:
        self.sa = sa
        self.burst: BurstSa | None = None
        self.other: Entry | None = None
        self.installed = now
        self.used = now
        self.packets = 0
        self.bytes = 0
        self.integrity_failures = 0
        self.replays = 0
        self.selector_mismatches = 0
        self.soft_reported = False
        self.unanswered: float | None = None
        """Since when packets go out and nothing comes back (`silence.py`)."""
        self.idle_reported = False
        self.alive = True
        """False once it is out of the database."""
        self.due = self._next_end()
        """When time alone ends a lifetime of this SA, the soft one first."""

    def soft_is_told(self) -> None:
        """The soft lifetime is over, and that has been said."""
        self.soft_reported = True
        self.due = self._next_end()

    def tell_again(self) -> None:
        """Nobody knows any more what has been said."""
        self.soft_reported = self.idle_reported = False
        self.unanswered = None
        self.due = self._next_end()

    def _next_end(self) -> float:
        lifetime = self.sa.lifetime
        ends = [lifetime.hard_seconds, None if self.soft_reported else lifetime.soft_seconds]
        return self.installed + min((end for end in ends if end is not None), default=float("inf"))

    def count(self, packets: int, size: int, now: float) -> None:
        """`size` in bytes of protected payload."""
        self.packets += packets
        self.bytes += size
        self.used = now
        self.idle_reported = False
        if self.burst is not None:
            self._share_lifetime(self.burst)

    def _share_lifetime(self, burst: BurstSa) -> None:
        """Tell the burst path how many bytes it may carry before it asks."""
        lifetime = self.sa.lifetime
        soft = None if self.soft_reported else lifetime.soft_bytes
        limits = [limit for limit in (soft, lifetime.hard_bytes) if limit is not None]
        if limits:
            burst.set_budget(max(0, min(limits) - self.bytes))

    def counters(self, now: float) -> SaCounters:
        return SaCounters(
            self.sa.spi,
            self.sa.direction,
            self.packets,
            self.bytes,
            self.integrity_failures,
            self.replays,
            self.selector_mismatches,
            max(0.0, now - self.installed),
            max(0.0, now - self.used),
        )

    @property
    def sequence(self) -> int:
        return 0

    @property
    def last_sequence(self) -> int:
        """The last number that may be used."""
        return MAXIMUM_EXTENDED_SEQUENCE if self.sa.extended_sequence else MAXIMUM_SEQUENCE

    def is_past(self, now: float, *, hard: bool) -> bool:
        """Whether the soft (or hard) lifetime in seconds, bytes or packets is over."""
        lifetime = self.sa.lifetime
        seconds = lifetime.hard_seconds if hard else lifetime.soft_seconds
        size = lifetime.hard_bytes if hard else lifetime.soft_bytes
        return (
            (seconds is not None and now - self.installed >= seconds)
            or (size is not None and self.bytes >= size)
            or self.sequence >= (self.last_sequence if hard else self._rekey_sequence)
        )

    @property
    def _rekey_sequence(self) -> int:
        return SEQUENCE_REKEY << 32 if self.sa.extended_sequence else SEQUENCE_REKEY


class _SharedSealer:
    """A sealer whose sequence numbers are kept by the burst path, which uses them too."""

    __slots__ = ("_burst", "_sealer")

    def __init__(self, sealer: Sealer, burst: BurstSa) -> None:
        self._sealer, self._burst = sealer, burst

    @property
    def sequence(self) -> int:
        return self._burst.sequence

    @sequence.setter
    def sequence(self, value: int) -> None:
        self._burst.sequence = value

    def seal(self, next_header: int, payloads: Sequence[bytes]) -> list[bytes]:
        self._sealer.sequence = self._burst.sequence
        try:
            return self._sealer.seal(next_header, payloads)
        finally:
            self._burst.sequence = self._sealer.sequence

    def largest_payload(self, space: int) -> int:
        return self._sealer.largest_payload(space)


class OutboundEntry(Entry):
    """An SA that seals: with ESP (`sealer`) or AH (`authenticator`). `mtu` is what fits on the path to the
    peer, in bytes of IP packet, `first_mtu` what it was when the SA came. `told`: when a sender was last told
    that its packets do not fit."""

    __slots__ = ("_mtu", "_number", "authenticator", "first_mtu", "is_tunnel", "sealer", "seen_used", "told")

    def __init__(self, sa: SecurityAssociation, now: float, mtu: int, random: Callable[[int], bytes]) -> None:
        super().__init__(sa, now)
        self._mtu = self.first_mtu = mtu
        self.is_tunnel = sa.mode is Mode.TUNNEL
        self._number = 0
        self.told = float("-inf")
        self.seen_used = now
        """`used` when it was last asked whether the peer is silent."""
        self.sealer: Sealer | None = None
        self.authenticator: Authenticator | None = None
        if sa.ah is not None:
            self.authenticator = Authenticator(sa.spi, sa.ah, sa.integrity_key, extended=sa.extended_sequence)
        elif sa.esp is not None:
            self.sealer = make_sealer(
                sa.spi,
                sa.esp,
                sa.encryption_key,
                sa.integrity_key,
                random,
                extended=sa.extended_sequence,
            )

    @property
    def sequence(self) -> int:
        if self.sealer is not None:
            return self.sealer.sequence
        return 0 if self.authenticator is None else self.authenticator.sequence

    @property
    def numbers_left(self) -> int:
        """Packets that this SA may still send, with its bundle's other SA where there is one."""
        left = self.last_sequence - self.sequence
        if self.other is not None:
            left = min(left, self.other.last_sequence - self.other.sequence)
        return left

    @property
    def mtu(self) -> int:
        return self._mtu

    @mtu.setter
    def mtu(self, value: int) -> None:
        self._mtu = value
        if self.burst is not None:
            self.burst.set_mtu(value)

    @property
    def number(self) -> int:
        """Of the last IPv4 outer header."""
        return self._number if self.burst is None else self.burst.number

    @number.setter
    def number(self, value: int) -> None:
        if self.burst is None:
            self._number = value
        else:
            self.burst.number = value

    def join(self, burst: Burst) -> None:
        """Let the burst path have this SA too, where it can."""
        if self.sealer is not None and (handle := burst.add(self.sa, self._mtu)) is not None:
            self.burst = handle
            self.sealer = _SharedSealer(self.sealer, handle)

    @property
    def outer(self) -> "OutboundEntry | None":
        """The AH entry that follows on this one's work: itself, or the other of the bundle."""
        if self.authenticator is not None:
            return self
        return self.other if isinstance(self.other, OutboundEntry) else None

    def largest_payload(self, space: int, version: int) -> int:
        """How many bytes of payload fit behind the IP header in `space` bytes; negative where none do."""
        outer = self.outer
        if self.sa.udp is not None:
            space -= UDP_HEADER
        if outer is not None and outer.authenticator is not None:
            space -= outer.authenticator.overhead(version)
        return space if self.sealer is None else self.sealer.largest_payload(space)


class InboundEntry(Entry):
    """An SA that opens. `known_flows`: flow key to whether policy accepts that flow on this SA."""

    __slots__ = ("known_flows", "mend", "opener", "window")

    def __init__(self, sa: SecurityAssociation, now: float) -> None:
        super().__init__(sa, now)
        if sa.ah is not None:
            self.opener: Opener = Verifier(sa.spi, sa.ah, sa.integrity_key, extended=sa.extended_sequence)
        else:
            assert sa.esp is not None
            self.opener = make_opener(
                sa.spi, sa.esp, sa.encryption_key, sa.integrity_key, extended=sa.extended_sequence
            )
        self.window: ReplayWindow | BurstSa = ReplayWindow(sa.replay_window, extended=sa.extended_sequence)
        self.known_flows: dict[bytes, bool] = {}
        self.mend = checksum_mender(sa)

    def join(self, burst: Burst) -> None:
        """As of an outbound one."""
        if (handle := burst.add(self.sa)) is not None:
            self.burst = self.window = handle


def inbound_key(spi: int, destination: Address) -> bytes:
    return destination.packed + spi.to_bytes(4, "big")


Key = TypeVar("Key")


def _take(table: dict[Key, list[OutboundEntry]], key: Key, entry: OutboundEntry) -> None:
    table[key].remove(entry)
    if not table[key]:
        del table[key]


class SaDatabase:
    """All SAs of a data plane."""

    def __init__(self, burst: Burst | None = None) -> None:
        self._burst = burst
        self.in_burst: dict[int, InboundEntry | OutboundEntry] = {}
        self.inbound: dict[bytes, InboundEntry] = {}
        self.inbound_ah: dict[bytes, InboundEntry] = {}
        self.spis = SpisInUse()
        self.ended = EndedSas()
        self._outbound: dict[tuple[Address, Address], list[OutboundEntry]] = {}
        self._tunnels: dict[str, list[OutboundEntry]] = {}
        self._by_spi: dict[tuple[bool, Direction, int, Address], InboundEntry | OutboundEntry] = {}

    def __iter__(self) -> Iterator[InboundEntry | OutboundEntry]:
        return iter(list(self._by_spi.values()))

    def add(self, entry: InboundEntry | OutboundEntry) -> None:
        """`CallerError(DRIVER_LACKS)` if there is an SA of this protocol, SPI and destination already:
        replacing it would start its sequence numbers, and with AES-GCM its nonces, again."""
        sa = entry.sa
        is_ah = sa.ah is not None
        name = (is_ah, sa.direction, sa.spi, sa.peer)
        key = inbound_key(sa.spi, sa.destination)
        inbound = self.inbound_ah if is_ah else self.inbound
        if name in self._by_spi or (isinstance(entry, InboundEntry) and key in inbound):
            raise error_for(
                ReasonCode.DRIVER_LACKS, "this SPI is in use", spi=f"{sa.spi:#010x}", peer=sa.peer
            )
        self._by_spi[name] = entry
        if sa.bundle is not None:
            other = self._by_spi.get((not is_ah, sa.direction, sa.bundle, sa.peer))
            if other is not None and other.sa.bundle == sa.spi:
                entry.other, other.other = other, entry
        if self._burst is not None:
            entry.join(self._burst)
            if entry.burst is not None:
                self.in_burst[entry.burst.id] = entry
        if isinstance(entry, InboundEntry):
            inbound[key] = entry
            self.spis.add(sa.spi)
        elif sa.mode is Mode.TUNNEL:
            self._tunnels.setdefault(sa.negotiation, []).insert(0, entry)
        else:
            self._outbound.setdefault((sa.source, sa.destination), []).insert(0, entry)

    def remove(self, spi: int, direction: Direction, peer: Address) -> bool:
        """Take an SA out, of either protocol; False if it is not there."""
        entries = [self._by_spi.pop((is_ah, direction, spi, peer), None) for is_ah in (False, True)]
        for entry in entries:
            if entry is None:
                continue
            entry.alive = False
            self.ended.add(entry.sa, entry.packets, entry.bytes)
            if entry.burst is not None:
                del self.in_burst[entry.burst.id]
                entry.burst.remove()
            if entry.other is not None:
                entry.other.other = None
            if isinstance(entry, InboundEntry):
                inbound = self.inbound if entry.sa.ah is None else self.inbound_ah
                del inbound[inbound_key(spi, entry.sa.destination)]
                self.spis.remove(spi)
                continue
            if entry.sa.mode is Mode.TUNNEL:
                _take(self._tunnels, entry.sa.negotiation, entry)
            else:
                _take(self._outbound, (entry.sa.source, entry.sa.destination), entry)
        return any(entries)

    def outbound_by_spi(self, spi: int, peer: Address, *, is_ah: bool) -> OutboundEntry | None:
        """The SA that sends with this SPI to this peer."""
        found = self._by_spi.get((is_ah, Direction.OUTBOUND, spi, peer))
        return found if isinstance(found, OutboundEntry) else None

    def partner(self, entry: Entry) -> Entry | None:
        """The other direction of the same quick mode."""
        sa = entry.sa
        other = Direction.OUTBOUND if sa.direction is Direction.INBOUND else Direction.INBOUND
        return self._by_spi.get((sa.ah is not None, other, sa.pair, sa.peer))

    def move(self, entry: "InboundEntry | OutboundEntry", port: int) -> None:
        """The peer of an SA in UDP has another port from now on; numbers and keys go on."""
        udp = entry.sa.udp
        assert udp is not None
        inbound = isinstance(entry, InboundEntry)
        ports = (
            UdpEncapsulation(port, udp.destination_port)
            if inbound
            else UdpEncapsulation(udp.source_port, port)
        )
        entry.sa = replace(entry.sa, udp=ports)
        if entry.burst is not None:
            entry.burst.set_ports(ports.source_port, ports.destination_port)

    def outbound_for(self, flow: Flow, negotiation: str, port: int = 0) -> OutboundEntry | None:
        """The newest SA between these hosts, or tunnel between any, whose selector has the flow and which was
        made for this negotiation. Behind one NAT several peers have one address: with `port` the one there is
        preferred."""
        other = None
        found = self._tunnels.get(negotiation) or self._outbound.get((flow.source, flow.destination), [])
        for entry in found:
            if entry.sa.bundle is not None and (entry.other is None or entry.sealer is None):
                continue
            if entry.sa.negotiation == negotiation and entry.sa.selector.matches(flow):
                if not port or (entry.sa.udp is not None and entry.sa.udp.destination_port == port):
                    return entry
                other = other or entry
        return other
