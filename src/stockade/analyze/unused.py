"""What no rule uses: filter lists and filter actions that could go, policies that are not assigned, rules
that are switched off. In Windows nobody could list them; each policy had to be read for the names.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from stockade.policy.objects import PolicySet
from stockade.policy.places import rule_name


class UnusedKind(StrEnum):
    FILTER_LIST = "filter-list"
    FILTER_ACTION = "filter-action"


@dataclass(frozen=True, slots=True)
class Unused:
    """An object that no rule of its store uses; `inactive_rules`: rules that are switched off but name it, as
    `policy: rule`. It can be deleted where there are none."""

    kind: UnusedKind
    store: str
    name: str
    guid: str
    inactive_rules: tuple[str, ...] = ()

    @property
    def remedy(self) -> str:
        if self.inactive_rules:
            return f"activate or delete {', '.join(self.inactive_rules)}"
        word = self.kind.value.replace("-", "")
        return f'netsh ipsec static delete {word} name="{self.name}"'

    def __str__(self) -> str:
        text = f"{self.kind.value.replace('-', ' ')} “{self.name}” ({self.store} store)"
        if self.inactive_rules:
            text += f": only by rules that are not active: {', '.join(self.inactive_rules)}"
        return text

    def as_dict(self) -> dict[str, object]:
        """The JSON form."""
        return {
            "kind": self.kind.value,
            "store": self.store,
            "name": self.name,
            "guid": self.guid,
            "inactive_rules": list(self.inactive_rules),
            "remedy": self.remedy,
        }


def find_unused(policy_sets: Sequence[PolicySet]) -> tuple[Unused, ...]:
    """Filter lists, then filter actions, of each store, that no active rule of any policy there names
    (assigned or not: a policy that is not assigned may be tomorrow)."""
    found: list[Unused] = []
    for policy_set in policy_sets:
        used: dict[UnusedKind, set[str]] = {kind: set() for kind in UnusedKind}
        asleep: dict[UnusedKind, dict[str, list[str]]] = {kind: {} for kind in UnusedKind}
        for policy in policy_set.policies:
            for rule in policy.rules:
                if rule.is_default_response:
                    continue
                for kind, name in (
                    (UnusedKind.FILTER_LIST, rule.filter_list.casefold()),
                    (UnusedKind.FILTER_ACTION, rule.filter_action.casefold()),
                ):
                    if rule.active:
                        used[kind].add(name)
                    else:
                        asleep[kind].setdefault(name, []).append(f"{policy.name}: {rule_name(rule)}")
        for kind, entries in (
            (UnusedKind.FILTER_LIST, policy_set.filter_lists),
            (UnusedKind.FILTER_ACTION, policy_set.filter_actions),
        ):
            for entry in entries:
                key = entry.name.casefold()
                if key not in used[kind]:
                    rules = tuple(asleep[kind].get(key, ()))
                    found.append(Unused(kind, policy_set.store, entry.name, str(entry.guid), rules))
    return tuple(found)
