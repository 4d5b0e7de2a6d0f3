"""Writes the pages of the manual that come from the code: `docs/reasons.md` from the list of reasons,
`docs/event-ids.md` from the table of Windows' event ids, `docs/metric-list.md` from that of the metrics,
`docs/timers.md` from what is done about silent peers.

    scripts/generate_reference.py            write the pages
    scripts/generate_reference.py --check    write nothing; status 1 and the names of pages that are stale

A test compares the pages with what this script makes, so a new reason cannot be forgotten in the manual.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from stockade.agent.metric_table import METRICS
from stockade.console.manual import commands_page
from stockade.console.parser import make_parser
from stockade.ike.config import EngineConfig
from stockade.ike.liveness import PeerTraits, plan_for
from stockade.model.reasons import Fault, ReasonCode
from stockade.model.windows_events import WINDOWS_EVENTS, Carrier
from stockade.netsh.config import PROPERTIES

DOCS = Path(__file__).resolve().parent.parent / "docs"

_FAULTS = {
    Fault.CALLER: ("Yours to put right", "A command, a policy or an argument is wrong; nothing was applied."),
    Fault.PEER: (
        "The other end's",
        "Bytes or behaviour of the peer, or what the two policies make of each other.",
    ),
    Fault.HOST: ("This host's", "The system refuses or lacks something, or tells what it did."),
}


def _cell(text: str) -> str:
    """Text that cannot break a Markdown table."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


def reasons_page() -> str:
    """The page of all reasons: one table per kind of fault, in the order of the code."""
    lines = [
        "# Reasons and errors",
        "",
        "<!-- Written by scripts/generate_reference.py from stockade/model/reason_codes.py; do not edit. -->",
        "",
        "Everything that Stockade refuses, and everything that fails, is one of these reasons. The journal, "
        "the local API, `--format json` and `explain` use the same words, so one word finds it everywhere. "
        "Where Windows has an error code for the same thing, it stands beside it.",
        "",
    ]
    for fault in Fault:
        title, introduction = _FAULTS[fault]
        lines += [f"## {title}", "", introduction, ""]
        lines += ["| Reason | What it means | What to do | Windows |", "| --- | --- | --- | --- |"]
        for code in ReasonCode:
            if code.fault is fault:
                windows = "–" if code.windows_code is None else str(code.windows_code)
                lines.append(f"| `{code.word}` | {_cell(code.meaning)} | {_cell(code.remedy)} | {windows} |")
        lines.append("")
    return "\n".join(lines)


def _carrier(carrier: Carrier) -> str:
    text = f"`{carrier.kind}`"
    for condition, words in ((carrier.fact, "with"), (carrier.unless, "without")):
        if condition is not None:
            text += f" {words} “{condition[1]}” in its {condition[0]}"
    for codes, words in ((carrier.only, "for"), (carrier.but, "except for")):
        if codes:
            named = [code.word for code in ReasonCode if code in codes]  # a set has no order
            text += f" {words} {', '.join(f'`{word}`' for word in named)}"
    return text


def events_page() -> str:
    """The ids of Windows, and which events carry them."""
    lines = [
        "# Event ids of Windows",
        "",
        "<!-- Written by scripts/generate_reference.py from src/stockade/model/windows_events.py; "
        "do not edit. -->",
        "",
        "Every event carries the ids that Windows has for the same thing, of both generations, as its "
        "field `windows_events`: `stockade events --id 547` and `--id 4653` find it. "
        "[Events](events.md) says more.",
        "",
        "| Id | Meaning | Events that carry it |",
        "| --- | --- | --- |",
    ]
    for event in WINDOWS_EVENTS:
        carried = "; ".join(map(_carrier, event.carriers)) or f"none: {event.never}"
        lines.append(f"| {event.number} | {_cell(event.meaning)} | {_cell(carried)} |")
    return "\n".join([*lines, ""])


