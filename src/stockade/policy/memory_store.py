"""A policy store in memory: the working copy of batch mode and of atomic scripts. The rules are those of
`stockade.policy.contract`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol, TypeVar
from uuid import UUID

from stockade.model.reasons import ReasonCode, StockadeError, error_for
from stockade.policy.objects import FilterAction, FilterList, Policy, PolicySet, Rule


class _Named(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def guid(self) -> UUID: ...


N = TypeVar("N", bound=_Named)


class MemoryStore:
    """Holds one `PolicySet`. A transaction works on a copy, which is kept where its block ends well."""

    def __init__(self, objects: PolicySet) -> None:
        self._objects = objects
        self._version = 0

    @property
    def name(self) -> str:
        return self._objects.store

    def read(self) -> PolicySet:
        return self._objects

    def version(self) -> int:
        """0 as long as nothing was changed."""
        return self._version

    @contextmanager
    def transaction(self) -> Iterator["MemoryTransaction"]:
        change = MemoryTransaction(self._objects)
        yield change
        if change.changed:
            self._objects = change.read()
            self._version += 1


class MemoryTransaction:
    """See `PolicyTransaction`."""

    def __init__(self, objects: PolicySet) -> None:
        self._objects = objects
        self.changed = False

    def read(self) -> PolicySet:
        return self._objects

    def put_filter_list(self, filter_list: FilterList) -> None:
        lists, old = _put("filter list", self._objects.filter_lists, filter_list, self._objects.store)
        policies = self._objects.policies
        if old is not None and old.name != filter_list.name:
            policies = _renamed(policies, "filter_list", old.name, filter_list.name)
        self._keep(filter_lists=lists, policies=policies)

    def put_filter_action(self, filter_action: FilterAction) -> None:
        actions, old = _put("filter action", self._objects.filter_actions, filter_action, self._objects.store)
        policies = self._objects.policies
        if old is not None and old.name != filter_action.name:
            policies = _renamed(policies, "filter_action", old.name, filter_action.name)
        self._keep(filter_actions=actions, policies=policies)

    def put_policy(self, policy: Policy) -> None:
        _put("policy", self._objects.policies, policy, self._objects.store)  # its name is looked at first
        names: set[str] = set()
        guids = {
            rule.guid: one for one in self._objects.policies if one.guid != policy.guid for rule in one.rules
        }
        for rule in policy.rules:
            key = rule.name.casefold()
            if key and key in names:
                raise error_for(
                    ReasonCode.NAME_EXISTS,
                    f"rule “{rule.name}” stands twice in the policy",
                    policy=policy.name,
                )
            names.add(key)
            if rule.guid in guids:
                raise error_for(
                    ReasonCode.NAME_EXISTS,
                    f"rule GUID {rule.guid} stands twice",
                    policy=policy.name,
                    other=guids[rule.guid].name,
                )
            guids[rule.guid] = policy
        rules = tuple(
            rule
            if rule.is_default_response
            else replace(
                rule,
                filter_list=self._known("filter list", self._objects.filter_lists, rule.filter_list).name,
                filter_action=self._known(
                    "filter action", self._objects.filter_actions, rule.filter_action
                ).name,
            )
            for rule in policy.rules
        )
        policies, _ = _put(
            "policy", self._objects.policies, replace(policy, rules=rules), self._objects.store
        )
        if policy.assigned:
            policies = tuple(
                replace(one, assigned=False) if one.assigned and one.guid != policy.guid else one
                for one in policies
            )
        self._keep(policies=policies)

    def delete_policy(self, name: str) -> None:
        gone = self._known("policy", self._objects.policies, name)
        self._keep(policies=tuple(one for one in self._objects.policies if one.guid != gone.guid))

    def delete_filter_list(self, name: str) -> None:
        gone = self._known("filter list", self._objects.filter_lists, name)
        self._require_unused("filter list", "filter_list", gone.name)
        self._keep(filter_lists=tuple(one for one in self._objects.filter_lists if one.guid != gone.guid))

    def delete_filter_action(self, name: str) -> None:
        gone = self._known("filter action", self._objects.filter_actions, name)
        self._require_unused("filter action", "filter_action", gone.name)
        self._keep(filter_actions=tuple(one for one in self._objects.filter_actions if one.guid != gone.guid))

    def replace_all(self, objects: PolicySet) -> None:
        self._objects = PolicySet(store=self._objects.store)
        for filter_list in objects.filter_lists:
            self.put_filter_list(filter_list)
        for filter_action in objects.filter_actions:
            self.put_filter_action(filter_action)
        for policy in objects.policies:
            self.put_policy(policy)
        self.changed = True

    def _keep(
        self,
        *,
        policies: tuple[Policy, ...] | None = None,
        filter_lists: tuple[FilterList, ...] | None = None,
        filter_actions: tuple[FilterAction, ...] | None = None,
    ) -> None:
        old = self._objects
        self._objects = PolicySet(
            old.policies if policies is None else policies,
            old.filter_lists if filter_lists is None else filter_lists,
            old.filter_actions if filter_actions is None else filter_actions,
            old.store,
        )
        self.changed = True

    def _known(self, kind: str, entries: Sequence[N], name: str) -> N:
        for entry in entries:
            if entry.name.casefold() == name.casefold():
                return entry
        raise error_for(ReasonCode.UNKNOWN_NAME, f"there is no {kind} “{name}”", store=self._objects.store)

    def _require_unused(self, kind: str, attribute: str, name: str) -> None:
        for policy in self._objects.policies:
            for rule in policy.rules:
                if not rule.is_default_response and getattr(rule, attribute) == name:
                    raise in_use(kind, name, rule.name, policy.name)


def in_use(kind: str, name: str, rule: str, policy: str) -> StockadeError:
    """A filter list or action that a rule needs cannot go. A rule may have no name."""
    user = f"rule “{rule}”" if rule else "a rule without a name"
    detail = f"{kind} “{name}” is used by {user} of policy “{policy}”"
    return error_for(ReasonCode.IN_USE, detail, **({"rule": rule} if rule else {}), policy=policy)


def _put(kind: str, entries: tuple[N, ...], entry: N, store: str) -> tuple[tuple[N, ...], N | None]:
    """The entries with this one added, or in the place of that with its GUID; and that one."""
    old = None
    key = entry.name.casefold()
    for other in entries:
        if other.guid == entry.guid:
            old = other
        elif other.name.casefold() == key:
            raise error_for(ReasonCode.NAME_EXISTS, f"there is a {kind} “{other.name}” already", store=store)
    if old is None:
        return (*entries, entry), None
    return tuple(entry if other.guid == entry.guid else other for other in entries), old


def _renamed(policies: tuple[Policy, ...], attribute: str, old: str, new: str) -> tuple[Policy, ...]:
    def follow(rule: Rule) -> Rule:
        if rule.is_default_response or getattr(rule, attribute) != old:
            return rule
        if attribute == "filter_list":
            return replace(rule, filter_list=new)
        return replace(rule, filter_action=new)

    return tuple(replace(policy, rules=tuple(map(follow, policy.rules))) for policy in policies)
