"""Retransmission: when a request is sent again, and when its sender gives up ([MS-IKEE] §3.1.5, note 24).

Only the side whose turn it is not to speak runs this; a responder answers a repeated request with its stored
reply instead (RFC 2408 §5.1)."""

from collections.abc import Sequence

from stockade.ike.contract import RandomSource


def random_fraction(random: RandomSource) -> float:
    """A number from 0 (included) to 1 (excluded) from the engine's source of randomness."""
    return int.from_bytes(random(4), "big") / (1 << 32)


class Retransmission:
    """The schedule of one message. `intervals` are the waits after each sending (seconds); after the last of
    them the exchange has failed."""

    __slots__ = ("_intervals", "_jitter", "_random", "due", "sent")

    def __init__(self, intervals: Sequence[float], jitter: float, random: RandomSource, now: float) -> None:
        self._intervals = tuple(intervals)
        self._jitter = jitter
        self._random = random
        self.sent = 1
        """How often the message has been sent."""
        self.due = now + self._wait()
        """When it is to be sent again, or given up."""

    @property
    def exhausted(self) -> bool:
        """Whether at `due` there is nothing more to try."""
        return self.sent >= len(self._intervals)

    def repeat(self, now: float) -> None:
        """Note that the message has been sent again."""
        self.sent += 1
        self.due = now + self._wait()

    def _wait(self) -> float:
        jitter = self._jitter * random_fraction(self._random) if self._jitter else 0.0
        return self._intervals[self.sent - 1] + jitter
