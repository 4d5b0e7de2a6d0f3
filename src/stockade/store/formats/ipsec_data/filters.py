"""`ipsecData` of an ipsecFilter: a filter list, both generations ([MS-GPIPSEC] §2.2.1.5).

{80DC20B5-2EC8-11D1-A89E-00A0248D3021} | Data-Length1 | Number-Of-Filters1 | Filter-Spec1 …
up to Server 2003: 0 (one byte), and Data-Length1 counts the number and the filters;
since Vista: no such byte, Data-Length1 counts the filters only, and there may follow
{35FECD3D-AE29-4373-8A6A-C5D8FAB2FB08} | Data-Length2 | Number-Of-Filters11 | Number-Of-Filters2 |
Filter-Spec2 …

Filter-Spec1: three strings (source name, destination name, description) | GUID | mirror |
  source, mask, destination, mask, tunnel (4 each, network order) | protocol | source port |
  destination port (2 each) | is-tunnel | special (1 each) | options 2
Filter-Spec2: three strings | GUID | mirror | source 40 | destination 40 | source port 8 |
  destination port 8 | protocol | flags
address: type | version | 16 address | 16 mask or last;   port: type | first | last (2 each)"""

import struct
from dataclasses import dataclass
from typing import ClassVar, cast
from uuid import UUID

from stockade.store.formats.ipsec_data.cursor import BlobCursor
from stockade.store.formats.ipsec_data.text import EMPTY, NO_GUID, WideText

_SPEC1 = struct.Struct("<16sI4s4s4s4s4sIHHBBH")
_SPEC2_HEAD = struct.Struct("<16sI")
_ADDRESS = struct.Struct("<II16s16s")
_PORT = struct.Struct("<IHH")
_SPEC2_TAIL = struct.Struct("<II")
_SPEC1_LEAST = 12 + _SPEC1.size  # three strings of length 0
_SPEC2_LEAST = 12 + _SPEC2_HEAD.size + 2 * (_ADDRESS.size + _PORT.size) + _SPEC2_TAIL.size

SPECIAL_DNS, SPECIAL_WINS, SPECIAL_DHCP, SPECIAL_GATEWAY = 1, 2, 3, 4
SPECIAL_DESTINATION = 0x80  # added where the destination is meant

ADDRESS_ANY, ADDRESS_SINGLE, ADDRESS_RANGE, ADDRESS_SUBNET, ADDRESS_ME = 0, 1, 2, 4, 8
ADDRESS_DNS, ADDRESS_WINS, ADDRESS_DHCP, ADDRESS_GATEWAY = 0x10, 0x20, 0x40, 0x80
VERSION_IPV4, VERSION_IPV6, VERSION_BOTH = 1, 2, 3
PORT_ANY, PORT_SINGLE, PORT_RANGE = 0, 1, 2
FLAG_RANGE_IS_HERE = 8  # the version 1 part holds this range a second time, as subnets


