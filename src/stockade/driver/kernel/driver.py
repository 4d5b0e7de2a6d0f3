"""The kernel driver: the filter table and the SAs live in the kernel's XFRM, this process only writes and
listens.

    install_filters ──▶ `filters`: policies (see `policies`)     ACQUIRE ──▶ Acquire     MAPPING ──▶ PeerMoved
    add_sa, remove_sa ──▶ `sas`: states (see `states`)           EXPIRE  ──▶ SaExpired
    statistics ◀── dump of the states                            `looks` ──▶ SaIdle, PacketRefused
    survivors ◀── `orphans`: what the last run left              both, to and from the kernel: `tables`

What belongs to this process ends with it; states and policies do not. So a killed agent leaves a host that
secures what it secured and lets nothing pass that it did not: where an SA ends, nobody makes a new one. The
next start finds the policies by their tag and takes them over. It finds the SAs too: `survivors` lists those
that the `ledger` tells of, for the agent to keep or remove, and ends the others. Until it is asked, they stay
(ORPHAN_SECONDS at most, or HANDOVER_SECONDS after their peer has an SA of ours): their packets need not stop.

Held packets: the kernel queues up to 100 for a policy and sends them when an SA is there; it does not tell
how many, so `held_packets` counts the SAs that it waits for. `release` leaves them there, unless a soft SA
has opened the way for them: then they are looked up anew. The kernel forgets an unanswered acquire after 3 s
(see `system`), so that the next packet acquires anew; packets held for a negotiation that failed leave,
secured, with those of the next one that does not, or are dropped by the kernel within two minutes.

Counted are SAs, and the filters whose packets went through an SA. For permit and block the kernel keeps no
numbers."""

import errno
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from stockade.driver import probe
from stockade.driver.contract import (
    Acquire,
    DriverEvent,
    DriverFailed,
    DriverStatistics,
    PeerMoved,
    SaExpired,
    Survivor,
)
from stockade.driver.event_queue import EventQueue
from stockade.driver.kernel import policies, states
from stockade.driver.kernel.early import EarlyWatch
from stockade.driver.kernel.filters import InstalledFilters
from stockade.driver.kernel.ledger import Ledger
from stockade.driver.kernel.listener import Listener, bypass_socket, take_esp_in_udp
from stockade.driver.kernel.looks import LOOK_SECONDS, Looks
from stockade.driver.kernel.offload import HardwareOffload
from stockade.driver.kernel.orphans import Orphans
from stockade.driver.kernel.sas import InstalledSa, InstalledSas
from stockade.driver.kernel.system import Claim, Settings
from stockade.driver.kernel.tables import KernelTables, state_key
from stockade.driver.limits import check_table
from stockade.driver.netlink import NetlinkError
from stockade.model.addresses import Address
from stockade.model.capabilities import Capabilities
from stockade.model.filters import Direction, FilterTable
from stockade.model.reasons import Reason, ReasonCode, StockadeError, error_for
from stockade.model.sa import SecurityAssociation
from stockade.model.traffic import AH, ESP, PROTOCOLS_WITH_PORTS, Flow
from stockade.wire.udp_encapsulation import NAT_TRAVERSAL_PORT
from stockade.wire.xfrm import Acquired, Expired, Mapped

ACQUIRE_SECONDS: Final = 1.0
"""Between two acquires of the same filter and pair of hosts."""

MAXIMUM_REMEMBERED: Final = 4096
"""Pairs whose last acquire is remembered."""


