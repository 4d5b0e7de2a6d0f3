"""The layouts of `netsh ipsec static show`: label and value in a list, or a table.

    Policy Name              : Servers
    Assigned                 : YES

Labels are those of Windows; dates are `YYYY-MM-DD hh:mm:ss UTC`, so that they sort and need no time zone. A
pre-shared key is never shown."""

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from ipaddress import IPv4Address
from uuid import UUID

from stockade.model.addresses import Address
from stockade.model.filters import Action
from stockade.model.negotiation import AuthenticationMethod, Certificate, PresharedKey
from stockade.model.suites import Encryption, Group, Hash, QuickModeProposal
from stockade.model.traffic import protocol_name
from stockade.netsh.words import printable
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

_LABEL_WIDTH = 25
_DESCRIPTION_WIDTH = 50
_GROUP_NAMES = {
    Group.MODP_768: "Low(1)",
    Group.MODP_1024: "Medium(2)",
    Group.MODP_2048: "2048(3)",
    Group.ECP_256: "ECP256",
    Group.ECP_384: "ECP384",
    Group.CURVE_25519: "X25519",
}
_KIND_NAMES = {
    AddressKind.ME: "<My IP Address>",
    AddressKind.ANY: "<Any IP Address>",
    AddressKind.DNS: "<DNS Servers>",
    AddressKind.WINS: "<WINS Servers>",
    AddressKind.DHCP: "<DHCP Servers>",
    AddressKind.GATEWAY: "<Default Gateway>",
}
_ACTION_NAMES = {Action.PERMIT: "PERMIT", Action.BLOCK: "BLOCK", Action.NEGOTIATE: "NEGOTIATE SECURITY"}


def store_name(store: str) -> str:
    return f"{store.capitalize()} Store"


def _line(label: str, value: str | int) -> str:
    return f"{label:<{_LABEL_WIDTH}}: {value}"


def _yes(value: bool) -> str:
    return "YES" if value else "NO"


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _guid(guid: UUID) -> str:
    return f"{{{str(guid).upper()}}}"


def _text(text: str) -> str:
    return printable(text) or "NONE"


def _description(text: str, wide: bool) -> str:
    clean = _text(text)
    return clean if wide or len(clean) <= _DESCRIPTION_WIDTH else clean[: _DESCRIPTION_WIDTH - 3] + "..."


def _heading(text: str) -> list[str]:
    return ["", text, "-" * len(text)]


# -- lists


HostNames = Callable[[Address], str | None]


def filter_lines(entry: Filter, wide: bool, names: HostNames | None = None) -> list[str]:
    """One filter; with `names` the hosts' names beside their addresses."""
    return [
        _line("Description", _description(entry.description, wide)),
        _line("Mirrored", _yes(entry.mirrored)),
        *_end_lines("Source", entry.source, names),
        *_end_lines("Destination", entry.destination, names),
        _line("Protocol", protocol_name(entry.protocol).upper()),
        _line("Source Port", entry.source_port or "ANY"),
        _line("Destination Port", entry.destination_port or "ANY"),
    ]


def _end_lines(label: str, end: FilterAddress, names: HostNames | None) -> list[str]:
    address, mask = end_words(end)
    name = address if end.kind is not AddressKind.ADDRESSES else "NONE"
    if end.kind is AddressKind.NAME:
        address = "<Resolved when used>"
    if names is not None and end.addresses is not None and end.addresses.is_host:
        name = printable(names(end.addresses.first) or "NONE")
    return [
        _line(f"{label} IP Address", address),
        _line(f"{label} Mask", mask),
        _line(f"{label} DNS Name", name),
    ]


def end_words(end: FilterAddress) -> tuple[str, str]:
    """Address and mask of one end, as the list shows them: a prefix length for IPv6, NONE for a range."""
    if end.addresses is None:
        host = end.kind is not AddressKind.ANY
        address = printable(end.name) if end.kind is AddressKind.NAME else _KIND_NAMES[end.kind]
        if end.version is not None:
            address += f" (IPv{end.version})"
        return address, "255.255.255.255" if host else "0.0.0.0"  # noqa: S104 - a mask
    addresses = end.addresses
    length = addresses.prefix_length
    if length is None:
        return str(addresses), "NONE"
    if addresses.version == 6:
        return str(addresses.first), str(length)
    return str(addresses.first), str(IPv4Address(0xFFFF_FFFF ^ ((1 << (32 - length)) - 1)))


