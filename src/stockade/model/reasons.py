"""Why: a reason with its facts, and the three errors that carry one.

Every refusal and failure in the product is a `Reason`: a member of `ReasonCode` (the closed list, in
`reason_codes.py`) with facts. Logs, events, the local API, `explain` and the reference page use it.

A member says whose fault it is: the caller's (a bad command or policy), the peer's (bytes or behaviour), or
the host's (the system refuses us something). The error class follows from that: `error_for(code)` makes it.
"""

from dataclasses import dataclass
from typing import Self

from stockade.model.quickly_made import quickly_made
from stockade.model.reason_codes import Fault, ReasonCode

__all__ = [
    "CallerError",
    "Fault",
    "HostError",
    "PeerError",
    "Reason",
    "ReasonCode",
    "StockadeError",
    "error_for",
    "error_of",
]


@quickly_made
@dataclass(frozen=True, slots=True)
class Reason:
    """One refusal or failure: the code, what exactly happened, and facts (names and values as text, no
    secrets)."""

    code: ReasonCode
    detail: str = ""
    facts: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, code: ReasonCode, detail: str = "", **facts: object) -> Self:
        return cls(code, detail, tuple([(name, str(value)) for name, value in facts.items()]))

    def __str__(self) -> str:
        text = self.code.meaning if not self.detail else f"{self.code.meaning}: {self.detail}"
        if self.facts:
            text += " (" + ", ".join([f"{name} {value}" for name, value in self.facts]) + ")"
        return text

    def as_dict(self) -> dict[str, object]:
        """The JSON form that the API, the journal and `--format json` use."""
        return {
            "reason": self.code.word,
            "text": str(self),
            "remedy": self.code.remedy,
            "fault": self.code.fault.value,
            "windows_code": self.code.windows_code,
            "facts": dict(self.facts),
        }


class StockadeError(Exception):
    """The root of our errors. `reason` says what, where, why and what to do."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(str(reason))
        self.reason = reason


class CallerError(StockadeError):
    """A bad command, policy or argument: the person or program that calls can put it right."""


class PeerError(StockadeError):
    """Bytes or behaviour of the other end."""


class HostError(StockadeError):
    """This system refuses or lacks something."""


_CLASSES: dict[Fault, type[StockadeError]] = {
    Fault.CALLER: CallerError,
    Fault.PEER: PeerError,
    Fault.HOST: HostError,
}


def error_of(reason: Reason) -> StockadeError:
    """The error of the class that the reason's fault asks for, ready to raise."""
    return _CLASSES[reason.code.fault](reason)


def error_for(code: ReasonCode, detail: str = "", **facts: object) -> StockadeError:
    """The error of the class that the code's fault asks for, ready to raise."""
    return _CLASSES[code.fault](Reason.of(code, detail, **facts))
