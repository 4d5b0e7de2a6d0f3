"""Offloads by name: known ones, switched off, asked of the host."""

import pytest

from stockade.driver.userspace.offloads import OFFLOADS, examine, read_offloads
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
