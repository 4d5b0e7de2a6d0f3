"""The payloads of ISAKMP, one module per family, and the table that finds the class of a payload type.

Each class has `payload_type`, `encode_body()` (without the generic header) and `decode(cursor)`, the reverse.
An object that exists is valid; `decode_body` turns what a constructor refuses into the peer's error.
"""

from collections.abc import Callable
from struct import Struct

from stockade.wire.cursor import Cursor
from stockade.wire.isakmp.constants import PayloadType
from stockade.wire.isakmp.payloads.authentication import HashPayload, SignaturePayload
from stockade.wire.isakmp.payloads.certificate import CertificatePayload, CertificateRequestPayload
from stockade.wire.isakmp.payloads.delete import DeletePayload
from stockade.wire.isakmp.payloads.fragment import FragmentPayload
from stockade.wire.isakmp.payloads.gss import GssPayload
from stockade.wire.isakmp.payloads.identification import IdentificationPayload
from stockade.wire.isakmp.payloads.key_exchange import KeyExchangePayload
from stockade.wire.isakmp.payloads.nat_traversal import (
    DETECTION_TYPES,
    ORIGINAL_ADDRESS_TYPES,
    NatDetectionPayload,
    NatOriginalAddressPayload,
)
from stockade.wire.isakmp.payloads.nonce import MAXIMUM_NONCE, MINIMUM_NONCE, NoncePayload
from stockade.wire.isakmp.payloads.notification import (
    MicrosoftValue,
    NotificationPayload,
    microsoft_notification,
    microsoft_value,
)
from stockade.wire.isakmp.payloads.security_association import (
    Attribute,
    ProposalPayload,
    SecurityAssociationPayload,
    TransformPayload,
)
from stockade.wire.isakmp.payloads.unknown import UnknownPayload
from stockade.wire.isakmp.payloads.vendor_id import VendorIdPayload

__all__ = [
    "WHOLE_BODIES",
    "Attribute",
    "CertificatePayload",
    "CertificateRequestPayload",
    "DeletePayload",
    "FragmentPayload",
    "GssPayload",
    "HashPayload",
    "IdentificationPayload",
    "KeyExchangePayload",
    "MicrosoftValue",
    "NatDetectionPayload",
    "NatOriginalAddressPayload",
    "NoncePayload",
    "NotificationPayload",
    "Payload",
    "ProposalPayload",
    "SecurityAssociationPayload",
    "SignaturePayload",
    "TransformPayload",
    "UnknownPayload",
    "VendorIdPayload",
    "decode_body",
    "microsoft_notification",
    "microsoft_value",
    "payload_name",
]

Payload = (
    SecurityAssociationPayload
    | KeyExchangePayload
    | IdentificationPayload
    | CertificatePayload
    | CertificateRequestPayload
    | HashPayload
    | SignaturePayload
    | NoncePayload
    | NotificationPayload
    | DeletePayload
    | VendorIdPayload
    | NatDetectionPayload
    | NatOriginalAddressPayload
    | FragmentPayload
    | GssPayload
    | UnknownPayload
)

_DECODERS: dict[int, Callable[[Cursor], Payload]] = {
    PayloadType.SECURITY_ASSOCIATION: SecurityAssociationPayload.decode,
    PayloadType.KEY_EXCHANGE: KeyExchangePayload.decode,
    PayloadType.IDENTIFICATION: IdentificationPayload.decode,
    PayloadType.CERTIFICATE: CertificatePayload.decode,
    PayloadType.CERTIFICATE_REQUEST: CertificateRequestPayload.decode,
    PayloadType.HASH: HashPayload.decode,
    PayloadType.SIGNATURE: SignaturePayload.decode,
    PayloadType.NONCE: NoncePayload.decode,
    PayloadType.NOTIFICATION: NotificationPayload.decode,
    PayloadType.DELETE: DeletePayload.decode,
    PayloadType.VENDOR_ID: VendorIdPayload.decode,
    PayloadType.FRAGMENT: FragmentPayload.decode,
    PayloadType.GSS: GssPayload.decode,
}


