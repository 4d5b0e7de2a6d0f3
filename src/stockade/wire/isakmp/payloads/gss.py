"""GSS-API token payload (129): the Kerberos exchange inside main mode ([MS-IKEE], draft GSS-API for
ISAKMP)."""

from dataclasses import dataclass, field
from typing import ClassVar, Self

from stockade.wire.cursor import Cursor
from stockade.wire.isakmp.constants import PayloadType


@dataclass(frozen=True, slots=True)
class GssPayload:
    """One token, not empty. Kept out of `repr`: a ticket does not belong in a log."""

    payload_type: ClassVar[int] = PayloadType.GSS

    data: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not self.data:
            raise ValueError("the GSS token is empty")

    @classmethod
    def decode(cls, cursor: Cursor) -> Self:
        return cls(cursor.rest())

    def encode_body(self) -> bytes:
        return self.data
