from dataclasses import replace
from ipaddress import ip_address

import pytest

from stockade.model.addresses import AddressRange
from stockade.model.filters import Action
from stockade.model.negotiation import Certificate, Kerberos, PresharedKey
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, EspSuite, Group, Hash, MainModeProposal, QuickModeProposal
from stockade.policy import lint_filters
from stockade.policy.compiler import compile_table
from stockade.policy.dynamic import DynamicRule, DynamicSet, MainModePolicyObject, QuickModePolicyObject
from stockade.policy.facts import HostFacts, LocalAddress
from stockade.policy.findings import REMEDIES, Severity
from stockade.policy.lint import Lint, lint, lint_policies, lint_table, weak_preshared_key
from stockade.policy.objects import AddressKind, ConnectionType, Filter, FilterAction, FilterAddress, Rule

ME, PEER = ip_address("192.0.2.1"), ip_address("192.0.2.2")
ME_TO_ANY = Filter(FilterAddress.me(), FilterAddress.any())
ME_TO_PEER = Filter(FilterAddress.me(), FilterAddress.of(PEER))
STRONG_MAIN_MODE = (MainModeProposal(Encryption.AES_CBC_256, Hash.SHA_256, Group.MODP_2048),)
STRONG = FilterAction("strong", methods=(QuickModeProposal(EspSuite(Encryption.AES_GCM_256, None)),))


def kinds(findings):
    return {finding.kind for finding in findings}


def without_keys(findings):
    """The findings but for the one that every policy of these tests gives rise to."""
    return tuple(finding for finding in findings if finding.kind is not Lint.PRESHARED_KEY)


def sound(policy_set, *rules):
    return policy_set(*rules, main_mode_methods=STRONG_MAIN_MODE)


def test_a_sound_policy_has_no_findings(policy_set):
    base = sound(policy_set, ("web", ME_TO_PEER, STRONG))
    assert without_keys(lint_policies([base])) == ()
    assert lint_table(compile_table([base], [ME])) == ()
    certificates = {"authentication": (Certificate("CN=Root"),)}
    base = sound(policy_set, ("web", ME_TO_PEER, STRONG, certificates))
    assert Lint.PRESHARED_KEY not in kinds(lint_policies([base]))


@pytest.mark.parametrize(
    ("method", "word"),
    [
        (MainModeProposal(Encryption.DES_CBC, Hash.SHA1, Group.MODP_2048), "DES"),
        (MainModeProposal(Encryption.AES_CBC_128, Hash.MD5, Group.MODP_2048), "MD5"),
        (MainModeProposal(Encryption.AES_CBC_128, Hash.SHA1, Group.MODP_768), "768"),
        (MainModeProposal(Encryption.AES_CBC_128, Hash.SHA1, Group.MODP_1024), "1024"),
    ],
)
def test_weak_main_mode_methods_are_named(policy_set, method, word):
    (finding,) = lint_policies([policy_set(main_mode_methods=(*STRONG_MAIN_MODE, method))])
    assert finding.kind is Lint.WEAK_ALGORITHM
    assert str(method) in finding.text
    assert word in finding.text.partition(":")[2]


@pytest.mark.parametrize(
    ("method", "word"),
    [
        (QuickModeProposal(EspSuite(Encryption.DES_CBC, Hash.SHA1)), "DES"),
        (QuickModeProposal(EspSuite(Encryption.TRIPLE_DES_CBC, Hash.MD5)), "MD5"),
        (QuickModeProposal(ah=Hash.MD5), "MD5"),
        (QuickModeProposal(EspSuite(Encryption.NULL, Hash.SHA1)), "no encryption"),
    ],
)
def test_weak_quick_mode_methods_are_named(policy_set, method, word):
    action = replace(STRONG, methods=(*STRONG.methods, method))
    findings = without_keys(lint_policies([sound(policy_set, ("web", ME_TO_PEER, action))]))
    assert kinds(findings) == {Lint.WEAK_ALGORITHM}
    assert any(word in finding.text for finding in findings)
    assert {finding.provenance.rule for finding in findings} == {"web"}


@pytest.mark.parametrize(
    ("key", "weak"),
    [
        (b"secret", True),
        (b"aaaaaaaaaaaaaaaaaaaaaaaa", True),
        (b"12345678901234567890", True),
        (b"x7Kq!pLm29Zt_vB4", False),
        (b"correct horse battery staple", False),
    ],
)
def test_weak_preshared_keys_are_known(key, weak):
    assert weak_preshared_key(Secret(key)) is weak


