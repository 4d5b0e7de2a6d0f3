"""The policy compiler: policies as written -> the filter table that the driver enforces.

    assigned policy ─▶ active rules ─▶ filters ─▶ specific filters   (expansion.py)
                                                     │ conflicts: most restrictive kept
                                                     │ multicast part of what negotiates: block or permit
                                                     ▼
                            exemptions.py ─▶  filter table, heaviest first  (weights.py)

Several policy sets are joined into one table: a persistent policy is *added* to the local or domain one.
Which of local and domain counts is the caller's choice. Rule order within a policy means nothing, as in
Windows.

**Multicast and broadcast.** IPsec cannot secure them. A filter that negotiates and names nothing else is
refused (NOT_SECURABLE). A wider one (me → any) does not secure them: unless the exemption level lets them
pass, the table holds a filter of the same weight for its multicast part that *blocks*, or *permits* where the
filter allows clear traffic anyway (`soft` outbound, `inpass` inbound). So no driver ever acquires for them.

**Connection types.** Interfaces are not told apart by LAN and dial-up: a rule limited to one of them acts on
all, with a warning. A rule that *permits* on dial-up only is left out instead, for it would open the rest.

Left out: the default response rule (it has no filters; it answers what no filter covers).

Pure: the same policy and addresses give the same table, byte for byte.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from stockade.model.addresses import Address
from stockade.model.filters import Action, Direction, FilterTable, Provenance, SpecificFilter
from stockade.model.negotiation import MainModePolicy, Mode, Negotiation, QuickModePolicy
from stockade.model.reasons import ReasonCode, StockadeError, error_for
from stockade.model.traffic import TrafficSelector
from stockade.policy.exemptions import (
    DEFAULT_EXEMPT_LEVEL,
    default_exemptions,
    is_unsecurable,
    level_meaning,
    unsecurable_parts,
)
from stockade.policy.expansion import expand, usable_addresses
from stockade.policy.objects import (
    ConnectionType,
    Filter,
    FilterAction,
    FilterList,
    Policy,
    PolicySet,
    Rule,
)
from stockade.policy.specific import make_filter, table_order
from stockade.policy.weights import weight_of

MAXIMUM_FILTERS = 50_000
"""Specific filters of one table; a policy that expands to more is refused."""

MAXIMUM_WARNINGS = 200


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A specific filter before conflicts are settled."""

    selector: TrafficSelector
    direction: Direction
    action: Action
    weight: int
    provenance: Provenance
    negotiation: Negotiation | None
    accept_clear: bool
    allow_soft: bool

    def preference(self) -> tuple[object, ...]:
        """Smallest first: most restrictive, then by where it comes from, so that the order of rules and
        policies does not matter."""
        where = self.provenance
        return (
            -self.action.restrictiveness,
            self.allow_soft,
            self.accept_clear,
            where.store,
            where.policy.casefold(),
            where.rule.casefold(),
            "" if self.negotiation is None else self.negotiation.name,
            where.filter_list.casefold(),
            where.filter_index,
            where.mirrored,
        )

    def same_effect(self, other: "_Candidate") -> bool:
        """A true duplicate: nothing is lost when one of the two goes."""
        if (self.action, self.accept_clear, self.allow_soft) != (
            other.action,
            other.accept_clear,
            other.allow_soft,
        ):
            return False
        if self.negotiation is None or other.negotiation is None:
            return True
        return self.negotiation == replace(other.negotiation, name=self.negotiation.name)

    def finish(self) -> SpecificFilter:
        return make_filter(
            self.selector,
            self.direction,
            self.action,
            self.weight,
            self.provenance,
            negotiation=None if self.negotiation is None else self.negotiation.name,
            accept_clear=self.accept_clear,
            allow_soft=self.allow_soft,
        )


class _Warnings:
    """Text for people, each once, a bounded number of them."""

    def __init__(self) -> None:
        self._texts: dict[str, None] = {}
        self._more = 0

    def add(self, text: str) -> None:
        if text in self._texts:
            return
        if len(self._texts) < MAXIMUM_WARNINGS:
            self._texts[text] = None
        else:
            self._more += 1

    def finish(self) -> tuple[str, ...]:
        more = (f"and {self._more} more",) if self._more else ()
        return (*self._texts, *more)


