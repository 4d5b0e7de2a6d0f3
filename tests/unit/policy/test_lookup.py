import gc
from dataclasses import replace
from ipaddress import ip_address

import pytest

from stockade.model.addresses import AddressRange
from stockade.model.filters import Direction, FilterTable
from stockade.model.negotiation import PresharedKey
from stockade.model.reasons import Reason, ReasonCode
from stockade.model.secret import Secret
from stockade.model.traffic import TrafficSelector
from stockade.policy.compiler import compile_table
from stockade.policy.lookup import FilterTableLookup
from stockade.policy.objects import Filter, FilterAddress

ME, PEER, OTHER = (ip_address(f"192.0.2.{number}") for number in (1, 2, 3))
GATEWAY = ip_address("203.0.113.1")
ME_TO_ANY = Filter(FilterAddress.me(), FilterAddress.any())
ME_TO_PEER = Filter(FilterAddress.me(), FilterAddress.of(PEER))
TELNET = replace(ME_TO_PEER, protocol=6, destination_port=23)
WEB = Filter(FilterAddress.any(), FilterAddress.me(), 6, 0, 80)


def lookup_of(policy_set, *rules):
    table = compile_table([policy_set(*rules)], [ME])
    return FilterTableLookup(table), table


def hosts(protocol=0, source_port=0, destination_port=0, source=ME, destination=PEER):
    return TrafficSelector(
        AddressRange.host(source), AddressRange.host(destination), protocol, source_port, destination_port
    )


def names(negotiations):
    assert not isinstance(negotiations, Reason), str(negotiations)
    return [negotiation.name.rpartition("/")[2] for negotiation in negotiations]


# ---- for_peer
def test_an_empty_table_answers_nobody():
    lookup = FilterTableLookup(FilterTable())
    assert lookup.for_peer(ME, PEER).code is ReasonCode.NO_POLICY
    assert lookup.for_quick_mode(ME, PEER, hosts()).code is ReasonCode.NO_POLICY


def test_for_peer_gives_the_heaviest_negotiation_first(policy_set):
    lookup, _ = lookup_of(
        policy_set,
        ("all", replace(ME_TO_ANY, protocol=6), "negotiate"),
        ("peer", TELNET, "negotiate"),
        ("web", WEB, "negotiate"),
    )
    assert names(lookup.for_peer(ME, PEER)) == ["peer", "web", "all"]
    assert names(lookup.for_peer(ME, OTHER)) == ["web", "all"]


def test_a_small_memory_never_gives_one_peer_the_answer_of_another(policy_set, monkeypatch):
    """Answers are remembered by where two tuples lie, and CPython gives a freed object's place away: so what
    an answer is found by must live as long as the answer. The critical order is a look that remembers what is
    said of the way there, and then, for what is said of the way back, has to forget."""
    peers = [ip_address(f"192.0.2.{number}") for number in range(10, 60)]

    def filter_to(peer):
        return Filter(FilterAddress.me(), FilterAddress.of(peer), 17, mirrored=int(peer) % 3 == 0)

    rules = (
        *((f"rule {peer}", filter_to(peer), "negotiate") for peer in peers),
        ("web", replace(WEB, mirrored=False), "negotiate"),  # what is said of the way back is the same of all
    )
    _, table = lookup_of(policy_set, *rules)
    forgotten_between = 0
    for remembered in range(1, 6):
        monkeypatch.setattr("stockade.policy.lookup.REMEMBERED", remembered)
        lookup = FilterTableLookup(table)
        for peer in (*peers, *reversed(peers)):
            known = len(lookup._together)
            assert set(names(lookup.for_peer(ME, peer))) == {f"rule {peer}", "web"}
            forgotten_between += known == remembered - 1 and len(lookup._together) == 1
            alive = lookup._together, lookup._answered
            assert {place for key in lookup._answered for place in key} <= places_within(alive)
    assert forgotten_between, "the order of looks that this is about never came"


