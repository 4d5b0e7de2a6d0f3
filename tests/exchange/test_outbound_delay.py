"""When we begin to send on a pair that we made with a peer which makes its SAs at message 3 (strongSwan).

3  HDR*, HASH(3)       ->      the peer reads it when it comes to it, and only then has its inbound SA
   ESP                 ->      must not be there sooner
"""

from dataclasses import replace

from exchange_harness import BETA, EXACT, Network, Node, Packet, established, two_hosts

from stockade.ike.contract import DeleteQuickMode, RekeyQuickMode
from stockade.model.filters import Direction
from stockade.model.reasons import Reason, ReasonCode
from stockade.wire.vendor_ids import MS_NT5_ISAKMPOAKLEY

SLOW = replace(EXACT, outbound_delay_seconds=0.05, rekey_delay_seconds=0.25)


def not_microsoft(packet: Packet) -> list[tuple[float, bytes]]:
    return [(0.01, packet.send.datagram.replace(MS_NT5_ISAKMPOAKLEY, bytes(16)))]


def outbound(node: Node) -> int:
    return len(node.of(Direction.OUTBOUND))


def rekeying() -> tuple[Network, Node, int]:
    """Alpha right after it has made a second pair: it can receive, and does not send by it yet."""
    network, alpha, beta = two_hosts(fate=not_microsoft, config=SLOW)
    established(network, alpha, beta)
    (old,) = (sa.spi for sa in alpha.of(Direction.INBOUND))
    network.command(alpha, RekeyQuickMode(old))
    assert network.run(5, lambda: len(alpha.of(Direction.INBOUND)) == 2)
    assert outbound(alpha) == 1
    return network, alpha, old


def test_the_first_pair_is_used_after_a_moment() -> None:
    network, alpha, _ = two_hosts(fate=not_microsoft, config=SLOW)
    network.command(alpha, alpha.acquire(BETA))
    assert network.run(5, lambda: len(alpha.of(Direction.INBOUND)) == 1)
    network.run(0.03)
    assert outbound(alpha) == 0
    network.run(0.03)
    assert outbound(alpha) == 1


def test_the_old_pair_goes_on_until_the_peer_had_time_to_make_the_new_one() -> None:
    network, alpha, _ = rekeying()
    network.run(0.2)
    assert outbound(alpha) == 1
    network.run(0.1)
    assert outbound(alpha) == 2


def test_where_the_old_pair_ends_the_new_one_serves_at_once() -> None:
    network, alpha, old = rekeying()
    (sending,) = (sa.spi for sa in alpha.of(Direction.OUTBOUND))
    network.command(alpha, DeleteQuickMode(old, Reason.of(ReasonCode.SA_EXPIRED)))
    (left,) = (sa.spi for sa in alpha.of(Direction.OUTBOUND))
    assert left != sending
    network.run(1)
    assert outbound(alpha) == 1


def test_towards_microsofts_there_is_nothing_to_wait_for() -> None:
    """It says when it is ready (the commit bit)."""
    network, alpha, beta = two_hosts(config=SLOW)
    established(network, alpha, beta)
    (old,) = (sa.spi for sa in alpha.of(Direction.INBOUND))
    network.command(alpha, RekeyQuickMode(old))
    assert network.run(5, lambda: len(alpha.of(Direction.INBOUND)) == 2)
    network.run(0.03)
    assert outbound(alpha) == 2
