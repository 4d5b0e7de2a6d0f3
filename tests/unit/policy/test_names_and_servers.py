"""DNS names, kinds of servers, address families, connection types: what depends on the host's facts."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from stockade.model.addresses import AddressRange
from stockade.model.filters import Action, Direction, FilterClass
from stockade.model.traffic import TCP, UDP, Flow
from stockade.policy.compiler import compile_table
from stockade.policy.expansion import expand, selectors_of
from stockade.policy.facts import HostFacts, LocalAddress
from stockade.policy.objects import AddressKind, ConnectionType, Filter, FilterAction, FilterAddress

IN, OUT = Direction.INBOUND, Direction.OUTBOUND
ME, ME6 = ip_address("192.0.2.1"), ip_address("2001:db8::1")
DNS_SERVER, PEER, OTHER = (ip_address(f"192.0.2.{number}") for number in (53, 2, 77))
FACTS = HostFacts(
    (LocalAddress(ME, 24),),
    dns_servers=(DNS_SERVER, ip_address("2001:db8::53"), ip_address("127.0.0.53")),
    wins_servers=(ip_address("192.0.2.42"),),
    dhcp_servers=(ip_address("192.0.2.67"),),
    gateways=(ip_address("192.0.2.254"),),
    names={"Peer.Example.": (PEER,), "gone.example": (), "mixed.example": (PEER, ip_address("2001:db8::2"))},
)
NAMED = FilterAddress.named


def policy_filters(table):
    return [entry for entry in table.filters if entry.filter_class is FilterClass.POLICY]


def compiled(policy_set, *rules, facts=FACTS, **settings):
    return compile_table([policy_set(*rules, **settings)], facts)


# ---- facts
@pytest.mark.parametrize(
    ("address", "length", "broadcast"),
    [
        ("192.0.2.1", 24, "192.0.2.255"),
        ("10.1.2.3", 8, "10.255.255.255"),
        ("192.0.2.1", 31, None),
        ("192.0.2.1", None, None),
        ("2001:db8::1", 64, None),
    ],
)
def test_the_broadcast_address_comes_from_the_prefix_length(address, length, broadcast):
    found = LocalAddress(ip_address(address), length).broadcast
    assert found == (None if broadcast is None else ip_address(broadcast))


def test_impossible_facts_are_refused():
    with pytest.raises(ValueError, match="prefix length"):
        LocalAddress(ME, 33)
    with pytest.raises(ValueError, match="LAN or dial-up"):
        LocalAddress(ME, 24, ConnectionType.ALL)


def test_names_are_found_in_any_case_and_with_a_dot_at_the_end():
    assert FACTS.resolve("PEER.example") == FACTS.resolve("peer.example.") == (PEER,)
    assert FACTS.resolve("gone.example") == ()
    assert FACTS.resolve("never.asked") is None


# ---- the model
@pytest.mark.parametrize(
    "name", ["a", "host_1.example.com", "xn--bcher-kva.example", "bücher.example", "a.example."]
)
def test_names_that_can_be_are_taken(name):
    assert str(NAMED(name)) == name
    assert NAMED(name).kind is AddressKind.NAME


@pytest.mark.parametrize(
    "name", ["", " ", "a b", "a..b", "a" * 64, "a." * 130, "1.2.3", "10.0.0.1", "x\n", "a/8"]
)
def test_names_that_cannot_be_are_refused(name):
    with pytest.raises(ValueError, match=r"."):
        FilterAddress(AddressKind.NAME, name=name)


def test_an_end_has_only_what_its_kind_has():
    for wrong in (
        {"kind": AddressKind.ME, "name": "x"},
        {"kind": AddressKind.DNS, "addresses": AddressRange.host(ME)},
        {"kind": AddressKind.ANY, "version": 5},
        {"kind": AddressKind.ADDRESSES, "addresses": AddressRange.host(ME), "version": 4},
    ):
        with pytest.raises(ValueError, match=r"."):
            FilterAddress(**wrong)
    with pytest.raises(ValueError, match="no kind of server"):
        FilterAddress.server(AddressKind.ME)


@pytest.mark.parametrize("kind", [kind for kind in AddressKind if kind.is_server])
def test_the_other_end_of_a_server_must_be_me(kind):
    server = FilterAddress.server(kind)
    assert Filter(FilterAddress.me(), server).destination.kind is kind
    assert Filter(server, FilterAddress.me()).source.kind is kind
    for other in (FilterAddress.any(), FilterAddress.of(PEER), server, NAMED("a.example")):
        with pytest.raises(ValueError, match="must be “me”"):
            Filter(other, server)
        with pytest.raises(ValueError, match="must be “me”"):
            Filter(server, other)


def test_two_families_in_one_filter_are_refused():
    four, six = (FilterAddress(AddressKind.ANY, version=version) for version in (4, 6))
    with pytest.raises(ValueError, match="families"):
        Filter(four, six)
    with pytest.raises(ValueError, match="families"):
        Filter(FilterAddress(AddressKind.ME, version=6), FilterAddress.of(PEER))


# ---- expansion
@pytest.mark.parametrize(
    ("kind", "address"),
    [
        (AddressKind.DNS, "192.0.2.53"),
        (AddressKind.WINS, "192.0.2.42"),
        (AddressKind.DHCP, "192.0.2.67"),
        (AddressKind.GATEWAY, "192.0.2.254"),
    ],
)
def test_a_kind_of_server_stands_for_each_server_but_not_for_one_on_this_computer(kind, address):
    filter_ = Filter(FilterAddress.me(), FilterAddress.server(kind))
    found = {(str(selector), direction) for selector, direction, _ in expand(filter_, FACTS)}
    assert found == {(f"any 192.0.2.1 -> {address}", OUT), (f"any {address} -> 192.0.2.1", IN)}


def test_a_name_stands_for_each_of_its_addresses_in_its_family():
    facts = replace(FACTS, addresses=(LocalAddress(ME), LocalAddress(ME6)))
    filter_ = Filter(FilterAddress.me(), NAMED("mixed.example"), mirrored=False)
    assert {str(selector) for selector in selectors_of(filter_, facts)} == {
        "any 192.0.2.1 -> 192.0.2.2",
        "any 2001:db8::1 -> 2001:db8::2",
    }


def test_an_end_limited_to_a_family_speaks_of_that_family_only():
    facts = replace(FACTS, addresses=(LocalAddress(ME), LocalAddress(ME6)))
    for version, address in ((4, "192.0.2.1"), (6, "2001:db8::1")):
        filter_ = Filter(FilterAddress(AddressKind.ME, version=version), FilterAddress.any(), mirrored=False)
        assert {str(selector) for selector in selectors_of(filter_, facts)} == {f"any {address} -> any"}


def test_a_pending_name_gives_no_selectors_by_itself():
    filter_ = Filter(FilterAddress.me(), NAMED("never.asked"))
    assert list(expand(filter_, FACTS)) == []
    assert list(selectors_of(filter_, FACTS)) == []


# ---- the table
def test_servers_that_nobody_configured_are_a_warning(policy_set):
    filter_ = Filter(FilterAddress.me(), FilterAddress.server(AddressKind.WINS))
    table = compiled(policy_set, ("wins", filter_, "permit"), facts=HostFacts.of([ME]))
    assert table.filters == ()
    assert "no WINS server is known" in table.warnings[0]


@pytest.mark.parametrize("action", ["permit", "negotiate"])
def test_a_pending_name_opens_and_secures_nothing_and_says_so(policy_set, action):
    table = compiled(policy_set, ("web", Filter(FilterAddress.me(), NAMED("never.asked")), action))
    assert table.filters == ()
    assert "not in force until the name never.asked is resolved" in table.warnings[0]


def test_a_pending_name_blocks_everything_its_filter_could_mean(policy_set):
    filter_ = Filter(FilterAddress.me(), NAMED("never.asked"), TCP, 0, 80)
    table = compiled(policy_set, ("web", filter_, "block"))
    assert table.lookup(Flow(ME, OTHER, TCP, 1024, 80), OUT).action is Action.BLOCK
    assert table.lookup(Flow(ME, OTHER, TCP, 1024, 81), OUT) is None
    assert "blocks any address until the name never.asked is resolved" in table.warnings[0]
    assert "not resolved yet" in table.filters[0].provenance.description


def test_a_name_without_addresses_blocks_nothing(policy_set):
    table = compiled(policy_set, ("web", Filter(FilterAddress.me(), NAMED("gone.example")), "block"))
    assert table.filters == ()
    assert "gone.example has no address" in table.warnings[0]


def test_a_name_that_becomes_known_gives_other_filters(policy_set):
    rule = ("web", Filter(FilterAddress.me(), NAMED("late.example")), "block")
    before = compiled(policy_set, rule)
    after = compiled(policy_set, rule, facts=replace(FACTS, names={"late.example": (PEER,)}))
    assert not before.ids & after.ids
    assert after.lookup(Flow(ME, PEER, 6), OUT).action is Action.BLOCK
    assert after.lookup(Flow(ME, OTHER, 6), OUT) is None


def dns(protocol=UDP, server=DNS_SERVER):
    return Flow(ME, server, protocol, 40000, 53)


@pytest.mark.parametrize("protocol", [UDP, TCP])
def test_a_pending_block_of_everything_leaves_dns_with_our_own_servers_open(policy_set, protocol):
    table = compiled(policy_set, ("shut", Filter(FilterAddress.me(), NAMED("never.asked")), "block"))
    assert table.lookup(dns(protocol), OUT).action is Action.PERMIT
    assert table.lookup(dns(protocol).reversed(), IN).action is Action.PERMIT
    assert table.lookup(dns(protocol, OTHER), OUT).action is Action.BLOCK
    assert table.lookup(Flow(ME, DNS_SERVER, protocol, 40000, 80), OUT).action is Action.BLOCK
    assert "so that the name can be resolved" in table.lookup(dns(protocol), OUT).provenance.description


def test_dns_beside_a_pending_block_is_treated_as_the_other_rules_say(policy_set):
    pending = ("shut", Filter(FilterAddress.me(), NAMED("never.asked")), "block")
    everything = Filter(FilterAddress.me(), FilterAddress.any())
    secured = compiled(policy_set, pending, ("all", everything, "negotiate"))
    # the pending block and "secure all" are about the same packets: the block is kept, and DNS is blocked by
    # nothing but it
    assert secured.lookup(Flow(ME, OTHER, 6), OUT).action is Action.BLOCK
    narrower = Filter(FilterAddress.me(), FilterAddress.of(AddressRange.network("192.0.2.0/24")))
    by_network = compiled(policy_set, pending, ("near", narrower, "negotiate"))
    assert by_network.lookup(dns(), OUT).action is Action.NEGOTIATE
    wide = Filter(FilterAddress.any(), FilterAddress.any(), mirrored=False)
    blocked = compiled(policy_set, pending, ("rest", wide, "block"))
    assert blocked.lookup(dns(), OUT).action is Action.BLOCK
    soft = compiled(policy_set, pending, ("rest", wide, FilterAction("ask", soft=True)))
    assert soft.lookup(dns(), OUT).action is Action.NEGOTIATE
    assert soft.lookup(dns(), OUT).allow_soft


def test_a_pending_block_that_does_not_stop_dns_needs_no_filter_for_it(policy_set):
    filter_ = Filter(FilterAddress.me(), NAMED("never.asked"), TCP, 0, 80)
    table = compiled(policy_set, ("web", filter_, "block"))
    assert len(policy_filters(table)) == 2
    assert table.lookup(dns(), OUT) is None


# ---- broadcast of our subnets
BROADCAST = ip_address("192.0.2.255")


def test_a_wide_negotiation_does_not_secure_the_broadcasts_of_our_subnets(policy_set):
    everything = Filter(FilterAddress.me(), FilterAddress.any())
    table = compiled(policy_set, ("all", everything, "negotiate"))
    entry = table.lookup(Flow(ME, BROADCAST, 17, 137, 137), OUT)
    assert entry.action is Action.BLOCK
    assert "cannot secure" in entry.provenance.description
    unknown = compile_table([policy_set(("all", everything, "negotiate"))], [ME])
    assert unknown.lookup(Flow(ME, BROADCAST, 17, 137, 137), OUT).action is Action.NEGOTIATE


def test_a_negotiation_about_a_broadcast_of_ours_alone_is_blocked_not_refused(policy_set):
    filter_ = Filter(FilterAddress.me(), FilterAddress.of(BROADCAST))
    table = compiled(policy_set, ("names", filter_, "negotiate"))
    assert table.lookup(Flow(ME, BROADCAST, 17, 137, 137), OUT).action is Action.BLOCK


@pytest.mark.parametrize(("level", "verdict"), [(0, Action.PERMIT), (1, Action.PERMIT), (3, Action.BLOCK)])
def test_exemption_levels_count_the_broadcasts_of_our_subnets(policy_set, level, verdict):
    shut = Filter(FilterAddress.me(), FilterAddress.any())
    table = compile_table([policy_set(("shut", shut, "block"))], FACTS, level)
    assert table.lookup(Flow(ME, BROADCAST, 17, 137, 137), OUT).action is verdict


# ---- connection types
LAN, DIALUP = ConnectionType.LAN, ConnectionType.DIALUP
MODEM = ip_address("198.51.100.9")
TWO_KINDS = HostFacts((LocalAddress(ME, 24, LAN), LocalAddress(MODEM, 32, DIALUP)))
TO_PEER = Filter(FilterAddress.me(), FilterAddress.of(ip_address("203.0.113.5")), mirrored=False)


@pytest.mark.parametrize(("kind", "own"), [(LAN, ME), (DIALUP, MODEM)])
@pytest.mark.parametrize("action", ["permit", "block"])
def test_a_rule_for_one_kind_of_connection_means_its_addresses_where_they_are_known(
    policy_set, kind, own, action
):
    table = compiled(policy_set, ("web", TO_PEER, action, {"connection_type": kind}), facts=TWO_KINDS)
    assert [entry.selector.source.first for entry in table.filters] == [own]
    assert table.warnings == ()


def test_a_rule_for_a_kind_that_the_computer_lacks_is_not_in_force(policy_set):
    only_lan = HostFacts((LocalAddress(ME, 24, LAN),))
    table = compiled(policy_set, ("web", TO_PEER, "block", {"connection_type": DIALUP}), facts=only_lan)
    assert table.filters == ()
    anybody = Filter(FilterAddress.any(), FilterAddress.any())
    table = compiled(policy_set, ("web", anybody, "block", {"connection_type": DIALUP}), facts=only_lan)
    assert table.filters == ()
    assert "this computer has none" in table.warnings[0]


def test_without_me_a_block_for_one_kind_acts_on_all_and_a_permit_for_dialup_on_none(policy_set):
    anybody = Filter(FilterAddress.any(), FilterAddress.any())

    def about(action, kind):
        rule = ("web", anybody, action, {"connection_type": kind})
        return compiled(policy_set, rule, facts=TWO_KINDS)

    assert about("block", DIALUP).lookup(Flow(ME, OTHER, 6), OUT).action is Action.BLOCK
    assert "does not say “me”: it acts on all" in about("block", DIALUP).warnings[0]
    assert about("permit", DIALUP).filters == ()
    assert "left out" in about("permit", DIALUP).warnings[0]
    assert about("permit", LAN).filters != ()
