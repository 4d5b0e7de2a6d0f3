"""Dynamic objects as JSON and as the lists of `netsh ipsec dynamic show`. No key is ever in them."""

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address

from stockade.model.addresses import AddressRange
from stockade.model.traffic import protocol_name
from stockade.netsh.contract import JsonValue, Resolver
from stockade.netsh.data import JsonObject, authentication_data, filter_data
from stockade.netsh.show import authentication_line, columns, end_words, method_lines
from stockade.netsh.words import printable
from stockade.policy.dynamic import (
    DynamicRule,
    DynamicSet,
    MainModePolicyObject,
    QuickModePolicyObject,
)

Row = Mapping[str, JsonValue]


def _line(label: str, value: str | int) -> str:
    return f"{label:<25}: {value}"


# -- objects


def main_mode_policy_data(entry: MainModePolicyObject) -> JsonObject:
    """Times in minutes."""
    return {
        "name": entry.name,
        "guid": str(entry.guid),
        "modified": entry.modified.isoformat(),
        "main_mode_minutes": entry.main_mode_minutes,
        "quick_modes_per_main_mode": entry.quick_modes_per_main_mode,
        "soft_expiration_minutes": entry.soft_expiration_minutes,
        "main_mode_methods": [str(method) for method in entry.methods],
    }


def quick_mode_policy_data(entry: QuickModePolicyObject) -> JsonObject:
    return {
        "name": entry.name,
        "guid": str(entry.guid),
        "modified": entry.modified.isoformat(),
        "soft": entry.soft,
        "pfs_group": entry.pfs_group.value,
        "methods": [str(method) for method in entry.methods],
    }


def rule_data(rule: DynamicRule) -> JsonObject:
    return {
        **filter_data(rule.filter),
        "guid": str(rule.guid),
        "modified": rule.modified.isoformat(),
        "main_mode_policy": rule.main_mode_policy,
        "quick_mode_policy": rule.quick_mode_policy,
        "action_inbound": rule.action_inbound.value,
        "action_outbound": rule.action_outbound.value,
        "authentication": [authentication_data(method) for method in rule.authentication],
        "tunnel_endpoint": None if rule.tunnel_endpoint is None else str(rule.tunnel_endpoint),
        "connection_type": rule.connection_type.value,
    }


def dynamic_data(objects: DynamicSet) -> JsonObject:
    return {
        "main_mode_policies": [main_mode_policy_data(one) for one in objects.main_mode_policies],
        "quick_mode_policies": [quick_mode_policy_data(one) for one in objects.quick_mode_policies],
        "rules": [rule_data(one) for one in objects.rules],
    }


# -- lists


def main_mode_policy_lines(entry: MainModePolicyObject) -> list[str]:
    rows = [
        (method.encryption.netsh_word, method.hash.netsh_word, method.group.netsh_word)
        for method in entry.methods
    ]
    return [
        _line("IKE MM Policy Name", printable(entry.name)),
        _line("IKE Soft SA Lifetime", f"{entry.soft_expiration_minutes} minutes"),
        _line("MainMode LifeTime", f"{entry.main_mode_minutes} minutes"),
        _line("Quick Modes per MainMode", entry.quick_modes_per_main_mode),
        *("   " + row for row in columns(("Encryption", "Integrity", "DH"), rows)),
    ]


def quick_mode_policy_lines(entry: QuickModePolicyObject) -> list[str]:
    return [
        _line("QM Negotiation Policy", printable(entry.name)),
        _line("AllowUnsecure(Fallback)", "YES" if entry.soft else "NO"),
        _line("PFS DH Group", entry.pfs_group.value.upper()),
        *method_lines(entry.methods),
    ]


def rule_lines(rule: DynamicRule) -> list[str]:
    source, source_mask = end_words(rule.filter.source)
    destination, destination_mask = end_words(rule.filter.destination)
    return [
        _line("Source IP Address", source),
        _line("Source Mask", source_mask),
        _line("Destination IP Address", destination),
        _line("Destination Mask", destination_mask),
        _line("Protocol", protocol_name(rule.filter.protocol).upper()),
        _line("Source Port", rule.filter.source_port or "ANY"),
        _line("Destination Port", rule.filter.destination_port or "ANY"),
        _line("Mirrored", "YES" if rule.filter.mirrored else "NO"),
        _line("Connection Type", rule.connection_type.value.upper()),
        _line("Tunnel Endpoint", "NONE" if rule.tunnel_endpoint is None else str(rule.tunnel_endpoint)),
        _line("Inbound Action", rule.action_inbound.value.upper()),
        _line("Outbound Action", rule.action_outbound.value.upper()),
        _line("MainMode Policy", printable(rule.main_mode_policy)),
        _line("QuickMode Policy", printable(rule.quick_mode_policy) or "NONE"),
        f"Authentication Methods({len(rule.authentication)})",
        *(" " * 8 + authentication_line(method) for method in rule.authentication),
    ]


# -- what the agent says


class Names:
    """Host names for addresses, where `resolvedns=yes` asks for them; each address is looked up once."""

    def __init__(self, resolver: Resolver | None) -> None:
        self._resolver = resolver
        self._known: dict[str, str] = {}

    def __call__(self, text: str) -> str:
        """`text` with the name of the host that it is, where it is one."""
        if self._resolver is None:
            return text
        if text not in self._known:
            found = _range_of(text)
            name = self._resolver.name(found.first) if found is not None and found.is_host else None
            self._known[text] = f"{text} ({printable(name)})" if name else text
        return self._known[text]


