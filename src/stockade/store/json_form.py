"""Policy objects ⇄ JSON, for revisions (`revisions`) and for the dynamic store on its way to the agent.

Reading goes through the constructors of `stockade.policy.objects`, so what makes no valid object is a
`ValueError`. The form of a rule names its filter list and filter action by their GUIDs, so that a new name
of a list is no change of the rules that use it."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from ipaddress import ip_address
from typing import TypeAlias
from uuid import UUID

from stockade.model.addresses import Address, AddressRange
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
    Rule,
)

Form: TypeAlias = "bool | int | float | str | Sequence[Form] | Mapping[str, Form] | None"
References = Callable[[Rule], tuple[str, str]]
"""The GUIDs of a rule's filter list and filter action."""


class FormError(ValueError):
    """The JSON is not the form of such an object."""


# -- access that says what is wrong


def record(form: Form) -> Mapping[str, Form]:
    if not isinstance(form, Mapping):
        raise FormError("expected an object")
    return form


def items(form: Form) -> Sequence[Form]:
    if isinstance(form, str) or not isinstance(form, Sequence):
        raise FormError("expected a list")
    return form


def text(form: Form) -> str:
    if not isinstance(form, str):
        raise FormError("expected a text")
    return form


def number(form: Form) -> int:
    if isinstance(form, bool) or not isinstance(form, int):
        raise FormError("expected a whole number")
    return form


def flag(form: Form) -> bool:
    if not isinstance(form, bool):
        raise FormError("expected true or false")
    return form


def member(form: Mapping[str, Form], key: str) -> Form:
    try:
        return form[key]
    except KeyError:
        raise FormError(f"“{key}” is missing") from None


# -- methods


def main_mode_form(methods: Iterable[MainModeProposal]) -> Form:
    return [[method.encryption.value, method.hash.value, method.group.value] for method in methods]


def main_mode_methods(form: Form) -> tuple[MainModeProposal, ...]:
    return tuple(_main_mode_method(items(entry)) for entry in items(form))


def _main_mode_method(parts: Sequence[Form]) -> MainModeProposal:
    encryption, hash_, group = parts
    return MainModeProposal(Encryption(text(encryption)), Hash(text(hash_)), Group(text(group)))


def quick_mode_form(methods: Iterable[QuickModeProposal]) -> Form:
    return [
        [
            method.esp.encryption.value if method.esp else None,
            method.esp.integrity.value if method.esp and method.esp.integrity else None,
            method.ah.value if method.ah else None,
            method.lifetime_seconds,
            method.lifetime_kilobytes,
            *([True] if method.extended_sequence else []),
        ]
        for method in methods
    ]


def quick_mode_methods(form: Form) -> tuple[QuickModeProposal, ...]:
    return tuple(_quick_mode_method(items(entry)) for entry in items(form))


def _quick_mode_method(parts: Sequence[Form]) -> QuickModeProposal:
    encryption, integrity, ah, seconds, kilobytes, *rest = parts
    if rest not in ([], [True], [False]):
        raise ValueError("a quick-mode method ends with its lifetimes, or with true for extended numbers")
    esp = None
    if encryption is not None:
        esp = EspSuite(Encryption(text(encryption)), None if integrity is None else Hash(text(integrity)))
    return QuickModeProposal(
        esp,
        None if ah is None else integrity_named(text(ah)),
        number(seconds),
        number(kilobytes),
        rest == [True],
    )


def authentication_form(methods: Iterable[AuthenticationMethod], *, with_keys: bool) -> Form:
    """Keys as hexadecimal; null where they are left out."""
    return [_authentication_form(method, with_keys) for method in methods]


def _authentication_form(method: AuthenticationMethod, with_keys: bool) -> Form:
    if isinstance(method, PresharedKey):
        return {"method": "preshared-key", "key": method.key.reveal().hex() if with_keys else None}
    if isinstance(method, Certificate):
        return {
            "method": "certificate",
            "root_ca": method.root_ca,
            "exclude_ca_name": method.exclude_ca_name,
            "map_to_account": method.map_to_account,
        }
    return {"method": "kerberos"}


