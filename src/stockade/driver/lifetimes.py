"""When SAs end: lifetimes in seconds, bytes and packets, and idle pairs, told to whoever made them."""

from collections.abc import Callable

from stockade.driver.audit import Audit
from stockade.driver.contract import SaExpired, SaIdle, SaSilent
from stockade.driver.sad import InboundEntry, OutboundEntry, SaDatabase
from stockade.driver.silence import unanswered_since
from stockade.model.addresses import Address
from stockade.model.filters import Direction


class Lifetimes:
    """`remove` takes an SA out of the data path."""

    def __init__(
        self, sad: SaDatabase, audit: Audit, remove: Callable[[int, Direction, Address], None]
    ) -> None:
        self._sad = sad
        self._audit = audit
        self._remove = remove

    def check(self, entry: InboundEntry | OutboundEntry, now: float) -> None:
        """A hard lifetime that is over ends the SA, and its bundle; a soft one is told once."""
        sa = entry.sa
        if entry.is_past(now, hard=True):
            for each in (sa,) if entry.other is None else (sa, entry.other.sa):  # a bundle dies whole
                self._remove(each.spi, each.direction, each.peer)
                self._audit.tell(SaExpired(each.spi, each.direction, True, each.peer))
        elif not entry.soft_reported and entry.is_past(now, hard=False):
            entry.soft_is_told()
            self._audit.tell(SaExpired(sa.spi, sa.direction, False, sa.peer))

    def look(self, entry: InboundEntry | OutboundEntry, now: float) -> None:
        """What time alone brings about for this SA. Cheap for one where nothing is due: there may be
        thousands."""
        if now >= entry.due:
            self.check(entry, now)
            if not entry.alive:
                return
        sa = entry.sa
        if sa.idle_seconds is not None and now - entry.used >= sa.idle_seconds:
            self.check_idle(entry, now)
        if not isinstance(entry, OutboundEntry) or sa.silence_seconds is None:
            return
        # Answers alone never begin a silence: where nothing new went out, nothing is to be asked.
        if entry.unanswered is not None or entry.used != entry.seen_used:
            entry.seen_used = entry.used
            self.check_silence(entry, now)

    def check_idle(self, entry: InboundEntry | OutboundEntry, now: float) -> None:
        """One event for a pair: by its outbound half, or by the inbound one where that is alone; for a bundle
        by its ESP half."""
        if entry.sa.bundle is not None and entry.sa.ah is not None:
            return
        partner = self._sad.partner(entry)
        if isinstance(entry, InboundEntry) and partner is not None:
            return
        used = entry.used if partner is None else max(entry.used, partner.used)
        idle = entry.sa.idle_seconds
        if idle is None or now - used < idle or entry.idle_reported:
            if idle is not None and now - used < idle:
                entry.idle_reported = False
            return
        entry.idle_reported = True
        self._audit.tell(SaIdle(entry.sa.spi, entry.sa.direction, entry.sa.peer))

    def check_silence(self, entry: OutboundEntry, now: float) -> None:
        """Packets that go out and get no answer through the pair."""
        patience, partner = entry.sa.silence_seconds, self._sad.partner(entry)
        if patience is None or partner is None:
            return
        entry.unanswered, silent = unanswered_since(entry.unanswered, entry.used, partner.used, patience, now)
        if silent:
            self._audit.tell(SaSilent(entry.sa.spi, entry.sa.direction, entry.sa.peer))
