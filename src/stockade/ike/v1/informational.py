"""The informational exchange (RFC 2409 §5.7): deletes and notifications.

     protected, once main mode is up:    HDR*, HASH(1), N / D          HASH(1) = prf(SKEYID_a, M-ID | N / D)
     before that:                        HDR, N                        unprotected: a hint, never more
     reliable delete ([MS-IKEE] §3.8):   HDR*, HASH(1), Ni, D   ->
                                         <-  HDR*, HASH(2), D, Nr
         HASH(2) = prf(SKEYID_a, Ni_b | M-ID | Nr | D)

`deletes.py` repeats and acknowledges reliable deletes. Notifications are never repeated ([MS-IKEE]
§3.1.5)."""

from collections.abc import Sequence
from dataclasses import dataclass

from stockade.crypto.hashing import equal, prf
from stockade.crypto.ikev1_keys import informational_hash
from stockade.ike.v1.exchange import Conversation
from stockade.ike.v1.steps import Expectation, Incoming
from stockade.model.reasons import Reason, ReasonCode, error_for
from stockade.model.secret import Secret
from stockade.model.suites import Hash
from stockade.wire.isakmp.constants import (
    DomainOfInterpretation,
    NotifyType,
    PayloadType,
    ProtocolId,
    name_of,
)
from stockade.wire.isakmp.message import encode_payloads
from stockade.wire.isakmp.payloads import (
    DeletePayload,
    HashPayload,
    NoncePayload,
    NotificationPayload,
    Payload,
    microsoft_notification,
    microsoft_value,
)

PROTECTED = Expectation(
    "informational message",
    (PayloadType.HASH,),
    frozenset({PayloadType.DELETE, PayloadType.NONCE}),
    protected=True,
)
UNPROTECTED = Expectation("unprotected notification", ())
MAXIMUM_HINTS = 4
"""Notifications that are read of one message in clear: anybody can send such."""

_ACKNOWLEDGES = (PayloadType.DELETE, PayloadType.NONCE)

_NOTIFY_TYPES = {
    ReasonCode.NO_PROPOSAL_CHOSEN: NotifyType.NO_PROPOSAL_CHOSEN,
    ReasonCode.NO_POLICY: NotifyType.NO_PROPOSAL_CHOSEN,
    ReasonCode.INVALID_IDENTITY: NotifyType.INVALID_ID_INFORMATION,
    ReasonCode.MAIN_MODE_DOES_NOT_FIT: NotifyType.INVALID_ID_INFORMATION,
    ReasonCode.NAT_NOT_ALLOWED: NotifyType.ATTRIBUTES_NOT_SUPPORTED,
    ReasonCode.INVALID_KEY_EXCHANGE: NotifyType.INVALID_KEY_INFORMATION,
    ReasonCode.INVALID_HASH: NotifyType.INVALID_HASH_INFORMATION,
    ReasonCode.PSK_MISMATCH: NotifyType.AUTHENTICATION_FAILED,
    ReasonCode.AUTHENTICATION_FAILED: NotifyType.AUTHENTICATION_FAILED,
    ReasonCode.INVALID_SIGNATURE: NotifyType.INVALID_SIGNATURE,
    ReasonCode.NO_PEER_CERTIFICATE: NotifyType.CERTIFICATE_UNAVAILABLE,
    ReasonCode.CERTIFICATE_UNTRUSTED: NotifyType.INVALID_CERT_AUTHORITY,
    ReasonCode.CERTIFICATE_INVALID: NotifyType.INVALID_CERTIFICATE,
    ReasonCode.CERTIFICATE_KEY: NotifyType.INVALID_CERTIFICATE,
    ReasonCode.CERTIFICATE_EXPIRED: NotifyType.INVALID_CERTIFICATE,
    ReasonCode.CERTIFICATE_USAGE: NotifyType.INVALID_CERTIFICATE,
    ReasonCode.CERTIFICATE_REVOKED: NotifyType.INVALID_CERTIFICATE,
    ReasonCode.ACCESS_DENIED: NotifyType.AUTHENTICATION_FAILED,
    ReasonCode.KERBEROS_REFUSED: NotifyType.AUTHENTICATION_FAILED,
    ReasonCode.KERBEROS_CLOCK_SKEW: NotifyType.AUTHENTICATION_FAILED,
    ReasonCode.KERBEROS_NO_TICKET: NotifyType.AUTHENTICATION_FAILED,
    ReasonCode.KERBEROS_EXPIRED: NotifyType.AUTHENTICATION_FAILED,
    ReasonCode.KERBEROS_UNREACHABLE: NotifyType.AUTHENTICATION_FAILED,
    ReasonCode.KERBEROS_UNAVAILABLE: NotifyType.AUTHENTICATION_FAILED,
    ReasonCode.MALFORMED_PAYLOAD: NotifyType.PAYLOAD_MALFORMED,
    ReasonCode.UNSUPPORTED_EXCHANGE: NotifyType.UNSUPPORTED_EXCHANGE_TYPE,
    ReasonCode.UNKNOWN_COOKIE: NotifyType.INVALID_COOKIE,
}
_KEY_ERRORS = (
    NotifyType.AUTHENTICATION_FAILED,
    NotifyType.INVALID_HASH_INFORMATION,
    NotifyType.PAYLOAD_MALFORMED,
    NotifyType.INVALID_PAYLOAD_TYPE,
    NotifyType.INVALID_CERTIFICATE,
    NotifyType.INVALID_CERT_AUTHORITY,
    NotifyType.INVALID_SIGNATURE,
)
DISOWNS = (
    NotifyType.AUTHENTICATION_FAILED,
    NotifyType.INVALID_SIGNATURE,
    NotifyType.INVALID_CERTIFICATE,
    NotifyType.INVALID_CERT_AUTHORITY,
    NotifyType.CERTIFICATE_UNAVAILABLE,
)
"""Said of main mode messages 5 and 6 only: the other end does not take our proof."""
_REASONS = {
    NotifyType.NO_PROPOSAL_CHOSEN: ReasonCode.NO_PROPOSAL_CHOSEN,
    NotifyType.INVALID_ID_INFORMATION: ReasonCode.INVALID_IDENTITY,
    NotifyType.AUTHENTICATION_FAILED: ReasonCode.AUTHENTICATION_FAILED,
    NotifyType.INVALID_COOKIE: ReasonCode.UNKNOWN_COOKIE,
}


