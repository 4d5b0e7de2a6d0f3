"""What the terminal monitor shows, without a terminal: tables of text from the answers of the local API.

`stockade monitor --once` prints them; the monitor itself draws the same ones. Everything that `netsh ipsec
dynamic show` and the IP Security Monitor snap-in show is in one of them."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from stockade.agent.client import AgentClient
from stockade.console.monitor_policy import (
    generic_filters,
    main_mode_filters,
    main_mode_methods,
    policies_in_force,
    quick_mode_methods,
    specific_filters,
)
from stockade.console.monitor_sheet import Answer, Row, Sheet, address_of, size
from stockade.console.output import clean, cleaned
from stockade.console.printing import duration

EVENTS = 200
STORIES = 20
WATCH_SECONDS = 15
"""For so long after a look the agent tells the stories of its negotiations."""

SAMPLES = 120
"""How many values a sparkline has: the last two minutes, at one look a second."""


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
        "main-filters": main_mode_filters(snapshot.filters, snapshot.methods, snapshot.policies),
        "policies": policies_in_force(snapshot.policies, snapshot.filters, snapshot.status),
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
