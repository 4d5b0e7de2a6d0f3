"""From rules in place to specific filters, one group of equals at a time.

    place, filter ─▶ candidates ─▶ group by (selector, direction, weight) ─▶ settle: the most restrictive one
                                                                     └▶ the parts that IPsec cannot secure

A *candidate* is a specific filter before conflicts are settled. Whatever a group settles to depends on the
group alone, which is what makes recompiling a part of a policy possible.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from stockade.model.addresses import AddressRange
from stockade.model.filters import Action, Direction, ListPosition, Overruled, Provenance, SpecificFilter
from stockade.model.negotiation import Negotiation
from stockade.model.reasons import ReasonCode
from stockade.model.traffic import TrafficSelector
from stockade.policy.exemptions import FIRST_MULTICAST, unsecurable_end, unsecurable_parts
from stockade.policy.expansion import End, Expander
from stockade.policy.objects import AddressKind, ConnectionType, Filter
from stockade.policy.places import Place
from stockade.policy.specific import make_filter
from stockade.policy.weights import WHOLE_ADDRESS, weight_of_parts

Key = tuple[int, int, int, int, int, int, int, int, bool, int]
"""IP version, first and last source, first and last destination address, protocol, source port, destination
port, outbound, weight: candidates with the same key are about the same packets."""

Order = tuple[int, int, int, int, int, str]
"""As `specific.table_order`."""


UNSECURABLE_NOTE = "multicast or broadcast, which IPsec cannot secure"
"""In the description of a filter for the part of another one that cannot be secured."""


class DoubtKind(StrEnum):
    """What a compiler's warning is about."""

    EMPTY = "empty"
    NEVER_MATCHES = "never-matches"
    NO_SERVER = "no-server"
    PENDING = "pending"
    CONNECTION = "connection"
    FAMILY = "family"
    CONFLICT = "conflict"
    METHODS = "methods"


@dataclass(frozen=True, slots=True)
class Doubt:
    """A warning of the compiler: what it is about, whose it is, and a sentence."""

    kind: DoubtKind
    provenance: Provenance
    text: str


Note = tuple[DoubtKind, str]
"""The end of a sentence about a filter; the beginning is `Place.about`."""

_SERVER_WORDS = {
    AddressKind.DNS: "DNS server",
    AddressKind.WINS: "WINS server",
    AddressKind.DHCP: "DHCP server",
    AddressKind.GATEWAY: "default gateway",
}


class Candidate:
    """A specific filter before conflicts are settled. `position`: its place in its filter list. `pending`:
    a name that is not resolved stands for any address in it."""

    __slots__ = (
        "accept_clear",
        "action",
        "destination",
        "direction",
        "filter",
        "group",
        "key",
        "mirrored",
        "pending",
        "place",
        "position",
        "source",
    )

    def __init__(
        self,
        key: Key,
        place: Place,
        filter_: Filter,
        position: ListPosition,
        ends: tuple[End, End],
        direction: Direction,
        mirrored: bool,
        action: Action,
        accept_clear: bool,
        pending: bool,
    ) -> None:
        self.key = key
        self.place = place
        self.filter = filter_
        self.position = position
        self.source = ends[0].addresses
        self.destination = ends[1].addresses
        self.direction = direction
        self.mirrored = mirrored
        self.action = action
        self.accept_clear = accept_clear
        self.pending = pending
        self.group: object = None  # its `groups.Group`, as soon as it is in one

    @property
    def allow_soft(self) -> bool:
        return self.action is Action.NEGOTIATE and self.place.allow_soft

    @property
    def negotiation(self) -> Negotiation | None:
        return self.place.negotiation if self.action is Action.NEGOTIATE else None

    @property
    def selector(self) -> TrafficSelector:
        return TrafficSelector(self.source, self.destination, *self.key[5:8])

    @property
    def provenance(self) -> Provenance:
        where = self.place.provenance(self.position, self.filter, self.mirrored)
        if not self.pending:
            return where
        note = "a name that is not resolved yet stands for any address"
        return replace(where, description=f"{where.description} ({note})" if where.description else note)

    def preference(self) -> tuple[object, ...]:
        """Smallest first: most restrictive, then by where it comes from, so that the order of rules and
        policies does not matter."""
        place = self.place
        return (
            -self.action.restrictiveness,
            self.allow_soft,
            self.accept_clear,
            self.pending,
            place.store,
            place.policy.casefold(),
            place.rule.casefold(),
            "" if self.negotiation is None else self.negotiation.name,
            place.filter_list.casefold(),
            self.position.number,
            self.mirrored,
            place.identity,
        )

    def same_effect(self, other: "Candidate") -> bool:
        """A true duplicate: nothing is lost when one of the two goes."""
        if (self.action, self.accept_clear, self.allow_soft) != (
            other.action,
            other.accept_clear,
            other.allow_soft,
        ):
            return False
        if self.negotiation is None or other.negotiation is None:
            return True
        return self.negotiation == replace(other.negotiation, name=self.negotiation.name)

    def finish(self) -> SpecificFilter:
        negotiation, soft, key = None, False, self.key
        if self.action is Action.NEGOTIATE:
            place = self.place
            soft = place.allow_soft
            negotiation = None if place.negotiation is None else place.negotiation.name
        return make_filter(
            TrafficSelector(self.source, self.destination, key[5], key[6], key[7]),
            self.direction,
            self.action,
            key[9],
            self.provenance,
            negotiation=negotiation,
            accept_clear=self.accept_clear,
            allow_soft=soft,
            numbers=key[:8],
        )