def test_a_finding_about_a_key_does_not_tell_it(policy_set):
    authentication = {"authentication": (PresharedKey(Secret(b"hunter2")),)}
    (finding,) = lint_policies([sound(policy_set, ("web", ME_TO_PEER, STRONG, authentication))])
    assert finding.kind is Lint.WEAK_PRESHARED_KEY
    assert "hunter2" not in repr(finding)
    assert "7" not in finding.text


def test_kerberos_and_certificates_are_nothing_doubtful_but_no_method_is(policy_set):
    both = {"authentication": (Kerberos(), Certificate("CN=Root"))}
    assert lint_policies([sound(policy_set, ("web", ME_TO_PEER, STRONG, both))]) == ()
    (finding,) = lint_policies([sound(policy_set, ("web", ME_TO_PEER, STRONG, {"authentication": ()}))])
    assert (finding.kind, finding.severity) == (Lint.NO_AUTHENTICATION, Severity.ERROR)
    assert "every negotiation fails" in finding.text


def test_rules_that_do_nothing_or_name_nothing_are_named(policy_set):
    base = sound(policy_set, ("web", (), "block"))
    assert kinds(lint_policies([base])) == {Lint.RULE_WITHOUT_FILTERS}
    broken = replace(base, filter_lists=(), filter_actions=())
    assert [finding.kind for finding in lint_policies([broken])] == [Lint.RULE_NAMES_NOTHING] * 2


def test_the_default_response_rule_is_mentioned_only_while_active(policy_set):
    base = sound(policy_set)
    key = (PresharedKey(Secret(b"correct horse battery staple")),)
    for active, expected in (
        (True, {Lint.DEFAULT_RESPONSE, Lint.PRESHARED_KEY, Lint.WEAK_ALGORITHM}),
        (False, set()),
    ):
        rule = Rule("", "<Dynamic>", "Default Response", key, active=active, is_default_response=True)
        policy = replace(base.policies[0], rules=(rule,))
        assert kinds(lint_policies([replace(base, policies=(policy,))])) == expected


def test_policies_that_are_not_assigned_are_read_too(policy_set):
    assert kinds(lint_policies([policy_set(assigned=False)])) == {Lint.WEAK_ALGORITHM}


def test_a_filter_under_a_tunnel_rule_is_shadowed(policy_set):
    network = AddressRange.network("10.0.0.0/8")
    host = Filter(FilterAddress.me(), FilterAddress.of(ip_address("10.1.1.1")), mirrored=False)
    wide = Filter(FilterAddress.me(), FilterAddress.of(network), mirrored=False)
    tunnel = {"tunnel_endpoint": ip_address("203.0.113.1")}
    table = compile_table([policy_set(("shut", host, "block"), ("branch", wide, STRONG, tunnel))], [ME])
    finding, rule = lint_table(table)
    assert (rule.kind, rule.provenance.rule) == (Lint.RULE_NEVER_DECIDES, "shut")
    assert finding.kind is Lint.SHADOWED
    assert finding.provenance.rule == "shut"
    assert "rule “branch”" in finding.text
    assert "tunnel rules stand before transport rules" in finding.text


def test_a_block_by_port_that_more_specific_addresses_overrule_is_found(policy_set):
    telnet = replace(ME_TO_ANY, protocol=6, destination_port=23, mirrored=False)
    base = policy_set(("no telnet", telnet, "block"), ("peer", ME_TO_PEER, STRONG))
    findings = lint_table(compile_table([base], [ME]))
    assert [(finding.kind, finding.provenance.rule) for finding in findings] == [
        (Lint.BLOCK_OVERRULED, "no telnet")
    ]
    assert "more specific" in findings[0].text


def test_an_exception_that_names_the_port_too_is_meant(policy_set):
    telnet = replace(ME_TO_ANY, protocol=6, destination_port=23)
    exception = replace(ME_TO_PEER, protocol=6, destination_port=23)
    base = policy_set(("no telnet", telnet, "block"), ("but here", exception, "permit"))
    assert lint_table(compile_table([base], [ME])) == ()


def test_the_comparison_is_bounded_and_says_so(policy_set, monkeypatch):
    monkeypatch.setattr(lint_filters, "MAXIMUM_COMPARISONS", 5)
    filters = [replace(ME_TO_PEER, protocol=number) for number in range(1, 9)]
    rules = (("many", filters, "permit"), ("no", replace(ME_TO_ANY, protocol=99), "block"))
    findings = lint_table(compile_table([policy_set(*rules)], [ME]))
    assert kinds(findings) == {Lint.INCOMPLETE}


