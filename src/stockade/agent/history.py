"""An hour of figures for the plots of the web console: a point at each look of `measuring.py`, in memory.

Kept here and not in the console, which runs only while somebody looks: what was before that is what people
come to see."""

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

POINTS = 720
MAXIMUM_REASONS = 8
"""So many reasons of refused packets are told: those with most of them."""


NEGOTIATIONS = {
    "main_modes": "main modes made",
    "quick_modes": "quick modes made",
    "negotiation_failures": "negotiations failed",
    "first_messages_dropped": "first messages dropped",
}
"""Of the IKE statistics those that say how negotiations end, and their names beside a line."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What is known at one moment; all but the SAs are sums since the start of the agent."""

    main_modes: int
    quick_modes: int
    bytes_in: int
    bytes_out: int
    refused: Mapping[str, int]
    ike: Mapping[str, int]


class History:
    """Points, oldest first. A column is a name and a figure for each point: None where nothing is known."""

    def __init__(self, points: int = POINTS, started: float | None = None) -> None:
        self._points: deque[dict[str, float]] = deque(maxlen=points)
        self._before: Figures | None = None
        self._at = time.time() if started is None else started

    def add(self, figures: Figures, now: float | None = None) -> None:
        """`now` in seconds since 1970. Rates need a point before: bytes a second, the others a minute."""
        now = time.time() if now is None else now
        point: dict[str, float] = {
            "time": round(now, 1),
            "main modes": figures.main_modes,
            "quick modes": figures.quick_modes,
        }
        before, span = self._before, now - self._at
        if span > 0:
            if before is not None:
                point["bytes in"] = round(max(0, figures.bytes_in - before.bytes_in) / span, 1)
                point["bytes out"] = round(max(0, figures.bytes_out - before.bytes_out) / span, 1)
                point |= _rates("refused", figures.refused, before.refused, span)
            # The key exchange counts from this agent's start; a data plane may have been there before it.
            ended = {label: figures.ike.get(name, 0) for name, label in NEGOTIATIONS.items()}
            earlier = before.ike if before is not None else {}
            older = {label: earlier.get(name, 0) for name, label in NEGOTIATIONS.items()}
            point |= _rates("ike", ended, older, span)
        self._before, self._at = figures, now
        self._points.append(point)

    def columns(self) -> tuple[list[float], dict[str, list[float | None]]]:
        """(times, column by name)."""
        points = list(self._points)
        names = dict.fromkeys(name for point in points for name in point if name != "time")
        sums = {name: sum(point.get(name, 0.0) for point in points) for name in names}
        drops = [name for name in names if name.startswith("refused: ")]
        most = sorted(filter(sums.get, drops), key=lambda name: -sums[name])[:MAXIMUM_REASONS]
        keep = [
            name for name in names if name in most or (name not in drops and (sums[name] or ": " not in name))
        ]
        return [point["time"] for point in points], {
            name: [point.get(name) for point in points] for name in keep
        }


def _rates(group: str, new: Mapping[str, int], old: Mapping[str, int], span: float) -> dict[str, float]:
    """A minute; who began to count anew counts from 0."""
    return {
        f"{group}: {name}": round(max(0, count - old.get(name, 0)) / span * 60, 2)
        for name, count in new.items()
    }
