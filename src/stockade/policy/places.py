"""Rules in place: a rule of any store with all that it names, as the compiler works on it.

    static store:   rule + filter list + filter action + policy's main-mode settings ─┐
    dynamic store:  rule + main-mode policy + quick-mode policy                       ├─▶ Place
                                                                                      ┘
A missing object, a second assigned policy, a contradiction in the settings: CallerError INVALID_POLICY,
naming store, policy and rule.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stockade.model.addresses import Address
from stockade.model.filters import Action, ListPosition, Provenance
from stockade.model.negotiation import MainModePolicy, Mode, Negotiation, QuickModePolicy
from stockade.model.reasons import ReasonCode, StockadeError, error_for
from stockade.policy.dynamic import DYNAMIC_STORE, DynamicRule, DynamicSet, PfsGroup
from stockade.policy.objects import (
    DEFAULT_RESPONSE_ACTION,
    DEFAULT_RESPONSE_METHODS,
    ConnectionType,
    Filter,
    FilterAction,
    Policy,
    PolicySet,
    Rule,
)

_NOT_IN_A_LIST = ListPosition()

PERSISTENT_STORE, LOCAL_STORE, DOMAIN_STORE = "persistent", "local", "domain"


def rule_name(rule: Rule) -> str:
    """The rule's name, or the start of its GUID where it has none."""
    return rule.name or str(rule.guid)[:8]


def in_force(policy_sets: Sequence[PolicySet]) -> tuple[PolicySet, ...]:
    """Which stores count together: the persistent one always; the domain's, if a policy is assigned there,
    and else the local one. Sets of other stores are kept. Persistent comes first: it is in force first."""
    domain_rules = any(entry.store == DOMAIN_STORE and entry.assigned is not None for entry in policy_sets)
    left_out = LOCAL_STORE if domain_rules else DOMAIN_STORE
    kept = [entry for entry in policy_sets if entry.store != left_out]
    return tuple(sorted(kept, key=lambda entry: entry.store != PERSISTENT_STORE))


def stores_in_force(policy_sets: Sequence[PolicySet]) -> str:
    """The names of the stores that a policy in force is of."""
    assigned = [entry for entry in policy_sets if entry.assigned is not None]
    return ", ".join(entry.store for entry in in_force(assigned))


@dataclass(frozen=True, slots=True)
class Place:
    """One rule with what it names. `identity` tells which rule of the last compilation it was.
    `accept_clear` and `allow_soft` count where the direction's action is negotiate."""

    identity: tuple[str, ...]
    store: str
    policy: str
    rule: str
    filter_list: str
    filter_action: str
    filters: tuple[Filter, ...]
    inbound: Action
    outbound: Action
    accept_clear: bool
    allow_soft: bool
    negotiation: Negotiation | None
    connection: ConnectionType
    tunnel_endpoint: Address | None

    def __str__(self) -> str:
        if self.store == DYNAMIC_STORE:
            return f"dynamic rule “{self.rule}”"
        return f"rule “{self.rule}” of policy “{self.policy}” ({self.store} store)"

    @property
    def frame(self) -> tuple[object, ...]:
        """All but the filters: while it stays the same, an unchanged filter stays the same too."""
        return (
            self.store,
            self.policy,
            self.rule,
            self.filter_list,
            self.filter_action,
            self.inbound,
            self.outbound,
            self.accept_clear,
            self.allow_soft,
            self.negotiation,
            self.connection,
            self.tunnel_endpoint,
        )

    @property
    def negotiates(self) -> bool:
        return Action.NEGOTIATE in (self.inbound, self.outbound)

    def about(self, index: int) -> str:
        """The start of a sentence about a filter, counted from 1."""
        where = f" filter {index} of “{self.filter_list}”" if self.filter_list else " its filter"
        return f"{self}:{where}"

    def error(self, code: ReasonCode, detail: str, **facts: object) -> StockadeError:
        return error_for(code, detail, store=self.store, policy=self.policy, rule=self.rule, **facts)

    def provenance(self, position: ListPosition, filter_: Filter, mirrored: bool) -> Provenance:
        return Provenance(
            self.store,
            self.policy,
            self.rule,
            self.filter_list,
            position if self.filter_list else _NOT_IN_A_LIST,
            self.filter_action,
            mirrored,
            filter_.description,
            filter_.origin,
        )


