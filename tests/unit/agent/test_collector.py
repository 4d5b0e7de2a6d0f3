"""When an agent looks for garbage: in quiet moments, the less often the longer it takes."""

import gc
from collections.abc import Iterator
from weakref import ref

import pytest

from stockade.agent.collector import INTERVAL, SHARE, THRESHOLDS, Collector, calm_collector


class Node:
    """Something that can be in a cycle."""

    def __init__(self) -> None:
        self.itself: object = self


@pytest.fixture
def calm() -> Iterator[None]:
    before = gc.get_threshold()
    calm_collector()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


def test_a_look_waits_for_its_time_and_for_a_quiet_moment(calm: None) -> None:
    collector = Collector(0.0, iter([0.0, 0.0] * 9).__next__)
    assert not collector.look(INTERVAL - 1, quiet=True)
    assert not collector.look(INTERVAL + 1, quiet=False)
    assert collector.look(INTERVAL + 2, quiet=True)
    assert not collector.look(INTERVAL + 3, quiet=True)


def test_without_a_quiet_moment_it_looks_after_twice_the_time(calm: None) -> None:
    collector = Collector(0.0, iter([0.0, 0.0]).__next__)
    assert not collector.look(2 * INTERVAL - 1, quiet=False)
    assert collector.look(2 * INTERVAL, quiet=False)


def test_a_long_look_is_not_repeated_soon(calm: None) -> None:
    took = 0.5
    collector = Collector(0.0, iter([10.0, 10.0 + took, 20.0, 20.0]).__next__)
    assert collector.look(INTERVAL, quiet=True)
    assert not collector.look(INTERVAL + SHARE * took - 1, quiet=True)
    assert collector.look(INTERVAL + SHARE * took, quiet=True)


def test_what_only_refers_to_itself_goes_with_the_look_and_no_sooner(calm: None) -> None:
    assert gc.get_threshold() == THRESHOLDS
    node = Node()
    seen = ref(node)
    gc.collect(1)  # it is old by now
    del node
    gc.collect(1)
    assert seen() is not None
    assert Collector(-INTERVAL).look(0.0, quiet=True)
    assert seen() is None
