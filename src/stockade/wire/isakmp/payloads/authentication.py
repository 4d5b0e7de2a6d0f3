"""Hash and signature payloads (RFC 2408 §3.11, §3.12): the proof of who speaks."""

from dataclasses import dataclass
from typing import ClassVar, Self

from stockade.wire.cursor import Cursor
from stockade.wire.isakmp.constants import PayloadType


@dataclass(frozen=True, slots=True)
class HashPayload:
    """The output of the negotiated prf; with Kerberos a GSS-wrapped blob of any length. Not empty."""

    payload_type: ClassVar[int] = PayloadType.HASH

    data: bytes

    def __post_init__(self) -> None:
        if not self.data:
            raise ValueError("the hash is empty")

    @classmethod
    def decode(cls, cursor: Cursor) -> Self:
        return cls(cursor.rest())

    def encode_body(self) -> bytes:
        return self.data


@dataclass(frozen=True, slots=True)
class SignaturePayload:
    """A signature over HASH_I or HASH_R (RFC 2409 §5.1). Not empty."""

    payload_type: ClassVar[int] = PayloadType.SIGNATURE

    data: bytes

    def __post_init__(self) -> None:
        if not self.data:
            raise ValueError("the signature is empty")

    @classmethod
    def decode(cls, cursor: Cursor) -> Self:
        return cls(cursor.rest())

    def encode_body(self) -> bytes:
        return self.data
