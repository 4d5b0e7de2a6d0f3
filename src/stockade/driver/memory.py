"""The driver without a system underneath: packets in, packets out by two callables. For tests, what-if and
the lab.

It does in Python what nftables does for `userspace`: permit, block, negotiate and inpass, in both directions.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from stockade.driver.contract import DriverEvent, DriverStatistics, PacketRefused, Survivor
from stockade.driver.datapath import DEFAULT_MTU, Datapath
from stockade.driver.limits import check_sa, check_table, secures_ipv6, software_capabilities, tunnels_of
from stockade.driver.outbound import Output
from stockade.driver.packets import is_neighbour_discovery, locate, out_of_udp
from stockade.driver.reassembly import Reassembly
from stockade.driver.spis import SpiSource
from stockade.model.addresses import Address
from stockade.model.capabilities import Capabilities
from stockade.model.filters import Action, Direction, FilterTable, SpecificFilter
from stockade.model.reasons import PeerError, Reason, ReasonCode, error_for
from stockade.model.sa import SecurityAssociation
from stockade.model.secret import Secret
from stockade.model.traffic import AH, ESP, UDP
from stockade.wire.ip import flow_of
from stockade.wire.udp_encapsulation import NAT_TRAVERSAL_PORT


class MemoryDriver:
    """Implements `Driver`. `transmit` gets what goes to the wire (clear or ESP), `deliver` what reaches the
    host's stack: whole IP packets. Time is whatever `outbound`, `inbound` and `tick` last named."""

    def __init__(
        self,
        transmit: Callable[[bytes], None],
        deliver: Callable[[bytes], None],
        *,
        random: Callable[[int], bytes] = os.urandom,
        mtu: int = DEFAULT_MTU,
    ) -> None:
        self._transmit = transmit
        self._deliver = deliver
        self._mtu = mtu
        self._random = random
        self._filters: tuple[SpecificFilter, ...] = ()
        self._tunnels: dict[str, Address] = {}
        self._secures_ipv6 = False
        self._datapath = Datapath(random)
        self._reassembly = Reassembly()
        self._spis = SpiSource(random)
        self._now = 0.0
        self._running = False
        self._kept = False

    # ---- packets and time ----------------------------------------------------------------------------------

    def outbound(self, ip_packet: bytes, now: float) -> None:
        """The host sends a packet."""
        self._now = now
        if not self._running and not self._kept:
            self._transmit(ip_packet)
            return
        if self._secures_ipv6 and is_neighbour_discovery(ip_packet):
            self._transmit(ip_packet)
            return
        try:
            flow = flow_of(ip_packet)
        except PeerError:
            return
        entry = self._datapath.lookup(flow, Direction.OUTBOUND)
        if entry is not None:
            self._datapath.count_filter(entry, 1, len(ip_packet))
        if entry is None or entry.action is Action.PERMIT:
            self._transmit(ip_packet)
        elif entry.action is Action.NEGOTIATE and self._running:
            self._emit(self._datapath.outbound([ip_packet], now))

    def inbound(self, ip_packet: bytes, now: float) -> None:
        """A packet comes from the wire."""
        self._now = now
        if not self._running and not self._kept:
            self._deliver(ip_packet)
            return
        if self._secures_ipv6 and is_neighbour_discovery(ip_packet):
            self._deliver(ip_packet)
            return
        try:
            flow = flow_of(ip_packet)
        except PeerError:
            return
        if flow.protocol in (ESP, AH):
            if self._running:
                self._open(ip_packet, now)
            return
        if self._running and flow.protocol == UDP and flow.destination_port == NAT_TRAVERSAL_PORT:
            place = locate(ip_packet)
            if place is not None and out_of_udp(ip_packet, place[0]) is not None:
                for clear in self._datapath.inbound_udp([ip_packet], now):
                    self._deliver(clear)
                return
        entry = self._datapath.lookup(flow, Direction.INBOUND)
        if entry is not None:
            self._datapath.count_filter(entry, 1, len(ip_packet))
        if entry is None or entry.action is Action.PERMIT or entry.accept_clear:
            self._deliver(ip_packet)
        elif entry.action is Action.NEGOTIATE:
            self._datapath.refuse(ReasonCode.CLEAR_DROPPED, flow.source, flow.destination, now)

    def _open(self, packet: bytes, now: float) -> None:
        whole: bytes | None = packet
        if locate(packet) is None:  # the kernel does this for the user-space driver
            with suppress(PeerError):
                whole = self._reassembly.add(packet, now)
        for clear in self._datapath.inbound([whole] if whole is not None else [], now):
            self._deliver(clear)

    def tick(self, now: float) -> None:
        """Let time pass: lifetimes, idle SAs, events that were summed up."""
        self._now = now
        self._datapath.tick(now)

    # ---- Driver --------------------------------------------------------------------------------------------

    @property
    def capabilities(self) -> Capabilities:
        return software_capabilities("memory")

    def start(self) -> None:
        self._running = True
        self._kept = False

    def stop(self, keep_filters: bool = False) -> None:
        self._running = False
        self._kept = keep_filters
        # The SAs and what is held end here; the filters may stay.
        self._datapath = Datapath(self._random)
        self._spis.lose()
        if keep_filters:
            self._datapath.install_filters(self._filters, self._now, self._tunnels)

    def survivors(self) -> Sequence[Survivor]:
        """All SAs: to be asked once, by an agent that takes this driver over from another one."""
        self._datapath.tell_again()
        nothing = Secret(b"")
        return [
            Survivor(replace(sa, encryption_key=nothing, integrity_key=nothing), age)
            for sa, age in self._datapath.held(self._now)
        ]

    def leave(self) -> None:
        """Nobody can come after."""
        self.stop(keep_filters=True)

    def free_ike_ports(self) -> None:
        """It has none."""

    def install_filters(self, table: FilterTable) -> None:
        check_table(table, self.capabilities)
        self._filters = table.filters
        self._secures_ipv6 = secures_ipv6(table)
        self._tunnels = tunnels_of(table)
        self._emit(self._datapath.install_filters(table.filters, self._now, self._tunnels))

    def get_spi(self, local: Address, peer: Address) -> int:
        return self._spis.reserve(self._datapath.inbound_spis())

    def add_sa(self, sa: SecurityAssociation) -> None:
        if not self._running:
            raise error_for(ReasonCode.DRIVER_FAILED, "the driver is not started")
        check_sa(sa, self.capabilities)
        self._emit(self._datapath.add_sa(sa, self._now, self._mtu))
        if sa.direction is Direction.INBOUND:
            self._spis.came(sa.spi, self._now)

    def remove_sa(self, spi: int, direction: Direction, peer: Address) -> None:
        self._datapath.remove_sa(spi, direction, peer)
        if direction is Direction.INBOUND:
            self._spis.settle(spi)

    def release(self, filter_id: str, peer: Address, reason: Reason) -> None:
        self._emit(self._datapath.release(filter_id, peer, self._now))

    def events(self) -> Sequence[DriverEvent]:
        return [event for event in self._datapath.events() if not self._is_early(event)]

    def _is_early(self, event: DriverEvent) -> bool:
        # What overtook its SA (`early.py`) is no sign of lost state.
        return (
            isinstance(event, PacketRefused)
            and event.reason.code is ReasonCode.UNKNOWN_SPI
            and self._spis.is_awaited(event.spi, self._now)
        )

    def fileno(self) -> int:
        return -1

    def statistics(self, *, filters: bool = True) -> DriverStatistics:
        return self._datapath.statistics(self._now)

    def _emit(self, output: Output) -> None:
        for packet in output.wire:
            self._transmit(packet)
        for packet in output.local:
            self._deliver(packet)
