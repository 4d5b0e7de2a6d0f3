"""The history of a local store: every committed change is a revision, with its time, its author and the
command that made it.

    revisions   number, made, author, command, assigned policy, settings, objects: [[kind, guid, content], …]
    contents    id, digest, body: the compressed JSON of one object in one of its states

A state that several revisions share is kept once, so a revision costs what it changed. The history is
bounded: the newest `KEPT_REVISIONS` are kept, of older ones the last of each of `KEPT_DAYS` days, and of
those as many as fit into `MAXIMUM_BYTES`. Pre-shared keys are part of it, in clear like in the store itself;
`forget` ends that for keys that were replaced."""

import hashlib
import json
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from stockade.policy.objects import FilterAction, FilterList, Policy, PolicySet, Rule
from stockade.store.json_form import (
    Form,
    FormError,
    decode,
    encode,
    filter_action_form,
    filter_action_of,
    filter_list_form,
    filter_list_of,
    member,
    policy_form,
    policy_of,
    record,
    text,
)

KEPT_REVISIONS = 200
KEPT_DAYS = 366
MAXIMUM_BYTES = 16 * 1024 * 1024
MAXIMUM_COMMAND = 4_000  # characters of a command that are kept
_MAXIMUM_BODY = 256 * 1024 * 1024  # octets of one object's JSON: more is damage, not a filter list

PolicyObject = FilterList | FilterAction | Policy
# (table, GUID) → the object's new state, None where it was deleted
Touched = Mapping[tuple[str, str], PolicyObject | None]


@dataclass(frozen=True, slots=True)
class Revision:
    """One entry of the history. `added`, `changed`, `removed` count policies, filter lists and filter actions
    against the revision before it that is still kept. `command` holds no keys."""

    number: int
    made: datetime
    author: str
    command: str
    added: int
    changed: int
    removed: int


def is_empty(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM revisions LIMIT 1").fetchone() is None


def add_revision(
    connection: sqlite3.Connection, author: str, command: str, touched: Touched, *, whole: bool = False
) -> None:
    """Write the present state as a new revision. `touched` says what changed since the last one; with
    `whole` it is all that there is. The caller holds the transaction that made the change."""
    objects: dict[tuple[str, str], int] = {}
    last = connection.execute("SELECT objects FROM revisions ORDER BY number DESC LIMIT 1").fetchone()
    if last is not None and not whole:
        objects = {(kind, guid): content for kind, guid, content in json.loads(last[0])}
    for key, entry in touched.items():
        if entry is None:
            objects.pop(key, None)
        else:
            objects[key] = _keep(connection, encode(form_of(connection, entry)))
    assigned = connection.execute("SELECT guid FROM policies WHERE assigned = 1").fetchone()
    settings = dict(connection.execute("SELECT key, value FROM settings ORDER BY key").fetchall())
    connection.execute(
        "INSERT INTO revisions (made, author, command, assigned, objects, settings)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (
            datetime.now(UTC).isoformat(timespec="seconds"),
            author,
            command[:MAXIMUM_COMMAND],
            None if assigned is None else assigned[0],
            json.dumps([[kind, guid, content] for (kind, guid), content in objects.items()]),
            json.dumps(settings),
        ),
    )
    _prune(connection)


def form_of(connection: sqlite3.Connection, entry: PolicyObject) -> Form:
    """An object as its revision keeps it."""
    if isinstance(entry, FilterList):
        return filter_list_form(entry)
    if isinstance(entry, FilterAction):
        return filter_action_form(entry)
    # As the tables have them: a list may have been renamed after the policy was put.
    rows = connection.execute(
        "SELECT guid, filter_list, filter_action FROM rules WHERE policy = ?", (str(entry.guid),)
    )
    references = {guid: (filter_list, filter_action) for guid, filter_list, filter_action in rows}

    def of(rule: Rule) -> tuple[str, str]:
        return references[str(rule.guid)]

    return policy_form(entry, of)


def _keep(connection: sqlite3.Connection, body: bytes) -> int:
    digest = hashlib.sha256(body).digest()
    found = connection.execute("SELECT id FROM contents WHERE digest = ?", (digest,)).fetchone()
    if found is None:
        compressed = zlib.compress(body, 1)
        connection.execute("INSERT INTO contents (digest, body) VALUES (?, ?)", (digest, compressed))
        found = connection.execute("SELECT id FROM contents WHERE digest = ?", (digest,)).fetchone()
    return int(found[0])


# -- reading


