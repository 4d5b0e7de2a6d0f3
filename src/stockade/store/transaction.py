"""The changing half of the local store: `PolicyTransaction` (stockade.policy.contract) over one connection.

The checks are made here, with the administrator's words in the error; the tables' constraints are the second
net under them."""

import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime
from uuid import UUID

from stockade.model.reasons import ReasonCode, StockadeError, error_for
from stockade.policy.memory_store import in_use
from stockade.policy.objects import Filter, FilterAction, FilterList, Policy, PolicySet, Rule
from stockade.store.revisions import PolicyObject
from stockade.store.rows import Value, authentication_values, filter_values, main_mode_text, quick_mode_text

# table -> what people call its objects
_KINDS = {"policies": "policy", "filter_lists": "filter list", "filter_actions": "filter action"}


class LocalTransaction:
    """Valid inside its `with` block only (RuntimeError after it)."""

    __slots__ = (
        "_connection",
        "_guard",
        "_open",
        "_read",
        "_seen",
        "_store",
        "changed",
        "replaced",
        "touched",
    )

    def __init__(
        self,
        connection: sqlite3.Connection,
        store: str,
        read: Callable[[sqlite3.Connection], PolicySet],
        guard: Callable[[], AbstractContextManager[None]],
        seen: Callable[[UUID], tuple[Filter, ...] | None],
    ) -> None:
        self._connection = connection
        self._store = store
        self._read = read
        self._guard = guard  # turns SQLite's errors into ours
        self._seen = seen  # the filters of a list as this transaction read them
        self._open = True
        self.changed = False
        # For the history: what was put (None: deleted), and whether that is all there is.
        self.touched: dict[tuple[str, str], PolicyObject | None] = {}
        self.replaced = False

    def close(self) -> None:
        self._open = False

    def read(self) -> PolicySet:
        self._require_open()
        with self._guard():
            return self._read(self._connection)

    def put_filter_list(self, filter_list: FilterList) -> None:
        self._begin_change()
        self._require_free_name("filter_lists", filter_list.name, filter_list.guid)
        self._put(
            "filter_lists",
            guid=str(filter_list.guid),
            name=filter_list.name,
            name_key=filter_list.name.casefold(),
            description=filter_list.description,
            modified=_time(filter_list.modified),
        )
        guid = str(filter_list.guid)
        # Most changes append one filter: what is there already as it shall be is left alone.
        same, there = self._common_beginning(filter_list, guid)
        if same < there:
            self._run("DELETE FROM filters WHERE filter_list = ? AND position >= ?", (guid, same))
        self._run_many(
            f"INSERT INTO filters VALUES ({_marks(19)})",  # noqa: S608 - question marks only
            [
                (guid, position, *filter_values(entry))
                for position, entry in enumerate(filter_list.filters[same:], start=same)
            ],
        )
        self._touch("filter_lists", guid, filter_list)

    def put_filter_action(self, filter_action: FilterAction) -> None:
        self._begin_change()
        self._require_free_name("filter_actions", filter_action.name, filter_action.guid)
        self._put(
            "filter_actions",
            guid=str(filter_action.guid),
            name=filter_action.name,
            name_key=filter_action.name.casefold(),
            action=filter_action.action.value,
            methods=quick_mode_text(filter_action.methods),
            inpass=int(filter_action.inpass),
            soft=int(filter_action.soft),
            session_pfs=int(filter_action.session_pfs),
            description=filter_action.description,
            modified=_time(filter_action.modified),
        )
        self._touch("filter_actions", str(filter_action.guid), filter_action)

    def put_policy(self, policy: Policy) -> None:
        self._begin_change()
        self._require_free_name("policies", policy.name, policy.guid)
        if policy.assigned:
            self._run("UPDATE policies SET assigned = 0 WHERE guid <> ?", (str(policy.guid),))
        self._put(
            "policies",
            guid=str(policy.guid),
            name=policy.name,
            name_key=policy.name.casefold(),
            assigned=int(policy.assigned),
            main_mode_methods=main_mode_text(policy.main_mode_methods),
            main_mode_minutes=policy.main_mode_minutes,
            quick_modes_per_main_mode=policy.quick_modes_per_main_mode,
            master_pfs=int(policy.master_pfs),
            polling_minutes=policy.polling_minutes,
            description=policy.description,
            modified=_time(policy.modified),
        )
        self._run("DELETE FROM rules WHERE policy = ?", (str(policy.guid),))
        names: set[str] = set()
        for position, rule in enumerate(policy.rules):
            key = rule.name.casefold()
            if key and key in names:
                raise error_for(
                    ReasonCode.NAME_EXISTS,
                    f"rule “{rule.name}” stands twice in the policy",
                    policy=policy.name,
                )
            names.add(key)
            self._insert_rule(policy, position, rule)
        self._touch("policies", str(policy.guid), policy)

    def delete_policy(self, name: str) -> None:
        self._begin_change()
        guid = self._guid("policies", name)
        self._run("DELETE FROM policies WHERE guid = ?", (guid,))
        self._touch("policies", guid, None)

    def delete_filter_list(self, name: str) -> None:
        self._delete_unused("filter_lists", "filter_list", name)

    def delete_filter_action(self, name: str) -> None:
        self._delete_unused("filter_actions", "filter_action", name)

    def replace_all(self, objects: PolicySet) -> None:
        """Make the store hold exactly these objects. Errors as for `put_*`."""
        self._begin_change()
        for table in ("policies", "filter_lists", "filter_actions"):
            self._run(f"DELETE FROM {table}")  # noqa: S608 - a table of `schema`
        self.touched.clear()
        self.replaced = True
        for filter_list in objects.filter_lists:
            self.put_filter_list(filter_list)
        for filter_action in objects.filter_actions:
            self.put_filter_action(filter_action)
        for policy in objects.policies:
            self.put_policy(policy)

    def put_setting(self, key: str, value: str | None) -> None:
        """Keep `value` under `key` of the store's settings, or forget it (None)."""
        self._begin_change()
        if value is None:
            self._run("DELETE FROM settings WHERE key = ?", (key,))
        else:
            self._run("INSERT OR REPLACE INTO settings VALUES (?, ?)", (key, value))

    def _common_beginning(self, filter_list: FilterList, guid: str) -> tuple[int, int]:
        """How many filters the list begins with that the store has as they shall be, and how many it has."""
        seen = None if self.changed_before(guid) else self._seen(filter_list.guid)
        if seen is not None:
            same = 0
            for old, new in zip(seen, filter_list.filters, strict=False):
                if old is not new:
                    break
                same += 1
            return same, len(seen)
        rows = self._run("SELECT * FROM filters WHERE filter_list = ? ORDER BY position", (guid,)).fetchall()
        same = 0
        for row, entry in zip(rows, filter_list.filters, strict=False):
            if tuple(row) != (guid, same, *filter_values(entry)):
                break
            same += 1
        return same, len(rows)

    def changed_before(self, guid: str) -> bool:
        """Whether this transaction has changed the filter list already."""
        return self.replaced or ("filter_lists", guid) in self.touched

    # -- one row

    def _insert_rule(self, policy: Policy, position: int, rule: Rule) -> None:
        taken = self._run(
            "SELECT policies.name FROM rules JOIN policies ON policies.guid = rules.policy"
            " WHERE rules.guid = ?",
            (str(rule.guid),),
        ).fetchone()
        if taken is not None:
            raise error_for(
                ReasonCode.NAME_EXISTS,
                f"rule GUID {rule.guid} stands twice",
                policy=policy.name,
                other=taken[0],
            )
        references: list[str | None] = [None, None]
        if not rule.is_default_response:
            used = (("filter_lists", rule.filter_list), ("filter_actions", rule.filter_action))
            references = [self._guid(table, name, rule=rule.name) for table, name in used]
        self._run(
            f"INSERT INTO rules VALUES ({_marks(15)})",  # noqa: S608 - question marks only
            (
                str(rule.guid),
                str(policy.guid),
                position,
                rule.name,
                rule.name.casefold(),
                int(rule.is_default_response),
                *references,
                None if rule.tunnel_endpoint is None else str(rule.tunnel_endpoint),
                rule.connection_type.value,
                int(rule.active),
                rule.description,
                _time(rule.modified),
                quick_mode_text(rule.response_methods),
                int(rule.response_session_pfs),
            ),
        )
        self._run_many(
            f"INSERT INTO rule_authentication VALUES ({_marks(7)})",  # noqa: S608 - question marks only
            [
                (str(rule.guid), number, *authentication_values(method))
                for number, method in enumerate(rule.authentication)
            ],
        )

    def _put(self, table: str, **columns: str | int) -> None:
        """Insert the row, or change the one with the same GUID in place (rules refer to it)."""
        names = ", ".join(columns)
        changes = ", ".join(f"{name} = excluded.{name}" for name in columns if name != "guid")
        # The names are those of `schema`, written in this file; every value is a parameter.
        self._run(
            f"INSERT INTO {table} ({names}) VALUES ({_marks(len(columns))})"  # noqa: S608
            f" ON CONFLICT (guid) DO UPDATE SET {changes}",
            tuple(columns.values()),
        )

    def _guid(self, table: str, name: str, **facts: str) -> str:
        row = self._run(
            f"SELECT guid FROM {table} WHERE name_key = ?",  # noqa: S608 - a table of `schema`
            (name.casefold(),),
        ).fetchone()
        if row is None:
            raise error_for(
                ReasonCode.UNKNOWN_NAME, f"there is no {_KINDS[table]} “{name}”", **facts, store=self._store
            )
        return str(row[0])

    def _require_free_name(self, table: str, name: str, guid: UUID) -> None:
        row = self._run(
            f"SELECT name FROM {table} WHERE name_key = ? AND guid <> ?",  # noqa: S608 - a table of `schema`
            (name.casefold(), str(guid)),
        ).fetchone()
        if row is not None:
            raise _exists(table, str(row[0]), self._store)

    def _delete_unused(self, table: str, column: str, name: str) -> None:
        self._begin_change()
        guid = self._guid(table, name)
        user = self._run(
            "SELECT rules.name, policies.name FROM rules"  # noqa: S608 - a column of `schema`
            " JOIN policies ON policies.guid = rules.policy"
            f" WHERE rules.{column} = ? ORDER BY policies.rowid, rules.position",
            (guid,),
        ).fetchone()
        if user is not None:
            raise in_use(_KINDS[table], name, str(user[0]), str(user[1]))
        self._run(f"DELETE FROM {table} WHERE guid = ?", (guid,))  # noqa: S608
        self._touch(table, guid, None)

    # -- all SQL passes here

    def _run(self, statement: str, values: tuple[Value, ...] = ()) -> sqlite3.Cursor:
        self._require_open()
        with self._guard():
            return self._connection.execute(statement, values)

    def _run_many(self, statement: str, rows: list[tuple[Value, ...]]) -> None:
        self._require_open()
        with self._guard():
            self._connection.executemany(statement, rows)

    def _touch(self, table: str, guid: str, entry: PolicyObject | None) -> None:
        self.touched[(table, guid)] = entry

    def _begin_change(self) -> None:
        self._require_open()
        self.changed = True

    def _require_open(self) -> None:
        if not self._open:
            raise RuntimeError("this transaction has ended")


def _exists(table: str, name: str, store: str) -> StockadeError:
    return error_for(ReasonCode.NAME_EXISTS, f"there is a {_KINDS[table]} “{name}” already", store=store)


def _marks(count: int) -> str:
    return ", ".join("?" * count)


def _time(moment: datetime) -> str:
    return moment.isoformat()
