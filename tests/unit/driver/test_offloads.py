"""Offloads by name: known ones, switched off, asked of the host."""

import os
from pathlib import Path

import pytest

from stockade.driver.burst.engine import load_library
from stockade.driver.userspace import offloads
from stockade.driver.userspace.offloads import OFFLOADS, examine, queue_count, read_offloads
from stockade.model.reasons import CallerError, ReasonCode


def test_names_are_read_and_unknown_ones_refused_with_the_known_ones() -> None:
    assert read_offloads(["burst", " tso ", ""]) == {"burst", "tso"}
    with pytest.raises(CallerError) as refused:
        read_offloads(["tso", "warp"])
    assert refused.value.reason.code is ReasonCode.INVALID_SETTING
    assert "'warp'" in str(refused.value)
    assert all(name in str(refused.value) for name in OFFLOADS)


def test_every_one_is_asked_and_says_what_it_is_or_what_is_missing() -> None:
    found = examine(frozenset({"gro"}))
    assert [each.name for each in found] == list(OFFLOADS)
    assert all(each.detail for each in found)
    by_name = {each.name: each for each in found}
    assert (by_name["gro"].there, by_name["gro"].detail) == (False, "switched off")
    assert by_name["batches"].there


def give_processors(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(count)))
    monkeypatch.setattr(offloads, "_OWN_GROUP", Path("/nowhere"))


@pytest.mark.skipif(load_library() is None, reason="the burst path was not built")
@pytest.mark.skipif(not os.access("/dev/net/tun", os.R_OK | os.W_OK), reason="no /dev/net/tun")
@pytest.mark.parametrize(("count", "queues"), [(1, 1), (2, 1), (3, 1), (4, 3), (5, 4), (64, 4)])
def test_queues_are_as_many_as_the_processors_are_worth(
    monkeypatch: pytest.MonkeyPatch, count: int, queues: int
) -> None:
    give_processors(monkeypatch, count)
    assert queue_count(frozenset()) == queues
    assert queue_count(frozenset({"mq"})) == queue_count(frozenset({"burst"})) == 1
    found = {each.name: each for each in examine()}["mq"]
    assert found.there == (queues > 1)
    assert found.there or f"{count} processor" in found.detail


def test_a_quota_counts_as_so_many_processors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    give_processors(monkeypatch, 16)
    own = tmp_path / "cgroup"
    own.write_text("1:cpu:/elsewhere\n0::/system.slice/stockade.service\n")
    monkeypatch.setattr(offloads, "_OWN_GROUP", own)
    monkeypatch.setattr(offloads, "_GROUPS", tmp_path)
    folder = tmp_path / "system.slice" / "stockade.service"
    folder.mkdir(parents=True)
    (folder / "cpu.max").write_text("max 100000\n")
    assert offloads.processors() == 16
    (folder.parent / "cpu.max").write_text("250000 100000\n")
    assert offloads.processors() == 2
    (folder / "cpu.max").write_text("5000 100000\n")
    assert offloads.processors() == 1
