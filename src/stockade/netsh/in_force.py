"""What is in force, whichever store it comes from, as `netsh ipsec dynamic show` speaks of it: the assigned
policies' parts beside what was added to the dynamic store.

    policy         ─▶ main-mode policy of its name
    filter action  ─▶ quick-mode policy of its name, where a rule that is active negotiates by it
    rule × filter  ─▶ rule; inpass is what the dynamic store calls inbound permit, outbound negotiate

The default response rule is among the quick-mode policies with its methods. It has no filters until a peer
asks; what it made then is among the specific filters.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from stockade.model.filters import Action
from stockade.netsh.session import Session
from stockade.policy.dynamic import (
    DYNAMIC_STORE,
    DynamicRule,
    MainModePolicyObject,
    PfsGroup,
    QuickModePolicyObject,
)
from stockade.policy.objects import (
    DEFAULT_RESPONSE_ACTION,
    DEFAULT_RESPONSE_METHODS,
    FilterAction,
    FilterList,
    Policy,
    PolicySet,
    Rule,
)
from stockade.policy.places import rule_name


@dataclass(frozen=True, slots=True)
class NamedRule:
    """A rule with the name that its store gives it."""

    name: str
    rule: DynamicRule


@dataclass(slots=True)
class InForce:
    """Objects with the name of their store."""

    main_modes: list[tuple[str, MainModePolicyObject]] = field(default_factory=list)
    quick_modes: list[tuple[str, QuickModePolicyObject]] = field(default_factory=list)
    rules: list[tuple[str, NamedRule]] = field(default_factory=list)


def what_is_in_force(session: Session) -> InForce:
    """Dynamic objects first, then those of the persistent and the local policy. Errors: those of the stores
    and of the agent."""
    made = InForce()
    objects = session.dynamic.read()
    made.main_modes += [(DYNAMIC_STORE, entry) for entry in objects.main_mode_policies]
    made.quick_modes += [(DYNAMIC_STORE, entry) for entry in objects.quick_mode_policies]
    made.rules += [(DYNAMIC_STORE, NamedRule(rule.name, rule)) for rule in objects.rules]
    for policy_set, policy in assigned_policies_of(session):
        made.main_modes.append((policy_set.store, _main_mode(policy)))
        actions: dict[str, FilterAction] = {}
        for rule, filter_list, action in active_rules(policy_set, policy):
            if action.action is Action.NEGOTIATE:
                actions.setdefault(action.name, action)
            made.rules += [(policy_set.store, one) for one in _rules(policy, rule, filter_list, action)]
        made.quick_modes += [(policy_set.store, _quick_mode(action)) for action in actions.values()]
        made.quick_modes += [(policy_set.store, _response(rule)) for rule in policy.rules if _responds(rule)]
    return made


def assigned_policies_of(session: Session) -> Iterator[tuple[PolicySet, Policy]]:
    """The assigned policy of each static store."""
    opener = session.world.open_store
    stores = [session.store] if opener is None else [opener(name) for name in ("persistent", "local")]
    for store in stores:
        objects = store.read()
        if objects.assigned is not None:
            yield objects, objects.assigned


def active_rules(policy_set: PolicySet, policy: Policy) -> Iterator[tuple[Rule, FilterList, FilterAction]]:
    """The rules that act, with what they name; not the default response rule."""
    for rule in policy.rules:
        filter_list = policy_set.filter_list(rule.filter_list)
        action = policy_set.filter_action(rule.filter_action)
        if rule.active and filter_list is not None and action is not None:
            yield rule, filter_list, action


def _main_mode(policy: Policy) -> MainModePolicyObject:
    return MainModePolicyObject(
        policy.name,
        policy.main_mode_methods,
        policy.main_mode_minutes,
        1 if policy.master_pfs else policy.quick_modes_per_main_mode,
        guid=policy.guid,
        modified=policy.modified,
    )


def _quick_mode(action: FilterAction) -> QuickModePolicyObject:
    return QuickModePolicyObject(
        action.name,
        action.methods,
        action.soft,
        PfsGroup.GRPMM if action.session_pfs else PfsGroup.NOPFS,
        action.guid,
        action.modified,
    )


def _responds(rule: Rule) -> bool:
    return rule.is_default_response and rule.active


def _response(rule: Rule) -> QuickModePolicyObject:
    return QuickModePolicyObject(
        DEFAULT_RESPONSE_ACTION,
        rule.response_methods or DEFAULT_RESPONSE_METHODS,
        pfs_group=PfsGroup.GRPMM if rule.response_session_pfs else PfsGroup.NOPFS,
        guid=rule.guid,
        modified=rule.modified,
    )


def _rules(policy: Policy, rule: Rule, filter_list: FilterList, action: FilterAction) -> Iterator[NamedRule]:
    negotiates = action.action is Action.NEGOTIATE
    for entry in filter_list.filters:
        made = DynamicRule(
            entry,
            policy.name,
            action.name if negotiates else "",
            Action.PERMIT if negotiates and action.inpass else action.action,
            action.action,
            rule.authentication,
            rule.tunnel_endpoint,
            rule.connection_type,
            rule.guid,
            rule.modified,
        )
        yield NamedRule(rule_name(rule), made)
