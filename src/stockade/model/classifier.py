"""Finding the first filter that matches a packet, without a walk over the table.

    near end (ours)                far end (theirs)
    address >> shift ─▶ row        address >> shift ─▶ node          one dictionary per prefix length in use
                         └──────────▶ row[node] ─▶ cell ─▶ entries in table order: protocol, ports, rank, id

A packet's addresses lie in few of the table's prefixes (nested ones), so few cells are looked at, however
many filters there are. The near end stands first because a table names few addresses of this computer and
many of others. A range that is no prefix is filed under the at most two prefixes that hold its halves, each
less than twice as large as its half, and its bounds are checked in the cell.

*Ranks* are the places of the filters in the table, with gaps, so that a table with a few filters more or
less gets its classifier from that of the old one: dictionaries that change are copied, all others are
shared, and the old classifier goes on working.

Cost of one look: about one step per prefix length in use at each end. Left out: packets of two address
families at once, and numbers that no packet can carry; `FilterTable.lookup` walks over the table for those.
"""

import gc
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from stockade.model.addresses import AddressRange
    from stockade.model.filters import SpecificFilter

MAXIMUM_ENDS = 65_536
"""Addresses of each end whose prefixes are remembered, per direction and family."""

_RANK_GAP = 1 << 20
_NO_RANK = 1 << 200
_SMALL_CELL = 8
_FEW_CHANGES = 64
_TOP_SHIFT = {4: 16, 6: 80}
"""Bits behind the first 16 of an IPv4 address, and the first 48 of an IPv6 address."""

Bounds = tuple[int, int, int, int]
Entry = tuple[int, int, int, str, Bounds | None]
"""Rank; protocol and ports as one number, and the mask of those that the filter names; filter id; first and
last address of both ends (near, far) where the prefixes say too little."""


class LargeCell:
    """More entries than one walks over: by what they name of protocol and ports. `first`: no entry has a
    smaller rank."""

    __slots__ = ("entries", "first")

    def __init__(self, first: int, entries: dict[int, tuple[Entry, ...]]) -> None:
        self.first = first
        self.entries = entries


Cell = tuple[Entry, ...] | LargeCell
Row = dict[int, Cell]
Value = TypeVar("Value")


