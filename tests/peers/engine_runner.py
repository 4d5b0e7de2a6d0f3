"""Our engine against a real peer: the sans-IO engine between two UDP sockets in a namespace and the real
clock.

    test ── acquire ──▶ ┌────────┐ ── Send ──▶ UDP 500/4500 ──▶ the peer's own process
                        │ engine │ ◀───────────────────────────
                        └────────┘ ── InstallSa, Report ──▶ kept for the test to look at

The test's thread is the event loop: `run_until` carries datagrams and timeouts until a condition holds.
There is no driver: SAs that the engine wants installed are only collected. The whole path with packets is in
`interop_trials.py`.
"""

import itertools
import os
import select
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from stockade.agent.udp import UdpSockets
from stockade.ike.config import EngineConfig
from stockade.ike.contract import Acquire, InstallSa, RemoveSa, Report, ReportKind, Send
from stockade.ike.engine import Engine
from stockade.lab.netns import Namespace
from stockade.model.addresses import Address, AddressRange
from stockade.model.negotiation import Negotiation, QuickModeMatch
from stockade.model.reasons import Reason, ReasonCode
from stockade.model.sa import SecurityAssociation
from stockade.model.traffic import TrafficSelector
from stockade.pki.credentials import CredentialSource

FILTER_ID = "0123456789abcdef"
QUICK_TIMERS = EngineConfig(
    retransmission_intervals=(0.5, 1.0, 1.0), retransmission_jitter=0.0, authentication_attempts=3
)
"""A peer on the same machine answers at once or not at all."""


class OneNegotiation:
    """A policy with one rule: everything between two hosts by one negotiation."""

    def __init__(self, peer: Address, negotiation: Negotiation) -> None:
        self._peer = peer
        self._negotiation = negotiation

    def for_peer(self, local: Address, peer: Address) -> tuple[Negotiation, ...] | Reason:
        if peer != self._peer:
            return Reason.of(ReasonCode.NO_POLICY, peer=peer)
        return (self._negotiation,)

    def for_quick_mode(
        self, local: Address, peer: Address, requested: TrafficSelector
    ) -> QuickModeMatch | Reason:
        if peer != self._peer:
            return Reason.of(ReasonCode.NO_POLICY, peer=peer)
        return QuickModeMatch(self._negotiation, requested, FILTER_ID)


class EngineHost:
    """An engine at `local` in `namespace` with one rule for `peer`, a context manager that closes its
    sockets."""

    def __init__(
        self,
        namespace: Namespace,
        peer: Address,
        negotiation: Negotiation,
        *,
        config: EngineConfig = QUICK_TIMERS,
        credentials: CredentialSource | None = None,
    ) -> None:
        self.local = namespace.addresses[0]
        self.peer = peer
        self.reports: list[Report] = []
        self.installed: list[SecurityAssociation] = []
        self._negotiation = negotiation
        self._spis = itertools.count(0x1000)
        self.engine = Engine(
            OneNegotiation(peer, negotiation),
            lambda local, peer: next(self._spis),
            os.urandom,
            config,
            credentials,
        )
        self._sockets = namespace.call(lambda: UdpSockets(None))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sockets.close()

    def acquire(self) -> None:
        """What a driver says at the first packet: secure everything between us and the peer."""
        selector = TrafficSelector(AddressRange.host(self.local), AddressRange.host(self.peer))
        self.engine.command(
            Acquire(self.local, self.peer, selector, self._negotiation, FILTER_ID), time.monotonic()
        )

    def run_until(self, condition: Callable[[], bool], seconds: float = 60.0) -> bool:
        """Carry datagrams and timeouts until the condition holds (True) or the time is over (False)."""
        deadline = time.monotonic() + seconds
        readers = dict(self._sockets.descriptors())
        while True:
            self._apply_effects()
            if condition():
                return True
            now = time.monotonic()
            if now >= deadline:
                return False
            due = self.engine.next_timeout()
            wait = min(0.1, deadline - now, 0.1 if due is None else max(0.0, due - now))
            for descriptor in select.select(list(readers), [], [], wait)[0]:
                for datagram, local, remote in readers[descriptor]():
                    self.engine.receive(datagram, local, remote, time.monotonic())
            self.engine.timeout(time.monotonic())

    def established(self) -> bool:
        """Whether a main mode with the peer is up."""
        return any(view.established for view in self.engine.main_modes(time.monotonic()))

    def reasons(self, kind: ReportKind) -> list[ReasonCode]:
        """The reasons of all reports of one kind so far."""
        return [report.reason.code for report in self.reports if report.kind is kind]

    def _apply_effects(self) -> None:
        for effect in self.engine.effects():
            if isinstance(effect, Send):
                self._sockets.send(effect.datagram, effect.local, effect.remote)
            elif isinstance(effect, InstallSa):
                self.installed.append(effect.sa)
            elif isinstance(effect, RemoveSa):
                self.installed = [
                    sa for sa in self.installed if (sa.spi, sa.direction) != (effect.spi, effect.direction)
                ]
            else:
                self.reports.append(effect)
