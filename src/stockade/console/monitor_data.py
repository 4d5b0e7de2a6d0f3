"""What the terminal monitor shows, without a terminal: tables of text from the answers of the local API.

`stockade monitor --once` prints them; the monitor itself draws the same ones. Everything that `netsh ipsec
dynamic show` and the IP Security Monitor snap-in show is in one of them."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from stockade.agent.client import AgentClient
from stockade.console.output import clean, cleaned
from stockade.console.printing import duration

EVENTS = 200
STORIES = 20
WATCH_SECONDS = 15
"""For so long after a look the agent tells the stories of its negotiations."""

SAMPLES = 120
"""How many values a sparkline has: the last two minutes, at one look a second."""

Answer = dict[str, Any]
Row = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The agent's answers at one moment."""

    status: Answer
    filters: Answer
    sas: Answer
    negotiations: Answer
    events: list[Answer]
    methods: Answer
    policies: Answer


@dataclass(frozen=True, slots=True)
class Sheet:
    """One table. `keys` name its rows, so that a cursor stays where it was; `targets` are what keys act on: a
    peer's address or an inbound SPI."""

    title: str
    columns: Row
    rows: tuple[Row, ...]
    targets: tuple[str, ...] = ()

    def narrowed(self, text: str) -> "Sheet":
        """The rows with this text in them, whatever its case."""
        wanted = text.casefold()
        kept = [
            place for place, row in enumerate(self.rows) if any(wanted in cell.casefold() for cell in row)
        ]
        targets = tuple(self.targets[place] for place in kept) if self.targets else ()
        return Sheet(self.title, self.columns, tuple(self.rows[place] for place in kept), targets)


def fetch(client: AgentClient, older: Snapshot | None = None) -> Snapshot:
    """Ask the agent. `older`: a snapshot whose filters and policies will do. While somebody looks like this
    the agent tells the stories of its negotiations. Errors: AGENT_NOT_RUNNING, NOT_PRIVILEGED."""
    return Snapshot(
        client.get("/v1/status"),
        client.get("/v1/filters") if older is None else older.filters,
        client.get("/v1/sas"),
        client.get("/v1/negotiations", {"last": str(STORIES), "watch": str(WATCH_SECONDS)}),
        client.get("/v1/journal", {"last": str(EVENTS)})["entries"],
        client.get("/v1/methods") if older is None else older.methods,
        client.get("/v1/policy") if older is None else older.policies,
    )


def sheets(snapshot: Snapshot) -> dict[str, Sheet]:
    """All of them, by the word of their tab. Peers chose some of the words: none steers a terminal."""
    snapshot = Snapshot(
        cleaned(snapshot.status),
        cleaned(snapshot.filters),
        cleaned(snapshot.sas),
        cleaned(snapshot.negotiations),
        [cleaned(record) for record in snapshot.events],
        cleaned(snapshot.methods),
        cleaned(snapshot.policies),
    )
    return {
        "main": main_modes(snapshot.sas),
        "quick": quick_modes(snapshot.sas),
        "negotiations": negotiations(snapshot),
        "generic": generic_filters(snapshot.filters, snapshot.policies),
        "specific": specific_filters(snapshot.filters, snapshot.methods),
        "policies": policies_in_force(snapshot),
        "main-methods": main_mode_methods(snapshot.methods),
        "quick-methods": quick_mode_methods(snapshot.methods),
        "peers": peers(snapshot),
        "events": events(snapshot.events),
        "statistics": statistics(snapshot.status),
    }


def overview(status: Mapping[str, Any]) -> str:
    """Two lines for the head."""
    status = cleaned(dict(status))
    policy = clean(status["policy"] or "none")
    held, refused = status["held_packets"], sum(status["refused_packets"].values())
    lines = [
        f"policy {policy} · {status['filters']} filters · data plane {status['driver']} · up "
        f"{duration(status['uptime'])} · stockade {status['version']}",
        f"main modes {status['main_modes']} · quick modes {status['quick_modes']} · soft {status['soft']} · "
        f"held packets {held} · dropped packets {refused}",
    ]
    trouble = status["policy_refused"]
    if trouble:
        lines.append(f"the newest policy is NOT in force: {clean(trouble['text'])}")
    if status["boot_filters"]:
        lines.append(f"boot filters hold ({status['boot_filters']}): no policy is in force")
    return "\n".join(lines)


