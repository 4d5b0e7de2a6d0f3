"""Peers without IPsec: the table of the Windows policy model, §4, with whole hosts.

| inpass | soft | inbound clear                 | outbound, no SA       |
| no     | no   | drop                          | hold, negotiate, drop |
| yes    | no   | accept                        | same                  |
| no     | yes  | accept only beside a soft SA  | clear after failure   |
| yes    | yes  | accept                        | clear after failure   |
"""

import pytest
from core_harness import ALPHA, BETA, BLOCK, Host, World, key, me_to, policy_set, secure

from stockade.agent.soft import LOOK_INTERVAL, SoftSettings, SoftWhen
from stockade.model.filters import Action
from stockade.model.suites import Encryption, EspSuite, Hash, QuickModeProposal
from stockade.policy.dynamic import DynamicRule, DynamicSet, MainModePolicyObject, QuickModePolicyObject
from stockade.policy.objects import FilterAction

AES_256 = QuickModeProposal(EspSuite(Encryption.AES_CBC_256, Hash.SHA1))


def beside_a_plain_host(action, *more, soft=None):
    world = World()
    alpha, beta = Host(world, ALPHA), Host(world, BETA)
    alpha.start(policy_set((action, (me_to(BETA),), {}), *more), soft=soft)
    return world, alpha, beta


def try_for(world, host, seconds, peer=BETA):
    """Send a packet a second; the seconds until the first one passed in clear, None if none did."""
    begun = world.clock.now
    for number in range(int(seconds)):
        host.send(peer, b"try %d" % number)
        world.run(1.0)
        if world.clear:
            return world.clock.now - begun - 1.0
    return None


@pytest.mark.parametrize("inpass", [False, True])
@pytest.mark.parametrize("soft", [False, True])
def test_the_table_of_clear_traffic(inpass, soft):
    world, alpha, beta = beside_a_plain_host(secure(inpass=inpass, soft=soft))
    beta.send(ALPHA, b"before")
    world.run(0.1)
    assert (b"before" in alpha.received) == inpass
    world.clear.clear()
    passed = try_for(world, alpha, 70)
    assert passed == (3.0 if soft else None)
    beta.send(ALPHA, b"after")
    world.run(0.1)
    assert (b"after" in alpha.received) == (inpass or soft)


def test_a_soft_sa_is_seen_and_told():
    world, alpha, beta = beside_a_plain_host(secure(soft=True))
    try_for(world, alpha, 5)
    (soft,) = alpha.core.soft_associations
    assert (soft.local, soft.peer) == (ALPHA, BETA)
    assert "no answer in 3 seconds" in str(soft.reason)
    assert "soft-established" in alpha.kinds()
    assert b"try 3" in beta.received


def test_the_fall_back_time_can_be_short():
    world, alpha, _ = beside_a_plain_host(secure(soft=True), soft=SoftSettings(fallback_seconds=0.5))
    assert try_for(world, alpha, 5) == 1.0


def test_what_is_held_is_not_sent_in_clear():
    world, alpha, _ = beside_a_plain_host(secure(soft=True))
    alpha.send(BETA, b"secret")
    world.run(10.0)
    assert alpha.core.soft_associations
    assert world.clear == []


def test_a_heavier_block_filter_stays_closed_beside_a_soft_sa():
    world, alpha, beta = beside_a_plain_host(
        secure(soft=True), (BLOCK, (me_to(BETA, protocol=17, destination_port=23),), {})
    )
    try_for(world, alpha, 5)
    alpha.send(BETA, b"telnet", port=23)
    world.run(1.0)
    assert b"telnet" not in world.clear
    assert beta.received


def test_a_peer_that_answers_late_is_secured_and_its_soft_sa_ends():
    world, alpha, beta = beside_a_plain_host(secure(soft=True))
    beta.wants_ike = False
    assert try_for(world, alpha, 5) == 3.0
    beta.start(policy_set((secure(soft=True), (me_to(ALPHA),), {})))
    beta.wants_ike = True
    # the negotiation goes on behind the soft SA: the next repetition is answered
    assert world.run(40.0, lambda: bool(alpha.driver.statistics().sas))
    world.run(1.0)
    assert not alpha.core.soft_associations
    world.clear.clear()
    alpha.send(BETA, b"secret")
    world.run(1.0)
    assert beta.received[-1] == b"secret"
    assert world.clear == []


