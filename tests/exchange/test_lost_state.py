"""Proofs of lost state: what they are worth, and what forged ones are not.

alpha                                 beta (restarted, or another node of its cluster)
  ESP with an SPI from before     ->
                                  <-   HDR, N(STATE-LOST, the SPI, proofs)
  main mode, quick mode           ->
"""

from ipaddress import ip_address

import pytest
from exchange_harness import (
    ALPHA,
    BETA,
    EXACT,
    Network,
    Node,
    Policy,
    established,
    negotiation,
    pairs_up,
)

from stockade.ike import proofs
from stockade.ike.contract import DeletePeer, ReportKind, Shutdown
from stockade.ike.proofs import GENERATIONS, TOKEN_SIZE, RestartSecret
from stockade.model.addresses import Endpoint
from stockade.model.filters import Direction
from stockade.model.reasons import Reason, ReasonCode
from stockade.model.secret import Secret

GAMMA_SECRET = bytes(range(100, 132))


def secret_of(
    generation: int = 0, node: str = "", others: tuple[str, ...] = (), key: bytes = bytes(range(32))
):
    return RestartSecret(Secret(key), generation, node, others)


def node_with(address, secret: RestartSecret | None, seed: int = 0, config=EXACT) -> Node:
    node = Node(address, Policy(negotiation()), seed, config)
    node.engine._context.restart_secret = secret
    return node


def scene(secret: RestartSecret | None = None) -> tuple[Network, Node, Node]:
    alpha = node_with(ALPHA, secret_of(key=GAMMA_SECRET))
    beta = node_with(BETA, secret or secret_of())
    network = Network([alpha, beta])
    established(network, alpha, beta)
    return network, alpha, beta


def restarted(network: Network, beta: Node, secret: RestartSecret, seed: int = 9) -> Node:
    network.nodes.remove(beta)
    again = node_with(BETA, secret, seed)
    network.nodes.append(again)
    return again


def outbound_spi(node: Node) -> int:
    return node.of(Direction.OUTBOUND)[0].spi


def use_unknown_spi(network: Network, node: Node, spi: int, peer=ALPHA) -> None:
    """The driver of `node` saw a packet from `peer` with this SPI."""
    node.engine.prove_lost(node.address, peer, spi, network.now)
    network.pump()


@pytest.mark.parametrize("generation", range(1, GENERATIONS))
def test_a_restarted_node_proves_it_and_is_negotiated_with_at_once(generation: int) -> None:
    network, alpha, beta = scene()
    spi = outbound_spi(alpha)
    beta = restarted(network, beta, secret_of(generation))
    before = network.now
    use_unknown_spi(network, beta, spi)
    assert network.run(
        1,
        lambda: len(beta.sas) == 2 and outbound_spi(alpha) != spi if alpha.of(Direction.OUTBOUND) else False,
    )
    assert network.now - before < 0.2
    assert alpha.codes(ReportKind.QUICK_MODE_DELETED) == [ReasonCode.PEER_LOST_STATE]
    assert pairs_up(alpha, beta)()


def test_another_node_of_the_cluster_proves_for_the_one_that_died() -> None:
    network, alpha, beta = scene(secret_of(7, "one", ("two", "three")))
    spi = outbound_spi(alpha)
    other = restarted(network, beta, secret_of(4, "two", ("one", "three")))
    use_unknown_spi(network, other, spi)
    assert network.run(1, pairs_up(alpha, other))


def test_nothing_is_proved_for_a_node_that_lives_and_holds_the_address_too() -> None:
    """As behind a balancer: what is asked about may well be what that node still has."""
    network, alpha, beta = scene(secret_of(7, "one", ("two",)))
    spi = outbound_spi(alpha)
    other = node_with(BETA, secret_of(4, "two", ("one",)), 9)
    living = ["one"]
    other.engine.set_living_holders(lambda address: living if address == BETA else ())
    network.nodes.append(other)
    use_unknown_spi(network, other, spi)
    network.run(5)
    assert pairs_up(alpha, beta)()
    assert not alpha.codes(ReportKind.QUICK_MODE_DELETED)
    network.nodes.remove(beta)
    living.clear()  # it fell silent
    use_unknown_spi(network, other, spi)
    assert network.run(1, pairs_up(alpha, other))


def test_a_message_under_forgotten_cookies_is_answered_with_a_proof() -> None:
    network, alpha, beta = scene()
    beta = restarted(network, beta, secret_of(1))
    before = network.now
    network.command(alpha, alpha.acquire(BETA))  # a quick mode under the old main mode
    assert network.run(5, lambda: len(beta.sas) >= 2)
    assert network.now - before < 0.3  # an INVALID-COOKIE alone costs three seconds
    assert alpha.codes(ReportKind.MAIN_MODE_DELETED) == [ReasonCode.PEER_LOST_STATE]


def test_a_running_node_never_says_a_token_of_its_own_generation() -> None:
    """Whoever asks it about SPIs gets nothing that any SA of this run will ever be worth."""
    secret = secret_of(2, "one", ("two",))
    for spi in (0x1000, 0xFFFF_FFFF):
        what = proofs.about_pair(spi)
        shown = secret.proofs(what, BETA, ALPHA)
        assert len(shown) == TOKEN_SIZE * (GENERATIONS - 1 + GENERATIONS)
        assert secret.token(what, BETA, ALPHA) not in [
            shown[at : at + TOKEN_SIZE] for at in range(0, len(shown), TOKEN_SIZE)
        ]


def test_a_node_that_still_has_the_pair_proves_nothing() -> None:
    network, alpha, beta = scene(secret_of(0, "one", ("two",)))
    before = len(network.sent)
    use_unknown_spi(network, beta, outbound_spi(alpha))
    network.run(5)
    assert len(network.sent) == before
    assert pairs_up(alpha, beta)()


