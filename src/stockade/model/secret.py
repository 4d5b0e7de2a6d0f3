"""Keys and passwords: a type of their own, so that none of them ends up in a log line by accident.

A `Secret` has no readable `repr`, compares in constant time, cannot be pickled or hashed, and overwrites its
buffer when it is wiped or collected. Copies that the `cryptography` library or the interpreter makes are out
of our reach: this limits exposure, it does not end it.
"""

import hmac
from typing import NoReturn


class Secret:
    """A byte string that must not be seen. `reveal()` is the one way to the bytes."""

    __slots__ = ("_buffer",)

    def __init__(self, value: bytes | bytearray | memoryview) -> None:
        self._buffer = bytearray(value)

    def reveal(self) -> bytes:
        """A copy of the bytes, for the algorithm that needs them. Never store or print the result."""
        return bytes(self._buffer)

    def wipe(self) -> None:
        """Overwrite the bytes with zeros; the secret is empty afterwards."""
        self._buffer[:] = bytes(len(self._buffer))
        self._buffer.clear()

    def __len__(self) -> int:
        return len(self._buffer)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._buffer, other._buffer)

    __hash__ = None  # type: ignore[assignment]  # a hash would leak and would make secrets dictionary keys

    def __repr__(self) -> str:
        return "Secret(…)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled")

    def __del__(self) -> None:
        buffer = getattr(self, "_buffer", None)
        if buffer is not None:
            buffer[:] = bytes(len(buffer))
