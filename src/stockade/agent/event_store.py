"""Events that can be searched: a SQLite database beside the journal, bounded, for `stockade events`.

    Journal.write ──▶ journal.jsonl        one write, before anything else: kill -9 loses nothing
                 └──▶ EventStore.add ──▶ a thread, many events in one transaction ──▶ events.db

The JSON lines are what survives a kill; the database follows a moment later, and a start takes into it what a
killed run wrote to the lines only. So nothing that the key exchange does waits for a disk. A database that is
damaged or cannot be written is put aside and made again from the lines that there are; meanwhile events are
found in memory and in the lines, never lost. Times are seconds since 1970.
"""

import json
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from itertools import chain, repeat
from pathlib import Path

from stockade.agent.journal import TAIL_BYTES, encode, files_of
from stockade.model.reasons import Reason, ReasonCode, error_for
from stockade.model.windows_events import BY_NUMBER

NAME = "events.db"
MAXIMUM_ROWS = 100_000
SURPLUS = 2_000
"""Rows above the maximum before the oldest are deleted: not with every event."""
ROWS_AT_ONCE = 200
"""In one statement, which may have 32 766 places."""
MAXIMUM_WAITING = 20_000
"""Events that wait for the thread; those beyond are in the lines only, until the next start."""
MAXIMUM_ANSWER = 10_000
GATHER_SECONDS = 0.2

_SCHEMA = """
PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;
CREATE TABLE IF NOT EXISTS event (
    number INTEGER PRIMARY KEY, time REAL, kind TEXT, reason TEXT, peer TEXT, body TEXT);
CREATE TABLE IF NOT EXISTS windows_event (id INTEGER, number INTEGER, PRIMARY KEY (id, number)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS event_time ON event (time);
CREATE INDEX IF NOT EXISTS event_kind ON event (kind, number);
CREATE INDEX IF NOT EXISTS event_reason ON event (reason, number);
"""

Record = dict[str, object]


@dataclass(frozen=True, slots=True)
class EventQuery:
    """Which events: `since` and `until` (seconds since 1970), Windows ids, kinds, reasons, a peer's address;
    `last` of them, older than number `before` and newer than `after` where these are given."""

    last: int = 100
    since: float | None = None
    until: float | None = None
    ids: frozenset[int] = frozenset()
    kinds: frozenset[str] = frozenset()
    reasons: frozenset[str] = frozenset()
    peer: str = ""
    before: int | None = None
    after: int | None = None

    def fits(self, record: Record) -> bool:
        number, when = number_of(record), seconds_of(str(record.get("time", "")))
        ids = record.get("windows_events")
        return (
            (self.since is None or when >= self.since)
            and (self.until is None or when <= self.until)
            and (not self.ids or (isinstance(ids, list) and not self.ids.isdisjoint(ids)))
            and (not self.kinds or record.get("kind") in self.kinds)
            and (not self.reasons or record.get("reason") in self.reasons)
            and (not self.peer or peer_of(record) == self.peer)
            and (self.before is None or number < self.before)
            and (self.after is None or number > self.after)
        )


def number_of(record: Record) -> int:
    value = record.get("number")
    return value if isinstance(value, int) else 0


def seconds_of(text: str) -> float:
    """Seconds since 1970 of a journal's time, 0 for what is none."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0


def peer_of(record: Record) -> str:
    """The other computer's address, empty where there is none."""
    facts = record.get("facts")
    value = (
        record.get("peer") or record.get("source") or (facts.get("peer") if isinstance(facts, dict) else "")
    )
    text = str(value or "")
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.rpartition(":")[0] if text.count(":") == 1 else text


class EventStore:
    """The database in `folder`, kept by a thread of its own between `start` and `close`. `trouble` is told
    once each time that it cannot be kept."""

    def __init__(
        self, folder: Path, trouble: Callable[[Reason], None] = lambda reason: None, rows: int = MAXIMUM_ROWS
    ) -> None:
        self._folder = folder
        self._path = folder / NAME
        self._trouble = trouble
        self._rows = rows
        self._waiting: deque[tuple[Record, str]] = deque()
        self._wake = threading.Event()
        self._stop = False
        self._thread: threading.Thread | None = None
        self.left_out = 0
        """Events that are in the lines only, because the disk did not keep up."""

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        self._thread.start()

    def add(self, record: Record, line: str = "") -> None:
        """Keep it soon; `line` as the journal wrote it, where it did. Never blocks."""
        if len(self._waiting) >= MAXIMUM_WAITING:
            self.left_out += 1
            return
        self._waiting.append((record, line))
        if not self._wake.is_set():  # to set it again costs a lock, with every event of a busy second
            self._wake.set()

    def close(self) -> None:
        """Write what waits, and end the thread."""
        self._stop = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=10)
            self._thread = None

    def _run(self) -> None:
        database: sqlite3.Connection | None = None
        told = False
        while True:
            stopping = self._stop
            batch = [self._waiting.popleft() for _ in range(len(self._waiting))]
            try:
                if database is None:
                    database = open_database(self._path)
                    take_from_lines(database, self._folder)
                if batch:
                    insert(database, *zip(*batch, strict=True))
                    forget(database, self._rows)
                told = False
            except (sqlite3.Error, OSError) as error:
                if not told:
                    self._trouble(Reason.of(ReasonCode.STATE_UNUSABLE, f"{self._path}: {error}"))
                told = True
                if database is not None:
                    with suppress(sqlite3.Error):
                        database.close()
                database = None  # what it lacks is in the lines, and is taken from there when it opens
            if stopping and not self._waiting:
                break
            self._wake.wait(5.0 if told else None)
            self._wake.clear()
            if not self._stop:
                _pause(GATHER_SECONDS)
        if database is not None:
            database.close()