@dataclass(frozen=True, slots=True)
class FilterSpec1:
    """A filter of the first generation, IPv4 only. Addresses and masks are 4 bytes in network order."""

    source: bytes
    source_mask: bytes
    destination: bytes
    destination_mask: bytes
    protocol: int = 0
    source_port: int = 0
    destination_port: int = 0
    mirrored: int = 1
    description: WideText = EMPTY
    source_name: WideText = EMPTY
    destination_name: WideText = EMPTY
    guid: UUID = NO_GUID
    tunnel: bytes = bytes(4)
    is_tunnel: int = 0
    special: int = 0
    options: int = 0

    @classmethod
    def decode_from(cls, cursor: BlobCursor) -> "FilterSpec1":
        source_name = cursor.text("source name")
        destination_name = cursor.text("destination name")
        description = cursor.text("description")
        (guid, mirrored, source, source_mask, destination, destination_mask, tunnel, protocol, source_port,
         destination_port, is_tunnel, special, options) = cursor.unpack(_SPEC1, "filter")  # fmt: skip
        return cls(
            cast(bytes, source),
            cast(bytes, source_mask),
            cast(bytes, destination),
            cast(bytes, destination_mask),
            cast(int, protocol),
            cast(int, source_port),
            cast(int, destination_port),
            cast(int, mirrored),
            description,
            source_name,
            destination_name,
            UUID(bytes_le=cast(bytes, guid)),
            cast(bytes, tunnel),
            cast(int, is_tunnel),
            cast(int, special),
            cast(int, options),
        )

    def encode(self) -> bytes:
        return (
            self.source_name.encoded()
            + self.destination_name.encoded()
            + self.description.encoded()
            + _SPEC1.pack(
                self.guid.bytes_le, self.mirrored, self.source, self.source_mask, self.destination,
                self.destination_mask, self.tunnel, self.protocol, self.source_port, self.destination_port,
                self.is_tunnel, self.special, self.options,
            )
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class AddressSpec:
    """An end of a second-generation filter. `secondary` is the last address of a range, or the mask of a
    subnet (IPv4: 4 bytes; IPv6: one byte, the prefix length)."""

    type: int
    version: int = VERSION_IPV4
    address: bytes = bytes(16)
    secondary: bytes = bytes(16)

    @classmethod
    def decode_from(cls, cursor: BlobCursor) -> "AddressSpec":
        return cls(*cast(tuple[int, int, bytes, bytes], cursor.unpack(_ADDRESS, "address")))

    def encode(self) -> bytes:
        return _ADDRESS.pack(self.type, self.version, self.address, self.secondary)


@dataclass(frozen=True, slots=True)
class PortSpec:
    """The ports of one end: any, one (`first`), or a range."""

    type: int = PORT_ANY
    first: int = 0
    last: int = 0

    @classmethod
    def decode_from(cls, cursor: BlobCursor) -> "PortSpec":
        return cls(*cast(tuple[int, int, int], cursor.unpack(_PORT, "port")))

    def encode(self) -> bytes:
        return _PORT.pack(self.type, self.first, self.last)


ANY_PORTS = PortSpec()


@dataclass(frozen=True, slots=True)
class FilterSpec2:
    """A filter of the second generation: IPv6, ranges, server kinds."""

    source: AddressSpec
    destination: AddressSpec
    source_port: PortSpec = ANY_PORTS
    destination_port: PortSpec = ANY_PORTS
    protocol: int = 0
    flags: int = 0
    mirrored: int = 1
    description: WideText = EMPTY
    source_name: WideText = EMPTY
    destination_name: WideText = EMPTY
    guid: UUID = NO_GUID

    @classmethod
    def decode_from(cls, cursor: BlobCursor) -> "FilterSpec2":
        source_name = cursor.text("source name")
        destination_name = cursor.text("destination name")
        description = cursor.text("description")
        guid, mirrored = cast(tuple[bytes, int], cursor.unpack(_SPEC2_HEAD, "filter"))
        source = AddressSpec.decode_from(cursor)
        destination = AddressSpec.decode_from(cursor)
        source_port = PortSpec.decode_from(cursor)
        destination_port = PortSpec.decode_from(cursor)
        protocol, flags = cast(tuple[int, int], cursor.unpack(_SPEC2_TAIL, "protocol and flags"))
        return cls(
            source, destination, source_port, destination_port, protocol, flags, mirrored, description,
            source_name, destination_name, UUID(bytes_le=guid),
        )  # fmt: skip

    def encode(self) -> bytes:
        return b"".join(
            (
                self.source_name.encoded(),
                self.destination_name.encoded(),
                self.description.encoded(),
                _SPEC2_HEAD.pack(self.guid.bytes_le, self.mirrored),
                self.source.encode(),
                self.destination.encode(),
                self.source_port.encode(),
                self.destination_port.encode(),
                _SPEC2_TAIL.pack(self.protocol, self.flags),
            )
        )


@dataclass(frozen=True, slots=True)
class SecondGeneration:
    """The part that Vista and later add. `first_count` (Number-Of-Filters11), where it is not 0, is how many
    filters of the first part are meant; what follows them are ranges as subnets, for older readers."""

    filters: tuple[FilterSpec2, ...]
    first_count: int = 0
    declared_length: int | None = None

    MARK: ClassVar[UUID] = UUID("35fecd3d-ae29-4373-8a6a-c5d8fab2fb08")


@dataclass(frozen=True, slots=True)
class FilterListData:
    """A filter list. `separator` is what stands between the two parts (nothing, or one stray 0)."""

    filters: tuple[FilterSpec1, ...] = ()
    second: SecondGeneration | None = None
    declared_length: int | None = None
    separator: bytes = b""
    trailer: bytes = b"\0"

    MARK: ClassVar[UUID] = UUID("80dc20b5-2ec8-11d1-a89e-00a0248d3021")

    @classmethod
    def decode(cls, data: bytes, where: str = "ipsecFilter") -> "FilterListData":
        """CallerError INVALID_FILE where the bytes are no such blob."""
        cursor = BlobCursor(data, where)
        cursor.expect(cls.MARK, "filter list blob")
        length = cursor.u32("Data-Length1")
        count = cursor.count("Number-Of-Filters1", _SPEC1_LEAST)
        start = cursor.offset
        filters = tuple(FilterSpec1.decode_from(cursor) for _ in range(count))
        size = cursor.offset - start
        mark = SecondGeneration.MARK.bytes_le
        separator = b""
        if cursor.at(b"\0" + mark):
            separator = cursor.take(1, "separator")
        second = _second_generation(cursor) if cursor.at(mark) else None
        trailer = cursor.rest()
        usual = _usual_length(size, second, trailer)
        return cls(filters, second, None if length == usual else length, separator, trailer)

    def encode(self) -> bytes:
        first = b"".join(entry.encode() for entry in self.filters)
        usual = _usual_length(len(first), self.second, self.trailer)
        parts = [
            self.MARK.bytes_le,
            (usual if self.declared_length is None else self.declared_length).to_bytes(4, "little"),
            len(self.filters).to_bytes(4, "little"),
            first,
            self.separator,
        ]
        if self.second is not None:
            body = b"".join(entry.encode() for entry in self.second.filters)
            length = len(body) if self.second.declared_length is None else self.second.declared_length
            parts += [
                SecondGeneration.MARK.bytes_le,
                length.to_bytes(4, "little"),
                self.second.first_count.to_bytes(4, "little"),
                len(self.second.filters).to_bytes(4, "little"),
                body,
            ]
        return b"".join((*parts, self.trailer))


def _usual_length(size: int, second: SecondGeneration | None, trailer: bytes) -> int:
    """Data-Length1: the filters alone since Vista (known by the missing last byte), before it with their
    number."""
    return size if second is not None or not trailer else size + 4


def _second_generation(cursor: BlobCursor) -> SecondGeneration:
    cursor.expect(SecondGeneration.MARK, "second filter list")
    length = cursor.u32("Data-Length2")
    first_count = cursor.u32("Number-Of-Filters11")
    count = cursor.count("Number-Of-Filters2", _SPEC2_LEAST)
    start = cursor.offset
    filters = tuple(FilterSpec2.decode_from(cursor) for _ in range(count))
    return SecondGeneration(filters, first_count, None if length == cursor.offset - start else length)
