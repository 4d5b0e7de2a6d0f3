"""Compiling again after a change: the same table as from the beginning, and nothing touched but the
change."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockade.model.addresses import AddressRange
from stockade.model.filters import Action, Direction, FilterTable
from stockade.model.negotiation import PresharedKey
from stockade.model.reasons import CallerError
from stockade.model.secret import Secret
from stockade.model.traffic import Flow
from stockade.policy import compiler as compiler_module
from stockade.policy.compiler import PolicyCompiler, compile_table
from stockade.policy.difference import difference
from stockade.policy.facts import HostFacts, LocalAddress
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

ME, PEER = ip_address("10.0.0.1"), ip_address("10.0.0.9")
KEY = (PresharedKey(Secret(b"correct horse battery staple")),)
OUT = Direction.OUTBOUND

hosts = [FilterAddress.of(ip_address(f"10.0.0.{number}")) for number in range(4, 9)]
networks = [
    FilterAddress.of(AddressRange.network(ip_network(text)))
    for text in ("10.0.0.0/24", "10.0.0.0/29", "224.0.0.0/3")
]
remote = st.sampled_from(
    [
        *hosts,
        *networks,
        FilterAddress.any(),
        FilterAddress.named("a.example"),
        FilterAddress.named("b.example"),
    ]
)


@st.composite
def filters(draw):
    ends = [draw(st.sampled_from([FilterAddress.me(), FilterAddress.any()])), draw(remote)]
    if draw(st.booleans()):
        ends.reverse()
    protocol = draw(st.sampled_from([0, 6, 17]))
    port = draw(st.sampled_from([0, 53, 80])) if protocol else 0
    return Filter(*ends, protocol, 0, port, draw(st.booleans()))


ACTIONS = (
    FilterAction("permit", Action.PERMIT),
    FilterAction("block", Action.BLOCK),
    FilterAction("secure"),
    FilterAction("ask", inpass=True, soft=True),
)


@st.composite
def policy_sets(draw):
    lists = [
        FilterList(f"list {number}", tuple(draw(st.lists(filters(), max_size=5)))) for number in range(3)
    ]
    return build(lists, [draw(st.sampled_from(ACTIONS)).name for _ in lists])


GUIDS = [rule.guid for rule in (Rule(str(number), "", "") for number in range(3))]


def build(lists, actions):
    rules = tuple(
        Rule(f"rule {number}", entry.name, action, KEY, guid=GUIDS[number])
        for number, (entry, action) in enumerate(zip(lists, actions, strict=True))
    )
    policy = Policy("random", rules, assigned=True, guid=GUIDS[0])
    return PolicySet((policy,), tuple(lists), ACTIONS)


def edit(draw, policy_set):
    """One change, of the kinds that people make."""
    lists = list(policy_set.filter_lists)
    actions = [rule.filter_action for rule in policy_set.policies[0].rules]
    number = draw(st.integers(0, 2))
    entries = list(lists[number].filters)
    kind = draw(st.sampled_from(["append", "insert", "delete", "replace", "action", "reverse", "nothing"]))
    place = draw(st.integers(0, max(0, len(entries) - 1)))
    if kind == "append":
        entries.append(draw(filters()))
    elif kind == "insert":
        entries.insert(place, draw(filters()))
    elif kind == "delete" and entries:
        del entries[place]
    elif kind == "replace" and entries:
        entries[place] = draw(filters())
    elif kind == "reverse":
        entries.reverse()
    elif kind == "action":
        actions[number] = draw(st.sampled_from(ACTIONS)).name
    lists[number] = replace(lists[number], filters=tuple(entries))
    return build(lists, actions)


@settings(max_examples=60, deadline=None)
@given(st.data(), policy_sets())
def test_compiling_the_change_gives_the_table_of_compiling_everything(data, policy_set):
    facts = HostFacts(
        (LocalAddress(ME, 24),), dns_servers=(PEER,), names={"a.example": (ip_address("10.0.0.5"),)}
    )
    compiler = PolicyCompiler()
    last = compiler.compile([policy_set], facts)
    for _ in range(4):
        policy_set = edit(data.draw, policy_set)
        if data.draw(st.integers(0, 4)) == 0:
            facts = replace(facts, names={"b.example": (ip_address("10.0.0.6"),)})
        if data.draw(st.booleans()):
            last.prepare()
        table = compiler.compile([policy_set], facts)
        whole = compile_table([policy_set], facts)
        assert table.filters == whole.filters
        assert table.negotiations == whole.negotiations
        assert table.warnings == whole.warnings
        changes = table.since(last)
        assert changes.came == table.ids - last.ids
        assert changes.went == last.ids - table.ids
        assert not changes.reordered
        for other in ("10.0.0.5", "10.0.0.6", "10.0.0.9", "224.0.0.1", "192.0.2.1"):
            flow = Flow(ME, ip_address(other), 17, 1024, 53)
            expected = next(
                (one for one in table.filters if one.direction is OUT and one.selector.matches(flow)), None
            )
            assert table.lookup(flow, OUT) == expected
        last = table


def many(count, action="block"):
    me = FilterAddress.me()
    entries = tuple(
        Filter(me, FilterAddress.of(ip_address(0x0A010000 + number)), 6, 0, 80) for number in range(count)
    )
    lists = [FilterList("list 0", entries), FilterList("list 1"), FilterList("list 2")]
    return build(lists, [action, "permit", "permit"])


def with_filters(policy_set, change):
    entries = list(policy_set.filter_lists[0].filters)
    change(entries)
    lists = (replace(policy_set.filter_lists[0], filters=tuple(entries)), *policy_set.filter_lists[1:])
    return replace(policy_set, filter_lists=lists)


def test_one_changed_filter_touches_one_filter_in_each_direction():
    policy_set = many(300)
    compiler = PolicyCompiler()
    old = compiler.compile([policy_set], [ME])

    def change(entries):
        entries[150] = replace(entries[150], destination_port=443)

    new = compiler.compile([with_filters(policy_set, change)], [ME])
    what = difference(old, new)
    assert [(entry.entry.selector.destination_port, entry.entry.direction) for entry in what.added] == [
        (443, Direction.OUTBOUND),
        (0, Direction.INBOUND),
    ] or len(what.added) == 2
    assert len(what.removed) == 2
    assert what.unchanged == 598
    assert not what.reordered
    kept = [one for one in new.filters if one.id in old.ids]
    assert all(old.by_id(one.id) is one for one in kept)


@pytest.mark.parametrize("place", [0, 120, 299])
def test_a_filter_taken_away_renumbers_the_others_and_removes_one(place):
    policy_set = many(300)
    compiler = PolicyCompiler()
    old = compiler.compile([policy_set], [ME])
    new = compiler.compile([with_filters(policy_set, lambda entries: entries.pop(place))], [ME])
    what = difference(old, new)
    assert (len(what.added), len(what.removed), what.touched) == (0, 2, 2)
    assert {one.provenance.filter_index for one in new.filters} == set(range(1, 300))
    assert (
        new.filters
        == compile_table([with_filters(policy_set, lambda entries: entries.pop(place))], [ME]).filters
    )


def test_a_refused_policy_leaves_the_compiler_usable(monkeypatch):
    compiler = PolicyCompiler()
    policy_set = many(10)
    before = compiler.compile([policy_set], [ME])
    monkeypatch.setattr(compiler_module, "MAXIMUM_FILTERS", 15)
    with pytest.raises(CallerError):
        compiler.compile([many(10)], [ME])
    monkeypatch.setattr(compiler_module, "MAXIMUM_FILTERS", 500)
    with pytest.raises(CallerError):
        compiler.compile([replace(policy_set, filter_actions=())], [ME])
    again = compiler.compile([policy_set], [ME])
    assert again == before
    assert difference(before, again).is_empty


def test_a_refusal_after_the_groups_changed_is_forgotten(monkeypatch):
    # 3 filters fit, their multicast parts do not: noticed late
    policy_set = build(
        [FilterList("list 0", (Filter(FilterAddress.me(), FilterAddress.any()),)), FilterList("list 1")],
        ["permit", "permit"],
    )
    secured = build([policy_set.filter_lists[0], FilterList("list 1")], ["secure", "permit"])
    compiler = PolicyCompiler()
    before = compiler.compile([policy_set], [ME])
    monkeypatch.setattr(compiler_module, "MAXIMUM_FILTERS", 2)
    with pytest.raises(CallerError, match="multicast parts"):
        compiler.compile([secured], [ME])
    assert compiler.compile([policy_set], [ME]) == before
    monkeypatch.setattr(compiler_module, "MAXIMUM_FILTERS", 500)
    assert compiler.compile([secured], [ME]).filters == compile_table([secured], [ME]).filters


def test_changed_facts_keep_what_they_do_not_touch():
    policy_set = many(5)
    compiler = PolicyCompiler()
    old = compiler.compile([policy_set], [ME])
    new = compiler.compile([policy_set], [ME, ip_address("10.9.9.9")])
    what = difference(old, new)
    assert (len(what.added), len(what.removed)) == (10, 0)
    assert not what.reordered


# ---- differences of any two tables
def test_a_difference_tells_where_an_added_filter_stands():
    policy_set = many(4)
    old = compile_table([with_filters(policy_set, lambda entries: entries.pop(1))], [ME])
    new = compile_table([policy_set], [ME])
    what = difference(old, new)
    order = list(new.ids)
    for added in what.added:
        position = order.index(added.entry.id)
        assert added.before == (order[position + 1] if position + 1 < len(order) else None)
    assert str(what) == "2 added, 0 removed, 6 unchanged"
    assert what.as_dict()["unchanged"] == 6


def test_equal_tables_have_an_empty_difference():
    what = difference(compile_table([many(3)], [ME]), compile_table([many(3)], [ME]))
    assert what.is_empty
    assert difference(FilterTable(), FilterTable()).is_empty


def test_a_changed_key_is_a_changed_negotiation_and_no_changed_filter():
    policy_set = many(3, "secure")
    other = (PresharedKey(Secret(b"another key altogether")),)
    rules = tuple(replace(rule, authentication=other) for rule in policy_set.policies[0].rules)
    changed = replace(policy_set, policies=(replace(policy_set.policies[0], rules=rules),))
    what = difference(compile_table([policy_set], [ME]), compile_table([changed], [ME]))
    assert what.touched == 0
    assert what.negotiations == ("local/random/rule 0",)
    assert not what.is_empty
    assert "another key" not in str(what.as_dict())


def test_filters_in_another_order_are_told():
    table = compile_table([many(3)], [ME])
    what = difference(table, FilterTable(table.filters[::-1]))
    assert what.reordered
    assert what.touched == 0


def test_kinds_that_change_with_the_host_are_known():
    dynamic = {kind for kind in AddressKind if kind.is_dynamic}
    assert dynamic == set(AddressKind) - {AddressKind.ANY, AddressKind.ADDRESSES}
