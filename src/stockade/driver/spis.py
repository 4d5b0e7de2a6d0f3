"""SPIs for inbound SAs: random, never reserved ones, never two alike."""

from collections import OrderedDict
from collections.abc import Callable, Container
from typing import Final

from stockade.model.reasons import ReasonCode, error_for
from stockade.model.sa import MINIMUM_SPI

RESERVATIONS: Final = 16_384
"""SPIs kept back for negotiations under way; the oldest reservation lapses where there are more."""

AWAITED_SECONDS: Final = 5.0
"""For so long after an SA came, news of packets that were ahead of it may still be on the way: they wait for
at most 2 s (`early`), are told of within 1 s (`refusals`), and an agent that is busy reads it later."""


class SpisInUse:
    """Which SPIs inbound SAs have, without a look at all of them: several SAs may have one, to several
    addresses or of two protocols."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}

    def __contains__(self, spi: object) -> bool:
        return spi in self._numbers

    def add(self, spi: int) -> None:
        self._numbers[spi] = self._numbers.get(spi, 0) + 1

    def remove(self, spi: int) -> None:
        """One SA less has it."""
        left = self._numbers.get(spi, 0) - 1
        if left > 0:
            self._numbers[spi] = left
        else:
            self._numbers.pop(spi, None)

    def clear(self) -> None:
        self._numbers.clear()


class SpiSource:
    """Random so that a blind forger does not know them; RFC 4303 §2.1 leaves the choice to the receiver."""

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._random = random
        self._reserved: OrderedDict[int, None] = OrderedDict()
        self._came: OrderedDict[int, float] = OrderedDict()

    def reserve(self, in_use: Container[int]) -> int:
        for _ in range(64):
            spi = int.from_bytes(self._random(4), "big")
            if spi >= MINIMUM_SPI and spi not in self._reserved and spi not in in_use:
                self._reserved[spi] = None
                if len(self._reserved) > RESERVATIONS:
                    self._reserved.popitem(last=False)
                return spi
        raise error_for(ReasonCode.NO_SPI, "64 random numbers were all taken")

    def is_awaited(self, spi: int, now: float) -> bool:
        """Whether a packet with this SPI may have been refused because it overtook its SA: a negotiation
        under way has the SPI, or the SA came a moment ago. Later it is a sign that the data plane has lost
        the SA."""
        return spi in self._reserved or now - self._came.get(spi, float("-inf")) < AWAITED_SECONDS

    def came(self, spi: int, now: float) -> None:
        """The SA of this SPI is installed."""
        self.settle(spi)
        while self._came and (oldest := next(iter(self._came.items())))[1] <= now - AWAITED_SECONDS:
            del self._came[oldest[0]]
        self._came[spi] = now

    def settle(self, spi: int) -> None:
        """The SA of this SPI is gone, or will never be."""
        self._reserved.pop(spi, None)
        self._came.pop(spi, None)

    def lose(self) -> None:
        """The data plane ended, and every SA with it."""
        self._came.clear()
