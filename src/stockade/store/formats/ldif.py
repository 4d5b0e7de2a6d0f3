"""LDIF (RFC 2849): what `ldbsearch`, `ldapsearch` and `ldifde` print of `CN=IP Security,CN=System`.

Read are content records: `attribute: text`, `attribute:: base64`, folded lines, comments. `attribute:< url`
is refused: an import reads no other file. A record with `changetype: add` is taken as content; other changes
are refused, for their outcome depends on a directory that we do not see.

The pointer object of a group policy (`CN=IPSEC,CN=Windows,…`, class ipsecPolicy, whose owner reference is the
policy that it assigns) says which policy is assigned."""

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from stockade.model.reasons import ReasonCode, StockadeError, error_for
from stockade.store.formats.objects import (
    AttributeValue,
    ObjectClass,
    ObjectSet,
    RawObject,
    Reference,
    build_objects,
)
from stockade.store.formats.problems import Problems, shown

MAXIMUM_RECORDS = 200_000
_ATTRIBUTE = re.compile(r"([A-Za-z][A-Za-z0-9.\-]{0,63})(?:;[A-Za-z0-9.;\-]{1,100})?:(.*)", re.DOTALL)
_BINARY = frozenset({"ipsecdata", "objectguid", "objectsid"})
_SEARCH_END = frozenset({"search", "result", "ref"})
_POINTER = re.compile(r"cn=ipsec,cn=windows,cn=microsoft,cn=machine,cn=\{", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Record:
    line: int
    dn: str
    attributes: dict[str, tuple[AttributeValue, ...]]


def _error(line: int, detail: str) -> StockadeError:
    return error_for(ReasonCode.INVALID_FILE, detail, line=line)


def read_ldif(text: str) -> ObjectSet:
    """The IPsec objects of an LDIF text. CallerError INVALID_FILE with the line where it is no LDIF, or holds
    no IPsec object."""
    problems = Problems()
    raws: list[RawObject] = []
    pointed: dict[UUID, None] = {}
    for record in _records(text):
        classes = {value.casefold() for value in _texts(record, "objectclass")}
        if not any(entry.value.casefold() in classes for entry in ObjectClass):
            continue
        if _POINTER.match(record.dn):
            for value in _texts(record, "ipsecownersreference"):
                reference = Reference.parse(value)
                if reference is None or reference.object_class is not ObjectClass.POLICY:
                    problems.loss(
                        ReasonCode.INVALID_FILE, "it assigns what is no policy", f"line {record.line}"
                    )
                else:
                    pointed[reference.guid] = None
            continue
        name = record.dn.partition(",")[0]
        raws.append(
            RawObject(
                name[3:] if name[:3].casefold() == "cn=" else name,
                record.attributes,
                f"line {record.line}",
            )
        )
    if not raws and not pointed:
        raise error_for(
            ReasonCode.INVALID_FILE, "it holds no IPsec objects: classes such as ipsecPolicy expected"
        )
    if len(pointed) > 1:
        problems.note(
            f"group policies assign {len(pointed)} different policies; none is assigned here", "file"
        )
    active = next(iter(pointed)) if len(pointed) == 1 else None
    return ObjectSet(build_objects(raws, problems), active, problems.reasons())


def _texts(record: _Record, name: str) -> Iterator[str]:
    return (value for value in record.attributes.get(name, ()) if isinstance(value, str))


def _records(text: str) -> Iterator[_Record]:
    start, count = 0, 0
    attributes: dict[str, list[AttributeValue]] = {}
    dn: str | None = None
    skipping = False
    for number, line in _logical_lines(text):
        if line:
            name, value = _attribute(number, line)
            if dn is None:
                if name == "version" and not count and not attributes:
                    if value != "1":
                        raise _error(number, f"LDIF version {shown(str(value))}; 1 expected")
                    continue
                if name in _SEARCH_END:
                    skipping = True  # what ldapsearch says after the records, and referrals between them
                if skipping:
                    continue
                if name != "dn" or not isinstance(value, str):
                    raise _error(number, f"a record begins with dn:, not with {shown(name)}:")
                dn, start = value, number
                continue
            if name == "changetype" and value != "add":
                raise _error(number, "a change record; export the objects themselves")
            if name != "changetype":
                attributes.setdefault(name, []).append(value)
            continue
        if dn is not None:
            count += 1
            if count > MAXIMUM_RECORDS:
                raise _error(number, f"more than {MAXIMUM_RECORDS} records")
            yield _Record(start, dn, {key: tuple(values) for key, values in attributes.items()})
        dn, attributes, skipping = None, {}, False


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Unfolded lines with the number of their first physical line; "" parts records, and ends the last one.
    Comments are left out."""
    pending: list[str] = []
    start = 0
    for number, raw in enumerate(_physical_lines(text), 1):
        if raw.startswith(" "):
            if not pending:
                raise _error(number, "a folded line without a line before it")
            pending.append(raw[1:])
            continue
        if pending:
            line = "".join(pending)
            if not line.startswith("#"):
                yield start, line
        pending = [raw] if raw else []
        start = number
        if not raw:
            yield number, ""
    if pending and not pending[0].startswith("#"):
        yield start, "".join(pending)
    yield start, ""


def _physical_lines(text: str) -> Iterator[str]:
    position = 0
    while position < len(text):
        end = text.find("\n", position)
        end = len(text) if end < 0 else end
        yield text[position:end].removesuffix("\r")
        position = end + 1


def _attribute(number: int, line: str) -> tuple[str, AttributeValue]:
    match = _ATTRIBUTE.fullmatch(line)
    if match is None:
        raise _error(number, "attribute: value expected")
    name, value = match[1].casefold(), match[2]
    if value.startswith("<"):
        raise _error(number, f"{name}:< names another file; values must stand in this one")
    if not value.startswith(":"):
        plain = value.lstrip(" ")
        return name, plain.encode("utf-8", errors="surrogateescape") if name in _BINARY else plain
    try:
        data = base64.b64decode(value[1:].strip(), validate=True)
    except (binascii.Error, ValueError):
        raise _error(number, f"{name}: the base64 is damaged") from None
    if name in _BINARY:
        return name, data
    try:
        return name, data.decode("utf-8")
    except UnicodeDecodeError:
        return name, data
