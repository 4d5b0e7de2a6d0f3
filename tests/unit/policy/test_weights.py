import json
from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stockade.model.addresses import AddressRange
from stockade.model.filters import Direction, FilterClass
from stockade.model.negotiation import Mode
from stockade.model.traffic import TrafficSelector
from stockade.policy.weights import (
    WEIGHT_BITS,
    WHOLE_ADDRESS,
    WeightParts,
    address_bits,
    compare_weights,
    explain_weight,
    weight_of,
)

ME = AddressRange.host("192.0.2.1")
ANY = AddressRange.everything()
PEER = AddressRange.host("198.51.100.7")


def weight(source, destination, protocol=0, source_port=0, destination_port=0, direction=Direction.OUTBOUND):
    return weight_of(TrafficSelector(source, destination, protocol, source_port, destination_port), direction)


def test_my_to_any_is_lighter_than_my_to_subnet_is_lighter_than_my_to_host():
    subnet = AddressRange.network("198.51.100.0/24")
    assert weight(ME, ANY) < weight(ME, subnet) < weight(ME, PEER)


def test_addresses_count_before_protocol_and_ports():
    assert weight(ME, AddressRange.network("198.51.100.0/24")) > weight(ME, ANY, 6, 1024, 80)


def test_protocol_counts_before_ports_and_the_destination_port_before_the_source_port():
    steps = [
        weight(ME, PEER),
        weight(ME, PEER, 6),
        weight(ME, PEER, 6, source_port=1024),
        weight(ME, PEER, 6, destination_port=80),
        weight(ME, PEER, 6, 1024, 80),
    ]
    assert steps == sorted(set(steps))


def test_the_vaguer_end_decides_between_equal_sums():
    even = weight(AddressRange.network("192.0.2.0/28"), AddressRange.network("198.51.100.0/28"))
    uneven = weight(AddressRange.host("192.0.2.1"), AddressRange.network("198.51.96.0/24"))
    assert even > uneven
    assert "vaguer end" in compare_weights(even, uneven)


def test_own_host_comes_before_remote_host_and_only_breaks_ties():
    subnet = AddressRange.network("198.51.100.0/24")
    mine = weight(ME, subnet)
    remote = weight(AddressRange.network("192.0.2.0/24"), PEER)
    assert mine == remote + 1
    assert compare_weights(mine, remote) == "its end on this computer is one address"
    assert weight(subnet, ME, direction=Direction.INBOUND) == mine


def test_tunnel_rules_stand_before_transport_rules_and_exemptions_before_both():
    anything = TrafficSelector(ANY, ANY)
    exact = TrafficSelector(ME, PEER, 6, 1, 2)
    tunnel = weight_of(anything, Direction.OUTBOUND, mode=Mode.TUNNEL)
    exemption = weight_of(anything, Direction.OUTBOUND, filter_class=FilterClass.EXEMPTION)
    assert weight_of(exact, Direction.OUTBOUND) < tunnel < exemption
    assert weight_of(exact, Direction.OUTBOUND, mode=Mode.TUNNEL) < exemption


@pytest.mark.parametrize("bits", range(33))
def test_the_same_share_of_both_families_weighs_the_same(bits):
    four = AddressRange.network(f"0.0.0.0/{bits}")
    six = AddressRange.network(f"::/{bits * 4}")
    assert address_bits(four) == address_bits(six) == bits * 256


def test_a_range_lies_between_the_prefixes_around_it():
    five = AddressRange(IPv4Address("192.0.2.1"), IPv4Address("192.0.2.5"))
    assert address_bits(AddressRange.network("192.0.2.0/29")) < address_bits(five)
    assert address_bits(five) < address_bits(AddressRange.network("192.0.2.0/30"))


def test_a_range_of_nearly_everything_is_still_heavier_than_or_equal_to_everything():
    nearly = AddressRange(IPv6Address(1), IPv6Address((1 << 128) - 1))
    assert address_bits(nearly) == 0
    assert address_bits(AddressRange.host("::1")) == WHOLE_ADDRESS


def test_a_weight_survives_json_in_a_browser():
    heaviest = weight_of(TrafficSelector(ME, PEER, 6, 1, 2), Direction.OUTBOUND, mode=Mode.TUNNEL)
    assert heaviest < 1 << WEIGHT_BITS < 1 << 53
    assert json.loads(json.dumps(heaviest)) == heaviest


def test_explain_weight_names_every_field_in_the_order_in_which_they_count():
    lines = explain_weight(weight(ME, AddressRange.network("198.51.100.0/24"), 6, destination_port=80))
    assert lines == (
        "filter of a rule",
        "transport rule",
        "source and destination fix 56 of 64 address bits",
        "the vaguer end fixes 24 of 32 address bits",
        "one protocol",
        "the destination port is given",
        "this computer's end is one address",
    )