def places_within(root, depth=4):
    """The identities of all that an object holds, as far down as this."""
    found, level = set(), [root]
    for _ in range(depth):
        level = gc.get_referents(*level)
        found.update(map(id, level))
    return found


def test_for_peer_leaves_out_what_a_heavier_filter_makes_unreachable(policy_set):
    lookup, table = lookup_of(policy_set, ("all", ME_TO_ANY, "negotiate"), ("shut", ME_TO_PEER, "block"))
    assert names(lookup.for_peer(ME, OTHER)) == ["all"]
    refusal = lookup.for_peer(ME, PEER)
    assert refusal.code is ReasonCode.NO_POLICY
    assert "rule “shut”" in str(refusal)
    assert dict(refusal.facts)["filter"] in {entry.id for entry in table.filters}


def test_for_peer_keeps_what_a_heavier_filter_covers_in_part(policy_set):
    lookup, _ = lookup_of(policy_set, ("all", ME_TO_ANY, "negotiate"), ("telnet", TELNET, "block"))
    assert names(lookup.for_peer(ME, PEER)) == ["all"]


def test_for_peer_answers_by_an_inbound_filter_that_is_not_mirrored(policy_set):
    lookup, _ = lookup_of(policy_set, ("web", replace(WEB, mirrored=False), "negotiate"))
    assert names(lookup.for_peer(ME, PEER)) == ["web"]


def test_for_peer_knows_the_far_end_of_a_tunnel(policy_set):
    network = Filter(FilterAddress.me(), FilterAddress.of(AddressRange.network("10.0.0.0/8")))
    lookup, _ = lookup_of(policy_set, ("branch", network, "negotiate", {"tunnel_endpoint": GATEWAY}))
    assert names(lookup.for_peer(ME, GATEWAY)) == ["branch"]
    assert isinstance(lookup.for_peer(ME, PEER), Reason)
    # a host inside the tunnelled network is no end of the tunnel
    assert isinstance(lookup.for_peer(ME, ip_address("10.1.1.1")), Reason)


def tunnel(there, peer, inbound_key=None, outbound_key=None):
    """The two rules of a tunnel to the network `there`."""
    network = FilterAddress.of(AddressRange.network(there))
    out = Filter(FilterAddress.me(), network, mirrored=False)
    back = Filter(network, FilterAddress.me(), mirrored=False)
    ways = [
        {} if key is None else {"authentication": (PresharedKey(Secret(key)),)}
        for key in (outbound_key, inbound_key)
    ]
    return (
        (f"to {peer}", out, "negotiate", {"tunnel_endpoint": peer, **ways[0]}),
        (f"from {peer}", back, "negotiate", {"tunnel_endpoint": ME, **ways[1]}),
    )


def test_a_tunnels_key_opens_a_main_mode_for_its_peer_only(policy_set):
    """The inbound rule's end point is this computer, so it names no peer; the outbound one does."""
    lookup, _ = lookup_of(
        policy_set,
        *tunnel("10.1.0.0/16", GATEWAY, b"one", b"one"),
        *tunnel("10.2.0.0/16", OTHER, b"two", b"two"),
    )
    for peer, word in ((GATEWAY, b"one"), (OTHER, b"two")):
        for _ in range(2):  # the second answer is remembered
            (found,) = lookup.for_peer(ME, peer)
            assert found.name.endswith(f"/to {peer}")
            assert [method.key.reveal() for method in found.authentication] == [word]
    assert lookup.for_peer(ME, PEER).code is ReasonCode.NO_POLICY


def test_a_main_mode_for_a_tunnel_needs_what_both_of_its_rules_have(policy_set):
    lookup, _ = lookup_of(policy_set, *tunnel("10.1.0.0/16", GATEWAY, b"one", b"two"))
    assert lookup.for_peer(ME, GATEWAY).code is ReasonCode.NO_POLICY


def test_an_inbound_tunnel_rule_alone_answers_any_peer(policy_set):
    _, inbound = tunnel("10.1.0.0/16", GATEWAY)
    lookup, _ = lookup_of(policy_set, inbound)
    assert names(lookup.for_peer(ME, PEER)) == [f"from {GATEWAY}"]


