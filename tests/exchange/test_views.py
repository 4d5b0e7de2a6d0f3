"""What is in force and what is under way, as the local API tells it: over whole hosts on a virtual clock.

alpha ── main mode ──▶ beta answers;   alpha ── message 1, again and again ──▶ gamma never does"""

import msgspec
from core_harness import ALPHA, BETA, GAMMA, Host, World, me_to, policy_set, secure
from exchange_harness import BETA as OTHER
from exchange_harness import drop_numbers, two_hosts

from stockade.agent import views
from stockade.ike.config import EngineConfig

EXACT = EngineConfig(retransmission_jitter=0.0)


def test_a_negotiation_under_way_says_what_it_waits_for_without_being_recorded() -> None:
    network, alpha, _ = two_hosts(fate=lambda packet: [])
    network.command(alpha, alpha.acquire(OTHER))
    (one,) = alpha.engine.under_way(network.now)
    assert (one.phase, one.standing) == ("main mode", "waiting for main mode message 2")
    network.run(4)
    (one,) = alpha.engine.under_way(network.now)
    assert one.initiator
    assert one.age == 4
    assert one.standing == "waiting for main mode message 2, asked for 3 times"  # at 0, 1 and 3 seconds
    network.run(60)
    assert alpha.engine.under_way(network.now) == ()


def test_quick_modes_under_way_are_told_at_both_ends() -> None:
    network, alpha, beta = two_hosts(fate=drop_numbers(*range(8, 30)))
    network.command(alpha, alpha.acquire(OTHER))
    network.run(1.5)
    (asking,), (answering,) = (host.engine.under_way(network.now) for host in (alpha, beta))
    assert (asking.phase, asking.initiator) == ("quick mode", True)
    assert "asked for 2 times" in asking.standing
    assert (answering.phase, answering.initiator) == ("quick mode", False)


def test_methods_and_sas_are_told_without_keys() -> None:
    world = World()
    alpha, beta = Host(world, ALPHA), Host(world, BETA)
    core = alpha.start(policy_set((secure("one"), (me_to(BETA), me_to(GAMMA)), {})), config=EXACT)
    beta.start(policy_set((secure(), (me_to(ALPHA),), {})), config=EXACT)
    methods = views.methods(core)
    (row,) = methods.methods
    assert row.authentication == ["preshared-key"]
    assert row.filters == len([one for one in core.table.filters if one.negotiation])
    assert row.main_mode_methods
    assert row.quick_mode_methods[0].method.startswith("ESP[")
    assert row.quick_mode_methods[0].esp_encryption
    assert b"one key" not in msgspec.json.encode(methods)

    alpha.send(BETA, b"hello")
    world.run(1)
    alpha.send(GAMMA, b"hello")
    world.run(1)
    told = views.sas(core, alpha.driver.statistics(), world.clock.now)
    assert [row.mode for row in told.quick_modes] == ["transport"]
    (waiting,) = told.under_way
    assert waiting.peer.startswith(str(GAMMA))
    assert "asked for 2 times" in waiting.standing
    filters = views.filters(core, alpha.driver.statistics()).filters
    assert {row.filter_index for row in filters if row.action == "negotiate"} == {1, 2}
