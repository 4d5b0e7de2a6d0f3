"""The filter table: what the policy compiler makes, the driver enforces and every tool explains.

A *generic* filter is as configured; *specific* filters are what it expands to, per address and per
direction. Each carries its weight, its action and its provenance. The table is sorted: first match wins.
"""

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from types import MappingProxyType

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
        return {"permit": 0, "negotiate": 1, "block": 2}[self.value]


class FilterClass(IntEnum):
    """Exemptions stand above everything that an administrator wrote."""

    POLICY = 0
    EXEMPTION = 1


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a filter comes from, in the administrator's words. `filter_index` counts from 1 in its filter
    list; `description` is the filter's own. Exemptions have `store` "exemption" and say why in `rule`."""

    store: str
    policy: str
    rule: str
    filter_list: str = ""
    filter_index: int = 0
    filter_action: str = ""
    mirrored: bool = False
    description: str = ""

    def __str__(self) -> str:
        if self.store == "exemption":
            return f"exemption: {self.rule}"
        where = f"{self.store} store, policy “{self.policy}”, rule “{self.rule}”"
        if self.filter_list:
            where += f", filter list “{self.filter_list}” filter {self.filter_index}"
        return where + (" (mirrored)" if self.mirrored else "")


@dataclass(frozen=True, slots=True)
class SpecificFilter:
    """One line of the filter table.

    `id` is a 16-hex-digit digest of everything below, so the same filter keeps its id over recompilations.
    `negotiation` names an entry of `FilterTable.negotiations` exactly when the action is negotiate.
    `accept_clear` (inbound only): inpass, clear packets that match are let in. `allow_soft`: fall back to
    clear."""

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


@dataclass(frozen=True, slots=True)
class FilterTable:
    """The whole table, heaviest first, and the negotiations that its filters name. `warnings` says what the
    compiler found doubtful (text for people). The empty table permits everything, as Windows without a
    policy."""

    filters: tuple[SpecificFilter, ...] = ()
    negotiations: MappingProxyType[str, Negotiation] = field(default_factory=lambda: MappingProxyType({}))
    policy_name: str | None = None
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        ids = set()
        for entry in self.filters:
            if entry.id in ids:
                raise ValueError(f"filter id {entry.id} stands twice in the table")
            ids.add(entry.id)
            if entry.negotiation is not None and entry.negotiation not in self.negotiations:
                raise ValueError(f"filter {entry.id} names an unknown negotiation {entry.negotiation!r}")

    def lookup(self, flow: Flow, direction: Direction) -> SpecificFilter | None:
        """The first filter that matches, or None: the packet is permitted because nothing speaks of it."""
        for entry in self.filters:
            if entry.direction is direction and entry.selector.matches(flow):
                return entry
        return None

    def by_id(self, filter_id: str) -> SpecificFilter | None:
        for entry in self.filters:
            if entry.id == filter_id:
                return entry
        return None
