"""The filter table: what the policy compiler makes, the driver enforces and every tool explains.

A *generic* filter is as configured; *specific* filters are what it expands to, per address and per
direction. Each carries its weight, its action and its provenance. The table is sorted: first match wins.
"""

from collections.abc import KeysView
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from types import MappingProxyType
from weakref import ref

from stockade.model.addresses import Address
from stockade.model.classifier import Classifier
from stockade.model.negotiation import Negotiation
from stockade.model.traffic import Flow, TrafficSelector


class Direction(StrEnum):
    """As this host sees it."""

    INBOUND = "inbound"
    OUTBOUND = "outbound"


class Action(StrEnum):
    PERMIT = "permit"
    BLOCK = "block"
    NEGOTIATE = "negotiate"

    @property
    def restrictiveness(self) -> int:
        """Block > negotiate > permit: the more restrictive one wins a conflict (the FAQ on conflicting
        filters)."""
        return _RESTRICTIVENESS[self._value_]


_RESTRICTIVENESS = {"permit": 0, "negotiate": 1, "block": 2}


class FilterClass(IntEnum):
    """Exemptions stand above everything that an administrator wrote."""

    POLICY = 0
    EXEMPTION = 1


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an object was written: the file's name, and the line where it begins there (from 1; 0 where the
    file has no lines)."""

    file: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file} line {self.line}" if self.line else self.file


class ListPosition:
    """A filter's number in its filter list, from 1; 0: it is in none. The only thing about a specific filter
    that changes while the filter stays what it is: the compiler counts it on where a filter before it comes
    or goes, and whoever holds the filter sees the present number."""

    __slots__ = ("number",)

    def __init__(self, number: int = 0) -> None:
        self.number = number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ListPosition) and other.number == self.number

    def __hash__(self) -> int:
        return hash(self.number)

    def __repr__(self) -> str:
        return f"ListPosition({self.number})"


_NOT_IN_A_LIST = ListPosition()


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a filter comes from, in the administrator's words. `position` is its place in its filter list,
    `origin` where it was written, as far as that is known; `description` is the filter's own. Exemptions have
    `store` "exemption" and say why in `rule`."""

    store: str
    policy: str
    rule: str
    filter_list: str = ""
    position: ListPosition = _NOT_IN_A_LIST
    filter_action: str = ""
    mirrored: bool = False
    description: str = ""
    origin: Origin | None = None

    @property
    def filter_index(self) -> int:
        """The number in the filter list, from 1; 0 outside one."""
        return self.position.number

    def __str__(self) -> str:
        if self.store == "exemption":
            return f"exemption: {self.rule}"
        where = f"{self.store} store, policy “{self.policy}”, rule “{self.rule}”"
        if self.filter_list:
            where += f", filter list “{self.filter_list}”"
        if self.filter_index:
            where += f" filter {self.filter_index}"
        if self.origin is not None:
            where += f" ({self.origin})"
        return where + (" (mirrored)" if self.mirrored else "")


@dataclass(frozen=True, slots=True)
class SpecificFilter:
    """One line of the filter table.

    `id` is a 16-hex-digit digest of everything below but the filter's number in its list, so the same filter
    keeps its id over recompilations.
    `negotiation` names an entry of `FilterTable.negotiations` exactly when the action is negotiate.
    `accept_clear` (inbound only): inpass, clear packets that match are let in. `allow_soft`: fall back to
    clear; of a permit filter, that it stands for such a rule and packets that were held for it go by it
    (negotiation discovery)."""

    id: str
    selector: TrafficSelector
    direction: Direction
    action: Action
    weight: int
    provenance: Provenance
    filter_class: FilterClass = FilterClass.POLICY
    negotiation: str | None = None
    accept_clear: bool = False
    allow_soft: bool = False

    def __post_init__(self) -> None:
        if (self.action is Action.NEGOTIATE) != (self.negotiation is not None):
            raise ValueError("a negotiate filter names its negotiation, and only a negotiate filter does")

    def __str__(self) -> str:
        return f"{self.direction} {self.selector}: {self.action}"