def main_modes(sas: Mapping[str, Any]) -> Sheet:
    columns: Row = ("peer", "identity", "role", "state", "security methods", "authenticated by", "age")
    columns += ("expires in", "quick modes", "cookies", "me", "peer's software")
    rows, targets = [], []
    for row in sas["main_modes"]:
        targets.append(address_of(row["peer"]))
        rows.append(
            (
                row["peer"],
                clean(row["peer_identity"]),
                row["role"],
                "up" if row["established"] else "negotiating",
                row["suite"],
                clean(row["authentication"]),
                duration(row["age"]),
                duration(row["remaining"]),
                str(row["quick_modes"]),
                row["cookies"],
                row["local"],
                row["peer_vendor"],
            )
        )
    return Sheet("Main-mode SAs", columns, tuple(rows), tuple(targets))


def quick_modes(sas: Mapping[str, Any]) -> Sheet:
    """Two rows for each pair: Windows' monitor shows no direction, and people ask for it."""
    columns: Row = (
        "peer",
        "direction",
        "traffic",
        "SPI",
        "security methods",
        "PFS",
        "packets",
        "bytes",
        "idle",
    )
    columns += ("age", "expires in", "rule", "me", "mode")
    rows, targets = [], []
    for row in sas["quick_modes"]:
        for word, arrow in (("inbound", "in  ←"), ("outbound", "out →")):
            targets.append(row["inbound_spi"])
            rows.append(
                (
                    row["peer"],
                    arrow,
                    row["traffic"],
                    row[f"{word}_spi"],
                    row["suite"],
                    row["pfs_group"],
                    str(row[f"{word}_packets"]),
                    size(row[f"{word}_bytes"]),
                    duration(row["idle"]),
                    duration(row["age"]),
                    duration(row["remaining"]),
                    clean(row["rule"]),
                    row["local"],
                    row.get("mode", ""),
                )
            )
    for row in sas["soft"]:
        targets.append(row["peer"])
        rows.append(
            (row["peer"], "in clear", row["traffic"], "", f"soft: {clean(row['why'])}", "", "", "", "",
             duration(row["age"]), duration(row["remaining"]), clean(row["rule"]), row["local"],
             "")
        )  # fmt: skip
    return Sheet("Quick-mode SAs", columns, tuple(rows), tuple(targets))


ARROWS = {"sent": "──▶", "sent-again": "──▶ again", "received": "◀──"}


def negotiations(snapshot: Snapshot) -> Sheet:
    """Those under way with what they wait for, and the ladders of the newest ones: of all that ran while
    somebody looked, or while they are recorded."""
    columns = ("with", "phase", "role", "at", "step", "what")
    rows: list[Row] = []
    targets: list[str] = []
    for row in snapshot.sas.get("under_way", ()):
        what = row["standing"]
        rows.append((row["peer"], row["phase"], row["role"], f"+{row['age']:.3f}", "under way", what))
        targets.append(address_of(row["peer"]))
    for story in snapshot.negotiations.get("negotiations", []):
        peer = address_of(story["remote"])
        head = f"{story['phase']} #{story['number']}"
        rows.append((story["remote"], head, story["role"], story["began"], str(story["outcome"]), ""))
        targets.append(peer)
        for line in story["lines"]:
            arrow = ARROWS.get(line["event"], line["event"])
            rows.append(("", "", "", f"+{line['elapsed']:.3f}", arrow, clean(line["text"])))
            targets.append(peer)
            if line.get("remedy"):
                rows.append(("", "", "", "", "", f"what to do: {clean(line['remedy'])}"))
                targets.append(peer)
    return Sheet("Negotiations", columns, tuple(rows), tuple(targets))