class KernelDriver:
    """Implements `Driver`. One per network namespace: that of the thread that calls `start`. Not safe for
    several threads. `ledger`: the path of the file by which the next driver knows what our SAs are; without
    it none is adopted. `hardware`: whether network cards may carry SAs."""

    def __init__(self, ledger: Path | None = None, *, hardware: bool = True) -> None:
        self._ledger = Ledger(ledger)
        self._hardware = HardwareOffload(wanted=hardware)
        self._capabilities: Capabilities | None = None
        self._tables = KernelTables()
        self._events = EventQueue()
        self._filters = InstalledFilters(self._tables)
        self._sas = InstalledSas(self._tables, self._filters, self._ledger)
        self._orphans = Orphans(self._tables, self._ledger)
        self._looks = Looks(self._tables, self._sas, self._orphans, self._events)
        self._listener: Listener | None = None
        self._early = EarlyWatch()
        self._claim = Claim()
        self._settings = Settings()
        self._ticker: _Ticker | None = None
        self._acquired: dict[tuple[str, Address, Address], float] = {}

    # ---- Driver --------------------------------------------------------------------------------------------

    @property
    def capabilities(self) -> Capabilities:
        """Found out by trying, once; `HostError` where that is not allowed."""
        if self._capabilities is None:
            self._capabilities = probe.kernel_capabilities()
        return self._capabilities

    def start(self) -> None:
        """`HostError`: NOT_PRIVILEGED, or DRIVER_FAILED where the kernel has no ESP or another driver runs
        here."""
        if self._tables.is_open:
            return
        refusal = probe.esp_refusal()
        if refusal is not None:
            code = ReasonCode.NOT_PRIVILEGED if os.geteuid() else ReasonCode.DRIVER_FAILED
            raise error_for(code, f"the kernel data plane cannot run: {refusal}")
        self._claim.take()
        try:
            self._open()
        except OSError as error:
            self._let_go()
            raise error_for(ReasonCode.DRIVER_FAILED, f"XFRM netlink: {error.strerror}") from None
        except StockadeError:
            self._let_go()
            raise

    def _open(self) -> None:
        self._tables.open()
        self._listener = Listener()
        self._events.watch(self._listener.fileno())
        self._settings.apply()
        self._filters.find()
        self._orphans.find(time.monotonic())
        self._looks.begin()
        self._ticker = _Ticker(self._events.wake, LOOK_SECONDS)
        self._ticker.start()

    def stop(self, keep_filters: bool = False) -> None:
        """May be called at any time, more than once, and without `start`: then it removes what a killed run
        left, unless another driver runs here. What the kernel refuses to remove does not keep the rest."""
        if not self._tables.is_open:
            with suppress(StockadeError, OSError):
                self._claim.take()
                self._tables.open()
            if not self._tables.is_open:
                self._claim.release()
                return
        refused: StockadeError | None = None
        try:
            ours = [state_key(state) for state in self._tables.states() if states.is_ours(state)]
            refused = self._tables.remove_states(ours)
            if not keep_filters:
                refused = self._filters.remove() or refused
            self._filters.distrust()
        finally:
            if not keep_filters:
                self._settings.restore()
            self._sas.clear()
            self._orphans.clear()
            self._ledger.end()
            self._let_go()
        if refused is not None:
            raise refused

    def _let_go(self) -> None:
        with suppress(StockadeError):
            self._sas.remove_doomed()
        if self._ticker is not None:
            self._ticker.stop()
            self._ticker = None
        self._looks.end()
        if self._listener is not None:
            self._events.unwatch(self._listener.fileno())
            self._listener.close()
            self._listener = None
        self._tables.close()
        self._early.close()
        self._ledger.close()
        self._claim.release()

    def survivors(self) -> Sequence[Survivor]:
        """Those whose record agrees with what is in the kernel; the others are ended."""
        now = time.monotonic()
        found = []
        for key, state, sa, installed in self._orphans.recognize(self._filters.known_request_id):
            entry = InstalledSa(sa, min(installed, now), now, state.usage)
            self._sas.adopt(key, entry)
            found.append(Survivor(sa, now - entry.installed))
        self._ledger.begin({key: (entry.sa, entry.installed) for key, entry in self._sas.items()})
        return found

    def leave(self) -> None:
        """States, policies and the ledger stay."""
        self._let_go()

    def free_ike_ports(self) -> None:
        """Nobody has them: the kernel takes ESP in UDP from the sockets of the key exchange."""

    def install_filters(self, table: FilterTable) -> None:
        capabilities = self.capabilities
        check_table(table, capabilities)
        needed = (entry.sa.negotiation for entry in self._sas)
        self._sas.forget_filters(self._filters.install(table, capabilities, needed))

    def get_spi(self, local: Address, peer: Address) -> int:
        spi = self._tables.reserve_spi(local, peer)
        self._early.expect(spi, local.version)
        return spi

    def listen_ahead(self) -> None:
        if self._listener is not None:
            self._early.listen(time.monotonic())

    def add_sa(self, sa: SecurityAssociation) -> None:
        states.check_sa(sa, self.capabilities)
        request_id = self._filters.request_id(sa.negotiation)
        state = states.state_of(sa, request_id)
        key = state_key(state)
        self._sas.remove_doomed()
        if self._sas.get(key) is not None:
            # Replacing it would start its sequence numbers, and with AES-GCM its nonces, again.
            raise error_for(
                ReasonCode.DRIVER_LACKS, "this SPI is in use", spi=f"{sa.spi:#010x}", peer=sa.peer
            )
        self._tables.add_state(state, self._hardware.of(sa), reserved=sa.direction is Direction.INBOUND)
        self._filters.know(sa.negotiation, request_id)
        now = time.monotonic()
        self._sas.add(key, InstalledSa(sa, now, now))
        if sa.direction is Direction.INBOUND:
            self._take_early(sa, now)
        else:
            self._orphans.peer_has_another(sa.peer, now)
            self._filters.send_held(sa.filter_id, sa)
            self._forget_acquires(sa.filter_id, sa.peer)

    def _take_early(self, sa: SecurityAssociation, now: float) -> None:
        """Have the kernel receive anew what came ahead of this SA, or of the bundle that it completes."""
        here = [(AH if sa.esp is None else ESP, sa.spi)]
        if sa.bundle is not None:
            here.append((ESP if sa.esp is None else AH, sa.bundle))
        entries = [self._sas.get((sa.destination, spi, protocol)) for protocol, spi in here]
        if entries[-1] is None:
            return  # the other half comes in a moment
        packets = self._early.take(sa.destination, here, now)
        for _, spi in here:
            self._early.settle(spi)
        if packets:
            for entry in entries:
                if entry is not None:
                    entry.given = len(packets)
            self._looks.were_given(self._early.give(packets))

    def remove_sa(self, spi: int, direction: Direction, peer: Address) -> None:
        if direction is Direction.INBOUND:
            self._early.settle(spi)
        self._sas.remove(spi, direction, peer)

    def release(self, filter_id: str, peer: Address, reason: Reason) -> None:
        self._forget_acquires(filter_id, peer)
        if reason.code is ReasonCode.SOFT_FALLBACK:  # what is held goes in clear now, by the soft SA's policy
            self._filters.send_held(filter_id)

    def _forget_acquires(self, filter_id: str, peer: Address) -> None:
        for key in [key for key in self._acquired if (key[0], key[2]) == (filter_id, peer)]:
            del self._acquired[key]

    def events(self) -> Sequence[DriverEvent]:
        self._events.hush()
        self._sas.begin_round()
        try:
            self._sas.remove_doomed()
        except StockadeError as error:
            self._events.append(DriverFailed(error.reason))
        if self._listener is not None:
            now = time.monotonic()
            self._early.listen(now)
            for event in self._listener.read():
                if isinstance(event, Acquired):
                    self._on_acquire(event, now)
                elif isinstance(event, Expired):
                    self._on_expire(event)
                else:
                    self._on_mapping(event)
            self._looks.read_watch(now)
            if self._looks.is_due(now):
                self._looks.look(now)
        return self._events.take()

    def fileno(self) -> int:
        return self._events.fileno()

    def statistics(self, *, filters: bool = True) -> DriverStatistics:
        if not self._tables.is_open:
            return DriverStatistics((), (), 0, ())
        self._sas.remove_doomed()
        now = time.monotonic()
        larval = self._looks.take_usage(now)
        return DriverStatistics(
            self._sas.counters(now),
            self._sas.filter_counters(),
            larval,
            self._looks.refused(),
            sum(entry.in_card for entry in self._sas),
            self._sas.ended(),
        )

    # ---- sockets of the key exchange -----------------------------------------------------------------------

    def prepare_ike_socket(self, sock: socket.socket, port: int) -> None:
        """Let IKE pass whatever the filters say, and have the kernel take ESP in UDP from the socket of port
        4500. `HostError(DRIVER_FAILED)`."""
        try:
            bypass_socket(sock)
            version = 4 if sock.family == socket.AF_INET else 6
            if port == NAT_TRAVERSAL_PORT and version in self.capabilities.udp_versions:
                take_esp_in_udp(sock)
        except OSError as error:
            raise error_for(
                ReasonCode.DRIVER_FAILED, f"a socket for IKE cannot bypass IPsec: {error.strerror}"
            ) from None

    # ---- events --------------------------------------------------------------------------------------------

    def _on_acquire(self, acquired: Acquired, now: float) -> None:
        if not policies.is_ours(acquired.policy):
            return
        filter_id = policies.filter_id_of(acquired.policy)
        flow = _flow_of(acquired)
        key = (filter_id, flow.source, self._filters.tunnel_end(filter_id) or flow.destination)
        if now - self._acquired.get(key, float("-inf")) < ACQUIRE_SECONDS:
            return
        if len(self._acquired) >= MAXIMUM_REMEMBERED:
            self._acquired.clear()
        self._acquired[key] = now
        self._events.append(Acquire(filter_id, flow))

    def _on_expire(self, expired: Expired) -> None:
        key = state_key(expired.state)
        if expired.hard:
            self._orphans.is_gone(key)
        entry = self._sas.get(key)
        if entry is None:
            return
        if expired.hard:
            entry.usage = expired.state.usage
            self._sas.forget(key, entry)
        self._events.append(SaExpired(entry.sa.spi, entry.sa.direction, expired.hard, entry.sa.peer))

    def _on_mapping(self, mapped: Mapped) -> None:
        """Both SAs of the pair follow to the new port; the kernel has verified the packet that tells. Another
        address is not followed: it is what policy chose the credentials by. An update keeps the state, its
        numbers and its window, so nothing is lost; MIGRATE, which makes another one, is for addresses."""
        entry = self._sas.get((mapped.destination, mapped.spi, mapped.protocol))
        if entry is None or entry.sa.udp is None or mapped.source != entry.sa.peer:
            return
        if entry.sa.udp.source_port == mapped.port:
            return  # said more than once
        moved = [(entry, replace(entry.sa.udp, source_port=mapped.port))]
        for other in self._sas:
            sa = other.sa
            is_partner = (sa.spi, sa.peer, sa.direction) == (entry.sa.pair, entry.sa.peer, Direction.OUTBOUND)
            if is_partner and sa.udp is not None:
                moved.append((other, replace(sa.udp, destination_port=mapped.port)))
        try:
            for each, udp in moved:
                sa = replace(each.sa, udp=udp)
                state = states.state_of(sa, self._filters.request_id(sa.negotiation))
                self._tables.replace_state(state)
                self._sas.change(each, sa)
        except NetlinkError as error:
            if error.number != errno.ESRCH:  # it has just expired
                self._events.append(DriverFailed(error.reason))
                return
        self._events.append(PeerMoved(entry.sa.spi, entry.sa.peer, mapped.port))


class _Ticker(threading.Thread):
    """Calls `wake` every so often."""

    def __init__(self, wake: Callable[[], None], seconds: float) -> None:
        super().__init__(name="kernel-driver-ticker", daemon=True)
        self._wake = wake
        self._seconds = seconds
        self._end = threading.Event()

    def run(self) -> None:
        while not self._end.wait(self._seconds):
            self._wake()

    def stop(self) -> None:
        self._end.set()


def _flow_of(acquired: Acquired) -> Flow:
    selector = acquired.selector
    has_ports = selector.protocol in PROTOCOLS_WITH_PORTS  # for ICMP the kernel puts type and code there
    return Flow(
        selector.source.network_address,
        selector.destination.network_address,
        selector.protocol,
        selector.source_port if has_ports else 0,
        selector.destination_port if has_ports else 0,
    )
