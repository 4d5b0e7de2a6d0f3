"""What an import or export has to say: reasons, collected, each with the object that it is about.

A *loss* is something that the other side does not have afterwards; a *note* is something that came over in
another form. Codes: TAKEN_OVER is a note, every other one a loss."""

from collections.abc import Iterable

from stockade.model.reasons import Reason, ReasonCode, StockadeError

MAXIMUM_PROBLEMS = 1_000  # a hostile file must not fill memory or screens with them
MAXIMUM_SHOWN = 120  # characters of foreign text in a reason


def shown(text: str) -> str:
    """Foreign text as it may stand in a reason: short, and nothing that a terminal would obey."""
    clean = "".join(character if character.isprintable() else "\ufffd" for character in text[:MAXIMUM_SHOWN])
    return clean + "…" if len(text) > MAXIMUM_SHOWN else clean


def is_loss(reason: Reason) -> bool:
    """Whether the reason speaks of something that did not come over."""
    return reason.code is not ReasonCode.TAKEN_OVER


def with_fact(error: StockadeError, name: str, value: str) -> StockadeError:
    """The same error with one more fact, unless it has it already."""
    reason = error.reason
    if any(fact == name for fact, _ in reason.facts):
        return error
    return type(error)(Reason(reason.code, reason.detail, (*reason.facts, (name, value))))


class Problems:
    """Collects reasons; above `MAXIMUM_PROBLEMS` they are only counted."""

    def __init__(self, reasons: Iterable[Reason] = ()) -> None:
        self._reasons: list[Reason] = []
        self._more = 0
        self.losses = 0
        for reason in reasons:
            self.add(reason)

    def add(self, reason: Reason) -> None:
        self.losses += is_loss(reason)
        if len(self._reasons) < MAXIMUM_PROBLEMS:
            self._reasons.append(reason)
        else:
            self._more += 1

    def loss(self, code: ReasonCode, detail: str, where: str) -> None:
        """Something was left out."""
        self.add(Reason.of(code, detail, object=where))

    def note(self, detail: str, where: str) -> None:
        """Something came over in another form."""
        self.add(Reason.of(ReasonCode.TAKEN_OVER, detail, object=where))

    def reasons(self) -> tuple[Reason, ...]:
        """All of them, in the order in which they were found."""
        if not self._more:
            return tuple(self._reasons)
        code = ReasonCode.INVALID_FILE if self.losses else ReasonCode.TAKEN_OVER
        return (*self._reasons, Reason.of(code, f"and {self._more} more that are not listed"))