def generic_filters(filters: Mapping[str, Any], policies: Mapping[str, Any]) -> Sheet:
    """As configured, and what their specific filters add up to."""
    configured = _configured(policies)
    found: dict[tuple[Any, ...], list[Any]] = {}
    for row in filters["filters"]:
        key = tuple(row.get(name, "") for name in ("store", "policy", "rule", "filter_list", "filter_index"))
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
        ends = configured.get(key, ("", "", "", ""))
        rows.append((where, action, str(weight), str(number), str(packets), size(octets), *ends))
    columns: Row = ("where it comes from", "action", "weight", "specific filters", "packets", "bytes")
    columns += ("source", "destination", "protocol", "mirrored")
    return Sheet("Generic filters", columns, tuple(rows))


def _configured(policies: Mapping[str, Any]) -> dict[tuple[Any, ...], Row]:
    """Filters in the words of who wrote them, by (store, policy, rule, filter list, number)."""
    return {
        (policy["store"], policy["name"], rule["name"], rule["filter_list"], number): (
            end_of(entry["source"], entry["source_port"]),
            end_of(entry["destination"], entry["destination_port"]),
            entry["protocol"],
            "yes" if entry["mirrored"] else "no",
        )
        for policy in policies.get("policies", ())
        for rule in policy["rules"]
        for number, entry in enumerate(rule["filters"], 1)
    }


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


def policies_in_force(snapshot: Snapshot) -> Sheet:
    """The policies of all stores, as the snap-in's “Active Policy”: those that are assigned come first."""
    columns = ("policy", "store", "assigned", "in force", "rules", "description")
    found = sorted(snapshot.policies.get("policies", ()), key=lambda row: not row["assigned"])
    used = {(row.get("store"), row.get("policy")) for row in snapshot.filters["filters"]}
    rows = tuple(
        (
            row["name"],
            row["store"],
            "yes" if row["assigned"] else "no",
            "yes" if (row["store"], row["name"]) in used else "no",
            str(len(row["rules"])),
            row["description"],
        )
        for row in found
    )
    return Sheet("Policies", columns, rows)


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


def peers(snapshot: Snapshot) -> Sheet:
    """Every computer that we have, or just had, to do with."""
    found: dict[str, dict[str, Any]] = {}

    def entry(peer: str) -> dict[str, Any]:
        blank: dict[str, Any] = dict.fromkeys(("main", "trying", "quick", "soft", "bytes"), 0)
        return found.setdefault(peer, {**blank, "identity": "", "last": ""})

    for row in snapshot.sas["main_modes"]:
        one = entry(address_of(row["peer"]))
        one["main" if row["established"] else "trying"] += 1
        one["identity"] = one["identity"] or row["peer_identity"]
    for row in snapshot.sas["quick_modes"]:
        one = entry(address_of(row["peer"]))
        one["quick"] += 1
        one["bytes"] += row["inbound_bytes"] + row["outbound_bytes"]
    for row in snapshot.sas["soft"]:
        entry(address_of(row["peer"]))["soft"] += 1
    for record in snapshot.events:
        peer = address_of(str(record.get("peer", "")))
        if peer:
            entry(peer)["last"] = f"{str(record['time'])[11:19]} {record['kind']}: {clean(record['text'])}"
    rows = tuple(
        (
            peer,
            state_of(one),
            clean(one["identity"]),
            str(one["main"]),
            str(one["quick"]),
            size(one["bytes"]),
            one["last"],
        )
        for peer, one in sorted(found.items())
    )
    columns = ("peer", "state", "identity", "main modes", "quick modes", "bytes", "newest event")
    return Sheet("Peers", columns, rows, tuple(sorted(found)))


def state_of(peer: Mapping[str, Any]) -> str:
    if peer["quick"]:
        return "secured"
    if peer["soft"]:
        return "in clear (soft)"
    if peer["main"]:
        return "main mode only"
    return "negotiating" if peer["trying"] else "down"


