"""Whether what a store's tables say is what was written there: a comparison with the newest revision.

SQLite notices damage to its pages, not a flipped bit inside a value: such a row reads as a filter that nobody
wrote. Every change left a revision with a SHA-256 of each object in its new state (`revisions`), in another
part of the file. So each object that was read is put into its revision's form again and its digest compared;
where they differ (the form may be that of an older program) the two objects themselves are.

Left out: somebody who may write the file and changes both. File permissions are what keeps him away."""

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from uuid import UUID

from stockade.policy.objects import FilterAction, FilterList, PolicySet
from stockade.store.json_form import encode, filter_action_of, filter_list_of, member, policy_of, text
from stockade.store.revisions import PolicyObject, body_of, form_of

__all__ = ["Verified", "objects_problem", "settings_problem"]

_WORDS = {"filter_lists": "filter list", "filter_actions": "filter action", "policies": "policy"}


def settings_problem(connection: sqlite3.Connection) -> str:
    """What is wrong with the settings; empty if nothing is, and where there is no history to tell it."""
    row = connection.execute("SELECT settings FROM revisions ORDER BY number DESC LIMIT 1").fetchone()
    if row is None:
        return ""
    present = dict(connection.execute("SELECT key, value FROM settings").fetchall())
    try:
        expected = json.loads(row[0])
    except ValueError:
        return "its history is damaged"
    return "" if expected == present else "its settings are not those that its history tells"


Verified = dict[UUID, tuple[FilterList, bytes]]
"""Filter lists that were found to be what their revision says, with the digest of that revision."""


def objects_problem(
    connection: sqlite3.Connection, objects: PolicySet, verified: Verified | None = None
) -> str:
    """What of `objects`, just read from the tables, is not as its newest revision says; empty if nothing is,
    and where there is no history to tell it. `verified` is of the reading before, and becomes that of this
    one: a list that is what it was, with a digest that is what it was, need not be written out again."""
    verified = {} if verified is None else verified
    before = dict(verified)
    verified.clear()
    row = connection.execute(
        "SELECT assigned, objects FROM revisions ORDER BY number DESC LIMIT 1"
    ).fetchone()
    if row is None:
        return ""
    try:
        expected = {(kind, guid): content for kind, guid, content in json.loads(row[1])}
    except (TypeError, ValueError):
        return "its history is damaged"
    digests = {
        number: bytes(digest) for number, digest in connection.execute("SELECT id, digest FROM contents")
    }
    for kind, entry in _all(objects):
        content = expected.pop((kind, str(entry.guid)), None)
        if content is None:
            return f"its history does not know the {_WORDS[kind]} “{entry.name}”"
        digest = digests.get(content)
        if isinstance(entry, FilterList) and digest is not None and before.get(entry.guid) == (entry, digest):
            verified[entry.guid] = (entry, digest)
            continue
        form = encode(form_of(connection, entry))
        if hashlib.sha256(form).digest() != digest:
            if not _same(connection, objects, entry, content, assigned=row[0]):
                return f"the {_WORDS[kind]} “{entry.name}” is not what was written"
        elif isinstance(entry, FilterList):
            verified[entry.guid] = (entry, digest)
    for kind, _ in expected:
        return f"a {_WORDS.get(kind, 'object')} is missing that its history tells of"
    assigned = [str(policy.guid) for policy in objects.policies if policy.assigned]
    if assigned != ([] if row[0] is None else [row[0]]):
        return "another policy is assigned than its history tells"
    return settings_problem(connection)


def _all(objects: PolicySet) -> Iterator[tuple[str, PolicyObject]]:
    for one in objects.filter_lists:
        yield "filter_lists", one
    for action in objects.filter_actions:
        yield "filter_actions", action
    for policy in objects.policies:
        yield "policies", policy


def _same(
    connection: sqlite3.Connection,
    objects: PolicySet,
    entry: PolicyObject,
    content: int,
    assigned: str | None,
) -> bool:
    """Whether the revision's form reads as the same object."""
    try:
        form = body_of(connection, content)
        if isinstance(entry, FilterList):
            return filter_list_of(form) == entry
        if isinstance(entry, FilterAction):
            return filter_action_of(form) == entry
        list_names = {str(one.guid): one.name for one in objects.filter_lists}
        action_names = {str(one.guid): one.name for one in objects.filter_actions}
        return entry == policy_of(
            form, list_names, action_names, assigned=assigned == text(member(form, "guid"))
        )
    except (ValueError, KeyError, TypeError):
        return False