# ---- the stores that hold policies


def assigned_policies(policy_sets: Sequence[PolicySet]) -> Iterator[tuple[PolicySet, Policy]]:
    """The assigned policy of each set; two in one set are an error."""
    for policy_set in policy_sets:
        assigned = [policy for policy in policy_set.policies if policy.assigned]
        if len(assigned) > 1:
            raise error_for(
                ReasonCode.INVALID_POLICY,
                f"the {policy_set.store} store has {len(assigned)} assigned policies; one at a time can be",
                store=policy_set.store,
                policies=", ".join(policy.name for policy in assigned),
            )
        for policy in assigned:
            yield policy_set, policy


def _missing(policy_set: PolicySet, policy: Policy, rule: Rule, kind: str, name: str) -> StockadeError:
    return error_for(
        ReasonCode.INVALID_POLICY,
        f"rule “{rule_name(rule)}” names a {kind} “{name}” that does not exist",
        store=policy_set.store,
        policy=policy.name,
        rule=rule_name(rule),
        **{kind.replace(" ", "_"): name},
    )


def static_places(policy_sets: Sequence[PolicySet]) -> Iterator[Place]:
    """The active rules of the assigned policies, but for default response rules."""
    taken: set[str] = set()
    for policy_set, policy in assigned_policies(policy_sets):
        # looked up once per set, not once per rule
        lists = {entry.name.casefold(): entry for entry in reversed(policy_set.filter_lists)}
        actions = {entry.name.casefold(): entry for entry in reversed(policy_set.filter_actions)}
        for rule in policy.rules:
            if not rule.active or rule.is_default_response:
                continue
            filter_list = lists.get(rule.filter_list.casefold())
            if filter_list is None:
                raise _missing(policy_set, policy, rule, "filter list", rule.filter_list)
            action = actions.get(rule.filter_action.casefold())
            if action is None:
                raise _missing(policy_set, policy, rule, "filter action", rule.filter_action)
            yield Place(
                identity=(policy_set.store, str(policy.guid), str(rule.guid)),
                store=policy_set.store,
                policy=policy.name,
                rule=rule_name(rule),
                filter_list=filter_list.name,
                filter_action=action.name,
                filters=filter_list.filters,
                inbound=action.action,
                outbound=action.action,
                accept_clear=action.inpass,
                allow_soft=action.soft,
                negotiation=_static_negotiation(policy_set.store, policy, rule, action, taken),
                connection=rule.connection_type,
                tunnel_endpoint=rule.tunnel_endpoint,
            )


def _main_mode(policy: Policy) -> MainModePolicy:
    return MainModePolicy(
        proposals=policy.main_mode_methods,
        lifetime_seconds=policy.main_mode_minutes * 60,
        # master-key perfect forward secrecy: no key of one main mode serves two quick modes
        quick_modes_per_main_mode=1 if policy.master_pfs else policy.quick_modes_per_main_mode,
    )


def _static_negotiation(
    store: str, policy: Policy, rule: Rule, action: FilterAction, taken: set[str]
) -> Negotiation | None:
    """What the rule asks of IKE. Two rules of one name are told apart by their GUIDs."""
    if action.action is not Action.NEGOTIATE:
        return None
    name = f"{store}/{policy.name}/{rule_name(rule)}"
    if name in taken:
        name = f"{name}#{rule.guid}"
    taken.add(name)
    try:
        return Negotiation(
            name=name,
            main_mode=_main_mode(policy),
            quick_mode=QuickModePolicy(
                proposals=action.methods,
                perfect_forward_secrecy=action.session_pfs,
                mode=Mode.TRANSPORT if rule.tunnel_endpoint is None else Mode.TUNNEL,
                tunnel_endpoint=rule.tunnel_endpoint,
                boundary=action.inpass,
            ),
            authentication=rule.authentication,
        )
    except ValueError as problem:
        raise error_for(
            ReasonCode.INVALID_POLICY,
            f"rule “{rule_name(rule)}” of policy “{policy.name}” ({store} store): {problem}",
            store=store,
            policy=policy.name,
            rule=rule_name(rule),
        ) from problem


