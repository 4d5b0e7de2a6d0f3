"""The informational exchanges of one main mode: what it tells the peer, and what the peer tells it.

`informational.py` has the messages. Here: what an unprotected hint may do (little), what an authenticated
notification or delete does, and asking whether the peer lives (`dead_peer_detection.py`)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from stockade.ike.contract import ReportKind
from stockade.ike.flood import offered_cookie
from stockade.ike.story import StoryEvent
from stockade.ike.v1 import dead_peer_detection, informational
from stockade.ike.v1.dead_peer_detection import Probe
from stockade.ike.v1.deletes import Deletes
from stockade.model.reasons import PeerError, Reason
from stockade.wire.isakmp.constants import ExchangeType, NotifyType
from stockade.wire.isakmp.message import HEADER_SIZE, Header
from stockade.wire.isakmp.payloads import NotificationPayload, Payload
from stockade.wire.vendor_ids import DEAD_PEER_DETECTION

if TYPE_CHECKING:  # a main mode has notices, and they have it
    from stockade.ike.v1.association import MainMode, MainModeHost


MAXIMUM_PROOFS = 3
"""How often one message 1 is sent again with a cookie: a responder's secret may change meanwhile."""


class Notices:
    """Deletes, notifications and probes of one main mode, in both directions."""

    def __init__(self, main_mode: "MainMode", host: "MainModeHost") -> None:
        self._mode = main_mode
        self._host = host
        self._context = main_mode.context
        self._config = main_mode.config
        self.deletes = Deletes(main_mode)
        self._probe: Probe | None = None
        self._proofs = 0

    # ---- what we say
    def send_protected(self, payloads: tuple[Payload, ...]) -> bytes:
        """A protected informational message; returns the datagram."""
        assert self._mode.outcome is not None
        conversation = self._mode.phase_2(ExchangeType.INFORMATIONAL, self._mode.quick_modes.new_message_id())
        datagram = informational.encode_protected(
            conversation,
            self._mode.outcome.proposal.hash,
            self._mode.outcome.keys.skeyid_a,
            payloads,
        )
        self._mode.transmit(datagram)
        return datagram

    # ---- whether the peer lives
    def probe(self, now: float, waits: tuple[float, ...] = ()) -> None:
        """Ask the peer, if it can be asked and is not being asked already. `waits` after each question."""
        may = self._config.dead_peer_detection and self._mode.peer_has(DEAD_PEER_DETECTION)
        if not may or self._mode.established is None or self._mode.closed:
            return
        if self._probe is not None and self._probe.due is not None:
            return
        # RFC 3706 §6.2: the sequence begins at random, without the top bit.
        sequence = int.from_bytes(self._mode.random(4), "big") & 0x7FFF_FFFF
        self._probe = Probe(
            waits or self._config.probe_intervals,
            self._ask_whether_it_lives,
            lambda reason, moment: self._host.peer_dead(self._mode, reason, moment),
            sequence,
        )
        self._probe.start(now)
        self._arm_probe()

    def _ask_whether_it_lives(self, number: int) -> None:
        self.send_protected((dead_peer_detection.question(self._cookie_pair, number),))

    def _arm_probe(self) -> None:
        assert self._probe is not None
        self._context.timers.set(("probe", self), self._probe.due, self._probe_timeout)

    def _probe_timeout(self, now: float) -> None:
        if self._probe is not None and not self._mode.closed:
            self._probe.timeout(now)
            self._arm_probe()

    def heard(self) -> None:
        """Something authentic came: the peer lives."""
        if self._probe is not None:
            self._probe.heard()
            self._context.timers.cancel(("probe", self))

    def close(self, *, tell: bool) -> None:
        """The main mode ends. What it deleted last is repeated if the peer is to be told."""
        self._context.timers.cancel(("probe", self))
        if not tell:
            self.deletes.forget()

    @property
    def _cookie_pair(self) -> bytes:
        return self._mode.conversation.initiator_cookie + self._mode.conversation.responder_cookie

    # ---- what the peer says
    def receive(self, header: Header, datagram: bytes, now: float) -> None:
        try:
            if not header.encrypted:
                message = self._mode.conversation.decode(
                    header, datagram[HEADER_SIZE:], informational.UNPROTECTED
                )
                cookie = offered_cookie([entry.payload for entry in message.payloads])
                if cookie is not None:
                    self._prove_address(cookie, now)
                    return
                hints = message.all(NotificationPayload)[: informational.MAXIMUM_HINTS]
                if hints and hints[0].type == NotifyType.STOCKADE_STATE_LOST:
                    self._host.lost_state(self._mode, hints[0], now)  # one message, one comparison
                elif hints:
                    self._hint(hints, now)
            elif self._mode.established is None:
                self._early_informational(header, datagram, now)
            elif self._about_a_delete(header, datagram) or self._connected(header, datagram, now):
                return
            elif header.message_id not in self._mode.quick_modes.used and header.message_id:
                self._protected_informational(header, datagram, now)
        except PeerError as error:
            self._mode.refused(error.reason, now)

    def _connected(self, header: Header, datagram: bytes, now: float) -> bool:
        return self._mode.quick_modes.take_connected(header, datagram, now)

    def _about_a_delete(self, header: Header, datagram: bytes) -> bool:
        """Whether the message acknowledges a delete of ours, or repeats one that we acknowledged."""
        return self.deletes.take_acknowledgement(
            header, datagram[HEADER_SIZE:]
        ) or self.deletes.repeat_answer(header, datagram)

    def receive_last_words(self, header: Header, datagram: bytes, now: float) -> None:
        """The peer has deleted this main mode; what it sent before that may come after it."""
        if header.exchange_type == ExchangeType.INFORMATIONAL and header.encrypted:
            self.receive(header, datagram, now)

    def _prove_address(self, cookie: bytes, now: float) -> None:
        """The responder has too many half-open main modes and wants message 1 again, with this cookie.
        Anybody can have sent that, so it is done some times only, and changes nothing else."""
        mode = self._mode
        waits_for_2 = mode.initiator and not any(mode.conversation.responder_cookie)
        if waits_for_2 and self._proofs < MAXIMUM_PROOFS and not mode.exchange.done:
            self._proofs += 1
            mode.exchange.repeat_with_cookie(cookie, now)
            mode.arm()

    def _early_informational(self, header: Header, datagram: bytes, now: float) -> None:
        """An encrypted message before main mode is up: the responder refuses message 5. Where our keys do not
        fit it, it most likely tells that pre-shared keys differ (strongSwan encrypts that complaint)."""
        mode = self._mode
        expect = mode.exchange.expect
        if not mode.initiator or expect is None or not expect.protected:
            return
        reason = mode.complaints.read(header, datagram)
        if reason is not None:
            # Only who did the Diffie-Hellman exchange with us can have said that: no use in waiting.
            mode.story.refuse(StoryEvent.NOTIFIED, reason)
            mode.exchange.abandon(reason, now)
            return
        detail = "the peer answers main mode message 5 with something that we cannot decrypt"
        mode.exchange.suspect(Reason.of(expect.silence, detail), now)
        mode.arm()

    def _hint(self, hints: Sequence[NotificationPayload], now: float) -> None:
        """Unprotected notifications: anybody can have sent them, so they tear nothing down. They shorten the
        wait of an exchange that gets no better answer, and become the reason of its failure."""
        expect = self._mode.exchange.expect
        mismatch = (
            expect.silence if self._mode.initiator and expect is not None and expect.protected else None
        )
        reason = informational.reason_of_all(hints, mismatch=mismatch, protected=False)
        if self._mode.established is None and any(informational.is_refusal(entry) for entry in hints):
            self._mode.exchange.suspect(reason, now)
            self._mode.arm()
        elif any(entry.type == NotifyType.INVALID_COOKIE for entry in hints):
            self._mode.quick_modes.suspect(reason, now)
        self._told(reason, now)

    def _told(self, reason: Reason, now: float) -> None:
        """Write down what the peer says."""
        self._mode.story.refuse(StoryEvent.NOTIFIED, reason)
        self._context.report_limited(
            ReportKind.NOTIFICATION,
            reason,
            self._mode.local,
            self._mode.remote,
            now,
            self._mode.cookies,
        )

    def _protected_informational(self, header: Header, datagram: bytes, now: float) -> None:
        assert self._mode.outcome is not None
        body = datagram[HEADER_SIZE:]
        conversation = self._mode.phase_2(ExchangeType.INFORMATIONAL, header.message_id)
        try:
            message = conversation.decode(header, body, informational.PROTECTED)
        except PeerError:
            older = self._mode.complaints.of_older_kind(header.message_id)
            if older is None:
                raise
            conversation, message = older, older.decode(header, body, informational.PROTECTED)
        hash_name, skeyid_a = self._mode.outcome.proposal.hash, self._mode.outcome.keys.skeyid_a
        informational.verify_protected(conversation, hash_name, skeyid_a, message)
        self._mode.quick_modes.used.add(header.message_id)
        self._mode.accepted(protected=True)
        assert conversation.protection is not None
        conversation.protection.accept(body)
        acknowledgement = informational.acknowledge_delete(
            conversation, hash_name, skeyid_a, message, self._mode.random(32)
        )
        if acknowledgement is not None:
            self.deletes.answer(header, datagram, acknowledgement)
        notifications = message.all(NotificationPayload)
        for notification in notifications:
            if self._mode.outcome is None:
                return  # what the notification before said has ended it
            self._notified(notification, now)
        deleted = informational.read_deletes(message)
        if self._disowned(notifications):
            deleted = replace(deleted, main_modes=(*deleted.main_modes, self._cookie_pair))
        if deleted.main_modes or deleted.outbound_spis:
            self._host.peer_deleted(self._mode, deleted, now)

    def _disowned(self, notifications: Sequence[NotificationPayload]) -> bool:
        """Whether the initiator says that it does not take our message 6: main mode is up at this end
        only."""
        mode = self._mode
        return (
            not mode.initiator
            and not mode.quick_modes.made
            and any(entry.type in informational.DISOWNS for entry in notifications)
        )

    def _notified(self, notification: NotificationPayload, now: float) -> None:
        """An authenticated notification."""
        if notification.type == NotifyType.R_U_THERE_ACK:
            return
        answer = dead_peer_detection.answer(notification, self._cookie_pair)
        if answer is not None and self._config.dead_peer_detection:
            self.send_protected((answer,))
            return
        if notification.type == NotifyType.STOCKADE_FAREWELL:
            self._host.farewell(self._mode, now)
            return
        if notification.type == NotifyType.INITIAL_CONTACT:
            self._host.initial_contact(self._mode, now)
            return
        reason = informational.reason_of(notification, mismatch=None, protected=True)
        if informational.is_refusal(notification):
            self._mode.quick_modes.refused_by_peer(notification, reason, now)
        self._told(reason, now)