@dataclass(frozen=True, slots=True)
class _RuleInPlace:
    """A rule with the objects that it names."""

    store: str
    policy: Policy
    rule: Rule
    filter_list: FilterList
    action: FilterAction

    def __str__(self) -> str:
        return f"rule “{rule_name(self.rule)}” of policy “{self.policy.name}” ({self.store} store)"

    def error(self, code: ReasonCode, detail: str, **facts: object) -> StockadeError:
        return error_for(
            code,
            detail,
            store=self.store,
            policy=self.policy.name,
            rule=rule_name(self.rule),
            **facts,
        )

    def provenance(self, index: int, filter_: Filter, mirrored: bool) -> Provenance:
        return Provenance(
            store=self.store,
            policy=self.policy.name,
            rule=rule_name(self.rule),
            filter_list=self.filter_list.name,
            filter_index=index,
            filter_action=self.action.name,
            mirrored=mirrored,
            description=filter_.description,
        )


def rule_name(rule: Rule) -> str:
    """The rule's name, or the start of its GUID where it has none."""
    return rule.name or str(rule.guid)[:8]


def _rules(policy_set: PolicySet) -> Iterator[_RuleInPlace]:
    assigned = [policy for policy in policy_set.policies if policy.assigned]
    if len(assigned) > 1:
        raise error_for(
            ReasonCode.INVALID_POLICY,
            f"the {policy_set.store} store has {len(assigned)} assigned policies; one at a time can be",
            store=policy_set.store,
            policies=", ".join(policy.name for policy in assigned),
        )
    for policy in assigned:
        for rule in policy.rules:
            if not rule.active or rule.is_default_response:
                continue
            missing = {"store": policy_set.store, "policy": policy.name, "rule": rule_name(rule)}
            filter_list = policy_set.filter_list(rule.filter_list)
            if filter_list is None:
                raise error_for(
                    ReasonCode.INVALID_POLICY,
                    f"rule “{rule_name(rule)}” names a filter list “{rule.filter_list}” that does not exist",
                    **missing,
                    filter_list=rule.filter_list,
                )
            action = policy_set.filter_action(rule.filter_action)
            if action is None:
                raise error_for(
                    ReasonCode.INVALID_POLICY,
                    f"rule “{rule_name(rule)}” names a filter action “{rule.filter_action}”"
                    " that does not exist",
                    **missing,
                    filter_action=rule.filter_action,
                )
            yield _RuleInPlace(policy_set.store, policy, rule, filter_list, action)


def _negotiation(place: _RuleInPlace, taken: set[str]) -> Negotiation:
    """What the rule asks of IKE. Two rules of one name are told apart by their GUIDs."""
    policy, rule, action = place.policy, place.rule, place.action
    name = f"{place.store}/{policy.name}/{rule_name(rule)}"
    if name in taken:
        name = f"{name}#{rule.guid}"
    taken.add(name)
    try:
        return Negotiation(
            name=name,
            main_mode=MainModePolicy(
                proposals=policy.main_mode_methods,
                lifetime_seconds=policy.main_mode_minutes * 60,
                # master-key perfect forward secrecy: no key of one main mode serves two quick modes
                quick_modes_per_main_mode=1 if policy.master_pfs else policy.quick_modes_per_main_mode,
            ),
            quick_mode=QuickModePolicy(
                proposals=action.methods,
                perfect_forward_secrecy=action.session_pfs,
                mode=Mode.TRANSPORT if rule.tunnel_endpoint is None else Mode.TUNNEL,
                tunnel_endpoint=rule.tunnel_endpoint,
            ),
            authentication=rule.authentication,
        )
    except ValueError as problem:
        raise place.error(ReasonCode.INVALID_POLICY, f"{place}: {problem}") from problem


