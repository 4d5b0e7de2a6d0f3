"""Random policies and flows: the compiled table against a slow reading of the rules as they are written."""

from ipaddress import IPv4Address, ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockade.model.addresses import AddressRange
from stockade.model.filters import Action, Direction, FilterClass
from stockade.model.negotiation import PresharedKey
from stockade.model.reasons import CallerError, Reason, ReasonCode
from stockade.model.secret import Secret
from stockade.model.traffic import Flow, TrafficSelector
from stockade.policy.compiler import compile_table
from stockade.policy.lookup import FilterTableLookup
from stockade.policy.objects import (
    AddressKind,
    Filter,
    FilterAction,
    FilterAddress,
    FilterList,
    Policy,
    PolicySet,
    Rule,
)

LOCAL = (ip_address("10.0.0.1"), ip_address("10.0.0.2"))
# a small world, so that filters overlap and flows hit them
REMOTE = [ip_address(f"10.0.0.{number}") for number in range(4, 16)]
ACTIONS = {action: FilterAction(action.value, action) for action in Action}

networks = st.builds(
    lambda address, bits: FilterAddress.of(AddressRange.network(ip_network((address, bits), strict=False))),
    st.sampled_from([*LOCAL, *REMOTE]),
    st.sampled_from([24, 28, 29, 30, 32]),
)
ends = st.one_of(st.just(FilterAddress.me()), st.just(FilterAddress.any()), networks)
ports = st.sampled_from([0, 23, 80])


@st.composite
def filters(draw):
    protocol = draw(st.sampled_from([0, 1, 6, 17]))
    source, destination = draw(ends), draw(ends)
    if source.kind is AddressKind.ME and destination.kind is AddressKind.ME:
        destination = FilterAddress.any()
    has_ports = protocol in (6, 17)
    return Filter(
        source,
        destination,
        protocol,
        draw(ports) if has_ports else 0,
        draw(ports) if has_ports else 0,
        draw(st.booleans()),
    )


@st.composite
def policies(draw):
    rules, lists = [], []
    for number, (made, action) in enumerate(
        draw(st.lists(st.tuples(st.lists(filters(), max_size=3), st.sampled_from(Action)), max_size=5))
    ):
        lists.append(FilterList(f"list {number}", tuple(made)))
        key = PresharedKey(Secret(b"correct horse battery staple"))
        rules.append(Rule(f"rule {number}", f"list {number}", action.value, (key,)))
    policy = Policy("random", tuple(rules), assigned=True)
    return PolicySet((policy,), tuple(lists), tuple(ACTIONS.values()))


@st.composite
def flows(draw):
    """A flow and its direction: one end is ours, the other is not."""
    own, other = draw(st.sampled_from(LOCAL)), draw(st.sampled_from(REMOTE))
    protocol = draw(st.sampled_from([1, 6, 17, 47]))
    source_port, destination_port = (draw(ports), draw(ports)) if protocol in (6, 17) else (0, 0)
    direction = draw(st.sampled_from(Direction))
    ends_ = (own, other) if direction is Direction.OUTBOUND else (other, own)
    return Flow(*ends_, protocol, source_port, destination_port), direction


# ---- the slow reading, on the generic filters, without the code under test
def end_holds(end, address):
    if end.kind is AddressKind.ANY:
        return True
    return address in LOCAL if end.kind is AddressKind.ME else address in end.addresses


def prefix(end):
    if end.kind is AddressKind.ANY:
        return 0
    return 32 if end.kind is AddressKind.ME else end.addresses.prefix_length


def filter_holds(filter_, flow):
    return (
        end_holds(filter_.source, flow.source)
        and end_holds(filter_.destination, flow.destination)
        and filter_.protocol in (0, flow.protocol)
        and filter_.source_port in (0, flow.source_port)
        and filter_.destination_port in (0, flow.destination_port)
    )


def swap(filter_):
    return Filter(
        filter_.destination,
        filter_.source,
        filter_.protocol,
        filter_.destination_port,
        filter_.source_port,
        False,
    )


def specificity(filter_, direction):
    source, destination = prefix(filter_.source), prefix(filter_.destination)
    own = source if direction is Direction.OUTBOUND else destination
    return (
        source + destination,
        min(source, destination),
        filter_.protocol != 0,
        filter_.destination_port != 0,
        filter_.source_port != 0,
        own == 32,
    )


