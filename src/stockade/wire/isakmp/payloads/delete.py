"""Delete payload (RFC 2408 §3.15): the sender's SAs that are gone.

| DOI (4) | protocol | SPI size | number of SPIs (2) | SPIs … |
"""

from dataclasses import dataclass
from typing import ClassVar, Self

from stockade.wire.cursor import Cursor
from stockade.wire.isakmp.constants import PayloadType

MAXIMUM_SPIS = 1024


@dataclass(frozen=True, slots=True)
class DeletePayload:
    """`spis` (1–1024) are all `spi_size` bytes long: 16 (both cookies) for ISAKMP, 4 for AH and ESP."""

    payload_type: ClassVar[int] = PayloadType.DELETE

    doi: int
    protocol_id: int
    spi_size: int
    spis: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.doi <= 0xFFFF_FFFF:
            raise ValueError(f"DOI {self.doi} is outside 32 bits")
        if not 0 <= self.protocol_id <= 0xFF:
            raise ValueError(f"protocol {self.protocol_id} is outside 0–255")
        if not 1 <= self.spi_size <= 0xFF:
            raise ValueError(f"SPI size {self.spi_size} is outside 1–255")
        if not 1 <= len(self.spis) <= MAXIMUM_SPIS:
            raise ValueError(f"{len(self.spis)} SPIs, 1–{MAXIMUM_SPIS} expected")
        for spi in self.spis:
            if len(spi) != self.spi_size:
                raise ValueError(f"an SPI of {len(spi)} bytes, {self.spi_size} expected")

    @classmethod
    def decode(cls, cursor: Cursor) -> Self:
        doi = cursor.u32("DOI")
        protocol_id = cursor.u8("protocol id")
        spi_size = cursor.u8("SPI size")
        offset = cursor.offset
        count = cursor.u16("number of SPIs")
        if not spi_size or not 1 <= count <= MAXIMUM_SPIS or cursor.remaining != count * spi_size:
            raise cursor.error(
                f"{count} SPIs of {spi_size} bytes announced, {cursor.remaining} bytes found", offset=offset
            )
        spis = tuple(cursor.take(spi_size, "SPI") for _ in range(count))
        return cls(doi, protocol_id, spi_size, spis)

    def encode_body(self) -> bytes:
        head = self.doi.to_bytes(4, "big") + bytes((self.protocol_id, self.spi_size))
        return head + len(self.spis).to_bytes(2, "big") + b"".join(self.spis)
