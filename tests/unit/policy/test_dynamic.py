"""The dynamic store's rules, the merging of stores, the default response rule."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from stockade.model.addresses import AddressRange
from stockade.model.filters import Action, Direction, FilterClass
from stockade.model.negotiation import Kerberos, Mode, PresharedKey
from stockade.model.reasons import CallerError, Reason, ReasonCode
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, EspSuite, Group, Hash, MainModeProposal, QuickModeProposal
from stockade.model.traffic import Flow, TrafficSelector
from stockade.policy.compiler import compile_table
from stockade.policy.dynamic import (
    DynamicRule,
    DynamicSet,
    MainModePolicyObject,
    PfsGroup,
    QuickModePolicyObject,
    response_filters,
    with_responses,
)
from stockade.policy.lookup import FilterTableLookup
from stockade.policy.objects import DEFAULT_RESPONSE_METHODS, ConnectionType, Filter, FilterAddress, Rule
from stockade.policy.places import in_force

IN, OUT = Direction.INBOUND, Direction.OUTBOUND
ME, PEER, OTHER = (ip_address(f"192.0.2.{number}") for number in (1, 2, 3))
ME_TO_PEER = Filter(FilterAddress.me(), FilterAddress.of(PEER))
ME_TO_ANY = Filter(FilterAddress.me(), FilterAddress.any())
KEY = (PresharedKey(Secret(b"correct horse battery staple")),)
METHOD = QuickModeProposal(EspSuite(Encryption.AES_CBC_128, Hash.SHA1), lifetime_seconds=900)
MAIN = MainModePolicyObject(
    "mm", (MainModeProposal(Encryption.AES_CBC_128, Hash.SHA_256, Group.MODP_2048),), 60, 7
)
QUICK = QuickModePolicyObject("qm", (METHOD,))


def rule(filter_=ME_TO_PEER, **settings):
    settings.setdefault("quick_mode_policy", "qm")
    return DynamicRule(filter_, "mm", authentication=KEY, **settings)


def compiled(*rules, quick=QUICK, sets=(), level=3):
    return compile_table(list(sets), [ME], level, dynamic=DynamicSet((MAIN,), (quick,), rules))


def verdicts(table, peer=PEER, protocol=6):
    flow = Flow(ME, peer, protocol, 1024, 80)
    return tuple(
        None if entry is None else entry.action
        for entry in (table.lookup(flow, OUT), table.lookup(flow.reversed(), IN))
    )


# ---- dynamic rules
def test_a_dynamic_rule_is_compiled_with_its_two_policies():
    table = compiled(rule())
    assert verdicts(table) == (Action.NEGOTIATE, Action.NEGOTIATE)
    (negotiation,) = table.negotiations.values()
    assert negotiation.main_mode.proposals == MAIN.methods
    assert negotiation.main_mode.lifetime_seconds == 3600
    assert negotiation.main_mode.quick_modes_per_main_mode == 7
    assert negotiation.quick_mode.proposals == (METHOD,)
    assert not negotiation.quick_mode.perfect_forward_secrecy
    assert negotiation.authentication == KEY
    assert table.policy_name == "dynamic rules"
    entry = table.lookup(Flow(ME, PEER, 6, 1024, 80), OUT)
    assert entry.provenance.store == "dynamic"
    assert entry.provenance.rule == "me to 192.0.2.2"
    assert entry.provenance.filter_action == "qm"


@pytest.mark.parametrize(
    ("group", "forward", "expected"),
    [
        (PfsGroup.NOPFS, False, None),
        (PfsGroup.GRP1, True, Group.MODP_768),
        (PfsGroup.GRP2, True, Group.MODP_1024),
        (PfsGroup.GRP3, True, Group.MODP_2048),
        (PfsGroup.GRPMM, True, None),
    ],
)
def test_each_pfs_group_is_what_it_says(group, forward, expected):
    table = compiled(rule(), quick=replace(QUICK, pfs_group=group))
    (negotiation,) = table.negotiations.values()
    assert negotiation.quick_mode.perfect_forward_secrecy is forward
    assert negotiation.quick_mode.group is expected


def test_the_two_directions_have_their_own_actions():
    table = compiled(rule(action_inbound=Action.BLOCK, action_outbound=Action.PERMIT, quick_mode_policy=""))
    assert verdicts(table) == (Action.PERMIT, Action.BLOCK)
    assert not table.negotiations


def test_inbound_permit_beside_outbound_negotiate_is_inbound_pass_through():
    table = compiled(rule(action_inbound=Action.PERMIT))
    assert verdicts(table) == (Action.NEGOTIATE, Action.NEGOTIATE)
    assert table.lookup(Flow(PEER, ME, 6, 80, 1024), IN).accept_clear
    assert not table.lookup(Flow(ME, PEER, 6, 1024, 80), OUT).accept_clear


def test_soft_of_the_quick_mode_policy_counts():
    table = compiled(rule(), quick=replace(QUICK, soft=True))
    assert table.lookup(Flow(ME, PEER, 6, 1024, 80), OUT).allow_soft


def test_a_tunnel_rule_is_not_mirrored():
    gateway = ip_address("203.0.113.1")
    net = Filter(FilterAddress.me(), FilterAddress.of(AddressRange.network("10.0.0.0/8")))
    made = rule(net, tunnel_endpoint=gateway)
    assert not made.filter.mirrored
    table = compiled(made)
    written = [one for one in table.filters if one.filter_class is FilterClass.POLICY]
    assert [entry.direction for entry in written] == [OUT]
    (negotiation,) = table.negotiations.values()
    assert negotiation.quick_mode.mode is Mode.TUNNEL
    assert negotiation.quick_mode.tunnel_endpoint == gateway


@pytest.mark.parametrize("missing", [DynamicSet((), (QUICK,)), DynamicSet((MAIN,), ())])
def test_a_missing_policy_is_named(missing):
    with pytest.raises(CallerError) as caught:
        compile_table([], [ME], dynamic=replace(missing, rules=(rule(),)))
    assert caught.value.reason.code is ReasonCode.INVALID_POLICY
    assert "that does not exist" in str(caught.value)
    assert ("mm" if not missing.main_mode_policies else "qm") in str(caught.value)


def test_impossible_dynamic_objects_are_refused():
    with pytest.raises(ValueError, match="needs a quick-mode policy"):
        DynamicRule(ME_TO_PEER, "mm")
    for wrong in (
        lambda: MainModePolicyObject("x", ()),
        lambda: MainModePolicyObject("x", main_mode_minutes=0),
        lambda: MainModePolicyObject("x", quick_modes_per_main_mode=-1),
        lambda: QuickModePolicyObject("x", ()),
    ):
        with pytest.raises(ValueError, match=r"."):
            wrong()


def test_a_rule_is_known_by_its_traffic_tunnel_and_connection():
    one = rule()
    assert one.same_rule(rule(replace(ME_TO_PEER, description="other"), action_inbound=Action.BLOCK))
    assert not one.same_rule(rule(ME_TO_ANY))
    assert not one.same_rule(rule(connection_type=ConnectionType.LAN))
    assert not one.same_rule(rule(replace(ME_TO_PEER, mirrored=False)))
    web = replace(ME_TO_PEER, protocol=6, destination_port=80)
    assert rule(web, connection_type=ConnectionType.LAN).name == (
        "me to 192.0.2.2, tcp, destination port 80, lan only"
    )


def test_a_rule_without_authentication_is_refused_by_name():
    with pytest.raises(CallerError) as caught:
        compile_table([], [ME], dynamic=DynamicSet((MAIN,), (QUICK,), (replace(rule(), authentication=()),)))
    assert "me to 192.0.2.2" in str(caught.value)
    assert "authentication" in str(caught.value)


# ---- stores joined
def test_rules_of_all_stores_stand_in_one_table_by_weight(policy_set):
    sets = [
        policy_set(("all", ME_TO_ANY, "permit"), store="persistent", policy="Boot"),
        policy_set(("peer", ME_TO_PEER, "negotiate")),
    ]
    web = replace(ME_TO_PEER, protocol=6, destination_port=80)
    blocks = rule(web, action_inbound=Action.BLOCK, action_outbound=Action.BLOCK, quick_mode_policy="")
    table = compiled(blocks, sets=sets)
    assert verdicts(table) == (Action.BLOCK, Action.BLOCK)
    assert verdicts(table, protocol=17) == (Action.NEGOTIATE, Action.NEGOTIATE)
    assert verdicts(table, OTHER) == (Action.PERMIT, Action.PERMIT)
    assert table.policy_name == "Boot (persistent) + Office (local) + dynamic rules (dynamic)"


@pytest.mark.parametrize(
    ("static", "dynamic", "kept"),
    [("permit", Action.BLOCK, Action.BLOCK), ("block", Action.PERMIT, Action.BLOCK)],
)
def test_between_stores_too_the_most_restrictive_action_is_kept(policy_set, static, dynamic, kept):
    other = rule(action_inbound=dynamic, action_outbound=dynamic, quick_mode_policy="")
    table = compiled(other, sets=[policy_set(("peer", ME_TO_PEER, static))])
    assert verdicts(table) == (kept, kept)
    assert any("conflict" in warning for warning in table.warnings)


def test_the_domains_policy_replaces_the_local_one_and_persistent_stays(policy_set):
    local, persistent = policy_set(("a", ME_TO_PEER, "block")), policy_set(store="persistent")
    domain = policy_set(("b", ME_TO_PEER, "permit"), store="domain")
    assert [one.store for one in in_force([local, domain, persistent])] == ["persistent", "domain"]
    unassigned = policy_set(("b", ME_TO_PEER, "permit"), store="domain", assigned=False)
    assert [one.store for one in in_force([local, unassigned])] == ["local"]
    assert in_force([]) == ()


# ---- the default response rule
RESPONSE = Rule(
    "", "<Dynamic>", "Default Response", KEY, is_default_response=True, response_methods=(METHOD,)
)


def responding(policy_set, *rules, response=RESPONSE, **settings):
    base = policy_set(*rules, **settings)
    policy = replace(base.policies[0], rules=(*base.policies[0].rules, response))
    return replace(base, policies=(policy,))


def request(protocol=0, port=0, peer=PEER):
    return TrafficSelector(AddressRange.host(ME), AddressRange.host(peer), protocol, 0, port)


def test_an_active_default_response_rule_answers_what_no_filter_speaks_of(policy_set):
    table = compile_table([responding(policy_set)], [ME])
    assert table.filters == ()
    lookup = FilterTableLookup(table)
    match = lookup.for_quick_mode(ME, PEER, request())
    assert match.dynamic
    assert match.selector == request()
    assert match.negotiation.quick_mode.proposals == (METHOD,)
    assert match.negotiation.authentication == KEY
    assert lookup.for_peer(ME, PEER) == (match.negotiation,)


def test_without_methods_of_its_own_it_offers_the_usual_ones(policy_set):
    bare = replace(RESPONSE, response_methods=(), response_session_pfs=True)
    table = compile_table([responding(policy_set, response=bare)], [ME])
    quick_mode = table.negotiations[table.default_response].quick_mode
    assert quick_mode.proposals == DEFAULT_RESPONSE_METHODS
    assert quick_mode.perfect_forward_secrecy


def test_a_deactivated_default_response_rule_answers_nobody(policy_set):
    table = compile_table([responding(policy_set, response=replace(RESPONSE, active=False))], [ME])
    lookup = FilterTableLookup(table)
    assert table.default_response is None
    assert lookup.for_peer(ME, PEER).code is ReasonCode.NO_POLICY
    assert lookup.for_quick_mode(ME, PEER, request()).code is ReasonCode.NO_POLICY


def test_a_filter_that_speaks_of_the_request_decides_alone(policy_set):
    for action, code in (("permit", ReasonCode.INVALID_IDENTITY), ("block", ReasonCode.INVALID_IDENTITY)):
        table = compile_table([responding(policy_set, ("peer", ME_TO_PEER, action))], [ME])
        lookup = FilterTableLookup(table)
        assert lookup.for_quick_mode(ME, PEER, request()).code is code
        assert lookup.for_peer(ME, PEER).code is ReasonCode.NO_POLICY
    secured = compile_table([responding(policy_set, ("peer", ME_TO_PEER, "negotiate"))], [ME])
    match = FilterTableLookup(secured).for_quick_mode(ME, PEER, request())
    assert not match.dynamic
    assert match.negotiation.name == "local/Office/peer"


def test_a_peer_cannot_choose_its_way_around_a_rule_that_secures_a_part(policy_set):
    web = replace(ME_TO_PEER, protocol=6, destination_port=80)
    table = compile_table([responding(policy_set, ("web", web, "negotiate"))], [ME])
    lookup = FilterTableLookup(table)
    assert lookup.for_quick_mode(ME, PEER, request()).code is ReasonCode.INVALID_IDENTITY
    assert lookup.for_quick_mode(ME, PEER, request(17, 53)).dynamic
    names = [one.name for one in lookup.for_peer(ME, PEER)]
    assert names == ["local/Office/web", "local/Office/Default Response"]


@pytest.mark.parametrize(
    "requested",
    [
        TrafficSelector(AddressRange.network("192.0.2.0/24"), AddressRange.host(PEER)),
        TrafficSelector(AddressRange.host(ME), AddressRange.host(OTHER)),
        TrafficSelector(AddressRange.host(ME), AddressRange.network("224.0.0.0/4")),
    ],
)
def test_it_answers_for_the_two_hosts_only(policy_set, requested):
    table = compile_table([responding(policy_set)], [ME])
    answer = FilterTableLookup(table).for_quick_mode(ME, PEER, requested)
    assert isinstance(answer, Reason)
    assert answer.code is ReasonCode.INVALID_IDENTITY


def test_the_temporary_filters_secure_both_ways_and_go_again(policy_set):
    table = compile_table([responding(policy_set)], [ME])
    match = FilterTableLookup(table).for_quick_mode(ME, PEER, request())
    table.prepare()
    filled = with_responses(table, [match, match])
    assert verdicts(filled) == (Action.NEGOTIATE, Action.NEGOTIATE)
    assert verdicts(filled, OTHER) == (None, None)
    outbound, inbound = response_filters(match.negotiation, match.selector)
    assert {one.id for one in filled.filters} == {outbound.id, inbound.id}
    assert match.filter_id == outbound.id
    assert outbound.provenance.filter_list == "<Dynamic>"
    assert (outbound.provenance.store, outbound.provenance.policy) == ("local", "Office")
    assert with_responses(table, []) is table
    # the peer asks again: the filter answers now, by the same negotiation
    again = FilterTableLookup(filled).for_quick_mode(ME, PEER, request())
    assert again.filter_id == outbound.id


def test_a_temporary_filter_never_opens_what_a_written_one_blocks(policy_set):
    telnet = replace(ME_TO_ANY, protocol=6, destination_port=23)
    table = compile_table([responding(policy_set, ("no telnet", telnet, "block"))], [ME])
    match = FilterTableLookup(table).for_quick_mode(ME, PEER, request())
    assert match.dynamic
    filled = with_responses(table, [match])
    assert filled.lookup(Flow(ME, PEER, 6, 1024, 23), OUT).action is Action.BLOCK
    assert filled.lookup(Flow(ME, PEER, 6, 1024, 24), OUT).action is Action.NEGOTIATE


def test_temporary_filters_of_a_policy_that_is_gone_are_left_out(policy_set):
    table = compile_table([responding(policy_set)], [ME])
    match = FilterTableLookup(table).for_quick_mode(ME, PEER, request())
    other = compile_table([responding(policy_set, policy="New")], [ME])
    assert with_responses(other, [match]) is other


def test_ike_is_exempt_where_only_the_default_response_rule_negotiates(policy_set):
    shut = replace(ME_TO_ANY, protocol=17)
    table = compile_table([responding(policy_set, ("shut", shut, "block"))], [ME])
    assert table.lookup(Flow(PEER, ME, 17, 500, 500), IN).filter_class is FilterClass.EXEMPTION


def test_the_static_policys_default_response_goes_before_the_persistent_one(policy_set):
    persistent = responding(policy_set, store="persistent", policy="Boot")
    local = responding(policy_set)
    for sets in ([persistent, local], [local, persistent]):
        assert compile_table(sets, [ME]).default_response == "local/Office/Default Response"
    assert compile_table([persistent], [ME]).default_response == "persistent/Boot/Default Response"


def test_a_default_response_rule_without_authentication_is_refused(policy_set):
    with pytest.raises(CallerError, match="default response"):
        compile_table([responding(policy_set, response=replace(RESPONSE, authentication=()))], [ME])
    kerberos = replace(RESPONSE, authentication=(Kerberos(),))
    assert compile_table([responding(policy_set, response=kerberos)], [ME]).default_response
