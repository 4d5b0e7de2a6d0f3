"""Pictures, as SVG: a negotiation as a sequence diagram, a verdict, a time line. Pure: facts in, markup out.

Every text goes through `Markup.format`, which escapes it. Colours are classes of `console.css`, so that light
and dark are one thing for pages and pictures. What a picture shows, the page says in words as well."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from markupsafe import Markup

STEP = 34
MAXIMUM_STEPS = 80
MAXIMUM_LANES = 30
MAXIMUM_MARKS = 600
CUT = 92

_ARROWS = {"sent": "out", "sent-again": "again", "received": "in"}
_TONES = {
    "established": "good",
    "proved": "good",
    "failed": "bad",
    "refused": "bad",
    "doubted": "bad",
    "deleted": "muted",
}


def ladder(story: Mapping[str, Any]) -> Markup:
    """The messages of one negotiation between us (left) and the peer (right), and what we thought of them."""
    lines = story["lines"][:MAXIMUM_STEPS]
    left, right, width = 110, 610, 720
    height = 76 + STEP * len(lines)
    parts = [
        _text(left, 20, "this host", "head"),
        _text(left, 36, str(story["local"]), "small"),
        _text(right, 20, "peer", "head"),
        _text(right, 36, str(story["remote"]), "small"),
        _line(left, 44, left, height - 12, "life"),
        _line(right, 44, right, height - 12, "life"),
    ]
    for number, line in enumerate(lines):
        y = 70 + STEP * number
        arrow = _ARROWS.get(line["event"])
        text = _cut(line["text"] if arrow in ("out", "in") else f"{line['event']}: {line['text']}", 70)
        parts.append(_text(left - 12, y, f"{line['elapsed']:.3f} s", "time"))
        if arrow in ("out", "again"):
            parts.append(_arrow(left, right, y, arrow))
        elif arrow == "in":
            parts.append(_arrow(right, left, y, arrow))
        if arrow is not None:
            parts.append(_text((left + right) // 2, y - 6, text, "label"))
            continue
        tone = _TONES.get(line["event"], "plain")
        parts.append(
            Markup('<rect class="note {}" x="{}" y="{}" width="{}" height="22" rx="4"/>').format(
                tone, left + 8, y - 15, right - left - 16
            )
        )
        parts.append(_text(left + 16, y, text, f"notetext {tone}"))
    title = f"{story['phase']} with {story['remote']}: {story['outcome']}, {len(lines)} steps"
    return _svg(width, height, title, parts, "ladder")


def verdict(explanation: Mapping[str, Any]) -> Markup:
    """Where a packet comes from, the filter that decides, and where it goes, or does not; below the
    answer."""
    flow, outbound = str(explanation["flow"]), str(explanation["outbound"])
    protocol, _, ends = flow.partition(" ")
    source, _, destination = ends.partition(" -> ")
    word = str(explanation["verdict"])
    tone = {"block": "bad", "secure": "lock", "permit": "good", "exempt": "good"}.get(word, "muted")
    passes = word != "block"
    how = {"secure": "sealed by IPsec", "drop": "nothing leaves", "send": "in clear"}.get(outbound, outbound)
    if explanation["direction"] == "inbound":
        how = {"accept": "clear packets are let in", "drop": "clear packets are dropped"}.get(
            str(explanation["inbound_clear"]), ""
        )
    back = str(explanation["return_path"]["verdict"])
    parts = [
        _box(10, 40, 190, source, f"{protocol} from"),
        _box(520, 40, 190, destination, "to"),
        Markup(
            '<path class="shield {}" d="M360 22 l52 16 v34 q0 36 -52 54 q-52 -18 -52 -54 v-34 z"/>'
        ).format(tone),
        _text(360, 82, word, "verdict"),
        _arrow(200, 304, 70, "plain"),
    ]
    if passes:
        parts.append(_arrow(416, 520, 70, tone))
        parts.append(_text(468, 60, how, "label"))
    else:
        parts.append(Markup('<path class="cross" d="M440 56 l28 28 m0 -28 l-28 28"/>'))
        parts.append(_text(468, 108, how, "label"))
    parts.append(_arrow(520, 200, 150, "back" if back != "block" else "blocked"))
    parts.append(_text(360, 144, f"the answer: {back}", "label"))
    rule = explanation.get("rule") or ("an exemption" if word == "exempt" else "no rule")
    parts.append(_text(360, 182, _cut(f"decided by {rule}", CUT), "label"))
    return _svg(720, 196, f"{flow}: {word}; the answer: {back}", parts, "verdict")


def _box(x: int, y: int, width: int, text: str, caption: str) -> Markup:
    shape = Markup('<rect class="box" x="{}" y="{}" width="{}" height="60" rx="6"/>').format(x, y, width)
    middle = x + width // 2
    return shape + _text(middle, y + 22, caption, "small") + _text(middle, y + 42, _cut(text, 30), "value")


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened. `when` in seconds of the wall clock, `tone` good, bad, warn or muted."""

    when: float
    lane: str
    tone: str
    text: str


