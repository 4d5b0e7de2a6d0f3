"""What the core keeps when a policy cannot be put in force, and what a change of facts does."""

import os
from dataclasses import replace
from ipaddress import ip_address

from stockade.agent.core import HostCore
from stockade.agent.journal import Entry
from stockade.driver.memory import MemoryDriver
from stockade.model.filters import FilterTable
from stockade.model.negotiation import PresharedKey
from stockade.model.reasons import ReasonCode
from stockade.model.secret import Secret
from stockade.policy.facts import HostFacts, LocalAddress
from stockade.policy.objects import Filter, FilterAction, FilterAddress, FilterList, Policy, PolicySet, Rule

LOCAL, PEER = ip_address("10.0.0.1"), ip_address("10.0.0.2")
NEW = ip_address("10.0.0.77")
KEY = (PresharedKey(Secret(b"key")),)
RULE = Rule("secure", "list", "action", KEY)


def policies(*ends: FilterAddress) -> PolicySet:
    filters = tuple(Filter(FilterAddress.me(), end) for end in ends)
    policy = Policy("test", (RULE,), assigned=True)
    return PolicySet((policy,), (FilterList("list", filters),), (FilterAction("action"),))


class Watched(MemoryDriver):
    """Counts the tables that it gets."""

    def __init__(self) -> None:
        super().__init__(lambda packet: None, lambda packet: None)
        self.tables: list[FilterTable] = []

    def install_filters(self, table: FilterTable) -> None:
        super().install_filters(table)
        self.tables.append(table)


def core() -> tuple[HostCore, Watched, list[Entry]]:
    driver, journal = Watched(), []
    return HostCore(driver, [LOCAL], os.urandom, journal=journal.append), driver, journal


def test_a_refused_policy_leaves_the_last_good_one():
    host, driver, _ = core()
    assert host.load([policies(FilterAddress.of(PEER))], 0.0).refusal is None
    before = host.table
    result = host.load([policies(FilterAddress.of(ip_address("224.0.0.9")))], 1.0)
    assert result.refusal is not None
    assert result.refusal.code is ReasonCode.NOT_SECURABLE
    assert host.table is before
    assert len(driver.tables) == 1
    # and a change of facts expands the good one, not the refused one
    assert host.set_facts(HostFacts.of([LOCAL, NEW]), 2.0).refusal is None
    assert {entry.selector.source.first for entry in host.table.filters} >= {NEW}


def test_a_new_address_changes_only_its_own_filters():
    host, _, journal = core()
    host.load([policies(FilterAddress.of(PEER))], 0.0)
    before = set(host.table.ids)
    host.set_facts(HostFacts.of([LOCAL, NEW]), 1.0)
    after = set(host.table.ids)
    assert before < after
    written = [entry for one in after - before if (entry := host.table.by_id(one)).filter_class == 0]
    assert {str(entry.selector) for entry in written} == {
        "any 10.0.0.77 -> 10.0.0.2", "any 10.0.0.2 -> 10.0.0.77",
    }  # fmt: skip
    assert journal[-1].kind == "policy-expanded"
    host.set_facts(HostFacts.of([LOCAL]), 2.0)
    assert set(host.table.ids) == before


def test_names_and_servers_are_expanded_as_they_become_known():
    host, _, journal = core()
    host.load([policies(FilterAddress.named("peer.example"), FilterAddress.of(PEER))], 0.0)
    assert any("peer.example" in str(entry.reason) for entry in journal if entry.kind == "policy-warning")
    known = HostFacts((LocalAddress(LOCAL),), names={"peer.example": (NEW,)})
    host.set_facts(known, 1.0)
    assert {str(entry.selector.destination) for entry in host.table.filters} >= {str(NEW), str(PEER)}


def test_the_default_response_rule_is_in_force():
    host, _, _ = core()
    default = replace(RULE, name="", filter_list="<Dynamic>", is_default_response=True)
    policy = PolicySet((Policy("test", (default,), assigned=True),))
    assert host.load([policy], 0.0).refusal is None
    assert host.table.default_response is not None
