"""What the two ends tell each other of a main mode that fails, before it is up.

     messages 1 to 4:   HDR, N [, N(STATUS)]              in clear: a hint, never more
     messages 5 and 6:  HDR*, HASH(1), N [, N(STATUS)]    HASH(1) = prf(SKEYID_a, M-ID | N …)

STATUS carries the Windows error code and goes to Microsoft's implementation (and ours). With the third pair
of messages there are keys, so what fails then is told under them ([MS-IKEE] §3.1.5) - unless the other
message could not be read: then the keys are what differs, and only words in clear can be understood.

The IV of such a message is made as RFC 2409 Appendix B says, but of which block? Main mode has not ended, so
there is no last block of it. Microsoft's note 12: towards Windows versions 2 to 5 the last block of what was
*sent* last, otherwise that of what was *decrypted* last. A receiver cannot know which version the other end
takes it for (ours can be configured), so it tries both.

An initiator that refuses message 6 for good leaves a responder that believes in the main mode. So it tells
that the main mode is deleted, which other makers understand too,

     after message 6:   HDR*, HASH(1), N, N(STATUS), D        to Microsoft's implementation (and ours)
                        HDR*, HASH(1), N                      to others, whose strongSwan reads no further
                        HDR*, HASH(1), D                      than to an error, and would keep its SA

and, as nobody acknowledges that, tells the delete three times. Nothing else is repeated."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stockade.crypto.ikev1_keys import MainModeKeys
from stockade.ike.v1 import informational
from stockade.ike.v1.exchange import Conversation
from stockade.ike.v1.protection import MessageProtection, phase_2_protection
from stockade.model.reasons import PeerError, Reason, ReasonCode
from stockade.model.suites import MainModeProposal
from stockade.wire.isakmp.constants import ExchangeType
from stockade.wire.isakmp.message import HEADER_SIZE, Header
from stockade.wire.isakmp.payloads import NotificationPayload, Payload

if TYPE_CHECKING:  # a main mode has complaints, and they have it
    from stockade.ike.v1.association import MainMode

REPEATED = (1.0, 3.0)
"""Seconds after which it is told again that a main mode is deleted."""

VISTA = 5
"""The last version whose implementation takes the block that was sent."""

Agreed = tuple[MessageProtection, MainModeKeys]

_UNREADABLE = (ReasonCode.PSK_MISMATCH, ReasonCode.DECRYPTION_FAILED)
"""The keys of the two ends differ."""


class Complaints:
    """Of one main mode, in both directions."""

    def __init__(self, main_mode: "MainMode") -> None:
        self._mode = main_mode
        self._agreed: tuple[Agreed, ...] = ()
        self._last_received = b""

    def note_keys(self, agreed: Sequence[Agreed]) -> None:
        """Messages 3 and 4 have made keys, several where there are several pre-shared keys."""
        self._agreed = tuple(agreed)

    def note_message(self, header: Header, datagram: bytes) -> None:
        """A main mode message came; it need not be genuine."""
        if header.encrypted:
            self._last_received = datagram[HEADER_SIZE:]

    # ---- ours
    def send(self, reason: Reason, now: float) -> None:
        """Tell the peer why its main mode fails, at most once a second; nothing where silence is better."""
        mode = self._mode
        payloads = informational.main_mode_complaint(reason, microsoft=mode.is_microsoft)
        if not payloads or not mode.context.may_notify(mode.remote, now):
            return
        agreed = self._readable(reason)
        if agreed is None:
            message_id = int.from_bytes(mode.random(4), "big") | 1
            conversation = self._conversation(message_id, None)
            mode.transmit(conversation.encode(payloads, protected=False))
            return
        mode.transmit(self._protected(agreed, payloads))

    def disown(self, reason: Reason, now: float) -> None:
        """Initiator: the main mode fails although the responder could make its last message."""
        mode = self._mode
        agreed = self._readable(reason)
        if agreed is None:
            self.send(reason, now)
            return
        cookies = mode.conversation.initiator_cookie + mode.conversation.responder_cookie
        why = informational.main_mode_complaint(reason, microsoft=mode.is_microsoft)
        delete = informational.delete_main_mode(cookies)
        if why and not mode.is_microsoft:
            mode.transmit(self._protected(agreed, why))
            why = ()
        datagram = self._protected(agreed, (*why, delete))
        mode.transmit(datagram)
        for wait in REPEATED:
            mode.context.timers.set(("disown", mode, wait), now + wait, lambda _: mode.transmit(datagram))

    def _protected(self, agreed: Agreed, payloads: tuple[Payload, ...]) -> bytes:
        mode = self._mode
        message_id = int.from_bytes(mode.random(4), "big") | 1
        protection, keys = agreed
        version = mode.microsoft_version
        block = protection.sent_block
        if version is None or not 2 <= version <= VISTA:
            block = protection.block_of(self._last_received)
        conversation = self._conversation(message_id, self._protection(keys, block, message_id))
        return informational.encode_protected(conversation, self._proposal.hash, keys.skeyid_a, payloads)

    def _readable(self, reason: Reason) -> Agreed | None:
        """The keys that the peer's last message was read with; None where it was none, or could not be."""
        if reason.code in _UNREADABLE or not self._last_received:
            return None
        used = self._mode.exchange.read_with
        return next((entry for entry in self._agreed if entry[0] is used), None)

    # ---- the peer's
    def read(self, header: Header, datagram: bytes) -> Reason | None:
        """Why the responder refuses our message 5, if this protected notification says so under our keys."""
        mode = self._mode
        expect = mode.exchange.expect
        if not mode.initiator or expect is None or not expect.protected or not header.message_id:
            return None
        for protection, keys in self._agreed:
            for block in dict.fromkeys((protection.sent_block, protection.first_block)):
                conversation = self._conversation(
                    header.message_id, self._protection(keys, block, header.message_id)
                )
                try:
                    message = conversation.decode(header, datagram[HEADER_SIZE:], informational.PROTECTED)
                    informational.verify_protected(conversation, self._proposal.hash, keys.skeyid_a, message)
                except PeerError:
                    continue
                told = message.all(NotificationPayload)
                if any(informational.is_refusal(entry) for entry in told):
                    return informational.reason_of_all(
                        told, mismatch=ReasonCode.AUTHENTICATION_FAILED, protected=True
                    )
        return None

    def of_older_kind(self, message_id: int) -> Conversation | None:
        """How an initiator that takes us for Windows Vista or older encrypts that it refuses message 6: after
        its own message 5. None where it cannot be that."""
        mode = self._mode
        if mode.initiator or mode.outcome is None or mode.quick_modes.made:
            return None
        if not 2 <= mode.config.microsoft_version <= VISTA:
            return None
        block = mode.outcome.protection.block_of(self._last_received)
        return self._conversation(message_id, self._protection(mode.outcome.keys, block, message_id))

    # ---- both
    @property
    def _proposal(self) -> MainModeProposal:
        assert self._mode.choice is not None
        return self._mode.choice.candidate.proposal

    def _protection(self, keys: MainModeKeys, block: bytes, message_id: int) -> MessageProtection:
        proposal = self._proposal
        return phase_2_protection(proposal.encryption, proposal.hash, keys.encryption_key, block, message_id)

    def _conversation(self, message_id: int, protection: MessageProtection | None) -> Conversation:
        conversation = self._mode.conversation
        return Conversation(
            conversation.initiator_cookie,
            conversation.responder_cookie,
            ExchangeType.INFORMATIONAL,
            message_id,
            protection,
        )
