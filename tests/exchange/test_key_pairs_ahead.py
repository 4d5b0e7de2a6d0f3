"""Key pairs that an engine made in quiet moments: used, never twice, gone in time.

alpha (prepared)                 beta (prepared)
 3  HDR, KE, Ni            ->
 4                         <-    HDR, KE, Nr            each KE is one that waited, or a new one
"""

from exchange_harness import (
    EXACT,
    Network,
    Node,
    assert_matching,
    established,
    negotiation,
    pairs_up,
    two_hosts,
)

from stockade.ike.contract import DeletePeer, Shutdown
from stockade.ike.key_pool import MAXIMUM_AGE, SIZE
from stockade.model.reasons import Reason, ReasonCode
from stockade.wire.isakmp.message import HEADER_SIZE, decode_payloads
from stockade.wire.isakmp.payloads import KeyExchangePayload


def public_values(network: Network) -> list[bytes]:
    """Of all messages in clear."""
    found = []
    for packet in network.sent:
        if not packet.header.encrypted:
            payloads = decode_payloads(packet.header.next_payload, packet.send.datagram[HEADER_SIZE:])
            found += [e.payload.data for e in payloads if isinstance(e.payload, KeyExchangePayload)]
    return found


def prepare(network: Network, *nodes: Node) -> None:
    for node in nodes:
        while node.engine.work_ahead(network.now):
            pass


def test_an_engine_that_has_negotiated_nothing_has_no_work_ahead() -> None:
    _, alpha, _ = two_hosts()
    assert not alpha.engine.has_work_ahead
    assert not alpha.engine.work_ahead(0.0)
    assert alpha.engine.next_timeout() is None


def test_handshakes_use_what_waits_and_never_one_value_twice() -> None:
    network, alpha, beta = two_hosts(negotiation(pfs=True))
    gone = Reason.of(ReasonCode.SA_DELETED)
    for handshakes in range(1, 8):
        established(network, alpha, beta)
        assert_matching(alpha, beta)
        assert len(public_values(network)) == 2 * handshakes
        network.command(alpha, DeletePeer(beta.address, gone))
        network.run(10, lambda: not alpha.sas and not beta.sas)
        if handshakes > 2:  # before that they are made when they are needed
            prepare(network, alpha, beta)
            waiting = {value.public for _, value in alpha.engine._context.key_pool._ready[_group(alpha)]}
            assert len(waiting) == SIZE
            network.command(alpha, alpha.acquire(beta.address))
            assert network.run(5, pairs_up(alpha, beta))
            assert public_values(network)[-2] in waiting
            break
    values = public_values(network)
    assert len(set(values)) == len(values) > 6


def _group(node: Node) -> object:
    assert node.policy.rule is not None
    return node.policy.rule.main_mode.proposals[0].group


def test_key_pairs_that_wait_are_forgotten_in_time() -> None:
    network, alpha, beta = two_hosts()
    established(network, alpha, beta)
    network.command(alpha, DeletePeer(beta.address, Reason.of(ReasonCode.SA_DELETED)))
    prepare(network, alpha)
    assert len(alpha.engine._context.key_pool) == SIZE
    assert not alpha.engine.has_work_ahead
    network.run(MAXIMUM_AGE + EXACT.linger_seconds)
    assert len(alpha.engine._context.key_pool) == 0
    assert alpha.engine.has_work_ahead


def test_an_engine_that_is_shut_down_makes_nothing_more() -> None:
    network, alpha, beta = two_hosts()
    established(network, alpha, beta)
    network.command(alpha, Shutdown(Reason.of(ReasonCode.SHUTTING_DOWN)))
    assert not alpha.engine.work_ahead(network.now)
    assert len(alpha.engine._context.key_pool) == 0