def filter_list_lines(
    entry: FilterList, store: str, verbose: bool, wide: bool, names: HostNames | None = None
) -> list[str]:
    lines = [
        _line("FilterList Name", printable(entry.name)),
        _line("Description", _description(entry.description, wide)),
        _line("Store", store_name(store)),
        _line("Last Modified", _time(entry.modified)),
        _line("GUID", _guid(entry.guid)),
        _line("No. of Filters", len(entry.filters)),
    ]
    if verbose and entry.filters:
        lines += ["Filter(s)", "---------"]
        for number, one in enumerate(entry.filters):
            lines += ([""] if number else []) + filter_lines(one, wide, names)
    return lines


def method_lines(methods: Sequence[QuickModeProposal]) -> list[str]:
    return [_line("No. of Security.Methods", len(methods)), *method_table(methods)]


def method_table(methods: Sequence[QuickModeProposal]) -> list[str]:
    """The methods alone, as list and table show them."""
    lines: list[str] = []
    if methods:
        rows = []
        for method in methods:
            ah = "NONE" if method.ah is None else method.ah.netsh_word
            esp = "NONE"
            if method.esp is not None:
                encryption = method.esp.encryption
                cipher = "NONE" if encryption is Encryption.NULL else encryption.netsh_word
                esp = f"{_hash_word(method.esp.integrity)}, {cipher}"
            extended = " ESN" if method.extended_sequence else ""
            life = f"{method.lifetime_seconds}/{method.lifetime_kilobytes}{extended}"
            rows.append((f"[{ah}]", f"[{esp}]", life))
        lines += [" " + row for row in columns(("AH", "ESP", "LIFE (Sec/kB)"), rows)]
    return lines


def _hash_word(integrity: Hash | None) -> str:
    return "NONE" if integrity is None else integrity.netsh_word


def filter_action_lines(entry: FilterAction, store: str, verbose: bool, wide: bool) -> list[str]:
    lines = [
        _line("FilterAction Name", printable(entry.name)),
        _line("Description", _description(entry.description, wide)),
        _line("Store", store_name(store)),
        _line("Last Modified", _time(entry.modified)),
        _line("GUID", _guid(entry.guid)),
        _line("Action", _ACTION_NAMES[entry.action]),
    ]
    if entry.action is Action.NEGOTIATE:
        lines += [
            _line("AllowUnsecure(Fallback)", _yes(entry.soft)),
            _line("Inbound Passthrough", _yes(entry.inpass)),
            _line("QMPFS", _yes(entry.session_pfs)),
        ]
        if verbose:
            lines += method_lines(entry.methods)
        else:
            lines.append(_line("No. of Security.Methods", len(entry.methods)))
    return lines


def authentication_line(method: AuthenticationMethod) -> str:
    if isinstance(method, PresharedKey):
        return "PRESHARED KEY (not shown)"
    if isinstance(method, Certificate):
        options = f"certmap:{'yes' if method.map_to_account else 'no'}"
        options += f" excludecaname:{'yes' if method.exclude_ca_name else 'no'}"
        return f"ROOT CA: {printable(method.root_ca)} {options}"
    return "KERBEROS"


def rule_lines(rule: Rule, rule_id: int, objects: PolicySet, verbose: bool, wide: bool) -> list[str]:
    """One rule; verbose with its filter list and filter action in full."""
    lines = [
        _line("Rule ID", f"{rule_id}, GUID = {_guid(rule.guid)}"),
        _line("Rule Name", _text(rule.name)),
        _line("Description", _description(rule.description, wide)),
        _line("Last Modified", _time(rule.modified)),
        _line("Activated", _yes(rule.active)),
        _line("Connection Type", rule.connection_type.value.upper()),
        _line("Tunnel Endpoint", "NONE" if rule.tunnel_endpoint is None else str(rule.tunnel_endpoint)),
        f"Authentication Methods({len(rule.authentication)})",
        *(" " * 8 + authentication_line(method) for method in rule.authentication),
    ]
    filter_list = None if rule.is_default_response else objects.filter_list(rule.filter_list)
    filter_action = None if rule.is_default_response else objects.filter_action(rule.filter_action)
    if rule.is_default_response or not verbose:
        lines += [
            _line("FilterList Name", printable(rule.filter_list)),
            _line("FilterAction Name", printable(rule.filter_action)),
        ]
        if rule.is_default_response and verbose:
            lines.append(_line("QMPFS", _yes(rule.response_session_pfs)))
            lines += method_lines(rule.response_methods or DEFAULT_RESPONSE_METHODS)
        return lines
    if filter_list is not None:
        lines += _heading("FilterList Details")
        lines += filter_list_lines(filter_list, objects.store, True, wide)
    if filter_action is not None:
        lines += _heading("FilterAction Details")
        lines += filter_action_lines(filter_action, objects.store, True, wide)
    return lines


