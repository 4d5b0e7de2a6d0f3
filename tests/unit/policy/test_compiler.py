from dataclasses import replace
from ipaddress import ip_address

import pytest

from stockade.model.addresses import AddressRange
from stockade.model.filters import Action, Direction, FilterClass
from stockade.model.negotiation import Kerberos, Mode, PresharedKey
from stockade.model.reasons import CallerError, ReasonCode
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, EspSuite, Group, Hash, MainModeProposal, QuickModeProposal
from stockade.model.traffic import Flow
from stockade.policy import compiler
from stockade.policy.compiler import compile_table
from stockade.policy.objects import (
    ConnectionType,
    Filter,
    FilterAction,
    FilterAddress,
    FilterList,
    PolicySet,
    Rule,
)

IN, OUT = Direction.INBOUND, Direction.OUTBOUND
ME, PEER = ip_address("192.0.2.1"), ip_address("192.0.2.2")
LOCAL = [ME]
ME_TO_ANY = Filter(FilterAddress.me(), FilterAddress.any())
ME_TO_PEER = Filter(FilterAddress.me(), FilterAddress.of(PEER))
TELNET = replace(ME_TO_PEER, protocol=6, destination_port=23)


def written(table):
    """The filters of rules, without exemptions and multicast parts."""
    return [
        entry
        for entry in table.filters
        if entry.filter_class is FilterClass.POLICY and "multicast" not in entry.provenance.description
    ]


def refusal(*arguments):
    with pytest.raises(CallerError) as caught:
        compile_table(*arguments)
    return caught.value.reason


# ---- what gets into the table
def test_without_a_policy_the_table_is_empty():
    table = compile_table([PolicySet()], LOCAL)
    assert table.filters == ()
    assert table.policy_name is None


def test_only_the_assigned_policy_and_its_active_rules_count(policy_set):
    assert compile_table([policy_set(("web", ME_TO_PEER, "block"), assigned=False)], LOCAL).filters == ()
    inactive = policy_set(("web", ME_TO_PEER, "block", {"active": False}))
    table = compile_table([inactive], LOCAL)
    assert table.filters == ()
    assert table.policy_name == "Office"


def test_an_inactive_rule_may_name_what_does_not_exist(policy_set):
    base = policy_set(("web", ME_TO_PEER, "block"))
    broken = Rule("old", "gone", "gone", active=False)
    policy = replace(base.policies[0], rules=(*base.policies[0].rules, broken))
    assert len(written(compile_table([replace(base, policies=(policy,))], LOCAL))) == 2


def test_the_default_response_rule_has_no_filters(policy_set):
    base = policy_set()
    default = Rule("", "<Dynamic>", "Default Response", is_default_response=True)
    policy = replace(base.policies[0], rules=(default,))
    assert compile_table([replace(base, policies=(policy,))], LOCAL).filters == ()


def test_provenance_tells_store_policy_rule_list_and_filter(policy_set):
    filters = (replace(ME_TO_PEER, protocol=17), replace(TELNET, description="old terminals"))
    table = compile_table([policy_set(("no telnet", filters, "block"))], LOCAL)
    entry = table.lookup(Flow(ME, PEER, 6, 40000, 23), OUT)
    assert entry.action is Action.BLOCK
    assert str(entry.provenance) == (
        "local store, policy “Office”, rule “no telnet”, filter list “no telnet filters” filter 2"
    )
    assert entry.provenance.filter_action == "no telnet block"
    assert entry.provenance.description == "old terminals"
    answer = table.lookup(Flow(PEER, ME, 6, 23, 40000), IN)
    assert str(answer.provenance).endswith("filter 2 (mirrored)")


def test_names_of_lists_and_actions_are_case_insensitive(policy_set):
    base = policy_set(("web", ME_TO_PEER, "block"))
    rule = replace(base.policies[0].rules[0], filter_list="WEB FILTERS", filter_action="Web Block")
    policy = replace(base.policies[0], rules=(rule,))
    assert len(written(compile_table([replace(base, policies=(policy,))], LOCAL))) == 2


