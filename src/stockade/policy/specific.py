"""Making specific filters: their identifiers, and the order of the filter table."""

from functools import lru_cache
from hashlib import blake2b
from struct import Struct

from stockade.model.filters import Action, Direction, FilterClass, Provenance, SpecificFilter
from stockade.model.traffic import TrafficSelector

_OUTBOUND = Direction.OUTBOUND
_ACTION_NUMBER = {Action.PERMIT.value: 0, Action.NEGOTIATE.value: 1, Action.BLOCK.value: 2}
# version, both ends, protocol, ports, weight, flags, digest of the texts
_CONTENT_4 = Struct(">B4IB2HQB16s").pack
_CONTENT_6 = Struct(">B64sB2HQB16s").pack


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
    identity = _identity_digest(
        provenance.store,
        provenance.policy,
        provenance.rule,
        provenance.filter_list,
        provenance.filter_action,
        provenance.description,
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
        weight,
        (direction is _OUTBOUND)
        | _ACTION_NUMBER[action._value_] << 1
        | (filter_class == 1) << 3
        | (negotiation is None) << 4
        | provenance.mirrored << 5
        | accept_clear << 6
        | allow_soft << 7,
        identity,
    )
    if numbers[0] == 4:
        content = _CONTENT_4(*numbers, *rest)
    else:
        ends = b"".join([number.to_bytes(16, "big") for number in numbers[1:5]])
        content = _CONTENT_6(numbers[0], ends, *numbers[5:], *rest)
    identifier = blake2b(content, digest_size=8).hexdigest()
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
def _identity_digest(*parts: str) -> bytes:
    """The texts of a filter's identifier, the same for most filters of a rule. Each carries its length, so
    that no two different contents give the same whole; the number of the filter in its list is left out, so
    that the filters behind an inserted one keep their identifiers."""
    text = "".join([f"{len(part)}:{part}" for part in parts])
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def table_order(entry: SpecificFilter) -> tuple[int, int, int, int, int, str]:
    """Sort key of the filter table, smallest first: exemptions, weight, fewer pairs of addresses (only ranges
    and the multicast part of a filter weigh the same as something larger), most restrictive action, fewer
    sources, id. The sources keep filters of one shape side by side, for drivers that look them up at once."""
    sources = entry.selector.source.size
    pairs = sources * entry.selector.destination.size
    return (-entry.filter_class, -entry.weight, pairs, -entry.action.restrictiveness, sources, entry.id)
