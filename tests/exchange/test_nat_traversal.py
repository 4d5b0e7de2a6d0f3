"""Main and quick mode through a NAT.

inside (10.0.0.5)     NAT (203.0.113.9)        outside (198.51.100.1)
  500  1 SA, VID      ->  30001  ->  500
  500  3 KE, NAT-D    ->  30001  ->  500
  4500 5 ID, HASH     ->  30002  ->  4500      outside answers there from now on
  4500 quick mode     ->  30002  ->  4500      ESP in UDP, transport or tunnel
  4500 FF             ->  30002  ->  4500      every 20 s
"""

from dataclasses import dataclass, field, replace
from ipaddress import ip_address

import pytest
from exchange_harness import (
    ESP,
    EXACT,
    Network,
    Node,
    Policy,
    assert_matching,
    established,
    negotiation,
    pairs_up,
)

from stockade.ike.config import EngineConfig, NatScope
from stockade.ike.contract import DeletePeer, DeleteQuickMode, FollowPeer, RekeyQuickMode, ReportKind, Send
from stockade.ike.proofs import RestartSecret
from stockade.model.addresses import Address, AddressRange, Endpoint
from stockade.model.filters import Direction
from stockade.model.negotiation import Mode, QuickModePolicy
from stockade.model.reasons import Reason, ReasonCode
from stockade.model.sa import UdpEncapsulation
from stockade.model.secret import Secret
from stockade.model.traffic import TCP, TrafficSelector
from stockade.wire.udp_encapsulation import KEEPALIVE
from stockade.wire.vendor_ids import RFC_3947

INSIDE, SECOND, PUBLIC, OUTSIDE = (
    ip_address(text) for text in ("10.0.0.5", "10.0.0.6", "203.0.113.9", "198.51.100.1")
)
NAT_T = replace(EXACT, nat_traversal=True)
WITHOUT = replace(EXACT, nat_traversal=False)


@dataclass
class VirtualNat:
    """Translates what comes from inside, and back what comes to a port that it gave out."""

    next_port: int = 30_001
    mappings: dict[Endpoint, int] = field(default_factory=dict)
    keepalives: list[Send] = field(default_factory=list)

    def __call__(self, send: Send) -> Send | None:
        if send.datagram == KEEPALIVE:
            self.keepalives.append(send)
        if send.local.address in (INSIDE, SECOND):
            return replace(send, local=Endpoint(PUBLIC, self.port_of(send.local)))
        if send.remote.address == PUBLIC:
            for inside, port in self.mappings.items():
                if port == send.remote.port:
                    return replace(send, remote=inside)
            return None
        return send

    def port_of(self, inside: Endpoint) -> int:
        if inside not in self.mappings:
            self.mappings[inside] = self.next_port
            self.next_port += 1
        return self.mappings[inside]

    def forget(self) -> None:
        """Restarted: other ports from now on."""
        self.mappings.clear()


def world(
    *insiders: Address, config: EngineConfig = NAT_T, other: EngineConfig | None = None, tunnel: bool = False
) -> tuple[Network, VirtualNat, list[Node], Node]:
    rule = negotiation()
    rules = [rule, rule]
    if tunnel:
        rules = [
            replace(rule, quick_mode=QuickModePolicy((ESP,), mode=Mode.TUNNEL, tunnel_endpoint=end))
            for end in (OUTSIDE, PUBLIC)
        ]
    nodes = [Node(address, Policy(rules[0]), 1, config) for address in insiders or (INSIDE,)]
    outside = Node(OUTSIDE, Policy(rules[1]), 2, other or config)
    nat = VirtualNat()
    return Network([*nodes, outside], route=nat), nat, nodes, outside


def test_both_ends_move_to_4500_and_encapsulate() -> None:
    network, _, (inside,), outside = world()
    established(network, inside, outside)
    ports = [(packet.send.local.port, packet.send.remote.port) for packet in network.sent]
    assert ports[:4] == [(500, 500), (500, 30_001), (500, 500), (500, 30_001)]
    assert ports[4:] == [(4500, 4500), (4500, 30_002)] * 3
    (sa,) = inside.of(Direction.OUTBOUND)
    assert sa.udp == UdpEncapsulation(4500, 4500)
    assert (sa.source, sa.destination) == (INSIDE, OUTSIDE)
    (sa,) = outside.of(Direction.OUTBOUND)
    assert sa.udp == UdpEncapsulation(4500, 30_002)
    assert (sa.source, sa.destination) == (OUTSIDE, PUBLIC)
    assert str(sa.selector.destination) == str(PUBLIC)
    (sa,) = outside.of(Direction.INBOUND)
    assert sa.udp == UdpEncapsulation(30_002, 4500)
    keys = {node: {sa.encryption_key.reveal() for sa in node.sas.values()} for node in (inside, outside)}
    assert keys[inside] == keys[outside]
    (view,) = outside.engine.main_modes(network.now)
    assert view.remote == Endpoint(PUBLIC, 30_002)
    assert str(view.peer_identity) == str(INSIDE)


