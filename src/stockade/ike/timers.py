"""One queue of deadlines for the whole engine: each owner has at most one, and asking for the next is cheap.

A heap with lazy removal: moving a deadline leaves the old entry behind, and entries that are no longer true
are skipped. The heap is rebuilt when most of it is such rubbish, so its size stays bounded by the owners."""

import heapq
from collections.abc import Callable, Hashable
from itertools import count

Action = Callable[[float], None]


class TimerQueue:
    """Deadlines on the engine's clock (seconds)."""

    def __init__(self) -> None:
        self._actions: dict[Hashable, tuple[int, float, Action]] = {}
        self._heap: list[tuple[float, int, Hashable]] = []
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._actions)

    def set(self, owner: Hashable, when: float | None, action: Action) -> None:
        """Call `action(now)` at `when`, instead of the owner's earlier deadline; None: no deadline."""
        if when is None:
            self.cancel(owner)
            return
        known = self._actions.get(owner)
        if (
            known is not None and known[1] == when
        ):  # armed again after every message, mostly for the same time
            self._actions[owner] = (known[0], when, action)
            return
        number = next(self._numbers)
        self._actions[owner] = (number, when, action)
        heapq.heappush(self._heap, (when, number, owner))
        if len(self._heap) > 64 and len(self._heap) > 4 * len(self._actions):
            self._heap = [(at, entry, key) for key, (entry, at, _) in self._actions.items()]
            heapq.heapify(self._heap)

    def cancel(self, owner: Hashable) -> None:
        self._actions.pop(owner, None)

    def next(self) -> float | None:
        """The earliest deadline."""
        while self._heap:
            when, number, owner = self._heap[0]
            current = self._actions.get(owner)
            if current is not None and current[0] == number:
                return when
            heapq.heappop(self._heap)
        return None

    def run(self, now: float) -> None:
        """Call every action that is due. An action may set deadlines; one that it sets in the past waits for
        the next run, so this always ends."""
        due: list[tuple[Hashable, int]] = []
        while (when := self.next()) is not None and when <= now:
            _, number, owner = heapq.heappop(self._heap)
            due.append((owner, number))
        for owner, number in due:
            current = self._actions.get(owner)
            if current is not None and current[0] == number:
                del self._actions[owner]
                current[2](now)
