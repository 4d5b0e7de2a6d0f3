import json
from dataclasses import replace
from ipaddress import ip_address

import pytest

from stockade.analyze.explain import Verdict
from stockade.analyze.offline import Offline, choose_policies
from stockade.model.filters import Action, Direction
from stockade.model.reasons import CallerError, ReasonCode
from stockade.model.traffic import Flow
from stockade.policy.dynamic import DynamicRule, DynamicSet
from stockade.policy.findings import Lint
from stockade.policy.objects import Filter, FilterAddress, FilterList, PolicySet
from stockade.policy.predefined import CLIENT, SECURE_SERVER, predefined_set

ME, PEER = ip_address("192.0.2.1"), ip_address("192.0.2.2")
ME_TO_PEER = Filter(FilterAddress.me(), FilterAddress.of(PEER))
WEB = Flow(ME, PEER, 6, 40000, 80)


def test_an_assigned_policy_is_explained_without_an_agent(policy_set):
    offline = Offline.of([policy_set(("web", ME_TO_PEER, "block"))], [ME])
    explanation = offline.explain(WEB)
    assert explanation.verdict is Verdict.BLOCK
    assert explanation.direction is Direction.OUTBOUND
    assert offline.explain(WEB.reversed()).direction is Direction.INBOUND
    assert offline.explain(WEB, Direction.INBOUND).direction is Direction.INBOUND
    assert offline.assumed == ()


def test_the_only_policy_counts_as_assigned_and_the_answer_says_so(policy_set):
    offline = Offline.of([policy_set(("web", ME_TO_PEER, "block"), assigned=False)], [ME])
    assert offline.assumed == ("Office",)
    explanation = offline.explain(WEB)
    assert explanation.verdict is Verdict.BLOCK
    assert any("“Office” is not assigned" in sentence for sentence in explanation.as_dict()["why"])


def test_of_several_one_has_to_be_named():
    with pytest.raises(CallerError) as caught:
        Offline.of([predefined_set()], [ME])
    assert caught.value.reason.code is ReasonCode.NOT_ASSIGNED
    assert CLIENT in str(caught.value)
    offline = Offline.of([predefined_set()], [ME], policy=SECURE_SERVER.upper())
    assert offline.explain(WEB).verdict is Verdict.SECURE
    assert offline.assumed == (SECURE_SERVER,)


def test_a_name_that_nobody_has_and_nothing_at_all_are_refused(policy_set):
    with pytest.raises(CallerError) as caught:
        choose_policies([policy_set()], "Home")
    assert caught.value.reason.code is ReasonCode.UNKNOWN_NAME
    with pytest.raises(CallerError, match="there is no policy"):
        Offline.of([PolicySet()], [ME])


def test_the_named_policy_replaces_the_assigned_one_but_not_the_persistent_one(policy_set):
    base = policy_set(("web", ME_TO_PEER, "block"))
    other = replace(base.policies[0], name="Home", rules=(), assigned=False)
    local = replace(base, policies=(*base.policies, other))
    domain = policy_set(("mail", ME_TO_PEER, "block"), store="domain", policy="Company")
    persistent = policy_set(("boot", ME_TO_PEER, "permit"), store="persistent", policy="Boot")
    chosen, assumed = choose_policies([local, domain, persistent], "home")
    assert [(one.store, one.assigned.name) for one in chosen] == [("persistent", "Boot"), ("local", "Home")]
    assert assumed == ("Home",)
    chosen, _ = choose_policies([local, domain, persistent])
    assert [(one.store, one.assigned.name) for one in chosen] == [
        ("persistent", "Boot"),
        ("domain", "Company"),
    ]


def test_dynamic_rules_need_no_policy():
    rule = DynamicRule(ME_TO_PEER, "mm", action_inbound=Action.BLOCK, action_outbound=Action.BLOCK)
    offline = Offline.of([PolicySet()], [ME], dynamic=DynamicSet(rules=(rule,)))
    assert offline.explain(WEB).verdict is Verdict.BLOCK


def test_a_question_about_another_computer_is_noted(policy_set):
    offline = Offline.of([policy_set(("web", ME_TO_PEER, "block"))], [ME])
    stranger = offline.explain(Flow(ip_address("198.51.100.1"), PEER, 6), Direction.OUTBOUND)
    assert any("no address of the computer" in note for note in stranger.notes)
    assert offline.explain(WEB).notes == ()


def test_filters_lint_and_unused_work_on_the_same_policies(policy_set):
    base = policy_set(("web", ME_TO_PEER, "negotiate"))
    offline = Offline.of([replace(base, filter_lists=(*base.filter_lists, FilterList("old")))], [ME])
    rows = json.loads(json.dumps(offline.filters()))
    weights = [row["weight"] for row in rows]
    assert weights == sorted(weights, reverse=True)
    assert rows[0]["exemption"]
    assert Lint.WEAK_ALGORITHM in {finding.kind for finding in offline.lint()}
    assert [one.name for one in offline.unused()] == ["old"]


def test_the_exemption_level_counts(policy_set):
    everything = Filter(FilterAddress.me(), FilterAddress.any())
    base = policy_set(("all", everything, "block"))
    kerberos = Flow(PEER, ME, 17, 88, 40000)
    assert Offline.of([base], [ME]).explain(kerberos).verdict is Verdict.BLOCK
    assert Offline.of([base], [ME], exempt_level=0).explain(kerberos).verdict is Verdict.EXEMPT
