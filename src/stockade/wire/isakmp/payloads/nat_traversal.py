"""NAT-D and NAT-OA payloads (RFC 3947 §3.2, §5.2), with the numbers of the RFC and of the drafts.

     NAT-D:   | HASH(cookies | address | port) … |
     NAT-OA:  | ID type | reserved (3) | address … |

Windows 2000 to 2003 know the drafts' numbers only ([MS-IKEE] §2.2.4, §2.2.5).
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from stockade.model.addresses import Address
from stockade.model.quickly_made import quickly_made
from stockade.wire.cursor import Cursor
from stockade.wire.isakmp.constants import IdentificationType, PayloadType

DETECTION_TYPES = (PayloadType.NAT_DETECTION, PayloadType.NAT_DETECTION_DRAFT)
ORIGINAL_ADDRESS_TYPES = (PayloadType.NAT_ORIGINAL_ADDRESS, PayloadType.NAT_ORIGINAL_ADDRESS_DRAFT)


@quickly_made
@dataclass(frozen=True, slots=True)
class NatDetectionPayload:
    """A hash of one end's address and port. `type` is 20 (RFC) or 130 (draft). Not empty."""

    type: int
    hash: bytes

    def __post_init__(self) -> None:
        if self.type not in DETECTION_TYPES:
            raise ValueError(f"payload type {self.type} is not NAT-D")
        if not self.hash:
            raise ValueError("the NAT-D hash is empty")

    @property
    def payload_type(self) -> int:
        return self.type

    @classmethod
    def decode(cls, type: int, cursor: Cursor) -> "NatDetectionPayload":
        return cls(type, cursor.rest())

    def encode_body(self) -> bytes:
        return self.hash


@dataclass(frozen=True, slots=True)
class NatOriginalAddressPayload:
    """One end's address before translation. `type` is 21 (RFC) or 131 (draft)."""

    type: int
    address: Address

    def __post_init__(self) -> None:
        if self.type not in ORIGINAL_ADDRESS_TYPES:
            raise ValueError(f"payload type {self.type} is not NAT-OA")

    @property
    def payload_type(self) -> int:
        return self.type

    @classmethod
    def decode(cls, type: int, cursor: Cursor) -> "NatOriginalAddressPayload":
        offset = cursor.offset
        kind = cursor.u8("ID type")
        cursor.skip(3, "reserved")
        address: Address
        if kind == IdentificationType.IPV4_ADDR:
            address = IPv4Address(cursor.take(4, "IPv4 address"))
        elif kind == IdentificationType.IPV6_ADDR:
            address = IPv6Address(cursor.take(16, "IPv6 address"))
        else:
            raise cursor.error(f"ID type {kind}, 1 (IPv4) or 5 (IPv6) expected", offset=offset)
        return cls(type, address)

    def encode_body(self) -> bytes:
        four = self.address.version == 4
        kind = IdentificationType.IPV4_ADDR if four else IdentificationType.IPV6_ADDR
        return bytes((kind, 0, 0, 0)) + self.address.packed
