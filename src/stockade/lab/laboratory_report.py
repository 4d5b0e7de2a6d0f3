"""What the failover laboratory found: a table with time lines, JSON, a picture (SVG, made by hand)."""

import json
import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

from stockade.lab.laboratory import LIMIT_SECONDS, Event, Outcome

MAXIMUM_LINES = 12
_LEFT, _WIDTH, _ROW, _TOP = 230, 560, 22, 40
_LEAST, _MOST = 0.01, 600.0
_COLOURS = {"Stockade": "#2f855a"}
_OTHER_COLOUR = "#4a5568"


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


def as_svg(outcomes: Sequence[Outcome]) -> str:
    """Bars on a logarithmic axis: how long each client waited, by scenario."""
    scenarios = list(dict.fromkeys(outcome.scenario for outcome in outcomes))
    height = _TOP + sum(34 + _ROW * sum(o.scenario == name for o in outcomes) for name in scenarios) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 120}" height="{height}"'
        ' font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        '<text x="12" y="22" font-size="16">Seconds to the first answer, once somebody is there again</text>',
    ]
    for tick in (0.01, 0.1, 1, 10, 60, 300):
        x = _place(tick)
        parts += [
            f'<line x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{height - 24}" stroke="#e2e8f0"/>',
            f'<text x="{x:.1f}" y="{height - 8}" text-anchor="middle" fill="#718096">{tick:g} s</text>',
        ]
    y = _TOP
    for name in scenarios:
        y += 24
        parts.append(f'<text x="12" y="{y}" font-weight="bold">{escape(name)}</text>')
        y += 10
        for outcome in (entry for entry in outcomes if entry.scenario == name):
            value = LIMIT_SECONDS if outcome.reconnect_s is None else outcome.reconnect_s
            colour = _COLOURS.get(outcome.client, _OTHER_COLOUR)
            end = _place(value)
            width = max(2.0, end - _LEFT)
            parts += [
                f'<text x="{_LEFT - 8}" y="{y + 12}" text-anchor="end">{escape(outcome.client)}</text>',
                f'<rect x="{_LEFT}" y="{y + 2}" width="{width:.1f}" height="13" fill="{colour}"/>',
                f'<text x="{end + 6:.1f}" y="{y + 13}">{escape(seconds(outcome.reconnect_s))}</text>',
            ]
            y += _ROW
    return "\n".join([*parts, "</svg>", ""])


def _place(value: float) -> float:
    within = min(max(value, _LEAST), _MOST)
    return _LEFT + _WIDTH * math.log(within / _LEAST) / math.log(_MOST / _LEAST)
