"""What the packet path tells: events, and dropped packets counted and summed up (see `refusals`)."""

from collections import deque
from ipaddress import IPv4Address
from typing import Final

from stockade.driver.contract import DriverEvent, PacketRefused
from stockade.driver.packets import IPV6_HEADER, MINIMUM_HEADER, addresses_of
from stockade.driver.refusals import Refusals
from stockade.model.addresses import Address
from stockade.model.reasons import ReasonCode

MAXIMUM_WAITING_EVENTS: Final = 8192

_NOWHERE = IPv4Address(0)


class Audit:
    """One host's events and counts of refusals. Events that nobody fetches are bounded: refusals beyond that
    are counted only."""

    def __init__(self) -> None:
        self._events: deque[DriverEvent] = deque()
        self._refusals = Refusals()

    def tell(self, event: DriverEvent) -> None:
        self._events.append(event)

    def take(self) -> list[DriverEvent]:
        """What was told since the last call."""
        if not self._events:  # asked after every message of the key exchange
            return []
        events = list(self._events)
        self._events.clear()
        return events

    def count(self, word: str, packets: int = 1) -> None:
        """Dropped packets that are no event."""
        self._refusals.totals[word] += packets

    def totals(self) -> tuple[tuple[str, int], ...]:
        """(reason word, packets) since the start."""
        return tuple(sorted(self._refusals.totals.items()))

    def refuse(
        self,
        code: ReasonCode,
        source: Address,
        destination: Address,
        now: float,
        *,
        spi: int = 0,
        count: int = 1,
        port: int = 0,
        counted: bool = True,
    ) -> None:
        self._emit(
            self._refusals.add(
                code, source, destination, now, spi=spi, count=count, port=port, counted=counted
            )
        )

    def refuse_packet(
        self,
        code: ReasonCode,
        packet: bytes,
        now: float,
        spi: int = 0,
        port: int = 0,
        *,
        counted: bool = True,
    ) -> None:
        """`packet` has a whole IP header; `port`: it came in UDP, from this one. Not `counted`: it is told,
        but may yet be accepted."""
        self.refuse(code, *addresses_of(packet), now, spi=spi, port=port, counted=counted)

    def refuse_malformed(self, packet: bytes, now: float, spi: int = 0) -> None:
        """Whatever this is."""
        version = packet[0] >> 4 if packet else 0
        if (version == 4 and len(packet) >= MINIMUM_HEADER) or (version == 6 and len(packet) >= IPV6_HEADER):
            self.refuse_packet(ReasonCode.MALFORMED_PACKET, packet, now, spi)
        else:
            self.refuse(ReasonCode.MALFORMED_PACKET, _NOWHERE, _NOWHERE, now, spi=spi)

    def collect(self, now: float) -> None:
        """Tell what was summed up and is due."""
        for event in self._refusals.collect(now):
            self._emit(event)

    def _emit(self, event: PacketRefused | None) -> None:
        if event is not None and len(self._events) < MAXIMUM_WAITING_EVENTS:
            self._events.append(event)
