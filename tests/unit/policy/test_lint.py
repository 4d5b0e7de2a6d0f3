from dataclasses import replace
from ipaddress import ip_address

import pytest

from stockade.model.addresses import AddressRange
from stockade.model.filters import Action
from stockade.model.negotiation import Certificate, Kerberos, PresharedKey
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, EspSuite, Group, Hash, MainModeProposal, QuickModeProposal
from stockade.policy import lint
from stockade.policy.compiler import compile_table
from stockade.policy.lint import Lint, lint_policies, lint_table, weak_preshared_key
from stockade.policy.objects import Filter, FilterAction, FilterAddress, Rule

ME, PEER = ip_address("192.0.2.1"), ip_address("192.0.2.2")
ME_TO_ANY = Filter(FilterAddress.me(), FilterAddress.any())
ME_TO_PEER = Filter(FilterAddress.me(), FilterAddress.of(PEER))
STRONG_MAIN_MODE = (MainModeProposal(Encryption.AES_CBC_256, Hash.SHA_256, Group.MODP_2048),)
STRONG = FilterAction("strong", methods=(QuickModeProposal(EspSuite(Encryption.AES_GCM_256, None)),))


def kinds(findings):
    return {finding.kind for finding in findings}


def sound(policy_set, *rules):
    return policy_set(*rules, main_mode_methods=STRONG_MAIN_MODE)


def test_a_sound_policy_has_no_findings(policy_set):
    base = sound(policy_set, ("web", ME_TO_PEER, STRONG))
    assert lint_policies([base]) == ()
    assert lint_table(compile_table([base], [ME])) == ()


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
    (finding,) = lint_policies([sound(policy_set, ("web", ME_TO_PEER, action))])
    assert finding.kind is Lint.WEAK_ALGORITHM
    assert word in finding.text
    assert finding.provenance.rule == "web"


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


def test_authentication_that_is_not_available_yet_is_named(policy_set):
    key = PresharedKey(Secret(b"correct horse battery staple"))
    both = {"authentication": (Kerberos(), Certificate("CN=Root"), key)}
    findings = lint_policies([sound(policy_set, ("web", ME_TO_PEER, STRONG, both))])
    assert [finding.kind for finding in findings] == [Lint.AUTHENTICATION_UNAVAILABLE] * 2
    assert "CN=Root" in findings[1].text
    alone = {"authentication": (Kerberos(),)}
    findings = lint_policies([sound(policy_set, ("web", ME_TO_PEER, STRONG, alone))])
    assert "every negotiation fails" in findings[-1].text


def test_rules_that_do_nothing_or_name_nothing_are_named(policy_set):
    base = sound(policy_set, ("web", (), "block"))
    assert kinds(lint_policies([base])) == {Lint.RULE_WITHOUT_FILTERS}
    broken = replace(base, filter_lists=(), filter_actions=())
    assert [finding.kind for finding in lint_policies([broken])] == [Lint.RULE_NAMES_NOTHING] * 2


def test_the_default_response_rule_is_mentioned_only_while_active(policy_set):
    base = sound(policy_set)
    for active, expected in ((True, {Lint.DEFAULT_RESPONSE}), (False, set())):
        rule = Rule("", "<Dynamic>", "Default Response", active=active, is_default_response=True)
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
    (finding,) = lint_table(table)
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
    monkeypatch.setattr(lint, "MAXIMUM_COMPARISONS", 5)
    filters = [replace(ME_TO_PEER, protocol=number) for number in range(1, 9)]
    findings = lint_table(compile_table([policy_set(("many", filters, "block"))], [ME]))
    assert kinds(findings) == {Lint.INCOMPLETE}


def test_a_finding_prints_where_it_comes_from(policy_set):
    (finding,) = lint_policies([sound(policy_set, ("web", (), FilterAction("no", Action.BLOCK)))])
    assert str(finding).startswith("local store, policy “Office”, rule “web”")
    assert finding.as_dict()["kind"] == "rule-without-filters"
