"""The packet path without I/O: IP packets of both families and the time in, sealed or opened packets and
events out.

    from the host's stack ──▶ outbound ──▶ filter ──▶ SA? ──yes──▶ cut to size ──▶ seal ──▶ to the wire
                                                       └──no───▶ hold, Acquire
    from the wire ──▶ inbound ──▶ SA of (destination, SPI) ──▶ replay ──▶ integrity ──▶ open
                              ──▶ do the SA's selector and the filter table agree? ──▶ to the host's stack

RFC 4301 §5.1 and §5.2, in transport and in tunnel mode (`tunnel`). Both drivers run this: `memory` for tests
and the laboratory, `userspace` with real packets. What comes to `outbound` was classified as traffic to
secure; it is looked up again here all the same, for the filter that decides names the negotiation. A packet
that no longer has a negotiate filter is dropped: nothing that was meant to be secured leaves in clear from
here, ever.

IPv6 extension headers of an outbound packet stay before the ESP header and in clear, the destination options
among them (RFC 4303 §3.1.1 leaves the choice); what a peer puts behind it is read. Neighbour discovery
(ICMPv6 133-137 with hop limit 255, which no router forwards, RFC 4861) is not for IPsec: see
`is_neighbour_discovery`.

Transport mode secures whole datagrams (RFC 4303 §3.3.4): outbound fragments are put together first, and
sealed packets are fragmented afterwards. Inbound fragments are put together before they come here.

Left out: IPv6 link-local destinations (a routing table of ours cannot say
which link).
"""

import os
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from itertools import groupby
from types import MappingProxyType
from typing import Final

from stockade.driver.ah import AH
from stockade.driver.burst.engine import Burst, Carried, Returned, Verdict
from stockade.driver.contract import (
    Acquire,
    DriverEvent,
    DriverStatistics,
    FilterCounters,
    PacketRefused,
    SaExpired,
    SaIdle,
    SaSilent,
)
from stockade.driver.esp import MALFORMED, MAXIMUM_SEQUENCE, NO_NEXT_HEADER
from stockade.driver.hold import Held, HoldQueue
from stockade.driver.packets import (
    DONT_FRAGMENT,
    ESP,
    IPV6_HEADER,
    MINIMUM_HEADER,
    SMALLEST_IPV6_MTU,
    TCP,
    UDP,
    addresses_of,
    exchange_payload,
    flow_key,
    fragment,
    in_udp,
    locate,
    out_of_udp,
    segment_tcp,
    too_big,
    with_header,
)
from stockade.driver.reassembly import Reassembled, Reassembly
from stockade.driver.refusals import Refusals
from stockade.driver.sad import MAXIMUM_KNOWN_FLOWS, InboundEntry, OutboundEntry, SaDatabase
from stockade.driver.silence import unanswered_since
from stockade.driver.tunnel import IP_IN_IP, outer_header, outer_size, shape_of, take_out
from stockade.model.addresses import Address
from stockade.model.classifier import Classifier, traffic_key
from stockade.model.filters import Action, Direction, SpecificFilter
from stockade.model.negotiation import Mode
from stockade.model.reasons import PeerError, ReasonCode
from stockade.model.sa import SecurityAssociation
from stockade.model.traffic import Flow
from stockade.wire.ah import AH_FIXED_SIZE
from stockade.wire.ip import flow_of

DEFAULT_MTU: Final = 1500
ACQUIRE_INTERVAL: Final = 1.0
"""Seconds between two acquires of the same filter and pair of hosts."""

MAXIMUM_ACQUIRES: Final = 4096
MAXIMUM_FLOWS: Final = 65_536
MAXIMUM_WAITING_EVENTS: Final = 8192

TELL_INTERVAL: Final = 1.0
"""Seconds between two messages of an SA about IPv6 packets that had to be fragmented."""

