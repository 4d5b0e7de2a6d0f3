"""What metrics need to remember between two looks: how often what happened, how long handshakes took, how
long peers were away, what the SAs that have gone carried. Counting only, without any library, so that an
agent that nobody asks pays next to nothing.
"""

from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from stockade.agent.journal import Entry
from stockade.model.filters import Direction
from stockade.model.known_quick_mode import KnownQuickMode
from stockade.model.reasons import ReasonCode
from stockade.model.sa import EndedCounters, SaCounters, SecurityAssociation, classes_of

HANDSHAKE_BOUNDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
RECONNECT_BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0, 300.0, 900.0)
MAXIMUM_PEERS = 5_000
"""Peers that are remembered when nothing is up with them; the ones heard of longest ago go first."""

LOST = frozenset({ReasonCode.PEER_DEAD, ReasonCode.PEER_LOST_STATE, ReasonCode.INITIAL_CONTACT})
"""Reasons for which an SA goes although somebody may still want it: from then on a peer is away."""
AGENT_START = "agent-start"


@dataclass(slots=True)
class Histogram:
    """How many values fell below which bound; seconds."""

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, int]]:
        """As Prometheus wants them: (upper bound, how many up to it), `+Inf` last."""
        found, sum_so_far = [], 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            sum_so_far += count
            found.append((bound, sum_so_far))
        return found


class Recorder:
    """Sees every journal entry before anything is left out. `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.events: Counter[tuple[str, str]] = Counter()
        """By kind and reason: both are closed lists."""
        self.handshakes: dict[tuple[str, str], Histogram] = {}
        """By phase and role."""
        self.reconnects: dict[str, Histogram] = {}
        """By what made the peer go away."""
        self.peers: OrderedDict[str, None] = OrderedDict()
        """Addresses with which a quick mode was up, the newest last."""
        self._away: OrderedDict[tuple[str, str], tuple[str, float]] = OrderedDict()

    def saw(self, entry: Entry) -> None:
        kind = entry.kind
        self.events[kind, entry.reason.code.word] += 1
        if kind == "main-mode-established":
            self._handshake("main mode", dict(entry.fields))
        elif kind == "quick-mode-established":
            fields = dict(entry.fields)
            self._handshake("quick mode", fields)
            key = _key(fields)
            self._remember(key[0])
            away = self._away.pop(key, None)
            if away is not None:
                cause, since = away
                histogram = self.reconnects.setdefault(cause, Histogram(RECONNECT_BOUNDS))
                histogram.add(max(0.0, self._clock() - since))
        elif kind == "quick-mode-deleted" and entry.reason.code in LOST:
            self._went(_key(dict(entry.fields)), entry.reason.code.word)

    def started(self, known: Iterable[KnownQuickMode], since: float) -> None:
        """The agent starts, and an earlier run had these: they are away since then."""
        for one in known:
            self._remember(str(one.peer))
            self._went((str(one.peer), str(one.selector)), AGENT_START, since)

    def _went(self, key: tuple[str, str], cause: str, since: float | None = None) -> None:
        if key in self._away:
            return
        self._away[key] = cause, self._clock() if since is None else since
        if len(self._away) > MAXIMUM_PEERS:
            self._away.popitem(last=False)

    def _remember(self, peer: str) -> None:
        self.peers[peer] = None
        self.peers.move_to_end(peer)
        if len(self.peers) > MAXIMUM_PEERS:
            self.peers.popitem(last=False)

    def _handshake(self, phase: str, fields: dict[str, str]) -> None:
        if "seconds" in fields:
            key = phase, fields.get("role", "")
            self.handshakes.setdefault(key, Histogram(HANDSHAKE_BOUNDS)).add(float(fields["seconds"]))


def _key(fields: dict[str, str]) -> tuple[str, str]:
    """The peer's address without its port, and the traffic."""
    peer = fields.get("peer", "").rpartition(":")[0].strip("[]")
    return peer, fields.get("selector", "")


class TrafficTotals:
    """What all SAs carried since the start, those that are gone included. They are looked at now and then;
    what an SA carried between the last look and its end comes from the data plane's sums of those that
    ended."""

    def __init__(self) -> None:
        self.packets: Counter[Direction] = Counter()
        self.bytes: Counter[Direction] = Counter()
        self.by_class: Counter[tuple[str, Direction]] = Counter()
        """Bytes by class and direction."""
        self._seen: dict[tuple[Direction, int, int], _Seen] = {}
        self._ended: dict[_Kind, EndedCounters] | None = None

    def look(
        self,
        counters: Iterable[SaCounters],
        sa_of: Callable[[Direction, int], SecurityAssociation | None],
        ended: Iterable[EndedCounters] = (),
    ) -> None:
        """Add what passed since the last look. `sa_of` knows the inbound SA of a pair by either SPI; `ended`
        is of the same moment as `counters`. What had ended before the first look does not count."""
        seen: dict[tuple[Direction, int, int], _Seen] = {}
        gone: list[_Seen] = []
        for one in counters:
            key = one.direction, one.spi, 0
            while key in seen:  # two peers chose the same SPI
                key = *key[:2], key[2] + 1
            before = self._seen.get(key, _Seen(one.direction))
            if one.packets < before.packets or one.bytes < before.bytes:
                gone.append(before)  # another SA with the same SPI, or a data plane that began anew
                before = _Seen(one.direction)
            more_packets, more_bytes = one.packets - before.packets, one.bytes - before.bytes
            if not more_packets and not more_bytes:
                seen[key] = before
                continue
            sa = sa_of(one.direction, one.spi)
            classes = classes_of(sa) if sa is not None else ()
            seen[key] = _Seen(one.direction, one.packets, one.bytes, classes)
            self._add(one.direction, classes, more_packets, more_bytes)
        gone += [entry for key, entry in self._seen.items() if key not in seen]
        self._seen = seen
        self._add_last_words({(one.direction, one.classes): one for one in ended}, gone)

    def _add(self, direction: Direction, classes: tuple[str, ...], packets: int, size: int) -> None:
        self.packets[direction] += packets
        self.bytes[direction] += size
        for name in classes:
            self.by_class[name, direction] += size

    def _add_last_words(self, ended: "dict[_Kind, EndedCounters]", gone: "list[_Seen]") -> None:
        """What the sums of ended SAs grew by, less what had been seen of those SAs."""
        before, self._ended = self._ended, ended
        if before is None or any(
            kind not in ended or ended[kind].bytes < one.bytes for kind, one in before.items()
        ):
            return  # the first look, or a data plane that began anew
        packets: Counter[Direction] = Counter()
        size: Counter[Direction] = Counter()
        by_class: Counter[tuple[str, Direction]] = Counter()
        for (direction, classes), one in ended.items():
            old = before.get((direction, classes))
            more = one.bytes - (old.bytes if old else 0)
            packets[direction] += one.packets - (old.packets if old else 0)
            size[direction] += more
            for name in classes:
                by_class[name, direction] += more
        for entry in gone:
            packets[entry.direction] -= entry.packets
            size[entry.direction] -= entry.bytes
            for name in entry.classes:
                by_class[name, entry.direction] -= entry.bytes
        # No sum goes back: `+counter` keeps what is above 0.
        self.packets.update(+packets)
        self.bytes.update(+size)
        self.by_class.update(+by_class)


_Kind = tuple[Direction, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was counted of one SA, and for which classes."""

    direction: Direction
    packets: int = 0
    bytes: int = 0
    classes: tuple[str, ...] = ()
