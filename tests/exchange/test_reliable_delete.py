"""Reliable deletes ([MS-IKEE] §3.8), from both sides.

who deletes                                     peer
 HDR*, HASH(1), Ni, D                  ->       takes the SA out
                                       <-       HDR*, HASH(2), D, Nr       (same message id)
 repeated at 1, 3, 7, 15, 31 s until it comes; acknowledged every time
"""

import pytest
from exchange_harness import (
    ALPHA,
    BETA,
    EXACT,
    Network,
    Node,
    Packet,
    Policy,
    deliver,
    established,
    negotiation,
    two_hosts,
)

from stockade.ike.contract import DeletePeer, DeleteQuickMode, Shutdown
from stockade.model.filters import Direction
from stockade.model.reasons import Reason, ReasonCode
from stockade.wire.isakmp.constants import ExchangeType

IDLE = Reason.of(ReasonCode.SA_IDLE)


def delete(network: Network, node: Node) -> None:
    network.command(node, DeleteQuickMode(node.of(Direction.INBOUND)[0].spi, IDLE))


def informational(network: Network, sender: Node, since: int) -> list[float]:
    """When the node sent informational messages."""
    return [
        packet.at
        for packet in network.sent[since:]
        if packet.header.exchange_type == ExchangeType.INFORMATIONAL
        and packet.send.local.address == sender.address
    ]


def test_delete_is_acknowledged_and_not_repeated() -> None:
    network, alpha, beta = two_hosts()
    established(network, alpha, beta)
    sent = len(network.sent)
    delete(network, alpha)
    network.run(100)
    assert not beta.sas
    assert len(informational(network, alpha, sent)) == 1
    assert len(informational(network, beta, sent)) == 1


def test_lost_delete_is_repeated() -> None:
    network, alpha, beta = two_hosts()
    established(network, alpha, beta)
    sent = len(network.sent)
    network.fate = lambda packet: [] if packet.number <= sent + 2 else deliver(packet)
    start = network.now
    delete(network, alpha)
    network.run(100)
    assert not beta.sas
    assert [at - start for at in informational(network, alpha, sent)] == pytest.approx([0, 1, 3])


def test_lost_acknowledgement_is_given_again_for_the_repeated_delete() -> None:
    network, alpha, beta = two_hosts()
    established(network, alpha, beta)
    sent = len(network.sent)
    lost: list[Packet] = []

    def lose_the_first_answer(packet: Packet) -> list[tuple[float, bytes]]:
        if packet.send.local.address == BETA and not lost:
            lost.append(packet)
            return []
        return deliver(packet)

    network.fate = lose_the_first_answer
    delete(network, alpha)
    network.run(100)
    assert len(informational(network, alpha, sent)) == 2
    answers = [packet.send.datagram for packet in network.sent[sent:] if packet.send.local.address == BETA]
    assert len(answers) == 2
    assert len(set(answers)) == 1


def test_silent_peer_gets_six_deletes_and_then_the_state_is_gone() -> None:
    network, alpha, beta = two_hosts()
    established(network, alpha, beta)
    network.run(EXACT.linger_seconds)
    sent = len(network.sent)
    network.fate = lambda packet: []
    start = network.now
    network.command(alpha, DeletePeer(BETA, IDLE))
    network.run(100)
    times = [at - start for at in informational(network, alpha, sent)]
    assert times == pytest.approx(sorted([0, 1, 3, 7, 15, 31] * 2))  # quick mode and main mode
    assert not alpha.engine._table._departed
    assert alpha.engine.next_timeout() is None


@pytest.mark.parametrize("lost", [0, 1, 2, 3])
def test_main_mode_is_deleted_reliably_with_what_was_under_it(lost: int) -> None:
    network, alpha, beta = two_hosts()
    established(network, alpha, beta)
    sent = len(network.sent)
    network.fate = lambda packet: [] if packet.number <= sent + lost else deliver(packet)
    network.command(alpha, Shutdown(IDLE))
    network.run(100)
    assert not beta.sas
    assert not beta.engine.main_modes(network.now)
    assert not alpha.engine._table._departed


def test_peer_that_is_not_microsofts_gets_the_plain_delete_once() -> None:
    """As with Windows 2000, which knows no nonce in a delete."""
    config = EXACT.__class__(retransmission_jitter=0.0, microsoft_version=2)
    rule = negotiation()
    alpha, beta = Node(ALPHA, Policy(rule)), Node(BETA, Policy(rule), config=config)
    network = Network([alpha, beta])
    established(network, alpha, beta)
    sent = len(network.sent)
    delete(network, alpha)
    network.run(100)
    assert not beta.sas
    assert len(informational(network, alpha, sent)) == 1
    assert not informational(network, beta, sent)  # a plain delete is not answered


def test_forged_or_replayed_acknowledgements_do_not_stop_the_repetition() -> None:
    network, alpha, beta = two_hosts()
    established(network, alpha, beta)
    sent = len(network.sent)

    def spoil(packet: Packet) -> list[tuple[float, bytes]]:
        if packet.send.local.address == ALPHA:
            return deliver(packet)
        datagram = bytearray(packet.send.datagram)
        datagram[-3] ^= 1
        return [(0.01, bytes(datagram))]

    network.fate = spoil
    delete(network, alpha)
    network.run(4)
    assert len(informational(network, alpha, sent)) == 3
    network.fate = deliver
    network.run(100)
    assert len(informational(network, alpha, sent)) == 4


def test_who_stops_knows_when_everybody_has_heard_it() -> None:
    """What a stopping agent waits for: shorter than the first repetition where the peer answers."""
    network, alpha, beta = two_hosts()
    established(network, alpha, beta)
    network.command(alpha, Shutdown(Reason.of(ReasonCode.SHUTTING_DOWN)))
    assert alpha.engine.unacknowledged_deletes == 2  # of the quick mode and of the main mode
    assert network.run(0.5, lambda: alpha.engine.unacknowledged_deletes == 0)
    assert not beta.sas


def test_who_stops_beside_a_silent_peer_goes_on_waiting() -> None:
    network, alpha, beta = two_hosts()
    established(network, alpha, beta)
    network.fate = lambda packet: []
    network.command(alpha, Shutdown(Reason.of(ReasonCode.SHUTTING_DOWN)))
    network.run(2)
    assert alpha.engine.unacknowledged_deletes == 2
    network.run(100)
    assert alpha.engine.unacknowledged_deletes == 0
