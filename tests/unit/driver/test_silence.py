"""Packets that go out and get no answer."""

from dataclasses import replace
from types import SimpleNamespace

from stockade.driver.contract import SaSilent
from stockade.driver.datapath import Datapath
from stockade.driver.silence import unanswered_since
from stockade.model.filters import Direction


def looks(sent: list[float], heard: list[float], patience: float, until: int) -> list[int]:
    """When it is told, with a look each second."""
    told: list[int] = []
    since: float | None = None
    for now in range(until):
        last_sent = max([0.0, *(when for when in sent if when <= now)])
        last_heard = max([0.0, *(when for when in heard if when <= now)])
        since, silent = unanswered_since(since, last_sent, last_heard, patience, now)
        told += [now] * silent
    return told


def test_silence_is_told_while_packets_go_out_and_again_after_the_same_time() -> None:
    assert looks([number / 2 for number in range(3, 80)], [], 10, 40) == [12, 22, 32]


def test_any_answer_ends_the_silence() -> None:
    sent = [number / 2 for number in range(3, 80)]
    assert looks(sent, [8.2, 16.2, 24.2, 32.2, 39.0], 10, 40) == []


def test_the_last_packet_of_a_conversation_is_no_silence() -> None:
    assert looks([3.0], [2.9], 10, 600) == []


def test_idleness_is_no_silence() -> None:
    assert looks([], [], 10, 600) == []


def test_a_pair_is_told_silent_by_the_packet_path(hosts: SimpleNamespace) -> None:
    alpha = Datapath()
    alpha.install_filters(hosts.make_filters(("negotiate", 0, 0)), 0.0)
    sa = hosts.make_sa(silence_seconds=5.0)
    inbound = replace(
        hosts.mirror(sa),
        source=hosts.BETA,
        destination=hosts.ALPHA,
        selector=sa.selector.reversed(),
        spi=0x1001,
        pair=0x1000,
    )
    alpha.add_sa(inbound, 0.0)
    alpha.add_sa(sa, 0.0)
    told = []
    for now in range(1, 20):
        if now < 15:
            alpha.outbound([hosts.udp()], now - 0.5)
        alpha.tick(float(now))
        told += [now for event in alpha.events() if event == SaSilent(0x1000, Direction.OUTBOUND, sa.peer)]
    assert told == [6, 11, 16]
