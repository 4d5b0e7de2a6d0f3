"""Which refused packets the journal names one by one, and which it sums up (`ipsecdiagnostics`,
`ipsecloginterval`).

| bit | packets |
| --- | --- |
| 1 | that no SA opens: unknown SPI, wrong integrity value, replayed, malformed |
| 2 | inbound ones that policy refuses: clear where security is wanted, not of the SA's rule |
| 4 | outbound ones: no room to hold them, and the rest |

A class whose bit is set is named as the driver tells it (at most once a second for each source and reason).
The others are counted, and the journal gets one entry for each reason and interval. Windows documents the
property as a bit mask of 0 to 7; which bit stands for what is our reading. Pure.
"""

from collections import Counter

from stockade.agent.journal import Entry
from stockade.driver.contract import PacketRefused
from stockade.model.reasons import Reason, ReasonCode

ERRORS, INBOUND, OUTBOUND = 1, 2, 4
ALL = ERRORS | INBOUND | OUTBOUND
DEFAULT_INTERVAL = 3600.0

_CLASS = {
    ReasonCode.UNKNOWN_SPI: ERRORS,
    ReasonCode.INTEGRITY_FAILED: ERRORS,
    ReasonCode.REPLAYED: ERRORS,
    ReasonCode.MALFORMED_PACKET: ERRORS,
    ReasonCode.CLEAR_DROPPED: INBOUND,
    ReasonCode.SELECTOR_MISMATCH: INBOUND,
}


class PacketLog:
    """What is told, and what is summed up. Times in seconds of the caller's clock."""

    def __init__(self) -> None:
        self._mask = ALL
        self._interval = DEFAULT_INTERVAL
        self._counts: Counter[ReasonCode] = Counter()
        self._due: float | None = None

    def set(self, mask: int, interval: float, now: float) -> None:
        if interval != self._interval and self._due is not None:
            self._due = now + interval
        self._mask, self._interval = mask, interval

    def is_told(self, event: PacketRefused, now: float) -> bool:
        """Whether the journal names it; otherwise it is counted."""
        if _CLASS.get(event.reason.code, OUTBOUND) & self._mask:
            return True
        self._counts[event.reason.code] += event.count
        if self._due is None:
            self._due = now + self._interval
        return False

    def next_due(self) -> float | None:
        return self._due

    def take_due(self, now: float) -> list[Entry]:
        """The sums, once the interval is over."""
        if self._due is None or now < self._due:
            return []
        entries = [
            Entry(
                "packets-refused-summary",
                Reason.of(code, f"{count} packets in {self._interval:g} seconds"),
                (("count", str(count)),),
            )
            for code, count in self._counts.items()
        ]
        self._counts.clear()
        self._due = None
        return entries
