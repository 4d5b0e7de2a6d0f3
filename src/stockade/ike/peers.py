"""What the engine has with whom: main modes by cookie and by peer, pairs of IPsec SAs by SPI.

A main mode is found by the cookie that this host chose (8 random bytes, so unique) and must then agree in all
else; a first message, which has no cookie of ours yet, by peer and initiator cookie, to know a repeated
one."""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from stockade.ike.contract import Acquire
from stockade.ike.liveness import PeerTraits
from stockade.ike.story import Story
from stockade.ike.v1.association import MainMode
from stockade.ike.v1.exchange import NO_COOKIE
from stockade.ike.v1.quick_mode_pair import QuickModeOutcome
from stockade.model.addresses import Address, Endpoint
from stockade.model.filters import Direction
from stockade.wire.isakmp.message import Header

MAXIMUM_DEPARTED = 64

Ends = tuple[int, int, type]
"""A pair of hosts as a key: local, remote, and the family of both."""


def _ends(local: Address, remote: Address) -> Ends:
    # The library's addresses make their hash of a text each time, and compare themselves in Python code.
    return int(local), int(remote), local.__class__


@dataclass(slots=True, eq=False)
class QuickModePair:
    """An installed pair. `replaced`: a rekey made a newer one, and this one is in its last seconds."""

    outcome: QuickModeOutcome
    local: Endpoint
    remote: Endpoint
    initiator: bool
    established: float
    traits: PeerTraits
    story: Story | None = None
    replaced: bool = False
    successor: "QuickModePair | None" = None
    """What replaced it."""
    waits: bool = False
    """Its outbound SA is not in the driver yet: the peer is given a moment to make its inbound one."""

    @property
    def tokens(self) -> dict[bytes, bytes]:
        """By what the peer can prove that it lost the pair: token by its SPI."""
        return dict(self.outcome.tokens)

    @property
    def inbound_spi(self) -> int:
        return self.outcome.inbound.spi

    @property
    def expires(self) -> float:
        return self.established + self.outcome.proposal.lifetime_seconds

    @property
    def main_mode(self) -> str:
        return self.outcome.inbound.main_mode

    @property
    def inbound_spis(self) -> tuple[int, ...]:
        """Ours: one, or two where AH and ESP go together."""
        return tuple(sa.spi for sa in self.outcome.of(Direction.INBOUND))

    @property
    def outbound_spis(self) -> tuple[int, ...]:
        return tuple(sa.spi for sa in self.outcome.of(Direction.OUTBOUND))

    def acquire(self) -> Acquire:
        """The command that would make this pair anew."""
        match = self.outcome.match
        return Acquire(
            self.local.address, self.remote.address, match.selector, match.negotiation, match.filter_id
        )