def test_for_peer_across_families_is_no_policy_not_an_exception(policy_set):
    lookup, _ = lookup_of(policy_set, ("all", ME_TO_ANY, "negotiate"))
    assert lookup.for_peer(ME, ip_address("2001:db8::1")).code is ReasonCode.NO_POLICY


def test_permit_policies_negotiate_with_nobody(policy_set):
    lookup, _ = lookup_of(policy_set, ("all", ME_TO_ANY, "permit"))
    assert lookup.for_peer(ME, PEER).code is ReasonCode.NO_POLICY


# ---- for_quick_mode
def test_a_request_equal_to_the_filter_with_host_addresses_is_taken_as_it_is(policy_set):
    lookup, table = lookup_of(policy_set, ("all", ME_TO_ANY, "negotiate"))
    match = lookup.for_quick_mode(ME, PEER, hosts())
    assert match.selector == hosts()
    assert match.negotiation.name == "local/Office/all"
    entry = table.by_id(match.filter_id)
    assert entry.direction is Direction.OUTBOUND
    assert entry.selector.covers(hosts())


def test_a_narrower_request_is_taken_as_it_is(policy_set):
    lookup, _ = lookup_of(policy_set, ("all", ME_TO_ANY, "negotiate"))
    wanted = hosts(6, 40000, 443)
    assert lookup.for_quick_mode(ME, PEER, wanted).selector == wanted


def test_a_mirrored_service_filter_answers_the_clients_request(policy_set):
    lookup, _ = lookup_of(policy_set, ("web", WEB, "negotiate"))
    assert lookup.for_quick_mode(ME, PEER, hosts(6, source_port=80)).negotiation.name.endswith("/web")


def test_a_request_for_more_than_the_filter_is_refused_with_the_filters_name(policy_set):
    lookup, _ = lookup_of(policy_set, ("web", WEB, "negotiate"))
    for wider in (hosts(6), hosts()):
        refusal = lookup.for_quick_mode(ME, PEER, wider)
        assert refusal.code is ReasonCode.INVALID_IDENTITY
        assert dict(refusal.facts)["secured"] == "tcp 192.0.2.1:80 -> any"
        assert "rule “web”" in str(refusal)


def test_a_request_that_no_filter_touches_is_no_policy(policy_set):
    lookup, _ = lookup_of(policy_set, ("web", WEB, "negotiate"))
    assert lookup.for_quick_mode(ME, PEER, hosts(17)).code is ReasonCode.NO_POLICY


@pytest.mark.parametrize("action", ["permit", "block"])
def test_a_request_that_a_heavier_filter_decides_is_refused_with_its_name(policy_set, action):
    lookup, table = lookup_of(policy_set, ("all", ME_TO_ANY, "negotiate"), ("telnet", TELNET, action))
    refusal = lookup.for_quick_mode(ME, PEER, hosts(6, 0, 23))
    assert refusal.code is ReasonCode.INVALID_IDENTITY
    assert f"says {action}" in str(refusal)
    assert table.by_id(dict(refusal.facts)["filter"]).provenance.rule == "telnet"


@pytest.mark.parametrize("action", ["permit", "block"])
def test_a_heavier_filter_for_a_part_does_not_refuse_the_rest(policy_set, action):
    # "secure all TCP, block telnet, permit SSH" must still be able to secure TCP
    lookup, _ = lookup_of(
        policy_set, ("tcp", replace(ME_TO_ANY, protocol=6), "negotiate"), ("telnet", TELNET, action)
    )
    assert lookup.for_quick_mode(ME, PEER, hosts(6)).negotiation.name.endswith("/tcp")


