"""Outbound: filter, SA, cut to size, seal (RFC 4301 §5.1). See `datapath` for the whole way."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from itertools import groupby
from typing import Final

from stockade.driver.audit import Audit
from stockade.driver.burst.engine import Burst
from stockade.driver.contract import Acquire
from stockade.driver.hold import Held, HoldQueue
from stockade.driver.lifetimes import Lifetimes
from stockade.driver.packets import (
    DONT_FRAGMENT,
    ESP,
    SMALLEST_IPV6_MTU,
    TCP,
    UDP,
    addresses_of,
    flow_key,
    fragment,
    in_udp,
    locate,
    segment_tcp,
    too_big,
    with_header,
)
from stockade.driver.reassembly import Reassembled, Reassembly
from stockade.driver.sad import OutboundEntry, SaDatabase
from stockade.driver.spd import PolicyDatabase
from stockade.driver.tunnel import IP_IN_IP, outer_header, outer_size, shape_of
from stockade.model.addresses import Address
from stockade.model.filters import Action, Direction
from stockade.model.reasons import PeerError, ReasonCode
from stockade.model.traffic import Flow
from stockade.wire.ip import flow_of

ACQUIRE_INTERVAL: Final = 1.0
"""Seconds between two acquires of the same filter and pair of hosts."""

MAXIMUM_ACQUIRES: Final = 4096
MAXIMUM_FLOWS: Final = 65_536

USUAL_MTU: Final = 1500
"""Of packets that leave without an SA, which would know its path's. The device behind the raw socket may make
fragments of them."""

TELL_INTERVAL: Final = 1.0
"""Seconds between two messages of an SA about IPv6 packets that had to be fragmented."""

_BROADCAST = IPv4Address("255.255.255.255")
_UNREPORTED_POLICY = ReasonCode.POLICY_CHANGED.word
_UNREPORTED_MULTICAST = ReasonCode.NOT_SECURABLE.word


@dataclass(slots=True)
class Output:
    """What a batch led to: `wire` are whole IP packets with ESP inside, in order; `local` are packets for
    the host's own stack (ICMP)."""

    wire: list[bytes] = field(default_factory=list)
    local: list[bytes] = field(default_factory=list)