_MARKS = {
    "main-mode-established": "good",
    "quick-mode-established": "good",
    "main-mode-failed": "bad",
    "quick-mode-failed": "bad",
    "main-mode-deleted": "muted",
    "quick-mode-deleted": "muted",
    "soft-established": "warn",
    "soft-ended": "muted",
    "agent-started": "good",
    "agent-stopped": "bad",
    "driver-failed": "bad",
    "send-failed": "warn",
    "policy-refused": "bad",
    "cluster-address-came": "good",
    "cluster-address-left": "warn",
    "cluster-address-released": "muted",
    "cluster-address-stayed": "warn",
    "cluster-member-came": "good",
    "cluster-member-lost": "bad",
    "cluster-peer": "warn",
}
KINDS = tuple(_MARKS)
THIS_HOST = "this host"


def marks_of(entries: Iterable[Mapping[str, Any]]) -> list[Mark]:
    """What the journal says of connections coming and going, oldest first."""
    marks = []
    for entry in entries:
        tone = _MARKS.get(str(entry.get("kind")))
        if tone is None:
            continue
        facts = entry.get("facts") or {}
        peer = str(entry.get("peer") or facts.get("peer") or "")
        lane = peer.rpartition(":")[0].strip("[]") if peer.count(":") == 1 or "]:" in peer else peer
        try:
            when = datetime.fromisoformat(str(entry["time"]).replace("Z", "+00:00")).timestamp()
        except ValueError:
            continue
        marks.append(Mark(when, lane or THIS_HOST, tone, f"{entry['kind']}: {entry.get('text', '')}"))
    return marks[-MAXIMUM_MARKS:]


def time_line(marks: Sequence[Mark]) -> Markup:
    """A lane for this host and one for each peer; a mark where something happened."""
    if not marks:
        return Markup("")
    lanes = list(dict.fromkeys([THIS_HOST, *(mark.lane for mark in reversed(marks))]))[:MAXIMUM_LANES]
    first, last = marks[0].when, max(marks[-1].when, marks[0].when + 1.0)
    left, right, top, row = 150, 680, 30, 30
    height = top + row * len(lanes) + 16
    parts = []
    for tick in range(6):
        x = left + (right - left) * tick // 5
        when = datetime.fromtimestamp(first + (last - first) * tick / 5).astimezone()
        parts.append(_line(x, top - 8, x, height - 8, "grid"))
        parts.append(_text(x, 14, when.strftime("%H:%M:%S"), "small"))
    for number, lane in enumerate(lanes):
        y = top + row * number + row // 2
        parts.append(_line(left, y, right, y, "life"))
        parts.append(_text(left - 12, y + 4, _cut(lane, 20), "time"))
    for mark in marks:
        if mark.lane not in lanes:
            continue
        place = left + (right - left) * (mark.when - first) / (last - first)
        y = top + row * lanes.index(mark.lane) + row // 2
        parts.append(
            Markup('<circle class="mark {}" cx="{:.1f}" cy="{}" r="5"><title>{}</title></circle>').format(
                mark.tone, place, y, _cut(mark.text, 300)
            )
        )
    return _svg(720, height, f"{len(marks)} events of {len(lanes)} lanes", parts, "timeline")


def _svg(width: int, height: int, title: str, parts: Iterable[Markup], kind: str) -> Markup:
    return (
        Markup(
            '<svg class="picture {}" viewBox="0 0 {} {}" role="img" xmlns="http://www.w3.org/2000/svg">'
            "<title>{}</title>"
        ).format(kind, width, height, title)
        + Markup("").join(parts)
        + Markup("</svg>")
    )


def _text(x: int | float, y: int, text: str, kind: str) -> Markup:
    return Markup('<text class="{}" x="{}" y="{}">{}</text>').format(kind, x, y, text)


def _line(x1: int, y1: int, x2: int, y2: int, kind: str) -> Markup:
    return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(kind, x1, y1, x2, y2)


def _arrow(start: int, end: int, y: int, kind: str) -> Markup:
    back = -9 if end > start else 9
    return Markup('<path class="arrow {}" d="M{} {} H{} m{} -5 l{} 5 l{} 5"/>').format(
        kind, start, y, end, back, -back, back
    )


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
