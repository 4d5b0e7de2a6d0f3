"""What main-mode and quick-mode proposals share: attributes, refusals, the SA payload around them.

RFC 2408 §4.2, RFC 2409 Appendix A, RFC 2407 §4.5. The initiator's order counts: the responder takes the first
transform that its policy allows, and returns it unmodified. A choosing function returns a choice, or the
`Reason` of the refusal that lists each offer and the first thing that did not fit. Unknown attributes do not
abort a negotiation ([MS-IKEE] §3.1.5): they are echoed with the transform that carries them.

Lifetimes are the exception to "unmodified": the shorter one of both ends counts, and an initiator accepts a
choice whose lifetime was shortened, as some responders do instead of sending RESPONDER-LIFETIME."""

from collections.abc import Callable, Iterable, Sequence
from typing import Generic, ParamSpec, TypeVar

from stockade.model.reasons import Reason, ReasonCode
from stockade.wire.isakmp.constants import (
    DomainOfInterpretation,
    LifeType,
    Situation,
)
from stockade.wire.isakmp.payloads import (
    Attribute,
    ProposalPayload,
    SecurityAssociationPayload,
)

P = ParamSpec("P")
T = TypeVar("T")

_IPSEC, _IDENTITY_ONLY = int(DomainOfInterpretation.IPSEC), int(Situation.IDENTITY_ONLY)
MAXIMUM_FACTS = 16


class TransformAttributes:
    """The attributes of one transform, by number. Lifetimes come as pairs (type, duration), in order."""

    def __init__(self, attributes: Iterable[Attribute], life_type: int, life_duration: int) -> None:
        self.numbers: dict[int, int | None] = {}
        self.lifetimes: dict[int, int] = {}
        self.fault = ""
        pending: int | None = None
        for attribute in attributes:
            number = attribute.number
            if attribute.type == life_type:
                pending = number
            elif attribute.type == life_duration:
                if pending is None:
                    self.fault = "a lifetime without its type"
                elif number:
                    self.lifetimes[pending] = min(number, self.lifetimes.get(pending, number))
                pending = None
            elif self.numbers.get(attribute.type, number) != number:
                self.fault = f"attribute {attribute.type} with two values"
            else:
                self.numbers[attribute.type] = number

    def get(self, kind: int) -> int | None:
        return self.numbers.get(kind)


class Remembered(Generic[P, T]):
    """A pure function whose results are remembered by the identity of one argument (and then equality of
    the others). The decoder hands out one and the same object for what many peers offer. Bounded."""

    _SIZE = 256

    def __init__(self, function: Callable[P, T]) -> None:
        self._function = function
        self._known: dict[int, tuple[object, tuple[object, ...], T]] = {}

    def __call__(self, subject: object, *arguments: P.args, **keywords: P.kwargs) -> T:
        """The function of `arguments`, which `subject` is one of."""
        known = self._known.get(id(subject))
        # The subject is kept, so nothing else can have its identity meanwhile.
        if known is not None and known[0] is subject and known[1] == arguments:
            return known[2]
        result = self._function(*arguments, **keywords)
        if len(self._known) >= self._SIZE:
            self._known.clear()
        self._known[id(subject)] = (subject, arguments, result)
        return result


def lifetime_attributes(
    kind: int, type_: LifeType, duration_: int, value: int
) -> tuple[Attribute, Attribute]:
    # Always the 4-byte form, as Windows writes durations (RFC 2407 §4.5 shows it so, too).
    return Attribute(kind, int(type_)), Attribute(duration_, min(value, 0xFFFF_FFFF).to_bytes(4, "big"))


def listed(words: Iterable[object]) -> str:
    return ", ".join(dict.fromkeys(str(word) for word in words))


def refusal(what: str, whys: Sequence[tuple[str, str]]) -> Reason:
    """`whys`: each offer and the first thing of it that did not fit."""
    facts = tuple((f"offer {index} {offer}:", why) for index, (offer, why) in enumerate(whys, 1))
    if len(facts) > MAXIMUM_FACTS:
        facts = (*facts[:MAXIMUM_FACTS], ("offers not listed:", str(len(facts) - MAXIMUM_FACTS)))
    return Reason(ReasonCode.NO_PROPOSAL_CHOSEN, what, facts)


def foreign_reason(sa: SecurityAssociationPayload) -> Reason | None:
    if sa.doi == _IPSEC and sa.situation == _IDENTITY_ONLY:
        return None
    if sa.doi not in (DomainOfInterpretation.IPSEC, DomainOfInterpretation.ISAKMP):
        return Reason.of(ReasonCode.NO_PROPOSAL_CHOSEN, "not the IPsec domain of interpretation", doi=sa.doi)
    if sa.doi == DomainOfInterpretation.IPSEC and sa.situation != Situation.IDENTITY_ONLY:
        return Reason.of(ReasonCode.NO_PROPOSAL_CHOSEN, "unknown situation", situation=sa.situation)
    return None


def sa_payload(proposals: Sequence[ProposalPayload]) -> SecurityAssociationPayload:
    return SecurityAssociationPayload(DomainOfInterpretation.IPSEC, Situation.IDENTITY_ONLY, tuple(proposals))
