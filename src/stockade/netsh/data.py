"""Policy objects as JSON: what every `show` command gives to programs. Keys are steady; a pre-shared key is
never among the values."""

from stockade.model.negotiation import AuthenticationMethod, Certificate, PresharedKey
from stockade.model.traffic import protocol_name
from stockade.netsh.session import JsonValue
from stockade.netsh.values import looks_mistyped
from stockade.policy.objects import (
    DEFAULT_RESPONSE_METHODS,
    AddressKind,
    Filter,
    FilterAction,
    FilterAddress,
    FilterList,
    Policy,
    PolicySet,
    Rule,
)

JsonObject = dict[str, JsonValue]


def end_word(end: FilterAddress) -> str:
    """One end of a filter, as `srcaddr=` takes it."""
    if end.addresses is not None:
        return str(end.addresses)
    word = end.name if end.kind is AddressKind.NAME else end.kind.value
    if end.version is not None:
        return f"{word}@{end.version}"
    if end.kind is AddressKind.NAME and looks_mistyped(word):
        return f"{word}."
    return word


def filter_data(entry: Filter) -> JsonObject:
    """`source` and `destination`: me, any, dns, wins, dhcp, gateway, a DNS name, an address, `prefix/length`
    or `first-last`; `…_kind` tells which. Port 0 is any."""
    return {
        "source": end_word(entry.source),
        "source_kind": entry.source.kind.value,
        "destination": end_word(entry.destination),
        "destination_kind": entry.destination.kind.value,
        "protocol": protocol_name(entry.protocol),
        "protocol_number": entry.protocol,
        "source_port": entry.source_port,
        "destination_port": entry.destination_port,
        "mirrored": entry.mirrored,
        "description": entry.description,
    }


def filter_list_data(entry: FilterList, store: str) -> JsonObject:
    return {
        "name": entry.name,
        "description": entry.description,
        "store": store,
        "guid": str(entry.guid),
        "modified": entry.modified.isoformat(),
        "filters": [filter_data(one) for one in entry.filters],
    }


def filter_action_data(entry: FilterAction, store: str) -> JsonObject:
    return {
        "name": entry.name,
        "description": entry.description,
        "store": store,
        "guid": str(entry.guid),
        "modified": entry.modified.isoformat(),
        "action": entry.action.value,
        "inpass": entry.inpass,
        "soft": entry.soft,
        "qmpfs": entry.session_pfs,
        "methods": [str(method) for method in entry.methods],
    }


def authentication_data(method: AuthenticationMethod) -> JsonObject:
    if isinstance(method, PresharedKey):
        return {"method": "preshared-key"}
    if isinstance(method, Certificate):
        return {
            "method": "certificate",
            "root_ca": method.root_ca,
            "exclude_ca_name": method.exclude_ca_name,
            "map_to_account": method.map_to_account,
        }
    return {"method": "kerberos"}


def rule_data(rule: Rule, rule_id: int) -> JsonObject:
    """`id` counts from 1 in the policy, as `set rule id=` wants it."""
    data: JsonObject = {
        "id": rule_id,
        "name": rule.name,
        "description": rule.description,
        "guid": str(rule.guid),
        "modified": rule.modified.isoformat(),
        "active": rule.active,
        "default_response": rule.is_default_response,
        "connection_type": rule.connection_type.value,
        "tunnel_endpoint": None if rule.tunnel_endpoint is None else str(rule.tunnel_endpoint),
        "authentication": [authentication_data(method) for method in rule.authentication],
        "filter_list": rule.filter_list,
        "filter_action": rule.filter_action,
    }
    if rule.is_default_response:
        methods = rule.response_methods or DEFAULT_RESPONSE_METHODS
        data["methods"] = [str(method) for method in methods]
        data["qmpfs"] = rule.response_session_pfs
    return data


def policy_data(policy: Policy, store: str) -> JsonObject:
    """Times in minutes; `quick_modes_per_main_mode` 0 is no limit."""
    return {
        "name": policy.name,
        "description": policy.description,
        "store": store,
        "guid": str(policy.guid),
        "modified": policy.modified.isoformat(),
        "assigned": policy.assigned,
        "polling_minutes": policy.polling_minutes,
        "main_mode_minutes": policy.main_mode_minutes,
        "quick_modes_per_main_mode": policy.quick_modes_per_main_mode,
        "master_pfs": policy.master_pfs,
        "main_mode_methods": [str(method) for method in policy.main_mode_methods],
        "rules": [rule_data(rule, number) for number, rule in enumerate(policy.rules, start=1)],
    }


def policy_set_data(objects: PolicySet) -> JsonObject:
    store = objects.store
    return {
        "store": store,
        "policies": [policy_data(entry, store) for entry in objects.policies],
        "filter_lists": [filter_list_data(entry, store) for entry in objects.filter_lists],
        "filter_actions": [filter_action_data(entry, store) for entry in objects.filter_actions],
    }
