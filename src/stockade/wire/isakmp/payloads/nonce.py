"""Nonce payload (RFC 2408 §3.13): 8 to 256 bytes of randomness (RFC 2409 §5)."""

from dataclasses import dataclass
from typing import ClassVar, Self

from stockade.wire.cursor import Cursor
from stockade.wire.isakmp.constants import PayloadType

MINIMUM_NONCE = 8
MAXIMUM_NONCE = 256


@dataclass(frozen=True, slots=True)
class NoncePayload:
    """A nonce; other lengths than 8–256 bytes are an error (RFC 2409 §5)."""

    payload_type: ClassVar[int] = PayloadType.NONCE

    data: bytes

    def __post_init__(self) -> None:
        if not MINIMUM_NONCE <= len(self.data) <= MAXIMUM_NONCE:
            raise ValueError(f"a nonce of {len(self.data)} bytes, {MINIMUM_NONCE}–{MAXIMUM_NONCE} expected")

    @classmethod
    def decode(cls, cursor: Cursor) -> Self:
        return cls(cursor.rest())

    def encode_body(self) -> bytes:
        return self.data
