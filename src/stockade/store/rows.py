"""Policy objects ⇄ rows of the local store's tables (`schema`).

Reading goes through the constructors of `stockade.policy.objects`, so a row that makes no valid object is a
`ValueError` here (and STORE_UNREADABLE to the caller), never a policy that nobody wrote."""

import json
import marshal
import sqlite3
from collections.abc import Iterable
from datetime import datetime
from hashlib import blake2b
from ipaddress import ip_address
from uuid import UUID

from stockade.model.addresses import AddressRange
from stockade.model.filters import Action, Origin
from stockade.model.negotiation import AuthenticationMethod, Certificate, Kerberos, PresharedKey
from stockade.model.secret import Secret
from stockade.model.suites import (
    Encryption,
    EspSuite,
    Group,
    Hash,
    MainModeProposal,
    QuickModeProposal,
    integrity_named,
)
from stockade.policy.objects import (
    DEFAULT_RESPONSE_ACTION,
    DYNAMIC_FILTER_LIST,
    AddressKind,
    ConnectionType,
    Filter,
    FilterAction,
    FilterAddress,
    FilterList,
    Policy,
    PolicySet,
    Rule,
)

Value = str | int | bytes | None


def main_mode_text(methods: Iterable[MainModeProposal]) -> str:
    return json.dumps([[method.encryption, method.hash, method.group] for method in methods])


def _main_mode_methods(text: str) -> tuple[MainModeProposal, ...]:
    return tuple(
        MainModeProposal(Encryption(encryption), Hash(hash_), Group(group))
        for encryption, hash_, group in json.loads(text)
    )


def quick_mode_text(methods: Iterable[QuickModeProposal]) -> str:
    return json.dumps(
        [
            {
                "encryption": method.esp.encryption if method.esp else None,
                "integrity": method.esp.integrity if method.esp else None,
                "ah": method.ah,
                "seconds": method.lifetime_seconds,
                "kilobytes": method.lifetime_kilobytes,
                # Only where it is so: a policy without stays byte for byte what it was.
                **({"extended_sequence": True} if method.extended_sequence else {}),
            }
            for method in methods
        ]
    )


def _quick_mode_methods(text: str) -> tuple[QuickModeProposal, ...]:
    methods = []
    for entry in json.loads(text):
        esp = None
        if entry["encryption"] is not None:
            integrity = entry["integrity"]
            esp = EspSuite(Encryption(entry["encryption"]), None if integrity is None else Hash(integrity))
        ah = None if entry["ah"] is None else integrity_named(entry["ah"])
        extended = bool(entry.get("extended_sequence", False))
        methods.append(QuickModeProposal(esp, ah, int(entry["seconds"]), int(entry["kilobytes"]), extended))
    return tuple(methods)


def _end_values(end: FilterAddress) -> tuple[Value, Value, Value]:
    if end.addresses is None:
        return end.kind.value, None, None
    return end.kind.value, str(end.addresses.first), str(end.addresses.last)


def _end(kind: str, first: str | None, last: str | None, name: str | None, version: int) -> FilterAddress:
    addresses = None
    if first is not None and last is not None:
        addresses = AddressRange(ip_address(first), ip_address(last))
    return FilterAddress(AddressKind(kind), addresses, name or "", version)


_READ_FILTERS = (
    "SELECT filter_list,"
    " source_kind, source_first, source_last, source_name, source_version,"
    " destination_kind, destination_first, destination_last, destination_name, destination_version,"
    " protocol, source_port, destination_port, mirrored, description, origin_file, origin_line"
    " FROM filters ORDER BY filter_list, position"
)


