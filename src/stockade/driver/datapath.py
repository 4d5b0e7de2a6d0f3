"""The packet path without I/O: IPv4 packets and the time in, sealed or opened packets and events out.

    from the host's stack ──▶ outbound ──▶ filter ──▶ SA? ──yes──▶ cut to size ──▶ seal ──▶ to the wire
                                                       └──no───▶ hold, Acquire
    from the wire ──▶ inbound ──▶ SA of (destination, SPI) ──▶ replay ──▶ integrity ──▶ open
                              ──▶ do the SA's selector and the filter table agree? ──▶ to the host's stack

RFC 4301 §5.1 and §5.2 in transport mode. Both drivers run this: `memory` for tests and the laboratory,
`userspace` with real packets. What comes to `outbound` was classified as traffic to secure; it is looked up
again here all the same, for the filter that decides names the negotiation. A packet that no longer has a
negotiate filter is dropped: nothing that was meant to be secured leaves in clear from here, ever.

Left out: IPv6, tunnel mode, AH, ESP in UDP, and fragments that the sender made itself (transport mode secures
whole datagrams, RFC 4303 §3.3.4; a sealed packet may be fragmented afterwards, by the system).
"""

import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Final

from stockade.driver.contract import (
    Acquire,
    DriverEvent,
    DriverStatistics,
    FilterCounters,
    PacketRefused,
    SaExpired,
    SaIdle,
)
from stockade.driver.esp import MALFORMED, MAXIMUM_SEQUENCE, NO_NEXT_HEADER
from stockade.driver.hold import Held, HoldQueue
from stockade.driver.packets import (
    DONT_FRAGMENT,
    ESP,
    TCP,
    exchange_payload,
    flow_key,
    fragmentation_needed,
    header_length,
    is_plain_ipv4,
    segment_tcp,
    with_header,
)
from stockade.driver.refusals import Refusals
from stockade.driver.sad import MAXIMUM_KNOWN_FLOWS, InboundEntry, OutboundEntry, SaDatabase
from stockade.model.addresses import Address
from stockade.model.filters import Action, Direction, SpecificFilter
from stockade.model.reasons import PeerError, ReasonCode
from stockade.model.sa import SecurityAssociation
from stockade.model.traffic import Flow
from stockade.wire.ip import flow_of

DEFAULT_MTU: Final = 1500
ACQUIRE_INTERVAL: Final = 1.0
"""Seconds between two acquires of the same filter and pair of hosts."""

MAXIMUM_ACQUIRES: Final = 4096
MAXIMUM_FLOWS: Final = 65_536
MAXIMUM_WAITING_EVENTS: Final = 8192

_NOWHERE = IPv4Address(0)
_UNREPORTED_POLICY = ReasonCode.POLICY_CHANGED.word
_UNREPORTED_MULTICAST = ReasonCode.NOT_SECURABLE.word


@dataclass(slots=True)
class Output:
    """What a batch led to: `wire` are whole IPv4 packets with ESP inside, in order; `local` are packets for
    the host's own stack (ICMP)."""

    wire: list[bytes] = field(default_factory=list)
    local: list[bytes] = field(default_factory=list)


