"""Tunnels between two gateways, as Windows writes them: two rules, one for each direction.

10.1.0.0/16 ── alpha ══════ tunnel ══════ beta ── 10.2.0.0/16

alpha: 10.1 → 10.2, end point beta;  10.2 → 10.1, end point alpha      beta: the other way round
"""

from dataclasses import replace
from ipaddress import ip_address

from core_harness import ALPHA, BETA, GAMMA, QUICK, Host, World, key, policy_set, secure, subnet

from stockade.model.filters import Direction
from stockade.model.negotiation import Mode
from stockade.model.suites import Encryption, EspSuite, Hash
from stockade.policy.objects import Filter

NET_A, NET_B = "10.1.0.0/16", "10.2.0.0/16"
A1, B1 = ip_address("10.1.0.5"), ip_address("10.2.0.5")
AES_256 = replace(QUICK, esp=EspSuite(Encryption.AES_CBC_256, Hash.SHA1))


def one_way(source, destination, endpoint, action=None, **more):
    filters = (Filter(subnet(source), subnet(destination), mirrored=False),)
    return action or secure(), filters, {"tunnel_endpoint": endpoint, **more}


def gateway_policy(here, there, own, peer, *more, inbound=None, outbound=None):
    return policy_set(
        one_way(here, there, peer, **(outbound or {})), one_way(there, here, own, **(inbound or {})), *more
    )


def gateways(alpha_policy=None, beta_policy=None):
    world = World()
    alpha, beta = Host(world, ALPHA, NET_A), Host(world, BETA, NET_B)
    alpha.start(alpha_policy or gateway_policy(NET_A, NET_B, ALPHA, BETA))
    beta.start(beta_policy or gateway_policy(NET_B, NET_A, BETA, ALPHA))
    return world, alpha, beta


def test_two_rules_make_one_tunnel_for_both_directions():
    world, alpha, beta = gateways()
    alpha.send(B1, b"there", source=A1)
    assert world.run(2.0, lambda: beta.received == [b"there"])
    beta.send(A1, b"back", source=B1)
    assert world.run(2.0, lambda: alpha.received == [b"back"])
    assert world.clear == []
    for host in (alpha, beta):
        (view,) = host.core.engine.quick_modes(world.clock.now)
        assert view.inbound_spi
    (view,) = alpha.core.engine.quick_modes(world.clock.now)
    assert str(view.selector) == "any 10.1.0.0/16 -> 10.2.0.0/16"
    sa = alpha.core._inbound_of[Direction.INBOUND, view.inbound_spi, view.peer]
    assert (sa.mode, sa.source, sa.destination) == (Mode.TUNNEL, BETA, ALPHA)


def test_the_other_end_may_begin_and_other_hosts_use_the_same_sas():
    world, alpha, beta = gateways()
    beta.send(A1, b"one", source=B1)
    assert world.run(2.0, lambda: alpha.received == [b"one"])
    alpha.send(ip_address("10.2.9.9"), b"two", source=ip_address("10.1.3.3"))
    assert world.run(1.0, lambda: beta.received == [b"two"])
    assert len(alpha.core.engine.quick_modes(world.clock.now)) == 1


def test_one_mirrored_like_rule_on_each_end_is_enough_for_its_own_direction():
    """Without the second rule nothing asks for what comes back: it is refused out of the tunnel."""
    world, alpha, beta = gateways(policy_set(one_way(NET_A, NET_B, BETA)))
    alpha.send(B1, b"there", source=A1)
    assert world.run(2.0, lambda: beta.received == [b"there"])
    beta.send(A1, b"back", source=B1)
    world.run(2.0)
    assert alpha.received == []
    assert world.clear == []


