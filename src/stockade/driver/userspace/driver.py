"""The user-space driver: nftables, TUN device and routing in this process, packets in a process of its own.

Everything that needs root happens here, before the data-plane process is started; that process gets
descriptors and gives its privileges up. If it dies the filters stay in force and nothing passes in clear:
`events` says so (`DriverFailed`, and a hard expiry of each SA, which died with it), starts it anew, and
traffic negotiates again. If this process dies, the other goes on, and the next driver finds it (`survival`):
`start` attaches to it, `survivors` lists its SAs for the agent to keep or remove. How the process is started,
asked and ended is `data_plane`'s; what is in nftables is `installed_rules`'.
"""

import os
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from stockade.driver.burst.engine import load_library
from stockade.driver.contract import (
    DriverEvent,
    DriverFailed,
    DriverStatistics,
    PacketRefused,
    SaExpired,
    Survivor,
)
from stockade.driver.event_queue import EventQueue
from stockade.driver.limits import check_sa, check_table, software_capabilities, tunnels_of
from stockade.driver.spis import SpisInUse, SpiSource
from stockade.driver.userspace import clear_log, messages, nft, offloads, raw
from stockade.driver.userspace.data_plane import DataPlane
from stockade.driver.userspace.installed_rules import InstalledRules
from stockade.driver.userspace.system import System, has_ipv6
from stockade.model.addresses import Address
from stockade.model.capabilities import Capabilities
from stockade.model.filters import Direction, FilterTable
from stockade.model.reasons import HostError, Reason, ReasonCode, StockadeError, error_for
from stockade.model.sa import SecurityAssociation
from stockade.wire.udp_encapsulation import NAT_TRAVERSAL_PORT

TABLE_SECONDS: Final = 15.0
"""For a filter table, which may have thousands of lines."""

_DATAGRAMS: Final = "datagrams"

RESTART_INTERVAL: Final = 5.0
"""Seconds between two attempts to start a data plane that keeps dying, at most."""

FIRST_RESTART_INTERVAL: Final = 0.05
"""The first pause; each one after that is twice as long, until a process lives for `STEADY_SECONDS`."""

STEADY_SECONDS: Final = 1.0


def _differs(old: FilterTable, new: FilterTable) -> bool:
    """Whether packets are treated differently by the two."""
    changes = new.since(old)
    return bool(changes.came or changes.went or changes.reordered) or tunnels_of(old) != tunnels_of(new)


def _filters_message(table: FilterTable) -> messages.InstallFilters:
    return messages.filters_message(table.filters, tunnels_of(table))


