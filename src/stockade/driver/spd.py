"""The filters in force, as the packet path asks for them (RFC 4301 §4.4.1)."""

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from stockade.driver.contract import FilterCounters
from stockade.model.addresses import Address
from stockade.model.classifier import Classifier, traffic_key
from stockade.model.filters import Direction, SpecificFilter
from stockade.model.traffic import Flow

NO_TUNNELS: Final[Mapping[str, Address]] = MappingProxyType({})


class PolicyDatabase:
    """Filters in table order (heaviest first), and what each decided on. `tunnels`: the end point of each
    negotiation that asks for tunnel mode."""

    def __init__(self) -> None:
        self.tunnels: dict[str, Address] = {}
        self._filters: dict[str, SpecificFilter] = {}
        self._classifier = Classifier(())
        self._counts: dict[str, list[int]] = {}

    def install(self, filters: Sequence[SpecificFilter], tunnels: Mapping[str, Address]) -> None:
        """Make these the filters in force."""
        self._filters = {entry.id: entry for entry in filters}
        self._classifier = Classifier(filters)
        self._on_new_filters(tunnels)

    def change(
        self,
        added: Sequence[tuple[SpecificFilter, str | None]],
        removed: Collection[str],
        tunnels: Mapping[str, Address],
    ) -> None:
        """`install` by what differs: each added filter with the id of the one that follows it (None
        at the end), in table order. The rest keeps its place."""
        old, gone = self._filters, frozenset(removed)
        names = {entry.id for entry, _ in added}
        waiting: dict[
            str | None, list[SpecificFilter]
        ] = {}  # by the filter that stays and follows, last first
        follower: str | None = None
        for entry, before in reversed(added):
            if before not in names:
                follower = before
            waiting.setdefault(follower, []).append(entry)
        new: dict[str, SpecificFilter] = {}
        for name, entry in old.items():
            if name not in gone:
                if name in waiting:
                    new.update((came.id, came) for came in reversed(waiting[name]))
                new[name] = entry
        new.update((came.id, came) for came in reversed(waiting.get(None, ())))
        self._filters = new
        followed = self._classifier.followed_by(old, new, names, gone)
        self._classifier = Classifier(new.values()) if followed is None else followed
        self._on_new_filters(tunnels)

    def _on_new_filters(self, tunnels: Mapping[str, Address]) -> None:
        self.tunnels = dict(tunnels)
        counts = self._counts
        self._counts = {name: counts.get(name) or [0, 0] for name in self._filters}

    def lookup(self, flow: Flow, direction: Direction) -> SpecificFilter | None:
        """The first filter that matches; None permits."""
        source, destination = flow.source, flow.destination
        found = self._classifier.find(
            direction is Direction.OUTBOUND,
            source.version,
            int(source),
            int(destination),
            traffic_key(flow.protocol, flow.source_port, flow.destination_port),
        )
        return None if found is None else self._filters[found]

    def count(self, entry: SpecificFilter, packets: int, size: int) -> None:
        counts = self._counts.get(entry.id)
        if counts is not None:
            counts[0] += packets
            counts[1] += size

    def counters(self) -> tuple[FilterCounters, ...]:
        return tuple(FilterCounters(name, packets, size) for name, (packets, size) in self._counts.items())
