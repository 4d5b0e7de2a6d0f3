"""What the network says of a peer (ICMP unreachable), and what it may do: ask, and nothing else.

Anybody can send such a message. So it begins the same questions that the peer's silence would begin, with the
same patience: a forger makes us ask a living peer, and hears nothing of the answer. What is believed is that
nobody answers.

| the peer | the message quotes | what follows |
| --- | --- | --- |
| can be asked (RFC 3706) | anything of ours | the questions of its plan, one doubt at a time |
| cannot be asked | the SPI of one of our SAs | a quick mode, if the pair is a minute old |
| cannot be asked | no such SPI | nothing: its silence will be noticed |

The last two lines: without dead-peer detection the only question is a quick mode, which costs both ends; who
does not see our packets cannot make us do one, and who does can at most make a minute's rekeys.
"""

from collections.abc import Callable

from stockade.ike.context import Context
from stockade.ike.contract import PeerUnreachable, ReportKind
from stockade.ike.limits import RateLimiter
from stockade.ike.pairs import PairKeeper
from stockade.ike.peers import PeerTable, QuickModePair
from stockade.ike.v1.quick_modes import Job
from stockade.model.addresses import Endpoint
from stockade.wire.udp_encapsulation import IKE_PORT

PER_SECOND, PER_SECOND_AND_PEER = 50.0, 0.5
"""Messages that are looked at."""
LEAST_AGE = 60.0


class Evidence:
    """One per engine. `take(job, now)` begins a quick mode."""

    def __init__(
        self, context: Context, table: PeerTable, pairs: PairKeeper, take: Callable[[Job, float], None]
    ) -> None:
        self._context = context
        self._table = table
        self._pairs = pairs
        self._take = take
        self._rate = RateLimiter(PER_SECOND, PER_SECOND_AND_PEER)

    def unreachable(self, said: PeerUnreachable, now: float) -> None:
        """Only peers with a main mode or a pair are anybody's business, and get a place in memory."""
        local, peer = said.local, said.peer
        modes = self._table.with_peer(local, peer)
        pairs = self._table.pairs_with(local, peer)
        if not (modes or pairs) or not self._rate.take(peer, now):
            return
        self._context.count("unreachables_received")
        ends = Endpoint(local, IKE_PORT), Endpoint(peer, IKE_PORT)
        self._context.report_limited(ReportKind.NOTIFICATION, said.reason, *ends, now)
        asked = False
        for mode in modes:
            plan = mode.plan
            if mode.established is not None and plan.probes and mode.traits.can_be_asked:
                mode.notices.probe(now, plan.probes)
                asked = True
        pair = None if said.spi is None else self._table.pair_by_outbound(peer, said.spi)
        if not asked and pair is not None and pair.local.address == local:
            self._doubt(pair, now)

    def _doubt(self, pair: QuickModePair, now: float) -> None:
        """A packet of this very pair did not arrive, and its peer cannot be asked in another way."""
        if not pair.replaced and now - pair.established >= LEAST_AGE:
            patience = self._context.plan(pair.traits).quick_seconds
            self._take(Job(pair.acquire(), replaces=pair.inbound_spi, patience=patience), now)