def authentication(form: Form) -> tuple[AuthenticationMethod, ...]:
    return tuple(_authentication_method(record(entry)) for entry in items(form))


def _authentication_method(form: Mapping[str, Form]) -> AuthenticationMethod:
    kind = text(member(form, "method"))
    if kind == "preshared-key":
        try:
            return PresharedKey(Secret(bytes.fromhex(text(member(form, "key")))))
        except ValueError:
            raise FormError("a pre-shared key is not hexadecimal") from None  # and never quoted
    if kind == "certificate":
        return Certificate(
            text(member(form, "root_ca")),
            flag(member(form, "exclude_ca_name")),
            flag(member(form, "map_to_account")),
        )
    if kind == "kerberos":
        return Kerberos()
    raise FormError(f"authentication method {kind[:40]!r} is not known")


# -- filters


def _end_form(end: FilterAddress) -> Form:
    first = last = None
    if end.addresses is not None:
        first, last = str(end.addresses.first), str(end.addresses.last)
    return [end.kind.value, first, last, end.name, end.version]


def _end(form: Form) -> FilterAddress:
    kind, first, last, name, version = items(form)
    addresses = None
    if first is not None and last is not None:
        addresses = AddressRange(ip_address(text(first)), ip_address(text(last)))
    return FilterAddress(
        AddressKind(text(kind)), addresses, text(name), None if version is None else number(version)
    )


def filter_form(entry: Filter) -> Form:
    form: list[Form] = [
        _end_form(entry.source),
        _end_form(entry.destination),
        entry.protocol,
        entry.source_port,
        entry.destination_port,
        entry.mirrored,
        entry.description,
    ]
    if entry.origin is not None:
        form += [entry.origin.file, entry.origin.line]
    return form


def filter_of(form: Form) -> Filter:
    parts = items(form)
    origin = None
    if len(parts) == 9:  # where it was written came later than the rest
        origin = Origin(text(parts[7]), number(parts[8]))
        parts = parts[:7]
    source, destination, protocol, source_port, destination_port, mirrored, description = parts
    return Filter(
        _end(source),
        _end(destination),
        number(protocol),
        number(source_port),
        number(destination_port),
        flag(mirrored),
        text(description),
        origin,
    )


def address_form(address: Address | None) -> Form:
    return None if address is None else str(address)


def address_of(form: Form) -> Address | None:
    return None if form is None else ip_address(text(form))


# -- objects


def filter_list_form(entry: FilterList) -> dict[str, Form]:
    return {
        "guid": str(entry.guid),
        "name": entry.name,
        "description": entry.description,
        "modified": entry.modified.isoformat(),
        "filters": [filter_form(one) for one in entry.filters],
    }


def filter_list_of(form: Mapping[str, Form]) -> FilterList:
    return FilterList(
        text(member(form, "name")),
        tuple(filter_of(entry) for entry in items(member(form, "filters"))),
        text(member(form, "description")),
        UUID(text(member(form, "guid"))),
        datetime.fromisoformat(text(member(form, "modified"))),
    )


def filter_action_form(entry: FilterAction) -> dict[str, Form]:
    return {
        "guid": str(entry.guid),
        "name": entry.name,
        "description": entry.description,
        "modified": entry.modified.isoformat(),
        "action": entry.action.value,
        "methods": quick_mode_form(entry.methods),
        "inpass": entry.inpass,
        "soft": entry.soft,
        "session_pfs": entry.session_pfs,
    }


