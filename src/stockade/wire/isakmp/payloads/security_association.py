"""SA, proposal and transform payloads with their attributes (RFC 2408 §3.3–3.6, RFC 2407 §4.6.1).

The three nest: an SA holds proposals, a proposal holds transforms, a transform holds attributes.

     SA:         | DOI (4) | situation (4) | proposals |
     proposal:   | 2 or 0 | reserved | length (2) | number | protocol | SPI size | count | SPI | transforms |
     transform:  | 3 or 0 | reserved | length (2) | number | id | reserved (2) | attributes |
     attribute:  | 1, type (15 bits) | value (2) |              TV, the basic form
                 | 0, type (15 bits) | length (2) | value … |   TLV, the variable form

Left out: the labels of situations with secrecy or integrity (RFC 2407 §4.6.1.1); they are refused.
"""

from dataclasses import dataclass, field
from struct import Struct
from typing import ClassVar, Self, cast

from stockade.model.quickly_made import quickly_made
from stockade.wire.cursor import Cursor
from stockade.wire.isakmp.constants import DomainOfInterpretation, PayloadType, Situation

MAXIMUM_PROPOSALS = 64
MAXIMUM_TRANSFORMS = 64
MAXIMUM_ATTRIBUTES = 64

_TV_FORM = 0x8000
_NESTED_HEADER = Struct("!BxH")
_PROPOSAL_HEAD = Struct("!BxHBBBB")
_TRANSFORM_HEAD = Struct("!BxH")
_SA_HEAD = Struct("!II")
_PROPOSAL, _TRANSFORM = int(PayloadType.PROPOSAL), int(PayloadType.TRANSFORM)
_IPSEC = int(DomainOfInterpretation.IPSEC)
_LABELS = int(Situation.SECRECY | Situation.INTEGRITY)


@quickly_made
@dataclass(frozen=True, slots=True)
class Attribute:
    """One data attribute. `type` 0–32767. An `int` value (0–65535) stands in the TV form, `bytes` in the TLV
    form; the form is kept, because HASH inputs and comparisons need what was sent."""

    type: int
    value: int | bytes

    def __post_init__(self) -> None:
        if not 0 <= self.type <= 0x7FFF:
            raise ValueError(f"attribute type {self.type} is outside 0–32767")
        if isinstance(self.value, int):
            if not 0 <= self.value <= 0xFFFF:
                raise ValueError(f"the TV form cannot hold {self.value}")
        elif len(self.value) > 0xFFFF:
            raise ValueError(f"an attribute cannot hold {len(self.value)} bytes")

    @classmethod
    def of_number(cls, type: int, number: int) -> Self:
        """The shortest form that holds `number`: TV up to 65535, above it a TLV of 4 bytes as Windows and
        RFC 2407 §4.5 write lifetimes (or 8 bytes where 4 are too few)."""
        if number <= 0xFFFF:
            return cls(type, number)
        return cls(type, number.to_bytes(4 if number <= 0xFFFF_FFFF else 8, "big"))

    @property
    def number(self) -> int | None:
        """The value as a number, whichever form it came in; None for an empty TLV and for one of more than
        8 bytes, which no number of ours needs."""
        if isinstance(self.value, int):
            return self.value
        return int.from_bytes(self.value, "big") if 1 <= len(self.value) <= 8 else None

    @classmethod
    def decode(cls, cursor: Cursor) -> Self:
        head = cursor.u16("attribute type")
        if head & _TV_FORM:
            return cls(head & 0x7FFF, cursor.u16("value of attribute", head & 0x7FFF))
        size = cursor.u16("length of attribute", head)
        return cls(head, cursor.take(size, "value of attribute", head))

    def encode(self) -> bytes:
        if isinstance(self.value, int):
            return (self.type | _TV_FORM).to_bytes(2, "big") + self.value.to_bytes(2, "big")
        return self.type.to_bytes(2, "big") + len(self.value).to_bytes(2, "big") + self.value