def history(connection: sqlite3.Connection) -> tuple[Revision, ...]:
    """All revisions that are kept, oldest first."""
    found = []
    before: dict[str, int] = {}
    for row in connection.execute(
        "SELECT number, made, author, command, objects FROM revisions ORDER BY number"
    ):
        objects = {guid: content for _, guid, content in json.loads(row[4])}
        common = objects.keys() & before.keys()
        found.append(
            Revision(
                row[0],
                datetime.fromisoformat(row[1]),
                row[2],
                row[3],
                len(objects.keys() - before.keys()),
                sum(objects[guid] != before[guid] for guid in common),
                len(before.keys() - objects.keys()),
            )
        )
        before = objects
    return tuple(found)


def state_of(
    connection: sqlite3.Connection, number: int, store: str
) -> tuple[PolicySet, dict[str, str]] | None:
    """Objects and settings as they were after revision `number`; None where it is not kept. FormError (or
    another ValueError) where the history is damaged."""
    row = connection.execute(
        "SELECT assigned, objects, settings FROM revisions WHERE number = ?", (number,)
    ).fetchone()
    if row is None:
        return None
    forms: dict[str, list[Mapping[str, Form]]] = {"policies": [], "filter_lists": [], "filter_actions": []}
    for kind, _, content in json.loads(row[1]):
        forms[kind].append(body_of(connection, content))
    filter_lists = tuple(filter_list_of(form) for form in forms["filter_lists"])
    filter_actions = tuple(filter_action_of(form) for form in forms["filter_actions"])
    list_names = {str(entry.guid): entry.name for entry in filter_lists}
    action_names = {str(entry.guid): entry.name for entry in filter_actions}
    try:
        policies = tuple(
            policy_of(
                form,
                list_names,
                action_names,
                assigned=row[0] is not None and text(member(form, "guid")) == row[0],
            )
            for form in forms["policies"]
        )
    except KeyError:
        raise FormError("a rule names an object that is not there") from None
    return PolicySet(policies, filter_lists, filter_actions, store), json.loads(row[2])


def body_of(connection: sqlite3.Connection, content: int) -> Mapping[str, Form]:
    """What is kept under a number in `contents`; FormError where it is damaged."""
    row = connection.execute("SELECT body FROM contents WHERE id = ?", (content,)).fetchone()
    if row is None:
        raise FormError("a part of the revision is missing")
    unpacked = zlib.decompressobj()
    try:
        body = unpacked.decompress(row[0], _MAXIMUM_BODY)
    except zlib.error:
        raise FormError("a part of the revision is damaged") from None
    return record(decode(body))


# -- bounds


def forget(connection: sqlite3.Connection, keep: int) -> int:
    """Drop all but the newest `keep` (1 or more) revisions; how many were dropped."""
    numbers = [row[0] for row in connection.execute("SELECT number FROM revisions ORDER BY number")]
    doomed = numbers[: max(0, len(numbers) - max(1, keep))]
    _drop(connection, doomed)
    return len(doomed)


def _prune(connection: sqlite3.Connection) -> None:
    rows = connection.execute("SELECT number, made FROM revisions ORDER BY number DESC").fetchall()
    if len(rows) > KEPT_REVISIONS:
        _drop(connection, list(_beyond(rows)))
    while (size := _bytes(connection)) > MAXIMUM_BYTES:
        numbers = [row[0] for row in connection.execute("SELECT number FROM revisions ORDER BY number")]
        if len(numbers) <= 2:
            return
        # As large a part of the oldest as the size is too large, so that this ends soon.
        share = (size - MAXIMUM_BYTES) / size
        _drop(connection, numbers[: max(1, min(len(numbers) - 2, int(len(numbers) * share)))])


def _beyond(rows: Sequence[tuple[int, str]]) -> Iterator[int]:
    """The numbers that the rule does not keep; `rows` newest first."""
    days: set[str] = {made[:10] for _, made in rows[:KEPT_REVISIONS]}
    for number, made in rows[KEPT_REVISIONS:]:
        day = made[:10]
        if day in days or len(days) >= KEPT_DAYS:
            yield number
        days.add(day)


def _bytes(connection: sqlite3.Connection) -> int:
    row = connection.execute("SELECT total(length(body)) FROM contents").fetchone()
    return int(row[0])


def _drop(connection: sqlite3.Connection, numbers: Sequence[int]) -> None:
    if not numbers:
        return
    connection.executemany("DELETE FROM revisions WHERE number = ?", [(number,) for number in numbers])
    used: set[int] = set()
    for (objects,) in connection.execute("SELECT objects FROM revisions"):
        used.update(content for _, _, content in json.loads(objects))
    unused = [row for row in connection.execute("SELECT id FROM contents") if row[0] not in used]
    connection.executemany("DELETE FROM contents WHERE id = ?", unused)
