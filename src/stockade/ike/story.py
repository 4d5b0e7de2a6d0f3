"""The story of a negotiation: what the Oakley log says, line by line.

Windows writes its key exchange into `oakley.log`; this is the same in words that people can use: what was
offered, what was chosen and why the rest was not, who proved what, how long each step took, and every refusal
with its remedy and Windows' error code. Nothing here is a secret: algorithms, names, addresses, times, SPIs.

A `Story` belongs to one main mode or quick mode. Nothing is made or kept while logging is off. Strangers can
begin main modes at will, so lines have a rate; what was left out is counted in the next line."""

from collections.abc import Iterable, Sequence
from enum import StrEnum

from stockade.ike.context import LINES_LEFT_OUT, Context
from stockade.ike.contract import StoryLine
from stockade.model.addresses import Endpoint
from stockade.model.reasons import Reason


class StoryEvent(StrEnum):
    """What a line is about; the log and its JSON use these words."""

    BEGUN = "begun"
    OFFERED = "offered"
    CHOSEN = "chosen"
    SENT = "sent"
    SENT_AGAIN = "sent-again"
    RECEIVED = "received"
    REFUSED = "refused"
    RULE = "rule"
    NAT = "nat"
    PEER = "peer"
    PROVED = "proved"
    ESTABLISHED = "established"
    FAILED = "failed"
    DELETED = "deleted"
    NOTIFIED = "notified"
    DOUBTED = "doubted"


class Story:
    """One negotiation's lines. `number` is unique in an engine; quick modes name their main mode's as
    `under`."""

    __slots__ = ("_context", "_last", "initiator", "local", "number", "phase", "remote", "started", "under")

    def __init__(
        self,
        context: Context,
        phase: str,
        local: Endpoint,
        remote: Endpoint,
        *,
        initiator: bool,
        under: int = 0,
    ) -> None:
        self._context = context
        self.number = context.next_story()
        self.under = under
        self.phase = phase
        self.local = local
        self.remote = remote
        self.initiator = initiator
        self.started = context.now
        self._last = context.now

    @property
    def on(self) -> bool:
        """Whether anybody listens: ask before making an expensive line."""
        return self._context.narrating

    def tell(self, event: StoryEvent, text: str, *facts: tuple[str, object]) -> None:
        if self._context.narrating:
            self._add(event, text, tuple((name, str(value)) for name, value in facts), None)

    def refuse(self, event: StoryEvent, reason: Reason) -> None:
        """A line with a reason: its words, its facts, the remedy and Windows' code."""
        if self._context.narrating:
            self._add(event, str(reason.detail or reason.code.meaning), reason.facts, reason)

    def _add(
        self, event: StoryEvent, text: str, facts: tuple[tuple[str, str], ...], reason: Reason | None
    ) -> None:
        context = self._context
        suppressed = context.may_narrate()
        if suppressed is None:
            return
        if suppressed:
            facts += ((LINES_LEFT_OUT, str(suppressed)),)
        line = StoryLine(
            self.number,
            self.under,
            self.phase,
            self.initiator,
            self.local,
            self.remote,
            event,
            text,
            facts,
            context.now - self.started,
            context.now - self._last,
            reason,
        )
        self._last = context.now
        context.effects.append(line)


def numbered(items: Iterable[object], word: str = "offer") -> list[tuple[str, object]]:
    """`offer 1`, `offer 2`, … as facts."""
    return [(f"{word} {number}", item) for number, item in enumerate(items, 1)]


def tell_own_choice(story: Story, chosen: str, judged: Sequence[tuple[str, str]]) -> None:
    """We chose among the peer's offers: which one, and why the rest was not. `judged`: each offer and what
    does not fit of it."""
    facts: list[tuple[str, object]] = []
    found = False
    for number, (what, why) in enumerate(judged, 1):
        if not why:
            why = "fits, but an earlier one was chosen" if found else "chosen"
            found = True
        facts.append((f"offer {number} {what}", why))
    story.tell(StoryEvent.CHOSEN, f"we choose {chosen}", *facts)


def tell_peers_choice(story: Story, chosen: str, offered: Sequence[str]) -> None:
    """The peer chose among ours. Why, only its own log can say."""
    facts: list[tuple[str, object]] = []
    found = False
    for number, what in enumerate(offered, 1):
        verdict = "behind the one chosen" if found else "passed over by the peer; its log says why"
        if not found and what.partition(":")[0] == chosen.partition(":")[0]:
            verdict, found = "chosen", True
        facts.append((f"offer {number} {what}", verdict))
    story.tell(StoryEvent.CHOSEN, f"the peer chooses {chosen}", *facts)
