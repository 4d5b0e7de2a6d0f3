"""ICMP unreachable is a reason to ask, and nothing else: a forger makes us ask a living peer.

somebody                             alpha                                beta
  ICMP "beta cannot be reached"  ->
                                       HDR*, HASH, N(R-U-THERE)       ->
                                                                      <-   HDR*, HASH, N(R-U-THERE-ACK)
"""

from dataclasses import replace
from ipaddress import ip_address

import pytest
from exchange_harness import (
    ALPHA,
    BETA,
    EXACT,
    GAMMA,
    Network,
    Node,
    Policy,
    established,
    negotiation,
    pairs_up,
    two_hosts,
)

from stockade.ike import evidence
from stockade.ike.contract import PeerUnreachable, ReportKind
from stockade.ike.liveness import PeerTraits, plan_for
from stockade.model.filters import Direction
from stockade.model.reasons import Reason, ReasonCode

WHY = Reason.of(ReasonCode.PEER_UNREACHABLE, "a router says so", peer=BETA)
PATIENCE = sum(plan_for(EXACT, PeerTraits(can_be_asked=True)).probes)


def unreachable(spi: int | None = None, local=ALPHA, peer=BETA) -> PeerUnreachable:
    return PeerUnreachable(local, peer, spi, WHY)


def without_questions() -> tuple[Network, Node, Node]:
    """beta cannot be asked."""
    rule = negotiation()
    alpha = Node(ALPHA, Policy(rule), 0, EXACT)
    beta = Node(BETA, Policy(rule), 0, replace(EXACT, dead_peer_detection=False))
    network = Network([alpha, beta])
    established(network, alpha, beta)
    return network, alpha, beta


def outbound_spi(node: Node) -> int:
    return node.of(Direction.OUTBOUND)[0].spi


def deleted(node: Node) -> list[ReasonCode]:
    return node.codes(ReportKind.QUICK_MODE_DELETED) + node.codes(ReportKind.MAIN_MODE_DELETED)


def test_a_living_peer_is_asked_and_stays() -> None:
    network, alpha, beta = two_hosts()
    established(network, alpha, beta)
    before = len(network.sent)
    network.command(alpha, unreachable())
    network.run(60)
    assert [packet.send.local.address for packet in network.sent[before:]] == [ALPHA, BETA]
    assert pairs_up(alpha, beta)()
    assert not deleted(alpha)
    assert ReasonCode.PEER_UNREACHABLE in alpha.codes(ReportKind.NOTIFICATION)


def test_a_dead_peer_is_noticed_sooner_than_by_its_silence() -> None:
    network, alpha, beta = two_hosts()
    established(network, alpha, beta)
    network.nodes.remove(beta)
    start = network.now
    network.command(alpha, unreachable())
    assert network.run(60, lambda: not alpha.sas)
    assert network.now - start == pytest.approx(PATIENCE)
    assert set(deleted(alpha)) == {ReasonCode.PEER_DEAD}


def test_a_flood_of_forged_messages_asks_now_and_then_and_tears_nothing_down() -> None:
    network, alpha, beta = two_hosts()
    established(network, alpha, beta)
    before, seconds = len(network.sent), 60
    for _ in range(seconds * 100):
        network.command(alpha, unreachable(0x0BAD_0BAD))
        network.run(0.01)
    questions = sum(packet.send.local.address == ALPHA for packet in network.sent[before:])
    assert 1 < questions <= seconds * evidence.PER_SECOND_AND_PEER + 1
    assert pairs_up(alpha, beta)()
    assert not deleted(alpha)
    assert len(alpha.reported(ReportKind.NOTIFICATION)) <= seconds + 1


def test_strangers_cost_nothing() -> None:
    network, alpha, beta = two_hosts()
    established(network, alpha, beta)
    before = len(network.sent)
    for number in range(500):
        network.command(alpha, unreachable(1, peer=ip_address(0x0B000000 + number)))
    network.command(alpha, unreachable(peer=GAMMA))
    network.command(alpha, unreachable(local=GAMMA))
    network.run(10)
    assert len(network.sent) == before
    assert alpha.engine.statistics["unreachables_received"] == 0


def test_a_peer_that_cannot_be_asked_is_left_alone_by_who_did_not_see_its_packets() -> None:
    network, alpha, beta = without_questions()
    network.run(2 * evidence.LEAST_AGE)
    before = len(network.sent)
    for spi in (None, 0x0BAD_0BAD, alpha.of(Direction.INBOUND)[0].spi):
        network.command(alpha, unreachable(spi))
        network.run(5)
    assert len(network.sent) == before
    assert pairs_up(alpha, beta)()


def test_its_own_spi_makes_one_quick_mode_a_minute() -> None:
    network, alpha, beta = without_questions()
    first = outbound_spi(alpha)
    network.command(alpha, unreachable(first))
    network.run(5)
    assert outbound_spi(alpha) == first  # too young
    network.run(2 * evidence.LEAST_AGE)
    for _ in range(20):
        network.command(alpha, unreachable(max(sa.spi for sa in alpha.of(Direction.OUTBOUND))))
        network.run(2.5)
    assert alpha.engine.statistics["quick_modes"] == 2
    assert pairs_up(alpha, beta)()
    assert alpha.engine.statistics["main_modes"] == 1


def test_a_dead_peer_that_cannot_be_asked_is_given_up_after_a_quick_mode() -> None:
    network, alpha, beta = without_questions()
    network.run(2 * evidence.LEAST_AGE)
    network.nodes.remove(beta)
    network.command(alpha, unreachable(outbound_spi(alpha)))
    assert network.run(64, lambda: not alpha.of(Direction.OUTBOUND))
    again = Node(BETA, beta.policy, 5)
    network.nodes.append(again)
    assert network.run(20, pairs_up(alpha, again))
