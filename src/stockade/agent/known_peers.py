"""With whom we had quick modes: remembered over restarts, so that an agent that was killed can negotiate at
once.

What is kept is addresses and traffic selectors, no keys. A damaged file is put aside and costs the quick
reconnect, nothing else: peers then negotiate when their own timers say so.
"""

import sqlite3
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from stockade.model.addresses import Address, AddressRange
from stockade.model.traffic import TrafficSelector

MAXIMUM = 10_000


@dataclass(frozen=True, slots=True)
class KnownQuickMode:
    """One quick mode that was up. `selector` is outbound (source = us) and host to host."""

    local: Address
    peer: Address
    selector: TrafficSelector


class KnownPeers:
    """The set of known quick modes, newest last; in memory only where `path` is None or cannot be used
    (`trouble` says why then)."""

    def __init__(self, path: Path | None = None) -> None:
        self.trouble = ""
        self._known: OrderedDict[KnownQuickMode, None] = OrderedDict()
        self._by_peer: dict[Address, OrderedDict[KnownQuickMode, None]] = {}
        self._database: sqlite3.Connection | None = None
        if path is not None:
            try:
                self._database = _open(path)
                self._read()
            except (sqlite3.Error, OSError) as error:
                self.trouble = f"{path}: {error}"

    def _read(self) -> None:
        if self._database is not None:
            for row in self._database.execute(
                "SELECT local, peer, protocol, source_port, destination_port FROM quick_mode ORDER BY rowid"
            ):
                with suppress(ValueError):  # a row that is no quick mode is a row we do not need
                    self._keep(_from_row(row))

    def all(self) -> tuple[KnownQuickMode, ...]:
        """Newest first."""
        return tuple(reversed(self._known))

    def with_peer(self, peer: Address) -> tuple[KnownQuickMode, ...]:
        return tuple(self._by_peer.get(peer, ()))

    def add(self, known: KnownQuickMode) -> None:
        if known in self._known:
            return
        self._keep(known)
        self._execute("INSERT OR REPLACE INTO quick_mode VALUES (?, ?, ?, ?, ?)", _to_row(known))
        if len(self._known) > MAXIMUM:
            self.remove(next(iter(self._known)))

    def remove(self, known: KnownQuickMode) -> None:
        if known not in self._known:
            return
        del self._known[known]
        of_peer = self._by_peer[known.peer]
        del of_peer[known]
        if not of_peer:
            del self._by_peer[known.peer]
        self._execute(
            "DELETE FROM quick_mode WHERE local=? AND peer=? AND protocol=?"
            " AND source_port=? AND destination_port=?",
            _to_row(known),
        )

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _keep(self, known: KnownQuickMode) -> None:
        self._known[known] = None
        self._by_peer.setdefault(known.peer, OrderedDict())[known] = None

    def _execute(self, statement: str, row: tuple[str, str, int, int, int]) -> None:
        if self._database is not None:
            with suppress(sqlite3.Error):  # a full disk costs the quick reconnect of this peer, nothing else
                self._database.execute(statement, row)


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
            )
            return database
        except sqlite3.DatabaseError:
            if attempt == 2 or not path.exists():
                raise
            path.replace(path.with_suffix(".damaged"))
    raise AssertionError("unreachable")


def _to_row(known: KnownQuickMode) -> tuple[str, str, int, int, int]:
    selector = known.selector
    ports = (selector.protocol, selector.source_port, selector.destination_port)
    return (str(known.local), str(known.peer), *ports)


def _from_row(row: tuple[str, str, int, int, int]) -> KnownQuickMode:
    local, peer = ip_address(row[0]), ip_address(row[1])
    return KnownQuickMode(
        local,
        peer,
        TrafficSelector(AddressRange.host(local), AddressRange.host(peer), row[2], row[3], row[4]),
    )
