"""The data-plane process: packets between the TUN device and the raw sockets, and nothing else.

    agent ═ control, events ═▶ ┌───────┐ ◀── TUN device (what needs security)  ──▶ sealed, by the raw socket
                               │ epoll │ ◀── raw socket (ESP)                  ──▶ opened, into the TUN device
                               └───────┘ ◀── nflog (clear packets that the kernel dropped)

It is started by `UserspaceDriver` with every descriptor open, so it gives up root, all capabilities and the
way back (`no_new_privs`) before it reads a byte. What it keeps: the descriptors, the keys of the SAs, and the
right to run. An agent that says so ends it, as does any failure that it does not expect (the device and the
filters hold what needs security, so an end is always safe). An agent that dies does not: packets go on under
the SAs that there are, until the next agent comes in by the door (`survival`), or nothing is left to do.

Run as `python -m stockade.driver.userspace.process --descriptors NAME=NUMBER,…` with `device`, `control`,
`events`, the sockets of `raw.open_sockets` and, where there are such, `log`, `door`
and `door_file`.
"""

import argparse
import ctypes
import errno
import gc
import json
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from ipaddress import ip_address
from typing import Final

from stockade.driver.burst.engine import Burst, Watch
from stockade.driver.burst.engine import load as load_burst
from stockade.driver.datapath import Datapath
from stockade.driver.outbound import Output
from stockade.driver.packets import ESP, UDP, load_accelerator
from stockade.driver.userspace import clear_log, messages, offloads, virtio
from stockade.driver.userspace.overflow import Overflows
from stockade.driver.userspace.raw import RAW_PROTOCOLS, Receiver, Sender, read_reports
from stockade.driver.userspace.survival import Door, has_hung_up, receive
from stockade.model.reasons import ReasonCode, StockadeError

READS_PER_TURN: Final = 8
"""Packets (or TSO bursts of up to 64 KiB) that are taken from the TUN device before the others get a turn."""

BATCHES_PER_TURN: Final = 4
LAST_READS: Final = 64
"""Batches that are taken from a socket before it is closed, at most."""

TICK_SECONDS: Final = 0.25
PART_SECONDS: Final = 0.01
"""Between two parts of a look at thousands of SAs."""
MAXIMUM_OUTBOX: Final = 4 << 20
"""Bytes of events that may wait for a busy agent; refusals beyond that are dropped (they stay counted)."""

NOBODY: Final = 65534
_PR_SET_DUMPABLE, _PR_SET_TIMERSLACK, _PR_SET_NO_NEW_PRIVS = 4, 29, 38


def give_up_privileges() -> None:
    """Become nobody, for good. Where that is refused (an agent that is not root but has capabilities), what
    can be given up is."""
    with suppress(PermissionError):
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)  # from root, this drops all capabilities too
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    # Keys in memory: no core dump, no debugger of another process of this user.
    prctl(_PR_SET_TIMERSLACK, 1000, 0, 0, 0)  # nanoseconds: the burst path's shortest waits are 50 µs
    if prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


