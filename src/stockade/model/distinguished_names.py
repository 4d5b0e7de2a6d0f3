"""X.500 names in DER (X.690, RFC 5280 §4.1.2.4) read as text: the identity of a peer with a certificate, and
the CA of a rule as Vista and later store it.

    Name ::= SEQUENCE OF SET OF SEQUENCE { type OBJECT IDENTIFIER, value string }

The text has the parts in their encoded order, as Windows writes them: `C=US, O=Example, CN=Example Root`.
Reading only; whatever is not exactly such a name gives None. Nothing is verified: this is for showing and
comparing names."""

from functools import lru_cache

KEYWORDS = {
    "2.5.4.3": "CN",
    "2.5.4.4": "SN",
    "2.5.4.5": "SERIALNUMBER",
    "2.5.4.6": "C",
    "2.5.4.7": "L",
    "2.5.4.8": "S",
    "2.5.4.9": "STREET",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
    "2.5.4.12": "T",
    "2.5.4.42": "G",
    "1.2.840.113549.1.9.1": "E",
    "0.9.2342.19200300.100.1.25": "DC",
}
"""Object identifier -> the keyword that Windows writes."""
_SEQUENCE, _SET, _OBJECT_IDENTIFIER = 0x30, 0x31, 0x06
_STRINGS = {
    12: "utf-8",
    18: "ascii",
    19: "ascii",
    20: "latin-1",
    22: "ascii",
    26: "ascii",
    28: "utf-32-be",
    30: "utf-16-be",
}
_MAXIMUM_SIZE = 8_192
_MUST_QUOTE = set(',+="<>#;')


def is_der(data: bytes) -> bool:
    """Whether the bytes are exactly one DER sequence, so that they are no text."""
    try:
        tag, _, rest = _element(data)
    except ValueError:
        return False
    return tag == _SEQUENCE and not rest


def name_text(der: bytes) -> str | None:
    """The name as text, or None where the bytes are no name (or an empty one)."""
    if len(der) > _MAXIMUM_SIZE:
        return None
    return _remembered(der) if len(der) <= _REMEMBERED_SIZE else _text(der)


def _text(der: bytes) -> str | None:
    try:
        parts = [
            "+".join(_attribute(pair) for pair in _items(part, _SEQUENCE))
            for part in _items(_only(der, _SEQUENCE), _SET)
        ]
    except ValueError:
        return None
    return ", ".join(parts) or None


# The same peers come again, and each handshake names its peer some times. Bounded in number and size.
_REMEMBERED_SIZE = 512
_remembered = lru_cache(maxsize=256)(_text)


def _items(data: bytes, tag: int) -> list[bytes]:
    """The contents of the elements that follow each other in `data`, all of one tag."""
    found = []
    while data:
        actual, content, data = _element(data)
        if actual != tag:
            raise ValueError("another element")
        found.append(content)
    return found


def _only(data: bytes, tag: int) -> bytes:
    found = _items(data, tag)
    if len(found) != 1:
        raise ValueError("one element expected")
    return found[0]


def _element(data: bytes) -> tuple[int, bytes, bytes]:
    """Tag, content and what follows of the first element. Only definite lengths exist in DER."""
    if len(data) < 2:
        raise ValueError("short")
    tag, size, start = data[0], data[1], 2
    if size >= 0x80:
        width = size & 0x7F
        if not 1 <= width <= 2 or len(data) < 2 + width:
            raise ValueError("length")
        size = int.from_bytes(data[2 : 2 + width], "big")
        start = 2 + width
    if len(data) < start + size:
        raise ValueError("short")
    return tag, data[start : start + size], data[start + size :]


def _attribute(pair: bytes) -> str:
    tag, identifier, rest = _element(pair)
    value_tag, value, after = _element(rest)
    if tag != _OBJECT_IDENTIFIER or after or value_tag not in _STRINGS:
        raise ValueError("no attribute")
    number = _object_identifier(identifier)
    text = value.decode(_STRINGS[value_tag])  # UnicodeDecodeError is a ValueError
    if not text.isprintable():
        raise ValueError(
            "a name that shows other than it is"
        )  # such as a NUL, behind which a C program is blind
    if _MUST_QUOTE & set(text) or text != text.strip():
        text = '"' + text.replace('"', '""') + '"'
    return f"{KEYWORDS.get(number, 'OID.' + number)}={text}"


def _object_identifier(content: bytes) -> str:
    if not 1 <= len(content) <= 32 or content[-1] & 0x80:
        raise ValueError("object identifier")
    numbers: list[int] = []
    value = 0
    for octet in content:
        value = value << 7 | octet & 0x7F
        if not octet & 0x80:
            numbers.append(value)
            value = 0
    first = min(numbers[0] // 40, 2)
    return ".".join(str(number) for number in (first, numbers[0] - 40 * first, *numbers[1:]))
