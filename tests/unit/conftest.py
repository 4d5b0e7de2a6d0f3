"""Builders for small policies."""

from collections.abc import Callable

import pytest

from stockade.model.filters import Action
from stockade.model.negotiation import PresharedKey
from stockade.model.secret import Secret
from stockade.policy.objects import Filter, FilterAction, FilterList, Policy, PolicySet, Rule

type_of_builder = Callable[..., PolicySet]


def build_policy_set(
    *rules: tuple[object, ...], store: str = "local", policy: str = "Office", **settings: object
) -> PolicySet:
    """Each rule: (name, filters, action) with action a word or a FilterAction, then optionally a dictionary
    of further arguments of Rule."""
    lists, actions, made = [], [], []
    for name, filters, action, *more in rules:
        assert isinstance(name, str)
        filters = (filters,) if isinstance(filters, Filter) else tuple(filters)
        if isinstance(action, str):
            action = FilterAction(f"{name} {action}", Action(action))
        arguments = {"authentication": (PresharedKey(Secret(b"correct horse battery staple")),)}
        arguments.update(more[0] if more else {})
        lists.append(FilterList(f"{name} filters", filters))
        actions.append(action)
        made.append(Rule(name, f"{name} filters", action.name, **arguments))
    settings.setdefault("assigned", True)
    return PolicySet((Policy(policy, tuple(made), **settings),), tuple(lists), tuple(actions), store)


@pytest.fixture(scope="session")
def policy_set() -> type_of_builder:
    return build_policy_set