class UserspaceDriver:
    """Implements `Driver`. `directory` takes the data plane's log (`dataplane.log`). One per network
    namespace: that of the thread that calls `start`. Not safe for several threads. `without`: offloads
    (`offloads.OFFLOADS`) to do without. `times`: the data plane writes into its log, when it ends, where its
    time went. `queues`: of the device, for tests and measurements; else `offloads.queue_count` says. `door`:
    the path of a socket, in a folder for our eyes only, by which the next driver finds a data plane that
    outlives this one; without it none does."""

    def __init__(
        self,
        directory: Path,
        *,
        without: frozenset[str] = frozenset(),
        times: bool = False,
        queues: int | None = None,
        door: Path | None = None,
    ) -> None:
        self._events = EventQueue()
        self._process = DataPlane(directory, self._events, self._on_death, door=door, times=times)
        self._queues = queues
        self._without = without
        self._has_burst = False
        self._system = System()
        self._spis = SpiSource(os.urandom)
        self._table = FilterTable()
        self._rules = InstalledRules()
        self._sas: dict[tuple[int, Direction, Address], SecurityAssociation] = {}
        self._inbound_spis = SpisInUse()
        self._sockets: dict[str, socket.socket] = {}
        self._log: socket.socket | None = None
        self._found = False
        self._inherits = False
        self._started = False
        self._pause = FIRST_RESTART_INTERVAL

    # ---- Driver --------------------------------------------------------------------------------------------

    @property
    def without(self) -> frozenset[str]:
        """The offloads that it does without."""
        return self._without

    @property
    def capabilities(self) -> Capabilities:
        return software_capabilities("userspace", frozenset({4, 6} if has_ipv6() else {4}))

    @property
    def process_id(self) -> int:
        """Of the data-plane process; -1 while there is none."""
        return self._process.pid

    def start(self) -> None:
        """`HostError`: NOT_PRIVILEGED, MISSING_PROGRAM or DRIVER_FAILED; what was made until then is taken
        back, but a rule that leads marked packets to nowhere stays (closed, not open).

        Returns while the data-plane process still loads; the first call that needs it waits for it. An agent
        has enough to load itself meanwhile."""
        if self._started:
            return
        nft.program()
        if self._take_over():
            self._started = True
            return
        try:
            self._claim()
            self._sockets = raw.open_sockets()
            self._has_burst = offloads.BURST not in self._without and load_library() is not None
            self._log = clear_log.open_socket()
            self._start_process()
        except PermissionError:
            self._let_go()
            raise error_for(ReasonCode.NOT_PRIVILEGED, "raw sockets for ESP") from None
        except OSError as error:
            self._let_go()
            raise error_for(ReasonCode.DRIVER_FAILED, f"raw sockets for ESP: {error.strerror}") from None
        except StockadeError:
            self._let_go()
            raise
        self._started = True

    def stop(self, keep_filters: bool = False) -> None:
        """May be called at any time, more than once, and without `start`: then it removes what a killed run
        left, unless another agent is using it."""
        if not self._started and self._system.in_use_by_other():
            self._process.end_orphan(self._options)
            if self._system.in_use_by_other():
                self._system.release()
                return
        self._let_go()
        self._started = False
        self._sas.clear()
        self._inbound_spis.clear()
        self._spis.lose()
        self._rules.forget()
        if keep_filters:
            return
        try:
            nft.remove()
        finally:
            # Last, for as long as there are filters that mark packets the rule must keep them from the main
            # table.
            self._system.remove()

    def survivors(self) -> Sequence[Survivor]:
        """The SAs of the data plane that an earlier agent left."""
        if not self._found:
            return ()
        self._found = False
        reply = self._process.request(messages.AskSas(), TABLE_SECONDS)
        assert isinstance(reply, messages.Sas)
        found = [Survivor(messages.sa_of(held), age) for held, age in reply.sas]
        for survivor in found:
            self._remember(survivor.sa)
        return found

    def install_filters(self, table: FilterTable) -> None:
        before = self._table
        check_table(table, self.capabilities)
        if self._rules.are_known and not _differs(before, table):
            self._table = table
            return
        # The process first: packets that the new table marks find their filter there.
        self._process.request(self._change_message(table), TABLE_SECONDS)
        try:
            self._rules.install(table)
        except StockadeError:
            self._process.request(_filters_message(before), TABLE_SECONDS)
            raise
        self._table = table

    def _change_message(self, table: FilterTable) -> messages.Request:
        """The whole table for a process that has none, else what differs."""
        changes = table.since(self._table)
        if not self._rules.are_known or changes.reordered:
            return _filters_message(table)
        return messages.change_message(table.filters, changes, tunnels_of(table))

    def get_spi(self, local: Address, peer: Address) -> int:
        return self._spis.reserve(self._inbound_spis)

    def add_sa(self, sa: SecurityAssociation) -> None:
        check_sa(sa, self.capabilities)
        mtu = self._system.path_mtu(sa.destination) if sa.direction is Direction.OUTBOUND else 0
        self._process.request(messages.sa_message(sa, mtu))
        self._remember(sa)
        if sa.direction is Direction.INBOUND:
            self._spis.came(sa.spi, time.monotonic())

    def _remember(self, sa: SecurityAssociation) -> None:
        name = (sa.spi, sa.direction, sa.peer)
        if sa.direction is Direction.INBOUND and name not in self._sas:
            self._inbound_spis.add(sa.spi)
        self._sas[name] = sa

    def _forget(self, spi: int, direction: Direction, peer: Address) -> None:
        if self._sas.pop((spi, direction, peer), None) is not None and direction is Direction.INBOUND:
            self._inbound_spis.remove(spi)

    def remove_sa(self, spi: int, direction: Direction, peer: Address) -> None:
        self._forget(spi, direction, peer)
        if direction is Direction.INBOUND:
            self._spis.settle(spi)
        self._process.tell(messages.RemoveSa(spi, direction, str(peer)))

    def leave(self) -> None:
        """The data plane goes on where it can be found and has SAs; else it ends by itself."""
        if not self._started:
            return
        self._process.leave()
        self._let_go()
        self._started = False

    def free_ike_ports(self) -> None:
        """A data plane that was found has a socket on port 4500, beside which nobody can open others."""
        if self._inherits and "udp4" in self._sockets:
            raw.take_esp_in_udp(self._sockets["udp4"], 4)  # first: nothing is lost in between
            self._process.tell(messages.DropUdpSocket())
            self._inherits = False

    def join_ike_socket(self, sock: socket.socket) -> None:
        """Where the kernel and the burst path can do it, ESP in UDP over IPv4 gets a socket beside IKE's
        own."""
        if sock.family != socket.AF_INET or sock.getsockname()[1] != NAT_TRAVERSAL_PORT or not self._started:
            return
        if not self._has_burst or offloads.UDP_GSO in self._without or _DATAGRAMS in self._sockets:
            return
        datagrams = raw.open_datagrams(sock)
        if datagrams is None:
            return
        try:
            self._process.request(messages.TakeUdpSocket(), descriptor=datagrams.fileno())
        except StockadeError:
            datagrams.close()
            raise
        self._sockets[_DATAGRAMS] = datagrams
        raw.take_nothing(self._sockets["udp4"])

    def release(self, filter_id: str, peer: Address, reason: Reason) -> None:
        self._process.tell(messages.Release(filter_id, str(peer)))

    def events(self) -> Sequence[DriverEvent]:
        if self._started:
            self._read_events()
            self._revive()
        self._events.hush()
        return self._events.take()

    def fileno(self) -> int:
        return self._events.fileno()

    def statistics(self, *, filters: bool = True) -> DriverStatistics:
        if not self._process.is_there:
            return DriverStatistics((), self._rules.counters() if filters else (), 0, ())
        reply = self._process.request(messages.AskStatistics())
        assert isinstance(reply, messages.Statistics)
        counters = self._rules.counters() if filters else ()
        return DriverStatistics(reply.sas, counters, reply.held_packets, reply.refused, ended=reply.ended)

    # ---- the process ---------------------------------------------------------------------------------------

    @property
    def _options(self) -> str:
        return ",".join(sorted(self._without))

    def _take_over(self) -> bool:
        """Whether a data plane of an earlier agent is ours now. What of the system's parts it lost is
        healed."""
        found = self._process.find(self._options)
        if found is None:
            return False
        descriptors = dict(found)
        device = [descriptors.pop(name) for name in list(descriptors) if name.startswith("device")]
        log = descriptors.pop("log", None)
        self._sockets = {name: socket.socket(fileno=number) for name, number in descriptors.items()}
        self._log = None if log is None else socket.socket(fileno=log)
        try:
            self._process.await_ready()
            self._system.take_over(*device)
        except StockadeError:  # it is of no use, then: everything anew
            self._let_go()
            return False
        self._has_burst = offloads.BURST not in self._without and load_library() is not None
        self._found = self._inherits = True
        return True

    def _claim(self) -> None:
        self._system.claim(
            segments=offloads.TSO not in self._without,
            datagrams=offloads.USO not in self._without,
            queues=self._queues or offloads.queue_count(self._without),
        )

    def _start_process(self) -> None:
        """Start it, which takes its time to load: the first request waits for it."""
        numbers = {name: entry.fileno() for name, entry in self._sockets.items()}
        for number, descriptor in enumerate(self._system.device_descriptors):
            numbers[f"device{number or ''}"] = descriptor
        if self._log is not None:
            numbers["log"] = self._log.fileno()
        self._process.start(numbers, self._options)

    def _let_go(self) -> None:
        self._process.end()
        for entry in self._sockets.values():
            entry.close()
        self._sockets = {}
        if self._log is not None:
            self._log.close()
            self._log = None
        self._system.release()

    def _read_events(self) -> None:
        for event in self._process.events():
            if isinstance(event, SaExpired) and event.hard:
                self._forget(event.spi, event.direction, event.peer)
            if not self._is_early(event):
                self._events.append(event)

    def _is_early(self, event: DriverEvent) -> bool:
        """Whether this tells of a packet that is ahead of its SA (`early.py`): no sign of lost state. By now
        the SA may be there."""
        return (
            isinstance(event, PacketRefused)
            and event.reason.code is ReasonCode.UNKNOWN_SPI
            and self._spis.is_awaited(event.spi, time.monotonic())
        )

    def _on_death(self, reason: Reason) -> None:
        """The process is no more, and with it all SAs."""
        self._events.append(DriverFailed(reason))
        for spi, direction, peer in self._sas:
            self._events.append(SaExpired(spi, direction, True, peer))
        self._sas.clear()
        self._inbound_spis.clear()
        self._spis.lose()
        steady = self._process.age > STEADY_SECONDS
        self._pause = FIRST_RESTART_INTERVAL if steady else min(2 * self._pause, RESTART_INTERVAL)
        self._events.wake()
        self._wake_later()

    def _wake_later(self) -> None:
        """So that `events` is called, and starts the process anew, even where nothing else happens."""
        timer = threading.Timer(self._pause, self._events.wake)
        timer.daemon = True
        timer.start()

    def _revive(self) -> None:
        """Start the process again after its death, at once the first time, then with longer and longer
        pauses."""
        if self._process.is_there or self._process.age < self._pause:
            return
        try:
            self._claim()  # its end may be that somebody has removed the device
            self._start_process()
            self._process.request(_filters_message(self._table), TABLE_SECONDS)
        except HostError as error:
            self._events.append(DriverFailed(error.reason))
            self._wake_later()
