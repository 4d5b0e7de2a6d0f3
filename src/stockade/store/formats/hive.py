"""Registry hives (`regf`), which `.ipsec` files of Windows are: the keys and values that matter to IPsec.

    base block 4096 | bins: "hbin" header 32 | cells: size (negative: in use), content
    nk  key: name, list of subkeys, list of values        lf, lh, li  subkeys    ri  lists of subkeys
    vk  value: name, type, data (up to 4 bytes inside)    db  data above 16 344 bytes, in segments

From the public descriptions of the format. Read only; no transaction log is replayed. A file that
contradicts itself is refused: every cell must lie in one bin and be in use, counts must agree, no key and no
value comes twice, and all that is read together is bounded by the size of the file, so no hive makes us loop
or grow."""

import struct
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NoReturn

from stockade.model.reasons import Reason, ReasonCode, error_for
from stockade.store.formats.objects import ObjectSet, Reference
from stockade.store.formats.problems import shown
from stockade.store.formats.registry import RegistryKey, RegistryValue, objects_from_keys

SIGNATURE = b"regf"
MAXIMUM_KEYS = 200_000
MAXIMUM_VALUES = 1_000  # of one key
MAXIMUM_DEPTH = 32
MAXIMUM_KEY_NAME = 255  # characters, as in Windows
_BASE = 4096
_BIN_HEADER = 32
_NOTHING = 0xFFFF_FFFF
_INLINE = 0x8000_0000
_SEGMENT = 16_344
_COMPRESSED_KEY = 0x20
_COMPRESSED_VALUE = 0x01

_KEY_CELL = struct.Struct("<2sHQIIIIIIIIII20sHH")
_VALUE_CELL = struct.Struct("<2sHIIIHH")


@dataclass(frozen=True, slots=True)
class _Key:
    offset: int
    parent: str
    name: str
    depth: int
    subkey_count: int
    subkeys: int
    value_count: int
    values: int

    @property
    def path(self) -> str:
        return f"{self.parent}\\{self.name}" if self.parent else self.name


def read_hive(data: bytes) -> ObjectSet:
    """The IPsec objects of a hive. CallerError INVALID_FILE with the key and the offset in the file."""
    hive = _Hive(data)
    objects = objects_from_keys(hive.policy_keys())
    return replace(objects, problems=(*hive.problems, *objects.problems))


def _fail(detail: str, offset: int, key: str = "") -> NoReturn:
    facts = {"key": shown(key)} if key else {}
    raise error_for(ReasonCode.INVALID_FILE, f"registry hive: {detail}", offset=offset, **facts)


