"""What stands in the filter table for a while, over what the policy compiles to.

    compiled table ──▶ + filters of the default response rule (as long as the SAs that they came with)
                       + filters of soft SAs (as long as these last)        ──▶ the table in force

The compiled table stays as it is: a change of policy starts from it again, and what no longer fits is left
out.

**Default response.** The two filters of `policy.dynamic.response_filters` are there from the moment that the
first SA of a quick mode comes to the driver, and go with its last one.

**Soft SA.** A pair of hosts between which a rule with `soft` lets clear traffic pass, because the peer has no
IPsec or negotiation failed. It is two filters that permit, right above the two filters of the rule: a heavier
filter that blocks a part of that traffic goes on blocking it, and inbound clear traffic passes only while the
soft SA is there. Pure.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from stockade.model.addresses import Address
from stockade.model.filters import Action, Direction, FilterTable, SpecificFilter
from stockade.model.negotiation import QuickModeMatch
from stockade.model.reasons import Reason
from stockade.model.sa import SecurityAssociation
from stockade.model.traffic import TrafficSelector
from stockade.policy.dynamic import with_responses
from stockade.policy.specific import make_filter

MAXIMUM_SOFT = 4096
"""Soft SAs of one host. Beyond that no new one is made: traffic to further peers stays closed."""


@dataclass(frozen=True, slots=True)
class SoftAssociation:
    """Clear traffic between two hosts, for a time. `selector` is outbound (source = us); `filter_id` the
    outbound filter that asked for security. Times in seconds of the agent's clock."""

    local: Address
    peer: Address
    selector: TrafficSelector
    filter_id: str
    reason: Reason
    established: float
    expires: float
    at_once: bool = False
    """By negotiation discovery: what began it goes in clear too."""

    @property
    def key(self) -> tuple[str, Address, Address]:
        return self.filter_id, self.local, self.peer


class TemporaryFilters:
    """The responses and soft SAs of one host."""

    def __init__(self) -> None:
        # by the outbound filter, whose identifier says all: the traffic, the rule
        self._responses: dict[str, tuple[QuickModeMatch, set[tuple[int, Direction, Address]]]] = {}
        self._soft: dict[tuple[str, Address, Address], SoftAssociation] = {}
        self._soft_filters: dict[tuple[str, Address, Address], tuple[str, ...]] = {}

    # ---- the default response rule

    def add_response(self, match: QuickModeMatch, sa: SecurityAssociation) -> bool:
        """An SA that the default response rule made goes to the driver; True where the table changes."""
        _, owners = self._responses.setdefault(match.filter_id, (match, set()))
        owners.add((sa.spi, sa.direction, sa.peer))
        return len(owners) == 1

    def remove_response(self, spi: int, direction: Direction, peer: Address) -> bool:
        """An SA is gone; True where it was the last one of a response."""
        owner = (spi, direction, peer)
        for name, (_, owners) in self._responses.items():
            if owner in owners:
                owners.remove(owner)
                if not owners:
                    del self._responses[name]
                return not owners
        return False

    # ---- soft SAs

    @property
    def soft(self) -> tuple[SoftAssociation, ...]:
        return tuple(self._soft.values())

    def add_soft(self, soft: SoftAssociation) -> bool:
        """False where there are too many."""
        if len(self._soft) >= MAXIMUM_SOFT and soft.key not in self._soft:
            return False
        self._soft[soft.key] = soft
        return True

    def soft_with(self, filter_id: str, local: Address, peer: Address) -> SoftAssociation | None:
        return self._soft.get((filter_id, local, peer))

    def remove_soft(self, soft: SoftAssociation) -> None:
        self._soft.pop(soft.key, None)
        self._soft_filters.pop(soft.key, None)

    def filters_of(self, soft: SoftAssociation) -> tuple[str, ...]:
        """The identifiers of its filters in the table made last."""
        return self._soft_filters.get(soft.key, ())

    # ---- the table

    def over(self, compiled: FilterTable) -> FilterTable:
        """The table with all of it. Soft SAs whose filter is gone, or no longer asks for security softly, are
        forgotten."""
        table = with_responses(compiled, [match for match, _ in self._responses.values()])
        above: dict[str, list[SpecificFilter]] = {}
        for key, soft in list(self._soft.items()):
            made = _soft_filters(table, soft)
            if not made:
                del self._soft[key]
                self._soft_filters.pop(key, None)
                continue
            self._soft_filters[key] = tuple(entry.id for _, entry in made)
            for parent, entry in made:
                above.setdefault(parent, []).append(entry)
        if not above:
            return table
        changed = replace(table, filters=tuple(_inserted(table.filters, above)))
        changed.prepare(table)
        return changed


def _soft_filters(table: FilterTable, soft: SoftAssociation) -> list[tuple[str, SpecificFilter]]:
    """The filters of a soft SA, each with the identifier of the one that it stands above."""
    parent = table.by_id(soft.filter_id)
    if parent is None or parent.action is not Action.NEGOTIATE or not parent.allow_soft:
        return []
    parents = [(parent, soft.selector)]
    back = soft.selector.reversed()
    for entry in table.about(back.source.first, back.destination.first, Direction.INBOUND):
        if entry.selector.covers(back):
            if entry.negotiation == parent.negotiation:
                parents.append((entry, back))
            break
    return [
        (
            entry.id,
            make_filter(
                selector,
                entry.direction,
                Action.PERMIT,
                entry.weight,
                replace(
                    entry.provenance, description=f"soft SA with {soft.peer}: {soft.reason.code.meaning}"
                ),
                allow_soft=soft.at_once,
            ),
        )
        for entry, selector in parents
    ]


def _inserted(
    filters: Iterable[SpecificFilter], above: dict[str, list[SpecificFilter]]
) -> Iterable[SpecificFilter]:
    for entry in filters:
        yield from above.get(entry.id, ())
        yield entry
