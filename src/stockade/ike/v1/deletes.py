"""Reliable deletes of one main mode ([MS-IKEE] §3.8): ours are repeated until the peer acknowledges them, the
peer's are acknowledged as often as it repeats them.

     HDR*, HASH(1), Ni, D   ->          sent at 0, 1, 3, 7, 15, 31 s, then forgotten
         <-  HDR*, HASH(2), D, Nr       the same message id

Only towards Microsoft's implementation (and ours): Windows 2000 knows no nonce here, others no such exchange,
and they get the RFC's delete, once. What is deleted is gone at this end at once, answer or not; repeating is
for the peer, which would go on sending into the void. So nothing but the message is kept for it."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stockade.ike.retransmission import Retransmission
from stockade.ike.v1 import informational
from stockade.ike.v1.exchange import Conversation, fingerprint
from stockade.wire.isakmp.constants import ExchangeType
from stockade.wire.isakmp.message import Header
from stockade.wire.isakmp.payloads import DeletePayload, NoncePayload, Payload

if TYPE_CHECKING:
    from stockade.ike.v1.association import MainMode

WINDOWS_2000 = 2
NONCE_SIZE = 32
MAXIMUM_PENDING = 64
MAXIMUM_ANSWERS = 16
MAXIMUM_REPEATS = 6


@dataclass(slots=True, eq=False)
class _Pending:
    """A delete of ours that waits for its acknowledgement."""

    message_id: int
    conversation: Conversation
    nonce: bytes
    datagram: bytes
    retransmission: Retransmission


class Deletes:
    """What one main mode deletes. `settled` is called when nothing waits any more."""

    def __init__(self, main_mode: "MainMode") -> None:
        self._mode = main_mode
        self._context = main_mode.context
        self._pending: dict[int, _Pending] = {}
        self._answers: OrderedDict[int, tuple[bytes, bytes, int]] = OrderedDict()
        self.settled: Callable[[], None] = lambda: None

    @property
    def pending(self) -> int:
        return len(self._pending)

    # ---- ours
    def send(self, payload: DeletePayload, now: float) -> None:
        mode, config = self._mode, self._context.config
        assert mode.outcome is not None
        version = mode.microsoft_version
        if not config.reliable_delete or version is None or version <= WINDOWS_2000:
            mode.notices.send_protected((payload,))
            return
        message_id = mode.quick_modes.new_message_id()
        conversation = mode.phase_2(ExchangeType.INFORMATIONAL, message_id)
        nonce = mode.random(NONCE_SIZE)
        payloads: tuple[Payload, ...] = (NoncePayload(nonce), payload)
        datagram = informational.encode_protected(
            conversation, mode.outcome.proposal.hash, mode.outcome.keys.skeyid_a, payloads
        )
        if len(self._pending) < MAXIMUM_PENDING:
            schedule = Retransmission(config.delete_intervals, config.retransmission_jitter, mode.random, now)
            pending = _Pending(message_id, conversation, nonce, datagram, schedule)
            self._pending[message_id] = pending
            self._context.unacknowledged += 1
            self._arm(pending)
        mode.transmit(datagram)

    def forget(self) -> None:
        """The main mode ends without a word, or the peer has none any more: repeat nothing."""
        for pending in list(self._pending.values()):
            self._done(pending)

    def _arm(self, pending: _Pending) -> None:
        self._context.timers.set(pending, pending.retransmission.due, lambda now: self._timeout(pending, now))

    def _timeout(self, pending: _Pending, now: float) -> None:
        if pending.retransmission.exhausted:
            self._done(pending)
            return
        pending.retransmission.repeat(now)
        self._context.count("retransmissions")
        self._mode.transmit(pending.datagram)
        self._arm(pending)

    def _done(self, pending: _Pending) -> None:
        if self._pending.pop(pending.message_id, None) is not None:
            self._context.unacknowledged -= 1
        self._context.timers.cancel(pending)
        if not self._pending:
            self.settled()

    def take_acknowledgement(self, header: Header, body: bytes) -> bool:
        """Whether the message is about a delete of ours that waits; `PeerError` if it is not genuine."""
        pending = self._pending.get(header.message_id)
        if pending is None:
            return False
        mode = self._mode
        assert mode.outcome is not None
        message = pending.conversation.decode(header, body, informational.PROTECTED)
        informational.verify_acknowledgement(
            pending.conversation,
            mode.outcome.proposal.hash,
            mode.outcome.keys.skeyid_a,
            message,
            pending.nonce,
        )
        self._done(pending)
        mode.accepted(protected=True)
        return True

    # ---- the peer's
    def repeat_answer(self, header: Header, datagram: bytes) -> bool:
        """Whether the message is a repeated delete that was acknowledged: then it is again."""
        known = self._answers.get(header.message_id)
        if known is None:
            return False
        mark, answer, times = known
        if mark == fingerprint(datagram) and times < MAXIMUM_REPEATS:
            self._answers[header.message_id] = (mark, answer, times + 1)
            self._mode.transmit(answer)
        return True

    def answer(self, header: Header, datagram: bytes, answer: bytes) -> None:
        """Acknowledge, and keep the acknowledgement for repetitions."""
        self._answers[header.message_id] = (fingerprint(datagram), answer, 0)
        if len(self._answers) > MAXIMUM_ANSWERS:
            self._answers.popitem(last=False)
        self._mode.transmit(answer)