def _key_exchange(body: bytes) -> Payload | None:
    return KeyExchangePayload(body) if body else None


def _hash(body: bytes) -> Payload | None:
    return HashPayload(body) if body else None


def _nonce(body: bytes) -> Payload | None:
    return NoncePayload(body) if MINIMUM_NONCE <= len(body) <= MAXIMUM_NONCE else None


# The same few ids come from every peer. Bounded in number and size; strangers can only make it forget.
_REMEMBERED = 256
_REMEMBERED_SIZE = 64
_vendor_ids: dict[bytes, VendorIdPayload] = {}


def _vendor_id(body: bytes) -> Payload | None:
    known = _vendor_ids.get(body)
    if known is None:
        known = VendorIdPayload(body)
        if len(body) <= _REMEMBERED_SIZE:
            if len(_vendor_ids) >= _REMEMBERED:
                _vendor_ids.clear()
            _vendor_ids[body] = known
    return known


def _identification(body: bytes) -> Payload | None:
    if len(body) < 4:
        return None
    try:
        return IdentificationPayload(body[0], body[1], body[2] << 8 | body[3], body[4:])
    except ValueError:
        return None


def _notification(body: bytes) -> Payload | None:
    if len(body) < 8 or len(body) < 8 + body[5]:
        return None
    doi, protocol_id, spi_size, kind = _NOTIFICATION_HEAD.unpack_from(body)
    return NotificationPayload(doi, protocol_id, body[8 : 8 + spi_size], kind, body[8 + spi_size :])


def _nat_detection(body: bytes) -> Payload | None:
    return NatDetectionPayload(_NAT_DETECTION, body) if body else None


_NAT_DETECTION = int(PayloadType.NAT_DETECTION)
_NOTIFICATION_HEAD = Struct("!IBBH")
WHOLE_BODIES: dict[int, Callable[[bytes], Payload | None]] = {
    PayloadType.SECURITY_ASSOCIATION: SecurityAssociationPayload.of_known_transforms,
    PayloadType.IDENTIFICATION: _identification,
    PayloadType.NOTIFICATION: _notification,
    PayloadType.NAT_DETECTION: _nat_detection,
    PayloadType.KEY_EXCHANGE: _key_exchange,
    PayloadType.HASH: _hash,
    PayloadType.NONCE: _nonce,
    PayloadType.VENDOR_ID: _vendor_id,
}
"""Payloads that are made without a cursor: most of every handshake. None where the body is not right (or its
parts were never seen before): `decode_body` then reads it, or says why it cannot."""

_NAMES: dict[int, str] = {int(kind): kind.name.lower().replace("_", " ") for kind in PayloadType}
_NEVER_ALONE = frozenset({int(PayloadType.NONE), int(PayloadType.PROPOSAL), int(PayloadType.TRANSFORM)})


def payload_name(type: int) -> str:
    """`key exchange`, `nonce` …, or `payload 99` for a type that has no name."""
    return _NAMES.get(type) or f"payload {type}"


def decode_body(type: int, cursor: Cursor) -> Payload:
    """The payload of `type` whose body (after the generic header) is all that `cursor` holds.

    Raises `PeerError` MALFORMED_PAYLOAD, also for types 0, 2 and 3, which never stand on their own.
    """
    if type in _NEVER_ALONE:
        raise cursor.error(f"a payload of type {type} cannot stand here")
    start = cursor.offset
    payload: Payload
    decode = _DECODERS.get(type)
    try:
        if decode is not None:
            payload = decode(cursor)
        elif type in DETECTION_TYPES:
            payload = NatDetectionPayload.decode(type, cursor)
        elif type in ORIGINAL_ADDRESS_TYPES:
            payload = NatOriginalAddressPayload.decode(type, cursor)
        else:
            payload = UnknownPayload(type, cursor.rest())
    except ValueError as fault:
        raise cursor.error(str(fault), offset=start) from None
    cursor.finish()
    return payload