def test_the_table_is_sorted_heaviest_first_with_the_exemptions_on_top(policy_set):
    base = policy_set(
        ("all", ME_TO_ANY, "negotiate"), ("peer", ME_TO_PEER, "permit"), ("no", TELNET, "block")
    )
    table = compile_table([base], LOCAL)
    weights = [entry.weight for entry in table.filters]
    assert weights == sorted(weights, reverse=True)
    classes = [entry.filter_class for entry in table.filters]
    assert classes == sorted(classes, reverse=True)
    assert [entry.action for entry in written(table)] == [
        Action.BLOCK,
        Action.BLOCK,
        Action.PERMIT,
        Action.PERMIT,
        Action.NEGOTIATE,
        Action.NEGOTIATE,
    ]


def test_policy_sets_of_two_stores_are_added(policy_set):
    table = compile_table(
        [
            policy_set(("no", TELNET, "block"), store="persistent", policy="Boot"),
            policy_set(("all", ME_TO_ANY, "permit")),
        ],
        LOCAL,
    )
    assert {entry.provenance.store for entry in table.filters} == {"persistent", "local"}
    assert table.policy_name == "Boot (persistent) + Office (local)"


# ---- negotiations
def test_a_negotiation_carries_the_policys_the_actions_and_the_rules_settings(policy_set):
    suite = QuickModeProposal(EspSuite(Encryption.AES_GCM_256, None), lifetime_seconds=900)
    action = FilterAction("secure", methods=(suite,), session_pfs=True)
    methods = (MainModeProposal(Encryption.AES_CBC_256, Hash.SHA_256, Group.ECP_256),)
    authentication = (Kerberos(), PresharedKey(Secret(b"0123456789abcdef")))
    table = compile_table(
        [
            policy_set(
                ("web", ME_TO_PEER, action, {"authentication": authentication}),
                main_mode_methods=methods,
                main_mode_minutes=60,
                quick_modes_per_main_mode=5,
            )
        ],
        LOCAL,
    )
    assert list(table.negotiations) == ["local/Office/web"]
    negotiation = table.negotiations["local/Office/web"]
    assert negotiation.name == "local/Office/web"
    assert negotiation.main_mode.proposals == methods
    assert negotiation.main_mode.lifetime_seconds == 3600
    assert negotiation.main_mode.quick_modes_per_main_mode == 5
    assert negotiation.quick_mode.proposals == (suite,)
    assert negotiation.quick_mode.perfect_forward_secrecy
    assert negotiation.quick_mode.mode is Mode.TRANSPORT
    assert negotiation.authentication == authentication
    assert {entry.negotiation for entry in written(table)} == {"local/Office/web"}


def test_master_key_perfect_forward_secrecy_means_one_quick_mode_per_main_mode(policy_set):
    table = compile_table(
        [policy_set(("web", ME_TO_PEER, "negotiate"), master_pfs=True, quick_modes_per_main_mode=9)],
        LOCAL,
    )
    assert table.negotiations["local/Office/web"].main_mode.quick_modes_per_main_mode == 1


def test_two_rules_of_one_name_have_two_negotiations(policy_set):
    other = replace(ME_TO_PEER, protocol=17)
    base = policy_set(("web", ME_TO_PEER, "negotiate"), ("voice", other, "negotiate"))
    first, second = base.policies[0].rules
    policy = replace(base.policies[0], rules=(first, replace(second, name="web")))
    table = compile_table([replace(base, policies=(policy,))], LOCAL)
    assert set(table.negotiations) == {"local/Office/web", f"local/Office/web#{second.guid}"}


def test_a_rule_without_authentication_is_refused_by_name(policy_set):
    reason = refusal([policy_set(("web", ME_TO_PEER, "negotiate", {"authentication": ()}))], LOCAL)
    assert reason.code is ReasonCode.INVALID_POLICY
    assert "web" in str(reason)
    assert "authentication" in str(reason)


def test_a_tunnel_rule_is_compiled_with_its_end_point(policy_set):
    gateway = ip_address("203.0.113.1")
    tunnel = Filter(FilterAddress.me(), FilterAddress.of(AddressRange.network("10.0.0.0/8")), mirrored=False)
    table = compile_table([policy_set(("branch", tunnel, "negotiate", {"tunnel_endpoint": gateway}))], LOCAL)
    (entry,) = written(table)
    assert entry.direction is OUT
    quick_mode = table.negotiations[entry.negotiation].quick_mode
    assert (quick_mode.mode, quick_mode.tunnel_endpoint) == (Mode.TUNNEL, gateway)