class FilterMemory:
    """The filters of the last reading by digests of their rows. A long list of which one filter changed is
    read in a tenth of the time then, and what did not change is the same object as before, which spares the
    compiler its comparison."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, Filter] = {}

    def read(self, connection: sqlite3.Connection) -> dict[str, list[Filter]]:
        """All filters in their order, by the GUID of their list."""
        found: dict[str, list[Filter]] = {}
        present: dict[bytes, Filter] = {}
        cursor = connection.cursor()
        cursor.row_factory = None  # plain tuples
        for filter_list, *row in cursor.execute(_READ_FILTERS):
            key = blake2b(marshal.dumps(row, 2), digest_size=16).digest()
            entry = present.get(key) or self._known.get(key)  # two lists may say the same
            if entry is None:
                protocol, source_port, destination_port, mirrored, description, file, line = row[10:]
                entry = Filter(
                    _end(*row[:5]),
                    _end(*row[5:10]),
                    protocol,
                    source_port,
                    destination_port,
                    bool(mirrored),
                    description,
                    None if file is None else Origin(file, line),
                )
            present[key] = entry
            found.setdefault(filter_list, []).append(entry)
        self._known = present
        return found


def filter_values(entry: Filter) -> tuple[Value, ...]:
    """The columns of `filters` after `filter_list` and `position`."""
    return (
        *_end_values(entry.source),
        *_end_values(entry.destination),
        entry.protocol,
        entry.source_port,
        entry.destination_port,
        int(entry.mirrored),
        entry.description,
        entry.source.name or None,
        entry.source.version,
        entry.destination.name or None,
        entry.destination.version,
        None if entry.origin is None else entry.origin.file,
        None if entry.origin is None else entry.origin.line,
    )


def authentication_values(method: AuthenticationMethod) -> tuple[Value, ...]:
    """The columns of `rule_authentication` after `rule` and `position`."""
    if isinstance(method, PresharedKey):
        return ("preshared-key", method.key.reveal(), None, 0, 0)
    if isinstance(method, Kerberos):
        return ("kerberos", None, None, 0, 0)
    return ("certificate", None, method.root_ca, int(method.exclude_ca_name), int(method.map_to_account))


def _authentication(row: sqlite3.Row) -> AuthenticationMethod:
    kind = row["kind"]
    if kind == "preshared-key":
        return PresharedKey(Secret(row["preshared_key"] or b""))
    if kind == "kerberos":
        return Kerberos()
    if kind == "certificate":
        return Certificate(row["root_ca"], bool(row["exclude_ca_name"]), bool(row["map_to_account"]))
    raise ValueError(f"authentication method {kind!r} is not known")


def read_policy_set(
    connection: sqlite3.Connection, store: str, memory: FilterMemory | None = None
) -> PolicySet:
    """Everything, in the order in which it was made. The caller holds a transaction, so it is one view.
    `memory`: of the reading before this one."""
    filter_lists = tuple(_filter_lists(connection, memory or FilterMemory()))
    filter_actions = tuple(_filter_actions(connection))
    list_names = {str(entry.guid): entry.name for entry in filter_lists}
    action_names = {str(entry.guid): entry.name for entry in filter_actions}
    policies = tuple(_policies(connection, list_names, action_names))
    return PolicySet(policies, filter_lists, filter_actions, store)


def _filter_lists(connection: sqlite3.Connection, memory: FilterMemory) -> Iterable[FilterList]:
    filters = memory.read(connection)
    for row in connection.execute("SELECT * FROM filter_lists ORDER BY rowid"):
        yield FilterList(
            row["name"],
            tuple(filters.get(row["guid"], ())),
            row["description"],
            UUID(row["guid"]),
            datetime.fromisoformat(row["modified"]),
        )


def _filter_actions(connection: sqlite3.Connection) -> Iterable[FilterAction]:
    for row in connection.execute("SELECT * FROM filter_actions ORDER BY rowid"):
        yield FilterAction(
            row["name"],
            Action(row["action"]),
            _quick_mode_methods(row["methods"]),
            bool(row["inpass"]),
            bool(row["soft"]),
            bool(row["session_pfs"]),
            row["description"],
            UUID(row["guid"]),
            datetime.fromisoformat(row["modified"]),
        )


def _policies(
    connection: sqlite3.Connection, list_names: dict[str, str], action_names: dict[str, str]
) -> Iterable[Policy]:
    authentication: dict[str, list[AuthenticationMethod]] = {}
    for row in connection.execute("SELECT * FROM rule_authentication ORDER BY rule, position"):
        authentication.setdefault(row["rule"], []).append(_authentication(row))
    rules: dict[str, list[Rule]] = {}
    for row in connection.execute("SELECT * FROM rules ORDER BY policy, position"):
        default = bool(row["is_default_response"])
        rules.setdefault(row["policy"], []).append(
            Rule(
                row["name"],
                DYNAMIC_FILTER_LIST if default else list_names[row["filter_list"]],
                DEFAULT_RESPONSE_ACTION if default else action_names[row["filter_action"]],
                tuple(authentication.get(row["guid"], ())),
                None if row["tunnel_endpoint"] is None else ip_address(row["tunnel_endpoint"]),
                ConnectionType(row["connection_type"]),
                bool(row["active"]),
                row["description"],
                UUID(row["guid"]),
                datetime.fromisoformat(row["modified"]),
                default,
                _quick_mode_methods(row["response_methods"]),
                bool(row["response_session_pfs"]),
            )
        )
    for row in connection.execute("SELECT * FROM policies ORDER BY rowid"):
        yield Policy(
            row["name"],
            tuple(rules.get(row["guid"], ())),
            bool(row["assigned"]),
            _main_mode_methods(row["main_mode_methods"]),
            row["main_mode_minutes"],
            row["quick_modes_per_main_mode"],
            bool(row["master_pfs"]),
            row["polling_minutes"],
            row["description"],
            UUID(row["guid"]),
            datetime.fromisoformat(row["modified"]),
        )