def test_the_tunnel_is_rekeyed_without_a_loss():
    short = secure("short")
    short = replace(short, methods=(replace(QUICK, lifetime_seconds=300),))
    settings = {"outbound": {"action": short}, "inbound": {"action": short}}
    world, alpha, beta = gateways(gateway_policy(NET_A, NET_B, ALPHA, BETA, **settings))
    for number in range(400):
        alpha.send(B1, b"%d" % number, source=A1)
        world.run(2.0)
    assert beta.received == [b"%d" % number for number in range(400)]
    assert world.clear == []


def test_what_another_tunnel_answers_is_not_let_in_by_this_peer():
    """beta is authenticated for 10.2/16; 10.2.7.0/24 belongs to gamma, whose inbound rule ends at alpha too
    and names no peer."""
    other = "10.2.7.0/24"
    alpha_policy = gateway_policy(
        NET_A, NET_B, ALPHA, BETA,
        one_way(NET_A, other, GAMMA, authentication=key("gamma's key")),
        one_way(other, NET_A, ALPHA, authentication=key("gamma's key")),
    )  # fmt: skip
    world, alpha, beta = gateways(alpha_policy)
    beta.send(A1, b"mine", source=B1)
    assert world.run(2.0, lambda: alpha.received == [b"mine"])
    beta.send(A1, b"not mine", source=ip_address("10.2.7.1"))
    world.run(2.0)
    assert alpha.received == [b"mine"]
    refused = dict(alpha.driver.statistics().refused)
    assert refused.get("selector-mismatch") == 1


def test_two_rules_with_different_keys_make_no_tunnel_and_say_so():
    world, alpha, beta = gateways(
        gateway_policy(NET_A, NET_B, ALPHA, BETA, inbound={"authentication": key("another")})
    )
    alpha.send(B1, b"there", source=A1)
    world.run(3.0)
    assert beta.received == []
    told = [str(entry.reason) for entry in alpha.journal if entry.kind == "quick-mode-failed"]
    assert "no way to authenticate in common" in told[0]
    # and the peer, which holds one of the two keys, gets no further when it begins
    beta.send(A1, b"back", source=B1)
    world.run(3.0)
    assert alpha.received == []
    assert world.clear == []


def test_the_tunnel_has_what_both_rules_allow():
    stronger = replace(secure("stronger"), methods=(AES_256,))
    both = replace(secure("both"), methods=(QUICK, AES_256))
    world, alpha, beta = gateways(
        gateway_policy(NET_A, NET_B, ALPHA, BETA, outbound={"action": both}, inbound={"action": stronger}),
        gateway_policy(NET_B, NET_A, BETA, ALPHA, outbound={"action": both}, inbound={"action": both}),
    )
    alpha.send(B1, b"there", source=A1)
    assert world.run(2.0, lambda: beta.received == [b"there"])
    (view,) = alpha.core.engine.quick_modes(world.clock.now)
    assert view.proposal.esp == AES_256.esp


def test_a_restart_negotiates_the_known_tunnel_at_once(tmp_path):
    from stockade.agent.known_peers import KnownPeers

    known = KnownPeers(tmp_path / "state.db")
    world, alpha, beta = gateways()
    alpha.core.known_peers = known
    alpha.send(B1, b"there", source=A1)
    assert world.run(2.0, lambda: beta.received == [b"there"])
    known.close()
    again = KnownPeers(tmp_path / "state.db")
    assert again.all() == known.all()
    alpha.driver.stop(keep_filters=True)
    alpha.start(gateway_policy(NET_A, NET_B, ALPHA, BETA))
    alpha.core.known_peers = again
    assert alpha.core.reconnect(world.clock.now) == 1
    world.settle()
    assert world.run(2.0, lambda: len(alpha.core.engine.quick_modes(world.clock.now)) == 1)
    again.close()


def test_an_end_point_that_is_no_other_computer_is_told():
    world, alpha, _ = gateways(policy_set(one_way(NET_A, NET_B, ip_address("2001:db8::1"))))
    alpha.send(B1, b"there", source=A1)
    world.run(1.0)
    assert "quick-mode-failed" in alpha.kinds()
    assert world.clear == []