def test_inpass_accepts_clear_inbound_only_and_soft_is_marked(policy_set):
    action = FilterAction("request", inpass=True, soft=True)
    table = compile_table([policy_set(("web", ME_TO_PEER, action))], LOCAL)
    assert {entry.direction: (entry.accept_clear, entry.allow_soft) for entry in written(table)} == {
        IN: (True, True),
        OUT: (False, True),
    }


def test_inpass_and_soft_mean_nothing_for_permit(policy_set):
    action = FilterAction("open", Action.PERMIT, inpass=True, soft=True)
    table = compile_table([policy_set(("web", ME_TO_PEER, action))], LOCAL)
    assert {(entry.accept_clear, entry.allow_soft) for entry in table.filters} == {(False, False)}


# ---- conflicts and duplicates
@pytest.mark.parametrize(
    ("actions", "kept"),
    [
        (("permit", "block"), Action.BLOCK),
        (("block", "permit"), Action.BLOCK),
        (("permit", "negotiate"), Action.NEGOTIATE),
        (("negotiate", "block"), Action.BLOCK),
        (("permit", "negotiate", "block"), Action.BLOCK),
    ],
)
def test_a_conflict_keeps_the_most_restrictive_action(policy_set, actions, kept):
    rules = [(f"rule {number}", TELNET, action) for number, action in enumerate(actions)]
    table = compile_table([policy_set(*rules)], LOCAL)
    assert [entry.action for entry in written(table)] == [kept, kept]
    assert len(table.warnings) == len(actions) - 1
    assert set(table.negotiations) == (
        {f"local/Office/rule {actions.index('negotiate')}"} if kept is Action.NEGOTIATE else set()
    )


def test_a_conflict_warning_names_both_rules(policy_set):
    table = compile_table([policy_set(("open", TELNET, "permit"), ("shut", TELNET, "block"))], LOCAL)
    (warning,) = table.warnings
    assert "block of local store, policy “Office”, rule “shut”" in warning
    assert "permit of local store, policy “Office”, rule “open”" in warning
    assert "not in force" in warning


def test_between_two_negotiations_the_one_that_allows_less_clear_traffic_is_kept(policy_set):
    soft = FilterAction("request", inpass=True, soft=True)
    strict = FilterAction("require")
    table = compile_table([policy_set(("a", ME_TO_PEER, soft), ("b", ME_TO_PEER, strict))], LOCAL)
    assert {entry.negotiation for entry in written(table)} == {"local/Office/b"}
    assert len(table.warnings) == 1


def test_true_duplicates_are_merged_without_a_warning(policy_set):
    table = compile_table([policy_set(("one", TELNET, "block"), ("two", (TELNET, TELNET), "block"))], LOCAL)
    assert len(table.filters) == 2
    assert table.warnings == ()
    assert {entry.provenance.rule for entry in table.filters} == {"one"}


def test_equal_negotiations_are_duplicates_but_other_keys_are_a_conflict(policy_set):
    action = FilterAction("secure")
    key = PresharedKey(Secret(b"another key altogether"))
    same = policy_set(("one", ME_TO_PEER, action), ("two", ME_TO_PEER, replace(action, name="same")))
    assert compile_table([same], LOCAL).warnings == ()
    different = policy_set(
        ("one", ME_TO_PEER, action),
        ("two", ME_TO_PEER, replace(action, name="same"), {"authentication": (key,)}),
    )
    (warning,) = compile_table([different], LOCAL).warnings
    assert "another key" not in warning


def test_the_order_of_rules_does_not_matter(policy_set):
    rules = [
        ("open", TELNET, "permit"),
        ("shut", TELNET, "block"),
        ("all", ME_TO_ANY, "negotiate"),
        ("again", ME_TO_ANY, "negotiate"),
    ]
    there = compile_table([policy_set(*rules)], LOCAL)
    back = compile_table([policy_set(*reversed(rules))], LOCAL)
    assert there.filters == back.filters


