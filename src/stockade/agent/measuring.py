"""The agent's figures between two looks at them: who counts, who looks at the SAs now and then, and what
`/metrics` is made from."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from stockade.agent.core import HostCore
from stockade.agent.history import Figures, History
from stockade.agent.recorder import Recorder, TrafficTotals
from stockade.driver.contract import Driver, DriverStatistics
from stockade.model.filters import Direction
from stockade.model.negotiation import Mode
from stockade.model.reasons import ReasonCode, StockadeError

if TYPE_CHECKING:
    from stockade.driver.userspace.driver import UserspaceDriver

LOOK_SECONDS = 5.0
SHARE = 200
"""A look may take a 200th of the time at most: with many SAs they become rarer."""

FEW_FILTERS = 5_000
"""Above so many the counters of filters are not asked for: that takes seconds."""


class Measuring:
    """One per agent."""

    def __init__(self) -> None:
        self.started = time.time()
        self.recorder = Recorder(time.monotonic)
        self.totals = TrafficTotals()
        self.history = History()
        self._offloads: dict[str, bool] | None = None

    def look(self, core: HostCore, statistics: DriverStatistics) -> None:
        associations = core.associations()
        self.totals.look(statistics.sas, lambda way, spi: associations.get((way, spi)), statistics.ended)

    async def run(self, core: HostCore, driver: Driver) -> None:
        """Look at the SAs at once and from time to time, for ever."""
        with suppress(StockadeError):
            self.look(core, driver.statistics(filters=False))
        wait = LOOK_SECONDS
        while True:
            await asyncio.sleep(wait)
            began = time.monotonic()
            with suppress(StockadeError):  # a data plane that died is being started again
                statistics = driver.statistics(filters=False)
                self.look(core, statistics)
                self._remember(core, statistics)
            wait = max(LOOK_SECONDS, SHARE * (time.monotonic() - began))

    def _remember(self, core: HostCore, statistics: DriverStatistics) -> None:
        ike, carried = core.ike_statistics, self.totals.bytes
        self.history.add(
            Figures(
                ike["isadb_list_size"],
                ike["active_quick_modes"],
                carried[Direction.INBOUND],
                carried[Direction.OUTBOUND],
                dict(statistics.refused),
                ike,
            )
        )

    def ipsec_statistics(self, core: HostCore, statistics: DriverStatistics) -> dict[str, int]:
        """Windows' IPsec statistics (`netsh ipsec dynamic show stats type=ipsec`), all of them."""
        self.look(core, statistics)
        ike, refused, totals = core.engine.statistics, dict(statistics.refused), self.totals
        inbound = [sa for (way, _), sa in core.associations().items() if way is Direction.INBOUND]
        found = {
            "active_security_associations": ike["active_quick_modes"],
            "offloaded_security_associations": statistics.offloaded_sas,
            "pending_key_operations": ike["active_acquire"],
            "key_additions": ike["key_additions"],
            "key_deletions": ike["key_deletions"],
            "rekeys": ike["rekeys"],
            "active_tunnels": sum(1 for sa in inbound if sa.mode is Mode.TUNNEL),
            "bad_spi_packets": refused.get(ReasonCode.UNKNOWN_SPI.word, 0),
            "packets_not_decrypted": refused.get(ReasonCode.MALFORMED_PACKET.word, 0),
            "packets_not_authenticated": refused.get(ReasonCode.INTEGRITY_FAILED.word, 0),
            "packets_with_replay_detection": refused.get(ReasonCode.REPLAYED.word, 0),
        }
        for name in ("confidential", "authenticated", "transport", "tunnel"):
            for word, way in (("sent", Direction.OUTBOUND), ("received", Direction.INBOUND)):
                found[f"{name}_bytes_{word}"] = totals.by_class[name, way]
        for word in ("sent", "received"):
            found[f"offloaded_bytes_{word}"] = 0  # no card tells what it carried
        return found

    def offloads(self, driver: Driver) -> Mapping[str, bool]:
        """What the data plane in user space uses of this system; asked once."""
        if self._offloads is None:
            self._offloads = {}
            if driver.capabilities.name == "userspace":
                from stockade.driver.userspace.offloads import examine

                found: UserspaceDriver = driver  # type: ignore[assignment]  # as its name says
                self._offloads = {one.name: one.there for one in examine(found.without)}
        return self._offloads
