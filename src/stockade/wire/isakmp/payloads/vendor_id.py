"""Vendor id payload (RFC 2408 §3.16). What the ids mean: `stockade.wire.vendor_ids`."""

from dataclasses import dataclass
from typing import ClassVar, Self

from stockade.wire.cursor import Cursor
from stockade.wire.isakmp.constants import PayloadType


@dataclass(frozen=True, slots=True)
class VendorIdPayload:
    """Opaque bytes, any length."""

    payload_type: ClassVar[int] = PayloadType.VENDOR_ID

    data: bytes

    @classmethod
    def decode(cls, cursor: Cursor) -> Self:
        return cls(cursor.rest())

    def encode_body(self) -> bytes:
        return self.data
