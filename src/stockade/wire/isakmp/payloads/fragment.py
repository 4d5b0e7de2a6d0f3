"""Fragment payload ([MS-IKEE] §2.2.3): one part of an encrypted message that was too long for the path.

     | fragment id (2) | number | flags | data … |

It is the only payload of its message; `stockade.wire.isakmp.message` holds that.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

from stockade.wire.cursor import Cursor
from stockade.wire.isakmp.constants import PayloadType

LAST_FRAGMENT = 1


@dataclass(frozen=True, slots=True)
class FragmentPayload:
    """`identifier` (0–65535) is one for all parts of a message, `number` (1–255) counts them; `data` not
    empty."""

    payload_type: ClassVar[int] = PayloadType.FRAGMENT

    identifier: int
    number: int
    flags: int
    data: bytes

    def __post_init__(self) -> None:
        if not 0 <= self.identifier <= 0xFFFF:
            raise ValueError(f"fragment id {self.identifier} is outside 0–65535")
        if not 1 <= self.number <= 0xFF:
            raise ValueError(f"fragment number {self.number} is outside 1–255")
        if not 0 <= self.flags <= 0xFF:
            raise ValueError(f"fragment flags {self.flags} are outside 0–255")
        if not self.data:
            raise ValueError("the fragment is empty")

    @property
    def is_last(self) -> bool:
        return bool(self.flags & LAST_FRAGMENT)

    @classmethod
    def decode(cls, cursor: Cursor) -> Self:
        identifier = cursor.u16("fragment id")
        number = cursor.u8("fragment number")
        flags = cursor.u8("fragment flags")
        return cls(identifier, number, flags, cursor.rest())

    def encode_body(self) -> bytes:
        return self.identifier.to_bytes(2, "big") + bytes((self.number, self.flags)) + self.data
