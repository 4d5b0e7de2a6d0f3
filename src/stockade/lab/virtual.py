"""A network inside one process, on virtual time.

    host ──send──▶ ┌─────────── VirtualNetwork ───────────┐ ──receive──▶ host
                   │ taps · cut? · loss? · copies · delay │
                   └────────────── VirtualClock ──────────┘

Nothing waits: the clock jumps from event to event, so an hour of rekeying takes a second, and the same seed
gives the same run. Packets are IP packets (no Ethernet); the network delivers by destination address. Events
at the same moment happen in the order in which they were scheduled.
"""

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass

from stockade.lab.errors import LabError
from stockade.model.addresses import Address
from stockade.model.reasons import PeerError
from stockade.wire.ip import parse_packet

MAXIMUM_EVENTS = 5_000_000
"""More events in one run than this is a loop, not a laboratory."""

Receiver = Callable[[bytes], None]
Tap = Callable[[float, bytes], None]


class Timer:
    """A scheduled call that can be taken back."""

    __slots__ = ("_function", "when")

    def __init__(self, when: float, function: Callable[[], None]) -> None:
        self.when = when
        self._function: Callable[[], None] | None = function

    def cancel(self) -> None:
        self._function = None

    def fire(self) -> None:
        function, self._function = self._function, None
        if function is not None:
            function()


class VirtualClock:
    """Virtual time in seconds, and what happens when. `now` changes inside `run` only."""

    def __init__(self, start: float = 1000.0) -> None:
        self.now = start
        self._queue: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()

    def call_at(self, when: float, function: Callable[[], None]) -> Timer:
        """Call `function` at `when`, or as soon as possible if that is past."""
        timer = Timer(max(when, self.now), function)
        heapq.heappush(self._queue, (timer.when, next(self._order), timer))
        return timer

    def call_later(self, delay: float, function: Callable[[], None]) -> Timer:
        return self.call_at(self.now + delay, function)

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Let `seconds` pass, or fewer if `until` becomes true after some event (then True). After a full run
        the clock stands exactly `seconds` later."""
        end = self.now + seconds
        if until():
            return True
        for _ in range(MAXIMUM_EVENTS):
            if not self._queue or self._queue[0][0] > end:
                self.now = max(self.now, end)
                return until()
            when, _, timer = heapq.heappop(self._queue)
            self.now = when
            timer.fire()
            if until():
                return True
        raise LabError(f"more than {MAXIMUM_EVENTS} events: something in the virtual network loops")


@dataclass(slots=True)
class NetworkStatistics:
    """Packets, by what became of them."""

    sent: int = 0
    delivered: int = 0
    lost: int = 0
    duplicated: int = 0
    cut: int = 0
    too_big: int = 0
    no_route: int = 0
    malformed: int = 0


class VirtualNetwork:
    """One wire that all hosts share.

    `delay` and `jitter` in seconds (each packet takes `delay` plus 0 to `jitter`, so jitter reorders); `loss`
    and `duplication` are probabilities; `bits_per_second` is each sender's link (None = no limit). All can be
    changed at any time. Packets larger than `mtu` bytes are dropped, as a wire without fragmentation does.
    """

    def __init__(
        self,
        clock: VirtualClock,
        *,
        delay: float = 0.001,
        jitter: float = 0.0,
        loss: float = 0.0,
        duplication: float = 0.0,
        bits_per_second: float | None = None,
        mtu: int = 1500,
        seed: int = 0,
    ) -> None:
        for name, probability in (("loss", loss), ("duplication", duplication)):
            if not 0.0 <= probability <= 1.0:
                raise ValueError(f"{name} {probability} is no probability")
        self.clock = clock
        self.delay, self.jitter = delay, jitter
        self.loss, self.duplication = loss, duplication
        self.bits_per_second = bits_per_second
        self.mtu = mtu
        self.statistics = NetworkStatistics()
        self._random = random.Random(seed)
        self._hosts: dict[Address, Receiver] = {}
        self._cuts: set[frozenset[Address]] = set()
        self._taps: list[Tap] = []
        self._busy_until: dict[Address, float] = {}

    def attach(self, address: Address, receive: Receiver) -> None:
        """Packets to `address` are given to `receive` from now on."""
        self._hosts[address] = receive

    def detach(self, address: Address) -> None:
        """Nobody has the address any more."""
        self._hosts.pop(address, None)

    def tap(self, tap: Tap) -> None:
        """`tap(now, packet)` sees every packet that is put on the wire, also one that is lost afterwards."""
        self._taps.append(tap)

    def cut(self, one: Address, other: Address) -> None:
        """Nothing passes between the two any more, in either direction."""
        self._cuts.add(frozenset((one, other)))

    def mend(self, one: Address, other: Address) -> None:
        self._cuts.discard(frozenset((one, other)))

    def send(self, packet: bytes) -> None:
        """Put an IP packet on the wire."""
        self.statistics.sent += 1
        try:
            parsed = parse_packet(packet)
        except PeerError:
            self.statistics.malformed += 1
            return
        for tap in self._taps:
            tap(self.clock.now, packet)
        source, destination = parsed.source, parsed.destination
        if len(packet) > self.mtu:
            self.statistics.too_big += 1
        elif frozenset((source, destination)) in self._cuts:
            self.statistics.cut += 1
        elif destination not in self._hosts:
            self.statistics.no_route += 1
        elif self._random.random() < self.loss:
            self.statistics.lost += 1
        else:
            copies = 1
            if self._random.random() < self.duplication:
                self.statistics.duplicated += 1
                copies = 2
            leaves = self._leaves_at(source, len(packet))
            for _ in range(copies):
                arrives = leaves + self.delay + self.jitter * self._random.random()
                self.clock.call_at(arrives, lambda: self._deliver(destination, packet))

    def _leaves_at(self, source: Address, size: int) -> float:
        """When the last bit has left the sender's link."""
        if self.bits_per_second is None:
            return self.clock.now
        leaves = max(self.clock.now, self._busy_until.get(source, 0.0)) + size * 8 / self.bits_per_second
        self._busy_until[source] = leaves
        return leaves

    def _deliver(self, destination: Address, packet: bytes) -> None:
        receive = self._hosts.get(destination)
        if receive is not None:
            self.statistics.delivered += 1
            receive(packet)