def test_a_finding_prints_where_it_comes_from(policy_set):
    (finding,) = lint_policies([sound(policy_set, ("web", (), FilterAction("no", Action.BLOCK)))])
    assert str(finding).startswith("local store, policy “Office”, rule “web”")
    assert finding.as_dict()["kind"] == "rule-without-filters"


# ---- what a compiled table shows
def test_a_filter_that_a_wider_one_makes_superfluous_is_a_note(policy_set):
    base = policy_set(("all", ME_TO_ANY, "block"), ("peer", ME_TO_PEER, "block"))
    findings = lint_table(compile_table([base], [ME]))
    assert [(one.kind, one.provenance.rule, one.severity) for one in findings] == [
        (Lint.REDUNDANT, "peer", Severity.NOTE)
    ]


def test_an_exception_between_two_equal_filters_makes_neither_superfluous(policy_set):
    network = Filter(FilterAddress.me(), FilterAddress.of(AddressRange.network("192.0.2.0/28")))
    base = policy_set(("all", ME_TO_ANY, "block"), ("near", network, "permit"), ("peer", ME_TO_PEER, "block"))
    assert Lint.REDUNDANT not in kinds(lint_table(compile_table([base], [ME])))


def test_a_mirrored_permit_by_the_other_sides_port_opens_every_port_here(policy_set):
    web = replace(ME_TO_ANY, protocol=6, destination_port=80)
    (finding,) = lint_table(compile_table([policy_set(("web", web, "permit"))], [ME]))
    assert finding.kind is Lint.OPENS_MORE
    assert "whoever sends from port 80" in finding.text
    for narrow in (
        replace(web, mirrored=False),
        replace(ME_TO_PEER, protocol=6, destination_port=80),
        Filter(FilterAddress.any(), FilterAddress.me(), 6, 0, 80),
    ):
        assert lint_table(compile_table([policy_set(("web", narrow, "permit"))], [ME])) == ()


# ---- everything together
FACTS = HostFacts(
    (LocalAddress(ME, 24),), dns_servers=(ip_address("192.0.2.53"),), dhcp_servers=(ip_address("192.0.2.67"),)
)
PERMITS = (
    Filter(FilterAddress.me(), FilterAddress.server(AddressKind.DNS), 17, 0, 53),
    Filter(FilterAddress.me(), FilterAddress.server(AddressKind.DNS), 6, 0, 53),
    Filter(FilterAddress.me(), FilterAddress.server(AddressKind.DHCP), 17, 68, 67),
)


def lockouts(policy_set, *rules, facts=FACTS, authentication=None, **settings):
    given = {} if authentication is None else {"authentication": authentication}
    made = sound(policy_set, *(rule if len(rule) > 3 else (*rule, given) for rule in rules))
    findings = lint([made], facts, **settings)
    return [finding for finding in findings if finding.kind is Lint.LOCKOUT]


@pytest.mark.parametrize("action", ["block", "negotiate"])
def test_a_policy_that_stops_dns_and_dhcp_locks_the_computer_out(policy_set, action):
    findings = lockouts(policy_set, ("all", ME_TO_ANY, action))
    assert "UDP 53" in findings[0].text
    words = " ".join(one.text for one in findings)
    for word in ("DNS (UDP 53) with 192.0.2.53", "DNS (TCP 53)", "DHCP (UDP 67) with 192.0.2.67"):
        assert word in words
    assert all(one.severity is Severity.ERROR and "add filter" in one.remedy for one in findings)
    assert "Kerberos" not in words
    assert lockouts(policy_set, ("all", ME_TO_ANY, action), ("servers", PERMITS, "permit")) == []


def test_a_policy_that_may_fall_back_to_clear_locks_nobody_out(policy_set):
    ask = replace(STRONG, soft=True, inpass=True)
    assert lockouts(policy_set, ("all", ME_TO_ANY, ask)) == []


def test_permits_without_a_mirror_stop_the_answers(policy_set):
    one_way = tuple(replace(one, mirrored=False) for one in PERMITS)
    findings = lockouts(policy_set, ("all", ME_TO_ANY, "block"), ("servers", one_way, "permit"))
    assert len(findings) == 3
    assert all("the answers of" in one.text for one in findings)


