"""The figures behind the plots: the agent asked every few seconds, an hour of answers in memory."""

import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from stockade.agent.client import AgentClient
from stockade.model.reasons import StockadeError

SECONDS = 5.0
POINTS = 720
MAXIMUM_REASONS = 8
MAXIMUM_QUICK_MODES = 500
"""With more of them the bytes are not looked at: asking would cost the agent too much."""


class Sampler:
    """A thread that samples. A gap (the agent was away) is a point without figures."""

    def __init__(self, client: AgentClient, seconds: float = SECONDS) -> None:
        self._client = client
        self._seconds = seconds
        self._lock = threading.Lock()
        self._points: deque[dict[str, float | None]] = deque(maxlen=POINTS)
        self._bytes: dict[str, tuple[int, int]] = {}
        self._before: Mapping[str, Any] | None = None
        self._at = 0.0

    def start(self) -> None:
        threading.Thread(target=self._run, name="sampler", daemon=True).start()

    def _run(self) -> None:
        while True:
            with suppress(Exception):  # the next one may do better; pages say what is wrong
                self.sample(time.time())
            time.sleep(self._seconds)

    def sample(self, now: float) -> None:
        """Ask once."""
        try:
            status = self._client.get("/v1/status")
            sas = self._client.get("/v1/sas") if status["quick_modes"] <= MAXIMUM_QUICK_MODES else None
        except StockadeError:
            with self._lock:
                self._points.append({"time": now})
            self._before = None
            return
        before, span = self._before, now - self._at
        if before is not None and before["pid"] != status["pid"]:
            before = None
        point: dict[str, float | None] = {
            "time": now,
            "main modes": status["main_modes"],
            "quick modes": status["quick_modes"],
        }
        inbound, outbound = self._moved(sas)
        if before is not None and span > 0:
            if sas is not None:
                point["bytes in"], point["bytes out"] = inbound / span, outbound / span
            for group, key in (("refused", "refused_packets"), ("ike", "ike")):
                for name, count in status[key].items():
                    point[f"{group}: {name}"] = max(0, count - before[key].get(name, 0)) / span * 60
        self._before, self._at = status, now
        with self._lock:
            self._points.append(point)

    def _moved(self, sas: Mapping[str, Any] | None) -> tuple[int, int]:
        if sas is None:
            self._bytes = {}
            return 0, 0
        new = {
            row["inbound_spi"] + row["outbound_spi"]: (row["inbound_bytes"], row["outbound_bytes"])
            for row in sas["quick_modes"]
        }
        moved = [0, 0]
        for key, counts in new.items():
            old = self._bytes.get(key, (0, 0))
            for place in (0, 1):
                moved[place] += max(0, counts[place] - old[place])
        self._bytes = new
        return moved[0], moved[1]

    def series(self) -> dict[str, object]:
        """Columns, as the plots take them: `time` and one list for each name; null where nothing is known."""
        with self._lock:
            points = list(self._points)
        names = dict.fromkeys(name for point in points for name in point if name != "time")
        drops = [name for name in names if name.startswith("refused: ")]
        most = sorted(drops, key=lambda name: -sum(point.get(name) or 0 for point in points))[
            :MAXIMUM_REASONS
        ]
        keep = [name for name in names if name not in drops or name in most]
        return {
            "time": [point["time"] for point in points],
            "columns": {name: [point.get(name) for point in points] for name in keep},
        }
