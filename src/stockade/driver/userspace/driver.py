"""The user-space driver: nftables, TUN device and routing in this process, packets in a process of its own.

Everything that needs root happens here, before the data-plane process is started; that process gets
descriptors and gives its privileges up. If it dies the filters stay in force and nothing passes in clear:
`events` says so (`DriverFailed`, and a hard expiry of each SA, which died with it), starts it anew, and
traffic negotiates again. If this process dies, the other goes on, and the next driver finds it (`survival`):
`start` attaches to it, `survivors` lists its SAs for the agent to keep or remove.
"""

import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

import stockade
from stockade.driver.burst.engine import load_library
from stockade.driver.contract import (
    DriverEvent,
    DriverFailed,
    DriverStatistics,
    FilterCounters,
    PacketRefused,
    SaExpired,
    Survivor,
)
from stockade.driver.limits import check_sa, check_table, software_capabilities, tunnels_of
from stockade.driver.spis import SpisInUse, SpiSource
from stockade.driver.userspace import clear_log, messages, nft, offloads, raw, survival
from stockade.driver.userspace.rules import Rules
from stockade.driver.userspace.system import System, has_ipv6
from stockade.model.addresses import Address
from stockade.model.capabilities import Capabilities
from stockade.model.filters import Direction, FilterTable
from stockade.model.reasons import HostError, Reason, ReasonCode, StockadeError, error_for
from stockade.model.sa import SecurityAssociation
from stockade.wire.udp_encapsulation import NAT_TRAVERSAL_PORT

REQUEST_SECONDS: Final = 2.0
TABLE_SECONDS: Final = 15.0
"""For a filter table, which may have thousands of lines."""