def test_a_proof_of_lost_state_takes_the_way_back_through_the_nat() -> None:
    network, nat, (inside,), outside = world()
    for node, key in ((inside, b"i"), (outside, b"o")):
        node.engine._context.restart_secret = RestartSecret(Secret(key * 32), 0)
    established(network, inside, outside)
    (sa,) = inside.of(Direction.OUTBOUND)
    port = nat.port_of(Endpoint(INSIDE, 4500))
    network.nodes.remove(outside)
    again = Node(OUTSIDE, outside.policy, 9, NAT_T)
    again.engine._context.restart_secret = RestartSecret(Secret(b"o" * 32), 1)
    network.nodes.append(again)
    again.engine.prove_lost(OUTSIDE, PUBLIC, sa.spi, network.now)  # by port 500: it does not pass
    network.pump()
    network.run(2)
    assert inside.engine.statistics["proofs_accepted"] == 0
    before = network.now
    again.engine.prove_lost(OUTSIDE, PUBLIC, sa.spi, network.now, port)
    network.pump()
    assert network.run(1, pairs_up(inside, again))
    assert network.now - before < 0.3
    assert inside.codes(ReportKind.QUICK_MODE_DELETED) == [ReasonCode.PEER_LOST_STATE]


def test_tunnel_mode_in_udp() -> None:
    network, _, (inside,), outside = world(tunnel=True)
    established(network, inside, outside)
    for node in (inside, outside):
        assert all(sa.udp is not None and sa.mode is Mode.TUNNEL for sa in node.sas.values())
    (sa,) = outside.of(Direction.OUTBOUND)
    assert str(sa.selector.destination) == str(INSIDE)  # the inner address is the peer's own


@pytest.mark.parametrize("old", ["initiator", "responder"])
def test_the_draft_is_spoken_where_the_peer_has_only_that(old: str) -> None:
    """Windows 2000 to 2003: the draft's vendor id and numbers."""
    server_2003 = replace(NAT_T, microsoft_version=4)
    network, _, (inside,), outside = (
        world(config=server_2003, other=NAT_T) if old == "initiator" else world(other=server_2003)
    )
    established(network, inside, outside)
    assert outside.of(Direction.OUTBOUND)[0].udp == UdpEncapsulation(4500, 30_002)
    third = next(packet for packet in network.sent if packet.number == 3).send.datagram
    kinds, position, kind = [], 28, third[16]
    while kind:
        kinds.append(kind)
        kind, position = third[position], position + int.from_bytes(third[position + 2 : position + 4], "big")
    assert kinds == [4, 10, 130, 130]


def test_without_a_nat_everything_stays_on_500() -> None:
    one, two = (Node(address, Policy(negotiation()), 3, NAT_T) for address in (INSIDE, OUTSIDE))
    network = Network([one, two])
    established(network, one, two)
    assert_matching(one, two)
    assert {packet.send.remote.port for packet in network.sent} == {500}
    assert all(sa.udp is None for sa in one.sas.values())


@pytest.mark.parametrize("announcing", [0, 1])
def test_one_end_alone_cannot(announcing: int) -> None:
    """Without NAT-T at both ends the identity behind the NAT is not the one that is seen: refused, in
    words."""
    configs = [WITHOUT, NAT_T] if announcing else [NAT_T, WITHOUT]
    network, _, (inside,), outside = world(config=configs[0], other=configs[1])
    network.command(inside, inside.acquire(OUTSIDE))
    network.run(100)
    assert not inside.sas
    refused = outside.codes(ReportKind.MESSAGE_REFUSED) + outside.codes(ReportKind.MAIN_MODE_FAILED)
    assert ReasonCode.INVALID_IDENTITY in refused