@pytest.mark.parametrize("number", [-1, 1 << WEIGHT_BITS])
def test_a_number_that_is_no_weight_is_refused(number):
    with pytest.raises(ValueError, match="no filter weight"):
        explain_weight(number)


def test_equal_weights_have_no_first_difference():
    assert compare_weights(weight(ME, PEER), weight(ME, PEER)) == ""


# ---- properties
@st.composite
def ranges(draw, version):
    kind = draw(st.sampled_from(["host", "network", "everything", "range"]))
    if kind == "everything":
        return AddressRange.everything(version)
    bits, make = (32, IPv4Address) if version == 4 else (128, IPv6Address)
    first = draw(st.integers(0, (1 << bits) - 1))
    if kind == "host":
        return AddressRange.host(make(first))
    if kind == "network":
        return AddressRange.network(ip_network((make(first), draw(st.integers(0, bits))), strict=False))
    return AddressRange(make(first), make(draw(st.integers(first, (1 << bits) - 1))))


@st.composite
def selectors(draw):
    version = draw(st.sampled_from([4, 6]))
    protocol = draw(st.sampled_from([0, 1, 6, 17]))
    ports = st.integers(0, 65535) if protocol in (6, 17) else st.just(0)
    return TrafficSelector(draw(ranges(version)), draw(ranges(version)), protocol, draw(ports), draw(ports))


@st.composite
def narrowed_pairs(draw):
    """A selector and one that it covers."""
    wide = draw(selectors())

    def inside(outer):
        make = type(outer.first)
        first = draw(st.integers(int(outer.first), int(outer.last)))
        last = draw(st.one_of(st.just(first), st.integers(first, int(outer.last))))
        return draw(st.sampled_from([outer, AddressRange(make(first), make(last))]))

    protocol = wide.protocol or draw(st.sampled_from([0, 6, 17]))
    ports = st.integers(0, 65535) if protocol in (6, 17) else st.just(0)
    narrow = TrafficSelector(
        inside(wide.source),
        inside(wide.destination),
        protocol,
        wide.source_port or draw(ports),
        wide.destination_port or draw(ports),
    )
    return wide, narrow


directions = st.sampled_from(list(Direction))


@given(narrowed_pairs(), directions, st.sampled_from(list(Mode)))
def test_a_covered_selector_never_weighs_less(pair, direction, mode):
    wide, narrow = pair
    assert wide.covers(narrow)
    assert weight_of(narrow, direction, mode=mode) >= weight_of(wide, direction, mode=mode)


@given(narrowed_pairs(), directions)
def test_a_strictly_covered_selector_weighs_more_unless_only_ranges_differ(pair, direction):
    wide, narrow = pair
    if wide == narrow:
        return
    same_words = (wide.protocol, wide.source_port, wide.destination_port) == (
        narrow.protocol,
        narrow.source_port,
        narrow.destination_port,
    )
    ends = [(wide.source, narrow.source), (wide.destination, narrow.destination)]
    prefixes_only = all(one.prefix_length is not None for pair_ in ends for one in pair_)
    heavier = weight_of(narrow, direction) > weight_of(wide, direction)
    if prefixes_only or not same_words:
        assert heavier
    elif not heavier:
        narrow_pairs = narrow.source.size * narrow.destination.size
        assert narrow_pairs < wide.source.size * wide.destination.size


@given(selectors(), directions, st.sampled_from(list(Mode)), st.sampled_from(list(FilterClass)))
def test_a_weight_tells_all_its_fields_back(selector, direction, mode, filter_class):
    parts = WeightParts.of(weight_of(selector, direction, mode=mode, filter_class=filter_class))
    source, destination = address_bits(selector.source), address_bits(selector.destination)
    own = selector.source if direction is Direction.OUTBOUND else selector.destination
    assert parts == WeightParts(
        exemption=filter_class is FilterClass.EXEMPTION,
        tunnel=mode is Mode.TUNNEL,
        both_ends=source + destination,
        vaguer_end=min(source, destination),
        protocol=bool(selector.protocol),
        destination_port=bool(selector.destination_port),
        source_port=bool(selector.source_port),
        own_host=own.is_host,
    )


@given(selectors(), selectors(), directions)
def test_the_named_difference_agrees_with_the_order(first, second, direction):
    one, two = weight_of(first, direction), weight_of(second, direction)
    assert (compare_weights(one, two) == "") == (one == two)