# ---- identifiers
def test_identifiers_are_16_hex_digits_and_stable_over_recompilation(policy_set):
    def compile_once():
        return compile_table([policy_set(("all", ME_TO_ANY, "negotiate"), ("no", TELNET, "block"))], LOCAL)

    first, second = compile_once(), compile_once()
    assert first.filters == second.filters
    assert all(len(entry.id) == 16 and int(entry.id, 16) >= 0 for entry in first.filters)


def test_an_added_rule_or_address_leaves_the_other_identifiers_alone(policy_set):
    before = compile_table([policy_set(("no", TELNET, "block"))], LOCAL)
    after = compile_table(
        [policy_set(("all", ME_TO_ANY, "permit"), ("no", TELNET, "block"))], [*LOCAL, ip_address("10.9.9.9")]
    )
    assert {entry.id for entry in before.filters} < {entry.id for entry in after.filters}


def test_any_change_of_content_changes_the_identifier(policy_set):
    def identifiers(filter_=TELNET, action="block", rule="no", store="local"):
        table = compile_table([policy_set((rule, filter_, action), store=store)], LOCAL)
        return {entry.id for entry in written(table)}

    variants = [
        identifiers(),
        identifiers(replace(TELNET, destination_port=24)),
        identifiers(replace(TELNET, description="old")),
        identifiers(action="permit"),
        identifiers(action="negotiate"),
        identifiers(action=FilterAction("no negotiate", soft=True)),
        identifiers(rule="never"),
        identifiers(store="domain"),
    ]
    assert len(set().union(*variants)) == 2 * len(variants)


# ---- multicast and broadcast
@pytest.mark.parametrize("group", ["224.0.0.251/32", "239.0.0.0/8", "255.255.255.255/32", "ff02::fb/128"])
def test_a_filter_that_secures_only_multicast_or_broadcast_is_refused_by_name(policy_set, group):
    multicast = Filter(FilterAddress.me(), FilterAddress.of(AddressRange.network(group)))
    reason = refusal([policy_set(("announce", multicast, "negotiate"))], LOCAL)
    assert reason.code is ReasonCode.NOT_SECURABLE
    assert dict(reason.facts)["rule"] == "announce"
    assert dict(reason.facts)["filter"] == "1"


@pytest.mark.parametrize("action", ["permit", "block"])
def test_permit_and_block_of_multicast_are_possible(policy_set, action):
    multicast = Filter(FilterAddress.me(), FilterAddress.of(ip_address("224.0.0.251")))
    table = compile_table([policy_set(("announce", multicast, action))], LOCAL)
    assert table.lookup(Flow(ME, ip_address("224.0.0.251"), 17, 5353, 5353), OUT).action == Action(action)


@pytest.mark.parametrize("group", ["224.0.0.251", "255.255.255.255"])
def test_a_wide_negotiation_blocks_its_multicast_part(policy_set, group):
    table = compile_table([policy_set(("all", ME_TO_ANY, "negotiate"))], LOCAL)
    entry = table.lookup(Flow(ME, ip_address(group), 17, 5353, 5353), OUT)
    assert entry.action is Action.BLOCK
    assert entry.provenance.rule == "all"
    assert "cannot secure" in entry.provenance.description
    assert table.lookup(Flow(ME, PEER, 17, 1, 2), OUT).action is Action.NEGOTIATE


def test_a_soft_negotiation_permits_its_multicast_part_outbound_and_inpass_inbound(policy_set):
    any_to_any = Filter(FilterAddress.any(), FilterAddress.any())
    outbound, inbound = Flow(ME, ip_address("224.0.0.1"), 17), Flow(PEER, ip_address("224.0.0.1"), 17)

    def verdicts(**settings):
        table = compile_table([policy_set(("all", any_to_any, FilterAction("x", **settings)))], LOCAL)
        return table.lookup(outbound, OUT).action, table.lookup(inbound, IN).action

    assert verdicts() == (Action.BLOCK, Action.BLOCK)
    assert verdicts(soft=True) == (Action.PERMIT, Action.BLOCK)
    assert verdicts(inpass=True) == (Action.BLOCK, Action.PERMIT)
    assert verdicts(inpass=True, soft=True) == (Action.PERMIT, Action.PERMIT)


