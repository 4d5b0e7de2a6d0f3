"""The SAs that are ours: what was installed, what each of them carried, and what those carried that are no
more. The kernel has the keys and counts; here is what it does not keep (see `ledger`)."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from stockade.driver.contract import FilterCounters
from stockade.driver.ended import EndedSas
from stockade.driver.kernel.filters import InstalledFilters
from stockade.driver.kernel.ledger import Key, Ledger
from stockade.driver.kernel.tables import KernelTables, state_key
from stockade.model.addresses import Address
from stockade.model.filters import Direction
from stockade.model.reasons import StockadeError
from stockade.model.sa import EndedCounters, SaCounters, SecurityAssociation
from stockade.wire import xfrm

SINGLY: Final = 4
"""So many SAs of one round are removed at once; where there are more, the rest goes together, when the round
is over."""

MAXIMUM_DOOMED: Final = 1024

NOTHING_USED: Final = xfrm.Usage()


@dataclass(slots=True)
class InstalledSa:
    """One of our SAs, and what was seen of it at the last look. Times of the monotonic clock."""

    sa: SecurityAssociation
    installed: float
    used: float
    usage: xfrm.Usage = NOTHING_USED
    idle_reported: bool = False
    unanswered: float | None = None
    in_card: bool = False
    given: int = 0
    """Packets that came early and were given to the kernel again: some may have come with the SA too."""


class InstalledSas:
    """Of one driver. What it writes into the ledger is what an agent could adopt."""

    def __init__(self, tables: KernelTables, filters: InstalledFilters, ledger: Ledger) -> None:
        self._tables = tables
        self._filters = filters
        self._ledger = ledger
        self._entries: dict[Key, InstalledSa] = {}
        self._keys_by_spi: dict[int, list[Key]] = {}
        self._doomed: dict[Key, InstalledSa] = {}
        self._removed = 0
        self._finished: dict[str, tuple[int, int]] = {}
        self._ended = EndedSas()

    def __iter__(self) -> Iterator[InstalledSa]:
        return iter(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> InstalledSa | None:
        return self._entries.get(key)

    def items(self) -> list[tuple[Key, InstalledSa]]:
        """As they are now: entries may be forgotten meanwhile."""
        return list(self._entries.items())

    def add(self, key: Key, entry: InstalledSa) -> None:
        """One that is in the kernel now."""
        self.adopt(key, entry)
        self._ledger.add(entry.sa, entry.installed)

    def adopt(self, key: Key, entry: InstalledSa) -> None:
        """One that an earlier agent made; the ledger knows it, or is about to."""
        self._entries[key] = entry
        self._keys_by_spi.setdefault(key[1], []).append(key)

    def change(self, entry: InstalledSa, sa: SecurityAssociation) -> None:
        """It is another SA under the same name, in the kernel too."""
        entry.sa = sa
        self._ledger.add(sa, entry.installed)  # a next agent finds it as it is now

    def forget(self, key: Key, entry: InstalledSa) -> None:
        """One that the kernel has ended."""
        self._remember_counts(entry)
        self._drop(key)
        self._ledger.remove(key)

    def clear(self) -> None:
        """All have ended, and nothing is counted of them."""
        self._entries.clear()
        self._keys_by_spi.clear()

    def _drop(self, key: Key) -> None:
        del self._entries[key]
        keys = self._keys_by_spi[key[1]]
        keys.remove(key)
        if not keys:
            del self._keys_by_spi[key[1]]

    # ---- removal -------------------------------------------------------------------------------------------

    def remove(self, spi: int, direction: Direction, peer: Address) -> None:
        """At once, or a moment later together with others (`remove_doomed`)."""
        for key in tuple(self._keys_by_spi.get(spi, ())):
            entry = self._entries[key]
            if (entry.sa.direction, entry.sa.peer) == (direction, peer):
                self._drop(key)
                self._ledger.remove(key)
                self._doomed[key] = entry
        self._removed += 1
        if self._removed <= SINGLY or len(self._doomed) >= MAXIMUM_DOOMED:
            self.remove_doomed()

    def begin_round(self) -> None:
        """The next few are removed at once again."""
        self._removed = 0

    def remove_doomed(self) -> None:
        """Take SAs out of the kernel, and count what they carried until now."""
        doomed, self._doomed = self._doomed, {}
        if not doomed or not self._tables.is_open:
            return
        with suppress(StockadeError):
            for state in self._tables.states_of(doomed):
                if (entry := doomed.get(state_key(state))) is not None:
                    entry.usage = state.usage
        for entry in doomed.values():
            self._remember_counts(entry)
        refused = self._tables.remove_states(doomed)
        if refused is not None:
            raise refused

    # ---- what they carried ---------------------------------------------------------------------------------

    def _remember_counts(self, entry: InstalledSa) -> None:
        self._ended.add(entry.sa, entry.usage.packets, entry.usage.bytes)
        if self._filters.table.by_id(entry.sa.filter_id) is not None:
            _add(self._finished, entry)

    def forget_filters(self, went: Iterable[str]) -> None:
        """These are no more in the table: nothing is counted of them."""
        for name in went:
            self._finished.pop(name, None)

    def filter_counters(self) -> tuple[FilterCounters, ...]:
        totals = dict(self._finished)
        for entry in self._entries.values():
            _add(totals, entry)
        return tuple(FilterCounters(name, *total) for name, total in totals.items())

    def ended(self) -> tuple[EndedCounters, ...]:
        """What those carried that are no more."""
        return self._ended.totals()

    def counters(self, now: float) -> tuple[SaCounters, ...]:
        return tuple(
            SaCounters(
                entry.sa.spi,
                entry.sa.direction,
                entry.usage.packets,
                entry.usage.bytes,
                entry.usage.integrity_failures,
                entry.usage.replays,
                0,
                now - entry.installed,
                now - entry.used,
            )
            for entry in self._entries.values()
        )


def _add(totals: dict[str, tuple[int, int]], entry: InstalledSa) -> None:
    packets, size = totals.get(entry.sa.filter_id, (0, 0))
    totals[entry.sa.filter_id] = (packets + entry.usage.packets, size + entry.usage.bytes)
