"""Rules for other ports of one peer, each with a credential of its own. Main mode knows hosts, not ports, so
it may come up under any of them; but only its own rules' traffic passes under it.

     alpha                                              beta
     main mode by the key of rule 1     <->
          quick mode for port 9         <->
     main mode by the key of rule 2     <->             not the first one again
          quick mode for port 10        <->
"""

from core_harness import ALPHA, BETA, Host, World, key, me_to, policy_set, secure

from stockade.model.addresses import Address
from stockade.policy.objects import PolicySet


def policy(peer: Address, *keys: str) -> PolicySet:
    """For UDP port 9 the first key (or keys), for port 10 the second, whichever end is the server."""
    rules = []
    for port, words in zip((9, 10), keys, strict=True):
        filters = (
            me_to(peer, protocol=17, destination_port=port),
            me_to(peer, protocol=17, source_port=port),
        )
        known = tuple(entry for word in words.split() for entry in key(word))
        rules.append((secure(f"secure {port}"), filters, {"authentication": known}))
    return policy_set(*rules)


def hosts(ours: tuple[str, str], theirs: tuple[str, str]) -> tuple[World, Host, Host]:
    world = World()
    alpha, beta = Host(world, ALPHA), Host(world, BETA)
    alpha.start(policy(BETA, *ours))
    beta.start(policy(ALPHA, *theirs))
    return world, alpha, beta


def made(world: World, host: Host) -> tuple[int, set[str]]:
    """Established main modes, and those that quick modes were made under."""
    assert host.core is not None
    now = world.clock.now
    modes = [view for view in host.core.engine.main_modes(now) if view.established]
    return len(modes), {view.main_mode for view in host.core.engine.quick_modes(now)}


def test_each_rule_has_a_main_mode_by_its_own_key() -> None:
    world, alpha, beta = hosts(("one", "two"), ("one", "two"))
    alpha.send(BETA, b"first")
    assert world.run(10, lambda: beta.received == [b"first"])
    alpha.send(BETA, b"second", port=10)
    assert world.run(10, lambda: beta.received == [b"first", b"second"]), alpha.kinds()
    for host in (alpha, beta):
        count, under = made(world, host)
        assert (count, len(under)) == (2, 2)
    assert not world.clear


def test_a_common_key_serves_both_rules_with_one_main_mode() -> None:
    world, alpha, beta = hosts(("one", "one"), ("one", "two one"))
    alpha.send(BETA, b"first")
    alpha.send(BETA, b"second", port=10)
    assert world.run(20, lambda: len(beta.received) == 2), alpha.kinds()
    assert made(world, alpha)[0] == made(world, beta)[0] == 1


def test_both_at_once_do_not_end_each_other() -> None:
    """Initial contact of the second says nothing about the first."""
    world, alpha, beta = hosts(("one", "two"), ("one", "two"))
    alpha.send(BETA, b"first")
    alpha.send(BETA, b"second", port=10)
    assert world.run(10, lambda: sorted(beta.received) == [b"first", b"second"])
    world.run(5)
    assert made(world, alpha)[0] == made(world, beta)[0] == 2
    assert "quick-mode-deleted" not in beta.kinds()


def test_whoever_has_the_key_of_one_rule_gets_nothing_of_the_other() -> None:
    world, alpha, beta = hosts(("one", "one"), ("one", "two"))
    alpha.send(BETA, b"first")
    assert world.run(10, lambda: beta.received == [b"first"])
    alpha.send(BETA, b"second", port=10)
    world.run(70)
    assert beta.received == [b"first"]
    assert not world.clear
    assert "main-mode-does-not-fit" in {entry.reason.code.word for entry in beta.journal}
    beta.send(ALPHA, b"third", port=10)
    world.run(70)
    assert not alpha.received
    assert "psk-mismatch" in {entry.reason.code.word for entry in beta.journal}
    alpha.send(BETA, b"fourth")  # and the rule that fits goes on
    assert world.run(10, lambda: beta.received == [b"first", b"fourth"])
