"""When an agent looks for garbage: in quiet moments, the less often the longer it takes."""

import gc
from collections.abc import Iterator
from itertools import count
from weakref import ref

import pytest

from stockade.agent.collector import (
    INTERVAL,
    OVERDUE,
    SHARE,
    THRESHOLDS,
    WORTHWHILE,
    Collector,
    calm_collector,
)


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


def _collector(come: int = WORTHWHILE, took: float = 0.0) -> Collector:
    """One that began at 0, to which always so many objects have come."""
    return Collector(0.0, count(0.0, took).__next__, lambda: come)


def test_a_look_waits_for_its_time_and_for_a_quiet_moment(calm: None) -> None:
    collector = _collector()
    assert not collector.look(INTERVAL - 1, quiet=True)
    assert not collector.look(INTERVAL + 1, quiet=False)
    assert collector.look(INTERVAL + 2, quiet=True)
    assert not collector.look(INTERVAL + 3, quiet=True)


def test_where_little_has_come_there_is_no_look(calm: None) -> None:
    assert not _collector(WORTHWHILE - 1).look(100 * INTERVAL, quiet=True)


def test_where_very_much_has_come_any_moment_is_taken(calm: None) -> None:
    assert not _collector(OVERDUE - 1).look(100 * INTERVAL, quiet=False)
    assert _collector(OVERDUE).look(1.0, quiet=False)


def test_a_long_look_is_not_repeated_soon(calm: None) -> None:
    collector = _collector(took=0.5)
    assert collector.look(INTERVAL, quiet=True)
    assert not collector.look(INTERVAL + SHARE * 0.5 - 1, quiet=True)
    assert collector.look(INTERVAL + SHARE * 0.5, quiet=True)


def test_what_only_refers_to_itself_goes_with_the_look_and_no_sooner(calm: None) -> None:
    assert gc.get_threshold() == THRESHOLDS
    nodes = [Node() for _ in range(2 * WORTHWHILE)]
    seen = ref(nodes[0])
    gc.collect(0)  # they are old by now
    del nodes
    gc.collect(0)
    assert seen() is not None
    assert Collector(-INTERVAL).look(0.0, quiet=True)
    assert seen() is None
