"""The filter table as the kernel can look it up at once: *steps*, each a map, in the table's order. Pure.

    table, heaviest first        steps of one direction and family
    host  → host  tcp :80        1  map  source/32 . destination/32 . protocol . destination port
    host  → host  tcp :443
    net24 → host                 2  map  source/24 . destination/32
    range → host                 3  rule of its own (a range that is no prefix has no masked value)
    any   → any                  4  rule of its own

Filters of one *shape* (how many bits of each address, whether protocol and ports count) that stand side by
side in the table and weigh the same are one step. Two of them either say the same or exclude each other, so
their order among each other does not matter and one look into a hash map stands for all of them. The weight
of a filter comes from its shape, so a table has as many steps as it has shapes (some dozens), however many
filters; a table whose shapes alternate has more steps and is as true, only slower.

Of filters that say the same, the first one in the table has the place in the map; the others are never met.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from stockade.model.addresses import AddressRange
from stockade.model.filters import Direction, FilterTable, SpecificFilter
from stockade.model.traffic import TrafficSelector

Place = tuple[Direction, int]
"""Direction and IP version: each has steps of its own."""

PLACES: Final[tuple[Place, ...]] = tuple(
    (direction, version) for direction in Direction for version in (4, 6)
)
FEW_CHANGES: Final = 64
ALONE: Final = ""
"""The key of the one filter of a step that is a rule."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What the filters of a step look at: leading bits of the addresses (0: none of them), and which numbers.
    `everything` looks at nothing."""

    version: int
    source_bits: int
    destination_bits: int
    protocol: bool
    source_port: bool
    destination_port: bool

    @property
    def is_everything(self) -> bool:
        return not (self.source_bits or self.destination_bits or self.protocol)

    @property
    def types(self) -> str:
        """The type of a map's key, as nft writes it."""
        family = f"ipv{self.version}_addr"
        return self._joined(family, family, "inet_proto", "inet_service", "inet_service")

    @property
    def expression(self) -> str:
        """What of a packet is looked up. Later fragments have no ports: a step that asks for them is passed
        over then, as `TrafficSelector.matches` does."""
        family = "ip" if self.version == 4 else "ip6"
        source = f"{family} saddr{_mask(self.version, self.source_bits)}"
        destination = f"{family} daddr{_mask(self.version, self.destination_bits)}"
        return self._joined(source, destination, "meta l4proto", "th sport", "th dport")

    def key(self, selector: TrafficSelector) -> str:
        """The key of a filter of this shape."""
        return self._joined(
            str(selector.source.first),
            str(selector.destination.first),
            str(selector.protocol),
            str(selector.source_port),
            str(selector.destination_port),
        )

    def _joined(self, source: str, destination: str, protocol: str, sport: str, dport: str) -> str:
        parts = []
        if self.source_bits:
            parts.append(source)
        if self.destination_bits:
            parts.append(destination)
        if self.protocol:
            parts.append(protocol)
        if self.source_port:
            parts.append(sport)
        if self.destination_port:
            parts.append(dport)
        return " . ".join(parts)

    def __str__(self) -> str:
        words = f"s{self.source_bits}d{self.destination_bits}"
        numbers = "p" * self.protocol + "s" * self.source_port + "d" * self.destination_port
        return words + (f"_{numbers}" if numbers else "")


def _mask(version: int, bits: int) -> str:
    whole = 32 if version == 4 else 128
    if bits == whole:
        return ""
    return f" & {AddressRange.everything(version).first + ((1 << bits) - 1 << whole - bits)}"


def shape_of(selector: TrafficSelector) -> Shape | None:
    """None where an end is a range and no prefix."""
    source, destination = selector.source.prefix_length, selector.destination.prefix_length
    if source is None or destination is None:
        return None
    return Shape(
        selector.version,
        source,
        destination,
        bool(selector.protocol),
        bool(selector.source_port),
        bool(selector.destination_port),
    )


@dataclass(slots=True)
class Step:
    """`shape`: of the map; None for a rule. `members`: key → filter id."""

    name: str
    shape: Shape | None
    members: dict[str, str] = field(default_factory=dict)


Move = tuple[str, str | None, str | None]
"""A key, and the filter that had it and that has it."""