@contextmanager
def collector_paused() -> Iterator[None]:
    """No search for garbage meanwhile: whoever makes a large table keeps nearly all that he makes, and
    looking for garbage among it again and again takes as long as making it."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        # What was made is old at once: else the first search after this would go through all of it.
        gc.freeze()
        gc.unfreeze()
        gc.enable()


def traffic_key(protocol: int, source_port: int, destination_port: int) -> int:
    return protocol << 32 | source_port << 16 | destination_port


def prefixes_of(addresses: "AddressRange") -> tuple[list[tuple[int, int]], bool]:
    """The prefixes (shift, address >> shift) under which the range is filed, and whether they hold exactly
    it."""
    first, last = int(addresses.first), int(addresses.last)
    shift = (first ^ last).bit_length()
    if first & ((1 << shift) - 1) == 0 and (last + 1) & ((1 << shift) - 1) == 0:
        return [(shift, first >> shift)], True
    middle = last >> (shift - 1) << (shift - 1)
    parts = []
    for low, high in ((first, middle - 1), (middle, last)):
        shift = (low ^ high).bit_length()
        parts.append((shift, low >> shift))
    return parts, False


class _Plane:
    """The filters of one direction and address family."""

    __slots__ = (
        "_far",
        "_far_nodes",
        "_far_shifts",
        "_near",
        "_near_rows",
        "_next_node",
        "_owned",
        "_patterns",
        "_short",
        "_top",
    )

    def __init__(self, version: int) -> None:
        self._near: dict[int, dict[int, Row]] = {}
        self._far: dict[int, dict[int, int]] = {}
        # Which levels of the far end are worth a look, by the address's first bits; shorter prefixes always
        # are.
        self._top = _TOP_SHIFT[version]
        self._far_shifts: dict[int, tuple[int, ...]] = {}
        self._short: tuple[int, ...] = ()
        self._next_node = 0
        self._patterns: tuple[int, ...] = ()
        self._far_nodes: dict[int, tuple[int, ...]] = {}
        self._near_rows: dict[int, tuple[Row, ...]] = {}
        self._owned: set[int] | None = None  # ids of the dictionaries that may be changed in place; None: all

    def copy(self) -> "_Plane":
        """A plane that can be changed without a change to this one."""
        other = _Plane(4)
        other._near, other._far = dict(self._near), dict(self._far)
        other._top, other._short, other._far_shifts = self._top, self._short, self._far_shifts
        other._next_node, other._patterns = self._next_node, self._patterns
        other._far_nodes = self._far_nodes  # true for both until a prefix is added
        other._owned = set()
        return other

    # ---- changing

    def add(self, rank: int, entry: "SpecificFilter", near_is_source: bool) -> None:
        selector = entry.selector
        near, far = selector.source, selector.destination
        if not near_is_source:
            near, far = far, near
        key = traffic_key(selector.protocol, selector.source_port, selector.destination_port)
        pattern = _pattern(key)
        if pattern not in self._patterns:
            self._patterns = (*self._patterns, pattern)
        near_prefixes, near_exact = prefixes_of(near)
        far_prefixes, far_exact = prefixes_of(far)
        bounds = None
        if not (near_exact and far_exact):
            bounds = (int(near.first), int(near.last), int(far.first), int(far.last))
        made: Entry = (rank, key, pattern, entry.id, bounds)
        for near_shift, near_prefix in near_prefixes:
            row = self._row(near_shift, near_prefix)
            for far_shift, far_prefix in far_prefixes:
                node = self._node(far_shift, far_prefix)
                row[node] = self._with(row.get(node, ()), made)

    def remove(self, entry: "SpecificFilter", near_is_source: bool) -> None:
        selector = entry.selector
        near, far = selector.source, selector.destination
        if not near_is_source:
            near, far = far, near
        key = traffic_key(selector.protocol, selector.source_port, selector.destination_port)
        for near_shift, near_prefix in prefixes_of(near)[0]:
            row = self._row(near_shift, near_prefix)
            for far_shift, far_prefix in prefixes_of(far)[0]:
                node = self._node(far_shift, far_prefix)
                row[node] = self._without(row.get(node, ()), key, entry.id)

    def _mine(self, table: dict[int, Value]) -> tuple[dict[int, Value], bool]:
        """The dictionary, or a copy of it (True) where it is another plane's too."""
        if self._owned is None or id(table) in self._owned:
            return table, False
        table = dict(table)
        self._owned.add(id(table))
        return table, True

    def _new(self, table: dict[int, Value]) -> dict[int, Value]:
        if self._owned is not None:
            self._owned.add(id(table))
        return table

    def _row(self, shift: int, prefix: int) -> Row:
        rows = self._level(self._near, shift)
        row, copied = self._mine(rows[prefix]) if prefix in rows else (self._new({}), True)
        if copied:
            rows[prefix] = row
        return row

    def _node(self, shift: int, prefix: int) -> int:
        level = self._far.get(shift)
        node = None if level is None else level.get(prefix)
        if node is None:
            node = self._next_node
            self._next_node += 1
            self._level(self._far, shift)[prefix] = node
            self._far_nodes = {}
            if shift > self._top:
                if shift not in self._short:
                    self._short = tuple(sorted((*self._short, shift)))
            else:
                top = prefix >> (self._top - shift)
                shifts = self._far_shifts.get(top, ())
                if shift not in shifts:
                    self._far_shifts, _ = self._mine(self._far_shifts)
                    self._far_shifts[top] = tuple(sorted((*shifts, shift)))
        return node

    def _level(self, levels: dict[int, dict[int, Value]], shift: int) -> dict[int, Value]:
        table, copied = self._mine(levels[shift]) if shift in levels else (self._new({}), True)
        if copied:
            levels[shift] = table
        return table

    def _with(self, cell: Cell, entry: Entry) -> Cell:
        rank, key = entry[:2]
        if isinstance(cell, LargeCell):
            entries, _ = self._mine(cell.entries)
            entries[key] = tuple(sorted((*entries.get(key, ()), entry), key=_rank))
            return LargeCell(min(cell.first, rank), entries)
        few = sorted((*cell, entry), key=_rank)
        if len(few) <= _SMALL_CELL:
            return tuple(few)
        large: dict[int, tuple[Entry, ...]] = self._new({})
        for one in few:
            large[one[1]] = (*large.get(one[1], ()), one)
        return LargeCell(few[0][0], large)

    def _without(self, cell: Cell, key: int, entry_id: str) -> Cell:
        if not isinstance(cell, LargeCell):
            return tuple(entry for entry in cell if entry[3] != entry_id)
        entries, _ = self._mine(cell.entries)
        entries[key] = tuple(entry for entry in entries.get(key, ()) if entry[3] != entry_id)
        return LargeCell(cell.first, entries)

    # ---- looking

    def _nodes(self, far: int) -> tuple[int, ...]:
        tables = self._far
        # the longest prefix first: mostly it has the heaviest filter, and the others can be passed over
        shifts = self._far_shifts.get(far >> self._top, ()) + self._short
        nodes = tuple([node for shift in shifts if (node := tables[shift].get(far >> shift)) is not None])
        if len(self._far_nodes) >= MAXIMUM_ENDS:
            self._far_nodes.clear()
        self._far_nodes[far] = nodes
        return nodes

    def _rows(self, near: int) -> tuple[Row, ...]:
        levels = sorted(self._near)
        rows = tuple([row for one in levels if (row := self._near[one].get(near >> one)) is not None])
        if len(self._near_rows) >= MAXIMUM_ENDS:
            self._near_rows.clear()
        self._near_rows[near] = rows
        return rows

    def find(self, near: int, far: int, traffic: int) -> str | None:
        """The id of the first filter that matches."""
        nodes = self._far_nodes.get(far)
        if nodes is None:
            nodes = self._nodes(far)
        rows = self._near_rows.get(near)
        if rows is None:
            rows = self._rows(near)
        best: str | None = None
        best_rank = _NO_RANK
        for row in rows:
            for node in nodes:
                cell = row.get(node)
                if cell is None:
                    continue
                if isinstance(cell, LargeCell):
                    if cell.first > best_rank:
                        continue
                    entries = cell.entries
                    for pattern in self._patterns:
                        for rank, _, _, entry, bounds in entries.get(traffic & pattern, ()):
                            if rank > best_rank:
                                break
                            if bounds is None or _inside(bounds, near, far):
                                best, best_rank = entry, rank
                                break
                    continue
                for rank, key, pattern, entry, bounds in cell:
                    if rank > best_rank:
                        break
                    if traffic & pattern == key and (bounds is None or _inside(bounds, near, far)):
                        best, best_rank = entry, rank
                        break
        return best

    def about(self, near: int, far: int) -> Iterator[tuple[int, str]]:
        """Rank and id of every filter whose addresses hold the two, in no order."""
        nodes = self._far_nodes.get(far)
        if nodes is None:
            nodes = self._nodes(far)
        for row in self._near_rows.get(near) or self._rows(near):
            for node in nodes:
                cell = row.get(node, ())
                cells = (cell,) if isinstance(cell, tuple) else cell.entries.values()
                for entries in cells:
                    for rank, _, _, entry, bounds in entries:
                        if bounds is None or _inside(bounds, near, far):
                            yield rank, entry


