r"""`.reg` files, as regedit writes them, ⇄ registry keys.

    Windows Registry Editor Version 5.00        UTF-16LE with BOM, or UTF-8; strings in hex are UTF-16
    REGEDIT4                                    one byte per character; strings in hex too

    [HKEY_LOCAL_MACHINE\SOFTWARE\Policies\Microsoft\Windows\IPSec\Policy\Local\ipsecNFA{…}]
    "ipsecName"="text, with \\ and \" escaped"
    "ipsecDataType"=dword:00000100
    "ipsecData"=hex:00,ac,bb,\
      11,8d
    "ipsecFilterReference"=hex(7):53,00,…

Lines that delete (`[-key]`, `"name"=-`) are refused: what a file adds up to then depends on a registry that
we do not see."""

import re
from collections.abc import Iterable
from typing import NoReturn

from stockade.model.reasons import ReasonCode, error_for
from stockade.store.formats.objects import ObjectSet
from stockade.store.formats.problems import shown
from stockade.store.formats.registry import (
    REG_BINARY,
    REG_DWORD,
    REG_EXPAND_SZ,
    REG_MULTI_SZ,
    REG_SZ,
    RegistryKey,
    RegistryValue,
    keys_from_objects,
    objects_from_keys,
)

HEADER_5 = "Windows Registry Editor Version 5.00"
HEADER_4 = "REGEDIT4"
MAXIMUM_KEYS = 200_000
MAXIMUM_VALUES = 1_000  # of one key
_STRINGS = (REG_SZ, REG_EXPAND_SZ, REG_MULTI_SZ)

# One look at a time, each anchored where the last one ended, and possessive: no backtracking, so time and
# memory are linear in the text.
_SKIPPED = re.compile(r"(?:[ \t\r\n]++|;[^\n]*+)++")
_KEY = re.compile(r"\[([^\r\n]*)\][ \t]*+(?=[\r\n]|\Z)")
_NAME = re.compile(r'(?:"((?:[^"\\\r\n]++|\\.)*+)"|(@))[ \t]*+=[ \t]*+')
_TEXT = re.compile(r'"((?:[^"\\]++|\\.)*+)"', re.DOTALL)  # a text can hold line breaks
_DWORD = re.compile(r"dword:[ \t]*+([0-9a-f]{1,8})(?![0-9a-z])", re.IGNORECASE)
_HEX = re.compile(r"hex(?:\(([0-9a-f]{1,8})\))?:", re.IGNORECASE)
_OCTETS = re.compile(r"(?:[0-9a-fA-F,]++|[ \t]++|\\[ \t]*+\r?\n)*+")
_PAIRS = re.compile(r"(?:[0-9a-fA-F]{2},)*+(?:[0-9a-fA-F]{2})?+")
_LINE_END = re.compile(r"[ \t]*+(?:;[^\n]*+)?+(?=[\r\n]|\Z)")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


def read_reg(text: str) -> ObjectSet:
    """The IPsec objects of a `.reg` text. CallerError INVALID_FILE with the line."""
    return objects_from_keys(parse_reg(text))


