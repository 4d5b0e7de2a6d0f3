"""With whom we had quick modes: remembered over restarts, so that an agent that was killed can negotiate at
once.

What is kept is addresses and traffic selectors, no keys. A damaged file is put aside and costs the quick
reconnect, nothing else: peers then negotiate when their own timers say so.
"""

import sqlite3
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

from stockade.model.addresses import Address, AddressRange, address_text
from stockade.model.known_quick_mode import KnownQuickMode
from stockade.model.traffic import TrafficSelector

__all__ = ["KnownPeers", "KnownQuickMode"]

MAXIMUM = 10_000
_ENDS = "local, peer, protocol, source_port, destination_port"
_TRAFFIC = "source_first, source_last, destination_first, destination_last"
_SELECT = (
    f"SELECT {_ENDS} FROM quick_mode ORDER BY rowid",  # noqa: S608, constants
    f"SELECT {_ENDS}, {_TRAFFIC} FROM tunnel ORDER BY rowid",  # noqa: S608
)
_INSERT = {
    5: "INSERT OR REPLACE INTO quick_mode VALUES (?, ?, ?, ?, ?)",
    9: "INSERT OR REPLACE INTO tunnel VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
}
_DELETE = {
    5: f"DELETE FROM quick_mode WHERE ({_ENDS}) = (?, ?, ?, ?, ?)",  # noqa: S608
    9: f"DELETE FROM tunnel WHERE ({_ENDS}, {_TRAFFIC}) = (?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
}
"""By the number of columns: a quick mode in transport mode, a tunnel."""


class KnownPeers:
    """The set of known quick modes, newest last; in memory only where `path` is None or cannot be used
    (`trouble` says why then). `later` has a call made soon: changes are then written together, in one
    transaction; without it each is written at once."""

    def __init__(
        self, path: Path | None = None, later: Callable[[Callable[[], None]], None] | None = None
    ) -> None:
        self.trouble = ""
        self._later = later
        self._unwritten: list[tuple[str, _Row]] = []
        self.removed: Callable[[KnownQuickMode], None] = lambda known: None
        """Is told what is no longer known."""
        self._known: OrderedDict[_Key, KnownQuickMode] = OrderedDict()
        self._by_peer: dict[Address, OrderedDict[_Key, KnownQuickMode]] = {}
        self._database: sqlite3.Connection | None = None
        if path is not None:
            try:
                self._database = _open(path)
                self._read()
            except (sqlite3.Error, OSError) as error:
                self.trouble = f"{path}: {error}"

    def _read(self) -> None:
        if self._database is not None:
            for statement in _SELECT:
                for row in self._database.execute(statement):
                    with suppress(ValueError):  # a row that is no quick mode is a row we do not need
                        known = _from_row(row)
                        self._keep(_key(known), known)

    def all(self) -> tuple[KnownQuickMode, ...]:
        """Newest first."""
        return tuple(reversed(self._known.values()))

    def with_peer(self, peer: Address) -> tuple[KnownQuickMode, ...]:
        return tuple(self._by_peer.get(peer, {}).values())

    def add(self, known: KnownQuickMode) -> None:
        key = _key(known)
        if key in self._known:
            return
        self._keep(key, known)
        row = _to_row(known)
        self._execute(_INSERT[len(row)], row)
        if len(self._known) > MAXIMUM:
            self.remove(next(iter(self._known.values())))

    def remove(self, known: KnownQuickMode) -> None:
        key = _key(known)
        if key not in self._known:
            return
        del self._known[key]
        of_peer = self._by_peer[known.peer]
        del of_peer[key]
        if not of_peer:
            del self._by_peer[known.peer]
        row = _to_row(known)
        self._execute(_DELETE[len(row)], row)
        self.removed(known)

    def close(self) -> None:
        self.flush()
        if self._database is not None:
            self._database.close()
            self._database = None

    def _keep(self, key: "_Key", known: KnownQuickMode) -> None:
        self._known[key] = known
        self._by_peer.setdefault(known.peer, OrderedDict())[key] = known

    def _execute(self, statement: str, row: "_Row") -> None:
        if self._database is None:
            return
        self._unwritten.append((statement, row))
        if self._later is None:
            self.flush()
        elif len(self._unwritten) == 1:
            self._later(self.flush)

    def flush(self) -> None:
        """Write what has changed since the last time."""
        changes, self._unwritten = self._unwritten, []
        if self._database is None or not changes:
            return
        with suppress(sqlite3.Error):  # a full disk costs the quick reconnect of these peers, nothing else
            self._database.execute("BEGIN")
            for statement, row in changes:
                self._database.execute(statement, row)
            self._database.execute("COMMIT")
        if self._database.in_transaction:
            with suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")


_Key = tuple[object, ...]
_Row = tuple[str | int, ...]


def _key(known: KnownQuickMode) -> _Key:
    """Equal for equal quick modes. The library's addresses make their hash of a text each time, and there are
    six of them."""
    selector = known.selector
    source, destination = selector.source, selector.destination
    ends = (known.local, known.peer, source.first, source.last, destination.first, destination.last)
    ports = (selector.protocol, selector.source_port, selector.destination_port)
    return (source.first.__class__, *map(int, ends), *ports)


def _open(path: Path) -> sqlite3.Connection:
    for attempt in (1, 2):
        try:
            database = sqlite3.connect(path, isolation_level=None, timeout=2)
            # NORMAL in WAL mode: kill -9 loses nothing, a power cut at most the newest rows.
            database.executescript(
                "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"
                "CREATE TABLE IF NOT EXISTS quick_mode"
                " (local TEXT, peer TEXT, protocol INTEGER, source_port INTEGER, destination_port INTEGER,"
                " PRIMARY KEY (local, peer, protocol, source_port, destination_port));"
                "CREATE TABLE IF NOT EXISTS tunnel"
                " (local TEXT, peer TEXT, protocol INTEGER, source_port INTEGER, destination_port INTEGER,"
                " source_first TEXT, source_last TEXT, destination_first TEXT, destination_last TEXT,"
                f" PRIMARY KEY ({_ENDS}, {_TRAFFIC}));"
            )
            return database
        except sqlite3.DatabaseError:
            if attempt == 2 or not path.exists():
                raise
            path.replace(path.with_suffix(".damaged"))
    raise AssertionError("unreachable")


def _to_row(known: KnownQuickMode) -> _Row:
    selector = known.selector
    row = (
        address_text(known.local),
        address_text(known.peer),
        selector.protocol,
        selector.source_port,
        selector.destination_port,
    )
    source, destination = selector.source, selector.destination
    hosts = source.is_host and destination.is_host
    if hosts and known.local in source and known.peer in destination:
        return row
    ends = (source.first, source.last, destination.first, destination.last)
    return (*row, *map(str, ends))


def _from_row(row: _Row) -> KnownQuickMode:
    local, peer = ip_address(row[0]), ip_address(row[1])
    source, destination = AddressRange.host(local), AddressRange.host(peer)
    if len(row) > 5:
        ends = [ip_address(end) for end in row[5:]]
        source, destination = AddressRange(ends[0], ends[1]), AddressRange(ends[2], ends[3])
    protocol, source_port, destination_port = (int(number) for number in row[2:5])
    return KnownQuickMode(
        local, peer, TrafficSelector(source, destination, protocol, source_port, destination_port)
    )