def test_the_heaviest_filter_that_covers_the_whole_request_decides(policy_set):
    lookup, _ = lookup_of(
        policy_set,
        ("all", ME_TO_ANY, "negotiate"),
        ("peer", ME_TO_PEER, "negotiate"),
        ("telnet", TELNET, "negotiate"),
    )
    assert lookup.for_quick_mode(ME, PEER, hosts()).negotiation.name.endswith("/peer")
    assert lookup.for_quick_mode(ME, PEER, hosts(6, 0, 23)).negotiation.name.endswith("/telnet")
    assert lookup.for_quick_mode(ME, OTHER, hosts(destination=OTHER)).negotiation.name.endswith("/all")


def test_an_inbound_filter_alone_is_enough_to_answer(policy_set):
    lookup, table = lookup_of(policy_set, ("web", replace(WEB, mirrored=False), "negotiate"))
    match = lookup.for_quick_mode(ME, PEER, hosts(6, source_port=80))
    assert table.by_id(match.filter_id).direction is Direction.INBOUND


def test_transport_mode_gives_no_sa_for_a_third_host(policy_set):
    lookup, _ = lookup_of(policy_set, ("all", ME_TO_ANY, "negotiate"))
    wide = TrafficSelector(AddressRange.host(ME), AddressRange.everything())
    for requested in (hosts(destination=OTHER), wide):
        refusal = lookup.for_quick_mode(ME, PEER, requested)
        assert refusal.code is ReasonCode.INVALID_IDENTITY
        assert "between 192.0.2.1 and 192.0.2.2 only" in str(refusal)


def test_a_request_for_our_side_that_is_not_us_is_refused(policy_set):
    lookup, _ = lookup_of(policy_set, ("all", ME_TO_ANY, "negotiate"))
    assert isinstance(lookup.for_quick_mode(ME, PEER, hosts(source=OTHER)), Reason)


@pytest.mark.parametrize("group", ["224.0.0.251", "255.255.255.255"])
def test_nobody_gets_an_sa_for_multicast_or_broadcast(policy_set, group):
    lookup, _ = lookup_of(policy_set, ("all", ME_TO_ANY, "negotiate"))
    refusal = lookup.for_quick_mode(ME, PEER, hosts(destination=ip_address(group)))
    assert refusal.code is ReasonCode.INVALID_IDENTITY


def test_a_tunnel_request_needs_the_rules_end_point_and_may_be_networks(policy_set):
    network = AddressRange.network("10.0.0.0/8")
    filter_ = Filter(FilterAddress.me(), FilterAddress.of(network))
    lookup, _ = lookup_of(policy_set, ("branch", filter_, "negotiate", {"tunnel_endpoint": GATEWAY}))
    requested = TrafficSelector(AddressRange.host(ME), network)
    assert lookup.for_quick_mode(ME, GATEWAY, requested).selector == requested
    refusal = lookup.for_quick_mode(ME, PEER, requested)
    assert refusal.code is ReasonCode.INVALID_IDENTITY
    assert "203.0.113.1" in str(refusal)


def test_ike_exemptions_do_not_stand_in_the_way_of_securing_udp(policy_set):
    lookup, _ = lookup_of(policy_set, ("all", ME_TO_ANY, "negotiate"))
    assert not isinstance(lookup.for_quick_mode(ME, PEER, hosts(17)), Reason)
    assert not isinstance(lookup.for_quick_mode(ME, PEER, hosts(17, 500, 500)), Reason)


def test_a_peer_among_many_is_found(policy_set):
    peers = [Filter(FilterAddress.me(), FilterAddress.of(ip_address(0x0A000000 + n))) for n in range(300)]
    lookup, _ = lookup_of(policy_set, ("all", ME_TO_ANY, "negotiate"), ("peers", peers, "negotiate"))
    peer = ip_address("10.0.0.77")
    assert names(lookup.for_peer(ME, peer)) == ["peers"]
    assert lookup.for_quick_mode(ME, peer, hosts(destination=peer)).negotiation.name.endswith("/peers")
    assert names(lookup.for_peer(ME, PEER)) == ["all"]


def test_a_refusal_tells_no_key(policy_set):
    lookup, _ = lookup_of(policy_set, ("web", WEB, "negotiate"))
    assert "correct horse" not in repr(lookup.for_quick_mode(ME, PEER, hosts()))
