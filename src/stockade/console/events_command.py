"""`stockade events`: what happened, from the agent, or from its files while none runs."""

import re
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from stockade.agent.client import AgentClient
from stockade.agent.paths import Paths
from stockade.console.output import clean, give, give_record
from stockade.model.reasons import ReasonCode, StockadeError, error_for

_SPANS = {"s": 1, "min": 60, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_RELATIVE = re.compile(r"(\d{1,9})\s*(s|min|m|h|d|w)", re.IGNORECASE)
FOLLOW_SECONDS = 0.25
_COLUMNS = frozenset(
    {"number", "time", "kind", "reason", "text", "remedy", "fault", "windows_code", "facts", "windows_events"}
)
EVENT_COLUMNS = ("number", "time", "kind", "windows_events", "peer", "text")
"""What a table of events has; each kind has more fields, which `--format list` shows."""


def run_events(
    paths: Paths, words: Mapping[str, str], *, follow: bool, form: str, now: float | None = None
) -> int:
    """`words` as the local API takes them; `since` and `until` also as `10m`, `2h`, `today`, `yesterday`."""
    asked = {name: value for name, value in words.items() if value}
    for name in ("since", "until"):
        if name in asked:
            asked[name] = str(moment(asked[name], time.time() if now is None else now))
    if not follow:
        entries = _past(paths, asked)
        give({"entries": entries}, form, lambda: _print_table(entries), EVENT_COLUMNS)
        if not entries:
            print("no such event", file=sys.stderr)
        return 0
    for record in _following(paths, asked):
        give_record(record, form, event_line(record))
    return 0


def moment(text: str, now: float) -> float:
    """Seconds since 1970 of what people write: `10m` (ago), `today`, `2026-11-22`, `2026-11-22 07:00`."""
    word = text.strip().casefold()
    relative = _RELATIVE.fullmatch(word)
    if relative:
        return now - int(relative[1]) * _SPANS[relative[2].lower()]
    midnight = datetime.fromtimestamp(now).astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
    if word in ("today", "yesterday"):
        return (midnight - timedelta(days=word == "yesterday")).timestamp()
    try:
        return datetime.fromisoformat(text.strip()).astimezone(UTC).timestamp()
    except (ValueError, OverflowError):
        detail = f"{text!r} is no time: write 10m, 2h, 3d, today, yesterday, 2026-11-22 or 2026-11-22T07:00"
        raise error_for(ReasonCode.SYNTAX, detail) from None


def _past(paths: Paths, asked: Mapping[str, str]) -> list[dict[str, Any]]:
    try:
        answer = AgentClient(paths.socket).get("/v1/events/history", asked)
        return list(answer["entries"])
    except StockadeError as error:
        if error.reason.code is not ReasonCode.AGENT_NOT_RUNNING:
            raise
    from stockade.agent.event_store import find, read_query

    if not paths.journal.is_dir():
        raise error_for(ReasonCode.AGENT_NOT_RUNNING, f"and there are no events in {paths.journal}")
    return list(find(paths.journal, read_query(asked)))


def _following(paths: Paths, asked: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """What was, and then what comes, over restarts of the agent: by number, so nothing is missed or told
    twice."""
    number = -1
    for record in _past(paths, asked):
        number = max(number, int(record["number"]))
        yield record
    later = {**asked, "last": "10000"}
    if number < 0:
        newest = _past(paths, {"last": "1"})
        number = int(newest[-1]["number"]) if newest else 0
    while True:
        time.sleep(FOLLOW_SECONDS)
        for record in _past(paths, {**later, "after": str(number)}):
            number = max(number, int(record["number"]))
            yield record


def event_line(record: Mapping[str, Any]) -> str:
    """One event as one line."""
    ids = ",".join(map(str, record.get("windows_events") or ())) or "-"
    fields = " ".join(
        f"{name}={clean(value)}" for name, value in record.items() if name not in _COLUMNS and value != ""
    )
    text = f"{clean(record.get('time'))} {clean(record.get('kind'))} [{ids}] {clean(record.get('text'))}"
    return f"{text} · {fields}" if fields else text


def _print_table(entries: list[dict[str, Any]]) -> None:
    from rich.markup import escape

    from stockade.console import printing

    rows = (
        (
            str(record.get("number", "")),
            clean(record.get("time")),
            clean(record.get("kind")),
            ", ".join(map(str, record.get("windows_events") or ())),
            escape(clean(record.get("peer") or record.get("source") or "")),
            escape(clean(record.get("text"))),
        )
        for record in entries
    )
    printing.table(("no", "time", "event", "Windows", "peer", "what happened"), rows)
