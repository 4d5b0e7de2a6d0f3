"""Secured packets that come before their SA.

     we (initiator)                        the peer (responder)
         quick mode message 1  ->
                               <-  message 2
                               <-  ESP under the SA that we can make only once message 2 is read

libreswan sends on a new pair from the moment that it answers, so at every rekey the first packets of a busy
flow overtake our key exchange: message 2 waits for the agent while ESP goes to the data plane at once. They
are kept for a moment and opened as soon as the SA is there, with all the checks that any packet gets. Nobody
knows a random SPI of ours but the peer that it was told to; what is guessed waits here in vain, in bounded
room, and the oldest gives way."""

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

PACKETS_PER_SPI: Final = 256
PACKETS: Final = 1024
BYTES: Final = 2 << 20
SECONDS: Final = 2.0
"""A peer's message that is not there by then was lost; the peer repeats its packets sooner or later."""


class EarlyPackets:
    """Kept by any bytes that name protocol, destination and SPI. `dropped` is called for each packet that is
    given up."""

    def __init__(self, dropped: Callable[[], None]) -> None:
        self._dropped = dropped
        self._waiting: OrderedDict[bytes, deque[tuple[bytes, float]]] = OrderedDict()
        self._packets = 0
        self._bytes = 0

    def __len__(self) -> int:
        return self._packets

    def add(self, key: bytes, packet: bytes, now: float) -> None:
        queue = self._waiting.setdefault(key, deque())
        queue.append((packet, now))
        self._packets += 1
        self._bytes += len(packet)
        if len(queue) > PACKETS_PER_SPI:
            self._drop(key)
        while self._packets > PACKETS or self._bytes > BYTES:
            self._drop(next(iter(self._waiting)))

    def take(self, key: bytes) -> list[bytes]:
        """Remove and return what waits for this SA, in the order in which it came."""
        queue = self._waiting.pop(key, None)
        if queue is None:
            return []
        packets = [packet for packet, _ in queue]
        self._packets -= len(packets)
        self._bytes -= sum(map(len, packets))
        return packets

    def expire(self, now: float) -> None:
        """Give up what waits for longer than `SECONDS`."""
        if not self._waiting:
            return
        for key in list(self._waiting):
            while (queue := self._waiting.get(key)) is not None and now - queue[0][1] >= SECONDS:
                self._drop(key)

    def _drop(self, key: bytes) -> None:
        """The oldest of one SPI."""
        queue = self._waiting[key]
        packet, _ = queue.popleft()
        self._packets -= 1
        self._bytes -= len(packet)
        if not queue:
            del self._waiting[key]
        self._dropped()
