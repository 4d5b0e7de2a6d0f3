"""What the core makes of policies that an agent cannot carry out yet."""

import os
from dataclasses import replace
from ipaddress import ip_address

from stockade.agent.core import HostCore
from stockade.driver.memory import MemoryDriver
from stockade.model.negotiation import PresharedKey
from stockade.model.reasons import ReasonCode
from stockade.model.secret import Secret
from stockade.policy.objects import Filter, FilterAction, FilterAddress, FilterList, Policy, PolicySet, Rule

LOCAL, PEER = ip_address("10.0.0.1"), ip_address("10.0.0.2")
KEY = (PresharedKey(Secret(b"key")),)
RULE = Rule("secure", "list", "action", KEY)


def policies(*rules: Rule) -> PolicySet:
    filters = (Filter(FilterAddress.me(), FilterAddress.of(PEER), mirrored=False),)
    policy = Policy("test", rules, assigned=True)
    return PolicySet((policy,), (FilterList("list", filters),), (FilterAction("action"),))


def core() -> HostCore:
    return HostCore(MemoryDriver(lambda packet: None, lambda packet: None), [LOCAL], os.urandom)


def test_a_tunnel_rule_is_refused_whole_and_the_last_good_policy_stays():
    host = core()
    assert host.load([policies(RULE)], 0.0).refusal is None
    before = host.table
    result = host.load([policies(RULE, replace(RULE, name="tunnel", tunnel_endpoint=PEER))], 1.0)
    assert result.refusal is not None
    assert result.refusal.code is ReasonCode.DRIVER_LACKS
    assert dict(result.refusal.facts)["rule"] == "tunnel"
    assert host.table is before


def test_the_default_response_rule_answers_nobody_yet():
    default = replace(RULE, name="", filter_list="<Dynamic>", is_default_response=True)
    host = core()
    assert host.load([policies(default)], 0.0).refusal is None
    assert host.table.default_response is None
    assert host.table.policy_name == "test"
