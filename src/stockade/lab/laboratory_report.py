"""What the failover laboratory found, in words: a table with time lines, and JSON."""

import json
from collections.abc import Sequence

from stockade.lab.laboratory import LIMIT_SECONDS, Event, Outcome

MAXIMUM_LINES = 12


def seconds(value: float | None) -> str:
    """For people."""
    if value is None:
        return f"not in {LIMIT_SECONDS:.0f} s"
    if value < 10:
        return f"{value:.2f} s"
    return f"{value:.0f} s" if value < 120 else f"{int(value // 60)} min {value % 60:.0f} s"


def as_json(outcomes: Sequence[Outcome]) -> str:
    return json.dumps([outcome.as_dict() for outcome in outcomes], indent=2)


def as_text(outcomes: Sequence[Outcome], *, time_lines: bool = True) -> str:
    """One table, and under it each client's time line."""
    width = max(len(outcome.client) for outcome in outcomes)
    lines: list[str] = []
    for scenario in dict.fromkeys(outcome.scenario for outcome in outcomes):
        lines += [f"{scenario}", f"  {'client':{width}}  {'back after':>12}  {'longest gap':>12}  given up"]
        for outcome in (entry for entry in outcomes if entry.scenario == scenario):
            back, gap = seconds(outcome.reconnect_s), seconds(outcome.gap_s)
            lines.append(f"  {outcome.client:{width}}  {back:>12}  {gap:>12}  {outcome.given_up:>8}")
        lines.append("")
    if time_lines:
        for outcome in outcomes:
            lines.append(f"{outcome.scenario}, {outcome.client}")
            lines += [f"  {entry.at:10.3f} s  {entry.what}" for entry in shortened(outcome.events)]
            lines.append("")
    lines.append(
        "back after: from when somebody was there again to answer. Virtual time; the clients are profiles of"
        " our engine."
    )
    return "\n".join(lines)


def shortened(events: Sequence[Event]) -> list[Event]:
    """Events of one kind in a row as one, and the middle of a long story left out."""
    runs: list[tuple[Event, int]] = []
    for event in events:
        if runs and runs[-1][0].what == event.what:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((event, 1))
    told = [
        Event(first.at, first.what if times == 1 else f"{first.what} ({times} times)")
        for first, times in runs
    ]
    if len(told) > 2 * MAXIMUM_LINES:
        left_out = Event(told[MAXIMUM_LINES].at, f"… {len(told) - 2 * MAXIMUM_LINES} lines left out …")
        told = [*told[:MAXIMUM_LINES], left_out, *told[-MAXIMUM_LINES:]]
    return told
