"""Living with peers that have no IPsec: when a rule with `soft` falls back to clear traffic, and for how long
(reference: the Windows policy model, §4 and §9).

    acquire of a soft rule ─▶ waiting ──fall-back time without a word of the peer─▶ soft SA ─▶ over, idle
                                 │                                                    ▲ │
                                 ├── negotiation failed ──────────────────────────────┘ └─▶ an SA came up
                                 └── an SA came up

The fall-back time (3 s; 500 ms with the Simple Policy Update) is for peers that say nothing: with one that
answers, the negotiation runs to its end. The key exchange goes on behind a soft SA, so a peer that answers
late is secured after all. A soft SA ends after its lifetime, when nothing passed for `idle_seconds`, and as
soon as an SA with the same traffic comes up; the next packet negotiates again.

**Negotiation discovery** ([MS-IKEE] §3.7; off unless asked for) does not wait: the soft SA is there at once,
the key exchange goes on behind it, and what was secured once is not spoken in clear again before it has been
quiet for the idle time, whatever fails. The packet that began it, held for that moment, goes in clear too.

What failed for reasons of ours (the policy changed, we are stopping, too much is going on) is no reason to
speak in clear. Sans-IO: the core tells what happened, and puts the table in force again where a method says
that it changed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from stockade.agent.temporary import SoftAssociation, TemporaryFilters
from stockade.ike.contract import Acquire, Report
from stockade.model.addresses import Address
from stockade.model.filters import Direction, FilterTable
from stockade.model.reasons import Reason, ReasonCode
from stockade.model.sa import SecurityAssociation
from stockade.model.traffic import TrafficSelector

MAXIMUM_WAITING = 4096
LOOK_INTERVAL = 30.0
"""Seconds between two looks at what passed under soft SAs."""

_NEVER = frozenset(
    {
        ReasonCode.POLICY_CHANGED,
        ReasonCode.SHUTTING_DOWN,
        ReasonCode.QUEUE_FULL,
        ReasonCode.NO_SPI,
        ReasonCode.DRIVER_FAILED,
        ReasonCode.INTERNAL,
    }
)
_SILENCE = frozenset({ReasonCode.NEGOTIATION_TIMED_OUT, ReasonCode.PEER_DEAD})


class SoftWhen(StrEnum):
    """Which failures a rule with `soft` answers with clear traffic. The Windows FAQ says any; Windows 2000 to
    2003 did it for silence only, before the Simple Policy Update."""

    ANY_FAILURE = "any-failure"
    NO_ANSWER = "no-answer"


@dataclass(frozen=True, slots=True)
class SoftSettings:
    """Times in seconds."""

    fallback_seconds: float = 3.0
    idle_seconds: float = 300.0
    when: SoftWhen = SoftWhen.ANY_FAILURE
    discovery: bool = False

    def __post_init__(self) -> None:
        if self.fallback_seconds <= 0 or self.idle_seconds <= 0:
            raise ValueError("the times of soft SAs must be positive")

    def falls_back(self, reason: Reason) -> bool:
        """Whether this failure of a negotiation ends in a soft SA."""
        if reason.code in _NEVER:
            return False
        return self.when is SoftWhen.ANY_FAILURE or reason.code in _SILENCE


class Waiting:
    """The acquires of soft rules for which the fall-back time runs."""

    def __init__(self) -> None:
        self._due: dict[tuple[str, Address, Address], tuple[float, Acquire]] = {}

    def begin(self, acquire: Acquire, due: float) -> None:
        """Repeated acquires do not lengthen the time. Beyond `MAXIMUM_WAITING` the traffic stays closed until
        the negotiation ends."""
        if len(self._due) < MAXIMUM_WAITING:
            self._due.setdefault((acquire.filter_id, acquire.local, acquire.peer), (due, acquire))

    def again(self, acquire: Acquire, due: float) -> None:
        self._due[acquire.filter_id, acquire.local, acquire.peer] = (due, acquire)

    def end(self, filter_id: str, local: Address, peer: Address) -> Acquire | None:
        found = self._due.pop((filter_id, local, peer), None)
        return None if found is None else found[1]

    def end_with(self, local: Address, peer: Address) -> None:
        """An SA with this peer came up."""
        for key in [key for key in self._due if key[1:] == (local, peer)]:
            del self._due[key]

    def take_due(self, now: float) -> list[Acquire]:
        due = [(key, acquire) for key, (when, acquire) in self._due.items() if when <= now]
        for key, _ in due:
            del self._due[key]
        return [acquire for _, acquire in due]

    def next_due(self) -> float | None:
        return min((when for when, _ in self._due.values()), default=None) if self._due else None


class _Secured:
    """The traffic that is secured, or was a short time ago: with negotiation discovery it stays closed."""

    def __init__(self) -> None:
        self._flows: dict[tuple[str, Address, Address], tuple[int, float]] = {}
        """How many inbound SAs there are, and until when it counts where there is none."""

    def came(self, sa: SecurityAssociation) -> None:
        key = (sa.filter_id, sa.local, sa.peer)
        pairs, _ = self._flows.get(key, (0, 0.0))
        self._flows[key] = (pairs + 1, 0.0)

    def went(self, sa: SecurityAssociation, until: float) -> None:
        key = (sa.filter_id, sa.local, sa.peer)
        known = self._flows.get(key)
        if known is not None:
            self._flows[key] = (max(0, known[0] - 1), until)
        if len(self._flows) > MAXIMUM_WAITING:  # the agent's peers make these: those of SAs stay
            for other in [name for name, (pairs, _) in self._flows.items() if not pairs][:1]:
                del self._flows[other]

    def holds(self, acquire: Acquire, now: float) -> bool:
        key = (acquire.filter_id, acquire.local, acquire.peer)
        pairs, until = self._flows.get(key, (0, 0.0))
        if not pairs and until <= now:
            self._flows.pop(key, None)
            return False
        return True

    def wanted(self, acquire: Acquire, until: float) -> None:
        """Somebody wants to send it: if it stays closed it is not quiet yet."""
        key = (acquire.filter_id, acquire.local, acquire.peer)
        if key in self._flows:
            self._flows[key] = (self._flows[key][0], until)


class SoftHost(Protocol):
    """What soft SAs need to know of their host."""

    @property
    def compiled(self) -> FilterTable:
        """The table of the policy, without anything temporary."""

    def has_answered(self, local: Address, peer: Address) -> bool:
        """Whether this peer has said a word of IKE."""

    def packet_counts(self) -> dict[str, int]:
        """Packets by filter identifier, where the data plane counts them."""


class SoftFallback:
    """All of it for one host. Methods that return a truth value say whether the filter table changed. `note`
    writes a journal entry: kind, reason, time, and the filter's provenance."""

    def __init__(
        self,
        host: SoftHost,
        temporary: TemporaryFilters,
        settings: SoftSettings,
        note: Callable[[str, Reason, float, str], None],
    ) -> None:
        self.settings = settings
        self.stopping = False
        self._host = host
        self._temporary = temporary
        self._note = note
        self._waiting = Waiting()
        self._seen: dict[tuple[str, Address, Address], tuple[int, float]] = {}
        self._next_look = 0.0
        self._secured = _Secured()

    def next_due(self) -> float | None:
        if not self._temporary.soft:  # asked after every message
            return self._waiting.next_due()
        due = [self._waiting.next_due(), self._next_look]
        due.append(min(soft.expires for soft in self._temporary.soft))
        return min((when for when in due if when is not None), default=None)

    def acquired(self, acquire: Acquire, now: float) -> bool:
        """A soft rule asks for a negotiation: its fall-back time begins, or is over at once."""
        if not self.settings.discovery:
            self._waiting.begin(acquire, now + self.settings.fallback_seconds)
            return False
        detail = "negotiation discovery: in clear until it is secured"
        return self._add(acquire, Reason.of(ReasonCode.NEGOTIATION_TIMED_OUT, detail), now, at_once=True)

    def timeout(self, now: float) -> bool:
        changed = self._fall_back(now)
        return self._end(now) or changed

    def sa_came(self, sa: SecurityAssociation, outbound: TrafficSelector, now: float) -> bool:
        """An SA with a peer: no soft SA stands in its way."""
        self._waiting.end_with(sa.local, sa.peer)
        if sa.direction is Direction.INBOUND and self.settings.discovery:
            self._secured.came(sa)
        ended = [
            soft
            for soft in self._temporary.soft
            if (soft.local, soft.peer) == (sa.local, sa.peer) and soft.selector.overlaps(outbound)
        ]
        for soft in ended:
            self._forget(soft, "an SA with the peer came up", now)
        return bool(ended)

    def sa_went(self, sa: SecurityAssociation, now: float) -> None:
        """An inbound SA with a peer is gone."""
        self._secured.went(sa, now + self.settings.idle_seconds)

    def failed(self, report: Report, now: float) -> bool:
        """A negotiation of some filter failed."""
        local, peer = report.local.address, report.remote.address
        acquire = self._waiting.end(report.filter_id, local, peer) or self._as_acquire(report)
        return acquire is not None and self._add(acquire, report.reason, now)

    def _fall_back(self, now: float) -> bool:
        """The fall-back time of some acquires is over."""
        changed = False
        for acquire in self._waiting.take_due(now):
            if self._host.has_answered(acquire.local, acquire.peer):
                # It has IPsec: what comes of the negotiation decides.
                self._waiting.again(acquire, now + self.settings.fallback_seconds)
                continue
            detail = f"no answer in {self.settings.fallback_seconds:g} seconds"
            reason = Reason.of(ReasonCode.NEGOTIATION_TIMED_OUT, detail)
            changed = self._add(acquire, reason, now) or changed
        return changed

    def _as_acquire(self, report: Report) -> Acquire | None:
        """The acquire of a soft rule that failed after its fall-back time was counted, or for a rekey."""
        compiled = self._host.compiled
        entry = compiled.by_id(report.filter_id)
        local, peer = report.local.address, report.remote.address
        if entry is None or not entry.allow_soft or entry.negotiation is None or report.selector is None:
            return None
        if self._temporary.soft_with(entry.id, local, peer) is not None:
            return None  # it has its soft SA already
        negotiation = compiled.negotiations[entry.negotiation]
        if negotiation.quick_mode.tunnel_endpoint is not None:
            return None
        return Acquire(local, peer, report.selector, negotiation, entry.id)

    def _add(self, acquire: Acquire, reason: Reason, now: float, *, at_once: bool = False) -> bool:
        if self.stopping or not (at_once or self.settings.falls_back(reason)):
            return False
        if self.settings.discovery and self._secured.holds(acquire, now):
            if at_once:
                self._secured.wanted(acquire, now + self.settings.idle_seconds)
            return False
        entry = self._host.compiled.by_id(acquire.filter_id)
        if entry is None or not entry.allow_soft:
            return False
        expires = now + acquire.negotiation.soft_seconds
        soft = SoftAssociation(
            acquire.local, acquire.peer, acquire.selector, acquire.filter_id, reason, now, expires, at_once
        )
        if not self._temporary.soft:
            self._next_look = now + LOOK_INTERVAL
        if not self._temporary.add_soft(soft):
            return False
        self._seen[soft.key] = (0, now)
        told = Reason.of(ReasonCode.SOFT_FALLBACK, str(reason), peer=acquire.peer, traffic=acquire.selector)
        self._note("soft-established", told, now, str(entry.provenance))
        return True

    def _end(self, now: float) -> bool:
        """Soft SAs end after their lifetime, or when nothing passed for the idle time."""
        ended = [(soft, "its lifetime is over") for soft in self._temporary.soft if soft.expires <= now]
        if self._temporary.soft and now >= self._next_look:
            self._next_look = now + LOOK_INTERVAL
            counts = self._host.packet_counts()
            for soft in self._temporary.soft:
                packets = sum(counts.get(name, 0) for name in self._temporary.filters_of(soft))
                before, used = self._seen.get(soft.key, (0, now))
                if packets != before:
                    self._seen[soft.key] = (packets, now)
                elif now - used >= self.settings.idle_seconds and soft.expires > now:
                    ended.append((soft, f"nothing passed for {self.settings.idle_seconds:g} seconds"))
        for soft, why in ended:
            self._forget(soft, why, now)
        return bool(ended)

    def _forget(self, soft: SoftAssociation, why: str, now: float) -> None:
        self._temporary.remove_soft(soft)
        self._seen.pop(soft.key, None)
        self._note("soft-ended", Reason.of(ReasonCode.SOFT_ENDED, why, peer=soft.peer), now, "")