@quickly_made
@dataclass(frozen=True, slots=True)
class TransformPayload:
    """One transform: number and id 0–255, at most 64 attributes."""

    number: int
    transform_id: int
    attributes: tuple[Attribute, ...] = ()
    _encoded: bytes = field(default=b"", init=False, compare=False, repr=False)
    """The encoded body, once it was asked for: what every peer offers is encoded in every answer."""

    def __post_init__(self) -> None:
        for value in (self.number, self.transform_id):
            if not 0 <= value <= 0xFF:
                raise ValueError(f"transform number or id {value} is outside 0–255")
        if len(self.attributes) > MAXIMUM_ATTRIBUTES:
            raise ValueError(f"{len(self.attributes)} attributes, at most {MAXIMUM_ATTRIBUTES} allowed")

    @classmethod
    def decode(cls, cursor: Cursor) -> Self:
        """From the bytes after the generic header."""
        body = cursor.data
        known = _decoded.get(body)
        if known is not None:
            return cast(Self, known)
        number = cursor.u8("transform number")
        transform_id = cursor.u8("transform id")
        cursor.skip(2, "reserved")
        attributes: list[Attribute] = []
        while cursor.remaining:
            if len(attributes) == MAXIMUM_ATTRIBUTES:
                raise cursor.error(f"more than {MAXIMUM_ATTRIBUTES} attributes")
            attributes.append(Attribute.decode(cursor))
        transform = cls(number, transform_id, tuple(attributes))
        if len(body) <= _REMEMBERED_SIZE:
            if len(_decoded) >= _REMEMBERED:
                _decoded.clear()
            _decoded[body] = transform
        return transform

    def encode_body(self) -> bytes:
        if not self._encoded:
            head = bytes((self.number, self.transform_id, 0, 0))
            body = head + b"".join(attribute.encode() for attribute in self.attributes)
            object.__setattr__(self, "_encoded", body)
        return self._encoded


# Peers with one policy offer the same transforms, byte for byte, and they are most of what a first message
# costs to read. What is kept is bounded in number and size; strangers can only make it forget.
_REMEMBERED = 256
_REMEMBERED_SIZE = 96
_decoded: dict[bytes, TransformPayload] = {}


@quickly_made
@dataclass(frozen=True, slots=True)
class ProposalPayload:
    """One protocol with its transforms (1–64), in order of preference. Several proposals with one `number`
    are meant together (AH and ESP); different numbers are alternatives. `spi` at most 255 bytes."""

    number: int
    protocol_id: int
    spi: bytes
    transforms: tuple[TransformPayload, ...]

    def __post_init__(self) -> None:
        if (self.number | self.protocol_id) >> 8:
            raise ValueError(f"proposal number {self.number} or protocol {self.protocol_id} is outside 0–255")
        if len(self.spi) > 0xFF:
            raise ValueError(f"an SPI of {len(self.spi)} bytes is too long")
        if not 1 <= len(self.transforms) <= MAXIMUM_TRANSFORMS:
            raise ValueError(f"{len(self.transforms)} transforms, 1–{MAXIMUM_TRANSFORMS} expected")

    @classmethod
    def decode(cls, cursor: Cursor) -> Self:
        """From the bytes after the generic header."""
        number = cursor.u8("proposal number")
        protocol_id = cursor.u8("protocol id")
        spi_size = cursor.u8("SPI size")
        offset = cursor.offset
        count = cursor.u8("number of transforms")
        spi = cursor.take(spi_size, "SPI")
        parts = _split(cursor, PayloadType.TRANSFORM, "transform", MAXIMUM_TRANSFORMS)
        if len(parts) != count:
            raise cursor.error(f"{count} transforms announced, {len(parts)} found", offset=offset)
        return cls(number, protocol_id, spi, tuple(TransformPayload.decode(part) for part in parts))

    def encode_body(self) -> bytes:
        head = bytes((self.number, self.protocol_id, len(self.spi), len(self.transforms)))
        transforms = [transform.encode_body() for transform in self.transforms]
        return head + self.spi + _join(transforms, PayloadType.TRANSFORM)


