"""Main mode and quick mode from end to end.

alpha                                beta
  HDR, SA, VID                   ->
                                 <-   HDR, SA, VID
  HDR, KE, Ni                    ->
                                 <-   HDR, KE, Nr
  HDR*, IDii, HASH_I, N          ->
                                 <-   HDR*, IDir, HASH_R, N
  HDR*, HASH(1), SA, Ni, ID, ID  ->
                                 <-   HDR*, HASH(2), SA, Nr, ID, ID      inbound SA of beta
  HDR*, HASH(3)                  ->                                      outbound SA of beta
"""

import pytest
from exchange_harness import (
    AES,
    ALPHA,
    BETA,
    ESP,
    EXACT,
    Packet,
    assert_matching,
    established,
    negotiation,
    pairs_up,
    two_hosts,
)

from stockade.ike.contract import DeletePeer, InstallSa, ReportKind
from stockade.model.addresses import AddressRange
from stockade.model.filters import Direction
from stockade.model.identities import Identity
from stockade.model.reasons import Reason, ReasonCode
from stockade.model.suites import (
    Encryption,
    EspSuite,
    Group,
    Hash,
    MainModeProposal,
    QuickModeProposal,
)
from stockade.model.traffic import TCP, TrafficSelector
from stockade.wire.vendor_ids import MS_NT5_ISAKMPOAKLEY


def test_ten_messages_bring_both_ends_up() -> None:
    network, alpha, beta = two_hosts()
    established(network, alpha, beta)
    assert_matching(alpha, beta)
    kinds = [(packet.send.local.address, packet.header.exchange_type) for packet in network.sent]
    assert kinds == [(ALPHA, 2), (BETA, 2)] * 3 + [(ALPHA, 32), (BETA, 32)] * 2
    assert [packet.header.encrypted for packet in network.sent] == [False] * 4 + [True] * 6
    for node, peer in ((alpha, BETA), (beta, ALPHA)):
        (main_mode,) = node.engine.main_modes(network.now)
        assert main_mode.established
        assert main_mode.proposal == AES
        assert main_mode.peer_identity == Identity.address(peer)
        assert main_mode.peer_vendor == "MS NT5 ISAKMPOAKLEY (Windows Server 2008 R2)"
        assert main_mode.quick_modes == 1
        (quick_mode,) = node.engine.quick_modes(network.now)
        assert quick_mode.peer == peer
        assert quick_mode.filter_id == "f0"
        assert node.codes(ReportKind.MAIN_MODE_ESTABLISHED) == [ReasonCode.SA_ESTABLISHED]
        assert node.codes(ReportKind.QUICK_MODE_ESTABLISHED) == [ReasonCode.SA_ESTABLISHED]
        assert not node.reported(ReportKind.MESSAGE_REFUSED)
    assert alpha.engine.main_modes(0)[0].initiator
    assert not beta.engine.main_modes(0)[0].initiator


def test_inbound_is_installed_before_outbound_and_before_the_peer_can_use_it() -> None:
    network, alpha, beta = two_hosts()
    installed_at: dict[int, list[Direction]] = {}

    def watch(packet: object) -> list[tuple[float, bytes]]:
        installed_at[packet.number] = [  # type: ignore[attr-defined]
            entry.sa.direction for entry in (*alpha.history, *beta.history) if isinstance(entry, InstallSa)
        ]
        return [(0.01, packet.send.datagram)]  # type: ignore[attr-defined]

    network.fate = watch
    established(network, alpha, beta)
    inbound, outbound = Direction.INBOUND, Direction.OUTBOUND
    assert installed_at[7] == []
    assert installed_at[8] == [inbound]  # beta, before message 2 leaves
    assert installed_at[9] == [inbound, inbound]  # alpha, before message 3 leaves
    for node in (alpha, beta):
        assert [entry.sa.direction for entry in node.history] == [inbound, outbound]


