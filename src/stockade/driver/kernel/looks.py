"""What the kernel does not tell by itself, found out by looking once a second: SAs that are idle or not
answered, packets that an SA refused, SAs whose expiry was lost, and from whom packets with an SPI come that
nobody knows. What is left of an earlier run ends here too, when it is time."""

import time
from contextlib import suppress
from typing import Final

from stockade.driver.contract import DriverFailed, SaExpired, SaIdle, SaSilent
from stockade.driver.event_queue import EventQueue
from stockade.driver.kernel.listener import UnknownSpiWatch
from stockade.driver.kernel.orphans import Orphans
from stockade.driver.kernel.sas import InstalledSa, InstalledSas
from stockade.driver.kernel.system import read_refusals
from stockade.driver.kernel.tables import KernelTables, state_key
from stockade.driver.refusals import Refusals
from stockade.driver.silence import unanswered_since
from stockade.model.addresses import Address
from stockade.model.filters import Direction
from stockade.model.reasons import ReasonCode, StockadeError
from stockade.model.traffic import ESP
from stockade.wire import xfrm

LOOK_SECONDS: Final = 1.0
"""Between two looks. With many SAs less often: a look may take a fiftieth of the time."""


class Looks:
    """Of one driver. `now` is of the monotonic clock."""

    def __init__(self, tables: KernelTables, sas: InstalledSas, orphans: Orphans, events: EventQueue) -> None:
        self._tables = tables
        self._sas = sas
        self._orphans = orphans
        self._events = events
        self._next_look = 0.0
        self._watch: UnknownSpiWatch | None = None
        self._watch_end = 0.0
        self._given = 0
        self._refusals = Refusals()
        self._counted: dict[ReasonCode, int] = {}
        self._start_counts: dict[ReasonCode, int] = {}

    def begin(self) -> None:
        """What the kernel refused until now is not ours."""
        self._start_counts = self._counted = read_refusals()

    def end(self) -> None:
        self._close_watch()

    def is_due(self, now: float) -> bool:
        return now >= self._next_look

    def look(self, now: float) -> None:
        """Raises nothing: a kernel that does not answer is an event."""
        started = time.monotonic()
        try:
            if self._sas:
                self.take_usage(now)
                self._report_idle(now)
            self._orphans.end_due(now)
        except StockadeError as error:
            self._events.append(DriverFailed(error.reason))
        counts = self._read_refusals()
        if counts.get(ReasonCode.UNKNOWN_SPI, 0) > self._counted.get(ReasonCode.UNKNOWN_SPI, 0):
            self._open_watch(now)
        self._counted = counts
        self._events.extend(self._refusals.collect(now))
        self._next_look = now + max(LOOK_SECONDS * 0.9, 50 * (time.monotonic() - started))

    def take_usage(self, now: float) -> int:
        """Read what the SAs carried, tell what they refused; returns how many SAs the kernel waits for. An SA
        that is no longer there (its expiry was lost) expires now."""
        found = set()
        larval = 0
        for state in self._tables.states():
            key = state_key(state)
            entry = self._sas.get(key)
            if entry is None:
                larval += state.spi == 0
                continue
            found.add(key)
            before, entry.usage = entry.usage, state.usage
            entry.in_card = state.offload is not None
            # The kernel's own time of the last use is not there in all versions, and in whole seconds.
            if state.usage.packets != before.packets:
                entry.used, entry.idle_reported = now, False
            self._refuse(entry, before, state.usage, now)
        for key, entry in self._sas.items():
            if key not in found and now - entry.installed > LOOK_SECONDS:
                self._sas.forget(key, entry)
                self._events.append(SaExpired(entry.sa.spi, entry.sa.direction, True, entry.sa.peer))
        return larval

    def _report_idle(self, now: float) -> None:
        by_pair = {
            (entry.sa.direction, entry.sa.spi, entry.sa.peer): entry
            for entry in self._sas
            if entry.sa.bundle is None or entry.sa.ah is None
        }
        for entry in self._sas:
            sa = entry.sa
            if sa.bundle is not None and sa.ah is not None:
                continue  # its ESP half speaks for both
            heard = by_pair.get((Direction.INBOUND, sa.pair, sa.peer))
            if sa.silence_seconds is not None and sa.direction is Direction.OUTBOUND and heard is not None:
                entry.unanswered, silent = unanswered_since(
                    entry.unanswered, entry.used, heard.used, sa.silence_seconds, now
                )
                if silent:
                    self._events.append(SaSilent(sa.spi, sa.direction, sa.peer))
            if sa.idle_seconds is None or entry.idle_reported or now - entry.used < sa.idle_seconds:
                continue
            other = Direction.OUTBOUND if sa.direction is Direction.INBOUND else Direction.INBOUND
            partner = by_pair.get((other, sa.pair, sa.peer))
            if partner is not None:
                if now - partner.used < sa.idle_seconds:
                    continue
                partner.idle_reported = True
            entry.idle_reported = True
            self._events.append(SaIdle(sa.spi, sa.direction, sa.peer))

    # ---- refused packets -----------------------------------------------------------------------------------

    def refused(self) -> tuple[tuple[str, int], ...]:
        """(reason word, packets) since `begin`."""
        return tuple(
            (code.word, count - self._start_counts.get(code, 0))
            for code, count in self._read_refusals().items()
            if count > self._start_counts.get(code, 0)
        )

    def were_given(self, count: int) -> None:
        """So many packets came early, were counted as of an unknown SPI, and were given to the kernel
        again."""
        self._given += count

    def _read_refusals(self) -> dict[ReasonCode, int]:
        """As the kernel counts, but for packets that came early and were given to it again."""
        counts = read_refusals()
        if self._given and (unknown := counts.get(ReasonCode.UNKNOWN_SPI, 0)):
            counts[ReasonCode.UNKNOWN_SPI] = max(0, unknown - self._given)
        return counts

    def _refuse(self, entry: InstalledSa, before: xfrm.Usage, after: xfrm.Usage, now: float) -> None:
        for code, count in (
            (ReasonCode.INTEGRITY_FAILED, after.integrity_failures - before.integrity_failures),
            (ReasonCode.REPLAYED, _true_replays(entry, after.replays - before.replays)),
        ):
            if count > 0:
                self._note_refused(code, entry.sa.source, entry.sa.destination, entry.sa.spi, now, count)

    def _note_refused(
        self, code: ReasonCode, source: Address, destination: Address, spi: int, now: float, count: int = 1
    ) -> None:
        event = self._refusals.add(code, source, destination, now, spi=spi, count=count)
        if event is not None:
            self._events.append(event)

    # ---- packets with an SPI that nobody knows -------------------------------------------------------------

    def _open_watch(self, now: float) -> None:
        self._watch_end = now + 2 * LOOK_SECONDS
        if self._watch is None:
            with suppress(OSError):
                self._watch = UnknownSpiWatch()
                self._events.watch(self._watch.fileno())

    def _close_watch(self) -> None:
        if self._watch is not None:
            self._events.unwatch(self._watch.fileno())
            self._watch.close()
            self._watch = None

    def read_watch(self, now: float) -> None:
        if self._watch is None:
            return
        for spi, source, destination in self._watch.read():
            if self._sas.get((destination, spi, ESP)) is None and not self._tables.has_esp(destination, spi):
                self._note_refused(ReasonCode.UNKNOWN_SPI, source, destination, spi, now)
        if now >= self._watch_end:
            self._close_watch()


def _true_replays(entry: InstalledSa, count: int) -> int:
    """Without those that are packets which came while the SA was put in, and were given twice."""
    ours = min(count, entry.given)
    entry.given -= ours
    return count - ours
