import random

import pytest

from stockade.ike.config import EngineConfig
from stockade.ike.limits import MAXIMUM_KEYS, RateLimiter, RecentlySeen, TokenBucket
from stockade.ike.retransmission import Retransmission, random_fraction
from stockade.ike.timers import TimerQueue


def test_timers_run_in_order_and_once() -> None:
    queue, seen = TimerQueue(), []
    for owner, when in (("b", 2.0), ("a", 1.0), ("c", 3.0)):
        queue.set(owner, when, lambda now, owner=owner: seen.append((owner, now)))
    assert queue.next() == 1.0
    queue.run(2.5)
    assert seen == [("a", 2.5), ("b", 2.5)]
    queue.run(2.5)
    assert len(seen) == 2
    assert queue.next() == 3.0


def test_an_owner_has_one_deadline_and_can_give_it_up() -> None:
    queue, seen = TimerQueue(), []
    queue.set("a", 1.0, lambda now: seen.append("old"))
    queue.set("a", 5.0, lambda now: seen.append("new"))
    assert queue.next() == 5.0
    queue.set("a", None, lambda now: None)
    assert queue.next() is None
    queue.run(10.0)
    assert seen == []


def test_action_that_cancels_or_renews_another_one() -> None:
    queue, seen = TimerQueue(), []
    queue.set("a", 1.0, lambda now: (queue.cancel("b"), queue.set("c", now, lambda later: seen.append("c"))))
    queue.set("b", 1.0, lambda now: seen.append("b"))
    queue.run(1.0)
    assert seen == []  # b was cancelled; c, set in the past, waits for the next run
    queue.run(1.0)
    assert seen == ["c"]


def test_timer_heap_stays_small_when_deadlines_move() -> None:
    queue = TimerQueue()
    for number in range(10_000):
        queue.set(number % 10, float(number), lambda now: None)
    assert len(queue) == 10
    assert len(queue._heap) <= 64 + 1
    assert queue.next() == 9990.0


def test_token_bucket_allows_its_rate_and_no_more() -> None:
    bucket = TokenBucket(2.0)
    assert sum(bucket.take(0.0) for _ in range(10)) == 2
    assert sum(bucket.take(now / 100) for now in range(1000)) == pytest.approx(20, abs=1)


def test_token_bucket_ignores_time_that_goes_back() -> None:
    bucket = TokenBucket(1.0)
    assert bucket.take(100.0)
    assert not bucket.take(0.0)
    assert not bucket.take(100.5)
    assert bucket.take(101.0)


def test_one_loud_key_does_not_use_up_the_common_rate() -> None:
    limiter = RateLimiter(3.0, 1.0)
    assert sum(limiter.take("loud", 0.0) for _ in range(100)) == 1
    assert limiter.suppressed == 99
    assert limiter.take("quiet", 0.0)


def test_rate_limiter_forgets_keys() -> None:
    limiter = RateLimiter(1e9, 1.0)
    for key in range(5000):
        limiter.take(key, 0.0)
    assert len(limiter._buckets) == MAXIMUM_KEYS


def test_recently_seen_is_bounded() -> None:
    seen = RecentlySeen(3)
    for key in range(5):
        seen.add(key)
    assert len(seen) == 3
    assert 4 in seen
    assert 0 not in seen


def test_retransmission_schedule() -> None:
    schedule = Retransmission((1, 2, 4, 8, 16, 16, 16), 0.0, random.Random(0).randbytes, 10.0)
    times = [10.0]
    while not schedule.exhausted:
        times.append(schedule.due)
        schedule.repeat(schedule.due)
    assert [time - 10 for time in times] == [0, 1, 3, 7, 15, 31, 47]
    assert schedule.due == 10 + 63
    assert schedule.sent == 7


def test_random_fraction_is_from_0_to_1() -> None:
    assert random_fraction(lambda size: b"\0" * size) == 0
    assert 0.999 < random_fraction(lambda size: b"\xff" * size) < 1


@pytest.mark.parametrize(
    "settings",
    [
        {"retransmission_intervals": ()},
        {"retransmission_intervals": (1, 0)},
        {"retransmission_jitter": -1.0},
        {"authentication_attempts": 0},
        {"authentication_attempts": 8},
        {"microsoft_version": -1},
    ],
)
def test_configuration_checks_itself(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        EngineConfig(**settings)  # type: ignore[arg-type]