def without_microsoft(packet: Packet) -> list[tuple[float, bytes]]:
    """Turn Microsoft's vendor id into an unknown one."""
    return [(0.01, packet.send.datagram.replace(MS_NT5_ISAKMPOAKLEY, b"someone else's 1"))]


def test_held_packets_wait_a_moment_for_a_responder_that_is_not_microsofts() -> None:
    """strongSwan makes its SAs at message 3: what follows on its heels would be lost."""
    network, alpha, beta = two_hosts(fate=without_microsoft)
    network.command(alpha, alpha.acquire(BETA))
    assert network.run(5, lambda: bool(alpha.of(Direction.INBOUND)))
    message_3 = network.now
    assert network.run(5, pairs_up(alpha, beta))
    assert network.now - message_3 == pytest.approx(EXACT.outbound_delay_seconds)
    assert_matching(alpha, beta)


def test_pair_that_is_deleted_in_that_moment_stays_deleted() -> None:
    network, alpha, _ = two_hosts(fate=without_microsoft)
    network.command(alpha, alpha.acquire(BETA))
    assert network.run(5, lambda: bool(alpha.of(Direction.INBOUND)))
    network.command(alpha, DeletePeer(BETA, Reason.of(ReasonCode.POLICY_CHANGED)))
    network.run(5)
    assert not alpha.sas


MAIN_MODES = [
    (Encryption.DES_CBC, Hash.MD5, Group.MODP_768),
    (Encryption.TRIPLE_DES_CBC, Hash.SHA1, Group.MODP_1024),
    (Encryption.TRIPLE_DES_CBC, Hash.MD5, Group.MODP_1024),
    (Encryption.AES_CBC_128, Hash.SHA1, Group.MODP_2048),
    (Encryption.AES_CBC_192, Hash.SHA_256, Group.ECP_256),
    (Encryption.AES_CBC_256, Hash.SHA_384, Group.ECP_384),
    (Encryption.AES_CBC_256, Hash.SHA_512, Group.ECP_256),
    (Encryption.AES_CBC_256, Hash.MD5, Group.ECP_256),
]


@pytest.mark.parametrize("suite", MAIN_MODES, ids=lambda suite: "-".join(suite))
def test_main_mode_suites(suite: tuple[Encryption, Hash, Group]) -> None:
    proposal = MainModeProposal(*suite)
    network, alpha, beta = two_hosts(negotiation(main=(proposal,)))
    established(network, alpha, beta)
    assert_matching(alpha, beta)
    assert beta.engine.main_modes(network.now)[0].proposal == proposal


QUICK_MODES = [
    QuickModeProposal(EspSuite(Encryption.NULL, Hash.SHA1)),
    QuickModeProposal(EspSuite(Encryption.DES_CBC, Hash.MD5)),
    QuickModeProposal(EspSuite(Encryption.TRIPLE_DES_CBC, Hash.SHA1)),
    QuickModeProposal(EspSuite(Encryption.AES_CBC_256, Hash.SHA_256)),
    QuickModeProposal(EspSuite(Encryption.AES_CBC_192, Hash.SHA_384)),
    QuickModeProposal(EspSuite(Encryption.AES_GCM_128, None)),
    QuickModeProposal(EspSuite(Encryption.AES_GCM_256, None)),
    QuickModeProposal(ah=Hash.SHA_256),
]
KEY_SIZES = {"null": 0, "des-cbc": 8, "3des-cbc": 24, "aes-gcm-128": 20, "aes-gcm-256": 36}


