"""Threads for work that may block."""

import threading

from stockade.agent.workers import Workers


def test_what_waits_when_they_are_stopped_is_not_begun() -> None:
    workers = Workers(1)
    begun, free, done = threading.Event(), threading.Event(), []

    def first() -> None:
        begun.set()
        free.wait(60)
        done.append("first")

    workers.submit(first)
    assert begun.wait(60)
    workers.submit(lambda: done.append("second"))
    (thread,) = workers._threads
    workers.stop()
    free.set()
    thread.join(60)
    assert not thread.is_alive()
    assert done == ["first"]
