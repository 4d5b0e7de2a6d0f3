"""Negotiating anew with peers that we had SAs with: after a start, after an address has come to this host,
and when a peer still uses an SA that we lost. What is negotiated is what today's policy makes of the same
traffic; where it has nothing for it, nothing is begun."""

from collections.abc import Collection, Iterable
from typing import Protocol

from stockade.agent.known_peers import KnownPeers
from stockade.ike.contract import Acquire
from stockade.ike.engine import Engine
from stockade.model.addresses import Address
from stockade.model.filters import Direction, FilterTable, SpecificFilter
from stockade.model.known_quick_mode import KnownQuickMode
from stockade.model.negotiation import Negotiation, QuickModeMatch
from stockade.model.reasons import Reason
from stockade.model.traffic import TrafficSelector
from stockade.policy.facts import HostFacts
from stockade.policy.lookup import FilterTableLookup

RECOVERY_INTERVAL = 1.0
"""Seconds between two attempts to negotiate anew with a peer that uses an SPI which we do not know."""

RECONNECT_BURST = 64
"""How many known quick modes are negotiated at once after a start; the others wait for traffic."""


class Host(Protocol):
    """What this module needs of the core."""

    engine: Engine
    facts: HostFacts
    known_peers: KnownPeers
    lookup: FilterTableLookup
    table: FilterTable


class Reconnection:
    """Begins negotiations with known peers. Each method returns how many it began."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._recovered: dict[Address, float] = {}

    def after_start(self, adopted: Collection[KnownQuickMode], now: float) -> int:
        """With everybody whose SAs did not go on (`adopted` did)."""
        first = self._host.known_peers.all()[:RECONNECT_BURST]
        return sum(self._acquire(known, now) for known in first if known not in adopted)

    def take_over(self, known: Iterable[KnownQuickMode], now: float) -> int:
        """With the peers of an address that has come to this host."""
        begun = 0
        for one in known:
            self._host.known_peers.add(one)  # the others are made again when their packets come
            if begun < RECONNECT_BURST:
                begun += self._acquire(one, now)
        return begun

    def unknown_spi(self, source: Address, now: float) -> int:
        """A peer that we had SAs with uses one that we lost. Anybody can forge such a packet: it makes us
        negotiate (authenticated, with known peers only, at most once a second each), never tear anything
        down."""
        known = self._host.known_peers.with_peer(source)
        if not known or now - self._recovered.get(source, -RECOVERY_INTERVAL) < RECOVERY_INTERVAL:
            return 0
        self._recovered[source] = now  # bounded: only known peers get here
        return sum(self._acquire(one, now) or self._respond_again(one, now) for one in known)

    def _respond_again(self, known: KnownQuickMode, now: float) -> bool:
        """The default response rule made the SA that a peer still uses, before a restart of ours. It begins
        nothing by itself, but this is the peer's traffic, which waits: the same is negotiated again."""
        match = self._host.lookup.for_quick_mode(known.local, known.peer, known.selector)
        if not isinstance(match, QuickModeMatch) or not match.dynamic:
            return False
        command = Acquire(known.local, known.peer, known.selector, match.negotiation, match.filter_id)
        self._host.engine.command(command, now)
        return True

    def _acquire(self, known: KnownQuickMode, now: float) -> bool:
        """Negotiate a known quick mode anew, if today's policy still has the very traffic as a negotiate
        filter, and we (still) have the address."""
        host, selector = self._host, known.selector
        if known.local not in host.facts.local:
            return False
        for entry in host.table.about(selector.source.first, selector.destination.first, Direction.OUTBOUND):
            if entry.negotiation is None or not _same_ports(entry.selector, selector):
                continue
            negotiation = host.lookup.for_acquire(entry, known.local, known.peer)
            if not isinstance(negotiation, Reason) and _would_make(entry, negotiation, known):
                command = Acquire(known.local, known.peer, selector, negotiation, entry.id)
                host.engine.command(command, now)
                return True
        return False


def _would_make(entry: SpecificFilter, negotiation: Negotiation, known: KnownQuickMode) -> bool:
    """Whether this filter would have made the quick mode."""
    endpoint = negotiation.quick_mode.tunnel_endpoint
    if endpoint is not None:
        return endpoint == known.peer and entry.selector == known.selector
    return known.local in entry.selector.source and known.peer in entry.selector.destination


def _same_ports(one: TrafficSelector, other: TrafficSelector) -> bool:
    return (one.protocol, one.source_port, one.destination_port) == (
        other.protocol,
        other.source_port,
        other.destination_port,
    )
