"""What runs an exchange: a generator says what it sends and waits for, an `Exchange` does the rest.

A generator reads like the ladder in its RFC. It yields a `Step` (send this, then wait for that), gets the
`Incoming` message that fits, and returns a `Finish` (all in `steps.py`). Retransmission,
duplicates, encryption, time-outs and the check of payloads against the step happen here, once for all
exchanges.

A message that does not fit is refused by the payload's name, and the exchange goes on waiting: anybody on the
path can send rubbish. But where the rubbish is the peer's honest answer, waiting the full minute helps
nobody. So a refused answer, like an unprotected error notification, leaves a *suspicion*: if nothing better
comes within some seconds (`confirmation_seconds`), the exchange fails with that reason."""

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from stockade.crypto.hashing import digest, equal
from stockade.ike.auth.method import AuthMethod, Task
from stockade.ike.config import EngineConfig
from stockade.ike.contract import RandomSource
from stockade.ike.retransmission import Retransmission
from stockade.ike.story import Story, StoryEvent
from stockade.ike.v1.protection import MessageProtection
from stockade.ike.v1.steps import Expectation, Finish, Incoming, Refused, Step, Steps, Work
from stockade.model.reasons import PeerError, Reason, ReasonCode, StockadeError, error_for
from stockade.model.sa import SecurityAssociation
from stockade.model.suites import Hash
from stockade.wire.isakmp.constants import HeaderFlag
from stockade.wire.isakmp.message import (
    HEADER_SIZE,
    Header,
    decode_clear_payloads,
    decode_payloads,
    encode_datagram,
    encode_payload,
    encode_payloads,
)
from stockade.wire.isakmp.payloads import Payload, payload_name

T = TypeVar("T")

NO_COOKIE = bytes(8)
_COMMIT, _ENCRYPTION = int(HeaderFlag.COMMIT), int(HeaderFlag.ENCRYPTION)
_FINGERPRINT = Hash.SHA_256


class Conversation:
    """What the messages of one exchange share: the header's fixed fields and the cipher."""

    __slots__ = (
        "alternatives",
        "exchange_type",
        "initiator_cookie",
        "message_id",
        "protection",
        "responder_cookie",
    )

    def __init__(
        self,
        initiator_cookie: bytes,
        responder_cookie: bytes,
        exchange_type: int,
        message_id: int = 0,
        protection: MessageProtection | None = None,
    ) -> None:
        self.initiator_cookie = initiator_cookie
        self.responder_cookie = responder_cookie
        self.exchange_type = exchange_type
        self.message_id = message_id
        self.protection = protection
        self.alternatives: tuple[MessageProtection, ...] = ()
        """Other keys that the peer may mean (several pre-shared keys), until a message tells."""

    @property
    def message_id_bytes(self) -> bytes:
        return self.message_id.to_bytes(4, "big")

    def encode(
        self, payloads: tuple[Payload, ...], protected: bool, *, commit: bool = False, tail: bytes = b""
    ) -> bytes:
        """The datagram that carries `payloads`; moves the IV if it is encrypted. `tail` as in `Step`."""
        if tail:
            first = int(payloads[0].payload_type)
            body = encode_payload(payloads[0], payloads[1].payload_type) + tail
        else:
            first, body = encode_payloads(payloads)
        flags = _COMMIT if commit else 0
        if protected:
            assert self.protection is not None
            body = self.protection.seal(body)
            flags |= _ENCRYPTION
        cookies = (self.initiator_cookie, self.responder_cookie)
        return encode_datagram(*cookies, first, self.exchange_type, flags, self.message_id, body)

    def decode(self, header: Header, body: bytes, expect: Expectation) -> Incoming:
        """Decrypt, decode and check a message against the step; changes nothing. `PeerError` otherwise."""
        if header.encrypted != expect.protected:
            wanted = "encrypted" if expect.protected else "in clear"
            raise error_for(ReasonCode.UNEXPECTED_MESSAGE, f"{expect.message} must be {wanted}")
        if not expect.protected:
            payloads = decode_clear_payloads(header.next_payload, body)
            expect.check(payloads)
            return Incoming(header, body, payloads)
        assert self.protection is not None
        for protection in (self.protection, *self.alternatives):
            plain = protection.open(body)
            try:
                payloads = decode_payloads(header.next_payload, plain, padded=True)
            except PeerError:
                continue
            expect.check(payloads)
            return Incoming(header, plain, payloads, protection)
        # What exactly looks wrong in wrongly decrypted bytes says nothing, so it is not repeated.
        raise error_for(expect.garbled, f"{expect.message} makes no sense after decryption")


