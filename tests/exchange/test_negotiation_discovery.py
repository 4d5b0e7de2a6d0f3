"""Negotiation discovery ([MS-IKEE] §3.7): what two engines tell each other, and what a host lets pass.

   initiator                                      responder
   main mode, both with the vendor id
1  HDR*, HASH(1), SA, Ni …, N(EXCHANGE_INFO)  ->
2                     <-   HDR*, HASH(2), SA, Nr …, N(EXCHANGE_INFO)
3  HDR*, HASH(3)                              ->
"""

from dataclasses import replace

import pytest
from core_harness import ALPHA, BETA, Host, World, me_to, policy_set, secure, udp
from exchange_harness import ESP, EXACT, Network, Node, Policy, established, negotiation, pairs_up

from stockade.agent.soft import SoftSettings
from stockade.ike.contract import ReportKind
from stockade.model.negotiation import Negotiation
from stockade.model.suites import Encryption, EspSuite, Hash, QuickModeProposal
from stockade.wire.vendor_ids import MS_NEGOTIATION_DISCOVERY

NULL = QuickModeProposal(EspSuite(Encryption.NULL, Hash.SHA1))
HEADER = QuickModeProposal(ah=Hash.SHA1)
DISCOVERY = SoftSettings(discovery=True)


def rule(boundary: bool, *methods: QuickModeProposal) -> Negotiation:
    made = negotiation(quick=methods)
    return replace(made, quick_mode=replace(made.quick_mode, boundary=boundary))


@pytest.mark.parametrize("boundary", [False, True])
@pytest.mark.parametrize("methods", [(ESP,), (ESP, NULL), (HEADER,)])
def test_both_ends_hear_what_the_other_takes(boundary: bool, methods: tuple[QuickModeProposal, ...]) -> None:
    alpha = Node(ALPHA, Policy(rule(boundary, *methods)))
    beta = Node(BETA, Policy(rule(not boundary, *methods)))
    network = Network([alpha, beta])
    established(network, alpha, beta)
    for node, takes in ((alpha, not boundary), (beta, boundary)):
        (view,) = node.engine.quick_modes(network.now)
        assert ("takes clear traffic too" in view.peer_info) is takes
        assert ("always encrypts" in view.peer_info.split(", ")) is (methods == (ESP,))
        assert not node.reported(ReportKind.NOTIFICATION)


@pytest.mark.parametrize("which", [0, 1])
def test_nothing_of_it_goes_to_a_peer_that_does_not_know_it(which: int) -> None:
    configs = [EXACT, EXACT]
    configs[which] = replace(EXACT, negotiation_discovery=False)
    alpha = Node(ALPHA, Policy(negotiation()), config=configs[0])
    beta = Node(BETA, Policy(negotiation()), config=configs[1])
    network = Network([alpha, beta])
    network.command(alpha, alpha.acquire(BETA))
    assert network.run(5, pairs_up(alpha, beta))
    speaks = {packet.send.local.address for packet in network.sent[:2]
              if MS_NEGOTIATION_DISCOVERY in packet.send.datagram}  # fmt: skip
    assert speaks == {(BETA, ALPHA)[which]}
    for node in (alpha, beta):
        assert node.engine.quick_modes(network.now)[0].peer_info == ""


def hosts(soft: bool = True, **settings: object) -> tuple[World, Host, Host]:
    world = World()
    alpha, beta = Host(world, ALPHA), Host(world, BETA)
    alpha.start(policy_set((secure(soft=soft), (me_to(BETA),), {})), soft=DISCOVERY)
    return world, alpha, beta


def test_clear_traffic_passes_at_once_with_a_peer_without_ipsec() -> None:
    world, alpha, beta = hosts()
    alpha.send(BETA, b"first")
    alpha.send(BETA, b"again")
    world.run(0.1)
    assert beta.received == [b"first", b"again"], "what began it is not lost"
    beta.send(ALPHA, b"answer")
    world.run(0.1)
    assert b"answer" in alpha.received
    (soft,) = alpha.core.soft_associations
    assert "negotiation discovery" in str(soft.reason)


def test_long_packets_that_were_held_leave_in_pieces() -> None:
    world, alpha, _ = hosts()
    sent: list[bytes] = []
    carry = alpha.driver._transmit
    alpha.driver._transmit = lambda packet: (sent.append(packet), carry(packet))[1]
    packet = bytearray(udp(ALPHA, BETA, bytes(3000)))
    packet[4:6] = b"\x12\x34"
    alpha.driver.outbound(bytes(packet), world.clock.now)
    world.settle()
    assert len(sent) >= 3
    assert max(map(len, sent)) <= 1500
    assert {piece[4:6] for piece in sent} == {b"\x12\x34"}


def test_it_is_for_rules_with_soft_only() -> None:
    world, alpha, beta = hosts(soft=False)
    for _ in range(3):
        alpha.send(BETA, b"never")
        world.run(1.0)
    assert world.clear == []
    assert beta.received == []


def test_once_secured_it_never_goes_in_clear_again() -> None:
    world, alpha, beta = hosts()
    beta.start(policy_set((secure(soft=True), (me_to(ALPHA),), {})), soft=DISCOVERY)
    alpha.send(BETA, b"first")
    world.run(2.0)
    world.clear.clear()
    assert not alpha.core.soft_associations
    alpha.send(BETA, b"secured")
    world.run(0.1)
    assert b"secured" in beta.received
    assert world.clear == []
    # The peer loses its IPsec and says so: the SAs go, and what follows stays closed.
    beta.core.shutdown(world.clock.now)
    world.settle()
    world.run(0.5)
    assert not alpha.core.engine.quick_modes(world.clock.now)
    beta.wants_ike = False
    for number in range(int(DISCOVERY.idle_seconds) + 20):
        alpha.send(BETA, b"after %d" % number)
        world.run(1.0)
    assert world.clear == []
    # Quiet for the idle time: it may be another peer by now.
    world.run(DISCOVERY.idle_seconds)
    alpha.send(BETA, b"much later")
    alpha.send(BETA, b"much later, again")
    world.run(0.1)
    assert b"much later, again" in world.clear
