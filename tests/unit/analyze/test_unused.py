from dataclasses import replace

from stockade.analyze.unused import UnusedKind, find_unused
from stockade.model.filters import Action
from stockade.policy.objects import FilterAction, FilterList, Rule
from stockade.policy.predefined import predefined_set


def names(found):
    return [(one.kind, one.name) for one in found]


def test_what_every_rule_uses_is_not_listed():
    assert find_unused([predefined_set()]) == ()


def test_lists_and_actions_that_no_rule_names_are_listed_with_a_way_to_delete_them(policy_set):
    base = policy_set(("web", (), "block"))
    more = replace(
        base,
        filter_lists=(*base.filter_lists, FilterList("old list")),
        filter_actions=(*base.filter_actions, FilterAction("old action", Action.PERMIT)),
    )
    found = find_unused([more])
    assert names(found) == [
        (UnusedKind.FILTER_LIST, "old list"),
        (UnusedKind.FILTER_ACTION, "old action"),
    ]
    assert found[0].remedy == 'netsh ipsec static delete filterlist name="old list"'
    assert found[0].as_dict()["guid"] == str(more.filter_lists[-1].guid)
    assert str(found[1]) == "filter action “old action” (local store)"


def test_names_are_compared_without_regard_to_case(policy_set):
    base = policy_set(("web", (), "block"))
    lists = tuple(replace(one, name=one.name.upper()) for one in base.filter_lists)
    assert find_unused([replace(base, filter_lists=lists)]) == ()


def test_rules_that_are_switched_off_are_named(policy_set):
    base = policy_set(("web", (), "block"))
    off = replace(base.policies[0].rules[0], active=False)
    policy = replace(base.policies[0], rules=(off,))
    found = find_unused([replace(base, policies=(policy,))])
    assert [one.inactive_rules for one in found] == [("Office: web",)] * 2
    assert found[0].remedy == "activate or delete Office: web"
    assert "not active: Office: web" in str(found[0])


def test_each_store_is_read_on_its_own_and_unassigned_policies_count(policy_set):
    local = policy_set(("web", (), "block"), assigned=False)
    persistent = policy_set(("mail", (), "block"), store="persistent")
    assert find_unused([local, persistent]) == ()
    foreign = replace(persistent, filter_lists=(*persistent.filter_lists, FilterList("web filters")))
    assert [(one.store, one.name) for one in find_unused([local, foreign])] == [("persistent", "web filters")]


def test_the_default_response_rule_uses_nothing(policy_set):
    base = policy_set()
    rule = Rule("", "old list", "old action", is_default_response=True)
    policy = replace(base.policies[0], rules=(rule,))
    found = find_unused([replace(base, policies=(policy,), filter_lists=(FilterList("old list"),))])
    assert names(found) == [(UnusedKind.FILTER_LIST, "old list")]