class ExchangeOwner(Protocol):
    """The main mode that an exchange belongs to, as the exchange sees it."""

    config: EngineConfig
    random: RandomSource
    story: Story

    def transmit(self, datagram: bytes, *, repeated: int = 0) -> None:
        """Send; `repeated`: how often it was sent before."""

    def install(self, sa: SecurityAssociation) -> None: ...

    def give_away(self, task: Task) -> None:
        """Have it done; `Exchange.worked` hears of it. Tasks are done in any order, one per exchange."""

    def accepted(self, *, protected: bool) -> None:
        """The message that came last was genuine as far as its step can tell; called before the answer
        leaves."""


def fingerprint(datagram: bytes) -> bytes:
    """By what a repeated datagram is recognised."""
    return digest(_FINGERPRINT, datagram)


class Exchange(Generic[T]):
    """One exchange under way (or finished, and answering repeated requests). The owner calls `timeout` at
    `due`; the callbacks are called with the time, after the state has been brought up to date."""

    def __init__(
        self,
        name: str,
        steps: Steps[T],
        conversation: Conversation,
        owner: ExchangeOwner,
        *,
        initiator: bool,
        now: float,
        lifetime: float | None,
        finished: Callable[[T, float], None],
        failed: Callable[[Reason, float], None],
        refused: Callable[[Reason, float], None],
    ) -> None:
        self.name = name
        self.conversation = conversation
        self.initiator = initiator
        self.started = now
        self.expect: Expectation | None = None
        self.suspicion: Reason | None = None
        """Why the exchange will fail if nothing better comes."""
        self.done = False
        self.repeats = 0
        self._steps = steps
        self._owner = owner
        self._give_up = None if lifetime is None else now + lifetime
        self._confirm_by: float | None = None
        self._retransmission: Retransmission | None = None
        self._sent: bytes | None = None
        self._answered: bytes | None = None
        self._seen: list[bytes] = []
        self._work: Work | None = None
        self._last: Incoming | None = None
        """The message that came last, until the exchange is over."""
        self.read_with: MessageProtection | None = None
        """What the last message that fitted its step could be read with; None if it came in clear."""
        self._finished = finished
        self._failed = failed
        self._refused = refused

    # ---- doors
    def start(self, now: float) -> None:
        """Run to the first step."""
        self._advance(lambda: next(self._steps), now)

    @property
    def due(self) -> float | None:
        """When `timeout` wants to be called."""
        if self.done:
            return None
        due = self._give_up
        if self._confirm_by is not None and (due is None or self._confirm_by < due):
            due = self._confirm_by
        if self._retransmission is not None and (due is None or self._retransmission.due < due):
            due = self._retransmission.due
        return due

    @property
    def standing(self) -> str:
        """Where it stands, for people: what is awaited, and how often that was asked for. Made when somebody
        looks, from what is there anyway."""
        if self._work is not None:
            return f"waiting for {self._work.task.about}"
        if self.expect is None:
            return "" if self.done else "beginning"
        told = f"waiting for {self.expect.message}"
        if self._retransmission is not None and self._retransmission.sent > 1:
            told += f", asked for {self._retransmission.sent} times"
        return told if self.suspicion is None else f"{told}; {self.suspicion}"

    def receive(self, header: Header, datagram: bytes, now: float) -> None:
        """A message of this exchange. Repeated ones are answered from store, others go to the step."""
        mark = fingerprint(datagram)
        if self._answered is not None and equal(mark, self._answered):
            self._repeat_reply()
            return
        if mark in self._seen:
            return
        if self._work is not None:
            return  # the peer cannot know anything new yet
        if self.done or self.expect is None:
            self._refused(Reason.of(ReasonCode.UNEXPECTED_MESSAGE, f"{self.name} is complete already"), now)
            return
        body = datagram[HEADER_SIZE:]
        try:
            incoming = self.conversation.decode(header, body, self.expect)
        except PeerError as error:
            if error.reason.code is self.expect.garbled is not ReasonCode.DECRYPTION_FAILED:
                self.suspect(error.reason, now)
            self._refused(error.reason, now)
            return
        self._last, self.read_with = incoming, incoming.protection
        self._advance(lambda: self._steps.send(incoming), now, (mark, body))

    def worked(self, outcome: AuthMethod | Reason, now: float) -> None:
        """The task that was given away has been done, or has failed."""
        work, self._work = self._work, None
        if self.done or work is None or self._last is None:
            return
        last = self._last
        self.suspicion = self._confirm_by = None
        work.finish(outcome)
        self._advance(lambda: self._steps.send(last), now, None)

    def timeout(self, now: float) -> None:
        """Send again, or give up, if it is time."""
        if self.done:
            return
        if self._work is not None and self._confirm_by is not None and now >= self._confirm_by:
            self._too_long(self._work.task, now)
            return
        ends = [time for time in (self._give_up, self._confirm_by) if time is not None]
        if ends and now >= min(ends):
            self._fail(self._explain_silence(), now)
        elif self._retransmission is not None and now >= self._retransmission.due:
            if self._retransmission.exhausted:
                self._fail(self._explain_silence(), now)
            else:
                self._retransmission.repeat(now)
                self.repeats += 1
                assert self._sent is not None
                self._owner.transmit(self._sent, repeated=self.repeats)
                if self._owner.story.on and self.expect is not None:
                    text = (
                        f"still waiting for {self.expect.message}: sent again, {self.repeats + 1} times now"
                    )
                    self._owner.story.tell(StoryEvent.SENT_AGAIN, text)

    def suspect(self, reason: Reason, now: float) -> None:
        """Somebody, perhaps the peer, says that this will fail: wait a little for something better."""
        if self.done:
            return
        self.suspicion = reason
        self._owner.story.refuse(StoryEvent.DOUBTED, reason)
        if self._confirm_by is None:
            self._confirm_by = now + self._owner.config.confirmation_seconds

    def repeat_with_cookie(self, responder_cookie: bytes, now: float) -> None:
        """Send the first message again, with a responder cookie in its header that it did not have."""
        if self.done or self._sent is None or not self.initiator:
            return
        self._sent = self._sent[:8] + responder_cookie + self._sent[16:]
        self.suspicion = self._confirm_by = None
        self._owner.transmit(self._sent)
        if self.expect is not None:
            self._retransmission = self._schedule(None, now)

    def _schedule(self, attempts: int | None, now: float) -> Retransmission:
        config = self._owner.config
        intervals = config.retransmission_intervals[:attempts]
        return Retransmission(intervals, config.retransmission_jitter, self._owner.random, now)

    def abandon(self, reason: Reason, now: float) -> None:
        """Fail now, because of what is known for certain."""
        if not self.done:
            self._fail(reason, now)

    def dismiss(self) -> None:
        """Its owner has ended: what it was made from and what it has made goes now. The two know each other,
        so it would wait for the garbage collector otherwise."""
        self.done = True
        self.expect = self.read_with = self._sent = self._last = self._work = None
        self.conversation.protection, self.conversation.alternatives = None, ()
        self._steps.close()

    def store_reply(self, datagram: bytes) -> None:
        """The exchange failed: answer repetitions of the message that did it with this."""
        self._sent = datagram

    @property
    def begun(self) -> bool:
        """Whether a message of the peer has been accepted, or was what made the exchange fail."""
        return self._answered is not None

    # ---- inside
    def _repeat_reply(self) -> None:
        # An initiator that still waits has its own timer; if it answered duplicates too, one duplicated
        # datagram would double all that follow.
        if self.initiator and not self.done:
            return
        if self._sent is not None and self.repeats < self._owner.config.repeats_per_reply:
            self.repeats += 1
            self._owner.transmit(self._sent, repeated=self.repeats)

    def _advance(
        self,
        run: Callable[[], Step | Refused | Work],
        now: float,
        received: tuple[bytes, bytes] | None = None,
    ) -> None:
        """Run the generator to its next stop. `received`: fingerprint and (encrypted) body of the message
        that it is given."""
        try:
            step: Step | Finish[T] | Refused | Work = run()
        except StopIteration as stop:
            step = stop.value
        except StockadeError as error:
            if received is not None:
                self._answered = received[0]
            self._fail(error.reason, now)
            return
        if isinstance(step, Refused):
            if step.suspicious:
                self.suspect(step.reason, now)
            self._refused(step.reason, now)
            return
        if received is not None:
            if self._owner.story.on and self.expect is not None:
                self._owner.story.tell(StoryEvent.RECEIVED, f"{self.expect.message} is genuine so far")
            if self._answered is not None:
                self._seen.append(self._answered)
            self._answered = received[0]
            if self.expect is not None and self.expect.protected:
                assert self.conversation.protection is not None
                self.conversation.protection.accept(received[1])
            self._owner.accepted(protected=self.expect is not None and self.expect.protected)
        if isinstance(step, Work):
            self._pause(step, now)
            return
        for sa in step.install:
            self._owner.install(sa)
        if not step.send:
            self._sent = None
        elif isinstance(step, Step):
            self._sent = self.conversation.encode(
                step.send, step.protected, commit=step.commit, tail=step.tail
            )
        else:
            self._sent = self.conversation.encode(step.send, step.protected)
        self._retransmission = None
        self.suspicion = self._confirm_by = None
        self.repeats = 0
        if self._sent is not None:
            self._owner.transmit(self._sent)
            if self._owner.story.on:
                self._tell_sent(step)
        if isinstance(step, Finish):
            self.done = True
            self.expect = self._last = None
            self._finished(step.value, now)
            return
        self.expect = step.expect
        if self._sent is not None and (self.initiator or step.repeat):
            self._retransmission = self._schedule(step.attempts, now)

    def _pause(self, work: Work, now: float) -> None:
        """Nothing is sent and nothing awaited until the task is done, or takes too long."""
        self._work = work
        self._sent = self._retransmission = self.expect = None
        self._confirm_by = now + self._owner.config.task_seconds
        self.suspicion = None
        self.repeats = 0
        self._owner.give_away(work.task)

    def _too_long(self, task: Task, now: float) -> None:
        """The task has not come back in time: go on without what it was to get, where that is possible."""
        waited = f"{self.name} waited {self._owner.config.task_seconds:g} s for {task.about}"
        outcome: AuthMethod | Reason = Reason.of(task.silence, f"{waited} in vain")
        if task.without is not None:
            try:
                outcome = task.without()
            except StockadeError as error:
                reason = error.reason
                outcome = Reason(reason.code, reason.detail, (*reason.facts, ("not in time:", waited)))
        self.worked(outcome, now)

    def _tell_sent(self, step: "Step | Finish[T]") -> None:
        assert self._sent is not None
        carried = ", ".join(payload_name(payload.payload_type) for payload in step.send)
        waits = f"; waiting for {step.expect.message}" if isinstance(step, Step) else ""
        secrecy = "encrypted" if step.protected else "in clear"
        self._owner.story.tell(
            StoryEvent.SENT, f"sent {len(self._sent)} bytes {secrecy}{waits}", ("payloads", carried)
        )

    def _explain_silence(self) -> Reason:
        if self.suspicion is not None:
            return self.suspicion
        if self.expect is None:
            return Reason.of(ReasonCode.NEGOTIATION_TIMED_OUT, f"{self.name} was not finished")
        facts = {} if self._retransmission is None else {"sent": self._retransmission.sent}
        return Reason.of(self.expect.silence, f"{self.expect.message} did not come", **facts)

    def _fail(self, reason: Reason, now: float) -> None:
        self.done = True
        self.expect = self._sent = self._last = None
        self._steps.close()
        self._failed(reason, now)