def default_response(policy_sets: Sequence[PolicySet]) -> Negotiation | None:
    """What the active default response rule asks of IKE. The rule of a domain's or local policy goes before
    that of a persistent one, which holds until they come."""
    found = None
    for policy_set, policy in assigned_policies(policy_sets):
        for rule in policy.rules:
            if not (rule.active and rule.is_default_response):
                continue
            if found is not None and policy_set.store == PERSISTENT_STORE:
                continue
            try:
                found = Negotiation(
                    name=f"{policy_set.store}/{policy.name}/{DEFAULT_RESPONSE_ACTION}",
                    main_mode=_main_mode(policy),
                    quick_mode=QuickModePolicy(
                        rule.response_methods or DEFAULT_RESPONSE_METHODS, rule.response_session_pfs
                    ),
                    authentication=rule.authentication,
                )
            except ValueError as problem:
                raise error_for(
                    ReasonCode.INVALID_POLICY,
                    f"default response rule of policy “{policy.name}” ({policy_set.store} store): {problem}",
                    store=policy_set.store,
                    policy=policy.name,
                    rule=DEFAULT_RESPONSE_ACTION,
                ) from problem
    return found


# ---- the dynamic store


def dynamic_places(dynamic: DynamicSet) -> Iterator[Place]:
    """The rules of the dynamic store."""
    for rule in dynamic.rules:
        inbound, outbound = rule.action_inbound, rule.action_outbound
        passes = inbound is Action.PERMIT and outbound is Action.NEGOTIATE
        quick_mode = dynamic.quick_mode_policy(rule.quick_mode_policy)
        yield Place(
            identity=(DYNAMIC_STORE, str(rule.guid)),
            store=DYNAMIC_STORE,
            policy=rule.main_mode_policy,
            rule=rule.name,
            filter_list="",
            filter_action=rule.quick_mode_policy,
            filters=(rule.filter,),
            # what an SA brings in has to meet a filter that negotiates: "permit" there is inbound
            # pass-through
            inbound=Action.NEGOTIATE if passes else inbound,
            outbound=outbound,
            accept_clear=passes,
            allow_soft=quick_mode is not None and quick_mode.soft,
            negotiation=_dynamic_negotiation(dynamic, rule) if rule.negotiates else None,
            connection=rule.connection_type,
            tunnel_endpoint=rule.tunnel_endpoint,
        )


def _dynamic_negotiation(dynamic: DynamicSet, rule: DynamicRule) -> Negotiation:
    main_mode = dynamic.main_mode_policy(rule.main_mode_policy)
    quick_mode = dynamic.quick_mode_policy(rule.quick_mode_policy)
    if main_mode is None or quick_mode is None:
        kind, name = (
            ("main-mode policy", rule.main_mode_policy)
            if main_mode is None
            else ("quick-mode policy", rule.quick_mode_policy)
        )
        raise error_for(
            ReasonCode.INVALID_POLICY,
            f"dynamic rule “{rule.name}” names a {kind} “{name}” that does not exist",
            store=DYNAMIC_STORE,
            rule=rule.name,
        )
    try:
        return Negotiation(
            name=f"{DYNAMIC_STORE}/{main_mode.name}/{rule.name}#{rule.guid}",
            main_mode=MainModePolicy(
                main_mode.methods, main_mode.main_mode_minutes * 60, main_mode.quick_modes_per_main_mode
            ),
            quick_mode=QuickModePolicy(
                quick_mode.methods,
                quick_mode.pfs_group is not PfsGroup.NOPFS,
                quick_mode.pfs_group.group,
                Mode.TRANSPORT if rule.tunnel_endpoint is None else Mode.TUNNEL,
                rule.tunnel_endpoint,
                rule.action_inbound is Action.PERMIT,
            ),
            authentication=rule.authentication,
            soft_seconds=main_mode.soft_expiration_minutes * 60,
        )
    except ValueError as problem:
        raise error_for(
            ReasonCode.INVALID_POLICY,
            f"dynamic rule “{rule.name}”: {problem}",
            store=DYNAMIC_STORE,
            rule=rule.name,
        ) from problem
