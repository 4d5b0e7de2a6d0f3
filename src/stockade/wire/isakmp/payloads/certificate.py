"""Certificate and certificate request payloads (RFC 2408 §3.9, §3.10).

Both are | encoding | data … |. [MS-IKEE] accepts a certificate only in a message that also identifies its
sender; that rule is the engine's.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

from stockade.model.quickly_made import quickly_made
from stockade.wire.cursor import Cursor
from stockade.wire.isakmp.constants import PayloadType


@quickly_made
@dataclass(frozen=True, slots=True)
class CertificatePayload:
    """One certificate, CRL or chain. `encoding` 0–255; `data` not empty."""

    payload_type: ClassVar[int] = PayloadType.CERTIFICATE

    encoding: int
    data: bytes

    def __post_init__(self) -> None:
        if not 0 <= self.encoding <= 0xFF:
            raise ValueError(f"certificate encoding {self.encoding} is outside 0–255")
        if not self.data:
            raise ValueError("the certificate is empty")

    @classmethod
    def decode(cls, cursor: Cursor) -> Self:
        encoding = cursor.u8("certificate encoding")
        return cls(encoding, cursor.rest())

    def encode_body(self) -> bytes:
        return bytes((self.encoding,)) + self.data


@quickly_made
@dataclass(frozen=True, slots=True)
class CertificateRequestPayload:
    """Asks for a certificate under `authority` (a DER distinguished name for X.509; empty = any)."""

    payload_type: ClassVar[int] = PayloadType.CERTIFICATE_REQUEST

    encoding: int
    authority: bytes

    def __post_init__(self) -> None:
        if not 0 <= self.encoding <= 0xFF:
            raise ValueError(f"certificate encoding {self.encoding} is outside 0–255")

    @classmethod
    def decode(cls, cursor: Cursor) -> Self:
        encoding = cursor.u8("certificate type")
        return cls(encoding, cursor.rest())

    def encode_body(self) -> bytes:
        return bytes((self.encoding,)) + self.authority