def _acts(place: _RuleInPlace, warnings: _Warnings) -> bool:
    """Whether the rule is in the table at all, as far as its connection type says."""
    kind = place.rule.connection_type
    if kind is ConnectionType.ALL:
        return True
    if kind is ConnectionType.DIALUP and place.action.action is Action.PERMIT:
        warnings.add(f"{place} permits on dial-up connections only, which are not told apart: it is left out")
        return False
    warnings.add(
        f"{place} is meant for {kind.value} connections only, which are not told apart: it acts on all"
    )
    return True


def _check_securable(place: _RuleInPlace, index: int, filter_: Filter) -> None:
    for end in (filter_.destination, filter_.source):
        if end.addresses is not None and is_unsecurable(end.addresses):
            raise place.error(
                ReasonCode.NOT_SECURABLE,
                f"{place} negotiates for {end.addresses}",
                filter_list=place.filter_list.name,
                filter=index,
            )


def _candidates(
    place: _RuleInPlace,
    negotiation: Negotiation | None,
    local: tuple[Address, ...],
    room: int,
    secured_versions: frozenset[int],
    warnings: _Warnings,
) -> list[_Candidate]:
    """The specific filters of one rule, at most `room` of them."""
    found: list[_Candidate] = []
    negotiates = place.action.action is Action.NEGOTIATE
    mode = Mode.TRANSPORT if place.rule.tunnel_endpoint is None else Mode.TUNNEL
    if not place.filter_list.filters:
        warnings.add(f"{place} does nothing: its filter list “{place.filter_list.name}” has no filters")
    for index, filter_ in enumerate(place.filter_list.filters, 1):
        if negotiates:
            _check_securable(place, index, filter_)
        before = len(found)
        for selector, direction, mirrored in expand(filter_, local, place.rule.tunnel_endpoint):
            if len(found) >= room:
                raise place.error(
                    ReasonCode.INVALID_POLICY,
                    f"{place} brings the table over {MAXIMUM_FILTERS} specific filters",
                    limit=MAXIMUM_FILTERS,
                    local_addresses=len(local),
                )
            candidate = _Candidate(
                selector,
                direction,
                place.action.action,
                weight_of(selector, direction, mode=mode),
                place.provenance(index, filter_, mirrored),
                negotiation,
                accept_clear=negotiates and place.action.inpass and direction is Direction.INBOUND,
                allow_soft=negotiates and place.action.soft,
            )
            if negotiates and selector.version not in secured_versions and _names_no_family(filter_):
                candidate = _in_clear_or_not_at_all(candidate)
                warnings.add(
                    f"{place}: this data plane cannot secure IPv{selector.version};"
                    f" filter {index} of “{place.filter_list.name}” is {candidate.action} there"
                )
            found.append(candidate)
        if len(found) == before:
            warnings.add(
                f"{place}: filter {index} of “{place.filter_list.name}”"
                f" ({_describe(filter_)}) matches no traffic of this computer"
            )
    return found


def _names_no_family(filter_: Filter) -> bool:
    """Whether only "me" and "any" make the filter speak of this address family."""
    return filter_.source.addresses is None and filter_.destination.addresses is None


def _in_clear_or_not_at_all(candidate: _Candidate) -> _Candidate:
    """What is left of a negotiate filter where security cannot be had: clear if the filter allows it, else
    nothing."""
    clear = candidate.allow_soft or candidate.accept_clear
    return replace(
        candidate,
        action=Action.PERMIT if clear else Action.BLOCK,
        negotiation=None,
        accept_clear=False,
        allow_soft=False,
    )


def _describe(filter_: Filter) -> str:
    return f"{filter_.source} to {filter_.destination}"


def _settle(candidates: list[_Candidate], warnings: _Warnings) -> list[_Candidate]:
    """One filter per selector, direction and weight: the most restrictive one."""
    groups: dict[tuple[TrafficSelector, Direction, int], list[_Candidate]] = {}
    for candidate in candidates:
        key = (candidate.selector, candidate.direction, candidate.weight)
        groups.setdefault(key, []).append(candidate)
    kept = []
    told: set[tuple[Provenance, Provenance]] = set()
    for group in groups.values():
        group.sort(key=_Candidate.preference)
        winner = group[0]
        kept.append(winner)
        for loser in group[1:]:
            pair = (replace(winner.provenance, mirrored=False), replace(loser.provenance, mirrored=False))
            # told once, not once per address and direction
            if winner.same_effect(loser) or pair in told:
                continue
            told.add(pair)
            warnings.add(
                f"conflict about {winner.selector} ({winner.direction}):"
                f" {winner.action} of {winner.provenance} is kept,"
                f" {loser.action} of {loser.provenance} is not in force"
            )
    return kept