def _pause(seconds: float) -> None:
    threading.Event().wait(seconds)


def open_database(path: Path) -> sqlite3.Connection:
    """Open it, or put a damaged one aside and make a new one. `sqlite3.Error`, `OSError`."""
    for attempt in (1, 2):
        try:
            database = sqlite3.connect(path, isolation_level=None, timeout=2)
            database.executescript(_SCHEMA)
            return database
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError:
            if attempt == 2 or not path.exists():
                raise
            for name in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
                with suppress(FileNotFoundError):
                    name.replace(name.with_name(f"{name.name}.damaged"))
    raise AssertionError("unreachable")


def insert(database: sqlite3.Connection, records: Sequence[Record], lines: Iterable[str] = ()) -> None:
    """Add events; those that are there already stay as they are. `lines`: their text, where that is known."""
    events: list[tuple[object, ...]] = []
    ids: list[tuple[object, ...]] = []
    for record, line in zip(records, lines or repeat(""), strict=False):
        number = number_of(record)
        events.append(
            (
                number,
                seconds_of(str(record.get("time", ""))),
                str(record.get("kind", "")),
                str(record.get("reason", "")),
                peer_of(record),
                line or encode(record).decode(),
            )
        )
        named = record.get("windows_events")
        ids += ((one, number) for one in (named if isinstance(named, list) else ()))
    database.execute("BEGIN")
    try:
        _insert_rows(database, "event", events)
        _insert_rows(database, "windows_event", ids)
        database.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            database.execute("ROLLBACK")
        raise


def _insert_rows(database: sqlite3.Connection, table: str, rows: Sequence[tuple[object, ...]]) -> None:
    """Many to a statement: between any two the interpreter's lock is fought for with a busy agent."""
    for start in range(0, len(rows), ROWS_AT_ONCE):
        some = rows[start : start + ROWS_AT_ONCE]
        places = ",".join(["(" + ",".join("?" * len(some[0])) + ")"] * len(some))
        statement = f"INSERT OR IGNORE INTO {table} VALUES {places}"  # noqa: S608 - places, and our own name
        database.execute(statement, [*chain.from_iterable(some)])


def forget(database: sqlite3.Connection, rows: int) -> None:
    """Delete the oldest events, where there are some more than `rows`."""
    (first, last) = database.execute("SELECT min(number), max(number) FROM event").fetchone()
    if first is None or last - first < rows + SURPLUS:
        return
    database.execute("DELETE FROM event WHERE number <= ?", (last - rows,))
    database.execute("DELETE FROM windows_event WHERE number <= ?", (last - rows,))


def take_from_lines(database: sqlite3.Connection, folder: Path) -> int:
    """Add what the lines have and the database has not; how many these were."""
    (last,) = database.execute("SELECT coalesce(max(number), 0) FROM event").fetchone()
    missing = [record for record in _from_lines(folder) if number_of(record) > last]
    insert(database, missing)
    return len(missing)


def _from_lines(folder: Path) -> Iterator[Record]:
    """Every event of the journal's files, oldest first; lines that cannot be read are left out."""
    for path in files_of(folder):
        with suppress(FileNotFoundError), path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                with suppress(ValueError):
                    record = json.loads(line)
                    if isinstance(record, dict):
                        yield record


def newest_number(folder: Path) -> int:
    """The number of the newest event in the database, 0 where there is none."""
    return _find_in_database(folder / NAME, EventQuery(last=0))[0]


def find(folder: Path, query: EventQuery) -> list[Record]:
    """The newest events that fit, oldest first, from the database and from lines that are not in it yet.
    Reads only; also while no agent runs, or one of which the database is damaged."""
    if query.last > MAXIMUM_ANSWER:
        raise error_for(
            ReasonCode.SYNTAX,
            f"{query.last} events at once: {MAXIMUM_ANSWER} at most; ask in portions (before=)",
        )
    newest, found = _find_in_database(folder / NAME, query)
    later = [record for record in _lines_after(folder, newest) if query.fits(record)]
    both = [*found, *later]
    return both[max(0, len(both) - query.last) :]