def parse_reg(text: str) -> list[RegistryKey]:
    """Its keys, in order; a key that comes twice is one key (later values win, as in regedit)."""
    return _Parser(text).keys()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0
        self._wide = True
        self._counted = (0, 1)  # a position, and its line

    def _line(self, position: int) -> int:
        """The line of a position; asked in ascending order it costs one pass over the text."""
        start, line = self._counted if self._counted[0] <= position else (0, 1)
        line += self._text.count("\n", start, position)
        self._counted = (position, line)
        return line

    def _fail(self, detail: str, position: int | None = None) -> NoReturn:
        at = self._position if position is None else position
        raise error_for(ReasonCode.INVALID_FILE, detail, line=self._line(at), offset=at)

    def _matched(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        match = pattern.match(self._text, self._position)
        if match is not None:
            self._position = match.end()
        return match

    def keys(self) -> list[RegistryKey]:
        self._matched(_SKIPPED)
        header = self._text[self._position :].partition("\n")[0].strip()
        if header not in (HEADER_4, HEADER_5):
            self._fail(f"“{HEADER_5}” or “{HEADER_4}” expected")
        self._wide = header == HEADER_5
        self._position += len(header)
        found: dict[str, tuple[str, dict[str, RegistryValue], str]] = {}
        values: dict[str, RegistryValue] | None = None
        while self._skip_to_next():
            if self._text[self._position] == "[":
                values = self._key(found)
            elif values is None:
                self._fail("a [key] expected before the first value")
            else:
                name, value = self._value()
                values[name.casefold()] = value
                if len(values) > MAXIMUM_VALUES:
                    self._fail(f"more than {MAXIMUM_VALUES} values in one key")
        return [RegistryKey(path, entries, place) for path, entries, place in found.values()]

    def _skip_to_next(self) -> bool:
        self._matched(_SKIPPED)
        return self._position < len(self._text)

    def _key(self, found: dict[str, tuple[str, dict[str, RegistryValue], str]]) -> dict[str, RegistryValue]:
        start = self._position
        match = self._matched(_KEY)
        if match is None:
            self._fail("[key] expected on a line of its own")
        path = match[1].rstrip("\\")
        if path.startswith("-"):
            self._fail("a key is deleted here; export the policy key as it is", start)
        if len(found) >= MAXIMUM_KEYS:
            self._fail(f"more than {MAXIMUM_KEYS} keys")
        return found.setdefault(path.casefold(), (path, {}, f"line {self._line(start)}"))[1]

    def _value(self) -> tuple[str, RegistryValue]:
        match = self._matched(_NAME)
        if match is None:
            self._fail('"name"=value or @=value expected')
        name = "" if match[2] else _ESCAPE.sub(r"\1", match[1])
        value = self._data(name)
        if self._matched(_LINE_END) is None:
            self._fail(f"the end of the line expected after the value of “{shown(name)}”")
        return name, value

    def _data(self, name: str) -> RegistryValue:
        if text := self._matched(_TEXT):
            content = _ESCAPE.sub(r"\1", text[1])
            return RegistryValue(REG_SZ, content.encode("utf-16-le", errors="replace") + b"\0\0")
        if number := self._matched(_DWORD):
            return RegistryValue(REG_DWORD, int(number[1], 16).to_bytes(4, "little"))
        if kind := self._matched(_HEX):
            return self._octets(REG_BINARY if kind[1] is None else int(kind[1], 16), name)
        if self._text.startswith("-", self._position):
            self._fail(f"value “{shown(name)}” is deleted here; export the policy key as it is")
        return self._fail(f'value “{shown(name)}”: "text", dword: or hex: expected')

    def _octets(self, kind: int, name: str) -> RegistryValue:
        start = self._position
        match = self._matched(_OCTETS)
        digits = re.sub(r"[ \t\r\n\\]++", "", match[0]) if match else ""
        if not _PAIRS.fullmatch(digits):
            self._fail(f"value “{shown(name)}”: octets of two digits such as 0a,ff expected", start)
        data = bytes.fromhex(digits.replace(",", ""))
        if kind in _STRINGS and not self._wide:
            # before version 5 strings are in the code page of that machine, which the file does not name
            data = data.decode("cp1252", errors="replace").encode("utf-16-le")
        return RegistryValue(kind, data)


def write_reg(objects: ObjectSet, root: str | None = None) -> str:
    """The text of a version 5 file (lines end in CR LF); `encode_reg` makes the bytes that regedit wants."""
    return format_reg(keys_from_objects(objects) if root is None else keys_from_objects(objects, root))


def encode_reg(text: str) -> bytes:
    """UTF-16LE with a byte order mark, as regedit writes it."""
    return b"\xff\xfe" + text.encode("utf-16-le")


def format_reg(keys: Iterable[RegistryKey]) -> str:
    """Keys as the text of a version 5 file."""
    lines = [HEADER_5, ""]
    for key in keys:
        lines.append(f"[{key.path}]")
        lines += [_line(name, value) for name, value in key.values.items()]
        lines.append("")
    return "\r\n".join((*lines, ""))


def _line(name: str, value: RegistryValue) -> str:
    head = f'"{_escaped(name)}"='
    if value.type == REG_DWORD and len(value.data) == 4:
        return f"{head}dword:{int.from_bytes(value.data, 'little'):08x}"
    if value.type == REG_SZ:
        text = value.strings()[0]
        plain = text.isprintable() and RegistryValue.text(text).data == value.data
        if plain:
            return f'{head}"{_escaped(text)}"'
    head += "hex:" if value.type == REG_BINARY else f"hex({value.type:x}):"
    return _folded(head, value.data)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _folded(head: str, data: bytes) -> str:
    """The octets in lines of at most 80 characters, as regedit folds them."""
    lines = []
    line = head
    for position, octet in enumerate(data):
        piece = f"{octet:02x}" + ("," if position + 1 < len(data) else "")
        if len(line) + len(piece) > 79:
            lines.append(line + "\\")
            line = "  "
        line += piece
    return "\r\n".join((*lines, line))
