"""`ipsecData` of an ipsecNegotiationPolicy: the offers of a filter action ([MS-GPIPSEC] §2.2.1.3).

    {80DC20B9-2EC8-11D1-A89E-00A0248D3021} | Data-Length | Security-Offer-Count n | n × 80 bytes |
    0 (one byte)

    offer: Lifetime seconds | Lifetime KB | Negotiation-Options | PFS-QM-Required |
           Algorithm-Offer-Count (0–3) | 3 × (Algorithm | ESP-integrity | Offer-Type | 8 ignored)

An offer with no algorithm at the end is not an offer: it says that clear traffic is allowed where the
negotiation fails ("soft"). Real blobs hold stray text in the unused algorithm records; all is kept."""

import struct
from dataclasses import dataclass
from typing import ClassVar, cast
from uuid import UUID

from stockade.store.formats.ipsec_data.cursor import BlobCursor

_OFFER = struct.Struct("<5I")
_ALGORITHM = struct.Struct("<III8s")
_OFFER_SIZE = _OFFER.size + 3 * _ALGORITHM.size

OFFER_AH = 1
OFFER_ESP = 2


@dataclass(frozen=True, slots=True)
class AlgorithmOffer:
    """One protocol of an offer. `offer_type` 1 AH, 2 ESP; for AH `algorithm` is the hash, for ESP the cipher
    and `integrity` the hash."""

    algorithm: int = 0
    integrity: int = 0
    offer_type: int = 0
    unused: bytes = bytes(8)

    def encode(self) -> bytes:
        return _ALGORITHM.pack(self.algorithm, self.integrity, self.offer_type, self.unused)


_NONE = AlgorithmOffer()


@dataclass(frozen=True, slots=True)
class SecurityOffer:
    """One quick-mode security method: the first `count` (as written; 0–3 make sense) of three records.
    Lifetimes 0 mean the defaults, 3600 s and 100 000 KB."""

    lifetime_seconds: int = 0
    lifetime_kilobytes: int = 0
    options: int = 0
    perfect_forward_secrecy: int = 0
    count: int = 0
    records: tuple[AlgorithmOffer, AlgorithmOffer, AlgorithmOffer] = (_NONE, _NONE, _NONE)

    @property
    def algorithms(self) -> tuple[AlgorithmOffer, ...]:
        """The records that count."""
        return self.records[: self.count]

    @classmethod
    def decode_from(cls, cursor: BlobCursor) -> "SecurityOffer":
        seconds, kilobytes, options, pfs, count = cast(
            tuple[int, ...], cursor.unpack(_OFFER, "security offer")
        )
        first, second, third = (
            AlgorithmOffer(
                *cast(tuple[int, int, int, bytes], cursor.unpack(_ALGORITHM, "algorithm of an offer"))
            )
            for _ in range(3)
        )
        return cls(seconds, kilobytes, options, pfs, count, (first, second, third))

    def encode(self) -> bytes:
        return _OFFER.pack(
            self.lifetime_seconds,
            self.lifetime_kilobytes,
            self.options,
            self.perfect_forward_secrecy,
            self.count,
        ) + b"".join(record.encode() for record in self.records)


@dataclass(frozen=True, slots=True)
class NegotiationData:
    """The offers of a filter action, in order."""

    offers: tuple[SecurityOffer, ...] = ()
    declared_length: int | None = None
    trailer: bytes = b"\0"

    MARK: ClassVar[UUID] = UUID("80dc20b9-2ec8-11d1-a89e-00a0248d3021")

    @classmethod
    def decode(cls, data: bytes, where: str = "ipsecNegotiationPolicy") -> "NegotiationData":
        """CallerError INVALID_FILE where the bytes are no such blob."""
        cursor = BlobCursor(data, where)
        cursor.expect(cls.MARK, "negotiation policy blob")
        length = cursor.u32("Data-Length")
        count = cursor.count("Security-Offer-Count", _OFFER_SIZE)
        offers = tuple(SecurityOffer.decode_from(cursor) for _ in range(count))
        return cls(offers, None if length == 4 + _OFFER_SIZE * count else length, cursor.rest())

    def encode(self) -> bytes:
        count = len(self.offers)
        length = 4 + _OFFER_SIZE * count if self.declared_length is None else self.declared_length
        return b"".join(
            (
                self.MARK.bytes_le,
                length.to_bytes(4, "little"),
                count.to_bytes(4, "little"),
                *(offer.encode() for offer in self.offers),
                self.trailer,
            )
        )