START_SECONDS: Final = 15.0
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
    (`offloads.OFFLOADS`) to do without. `times`: the data plane
    writes into its log, when it ends, where its time went. `queues`: of the device, for tests and
    measurements; else `offloads.queue_count` says. `door`: the path of a socket, in a folder for our eyes
    only, by which the next driver finds a data plane that outlives this one; without it none does."""

    def __init__(
        self,
        directory: Path,
        *,
        without: frozenset[str] = frozenset(),
        times: bool = False,
        queues: int | None = None,
        door: Path | None = None,
    ) -> None:
        self._directory = directory
        self._queues = queues
        self._without = without
        self._door = door
        self._times = times
        self._has_burst = False
        self._system = System()
        self._spis = SpiSource(os.urandom)
        self._table = FilterTable()
        self._rules: Rules | None = None
        self._counted: dict[str, FilterCounters] = {}
        self._sas: dict[tuple[int, Direction, Address], SecurityAssociation] = {}
        self._inbound_spis = SpisInUse()
        self._events: deque[DriverEvent] = deque()
        self._epoll = select.epoll()
        self._wake_reading, self._wake_writing = socket.socketpair(type=socket.SOCK_STREAM)
        self._wake_reading.setblocking(False)
        self._wake_writing.setblocking(False)
        self._epoll.register(self._wake_reading.fileno(), select.EPOLLIN)
        self._sockets: dict[str, socket.socket] = {}
        self._log: socket.socket | None = None
        self._child: subprocess.Popen[bytes] | survival.Foreign | None = None
        self._found = False
        self._inherits = False
        self._control: socket.socket | None = None
        self._event_socket: socket.socket | None = None
        self._event_frames = messages.Frames()
        self._started = False
        self._ready = False
        self._last_start = float("-inf")
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
        return self._child.pid if self._child is not None else -1

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
            if self._door is not None:
                survival.end_orphan(self._door, self._options)
            if self._system.in_use_by_other():
                self._system.release()
                return
        self._let_go()
        self._started = False
        self._sas.clear()
        self._inbound_spis.clear()
        self._spis.lose()
        self._rules = None
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
        reply = self._request(messages.AskSas(), TABLE_SECONDS)
        assert isinstance(reply, messages.Sas)
        found = [Survivor(messages.sa_of(held), age) for held, age in reply.sas]
        for survivor in found:
            self._remember(survivor.sa)
        return found

    def install_filters(self, table: FilterTable) -> None:
        before = self._table
        check_table(table, self.capabilities)
        if self._rules is not None and not _differs(before, table):
            self._table = table
            return
        # The process first: packets that the new table marks find their filter there.
        self._request(self._change_message(table), TABLE_SECONDS)
        try:
            self._install_rules(table)
        except StockadeError:
            self._request(_filters_message(before), TABLE_SECONDS)
            raise
        self._table = table

    def _change_message(self, table: FilterTable) -> messages.Request:
        """The whole table for a process that has none, else what differs."""
        changes = table.since(self._table)
        if self._rules is None or changes.reordered:
            return _filters_message(table)
        return messages.change_message(table.filters, changes, tunnels_of(table))

    def _install_rules(self, table: FilterTable) -> None:
        if self._rules is None:
            self._rules = nft.install_whole(table)
            return
        self._rules = nft.install_difference(table, self._rules, self._count_on)

    def _count_on(self) -> None:
        """The rules are about to be written anew: what they counted so far is kept here."""
        with suppress(StockadeError):
            self._counted = {counted.filter_id: counted for counted in self._filter_counters()}

    def _filter_counters(self) -> tuple[FilterCounters, ...]:
        """Of every filter of the table, in its order; of whatever is in the kernel where there is none."""
        found = {counted.filter_id: counted for counted in nft.read_counters()}
        if self._rules is None:
            return tuple(found.values())
        return tuple(
            [
                FilterCounters(
                    name,
                    sum(counts[name].packets for counts in (found, self._counted) if name in counts),
                    sum(counts[name].bytes for counts in (found, self._counted) if name in counts),
                )
                for name in self._table.ids
            ]
        )

    def get_spi(self, local: Address, peer: Address) -> int:
        return self._spis.reserve(self._inbound_spis)

    def add_sa(self, sa: SecurityAssociation) -> None:
        check_sa(sa, self.capabilities)
        mtu = self._system.path_mtu(sa.destination) if sa.direction is Direction.OUTBOUND else 0
        self._request(messages.sa_message(sa, mtu))
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
        self._tell(messages.RemoveSa(spi, direction, str(peer)))

    def leave(self) -> None:
        """The data plane goes on where it can be found and has SAs; else it ends by itself."""
        if not self._started:
            return
        for entry in (self._event_socket, self._control):
            if entry is not None:
                with suppress(OSError, ValueError):
                    self._epoll.unregister(entry.fileno())
                entry.close()
        if isinstance(self._child, survival.Foreign):
            self._child.close()
        self._event_socket = self._control = self._child = None
        self._let_go()
        self._started = False

    def free_ike_ports(self) -> None:
        """A data plane that was found has a socket on port 4500, beside which nobody can open others."""
        if self._inherits and "udp4" in self._sockets:
            raw.take_esp_in_udp(self._sockets["udp4"], 4)  # first: nothing is lost in between
            self._tell(messages.DropUdpSocket())
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
            self._request(messages.TakeUdpSocket(), descriptor=datagrams.fileno())
        except StockadeError:
            datagrams.close()
            raise
        self._sockets[_DATAGRAMS] = datagrams
        raw.take_nothing(self._sockets["udp4"])

    def release(self, filter_id: str, peer: Address, reason: Reason) -> None:
        self._tell(messages.Release(filter_id, str(peer)))

    def events(self) -> Sequence[DriverEvent]:
        if self._started:
            self._read_events()
            self._revive()
        with suppress(BlockingIOError):
            while self._wake_reading.recv(4096):
                pass
        events = list(self._events)
        self._events.clear()
        return events

    def fileno(self) -> int:
        return self._epoll.fileno()

    def statistics(self, *, filters: bool = True) -> DriverStatistics:
        if self._control is None:
            return DriverStatistics((), self._filter_counters() if filters else (), 0, ())
        reply = self._request(messages.AskStatistics())
        assert isinstance(reply, messages.Statistics)
        counters = self._filter_counters() if filters else ()
        return DriverStatistics(reply.sas, counters, reply.held_packets, reply.refused, ended=reply.ended)

    # ---- the process ---------------------------------------------------------------------------------------

    @property
    def _options(self) -> str:
        return ",".join(sorted(self._without))

    def _take_over(self) -> bool:
        """Whether a data plane of an earlier agent is ours now. What of the system's parts it lost is
        healed."""
        found = None if self._door is None or self._times else survival.find(self._door, self._options)
        if found is None:
            return False
        descriptors = dict(found.descriptors)
        device = [descriptors.pop(name) for name in list(descriptors) if name.startswith("device")]
        log = descriptors.pop("log", None)
        self._sockets = {name: socket.socket(fileno=number) for name, number in descriptors.items()}
        self._log = None if log is None else socket.socket(fileno=log)
        self._child, self._control, self._event_socket = found.process, found.control, found.events
        self._event_frames = messages.Frames()
        self._last_start = time.monotonic()
        try:
            self._await_ready()
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
        """Start it; `_await_ready` waits for it."""
        self._last_start = time.monotonic()
        control, process_control = socket.socketpair()
        events, process_events = socket.socketpair()
        numbers = {name: entry.fileno() for name, entry in self._sockets.items()}
        for number, descriptor in enumerate(self._system.device_descriptors):
            numbers[f"device{number or ''}"] = descriptor
        numbers |= {
            "control": process_control.fileno(),
            "events": process_events.fileno(),
        }
        if self._log is not None:
            numbers["log"] = self._log.fileno()
        door = self._make_door()
        if door is not None:
            numbers |= {"door": door[0].fileno(), "door_file": door[1]}
        try:
            self._child = self._spawn(numbers)
        except OSError as error:
            control.close()
            events.close()
            raise error_for(
                ReasonCode.DRIVER_FAILED, f"the data plane cannot be started: {error.strerror}"
            ) from None
        finally:
            process_control.close()
            process_events.close()
            if door is not None:
                door[0].close()
                os.close(door[1])
        self._control, self._event_socket = control, events
        self._event_frames = messages.Frames()

    def _make_door(self) -> tuple[socket.socket, int] | None:
        """Where it cannot be made the data plane ends with this process, as without one."""
        if self._door is None:
            return None
        try:
            return survival.make_door(self._door)
        except OSError as error:
            reason = Reason.of(
                ReasonCode.DRIVER_FAILED,
                f"SAs will not outlive this agent: {self._door}: {error.strerror}",
            )
            self._events.append(DriverFailed(reason))
            return None

    def _await_ready(self) -> None:
        """Wait until the process is ready; `HostError(DRIVER_FAILED)` if it does not get there."""
        events = self._event_socket
        if self._ready or events is None:
            return
        events.settimeout(START_SECONDS)
        try:
            first = messages.receive_frame(events, self._event_frames)
        except OSError:
            first = None
        if first is None:
            self._end_process()
            raise error_for(ReasonCode.DRIVER_FAILED, "the data plane ended at its start", log=self._log_path)
        events.setblocking(False)
        self._epoll.register(events.fileno(), select.EPOLLIN)
        self._ready = True

    def _spawn(self, numbers: Mapping[str, int]) -> "subprocess.Popen[bytes]":
        self._directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        package_folder = str(Path(stockade.__file__).resolve().parent.parent)
        try:
            return subprocess.Popen(
                [
                    sys.executable,
                    "-P",  # not the folder that we happen to stand in
                    "-m",
                    "stockade.driver.userspace.process",
                    "--descriptors",
                    ",".join(f"{name}={number}" for name, number in numbers.items()),
                    "--without",
                    self._options,
                    *(["--times"] if self._times else []),
                ],
                pass_fds=list(numbers.values()),
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                env={"PATH": os.environ.get("PATH", ""), "PYTHONPATH": package_folder},
                start_new_session=True,  # Ctrl-C is the agent's; the process follows it
            )
        finally:
            os.close(descriptor)

    @property
    def _log_path(self) -> Path:
        return self._directory / "dataplane.log"

    def _end_process(self) -> None:
        """It ends when it is told to; what does not listen is killed."""
        self._ready = False
        if self._control is not None and self._child is not None:
            with suppress(OSError):
                self._control.settimeout(REQUEST_SECONDS)
                self._control.sendall(messages.encode(messages.Quit()))
        if self._event_socket is not None:
            with suppress(OSError, ValueError):
                self._epoll.unregister(self._event_socket.fileno())
            self._event_socket.close()
            self._event_socket = None
        if self._control is not None:
            self._control.close()
            self._control = None
        child, self._child = self._child, None
        if isinstance(child, survival.Foreign):
            child.end()
        elif child is not None:
            try:
                child.wait(1.0)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def _let_go(self) -> None:
        self._end_process()
        for entry in self._sockets.values():
            entry.close()
        self._sockets = {}
        if self._log is not None:
            self._log.close()
            self._log = None
        self._system.release()

    def _request(
        self, request: messages.Request, seconds: float = REQUEST_SECONDS, descriptor: int | None = None
    ) -> messages.Reply:
        """Ask the process and wait for its answer. `HostError(DRIVER_FAILED)` if none comes: the process is
        ended then, since a late answer would be taken for the next one's."""
        if self._control is None:
            raise error_for(ReasonCode.DRIVER_FAILED, "the data plane is not running")
        self._await_ready()
        self._control.settimeout(seconds)
        try:
            data = messages.encode(request)
            if descriptor is not None:  # with the first byte of its frame
                socket.send_fds(self._control, [data[:1]], [descriptor])
                data = data[1:]
            self._control.sendall(data)
            frame = messages.receive_frame(self._control, messages.Frames())
        except OSError:
            frame = None
        try:
            reply = messages.reply_decoder.decode(frame) if frame is not None else None
        except msgspec.MsgspecError:
            reply = None
        if reply is None:
            self._on_death("the data plane does not answer")
            raise error_for(ReasonCode.DRIVER_FAILED, "the data plane does not answer")
        if isinstance(reply, messages.Refused):
            messages.raise_refused(reply)
        return reply

    def _tell(self, request: messages.Request) -> None:
        """Ask for something to be gone. Where the process is dead or dies of it, it is gone; `events`
        tells."""
        if self._control is not None:
            with suppress(HostError):
                self._request(request)

    def _read_events(self) -> None:
        while self._ready and self._event_socket is not None:
            try:
                data = self._event_socket.recv(1 << 16)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._on_death("the data plane ended")
                return
            try:
                for frame in self._event_frames.feed(data):
                    event = messages.event_of(messages.event_decoder.decode(frame))
                    if isinstance(event, SaExpired) and event.hard:
                        self._forget(event.spi, event.direction, event.peer)
                    if event is not None and not self._is_early(event):
                        self._events.append(event)
            except (msgspec.MsgspecError, ValueError, KeyError):
                self._on_death("the data plane speaks nonsense")

    def _is_early(self, event: DriverEvent) -> bool:
        """Whether this tells of a packet that is ahead of its SA (`early.py`): no sign of lost state. By now
        the SA may be there."""
        return (
            isinstance(event, PacketRefused)
            and event.reason.code is ReasonCode.UNKNOWN_SPI
            and self._spis.is_awaited(event.spi, time.monotonic())
        )

    def _on_death(self, detail: str) -> None:
        child = self._child
        if child is not None and child.poll() is None:
            child.kill()
        self._end_process()
        status = child.returncode if child is not None else None
        self._events.append(
            DriverFailed(Reason.of(ReasonCode.DRIVER_FAILED, detail, status=status, log=self._log_path))
        )
        for spi, direction, peer in self._sas:
            self._events.append(SaExpired(spi, direction, True, peer))
        self._sas.clear()
        self._inbound_spis.clear()
        self._spis.lose()
        steady = time.monotonic() - self._last_start > STEADY_SECONDS
        self._pause = FIRST_RESTART_INTERVAL if steady else min(2 * self._pause, RESTART_INTERVAL)
        self._wake()
        self._wake_later()

    def _wake_later(self) -> None:
        """So that `events` is called, and starts the process anew, even where nothing else happens."""
        timer = threading.Timer(self._pause, self._wake)
        timer.daemon = True
        timer.start()

    def _wake(self) -> None:
        with suppress(OSError):
            self._wake_writing.send(b"\0")

    def _revive(self) -> None:
        """Start the process again after its death, at once the first time, then with longer and longer
        pauses."""
        now = time.monotonic()
        if self._control is not None or now - self._last_start < self._pause:
            return
        try:
            self._claim()  # its end may be that somebody has removed the device
            self._start_process()
            self._request(_filters_message(self._table), TABLE_SECONDS)
        except HostError as error:
            self._events.append(DriverFailed(error.reason))
            self._wake_later()
