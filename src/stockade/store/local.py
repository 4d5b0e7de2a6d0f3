"""The local policy store: one SQLite file, safe against `kill -9` and power loss.

WAL, `synchronous=FULL` and foreign keys are on; every change is one `BEGIN IMMEDIATE` transaction, so another
process sees all of it or nothing. Pre-shared keys are in the file in clear, as they are in Windows' registry
and Active Directory ([MS-GPIPSEC] §2.2.1.3.1): the file has mode 0600 and a folder that the store makes has
mode 0700. `secure_delete` overwrites what is deleted.

A store that is damaged, was removed under us, or is of a later version is STORE_UNREADABLE and never reads as
an empty one: an empty policy permits everything. For the same reason a new file is made complete beside its
place and put there in one step, so that a file of length 0 is always damage.

Every change is a revision (`revisions`): who, when, by which command; `rollback` is one more change."""

import os
import pwd
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from uuid import UUID

from stockade.model.reasons import ReasonCode, StockadeError, error_for
from stockade.policy.objects import Filter, FilterList, PolicySet
from stockade.store import revisions
from stockade.store.file_watch import FileWatch
from stockade.store.integrity import Verified, objects_problem, settings_problem
from stockade.store.revisions import PolicyObject, Revision
from stockade.store.rows import FilterMemory, read_policy_set
from stockade.store.schema import APPLICATION_ID, SCHEMA_VERSION, migrate, schema_version
from stockade.store.settings import Settings
from stockade.store.transaction import LocalTransaction

BUSY_SECONDS = 5.0

_BUSY_CODES = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
# What reading rows raises that nobody wrote; a column's name may be another one too.
_DAMAGE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError)
_COPIED_OVER = "another store was copied over it while it was in use"
# By another inode: SQLite keeps what it knows of this one as long as the process lives.
_BY_ANOTHER_INODE = "restore it from a backup (by mv, not by cp), or delete it to begin anew"
_MOST_CHANGES = 1 << 24
"""More changes than these do not wait in a log: then it is the log of another store."""

# Connections that must not be closed: those that came over a fork (closing one in the child could disturb the
# parent's locks), and those to a file that was overwritten (closing one folds its log into the ruins).
_abandoned: list[sqlite3.Connection] = []


