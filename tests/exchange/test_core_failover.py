"""Peers that die under whole hosts: fast failover as Windows does it (KB 980915), and the ladder.

alpha sends, gamma's (or beta's) state is lost without a word. Times are exact: the clock is virtual."""

from dataclasses import replace

import pytest
from core_harness import ALPHA, BETA, GAMMA, Host, World, me_to, policy_set, secure

from stockade.agent import views
from stockade.ike.config import EngineConfig
from stockade.ike.liveness import PeerTraits, plan_for
from stockade.model.reasons import ReasonCode

EXACT = EngineConfig(retransmission_jitter=0.0)
WINDOWS = replace(EXACT, notice_seconds=0.0, dead_peer_detection=False)
HOTFIX = replace(WINDOWS, failover_idle_seconds=5.0)
CLUSTER = replace(WINDOWS, advertise_cluster=True)
SECURED = policy_set((secure(), (me_to(BETA),), {}))
ANSWERING = policy_set((secure(), (me_to(ALPHA),), {}))


class Cluster:
    """alpha speaks with an address that first one node has, and then another."""

    def __init__(self, client: EngineConfig, server: EngineConfig) -> None:
        self.world = World()
        self.alpha = Host(self.world, ALPHA)
        self.server_config = server
        self.node = self._node()
        self.core = self.alpha.start(SECURED, config=client)
        self.number = 0
        self._send()
        assert self.world.run(3, lambda: bool(self.node.received))

    def _node(self) -> Host:
        node = Host(self.world, BETA)
        node.start(ANSWERING, config=self.server_config)
        deliver = node._deliver
        # The service echoes what it gets.
        node.driver._deliver = lambda packet: (deliver(packet), self._echo(node, packet))
        return node

    def _echo(self, node: Host, packet: bytes) -> None:
        if packet[9] == 17:
            self.world.clock.call_later(0.0, lambda: node.send(ALPHA, packet[28:]))

    def _send(self) -> None:
        self.number += 1
        self.alpha.send(BETA, str(self.number).encode())
        self.world.clock.call_later(0.25, self._send)

    def crash(self) -> float:
        """The node dies; another one has its address at once. Returns when."""
        self.world.run(2)
        self.world.hosts.remove(self.node)
        self.node.core = None
        self.node = self._node()
        return self.world.clock.now

    def back_after(self, crash: float, limit: float) -> float:
        """Seconds until a packet of alpha's is secured and answered again."""
        before = len(self.alpha.received)
        assert self.world.run(limit, lambda: len(self.alpha.received) > before), "not back in time"
        return self.world.clock.now - crash

    def deleted(self) -> list[ReasonCode]:
        return [entry.reason.code for entry in self.alpha.journal if entry.kind.endswith("mode-deleted")]


def test_windows_2000_needs_five_to_six_minutes() -> None:
    scene = Cluster(replace(WINDOWS, silence_is_idle=True, microsoft_version=2), WINDOWS)
    crash = scene.crash()
    assert 300 <= scene.back_after(crash, 400) <= 366


def test_windows_2003_needs_two_minutes_with_a_cluster() -> None:
    scene = Cluster(replace(WINDOWS, silence_is_idle=True, microsoft_version=4), CLUSTER)
    crash = scene.crash()
    assert 60 <= scene.back_after(crash, 200) <= 180


@pytest.mark.parametrize("quick", [3.0, 10.0])
def test_the_hotfix_needs_about_fifteen_seconds(quick: float) -> None:
    config = replace(HOTFIX, failover_quick_seconds=quick)
    scene = Cluster(config, CLUSTER)
    crash = scene.crash()
    back = scene.back_after(crash, 60)
    assert back <= plan_for(config, PeerTraits(cluster=True)).notice_seconds + 0.5
    assert back >= 5 + min(3.0, quick)
    assert ReasonCode.SA_IDLE in scene.deleted()


def test_a_living_node_costs_the_hotfix_one_quick_mode_and_no_main_mode() -> None:
    """A one-way stream: nothing comes back, and nothing is wrong."""
    scene = Cluster(HOTFIX, CLUSTER)
    scene.node.driver._deliver = scene.node._deliver  # no echo any more
    before = scene.core.engine.statistics["main_modes"]
    assert not scene.world.run(30, lambda: False)
    assert scene.core.engine.statistics["main_modes"] == before
    assert scene.core.engine.statistics["quick_modes"] > 1
    assert int(scene.node.received[-1]) >= scene.number - 1


def test_a_peer_that_cannot_be_asked_is_noticed_after_its_idle_time_with_no_setting_at_all() -> None:
    """Our defaults towards Windows: the client sends all the time, so no pair of it is ever unused."""
    scene = Cluster(EXACT, WINDOWS)
    back = scene.back_after(scene.crash(), 400)
    worst = plan_for(EXACT, PeerTraits()).notice_seconds
    assert 300 <= back <= worst + 0.5
    assert worst == 365


def test_a_one_way_stream_to_a_peer_that_cannot_be_asked_is_never_interrupted() -> None:
    scene = Cluster(EXACT, WINDOWS)
    scene.node.driver._deliver = scene.node._deliver
    before, numbers = scene.core.engine.statistics["quick_modes"], len(scene.node.received)
    first = scene.number
    scene.world.run(620)
    assert scene.core.engine.statistics["quick_modes"] == before + 2
    assert scene.core.engine.statistics["main_modes"] == 1
    assert len(scene.node.received) - numbers == scene.number - first
    assert set(scene.deleted()) == {ReasonCode.SA_REPLACED}


@pytest.mark.parametrize("seconds", [5.0, 10.0, 20.0])
@pytest.mark.parametrize("can_be_asked", [True, False])
def test_a_dead_peer_is_noticed_within_the_time_that_people_set(seconds: float, can_be_asked: bool) -> None:
    config = replace(EXACT, notice_seconds=seconds, dead_peer_detection=can_be_asked)
    scene = Cluster(config, WINDOWS if not can_be_asked else EXACT)
    crash = scene.crash()
    assert scene.back_after(crash, 60) <= seconds + 0.5


def test_a_one_way_stream_to_a_living_peer_that_can_be_asked_is_never_cut() -> None:
    scene = Cluster(replace(EXACT, notice_seconds=5.0), EXACT)
    scene.node.driver._deliver = scene.node._deliver
    scene.world.run(120)
    assert not scene.deleted()
    assert scene.core.engine.statistics["quick_modes"] == 1


def test_explain_peer_tells_the_plan_of_this_peer_and_both_kinds_of_a_stranger() -> None:
    scene = Cluster(EXACT, WINDOWS)
    known = views.peer_plan(scene.core, BETA)
    assert (known.known, known.notice_seconds, known.idle_seconds) == (True, 365.0, 300.0)
    assert [rung.name for rung in known.rungs] == ["silence", "quick mode"]
    assert sum(rung.seconds for rung in known.rungs) == known.notice_seconds
    assert "at most 365 s" in "\n".join(known.lines)
    stranger = views.peer_plan(scene.core, GAMMA)
    assert not stranger.known
    text = "\n".join(stranger.lines)
    assert text.index("at most 20 s") < text.index("at most 365 s")
