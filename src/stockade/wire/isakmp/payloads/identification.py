"""Identification payload (RFC 2407 §4.6.2): who a peer is (main mode), or whose traffic (quick mode).

| ID type | protocol | port (2) | data … |
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import ClassVar, Self

from stockade.model.addresses import Address, AddressRange
from stockade.model.quickly_made import quickly_made
from stockade.wire.cursor import Cursor
from stockade.wire.isakmp.constants import IdentificationType, PayloadType

_ADDRESS_SIZES: dict[int, int] = {
    IdentificationType.IPV4_ADDR: 4,
    IdentificationType.IPV4_ADDR_SUBNET: 8,
    IdentificationType.IPV6_ADDR: 16,
    IdentificationType.IPV6_ADDR_SUBNET: 32,
    IdentificationType.IPV4_ADDR_RANGE: 8,
    IdentificationType.IPV6_ADDR_RANGE: 32,
}
_HOSTS = (IdentificationType.IPV4_ADDR, IdentificationType.IPV6_ADDR)
_SUBNETS = (IdentificationType.IPV4_ADDR_SUBNET, IdentificationType.IPV6_ADDR_SUBNET)


@quickly_made
@dataclass(frozen=True, slots=True)
class IdentificationPayload:
    """An identity. `id_type` and `protocol_id` 0–255, `port` 0–65535, 0 = any. Address types must have data
    of their exact length."""

    payload_type: ClassVar[int] = PayloadType.IDENTIFICATION

    id_type: int
    protocol_id: int
    port: int
    data: bytes

    def __post_init__(self) -> None:
        if (self.id_type | self.protocol_id) >> 8:
            raise ValueError(f"ID type {self.id_type} or protocol {self.protocol_id} is outside 0–255")
        if not 0 <= self.port <= 0xFFFF:
            raise ValueError(f"port {self.port} is outside 0–65535")
        size = _ADDRESS_SIZES.get(self.id_type)
        if size is not None and len(self.data) != size:
            raise ValueError(f"ID type {self.id_type} with {len(self.data)} bytes, {size} expected")

    @classmethod
    def of_addresses(cls, addresses: AddressRange, protocol_id: int = 0, port: int = 0) -> Self:
        """The identity that names these addresses: one host, a subnet where the range is one, else a
        range."""
        first, last = addresses.first.packed, addresses.last.packed
        prefix = addresses.prefix_length
        four = addresses.version == 4
        if addresses.is_host:
            kind = IdentificationType.IPV4_ADDR if four else IdentificationType.IPV6_ADDR
            return cls(kind, protocol_id, port, first)
        if prefix is not None:
            kind = IdentificationType.IPV4_ADDR_SUBNET if four else IdentificationType.IPV6_ADDR_SUBNET
            mask = ((1 << addresses.bits) - (1 << (addresses.bits - prefix))).to_bytes(len(first), "big")
            return cls(kind, protocol_id, port, first + mask)
        kind = IdentificationType.IPV4_ADDR_RANGE if four else IdentificationType.IPV6_ADDR_RANGE
        return cls(kind, protocol_id, port, first + last)

    def addresses(self) -> AddressRange | None:
        """The addresses that an address-typed identity names; None for every other type, for a mask with
        holes and for a range that ends before it begins. Host bits of a subnet are ignored, as Windows
        does not clear them."""
        if self.id_type not in _ADDRESS_SIZES:
            return None
        if self.id_type in _HOSTS:
            return AddressRange.host(_address(self.data))
        half = len(self.data) // 2
        first, second = self.data[:half], self.data[half:]
        if self.id_type not in _SUBNETS:
            return AddressRange(_address(first), _address(second)) if first <= second else None
        host_bits = int.from_bytes(second, "big") ^ ((1 << half * 8) - 1)
        if host_bits & (host_bits + 1):
            return None
        network = int.from_bytes(first, "big") & ~host_bits
        return AddressRange(
            _address(network.to_bytes(half, "big")), _address((network | host_bits).to_bytes(half, "big"))
        )

    @classmethod
    def decode(cls, cursor: Cursor) -> Self:
        id_type = cursor.u8("ID type")
        protocol_id = cursor.u8("protocol")
        port = cursor.u16("port")
        return cls(id_type, protocol_id, port, cursor.rest())

    def encode_body(self) -> bytes:
        return bytes((self.id_type, self.protocol_id)) + self.port.to_bytes(2, "big") + self.data


def _address(data: bytes) -> Address:
    return IPv4Address(data) if len(data) == 4 else IPv6Address(data)
