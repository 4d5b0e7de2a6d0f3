"""Private values made ahead: each for one exchange, few, not for ever."""

import os

import pytest

from stockade.ike import key_pool
from stockade.ike.key_pool import MAXIMUM_AGE, SIZE, UNUSED, KeyPool
from stockade.model.suites import Group

CURVE, ECP = Group.CURVE_25519, Group.ECP_256


def filled(*groups: Group, now: float = 0.0) -> KeyPool:
    pool = KeyPool(os.urandom)
    for group in groups:
        pool.take(group, now)
    while pool.prepare(now):
        pass
    return pool


def test_every_value_is_given_out_once() -> None:
    pool = filled(CURVE)
    taken = []
    for number in range(5 * SIZE):
        taken.append(pool.take(CURVE, float(number)))
        if number % 3 == 0:
            pool.prepare(float(number))
    assert len({value.public for value in taken}) == len(taken)
    assert len({id(value) for value in taken}) == len(taken)


def test_what_was_made_ahead_is_what_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = filled(CURVE)
    assert len(pool) == SIZE

    def never(group: Group, random: object) -> None:
        raise AssertionError("made at once although some wait")

    monkeypatch.setattr(key_pool, "generate", never)
    for _ in range(SIZE):
        pool.take(CURVE, 1.0)
    assert len(pool) == 0
    with pytest.raises(AssertionError, match="made at once"):
        pool.take(CURVE, 1.0)


def test_nothing_is_made_of_a_group_that_nobody_has_asked_for() -> None:
    pool = KeyPool(os.urandom)
    assert not pool.wants
    assert not pool.prepare(0.0)
    assert len(pool) == 0


def test_the_number_that_waits_is_bounded_for_each_group() -> None:
    pool = filled(CURVE, ECP)
    assert not pool.wants
    assert not pool.prepare(0.0)
    assert len(pool) == 2 * SIZE
    assert pool.take(ECP, 0.0).group is ECP
    assert pool.wants


def test_a_value_that_is_too_old_is_not_given_out() -> None:
    pool = filled(CURVE)
    early = [value for _, value in pool._ready[CURVE]]
    assert pool.take(CURVE, MAXIMUM_AGE) not in early
    assert len(pool) == 0


def test_values_that_are_too_old_are_forgotten_and_made_anew_while_somebody_asks() -> None:
    pool = filled(CURVE)
    assert pool.due == MAXIMUM_AGE
    pool.forget(MAXIMUM_AGE - 1)
    assert len(pool) == SIZE
    pool.forget(MAXIMUM_AGE)
    assert len(pool) == 0
    assert pool.due is None
    assert pool.wants
    pool.forget(UNUSED)
    assert not pool.wants
