"""A writer of registry hives (`regf`), for tests only: the reader gets real structure without a Windows.

Written from the public descriptions of the format, apart from the reader; `regipy`, an independent reader,
judges it in `test_formats_hive.py`. Subkey lists in each of the four kinds, names in Latin-1 or UTF-16, data
inside the value, in a cell, or in segments."""

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

NOTHING = 0xFFFF_FFFF
SEGMENT = 16_344
FILETIME = 0x01D0_0000_0000_0000


@dataclass
class Node:
    """A key: values are (name, type, data)."""

    name: str
    values: list[tuple[str, int, bytes]] = field(default_factory=list)
    children: list["Node"] = field(default_factory=list)

    def child(self, name: str) -> "Node":
        for entry in self.children:
            if entry.name.casefold() == name.casefold():
                return entry
        self.children.append(Node(name))
        return self.children[-1]

    def at(self, path: str) -> "Node":
        node = self
        for part in path.split("\\"):
            node = node.child(part)
        return node


class HiveWriter:
    """`lists`: `lf`, `lh`, `li`, or `ri` (an index over lists of two)."""

    def __init__(self, lists: str = "lh") -> None:
        self._lists = lists
        self._bins = bytearray()
        self._bin_end = 0
        self._next = 0

    def write(self, root: Node) -> bytes:
        offset = self._key(root, NOTHING, is_root=True)
        self._close_bin()
        base = bytearray(4096)
        struct.pack_into(
            "<4sIIQIIIIIII", base, 0, b"regf", 7, 7, FILETIME, 1, 5, 0, 1, offset, len(self._bins), 1
        )
        base[48 : 48 + 22] = "policy.ipsec"[:11].encode("utf-16-le")
        struct.pack_into("<I", base, 508, checksum(base))
        return bytes(base + self._bins)

    # -- cells

    def _allocate(self, size: int) -> int:
        """The offset of a cell that holds `size` bytes of content."""
        whole = (size + 4 + 7) // 8 * 8
        if self._next + whole > self._bin_end:
            self._close_bin()
            length = (whole + 32 + 4095) // 4096 * 4096
            start = len(self._bins)
            header = struct.pack("<4sIIIIQI", b"hbin", start, length, 0, 0, FILETIME, 0)
            self._bins += header + bytes(length - len(header))
            self._next, self._bin_end = start + 32, start + length
        offset = self._next
        struct.pack_into("<i", self._bins, offset, -whole)
        self._next += whole
        return offset

    def _close_bin(self) -> None:
        rest = self._bin_end - self._next
        if rest:
            struct.pack_into("<i", self._bins, self._next, rest)  # one free cell
        self._next = self._bin_end

    def _put(self, content: bytes, offset: int | None = None) -> int:
        at = self._allocate(len(content)) if offset is None else offset
        self._bins[at + 4 : at + 4 + len(content)] = content
        return at

    # -- what stands in them

    def _key(self, node: Node, parent: int, *, is_root: bool = False) -> int:
        name, compressed = encoded_name(node.name)
        offset = self._allocate(76 + len(name))
        children = sorted(node.children, key=lambda child: child.name.upper())
        subkeys = self._subkeys([(self._key(child, offset), child.name) for child in children])
        values = NOTHING
        if node.values:
            values = self._put(b"".join(self._value(*value).to_bytes(4, "little") for value in node.values))
        flags = (0x20 if compressed else 0) | (0x0C if is_root else 0)
        self._put(
            struct.pack(
                "<2sHQIIIIIIIIII20sHH", b"nk", flags, FILETIME, 0, parent, len(children), 0, subkeys, NOTHING,
                len(node.values), values, NOTHING, NOTHING, bytes(20), len(name), 0,
            ) + name,
            offset,
        )  # fmt: skip
        return offset

    def _subkeys(self, children: list[tuple[int, str]]) -> int:
        if not children:
            return NOTHING
        if self._lists != "ri":
            return self._leaf(self._lists, children)
        leaves = [self._leaf("lh", children[start : start + 2]) for start in range(0, len(children), 2)]
        return self._put(struct.pack("<2sH", b"ri", len(leaves)) + pack_all(leaves))

    def _leaf(self, kind: str, children: list[tuple[int, str]]) -> int:
        content = struct.pack("<2sH", kind.encode(), len(children))
        for offset, name in children:
            content += struct.pack("<I", offset)
            if kind == "lf":
                content += name.encode("latin-1", errors="replace")[:4].ljust(4, b"\0")
            elif kind == "lh":
                content += struct.pack("<I", name_hash(name))
        return self._put(content)

    def _value(self, name: str, kind: int, data: bytes) -> int:
        raw, compressed = encoded_name(name)
        if len(data) <= 4:
            size, where = len(data) | 0x8000_0000, int.from_bytes(data.ljust(4, b"\0"), "little")
        elif len(data) <= SEGMENT:
            size, where = len(data), self._put(data)
        else:
            parts = [self._put(data[start : start + SEGMENT]) for start in range(0, len(data), SEGMENT)]
            segments = self._put(pack_all(parts))
            size, where = len(data), self._put(struct.pack("<2sHI", b"db", len(parts), segments))
        return self._put(
            struct.pack("<2sHIIIHH", b"vk", len(raw), size, where, kind, int(compressed), 0) + raw
        )


def pack_all(numbers: Iterable[int]) -> bytes:
    return b"".join(struct.pack("<I", number) for number in numbers)


def encoded_name(name: str) -> tuple[bytes, bool]:
    try:
        return name.encode("latin-1"), True
    except UnicodeEncodeError:
        return name.encode("utf-16-le"), False


def name_hash(name: str) -> int:
    value = 0
    for character in name.upper():
        value = (value * 37 + ord(character)) & 0xFFFF_FFFF
    return value


def checksum(base: bytes | bytearray) -> int:
    value = 0
    for (word,) in struct.iter_unpack("<I", bytes(base[:508])):
        value ^= word
    return {0: 1, NOTHING: NOTHING - 1}.get(value, value)


def repaired(hive: bytes) -> bytes:
    """The hive with the checksum that its base block asks for, after a test changed something."""
    changed = bytearray(hive)
    struct.pack_into("<I", changed, 508, checksum(changed))
    return bytes(changed)
