"""The life of SAs: rekey, delete, expiry, INITIAL-CONTACT, shutting down."""

from dataclasses import replace

from exchange_harness import (
    ALPHA,
    BETA,
    ESP,
    EXACT,
    Network,
    Node,
    Packet,
    Policy,
    assert_matching,
    deliver,
    established,
    negotiation,
    pairs_up,
    two_hosts,
)

from stockade.ike.contract import (
    DeletePeer,
    DeleteQuickMode,
    RekeyQuickMode,
    RemoveSa,
    ReportKind,
    Shutdown,
)
from stockade.ike.v1.association import MainMode
from stockade.model.addresses import AddressRange
from stockade.model.filters import Direction
from stockade.model.reasons import Reason, ReasonCode
from stockade.model.traffic import TCP, TrafficSelector


def inbound_spi(node: Node) -> int:
    return node.of(Direction.INBOUND)[0].spi


def main_mode_of(node: Node) -> MainMode:
    return node.engine._table.main_modes()[0]


def test_rekey_makes_a_new_pair_and_deletes_the_old_one_after_its_grace() -> None:
    network, alpha, beta = two_hosts()
    established(network, alpha, beta)
    old = set(alpha.sas)
    network.command(alpha, RekeyQuickMode(inbound_spi(alpha)))
    network.command(alpha, RekeyQuickMode(min(spi for spi, d in old if d is Direction.INBOUND)))
    assert network.run(2, pairs_up(alpha, beta, pairs=2))
    assert_matching(alpha, beta)
    network.run(EXACT.rekey_grace_seconds + 1)
    assert pairs_up(alpha, beta)()
    assert_matching(alpha, beta)
    assert not old & set(alpha.sas)
    assert alpha.codes(ReportKind.QUICK_MODE_DELETED) == [ReasonCode.SA_REPLACED]
    assert beta.codes(ReportKind.QUICK_MODE_DELETED) == [ReasonCode.SA_DELETED]
    assert len(alpha.engine.main_modes(0)) == 1
    assert alpha.engine.statistics["rekeys"] == 1


def test_rekey_by_the_responder_of_the_first_quick_mode() -> None:
    network, alpha, beta = two_hosts()
    established(network, alpha, beta)
    network.command(beta, RekeyQuickMode(inbound_spi(beta)))
    network.run(10)
    assert pairs_up(alpha, beta)()
    assert_matching(alpha, beta)
    assert len(beta.engine.main_modes(0)) == 1


def test_rekey_after_the_main_mode_has_expired_makes_a_new_one() -> None:
    network, alpha, beta = two_hosts(negotiation(lifetime=60), config=replace(EXACT, renew_main_modes=False))
    established(network, alpha, beta)
    network.run(61)
    assert not alpha.engine.main_modes(network.now)
    assert not beta.engine.main_modes(network.now)
    ends = [node.codes(ReportKind.MAIN_MODE_DELETED) for node in (alpha, beta)]
    # The end whose clock runs out first tells the other.
    assert sorted(ends, key=str) == [[ReasonCode.MAIN_MODE_EXPIRED], [ReasonCode.SA_DELETED]]
    assert_matching(alpha, beta)  # quick modes outlive their main mode
    old = set(alpha.sas)
    network.command(alpha, RekeyQuickMode(inbound_spi(alpha)))
    # No INITIAL-CONTACT is said, as there is still a pair: traffic never stops.
    assert network.run(2, pairs_up(alpha, beta, pairs=2))
    network.run(10)
    assert pairs_up(alpha, beta)()
    assert not old & set(alpha.sas)


def test_main_mode_is_made_anew_before_it_ends() -> None:
    """By its initiator, once; the pairs do not notice, and the next rekey needs no main mode of its own."""
    network, alpha, beta = two_hosts(negotiation(lifetime=600))
    established(network, alpha, beta)
    old, pairs = alpha.engine.main_modes(0)[0].cookies, set(alpha.sas)
    network.run(590)
    assert {view.cookies for view in alpha.engine.main_modes(0)} > {old}
    network.run(20)
    for node in (alpha, beta):
        (view,) = node.engine.main_modes(network.now)
        assert view.cookies != old
        assert view.initiator is (node is alpha)
    assert set(alpha.sas) == pairs
    assert_matching(alpha, beta)
    network.command(alpha, RekeyQuickMode(inbound_spi(alpha)))
    network.run(10)
    assert len(alpha.engine.main_modes(0)) == 1
    assert_matching(alpha, beta)
    assert ReasonCode.INITIAL_CONTACT not in beta.codes(ReportKind.QUICK_MODE_DELETED)


