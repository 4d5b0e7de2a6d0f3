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

    def __init__(self, points: int = POINTS) -> None:
        self._points: deque[dict[str, float]] = deque(maxlen=points)
        self._before: Figures | None = None
        self._at = 0.0

    def add(self, figures: Figures, now: float | None = None) -> None:
        """`now` in seconds since 1970. Rates need a point before: bytes a second, the others a minute."""
        now = time.time() if now is None else now
        point: dict[str, float] = {
            "time": round(now, 1),
            "main modes": figures.main_modes,
            "quick modes": figures.quick_modes,
        }
        before, span = self._before, now - self._at
        if before is not None and span > 0:
            point["bytes in"] = round(max(0, figures.bytes_in - before.bytes_in) / span, 1)
            point["bytes out"] = round(max(0, figures.bytes_out - before.bytes_out) / span, 1)
            for group, new, old in (
                ("refused", figures.refused, before.refused),
                ("ike", figures.ike, before.ike),
            ):
                for name, count in new.items():
                    if group == "ike" and name not in NEGOTIATIONS:
                        continue
                    grown = max(0, count - old.get(name, 0))  # a data plane that began anew counts from 0
                    point[f"{group}: {NEGOTIATIONS.get(name, name)}"] = round(grown / span * 60, 2)
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