def specific_filter_rows(rows: Iterable[Row], names: Names) -> list[str]:
    headers = ("Direction", "Protocol", "Source", "Src Port", "Destination", "Dst Port", "Action", "Weight")
    return columns(
        headers,
        (
            (
                text_of(row, "direction"),
                text_of(row, "protocol").upper(),
                names(text_of(row, "source")),
                text_of(row, "source_port"),
                names(text_of(row, "destination")),
                text_of(row, "destination_port"),
                text_of(row, "action"),
                text_of(row, "weight"),
            )
            for row in rows
        ),
    )


def main_mode_lines(row: Row, names: Names) -> list[str]:
    return [
        _line("Cookie Pair", text_of(row, "cookies")),
        _line("Sec Methods", text_of(row, "suite") or "(negotiating)"),
        _line("Auth Mode", printable(text_of(row, "authentication"))),
        _line("Source", names(text_of(row, "local"))),
        _line("ID", printable(text_of(row, "local_identity"))),
        _line("Destination", names(text_of(row, "peer"))),
        _line("ID", printable(text_of(row, "peer_identity"))),
        _line("Remaining", f"{text_of(row, 'remaining')} s"),
    ]


def quick_mode_lines(row: Row, names: Names) -> list[str]:
    return [
        _line("Policy Name", printable(text_of(row, "rule"))),
        _line("Source Address", names(text_of(row, "local"))),
        _line("Destination Address", names(text_of(row, "peer"))),
        _line("Traffic", printable(text_of(row, "traffic"))),
        _line("Offer Used", text_of(row, "suite")),
        _line("PFS DH Group", text_of(row, "pfs_group") or "<Unassigned>"),
        _line("SPI In / Out", f"{text_of(row, 'inbound_spi')} / {text_of(row, 'outbound_spi')}"),
        _line("Bytes In / Out", f"{text_of(row, 'inbound_bytes')} / {text_of(row, 'outbound_bytes')}"),
        _line("Remaining", f"{text_of(row, 'remaining')} s"),
    ]


def statistics_lines(status: Row, sas: Row, kinds: Sequence[str]) -> list[str]:
    lines: list[str] = []
    if "ike" in kinds:
        lines += ["IKE Statistics", "-" * 14]
        counters = status.get("ike")
        shown = dict(counters) if isinstance(counters, dict) else {}
        for name in ("quick_modes", "main_modes"):  # how many there are, where nobody counted them
            if name not in shown:
                shown = {name: status.get(name), **shown}
        lines += [_line(_label(name), str(value)) for name, value in shown.items()]
    if "ipsec" in kinds:
        lines += [""] * bool(lines) + ["IPSec Statistics", "-" * 16]
        lines += [_line(label, value) for label, value in ipsec_statistics(status, sas).items()]
    return lines


def ipsec_statistics(status: Row, sas: Row) -> dict[str, int]:
    """The quick-mode half of `show stats`, summed over the SAs that there are."""
    rows = rows_of(sas, "quick_modes")
    counted = status.get("ipsec")
    windows = {_label(name): value for name, value in counted.items()} if isinstance(counted, dict) else {}
    found: dict[str, int] = {
        **{name: value for name, value in windows.items() if isinstance(value, int)},
        "Active SAs": len(rows),
        "Packets Waiting": _count(status, "held_packets"),
        "Bytes Received": sum(_count(row, "inbound_bytes") for row in rows),
        "Bytes Sent": sum(_count(row, "outbound_bytes") for row in rows),
        "Packets Received": sum(_count(row, "inbound_packets") for row in rows),
        "Packets Sent": sum(_count(row, "outbound_packets") for row in rows),
    }
    refused = status.get("refused_packets")
    if isinstance(refused, dict):
        for name, value in refused.items():
            found[_label(f"refused {name}")] = value if isinstance(value, int) else 0
    return found


_ABBREVIATIONS = {"spi": "SPI", "isadb": "ISADB", "sa": "SA", "sas": "SAs", "ike": "IKE"}


def _label(name: str) -> str:
    """As Windows writes its counters: `isadb_list_size` is “ISADB List Size”."""
    words = printable(name).replace("_", " ").replace("-", " ").split()
    return " ".join([_ABBREVIATIONS.get(word.lower(), word.capitalize()) for word in words])


def _count(row: Row, key: str) -> int:
    value = row.get(key)
    return value if isinstance(value, int) else 0


def text_of(row: Row, key: str) -> str:
    value = row.get(key)
    return "" if value is None else str(value)


def rows_of(answer: Row, key: str) -> list[Row]:
    value = answer.get(key)
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


# -- choosing


def covers(text: str, wanted: AddressRange | None) -> bool:
    """Whether addresses as the agent writes them (`any`, `a/len`, `a-b`, `a:port`) meet those wanted."""
    if wanted is None or text.casefold() == "any":
        return True
    found = _range_of(text)
    return found is not None and found.overlaps(wanted)


def _range_of(text: str) -> AddressRange | None:
    try:
        if "/" in text:
            return AddressRange.network(text)
        first, dash, last = text.partition("-")
        if dash:
            return AddressRange(ip_address(first), ip_address(last))
        if text.startswith("["):
            text = text[1:].partition("]")[0]
        elif text.count(":") == 1:
            text = text.partition(":")[0]
        return AddressRange.host(text)
    except ValueError:
        return None