@dataclass(slots=True)
class Expanded:
    """What one filter of a place expands to, and what is doubtful about it."""

    candidates: list[Candidate]
    notes: tuple[Note, ...]
    position: ListPosition


class PlaceExpander:
    """Makes the candidates of one place."""

    def __init__(self, place: Place, expander: Expander, secured_versions: frozenset[int]) -> None:
        self.place = place
        self._expander = expander
        self._secured = secured_versions

    def expand(self, filter_: Filter, index: int) -> Expanded:
        """The candidates of a filter. CallerError NOT_SECURABLE where it asks for the impossible."""
        place = self.place
        negotiates = place.negotiates
        if negotiates:
            self._check_securable(filter_, index)
        notes: list[Note] = []
        position = ListPosition(index)
        found, pending = self._expander.expand(filter_)
        if pending:
            notes += self._pending_notes(filter_)
        silent = False
        if place.connection is not ConnectionType.ALL and not self._names_own_end(filter_):
            silent = not self._expander.facts.knows_connections
            found, more = self._on_connection(found)
            notes += more
        tunnel = place.tunnel_endpoint is not None
        protocol = filter_.protocol
        candidates: list[Candidate] = []
        for source, destination, direction, mirrored in found:
            outbound = direction is Direction.OUTBOUND
            action = place.outbound if outbound else place.inbound
            if pending and action is not Action.BLOCK:
                continue
            version = source.addresses.first.version
            accept_clear = False
            if action is Action.NEGOTIATE:
                accept_clear = place.accept_clear and not outbound
                # only where “me”, “any” and the like make the filter speak of a family
                names_family = filter_.source.family or filter_.destination.family
                if version not in self._secured and not names_family:
                    clear = place.allow_soft or accept_clear
                    action = Action.PERMIT if clear else Action.BLOCK
                    accept_clear = False
                    tail = f"is {action} for IPv{version}, which this data plane cannot secure"
                    notes.append((DoubtKind.FAMILY, tail))
            source_port, destination_port = filter_.source_port, filter_.destination_port
            if mirrored:
                source_port, destination_port = destination_port, source_port
            weight = weight_of_parts(
                source.bits,
                destination.bits,
                (source if outbound else destination).bits == WHOLE_ADDRESS,
                protocol,
                source_port,
                destination_port,
                tunnel=tunnel,
            )
            key = (
                version,
                source.first,
                source.last,
                destination.first,
                destination.last,
                protocol,
                source_port,
                destination_port,
                outbound,
                weight,
            )
            ends = (source, destination)
            candidates.append(
                Candidate(
                    key, place, filter_, position, ends, direction, mirrored, action, accept_clear, pending
                )
            )
        if not candidates and not notes and not silent:
            ends_ = f"({filter_.source} to {filter_.destination})"
            tail = f"{ends_} matches no traffic of this computer{self._why_nothing(filter_)}"
            servers = filter_.source.kind.is_server or filter_.destination.kind.is_server
            notes.append((DoubtKind.NO_SERVER if servers else DoubtKind.NEVER_MATCHES, tail))
        return Expanded(candidates, tuple(dict.fromkeys(notes)) if notes else (), position)

    def _check_securable(self, filter_: Filter, index: int) -> None:
        addresses = unsecurable_end(filter_)
        if addresses is not None:
            raise self.place.error(
                ReasonCode.NOT_SECURABLE,
                f"{self.place} negotiates for {addresses}",
                **(
                    {"filter_list": self.place.filter_list, "filter": index} if self.place.filter_list else {}
                ),
            )

    def _pending_notes(self, filter_: Filter) -> Iterator[Note]:
        blocks = Action.BLOCK in (self.place.inbound, self.place.outbound)
        what = "blocks any address" if blocks else "is not in force"
        for name in self._expander.unresolved(filter_):
            yield DoubtKind.PENDING, f"{what} until the name {name} is resolved"

    def _why_nothing(self, filter_: Filter) -> str:
        for end in (filter_.source, filter_.destination):
            if end.kind.is_server:
                return f": no {_SERVER_WORDS[end.kind]} is known"
            if end.kind is AddressKind.NAME:
                return f": the name {end.name} has no address"
        return ""

    def _names_own_end(self, filter_: Filter) -> bool:
        """Whether the filter can be limited to one kind of connection: by our addresses on it."""
        return self._expander.facts.knows_connections and AddressKind.ME in (
            filter_.source.kind,
            filter_.destination.kind,
        )

    def _on_connection(
        self, found: list[tuple[End, End, Direction, bool]]
    ) -> tuple[list[tuple[End, End, Direction, bool]], list[Note]]:
        """A filter that cannot be limited to its kind of connection acts on all, but one that would open the
        rest is left out."""
        facts, kind = self._expander.facts, self.place.connection
        left_out = kind is ConnectionType.DIALUP and self._permits
        if not facts.knows_connections:
            return ([] if left_out else found), []  # `place_notes` says so, once
        about = DoubtKind.CONNECTION
        if not facts.local_on(kind):
            return [], [(about, f"is for {kind.value} connections, and this computer has none")]
        only = f"on {kind.value} connections only, but does not say “me”"
        if left_out:
            return [], [(about, f"permits {only}: it is left out")]
        return found, [(about, f"is to act {only}: it acts on all")]

    @property
    def _permits(self) -> bool:
        return Action.PERMIT in (self.place.inbound, self.place.outbound)

    def place_notes(self) -> tuple[Note, ...]:
        """Sentences about the rule as a whole."""
        place, kind = self.place, self.place.connection
        if not place.filters:
            text = f"{place} does nothing: its filter list “{place.filter_list}” has no filters"
            return ((DoubtKind.EMPTY, text),)
        if kind is ConnectionType.ALL or self._expander.facts.knows_connections:
            return ()
        if kind is ConnectionType.DIALUP and self._permits:
            text = f"{place} permits on dial-up connections only, which are not told apart: it is left out"
        else:
            text = f"{place} is for {kind.value} connections only, which are not told apart: it acts on all"
        return ((DoubtKind.CONNECTION, text),)