def filter_action_of(form: Mapping[str, Form]) -> FilterAction:
    return FilterAction(
        text(member(form, "name")),
        Action(text(member(form, "action"))),
        quick_mode_methods(member(form, "methods")),
        flag(member(form, "inpass")),
        flag(member(form, "soft")),
        flag(member(form, "session_pfs")),
        text(member(form, "description")),
        UUID(text(member(form, "guid"))),
        datetime.fromisoformat(text(member(form, "modified"))),
    )


def _rule_form(rule: Rule, references: References) -> dict[str, Form]:
    default = rule.is_default_response
    filter_list, filter_action = (None, None) if default else references(rule)
    return {
        "guid": str(rule.guid),
        "name": rule.name,
        "description": rule.description,
        "modified": rule.modified.isoformat(),
        "filter_list": filter_list,
        "filter_action": filter_action,
        "authentication": authentication_form(rule.authentication, with_keys=True),
        "tunnel_endpoint": address_form(rule.tunnel_endpoint),
        "connection_type": rule.connection_type.value,
        "active": rule.active,
        "is_default_response": default,
        "response_methods": quick_mode_form(rule.response_methods),
        "response_session_pfs": rule.response_session_pfs,
    }


def _rule_of(
    form: Mapping[str, Form], list_names: Mapping[str, str], action_names: Mapping[str, str]
) -> Rule:
    default = flag(member(form, "is_default_response"))
    filter_list, filter_action = DYNAMIC_FILTER_LIST, DEFAULT_RESPONSE_ACTION
    if not default:
        filter_list = list_names[text(member(form, "filter_list"))]
        filter_action = action_names[text(member(form, "filter_action"))]
    return Rule(
        text(member(form, "name")),
        filter_list,
        filter_action,
        authentication(member(form, "authentication")),
        address_of(member(form, "tunnel_endpoint")),
        ConnectionType(text(member(form, "connection_type"))),
        flag(member(form, "active")),
        text(member(form, "description")),
        UUID(text(member(form, "guid"))),
        datetime.fromisoformat(text(member(form, "modified"))),
        default,
        quick_mode_methods(member(form, "response_methods")),
        flag(member(form, "response_session_pfs")),
    )


def policy_form(policy: Policy, references: References) -> dict[str, Form]:
    """Without `assigned`: which policy is in force is said once, beside the objects."""
    return {
        "guid": str(policy.guid),
        "name": policy.name,
        "description": policy.description,
        "modified": policy.modified.isoformat(),
        "rules": [_rule_form(rule, references) for rule in policy.rules],
        "main_mode_methods": main_mode_form(policy.main_mode_methods),
        "main_mode_minutes": policy.main_mode_minutes,
        "quick_modes_per_main_mode": policy.quick_modes_per_main_mode,
        "master_pfs": policy.master_pfs,
        "polling_minutes": policy.polling_minutes,
    }


def policy_of(
    form: Mapping[str, Form],
    list_names: Mapping[str, str],
    action_names: Mapping[str, str],
    *,
    assigned: bool,
) -> Policy:
    """`list_names` and `action_names`: GUID → name; KeyError for a GUID that is not there."""
    return Policy(
        text(member(form, "name")),
        tuple(_rule_of(record(entry), list_names, action_names) for entry in items(member(form, "rules"))),
        assigned,
        main_mode_methods(member(form, "main_mode_methods")),
        number(member(form, "main_mode_minutes")),
        number(member(form, "quick_modes_per_main_mode")),
        flag(member(form, "master_pfs")),
        number(member(form, "polling_minutes")),
        text(member(form, "description")),
        UUID(text(member(form, "guid"))),
        datetime.fromisoformat(text(member(form, "modified"))),
    )


def encode(form: Form) -> bytes:
    """The JSON text of a form, the same for the same form."""
    return json.dumps(form, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode(
        "utf-8", "surrogatepass"
    )


def decode(content: bytes) -> Form:
    """The form in a JSON text; FormError where it is none."""
    try:
        form: Form = json.loads(content.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise FormError(f"it is not JSON ({type(error).__name__})") from None
    return form
