"""Threads for work that may block: tickets from a domain controller, revocation lists from a web server.

They are daemons: a controller that never answers must not keep a stopping agent from ending."""

import queue
import threading
from collections.abc import Callable
from contextlib import suppress

Job = Callable[[], None]


class Workers:
    """`count` threads, started with the first job. Jobs handle their own errors."""

    def __init__(self, count: int = 2, name: str = "stockade-worker") -> None:
        self._count = count
        self._name = name
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    def submit(self, job: Job) -> None:
        if len(self._threads) < self._count:
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._threads.append(thread)
            thread.start()
        self._jobs.put(job)

    def stop(self) -> None:
        """Begin no more jobs; those that run are left to themselves."""
        with suppress(queue.Empty):
            while True:
                self._jobs.get_nowait()
        for _ in self._threads:
            self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
