"""An agent dies, its data plane does not: the next agent goes on with the SAs that it can account for.

    alpha: core 1 ──dies──  driver: SAs, filters  ──core 2 adopts──▶ main mode, quick mode, old pair retired
    beta:  ───────────────── traffic both ways, all the time ────────────────────────────────────────────

Virtual time; every packet is a datagram with its number."""

import math
from dataclasses import replace

import pytest
from core_harness import ALPHA, BETA, QUICK, Host, World, me_to, policy_set, secure, udp

from stockade.driver.contract import Survivor
from stockade.model.filters import Direction
from stockade.model.reasons import ReasonCode
from stockade.model.suites import Encryption, EspSuite, Hash, QuickModeProposal
from stockade.policy.objects import FilterAction, PolicySet

STRONGER = QuickModeProposal(EspSuite(Encryption.AES_CBC_256, Hash.SHA_256))


class Talk:
    """Both hosts send a numbered datagram every 50 ms."""

    def __init__(self, proposal: QuickModeProposal = QUICK) -> None:
        self.world = World()
        self.alpha, self.beta = Host(self.world, ALPHA), Host(self.world, BETA)
        action = replace(secure(), methods=(proposal,))
        self.policy = policy_set((action, (me_to(BETA),), {}))
        self.alpha.start(self.policy)
        self.beta.start(policy_set((action, (me_to(ALPHA),), {})))
        self.alpha.send(BETA, b"0")  # alone, so that there is one pair
        assert self.world.run(5, lambda: b"0" in self.beta.received)
        self.beta.received.clear()
        self.sent = 0
        self.talking = True
        self._say()
        assert self.world.run(5, lambda: len(self.alpha.received) > 5 and len(self.beta.received) > 5)

    def _say(self) -> None:
        if self.talking:
            self.sent += 1
            self.alpha.send(BETA, str(self.sent).encode())
            self.beta.send(ALPHA, str(self.sent).encode())
            self.world.clock.call_later(0.05, self._say)

    def die(self) -> None:
        """The agent of alpha; its data plane goes on."""
        self.alpha.core = None
        self.alpha.journal.clear()

    def come_back(self, policy: PolicySet | None = None, judged: float = math.inf) -> int:
        core = self.alpha.start(policy or self.policy)
        adopted = core.adopt(judged, self.world.clock.now)
        core.reconnect(self.world.clock.now)
        self.world.settle()
        return adopted

    def spis(self, host: Host) -> set[int]:
        return {one.spi for one in host.driver.statistics().sas}

    def end(self) -> None:
        self.talking = False
        self.world.run(1)

    def assert_nothing_lost(self) -> None:
        self.end()
        everything = [str(number).encode() for number in range(1, self.sent + 1)]
        assert sorted(self.alpha.received, key=int) == everything
        assert sorted(self.beta.received, key=int) == everything
        assert not self.world.clear


def test_no_packet_is_lost_when_an_agent_dies_and_the_next_one_comes():
    talk = Talk()
    before = talk.spis(talk.alpha)
    talk.world.run(1)
    talk.die()
    talk.world.run(3)  # nobody there: packets go on
    assert talk.come_back() == 1
    assert talk.spis(talk.alpha) >= before
    assert talk.world.run(5, lambda: "quick-mode-established" in talk.alpha.kinds())
    assert "quick-mode-adopted" in talk.alpha.kinds()
    core = talk.alpha.core
    assert core is not None
    # the old pair goes at both ends when the new one has taken over
    assert talk.world.run(60, lambda: not before & (talk.spis(talk.alpha) | talk.spis(talk.beta)))
    assert len(core.engine.quick_modes(talk.world.clock.now)) == 1
    assert len(talk.beta.core.engine.quick_modes(talk.world.clock.now)) == 1
    reasons = {entry.reason.code for entry in talk.beta.journal}
    assert ReasonCode.INITIAL_CONTACT not in reasons
    talk.assert_nothing_lost()


def test_again_and_again():
    talk = Talk()
    for pause in (0.0, 0.003, 0.02, 0.1, 0.7, 2.0):
        talk.die()
        talk.world.run(0.4)
        assert talk.come_back() >= 1
        talk.world.run(pause)
    talk.world.run(30)
    assert len(talk.alpha.core.engine.quick_modes(talk.world.clock.now)) == 1
    talk.end()
    # a pair that was half made when the agent died is ended: what was under way on it is lost, nothing leaks
    assert not talk.world.clear
    assert len(talk.beta.received) > 0.95 * talk.sent


