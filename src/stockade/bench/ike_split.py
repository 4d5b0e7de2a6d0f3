"""Where a responder's processor time goes: crypto, and all the rest.

Two engines in this process make handshakes, message by message. While the responder works, every function and
method of `stockade.crypto` (and the verification of certificates, `stockade.pki.chain`) that is called from
outside adds its time to one clock. The clock itself costs the rest some microseconds a handshake.
"""

import inspect
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from ipaddress import IPv4Address
from typing import ParamSpec, TypeVar

from stockade.bench.ike_initiator import OneRule, Task, credentials, negotiation
from stockade.bench.ike_responders import PRESHARED_KEY, RESPONDER, Pki
from stockade.ike.config import EngineConfig
from stockade.ike.contract import Acquire, Send
from stockade.ike.engine import Engine
from stockade.model.addresses import Address, AddressRange
from stockade.model.negotiation import Negotiation
from stockade.model.traffic import TrafficSelector

P = ParamSpec("P")
R = TypeVar("R")
WARM_UP = 20


class _Clock:
    """Time inside wrapped calls, the outermost one of each."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._depth = 0

    def wrap(self, function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def timed(*arguments: P.args, **keywords: P.kwargs) -> R:
            if self._depth:
                return function(*arguments, **keywords)
            self._depth = 1
            start = time.thread_time()
            try:
                return function(*arguments, **keywords)
            finally:
                self.seconds += time.thread_time() - start
                self._depth = 0

        return timed


def _spis() -> Callable[[Address, Address], int]:
    numbers = itertools.count(0x1000)
    return lambda local, peer: next(numbers)


def _is_crypto(name: str) -> bool:
    return name.startswith("stockade.crypto.") or name == "stockade.pki.chain"


@contextmanager
def _timed_crypto(clock: _Clock) -> Iterator[None]:
    """Wrap what other rooms imported from the crypto room, and the public methods of its classes."""
    undo: list[tuple[object, str, object]] = []

    def replace(owner: object, name: str, value: object) -> None:
        undo.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    for module_name, module in list(sys.modules.items()):
        if module is None or not module_name.startswith("stockade.") or module_name == __name__:
            continue
        for name, value in list(vars(module).items()):
            home = getattr(value, "__module__", None) or ""
            if not _is_crypto(home) or "registry" in home:
                continue
            if inspect.isfunction(value) and not _is_crypto(module_name):
                replace(module, name, clock.wrap(value))
            elif inspect.isclass(value) and home == module_name:
                for method_name, method in list(vars(value).items()):
                    if inspect.isfunction(method) and not method_name.startswith("__"):
                        replace(value, method_name, clock.wrap(method))
    try:
        yield
    finally:
        for owner, name, value in reversed(undo):
            setattr(owner, name, value)


def two_engines(group: str, pki: Pki | None, count: int) -> tuple[Engine, Engine, Negotiation]:
    """Responder and initiator, and the rule that both have."""
    sides = []
    for end in ("responder", "initiator"):
        texts = None
        if pki is not None:
            own = pki.responder if end == "responder" else pki.initiator
            texts = (own[0].decode(), own[1].decode(), pki.root.decode())
        root = "" if pki is None else pki.root_name
        task = Task(RESPONDER, "10.64.0.1", count, 1, group, PRESHARED_KEY, pki=texts, root_name=root)
        rule = negotiation(task)
        sides.append(Engine(OneRule(rule), _spis(), os.urandom, EngineConfig(), credentials(task)))
    return sides[0], sides[1], rule


def handshake(responder: Engine, initiator: Engine, rule: Negotiation, number: int) -> Iterator[None]:
    """Main and quick mode of host `number`; pauses before and after the responder works."""
    now = number * 0.01
    local, remote = IPv4Address(0x0A40_0001 + number), IPv4Address(RESPONDER)
    selector = TrafficSelector(AddressRange.host(local), AddressRange.host(remote))
    initiator.command(Acquire(local, remote, selector, rule, "benchmark"), now)
    while sends := [effect for effect in initiator.effects() if isinstance(effect, Send)]:
        yield
        for send in sends:
            responder.receive(send.datagram, send.remote, send.local, now)
        effects = responder.effects()
        yield
        for effect in effects:
            if isinstance(effect, Send):
                initiator.receive(effect.datagram, effect.remote, effect.local, now)


@dataclass(frozen=True, slots=True)
class Split:
    """Seconds of processor time of a responder per handshake: `whole`, and what of it is `crypto`; medians,
    so that a busy machine counts less. `least_rest`: what is not crypto in the quietest handshakes (one in
    twenty took less)."""

    whole: float
    crypto: float
    least_rest: float


def measure(group: str, pki: Pki | None, count: int, *, ahead: bool = False) -> Split:
    """`ahead`: the responder makes its key pairs between the handshakes, and the clock stands meanwhile."""
    responder, initiator, rule = two_engines(group, pki, count)
    whole: list[float] = []
    crypto: list[float] = []
    clock = _Clock()
    with _timed_crypto(clock):
        for number in range(WARM_UP + count):
            while ahead and responder.work_ahead(number * 0.01):
                pass
            taken = inside = 0.0
            steps = handshake(responder, initiator, rule, number)
            for _ in steps:
                clock.seconds = 0.0
                start = time.thread_time()
                next(steps)
                taken += time.thread_time() - start
                inside += clock.seconds
            if number >= WARM_UP:
                whole.append(taken)
                crypto.append(inside)
    came_up(responder, WARM_UP + count)
    rest = sorted(one - other for one, other in zip(whole, crypto, strict=True))
    whole.sort()
    crypto.sort()
    return Split(whole[count // 2], crypto[count // 2], rest[count // 20])


def came_up(responder: Engine, count: int) -> None:
    if responder.statistics["quick_modes"] != count:
        raise AssertionError("the handshakes did not come up")
