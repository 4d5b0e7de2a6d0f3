"""Making specific filters: their identifiers, and the order of the filter table."""

from functools import lru_cache
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
    numbers: tuple[int, ...] | None = None,
) -> SpecificFilter:
    """A specific filter with the identifier that its content gives it. `numbers`: those of the selector, for
    whoever has them already: IP version, first and last address of both ends, protocol, ports."""
    where = provenance
    text = _identity_text(
        where.store,
        where.policy,
        where.rule,
        where.filter_list,
        where.filter_action,
        where.description,
        negotiation or "",
    )
    if numbers is None:
        source, destination = selector.source, selector.destination
        numbers = (
            source.first.version,
            int(source.first),
            int(source.last),
            int(destination.first),
            int(destination.last),
            selector.protocol,
            selector.source_port,
            selector.destination_port,
        )
    rest = (
        direction._value_,
        action._value_,
        weight,
        filter_class == 1,
        negotiation is None,
        where.mirrored,
        accept_clear,
        allow_soft,
    )
    content = f"{numbers!r}{rest!r}{text}"
    identifier = sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]
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


@lru_cache(maxsize=1024)
def _identity_text(*parts: str) -> str:
    """The texts of a filter's identifier, the same for most filters of a rule. Each carries its length, so
    that no two different contents give the same whole; the number of the filter in its list is left out, so
    that the filters behind an inserted one keep their identifiers."""
    return "".join([f"{len(part)}:{part}" for part in parts])


def table_order(entry: SpecificFilter) -> tuple[int, int, int, int, int, str]:
    """Sort key of the filter table, smallest first: exemptions, weight, fewer pairs of addresses (only ranges
    and the multicast part of a filter weigh the same as something larger), most restrictive action, fewer
    sources, id. The sources keep filters of one shape side by side, for drivers that look them up at once."""
    sources = entry.selector.source.size
    pairs = sources * entry.selector.destination.size
    return (-entry.filter_class, -entry.weight, pairs, -entry.action.restrictiveness, sources, entry.id)
