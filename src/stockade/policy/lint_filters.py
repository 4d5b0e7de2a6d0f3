"""What is doubtful in a compiled filter table: filters that never decide, filters that change nothing,
filters that open more than they say.

A filter is compared with those that speak of the first addresses of its two ends: whatever covers it is
among them. Only "a block that does not hold everywhere" needs filters that overlap, and is looked for pair
by pair, up to `MAXIMUM_COMPARISONS`.
"""

from collections import Counter
from collections.abc import Iterator

from stockade.model.filters import Action, Direction, FilterClass, FilterTable, Provenance, SpecificFilter
from stockade.policy.candidates import UNSECURABLE_NOTE
from stockade.policy.exemptions import is_unsecurable
from stockade.policy.findings import Finding, Lint, Severity
from stockade.policy.weights import compare_weights

MAXIMUM_COMPARISONS = 200_000
"""Pairs of filters that `lint_table` looks at; beyond that it says that it stopped."""

_FEW_HOSTS = 256
"""Up to so many remote addresses a permit filter is taken to mean what it says."""

_Rule = tuple[str, str, str]


def lint_table(table: FilterTable) -> tuple[Finding, ...]:
    """What is doubtful in a compiled table. Findings in table order, each once."""
    found: dict[Finding, None] = {}
    written = [entry for entry in table.filters if entry.filter_class is FilterClass.POLICY]
    position = {entry.id: number for number, entry in enumerate(table.filters)}
    filters: Counter[_Rule] = Counter()
    shadowed: Counter[_Rule] = Counter()
    for entry in written:
        rule = _rule(entry)
        filters[rule] += 1
        if UNSECURABLE_NOTE in entry.provenance.description:
            continue  # a part of a filter: nobody wrote it
        above, below = _around(table, entry, position)
        finding = _shadowed(entry, above)
        if finding is not None:
            shadowed[rule] += 1
            found[finding] = None
            continue
        for finding in (_redundant(entry, below), _opens_more(entry)):
            if finding is not None:
                found[finding] = None
    for rule, number in filters.items():
        if shadowed[rule] == number:
            where = Provenance(*rule)
            text = "all filters of the rule stand behind others: it never decides anything"
            found[Finding(Lint.RULE_NEVER_DECIDES, text, where, Severity.ERROR)] = None
    found.update(dict.fromkeys(_overruled_blocks(table, written)))
    return tuple(found)


def _rule(entry: SpecificFilter) -> _Rule:
    return entry.provenance.store, entry.provenance.policy, entry.provenance.rule


def _around(
    table: FilterTable, entry: SpecificFilter, position: dict[str, int]
) -> tuple[list[SpecificFilter], list[SpecificFilter]]:
    """The filters before and behind `entry` that speak of the first addresses of its ends."""
    selector = entry.selector
    near = table.about(selector.source.first, selector.destination.first, entry.direction)
    own = position[entry.id]
    return (
        [other for other in near if position[other.id] < own],
        [other for other in near if position[other.id] > own],
    )


def _same_treatment(one: SpecificFilter, other: SpecificFilter) -> bool:
    return (one.action, one.negotiation, one.accept_clear, one.allow_soft) == (
        other.action,
        other.negotiation,
        other.accept_clear,
        other.allow_soft,
    )


def _shadowed(entry: SpecificFilter, above: list[SpecificFilter]) -> Finding | None:
    for other in above:
        if other.selector.covers(entry.selector) and not _same_treatment(other, entry):
            why = compare_weights(other.weight, entry.weight) or "it is the more restrictive one"
            text = f"“{entry}” never matches: “{other}” stands before it ({other.provenance}), because {why}"
            return Finding(Lint.SHADOWED, text, entry.provenance, Severity.ERROR)
    return None


def _redundant(entry: SpecificFilter, below: list[SpecificFilter]) -> Finding | None:
    """Whether the next filter behind it that speaks of its traffic covers all of it and does the same."""
    if entry.direction is Direction.INBOUND and entry.provenance.mirrored:
        return None  # told about the filter itself
    for other in below:
        if not other.selector.overlaps(entry.selector):
            continue
        if other.selector.covers(entry.selector) and _same_treatment(other, entry):
            text = f"“{entry}” changes nothing: “{other}” ({other.provenance}) does the same for more traffic"
            return Finding(Lint.REDUNDANT, text, entry.provenance, Severity.NOTE)
        return None
    return None


def _opens_more(entry: SpecificFilter) -> Finding | None:
    """A permit filter that lets anybody in to every port, because all it names is the port of the *other*
    side: the mirror of "me → any, port 80" is "whoever sends from port 80 may reach any port here"."""
    if entry.action is not Action.PERMIT or entry.direction is not Direction.INBOUND:
        return None
    selector = entry.selector
    if not selector.source_port or selector.destination_port or selector.source.size <= _FEW_HOSTS:
        return None
    if entry.provenance.store == "exemption":
        return None
    text = (
        f"“{entry}” lets in whoever sends from port {selector.source_port}, to every port of this computer:"
        " the sender chooses that port"
    )
    return Finding(
        Lint.OPENS_MORE,
        text,
        entry.provenance,
        remedy="name the servers instead of any, or secure the traffic instead of permitting it"
        if entry.provenance.mirrored
        else "",
    )


def _overruled_blocks(table: FilterTable, written: list[SpecificFilter]) -> Iterator[Finding]:
    """Blocks that a heavier filter overrules in part: the addresses count before the port, which surprises
    many. A narrower exception is what an administrator means; an exception that is wider in what it carries
    (protocol, ports) is mostly an oversight."""
    opening: list[SpecificFilter] = []
    compared = 0
    for entry in written:
        if entry.action is not Action.BLOCK:
            opening.append(entry)
            continue
        if entry.selector.protocol == 0 or is_unsecurable(entry.selector.destination):
            continue
        for above in opening:
            compared += 1
            if compared > MAXIMUM_COMPARISONS:
                text = f"the table is large: not all of its {len(table.filters)} filters were compared"
                where = Provenance("policy", table.policy_name or "", "all rules")
                yield Finding(Lint.INCOMPLETE, text, where, Severity.NOTE)
                return
            if (
                above.direction is entry.direction
                and above.selector.overlaps(entry.selector)
                and not above.selector.covers(entry.selector)
                and not _names_as_much(above, entry)
            ):
                text = (
                    f"“{entry}” does not hold where “{above}” ({above.provenance}) matches too, because"
                    f" {compare_weights(above.weight, entry.weight)}"
                )
                yield Finding(Lint.BLOCK_OVERRULED, text, entry.provenance)


def _names_as_much(above: SpecificFilter, entry: SpecificFilter) -> bool:
    """Whether `above` names every protocol and port that `entry` names."""
    return all(
        bool(upper) or not lower
        for upper, lower in (
            (above.selector.protocol, entry.selector.protocol),
            (above.selector.source_port, entry.selector.source_port),
            (above.selector.destination_port, entry.selector.destination_port),
        )
    )
