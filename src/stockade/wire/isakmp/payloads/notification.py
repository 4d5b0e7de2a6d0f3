"""Notification payload (RFC 2408 §3.14, RFC 2407 §4.6.3) and Microsoft's private notifications.

     | DOI (4) | protocol | SPI size | type (2) | SPI … | data … |

[MS-IKEE] §2.2.6: towards a peer that sent Microsoft's vendor id, a private notification about a quick mode
has that quick mode's message id in front of its data, and an SPI size of 8. `microsoft_notification` writes
this, `microsoft_value` reads it.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

from stockade.model.quickly_made import quickly_made
from stockade.wire.cursor import Cursor
from stockade.wire.isakmp.constants import NOTIFY_ERROR_LAST, DomainOfInterpretation, NotifyType, PayloadType


@quickly_made
@dataclass(frozen=True, slots=True)
class NotificationPayload:
    """An error or a status. `type` 0–65535 is the notify message type; `spi` at most 255 bytes."""

    payload_type: ClassVar[int] = PayloadType.NOTIFICATION

    doi: int
    protocol_id: int
    spi: bytes
    type: int
    data: bytes = b""

    def __post_init__(self) -> None:
        # all at once first: every quick mode has some of these
        if not (self.doi >> 32 or self.protocol_id >> 8 or self.type >> 16 or len(self.spi) >> 8):
            return
        if not 0 <= self.doi <= 0xFFFF_FFFF:
            raise ValueError(f"DOI {self.doi} is outside 32 bits")
        if not 0 <= self.protocol_id <= 0xFF:
            raise ValueError(f"protocol {self.protocol_id} is outside 0–255")
        if not 0 <= self.type <= 0xFFFF:
            raise ValueError(f"notify type {self.type} is outside 0–65535")
        if len(self.spi) > 0xFF:
            raise ValueError(f"an SPI of {len(self.spi)} bytes is too long")

    @property
    def is_error(self) -> bool:
        """Types 1–16383 are errors; all others say how things stand."""
        return 1 <= self.type <= NOTIFY_ERROR_LAST

    @classmethod
    def decode(cls, cursor: Cursor) -> Self:
        doi = cursor.u32("DOI")
        protocol_id = cursor.u8("protocol id")
        spi_size = cursor.u8("SPI size")
        notify_type = cursor.u16("notify message type")
        spi = cursor.take(spi_size, "SPI")
        return cls(doi, protocol_id, spi, notify_type, cursor.rest())

    def encode_body(self) -> bytes:
        head = self.doi.to_bytes(4, "big") + bytes((self.protocol_id, len(self.spi)))
        return head + self.type.to_bytes(2, "big") + self.spi + self.data


@quickly_made
@dataclass(frozen=True, slots=True)
class MicrosoftValue:
    """What a private notification says: a Windows error code (STATUS) or flags (EXCHANGE_INFO), 32 bits, and
    the message id of the quick mode that it is about (None: about the main mode)."""

    value: int
    message_id: int | None


_MESSAGE_ID_SPI_SIZE = 8


def microsoft_notification(
    type: int, value: int, *, protocol_id: int, spi: bytes = b"", message_id: int | None = None
) -> NotificationPayload:
    """A STATUS or EXCHANGE_INFO notification. With `message_id` the quirk of [MS-IKEE] §2.2.6 applies: the
    SPI field is 8 bytes (`spi` filled up with zeros), the data are message id and value."""
    data = value.to_bytes(4, "big")
    if message_id is not None:
        if len(spi) > _MESSAGE_ID_SPI_SIZE:
            raise ValueError(f"an SPI of {len(spi)} bytes beside a message id, at most 8 expected")
        spi = spi.ljust(_MESSAGE_ID_SPI_SIZE, b"\0")
        data = message_id.to_bytes(4, "big") + data
    return NotificationPayload(DomainOfInterpretation.IPSEC, protocol_id, spi, type, data)


def microsoft_value(notification: NotificationPayload) -> MicrosoftValue | None:
    """The value of a STATUS or EXCHANGE_INFO notification; None for other types and for data too short.

    The specification does not say whether an SPI of 8 bytes stands before the message id, or whether the size
    of 8 counts an SPI of 4 and the message id, or message id and value. All three end in message id and
    value, so they are read from the end.
    """
    if notification.type not in (NotifyType.MICROSOFT_STATUS, NotifyType.MICROSOFT_EXCHANGE_INFO):
        return None
    if len(notification.spi) == _MESSAGE_ID_SPI_SIZE:
        blob = notification.spi + notification.data
        return MicrosoftValue(int.from_bytes(blob[-4:], "big"), int.from_bytes(blob[-8:-4], "big"))
    if len(notification.data) < 4:
        return None
    return MicrosoftValue(int.from_bytes(notification.data[:4], "big"), None)
