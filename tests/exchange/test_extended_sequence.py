"""Extended sequence numbers (RFC 4304): an attribute of the offer, and of the SAs that come of it.

initiator                                            responder
HDR*, HASH(1), SA(ESP …, extended sequence number), Ni  ->
                                  <-  HDR*, HASH(2), SA(the same), Nr
HDR*, HASH(3)                                        ->
"""

from dataclasses import replace

import pytest
from exchange_harness import BETA, ESP, assert_matching, established, negotiation, pairs_up, two_hosts

from stockade.model.reasons import ReasonCode
from stockade.model.suites import Encryption, EspSuite, Hash, QuickModeProposal

EXTENDED = replace(ESP, extended_sequence=True)
BUNDLE = QuickModeProposal(EspSuite(Encryption.TRIPLE_DES_CBC, None), Hash.SHA1, extended_sequence=True)


@pytest.mark.parametrize("method", [EXTENDED, replace(BUNDLE, esp=None)], ids=str)
def test_both_ends_count_in_64_bits(method: QuickModeProposal) -> None:
    network, alpha, beta = two_hosts(negotiation(quick=(method,)))
    established(network, alpha, beta)
    assert_matching(alpha, beta)
    assert all(sa.extended_sequence for node in (alpha, beta) for sa in node.sas.values())


def test_so_does_each_half_of_a_bundle() -> None:
    network, alpha, beta = two_hosts(negotiation(quick=(BUNDLE,)))
    network.command(alpha, alpha.acquire(BETA))
    assert network.run(5, pairs_up(alpha, beta, pairs=2)), alpha.reports + beta.reports
    assert all(sa.extended_sequence for node in (alpha, beta) for sa in node.sas.values())


def test_a_policy_that_does_not_ask_gets_32_bits() -> None:
    network, alpha, beta = two_hosts(negotiation(quick=(ESP,)))
    established(network, alpha, beta)
    assert not any(sa.extended_sequence for node in (alpha, beta) for sa in node.sas.values())


def test_the_first_method_that_both_have_is_taken() -> None:
    network, alpha, beta = two_hosts(negotiation(quick=(EXTENDED, ESP)), negotiation(quick=(ESP,)))
    established(network, alpha, beta)
    assert not any(sa.extended_sequence for node in (alpha, beta) for sa in node.sas.values())


def test_nobody_gets_other_numbers_than_policy_says() -> None:
    for ours, theirs in ((EXTENDED, ESP), (ESP, EXTENDED)):
        network, alpha, beta = two_hosts(negotiation(quick=(ours,)), negotiation(quick=(theirs,)))
        network.command(alpha, alpha.acquire(BETA))
        assert not network.run(20, pairs_up(alpha, beta))
        codes = {report.reason.code for report in beta.reports if getattr(report, "reason", None)}
        assert ReasonCode.NO_PROPOSAL_CHOSEN in codes
        assert not alpha.sas
        assert not beta.sas