def test_the_multicast_part_wins_against_its_own_filter_only(policy_set):
    group = Filter(FilterAddress.me(), FilterAddress.of(ip_address("224.0.0.251")), 17)
    lighter = Filter(FilterAddress.any(), FilterAddress.any())
    table = compile_table(
        [
            policy_set(
                ("all", ME_TO_ANY, "negotiate"), ("announce", group, "permit"), ("rest", lighter, "permit")
            )
        ],
        LOCAL,
    )
    assert table.lookup(Flow(ME, ip_address("224.0.0.251"), 17), OUT).provenance.rule == "announce"
    assert table.lookup(Flow(ME, ip_address("224.0.0.252"), 17), OUT).provenance.rule == "all"


def test_exempt_multicast_needs_no_part_of_its_own(policy_set):
    table = compile_table([policy_set(("all", ME_TO_ANY, "negotiate"))], LOCAL, 0)
    assert table.lookup(Flow(ME, ip_address("224.0.0.251"), 17), OUT).filter_class is FilterClass.EXEMPTION
    assert len([entry for entry in table.filters if entry.filter_class is FilterClass.POLICY]) == 2


# ---- what is refused, what is only doubtful
def test_a_missing_filter_list_is_named_with_its_rule(policy_set):
    base = policy_set(("web", ME_TO_PEER, "block"))
    reason = refusal([replace(base, filter_lists=())], LOCAL)
    assert reason.code is ReasonCode.INVALID_POLICY
    assert dict(reason.facts) == {
        "store": "local",
        "policy": "Office",
        "rule": "web",
        "filter_list": "web filters",
    }


def test_a_missing_filter_action_is_named_with_its_rule(policy_set):
    base = policy_set(("web", ME_TO_PEER, "block"))
    reason = refusal([replace(base, filter_actions=())], LOCAL)
    assert reason.code is ReasonCode.INVALID_POLICY
    assert dict(reason.facts)["filter_action"] == "web block"
    assert dict(reason.facts)["rule"] == "web"


def test_two_assigned_policies_in_one_store_are_refused(policy_set):
    base = policy_set(("web", ME_TO_PEER, "block"))
    two = replace(base, policies=(base.policies[0], replace(base.policies[0], name="Home")))
    assert "Home" in str(refusal([two], LOCAL))


def test_too_many_filters_are_refused_with_the_limit(policy_set, monkeypatch):
    monkeypatch.setattr(compiler, "MAXIMUM_FILTERS", 10)
    filters = [replace(TELNET, destination_port=port) for port in range(1, 6)]
    base = policy_set(("ports", filters, "block"))
    assert len(compile_table([base], LOCAL).filters) == 10
    reason = refusal([base], [*LOCAL, ip_address("10.9.9.9")])
    assert reason.code is ReasonCode.INVALID_POLICY
    assert dict(reason.facts)["limit"] == "10"
    assert dict(reason.facts)["rule"] == "ports"


def test_the_multicast_parts_count_too(policy_set, monkeypatch):
    monkeypatch.setattr(compiler, "MAXIMUM_FILTERS", 3)
    assert refusal([policy_set(("all", ME_TO_ANY, "negotiate"))], LOCAL).code is ReasonCode.INVALID_POLICY


@pytest.mark.parametrize("level", [-1, 4])
def test_an_unknown_exemption_level_is_refused(policy_set, level):
    assert refusal([policy_set()], LOCAL, level).code is ReasonCode.INVALID_POLICY


def test_a_filter_about_others_is_a_warning_not_an_error(policy_set):
    others = Filter(
        FilterAddress.of(ip_address("198.51.100.1")), FilterAddress.of(ip_address("198.51.100.2"))
    )
    table = compile_table([policy_set(("web", (ME_TO_PEER, others), "block"))], LOCAL)
    assert len(table.filters) == 2
    (warning,) = table.warnings
    assert "rule “web”" in warning
    assert "filter 2" in warning
    assert "198.51.100.1 to 198.51.100.2" in warning


def test_an_empty_filter_list_is_a_warning(policy_set):
    (warning,) = compile_table([policy_set(("web", (), "block"))], LOCAL).warnings
    assert "no filters" in warning


