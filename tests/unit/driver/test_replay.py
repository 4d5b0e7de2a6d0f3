"""The replay window against a model that remembers every number it ever saw."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockade.driver.replay import ReplayWindow

SIZES = st.sampled_from([32, 33, 64, 100, 1024, 4096])


@settings(max_examples=150, deadline=None)
@given(SIZES, st.lists(st.integers(-200, 200) | st.integers(-6000, 6000), max_size=80))
def test_the_window_says_what_a_set_of_all_numbers_says(size: int, steps: list[int]) -> None:
    window = ReplayWindow(size)
    seen: set[int] = set()
    top = 0
    for step in steps:
        sequence = max(0, top + step)
        new = sequence > top or (sequence > 0 and sequence > top - size and sequence not in seen)
        assert window.check(sequence) is new
        assert window.accept(sequence) is new
        if new:
            seen.add(sequence)
            top = max(top, sequence)
        assert window.top == top


def test_a_check_changes_nothing() -> None:
    window = ReplayWindow(64)
    window.accept(10)
    assert window.check(4000)
    assert window.check(9)
    assert not window.check(10)


def test_number_zero_never_passes() -> None:
    assert not ReplayWindow(64).accept(0)
    assert not ReplayWindow(0).check(0)


def test_without_a_window_a_repeated_number_passes() -> None:
    window = ReplayWindow(0)
    assert window.accept(5)
    assert window.accept(5)
    assert window.accept(3)


def test_the_last_number_is_reached_by_one_jump_in_little_memory() -> None:
    window = ReplayWindow(4096)
    assert window.accept(1)
    assert window.accept(0xFFFF_FFFF)
    assert not window.check(0xFFFF_FFFF)
    assert window.check(0xFFFF_FFFF - 4095)
    assert not window.check(0xFFFF_FFFF - 4096)


@pytest.mark.parametrize("size", [1, 31, 4097])
def test_other_sizes_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="32 to 4096"):
        ReplayWindow(size)