@pytest.mark.parametrize("proposal", QUICK_MODES, ids=str)
@pytest.mark.parametrize("pfs", [False, True], ids=["no-pfs", "pfs"])
def test_quick_mode_suites(proposal: QuickModeProposal, pfs: bool) -> None:
    network, alpha, beta = two_hosts(negotiation(quick=(proposal,), pfs=pfs))
    established(network, alpha, beta)
    assert_matching(alpha, beta)
    (sa,) = alpha.of(Direction.OUTBOUND)
    assert (sa.esp, sa.ah) == (proposal.esp, proposal.ah)
    if proposal.esp is not None and proposal.esp.encryption.value in KEY_SIZES:
        assert len(sa.encryption_key) == KEY_SIZES[proposal.esp.encryption.value]
    assert alpha.engine.quick_modes(0)[0].pfs_group == ("ecp-256" if pfs else "")
    assert beta.engine.quick_modes(0)[0].pfs_group == ("ecp-256" if pfs else "")


@pytest.mark.parametrize("group", [Group.MODP_1024, Group.MODP_2048, Group.ECP_384])
def test_perfect_forward_secrecy_with_a_group_of_its_own(group: Group) -> None:
    network, alpha, beta = two_hosts(negotiation(pfs=True, group=group))
    established(network, alpha, beta)
    assert_matching(alpha, beta)
    assert beta.engine.quick_modes(0)[0].pfs_group == str(group)


def test_responder_accepts_perfect_forward_secrecy_that_it_does_not_ask_for() -> None:
    network, alpha, beta = two_hosts(negotiation(pfs=True), negotiation())
    established(network, alpha, beta)
    assert beta.engine.quick_modes(0)[0].pfs_group == "ecp-256"


def test_responder_takes_the_first_offer_of_the_initiator_that_fits() -> None:
    first = MainModeProposal(Encryption.AES_CBC_256, Hash.SHA_256, Group.ECP_256)
    second = MainModeProposal(Encryption.TRIPLE_DES_CBC, Hash.SHA1, Group.MODP_1024)
    gcm, cbc = QUICK_MODES[5], QUICK_MODES[3]
    network, alpha, beta = two_hosts(
        negotiation(main=(first, AES, second), quick=(QUICK_MODES[7], gcm, cbc)),
        negotiation(main=(second, AES), quick=(cbc, gcm)),
    )
    established(network, alpha, beta)
    assert beta.engine.main_modes(0)[0].proposal == AES
    assert alpha.of(Direction.OUTBOUND)[0].esp == gcm.esp


def test_lesser_lifetime_counts_on_both_ends() -> None:
    long = QuickModeProposal(ESP.esp, lifetime_seconds=7200, lifetime_kilobytes=500_000)
    short = QuickModeProposal(ESP.esp, lifetime_seconds=600, lifetime_kilobytes=900_000)
    for first, second in ((long, short), (short, long)):
        network, alpha, beta = two_hosts(
            negotiation(quick=(first,), lifetime=1000), negotiation(quick=(second,), lifetime=2000)
        )
        established(network, alpha, beta)
        for node in (alpha, beta):
            for sa in node.sas.values():
                assert sa.lifetime.hard_seconds == 600
                assert sa.lifetime.hard_bytes == 500_000 * 1024
        assert 990 < beta.engine.main_modes(network.now)[0].remaining <= 1000
        soft = {node: node.of(Direction.OUTBOUND)[0].lifetime.soft_seconds for node in (alpha, beta)}
        assert soft[alpha] is not None
        assert soft[beta] is not None
        assert soft[alpha] < soft[beta] < 600


def test_selector_with_protocol_and_port_reaches_the_other_end() -> None:
    network, alpha, beta = two_hosts()
    selector = TrafficSelector(AddressRange.host(ALPHA), AddressRange.host(BETA), TCP, 0, 445)
    network.command(alpha, alpha.acquire(BETA, selector))
    assert network.run(5, pairs_up(alpha, beta))
    assert_matching(alpha, beta)
    assert alpha.of(Direction.OUTBOUND)[0].selector == selector
    assert beta.of(Direction.OUTBOUND)[0].selector == selector.reversed()