class Outbound:
    """Seals. Keeps which flow uses which SA, what waits for one, and what was asked for lately."""

    def __init__(
        self,
        policies: PolicyDatabase,
        sad: SaDatabase,
        audit: Audit,
        lifetimes: Lifetimes,
        burst: Burst | None,
    ) -> None:
        self._policies = policies
        self._sad = sad
        self._audit = audit
        self._lifetimes = lifetimes
        self._burst = burst
        self._flows: dict[bytes, OutboundEntry] = {}
        self._behind_nat: dict[Flow, int] = {}
        """Flow -> the UDP port behind which its other end stands, with NATs."""
        self._acquired: dict[tuple[str, Address, Address], float] = {}
        self._reassembly = Reassembly()
        self._now = 0.0
        self.hold = HoldQueue(self._on_queue_full)

    def forget_flows(self) -> None:
        """Filters or SAs changed."""
        self._flows.clear()
        if self._burst is not None:
            self._burst.forget()

    def answer_there(self, flow: Flow, port: int) -> None:
        """Several peers behind one NAT have one address and selectors that are the same: the answers of a
        flow go where it came from (RFC 3948 §5.2)."""
        known = self._behind_nat.get(flow)
        if known == port:
            return
        if len(self._behind_nat) >= MAXIMUM_FLOWS:
            self._behind_nat.clear()
        self._behind_nat[flow] = port
        if known is not None:
            self._flows.clear()

    def release(self, filter_id: str, peer: Address) -> Output:
        """Drop what is held for this filter and peer, but for what may go in clear by now; its next packet
        acquires at once."""
        output = Output()
        for held in self.hold.take(lambda held: held.filter_id == filter_id and held.peer == peer):
            if self._may_go_in_clear(held):
                output.wire += _cut(held.packet)
        for key in [key for key in self._acquired if key[0] == filter_id and key[2] == peer]:
            del self._acquired[key]
        return output

    def _may_go_in_clear(self, held: Held) -> bool:
        """Negotiation discovery: the agent has opened the way for just this traffic."""
        entry = self._policies.lookup(flow_of(held.packet), Direction.OUTBOUND)
        return entry is not None and entry.action is Action.PERMIT and entry.allow_soft

    def tick(self, now: float) -> None:
        self.hold.expire(now)
        for key in [key for key, when in self._acquired.items() if now - when >= ACQUIRE_INTERVAL]:
            del self._acquired[key]

    def send_held(self, peer: Address, negotiation: str, now: float) -> Output:
        """What waits for an SA of this negotiation with this peer, in order. Its acquires are answered: where
        the SA goes a moment later, the next packet asks at once."""
        waiting = self.hold.take(lambda held: held.peer == peer and held.negotiation == negotiation)
        for held in waiting:
            self._acquired.pop((held.filter_id, addresses_of(held.packet)[0], peer), None)
        return self.send([held.packet for held in waiting], now)

    def send_all_held(self, now: float) -> Output:
        """Look up anew what is held. What may go in clear waits for `release`: the way back is not open
        yet."""
        return self.send(
            [held.packet for held in self.hold.take(lambda held: not self._may_go_in_clear(held))], now
        )

    def _on_queue_full(self, held: Held) -> None:
        source, _ = addresses_of(held.packet)
        self._audit.refuse(ReasonCode.QUEUE_FULL, source, held.peer, self._now)

    def send(self, packets: Sequence[bytes], now: float) -> Output:
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

    def _put_together(self, packet: bytes, now: float) -> tuple[bytes, tuple[int, int] | None]:
        """The datagram that this fragment completes, and where its payload begins; None there while it is not
        complete, or where the packet is nonsense."""
        try:
            whole = self._reassembly.add(packet, now)
        except PeerError:
            self._audit.refuse_malformed(packet, now)
            return packet, None
        return (packet, None) if whole is None else (whole, locate(whole))

    def _find_sa(self, packet: bytes, key: bytes, now: float) -> OutboundEntry | None:
        """The SA for a flow that is not in the cache. None: the packet is held or dropped, and accounted
        for."""
        try:
            flow = flow_of(packet)
        except PeerError:
            self._audit.refuse_malformed(packet, now)
            return None
        entry = self._policies.lookup(flow, Direction.OUTBOUND)
        if entry is None or entry.action is not Action.NEGOTIATE or entry.negotiation is None:
            self._audit.count(_UNREPORTED_POLICY)
            return None
        destination = flow.destination
        if destination.is_multicast or destination == _BROADCAST:
            self._audit.count(_UNREPORTED_MULTICAST)
            return None
        sa = self._sad.outbound_for(flow, entry.negotiation, self._behind_nat.get(flow, 0))
        if sa is None:
            peer = self._policies.tunnels.get(entry.negotiation, flow.destination)
            self.hold.add(Held(entry.id, entry.negotiation, peer, packet, now))
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
        self._audit.tell(Acquire(filter_id, flow))

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
        del payloads[entry.numbers_left :]
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
            self._lifetimes.check(each, now)

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
        del inner[entry.numbers_left :]
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


def _cut(packet: bytes) -> list[bytes]:
    """A packet for the wire as it is, in pieces where it is longer than links are; none where it cannot be
    cut and its sender has to repeat it smaller."""
    place = locate(packet)
    if place is None or len(packet) <= USUAL_MTU:
        return [packet]
    at, protocol = place
    segments = segment_tcp(packet, USUAL_MTU - at, at) if protocol == TCP else None
    if segments is not None:
        return with_header(packet, at, TCP, segments)
    return [] if packet[0] < 0x60 and packet[6] & DONT_FRAGMENT else fragment(packet, USUAL_MTU)