def most_specific(policy_set, flow, direction):
    """(specificity, action) of the filter that decides, by trying all; None where none speaks."""
    found = []
    for rule in policy_set.assigned.rules:
        action = Action(rule.filter_action)
        for filter_ in policy_set.filter_list(rule.filter_list).filters:
            for one in (filter_, swap(filter_)) if filter_.mirrored else (filter_,):
                if filter_holds(one, flow):
                    found.append((specificity(one, direction), action.restrictiveness, action))
    return max(found)[2] if found else None


@settings(max_examples=200, deadline=None)
@given(policies(), st.lists(flows(), min_size=1, max_size=8))
def test_the_table_decides_as_the_most_specific_rule_says(policy_set, asked):
    table = compile_table([policy_set], LOCAL)
    for flow, direction in asked:
        entry = table.lookup(flow, direction)
        expected = most_specific(policy_set, flow, direction)
        assert (None if entry is None else entry.action) == expected


@settings(max_examples=100, deadline=None)
@given(policies())
def test_a_compiled_table_is_sorted_and_free_of_doubles(policy_set):
    table = compile_table([policy_set], LOCAL)

    keys = [(-entry.filter_class, -entry.weight) for entry in table.filters]
    assert keys == sorted(keys)
    assert len({(entry.selector, entry.direction, entry.weight) for entry in table.filters}) == len(
        table.filters
    )
    by_rule = [entry for entry in table.filters if entry.filter_class is FilterClass.POLICY]
    for position, entry in enumerate(by_rule):
        for later in by_rule[position + 1 :]:
            if entry.direction is later.direction and entry.selector != later.selector:
                assert not entry.selector.covers(later.selector)


@settings(max_examples=100, deadline=None)
@given(policies(), st.randoms(use_true_random=False))
def test_the_order_of_rules_and_filters_decides_nothing(policy_set, random):
    rules = list(policy_set.policies[0].rules)
    random.shuffle(rules)
    policy = Policy("random", tuple(rules), assigned=True)
    shuffled = PolicySet((policy,), policy_set.filter_lists, policy_set.filter_actions)
    assert compile_table([shuffled], LOCAL).filters == compile_table([policy_set], LOCAL).filters


@settings(max_examples=200, deadline=None)
@given(policies(), flows())
def test_a_flow_that_the_table_secures_outbound_can_be_asked_for_by_the_peer(policy_set, asked):
    flow, direction = asked
    if direction is Direction.INBOUND:
        flow = flow.reversed()
    table = compile_table([policy_set], LOCAL)
    entry = table.lookup(flow, Direction.OUTBOUND)
    requested = TrafficSelector(
        AddressRange.host(flow.source),
        AddressRange.host(flow.destination),
        flow.protocol,
        flow.source_port,
        flow.destination_port,
    )
    lookup = FilterTableLookup(table)
    answer = lookup.for_quick_mode(flow.source, flow.destination, requested)
    all_given = flow.protocol not in (6, 17) or (flow.source_port and flow.destination_port)
    if entry is not None and entry.action is Action.NEGOTIATE and all_given:
        assert not isinstance(answer, Reason)
        assert answer.filter_id == entry.id
        assert answer.selector == requested
        assert answer.negotiation in lookup.for_peer(flow.source, flow.destination)
    if not isinstance(answer, Reason):
        chosen = table.by_id(answer.filter_id)
        assert chosen.action is Action.NEGOTIATE
        covered = requested if chosen.direction is Direction.OUTBOUND else requested.reversed()
        assert chosen.selector.covers(covered)


@settings(max_examples=100, deadline=None)
@given(
    st.builds(AddressRange.host, st.builds(IPv4Address, st.integers(0, 2**32 - 1))),
    st.sampled_from(Action),
)
def test_any_single_host_filter_compiles_or_is_refused_for_a_reason(host, action):
    filter_ = Filter(FilterAddress.me(), FilterAddress.of(host))
    key = PresharedKey(Secret(b"correct horse battery staple"))
    rule = Rule("one", "list", action.value, (key,))
    policy_set = PolicySet(
        (Policy("random", (rule,), assigned=True),),
        (FilterList("list", (filter_,)),),
        tuple(ACTIONS.values()),
    )
    if action is Action.NEGOTIATE and (host.first.is_multicast or int(host.first) == 2**32 - 1):
        with pytest.raises(CallerError) as caught:
            compile_table([policy_set], LOCAL)
        assert caught.value.reason.code is ReasonCode.NOT_SECURABLE
        return
    table = compile_table([policy_set], LOCAL)
    flow = Flow(LOCAL[0], host.first, 6, 1, 2)
    entry = table.lookup(flow, Direction.OUTBOUND)
    if host.first in LOCAL:
        assert entry is None
    else:
        assert entry.action is action