MAXIMUM_KNOWN_FLOWS = 65_536
"""Flows whose filter a table remembers, per direction and address family."""

_UNKNOWN = object()
_OUTBOUND = Direction.OUTBOUND


def _slow_flow_key(flow: Flow) -> tuple[object, ...]:
    """As `FilterTable.lookup` makes it, where an address does not have its number as an attribute."""
    source, destination = flow.source, flow.destination
    return (
        source.__class__,
        destination.__class__,
        int(source),
        int(destination),
        flow.protocol,
        flow.source_port,
        flow.destination_port,
    )


@dataclass(frozen=True, slots=True)
class TableChanges:
    """How a table differs from an earlier one: ids of the filters that came and went, and whether filters
    that stay stand in another order."""

    came: frozenset[str]
    went: frozenset[str]
    reordered: bool


@dataclass(frozen=True, slots=True)
class Overruled:
    """A filter about exactly the same packets as one of the table, with an action that allows more: it is not
    in force."""

    action: Action
    provenance: Provenance


class _Memory:
    """What a table remembers between two questions. Never part of its value."""

    __slots__ = ("__weakref__", "by_id", "changes", "classifier", "inbound", "outbound")

    def __init__(self) -> None:
        self.by_id: dict[str, SpecificFilter] = {}
        self.classifier: Classifier | None = None
        self.outbound: dict[tuple[object, ...], SpecificFilter | None] = {}
        self.inbound: dict[tuple[object, ...], SpecificFilter | None] = {}
        self.changes: tuple[ref[_Memory], TableChanges] | None = None


