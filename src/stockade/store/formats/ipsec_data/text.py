"""Strings inside blobs: UTF-16LE with a terminating NUL, kept as the bytes they are.

An empty string is `00 00`, but a length of 0 occurs as well; writers left out the NUL, or wrote bytes after
it. So the bytes are what is kept, and the text is read from them."""

from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class WideText:
    """A string as it stands in a blob. `raw` includes the terminating NUL where there is one."""

    raw: bytes = b"\0\0"

    @classmethod
    def of(cls, text: str) -> "WideText":
        """The usual form of `text` (ValueError where it cannot be UTF-16)."""
        return cls(text.encode("utf-16-le") + b"\0\0")

    @property
    def text(self) -> str:
        """What a reader sees: up to the first NUL; what is no UTF-16 becomes U+FFFD."""
        return self.raw.decode("utf-16-le", errors="replace").partition("\0")[0]

    def encoded(self) -> bytes:
        """The length in bytes and the bytes."""
        return len(self.raw).to_bytes(4, "little") + self.raw

    def __str__(self) -> str:
        return self.text


EMPTY = WideText()
NO_GUID = UUID(int=0)
