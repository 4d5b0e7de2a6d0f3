"""Tables of the terminal monitor about what is configured and in force: filters, policies, and the methods
that they negotiate with.

    generic    a filter as it was written            specific    what it became: per direction and address
    quick mode knows ports and protocols             main mode knows addresses only
"""

from collections.abc import Mapping, Sequence
from typing import Any

from stockade.console.monitor_sheet import Row, Sheet, action_of, end_of, size
from stockade.console.printing import duration


def generic_filters(filters: Mapping[str, Any], policies: Mapping[str, Any]) -> Sheet:
    """As configured, and what their specific filters add up to."""
    configured = _configured(policies)
    found: dict[tuple[Any, ...], list[Any]] = {}
    for row in filters["filters"]:
        key = _identity(row)
        where = row["provenance"].removesuffix(" (mirrored)")
        entry = found.setdefault(
            key if any(key) else (where,), [where, action_of(row), 0, 0, 0, row["weight"]]
        )
        entry[2] += 1
        entry[3] += row["packets"]
        entry[4] += row["bytes"]
        entry[5] = max(entry[5], row["weight"])
    rows = []
    for key, (where, action, number, packets, octets, weight) in found.items():
        words = configured.get(key)
        ends = ("",) * 4 if words is None else (_end(*words[:2]), _end(*words[2:4]), *words[4:])
        rows.append((where, action, str(weight), str(number), str(packets), size(octets), *ends))
    columns: Row = ("where it comes from", "action", "weight", "specific filters", "packets", "bytes")
    columns += ("source", "destination", "protocol", "mirrored")
    return Sheet("Generic filters", columns, tuple(rows))


