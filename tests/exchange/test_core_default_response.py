"""The default response rule, as whole hosts see it.

alpha (rule: secure to beta)                beta (default response only)
  packet ──▶ main mode, quick mode ──────────▶ no filter speaks of it: the rule answers
                                               + two temporary filters, while its SAs live
"""

from dataclasses import replace

from core_harness import ALPHA, BETA, BLOCK, GAMMA, World, key, me_to, policy_set, secure

from stockade.model.filters import Action, Direction
from stockade.model.reasons import Reason, ReasonCode


def answered_world():
    world = World()
    alpha, beta = (host_of(world, address) for address in (ALPHA, BETA))
    alpha.start(policy_set((secure(), (me_to(BETA),), {})))
    beta.start(policy_set(default_response=True))
    return world, alpha, beta


def host_of(world, address, **more):
    from core_harness import Host

    return Host(world, address, **more)


def test_it_secures_what_a_peer_asks_for_in_both_directions():
    world, alpha, beta = answered_world()
    assert not beta.core.table.filters
    alpha.send(BETA, b"one")
    assert world.run(2.0, lambda: beta.received == [b"one"])
    directions = {entry.direction for entry in beta.core.table.filters if entry.action is Action.NEGOTIATE}
    assert directions == set(Direction)
    beta.send(ALPHA, b"back")
    assert world.run(1.0, lambda: alpha.received == [b"back"])
    assert world.clear == []


def test_its_filters_go_with_their_last_sa_and_clear_traffic_passes_again():
    world, alpha, beta = answered_world()
    alpha.send(BETA, b"one")
    assert world.run(2.0, lambda: bool(beta.received))
    alpha.core.delete_peer(BETA, world.clock.now)
    world.settle()
    assert world.run(1.0, lambda: not beta.core.table.filters)
    assert not beta.driver.statistics().sas
    beta.send(ALPHA, b"clear")  # nobody asks for security any more
    world.run(0.1)
    assert world.clear == [b"clear"]


def test_it_begins_nothing_by_itself():
    world, _, beta = answered_world()
    beta.send(ALPHA, b"clear")
    world.run(1.0)
    assert world.clear == [b"clear"]
    assert not beta.core.engine.main_modes(world.clock.now)


def test_a_rekey_keeps_the_filters_and_no_packet_is_clear():
    world, alpha, beta = answered_world()
    short = replace(secure().methods[0], lifetime_seconds=300)
    alpha.core.load([policy_set((replace(secure(), methods=(short,)), (me_to(BETA),), {}))], world.clock.now)
    for number in range(700):
        alpha.send(BETA, b"%d" % number)
        beta.send(ALPHA, b"%d" % number) if number else None
        world.run(1.0)
    assert beta.received == [b"%d" % number for number in range(700)]
    assert alpha.received == [b"%d" % number for number in range(1, 700)]
    assert world.clear == []
    assert len([one for one in beta.core.table.filters if one.action is Action.NEGOTIATE]) == 2


def test_a_filter_that_blocks_is_not_opened_by_it():
    world, alpha, beta = answered_world()
    beta.core.load(
        [policy_set((BLOCK, (me_to(ALPHA, protocol=17, source_port=23),), {}), default_response=True)],
        world.clock.now,
    )
    alpha.send(BETA, b"one")
    assert world.run(2.0, lambda: beta.received == [b"one"])
    alpha.send(BETA, b"telnet", port=23)
    world.run(1.0)
    assert beta.received == [b"one"]


def test_a_wrong_key_gets_nothing():
    world = World()
    alpha, beta = host_of(world, ALPHA), host_of(world, BETA)
    alpha.start(policy_set((secure(), (me_to(BETA),), {}), authentication=key("another")))
    beta.start(policy_set(default_response=True))
    alpha.send(BETA, b"one")
    world.run(10.0)
    assert not beta.core.table.filters
    assert beta.received == []


def test_a_policy_without_the_rule_ends_what_it_answered():
    world, alpha, beta = answered_world()
    alpha.send(BETA, b"one")
    assert world.run(2.0, lambda: bool(beta.received))
    beta.core.load([policy_set((BLOCK, (me_to(GAMMA),), {}))], world.clock.now)
    world.settle()
    assert not beta.driver.statistics().sas
    assert not [one for one in beta.core.table.filters if one.action is Action.NEGOTIATE]
    answer = beta.core.engine._context.lookup.for_peer(BETA, ALPHA)
    assert isinstance(answer, Reason)
    assert answer.code is ReasonCode.NO_POLICY


def test_a_restart_of_the_responder_does_not_cut_the_peer_off():
    """The peer goes on using its SA; the responder does not know it and negotiates the same traffic anew."""
    world, alpha, beta = answered_world()
    alpha.send(BETA, b"one")
    assert world.run(2.0, lambda: beta.received == [b"one"])
    known = beta.core.known_peers
    assert len(known.all()) == 1
    beta.driver.stop()
    again = beta.start(policy_set(default_response=True))
    again.known_peers = known
    assert again.reconnect(world.clock.now) == 0  # by itself it begins nothing
    world.settle()
    for number in range(4):
        alpha.send(BETA, b"again %d" % number)
        world.run(1.0)
    assert beta.received[-1] == b"again 3"
    assert world.clear == []


def test_a_stranger_with_an_unknown_spi_makes_it_begin_nothing():
    world, alpha, beta = answered_world()
    alpha.send(BETA, b"one")
    assert world.run(2.0, lambda: beta.received == [b"one"])
    beta.driver.stop()
    fresh = beta.start(policy_set(default_response=True))  # which never heard of alpha
    alpha.send(BETA, b"two")
    world.run(2.0)
    assert not fresh.engine.main_modes(world.clock.now)
