"""All SAs of thousands of peers made anew, on a clock that one core could keep.

One engine initiates to every peer; another one answers for all of them. Messages arrive at once. The clock
jumps to the next deadline while the initiating engine is idle, and goes on by the processor time that this
engine takes while it works (the peers' own time is theirs). So a deadline that comes up while the core is
busy is met late, by as much as it would be late on one core of this machine. The key exchange is real; the
wire and the data plane, which asks for a new SA at the soft lifetime of each, are played.
"""

import gc
import heapq
import itertools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address

from stockade.agent.collector import calm_collector
from stockade.bench.ike_initiator import OneRule, Task, negotiation
from stockade.bench.ike_responders import PRESHARED_KEY, RESPONDER
from stockade.ike.config import EngineConfig
from stockade.ike.contract import Acquire, InstallSa, RekeyQuickMode, Send
from stockade.ike.engine import Engine
from stockade.model.addresses import Address, AddressRange
from stockade.model.filters import Direction
from stockade.model.traffic import TrafficSelector

_FIRST = 0x0A40_0001


@dataclass(slots=True)
class Rekeys:
    """What came of it. Seconds: `lateness` the worst of any deadline, `margin` the least that was left of an
    SA's hard lifetime when its successor was there, `span` from the first rekey to the last, `cpu` what the
    rekeys took, `collected` what a look at all objects of both ends takes, which an agent has in quiet
    moments."""

    made: int = 0
    rekeyed: int = 0
    lateness: float = 0.0
    margin: float = float("inf")
    span: float = 0.0
    cpu: float = 0.0
    collected: float = 0.0


class _Host:
    """The initiating engine, its clock and the deadlines of its data plane."""

    def __init__(self, group: str, peers: int) -> None:
        task = Task(RESPONDER, str(IPv4Address(_FIRST)), peers, 1, group, PRESHARED_KEY)
        self.rule = negotiation(task)
        self.engine, self.peers = (
            Engine(OneRule(self.rule), _spis(), os.urandom, EngineConfig()) for _ in range(2)
        )
        self.now = 0.0
        self.busy = 0.0
        self.soft: list[tuple[float, float, int]] = []
        """(when it is to be rekeyed, when it dies, inbound SPI) of every SA."""

    def work(self, step: Callable[[float], None]) -> None:
        """Do something in the engine and carry out what follows, on the clock."""
        started = time.thread_time()
        step(self.now)
        effects = self.engine.effects()
        self._pass(time.thread_time() - started)
        while effects:
            for effect in effects:
                if isinstance(effect, Send):
                    self.peers.receive(effect.datagram, effect.remote, effect.local, self.now)
                elif isinstance(effect, InstallSa) and effect.sa.direction is Direction.INBOUND:
                    self._installed(effect)
            answers = [effect for effect in self.peers.effects() if isinstance(effect, Send)]
            started = time.thread_time()
            for answer in answers:
                self.engine.receive(answer.datagram, answer.remote, answer.local, self.now)
            effects = self.engine.effects()
            self._pass(time.thread_time() - started)

    def _pass(self, seconds: float) -> None:
        self.now += seconds
        self.busy += seconds

    def _installed(self, effect: InstallSa) -> None:
        lifetime = effect.sa.lifetime
        assert lifetime.soft_seconds is not None
        assert lifetime.hard_seconds is not None
        due, end = self.now + lifetime.soft_seconds, self.now + lifetime.hard_seconds
        heapq.heappush(self.soft, (due, end, effect.sa.spi))


def _spis() -> Callable[[Address, Address], int]:
    numbers = itertools.count(0x1000)
    return lambda local, peer: next(numbers)


def measure(group: str, peers: int) -> Rekeys:
    """Make an SA pair with each of `peers`, then go on until every one of them was rekeyed once. Python looks
    for garbage as it does in an agent."""
    before = gc.get_threshold()
    calm_collector()
    try:
        result = _measure(group, peers)
        started = time.thread_time()
        gc.collect()
        result.collected = time.thread_time() - started
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
    return result


def _measure(group: str, peers: int) -> Rekeys:
    host = _Host(group, peers)
    remote = IPv4Address(RESPONDER)
    for number in range(peers):
        local = IPv4Address(_FIRST + number)
        selector = TrafficSelector(AddressRange.host(local), AddressRange.host(remote))
        host.work(partial(host.engine.command, Acquire(local, remote, selector, host.rule, "benchmark")))
    result = Rekeys(made=host.engine.statistics["quick_modes"])
    first: float | None = None
    busy = host.busy
    while result.rekeyed < result.made:
        timer = host.engine.next_timeout()
        due = host.soft[0][0]
        if timer is not None and timer <= due:
            host.now = max(host.now, timer)
            result.lateness = max(result.lateness, host.now - timer)
            host.peers.timeout(host.now)
            host.peers.effects()
            host.work(host.engine.timeout)
            continue
        due, end, spi = heapq.heappop(host.soft)
        host.now = max(host.now, due)
        result.lateness = max(result.lateness, host.now - due)
        first = host.now if first is None else first
        host.work(partial(host.engine.command, RekeyQuickMode(spi)))
        result.margin = min(result.margin, end - host.now)
        result.rekeyed += 1
    result.span = host.now - (first or host.now)
    result.cpu = host.busy - busy
    rekeys = host.engine.statistics["rekeys"]
    if result.made != peers or rekeys != result.rekeyed:
        raise AssertionError(f"{result.made} of {peers} came up, {rekeys} of {result.rekeyed} were rekeyed")
    return result