def _identity(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Of the generic filter that a specific one was made of."""
    return tuple(row.get(name, "") for name in ("store", "policy", "rule", "filter_list", "filter_index"))


def _configured(policies: Mapping[str, Any]) -> dict[tuple[Any, ...], Row]:
    """Filters in the words of who wrote them: source and destination with their ports (empty: any), protocol,
    mirrored; by `_identity`."""
    return {
        (policy["store"], policy["name"], rule["name"], rule["filter_list"], number): (
            entry["source"],
            str(entry["source_port"] or ""),
            entry["destination"],
            str(entry["destination_port"] or ""),
            entry["protocol"],
            "yes" if entry["mirrored"] else "no",
        )
        for policy in policies.get("policies", ())
        for rule in policy["rules"]
        for number, entry in enumerate(rule["filters"], 1)
    }


def _end(addresses: str, port: str) -> str:
    return f"{addresses}:{port}" if port else addresses


def specific_filters(filters: Mapping[str, Any], methods: Mapping[str, Any]) -> Sheet:
    """What is in force, heaviest first."""
    columns: Row = ("weight", "direction", "protocol", "source", "destination", "action", "packets", "bytes")
    columns += ("from", "tunnel endpoint")
    tunnels = {row["name"]: row["tunnel_endpoint"] for row in methods.get("methods", ())}
    rows = tuple(
        (
            str(row["weight"]),
            row["direction"],
            row["protocol"],
            end_of(row["source"], row["source_port"]),
            end_of(row["destination"], row["destination_port"]),
            action_of(row),
            str(row["packets"]),
            size(row["bytes"]),
            row["provenance"],
            tunnels.get(row["negotiation"], ""),
        )
        for row in filters["filters"]
    )
    return Sheet("Specific filters", columns, rows)


MAIN_MODE_COLUMNS: Row = (
    "type",
    "direction",
    "source",
    "destination",
    "weight",
    "authentication, in order",
    "IKE policy",
    "security methods, in order",
    "connections",
    "filters",
    "from",
)
SHOWN_ENDS = 3


def main_mode_filters(
    filters: Mapping[str, Any], methods: Mapping[str, Any], policies: Mapping[str, Any]
) -> Sheet:
    """Who negotiates with whom: main mode knows addresses only. First the generic ones, as they were written,
    then the specific ones, heaviest first. `filters` counts the quick-mode filters behind each."""
    negotiating = [row for row in filters["filters"] if row["negotiation"]]
    generic: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    specific: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    words = _configured(policies)
    for row in negotiating:
        source, destination, both = _written(words.get(_identity(row)))
        key = (row["negotiation"], source, destination, both)
        if not source:
            key = (*key, *map(str, _identity(row)))  # nobody tells how it was written
        generic.setdefault(key, []).append(row)
        specific.setdefault((row["direction"], row["source"], row["destination"]), []).append(row)
    offers = {row["name"]: row for row in methods.get("methods", ())}
    connections = {
        (policy["store"], policy["name"], rule["name"]): rule["connection_type"]
        for policy in policies.get("policies", ())
        for rule in policy["rules"]
    }

    def cells(found: Sequence[Mapping[str, Any]]) -> Row:
        first = found[0]  # the heaviest one: what main mode goes by
        offer = offers.get(first["negotiation"], {})
        place = tuple(first.get(name, "") for name in ("store", "policy", "rule"))
        return (
            str(first["weight"]),
            ", ".join(offer.get("authentication", ())),
            first.get("policy", ""),
            ", ".join(offer.get("main_mode_methods", ())),
            connections.get(place, ""),
            str(len(found)),
            offer.get("provenance") or first["provenance"],
        )

    rows: list[Row] = []
    for (_, source, destination, both, *_), found in generic.items():
        ends = (source, destination) if source else (_ends(found, "source"), _ends(found, "destination"))
        rows.append(("generic", both, *ends, *cells(found)))
    rows += [("specific", *key, *cells(found)) for key, found in specific.items()]
    return Sheet("Main-mode filters", MAIN_MODE_COLUMNS, tuple(rows))


def _written(words: Row | None) -> tuple[str, str, str]:
    """Source and destination without ports, and whether it is mirrored; empty where nobody tells."""
    if words is None:
        return "", "", ""
    return words[0], words[2], "both" if words[5] == "yes" else "one way"


def _ends(rows: Sequence[Mapping[str, Any]], name: str) -> str:
    """The addresses of filters that are not mirrored."""
    found = list(dict.fromkeys(row[name] for row in rows if not row.get("mirrored")))
    return ", ".join(found[:SHOWN_ENDS]) + (" …" if len(found) > SHOWN_ENDS else "")


def policies_in_force(
    policies: Mapping[str, Any], filters: Mapping[str, Any], status: Mapping[str, Any]
) -> Sheet:
    """The policies of all stores, as the snap-in's “Active Policy”: those that are in force come first. A
    main-mode policy of the dynamic store is one too, where a rule uses it."""
    columns: Row = ("policy", "store", "assigned", "in force", "last modified", "rules", "description")
    columns += ("GUID", "group policy object")
    rules: dict[tuple[str, str], set[str]] = {}
    for row in filters["filters"]:
        if row.get("policy"):
            rules.setdefault((row["store"], row["policy"]), set()).add(row["rule"])
    domain = status.get("domain") or {}
    rows = []
    for row in policies.get("policies", ()):
        place = (row["store"], row["name"])
        by_domain = row["store"] == "domain" and row["name"] == domain.get("policy")
        rows.append(
            (
                row["name"],
                row["store"],
                "yes" if row["assigned"] else "no",
                "yes" if place in rules else "no",
                row.get("modified", ""),
                str(len(row["rules"])),
                row["description"],
                row.get("guid", ""),
                domain.get("gpo", "") if by_domain else "",
            )
        )
    known = {(row[1], row[0]) for row in rows}
    for (store, name), used in rules.items():
        if (store, name) not in known:
            rows.append((name, store, "", "yes", "", str(len(used)), "", "", ""))
    rows.sort(key=lambda row: (row[3] != "yes", row[2] != "yes"))
    return Sheet("Policies", columns, tuple(rows))


def main_mode_methods(methods: Mapping[str, Any]) -> Sheet:
    """The snap-in's “IKE Policies”, with the authentication of their main-mode filters: a row for each
    security method, in order of preference."""
    columns: Row = (
        "of",
        "no",
        "security method",
        "lifetime",
        "quick modes",
        "authentication, in order",
        "filters",
    )
    rows = []
    for row in methods.get("methods", ()):
        for number, method in enumerate(row["main_mode_methods"], 1):
            first = number == 1
            rows.append(
                (
                    row["provenance"],
                    str(number),
                    method,
                    duration(row["main_mode_seconds"]),
                    str(row["quick_modes_per_main_mode"] or "no limit"),
                    ", ".join(row["authentication"]) if first else "",
                    str(row["filters"]) if first else "",
                )
            )
    return Sheet("Main-mode policies", columns, tuple(rows))


def quick_mode_methods(methods: Mapping[str, Any]) -> Sheet:
    """The snap-in's “Negotiation Policies”: a row for each security method, in order of preference."""
    columns: Row = (
        "of",
        "no",
        "AH integrity",
        "ESP confidentiality",
        "ESP integrity",
        "lifetime",
        "PFS",
        "mode",
    )
    columns += ("tunnel endpoint",)
    rows = tuple(
        (
            row["provenance"],
            str(number),
            method["ah"] or "none",
            method["esp_encryption"] or "none",
            method["esp_integrity"] or "none",
            f"{method['lifetime_kilobytes']} KB / {method['lifetime_seconds']} s",
            row["perfect_forward_secrecy"],
            row["mode"],
            row["tunnel_endpoint"],
        )
        for row in methods.get("methods", ())
        for number, method in enumerate(row["quick_mode_methods"], 1)
    )
    return Sheet("Quick-mode policies", columns, rows)
