"""Captures: classic pcap (draft-ietf-opsawg-pcap) and pcapng (draft-ietf-opsawg-pcapng), both ways.

Bytes in, bytes out: the caller does the I/O. A capture that is written grows record by record, so a writer
that is killed leaves a readable file up to its last record. Reading takes both byte orders, micro- and
nanoseconds, several sections and interfaces. Left out: name resolution, statistics, secrets and the obsolete
packet block, which are skipped.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import Literal

from stockade.model.reasons import ReasonCode
from stockade.wire.cursor import Cursor

NANOSECONDS = 1_000_000_000
SNAPSHOT_LENGTH = 262_144
MAXIMUM_INTERFACES = 1024

_ByteOrder = Literal["big", "little"]

_MAGIC_MICROSECONDS = 0xA1B2C3D4
_MAGIC_NANOSECONDS = 0xA1B23C4D
_SECTION_HEADER = 0x0A0D0D0A  # reads the same in both byte orders
_BYTE_ORDER_MAGIC = 0x1A2B3C4D
_INTERFACE_DESCRIPTION = 1
_SIMPLE_PACKET = 3
_ENHANCED_PACKET = 6
_OPTION_END, _OPTION_RESOLUTION, _OPTION_OFFSET = 0, 9, 14
_OPTION_COMMENT, _OPTION_NAME, _OPTION_FLAGS, _OPTION_DESCRIPTION, _OPTION_APPLICATION = 1, 2, 2, 3, 4
_INBOUND, _OUTBOUND = 1, 2

_PCAP_HEADER = Struct("<IHHiIII")
_PCAP_RECORD = Struct("<IIII")


class LinkType(IntEnum):
    """What a captured packet begins with."""

    ETHERNET = 1
    RAW = 101
    LINUX_SLL = 113
    IPV4 = 228
    IPV6 = 229
    LINUX_SLL2 = 276


@dataclass(frozen=True, slots=True)
class CapturedPacket:
    """One packet. `timestamp`: nanoseconds since 1970 (0 for pcapng's simple packets, which have none);
    `original_length`: bytes on the wire, of which `data` may be the first part."""

    timestamp: int
    data: bytes
    original_length: int
    link_type: int
    interface: int = 0


# ---- writing
def pcap_header(link_type: int) -> bytes:
    """The head of a classic pcap file with nanoseconds."""
    return _PCAP_HEADER.pack(_MAGIC_NANOSECONDS, 2, 4, 0, 0, SNAPSHOT_LENGTH, link_type)


def pcap_record(timestamp: int, data: bytes, original_length: int | None = None) -> bytes:
    """One packet of a classic pcap file. `timestamp` in nanoseconds since 1970, before 2106."""
    seconds, fraction = divmod(timestamp, NANOSECONDS)
    original = len(data) if original_length is None else original_length
    return _PCAP_RECORD.pack(seconds, fraction, len(data), original) + data


def _block(kind: int, body: bytes) -> bytes:
    padded = body + bytes(-len(body) % 4)
    size = (len(padded) + 12).to_bytes(4, "little")
    return kind.to_bytes(4, "little") + size + padded + size


def pcapng_header(link_type: int) -> bytes:
    """The head of a pcapng file: one section with one interface (number 0) that counts nanoseconds."""
    return pcapng_section() + pcapng_interface(link_type)


def pcapng_section(comment: str = "", program: str = "") -> bytes:
    """The head of a section; interfaces follow."""
    section = _BYTE_ORDER_MAGIC.to_bytes(4, "little") + b"\1\0\0\0" + b"\xff" * 8
    options = ((_OPTION_COMMENT, comment.encode()), (_OPTION_APPLICATION, program.encode()))
    return _block(_SECTION_HEADER, section + _options(*options))


def pcapng_interface(link_type: int, name: str = "", description: str = "") -> bytes:
    """The next interface, which counts nanoseconds."""
    interface = link_type.to_bytes(2, "little") + bytes(2) + SNAPSHOT_LENGTH.to_bytes(4, "little")
    resolution = (_OPTION_RESOLUTION, b"\x09")
    told = ((_OPTION_NAME, name.encode()), (_OPTION_DESCRIPTION, description.encode()), resolution)
    return _block(_INTERFACE_DESCRIPTION, interface + _options(*told))


def _options(*options: tuple[int, bytes]) -> bytes:
    """Those that say something, and the end of them; nothing at all where none does."""
    found = b"".join(
        code.to_bytes(2, "little") + len(value).to_bytes(2, "little") + value + bytes(-len(value) % 4)
        for code, value in options
        if value
    )
    return found + bytes(4) if found else b""


def pcapng_record(
    timestamp: int,
    data: bytes,
    original_length: int | None = None,
    interface: int = 0,
    outbound: bool | None = None,
) -> bytes:
    """One packet of a pcapng file. `timestamp` in nanoseconds since 1970."""
    original = len(data) if original_length is None else original_length
    head = (interface, timestamp >> 32, timestamp & 0xFFFF_FFFF, len(data), original)
    options = b""
    if outbound is not None:
        direction = _OUTBOUND if outbound else _INBOUND
        options = bytes(-len(data) % 4) + _options((_OPTION_FLAGS, direction.to_bytes(4, "little")))
    return _block(_ENHANCED_PACKET, b"".join(value.to_bytes(4, "little") for value in head) + data + options)


# ---- reading
def read_capture(data: bytes, *, allow_cut: bool = False) -> Iterator[CapturedPacket]:
    """The packets of a pcap or pcapng file, one by one. With `allow_cut` a last record that is cut short (the
    writer still runs, or was killed) ends the capture; otherwise it is an error like every other oddity:
    `PeerError` MALFORMED_PACKET, raised when the iteration gets there."""
    cursor = Cursor(data, "capture", code=ReasonCode.MALFORMED_PACKET)
    magic = cursor.take(4, "magic number")
    if int.from_bytes(magic, "big") == _SECTION_HEADER:
        return _read_pcapng(data, allow_cut)
    orders: tuple[_ByteOrder, ...] = ("little", "big")
    for order in orders:
        number = int.from_bytes(magic, order)
        if number in (_MAGIC_MICROSECONDS, _MAGIC_NANOSECONDS):
            return _read_pcap(cursor, order, 1 if number == _MAGIC_NANOSECONDS else 1000, allow_cut)
    raise cursor.error(f"magic number {magic.hex()} is neither pcap nor pcapng", offset=0)


def _u32(cursor: Cursor, order: _ByteOrder, what: str) -> int:
    return int.from_bytes(cursor.take(4, what), order)


def _u16(cursor: Cursor, order: _ByteOrder, what: str) -> int:
    return int.from_bytes(cursor.take(2, what), order)


def _read_pcap(cursor: Cursor, order: _ByteOrder, unit: int, allow_cut: bool) -> Iterator[CapturedPacket]:
    major = _u16(cursor, order, "major version")
    if major != 2:
        raise cursor.error(f"pcap version {major}, 2 expected", offset=4)
    cursor.skip(14, "file header")
    link_type = _u32(cursor, order, "link type") & 0xFFFF  # FCS length and flags stand above
    while cursor.remaining:
        if allow_cut and cursor.remaining < 16:
            return
        seconds = _u32(cursor, order, "seconds")
        fraction = _u32(cursor, order, "fraction of a second")
        captured = _u32(cursor, order, "captured length")
        original = _u32(cursor, order, "original length")
        if allow_cut and cursor.remaining < captured:
            return
        data = cursor.take(captured, "packet data")
        yield CapturedPacket(seconds * NANOSECONDS + fraction * unit, data, original, link_type)


@dataclass(frozen=True, slots=True)
class _Interface:
    link_type: int
    snapshot_length: int
    ticks_per_second: int
    offset_seconds: int


def _read_pcapng(data: bytes, allow_cut: bool) -> Iterator[CapturedPacket]:
    file = Cursor(data, "capture", code=ReasonCode.MALFORMED_PACKET)
    order: _ByteOrder = "little"
    interfaces: list[_Interface] = []
    while file.remaining:
        start = file.position
        if allow_cut and file.remaining < 12:
            return
        head = file.take(8, "block header")
        section = int.from_bytes(head[:4], "big") == _SECTION_HEADER
        if section:
            magic = data[start + 8 : start + 12]
            order = "big" if int.from_bytes(magic, "big") == _BYTE_ORDER_MAGIC else "little"
            if int.from_bytes(magic, order) != _BYTE_ORDER_MAGIC:
                raise file.error(f"byte-order magic {magic.hex()} is not right")
        kind, size = int.from_bytes(head[:4], order), int.from_bytes(head[4:], order)
        if size < 12 or size % 4:
            raise file.error(f"block length {size}, a multiple of 4 from 12 expected", offset=start + 4)
        if allow_cut and size - 8 > file.remaining:
            return
        block = file.sub(size - 12, f"block {kind}")
        if _u32(file, order, "block length behind the block") != size:
            raise file.error("the two lengths of a block differ", offset=file.offset - 4)
        if section:
            interfaces = []
        elif kind == _INTERFACE_DESCRIPTION:
            if len(interfaces) == MAXIMUM_INTERFACES:
                raise block.error(f"more than {MAXIMUM_INTERFACES} interfaces")
            interfaces.append(_read_interface(block, order))
        elif kind == _ENHANCED_PACKET:
            yield _read_enhanced_packet(block, order, interfaces)
        elif kind == _SIMPLE_PACKET:
            yield _read_simple_packet(block, order, interfaces)


def _read_interface(block: Cursor, order: _ByteOrder) -> _Interface:
    link_type = _u16(block, order, "link type")
    block.skip(2, "reserved")
    snapshot_length = _u32(block, order, "snapshot length")
    ticks, offset = 1_000_000, 0
    while block.remaining:
        code = _u16(block, order, "option code")
        size = _u16(block, order, "option length")
        if code == _OPTION_END:
            break
        value = block.take(size, f"option {code}")
        block.skip(-size % 4, "option padding")
        if code == _OPTION_RESOLUTION and size == 1:
            ticks = 2 ** (value[0] & 0x7F) if value[0] & 0x80 else 10 ** value[0]
        elif code == _OPTION_OFFSET and size == 8:
            offset = int.from_bytes(value, order, signed=True)
    return _Interface(link_type, snapshot_length, ticks, offset)


def _find_interface(block: Cursor, interfaces: list[_Interface], number: int) -> _Interface:
    if number >= len(interfaces):
        raise block.error(f"interface {number} of a packet is not described, {len(interfaces)} are")
    return interfaces[number]


def _read_enhanced_packet(block: Cursor, order: _ByteOrder, interfaces: list[_Interface]) -> CapturedPacket:
    number = _u32(block, order, "interface")
    interface = _find_interface(block, interfaces, number)
    high = _u32(block, order, "time stamp")
    ticks = high << 32 | _u32(block, order, "time stamp")
    captured = _u32(block, order, "captured length")
    original = _u32(block, order, "original length")
    data = block.take(captured, "packet data")
    timestamp = ticks * NANOSECONDS // interface.ticks_per_second + interface.offset_seconds * NANOSECONDS
    return CapturedPacket(timestamp, data, original, interface.link_type, number)


def _read_simple_packet(block: Cursor, order: _ByteOrder, interfaces: list[_Interface]) -> CapturedPacket:
    interface = _find_interface(block, interfaces, 0)
    original = _u32(block, order, "original length")
    captured = min(original, interface.snapshot_length or original)
    return CapturedPacket(0, block.take(captured, "packet data"), original, interface.link_type)
