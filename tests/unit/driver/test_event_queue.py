"""The events of a driver, and the descriptor that an event loop waits for."""

import os
import select
import threading

import pytest

from stockade.driver.contract import DriverFailed
from stockade.driver.event_queue import EventQueue
from stockade.model.reasons import Reason, ReasonCode

EVENTS = [DriverFailed(Reason.of(ReasonCode.DRIVER_FAILED, word)) for word in ("one", "two", "three")]


@pytest.fixture
def queue() -> EventQueue:
    return EventQueue()


def is_readable(queue: EventQueue, milliseconds: int = 0) -> bool:
    poll = select.poll()
    poll.register(queue.fileno(), select.POLLIN)
    return bool(poll.poll(milliseconds))


def test_events_are_taken_once_and_in_order(queue):
    queue.append(EVENTS[0])
    queue.extend(EVENTS[1:])
    assert queue.take() == EVENTS
    assert queue.take() == []


def test_an_event_loop_is_woken_from_any_thread_until_somebody_looks(queue):
    assert not is_readable(queue)
    thread = threading.Thread(target=queue.wake)
    thread.start()
    assert is_readable(queue, 30_000)
    thread.join()
    queue.hush()
    assert not is_readable(queue)
    queue.hush()


def test_a_bell_that_nobody_hears_blocks_nobody(queue):
    for _ in range(200_000):  # far more than the socket holds
        queue.wake()
    assert is_readable(queue)
    queue.hush()
    assert not is_readable(queue)


def test_what_is_watched_wakes_and_what_is_not_any_more_does_not(queue):
    reading, writing = os.pipe()
    queue.watch(reading)
    os.write(writing, b"x")
    assert is_readable(queue, 30_000)
    queue.unwatch(reading)
    assert not is_readable(queue)
    queue.unwatch(reading)
    for number in (reading, writing):
        os.close(number)
    queue.unwatch(reading)
    queue.unwatch(-1)
