r"""Policy objects in a registry: keys and values ⇄ `ObjectSet` (`reg` and `hive` read the files).

    HKEY_LOCAL_MACHINE\SOFTWARE\Policies\Microsoft\Windows\IPSec\Policy\Local
        ActivePolicy = SOFTWARE\Policies\…\Local\ipsecPolicy{GUID}
        ipsecPolicy{GUID}\  className, name, ipsecName, ipsecID, ipsecDataType, ipsecData, whenChanged,
                            description, ipsecISAKMPReference, ipsecNFAReference …
        ipsecNFA{GUID}\ …

Beside `Local` there can be `Persistent`, `Cache` and `Save`; an exported hive has the objects right under its
root. Names of keys and values compare case-insensitively."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from uuid import UUID

from stockade.model.reasons import ReasonCode, error_for
from stockade.store.formats.objects import (
    AttributeValue,
    IpsecObject,
    ObjectClass,
    ObjectSet,
    RawObject,
    Reference,
    build_objects,
    guid_text,
)
from stockade.store.formats.problems import Problems, shown

REG_NONE, REG_SZ, REG_EXPAND_SZ, REG_BINARY, REG_DWORD, REG_MULTI_SZ = 0, 1, 2, 3, 4, 7
LOCAL_KEY = r"SOFTWARE\Policies\Microsoft\Windows\IPSec\Policy\Local"
_PREFERRED = ("local", "save", "persistent", "cache")
_UNIX_LIMIT = 1 << 32


@dataclass(frozen=True, slots=True)
class RegistryValue:
    """A value as the registry holds it. `data` may be a key in clear, so it is not shown."""

    type: int
    data: bytes = field(repr=False)

    @classmethod
    def text(cls, text: str) -> "RegistryValue":
        return cls(REG_SZ, text.encode("utf-16-le") + b"\0\0")

    @classmethod
    def texts(cls, texts: Iterable[str]) -> "RegistryValue":
        return cls(REG_MULTI_SZ, "".join(f"{text}\0" for text in texts).encode("utf-16-le") + b"\0\0")

    @classmethod
    def number(cls, number: int) -> "RegistryValue":
        return cls(REG_DWORD, number.to_bytes(4, "little"))

    def strings(self) -> tuple[str, ...]:
        """The strings of a string value; what is no UTF-16 becomes U+FFFD."""
        parts = self.data.decode("utf-16-le", errors="replace").split("\0")
        return tuple(part for part in parts if part) if self.type == REG_MULTI_SZ else (parts[0],)

    def attributes(self) -> tuple[AttributeValue, ...]:
        """As values of an attribute."""
        if self.type in (REG_SZ, REG_EXPAND_SZ, REG_MULTI_SZ):
            return self.strings()
        if self.type == REG_DWORD and len(self.data) == 4:
            return (int.from_bytes(self.data, "little"),)
        return (self.data,)


@dataclass(frozen=True, slots=True)
class RegistryKey:
    r"""One key: its path (`HKEY_LOCAL_MACHINE\…`, or from the root of a hive), its values by case-folded
    name, and where in the file it stands."""

    path: str
    values: Mapping[str, RegistryValue]
    place: str = ""

    @property
    def name(self) -> str:
        return self.path.rpartition("\\")[2]

    @property
    def parent(self) -> str:
        return self.path.rpartition("\\")[0]


def objects_from_keys(keys: Iterable[RegistryKey]) -> ObjectSet:
    """The objects of one place of a registry. Where `keys` hold several (Local, Persistent, Cache), Local is
    taken and a note names the others. CallerError INVALID_FILE where there are none."""
    problems = Problems()
    places: dict[str, list[RegistryKey]] = {}
    active_values: dict[str, RegistryKey] = {}
    for key in keys:
        if Reference.named(key.name) is not None:
            places.setdefault(key.parent.casefold(), []).append(key)
        elif "activepolicy" in key.values:
            active_values[key.path.casefold()] = key
    if not places:
        if not any(_is_policy_place(path) for path in active_values):
            raise error_for(
                ReasonCode.INVALID_FILE,
                "it holds no IPsec objects: keys such as ipsecPolicy{GUID} under …\\IPSec\\Policy\\Local"
                " expected",
            )
        places = {path: [] for path in active_values}
    chosen = min(places, key=_preference)
    for other in sorted(places):
        if other != chosen:
            problems.note(f"of several places in it only {shown(chosen)} is read", shown(other))
    raws = (
        RawObject(key.name, {name: value.attributes() for name, value in key.values.items()}, key.place)
        for key in places[chosen]
    )
    objects = build_objects(raws, problems)
    active = _active(active_values.get(chosen), problems)
    return ObjectSet(objects, active, problems.reasons())


def _preference(path: str) -> tuple[int, str]:
    name = path.rpartition("\\")[2]
    return (_PREFERRED.index(name) if name in _PREFERRED else len(_PREFERRED), path)


def _is_policy_place(path: str) -> bool:
    return re.search(r"(?:^|\\)ipsec\\policy\\[^\\]+$", path) is not None


def _active(key: RegistryKey | None, problems: Problems) -> UUID | None:
    if key is None:
        return None
    value = key.values["activepolicy"].attributes()
    text = value[0] if len(value) == 1 else None
    if text == "":
        return None
    reference = Reference.parse(text) if isinstance(text, str) else None
    if reference is None or reference.object_class is not ObjectClass.POLICY:
        problems.loss(ReasonCode.INVALID_FILE, "its value ActivePolicy names no policy", shown(key.path))
        return None
    return reference.guid


def keys_from_objects(
    objects: ObjectSet, root: str = "HKEY_LOCAL_MACHINE\\" + LOCAL_KEY
) -> tuple[RegistryKey, ...]:
    """The keys that hold `objects` under the key `root`; references are paths from the hive's root, as
    Windows has them."""
    base = root.partition("\\")[2] if root.casefold().startswith("hkey_") else root
    top: dict[str, RegistryValue] = {}
    if objects.active is not None:
        active = Reference(ObjectClass.POLICY, objects.active)
        top["ActivePolicy"] = RegistryValue.text(f"{base}\\{active}")
    keys = [RegistryKey(root, top)]
    keys += [RegistryKey(f"{root}\\{entry.reference}", _values(entry, base)) for entry in objects.objects]
    return tuple(keys)


def _values(entry: IpsecObject, base: str) -> dict[str, RegistryValue]:
    def path(reference: Reference) -> str:
        return f"{base}\\{reference}"

    values = {
        "className": RegistryValue.text(entry.object_class.value),
        "name": RegistryValue.text(str(entry.reference)),
        "ipsecID": RegistryValue.text(guid_text(entry.guid)),
        "ipsecDataType": RegistryValue.number(entry.data_type & 0xFFFF_FFFF),
        "ipsecData": RegistryValue(REG_BINARY, entry.data),
    }
    for name, text in (("ipsecName", entry.name), ("description", entry.description)):
        if text:
            values[name] = RegistryValue.text(text)
    if entry.changed is not None and 0 <= entry.changed.timestamp() < _UNIX_LIMIT:
        values["whenChanged"] = RegistryValue.number(int(entry.changed.timestamp()))
    for name, references in (
        ("ipsecOwnersReference", entry.owners),
        ("ipsecNFAReference", entry.rules),
        ("ipsecFilterReference", entry.filters),
    ):
        if references:
            values[name] = RegistryValue.texts(path(reference) for reference in references)
    for name, reference in (
        ("ipsecISAKMPReference", entry.isakmp_policy),
        ("ipsecNegotiationPolicyReference", entry.negotiation_policy),
    ):
        if reference is not None:
            values[name] = RegistryValue.text(path(reference))
    for name, guid in (
        ("ipsecNegotiationPolicyType", entry.negotiation_type),
        ("ipsecNegotiationPolicyAction", entry.negotiation_action),
    ):
        if guid is not None:
            values[name] = RegistryValue.text(guid_text(guid))
    return values