class Process:
    """The loop. Owns the descriptors."""

    def __init__(
        self,
        device: int,
        sockets: Mapping[str, socket.socket],
        log: socket.socket | None,
        control: socket.socket,
        events: socket.socket,
        burst: Burst | None = None,
        door: Door | None = None,
        *,
        queues: Mapping[str, int] | None = None,
        merge: bool = True,
        batches: bool = True,
    ) -> None:
        self._device = device
        queues = queues or {}
        self._merge = merge
        self._burst = burst
        sending = [sockets[name].fileno() if name in sockets else -1 for name in ("send4", "send6")]
        self._sending = sending[0], sending[1]
        self._sender = Sender(sockets["send4"], 4, batches=batches)
        self._ipv6_sender = Sender(sockets["send6"], 6, batches=batches) if "send6" in sockets else None
        self._log = log
        self._control: socket.socket | None = control
        self._control_frames = messages.Frames()
        self._events: socket.socket | None = events
        self._door = door
        self._given = {"device": device, **queues}
        self._given |= {name: entry.fileno() for name, entry in sockets.items() if name != "datagrams"}
        if log is not None:
            self._given["log"] = log.fileno()
        self._outbox = bytearray()
        self._datapath = Datapath(burst=burst)
        self._stopped = False
        self._datagrams: socket.socket | None = None
        self._taken: list[socket.socket] = []
        self._overflows = Overflows()
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {control.fileno(): self._on_control}
        if burst is None:
            self._handlers[device] = self._on_device
        elif not queues or not burst.work([device, *queues.values()]):
            # One thread for all; without threads the other queues are read here too.
            for queue in (device, *queues.values()):
                burst.watch(queue, Watch.DEVICE)
        for name, entry in sockets.items():
            protocol = RAW_PROTOCOLS.get(name[:-1])
            if name.startswith("icmp") or protocol is not None:
                self._overflows.watch(entry)
            if name.startswith("icmp"):
                self._handlers[entry.fileno()] = partial(self._on_reports, entry)
            if protocol is None:
                continue
            version = int(name[-1])
            if burst is not None and protocol in (ESP, UDP):
                burst.watch(entry.fileno(), Watch.UDP if protocol == UDP else Watch.ESP, version)
                continue
            take = self._datapath.inbound_udp if protocol == UDP else self._datapath.inbound
            receiver = Receiver(entry, version, protocol, batches=batches)
            self._handlers[entry.fileno()] = partial(self._on_receiving, receiver, take)
        if log is not None:
            self._handlers[log.fileno()] = self._on_log
        if door is not None:
            self._handlers[door.fileno()] = self._on_door
        for descriptor in self._handlers:
            self._epoll.register(descriptor, select.EPOLLIN)
        if "datagrams" in sockets:
            self._take_datagrams(sockets["datagrams"])
        self._handlers[events.fileno()] = self._on_events_writable

    def run(self) -> None:
        """Until the agent ends us, or nothing is left to do without one."""
        for entry in (self._control, self._events):
            if entry is not None:
                entry.setblocking(False)
        self._post(messages.Ready())
        next_tick = time.monotonic()
        while not self._stopped:
            wait = max(0.0, next_tick - time.monotonic())
            if self._burst is not None and not self._carry(self._burst, wait):
                ready = []
            else:
                ready = self._epoll.poll(wait if self._burst is None else 0)
            for descriptor, _ in ready:
                if (handle := self._handlers.get(descriptor)) is not None:  # gone with the agent, this turn
                    handle()
            now = time.monotonic()
            if now >= next_tick:
                next_tick = now + (TICK_SECONDS if self._datapath.tick_some(now) else PART_SECONDS)
                self._datapath.count_overflow(self._overflows.take())
                if self._control is None and not self._is_needed:
                    self._stopped = True
            for event in self._datapath.events():
                self._post(messages.event_message(event))

    # ---- packets -------------------------------------------------------------------------------------------

    def _on_device(self) -> None:
        packets = []
        for _ in range(READS_PER_TURN):
            try:
                packets += virtio.take_all(os.read(self._device, virtio.READ_SIZE))
            except BlockingIOError:
                break
        if packets:
            self._emit(self._datapath.outbound(packets, time.monotonic()))

    def _on_receiving(
        self, receiver: Receiver, take: Callable[[Sequence[bytes], float], list[bytes]]
    ) -> None:
        for _ in range(BATCHES_PER_TURN):
            packets = receiver.receive()
            if not packets:
                return
            self._deliver(take(packets, time.monotonic()))

    def _carry(self, burst: Burst, seconds: float) -> bool:
        """Let the burst path work until something else has to be seen to, and do what it left to Python.
        Whether one of the other descriptors has something."""
        slow, own = burst.run(self._epoll.fileno(), self._device, self._sending, seconds)
        for batch in (own, *burst.worked()):
            if not batch.received:
                continue
            now = time.monotonic()
            rest = self._datapath.account(batch.carried, batch.returned, now)
            if batch.unsent:
                self._send(list(batch.unsent))
            if rest and batch.kind == Watch.DEVICE:
                packets = [packet for frame in rest for packet in virtio.take_all(frame)]
                self._emit(self._datapath.outbound(packets, now))
            elif rest:
                is_esp = batch.kind == Watch.ESP
                take = self._datapath.inbound if is_esp else self._datapath.inbound_udp
                self._deliver(take(rest, now))
        return slow

    def _take_datagrams(self, datagrams: socket.socket) -> None:
        """From now on ESP in UDP over IPv4 comes and goes by this socket."""
        if self._burst is None:
            datagrams.close()
            return
        self._drop_datagrams()
        self._datagrams = datagrams
        self._burst.use_udp(datagrams.fileno())
        self._burst.watch(datagrams.fileno(), Watch.DATAGRAMS)
        self._overflows.watch(datagrams)

    def _drop_datagrams(self) -> None:
        if self._datagrams is not None and self._burst is not None:
            self._burst.use_udp(-1)
            self._burst.unwatch(self._datagrams.fileno())
            for _ in range(LAST_READS):  # what waits in it would be lost
                batch = self._burst.inbound_gro(self._datagrams.fileno(), self._device)
                if not batch.received:
                    break
                now = time.monotonic()
                rest = self._datapath.account(batch.carried, batch.returned, now)
                self._deliver(self._datapath.inbound_udp(rest, now))
            self._datapath.count_overflow(self._overflows.forget(self._datagrams))
            self._datagrams.close()
            self._datagrams = None

    def _emit(self, output: Output) -> None:
        self._send(output.wire)
        if output.local:
            self._deliver(output.local)

    def _send(self, wire: list[bytes]) -> None:
        if self._ipv6_sender is not None:
            ipv6 = [packet for packet in wire if packet[0] >= 0x60]
            if ipv6:
                self._ipv6_sender.send(ipv6)
                wire = [packet for packet in wire if packet[0] < 0x60]
        if wire:
            self._sender.send(wire)

    def _deliver(self, packets: list[bytes]) -> None:
        for parts in virtio.frames(packets, merge=self._merge):
            # The stack refuses what it finds wrong and drops what is too much: as from any device.
            with suppress(OSError):
                os.writev(self._device, parts)

    def _on_reports(self, reports: socket.socket) -> None:
        self._datapath.path_reports(read_reports(reports), time.monotonic())

    def _on_log(self) -> None:
        assert self._log is not None
        now = time.monotonic()
        for source, destination in clear_log.read_packets(self._log):
            self._datapath.refuse(ReasonCode.CLEAR_DROPPED, source, destination, now)

    # ---- the agent -----------------------------------------------------------------------------------------

    def _on_control(self) -> None:
        control = self._control
        if control is None:
            return
        try:
            data, descriptors = receive(control)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        for descriptor in descriptors:
            self._taken.append(socket.socket(fileno=descriptor))
        if not data:
            self._part()
            return
        for frame in self._control_frames.feed(data):
            reply = self._answer(messages.request_decoder.decode(frame))
            try:
                control.setblocking(True)
                control.sendall(messages.encode(reply))
                control.setblocking(False)
            except OSError:
                self._part()
                return

    def _part(self) -> None:
        """The agent is gone, without having ended us: what it had to say is over, packets go on."""
        for entry in (self._control, self._events):
            if entry is not None:
                self._handlers.pop(entry.fileno(), None)
                with suppress(OSError):
                    self._epoll.unregister(entry.fileno())
                entry.close()
        for taken in self._taken:
            taken.close()
        self._taken.clear()
        self._outbox.clear()
        self._control = self._events = None
        self._stopped = self._stopped or not self._is_needed

    @property
    def _is_needed(self) -> bool:
        """Whether there is anything to do without an agent, and one could find us."""
        return self._door is not None and self._door.can_be_found and self._datapath.has_sas

    def _on_door(self) -> None:
        """Somebody knocks. While an agent is there nobody else gets in; one that has died may not have been
        noticed yet."""
        assert self._door is not None
        connection = self._door.accept()
        if connection is None:
            return
        while self._control is not None and has_hung_up(self._control):
            self._on_control()
        if self._control is not None:
            self._door.send_away(connection)
            return
        events = self._door.greet(connection, self._given)
        if events is None:
            connection.close()
            return
        self._control, self._events = connection, events
        self._control_frames = messages.Frames()
        self._handlers[connection.fileno()] = self._on_control
        self._handlers[events.fileno()] = self._on_events_writable
        self._epoll.register(connection.fileno(), select.EPOLLIN)
        self._datapath.events()  # nobody waits for what happened before
        self._datapath.tell_again()
        self._post(messages.Ready())

    def _answer(self, request: messages.Request) -> messages.Reply:
        now = time.monotonic()
        try:
            match request:
                case messages.InstallFilters():
                    filters, tunnels = messages.filters_of(request), messages.tunnels_of(request)
                    self._emit(self._datapath.install_filters(filters, now, tunnels))
                case messages.ChangeFilters():
                    added, tunnels = messages.added_of(request), messages.tunnels_of(request)
                    self._emit(self._datapath.change_filters(added, request.removed, now, tunnels))
                case messages.AddSa(mtu=mtu):
                    path = min(mtu, virtio.ALWAYS_CUT)
                    self._emit(self._datapath.add_sa(messages.sa_of(request), now, path))
                case messages.RemoveSa(spi, direction, peer):
                    self._datapath.remove_sa(spi, direction, ip_address(peer))
                case messages.Release(filter_id, peer):
                    self._emit(self._datapath.release(filter_id, ip_address(peer), now))
                case messages.TakeUdpSocket():
                    if self._taken:
                        self._take_datagrams(self._taken.pop())
                case messages.DropUdpSocket():
                    self._drop_datagrams()
                case messages.AskSas():
                    held = self._datapath.held(now)
                    return messages.Sas([messages.held_message(sa, age) for sa, age in held])
                case messages.Attach():
                    return messages.Refused(ReasonCode.AGENT_RUNNING.name, "attached already")
                case messages.Quit():
                    self._stopped = True
                case messages.AskStatistics():
                    return messages.statistics_message(self._datapath.statistics(now))
        except StockadeError as error:
            return messages.refused_message(error.reason)
        return messages.Done()

    def _post(self, event: messages.Event) -> None:
        if self._events is None:
            return
        if len(self._outbox) > MAXIMUM_OUTBOX and isinstance(event, messages.PacketsRefused):
            return
        empty = not self._outbox
        self._outbox += messages.encode(event)
        if empty:
            self._write_events()
            if self._outbox and self._events is not None:
                self._epoll.register(self._events.fileno(), select.EPOLLOUT)

    def _on_events_writable(self) -> None:
        self._write_events()
        if not self._outbox and self._events is not None:
            self._epoll.unregister(self._events.fileno())

    def _write_events(self) -> None:
        if self._events is None:
            return
        try:
            sent = self._events.send(self._outbox)
        except BlockingIOError:
            return
        except OSError:
            self._part()
            return
        del self._outbox[:sent]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="stockade data plane")
    parser.add_argument("--descriptors", required=True)
    parser.add_argument("--without", default="", help="offloads to do without")
    parser.add_argument("--times", action="store_true", help="measure, and print the times at the end")
    given = parser.parse_args(arguments)
    names = (entry.split("=") for entry in given.descriptors.split(","))
    numbers = {name: int(number) for name, number in names}
    device, door_file = numbers.pop("device"), numbers.pop("door_file", -1)
    queues = {name: numbers.pop(name) for name in list(numbers) if name.startswith("device")}
    sockets = {name: socket.socket(fileno=number) for name, number in numbers.items()}
    log, control, events = sockets.pop("log", None), sockets.pop("control"), sockets.pop("events")
    listening = sockets.pop("door", None)
    without = offloads.read_offloads(given.without.split(","))
    merge = offloads.GRO not in without
    burst = None
    if offloads.BURST not in without:
        burst = load_burst(
            merge=merge,
            ipsec_mb=offloads.IPSEC_MB not in without,
            rest=offloads.MODERATION not in without,
            times=given.times,
        )
    door = Door(listening, door_file, given.without) if listening is not None else None
    # while its file can still be read, and while the kernel names us to an agent as what started us
    give_up_privileges()
    # Beside the first packets, which need no such speed: an agent that restarts must be back at once.
    if offloads.VECTORS not in without:
        threading.Thread(target=load_accelerator, daemon=True).start()
    # The loop makes no cycles: looking for them would only cost pauses.
    gc.collect()
    gc.freeze()
    gc.disable()
    process = Process(
        device,
        sockets,
        log,
        control,
        events,
        burst,
        door,
        queues=queues,
        merge=merge,
        batches=offloads.BATCHES not in without,
    )
    try:
        process.run()
    except OSError as error:
        if error.errno != errno.EBADFD:
            raise
        # Somebody has removed the device. The agent starts us anew, with another one.
        print("stockade data plane: the TUN device is gone", file=sys.stderr)
        return 1
    if burst is not None and given.times:
        times = burst.times()
        spent = time.process_time()
        print(json.dumps({"process": spent, **asdict(times)}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
