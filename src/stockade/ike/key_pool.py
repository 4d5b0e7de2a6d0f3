"""Private values of Diffie-Hellman that are made ahead, in moments with nothing else to do.

Of the two exponentiations of an exchange one does not depend on the peer. Made ahead it is out of the way of
an answer that somebody waits for, and a burst of handshakes after a quiet while costs half. It is not for
nothing: the same work is done, only earlier.

Each value is given out once and belongs to one exchange alone. There are none of groups that nobody has asked
for, at most `SIZE` of each, and none is kept longer than `MAXIMUM_AGE`: what is not there cannot be read from
memory. Where none is ready, one is made at once, as if there were no pool."""

from collections import deque

from stockade.crypto.key_exchange import PrivateValue, generate
from stockade.ike.contract import RandomSource
from stockade.model.suites import Group

SIZE = 16
"""Values of a group that wait: what a burst may find ready."""
MAXIMUM_AGE = 3600.0
"""Seconds that a value waits at most."""
UNUSED = 4 * MAXIMUM_AGE
"""Seconds after which nothing more is made of a group that nobody asked for meanwhile."""


class KeyPool:
    """The values of one engine. Times are seconds on the engine's clock."""

    def __init__(self, random: RandomSource) -> None:
        self._random = random
        self._ready: dict[Group, deque[tuple[float, PrivateValue]]] = {}
        self._asked: dict[Group, float] = {}

    def __len__(self) -> int:
        """How many values wait."""
        return sum(len(ready) for ready in self._ready.values())

    def take(self, group: Group, now: float) -> PrivateValue:
        """A value that nobody else has had or will get."""
        self._asked[group] = now
        ready = self._ready.get(group)
        while ready:
            made, value = ready.popleft()
            if now < made + MAXIMUM_AGE:
                return value
        return generate(group, self._random)

    @property
    def wants(self) -> bool:
        """Whether `prepare` has anything to make."""
        return any(len(self._ready.get(group, ())) < SIZE for group in self._asked)

    def prepare(self, now: float) -> bool:
        """Make one value, where one is missing. Whether more are."""
        for group in self._asked:
            ready = self._ready.setdefault(group, deque())
            if len(ready) < SIZE:
                ready.append((now, generate(group, self._random)))
                break
        return self.wants

    @property
    def due(self) -> float | None:
        """When `forget` has something to do."""
        return min((ready[0][0] + MAXIMUM_AGE for ready in self._ready.values() if ready), default=None)

    def forget(self, now: float) -> None:
        """Drop values that have waited too long, and groups that nobody asks for any more."""
        for ready in self._ready.values():
            while ready and now >= ready[0][0] + MAXIMUM_AGE:
                ready.popleft()
        for group, asked in list(self._asked.items()):
            if now - asked >= UNUSED:
                del self._asked[group]
                self._ready.pop(group, None)