def test_responder_makes_the_main_mode_anew_where_its_initiator_does_not() -> None:
    rule = negotiation(lifetime=600)
    alpha = Node(ALPHA, Policy(rule), config=replace(EXACT, renew_main_modes=False))
    beta = Node(BETA, Policy(rule))
    network = Network([alpha, beta])
    established(network, alpha, beta)
    network.run(620)
    (view,) = beta.engine.main_modes(network.now)
    assert view.initiator
    assert alpha.engine.main_modes(network.now)


def test_main_mode_under_which_nothing_is_secured_is_let_go() -> None:
    network, alpha, beta = two_hosts(negotiation(lifetime=600))
    established(network, alpha, beta)
    network.command(alpha, DeleteQuickMode(inbound_spi(alpha), Reason.of(ReasonCode.SA_IDLE)))
    network.run(620)
    assert not alpha.engine.main_modes(network.now)
    assert not beta.engine.main_modes(network.now)


def test_rekey_that_fails_leaves_the_old_pair_alone() -> None:
    network, alpha, beta = two_hosts()
    established(network, alpha, beta)
    network.fate = lambda packet: []
    old = set(alpha.sas)
    network.command(alpha, RekeyQuickMode(inbound_spi(alpha)))
    network.run(200)
    assert set(alpha.sas) == old
    assert alpha.codes(ReportKind.MAIN_MODE_FAILED) == [ReasonCode.NEGOTIATION_TIMED_OUT]


def test_hard_lifetime_ends_the_pair_on_both_ends() -> None:
    network, alpha, beta = two_hosts(negotiation(quick=(replace(ESP, lifetime_seconds=30),)))
    established(network, alpha, beta)
    network.run(28)
    assert_matching(alpha, beta)
    network.run(2)
    assert not alpha.sas
    assert not beta.sas
    # The end whose clock runs out first tells the other.
    ends = [node.codes(ReportKind.QUICK_MODE_DELETED) for node in (alpha, beta)]
    assert sorted(ends, key=str) == [[ReasonCode.SA_DELETED], [ReasonCode.SA_EXPIRED]]
    assert not alpha.engine.quick_modes(network.now)


def test_deleted_quick_mode_is_deleted_at_the_peer() -> None:
    network, alpha, beta = two_hosts()
    established(network, alpha, beta)
    network.command(beta, DeleteQuickMode(inbound_spi(beta), Reason.of(ReasonCode.SA_IDLE)))
    network.run(1)
    assert not alpha.sas
    assert not beta.sas
    assert alpha.codes(ReportKind.QUICK_MODE_DELETED) == [ReasonCode.SA_DELETED]
    assert beta.codes(ReportKind.QUICK_MODE_DELETED) == [ReasonCode.SA_IDLE]
    removed = [entry.direction for entry in alpha.history if isinstance(entry, RemoveSa)]
    assert removed == [Direction.OUTBOUND, Direction.INBOUND]
    network.command(alpha, alpha.acquire(BETA))
    assert network.run(1, pairs_up(alpha, beta))  # under the main mode that is still there
    assert len(alpha.engine.main_modes(0)) == 1


def test_delete_peer_and_shutdown_tell_the_peer_everything() -> None:
    for command in (
        DeletePeer(BETA, Reason.of(ReasonCode.POLICY_CHANGED)),
        Shutdown(Reason.of(ReasonCode.SHUTTING_DOWN)),
    ):
        network, alpha, beta = two_hosts()
        for port in range(70):
            hosts = AddressRange.host(ALPHA), AddressRange.host(BETA)
            selector = TrafficSelector(*hosts, TCP, 0, port)
            network.command(alpha, alpha.acquire(BETA, selector))
            network.run(0.2)
        assert pairs_up(alpha, beta, pairs=70)()
        sent = len(network.sent)
        network.command(alpha, command)
        network.run(1)
        for node in (alpha, beta):
            assert not node.sas
            assert not node.engine.main_modes(network.now)
            assert not node.engine.quick_modes(network.now)
        # 64 and 6 quick modes, one main mode; each is acknowledged, and nothing is repeated.
        network.run(60)
        assert [packet.send.local.address for packet in network.sent[sent:]] == [ALPHA] * 3 + [BETA] * 3
        assert alpha.engine.next_timeout() is None


def test_deletes_that_the_network_swaps_all_count() -> None:
    """The delete of the main mode arrives before that of the quick mode under it."""
    network, alpha, beta = two_hosts()
    established(network, alpha, beta)
    delays = iter([0.5, 0.1])
    network.fate = lambda packet: [(next(delays, 0.01), packet.send.datagram)]
    network.command(alpha, Shutdown(Reason.of(ReasonCode.SHUTTING_DOWN)))
    network.run(0.3)
    assert not beta.engine.main_modes(network.now)
    assert beta.sas
    network.run(1)
    assert not beta.sas
    network.run(10)
    assert beta.engine.next_timeout() is None
    assert not beta.engine._table._departed