def test_several_quick_modes_share_one_main_mode() -> None:
    network, alpha, beta = two_hosts()
    for port in range(1, 31):
        selector = TrafficSelector(AddressRange.host(ALPHA), AddressRange.host(BETA), TCP, 0, port)
        network.command(alpha, alpha.acquire(BETA, selector))
    assert network.run(5, pairs_up(alpha, beta, pairs=30))
    assert_matching(alpha, beta)
    assert len(alpha.engine.main_modes(0)) == len(beta.engine.main_modes(0)) == 1
    assert len({sa.encryption_key.reveal() for sa in alpha.sas.values()}) == 60


def test_second_acquire_for_the_same_traffic_joins_the_first() -> None:
    network, alpha, beta = two_hosts()
    for _ in range(3):
        network.command(alpha, alpha.acquire(BETA))
    assert network.run(5, pairs_up(alpha, beta))
    network.run(5)
    assert len(network.sent) == 10


def test_quick_mode_limit_makes_a_new_main_mode_for_each() -> None:
    network, alpha, beta = two_hosts(negotiation(limit=1))
    for port in (1, 2, 3):
        selector = TrafficSelector(AddressRange.host(ALPHA), AddressRange.host(BETA), TCP, 0, port)
        network.command(alpha, alpha.acquire(BETA, selector))
    assert network.run(5, pairs_up(alpha, beta, pairs=3))
    assert len({sa.main_mode for sa in alpha.sas.values()}) == 3


def test_responder_enforces_its_quick_mode_limit_and_the_initiator_comes_back() -> None:
    """Alpha knows no limit; beta deletes the main mode when it is used up, and alpha makes another."""
    network, alpha, beta = two_hosts(negotiation(), negotiation(limit=1))
    for port in (1, 2, 3):
        selector = TrafficSelector(AddressRange.host(ALPHA), AddressRange.host(BETA), TCP, 0, port)
        network.command(alpha, alpha.acquire(BETA, selector))
        assert network.run(5, pairs_up(alpha, beta, pairs=port))
    assert_matching(alpha, beta)
    assert len({sa.main_mode for sa in beta.sas.values()}) == 3
    assert not alpha.reported(ReportKind.QUICK_MODE_FAILED)


def test_ipv6() -> None:
    from ipaddress import ip_address

    from exchange_harness import Network, Node, Policy

    rule = negotiation()
    alpha, beta = (Node(ip_address(f"2001:db8::{host}"), Policy(rule)) for host in (1, 2))
    network = Network([alpha, beta])
    established(network, alpha, beta)
    assert_matching(alpha, beta)


def test_an_answer_to_the_first_secured_packet_begins_no_second_quick_mode() -> None:
    """The peer's first ESP packet overtakes its last message, and our answer to it needs an SA at once:

    HDR*, HASH(1), SA, Ni, ID, ID  ->
                                   <-   HDR*, HASH(2), SA, Nr, ID, ID
    ESP                            ->   acquire for the answer
    HDR*, HASH(3)                  ->   (late)
    """
    network, alpha, beta = two_hosts()

    def late(packet: Packet) -> list[tuple[float, bytes]]:
        return [(0.5 if packet.number == 9 else 0.01, packet.send.datagram)]

    network.fate = late
    network.command(alpha, alpha.acquire(BETA))
    assert network.run(10, lambda: len(network.sent) >= 9)
    assert beta.of(Direction.INBOUND)
    assert not beta.of(Direction.OUTBOUND)
    network.command(beta, beta.acquire(ALPHA))
    assert network.run(10, pairs_up(alpha, beta))
    network.command(beta, beta.acquire(ALPHA))  # queued before the outbound SA was in
    network.run(0.4)
    assert len(beta.engine.quick_modes(network.now)) == 1
    network.run(2)
    network.command(beta, beta.acquire(ALPHA))  # later it means that the driver has lost the SA
    network.run(2)
    assert len(beta.engine.quick_modes(network.now)) == 2