def test_a_peer_that_does_not_answer_costs_no_adopted_pair():
    talk = Talk()
    talk.die()
    talk.beta.wants_ike = False
    assert talk.come_back() == 1
    assert talk.world.run(200, lambda: talk.alpha.kinds().count("main-mode-failed") >= 2)
    assert "quick-mode-established" not in talk.alpha.kinds()
    talk.beta.wants_ike = True
    assert talk.world.run(120, lambda: "quick-mode-established" in talk.alpha.kinds())
    talk.assert_nothing_lost()


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (policy_set((replace(secure(), methods=(STRONGER,)), (me_to(BETA),), {})), "algorithms"),
        (policy_set((secure(), (me_to(BETA, protocol=6),), {})), ""),
        (PolicySet(), ""),
    ],
    ids=["another method", "other traffic", "no policy"],
)
def test_what_policy_would_not_make_any_more_is_ended(policy, words):
    talk = Talk()
    talk.end()
    talk.die()
    assert talk.come_back(policy) == 0
    assert not talk.spis(talk.alpha)
    told = [entry for entry in talk.alpha.journal if entry.kind == "sa-not-adopted"]
    assert len(told) == 2
    assert all(words in str(entry.reason) for entry in told)


def test_a_pair_that_is_older_than_the_access_list_is_ended_and_made_anew():
    talk = Talk()
    talk.world.run(10)
    before = talk.spis(talk.alpha)
    talk.die()
    assert talk.come_back(judged=5.0) == 0
    assert not talk.spis(talk.alpha)
    assert talk.world.run(5, lambda: len(talk.spis(talk.alpha)) == 2)
    assert not before & talk.spis(talk.alpha)
    talk.end()
    assert not talk.world.clear


def half(talk: Talk, gone: Direction) -> None:
    """What is left when the agent died in the middle of a quick mode."""
    lost = next(sa for sa in talk.alpha.driver.statistics().sas if sa.direction is gone)
    talk.alpha.driver.remove_sa(lost.spi, gone, BETA)


def test_an_outbound_half_is_ended():
    talk = Talk()
    talk.end()
    talk.die()
    half(talk, Direction.INBOUND)
    assert talk.come_back() == 0
    assert not talk.spis(talk.alpha)


def test_an_inbound_half_takes_what_the_peer_sends_until_there_is_a_new_pair():
    talk = Talk()
    talk.die()
    half(talk, Direction.OUTBOUND)
    before = talk.spis(talk.alpha)
    assert talk.come_back() == 0
    assert talk.spis(talk.alpha) >= before
    assert talk.world.run(60, lambda: not before & talk.spis(talk.alpha))
    assert len(talk.alpha.core.engine.quick_modes(talk.world.clock.now)) == 1
    talk.assert_nothing_lost()


def test_an_inbound_half_that_policy_would_not_make_is_ended():
    talk = Talk()
    talk.end()
    talk.die()
    half(talk, Direction.OUTBOUND)
    talk.come_back(policy_set((replace(secure(), methods=(STRONGER,)), (me_to(BETA),), {})))
    assert not talk.spis(talk.alpha)


def test_an_address_that_left_takes_its_pairs_with_it():
    talk = Talk()
    talk.end()
    talk.die()
    talk.alpha.address = BETA.__class__(int(ALPHA) + 50)
    assert talk.come_back() == 0
    assert not talk.spis(talk.alpha)


def test_survivors_have_no_keys():
    talk = Talk()
    survivors = talk.alpha.driver.survivors()
    assert len(survivors) == 2
    assert all(isinstance(one, Survivor) and not len(one.sa.encryption_key) for one in survivors)
    assert not any(len(one.sa.integrity_key) for one in survivors)


def test_an_idle_adopted_pair_is_deleted_and_the_peer_told():
    talk = Talk()
    talk.end()
    talk.die()
    assert talk.come_back() == 1
    assert talk.world.run(5, lambda: "quick-mode-established" in talk.alpha.kinds())
    talk.world.run(400)
    assert not talk.spis(talk.alpha)
    assert not talk.spis(talk.beta)
    talk.alpha.driver.outbound(udp(ALPHA, BETA, b"more"), talk.world.clock.now)
    talk.world.settle()
    assert talk.world.run(5, lambda: b"more" in talk.beta.received)
    assert not talk.world.clear


def test_an_action_without_methods_is_no_reason_to_stumble():
    talk = Talk()
    talk.end()
    talk.die()
    assert talk.come_back(policy_set((FilterAction("secure"), (me_to(BETA),), {}))) == 0
