"""What is planned for a peer that says nothing."""

from dataclasses import replace

import pytest

from stockade.ike.config import EngineConfig
from stockade.ike.liveness import LOOK_SECONDS, PeerTraits, explain, plan_for

WINDOWS = EngineConfig(notice_seconds=0)
HOTFIX = replace(WINDOWS, failover_idle_seconds=5.0)
PLAIN, CLUSTER = PeerTraits(), PeerTraits(cluster=True)
ASKABLE = PeerTraits(can_be_asked=True)


def test_windows_without_the_hotfix() -> None:
    assert plan_for(WINDOWS, PLAIN).idle_seconds == 300
    plan = plan_for(WINDOWS, CLUSTER)
    assert (plan.idle_seconds, plan.silence_seconds, plan.probes) == (60, 60, ())
    assert plan.quick_seconds == 63
    assert not plan.silence_is_idle  # a one-way stream gets its next pair before the old one goes
    assert plan_for(EngineConfig(), PLAIN).notice_seconds == 300 + 2 * LOOK_SECONDS + 63


def test_the_hotfix_acts_on_peers_in_clusters_only() -> None:
    assert plan_for(HOTFIX, PLAIN) == plan_for(WINDOWS, PLAIN)
    plan = plan_for(HOTFIX, CLUSTER)
    assert (plan.idle_seconds, plan.silence_seconds, plan.quick_seconds) == (5, 5, 3)
    assert plan.silence_is_idle
    assert plan.notice_seconds <= 15  # "about 15 s", with the main mode
    longer = plan_for(replace(HOTFIX, failover_quick_seconds=10.0), CLUSTER)
    assert longer.notice_seconds == plan.notice_seconds + 7


@pytest.mark.parametrize("seconds", [5, 10, 20, 600])
@pytest.mark.parametrize("traits", [PLAIN, ASKABLE, CLUSTER, PeerTraits(True, cluster=True)])
def test_one_number_for_people_holds_for_every_peer(seconds: int, traits: PeerTraits) -> None:
    for config in (EngineConfig(notice_seconds=seconds), replace(HOTFIX, notice_seconds=seconds)):
        plan = plan_for(config, traits)
        if traits.cluster and config.failover_idle_seconds and not traits.can_be_asked:
            assert plan.notice_seconds <= max(seconds, 5 + 3 + 2 * LOOK_SECONDS)
        else:
            assert plan.notice_seconds <= seconds
        assert bool(plan.probes) is traits.can_be_asked


def test_a_peer_that_can_be_asked_is_noticed_within_twenty_seconds_by_default() -> None:
    plan = plan_for(EngineConfig(), ASKABLE)
    assert plan.notice_seconds == 20
    assert plan.idle_seconds == 300
    assert [rung.name for rung in plan.rungs] == ["silence", "probe"]


@pytest.mark.parametrize(
    "setting",
    [{"failover_idle_seconds": 4.0}, {"failover_idle_seconds": 61.0}, {"failover_quick_seconds": 2.0},
     {"failover_quick_seconds": 61.0}, {"notice_seconds": 4.0}, {"notice_seconds": 3601.0}],
)  # fmt: skip
def test_settings_have_ranges(setting: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must be from \d+ to \d+"):
        EngineConfig(**setting)


def test_people_are_told_the_worst_case_and_why() -> None:
    text = "\n".join(explain(plan_for(EngineConfig(), ASKABLE)))
    assert "a new main mode, at most 20 s after the first packet without an answer" in text
    assert "RFC 3706" in text
    assert "proves" not in text
    assert "proves that it lost" in "\n".join(
        explain(plan_for(EngineConfig(), PeerTraits(True, proves=True)))
    )
    assert "NlbsIdleTime" in "\n".join(explain(plan_for(HOTFIX, CLUSTER)))
    asked_for = "\n".join(explain(plan_for(EngineConfig(notice_seconds=10), PLAIN)))
    assert "10 s that deadpeertime asks for" in asked_for
    silent = "\n".join(explain(plan_for(EngineConfig(), PLAIN)))
    assert "at most 365 s after the first packet without an answer" in silent
