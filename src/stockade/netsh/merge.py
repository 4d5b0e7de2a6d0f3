"""Taking policies from elsewhere into a store: `importpolicy`, `restorepolicyexamples`.

An object with the GUID of one in the store takes its place. An object with the name of another one in the
store is the same thing where the two say the same (then the store's stays, and rules use it), else a
conflict: refused, or with `replace` it takes the place of that object, GUID included. Nothing is ever put in
force by an import: a policy stays assigned where it is replaced, and no other one becomes so."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from stockade.model.filters import Action
from stockade.model.reasons import ReasonCode, error_for
from stockade.policy.contract import PolicyTransaction
from stockade.policy.objects import FilterAction, FilterList, Policy, PolicySet, Rule

T = TypeVar("T", FilterList, FilterAction, Policy)


@dataclass(frozen=True, slots=True)
class Merged:
    """What an import did: names of what was added, replaced, and found to be there already; and the policy
    that its file had in force."""

    added: tuple[str, ...]
    replaced: tuple[str, ...]
    unchanged: tuple[str, ...]
    was_assigned: str = ""


def merge_into(change: PolicyTransaction, objects: PolicySet, *, overwrite: bool) -> Merged:
    """Put `objects` into the store. CallerError NAME_EXISTS names a conflict."""
    present = change.read()
    notes = _Notes(overwrite)
    list_names = {}
    for filter_list in objects.filter_lists:
        kept = notes.place("filter list", filter_list, present.filter_lists)
        list_names[filter_list.name] = filter_list.name if kept is None else kept.name
        change.put_filter_list(_settled(filter_list, kept))
    action_names = {}
    for filter_action in objects.filter_actions:
        kept_action = notes.place("filter action", filter_action, present.filter_actions)
        action_names[filter_action.name] = filter_action.name if kept_action is None else kept_action.name
        change.put_filter_action(_settled(filter_action, kept_action))
    for policy in objects.policies:
        named = replace(policy, rules=_renamed(policy.rules, list_names, action_names))
        kept_policy = notes.place("policy", named, present.policies)
        assigned = kept_policy is not None and kept_policy.assigned
        change.put_policy(replace(_settled(named, kept_policy), assigned=assigned))
    assigned_there = objects.assigned
    return Merged(
        tuple(notes.added),
        tuple(notes.replaced),
        tuple(notes.unchanged),
        "" if assigned_there is None else assigned_there.name,
    )


class _Notes:
    def __init__(self, overwrite: bool) -> None:
        self._overwrite = overwrite
        self.added: list[str] = []
        self.replaced: list[str] = []
        self.unchanged: list[str] = []

    def place(self, kind: str, entry: T, present: Sequence[T]) -> T | None:
        """The object of the store whose place the entry takes; None where it is new."""
        what = f"{kind} “{entry.name}”"
        for other in present:
            if other.guid == entry.guid:
                (self.unchanged if _says(other) == _says(entry) else self.replaced).append(what)
                return other
        for other in present:
            if other.name.casefold() != entry.name.casefold():
                continue
            if _says(other) == _says(replace(entry, name=other.name)):
                self.unchanged.append(what)
                return other
            if self._overwrite:
                self.replaced.append(what)
                return other
            raise error_for(
                ReasonCode.NAME_EXISTS,
                f"there is another {what} already; nothing was imported",
                expected="replace=yes to put the imported one in its place, or a new name for one of them",
            )
        self.added.append(what)
        return None


def _says(entry: T) -> T:
    """The object without what does not count: its GUID, its time, whether it is in force."""
    bare = replace(entry, guid=_NO_GUID, modified=_NO_TIME)
    if isinstance(bare, FilterAction) and bare.action is not Action.NEGOTIATE:
        return replace(bare, methods=(), inpass=False, soft=False, session_pfs=False)
    if isinstance(bare, Policy):
        rules = tuple(replace(rule, guid=_NO_GUID, modified=_NO_TIME) for rule in bare.rules)
        return replace(bare, rules=rules, assigned=False)
    return bare


_SAMPLE = FilterList("")
_NO_GUID, _NO_TIME = _SAMPLE.guid, _SAMPLE.modified


def _settled(entry: T, kept: T | None) -> T:
    """The entry, in the place of `kept` where there is one."""
    return entry if kept is None else replace(entry, guid=kept.guid)


def _renamed(
    rules: Iterable[Rule], list_names: dict[str, str], action_names: dict[str, str]
) -> tuple[Rule, ...]:
    return tuple(
        rule
        if rule.is_default_response
        else replace(
            rule,
            filter_list=list_names.get(rule.filter_list, rule.filter_list),
            filter_action=action_names.get(rule.filter_action, rule.filter_action),
        )
        for rule in rules
    )
