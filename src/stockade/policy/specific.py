"""Making specific filters: their identifiers, and the order of the filter table."""

from dataclasses import fields
from hashlib import sha256

from stockade.model.filters import Action, Direction, FilterClass, Provenance, SpecificFilter
from stockade.model.traffic import TrafficSelector


def make_filter(
    selector: TrafficSelector,
    direction: Direction,
    action: Action,
    weight: int,
    provenance: Provenance,
    *,
    filter_class: FilterClass = FilterClass.POLICY,
    negotiation: str | None = None,
    accept_clear: bool = False,
    allow_soft: bool = False,
) -> SpecificFilter:
    """A specific filter with the identifier that its content gives it."""
    content = (
        *(f"{end.first}-{end.last}" for end in (selector.source, selector.destination)),
        *(str(part) for part in (selector.protocol, selector.source_port, selector.destination_port)),
        direction.value,
        action.value,
        str(weight),
        *(str(getattr(provenance, part.name)) for part in fields(provenance)),
        str(int(filter_class)),
        "" if negotiation is None else "negotiation " + negotiation,
        str(int(accept_clear)),
        str(int(allow_soft)),
    )
    # each part carries its length, so that no two different contents give the same text
    text = "".join(f"{len(part)}:{part}" for part in content)
    identifier = sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return SpecificFilter(
        identifier,
        selector,
        direction,
        action,
        weight,
        provenance,
        filter_class,
        negotiation,
        accept_clear,
        allow_soft,
    )


def table_order(entry: SpecificFilter) -> tuple[int, int, int, int, str]:
    """Sort key of the filter table, smallest first: exemptions, weight, fewer pairs of addresses (only ranges
    and the multicast part of a filter weigh the same as something larger), most restrictive action, id."""
    pairs = entry.selector.source.size * entry.selector.destination.size
    return (-entry.filter_class, -entry.weight, pairs, -entry.action.restrictiveness, entry.id)
