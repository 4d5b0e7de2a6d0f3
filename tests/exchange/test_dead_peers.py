"""Dead peer detection (RFC 3706).

alpha                                beta
  HDR*, HASH, N(R-U-THERE)       ->
                                 <-   HDR*, HASH, N(R-U-THERE-ACK)
"""

from dataclasses import replace

import pytest
from exchange_harness import (
    ALPHA,
    BETA,
    EXACT,
    Network,
    Node,
    Policy,
    deliver,
    established,
    negotiation,
    pairs_up,
    two_hosts,
)

from stockade.ike.contract import ProbePeer, RekeyQuickMode, ReportKind
from stockade.ike.v1.dead_peer_detection import answer, question
from stockade.model.filters import Direction
from stockade.model.reasons import ReasonCode
from stockade.wire.isakmp.constants import DomainOfInterpretation, NotifyType, ProtocolId
from stockade.wire.isakmp.payloads import NotificationPayload

PROBE = ProbePeer(ALPHA, BETA)
TRIES = sum(EXACT.probe_intervals)


def test_a_living_peer_answers_once_and_stays() -> None:
    network, alpha, beta = two_hosts()
    established(network, alpha, beta)
    before = len(network.sent)
    network.command(alpha, PROBE)
    network.run(60)
    assert [packet.send.local.address for packet in network.sent[before:]] == [ALPHA, BETA]
    assert pairs_up(alpha, beta)()
    assert not alpha.reported(ReportKind.MESSAGE_REFUSED) + beta.reported(ReportKind.MESSAGE_REFUSED)


def test_a_dead_peer_is_given_up_and_negotiated_anew_when_it_is_back() -> None:
    network, alpha, beta = two_hosts()
    established(network, alpha, beta)
    network.nodes.remove(beta)
    start = network.now
    network.command(alpha, PROBE)
    assert network.run(60, lambda: not alpha.sas)
    assert network.now - start == pytest.approx(TRIES)
    assert alpha.codes(ReportKind.MAIN_MODE_DELETED) == [ReasonCode.PEER_DEAD]
    assert alpha.codes(ReportKind.QUICK_MODE_DELETED) == [ReasonCode.PEER_DEAD]
    again = Node(BETA, beta.policy, 5)
    network.nodes.append(again)
    network.command(alpha, alpha.acquire(BETA))
    assert network.run(5, pairs_up(alpha, again))


def test_a_question_after_the_word_that_ends_the_main_mode_is_nobodys() -> None:
    """In one message the peer says that it no longer knows the main mode, and asks whether we live."""
    network, alpha, beta = two_hosts()
    established(network, alpha, beta)
    old = alpha.engine.main_modes(0)[0].cookies
    spi = alpha.of(Direction.INBOUND)[0].spi
    network.fate = lambda packet: deliver(packet) if packet.header.exchange_type == 5 else []
    network.command(alpha, RekeyQuickMode(spi))
    (mode,) = beta.engine._table.main_modes()
    cookies = bytes.fromhex(old.replace(":", ""))
    unknown = NotificationPayload(
        DomainOfInterpretation.IPSEC, ProtocolId.ISAKMP, cookies, NotifyType.INVALID_COOKIE
    )
    mode.notices.send_protected((unknown, question(cookies, 1)))
    network.run(1)
    assert alpha.codes(ReportKind.MAIN_MODE_DELETED) == [ReasonCode.UNKNOWN_COOKIE]
    network.fate = deliver
    assert network.run(30, lambda: len(alpha.reported(ReportKind.MAIN_MODE_ESTABLISHED)) == 2)


def test_one_lost_question_kills_nobody() -> None:
    network, alpha, beta = two_hosts()
    established(network, alpha, beta)
    first = len(network.sent) + 1
    network.fate = lambda packet: [] if packet.number == first else [(0.01, packet.send.datagram)]
    network.command(alpha, PROBE)
    network.run(60)
    assert len(network.sent) == first + 2
    assert pairs_up(alpha, beta)()


def test_a_second_doubt_joins_the_first() -> None:
    network, alpha, beta = two_hosts()
    established(network, alpha, beta)
    before = len(network.sent)
    network.command(alpha, PROBE)
    network.command(alpha, PROBE)
    network.run(60)
    assert len(network.sent) == before + 2
    network.command(alpha, PROBE)  # a later one is a new one
    network.run(60)
    assert len(network.sent) == before + 4


def test_a_peer_that_did_not_announce_it_is_not_asked() -> None:
    rule = negotiation()
    alpha = Node(ALPHA, Policy(rule), 0, EXACT)
    beta = Node(BETA, Policy(rule), 0, replace(EXACT, dead_peer_detection=False))
    network = Network([alpha, beta])
    established(network, alpha, beta)
    before = len(network.sent)
    network.command(alpha, PROBE)
    network.run(60)
    assert len(network.sent) == before
    assert alpha.sas


def test_a_question_about_another_main_mode_is_not_answered() -> None:
    cookies = bytes(range(16))
    asked = question(cookies, 7)
    found = answer(asked, cookies)
    assert found is not None
    assert (found.type, found.data, found.spi) == (NotifyType.R_U_THERE_ACK, asked.data, cookies)
    assert answer(asked, cookies[::-1]) is None
    assert answer(replace(asked, data=b"123"), cookies) is None
    assert answer(found, cookies) is None
