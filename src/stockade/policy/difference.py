"""What changed between two filter tables, so that a driver touches nothing else.

Filters are told apart by identifier. An identifier is made from all that matters to a packet, so a filter
cannot change, only go and come. Its place can: the order of the table counts, and a driver that keeps the
order by priorities needs to know whether filters that stay changed places among each other. Tables of one
compiler never do that; its order depends on each filter alone.
"""

from dataclasses import dataclass

from stockade.model.filters import FilterTable, SpecificFilter
from stockade.model.negotiation import Negotiation


@dataclass(frozen=True, slots=True)
class AddedFilter:
    """A filter that came. `before` is the id of the filter that follows it in the new table, None at the
    end."""

    entry: SpecificFilter
    before: str | None


@dataclass(frozen=True, slots=True)
class TableDifference:
    """`added` and `removed` in table order; `unchanged`: how many filters stay; `reordered`: filters that
    stay stand in another order, so the whole table has to be laid out anew. `negotiations`: the names of
    those that came, went or changed: their SAs are to be looked at."""

    added: tuple[AddedFilter, ...]
    removed: tuple[SpecificFilter, ...]
    unchanged: int
    reordered: bool
    negotiations: tuple[str, ...]

    @property
    def is_empty(self) -> bool:
        """Whether packets are treated alike by both tables."""
        return not (self.added or self.removed or self.reordered or self.negotiations)

    @property
    def touched(self) -> int:
        """Filters that a driver has to add or remove."""
        return len(self.added) + len(self.removed)

    def as_dict(self) -> dict[str, object]:
        """The JSON form."""
        return {
            "added": [change.entry.id for change in self.added],
            "removed": [entry.id for entry in self.removed],
            "unchanged": self.unchanged,
            "reordered": self.reordered,
            "negotiations": list(self.negotiations),
        }

    def __str__(self) -> str:
        text = f"{len(self.added)} added, {len(self.removed)} removed, {self.unchanged} unchanged"
        return text + (", in another order" if self.reordered else "")


def difference(old: FilterTable, new: FilterTable) -> TableDifference:
    """What has to be done to `old` to get `new`. Time: proportional to the number of filters, well below a
    microsecond for each."""
    changes = new.since(old)
    came, went = changes.came, changes.went
    added: list[AddedFilter] = []
    if came:
        follower: str | None = None
        for entry in reversed(new.filters):
            if entry.id in came:
                added.append(AddedFilter(entry, follower))
            follower = entry.id
        added.reverse()
    removed = tuple(entry for entry in old.filters if entry.id in went) if went else ()
    return TableDifference(
        added=tuple(added),
        removed=removed,
        unchanged=len(new.filters) - len(came),
        reordered=changes.reordered,
        negotiations=_changed_negotiations(old, new),
    )


def _changed_negotiations(old: FilterTable, new: FilterTable) -> tuple[str, ...]:
    def same(one: Negotiation | None, other: Negotiation | None) -> bool:
        return one is other or one == other

    names = dict.fromkeys((*old.negotiations, *new.negotiations))
    changed = (name for name in names if not same(old.negotiations.get(name), new.negotiations.get(name)))
    return tuple(changed)
