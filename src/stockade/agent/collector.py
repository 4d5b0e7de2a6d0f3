"""When Python looks for objects that only refer to each other.

Nearly all objects of an agent live as long as an SA does, a hundred and more for each. To look at all of them
takes some tenths of a second where there are 10 000 SAs, and Python would do it in the middle of a burst of
handshakes, for that is when they become more. So only young objects are looked at as they come, some hundred
handshakes at a time; all of them in a quiet moment, the less often the longer it takes. Nothing waits for
that but the memory of main modes that have ended.
"""

import gc
import time
from collections.abc import Callable

THRESHOLDS = (10_000, 20, 1_000_000)
"""Of Python's collector: objects made between two looks at young ones, and how many of these looks before one
at those that survived. The last is as good as never."""
INTERVAL = 60.0
"""Seconds between two looks at everything, at least."""
SHARE = 1000.0
"""And at least so many times what the last one took."""


def calm_collector() -> None:
    """What was loaded is left out of every look for good, the rest looked at less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)


class Collector:
    """Looks at everything, when it is time and nothing happens. Seconds; `clock` says what a look takes."""

    def __init__(self, now: float, clock: Callable[[], float] = time.thread_time) -> None:
        self._clock = clock
        self._last = now
        self._wait = INTERVAL

    def look(self, now: float, *, quiet: bool) -> bool:
        """Whether it did. Where there is no quiet moment, it waits twice as long and takes any."""
        waited = now - self._last
        if waited < self._wait or (not quiet and waited < 2 * self._wait):
            return False
        started = self._clock()
        gc.collect()
        self._last, self._wait = now, max(INTERVAL, SHARE * (self._clock() - started))
        return True
