"""What the generators of the exchanges say to what runs them (`exchange.py`): send this, wait for that, have
this done, it is over; and the messages that they get."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from stockade.ike.auth.method import AuthMethod, Task
from stockade.ike.v1.protection import MessageProtection
from stockade.model.quickly_made import quickly_made
from stockade.model.reasons import PeerError, Reason, ReasonCode, StockadeError, error_for, error_of
from stockade.model.sa import SecurityAssociation
from stockade.wire.isakmp.constants import PayloadType
from stockade.wire.isakmp.message import Header, ReceivedPayload
from stockade.wire.isakmp.payloads import Payload, payload_name

T = TypeVar("T")
P = TypeVar("P", bound=Payload)

_REMEMBERED = 64
_TOLERATED = frozenset({PayloadType.VENDOR_ID, PayloadType.NOTIFICATION})
_KNOWN = frozenset(int(kind) for kind in PayloadType) - {PayloadType.ATTRIBUTES}


@dataclass(frozen=True, slots=True)
class Expectation:
    """A message that a step waits for. `needs`: exactly one of each (see `pairs` for the exception). `may`:
    any number, beside vendor ids and notifications. Payload types that nobody has heard of are tolerated,
    as the peer's generator may be newer than ours; everything else is refused.

    `silence` is the reason where no answer comes, `garbled` where an encrypted message makes no sense."""

    message: str
    needs: tuple[PayloadType, ...]
    may: frozenset[PayloadType] = frozenset()
    protected: bool = False
    silence: ReasonCode = ReasonCode.NEGOTIATION_TIMED_OUT
    garbled: ReasonCode = ReasonCode.DECRYPTION_FAILED
    _accepted: set[tuple[int, ...]] = field(default_factory=set, init=False, compare=False, repr=False)
    """Some of the sequences of payloads that fit, as types: most messages of a kind have one of a few."""

    def check(self, payloads: Sequence[ReceivedPayload]) -> None:
        """`PeerError` UNEXPECTED_MESSAGE naming the payload that is missing, doubled or out of place."""
        kinds = tuple([entry.type for entry in payloads])
        if kinds in self._accepted:
            return
        seen: set[int] = set()
        for received in payloads:
            kind = received.type
            if kind in self.needs:
                if kind in seen:
                    raise self._refusal(f"has two {payload_name(kind)} payloads", kind)
                seen.add(kind)
            elif kind in _KNOWN and kind not in self.may and kind not in _TOLERATED:
                raise self._refusal(f"must not carry a {payload_name(kind)} payload", kind)
        for kind in self.needs:
            if kind not in seen:
                raise self._refusal(f"lacks the {payload_name(kind)} payload", kind)
        if len(self._accepted) >= _REMEMBERED:
            self._accepted.clear()
        self._accepted.add(kinds)

    def _refusal(self, what: str, kind: int) -> StockadeError:
        return error_for(ReasonCode.UNEXPECTED_MESSAGE, f"{self.message} {what}", payload=payload_name(kind))


@quickly_made
@dataclass(frozen=True, slots=True)
class Incoming:
    """A message that fits its step. `plain` is everything after the header, decrypted."""

    header: Header
    plain: bytes
    payloads: tuple[ReceivedPayload, ...]
    protection: MessageProtection | None = None
    """What it could be read with; None if it came in clear."""

    def all(self, kind: type[P]) -> list[P]:
        """The payloads of one class, in order."""
        return [entry[0] for entry in self.payloads if isinstance(entry[0], kind)]

    def one(self, kind: type[P]) -> P:
        """The payload of a class that the step needs."""
        for entry in self.payloads:
            payload = entry.payload
            if isinstance(payload, kind):
                return payload
        raise AssertionError(f"the step did not ask for {kind.__name__}")

    def body(self, kind: type[Payload]) -> bytes:
        """The body, as received, of the first payload of a class."""
        for entry in self.payloads:
            if isinstance(entry.payload, kind):
                return entry.body
        raise AssertionError(f"the step did not ask for {kind.__name__}")

    def after_hash(self) -> bytes:
        """What HASH(1) and HASH(2) protect: all that follows the HASH payload, which must come first (RFC
        2409 §5.5), without the padding."""
        if self.payloads[0].type != PayloadType.HASH:
            raise error_for(
                ReasonCode.UNEXPECTED_MESSAGE, "the hash payload is not the first", payload="hash"
            )
        return self.plain[self.payloads[0].end : self.payloads[-1].end]


@quickly_made
@dataclass(frozen=True, slots=True)
class Step:
    """Send `send` (nothing if empty), then wait for `expect`. `install` are SAs that must be in place before
    the message leaves. `attempts` limits how often it is sent; `repeat` lets a responder run a timer;
    `commit` sets the commit bit (RFC 2408 §3.1). `tail`: all payloads but the first, encoded already (what a
    HASH protects is encoded before the HASH is made)."""

    expect: Expectation
    send: tuple[Payload, ...] = ()
    protected: bool = False
    install: tuple[SecurityAssociation, ...] = ()
    attempts: int | None = None
    repeat: bool = False
    commit: bool = False
    tail: bytes = b""


class Work:
    """Have `task` done where it may block, then go on; nothing of the peer is awaited meanwhile. The message
    that came last has been accepted."""

    __slots__ = ("_done", "task")

    def __init__(self, task: Task) -> None:
        self.task = task
        self._done: AuthMethod | Reason | None = None

    def finish(self, outcome: "AuthMethod | Reason") -> None:
        self._done = outcome

    @property
    def result(self) -> AuthMethod:
        """What the task made; `StockadeError` where it failed."""
        assert self._done is not None
        if isinstance(self._done, Reason):
            raise error_of(self._done)
        return self._done


@dataclass(frozen=True, slots=True)
class Refused:
    """The message was not acceptable; wait for another one in its place. `suspicious`: it may be the peer's
    honest answer, so do not wait as long as for a silent peer."""

    reason: Reason
    suspicious: bool


@quickly_made
@dataclass(frozen=True, slots=True)
class Finish(Generic[T]):
    """The exchange has done its work: install, send the last message if there is one, hand over `value`."""

    value: T
    send: tuple[Payload, ...] = ()
    protected: bool = False
    install: tuple[SecurityAssociation, ...] = ()


Steps = Generator[Step | Refused | Work, Incoming, Finish[T]]


def performed(task: Task | None, method: AuthMethod) -> Generator[Work, Incoming, AuthMethod]:
    """What `task` makes of `method`; `method` itself where there is nothing to do."""
    if task is None:
        return method
    work = Work(task)
    yield work
    return work.result


def answered(
    step: Step, examine: Callable[[Incoming], T], *, suspicious: bool = True
) -> Generator[Step | Refused, Incoming, T]:
    """Take the first message that `examine` accepts; one for which it raises `PeerError` is refused."""
    message = yield step
    while True:
        try:
            return examine(message)
        except PeerError as refusal:
            reason = refusal.reason
        message = yield Refused(reason, suspicious)