def test_a_peer_that_begins_itself_ends_the_soft_sa():
    world, alpha, beta = beside_a_plain_host(secure(soft=True))
    beta.wants_ike = False
    assert try_for(world, alpha, 5) == 3.0
    beta.start(policy_set((secure(), (me_to(ALPHA),), {})))
    beta.wants_ike = True
    beta.send(ALPHA, b"secret")
    world.run(3.0)
    assert alpha.received[-1] == b"secret"
    assert not alpha.core.soft_associations
    assert b"secret" not in world.clear


@pytest.mark.parametrize("when", SoftWhen)
def test_a_failed_negotiation_falls_back_as_set(when):
    world = World()
    alpha, beta = Host(world, ALPHA), Host(world, BETA)
    alpha.start(policy_set((secure(soft=True), (me_to(BETA),), {})), soft=SoftSettings(when=when))
    other = FilterAction("other", Action.NEGOTIATE, (AES_256,), inpass=True)
    beta.start(policy_set((other, (me_to(ALPHA),), {})))
    alpha.send(BETA, b"one")
    world.run(10.0)
    assert bool(alpha.core.soft_associations) == (when is SoftWhen.ANY_FAILURE)
    alpha.send(BETA, b"two")
    world.run(10.0)
    assert world.clear == ([b"two"] if when is SoftWhen.ANY_FAILURE else [])


def test_a_wrong_key_without_soft_stays_closed():
    world = World()
    alpha, beta = Host(world, ALPHA), Host(world, BETA)
    alpha.start(policy_set((secure(inpass=True), (me_to(BETA),), {})))
    beta.start(policy_set((secure(), (me_to(ALPHA),), {}), authentication=key("another")))
    assert try_for(world, alpha, 40) is None


def test_an_idle_soft_sa_ends_and_the_next_packet_negotiates():
    world, alpha, _ = beside_a_plain_host(secure(soft=True))
    assert try_for(world, alpha, 5) == 3.0
    for number in range(10):
        alpha.send(BETA, b"use %d" % number)
        world.run(60.0)
    assert alpha.core.soft_associations  # in use all the time
    world.run(300.0 + 2 * LOOK_INTERVAL)
    assert not alpha.core.soft_associations
    assert alpha.kinds()[-1] == "soft-ended"
    world.clear.clear()
    alpha.send(BETA, b"again")
    world.run(0.5)
    assert world.clear == []  # held: the peer may have got IPsec meanwhile
    assert alpha.core.engine.main_modes(world.clock.now)


def test_softsaexpirationtime_ends_it_however_busy():
    main = MainModePolicyObject("MM", (policy_set().policies[0].main_mode_methods), soft_expiration_minutes=2)
    quick = QuickModePolicyObject("QM", secure().methods, soft=True)
    rule = DynamicRule(me_to(BETA), "MM", "QM", authentication=key())
    world = World()
    alpha, _ = Host(world, ALPHA), Host(world, BETA)
    alpha.start(dynamic=DynamicSet((main,), (quick,), (rule,)))
    assert try_for(world, alpha, 5) == 3.0
    ended = 0
    for _ in range(130):
        alpha.send(BETA, b"busy")
        world.run(1.0)
        ended += not alpha.core.soft_associations
    assert ended
    assert "lifetime" in next(str(one.reason) for one in alpha.journal if one.kind == "soft-ended")


def test_a_policy_without_soft_closes_at_once():
    world, alpha, _ = beside_a_plain_host(secure(soft=True))
    assert try_for(world, alpha, 5) == 3.0
    alpha.core.load([policy_set((secure(), (me_to(BETA),), {}))], world.clock.now)
    assert not alpha.core.soft_associations
    world.clear.clear()
    alpha.send(BETA, b"secret")
    world.run(70.0)
    assert world.clear == []


def test_stopping_falls_back_to_nothing():
    world, alpha, _ = beside_a_plain_host(secure(soft=True))
    alpha.send(BETA, b"secret")
    alpha.core.shutdown(world.clock.now)
    world.run(10.0)
    assert not alpha.core.soft_associations
    assert world.clear == []