@quickly_made
@dataclass(frozen=True, slots=True)
class SecurityAssociationPayload:
    """The offer (or the choice) of one negotiation: 1–64 proposals. `doi` and `situation` are 32-bit numbers;
    the engine decides which of them it speaks."""

    payload_type: ClassVar[int] = PayloadType.SECURITY_ASSOCIATION

    doi: int
    situation: int
    proposals: tuple[ProposalPayload, ...]

    def __post_init__(self) -> None:
        if (self.doi | self.situation) >> 32:
            raise ValueError(f"DOI {self.doi} or situation {self.situation} is outside 32 bits")
        if self.doi == _IPSEC and self.situation & _LABELS:
            raise ValueError(f"situation {self.situation} carries labels, which are not supported")
        if not 1 <= len(self.proposals) <= MAXIMUM_PROPOSALS:
            raise ValueError(f"{len(self.proposals)} proposals, 1–{MAXIMUM_PROPOSALS} expected")

    @classmethod
    def decode(cls, cursor: Cursor) -> Self:
        """From the bytes after the generic header. Every DOI is read with a situation of 4 bytes, so that the
        engine can refuse a foreign one by its own notification."""
        doi = cursor.u32("DOI")
        offset = cursor.offset
        situation = cursor.u32("situation")
        if doi == DomainOfInterpretation.IPSEC and situation & _LABELS:
            raise cursor.error(
                f"situation {situation} carries labels, identity only (1) expected", offset=offset
            )
        parts = _split(cursor, PayloadType.PROPOSAL, "proposal", MAXIMUM_PROPOSALS)
        return cls(doi, situation, tuple(ProposalPayload.decode(part) for part in parts))

    @classmethod
    def of_known_transforms(cls, body: bytes) -> "SecurityAssociationPayload | None":
        """What `decode` makes of the same bytes, where all their transforms were seen before and nothing is
        wrong; None otherwise, and `decode` reads it, or says what is wrong."""
        end = len(body)
        if end < 8:
            return None
        doi, situation = _SA_HEAD.unpack_from(body)
        proposals: list[ProposalPayload] = []
        position, more = 8, _PROPOSAL
        while more:
            if position + 8 > end or more != _PROPOSAL or len(proposals) == MAXIMUM_PROPOSALS:
                return None
            more, size, number, protocol_id, spi_size, count = _PROPOSAL_HEAD.unpack_from(body, position)
            transforms = _known_transforms(body[position + 8 + spi_size : position + size])
            if len(transforms) != count or not count or position + size > end:
                return None
            spi = body[position + 8 : position + 8 + spi_size]
            proposals.append(ProposalPayload(number, protocol_id, spi, transforms))
            position += size
        if position != end or (doi == _IPSEC and situation & _LABELS):
            return None
        return cls(doi, situation, tuple(proposals))

    def encode_body(self) -> bytes:
        head = self.doi.to_bytes(4, "big") + self.situation.to_bytes(4, "big")
        return head + _join([proposal.encode_body() for proposal in self.proposals], PayloadType.PROPOSAL)


def _known_transforms(chain: bytes) -> tuple[TransformPayload, ...]:
    """The transforms of one proposal; none where one of them was not seen before, or anything is wrong."""
    transforms: list[TransformPayload] = []
    position, more = 0, _TRANSFORM
    while more:
        if position + 8 > len(chain) or more != _TRANSFORM:
            return ()
        more, size = _TRANSFORM_HEAD.unpack_from(chain, position)
        known = _decoded.get(chain[position + 4 : position + size])
        if known is None or size < 8 or position + size > len(chain):
            return ()
        transforms.append(known)
        position += size
    return tuple(transforms) if position == len(chain) and len(transforms) <= MAXIMUM_TRANSFORMS else ()


def _split(cursor: Cursor, kind: int, word: str, limit: int) -> list[Cursor]:
    """The bodies of a chain of nested payloads, all of one kind, that fills the rest of `cursor`."""
    parts: list[Cursor] = []
    while True:
        if len(parts) == limit:
            raise cursor.error(f"more than {limit} {word}s")
        name = f"{word} {len(parts) + 1}"
        offset = cursor.offset
        following, size = _NESTED_HEADER.unpack(cursor.take(4, "next payload of " + name))
        if following and following != kind:
            raise cursor.error(
                f"next payload of {name} is {following}, 0 or {kind:d} expected", offset=offset
            )
        if size < 8:
            raise cursor.error(f"length of {name} is {size}, at least 8 expected", offset=offset + 2)
        parts.append(cursor.sub(size - 4, name))
        if not following:
            cursor.finish()
            return parts


def _join(bodies: list[bytes], kind: int) -> bytes:
    chain = []
    for index, body in enumerate(bodies):
        following = kind if index + 1 < len(bodies) else 0
        if len(body) + 4 > 0xFFFF:
            raise ValueError(f"a nested payload of {len(body) + 4} bytes is too long")
        chain.append(bytes((following, 0)) + (len(body) + 4).to_bytes(2, "big") + body)
    return b"".join(chain)
