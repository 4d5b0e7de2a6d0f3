"""Dead peer detection (RFC 3706), towards peers that announce it.

     R-U-THERE      HDR*, HASH, N(36136, cookies, sequence)     ->
                    <-     HDR*, HASH, N(36137, cookies, sequence)     R-U-THERE-ACK

Whoever doubts says so (`ProbePeer`); nothing is asked while nobody doubts. Any authentic message that comes
under the main mode is an answer as good as the acknowledgement."""

from collections.abc import Callable

from stockade.model.reasons import Reason, ReasonCode
from stockade.wire.isakmp.constants import DomainOfInterpretation, NotifyType, ProtocolId
from stockade.wire.isakmp.payloads import NotificationPayload

SEQUENCE_SIZE = 4


def question(cookies: bytes, sequence: int) -> NotificationPayload:
    return _notification(NotifyType.R_U_THERE, cookies, sequence.to_bytes(SEQUENCE_SIZE, "big"))


def answer(asked: NotificationPayload, cookies: bytes) -> NotificationPayload | None:
    """The acknowledgement of a peer's question; None for anything else, also for a question about another
    main mode."""
    if asked.type != NotifyType.R_U_THERE or asked.spi != cookies or len(asked.data) != SEQUENCE_SIZE:
        return None
    return _notification(NotifyType.R_U_THERE_ACK, cookies, asked.data)


def _notification(kind: NotifyType, cookies: bytes, data: bytes) -> NotificationPayload:
    return NotificationPayload(DomainOfInterpretation.IPSEC, ProtocolId.ISAKMP, cookies, kind, data)


class Probe:
    """One doubt: asks, asks again, and gives up. The owner calls `timeout` at `due`."""

    def __init__(
        self,
        waits: tuple[float, ...],
        ask: Callable[[int], None],
        dead: Callable[[Reason, float], None],
        sequence: int,
    ) -> None:
        self.due: float | None = None
        self._waits = waits
        self._ask = ask
        self._dead = dead
        self._sequence = sequence
        self._asked = 0

    def start(self, now: float) -> None:
        self._ask((self._sequence + self._asked) & 0xFFFF_FFFF)
        self.due = now + self._waits[self._asked]
        self._asked += 1

    def heard(self) -> None:
        """The peer lives."""
        self.due = None

    def timeout(self, now: float) -> None:
        if self.due is None or now < self.due:
            return
        if self._asked < len(self._waits):
            self.start(now)
            return
        self.due = None
        detail = "no answer to the question whether it lives"
        self._dead(Reason.of(ReasonCode.PEER_DEAD, detail, asked=self._asked), now)
