"""The events of a driver until `events` takes them, and the descriptor by which an event loop hears of them:
that of an epoll which has a bell of this process, and whatever else the driver watches."""

import select
import socket
from collections import deque
from collections.abc import Iterable
from contextlib import suppress

from stockade.driver.contract import DriverEvent


class EventQueue:
    """Not safe for several threads, but for `wake`."""

    def __init__(self) -> None:
        self._events: deque[DriverEvent] = deque()
        self._epoll = select.epoll()
        self._wake_reading, self._wake_writing = socket.socketpair(type=socket.SOCK_STREAM)
        self._wake_reading.setblocking(False)
        self._wake_writing.setblocking(False)
        self._epoll.register(self._wake_reading.fileno(), select.EPOLLIN)

    def fileno(self) -> int:
        return self._epoll.fileno()

    def watch(self, descriptor: int) -> None:
        """`fileno` is readable when this one is."""
        self._epoll.register(descriptor, select.EPOLLIN)

    def unwatch(self, descriptor: int) -> None:
        """One that is not watched, or closed, is no error."""
        with suppress(OSError, ValueError):
            self._epoll.unregister(descriptor)

    def wake(self) -> None:
        """Have `events` called, from any thread."""
        with suppress(OSError):  # full: it is readable
            self._wake_writing.send(b"\0")

    def hush(self) -> None:
        """What the bell was rung for is looked at now."""
        with suppress(BlockingIOError):
            while self._wake_reading.recv(4096):
                pass

    def append(self, event: DriverEvent) -> None:
        self._events.append(event)

    def extend(self, events: Iterable[DriverEvent]) -> None:
        self._events.extend(events)

    def take(self) -> list[DriverEvent]:
        events = list(self._events)
        self._events.clear()
        return events
