"""Policy objects as a directory or a registry holds them ([MS-GPIPSEC] §2.2.1), whichever file they came in.

    ipsecPolicy ─ 1 ipsecISAKMPPolicy
        └ n ipsecNFA ─ 1 ipsecNegotiationPolicy
              └ n ipsecFilter            (none for the default response rule)

Each object is named `<class>{GUID}`; references name others so, as a DN or as a registry path. Which policy
is assigned stands beside them: the value `ActivePolicy` in a registry, a pointer object in a directory.

`convert` makes a `PolicySet` of an `ObjectSet`, `produce` the other way round; `ldif`, `reg`, `hive` read
files into one."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from uuid import UUID

from stockade.model.reasons import Reason, ReasonCode, StockadeError, error_for
from stockade.store.formats.ipsec_data import (
    FilterListData,
    IpsecData,
    IsakmpData,
    NegotiationData,
    NfaData,
    PolicyData,
)
from stockade.store.formats.problems import Problems, shown

MAXIMUM_OBJECTS = 50_000
MAXIMUM_REFERENCES = 50_000  # of one object
DATA_TYPE = 256  # what the specification has; directories made by Windows 2000 hold 598

STANDARD_TYPE = UUID("62f49e10-6c37-11d1-864c-14a300000000")
DEFAULT_RESPONSE_TYPE = UUID("62f49e13-6c37-11d1-864c-14a300000000")

ACTION_BLOCK = UUID("3f91a819-7647-11d1-864d-d46a00000000")
ACTION_PERMIT = UUID("8a171dd2-77e3-11d1-8659-a04f00000000")
ACTION_NEGOTIATE = UUID("8a171dd3-77e3-11d1-8659-a04f00000000")
ACTION_NEGOTIATE_INBOUND_PASS = UUID("3f91a81a-7647-11d1-864d-d46a00000000")


class ObjectClass(StrEnum):
    """The five classes. Their names compare case-insensitively."""

    POLICY = "ipsecPolicy"
    ISAKMP_POLICY = "ipsecISAKMPPolicy"
    NFA = "ipsecNFA"
    NEGOTIATION_POLICY = "ipsecNegotiationPolicy"
    FILTER = "ipsecFilter"


_CLASSES = {member.value.casefold(): member for member in ObjectClass}
_DATA: Mapping[ObjectClass, type[IpsecData]] = {
    ObjectClass.POLICY: PolicyData,
    ObjectClass.ISAKMP_POLICY: IsakmpData,
    ObjectClass.NFA: NfaData,
    ObjectClass.NEGOTIATION_POLICY: NegotiationData,
    ObjectClass.FILTER: FilterListData,
}
_GUID = r"\{[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\}"
_NAME = re.compile(rf"(ipsec[a-z]{{1,24}})({_GUID})", re.IGNORECASE)
_BARE_GUID = re.compile(_GUID, re.IGNORECASE)


def guid_text(guid: UUID) -> str:
    """`{72385230-70FA-11D1-864C-14A300000000}`, as Windows writes it."""
    return f"{{{str(guid).upper()}}}"


@dataclass(frozen=True, slots=True, order=True)
class Reference:
    """The name of an object: class and GUID."""

    object_class: ObjectClass
    guid: UUID

    def __str__(self) -> str:
        return f"{self.object_class.value}{guid_text(self.guid)}"

    @classmethod
    def named(cls, name: str) -> "Reference | None":
        """From `<class>{GUID}`, else None."""
        match = _NAME.fullmatch(name)
        object_class = _CLASSES.get(match[1].casefold()) if match else None
        return cls(object_class, UUID(match[2])) if match and object_class else None

    @classmethod
    def parse(cls, text: str) -> "Reference | None":
        r"""From a DN (`CN=ipsecNFA{…},CN=IP Security,…`), a registry path (`SOFTWARE\…\ipsecNFA{…}`) or the
        name alone, else None."""
        last = text.rpartition("\\")[2].strip()
        first = last.partition(",")[0].strip()
        return cls.named(first[3:] if first[:3].casefold() == "cn=" else first)


@dataclass(frozen=True, slots=True)
class IpsecObject:
    """One object. `data` is ipsecData as bytes; it can hold a pre-shared key in clear, so it is not shown.
    `place` says where in its file it stands (for reasons only)."""

    object_class: ObjectClass
    guid: UUID
    name: str = ""
    description: str = ""
    data: bytes = field(default=b"", repr=False)
    data_type: int = DATA_TYPE
    changed: datetime | None = None
    owners: tuple[Reference, ...] = ()
    isakmp_policy: Reference | None = None
    rules: tuple[Reference, ...] = ()
    negotiation_policy: Reference | None = None
    filters: tuple[Reference, ...] = ()
    negotiation_type: UUID | None = None
    negotiation_action: UUID | None = None
    place: str = field(default="", compare=False)

    @property
    def reference(self) -> Reference:
        return Reference(self.object_class, self.guid)

    @property
    def label(self) -> str:
        """How reasons name it."""
        text = f"“{shown(self.name)}” {self.reference}" if self.name else str(self.reference)
        return f"{text}, {self.place}" if self.place else text

    @property
    def line(self) -> int:
        """The line of its file where it begins, 0 where the file has no lines."""
        match = re.fullmatch(r"line ([0-9]{1,9})", self.place)
        return int(match[1]) if match else 0

    @property
    def forward(self) -> tuple[Reference, ...]:
        """What it refers to, except its owners (those are back-links)."""
        single = tuple(entry for entry in (self.isakmp_policy, self.negotiation_policy) if entry)
        return (*single, *self.rules, *self.filters)

    def decoded(self) -> IpsecData:
        """ipsecData as fields (CallerError INVALID_FILE)."""
        return _DATA[self.object_class].decode(self.data, self.label)


@dataclass(frozen=True, slots=True)
class ObjectSet:
    """The objects of one file or store. `active`: the GUID of the assigned policy. `problems`: what could
    not be read on the way here."""

    objects: tuple[IpsecObject, ...] = ()
    active: UUID | None = None
    problems: tuple[Reason, ...] = ()

    def of_class(self, object_class: ObjectClass) -> Iterator[IpsecObject]:
        return (entry for entry in self.objects if entry.object_class is object_class)


AttributeValue = str | bytes | int | datetime


@dataclass(frozen=True, slots=True)
class RawObject:
    """Attributes as a file has them, before anything is believed. Names are case-folded; each has one or
    more values."""

    name: str
    attributes: Mapping[str, tuple[AttributeValue, ...]]
    place: str

    def _fail(self, attribute: str, detail: str) -> StockadeError:
        return error_for(
            ReasonCode.INVALID_FILE, detail, object=f"{shown(self.name)}, {self.place}", attribute=attribute
        )

    def one(self, attribute: str) -> AttributeValue | None:
        values = self.attributes.get(attribute.casefold(), ())
        if len(values) > 1:
            raise self._fail(attribute, f"{len(values)} values, one expected")
        return values[0] if values else None

    def text(self, attribute: str) -> str:
        value = self.one(attribute)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self._fail(attribute, "text expected")
        return value

    def octets(self, attribute: str) -> bytes:
        value = self.one(attribute)
        if not isinstance(value, bytes):
            raise self._fail(attribute, "it is missing" if value is None else "binary data expected")
        return value

    def number(self, attribute: str, default: int) -> int:
        value = self.one(attribute)
        if value is None:
            return default
        if isinstance(value, int):
            return value
        if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,10}", value):
            return int(value)
        raise self._fail(attribute, "a number expected")

    def guid(self, attribute: str) -> UUID | None:
        text = self.text(attribute).strip()
        if not text:
            return None
        if not _BARE_GUID.fullmatch(text):
            raise self._fail(attribute, f"a GUID in braces expected, not “{shown(text)}”")
        return UUID(text)

    def references(self, attribute: str, *, lenient: bool = False) -> tuple[Reference, ...]:
        """The objects that are named, each once. `lenient` passes over what names none."""
        found: dict[Reference, None] = {}
        values = self.attributes.get(attribute.casefold(), ())
        if len(values) > MAXIMUM_REFERENCES:
            raise self._fail(attribute, f"more than {MAXIMUM_REFERENCES} references")
        for value in values:
            reference = Reference.parse(value) if isinstance(value, str) else None
            if reference is None and lenient:
                continue
            if reference is None:
                raise self._fail(attribute, f"“{shown(str(value))}” names no IPsec object")
            found[reference] = None
        return tuple(found)

    def reference(self, attribute: str) -> Reference | None:
        found = self.references(attribute)
        if len(found) > 1:
            raise self._fail(attribute, f"{len(found)} references, one expected")
        return found[0] if found else None

    def changed(self) -> datetime | None:
        value = self.one("whenChanged")
        if value is None:
            return None
        if isinstance(value, int):  # a registry: Unix time in 32 bits
            return datetime.fromtimestamp(value, UTC) if 0 <= value < 1 << 32 else None
        if isinstance(value, str):
            match = re.fullmatch(r"([0-9]{14})(?:[.,][0-9]{1,9})?Z", value)
            try:
                return datetime.strptime(match[1], "%Y%m%d%H%M%S").replace(tzinfo=UTC) if match else None
            except ValueError:
                return None
        return None


def build_object(raw: RawObject, problems: Problems) -> IpsecObject:
    """An object of its attributes. CallerError INVALID_FILE names the attribute that does not fit."""
    identity = Reference.named(raw.name)
    if identity is None:
        raise error_for(
            ReasonCode.INVALID_FILE, "its name is not <class>{GUID}", object=f"{shown(raw.name)}, {raw.place}"
        )
    own_guid = raw.guid("ipsecID")
    if own_guid is not None and own_guid != identity.guid:
        problems.note(
            f"ipsecID {guid_text(own_guid)} is not the GUID of its name; the name counts",
            f"{identity}, {raw.place}",
        )
    return IpsecObject(
        identity.object_class,
        identity.guid,
        raw.text("ipsecName"),
        raw.text("description"),
        raw.octets("ipsecData"),
        raw.number("ipsecDataType", DATA_TYPE),
        raw.changed(),
        raw.references("ipsecOwnersReference", lenient=True),  # back-links: nothing depends on them
        raw.reference("ipsecISAKMPReference"),
        raw.references("ipsecNFAReference"),
        raw.reference("ipsecNegotiationPolicyReference"),
        raw.references("ipsecFilterReference"),
        raw.guid("ipsecNegotiationPolicyType"),
        raw.guid("ipsecNegotiationPolicyAction"),
        raw.place,
    )


def build_objects(raws: Iterable[RawObject], problems: Problems) -> tuple[IpsecObject, ...]:
    """All objects that can be read; the others become problems. Two of one name: neither is believed, for
    nothing says which one counts."""
    found: dict[Reference, IpsecObject] = {}
    twice: set[Reference] = set()
    for number, raw in enumerate(raws):
        if number >= MAXIMUM_OBJECTS:
            raise error_for(ReasonCode.INVALID_FILE, f"more than {MAXIMUM_OBJECTS} objects")
        try:
            entry = build_object(raw, problems)
        except StockadeError as error:
            problems.add(error.reason)
            continue
        if entry.reference in found:
            twice.add(entry.reference)
            problems.loss(ReasonCode.INVALID_FILE, "an object of this name stands twice", entry.label)
            continue
        found[entry.reference] = entry
    return tuple(entry for reference, entry in found.items() if reference not in twice)


def cycles(objects: Iterable[IpsecObject]) -> list[tuple[Reference, ...]]:
    """Chains of forward references that come back to their beginning, each once (at most 100)."""
    graph = {entry.reference: entry.forward for entry in objects}
    done: set[Reference] = set()
    found: list[tuple[Reference, ...]] = []
    for start in graph:
        if start in done:
            continue
        path: dict[Reference, Iterator[Reference]] = {start: iter(graph[start])}
        while path:
            current = next(reversed(path))
            following = next(path[current], None)
            if following is None:
                done.add(current)
                del path[current]
            elif following in path:
                chain = list(path)
                found.append((*chain[chain.index(following) :], following))
                if len(found) == 100:
                    return found
            elif following in graph and following not in done:
                path[following] = iter(graph[following])
    return found
