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

What failed for reasons of ours (the policy changed, we are stopping, too much is going on) is no reason to
speak in clear. Sans-IO: the core asks, and changes the driver.
"""

from dataclasses import dataclass
from enum import StrEnum

from stockade.ike.contract import Acquire
from stockade.model.addresses import Address
from stockade.model.reasons import Reason, ReasonCode

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
        return min((when for when, _ in self._due.values()), default=None)

    def clear(self) -> None:
        self._due.clear()
