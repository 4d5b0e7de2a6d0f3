from ipaddress import ip_address

import pytest

from stockade.model.addresses import AddressRange
from stockade.model.filters import Action, Direction, FilterClass
from stockade.model.traffic import AH, ESP, ICMPV6, TCP, UDP, Flow
from stockade.policy.compiler import compile_table
from stockade.policy.exemptions import RSVP, is_unsecurable
from stockade.policy.objects import Filter, FilterAddress

IN, OUT = Direction.INBOUND, Direction.OUTBOUND
ME, PEER = ip_address("192.0.2.1"), ip_address("192.0.2.2")
ME6, PEER6 = ip_address("2001:db8::1"), ip_address("2001:db8::2")
ANY_TO_ANY = Filter(FilterAddress.any(), FilterAddress.any())


def table_of(policy_set, action="negotiate", level=3, local=(ME, ME6)):
    return compile_table([policy_set(("all", ANY_TO_ANY, action))], list(local), level)


def exempt(table, flow, direction):
    entry = table.lookup(flow, direction)
    assert entry is not None
    if entry.filter_class is FilterClass.EXEMPTION:
        assert entry.action is Action.PERMIT
        return True
    return False


KERBEROS = [
    Flow(ME, PEER, TCP, 40000, 88),
    Flow(ME, PEER, UDP, 40000, 88),
    Flow(ME, PEER, TCP, 88, 40000),
    Flow(ME, PEER, UDP, 88, 40000),
]


@pytest.mark.parametrize("level", range(4))
@pytest.mark.parametrize("port", [500, 4500])
def test_ike_is_exempt_both_ways_at_every_level(policy_set, level, port):
    table = table_of(policy_set, level=level)
    for own, other in ((ME, PEER), (ME6, PEER6)):
        assert exempt(table, Flow(own, other, UDP, port, port), OUT)
        assert exempt(table, Flow(own, other, UDP, port, 31337), OUT)
        assert exempt(table, Flow(other, own, UDP, 31337, port), IN)


def test_ike_of_the_peer_opens_no_other_port_here(policy_set):
    table = table_of(policy_set)
    assert not exempt(table, Flow(PEER, ME, UDP, 500, 53), IN)
    assert not exempt(table, Flow(PEER, ME, UDP, 4500, 137), IN)
    assert not exempt(table, Flow(PEER, ME, TCP, 500, 500), IN)
    assert not exempt(table, Flow(PEER, ip_address("192.0.2.9"), UDP, 500, 500), IN)


@pytest.mark.parametrize("action", ["permit", "block"])
def test_without_a_negotiation_ike_is_not_exempt(policy_set, action):
    table = table_of(policy_set, action)
    assert all(entry.filter_class is FilterClass.POLICY for entry in table.filters)


def test_esp_and_ah_have_no_exemption(policy_set):
    table = table_of(policy_set, level=0)
    for protocol in (ESP, AH):
        assert not exempt(table, Flow(PEER, ME, protocol), IN)


@pytest.mark.parametrize(
    ("level", "kerberos_and_rsvp", "multicast_and_broadcast"),
    [(0, True, True), (1, False, True), (2, True, False), (3, False, False)],
)
def test_each_level_exempts_what_windows_documents(
    policy_set, level, kerberos_and_rsvp, multicast_and_broadcast
):
    table = table_of(policy_set, "block", level)
    for flow in (*KERBEROS, Flow(ME, PEER, RSVP)):
        assert exempt(table, flow, OUT) is kerberos_and_rsvp
        assert exempt(table, flow.reversed(), IN) is kerberos_and_rsvp
    for destination in ("224.0.0.251", "239.255.255.250", "255.255.255.255"):
        outbound = Flow(ME, ip_address(destination), UDP, 5353, 5353)
        assert exempt(table, outbound, OUT) is multicast_and_broadcast
        assert exempt(table, Flow(PEER, outbound.destination, UDP, 1, 2), IN) is multicast_and_broadcast
    assert exempt(table, Flow(ME6, ip_address("ff02::fb"), UDP), OUT) is multicast_and_broadcast


def test_the_default_level_is_3(policy_set):
    everything = policy_set(("all", ANY_TO_ANY, "negotiate"))
    assert compile_table([everything], [ME]).filters == compile_table([everything], [ME], 3).filters


def test_other_traffic_is_exempt_at_no_level(policy_set):
    for level in range(4):
        table = table_of(policy_set, level=level)
        assert not exempt(table, Flow(ME, PEER, TCP, 40000, 80), OUT)
        assert not exempt(table, Flow(PEER, ME, UDP, 40000, 53), IN)


def test_neighbour_discovery_is_exempt_where_ipv6_is_negotiated(policy_set):
    table = table_of(policy_set)
    link_local = ip_address("fe80::2")
    for flow in (
        Flow(ME6, ip_address("ff02::1:ff00:2"), ICMPV6),
        Flow(ME6, link_local, ICMPV6),
        Flow(link_local, ip_address("fe80::1"), ICMPV6),
    ):
        assert exempt(table, flow, OUT)
        assert exempt(table, flow, IN)
    assert not exempt(table, Flow(ME6, PEER6, ICMPV6), OUT)
    assert not exempt(table, Flow(ME6, link_local, UDP, 1, 2), OUT)


def test_neighbour_discovery_needs_no_exemption_from_a_permit_or_an_ipv4_policy(policy_set):
    only_ipv4 = Filter(FilterAddress.me(), FilterAddress.of(PEER))
    table = compile_table([policy_set(("web", only_ipv4, "negotiate"))], [ME, ME6])
    assert not [entry for entry in table.filters if entry.selector.protocol == ICMPV6]


def test_an_exemption_says_what_it_is(policy_set):
    entry = table_of(policy_set).lookup(Flow(PEER, ME, UDP, 500, 500), IN)
    assert str(entry.provenance) == "exemption: IKE, UDP 500 of this computer"


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        ("224.0.0.0/4", True),
        ("239.1.2.3/32", True),
        ("255.255.255.255/32", True),
        ("224.0.0.0/3", False),
        ("240.0.0.1/32", False),
        ("ff02::1/128", True),
        ("0.0.0.0/0", False),
    ],
)
def test_what_counts_as_multicast_or_broadcast_only(addresses, expected):
    assert is_unsecurable(AddressRange.network(addresses)) is expected
