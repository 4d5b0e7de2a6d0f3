"""Key exchange payload (RFC 2408 §3.7): the public Diffie-Hellman value of one side."""

from dataclasses import dataclass
from typing import ClassVar, Self

from stockade.wire.cursor import Cursor
from stockade.wire.isakmp.constants import PayloadType


@dataclass(frozen=True, slots=True)
class KeyExchangePayload:
    """`data`: the public value, big-endian, as long as its group asks (checked in `crypto`); not empty."""

    payload_type: ClassVar[int] = PayloadType.KEY_EXCHANGE

    data: bytes

    def __post_init__(self) -> None:
        if not self.data:
            raise ValueError("the public value is empty")

    @classmethod
    def decode(cls, cursor: Cursor) -> Self:
        return cls(cursor.rest())

    def encode_body(self) -> bytes:
        return self.data