@dataclass(slots=True)
class Settled:
    """What a group comes to: its winner, the filters that stand for it in the table, with their order, and
    its conflicts (for each the two filters, mirrors taken together, and a sentence)."""

    winner: Candidate
    filters: list[tuple[Order, SpecificFilter]]
    conflicts: list[tuple[tuple[Provenance, Provenance], str]]
    losers: tuple[Overruled, ...] = ()


def order_of(entry: SpecificFilter, key: Key) -> Order:
    """`specific.table_order`, with the numbers that are there already."""
    sources = key[2] - key[1] + 1
    pairs = sources * (key[4] - key[3] + 1)
    return (-entry.filter_class, -entry.weight, pairs, -entry.action.restrictiveness, sources, entry.id)


_NO_CONFLICTS: list[tuple[tuple[Provenance, Provenance], str]] = []  # of most groups; nobody adds to it


def settle(group: list[Candidate], broadcasts: Sequence[AddressRange], exempt_multicast: bool) -> Settled:
    """One filter per selector, direction and weight: the most restrictive one; beside a filter that
    negotiates one for each part of it that IPsec cannot secure, unless the exemptions let that pass
    anyway."""
    winner = group[0]
    conflicts = _NO_CONFLICTS
    losers: list[Overruled] = []
    if len(group) > 1:
        conflicts = []
        ranked = sorted(group, key=Candidate.preference)
        winner = ranked[0]
        for loser in ranked[1:]:
            if winner.same_effect(loser):
                continue
            kept, lost = winner.provenance, loser.provenance
            text = (
                f"conflict about {winner.selector} ({winner.direction}):"
                f" {winner.action} of {kept} is kept, {loser.action} of {lost} is not in force"
            )
            conflicts.append(((replace(kept, mirrored=False), replace(lost, mirrored=False)), text))
            losers.append(Overruled(loser.action, lost))
    entry = winner.finish()
    filters = [(order_of(entry, winner.key), entry)]
    if winner.action is Action.NEGOTIATE and not exempt_multicast and _may_be_unsecurable(winner, broadcasts):
        for part in unsecurable_parts(entry.selector, broadcasts):
            made = _unsecurable(winner, part)
            part_key = (
                *winner.key[:3],
                int(part.destination.first),
                int(part.destination.last),
                *winner.key[5:],
            )
            filters.append((order_of(made, part_key), made))
    return Settled(winner, filters, conflicts, tuple(losers))


def _may_be_unsecurable(candidate: Candidate, broadcasts: Sequence[AddressRange]) -> bool:
    """Whether it is worth looking: most filters end far from multicast and hold no broadcast address."""
    version, _, _, first, last, *_ = candidate.key
    if last >= FIRST_MULTICAST[version]:
        return True
    if version == 4:
        for entry in broadcasts:
            if first <= int(entry.first) <= last:
                return True
    return False


def _unsecurable(candidate: Candidate, part: TrafficSelector) -> SpecificFilter:
    """The filter for a multicast or broadcast part of one that negotiates. It has its weight, so that it wins
    against it and against nothing else."""
    clear = candidate.allow_soft if candidate.direction is Direction.OUTBOUND else candidate.accept_clear
    note = f"{UNSECURABLE_NOTE}: {'permitted' if clear else 'blocked'}"
    where = candidate.provenance
    return make_filter(
        part,
        candidate.direction,
        Action.PERMIT if clear else Action.BLOCK,
        candidate.key[9],
        replace(where, description=f"{where.description} ({note})" if where.description else note),
    )
