"""Dropped packets, counted and summed up into events: bounded memory and a bounded stream, whatever
arrives."""

from collections import Counter
from typing import Final

from stockade.driver.contract import PacketRefused
from stockade.model.addresses import Address
from stockade.model.reasons import Reason, ReasonCode

SOURCES: Final = 1024
"""Pairs of reason and source that are remembered at a time; packets of more are counted without an event."""

INTERVAL: Final = 1.0
"""Seconds between two events of the same reason and source."""


class _Pending:
    __slots__ = ("count", "destination", "detail", "port", "reported", "spi")

    def __init__(self, reported: float) -> None:
        self.count = 0
        self.reported = reported
        self.destination: Address
        self.detail = ""
        self.spi = self.port = 0


class Refusals:
    """The first packet of a reason and source is an event at once, what follows comes summed up by
    `collect`."""

    def __init__(self) -> None:
        self.totals: Counter[str] = Counter()
        self._pending: dict[tuple[ReasonCode, Address], _Pending] = {}

    def add(
        self,
        code: ReasonCode,
        source: Address,
        destination: Address,
        now: float,
        *,
        spi: int = 0,
        detail: str = "",
        count: int = 1,
        port: int = 0,
        counted: bool = True,
    ) -> PacketRefused | None:
        if counted:
            self.totals[code.word] += count
        key = (code, source)
        pending = self._pending.get(key)
        if pending is None:
            if len(self._pending) >= SOURCES:
                return None
            self._pending[key] = _Pending(now)
            return PacketRefused(Reason.of(code, detail), source, destination, spi, count, port)
        pending.count += count
        pending.destination, pending.spi, pending.detail, pending.port = destination, spi, detail, port
        return None

    def collect(self, now: float) -> list[PacketRefused]:
        """The events that are due; sources that were quiet since their last one are forgotten."""
        events = []
        for key, pending in list(self._pending.items()):
            if now - pending.reported < INTERVAL:
                continue
            if not pending.count:
                del self._pending[key]
                continue
            code, source = key
            events.append(
                PacketRefused(
                    Reason.of(code, pending.detail),
                    source,
                    pending.destination,
                    pending.spi,
                    pending.count,
                    pending.port,
                )
            )
            pending.count, pending.reported = 0, now
        return events