@dataclass(frozen=True, slots=True)
class FilterTable:
    """The whole table, heaviest first, and the negotiations that its filters name. `warnings` says what the
    compiler found doubtful (text for people). The empty table permits everything, as Windows without a
    policy. `default_response` names the negotiation that answers a peer about whose request no filter speaks;
    None: such a peer is refused. `overruled`: by the id of a filter those that lost a conflict to it.

    The first `lookup` builds an index over the filters, in time proportional to their number; `prepare`
    does it beforehand."""

    filters: tuple[SpecificFilter, ...] = ()
    negotiations: MappingProxyType[str, Negotiation] = field(default_factory=lambda: MappingProxyType({}))
    policy_name: str | None = None
    warnings: tuple[str, ...] = ()
    default_response: str | None = None
    overruled: MappingProxyType[str, tuple[Overruled, ...]] = field(
        default_factory=lambda: MappingProxyType({}), repr=False, compare=False, hash=False
    )
    _memory: _Memory = field(default_factory=_Memory, init=False, repr=False, compare=False, hash=False)

    def __post_init__(self) -> None:
        by_id = self._memory.by_id
        by_id.update({entry.id: entry for entry in self.filters})
        if len(by_id) != len(self.filters):
            double = next(entry for entry in self.filters if by_id[entry.id] is not entry)
            raise ValueError(f"filter id {double.id} stands twice in the table")
        unknown = {entry.negotiation for entry in self.filters} - self.negotiations.keys() - {None}
        if unknown:
            entry = next(entry for entry in self.filters if entry.negotiation in unknown)
            raise ValueError(f"filter {entry.id} names an unknown negotiation {entry.negotiation!r}")
        if self.default_response is not None and self.default_response not in self.negotiations:
            raise ValueError(f"the default response names an unknown negotiation {self.default_response!r}")

    @property
    def ids(self) -> KeysView[str]:
        """The identifiers of the filters, in table order."""
        return self._memory.by_id.keys()

    @property
    def is_prepared(self) -> bool:
        """Whether the index is built."""
        return self._memory.classifier is not None

    def prepare(self, previous: "FilterTable | None" = None) -> None:
        """Build the index now; where few filters differ from those of `previous`, from its index."""
        memory = self._memory
        if memory.classifier is not None:
            return
        if previous is not None and previous._memory.classifier is not None:
            old = previous._memory
            changes = self.since(previous)
            if not changes.reordered:
                memory.classifier = previous._memory.classifier.followed_by(
                    old.by_id, memory.by_id, changes.came, changes.went
                )
        if memory.classifier is None:
            memory.classifier = Classifier(self.filters)

    def since(self, previous: "FilterTable") -> TableChanges:
        """How this table differs from an earlier one."""
        remembered = self._memory.changes
        if remembered is not None and remembered[0]() is previous._memory:
            return remembered[1]
        came, went = self.ids - previous.ids, previous.ids - self.ids
        changes = TableChanges(
            frozenset(came),
            frozenset(went),
            [entry for entry in previous.ids if entry not in went]
            != [entry for entry in self.ids if entry not in came],
        )
        self.assume(previous, changes)
        return changes

    def assume(self, previous: "FilterTable", changes: TableChanges) -> None:
        """Remember how this table differs from an earlier one, for whoever made both and knows it."""
        self._memory.changes = (ref(previous._memory), changes)

    def lookup(self, flow: Flow, direction: Direction) -> SpecificFilter | None:
        """The first filter that matches, or None: the packet is permitted because nothing speaks of it."""
        outbound = direction is _OUTBOUND
        memory = self._memory
        flows = memory.outbound if outbound else memory.inbound
        source, destination = flow.source, flow.destination
        # The hash of an address object is slow, so its number stands for it, and its class tells the families
        # apart. `int()` of an address is a call of Python code for each end and packet; the number itself is
        # no public attribute, so there is another way where it is not there.
        try:
            key: tuple[object, ...] = (
                source.__class__,
                destination.__class__,
                source._ip,  # type: ignore[union-attr]
                destination._ip,  # type: ignore[union-attr]
                flow.protocol,
                flow.source_port,
                flow.destination_port,
            )
        except AttributeError:
            key = _slow_flow_key(flow)
        found = flows.get(key, _UNKNOWN)
        if found is not _UNKNOWN:
            return found  # type: ignore[return-value]
        entry: SpecificFilter | None = None
        if source.__class__ is destination.__class__:
            entry = self.classify(outbound, source.version, int(source), int(destination), *key[4:])  # type: ignore[arg-type]
        if len(flows) >= MAXIMUM_KNOWN_FLOWS:
            flows.clear()
        flows[key] = entry
        return entry

    def classify(
        self,
        outbound: bool,
        version: int,
        source: int,
        destination: int,
        protocol: int,
        source_port: int,
        destination_port: int,
    ) -> SpecificFilter | None:
        """`lookup` for whoever has a packet's numbers and no objects, and remembers flows himself."""
        memory = self._memory
        if memory.classifier is None:
            self.prepare()
        assert memory.classifier is not None
        if protocol >> 8 or (source_port | destination_port) >> 16:
            # no packet has such numbers; only filters that leave the part open match them, as they match 0
            protocol = protocol if protocol >> 8 == 0 else 0
            source_port = source_port if source_port >> 16 == 0 else 0
            destination_port = destination_port if destination_port >> 16 == 0 else 0
        traffic = protocol << 32 | source_port << 16 | destination_port
        entry_id = memory.classifier.find(outbound, version, source, destination, traffic)
        return None if entry_id is None else memory.by_id[entry_id]

    def about(
        self, source: Address, destination: Address, direction: Direction
    ) -> tuple[SpecificFilter, ...]:
        """The filters that speak of some traffic between the two addresses, in table order."""
        if source.version != destination.version:
            return ()
        self.prepare()
        assert self._memory.classifier is not None
        found = self._memory.classifier.about(
            direction is Direction.OUTBOUND, source.version, int(source), int(destination)
        )
        return tuple([self._memory.by_id[entry_id] for entry_id in found])

    def by_id(self, filter_id: str) -> SpecificFilter | None:
        return self._memory.by_id.get(filter_id)