class LocalStore:
    """A `PolicyStore` (stockade.policy.contract) in the file `path`, made when it is first used.

    May be shared by threads, and by processes (each opens the file for itself, also after a fork).
    `busy_seconds` is how long a call waits for another writer before STORE_BUSY."""

    def __init__(self, path: Path, name: str = "local", *, busy_seconds: float = BUSY_SECONDS) -> None:
        self.path = Path(path)
        self.settings = Settings(self)
        self._name = name
        self._busy_seconds = busy_seconds
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._watch: FileWatch | None = None
        self._process = 0
        # What was read last, and at which change: most commands read everything and change one object.
        self._seen: tuple[int, PolicySet] | None = None
        self._filters, self._verified = FilterMemory(), Verified()
        self._change: LocalTransaction | None = None
        self._author = current_author()
        self._command = ""
        self._stored_changes = 0  # the change counter in the file itself, when it was looked at last
        self._copied_over: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        return self._name

    @property
    def is_open(self) -> bool:
        """Whether its file was opened by this object (and not closed)."""
        return self._connection is not None

    def read(self) -> PolicySet:
        """All objects in one consistent view. From inside a transaction of this thread: its own changes
        too."""
        with self._opened() as connection, self._view(connection):
            return self._read_set(connection)

    def version(self) -> int:
        """Differs after every committed change, by any process, and after the file was replaced."""
        with self._opened() as connection:
            return self._changes(connection)

    @contextmanager
    def transaction(self) -> Iterator[LocalTransaction]:
        """Change the store: all of the block or, after any exception, nothing. Not nestable."""
        with self._locked():
            with self._guard():
                connection = self._connect()
                if connection.in_transaction:
                    raise RuntimeError("a transaction of this store is open in this thread already")
                connection.execute("BEGIN IMMEDIATE")
                if self._seen is not None and self._seen[0] != self._changes(connection):
                    self._seen = None  # somebody else has changed it since
            change = self._change = LocalTransaction(
                connection, self._name, self._read_set, self._guard, self._seen_filters
            )
            try:
                with self._guard():
                    self._begin_history(connection)
                yield change
                with self._guard():
                    if change.changed:
                        connection.execute("UPDATE meta SET value = value + 1 WHERE key = 'changes'")
                        self._add_revision(connection, change)
                    connection.execute("COMMIT")
                self._carry_over(change)
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            finally:
                self._change = None
                change.close()

    def describe(self, command: str) -> None:
        """What the history says about the changes from now on: the command, without keys."""
        self._command = command

    def history(self) -> tuple[Revision, ...]:
        """The revisions that are kept, oldest first."""
        with self._opened() as connection, self._view(connection), self._history_guard():
            return revisions.history(connection)

    def revision(self, number: int) -> PolicySet:
        """All objects as they were after revision `number`. CallerError UNKNOWN_NAME where it is not kept."""
        return self._state_of(number)[0]

    def settings_at(self, number: int | None) -> dict[str, str]:
        """The settings as they were after revision `number`, or are now."""
        if number is not None:
            return self._state_of(number)[1]
        return {key: value for key in self._setting_keys() if (value := self.get_setting(key)) is not None}

    def rollback(self, number: int) -> None:
        """Make the store (objects and settings) as it was after revision `number`; a new revision says so."""
        objects, settings = self._state_of(number)
        with self.transaction() as change:
            change.replace_all(objects)
            for key in {*settings, *self._setting_keys()}:
                change.put_setting(key, settings.get(key))

    def forget(self, keep: int) -> int:
        """Drop all but the newest `keep` revisions (at least one stays), with the keys in them; how many were
        dropped."""
        with self._locked(), self._guard():
            connection = self._connect()
            connection.execute("BEGIN IMMEDIATE")
            try:
                dropped = revisions.forget(connection, keep)
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            # The log still has the old pages; fold it in and cut it off.
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            return dropped

    def _state_of(self, number: int) -> tuple[PolicySet, dict[str, str]]:
        state = None
        if 0 < number < 1 << 63:  # what SQLite can count to
            with self._opened() as connection, self._view(connection), self._history_guard():
                state = revisions.state_of(connection, number, self._name)
        if state is None:
            raise error_for(
                ReasonCode.UNKNOWN_NAME,
                f"there is no revision {number} (any more): stockade policy history lists what there is",
                store=self._name,
            )
        return state

    def _setting_keys(self) -> list[str]:
        with self._opened() as connection:
            return [str(row[0]) for row in connection.execute("SELECT key FROM settings")]

    def _begin_history(self, connection: sqlite3.Connection) -> None:
        """The first revision is what is there before the first change."""
        if revisions.is_empty(connection):
            objects = self._read_set(connection)
            touched: dict[tuple[str, str], PolicyObject | None] = {}
            touched |= {("filter_lists", str(one.guid)): one for one in objects.filter_lists}
            touched |= {("filter_actions", str(one.guid)): one for one in objects.filter_actions}
            touched |= {("policies", str(one.guid)): one for one in objects.policies}
            revisions.add_revision(connection, self._author, "(the beginning of the history)", touched)

    def _add_revision(self, connection: sqlite3.Connection, change: LocalTransaction) -> None:
        revisions.add_revision(connection, self._author, self._command, change.touched, whole=change.replaced)

    @contextmanager
    def _history_guard(self) -> Iterator[None]:
        try:
            yield
        except _DAMAGE as error:
            raise self._unreadable(
                f"its history is damaged ({error})", "the policies in it are not"
            ) from error

    def get_setting(self, key: str) -> str | None:
        """The text kept under `key`. Callers use `settings`."""
        with self._opened() as connection:
            problem = "" if connection.in_transaction else settings_problem(connection)
            if problem:
                raise self._unreadable(f"it is damaged: {problem}", "restore it from a backup")
            # The table was compared with the history; its index may be damaged all the same.
            query = "SELECT value FROM settings NOT INDEXED WHERE key = ?"
            row = connection.execute(query, (key,)).fetchone()
            return None if row is None else str(row[0])

    def put_setting(self, key: str, value: str | None) -> None:
        """Keep `value` under `key`, or forget it (None). Callers use `settings`."""
        with self.transaction() as change:
            change.put_setting(key, value)

    def copy_to(self, path: Path) -> None:
        """Write a complete copy beside `path` and put it there in one step (mode 0600, it holds the keys
        too)."""
        beside = path.with_name(path.name + ".new")
        with self._opened() as connection:
            beside.unlink(missing_ok=True)
            os.close(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            copy = sqlite3.connect(beside)
            try:
                connection.backup(copy)
            finally:
                copy.close()
            for leftover in ("-wal", "-shm"):
                path.with_name(path.name + leftover).unlink(missing_ok=True)
            beside.replace(path)

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        with self._lock:
            if self._connection is not None and self._process == os.getpid():
                self._connection.close()
            self._connection = None
            self._seen = None
            self._release_watch()

    def __repr__(self) -> str:
        return f"LocalStore({str(self.path)!r}, {self._name!r})"

    # -- the file

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One thread at a time."""
        if not self._lock.acquire(timeout=self._busy_seconds):
            raise error_for(ReasonCode.STORE_BUSY, "another thread is changing it", file=self.path)
        try:
            yield
        finally:
            self._lock.release()

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """SQLite's and the system's errors become ours."""
        try:
            yield
        except sqlite3.Error as error:
            raise self._translated(error) from error
        except UnicodeDecodeError as error:  # SQLite quotes what it stumbled over
            raise self._unreadable(
                "its tables are damaged", "restore it from a backup, or delete it to begin anew"
            ) from error
        except OSError as error:
            what = error.strerror or str(error)
            raise self._unreadable(what, "see the permissions of the file and its folder") from error

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        with self._locked(), self._guard():
            yield self._connect()

    def _connect(self) -> sqlite3.Connection:
        if self._connection is not None and self._process != os.getpid():
            self._abandon()
        if self._connection is not None and self._watch is not None:
            if self._connection.in_transaction:
                return self._connection
            try:
                there = os.stat(self.path)
            except FileNotFoundError:
                raise self._unreadable(
                    "it was removed while it was in use", "put it back, or restart to begin with an empty one"
                ) from None
            if (there.st_dev, there.st_ino) == self._watch.identity:
                self._require_sound(self._watch)
                self._require_same(self._watch, self._connection)
                return self._connection
            self.close()  # another file stands there now, such as a restored backup
        self._make()
        self._check_status()
        self._watch = FileWatch(self.path)
        if self._watch.identity == self._copied_over:
            self._release_watch()
            raise self._unreadable(_COPIED_OVER, _BY_ANOTHER_INODE)
        self._copied_over, self._stored_changes = None, 0
        try:
            self._require_sound(self._watch)
            connection = sqlite3.connect(
                f"file:{_uri_path(self.path)}?mode=rw",
                uri=True,
                timeout=self._busy_seconds,
                isolation_level=None,
                check_same_thread=False,
            )
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
        except BaseException:
            self._release_watch()
            raise
        self._connection, self._process = connection, os.getpid()
        self._require_same(self._watch, connection)
        return connection

    def _require_sound(self, watch: FileWatch) -> None:
        problem = watch.problem()
        if problem:
            self._abandon()
            raise self._unreadable(problem, _BY_ANOTHER_INODE)

    def _require_same(self, watch: FileWatch, connection: sqlite3.Connection) -> None:
        """Another store that was copied over the file is not the policy that somebody wrote here, and what is
        left in the log belongs to the old one."""
        if not watch.was_written():
            return
        stored = watch.change_counter()
        if stored is None:
            return
        known = self._changes(connection)
        if stored < self._stored_changes or not stored <= known < stored + _MOST_CHANGES:
            self._copied_over = watch.identity
            self._abandon()
            raise self._unreadable(_COPIED_OVER, _BY_ANOTHER_INODE)
        self._stored_changes = stored

    def _abandon(self) -> None:
        """Let go of the connection without closing it."""
        if self._connection is not None:
            _abandoned.append(self._connection)
        self._connection = None
        self._seen = None
        self._release_watch()

    def _release_watch(self) -> None:
        if self._watch is not None:
            self._watch.close()
        self._watch = None

    def _make(self) -> None:
        """Put an empty store in place, unless there is a file already."""
        if os.path.lexists(self.path):
            return
        leftover = self.path.with_name(self.path.name + "-wal")
        if leftover.exists() and not os.path.lexists(self.path):  # no other process was making it just now
            raise self._unreadable(
                f"it is missing, but {leftover.name} is there", "restore both, or delete the other one too"
            )
        if not self.path.parent.exists():
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = self.path.with_name(f".{self.path.name}.{os.getpid()}.{threading.get_ident()}.new")
        made.unlink(missing_ok=True)
        os.close(os.open(made, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW, 0o600))
        try:
            connection = sqlite3.connect(made, isolation_level=None)
            try:
                connection.execute("PRAGMA synchronous = FULL")
                migrate(connection)
            finally:
                connection.close()
            with suppress(FileExistsError):  # another process made it meanwhile: that one is as good
                os.link(made, self.path)
        finally:
            made.unlink(missing_ok=True)
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _check_status(self) -> None:
        """The file and its folder must be such that only their owner decides what is in them."""
        folder = os.stat(self.path.parent)
        if folder.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not folder.st_mode & stat.S_ISVTX:
            raise self._unreadable(
                "others may write in its folder, and so put another policy there",
                f"chmod go-w {self.path.parent}",
            )
        status = os.stat(self.path)
        if not stat.S_ISREG(status.st_mode):
            raise self._unreadable("it is not a regular file", "name another file")
        if status.st_size == 0:
            raise self._unreadable(
                "it is empty, which a store never is", "restore it from a backup, or delete it to begin anew"
            )
        if stat.S_IMODE(status.st_mode) & 0o077:
            os.chmod(self.path, 0o600)

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.row_factory = sqlite3.Row
        found = self._scalar(connection, "PRAGMA application_id")
        if found != APPLICATION_ID:
            raise self._unreadable("it is a database of another program", "name another file")
        if schema_version(connection) > SCHEMA_VERSION:
            raise self._unreadable(
                f"its format {schema_version(connection)} is newer than this program's {SCHEMA_VERSION}",
                "use the newer program",
            )
        self._set_wal(connection)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute("PRAGMA trusted_schema = OFF")
        migrate(connection)
        verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise self._unreadable(f"its pages are damaged ({verdict})", "restore it from a backup")

    def _set_wal(self, connection: sqlite3.Connection) -> None:
        """WAL, with patience: SQLite does not wait for its lock here when two processes begin together."""
        end = time.monotonic() + self._busy_seconds
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or time.monotonic() >= end:
                    raise
                time.sleep(0.01)

    # -- reading

    @contextmanager
    def _view(self, connection: sqlite3.Connection) -> Iterator[None]:
        if connection.in_transaction:
            yield
            return
        connection.execute("BEGIN")
        try:
            yield
        finally:
            connection.execute("ROLLBACK")

    def _read_set(self, connection: sqlite3.Connection) -> PolicySet:
        changed = self._change is not None and self._change.changed
        version = self._changes(connection)
        if self._seen is not None and self._seen[0] == version and not changed:
            return self._seen[1]
        try:
            objects = read_policy_set(connection, self._name, self._filters)
            # while a change is going on, its history is not written yet
            problem = "" if changed else objects_problem(connection, objects, self._verified)
        except _DAMAGE as error:
            raise self._unreadable(
                f"an object in it is not valid ({error})", "restore it from a backup"
            ) from error
        if problem:
            raise self._unreadable(f"it is damaged: {problem}", "restore it from a backup")
        if not changed:
            self._seen = (version, objects)
        return objects

    def _seen_filters(self, guid: UUID) -> tuple[Filter, ...] | None:
        """The filters of a list as they were read in this transaction, before any change."""
        if self._seen is None:
            return None
        return next((entry.filters for entry in self._seen[1].filter_lists if entry.guid == guid), None)

    def _carry_over(self, change: LocalTransaction) -> None:
        """After a commit: what was seen, with what was changed. Nothing, where that is not simple."""
        seen, self._seen = self._seen, None
        if seen is None or not change.changed:
            self._seen = seen
            return
        lists = {entry.guid: entry for entry in seen[1].filter_lists}
        for entry in change.touched.values():
            if not isinstance(entry, FilterList) or (
                entry.guid in lists and lists[entry.guid].name != entry.name
            ):
                return
            lists[entry.guid] = entry
        if not change.replaced:
            self._seen = (seen[0] + 1, replace(seen[1], filter_lists=tuple(lists.values())))

    def _changes(self, connection: sqlite3.Connection) -> int:
        """The change counter: one more after every committed change."""
        return self._scalar(connection, "SELECT value FROM meta WHERE key = 'changes'")

    def _scalar(self, connection: sqlite3.Connection, query: str) -> int:
        row = connection.execute(query).fetchone()
        if row is None:
            raise self._unreadable("its change counter is missing", "restore it from a backup")
        return int(row[0])

    # -- errors

    def _translated(self, error: sqlite3.Error) -> StockadeError:
        if _is_busy(error):
            return error_for(
                ReasonCode.STORE_BUSY,
                f"another program has been writing for more than {self._busy_seconds:g} s",
                file=self.path,
            )
        if isinstance(error, sqlite3.OperationalError):
            return self._unreadable(
                f"SQLite says: {error}", "see the file's permissions and the space on its disk"
            )
        return self._unreadable(
            f"SQLite says: {error}", "restore it from a backup, or delete it to begin anew"
        )

    def _unreadable(self, what: str, remedy: str) -> StockadeError:
        return error_for(ReasonCode.STORE_UNREADABLE, f"{what}; {remedy}", store=self._name, file=self.path)


def current_author() -> str:
    """Who makes changes in this process, for the history: the user, and who became it by sudo."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = f"user {os.getuid()}"
    before = os.environ.get("SUDO_USER", "")
    return (
        f"{name} (by sudo from {before[:64]})" if before and before.isprintable() and before != name else name
    )


def _is_busy(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and (code & 0xFF) in _BUSY_CODES


def _uri_path(path: Path) -> str:
    """`path` for an SQLite URI: `?`, `#` and `%` stand for themselves."""
    text = str(path.absolute())
    return text.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