def test_kerberos_cannot_be_secured_by_kerberos(policy_set):
    servers = ("servers", PERMITS, "permit")
    everything = ("all", ME_TO_ANY, STRONG)
    findings = lockouts(policy_set, everything, servers, authentication=(Kerberos(),))
    assert len(findings) == 2
    assert all("Kerberos" in one.text and "domain controllers" in one.remedy for one in findings)
    assert lockouts(policy_set, everything, servers) == []
    assert lockouts(policy_set, everything, servers, authentication=(Kerberos(),), exempt_level=0) == []
    controller = ("domain", ME_TO_PEER, "permit")
    assert lockouts(policy_set, everything, servers, controller, authentication=(Kerberos(),)) == []


def test_without_known_servers_any_permit_for_them_is_believed(policy_set):
    nothing = HostFacts.of([ME])
    findings = lockouts(policy_set, ("all", ME_TO_ANY, "block"), facts=nothing)
    assert len(findings) == 3
    assert all("203.0.113" not in one.text.partition("”")[2] for one in findings)
    by_address = tuple(
        Filter(FilterAddress.me(), FilterAddress.of(PEER), *one)
        for one in ((17, 0, 53), (6, 0, 53), (17, 68, 67))
    )
    assert (
        lockouts(policy_set, ("all", ME_TO_ANY, "block"), ("servers", by_address, "permit"), facts=nothing)
        == []
    )


@pytest.mark.parametrize(("level", "expected"), [(0, 2), (1, 1), (2, 1), (3, 0)])
def test_exemption_levels_that_open_more_are_found(policy_set, level, expected):
    findings = lint([sound(policy_set, ("web", ME_TO_PEER, "block"))], FACTS, level)
    found = [one for one in findings if one.kind is Lint.OPENS_MORE]
    assert len(found) == expected
    assert all("value=3" in one.remedy for one in found)


def test_what_the_compiler_doubts_are_findings_with_remedies(policy_set):
    others = Filter(FilterAddress.of(PEER), FilterAddress.of(ip_address("192.0.2.9")))
    named = Filter(FilterAddress.me(), FilterAddress.named("never.asked"))
    base = sound(
        policy_set,
        ("open", ME_TO_PEER, "permit"),
        ("shut", ME_TO_PEER, "block"),
        ("others", others, "block"),
        ("named", named, "permit"),
        ("modem", ME_TO_ANY, "block", {"connection_type": ConnectionType.DIALUP}),
        ("ask", replace(ME_TO_ANY, protocol=6), replace(STRONG, soft=True)),
        ("empty", (), "block"),
    )
    findings = lint([base], [ME])
    assert {
        Lint.CONFLICT,
        Lint.NEVER_MATCHES,
        Lint.NAME_NOT_RESOLVED,
        Lint.CONNECTION_TYPE,
        Lint.CLEAR_ALLOWED,
        Lint.RULE_WITHOUT_FILTERS,
    } <= kinds(findings)
    assert all(one.remedy and one.as_dict()["remedy"] == one.remedy for one in findings)
    (conflict,) = [one for one in findings if one.kind is Lint.CONFLICT]
    assert conflict.provenance.rule == "open"  # the one that lost
    severities = [("error", "warning", "note").index(one.severity) for one in findings]
    assert severities == sorted(severities)


def test_a_server_that_is_not_known_is_no_reason_to_delete_its_filter(policy_set):
    names = Filter(
        FilterAddress.me(), FilterAddress.server(AddressKind.DNS), protocol=17, destination_port=53
    )
    findings = lint([sound(policy_set, ("names", names, "permit"))], [ME])
    assert Lint.NEVER_MATCHES not in kinds(findings)
    (found,) = [one for one in findings if one.kind is Lint.NO_SERVER]
    assert found.severity is Severity.NOTE
    assert "delete" not in found.remedy


def test_a_policy_that_is_refused_is_a_finding(policy_set):
    base = replace(sound(policy_set, ("web", ME_TO_PEER, "block")), filter_actions=())
    findings = lint([base], [ME])
    (refused,) = [one for one in findings if one.kind is Lint.REFUSED]
    assert refused.severity is Severity.ERROR
    assert refused.provenance.rule == "web"


def test_dynamic_policies_are_read_too():
    weak = QuickModePolicyObject("qm", soft=True)
    rule = DynamicRule(ME_TO_PEER, "mm", "qm")
    dynamic = DynamicSet((MainModePolicyObject("mm"),), (weak,), (rule,))
    found = kinds(lint([], [ME], dynamic=dynamic))
    assert {Lint.WEAK_ALGORITHM, Lint.CLEAR_ALLOWED} <= found


def test_every_kind_has_a_remedy():
    assert set(REMEDIES) == set(Lint)
