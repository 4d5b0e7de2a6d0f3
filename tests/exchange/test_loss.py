"""What the network does to the nine messages: loss, duplication, reordering."""

from itertools import pairwise

import pytest
from exchange_harness import (
    ALPHA,
    BETA,
    EXACT,
    Packet,
    assert_matching,
    chaos,
    deliver,
    drop_numbers,
    established,
    pairs_up,
    two_hosts,
)

from stockade.ike.config import EngineConfig
from stockade.ike.contract import ReportKind
from stockade.model.filters import Direction
from stockade.model.reasons import ReasonCode


@pytest.mark.parametrize("number", range(1, 10))
def test_any_one_message_lost(number: int) -> None:
    network, alpha, beta = two_hosts(fate=drop_numbers(number))
    network.command(alpha, alpha.acquire(BETA))
    assert network.run(5, pairs_up(alpha, beta)), f"message {number} lost"
    assert_matching(alpha, beta)
    network.run(60)
    assert len(alpha.sas) == len(beta.sas) == 2


def test_message_9_lost_without_the_timer_leaves_the_responder_waiting() -> None:
    """What Windows' rule (a responder never repeats) would mean, and why ours differs."""
    config = EngineConfig(retransmission_jitter=0.0, responder_retransmits_quick_mode=False, commit_bit=False)
    network, alpha, beta = two_hosts(fate=drop_numbers(9), config=config)
    network.command(alpha, alpha.acquire(BETA))
    assert not network.run(30, pairs_up(alpha, beta))
    assert pairs_up(alpha)()
    assert not beta.of(Direction.OUTBOUND)
    network.run(60)
    assert not beta.sas  # its inbound SA is taken out again


def test_initiator_sends_at_0_1_3_7_15_31_47_and_fails_at_63_seconds() -> None:
    network, alpha, beta = two_hosts(fate=lambda packet: [])
    start = network.now
    network.command(alpha, alpha.acquire(BETA))
    assert not network.run(62.9, lambda: bool(alpha.reports))
    assert network.run(0.2, lambda: bool(alpha.reports))
    assert [packet.at - start for packet in network.sent] == [0, 1, 3, 7, 15, 31, 47]
    assert len({packet.send.datagram for packet in network.sent}) == 1
    (report,) = alpha.reports
    assert report.kind is ReportKind.MAIN_MODE_FAILED
    assert report.reason.code is ReasonCode.NEGOTIATION_TIMED_OUT
    assert "main mode message 2" in str(report.reason)
    assert report.filter_id == "f0"
    assert not alpha.engine.main_modes(network.now)
    assert alpha.engine.next_timeout() is None
    assert not beta.reports


def test_jitter_adds_up_to_half_a_second_to_each_wait() -> None:
    network, alpha, _ = two_hosts(fate=lambda packet: [], config=EngineConfig())
    network.command(alpha, alpha.acquire(BETA))
    network.run(100)
    times = [packet.at for packet in network.sent]
    waits = [later - earlier for earlier, later in pairwise(times)]
    assert [int(wait) for wait in waits] == [1, 2, 4, 8, 16, 16]
    assert all(0 <= wait % 1 < 0.5 for wait in waits)
    assert len({wait % 1 for wait in waits}) > 1


def test_responder_of_main_mode_never_repeats_by_itself_and_forgets() -> None:
    """Only message 1 ever arrives."""
    network, alpha, beta = two_hosts(fate=lambda packet: deliver(packet) if packet.number == 1 else [])
    network.command(alpha, alpha.acquire(BETA))
    network.run(70)
    assert sum(packet.send.local.address == BETA for packet in network.sent) == 1
    assert not beta.engine.main_modes(network.now)
    assert beta.codes(ReportKind.MAIN_MODE_FAILED) == [ReasonCode.NEGOTIATION_TIMED_OUT]


def test_repeated_request_is_answered_with_the_same_bytes_and_not_for_ever() -> None:
    network, alpha, beta = two_hosts()
    network.command(alpha, alpha.acquire(BETA))
    first = network.sent[0].send.datagram
    network.fate = lambda packet: []
    for _ in range(100):
        network.inject(first, alpha.endpoint, beta)
    answers = [packet.send.datagram for packet in network.sent if packet.send.local.address == BETA]
    assert len(set(answers)) == 1
    assert len(answers) == 1 + EXACT.repeats_per_reply
    assert len(beta.engine.main_modes(0)) == 1


def test_every_message_twice_costs_no_avalanche() -> None:
    def twice(packet: Packet) -> list[tuple[float, bytes]]:
        return [(0.01, packet.send.datagram), (0.015, packet.send.datagram)]

    network, alpha, beta = two_hosts(fate=twice)
    network.command(alpha, alpha.acquire(BETA))
    network.run(10)
    assert pairs_up(alpha, beta)()
    assert_matching(alpha, beta)
    # Beta answers each doubled request twice, alpha repeats only message 9, once per copy of message 8.
    assert len(network.sent) <= 9 + 4 + 4


@pytest.mark.parametrize("seed", range(25))
def test_loss_duplication_and_reordering_at_random(seed: int) -> None:
    network, alpha, beta = two_hosts(fate=chaos(seed), seed=seed)
    network.command(alpha, alpha.acquire(BETA))
    assert network.run(60, pairs_up(alpha, beta)), f"seed {seed}: {alpha.reports}"
    assert_matching(alpha, beta)
    network.run(80)
    assert_matching(alpha, beta)
    assert len(alpha.sas) == len(beta.sas) == 2, f"seed {seed}"
    assert not alpha.reported(ReportKind.QUICK_MODE_FAILED)


@pytest.mark.parametrize("seed", range(5))
def test_simultaneous_initiation(seed: int) -> None:
    """Both begin at once: two main modes, two pairs; INITIAL-CONTACT of one does not hit the other."""
    network, alpha, beta = two_hosts(fate=chaos(seed, loss=0.1), seed=seed)
    network.command(alpha, alpha.acquire(BETA))
    network.command(beta, beta.acquire(ALPHA))
    assert network.run(60, pairs_up(alpha, beta, pairs=2)), f"seed {seed}: {alpha.reports}"
    network.run(60)
    assert_matching(alpha, beta)
    assert len(alpha.sas) == 4
    assert not alpha.reported(ReportKind.MAIN_MODE_FAILED)


def test_quick_mode_under_a_main_mode_that_the_peer_forgot_begins_a_new_one() -> None:
    """Beta is killed and restarts; alpha still has its main mode and wants another quick mode.

    alpha                       beta (new)
      HDR*, HASH(1), …      ->
                            <-   HDR, N(INVALID-COOKIE)     a hint: alpha waits 3 s for something better
      HDR, SA, VID          ->   …
    """
    network, alpha, beta = two_hosts()
    established(network, alpha, beta)
    restarted = type(beta)(BETA, beta.policy, seed=1)
    network.nodes[1] = restarted
    started = network.now
    network.command(alpha, alpha.acquire(BETA))
    assert network.run(10, pairs_up(alpha, restarted))
    assert network.now - started < 4
    assert ReasonCode.UNKNOWN_COOKIE in restarted.codes(ReportKind.MESSAGE_REFUSED)
    # Beta's INITIAL-CONTACT made alpha take the old pair out.
    assert ReasonCode.INITIAL_CONTACT in alpha.codes(ReportKind.QUICK_MODE_DELETED)
    assert_matching(alpha, restarted)
    assert not alpha.reported(ReportKind.QUICK_MODE_FAILED)
