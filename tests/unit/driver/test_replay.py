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


@settings(max_examples=150, deadline=None)
@given(
    SIZES,
    st.sampled_from([0, 1, (1 << 32) - 50, 1 << 32, (1 << 32) + 20, (7 << 32) - 1, (7 << 32) + 5000]),
    st.lists(
        st.integers(-200, 200) | st.integers(-6000, 6000) | st.integers(0, (1 << 32) - 5000), max_size=60
    ),
)
def test_the_upper_half_is_found_wherever_the_window_stands(size: int, start: int, steps: list[int]) -> None:
    """What a set of all 64-bit numbers says, though only the lower halves are told; loss of almost 2^32
    packets in a row included."""
    window = ReplayWindow(size, extended=True)
    top = 0
    seen: set[int] = set()
    for step in [start, *steps]:
        sequence = max(1, top + step)
        if sequence - top >= (1 << 32) - size:
            window.accept(sequence)  # somebody else has brought them into step
            seen.add(sequence)
            top = sequence
            continue
        found = window.number_of(sequence & 0xFFFF_FFFF)
        if sequence > top - size:
            assert found == sequence
            new = sequence > top or sequence not in seen
            assert window.check(found) is new
            assert window.accept(found) is new
            seen.add(sequence)
            top = max(top, sequence)
        else:
            # Too old: taken for one of the next space, whose integrity check it fails.
            assert found != sequence
        assert window.top == top


def test_before_the_first_packet_there_is_no_space() -> None:
    window = ReplayWindow(64, extended=True)
    assert window.number_of(0xFFFF_FFFF) == 0
    assert not window.check(0)
    assert window.number_of(1) == 1


def test_the_first_number_of_a_space_is_one_like_any_other() -> None:
    window = ReplayWindow(64, extended=True)
    assert window.accept((1 << 32) - 1)
    assert window.number_of(0) == 1 << 32
    assert window.accept(1 << 32)
    assert not window.check(1 << 32)
    assert window.number_of(0xFFFF_FFFF) == (1 << 32) - 1
    assert not window.check((1 << 32) - 1)


def test_extended_numbers_need_a_window() -> None:
    with pytest.raises(ValueError, match="32 to 4096"):
        ReplayWindow(0, extended=True)