def _lines_after(folder: Path, number: int) -> list[Record]:
    """What the lines have beyond a number; usually the newest file's last few."""
    found: deque[Record] = deque()
    for path in reversed(files_of(folder)):
        for line in _backwards(path):
            with suppress(ValueError):
                record = json.loads(line)
                if isinstance(record, dict) and number_of(record):
                    if number_of(record) <= number:
                        return list(found)
                    found.appendleft(record)
    return list(found)


def _backwards(path: Path) -> Iterator[bytes]:
    """A file's lines, the last one first; nothing where it cannot be read."""
    try:
        with path.open("rb") as file:
            place, rest = file.seek(0, os.SEEK_END), b""
            while place > 0:
                size = min(TAIL_BYTES, place)
                place -= size
                file.seek(place)
                first, *lines = (file.read(size) + rest).split(b"\n")
                yield from reversed(lines)
                rest = first
            yield rest
    except OSError:
        return


def _find_in_database(path: Path, query: EventQuery) -> tuple[int, list[Record]]:
    """The number of its newest event, and the newest that fit."""
    if not path.exists():
        return 0, []
    conditions, values = _conditions(query)
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    try:
        database = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None, timeout=2)
        try:
            database.execute("BEGIN")
            (newest,) = database.execute("SELECT coalesce(max(number), 0) FROM event").fetchone()
            rows = database.execute(
                f"SELECT body FROM event{where} ORDER BY number DESC LIMIT ?",  # noqa: S608, our own words
                (*values, query.last),
            ).fetchall()
            return newest, [json.loads(body) for (body,) in reversed(rows)]
        finally:
            database.close()
    except (sqlite3.Error, ValueError):
        return 0, []  # all of the lines are read instead


def read_query(words: Mapping[str, str]) -> EventQuery:
    """What the local API is asked with: `id`, `kind` and `reason` are lists with commas. Errors: SYNTAX."""

    def number(name: str) -> int | None:
        text = words.get(name, "")
        if text and not (text.isascii() and text.isdecimal() and len(text) < 16):
            raise error_for(ReasonCode.SYNTAX, f"{name} {text!r}: expected a number")
        return int(text) if text else None

    def moment(name: str) -> float | None:
        text = words.get(name, "")
        if not text:
            return None
        try:
            return float(text) if text[0].isdecimal() and "-" not in text else _seconds(text)
        except ValueError:
            raise error_for(
                ReasonCode.SYNTAX, f"{name} {text!r}: expected 2026-11-22T07:00:00Z, or seconds since 1970"
            ) from None

    def words_of(name: str) -> frozenset[str]:
        return frozenset(word.strip() for word in words.get(name, "").split(",") if word.strip())

    ids = words_of("id")
    for one in ids:
        if not (one.isascii() and one.isdecimal() and int(one) in BY_NUMBER):
            raise error_for(ReasonCode.SYNTAX, f"id {one!r}: not one of the event ids; see docs/events.md")
    reasons, known = words_of("reason"), {code.word for code in ReasonCode}
    for reason in sorted(reasons - known):
        raise error_for(ReasonCode.SYNTAX, f"reason {reason!r}: not one of the reasons; see docs/reasons.md")
    peer = words.get("peer", "")
    if peer:
        try:
            peer = str(ip_address(peer))
        except ValueError:
            raise error_for(ReasonCode.SYNTAX, f"peer {peer!r}: expected an address") from None
    last = number("last")
    return EventQuery(
        last=100 if last is None else last,
        since=moment("since"),
        until=moment("until"),
        ids=frozenset(map(int, ids)),
        kinds=words_of("kind"),
        reasons=reasons,
        peer=peer,
        before=number("before"),
        after=number("after"),
    )


def _seconds(text: str) -> float:
    """A time without a zone is this computer's."""
    return datetime.fromisoformat(text).astimezone(UTC).timestamp()


def _conditions(query: EventQuery) -> tuple[list[str], list[object]]:
    conditions: list[str] = []
    values: list[object] = []
    for column, operator, value in (
        ("time", ">=", query.since),
        ("time", "<=", query.until),
        ("number", "<", query.before),
        ("number", ">", query.after),
        ("peer", "=", query.peer or None),
    ):
        if value is not None:
            conditions.append(f"{column} {operator} ?")
            values.append(value)
    for column, among in (("kind", query.kinds), ("reason", query.reasons)):
        if among:
            conditions.append(f"{column} IN ({', '.join('?' * len(among))})")
            values.extend(sorted(among))
    if query.ids:
        marks = ", ".join("?" * len(query.ids))
        conditions.append(f"number IN (SELECT number FROM windows_event WHERE id IN ({marks}))")  # noqa: S608
        values.extend(sorted(query.ids))
    return conditions, values