_OFF = EngineConfig(notice_seconds=0)
_HOTFIX = replace(_OFF, failover_idle_seconds=5.0)
_SILENT_PEERS = (
    ("nothing set", "can be asked (Stockade, strongSwan, libreswan)", EngineConfig(), PeerTraits(True)),
    ("nothing set", "cannot be asked (Windows)", EngineConfig(), PeerTraits()),
    ("nothing set", "Windows, in a cluster", EngineConfig(), PeerTraits(cluster=True)),
    ("`nlbsidletime` 5", "Windows, in a cluster", _HOTFIX, PeerTraits(cluster=True)),
    ("`nlbsidletime` 5, `nlbsqmretransmitduration` 10", "Windows, in a cluster",
     replace(_HOTFIX, failover_quick_seconds=10.0), PeerTraits(cluster=True)),
    ("`nlbsidletime` 60", "Windows, in a cluster", replace(_OFF, failover_idle_seconds=60.0),
     PeerTraits(cluster=True)),
    ("`deadpeertime` 5", "can be asked", EngineConfig(notice_seconds=5), PeerTraits(True)),
    ("`deadpeertime` 5", "cannot be asked", EngineConfig(notice_seconds=5), PeerTraits()),
    ("`deadpeertime` 60", "can be asked", EngineConfig(notice_seconds=60), PeerTraits(True)),
    ("`deadpeertime` 60", "cannot be asked", EngineConfig(notice_seconds=60), PeerTraits()),
)  # fmt: skip


def timers_page() -> str:
    """What is planned for a silent peer, by its kind and the settings; and the settings with their ranges."""
    lines = [
        "# Timers of dead peers",
        "",
        "<!-- Written by scripts/generate_reference.py from src/stockade/ike/liveness.py; do not edit. -->",
        "",
        "Seconds from the first packet that is not answered to the beginning of a new main mode, at most. "
        "`stockade explain peer ADDRESS` computes the same for one peer and the settings in force. "
        "[Dead peers](failover.md) says why, and what makes it sooner.",
        "",
        "| Settings | The peer | Silence | Then | Worst case | Unused quick modes go after |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for settings, peer, config, traits in _SILENT_PEERS:
        plan = plan_for(config, traits)
        first, second = plan.rungs
        then = f"{second.name}, {second.seconds:g} s"
        worst, idle = plan.notice_seconds, plan.idle_seconds
        lines.append(f"| {settings} | {peer} | {first.seconds:g} s | {then} | {worst:g} s | {idle:g} s |")
    lines += ["", "| Setting of `set config` | Values | Default | Meaning |", "| --- | --- | --- | --- |"]
    for entry in PROPERTIES:
        if entry.name.startswith("nlbs") or entry.name == "deadpeertime":
            values = entry.values.replace("|", " or ")
            lines.append(f"| `{entry.name}` | {values} | {entry.default} | {_cell(entry.help)} |")
    return "\n".join([*lines, ""])


def metrics_page() -> str:
    """Every metric with its labels."""
    lines = [
        "# Metrics, one by one",
        "",
        "<!-- Written by scripts/generate_reference.py from src/stockade/agent/metric_table.py; "
        "do not edit. -->",
        "",
        "What `/metrics` tells; [Metrics](metrics.md) says how to get it. Reasons are the words of "
        "[the closed list](reasons.md). `process_*` are those of every Prometheus client.",
        "",
        "| Metric | Type | Labels | Meaning |",
        "| --- | --- | --- | --- |",
    ]
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels) or "–"
        lines.append(f"| `{metric.name}` | {metric.type.value} | {labels} | {_cell(metric.meaning)} |")
    return "\n".join([*lines, ""])


PAGES = {
    "reasons.md": reasons_page,
    "event-ids.md": events_page,
    "metric-list.md": metrics_page,
    "commands.md": lambda: commands_page(make_parser()),
    "timers.md": timers_page,
}


def stale_pages(folder: Path = DOCS) -> list[str]:
    """The names of generated pages that are missing from `folder` or differ from what the code says."""
    stale = []
    for name, make in PAGES.items():
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != make():
            stale.append(name)
    return stale


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="write the generated pages of the manual")
    parser.add_argument("--check", action="store_true", help="only say which pages are stale")
    options = parser.parse_args(arguments)
    stale = stale_pages()
    if options.check:
        for name in stale:
            print(f"docs/{name} is stale: run `make reference`", file=sys.stderr)
        return 1 if stale else 0
    for name in stale:
        (DOCS / name).write_text(PAGES[name](), encoding="utf-8")
        print(f"docs/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