def test_ipv6_has_no_nat_traversal() -> None:
    one, two = (Node(ip_address(text), Policy(negotiation()), 3, NAT_T) for text in ("fd00::1", "fd00::2"))
    network = Network([one, two])
    established(network, one, two)
    assert not any(RFC_3947 in packet.send.datagram for packet in network.sent)


def test_the_end_behind_the_nat_keeps_the_mapping_alive_as_long_as_it_is_needed() -> None:
    network, nat, (inside,), outside = world()
    established(network, inside, outside)
    network.run(100)
    assert 5 <= len(nat.keepalives) <= 7
    assert {(send.local, send.remote) for send in nat.keepalives} == {
        (Endpoint(INSIDE, 4500), Endpoint(OUTSIDE, 4500))
    }
    network.command(inside, DeletePeer(OUTSIDE, Reason.of(ReasonCode.POLICY_CHANGED)))
    network.run(30)
    nat.keepalives.clear()
    network.run(100)
    assert not nat.keepalives


def test_a_changed_mapping_is_followed_when_the_peer_proves_itself() -> None:
    network, nat, (inside,), outside = world()
    established(network, inside, outside)
    nat.forget()
    old = inside.of(Direction.INBOUND)[0].spi
    network.command(inside, RekeyQuickMode(old))
    assert network.run(30, lambda: outside.engine.main_modes(0)[0].remote == Endpoint(PUBLIC, 30_003))
    network.run(30)
    assert pairs_up(inside, outside)()
    assert [sa.udp for sa in outside.of(Direction.OUTBOUND)] == [UdpEncapsulation(4500, 30_003)]


def test_pairs_follow_a_peer_that_says_only_a_word_from_elsewhere() -> None:
    """Two pairs; the peer deletes one of them after its NAT was restarted."""
    network, nat, (inside,), outside = world()
    established(network, inside, outside)
    web = TrafficSelector(AddressRange.host(INSIDE), AddressRange.host(OUTSIDE), TCP, 0, 80)
    network.command(inside, inside.acquire(OUTSIDE, web))
    assert network.run(5, pairs_up(inside, outside, pairs=2))
    network.run(5)
    nat.forget()
    gone = inside.of(Direction.INBOUND)[0].spi
    network.command(inside, DeleteQuickMode(gone, Reason.of(ReasonCode.SA_IDLE)))
    network.run(30)
    assert pairs_up(inside, outside)()
    assert [sa.udp for sa in outside.of(Direction.OUTBOUND)] == [UdpEncapsulation(4500, 30_003)]


def test_a_datagram_that_proves_nothing_moves_nobody() -> None:
    network, _, (inside,), outside = world()
    established(network, inside, outside)
    before = outside.engine.main_modes(0)[0].remote
    elsewhere = Endpoint(PUBLIC, 40_000)
    local = Endpoint(OUTSIDE, 4500)
    for packet in list(network.sent):
        if packet.send.local.address != INSIDE:
            continue
        garbled = packet.send.datagram[:-1] + bytes((packet.send.datagram[-1] ^ 1,))
        for datagram in (packet.send.datagram, garbled):
            outside.engine.receive(datagram, local, elsewhere, network.now)
    network.run(5)
    assert outside.engine.main_modes(0)[0].remote == before


def test_two_clients_behind_one_nat_live_side_by_side() -> None:
    """The second one's INITIAL-CONTACT speaks for itself only."""
    network, _, (first, second), outside = world(INSIDE, SECOND)
    established(network, first, outside)
    network.command(second, second.acquire(OUTSIDE))
    assert network.run(5, lambda: len(outside.of(Direction.OUTBOUND)) == 2)
    network.run(5)
    assert pairs_up(first, second)()
    ports = {sa.udp.destination_port for sa in outside.of(Direction.OUTBOUND) if sa.udp is not None}
    assert len(ports) == 2
    assert len(outside.engine.main_modes(0)) == 2


def test_a_client_that_starts_anew_behind_its_nat_replaces_what_it_had() -> None:
    network, nat, (first,), outside = world()
    established(network, first, outside)
    nat.forget()
    again = Node(INSIDE, first.policy, 9, NAT_T)
    network.nodes[0] = again
    network.command(again, again.acquire(OUTSIDE))
    assert network.run(5, pairs_up(again, outside))
    assert len(outside.engine.main_modes(0)) == 1


