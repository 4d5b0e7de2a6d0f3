"""When Python looks for objects that only refer to each other.

Nearly all objects of an agent live as long as an SA does, a hundred and more for each. To look at all of them
takes a second or two where there are 10 000 peers, and Python would do it in the middle of a burst of
handshakes, for that is when they become more. So only young objects are looked at as they come, some hundred
handshakes at a time; all of them in a quiet moment, the less often the longer it takes. Nothing waits for
that but the memory of main modes that have ended.
"""

import gc
import time
from collections.abc import Callable

YOUNG = 10_000
THRESHOLDS = (YOUNG, 1_000_000, 1_000_000)
"""Of Python's collector: how many more objects there are between two looks at young ones, and how many of
these looks before one at those that survived: as good as never."""
INTERVAL = 60.0
"""Seconds between two looks at everything, at least."""
SHARE = 1000.0
"""And at least so many times what the last one took."""
WORTHWHILE = 50_000
"""Objects that must have come for a look: of less there is little to find."""
OVERDUE = 2_000_000
"""Objects that have come after which there is a look even if there is no quiet moment. 10 000 peers that come
at once are fewer."""


def calm_collector() -> None:
    """What was loaded is left out of every look for good, the rest looked at less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)


class Collector:
    """Looks at everything, when it is time and nothing happens. Seconds; `clock` says what a look takes,
    `come` how many objects there are more than after the last one."""

    def __init__(
        self,
        now: float,
        clock: Callable[[], float] = time.thread_time,
        come: Callable[[], int] = lambda: gc.get_count()[1] * YOUNG,
    ) -> None:
        self._clock = clock
        self._come = come
        self._last = now
        self._wait = INTERVAL

    def look(self, now: float, *, quiet: bool) -> bool:
        """Whether it did."""
        come = self._come()
        timely = quiet and come >= WORTHWHILE and now - self._last >= self._wait
        if not timely and come < OVERDUE:
            return False
        started = self._clock()
        gc.collect()
        self._last, self._wait = now, max(INTERVAL, SHARE * (self._clock() - started))
        return True