def stranger(network: Network, secret: RestartSecret, spi: int) -> bytes:
    """The proof that a node with this secret shows for an SPI."""
    forger = node_with(BETA, secret, 77)
    forger.engine.prove_lost(BETA, ALPHA, spi, network.now)
    (send,) = [effect for effect in forger.engine.effects() if hasattr(effect, "datagram")]
    return send.datagram


def test_forged_proofs_tear_nothing_down() -> None:
    network, alpha, beta = scene()
    spi = outbound_spi(alpha)
    wrong = stranger(network, secret_of(1, key=GAMMA_SECRET), spi)
    right = stranger(network, secret_of(1), spi)
    other_pair = stranger(network, secret_of(1), spi ^ 1)
    source = Endpoint(BETA, 500)
    for datagram in (wrong, other_pair, right[:-1], right[:-TOKEN_SIZE], wrong + bytes(TOKEN_SIZE)):
        network.inject(datagram, source, alpha)
    # From elsewhere: a proof says something about the host that it comes from.
    network.inject(right, Endpoint(ip_address("10.9.0.77"), 500), alpha)
    for offset in range(TOKEN_SIZE):
        bad = bytearray(right)
        for token in range(1, GENERATIONS):
            bad[len(right) - token * TOKEN_SIZE + offset] ^= 0x41
        network.inject(bytes(bad), source, alpha)
    network.run(10)
    assert pairs_up(alpha, beta)()
    assert not alpha.codes(ReportKind.QUICK_MODE_DELETED) + alpha.codes(ReportKind.MAIN_MODE_DELETED)
    assert outbound_spi(alpha) == spi


def test_a_replayed_proof_is_worth_nothing_after_the_pair_is_gone() -> None:
    network, alpha, beta = scene()
    spi = outbound_spi(alpha)
    recorded = stranger(network, secret_of(1), spi)
    beta = restarted(network, beta, secret_of(1))
    use_unknown_spi(network, beta, spi)
    assert network.run(1, pairs_up(alpha, beta))
    now_in_use = outbound_spi(alpha)
    for _ in range(20):
        network.inject(recorded, Endpoint(BETA, 500), alpha)
        network.run(1)
    assert outbound_spi(alpha) == now_in_use
    assert alpha.engine.statistics["proofs_accepted"] == 1


def test_a_flood_of_unknown_spis_costs_bounded_answers() -> None:
    network, alpha, beta = scene(secret_of(1))
    before = len(network.sent)
    for number in range(5000):
        beta.engine.prove_lost(BETA, ip_address(0x0A090100 + number % 200), 0x10000 + number, network.now)
    network.pump()
    assert len(network.sent) - before <= EXACT.proofs_per_second
    for number in range(100):
        beta.engine.prove_lost(BETA, ALPHA, 0x90000 + number, network.now)
    network.pump()
    assert sum(packet.send.remote.address == ALPHA for packet in network.sent[before:]) <= 3
    assert pairs_up(alpha, beta)()


def test_a_flood_of_forged_proofs_leaves_everything_alone_and_no_state_behind() -> None:
    network, alpha, beta = scene()
    wrong = stranger(network, secret_of(1, key=GAMMA_SECRET), outbound_spi(alpha))
    before = len(network.sent)
    for _ in range(3000):
        alpha.engine.receive(wrong, alpha.endpoint, Endpoint(BETA, 500), network.now)
    network.pump()
    assert len(network.sent) == before
    assert alpha.engine.statistics["proofs_refused"] == 3000
    assert len(alpha.reported(ReportKind.MESSAGE_REFUSED)) <= 6
    assert pairs_up(alpha, beta)()


def test_peers_that_know_nothing_of_it_are_told_nothing() -> None:
    network = Network([])
    alpha, beta = node_with(ALPHA, secret_of(key=GAMMA_SECRET)), node_with(BETA, None)
    network.nodes += [alpha, beta]
    established(network, alpha, beta)
    assert not any(pair.tokens for node in (alpha, beta) for pair in node.engine._table.pairs())


def test_tokens_stand_in_no_report_and_no_repr() -> None:
    _, alpha, beta = scene()
    secret = secret_of()
    token = secret.token(proofs.about_pair(outbound_spi(alpha)), BETA, ALPHA)
    assert token in alpha.engine._table.pair_by_outbound(BETA, outbound_spi(alpha)).tokens.values()
    text = repr([report for node in (alpha, beta) for report in node.reports]) + repr(secret)
    assert token.hex() not in text
    assert repr(token)[2:-1] not in text


def test_an_orderly_restart_announces_itself_and_is_found_within_a_tenth_of_a_second() -> None:
    network, alpha, beta = scene()
    network.command(beta, Shutdown(Reason.of(ReasonCode.SHUTTING_DOWN)))
    network.run(0.5)
    assert not alpha.sas
    network.nodes.remove(beta)
    network.command(alpha, alpha.acquire(BETA))  # traffic goes on while it is away
    network.run(0.733)
    back = network.now
    beta = node_with(BETA, secret_of(1), 5)
    network.nodes.append(beta)
    assert network.run(5, pairs_up(alpha, beta))
    assert network.now - back < 0.2


def test_a_delete_without_farewell_is_no_reason_for_haste() -> None:
    network, alpha, beta = scene()
    network.command(beta, DeletePeer(ALPHA, Reason.of(ReasonCode.SA_DELETED)))
    network.run(0.5)
    network.nodes.remove(beta)
    before = len(network.sent)
    network.command(alpha, alpha.acquire(BETA))
    network.run(20)
    assert len(network.sent) - before == 5  # 0, 1, 3, 7, 15 s
