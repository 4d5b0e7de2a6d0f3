"""The payloads of ISAKMP, one module per family, and the table that finds the class of a payload type.

Each class has `payload_type`, `encode_body()` (without the generic header) and `decode(cursor)`, the reverse.
An object that exists is valid; `decode_body` turns what a constructor refuses into the peer's error.
"""

from collections.abc import Callable

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
from stockade.wire.isakmp.payloads.nonce import NoncePayload
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