def notify_type_for(reason: Reason) -> NotifyType | None:
    """What to tell the peer of a refusal; None where silence is better."""
    return _NOTIFY_TYPES.get(reason.code)


def reason_of(notification: NotificationPayload, *, mismatch: ReasonCode | None, protected: bool) -> Reason:
    """A peer's error notification as a reason. `mismatch`: we wait for the answer to main mode message 5, and
    this is what a complaint about that message means. Microsoft's STATUS carries a Windows error
    code."""
    name = name_of(NotifyType, notification.type)
    how = "the peer says" if protected else "an unprotected message says"
    if (value := microsoft_value(notification)) is not None:
        return Reason.of(
            ReasonCode.PEER_REFUSED,
            f"{how} Windows error {value.value}{_windows_meaning(value.value)}",
            windows_error=value.value,
        )
    if mismatch is not None and notification.type in _KEY_ERRORS:
        return Reason.of(mismatch, f"{how} {name} in answer to message 5", notification=name)
    for kind, code in _REASONS.items():
        if notification.type == kind:
            return Reason.of(code, f"{how} {name}", notification=name)
    return Reason.of(ReasonCode.PEER_REFUSED, f"{how} {name}", notification=name)


def is_refusal(notification: NotificationPayload) -> bool:
    """Whether it says that something failed: an error of the RFC, or Microsoft's STATUS."""
    is_status = notification.type == NotifyType.MICROSOFT_STATUS and microsoft_value(notification) is not None
    return notification.is_error or is_status


def reason_of_all(
    notifications: Sequence[NotificationPayload], *, mismatch: ReasonCode | None, protected: bool
) -> Reason:
    """What the notifications (one or more) of one message say together. Microsoft's STATUS beside the RFC's
    error is the same refusal in Windows' words."""
    refusals = [entry for entry in notifications if is_refusal(entry)]
    errors = [entry for entry in refusals if entry.is_error]
    first = next(iter((*errors, *refusals, *notifications)))
    reason = reason_of(first, mismatch=mismatch, protected=protected)
    value = next((value for entry in refusals if (value := microsoft_value(entry)) is not None), None)
    if value is None or not errors:
        return reason
    detail = f"{reason.detail}, Windows error {value.value}{_windows_meaning(value.value)}"
    return Reason(reason.code, detail, (*reason.facts, ("windows_error", str(value.value))))


def _windows_meaning(code: int) -> str:
    for member in ReasonCode:
        if member.windows_code == code:
            return f" ({member.meaning})"
    return ""


def notification(
    reason_type: NotifyType, *, protocol: int = ProtocolId.ISAKMP, spi: bytes = b""
) -> NotificationPayload:
    return NotificationPayload(DomainOfInterpretation.IPSEC, protocol, spi, reason_type)


def refusal_payloads(reason: Reason, message_id: int, spi: bytes, *, microsoft: bool) -> tuple[Payload, ...]:
    """What tells the peer that its quick mode was refused: the RFC's notification and, towards a Microsoft
    peer, STATUS with the Windows error code and the message id ([MS-IKEE] §2.2.6)."""
    payloads: list[Payload] = []
    kind = notify_type_for(reason)
    if kind is not None:
        payloads.append(notification(kind, protocol=ProtocolId.ESP, spi=spi))
    if microsoft and reason.code.windows_code is not None:
        payloads.append(
            microsoft_notification(
                NotifyType.MICROSOFT_STATUS,
                reason.code.windows_code,
                protocol_id=ProtocolId.ESP,
                message_id=message_id,
            )
        )
    return tuple(payloads)


