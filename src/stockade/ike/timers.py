"""One queue of deadlines for the whole engine: each owner has at most one, and asking for the next is cheap.

A heap with lazy removal: moving a deadline leaves the old entry behind, and entries that are no longer true
are skipped. The heap is rebuilt when most of it is such rubbish, so its size stays bounded by the owners.
What stays behind is emptied: it must not keep alive what has ended, for that has keys."""

import heapq
from collections.abc import Callable, Hashable
from itertools import count

Action = Callable[[float], None]


class _Entry:
    """A deadline of `owner`; without an action it is no longer true."""

    __slots__ = ("action", "owner", "when")

    def __init__(self, when: float, owner: Hashable, action: Action) -> None:
        self.when = when
        self.owner = owner
        self.action: Action | None = action

    def empty(self) -> None:
        self.owner = self.action = None


class TimerQueue:
    """Deadlines on the engine's clock (seconds)."""

    def __init__(self) -> None:
        self._entries: dict[Hashable, _Entry] = {}
        self._heap: list[tuple[float, int, _Entry]] = []
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._entries)

    def set(self, owner: Hashable, when: float | None, action: Action) -> None:
        """Call `action(now)` at `when`, instead of the owner's earlier deadline; None: no deadline."""
        if when is None:
            self.cancel(owner)
            return
        known = self._entries.get(owner)
        if known is not None:
            if known.when == when:  # armed again after every message, mostly for the same time
                known.action = action
                return
            known.empty()
        entry = self._entries[owner] = _Entry(when, owner, action)
        heapq.heappush(self._heap, (when, next(self._numbers), entry))
        if len(self._heap) > 64 and len(self._heap) > 4 * len(self._entries):
            self._heap = [item for item in self._heap if item[2].action is not None]
            heapq.heapify(self._heap)

    def cancel(self, owner: Hashable) -> None:
        entry = self._entries.pop(owner, None)
        if entry is not None:
            entry.empty()

    def next(self) -> float | None:
        """The earliest deadline."""
        while self._heap:
            if self._heap[0][2].action is not None:
                return self._heap[0][0]
            heapq.heappop(self._heap)
        return None

    def run(self, now: float) -> None:
        """Call every action that is due. An action may set deadlines; one that it sets in the past waits for
        the next run, so this always ends."""
        due: list[_Entry] = []
        while (when := self.next()) is not None and when <= now:
            due.append(heapq.heappop(self._heap)[2])
        for entry in due:
            action = entry.action
            if action is not None:
                del self._entries[entry.owner]
                entry.empty()
                action(now)