class PeerTable:
    """The indexes. Nothing here sends or decides."""

    def __init__(self) -> None:
        self._by_own_cookie: dict[bytes, MainMode] = {}
        self._first_messages: dict[tuple[Ends, bytes], MainMode] = {}
        self._by_peer: dict[Ends, list[MainMode]] = {}
        self.half_open: OrderedDict[MainMode, None] = OrderedDict()
        """Begun by peers and not established, oldest first."""
        self._half_open_of: dict[tuple[int, type] | tuple[int, type, int], int] = {}
        self.initiated = 0
        """Begun by us and not established."""
        self._departed: OrderedDict[bytes, MainMode] = OrderedDict()
        self._pairs: dict[int, QuickModePair] = {}
        self._by_inbound: dict[int, QuickModePair] = {}
        self._by_outbound: dict[tuple[int, type, int], QuickModePair] = {}
        self._pairs_of: dict[Ends, dict[int, QuickModePair]] = {}

    # ---- main modes
    def add(self, main_mode: MainMode) -> None:
        ends = _ends(main_mode.local.address, main_mode.remote.address)
        self._by_own_cookie[main_mode.own_cookie] = main_mode
        self._by_peer.setdefault(ends, []).append(main_mode)
        if main_mode.initiator:
            self.initiated += 1
        else:
            self._first_messages[ends, main_mode.conversation.initiator_cookie] = main_mode
            self.half_open[main_mode] = None
            for key in _places(main_mode):
                self._half_open_of[key] = self._half_open_of.get(key, 0) + 1

    def settle(self, main_mode: MainMode) -> None:
        """It was established, or ended before that: no longer half open. Call once."""
        if main_mode.initiator:
            self.initiated -= 1
            return
        del self.half_open[main_mode]
        for key in _places(main_mode):
            self._half_open_of[key] -= 1
            if not self._half_open_of[key]:
                del self._half_open_of[key]

    def remove(self, main_mode: MainMode) -> None:
        ends = _ends(main_mode.local.address, main_mode.remote.address)
        del self._by_own_cookie[main_mode.own_cookie]
        entries = self._by_peer[ends]
        entries.remove(main_mode)
        if not entries:
            del self._by_peer[ends]
        if not main_mode.initiator:
            self._first_messages.pop((ends, main_mode.conversation.initiator_cookie), None)

    def keep_departed(self, main_mode: MainMode) -> None:
        """Go on finding a main mode that the peer has deleted (and that was removed here), for its last
        words. At most `MAXIMUM_DEPARTED`, the oldest are forgotten first."""
        self._departed[main_mode.own_cookie] = main_mode
        if len(self._departed) > MAXIMUM_DEPARTED:
            self._departed.popitem(last=False)[1].forget()

    def forget_departed(self, main_mode: MainMode) -> None:
        self._departed.pop(main_mode.own_cookie, None)
        main_mode.forget()

    def half_open_of(self, remote: Address | Endpoint) -> int:
        """Of an address, or of one port of it."""
        return self._half_open_of.get(_place(remote), 0)

    def find(self, header: Header, local: Address, remote: Address) -> MainMode | None:
        """The main mode that a message belongs to. A message that comes from elsewhere belongs to none."""
        found = None
        initiated = self._own(header.initiator_cookie)
        if initiated is not None and initiated.initiator:
            known = initiated.conversation.responder_cookie
            if known in (NO_COOKIE, header.responder_cookie):
                found = initiated
        elif header.responder_cookie != NO_COOKIE:
            responded = self._own(header.responder_cookie)
            if (
                responded is not None
                and not responded.initiator
                and responded.conversation.initiator_cookie == header.initiator_cookie
            ):
                found = responded
        else:
            found = self._first_messages.get((_ends(local, remote), header.initiator_cookie))
        if found is None:
            return None
        if found.remote.address is remote and found.local.address is local:
            return found  # the sockets give the same objects for the same ends, mostly
        return found if _ends(found.local.address, found.remote.address) == _ends(local, remote) else None

    def _own(self, cookie: bytes) -> MainMode | None:
        return self._by_own_cookie.get(cookie) or self._departed.get(cookie)

    def is_own_cookie(self, cookie: bytes) -> bool:
        return self._own(cookie) is not None

    def with_peer(self, local: Address, remote: Address) -> list[MainMode]:
        """Oldest first."""
        return list(self._by_peer.get(_ends(local, remote), ()))

    def main_modes(self) -> list[MainMode]:
        return list(self._by_own_cookie.values())

    # ---- pairs
    def add_pair(self, pair: QuickModePair) -> None:
        self._pairs[pair.inbound_spi] = pair
        for spi in pair.inbound_spis:
            self._by_inbound[spi] = pair
        for spi in pair.outbound_spis:
            self._by_outbound[int(pair.remote.address), pair.remote.address.__class__, spi] = pair
        peers = _ends(pair.local.address, pair.remote.address)
        self._pairs_of.setdefault(peers, {})[pair.inbound_spi] = pair

    def remove_pair(self, pair: QuickModePair) -> None:
        del self._pairs[pair.inbound_spi]
        for spi in pair.inbound_spis:
            if self._by_inbound.get(spi) is pair:
                del self._by_inbound[spi]
        for spi in pair.outbound_spis:
            key = (int(pair.remote.address), pair.remote.address.__class__, spi)
            if self._by_outbound.get(key) is pair:
                del self._by_outbound[key]
        peers = _ends(pair.local.address, pair.remote.address)
        del self._pairs_of[peers][pair.inbound_spi]
        if not self._pairs_of[peers]:
            del self._pairs_of[peers]

    def pair(self, inbound_spi: int) -> QuickModePair | None:
        return self._by_inbound.get(inbound_spi)

    def pair_by_outbound(self, remote: Address, spi: int) -> QuickModePair | None:
        return self._by_outbound.get((int(remote), remote.__class__, spi))

    def pairs_with(self, local: Address, remote: Address) -> list[QuickModePair]:
        return list(self._pairs_of.get(_ends(local, remote), {}).values())

    def pairs(self) -> Iterator[QuickModePair]:
        return iter(list(self._pairs.values()))


def _place(remote: Address | Endpoint) -> tuple[int, type] | tuple[int, type, int]:
    if isinstance(remote, Endpoint):
        return int(remote.address), remote.address.__class__, remote.port
    return int(remote), remote.__class__


def _places(main_mode: MainMode) -> tuple[tuple[int, type] | tuple[int, type, int], ...]:
    """Where a half-open main mode counts: for its address, and for the port that it began from."""
    return _place(main_mode.remote.address), _place(main_mode.first_remote)