def main_mode_complaint(reason: Reason, *, microsoft: bool) -> tuple[Payload, ...]:
    """What tells the peer that main mode failed: the RFC's notification and, towards a Microsoft peer, STATUS
    with the Windows error code, here without a message id ([MS-IKEE] §2.2.6). Empty where silence is
    better."""
    kind = notify_type_for(reason)
    if kind is None:
        return ()
    if not microsoft or reason.code.windows_code is None:
        return (notification(kind),)
    status = microsoft_notification(
        NotifyType.MICROSOFT_STATUS, reason.code.windows_code, protocol_id=ProtocolId.ISAKMP
    )
    return notification(kind), status


def delete_main_mode(cookies: bytes) -> DeletePayload:
    """`cookies`: both, initiator's first."""
    return DeletePayload(DomainOfInterpretation.IPSEC, ProtocolId.ISAKMP, 16, (cookies,))


def delete_quick_modes(protocol: int, spis: list[int]) -> DeletePayload:
    """`spis`: those of our inbound SAs (RFC 2408 §3.15: the sender's)."""
    packed = tuple(spi.to_bytes(4, "big") for spi in spis)
    return DeletePayload(DomainOfInterpretation.IPSEC, protocol, 4, packed)


def encode_protected(
    conversation: Conversation, hash_name: Hash, skeyid_a: Secret, payloads: tuple[Payload, ...]
) -> bytes:
    """A protected informational message as a datagram."""
    rest = encode_payloads(payloads)[1]
    proof = informational_hash(hash_name, skeyid_a, conversation.message_id_bytes, rest)
    return conversation.encode((HashPayload(proof), *payloads), protected=True)


def verify_protected(
    conversation: Conversation, hash_name: Hash, skeyid_a: Secret, message: Incoming
) -> None:
    """`PeerError` INVALID_HASH unless HASH(1) is right."""
    wanted = informational_hash(hash_name, skeyid_a, conversation.message_id_bytes, message.after_hash())
    if not equal(message.one(HashPayload).data, wanted):
        raise error_for(ReasonCode.INVALID_HASH, "HASH(1) of an informational message does not verify")


def acknowledge_delete(
    conversation: Conversation, hash_name: Hash, skeyid_a: Secret, message: Incoming, nonce: bytes
) -> bytes | None:
    """Message 2 of a reliable delete; None if the peer's delete was a plain one. The conversation's IV must
    stand after message 1."""
    nonces = message.all(NoncePayload)
    deletes = message.all(DeletePayload)
    if len(nonces) != 1 or len(deletes) != 1:
        return None
    own = NoncePayload(nonce)
    # HASH(2) covers Nr before D although D is sent before Nr: [MS-IKEE] §3.8 gives both orders.
    chain = encode_payloads((deletes[0], own))[1]
    split = 4 + len(deletes[0].encode_body())
    covered = chain[split:] + chain[:split]
    proof = prf(hash_name, skeyid_a, nonces[0].data + conversation.message_id_bytes + covered)
    return conversation.encode((HashPayload(proof), deletes[0], own), protected=True)


def verify_acknowledgement(
    conversation: Conversation, hash_name: Hash, skeyid_a: Secret, message: Incoming, nonce: bytes
) -> None:
    """`PeerError` INVALID_HASH unless this is message 2 of our reliable delete with `nonce`. HASH(2) may
    cover the payloads in the order in which they are sent, too: the text can be read so."""
    plain = message.after_hash()
    payloads = [entry for entry in message.payloads if entry.type in _ACKNOWLEDGES]
    if [entry.type for entry in payloads] != list(_ACKNOWLEDGES) or len(message.payloads) != 3:
        raise error_for(
            ReasonCode.UNEXPECTED_MESSAGE, "the acknowledgement of a delete is HASH, D, Nr", payload="delete"
        )
    split = payloads[0].end - message.payloads[0].end
    prefix = nonce + conversation.message_id_bytes
    for covered in (plain[split:] + plain[:split], plain):
        if equal(message.one(HashPayload).data, prf(hash_name, skeyid_a, prefix + covered)):
            return
    raise error_for(ReasonCode.INVALID_HASH, "HASH(2) of a delete's acknowledgement does not verify")


@dataclass(frozen=True, slots=True)
class Deleted:
    """What a peer's deletes name: main modes by cookie pair (16 bytes), quick modes by the peer's inbound
    SPI, which is that of our outbound SA."""

    main_modes: tuple[bytes, ...]
    outbound_spis: tuple[int, ...]


def read_deletes(message: Incoming) -> Deleted:
    main_modes: list[bytes] = []
    spis: list[int] = []
    for payload in message.all(DeletePayload):
        if payload.protocol_id == ProtocolId.ISAKMP and payload.spi_size == 16:
            main_modes += payload.spis
        elif payload.protocol_id in (ProtocolId.ESP, ProtocolId.AH) and payload.spi_size == 4:
            spis += [int.from_bytes(spi, "big") for spi in payload.spis]
    return Deleted(tuple(main_modes), tuple(spis))
