"""Many peers at once: every pair is rekeyed in time, and what is done leaves nothing behind."""

import gc
import weakref
from ipaddress import ip_address

from exchange_harness import BETA, Network, Node, Policy, established, negotiation, two_hosts

from stockade.ike.contract import RekeyQuickMode
from stockade.model.filters import Direction

PEERS = 150


def test_all_pairs_of_many_peers_are_rekeyed_before_they_expire() -> None:
    """One host with many peers; its driver says soft expiry for every pair, as its lifetime asks."""
    rule = negotiation()
    center = Node(BETA, Policy(rule))
    addresses = [ip_address(f"10.9.1.{1 + index}") for index in range(PEERS)]
    others = [Node(address, Policy(rule)) for address in addresses]
    network = Network([center, *others])
    for other in others:
        network.command(center, center.acquire(other.address))
    network.run(5.0)
    first = {sa.spi: sa for sa in center.of(Direction.INBOUND)}
    assert len(first) == PEERS
    assert all(sa.lifetime.soft_seconds < sa.lifetime.hard_seconds - 59 for sa in first.values())
    start = network.now
    late = []
    for sa in sorted(first.values(), key=lambda sa: sa.lifetime.soft_seconds):
        wanted = start - 5.0 + sa.lifetime.soft_seconds
        network.run(max(0.0, wanted - network.now))
        late.append(network.now - wanted)
        network.command(center, RekeyQuickMode(sa.spi))
    network.run(10.0)
    assert max(late) <= 5.0
    now = {sa.spi for sa in center.of(Direction.INBOUND)}
    assert len(now) == PEERS
    assert not now & set(first)
    assert network.now < start + 3600  # before the first of them would have expired
    assert center.engine.statistics["rekeys"] == PEERS


def test_a_finished_quick_mode_is_freed_when_it_is_forgotten_without_the_garbage_collector() -> None:
    network, alpha, beta = two_hosts()
    established(network, alpha, beta)
    (mode,) = alpha.engine._table.main_modes()
    (run,) = mode.quick_modes._runs.values()
    assert run.exchange is not None
    exchange = weakref.ref(run.exchange)
    del run
    gc.disable()
    try:
        network.run(100.0)
        assert exchange() is None
    finally:
        gc.enable()