_NOWHERE = IPv4Address(0)
_NO_TUNNELS: Final[Mapping[str, Address]] = MappingProxyType({})
_BROADCAST = IPv4Address("255.255.255.255")
_UNREPORTED_POLICY = ReasonCode.POLICY_CHANGED.word
_UNREPORTED_MULTICAST = ReasonCode.NOT_SECURABLE.word


def _bundle_is_whole(entry: InboundEntry, outer: InboundEntry | None) -> bool:
    """Whether a packet came to this SA with nothing of its bundle missing and nothing beside it."""
    if entry.sa.ah is not None:
        return outer is None and entry.other is not None
    return outer is not None and entry.other is outer


@dataclass(slots=True)
class Output:
    """What a batch led to: `wire` are whole IP packets with ESP inside, in order; `local` are packets for
    the host's own stack (ICMP)."""

    wire: list[bytes] = field(default_factory=list)
    local: list[bytes] = field(default_factory=list)


class Datapath:
    """One host's filters, SAs and held packets. Times are seconds of one monotonic clock, given by the
    caller; `random` makes the IVs of CBC. `burst`, where there is one, carries the flows that were decided
    here; the caller drives it, and tells with `account` what it did."""

    def __init__(self, random: Callable[[int], bytes] = os.urandom, burst: Burst | None = None) -> None:
        self._random = random
        self._burst = burst
        self._filters: dict[str, SpecificFilter] = {}  # in table order
        self._classifier = Classifier(())
        self._filter_counts: dict[str, list[int]] = {}
        self._tunnels: dict[str, Address] = {}
        self._sad = SaDatabase(burst)
        self._flows: dict[bytes, OutboundEntry] = {}
        self._acquired: dict[tuple[str, Address, Address], float] = {}
        self._events: deque[DriverEvent] = deque()
        self._refusals = Refusals()
        self._reassembly = Reassembly()
        self._now = 0.0
        self._hold = HoldQueue(self._on_queue_full)

    # ---- filters and SAs -----------------------------------------------------------------------------------

    def install_filters(
        self, filters: Sequence[SpecificFilter], now: float, tunnels: Mapping[str, Address] = _NO_TUNNELS
    ) -> Output:
        """Make these the filters in force (heaviest first). What is held is looked up anew. `tunnels`: the
        end point of each negotiation that asks for tunnel mode."""
        self._filters = {entry.id: entry for entry in filters}
        self._classifier = Classifier(filters)
        return self._on_new_filters(now, tunnels)

    def change_filters(
        self,
        added: Sequence[tuple[SpecificFilter, str | None]],
        removed: Collection[str],
        now: float,
        tunnels: Mapping[str, Address] = _NO_TUNNELS,
    ) -> Output:
        """`install_filters` by what differs: each added filter with the id of the one that follows it (None
        at the end), in table order. The rest keeps its place."""
        old, gone = self._filters, frozenset(removed)
        names = {entry.id for entry, _ in added}
        waiting: dict[
            str | None, list[SpecificFilter]
        ] = {}  # by the filter that stays and follows, last first
        follower: str | None = None
        for entry, before in reversed(added):
            if before not in names:
                follower = before
            waiting.setdefault(follower, []).append(entry)
        new: dict[str, SpecificFilter] = {}
        for name, entry in old.items():
            if name not in gone:
                if name in waiting:
                    new.update((came.id, came) for came in reversed(waiting[name]))
                new[name] = entry
        new.update((came.id, came) for came in reversed(waiting.get(None, ())))
        self._filters = new
        followed = self._classifier.followed_by(old, new, names, gone)
        self._classifier = Classifier(new.values()) if followed is None else followed
        return self._on_new_filters(now, tunnels)

    def _on_new_filters(self, now: float, tunnels: Mapping[str, Address]) -> Output:
        self._now = now
        self._tunnels = dict(tunnels)
        counts = self._filter_counts
        self._filter_counts = {name: counts.get(name) or [0, 0] for name in self._filters}
        self._forget_flows()
        return self.outbound([held.packet for held in self._hold.take(lambda held: True)], now)

    def lookup(self, flow: Flow, direction: Direction) -> SpecificFilter | None:
        """The first filter that matches; None permits."""
        source, destination = flow.source, flow.destination
        found = self._classifier.find(
            direction is Direction.OUTBOUND,
            source.version,
            int(source),
            int(destination),
            traffic_key(flow.protocol, flow.source_port, flow.destination_port),
        )
        return None if found is None else self._filters[found]

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
        added = OutboundEntry(sa, now, mtu, self._random)
        self._sad.add(added)
        self._forget_outbound()
        if sa.bundle is not None and added.other is None:
            return Output()
        waiting = self._hold.take(
            lambda held: held.peer == sa.destination and held.negotiation == sa.negotiation
        )
        return self.outbound([held.packet for held in waiting], now)

    def remove_sa(self, spi: int, direction: Direction, peer: Address) -> None:
        if self._sad.remove(spi, direction, peer):
            self._forget_outbound()

    def release(self, filter_id: str, peer: Address, now: float) -> None:
        """Drop what is held for this filter and peer; its next packet acquires at once."""
        self._now = now
        self._hold.take(lambda held: held.filter_id == filter_id and held.peer == peer)
        for key in [key for key in self._acquired if key[0] == filter_id and key[2] == peer]:
            del self._acquired[key]

    def inbound_spis(self) -> frozenset[int]:
        tables = (self._sad.inbound, self._sad.inbound_ah)
        return frozenset(entry.sa.spi for table in tables for entry in table.values())

    # ---- packets -------------------------------------------------------------------------------------------

    def outbound(self, packets: Sequence[bytes], now: float) -> Output:
        """Secure a batch. TCP packets longer than the path takes (TSO) are cut; what else does not fit is
        sealed whole and fragmented, or answered with ICMP where its sender forbids fragments."""
        self._now = now
        output = Output()
        run: list[tuple[bytes, int]] = []
        run_entry: OutboundEntry | None = None
        run_protocol = -1
        flows = self._flows
        for packet in packets:
            place = locate(packet)
            if place is None:
                packet, place = self._put_together(packet, now)
                if place is None:
                    continue
            at, protocol = place
            key = flow_key(packet, at, protocol)
            entry = flows.get(key) or self._find_sa(packet, key, now)
            if entry is None:
                continue
            if entry.burst is not None:
                entry.burst.learn(key)
            if entry is not run_entry or protocol != run_protocol:
                if run_entry is not None:
                    self._seal(run_entry, run_protocol, run, output, now)
                run, run_entry, run_protocol = [], entry, protocol
            run.append((packet, at))
        if run_entry is not None:
            self._seal(run_entry, run_protocol, run, output, now)
        return output

    def inbound(self, packets: Sequence[bytes], now: float) -> list[bytes]:
        """Open a batch of IP packets with ESP or AH; the clear packets that policy accepts, in order."""
        self._now = now
        return self._inbound(packets, now, None)

    def inbound_udp(self, packets: Sequence[bytes], now: float) -> list[bytes]:
        """As `inbound`, for UDP datagrams to the NAT-traversal port. An SA without UDP refuses what comes so,
        and one with UDP what comes bare: whoever changes the way has changed the agreement."""
        self._now = now
        unwrapped: list[bytes] = []
        for packet in packets:
            place = locate(packet)
            esp = None if place is None or place[1] != UDP else out_of_udp(packet, place[0])
            if esp is None:
                self._refuse_malformed(packet, now)
            else:
                unwrapped.append(esp)
        return self._inbound(unwrapped, now, None, in_udp=True)

    def _inbound(
        self, packets: Sequence[bytes], now: float, outer: InboundEntry | None, in_udp: bool = False
    ) -> list[bytes]:
        """`outer`: the AH entry of a bundle, whose packets these are with their AH taken out."""
        clear: list[bytes] = []
        run: list[bytes] = []
        run_entry: InboundEntry | None = None
        run_header = 0
        tables, from_bytes = {ESP: self._sad.inbound, AH: self._sad.inbound_ah}, int.from_bytes
        for packet in packets:
            place = locate(packet)
            if place is None or place[1] not in tables or len(packet) < place[0] + AH_FIXED_SIZE:
                self._refuse_malformed(packet, now)
                continue
            at, protocol = place
            spi = at if protocol == ESP else at + 4
            destination = packet[16:20] if packet[0] < 0x60 else packet[24:40]
            entry = tables[protocol].get(destination + packet[spi : spi + 4])
            if entry is None:
                self._refuse(ReasonCode.UNKNOWN_SPI, packet, now, from_bytes(packet[spi : spi + 4], "big"))
                continue
            if (entry.sa.udp is not None) is not in_udp or (
                (entry.sa.bundle is not None or outer is not None) and not _bundle_is_whole(entry, outer)
            ):
                entry.selector_mismatches += 1
                self._refuse(ReasonCode.SELECTOR_MISMATCH, packet, now, entry.sa.spi)
                continue
            if len(packet) - at < entry.opener.minimum_size:
                self._refuse_malformed(packet, now)
                continue
            if not entry.window.check(from_bytes(packet[spi + 4 : spi + 8], "big")):
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

    def account(self, carried: Sequence[Carried], returned: Sequence[Returned], now: float) -> list[bytes]:
        """Count what a call of the burst path did, and what it refused; lifetimes are looked at as after any
        batch. The result are the packets that it left to this path, in order."""
        self._now = now
        for refused in returned:
            entry = self._sad.in_burst.get(refused.id)
            if entry is None or refused.verdict is Verdict.PUNTED:
                continue
            if refused.verdict is Verdict.REPLAYED:
                entry.replays += 1
                self._refuse(ReasonCode.REPLAYED, refused.packet, now, entry.sa.spi)
            else:
                entry.integrity_failures += 1
                self._refuse(ReasonCode.INTEGRITY_FAILED, refused.packet, now, entry.sa.spi)
        for each in carried:
            entry = self._sad.in_burst.get(each.id)
            if entry is not None:
                entry.count(each.packets, each.bytes, now)
                self._check_lifetime(entry, now)
        return [each.packet for each in returned if each.verdict is Verdict.PUNTED]

    # ---- time, events, numbers -----------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """What time alone brings about; to be called about once a second."""
        self._now = now
        for entry in self._sad:
            self._check_lifetime(entry, now)
        for entry in self._sad:
            self._check_idle(entry, now)
            if entry.sa.silence_seconds is not None and isinstance(entry, OutboundEntry):
                self._check_silence(entry, entry.sa.silence_seconds, now)
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

    def _put_together(self, packet: bytes, now: float) -> tuple[bytes, tuple[int, int] | None]:
        """The datagram that this fragment completes, and where its payload begins; None there while it is not
        complete, or where the packet is nonsense."""
        try:
            whole = self._reassembly.add(packet, now)
        except PeerError:
            self._refuse_malformed(packet, now)
            return packet, None
        return (packet, None) if whole is None else (whole, locate(whole))

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
        destination = flow.destination
        if destination.is_multicast or destination == _BROADCAST:
            self._refusals.totals[_UNREPORTED_MULTICAST] += 1
            return None
        sa = self._sad.outbound_for(flow, entry.negotiation)
        if sa is None:
            peer = self._tunnels.get(entry.negotiation, flow.destination)
            self._hold.add(Held(entry.id, entry.negotiation, peer, packet, now))
            self._acquire(entry.id, flow, peer, now)
            return None
        if len(self._flows) >= MAXIMUM_FLOWS:
            self._flows.clear()
        self._flows[key] = sa
        return sa

    def _acquire(self, filter_id: str, flow: Flow, peer: Address, now: float) -> None:
        key = (filter_id, flow.source, peer)
        last = self._acquired.get(key)
        if last is not None and now - last < ACQUIRE_INTERVAL:
            return
        if len(self._acquired) >= MAXIMUM_ACQUIRES and last is None:
            return
        self._acquired[key] = now
        self._events.append(Acquire(filter_id, flow))

    def _seal(
        self,
        entry: OutboundEntry,
        protocol: int,
        packets: list[tuple[bytes, int]],
        output: Output,
        now: float,
    ) -> None:
        """Seal packets of one SA and protocol. A hard lifetime is checked between batches, so it is overrun
        by one batch at most; the sequence number never is."""
        if entry.is_tunnel:
            self._seal_tunnel(entry, packets, output, now)
            return
        owners: list[tuple[bytes, int, int]] = []  # packet, its header's length, how many payloads it became
        payloads: list[bytes] = []
        for packet, at in packets:
            largest = entry.largest_payload(entry.mtu - at, packet[0] >> 4)
            if len(packet) - at > largest:
                segments = segment_tcp(packet, largest, at) if protocol == TCP else None
                if segments is not None:
                    owners.append((packet, at, len(segments)))
                    payloads += segments
                    continue
                if not self._may_be_fragmented(entry, packet, at + largest, output, now):
                    continue
            owners.append((packet, at, 1))
            payloads.append(packet[at:])
        outer = entry.outer
        # What is beyond the last sequence number is lost; the next packet finds the SA gone and acquires.
        used = entry.sequence if outer is None else max(entry.sequence, outer.sequence)
        del payloads[MAXIMUM_SEQUENCE - used :]
        sealed = payloads
        if entry.sealer is not None:
            sealed = entry.sealer.seal(protocol, payloads)
            protocol = ESP
            if entry.sa.udp is not None:
                sealed = in_udp(sealed, entry.sa.udp.source_port, entry.sa.udp.destination_port)
                protocol = UDP
        done = 0
        for packet, at, count in owners:
            made = with_header(packet, at, protocol, sealed[done : done + count])
            done += count
            if outer is not None and outer.authenticator is not None:
                made = outer.authenticator.protect(made)
            if made and len(made[0]) > entry.mtu:
                made = fragment(made[0], entry.mtu)
            output.wire += made
        self._count_sealed(entry, payloads, now)

    def _count_sealed(self, entry: OutboundEntry, payloads: list[bytes], now: float) -> None:
        outer = entry.outer
        size = sum(map(len, payloads))
        for each in (entry,) if outer is None or outer is entry else (entry, outer):
            each.count(len(payloads), size, now)
            self._check_lifetime(each, now)

    def _seal_tunnel(
        self, entry: OutboundEntry, packets: list[tuple[bytes, int]], output: Output, now: float
    ) -> None:
        """Seal whole packets of one SA, in runs that get the same outer header."""
        sa, outer = entry.sa, entry.outer
        space = entry.mtu - outer_size(sa.source.version)
        inner: list[bytes] = []
        for packet, at in packets:
            largest = entry.largest_payload(space, sa.source.version)
            if len(packet) > largest:
                is_tcp = (packet[9] if packet[0] < 0x60 else packet[6]) == TCP
                segments = segment_tcp(packet, largest - at, at) if is_tcp else None
                if segments is not None:
                    inner += with_header(packet, at, TCP, segments)
                    continue
                if not self._may_be_fragmented(entry, packet, largest, output, now):
                    continue
            inner.append(packet)
        used = entry.sequence if outer is None else max(entry.sequence, outer.sequence)
        del inner[MAXIMUM_SEQUENCE - used :]
        for shape, run in groupby(inner, shape_of):
            payloads = list(run)
            protocol = IP_IN_IP[shape[0]]
            header = outer_header(sa.source, sa.destination, shape, entry.number + 1)
            entry.number = (entry.number + len(payloads)) & 0xFFFF
            if entry.sealer is not None:
                payloads, protocol = entry.sealer.seal(protocol, payloads), ESP
                if sa.udp is not None:
                    payloads = in_udp(payloads, sa.udp.source_port, sa.udp.destination_port)
                    protocol = UDP
            made = with_header(header, len(header), protocol, payloads)
            if outer is not None and outer.authenticator is not None:
                made = outer.authenticator.protect(made)
            for packet in made:
                output.wire += fragment(packet, entry.mtu) if len(packet) > entry.mtu else (packet,)
        self._count_sealed(entry, inner, now)

    @staticmethod
    def _may_be_fragmented(
        entry: OutboundEntry, packet: bytes, fits: int, output: Output, now: float
    ) -> bool:
        """Whether a packet that does not fit is sealed all the same; its sender is told what fits.

        An IPv6 packet does not say whether its sender would rather make fragments itself, and a local sender
        that would has made none, for the device takes everything: so it is sealed, and told too, now and
        then."""
        if type(packet) is Reassembled:
            return True
        if packet[0] < 0x60:
            if packet[6] & DONT_FRAGMENT:
                output.local.append(too_big(packet, fits))
                return False
            return True
        if fits >= SMALLEST_IPV6_MTU and now - entry.told >= TELL_INTERVAL:
            entry.told = now
            output.local.append(too_big(packet, fits))
        return True

    # ---- inbound, inside -----------------------------------------------------------------------------------

    def _open(
        self, entry: InboundEntry, at: int, packets: list[bytes], clear: list[bytes], now: float
    ) -> None:
        accept, known_flows = entry.window.accept, entry.known_flows
        is_tunnel = entry.sa.mode is Mode.TUNNEL
        number = at + 4 if entry.sa.ah is None else at + 8
        count = size = 0
        bundled: list[bytes] = []
        for packet, opened in zip(packets, entry.opener.open(packets, at), strict=True):
            if opened is None:
                entry.integrity_failures += 1
                self._refuse(ReasonCode.INTEGRITY_FAILED, packet, now, entry.sa.spi)
                continue
            if not accept(int.from_bytes(packet[number : number + 4], "big")):
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
            if entry.sa.bundle is not None and entry.sa.ah is not None:
                bundled.append(exchange_payload(packet, at, next_header, payload))
                continue
            if is_tunnel:
                inside = take_out(packet, next_header, payload)
                if inside is None:
                    self._refuse_malformed(packet, now, entry.sa.spi)
                    continue
                plain = inside
                # A fragment inside has no ports, nor a key of its own.
                place = locate(plain)
                key = b"" if place is None else flow_key(plain, *place)
            else:
                plain = exchange_payload(packet, at, next_header, payload)
                if entry.mend is not None:
                    plain = entry.mend(plain, at, next_header)
                key = flow_key(plain, at, next_header)
            accepted = known_flows.get(key)
            if accepted is None:
                accepted = self._accepts(entry, plain, key)
            if accepted:
                clear.append(plain)
                # what needs another checksum behind a NAT stays on this path
                if entry.burst is not None and entry.mend is None and key in known_flows:
                    entry.burst.learn(key)
            else:
                entry.selector_mismatches += 1
                self._refuse(ReasonCode.SELECTOR_MISMATCH, plain, now, entry.sa.spi)
        if count:
            entry.count(count, size, now)
            self._check_lifetime(entry, now)
        if bundled:
            clear += self._inbound(bundled, now, entry)

    def _accepts(self, entry: InboundEntry, plain: bytes, key: bytes) -> bool:
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
            and self._is_of_rule(entry.sa, found.negotiation, flow)
        )
        # Behind an IPv6 extension header stand ports that the key does not have: asked every time.
        if key and key[0] == flow.protocol:
            if len(entry.known_flows) >= MAXIMUM_KNOWN_FLOWS:
                entry.known_flows.clear()
            entry.known_flows[key] = accepted
        return accepted

    def _is_of_rule(self, sa: SecurityAssociation, negotiation: str | None, flow: Flow) -> bool:
        """Whether the SA was made for the negotiation that a filter names. Windows has one rule for each
        direction of a tunnel: the inbound one's end point is our own address and names no peer, and the SA
        was made for the outbound one, whose end point is the peer's. So what came belongs to the SA only if
        an answer to it would leave by the same rule: traffic that another tunnel answers came from the wrong
        peer."""
        if negotiation is None or negotiation == sa.negotiation:
            return negotiation is not None
        if (
            sa.mode is not Mode.TUNNEL
            or self._tunnels.get(negotiation) != sa.destination
            or self._tunnels.get(sa.negotiation) != sa.source
        ):
            return False
        found = self.lookup(flow.reversed(), Direction.OUTBOUND)
        return found is not None and found.negotiation == sa.negotiation

    # ---- inside --------------------------------------------------------------------------------------------

    def _forget_outbound(self) -> None:
        self._flows.clear()
        if self._burst is not None:
            self._burst.forget()

    def _forget_flows(self) -> None:
        self._forget_outbound()
        for entry in self._sad:
            if isinstance(entry, InboundEntry):
                entry.known_flows.clear()

    def _check_lifetime(self, entry: InboundEntry | OutboundEntry, now: float) -> None:
        sa = entry.sa
        if entry.is_past(now, hard=True):
            for each in (sa,) if entry.other is None else (sa, entry.other.sa):  # a bundle dies whole
                self.remove_sa(each.spi, each.direction, each.peer)
                self._events.append(SaExpired(each.spi, each.direction, True, each.peer))
        elif not entry.soft_reported and entry.is_past(now, hard=False):
            entry.soft_reported = True
            self._events.append(SaExpired(sa.spi, sa.direction, False, sa.peer))

    def _check_idle(self, entry: InboundEntry | OutboundEntry, now: float) -> None:
        """One event for a pair: by its outbound half, or by the inbound one where that is alone; for a bundle
        by its ESP half."""
        if entry.sa.bundle is not None and entry.sa.ah is not None:
            return
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
        self._events.append(SaIdle(entry.sa.spi, entry.sa.direction, entry.sa.peer))

    def _check_silence(self, entry: OutboundEntry, patience: float, now: float) -> None:
        partner = self._sad.partner(entry)
        if partner is None:
            return
        entry.unanswered, silent = unanswered_since(entry.unanswered, entry.used, partner.used, patience, now)
        if silent:
            self._events.append(SaSilent(entry.sa.spi, entry.sa.direction, entry.sa.peer))

    def _on_queue_full(self, held: Held) -> None:
        source, _ = addresses_of(held.packet)
        self._emit_refusal(self._refusals.add(ReasonCode.QUEUE_FULL, source, held.peer, self._now))

    def _refuse(self, code: ReasonCode, packet: bytes, now: float, spi: int = 0) -> None:
        source, destination = addresses_of(packet)
        self._emit_refusal(self._refusals.add(code, source, destination, now, spi=spi))

    def _refuse_malformed(self, packet: bytes, now: float, spi: int = 0) -> None:
        version = packet[0] >> 4 if packet else 0
        if (version == 4 and len(packet) >= MINIMUM_HEADER) or (version == 6 and len(packet) >= IPV6_HEADER):
            self._refuse(ReasonCode.MALFORMED_PACKET, packet, now, spi)
        else:
            self._emit_refusal(
                self._refusals.add(ReasonCode.MALFORMED_PACKET, _NOWHERE, _NOWHERE, now, spi=spi)
            )

    def _emit_refusal(self, event: PacketRefused | None) -> None:
        if event is not None and len(self._events) < MAXIMUM_WAITING_EVENTS:
            self._events.append(event)
