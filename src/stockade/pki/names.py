"""Distinguished names as text: `C=US, O=Example, CN=Example Root`, in either order, compared as people mean.

A rule names its root as text (netsh, Active Directory). Windows writes the parts in their encoded order,
RFC 4514 in reverse; both are taken. Values are compared without case and with blanks folded (RFC 5280 §7.1,
simplified: no Unicode preparation beyond NFKC)."""

import unicodedata

from stockade.model.distinguished_names import KEYWORDS
from stockade.model.reasons import ReasonCode, error_for

Part = tuple[str, str]
"""Keyword (upper case, or a dotted object identifier) and folded value."""

MAXIMUM_LENGTH = 8_192

_ALIASES = {
    "ST": "S",
    "SP": "S",
    "EMAIL": "E",
    "EMAILADDRESS": "E",
    "SURNAME": "SN",
    "GIVENNAME": "G",
    "GN": "G",
    "TITLE": "T",
    "STREETADDRESS": "STREET",
    "COMMONNAME": "CN",
}


def fold(value: str) -> str:
    """A value as it is compared."""
    return " ".join(unicodedata.normalize("NFKC", value).casefold().split())


def parse_name(text: str) -> tuple[Part, ...]:
    """The parts of a name in the order of the text. `CallerError` INVALID_POLICY if it is no name."""
    if len(text) > MAXIMUM_LENGTH:
        raise error_for(ReasonCode.INVALID_POLICY, "the name of a certification authority is too long")
    parts = [_part(piece) for piece in _split(text)]
    if not parts:
        raise error_for(ReasonCode.INVALID_POLICY, "the name of a certification authority is empty")
    return tuple(parts)


def same_name(one: tuple[Part, ...], other: tuple[Part, ...]) -> bool:
    """Whether two names are the same, in the same order or one the other way round."""
    return one in (other, tuple(reversed(other)))


def name_text(parts: tuple[tuple[str, str], ...]) -> str:
    """Parts (keyword, value as encoded) as text that `parse_name` reads."""
    shown = []
    for keyword, value in parts:
        clean = "".join(character if character.isprintable() else "?" for character in value)
        if set(clean) & set(',+="<>#;\\') or clean != clean.strip():
            clean = '"' + clean.replace('"', '""') + '"'
        shown.append(f"{keyword}={clean}")
    return ", ".join(shown)


def _part(piece: str) -> Part:
    keyword, separator, value = piece.partition("=")
    keyword = keyword.strip().upper().removeprefix("OID.")
    if not separator or not keyword:
        raise error_for(ReasonCode.INVALID_POLICY, f"{piece.strip()!r} is no part of a distinguished name")
    keyword = KEYWORDS.get(keyword, keyword)
    return _ALIASES.get(keyword, keyword), fold(_unquote(value.strip()))


def _unquote(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] == '"':
        return value[1:-1].replace('""', '"')
    characters = iter(value)
    return "".join(next(characters, "") if character == "\\" else character for character in characters)


def _split(text: str) -> list[str]:
    """At commas (or semicolons, or the plus of a multi-valued part) outside quotes."""
    pieces, current, quoted, escaped = [], "", False, False
    for character in text:
        if escaped:
            escaped = False
        elif character == "\\" and not quoted:
            escaped = True
        elif character == '"':
            quoted = not quoted
        elif character in ",;+" and not quoted:
            pieces.append(current)
            current = ""
            continue
        current += character
    pieces.append(current)
    return [piece for piece in pieces if piece.strip()]