class Datapath:
    """One host's filters, SAs and held packets. Times are seconds of one monotonic clock, given by the
    caller; `random` makes the IVs of CBC."""

    def __init__(self, random: Callable[[int], bytes] = os.urandom) -> None:
        self._random = random
        self._filters: dict[Direction, tuple[SpecificFilter, ...]] = {
            Direction.INBOUND: (),
            Direction.OUTBOUND: (),
        }
        self._filter_counts: dict[str, list[int]] = {}
        self._sad = SaDatabase()
        self._flows: dict[bytes, OutboundEntry] = {}
        self._acquired: dict[tuple[str, Address, Address], float] = {}
        self._events: deque[DriverEvent] = deque()
        self._refusals = Refusals()
        self._now = 0.0
        self._hold = HoldQueue(self._on_queue_full)

    # ---- filters and SAs -----------------------------------------------------------------------------------

    def install_filters(self, filters: Sequence[SpecificFilter], now: float) -> Output:
        """Make these the filters in force (heaviest first). What is held is looked up anew."""
        self._now = now
        for direction in Direction:
            self._filters[direction] = tuple(entry for entry in filters if entry.direction is direction)
        kept = {entry.id: self._filter_counts.get(entry.id, [0, 0]) for entry in filters}
        self._filter_counts = kept
        self._forget_flows()
        return self.outbound([held.packet for held in self._hold.take(lambda held: True)], now)

    def lookup(self, flow: Flow, direction: Direction) -> SpecificFilter | None:
        """The first filter that matches; None permits."""
        for entry in self._filters[direction]:
            if entry.selector.matches(flow):
                return entry
        return None

    def count_filter(self, entry: SpecificFilter, packets: int, size: int) -> None:
        counts = self._filter_counts.get(entry.id)
        if counts is not None:
            counts[0] += packets
            counts[1] += size

    def add_sa(self, sa: SecurityAssociation, now: float, mtu: int = DEFAULT_MTU) -> Output:
        """Install one direction; the caller has checked it against the capabilities. An outbound SA lets go
        what waits for it, in order. `mtu` is the path's, in bytes of IP packet."""
        self._now = now
        if sa.direction is Direction.INBOUND:
            self._sad.add(InboundEntry(sa, now))
            return Output()
        self._sad.add(OutboundEntry(sa, now, mtu, self._random))
        self._flows.clear()
        waiting = self._hold.take(
            lambda held: held.peer == sa.destination and held.negotiation == sa.negotiation
        )
        return self.outbound([held.packet for held in waiting], now)

    def remove_sa(self, spi: int, direction: Direction, peer: Address) -> None:
        if self._sad.remove(spi, direction, peer):
            self._flows.clear()

    def release(self, filter_id: str, peer: Address, now: float) -> None:
        """Drop what is held for this filter and peer; its next packet acquires at once."""
        self._now = now
        self._hold.take(lambda held: held.filter_id == filter_id and held.peer == peer)
        for key in [key for key in self._acquired if key[0] == filter_id and key[2] == peer]:
            del self._acquired[key]

    def inbound_spis(self) -> frozenset[int]:
        return frozenset(entry.sa.spi for entry in self._sad.inbound.values())

    # ---- packets -------------------------------------------------------------------------------------------

    def outbound(self, packets: Sequence[bytes], now: float) -> Output:
        """Secure a batch. TCP packets longer than the path takes (TSO) are cut; what else does not fit is
        sealed whole for the system to fragment, or answered with ICMP where its sender forbids fragments."""
        self._now = now
        output = Output()
        run: list[bytes] = []
        run_entry: OutboundEntry | None = None
        run_protocol = -1
        flows = self._flows
        for packet in packets:
            if not is_plain_ipv4(packet):
                self._refuse_malformed(packet, now)
                continue
            key = flow_key(packet)
            entry = flows.get(key) or self._find_sa(packet, key, now)
            if entry is None:
                continue
            if entry is not run_entry or packet[9] != run_protocol:
                if run_entry is not None:
                    self._seal(run_entry, run_protocol, run, output, now)
                run, run_entry, run_protocol = [], entry, packet[9]
            run.append(packet)
        if run_entry is not None:
            self._seal(run_entry, run_protocol, run, output, now)
        return output

    def inbound(self, packets: Sequence[bytes], now: float) -> list[bytes]:
        """Open a batch of IPv4 packets with ESP; the clear packets that policy accepts, in order."""
        self._now = now
        clear: list[bytes] = []
        run: list[bytes] = []
        run_entry: InboundEntry | None = None
        run_header = 0
        find, from_bytes = self._sad.inbound.get, int.from_bytes
        for packet in packets:
            at = header_length(packet) if packet else 0
            if not is_plain_ipv4(packet) or packet[9] != ESP or len(packet) < at + 8:
                self._refuse_malformed(packet, now)
                continue
            entry = find(packet[16:20] + packet[at : at + 4])
            if entry is None:
                self._refuse(ReasonCode.UNKNOWN_SPI, packet, now, from_bytes(packet[at : at + 4], "big"))
                continue
            if len(packet) - at < entry.opener.minimum_size:
                self._refuse_malformed(packet, now)
                continue
            if not entry.window.check(from_bytes(packet[at + 4 : at + 8], "big")):
                entry.replays += 1
                self._refuse(ReasonCode.REPLAYED, packet, now, entry.sa.spi)
                continue
            if entry is not run_entry or at != run_header:
                if run_entry is not None:
                    self._open(run_entry, run_header, run, clear, now)
                run, run_entry, run_header = [], entry, at
            run.append(packet)
        if run_entry is not None:
            self._open(run_entry, run_header, run, clear, now)
        return clear

    # ---- time, events, numbers -----------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """What time alone brings about; to be called about once a second."""
        self._now = now
        for entry in self._sad:
            self._check_lifetime(entry, now)
        for entry in self._sad:
            self._check_idle(entry, now)
        self._hold.expire(now)
        for key in [key for key, when in self._acquired.items() if now - when >= ACQUIRE_INTERVAL]:
            del self._acquired[key]
        for event in self._refusals.collect(now):
            self._emit_refusal(event)

    def events(self) -> list[DriverEvent]:
        """What happened since the last call."""
        events = list(self._events)
        self._events.clear()
        return events

    def refuse(
        self, code: ReasonCode, source: Address, destination: Address, now: float, *, count: int = 1
    ) -> None:
        """Count packets that somebody else dropped (the classification), as one of ours."""
        self._emit_refusal(self._refusals.add(code, source, destination, now, count=count))

    def statistics(self, now: float) -> DriverStatistics:
        return DriverStatistics(
            sas=tuple(entry.counters(now) for entry in self._sad),
            filters=tuple(
                FilterCounters(name, packets, size) for name, (packets, size) in self._filter_counts.items()
            ),
            held_packets=len(self._hold),
            refused=tuple(sorted(self._refusals.totals.items())),
        )

    # ---- outbound, inside ----------------------------------------------------------------------------------

    def _find_sa(self, packet: bytes, key: bytes, now: float) -> OutboundEntry | None:
        """The SA for a flow that is not in the cache. None: the packet is held or dropped, and accounted
        for."""
        try:
            flow = flow_of(packet)
        except PeerError:
            self._refuse_malformed(packet, now)
            return None
        entry = self.lookup(flow, Direction.OUTBOUND)
        if entry is None or entry.action is not Action.NEGOTIATE or entry.negotiation is None:
            self._refusals.totals[_UNREPORTED_POLICY] += 1
            return None
        if flow.destination.is_multicast or flow.destination == IPv4Address("255.255.255.255"):
            self._refusals.totals[_UNREPORTED_MULTICAST] += 1
            return None
        sa = self._sad.outbound_for(flow, entry.negotiation)
        if sa is None:
            self._hold.add(Held(entry.id, entry.negotiation, flow.destination, packet, now))
            self._acquire(entry.id, flow, now)
            return None
        if len(self._flows) >= MAXIMUM_FLOWS:
            self._flows.clear()
        self._flows[key] = sa
        return sa

    def _acquire(self, filter_id: str, flow: Flow, now: float) -> None:
        key = (filter_id, flow.source, flow.destination)
        last = self._acquired.get(key)
        if last is not None and now - last < ACQUIRE_INTERVAL:
            return
        if len(self._acquired) >= MAXIMUM_ACQUIRES and last is None:
            return
        self._acquired[key] = now
        self._events.append(Acquire(filter_id, flow))

    def _seal(
        self, entry: OutboundEntry, protocol: int, packets: list[bytes], output: Output, now: float
    ) -> None:
        """Seal packets of one SA and protocol. A hard lifetime is checked between batches, so it is overrun
        by one batch at most; the sequence number never is."""
        owners: list[tuple[bytes, int, int]] = []  # packet, its header's length, how many payloads it became
        payloads: list[bytes] = []
        for packet in packets:
            at = header_length(packet)
            largest = entry.sealer.largest_payload(entry.mtu - at)
            if len(packet) - at > largest:
                segments = segment_tcp(packet, largest) if protocol == TCP else None
                if segments is not None:
                    owners.append((packet, at, len(segments)))
                    payloads += segments
                    continue
                if packet[6] & DONT_FRAGMENT:
                    output.local.append(fragmentation_needed(packet, at + largest))
                    continue
            owners.append((packet, at, 1))
            payloads.append(packet[at:])
        # What is beyond the last sequence number is lost; the next packet finds the SA gone and acquires.
        del payloads[MAXIMUM_SEQUENCE - entry.sealer.sequence :]
        sealed = entry.sealer.seal(protocol, payloads)
        done = 0
        for packet, at, count in owners:
            output.wire += with_header(packet, at, ESP, sealed[done : done + count])
            done += count
        entry.count(len(payloads), sum(map(len, payloads)), now)
        self._check_lifetime(entry, now)

    # ---- inbound, inside -----------------------------------------------------------------------------------

    def _open(
        self, entry: InboundEntry, at: int, packets: list[bytes], clear: list[bytes], now: float
    ) -> None:
        accept, known_flows = entry.window.accept, entry.known_flows
        count = size = 0
        for packet, opened in zip(packets, entry.opener.open(packets, at), strict=True):
            if opened is None:
                entry.integrity_failures += 1
                self._refuse(ReasonCode.INTEGRITY_FAILED, packet, now, entry.sa.spi)
                continue
            if not accept(int.from_bytes(packet[at + 4 : at + 8], "big")):
                entry.replays += 1
                self._refuse(ReasonCode.REPLAYED, packet, now, entry.sa.spi)
                continue
            next_header, payload = opened
            if opened is MALFORMED:
                self._refuse_malformed(packet, now, entry.sa.spi)
                continue
            count += 1
            size += len(payload)
            if next_header == NO_NEXT_HEADER:
                continue
            plain = exchange_payload(packet, at, next_header, payload)
            accepted = known_flows.get(flow_key(plain))
            if accepted is None:
                accepted = self._accepts(entry, plain)
            if accepted:
                clear.append(plain)
            else:
                entry.selector_mismatches += 1
                self._refuse(ReasonCode.SELECTOR_MISMATCH, plain, now, entry.sa.spi)
        if count:
            entry.count(count, size, now)
            self._check_lifetime(entry, now)

    def _accepts(self, entry: InboundEntry, plain: bytes) -> bool:
        """RFC 4301 §5.2 step 4: the SA was made for this flow, and policy wants this flow on such an SA."""
        try:
            flow = flow_of(plain)
        except PeerError:
            return False
        found = self.lookup(flow, Direction.INBOUND)
        accepted = (
            entry.sa.selector.matches(flow)
            and found is not None
            and found.action is Action.NEGOTIATE
            and found.negotiation == entry.sa.negotiation
        )
        if len(entry.known_flows) >= MAXIMUM_KNOWN_FLOWS:
            entry.known_flows.clear()
        entry.known_flows[flow_key(plain)] = accepted
        return accepted

    # ---- inside --------------------------------------------------------------------------------------------

    def _forget_flows(self) -> None:
        self._flows.clear()
        for entry in self._sad.inbound.values():
            entry.known_flows.clear()

    def _check_lifetime(self, entry: InboundEntry | OutboundEntry, now: float) -> None:
        sa = entry.sa
        if entry.is_past(now, hard=True):
            self.remove_sa(sa.spi, sa.direction, sa.peer)
            self._events.append(SaExpired(sa.spi, sa.direction, hard=True))
        elif not entry.soft_reported and entry.is_past(now, hard=False):
            entry.soft_reported = True
            self._events.append(SaExpired(sa.spi, sa.direction, hard=False))

    def _check_idle(self, entry: InboundEntry | OutboundEntry, now: float) -> None:
        """One event for a pair: by its outbound half, or by the inbound one where that is alone."""
        partner = self._sad.partner(entry)
        if isinstance(entry, InboundEntry) and partner is not None:
            return
        used = entry.used if partner is None else max(entry.used, partner.used)
        idle = entry.sa.idle_seconds
        if idle is None or now - used < idle or entry.idle_reported:
            if idle is not None and now - used < idle:
                entry.idle_reported = False
            return
        entry.idle_reported = True
        self._events.append(SaIdle(entry.sa.spi, entry.sa.direction))

    def _on_queue_full(self, held: Held) -> None:
        source = IPv4Address(held.packet[12:16])
        self._emit_refusal(self._refusals.add(ReasonCode.QUEUE_FULL, source, held.peer, self._now))

    def _refuse(self, code: ReasonCode, packet: bytes, now: float, spi: int = 0) -> None:
        source, destination = IPv4Address(packet[12:16]), IPv4Address(packet[16:20])
        self._emit_refusal(self._refusals.add(code, source, destination, now, spi=spi))

    def _refuse_malformed(self, packet: bytes, now: float, spi: int = 0) -> None:
        if len(packet) >= 20 and packet[0] >> 4 == 4:
            self._refuse(ReasonCode.MALFORMED_PACKET, packet, now, spi)
        else:
            self._emit_refusal(
                self._refusals.add(ReasonCode.MALFORMED_PACKET, _NOWHERE, _NOWHERE, now, spi=spi)
            )

    def _emit_refusal(self, event: PacketRefused | None) -> None:
        if event is not None and len(self._events) < MAXIMUM_WAITING_EVENTS:
            self._events.append(event)
