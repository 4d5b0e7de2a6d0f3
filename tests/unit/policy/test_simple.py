"""The simple policy: what its two rules do to packets."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from stockade.model.filters import Action, Direction
from stockade.model.negotiation import Kerberos
from stockade.model.traffic import ICMP, TCP, UDP, Flow
from stockade.policy.compiler import compile_table
from stockade.policy.facts import HostFacts
from stockade.policy.findings import Lint
from stockade.policy.lint import lint
from stockade.policy.simple import simple_policy_set

ME, PEER, DNS, DHCP = (ip_address(f"192.0.2.{number}") for number in (1, 9, 53, 67))
FACTS = replace(HostFacts.of([ME]), dns_servers=(DNS,), dhcp_servers=(DHCP,))


def assigned():
    made = simple_policy_set("Simple policy", (Kerberos(),))
    return replace(made, policies=(replace(made.policies[0], assigned=True),))


@pytest.mark.parametrize(
    ("flow", "action"),
    [
        (Flow(ME, PEER, TCP, 40000, 445), Action.NEGOTIATE),
        (Flow(ME, DNS, TCP, 40000, 445), Action.NEGOTIATE),
        (Flow(ME, DNS, UDP, 40000, 53), Action.PERMIT),
        (Flow(ME, PEER, UDP, 40000, 53), Action.NEGOTIATE),
        (Flow(ME, DHCP, UDP, 68, 67), Action.PERMIT),
        (Flow(ME, PEER, ICMP, 0, 0), Action.PERMIT),
    ],
)
def test_what_is_asked_for_and_what_passes(flow, action):
    table = compile_table([assigned()], FACTS)
    there = table.lookup(flow, Direction.OUTBOUND)
    back = table.lookup(flow.reversed(), Direction.INBOUND)
    assert there is not None
    assert back is not None
    assert (there.action, back.action) == (action, action)
    if action is Action.NEGOTIATE:
        assert (there.allow_soft, back.accept_clear) == (True, True)


def test_it_has_two_rules_and_locks_nobody_out():
    made = assigned()
    assert len(made.policies[0].rules) == 2
    found = {finding.kind for finding in lint([made], FACTS)}
    assert found == {Lint.CLEAR_ALLOWED, Lint.WEAK_ALGORITHM}  # 3DES at the end, for Windows XP and 2003