def _inside(bounds: Bounds, near: int, far: int) -> bool:
    return bounds[0] <= near <= bounds[1] and bounds[2] <= far <= bounds[3]


def _pattern(key: int) -> int:
    """The mask of the parts that a filter names: applied to a packet's numbers it gives the filter's key."""
    protocol, source_port, destination_port = key >> 32, key >> 16 & 0xFFFF, key & 0xFFFF
    return traffic_key(0xFF * bool(protocol), 0xFFFF * bool(source_port), 0xFFFF * bool(destination_port))


def _rank(entry: Entry) -> int:
    return entry[0]


class Classifier:
    """The index over the filters of one table, by direction and address family. Thread-safe only as far as
    the interpreter makes a dictionary's single operations so."""

    __slots__ = ("_planes", "_ranks")

    def __init__(self, filters: "Iterable[SpecificFilter]") -> None:
        self._planes: dict[tuple[bool, int], _Plane] = {}
        self._ranks: dict[str, int] = {}
        rank = 0
        with collector_paused():
            for entry in filters:
                rank += _RANK_GAP
                self._ranks[entry.id] = rank
                outbound = entry.direction == "outbound"
                self._plane(outbound, entry.selector.version).add(rank, entry, outbound)

    def _plane(self, outbound: bool, version: int) -> _Plane:
        plane = self._planes.get((outbound, version))
        if plane is None:
            plane = self._planes[(outbound, version)] = _Plane(version)
        return plane

    def find(self, outbound: bool, version: int, source: int, destination: int, traffic: int) -> str | None:
        """The id of the first filter that matches the packet, or None. `traffic` as `traffic_key` makes
        it."""
        plane = self._planes.get((outbound, version))
        if plane is None:
            return None
        return (
            plane.find(source, destination, traffic) if outbound else plane.find(destination, source, traffic)
        )

    def about(self, outbound: bool, version: int, source: int, destination: int) -> list[str]:
        """The ids of the filters that speak of some traffic from `source` to `destination`, in table
        order."""
        plane = self._planes.get((outbound, version))
        if plane is None:
            return []
        near, far = (source, destination) if outbound else (destination, source)
        return [entry for _, entry in sorted(set(plane.about(near, far)))]

    def followed_by(
        self,
        old: "Mapping[str, SpecificFilter]",
        new: "Mapping[str, SpecificFilter]",
        came: Collection[str],
        went: Collection[str],
    ) -> "Classifier | None":
        """The classifier of another table, made from this one; filters by id, in table order, those that
        stay in the same order. None where that is not worth it (many changes) or there is no room between
        two ranks."""
        if len(came) + len(went) > _FEW_CHANGES + len(old) // 8:
            return None
        ranks = self._new_ranks(new, came, went)
        if ranks is None:
            return None
        other = Classifier(())
        other._ranks = ranks
        other._planes = dict(self._planes)
        touched: dict[tuple[bool, int], _Plane] = {}

        def plane_of(entry: "SpecificFilter") -> _Plane:
            where = (entry.direction == "outbound", entry.selector.version)
            if where not in touched:
                found = other._planes.get(where)
                touched[where] = other._planes[where] = _Plane(where[1]) if found is None else found.copy()
            return touched[where]

        for entry_id in went:
            entry = old[entry_id]
            plane_of(entry).remove(entry, entry.direction == "outbound")
        for entry_id in came:
            entry = new[entry_id]
            plane_of(entry).add(ranks[entry_id], entry, entry.direction == "outbound")
        return other

    def _new_ranks(
        self, new: Iterable[str], came: Collection[str], went: Collection[str]
    ) -> dict[str, int] | None:
        """The old ranks, and others between them for the filters that came; None where there is no room."""
        ranks = self._ranks.copy()
        for entry_id in went:
            del ranks[entry_id]
        if not came:
            return ranks
        waiting: list[str] = []
        last = 0

        def place(step: int) -> bool:
            for number, entry_id in enumerate(waiting, 1):
                ranks[entry_id] = last + number * step
            waiting.clear()
            return step > 0

        before = ""
        for entry_id in new:
            if entry_id not in came:
                if waiting:
                    last = ranks[before] if before else 0
                    if not place((ranks[entry_id] - last) // (len(waiting) + 1)):
                        return None
                before = entry_id
                continue
            waiting.append(entry_id)
        last = ranks[before] if before else 0
        place(_RANK_GAP)
        return ranks