def test_without_addresses_me_matches_nothing_and_says_so(policy_set):
    table = compile_table([policy_set(("web", ME_TO_PEER, "block"))], [ip_address("127.0.0.1")])
    assert table.filters == ()
    assert "matches no traffic" in table.warnings[0]


def test_a_rule_for_one_kind_of_connection_acts_on_all_but_never_opens_more(policy_set):
    def compiled(action, kind):
        return compile_table([policy_set(("web", ME_TO_PEER, action, {"connection_type": kind}))], LOCAL)

    assert len(compiled("block", ConnectionType.DIALUP).filters) == 2
    assert len(compiled("permit", ConnectionType.LAN).filters) == 2
    left_out = compiled("permit", ConnectionType.DIALUP)
    assert left_out.filters == ()
    assert "left out" in left_out.warnings[0]
    assert compiled("permit", ConnectionType.ALL).warnings == ()


def test_the_number_of_warnings_is_bounded(policy_set, monkeypatch):
    monkeypatch.setattr(compiler, "MAXIMUM_WARNINGS", 3)
    rules = [(f"rule {number}", (), "block") for number in range(10)]
    warnings = compile_table([policy_set(*rules)], LOCAL).warnings
    assert len(warnings) == 4
    assert warnings[-1] == "and 7 more"


def test_no_key_is_in_the_representation_of_a_table(policy_set):
    table = compile_table([policy_set(("all", ME_TO_ANY, "negotiate"))], LOCAL)
    assert "correct horse" not in repr(table)


def test_unassigned_objects_do_not_matter(policy_set):
    base = policy_set(("no", TELNET, "block"))
    more = replace(base, filter_lists=(*base.filter_lists, FilterList("unused", (ME_TO_ANY,))))
    assert compile_table([more], LOCAL).filters == compile_table([base], LOCAL).filters


@pytest.mark.parametrize("actions", [("permit", "block"), ("block", "permit"), ("negotiate", "block")])
def test_of_equally_heavy_filters_that_overlap_the_more_restrictive_one_comes_first(policy_set, actions):
    def between(source, destination):
        ends = (FilterAddress.of(AddressRange.network(text)) for text in (source, destination))
        return Filter(*ends, mirrored=False)

    table = compile_table(
        [
            policy_set(
                ("a", between("192.0.2.0/28", "198.51.100.0/30"), actions[0]),
                ("b", between("192.0.2.0/30", "198.51.100.0/28"), actions[1]),
            )
        ],
        LOCAL,
    )
    first, second = written(table)
    assert first.weight == second.weight
    assert table.lookup(Flow(ME, ip_address("198.51.100.1"), 6, 1, 2), OUT).action is Action.BLOCK


# ---- address families that the data plane cannot secure
TCP_WITH_ANYBODY = Filter(FilterAddress.me(), FilterAddress.any(), protocol=6)
BOTH_FAMILIES = [ip_address("10.0.0.1"), ip_address("fe80::1")]


@pytest.mark.parametrize(
    ("switches", "outbound", "inbound"),
    [({}, "block", "block"), ({"inpass": True}, "block", "permit"), ({"soft": True}, "permit", "permit")],
)
def test_a_family_that_cannot_be_secured_is_clear_only_where_the_filter_allows_clear(
    policy_set, switches, outbound, inbound
):
    action = FilterAction("Require", Action.NEGOTIATE, **switches)
    table = compile_table([policy_set(("web", TCP_WITH_ANYBODY, action))], BOTH_FAMILIES, 1, frozenset({4}))
    by_version = {(entry.selector.version, entry.direction): entry.action.value for entry in written(table)}
    assert by_version == {
        (4, Direction.OUTBOUND): "negotiate",
        (4, Direction.INBOUND): "negotiate",
        (6, Direction.OUTBOUND): outbound,
        (6, Direction.INBOUND): inbound,
    }
    assert any("IPv6" in warning and "web" in warning for warning in table.warnings)


def test_a_filter_that_names_the_family_is_left_for_the_data_plane_to_refuse(policy_set):
    named = Filter(FilterAddress.me(), FilterAddress.of(ip_address("2001:db8::2")))
    table = compile_table([policy_set(("web", named, "negotiate"))], BOTH_FAMILIES, 3, frozenset({4}))
    assert {entry.action for entry in written(table)} == {Action.NEGOTIATE}
