"""The index over the filter table against a walk over it."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockade.model import classifier, filters
from stockade.model.addresses import AddressRange
from stockade.model.classifier import collector_paused, prefixes_of
from stockade.model.filters import Action, Direction, FilterTable, Provenance, SpecificFilter
from stockade.model.traffic import Flow, TrafficSelector

WHERE = Provenance("local", "p", "r")
IN, OUT = Direction.INBOUND, Direction.OUTBOUND
# a small world at the edges of the address space, so that ranges overlap and flows hit them
BASES = [0, 8, 2**31 - 4, 2**32 - 16]


def walk(table, flow, direction):
    """What `lookup` means."""
    for entry in table.filters:
        if entry.direction is direction and entry.selector.matches(flow):
            return entry
    return None


numbers = st.builds(lambda base, more: base + more, st.sampled_from(BASES), st.integers(0, 15))
versions = st.sampled_from([IPv4Address, IPv6Address])


@st.composite
def ranges(draw, version):
    kind = draw(st.sampled_from(["any", "host", "range", "prefix"]))
    if kind == "any":
        return AddressRange.everything(4 if version is IPv4Address else 6)
    first = draw(numbers)
    if kind == "host":
        return AddressRange.host(version(first))
    if kind == "prefix":
        bits = draw(st.sampled_from([1, 2, 4, 31]))
        low = first >> bits << bits
        return AddressRange(version(low), version(low + (1 << bits) - 1))
    first, last = sorted((first, draw(numbers)))
    return AddressRange(version(first), version(last))


@st.composite
def selectors(draw):
    version = draw(versions)
    protocol = draw(st.sampled_from([0, 0, 1, 6, 17]))
    ports = st.sampled_from([0, 0, 80, 443]) if protocol in (6, 17) else st.just(0)
    return TrafficSelector(draw(ranges(version)), draw(ranges(version)), protocol, draw(ports), draw(ports))


@st.composite
def tables(draw, minimum=0):
    chosen = draw(st.lists(st.tuples(selectors(), st.sampled_from(Direction)), min_size=minimum, max_size=25))
    return FilterTable(
        tuple(
            SpecificFilter(f"{number:016x}", selector, direction, Action.BLOCK, 0, WHERE)
            for number, (selector, direction) in enumerate(chosen)
        )
    )


@st.composite
def flows(draw):
    version = draw(versions)
    protocol = draw(st.sampled_from([0, 1, 6, 17, 255]))
    port = st.sampled_from([0, 80, 443, 65535])
    return Flow(version(draw(numbers)), version(draw(numbers)), protocol, draw(port), draw(port))


@settings(max_examples=200, deadline=None)
@given(tables(), st.lists(flows(), max_size=12), st.sampled_from(Direction))
def test_the_index_finds_what_a_walk_over_the_table_finds(table, asked, direction):
    for flow in asked:
        expected = walk(table, flow, direction)
        assert table.lookup(flow, direction) is expected
        assert table.lookup(flow, direction) is expected  # now it is a known flow


@settings(max_examples=100, deadline=None)
@given(tables(), flows(), st.sampled_from(Direction))
def test_about_gives_every_filter_that_speaks_of_two_addresses_in_order(table, flow, direction):
    expected = [
        entry
        for entry in table.filters
        if entry.direction is direction
        and flow.source in entry.selector.source
        and flow.destination in entry.selector.destination
    ]
    assert list(table.about(flow.source, flow.destination, direction)) == expected


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_an_index_made_from_the_old_one_is_as_good_as_a_new_one(data):
    whole = data.draw(tables(minimum=1))
    keep = st.lists(st.booleans(), min_size=len(whole.filters), max_size=len(whole.filters))
    before = FilterTable(tuple(one for one, kept in zip(whole.filters, data.draw(keep), strict=True) if kept))
    before.prepare()
    for _ in range(3):  # an index of an index of an index
        after = FilterTable(
            tuple(one for one, kept in zip(whole.filters, data.draw(keep), strict=True) if kept)
        )
        after.prepare(before)
        for flow in data.draw(st.lists(flows(), max_size=8)):
            for direction in Direction:
                assert after.lookup(flow, direction) is walk(after, flow, direction)
                assert before.lookup(flow, direction) is walk(before, flow, direction)
        before = after


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_a_range_is_filed_under_at_most_two_prefixes_that_are_hardly_larger(one, other):
    first, last = sorted((one, other))
    found, exact = prefixes_of(AddressRange(IPv4Address(first), IPv4Address(last)))
    covered = [(prefix << shift, ((prefix + 1) << shift) - 1) for shift, prefix in found]
    assert len(found) <= 2
    assert min(low for low, _ in covered) <= first
    assert max(high for _, high in covered) >= last
    size = last - first + 1
    assert sum(high - low + 1 for low, high in covered) < 2 * size or (exact and len(found) == 1)
    if exact:
        assert covered == [(first, last)]


def table_of(*entries):
    return FilterTable(
        tuple(
            SpecificFilter(f"{number:016x}", selector, OUT, Action.BLOCK, 0, WHERE)
            for number, selector in enumerate(entries)
        )
    )


EVERYTHING = AddressRange.everything(4)
ME, PEER = ip_address("192.0.2.1"), ip_address("192.0.2.2")


def test_many_ports_between_the_same_ends_are_told_apart():
    ports = [TrafficSelector(EVERYTHING, EVERYTHING, 6, 0, port) for port in range(1, 200)]
    table = table_of(*ports, TrafficSelector(EVERYTHING, EVERYTHING))
    assert table.lookup(Flow(ME, PEER, 6, 9, 150), OUT) is table.filters[149]
    assert table.lookup(Flow(ME, PEER, 6, 9, 250), OUT) is table.filters[-1]
    fewer = FilterTable(table.filters[:100] + table.filters[101:])
    fewer.prepare(table)
    assert fewer.lookup(Flow(ME, PEER, 6, 9, 101), OUT) is table.filters[-1]
    assert table.lookup(Flow(ME, PEER, 6, 9, 101), OUT) is table.filters[100]


@pytest.mark.parametrize("flow", [Flow(ME, PEER, 300), Flow(ME, PEER, 6, 70_000, -1), Flow(ME, PEER, -1)])
def test_numbers_that_no_packet_carries_match_only_what_leaves_them_open(flow):
    named = TrafficSelector(EVERYTHING, EVERYTHING, 6, 0, 65_535)
    table = table_of(named, TrafficSelector(EVERYTHING, EVERYTHING))
    assert table.lookup(flow, OUT) is walk(table, flow, OUT) is table.filters[1]
    assert table_of(named).lookup(flow, OUT) is None


def test_a_flow_of_two_families_matches_nothing():
    table = table_of(TrafficSelector(EVERYTHING, EVERYTHING))
    assert table.lookup(Flow(ME, ip_address("2001:db8::1"), 6), OUT) is None
    assert table.about(ME, ip_address("2001:db8::1"), OUT) == ()


def test_equal_numbers_of_the_two_families_are_two_flows():
    table = table_of(TrafficSelector(EVERYTHING, EVERYTHING))
    four = Flow(IPv4Address(5), IPv4Address(6), 6)
    six = Flow(IPv6Address(5), IPv6Address(6), 6)
    assert table.lookup(four, OUT) is table.filters[0]
    assert table.lookup(six, OUT) is None
    assert table.lookup(four, OUT) is table.filters[0]


def test_numbers_give_the_same_filter_as_a_flow():
    table = table_of(TrafficSelector(EVERYTHING, EVERYTHING, 6, 0, 80))
    assert table.classify(True, 4, int(ME), int(PEER), 6, 1024, 80) is table.filters[0]
    assert table.classify(False, 4, int(ME), int(PEER), 6, 1024, 80) is None
    assert table.classify(True, 4, int(ME), int(PEER), 6, 1024, 81) is None


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(filters, "MAXIMUM_KNOWN_FLOWS", 4)
    monkeypatch.setattr(classifier, "MAXIMUM_ENDS", 4)
    table = table_of(TrafficSelector(AddressRange.host(ME), AddressRange.network("10.0.0.0/8")))
    for number in range(20):
        flow = Flow(ME, IPv4Address(0x0A000000 + number), 6, number, 80)
        assert table.lookup(flow, OUT) is table.filters[0]
    assert len(table._memory.outbound) <= 4


def test_a_table_that_differs_much_gets_an_index_of_its_own():
    hosts = [TrafficSelector(EVERYTHING, AddressRange.host(IPv4Address(number))) for number in range(300)]
    old, new = table_of(*hosts), table_of(*hosts[:150])
    old.prepare()
    new.prepare(old)
    assert new.is_prepared
    assert new.lookup(Flow(ME, IPv4Address(149), 6), OUT) is new.filters[149]
    assert new.lookup(Flow(ME, IPv4Address(150), 6), OUT) is None


def test_a_table_in_another_order_is_answered_in_its_order():
    wide, narrow = (
        TrafficSelector(EVERYTHING, EVERYTHING),
        TrafficSelector(EVERYTHING, AddressRange.host(PEER)),
    )
    old = table_of(wide, narrow)
    old.prepare()
    new = FilterTable(old.filters[::-1])
    assert new.since(old).reordered
    new.prepare(old)
    assert new.lookup(Flow(ME, PEER, 6), OUT) is new.filters[0]


def test_filters_can_be_put_into_the_same_gap_again_and_again():
    first, last = (
        TrafficSelector(EVERYTHING, AddressRange.host(PEER)),
        TrafficSelector(EVERYTHING, EVERYTHING),
    )
    table = table_of(first, last)
    table.prepare()
    for number in range(2, 60):
        made = SpecificFilter(f"{number:016x}", first, OUT, Action.BLOCK, 0, WHERE)
        following = FilterTable((made, *table.filters))
        following.prepare(table)
        assert following.lookup(Flow(ME, PEER, 6), OUT) is made
        table = following


def test_an_id_twice_in_a_table_is_refused():
    entry = table_of(TrafficSelector(EVERYTHING, EVERYTHING)).filters[0]
    other = SpecificFilter(entry.id, entry.selector, IN, Action.PERMIT, 0, WHERE)
    with pytest.raises(ValueError, match="stands twice"):
        FilterTable((entry, other))


def test_an_unknown_negotiation_is_refused():
    entry = SpecificFilter(
        "0" * 16, TrafficSelector(EVERYTHING, EVERYTHING), OUT, Action.NEGOTIATE, 0, WHERE, negotiation="gone"
    )
    with pytest.raises(ValueError, match="unknown negotiation 'gone'"):
        FilterTable((entry,))
    with pytest.raises(ValueError, match="default response"):
        FilterTable(default_response="gone")


def test_the_search_for_garbage_goes_on_after_an_error():
    import gc

    assert gc.isenabled()
    with pytest.raises(RuntimeError), collector_paused():  # noqa: PT012 - both lines are what is tested
        assert not gc.isenabled()
        raise RuntimeError
    assert gc.isenabled()


@pytest.mark.parametrize("text", ["192.0.2.1", "2001:db8::1", "fe80::1%eth0"])
def test_the_fast_way_to_a_flows_key_gives_what_the_plain_way_gives(text):
    flow = Flow(ip_address(text), ip_address(text), 6, 1, 2)
    table = FilterTable()
    assert table.lookup(flow, Direction.OUTBOUND) is None
    assert set(table._memory.outbound) == {filters._slow_flow_key(flow)}
