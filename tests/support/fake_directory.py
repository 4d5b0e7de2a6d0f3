"""A directory in memory that behaves as Active Directory does where our code depends on it: objects have
increasing update numbers, single values are replaced, what is there twice or not there is refused. Stands
in for one only where an answer has to come at a chosen moment; the rest is tried against Samba."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from stockade.model.reasons import ReasonCode, error_for
from stockade.policy.group_policy import normal_dn
from stockade.store.directory.ldap import Entry, Scope
from stockade.store.formats.ldif import _records

DOMAIN_DN = "DC=lab,DC=test"
CONTAINER = f"CN=IP Security,CN=System,{DOMAIN_DN}"
DATA = Path(__file__).parents[1] / "data"


def octets(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


class FakeDirectory:
    """`before_change` is called with the number of the change, from 1, and what it is, before it is made."""

    controller = "dc1.lab.test"

    def __init__(self) -> None:
        self.entries: dict[str, tuple[str, dict[str, tuple[bytes, ...]]]] = {}
        self.number = 1000
        self.changes: list[str] = []
        self.before_change: Callable[[int, str], None] = lambda count, what: None
        self.after_change: Callable[[], None] = lambda: None
        self._store("", {"defaultNamingContext": (DOMAIN_DN,), "objectClass": ("top",)})

    def with_shipped_objects(self) -> "FakeDirectory":
        """What a new domain has (Samba's copy of Windows 2000's objects)."""
        (path,) = DATA.rglob("*ipsec-objects*.ldif")
        for record in _records(path.read_text()):
            if "ipsecdata" in record.attributes:
                kept = {name: values for name, values in record.attributes.items() if name != "usnchanged"}
                self._store(f"{record.dn.partition(',')[0]},{CONTAINER}", kept)
        return self

    def _store(self, dn: str, attributes: Mapping[str, Sequence[object]]) -> None:
        self.number += 1
        kept = {name.casefold(): tuple(map(octets, values)) for name, values in attributes.items()}
        kept["usnchanged"] = (str(self.number).encode(),)
        self.entries[normal_dn(dn) if dn else ""] = (dn, kept)

    def search(
        self, base: str, scope: Scope, attributes: Sequence[str], expression: str = "(objectClass=*)"
    ) -> list[Entry]:
        key = normal_dn(base) if base else ""
        wanted = {name.casefold() for name in attributes}
        if scope is Scope.BASE:
            rows = [self.entries[key]] if key in self.entries else []
        else:
            rows = [row for name, row in self.entries.items() if name.partition(",")[2] == key]
        return [
            Entry(dn, {name: value for name, value in held.items() if name in wanted}) for dn, held in rows
        ]

    def _begin(self, what: str, dn: str) -> None:
        self.changes.append(f"{what} {dn.partition(',')[0]}")
        self.before_change(len(self.changes), self.changes[-1])

    def add(self, dn: str, attributes: Mapping[str, Sequence[str | bytes]]) -> None:
        self._begin("add", dn)
        assert normal_dn(dn) not in self.entries, f"{dn} is there already"
        assert all(attributes.values()), attributes
        self._store(dn, attributes)
        self.after_change()

    def modify(
        self,
        dn: str,
        replace: Mapping[str, Sequence[str | bytes]],
        add: Mapping[str, Sequence[str]] | None = None,
        remove: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._begin("modify", dn)
        name, held = self.entries[normal_dn(dn)]
        held = dict(held)
        for attribute, values in replace.items():
            held.pop(attribute.casefold(), None)
            if values:
                held[attribute.casefold()] = tuple(map(octets, values))
        for attribute, values in (remove or {}).items():
            there = held.pop(attribute.casefold(), ())
            gone = {value.lower() for value in map(octets, values)}
            assert gone <= {value.lower() for value in there}, f"no such values of {attribute}: {gone}"
            kept = tuple(value for value in there if value.lower() not in gone)
            if kept:
                held[attribute.casefold()] = kept
        for attribute, values in (add or {}).items():
            there = held.get(attribute.casefold(), ())
            new = tuple(map(octets, values))
            assert {value.lower() for value in there}.isdisjoint(value.lower() for value in new)
            held[attribute.casefold()] = (*there, *new)
        self._store(name, held)
        self.after_change()

    def delete(self, dn: str) -> None:
        self._begin("delete", dn)
        del self.entries[normal_dn(dn)]
        self.after_change()

    def content(self) -> dict[str, dict[str, frozenset[bytes]]]:
        """All entries, without their update numbers."""
        return {
            key: {name: frozenset(values) for name, values in held.items() if name != "usnchanged"}
            for key, (_, held) in self.entries.items()
        }

    def dangling(self, *, owners: bool = True) -> list[str]:
        """References to what is not there; `owners`: back-links as well."""
        names = (
            "ipsecISAKMPReference",
            "ipsecNFAReference",
            "ipsecNegotiationPolicyReference",
            "ipsecFilterReference",
            *(["ipsecOwnersReference"] if owners else []),
        )
        return [
            f"{dn}: {name} → {value.decode()}"
            for dn, held in self.entries.values()
            for name in names
            for value in held.get(name.casefold(), ())
            if normal_dn(value.decode()) not in self.entries
        ]


def refuse(detail: str) -> None:
    """As a controller does that takes no more changes."""
    raise error_for(ReasonCode.DIRECTORY_REFUSED, detail)
