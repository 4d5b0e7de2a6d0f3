"""A cursor over received bytes with nested limits: the one way in which decoders read.

Whatever is short or left over is the peer's error. Its detail names the field and what was expected; its
facts are `where` (the path of structures, outermost first) and `offset` (bytes from the start of the
message).
"""

from stockade.model.reasons import ReasonCode, StockadeError, error_for


class Cursor:
    """Reads `data` from front to back, big-endian. `where` names the structure for errors, `offset` is where
    `data` begins in the whole message, `code` the reason of every error (fault: peer)."""

    __slots__ = ("_code", "_data", "_name", "_offset", "_outer", "_position")

    def __init__(
        self,
        data: bytes,
        where: str,
        *,
        offset: int = 0,
        code: ReasonCode = ReasonCode.MALFORMED_PAYLOAD,
        outer: "Cursor | None" = None,
    ) -> None:
        self._data = data
        self._name = where
        self._outer = outer  # the path of structures is put together only when there is an error to tell
        self._offset = offset
        self._code = code
        self._position = 0

    @property
    def data(self) -> bytes:
        """All the bytes, read or not."""
        return self._data

    @property
    def remaining(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._position

    @property
    def position(self) -> int:
        """Bytes read since the start of this cursor's data."""
        return self._position

    @property
    def offset(self) -> int:
        """Where the next byte stands in the whole message."""
        return self._offset + self._position

    @property
    def where(self) -> str:
        return self._name if self._outer is None else f"{self._outer.where} > {self._name}"

    def error(self, detail: str, *, offset: int | None = None) -> StockadeError:
        """The error for what stands here (or at `offset` of the whole message), ready to raise."""
        return error_for(
            self._code, detail, where=self.where, offset=self.offset if offset is None else offset
        )

    def take(self, size: int, what: str, which: int | None = None) -> bytes:
        """The next `size` bytes; `what` names the field and `which` numbers it, where there are several."""
        start = self._position
        end = start + size
        if size < 0 or end > len(self._data):
            name = what if which is None else f"{what} {which}"
            raise self.error(f"{name}: {size} bytes expected, {self.remaining} left")
        self._position = end
        return self._data[start:end]

    def u8(self, what: str) -> int:
        return self.take(1, what)[0]

    def u16(self, what: str, which: int | None = None) -> int:
        return int.from_bytes(self.take(2, what, which), "big")

    def u32(self, what: str) -> int:
        return int.from_bytes(self.take(4, what), "big")

    def u64(self, what: str) -> int:
        return int.from_bytes(self.take(8, what), "big")

    def skip(self, size: int, what: str) -> None:
        """Pass over a reserved field. Its value does not matter: Windows leaves garbage in some."""
        self.take(size, what)

    def sub(self, size: int, what: str) -> "Cursor":
        """A cursor over the next `size` bytes, which this cursor thereby has read."""
        offset = self.offset
        data = self.take(size, what)
        return Cursor(data, what, offset=offset, code=self._code, outer=self)

    def rest(self) -> bytes:
        """All that is left; may be empty."""
        return self.take(self.remaining, "rest")

    def finish(self) -> None:
        """Nothing must be left."""
        if self.remaining:
            raise self.error(f"{self.remaining} bytes left over, the end expected")
