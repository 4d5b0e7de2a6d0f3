"""The groups of candidates, and the sorted list of filters that they settle to: what the compiler keeps
from one compilation to the next.

    change: candidates removed, added, renumbered ─▶ groups touched ─▶ settled anew ─▶ taken out of,
                                                                        put into the sorted list
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from stockade.model.addresses import AddressRange
from stockade.model.filters import Overruled, SpecificFilter
from stockade.policy.candidates import (
    Candidate,
    Doubt,
    DoubtKind,
    Expanded,
    Key,
    Order,
    Settled,
    settle,
)

_FEW = 64


@dataclass(slots=True)
class Change:
    """What has to be done to the groups before the next table can be put together."""

    removed: list[Candidate] = field(default_factory=list)
    added: list[Candidate] = field(default_factory=list)
    moved: list[tuple[list[Expanded], int]] = field(default_factory=list)
    """Filters whose number in their list grew by so much."""


class Group:
    """Candidates about the same packets, and what they come to."""

    __slots__ = ("candidates", "settled")

    def __init__(self) -> None:
        self.candidates: list[Candidate] = []
        self.settled: Settled | None = None


class Groups:
    """All groups of one policy. `filters` are in table order, without exemptions."""

    def __init__(self) -> None:
        self.filters: list[SpecificFilter] = []
        self._orders: list[Order] = []
        self._groups: dict[Key, Group] = {}
        self._copies: Counter[str] = Counter()  # groups that have a filter of this id
        self._negotiated: Counter[str] = Counter()
        self._versions: Counter[tuple[int, bool]] = Counter()  # (IP version, negotiates)
        self._pending: dict[Key, Group] = {}
        self._contested: dict[Key, Group] = {}

    # ---- what is in them

    def negotiates(self, name: str) -> bool:
        """Whether a filter names this negotiation."""
        return self._negotiated[name] > 0

    @property
    def versions(self) -> set[int]:
        """The IP versions that filters speak of."""
        return {version for (version, _), count in self._versions.items() if count}

    @property
    def negotiated_versions(self) -> set[int]:
        return {version for (version, secures), count in self._versions.items() if count and secures}

    @property
    def pending(self) -> set[str]:
        """The ids of the filters in which any address stands for a name that is not resolved."""
        return {group.settled.filters[0][1].id for group in self._pending.values() if group.settled}

    def conflicts(self) -> Iterator[Doubt]:
        """What the conflicts were, in table order, each with the filter that lost; each pair of filters
        once, not once per address and direction."""
        told: set[object] = set()
        settled = [group.settled for group in self._contested.values() if group.settled is not None]
        for one in sorted(settled, key=lambda entry: entry.filters[0][0]):
            for pair, text in one.conflicts:
                if pair not in told:
                    told.add(pair)
                    yield Doubt(DoubtKind.CONFLICT, pair[1], text)

    def overruled(self) -> dict[str, tuple[Overruled, ...]]:
        """Those that lost a conflict, by the id of the filter that won it."""
        settled = [group.settled for group in self._contested.values() if group.settled is not None]
        return {one.filters[0][1].id: one.losers for one in settled}

    # ---- changing them

    def apply(
        self, change: Change, broadcasts: Sequence[AddressRange], exempt_multicast: bool
    ) -> tuple[set[str], set[str]]:
        """Settle what the change touches; the ids of the filters that came and that went."""
        touched: dict[Key, Group] = {}
        for candidate in change.removed:
            group = self._groups[candidate.key]
            group.candidates.remove(candidate)
            touched[candidate.key] = group
        groups = self._groups
        for candidate in change.added:
            found = groups.get(candidate.key)
            if found is None:
                found = groups[candidate.key] = Group()
            candidate.group = found
            found.candidates.append(candidate)
            touched[candidate.key] = found
        self._renumber(change.moved, touched)
        gone: list[tuple[Order, SpecificFilter]] = []
        come: list[tuple[Order, SpecificFilter]] = []
        for key, group in touched.items():
            if group.settled is not None:
                self._count(key, group.settled, -1)
                gone += group.settled.filters
                self._pending.pop(key, None)
                self._contested.pop(key, None)
            if not group.candidates:
                del self._groups[key]
                continue
            settled = group.settled = settle(group.candidates, broadcasts, exempt_multicast)
            self._count(key, settled, 1)
            come += settled.filters
            if settled.winner.pending:
                self._pending[key] = group
            if settled.conflicts:
                self._contested[key] = group
        return self._replace(gone, come)

    def _renumber(self, moved: list[tuple[list[Expanded], int]], touched: dict[Key, Group]) -> None:
        """Filters that have another number in their list: their specific filters share it. Only what several
        candidates contest is settled anew: its sentences tell the numbers."""
        for some, shift in moved:
            for entry in some:
                entry.position.number += shift
                for candidate in entry.candidates:
                    group = candidate.group
                    assert isinstance(group, Group)
                    if len(group.candidates) > 1:
                        touched[candidate.key] = group

    def _count(self, key: Key, settled: Settled, step: int) -> None:
        versions = self._versions
        for _, entry in settled.filters:
            negotiation = entry.negotiation
            if negotiation is not None:
                self._negotiated[negotiation] += step
            about = (key[0], negotiation is not None)
            versions[about] = versions.get(about, 0) + step

    def _replace(
        self, gone: list[tuple[Order, SpecificFilter]], come: list[tuple[Order, SpecificFilter]]
    ) -> tuple[set[str], set[str]]:
        """Put the filters of changed groups into the sorted list. The parts of two groups that IPsec cannot
        secure may be one filter: it goes with the last of them."""
        copies = self._copies
        if not copies:  # the first time: nothing to be found out about what was there
            copies.update([order[5] for order, _ in come])
            self._sort_anew(come, set())
            return set(copies), set()
        ids = {order[5] for order, _ in gone} | {order[5] for order, _ in come}
        before = {entry for entry in ids if copies[entry]}
        for order, _ in gone:
            copies[order[5]] -= 1
        for order, _ in come:
            copies[order[5]] += 1
        after = {entry for entry in ids if copies[entry]}
        for entry in ids - after:
            del copies[entry]
        came, went = after - before, before - after
        if len(gone) + len(come) > _FEW + len(self.filters) // 32:
            self._sort_anew(come, went)
        else:
            for order, _ in gone:
                if order[5] in went:
                    place = bisect_left(self._orders, order)
                    if place < len(self._orders) and self._orders[place] == order:
                        del self._orders[place], self.filters[place]
            for order, made in come:
                place = bisect_left(self._orders, order)
                if place < len(self._orders) and self._orders[place] == order:
                    self.filters[place] = made
                else:
                    self._orders.insert(place, order)
                    self.filters.insert(place, made)
        return came, went

    def _sort_anew(self, come: list[tuple[Order, SpecificFilter]], went: set[str]) -> None:
        if not self.filters and len(come) == len(self._copies):
            pairs = sorted(come)  # no id stands twice: no two orders are alike
            self._orders = [order for order, _ in pairs]
            self.filters = [entry for _, entry in pairs]
            return
        merged = {
            order[5]: (order, entry)
            for order, entry in zip(self._orders, self.filters, strict=True)
            if order[5] not in went
        }
        merged.update((order[5], (order, entry)) for order, entry in come)
        # an order ends with the filter's id: no two are alike, and the filters are never compared
        pairs = sorted(merged.values())
        self._orders = [order for order, _ in pairs]
        self.filters = [entry for _, entry in pairs]