class OneToOne:
    """A NAT before each of the hosts that are behind one: another address, the same ports, both ways."""

    def __init__(self, shown: dict[Address, Address]) -> None:
        self.shown = shown
        self.hidden = {outer: inner for inner, outer in shown.items()}

    def __call__(self, send: Send) -> Send | None:
        if send.datagram == KEEPALIVE:
            return None
        local = self.shown.get(send.local.address, send.local.address)
        remote = self.hidden.get(send.remote.address, send.remote.address)
        return replace(
            send, local=Endpoint(local, send.local.port), remote=Endpoint(remote, send.remote.port)
        )


OUTER = ip_address("198.51.100.77")
BEHIND = {
    "initiator": {OUTSIDE: OUTER},
    "responder": {INSIDE: PUBLIC},
    "both": {OUTSIDE: OUTER, INSIDE: PUBLIC},
}


@pytest.mark.parametrize("scope", NatScope)
@pytest.mark.parametrize("behind", sorted(BEHIND))
@pytest.mark.parametrize("refuses", ["initiator", "responder"])
def test_a_responder_behind_a_nat_is_taken_as_the_setting_says(
    scope: NatScope, behind: str, refuses: str
) -> None:
    """AssumeUDPEncapsulationContextOnSendRule: outside begins; the other end would take everything."""
    strict, lax = replace(NAT_T, nat_scope=scope), replace(NAT_T, nat_scope=NatScope.BOTH)
    configs = (strict, lax) if refuses == "initiator" else (lax, strict)
    rule = Policy(negotiation())
    outside, inside = Node(OUTSIDE, rule, 2, configs[0]), Node(INSIDE, rule, 1, configs[1])
    network = Network([outside, inside], route=OneToOne(BEHIND[behind]))
    network.command(outside, outside.acquire(PUBLIC if INSIDE in BEHIND[behind] else INSIDE))
    network.run(10)
    needed = {"initiator": NatScope.INITIATOR, "responder": NatScope.RESPONDER, "both": NatScope.BOTH}
    if scope >= needed[behind]:
        assert pairs_up(inside, outside)(), (outside.reports, inside.reports)
        assert all(sa.udp is not None for node in (inside, outside) for sa in node.sas.values())
        return
    assert not inside.sas
    assert not outside.sas
    host = outside if refuses == "initiator" else inside
    codes = host.codes(ReportKind.MESSAGE_REFUSED) + host.codes(ReportKind.MAIN_MODE_FAILED)
    assert set(codes) == {ReasonCode.NAT_NOT_ALLOWED}
    assert "from behind a NAT" in str(host.reports[0].reason)
    assert len(outside.codes(ReportKind.MAIN_MODE_FAILED)) == 1


def test_who_answered_a_client_behind_a_nat_does_not_begin_anew_with_it() -> None:
    """The next main mode is the client's to make: nothing tells where the NAT would send a first message."""
    rule = replace(negotiation(lifetime=600))
    nodes = [Node(address, Policy(rule), 1, NAT_T) for address in (INSIDE, OUTSIDE)]
    network = Network(nodes, route=OneToOne({INSIDE: PUBLIC}))
    inside, outside = nodes
    established(network, inside, outside)
    inside.engine.set_config(replace(NAT_T, renew_main_modes=False))
    for mode in inside.engine._table.main_modes():
        inside.engine._context.timers.cancel(("renew", mode))
    sent = len(network.sent)
    network.run(590)
    assert all(packet.header.message_id for packet in network.sent[sent:]), "no main mode is begun"


def test_what_the_data_plane_saw_moves_the_peer() -> None:
    """Nothing but ESP came from the new port: the next message of ours goes there."""
    network, _, (inside,), outside = world()
    established(network, inside, outside)
    (sa,) = outside.of(Direction.INBOUND)
    network.command(outside, FollowPeer(sa.spi ^ 1, 31_000))
    assert outside.engine.main_modes(0)[0].remote.port != 31_000
    network.command(outside, FollowPeer(sa.spi, 31_000))
    assert outside.engine.main_modes(0)[0].remote == Endpoint(PUBLIC, 31_000)
    sent = len(network.sent)
    network.command(outside, DeleteQuickMode(sa.spi, Reason.of(ReasonCode.SA_IDLE)))
    assert {packet.send.remote.port for packet in network.sent[sent:]} == {31_000}