def _unsecurable(candidate: _Candidate) -> Iterator[SpecificFilter]:
    """The filters for the multicast and broadcast part of a filter that negotiates. They have its weight, so
    that they win against it and against nothing else."""
    clear = candidate.allow_soft if candidate.direction is Direction.OUTBOUND else candidate.accept_clear
    for part in unsecurable_parts(candidate.selector):
        note = f"multicast or broadcast, which IPsec cannot secure: {'permitted' if clear else 'blocked'}"
        described = candidate.provenance.description
        yield make_filter(
            part,
            candidate.direction,
            Action.PERMIT if clear else Action.BLOCK,
            candidate.weight,
            replace(candidate.provenance, description=f"{described} ({note})" if described else note),
        )


def compile_table(
    policy_sets: Sequence[PolicySet],
    local_addresses: Sequence[Address],
    exempt_level: int = DEFAULT_EXEMPT_LEVEL,
    secured_versions: frozenset[int] = frozenset({4, 6}),
) -> FilterTable:
    """The filter table of the assigned policies for a computer with these addresses.

    `exempt_level` is NoDefaultExempt, 0 to 3 (`exemptions.py`). `secured_versions` are the IP versions that
    the data plane can secure: where "me" and "any" make a negotiate filter speak of another one, that part is
    blocked (or permitted, where the filter lets clear traffic pass anyway), with a warning. Without an
    assigned policy the table is empty. Errors, each naming store, policy and rule: CallerError INVALID_POLICY
    (a missing object, too many filters, a contradiction), NOT_SECURABLE.
    """
    meaning = level_meaning(exempt_level)
    local = usable_addresses(local_addresses)
    warnings = _Warnings()
    candidates: list[_Candidate] = []
    taken: set[str] = set()
    for policy_set in policy_sets:
        for place in _rules(policy_set):
            if not _acts(place, warnings):
                continue
            negotiation = _negotiation(place, taken) if place.action.action is Action.NEGOTIATE else None
            room = MAXIMUM_FILTERS - len(candidates)
            candidates.extend(_candidates(place, negotiation, local, room, secured_versions, warnings))

    settled = _settle(candidates, warnings)
    filters = {entry.id: entry for entry in (candidate.finish() for candidate in settled)}
    if not meaning.multicast_and_broadcast:
        for candidate in settled:
            if candidate.action is Action.NEGOTIATE:
                filters.update((entry.id, entry) for entry in _unsecurable(candidate))
    if len(filters) > MAXIMUM_FILTERS:
        raise error_for(
            ReasonCode.INVALID_POLICY,
            f"the multicast parts bring the table over {MAXIMUM_FILTERS} specific filters",
            limit=MAXIMUM_FILTERS,
            local_addresses=len(local),
        )
    written = sorted(filters.values(), key=table_order)
    exemptions = default_exemptions(exempt_level, local, written)
    negotiations = {
        candidate.negotiation.name: candidate.negotiation
        for candidate in settled
        if candidate.negotiation is not None
    }
    names = [
        (policy_set.store, policy_set.assigned.name)
        for policy_set in policy_sets
        if policy_set.assigned is not None
    ]
    return FilterTable(
        filters=(*sorted(exemptions, key=table_order), *written),
        negotiations=MappingProxyType(dict(sorted(negotiations.items()))),
        policy_name=_policy_name(names),
        warnings=warnings.finish(),
    )


def _policy_name(names: list[tuple[str, str]]) -> str | None:
    if not names:
        return None
    if len(names) == 1:
        return names[0][1]
    return " + ".join(f"{name} ({store})" for store, name in names)
