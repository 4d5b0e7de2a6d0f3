"""What a data plane lacks is refused when the policy is compiled, naming the rule and the method."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from stockade.driver.limits import registered_kernel_capabilities, software_capabilities
from stockade.model.filters import Action
from stockade.model.negotiation import Mode
from stockade.model.reasons import CallerError, ReasonCode
from stockade.model.suites import Encryption, EspSuite, Gmac, Hash, QuickModeProposal
from stockade.policy.compiler import ALL_VERSIONS, PolicyCompiler, compile_table
from stockade.policy.findings import Lint, Severity
from stockade.policy.lint import lint
from stockade.policy.objects import (
    DEFAULT_RESPONSE_ACTION,
    DYNAMIC_FILTER_LIST,
    Filter,
    FilterAction,
    FilterAddress,
    Rule,
)

ME, PEER = ip_address("10.0.0.1"), ip_address("10.0.0.2")
TO_PEER = Filter(FilterAddress.me(), FilterAddress.of(PEER))
SOFTWARE = software_capabilities("userspace")
KERNEL = registered_kernel_capabilities()
GCM = QuickModeProposal(EspSuite(Encryption.AES_GCM_128, None))
AH_GMAC = QuickModeProposal(ah=Gmac.AES_GMAC_128)
AH_SHA1 = QuickModeProposal(ah=Hash.SHA1)

LACKING = [
    (AH_GMAC, KERNEL, f"AH with {Gmac.AES_GMAC_128}"),
    (
        GCM,
        replace(SOFTWARE, encryptions=SOFTWARE.encryptions - {Encryption.AES_GCM_128}),
        str(Encryption.AES_GCM_128),
    ),
    (
        QuickModeProposal(EspSuite(Encryption.AES_CBC_128, Hash.MD5)),
        replace(SOFTWARE, integrities=frozenset({Hash.SHA1})),
        str(Hash.MD5),
    ),
    (AH_SHA1, replace(SOFTWARE, authentication_header=False), "AH"),
    (
        replace(GCM, extended_sequence=True),
        replace(SOFTWARE, extended_sequence=False),
        "extended sequence numbers",
    ),
]


def negotiating(policy_set, *methods, rule=None, filters=(TO_PEER,)):
    action = FilterAction("secure", Action.NEGOTIATE, methods=methods)
    return policy_set(("web", filters, action, rule or {}))


@pytest.mark.parametrize(("method", "has", "missing"), LACKING, ids=[case[2] for case in LACKING])
def test_a_method_that_the_data_plane_lacks_refuses_the_policy(policy_set, method, has, missing):
    asks = [negotiating(policy_set, method)]
    assert compile_table(asks, [ME], capabilities=SOFTWARE).filters
    with pytest.raises(CallerError) as caught:
        compile_table(asks, [ME], capabilities=has)
    reason = caught.value.reason
    assert reason.code is ReasonCode.DRIVER_LACKS
    assert f"the {has.name} data plane has no {missing}" in reason.detail
    facts = dict(reason.facts)
    assert (facts["store"], facts["policy"], facts["rule"]) == ("local", "Office", "web")
    assert facts["method"] == str(method)


def test_one_method_of_several_is_enough_for_the_refusal(policy_set):
    """A method that is offered must work: the peer may choose it."""
    ccm = QuickModeProposal(EspSuite(Encryption.AES_CCM_128, None))
    has = replace(SOFTWARE, encryptions=SOFTWARE.encryptions - {Encryption.AES_CCM_128})
    with pytest.raises(CallerError) as caught:
        compile_table([negotiating(policy_set, GCM, ccm)], [ME], capabilities=has)
    assert dict(caught.value.reason.facts)["method"] == str(ccm)


def test_a_mode_and_a_family_outside_are_refused_too(policy_set):
    tunnel = [negotiating(policy_set, GCM, rule={"tunnel_endpoint": PEER})]
    with pytest.raises(CallerError, match="no tunnel mode"):
        compile_table(tunnel, [ME], capabilities=replace(SOFTWARE, modes=frozenset({Mode.TRANSPORT})))
    outer6 = [negotiating(policy_set, GCM, rule={"tunnel_endpoint": ip_address("fd00::2")})]
    with pytest.raises(CallerError, match="no tunnel over IPv6"):
        compile_table(
            outer6,
            [ME],
            secured_versions=frozenset({4}),
            capabilities=software_capabilities("x", frozenset({4})),
        )


def test_a_rule_that_secures_nothing_is_not_refused(policy_set):
    assert not compile_table(
        [negotiating(policy_set, AH_GMAC, filters=())], [ME], capabilities=KERNEL
    ).filters


def test_the_default_response_rule_is_asked_too(policy_set):
    base = policy_set()
    rule = Rule(
        "",
        DYNAMIC_FILTER_LIST,
        DEFAULT_RESPONSE_ACTION,
        authentication=negotiating(policy_set, GCM).policies[0].rules[0].authentication,
        is_default_response=True,
        response_methods=(AH_GMAC,),
    )
    asks = replace(base, policies=(replace(base.policies[0], rules=(rule,)),))
    assert compile_table([asks], [ME], capabilities=SOFTWARE).default_response is not None
    with pytest.raises(CallerError) as caught:
        compile_table([asks], [ME], capabilities=KERNEL)
    assert caught.value.reason.code is ReasonCode.DRIVER_LACKS
    assert dict(caught.value.reason.facts)["rule"] == DEFAULT_RESPONSE_ACTION


def test_methods_of_another_protocol_than_the_first_are_left_out_where_the_data_plane_needs_one(policy_set):
    asks = [negotiating(policy_set, GCM, AH_SHA1)]
    table = compile_table(asks, [ME], capabilities=KERNEL)
    (negotiation,) = table.negotiations.values()
    assert negotiation.quick_mode.proposals == (GCM,)
    assert any("only methods with ESP are used" in text for text in table.warnings)
    # Also where the one that is left out is one that the data plane lacks.
    assert compile_table([negotiating(policy_set, GCM, AH_GMAC)], [ME], capabilities=KERNEL).filters
    (left_out,) = [one for one in lint(asks, [ME], capabilities=KERNEL) if one.kind is Lint.METHODS_LEFT_OUT]
    assert (left_out.severity, left_out.provenance.rule) == (Severity.WARNING, "web")


def test_a_compiler_that_refused_goes_on_as_if_it_had_not_been_asked(policy_set):
    compiler = PolicyCompiler()
    good, bad = negotiating(policy_set, GCM), negotiating(policy_set, AH_GMAC)
    table = compiler.compile([good], [ME], 3, ALL_VERSIONS, None, KERNEL)
    with pytest.raises(CallerError):
        compiler.compile([bad], [ME], 3, ALL_VERSIONS, None, KERNEL)
    again = compiler.compile([good], [ME], 3, ALL_VERSIONS, None, KERNEL)
    assert (again.filters, again.negotiations) == (table.filters, table.negotiations)


def test_lint_says_what_the_data_plane_refuses(policy_set):
    asks = [negotiating(policy_set, AH_GMAC)]
    assert all(one.kind is not Lint.REFUSED for one in lint(asks, [ME]))
    (refused,) = [one for one in lint(asks, [ME], capabilities=KERNEL) if one.kind is Lint.REFUSED]
    assert (refused.severity, refused.provenance.rule) == (Severity.ERROR, "web")
    assert "the kernel data plane has no AH with" in refused.text


def test_the_registry_knows_what_the_kernel_has_no_name_for():
    assert SOFTWARE.integrities - KERNEL.integrities == set(Gmac)
    assert SOFTWARE.encryptions == KERNEL.encryptions
