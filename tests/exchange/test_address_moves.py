"""An address that moves from one node of a cluster to another, as the engines see it.

client                               node
  HDR, SA (nobody has the address)  ─╳
                                 <-   HDR, SA, Vid-Initial-Contact      the node has got it, and begins
  …                              ->
  HDR, SA (the same, repeated)   ->   too late: it claims that there is nothing older
"""

from exchange_harness import ALPHA, BETA, Network, Node, Policy, established, negotiation, pairs_up, two_hosts

from stockade.ike.contract import DeleteLocal, ReportKind
from stockade.model.reasons import Reason, ReasonCode


def moved() -> Reason:
    return Reason.of(ReasonCode.CLUSTER_ADDRESS, "it moves")


def test_what_waits_for_a_main_mode_that_was_never_answered_goes_on_under_the_peers() -> None:
    client, node = Node(ALPHA, Policy(negotiation()), 1), Node(BETA, Policy(negotiation()), 2)
    network = Network([client])
    network.command(client, client.acquire(BETA))
    network.run(0.5)
    network.nodes.append(node)
    network.command(node, node.acquire(ALPHA))
    network.run(0.5, pairs_up(client, node))
    network.run(60)
    # Neither end keeps a pair that the other one has taken out.
    assert {sa.spi for sa in client.sas.values()} == {sa.spi for sa in node.sas.values()}
    assert len(client.engine.main_modes(network.now)) == 1
    assert client.codes(ReportKind.MAIN_MODE_FAILED) in ([], [ReasonCode.SA_REPLACED])
    assert not client.reported(ReportKind.QUICK_MODE_FAILED)


def test_an_address_that_leaves_takes_with_it_what_was_made_on_it_and_says_so() -> None:
    network, alpha, beta = two_hosts()
    established(network, alpha, beta)
    network.command(alpha, DeleteLocal(ALPHA, moved(), tell=True))
    assert not alpha.sas
    assert not alpha.engine.main_modes(network.now)
    assert network.run(1, lambda: not beta.sas and not beta.engine.main_modes(network.now))
    assert alpha.codes(ReportKind.QUICK_MODE_DELETED) == [ReasonCode.CLUSTER_ADDRESS]


def test_an_address_that_has_left_is_forgotten_without_a_word() -> None:
    network, alpha, beta = two_hosts()
    established(network, alpha, beta)
    before = len(network.sent)
    network.command(alpha, DeleteLocal(ALPHA, moved(), tell=False))
    network.run(5)
    assert not alpha.sas
    assert len(network.sent) == before
    assert beta.sas


def test_other_addresses_are_left_alone() -> None:
    network, alpha, beta = two_hosts()
    established(network, alpha, beta)
    network.command(alpha, DeleteLocal(BETA, moved(), tell=True))
    network.run(5)
    assert pairs_up(alpha, beta)()
