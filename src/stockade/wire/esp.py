"""The ESP header and trailer (RFC 4303 §2).

     | SPI (4) | sequence number (4) | IV … | payload, padding, pad length, next header (encrypted) | ICV |

Only the parts that no algorithm touches stand here; keys and ciphers are `crypto`'s and the drivers'.
"""

from dataclasses import dataclass
from struct import Struct

from stockade.model.reasons import ReasonCode, error_for

ESP_HEADER_SIZE = 8
ESP_TRAILER_SIZE = 2
"""Pad length and next header, which every packet has."""

_HEADER = Struct("!II")
_PADDING = bytes(range(1, 256))


@dataclass(frozen=True, slots=True)
class EspHeader:
    """SPI 1–2³²-1 and sequence number 0–2³²-1 (the lower half, with extended sequence numbers)."""

    spi: int
    sequence: int

    def __post_init__(self) -> None:
        if not 1 <= self.spi <= 0xFFFF_FFFF:
            raise ValueError(f"SPI {self.spi} is outside 1–2³²-1")
        if not 0 <= self.sequence <= 0xFFFF_FFFF:
            raise ValueError(f"sequence number {self.sequence} is outside 32 bits")

    def encode(self) -> bytes:
        return _HEADER.pack(self.spi, self.sequence)


def decode_esp_header(packet: bytes, offset: int = 0) -> EspHeader:
    """The header of the ESP packet at `offset`. `PeerError` MALFORMED_PACKET where it is short or the SPI is
    0, which never appears on the wire (RFC 4303 §2.1)."""
    if offset < 0 or len(packet) - offset < ESP_HEADER_SIZE:
        raise error_for(
            ReasonCode.MALFORMED_PACKET,
            f"ESP header: {ESP_HEADER_SIZE} bytes expected, {max(len(packet) - offset, 0)} left",
            offset=offset,
        )
    spi, sequence = _HEADER.unpack_from(packet, offset)
    if not spi:
        raise error_for(ReasonCode.MALFORMED_PACKET, "ESP header: the SPI is zero", offset=offset)
    return EspHeader(spi, sequence)


def esp_trailer(payload_size: int, next_header: int, alignment: int) -> bytes:
    """Padding, pad length and next header behind `payload_size` bytes, so that all together is a multiple of
    `alignment` (the cipher's block, at least 4; at most 256). The padding counts 1, 2, 3 … (RFC 4303
    §2.4)."""
    size = -(payload_size + ESP_TRAILER_SIZE) % alignment
    return _PADDING[:size] + bytes((size, next_header))


def remove_esp_trailer(plaintext: bytes) -> tuple[int, int]:
    """(payload size, next header) of decrypted ESP contents. `PeerError` MALFORMED_PACKET where the pad
    length exceeds the contents or the padding is not 1, 2, 3 … (RFC 4303 §2.4)."""
    if len(plaintext) < ESP_TRAILER_SIZE:
        raise error_for(
            ReasonCode.MALFORMED_PACKET, f"ESP trailer: 2 bytes expected, {len(plaintext)} left", offset=0
        )
    pad_length, next_header = plaintext[-2], plaintext[-1]
    size = len(plaintext) - ESP_TRAILER_SIZE - pad_length
    if size < 0:
        raise error_for(
            ReasonCode.MALFORMED_PACKET,
            f"ESP trailer: {pad_length} bytes of padding announced, {len(plaintext) - ESP_TRAILER_SIZE} left",
            offset=len(plaintext) - ESP_TRAILER_SIZE,
        )
    if plaintext[size:-ESP_TRAILER_SIZE] != _PADDING[:pad_length]:
        raise error_for(ReasonCode.MALFORMED_PACKET, "ESP trailer: the padding is not 1, 2, 3 …", offset=size)
    return size, next_header
