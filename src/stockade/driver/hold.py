"""Packets that wait for an SA: bounded in packets per filter and peer, in packets and in bytes altogether, in
age."""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from stockade.model.addresses import Address

PACKETS_PER_PEER: Final = 64
PACKETS: Final = 1024
BYTES: Final = 16 << 20
SECONDS: Final = 60.0
"""A negotiation that took longer is dead; what still waits for it is of no use to anybody."""


@dataclass(frozen=True, slots=True)
class Held:
    filter_id: str
    negotiation: str
    peer: Address
    packet: bytes
    since: float


class HoldQueue:
    """`dropped` is called with each packet that had to make room."""

    def __init__(self, dropped: Callable[[Held], None]) -> None:
        self._dropped = dropped
        self._packets: OrderedDict[int, Held] = OrderedDict()
        self._by_peer: dict[tuple[str, Address], deque[int]] = {}
        self._next = 0
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._packets)

    def add(self, held: Held) -> None:
        numbers = self._by_peer.setdefault((held.filter_id, held.peer), deque())
        self._packets[self._next] = held
        numbers.append(self._next)
        self._next += 1
        self._bytes += len(held.packet)
        if len(numbers) > PACKETS_PER_PEER:
            self._drop(numbers[0])
        while len(self._packets) > PACKETS or self._bytes > BYTES:
            self._drop(next(iter(self._packets)))

    def take(self, wanted: Callable[[Held], bool]) -> list[Held]:
        """Remove and return what is wanted, oldest first."""
        numbers = [number for number, held in self._packets.items() if wanted(held)]
        return [self._remove(number) for number in numbers]

    def expire(self, now: float) -> None:
        """Drop what waits for longer than `SECONDS`."""
        while self._packets:
            number, held = next(iter(self._packets.items()))
            if now - held.since < SECONDS:
                return
            self._drop(number)

    def __iter__(self) -> Iterator[Held]:
        return iter(self._packets.values())

    def _drop(self, number: int) -> None:
        self._dropped(self._remove(number))

    def _remove(self, number: int) -> Held:
        held = self._packets.pop(number)
        self._bytes -= len(held.packet)
        key = (held.filter_id, held.peer)
        numbers = self._by_peer[key]
        numbers.remove(number)
        if not numbers:
            del self._by_peer[key]
        return held
