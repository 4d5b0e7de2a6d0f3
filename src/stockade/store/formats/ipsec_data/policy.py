"""`ipsecData` of an ipsecPolicy ([MS-GPIPSEC] §2.2.1.1).

{22202163-4f4c-11d1-863b-00a0248d3021} | Data-Length 4 | Polling-Interval | 0 (one byte)"""

from dataclasses import dataclass
from typing import ClassVar
from uuid import UUID

from stockade.store.formats.ipsec_data.cursor import BlobCursor

DEFAULT_POLLING_SECONDS = 10_800


@dataclass(frozen=True, slots=True)
class PolicyData:
    """`polling_seconds` as written (0 means 10 800). `declared_length` is set only where the blob's
    Data-Length is not the one that its content asks for; `trailer` is all that follows."""

    polling_seconds: int = DEFAULT_POLLING_SECONDS
    declared_length: int | None = None
    trailer: bytes = b"\0"

    MARK: ClassVar[UUID] = UUID("22202163-4f4c-11d1-863b-00a0248d3021")

    @classmethod
    def decode(cls, data: bytes, where: str = "ipsecPolicy") -> "PolicyData":
        """CallerError INVALID_FILE where the bytes are no such blob."""
        cursor = BlobCursor(data, where)
        cursor.expect(cls.MARK, "policy blob")
        length = cursor.u32("Data-Length")
        polling = cursor.u32("Polling-Interval")
        return cls(polling, None if length == 4 else length, cursor.rest())

    def encode(self) -> bytes:
        length = 4 if self.declared_length is None else self.declared_length
        return (
            self.MARK.bytes_le
            + length.to_bytes(4, "little")
            + self.polling_seconds.to_bytes(4, "little")
            + self.trailer
        )