def policy_lines(policy: Policy, objects: PolicySet, verbose: bool, wide: bool) -> list[str]:
    lines = [
        _line("Policy Name", printable(policy.name)),
        _line("Description", _description(policy.description, wide)),
        _line("Store", store_name(objects.store)),
        _line("Last Modified", _time(policy.modified)),
        _line("GUID", _guid(policy.guid)),
        _line("Assigned", _yes(policy.assigned)),
        _line("Polling Interval", f"{policy.polling_minutes} minutes"),
        _line(
            "MainMode LifeTime",
            f"{policy.main_mode_minutes} minutes / {policy.quick_modes_per_main_mode} Quick Mode sessions",
        ),
        _line("Master PFS", _yes(policy.master_pfs)),
        "Main Mode Security Method Order",
    ]
    methods = [
        (method.encryption.netsh_word, method.hash.netsh_word, _GROUP_NAMES[method.group])
        for method in policy.main_mode_methods
    ]
    lines += ["   " + row for row in columns(("Encryption", "Integrity", "DH Group"), methods)]
    lines.append(_line("No. of Rules", len(policy.rules)))
    if verbose:
        for number, rule in enumerate(policy.rules, start=1):
            lines += [*_heading("Rule Details"), *rule_lines(rule, number, objects, True, wide)]
    return lines


# -- tables


def columns(headers: Sequence[str], rows: Iterable[Sequence[str]], most: Sequence[int] = ()) -> list[str]:
    """Headers, dashes and rows; column i is cut to `most[i]` characters where that is given and not 0."""
    limits = list(most) + [0] * (len(headers) - len(most))
    cut = [[_cut(cell, limit) for cell, limit in zip(row, limits, strict=True)] for row in rows]
    widths = [max(_cells(row[place]) for row in [list(headers), *cut]) for place in range(len(headers))]
    lines = [list(headers), ["-" * len(header) for header in headers], *cut]
    return [
        "  ".join(
            cell + " " * (width - _cells(cell)) for cell, width in zip(line, widths, strict=True)
        ).rstrip()
        for line in lines
    ]


def _cells(text: str) -> int:
    """How many places of a terminal the text takes: two for each wide character of East Asian scripts, none
    for what stands on the character before it."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(one) else 2 if unicodedata.east_asian_width(one) in "WF" else 1
        for one in text
    )


def _cut(text: str, limit: int) -> str:
    if not limit or _cells(text) <= limit:
        return text
    while _cells(text) > limit - 3:
        text = text[:-1]
    return text + "..."


def policy_table(policies: Iterable[Policy], wide: bool) -> list[str]:
    rows = [
        (printable(policy.name), str(len(policy.rules)), _time(policy.modified), _yes(policy.assigned))
        for policy in policies
    ]
    return columns(("Policy Name", "Rules", "Last Modified", "Assigned"), rows, () if wide else (32,))


def filter_list_table(entries: Iterable[FilterList], wide: bool) -> list[str]:
    rows = [(printable(entry.name), str(len(entry.filters)), _time(entry.modified)) for entry in entries]
    return columns(("FilterList Name", "Filters", "Last Modified"), rows, () if wide else (40,))


def filter_table(filters: Iterable[Filter], wide: bool) -> list[str]:
    rows = [
        (
            _yes(entry.mirrored),
            str(entry.source),
            str(entry.destination),
            protocol_name(entry.protocol).upper(),
            str(entry.source_port or "ANY"),
            str(entry.destination_port or "ANY"),
        )
        for entry in filters
    ]
    headers = ("Mirrored", "Source", "Destination", "Protocol", "Src Port", "Dst Port")
    return columns(headers, rows, () if wide else (0, 18, 18))


def filter_action_table(entries: Iterable[FilterAction], wide: bool) -> list[str]:
    rows = [
        (printable(entry.name), _ACTION_NAMES[entry.action], str(len(entry.methods)), _time(entry.modified))
        for entry in entries
    ]
    headers = ("FilterAction Name", "Action", "Methods", "Last Modified")
    return columns(headers, rows, () if wide else (24,))


def rule_table(rules: Iterable[tuple[int, Rule]], wide: bool) -> list[str]:
    rows = [
        (
            str(number),
            _yes(rule.active),
            _text(rule.name),
            printable(rule.filter_list),
            printable(rule.filter_action),
            ", ".join(_short_authentication(method) for method in rule.authentication),
        )
        for number, rule in rules
    ]
    headers = ("ID", "Enabled", "Rule Name", "FilterList", "FilterAction", "Authentication")
    return columns(headers, rows, () if wide else (0, 0, 15, 15, 15, 15))


def _short_authentication(method: AuthenticationMethod) -> str:
    if isinstance(method, PresharedKey):
        return "PSK"
    return "CERT" if isinstance(method, Certificate) else "KERBEROS"