Steps = dict[str, Step]
"""By name, in the order in which they are looked at."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """What of a filter never changes: where it belongs, the name of a step that it fits in, and its key
    there."""

    place: Place
    shape: Shape | None
    name: str
    key: str


class Layout:
    """The steps of a table. `previous` saves work (an identifier is made from all that matters, so the same
    one is the same filter): where few filters came or went, and into steps that are there, only those steps
    are made anew."""

    def __init__(self, table: FilterTable, previous: "Layout | None" = None) -> None:
        self.table = table
        self._pieces: dict[str, _Piece] = {}
        self.steps: dict[Place, Steps] = {place: {} for place in PLACES}
        self._has_doubles = False
        self._mark = object()
        self._followed: object = None
        self._moves: dict[tuple[Place, str], dict[str, Move]] = {}
        if previous is None or not self._follow(previous):
            self._lay_out(previous._pieces if previous is not None else {})

    def moves(self, previous: "Layout", place: Place, name: str) -> Sequence[Move]:
        """What differs in a step that both have."""
        if self._followed is previous._mark:
            return tuple(self._moves.get((place, name), {}).values())
        old, new = previous.steps[place][name], self.steps[place][name]
        return () if old.members == new.members else tuple(moved(old.members, new.members))

    def _lay_out(self, known: Mapping[str, _Piece]) -> None:
        self.steps = {place: {} for place in PLACES}
        pieces: dict[str, _Piece] = {}
        last: dict[Place, tuple[str, Step] | None] = dict.fromkeys(PLACES)
        for entry in self.table.filters:
            entry_id = entry.id
            piece = known.get(entry_id)
            if piece is None:
                piece = _taken_apart(entry)
            pieces[entry_id] = piece
            place = piece.place
            current = last[place]
            if current is None or current[0] != piece.name:
                current = last[place] = (piece.name, self._begin(piece))
            if current[1].members.setdefault(piece.key, entry_id) != entry_id:
                self._has_doubles = True
        self._pieces = pieces

    def _follow(self, previous: "Layout") -> bool:
        """Take the steps of `previous` over, with what changed; False where that is not so simple: many
        changes, steps that come or go, filters that say the same as another."""
        changes = self.table.since(previous.table)
        if changes.reordered or previous._has_doubles or len(changes.came) + len(changes.went) > FEW_CHANGES:
            return False
        self.steps = {place: dict(steps) for place, steps in previous.steps.items()}
        self._pieces = pieces = previous._pieces.copy()
        filters = self.table.filters
        came = (
            [number for number, entry_id in enumerate(self.table.ids) if entry_id in changes.came]
            if changes.came
            else []
        )
        for number in came:
            pieces[filters[number].id] = _taken_apart(filters[number])
        own: dict[int, Step] = {}  # steps that are not those of `previous`, by identity
        for entry_id in changes.went:
            piece = pieces.pop(entry_id)
            step = self._own(piece, own)
            if step is None or step.members.pop(piece.key, None) != entry_id or not step.members:
                return False
            self._moves.setdefault((piece.place, piece.name), {})[piece.key] = (piece.key, entry_id, None)
        for number in came:
            entry_id = filters[number].id
            piece = pieces[entry_id]
            step = self._own(piece, own)
            if step is None or piece.key in step.members or not self._stands_beside(number, piece):
                return False
            step.members[piece.key] = entry_id
            moves = self._moves.setdefault((piece.place, piece.name), {})
            before = moves[piece.key][1] if piece.key in moves else None
            moves[piece.key] = (piece.key, before, entry_id)
        self._followed = previous._mark
        return True

    def _own(self, piece: _Piece, own: dict[int, Step]) -> Step | None:
        """The one step that the piece fits in, as a copy that may be changed."""
        steps = self.steps[piece.place]
        step = steps.get(piece.name)
        if step is None or step.shape is None or f"{piece.name}_2" in steps:
            return None
        if id(step) not in own:
            step = steps[piece.name] = Step(step.name, step.shape, step.members.copy())
            own[id(step)] = step
        return step

    def _stands_beside(self, number: int, piece: _Piece) -> bool:
        """Whether the filter before it or behind it in its place of the table is of its step."""
        filters, pieces = self.table.filters, self._pieces
        for way in (range(number - 1, -1, -1), range(number + 1, len(filters))):
            for other in way:
                found = pieces[filters[other].id]
                if found.place == piece.place:
                    if found.name == piece.name:
                        return True
                    break
        return False

    def _begin(self, piece: _Piece) -> Step:
        """A step after the others. One of the same name is there already where a table has something else in
        between."""
        steps = self.steps[piece.place]
        name, number = piece.name, 2
        while name in steps:
            name, number = f"{piece.name}_{number}", number + 1
        made = steps[name] = Step(name, piece.shape)
        return made

    def entry(self, entry_id: str) -> SpecificFilter:
        found = self.table.by_id(entry_id)
        assert found is not None
        return found


def _taken_apart(entry: SpecificFilter) -> _Piece:
    selector = entry.selector
    place = (entry.direction, selector.version)
    shape = shape_of(selector)
    if shape is None or shape.is_everything:
        return _Piece(place, None, f"f_{entry.id}", ALONE)
    return _Piece(place, shape, f"w{entry.weight}_{shape}", shape.key(selector))


def merged(old: Sequence[str], new: Sequence[str]) -> list[str] | None:
    """Names of both lists in an order that is right for either; None where the two contradict each other."""
    there, kept = set(old), set(new)
    if [name for name in old if name in kept] != [name for name in new if name in there]:
        return None
    result: list[str] = []
    rest = iter(old)
    for name in new:
        if name in there:
            for earlier in rest:
                if earlier == name:
                    break
                result.append(earlier)
        result.append(name)
    result += rest
    return result


def moved(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[Move]:
    """(key, old filter, new filter) wherever the two differ."""
    for key, entry_id in new.items() - old.items():
        yield key, old.get(key), entry_id
    for key in old.keys() - new.keys():
        yield key, old[key], None
