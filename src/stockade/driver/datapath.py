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
here, but what a rule with negotiation discovery held for the moment that it took to open the way.

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
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final

from stockade.driver.audit import Audit
from stockade.driver.burst.engine import Burst, Carried, Returned, Verdict
from stockade.driver.contract import DriverEvent, DriverStatistics
from stockade.driver.inbound import Inbound
from stockade.driver.lifetimes import Lifetimes
from stockade.driver.outbound import Outbound, Output
from stockade.driver.path_mtu import PathMtu
from stockade.driver.sad import InboundEntry, OutboundEntry, SaDatabase
from stockade.driver.spd import NO_TUNNELS, PolicyDatabase
from stockade.model.addresses import Address
from stockade.model.filters import Direction, SpecificFilter
from stockade.model.reasons import ReasonCode
from stockade.model.sa import SecurityAssociation
from stockade.model.traffic import Flow

DEFAULT_MTU: Final = 1500
LOOKS: Final = 128
"""SAs that `tick_some` looks at: a fraction of a millisecond."""


class Datapath:
    """One host's filters, SAs and held packets. Times are seconds of one monotonic clock, given by the
    caller; `random` makes the IVs of CBC. `burst`, where there is one, carries the flows that were decided
    here; the caller drives it, and tells with `account` what it did."""

    def __init__(self, random: Callable[[int], bytes] = os.urandom, burst: Burst | None = None) -> None:
        self._random = random
        self._unseen: Iterator[InboundEntry | OutboundEntry] = iter(())
        self._policies = PolicyDatabase()
        self._sad = SaDatabase(burst)
        self._audit = Audit()
        self._path_mtu = PathMtu(self._sad, lambda: self._audit.count(ReasonCode.PATH_REPORT_IGNORED.word))
        self._lifetimes = Lifetimes(self._sad, self._audit, self.remove_sa)
        self._outbound = Outbound(self._policies, self._sad, self._audit, self._lifetimes, burst)
        self._inbound = Inbound(self._policies, self._sad, self._audit, self._lifetimes, self._outbound)

    # ---- filters and SAs -----------------------------------------------------------------------------------

    def install_filters(
        self, filters: Sequence[SpecificFilter], now: float, tunnels: Mapping[str, Address] = NO_TUNNELS
    ) -> Output:
        """Make these the filters in force (heaviest first). What is held is looked up anew. `tunnels`: the
        end point of each negotiation that asks for tunnel mode."""
        self._policies.install(filters, tunnels)
        return self._on_new_filters(now)

    def change_filters(
        self,
        added: Sequence[tuple[SpecificFilter, str | None]],
        removed: Collection[str],
        now: float,
        tunnels: Mapping[str, Address] = NO_TUNNELS,
    ) -> Output:
        """`install_filters` by what differs: each added filter with the id of the one that follows it (None
        at the end), in table order. The rest keeps its place."""
        self._policies.change(added, removed, tunnels)
        return self._on_new_filters(now)

    def _on_new_filters(self, now: float) -> Output:
        self._outbound.forget_flows()
        self._inbound.forget_flows()
        return self._outbound.send_all_held(now)

    def lookup(self, flow: Flow, direction: Direction) -> SpecificFilter | None:
        """The first filter that matches; None permits."""
        return self._policies.lookup(flow, direction)

    def count_filter(self, entry: SpecificFilter, packets: int, size: int) -> None:
        self._policies.count(entry, packets, size)

    def add_sa(self, sa: SecurityAssociation, now: float, mtu: int = DEFAULT_MTU) -> Output:
        """Install one direction; the caller has checked it against the capabilities. An outbound SA lets go
        what waits for it, in order; an inbound one opens what came too early for it. `mtu` is the
        path's, in bytes of IP packet."""
        if sa.direction is Direction.INBOUND:
            entry = InboundEntry(sa, now)
            self._sad.add(entry)
            return Output(local=self._inbound.take_early(entry, now))
        added = OutboundEntry(sa, now, mtu, self._random)
        self._sad.add(added)
        estimate = self._path_mtu.estimate(sa.source, sa.destination, mtu)
        if estimate != mtu:
            added.mtu = estimate
        self._outbound.forget_flows()
        if sa.bundle is not None and added.other is None:
            return Output()
        return self._outbound.send_held(sa.destination, sa.negotiation, now)

    def remove_sa(self, spi: int, direction: Direction, peer: Address) -> None:
        if self._sad.remove(spi, direction, peer):
            self._outbound.forget_flows()

    @property
    def has_sas(self) -> bool:
        return any(True for _ in self._sad)

    def held(self, now: float) -> list[tuple[SecurityAssociation, float]]:
        """Every SA, and how long ago it was installed."""
        return [(entry.sa, max(0.0, now - entry.installed)) for entry in self._sad]

    def tell_again(self) -> None:
        """Whoever was told of soft lifetimes and idle times is gone: tell them anew to who comes now."""
        for entry in self._sad:
            entry.tell_again()

    def release(self, filter_id: str, peer: Address, now: float) -> Output:
        """Drop what is held for this filter and peer, but for what may go in clear by now (negotiation
        discovery); its next packet acquires at once."""
        return self._outbound.release(filter_id, peer)

    def inbound_spis(self) -> Container[int]:
        return self._sad.spis

    # ---- packets -------------------------------------------------------------------------------------------

    def outbound(self, packets: Sequence[bytes], now: float) -> Output:
        """Secure a batch. TCP packets longer than the path takes (TSO) are cut; what else does not fit is
        sealed whole and fragmented, or answered with ICMP where its sender forbids fragments."""
        return self._outbound.send(packets, now)

    def inbound(self, packets: Sequence[bytes], now: float) -> list[bytes]:
        """Open a batch of IP packets with ESP or AH; the clear packets that policy accepts, in order."""
        return self._inbound.receive(packets, now)

    def inbound_udp(self, packets: Sequence[bytes], now: float) -> list[bytes]:
        """As `inbound`, for UDP datagrams to the NAT-traversal port. An SA without UDP refuses what comes so,
        and one with UDP what comes bare: whoever changes the way has changed the agreement."""
        return self._inbound.receive_udp(packets, now)

    def path_reports(self, packets: Sequence[bytes], now: float) -> None:
        """ICMP messages that say that a packet of ours was too long (see `path_mtu`)."""
        for packet in packets:
            self._path_mtu.take(packet, now)

    def account(self, carried: Sequence[Carried], returned: Sequence[Returned], now: float) -> list[bytes]:
        """Count what a call of the burst path did, and what it refused; lifetimes are looked at as after any
        batch. The result are the packets that it left to this path, in order."""
        for refused in returned:
            entry = self._sad.in_burst.get(refused.id)
            if entry is None or refused.verdict is Verdict.PUNTED:
                continue
            if refused.verdict is Verdict.REPLAYED:
                entry.replays += 1
                self._audit.refuse_packet(ReasonCode.REPLAYED, refused.packet, now, entry.sa.spi)
            else:
                entry.integrity_failures += 1
                self._audit.refuse_packet(ReasonCode.INTEGRITY_FAILED, refused.packet, now, entry.sa.spi)
        for each in carried:
            entry = self._sad.in_burst.get(each.id)
            if entry is not None:
                entry.count(each.packets, each.bytes, now)
                self._lifetimes.check(entry, now)
        return [each.packet for each in returned if each.verdict is Verdict.PUNTED]

    # ---- time, events, numbers -----------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """What time alone brings about; to be called about once a second."""
        self._unseen = iter(self._sad)
        while not self.tick_some(now, LOOKS):
            pass

    def tick_some(self, now: float, at_most: int = LOOKS) -> bool:
        """A part of `tick`: looks at so many SAs, and goes on behind them at the next call, so that packets
        need not wait for thousands. Whether that was the last part."""
        part = list(islice(self._unseen, at_most))
        for entry in part:
            if entry.alive:
                self._lifetimes.look(entry, now)
        if len(part) == at_most:
            return False
        self._unseen = iter(self._sad)
        self._outbound.tick(now)
        self._inbound.tick(now)
        self._path_mtu.tick(now)
        self._audit.collect(now)
        return True

    def events(self) -> list[DriverEvent]:
        """What happened since the last call."""
        return self._audit.take()

    def refuse(
        self, code: ReasonCode, source: Address, destination: Address, now: float, *, count: int = 1
    ) -> None:
        """Count packets that somebody else dropped (the classification), as one of ours."""
        self._audit.refuse(code, source, destination, now, count=count)

    def count_overflow(self, packets: int) -> None:
        """Packets that the kernel had to drop because nobody took them."""
        if packets:
            self._audit.count(ReasonCode.RECEIVE_OVERFLOW.word, packets)

    def statistics(self, now: float) -> DriverStatistics:
        return DriverStatistics(
            sas=tuple(entry.counters(now) for entry in self._sad),
            filters=self._policies.counters(),
            held_packets=len(self._outbound.hold),
            refused=self._audit.totals(),
            ended=self._sad.ended.totals(),
        )