class _Hive:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._view = memoryview(data)
        self.problems: tuple[Reason, ...] = ()
        self._root = self._base_block()
        self._bins, self._bin_ends = self._read_bins()
        self._budget = 2 * len(data)  # what names, paths and values may hold together
        self._seen: set[int] = set()  # offsets of keys, lists of values and values

    def _base_block(self) -> int:
        data = self._data
        if len(data) < _BASE or not data.startswith(SIGNATURE):
            _fail(f"a base block of {_BASE} bytes that begins with “regf” expected", 0)
        checksum = 0
        for (word,) in struct.iter_unpack("<I", data[:508]):
            checksum ^= word
        checksum = {0: 1, _NOTHING: _NOTHING - 1}.get(checksum, checksum)
        first, second = struct.unpack_from("<II", data, 4)
        (stored,) = struct.unpack_from("<I", data, 508)
        if stored != checksum:
            _fail("the checksum of the base block is wrong", 508)
        major, _minor, kind, layout, root, _size = struct.unpack_from("<6I", data, 20)
        if major != 1 or kind != 0 or layout != 1:
            _fail(f"version {major}, type {kind}, format {layout}; 1, 0 and 1 expected", 20)
        if first != second:
            self.problems = (
                Reason.of(
                    ReasonCode.INVALID_FILE,
                    "registry hive: it was not closed cleanly, so the last changes may be missing",
                ),
            )
        return int(root)

    def _read_bins(self) -> tuple[list[int], list[int]]:
        """Beginnings and ends of the bins, as offsets in the file."""
        (size,) = struct.unpack_from("<I", self._data, 40)
        end = _BASE + size
        if end > len(self._data):
            _fail(f"bins of {size} bytes expected, {len(self._data) - _BASE} are there", 40)
        starts, ends = [], []
        position = _BASE
        while position < end:
            if end - position < _BIN_HEADER or self._data[position : position + 4] != b"hbin":
                _fail("a bin (“hbin”) expected", position)
            own, length = struct.unpack_from("<II", self._data, position + 4)
            if own != position - _BASE or length < _BIN_HEADER or length % 4096 or length > end - position:
                _fail(f"a bin of {length} bytes that says it is at {own}", position)
            starts.append(position)
            ends.append(position + length)
            position += length
        return starts, ends

    def _spend(self, size: int, offset: int, path: str) -> None:
        """Takes `size` bytes from the budget: cells that overlap or are shared must not multiply."""
        self._budget -= size
        if self._budget < 0:
            _fail("its keys and values hold more than the file", offset, path)

    def _once(self, offset: int, what: str, path: str) -> None:
        if offset in self._seen:
            _fail(f"a {what} is reached twice", min(_BASE + offset, len(self._data)), path)
        self._seen.add(offset)

    def _cell(
        self, offset: int, signatures: tuple[bytes, ...], what: str, key: str
    ) -> tuple[int, memoryview]:
        """Where the content of the cell at `offset` (from the first bin) begins in the file, and it. The
        signature is checked where there is one."""
        start = _BASE + offset
        index = bisect_right(self._bins, start) - 1
        if index < 0 or start < self._bins[index] + _BIN_HEADER or start + 4 > self._bin_ends[index]:
            _fail(f"{what}: offset {offset} is in no bin", min(start, len(self._data)), key)
        (size,) = struct.unpack_from("<i", self._data, start)
        if size >= 0:
            _fail(f"{what}: its cell is not in use", start, key)
        if -size < 8 or start - size > self._bin_ends[index]:
            _fail(f"{what}: a cell of {-size} bytes does not fit its bin", start, key)
        content = self._view[start + 4 : start - size]
        if signatures and bytes(content[:2]) not in signatures:
            expected = " or ".join(entry.decode() for entry in signatures)
            _fail(f"{what}: a cell “{expected}” expected", start + 4, key)
        return start + 4, content

    def _key(self, offset: int, parent: str, depth: int) -> _Key:
        self._once(offset, "key", parent)
        start, content = self._cell(offset, (b"nk",), "key", parent)
        if depth > MAXIMUM_DEPTH:
            _fail(f"keys stand more than {MAXIMUM_DEPTH} deep", start, parent)
        if len(content) < _KEY_CELL.size:
            _fail("a key cell is too short", start, parent)
        (_, flags, _time, _access, _parent, count, _volatile, subkeys, _volatile_list, value_count, values,
         _security, _class, _sizes, name_size, _class_size) = _KEY_CELL.unpack_from(content)  # fmt: skip
        name = self._name(content[_KEY_CELL.size :], name_size, bool(flags & _COMPRESSED_KEY), start, parent)
        if "\\" in name or len(name) > MAXIMUM_KEY_NAME:
            _fail(f"a key is called “{shown(name)}”", start, parent)
        if count > MAXIMUM_KEYS or value_count > MAXIMUM_VALUES:
            _fail(f"{count} subkeys and {value_count} values in key “{shown(name)}”", start, parent)
        return _Key(start, parent, name or "root", depth, count, subkeys, value_count, values)

    def _name(self, rest: memoryview, size: int, compressed: bool, start: int, path: str) -> str:
        if size > len(rest):
            _fail("a name is longer than its cell", start, path)
        self._spend(size, start, path)
        raw = bytes(rest[:size])
        return raw.decode("latin-1") if compressed else raw.decode("utf-16-le", errors="replace")

    def _subkeys(self, key: _Key) -> Iterator[int]:
        """Offsets of the subkeys' cells."""
        if not key.subkey_count:
            return
        found = 0
        for offset in self._subkey_list(key.subkeys, key, nested=True):
            found += 1
            if found > key.subkey_count:
                break
            yield offset
        if found != key.subkey_count:
            _fail(f"{key.subkey_count} subkeys announced, the list holds others", key.offset, key.path)

    def _subkey_list(self, offset: int, key: _Key, *, nested: bool) -> Iterator[int]:
        kinds = (b"lf", b"lh", b"li", b"ri") if nested else (b"lf", b"lh", b"li")
        start, content = self._cell(offset, kinds, "list of subkeys", key.path)
        (count,) = struct.unpack_from("<H", content, 2)
        width = 8 if bytes(content[:2]) in (b"lf", b"lh") else 4
        if 4 + count * width > len(content):
            _fail(f"{count} subkeys do not fit their list", start, key.path)
        for position in range(4, 4 + count * width, width):
            (entry,) = struct.unpack_from("<I", content, position)
            if bytes(content[:2]) == b"ri":
                yield from self._subkey_list(entry, key, nested=False)
            else:
                yield entry

    def policy_keys(self) -> Iterator[RegistryKey]:
        """Keys that are IPsec objects, and the keys that hold them or could."""
        pending = [self._key(self._root, "", 0)]
        while pending:
            key = pending.pop()
            path = key.path
            self._spend(len(path), key.offset, path)
            children = [self._key(offset, path, key.depth + 1) for offset in self._subkeys(key)]
            if len(self._seen) > 2 * MAXIMUM_KEYS:
                _fail(f"more than {MAXIMUM_KEYS} keys", key.offset, path)
            pending += reversed(children)  # so that they come in their order
            holds_objects = any(Reference.named(child.name) for child in children)
            is_place = "\\ipsec\\policy\\" in f"\\{path}\\".casefold()
            if holds_objects or is_place or key.depth == 0 or Reference.named(key.name):
                yield RegistryKey(path, self._values(key), f"offset {key.offset}")

    def _values(self, key: _Key) -> dict[str, RegistryValue]:
        if not key.value_count:
            return {}
        self._once(key.values, "list of values", key.path)
        start, content = self._cell(key.values, (), "list of values", key.path)
        if 4 * key.value_count > len(content):
            _fail(f"{key.value_count} values do not fit their list", start, key.path)
        values = {}
        for (offset,) in struct.iter_unpack("<I", content[: 4 * key.value_count]):
            name, value = self._value(offset, key.path)
            if name.casefold() in values:
                _fail(f"value “{shown(name)}” stands twice", start, key.path)
            values[name.casefold()] = value
        return values

    def _value(self, offset: int, path: str) -> tuple[str, RegistryValue]:
        self._once(offset, "value", path)
        start, content = self._cell(offset, (b"vk",), "value", path)
        if len(content) < _VALUE_CELL.size:
            _fail("a value cell is too short", start, path)
        _, name_size, size, data_offset, kind, flags, _spare = _VALUE_CELL.unpack_from(content)
        name = self._name(
            content[_VALUE_CELL.size :], name_size, bool(flags & _COMPRESSED_VALUE), start, path
        )
        if size & _INLINE:
            size &= ~_INLINE
            if size > 4:
                _fail(f"value “{shown(name)}”: {size} bytes cannot stand inside", start, path)
            return name, RegistryValue(kind, bytes(content[8 : 8 + size]))
        self._spend(size, start, path)
        return name, RegistryValue(kind, self._value_data(data_offset, size, name, path))

    def _value_data(self, offset: int, size: int, name: str, path: str) -> bytes:
        if not size:
            return b""
        what = f"data of value “{shown(name)}”"
        start, content = self._cell(offset, (), what, path)
        if len(content) >= size:
            return bytes(content[:size])
        if bytes(content[:2]) != b"db" or size <= _SEGMENT or len(content) < 8:
            _fail(f"{what}: {size} bytes expected, {len(content)} there", start, path)
        count, list_offset = struct.unpack_from("<HI", content, 2)
        list_start, entries = self._cell(list_offset, (), f"{what}: list of segments", path)
        if 4 * count > len(entries) or count != -(-size // _SEGMENT):
            _fail(f"{what}: {count} segments", list_start, path)
        parts = []
        for (segment,) in struct.iter_unpack("<I", entries[: 4 * count]):
            wanted = min(_SEGMENT, size)
            segment_start, part = self._cell(segment, (), f"{what}: segment", path)
            if len(part) < wanted:
                _fail(f"{what}: a segment of {wanted} bytes expected, {len(part)} there", segment_start, path)
            parts.append(bytes(part[:wanted]))
            size -= wanted
        return b"".join(parts)
