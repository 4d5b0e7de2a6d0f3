"""SAs that outlived the agent before this one: which of them go on, and when they are made anew.

    driver ──survivors──▶ put together ──▶ would today's policy make it? ──yes──▶ engine: a pair without a
                                                   └──no──▶ ended                 main mode, driver: as it is

Packets go on under an adopted pair, but nothing can be said about it to its peer, for the main mode that made
it is gone. So a new main mode and a new pair are made at once, and the old one goes when the new one carries
traffic; where that cannot be done the old one lives as long as it may. The pairs of a busy gateway are
renewed a few at a time.

Half a pair is what an agent leaves that dies in the middle of a quick mode. Its outbound half is ended. Its
inbound half stays for a while, if today's policy would make it: the peer has the whole pair and may send by
it until it has the next one.

A pair is as good as the access list that its peer was judged by: one that is older than the list's last
change is not adopted."""

from collections import deque
from collections.abc import Callable, Collection
from typing import Final

from stockade.agent.survivors import SurvivingPair, put_together
from stockade.driver.contract import Driver, OutlivesAgents
from stockade.ike.contract import RekeyQuickMode
from stockade.ike.engine import Engine
from stockade.model.addresses import Address
from stockade.model.filters import Direction
from stockade.model.known_quick_mode import KnownQuickMode
from stockade.model.reasons import Reason, ReasonCode
from stockade.model.sa import SecurityAssociation

RENEWALS: Final = 64
"""How many adopted pairs are made anew at once."""

RENEWAL_INTERVAL: Final = 1.0

HALF_SECONDS: Final = 30.0
"""How long the inbound half of a pair that was not finished stays."""

RETRY_SECONDS: Final = 60.0
"""Between two attempts to make a pair anew whose peer does not answer."""

Note = Callable[[SecurityAssociation, Reason, float], None]


class Adoption:
    """What one agent took over. `keep` is called with each pair that goes on, before the engine has it,
    `note` with each that does not."""

    def __init__(
        self,
        driver: Driver,
        engine: Engine,
        keep: Callable[[SurvivingPair, float], None],
        note: Note,
    ) -> None:
        self._driver = driver
        self._engine = engine
        self._keep = keep
        self._note = note
        self._waiting: deque[tuple[float, int]] = deque()
        """When (in order), and which inbound SPI."""
        self._next = 0.0
        self._halves: deque[tuple[float, SecurityAssociation]] = deque()
        self.known: set[KnownQuickMode] = set()
        """What need not be negotiated for its own sake: an adopted pair carries it."""

    def take(self, local: Collection[Address], judged: float, now: float) -> int:
        """Adopt what can be accounted for and end the rest; how many pairs go on. `local`: the addresses
        that this host has; `judged`: seconds since the access list changed. `HostError` of the driver."""
        if not isinstance(self._driver, OutlivesAgents):
            return 0
        survivors = self._driver.survivors()
        pairs, rest = put_together(survivors)
        age = {(one.sa.direction, one.sa.spi, one.sa.peer): one.age for one in survivors}
        for sa in rest:
            seconds = age[sa.direction, sa.spi, sa.peer]
            if self._may_stay(sa, seconds, local, judged):
                self._halves.append((now + HALF_SECONDS, sa))
            else:
                self._end(sa, Reason.of(ReasonCode.SA_NOT_ADOPTED, "its other half is not there"), now)
        newest = {_known(pair): pair for pair in pairs}
        for pair in pairs:
            replaced = newest[_known(pair)] is not pair
            refusal = self._take_one(pair, local, judged, now, replaced=replaced)
            if refusal is not None:
                for sa in pair.sas:
                    self._end(sa, refusal, now)
        return len(self.known)

    def _take_one(
        self,
        pair: SurvivingPair,
        local: Collection[Address],
        judged: float,
        now: float,
        *,
        replaced: bool,
    ) -> Reason | None:
        outbound = pair.outbound
        if outbound.source not in local:
            return Reason.of(ReasonCode.SA_NOT_ADOPTED, "its address is not on this host any more")
        if pair.age > judged:
            return Reason.of(ReasonCode.SA_NOT_ADOPTED, "the access list changed after it was made")
        refusal = self._engine.adopt(pair.inbound, outbound, pair.headers, pair.age, now, replaced=replaced)
        if refusal is not None:
            return refusal
        self._keep(pair, now)
        self.known.add(_known(pair))
        if not replaced:
            self._waiting.append((now, pair.inbound.spi))
        return None

    def _may_stay(
        self, sa: SecurityAssociation, age: float, local: Collection[Address], judged: float
    ) -> bool:
        """Whether this half of a pair lets in what today's policy would let in by it."""
        if sa.direction is Direction.OUTBOUND or sa.bundle is not None:
            return False
        return sa.destination in local and age <= judged and self._engine.would_make(sa)

    def _end(self, sa: SecurityAssociation, reason: Reason, now: float) -> None:
        self._note(sa, reason, now)
        self._driver.remove_sa(sa.spi, sa.direction, sa.peer)

    def renew(self, now: float) -> int:
        """Begin to negotiate anew what is due; how much."""
        while self._halves and self._halves[0][0] <= now:
            sa = self._halves.popleft()[1]
            self._driver.remove_sa(sa.spi, sa.direction, sa.peer)
        begun = 0
        due = self._next_renewal()
        while due is not None and due <= now and begun < RENEWALS:
            _, spi = self._waiting.popleft()
            if self._engine.awaits_replacement(spi):
                self._engine.command(RekeyQuickMode(spi), now)
                self._waiting.append((now + RETRY_SECONDS, spi))
                begun += 1
            due = self._next_renewal()
        if begun:
            self._next = now + RENEWAL_INTERVAL
        return begun

    def next_due(self) -> float | None:
        if not self._waiting and not self._halves:  # asked after every message
            return None
        due = [self._next_renewal(), self._halves[0][0] if self._halves else None]
        return min((when for when in due if when is not None), default=None)

    def _next_renewal(self) -> float | None:
        return max(self._next, self._waiting[0][0]) if self._waiting else None


def _known(pair: SurvivingPair) -> KnownQuickMode:
    outbound = pair.outbound
    return KnownQuickMode(outbound.source, outbound.destination, outbound.selector)