def test_after_shutdown_everything_is_refused() -> None:
    network, alpha, beta = two_hosts()
    network.command(alpha, Shutdown(Reason.of(ReasonCode.SHUTTING_DOWN)))
    network.command(alpha, alpha.acquire(BETA))
    assert alpha.codes(ReportKind.QUICK_MODE_FAILED) == [ReasonCode.SHUTTING_DOWN]
    network.command(beta, beta.acquire(ALPHA))
    network.run(10)
    assert not [packet for packet in network.sent if packet.send.local.address == ALPHA]
    assert not alpha.engine.main_modes(0)


def test_restarted_peer_says_initial_contact_and_the_old_sas_go() -> None:
    """Beta loses its memory and begins anew; what alpha had with the old beta is removed, silently."""
    network, alpha, beta = two_hosts()
    established(network, alpha, beta)
    old = set(alpha.sas)
    restarted = Node(BETA, beta.policy, seed=1)
    network.nodes[1] = restarted
    network.command(restarted, restarted.acquire(ALPHA))
    assert network.run(2, pairs_up(alpha, restarted))
    assert_matching(alpha, restarted)
    assert not old & set(alpha.sas)
    assert alpha.codes(ReportKind.QUICK_MODE_DELETED) == [ReasonCode.INITIAL_CONTACT]
    assert alpha.codes(ReportKind.MAIN_MODE_DELETED) == [ReasonCode.INITIAL_CONTACT]
    assert len(alpha.engine.main_modes(0)) == 1


def test_initial_contact_counts_only_when_it_is_authenticated() -> None:
    """An outsider (a wrong key) who speaks from the peer's address cannot throw out the peer's SAs."""
    network, alpha, beta = two_hosts()
    established(network, alpha, beta)
    outsider = Node(BETA, Policy(negotiation(key=b"guess")), seed=2)
    network.nodes[1] = outsider
    network.command(outsider, outsider.acquire(ALPHA))
    network.run(70)
    network.nodes[1] = beta
    assert not outsider.sas
    assert_matching(alpha, beta)
    assert len(alpha.engine.main_modes(network.now)) == 1


def test_cluster_member_is_recognised_and_its_pairs_go_idle_sooner() -> None:
    rule = negotiation()
    alpha = Node(ALPHA, Policy(rule))
    beta = Node(BETA, Policy(rule), config=replace(EXACT, advertise_cluster=True))
    network = Network([alpha, beta])
    established(network, alpha, beta)
    assert {sa.idle_seconds for sa in alpha.sas.values()} == {60}
    assert {sa.idle_seconds for sa in beta.sas.values()} == {300}
    assert main_mode_of(alpha).fast_failover
    assert not main_mode_of(beta).fast_failover


def test_peer_that_deletes_a_main_mode_under_a_running_quick_mode() -> None:
    """The request moves to a new main mode by itself."""
    network, alpha, beta = two_hosts()
    established(network, alpha, beta)

    def no_quick_mode(packet: Packet) -> list[tuple[float, bytes]]:
        return [] if packet.header.exchange_type == 32 else deliver(packet)

    network.fate = no_quick_mode
    network.command(alpha, alpha.acquire(BETA))
    main_mode = main_mode_of(beta)
    beta.engine._negotiator.end(main_mode, Reason.of(ReasonCode.POLICY_CHANGED), network.now, tell=True)
    network.fate = deliver
    assert network.run(5, pairs_up(alpha, beta, pairs=2))
    assert_matching(alpha, beta)


def test_quick_mode_that_an_old_peer_leaves_unanswered_moves_to_a_new_main_mode() -> None:
    network, alpha, beta = two_hosts()
    established(network, alpha, beta)
    network.fate = lambda packet: []
    network.command(alpha, alpha.acquire(BETA))
    network.run(63.5)
    assert ReasonCode.NEGOTIATION_TIMED_OUT in alpha.codes(ReportKind.MAIN_MODE_DELETED)
    network.fate = deliver
    assert network.run(5, lambda: len(alpha.of(Direction.OUTBOUND)) == 2)
    assert not alpha.reported(ReportKind.QUICK_MODE_FAILED)


def test_counters_and_views() -> None:
    network, alpha, beta = two_hosts()
    network.command(alpha, alpha.acquire(BETA))
    assert alpha.engine.statistics["active_acquire"] == 1
    (view,) = alpha.engine.main_modes(network.now)
    assert not view.established
    assert view.proposal is None
    network.run(5)
    statistics = alpha.engine.statistics
    assert statistics["main_modes"] == statistics["quick_modes"] == statistics["total_acquire"] == 1
    assert statistics["key_additions"] == 2
    assert statistics["active_acquire"] == 0
    assert statistics["datagrams_sent"] == 5
    assert beta.engine.statistics["datagrams_received"] == 5
    (quick,) = alpha.engine.quick_modes(network.now + 100)
    assert 0 < quick.remaining <= 3500
    assert quick.age > 99
