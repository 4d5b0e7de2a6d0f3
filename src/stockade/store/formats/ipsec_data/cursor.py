"""Reading an `ipsecData` blob from front to back: little-endian, every length checked ([MS-GPIPSEC] §2.2.1).

Whatever is short is the caller's error INVALID_FILE; its facts are `where` (which object) and `offset` (bytes
from the start of the blob). This is not the cursor of `stockade.wire`: there errors are the peer's, and
numbers are big-endian."""

import struct
from typing import NoReturn
from uuid import UUID

from stockade.model.reasons import ReasonCode, error_for
from stockade.store.formats.ipsec_data.text import WideText


class BlobCursor:
    """Reads `data`; `where` names the object for errors."""

    __slots__ = ("_data", "_position", "_where")

    def __init__(self, data: bytes, where: str) -> None:
        self._data = data
        self._where = where
        self._position = 0

    @property
    def remaining(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._position

    @property
    def offset(self) -> int:
        """Where the next byte stands."""
        return self._position

    def fail(self, detail: str) -> NoReturn:
        """CallerError INVALID_FILE for what stands here."""
        raise error_for(ReasonCode.INVALID_FILE, detail, where=self._where, offset=self._position)

    def take(self, size: int, what: str) -> bytes:
        """The next `size` bytes; `what` names the field."""
        if size > self.remaining:
            self.fail(f"{what}: {size} bytes expected, {self.remaining} left")
        start = self._position
        self._position = start + size
        return self._data[start : self._position]

    def u32(self, what: str) -> int:
        return int.from_bytes(self.take(4, what), "little")

    def unpack(self, layout: struct.Struct, what: str) -> tuple[int | bytes, ...]:
        """The fields of one fixed structure."""
        values: tuple[int | bytes, ...] = layout.unpack(self.take(layout.size, what))
        return values

    def guid(self, what: str) -> UUID:
        """A GUID in Windows' mixed byte order."""
        return UUID(bytes_le=self.take(16, what))

    def expect(self, guid: UUID, what: str) -> None:
        """The GUID that marks the kind of blob."""
        found = UUID(bytes_le=self._data[self._position : self._position + 16].ljust(16, b"\0"))
        if self.remaining < 16 or found != guid:
            self.fail(f"{what}: the mark {{{guid}}} expected")
        self._position += 16

    def at(self, mark: bytes) -> bool:
        """Whether `mark` stands here (nothing is read)."""
        return self._data.startswith(mark, self._position)

    def count(self, what: str, least_size: int) -> int:
        """A number of entries of at least `least_size` bytes each, so that a lie is found before any is
        made."""
        number = self.u32(what)
        if number * least_size > self.remaining:
            self.fail(f"{what}: {number} entries need {number * least_size} bytes, {self.remaining} left")
        return number

    def text(self, what: str) -> WideText:
        """A string with its length in bytes before it."""
        return WideText(self.take(self.u32(f"length of {what}"), what))

    def rest(self) -> bytes:
        """All that is left; may be empty."""
        return self.take(self.remaining, "rest")