def events(records: Sequence[Answer]) -> Sheet:
    """Newest first."""
    rows, targets = [], []
    for record in reversed(records):
        ids = ", ".join(map(str, record.get("windows_events") or ()))
        peer = address_of(str(record.get("peer") or record.get("source") or ""))
        rows.append((str(record["time"]), str(record["kind"]), ids, peer, clean(record["text"])))
        targets.append(peer)
    return Sheet("Events", ("time", "event", "Windows", "peer", "what happened"), tuple(rows), tuple(targets))


def statistics(status: Mapping[str, Any]) -> Sheet:
    """Windows' IKE and IPsec statistics, and what was dropped."""
    rows = [("IKE", name.replace("_", " "), str(value)) for name, value in status["ike"].items()]
    rows += [("IPsec", name.replace("_", " "), str(value)) for name, value in status["ipsec"].items()]
    rows += [("dropped", word, str(count)) for word, count in status["refused_packets"].items()]
    return Sheet("Statistics", ("of", "counter", "value"), tuple(rows))


def size(octets: int) -> str:
    """`0 B`, `12.3 KiB`, `4.0 GiB`."""
    value = float(octets)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def address_of(text: str) -> str:
    """Without a port: `a.b.c.d:500`, `[a::b]:500`."""
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text


def end_of(addresses: str, port: int) -> str:
    return f"{addresses}:{port}" if port else addresses


def action_of(row: Mapping[str, Any]) -> str:
    words = [word for word, name in (("inpass", "accept_clear"), ("soft", "allow_soft")) if row[name]]
    return f"{row['action']} ({', '.join(words)})" if words else str(row["action"])


@dataclass(slots=True)
class Trends:
    """What sparklines are drawn from: per second, one value for each look."""

    values: dict[str, deque[float]] = field(default_factory=dict)
    _last: dict[str, float] = field(default_factory=dict)
    _when: float | None = None

    def add(self, snapshot: Snapshot, now: float) -> None:
        ipsec, status = snapshot.status["ipsec"], snapshot.status
        ways = ("transport_bytes_{}", "tunnel_bytes_{}")
        current = {
            "bytes out": float(sum(ipsec[name.format("sent")] for name in ways)),
            "bytes in": float(sum(ipsec[name.format("received")] for name in ways)),
            "dropped packets": float(sum(status["refused_packets"].values())),
            "handshakes": float(status["ike"]["main_modes"] + status["ike"]["quick_modes"]),
        }
        if self._when is not None and now > self._when:
            for name, value in current.items():
                rate = max(0.0, value - self._last[name]) / (now - self._when)
                self.values.setdefault(name, deque(maxlen=SAMPLES)).append(rate)
        self.values.setdefault("quick modes", deque(maxlen=SAMPLES)).append(float(status["quick_modes"]))
        self._last, self._when = current, now


BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Iterable[float], width: int = 60) -> str:
    """The newest values as bars; the highest one is full."""
    shown = list(values)[-width:]
    top = max(shown, default=0.0)
    if top <= 0:
        return BARS[0] * len(shown)
    return "".join(BARS[min(len(BARS) - 1, int(value / top * (len(BARS) - 1) + 0.5))] for value in shown)


def plain(snapshot: Snapshot) -> str:
    """Everything as text, for `--once`."""
    parts = [overview(snapshot.status)]
    for sheet in sheets(snapshot).values():
        parts.append(f"\n{sheet.title} ({len(sheet.rows)})")
        if not sheet.rows:
            continue
        table = [sheet.columns, *sheet.rows]
        widths = [max(len(row[place]) for row in table) for place in range(len(sheet.columns))]
        for row in table:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            parts.append(f"  {'  '.join(cells)}".rstrip())
    return "\n".join(parts)


def answers(snapshot: Snapshot) -> dict[str, object]:
    """The answers themselves."""
    return asdict(snapshot)
