"""The policy compiler: policies as written -> the filter table that the driver enforces.

    policy sets ──────▶ places.py: active rules with what they name
    host facts  ──────▶ expansion.py, candidates.py: specific filters, conflicts settled, multicast parts
    exemption level ──▶ exemptions.py ─▶ filter table, heaviest first  (weights.py)

Several stores are joined into one table: persistent, local or domain, dynamic. Nothing goes before by its store:
the weight decides, and between equals the most restrictive action. Rule order within a policy means nothing, as
in Windows. `places.in_force` says which of local and domain counts.

**Multicast and broadcast.** IPsec cannot secure them. A filter that negotiates and names nothing else is
refused (NOT_SECURABLE). A wider one (me → any) does not secure them: unless the exemption level lets them
pass, the table holds a filter of the same weight for its multicast part that *blocks*, or *permits* where the
filter allows clear traffic anyway (`soft` outbound, `inpass` inbound). So no driver ever acquires for them.

**Names that are not resolved.** A filter that permits or negotiates is not in force before its name is known.
One that blocks stands for any address until then, with the weight of *any*: closed when in doubt. DNS between
this computer and its own servers is decided as if that filter were not there, so that the name can be resolved.
A name that is known to have no address blocks nothing.

**Connection types.** Where the kind of every interface is known, a rule for one kind means its addresses.
Otherwise it acts on all, with a warning; one that *permits* on dial-up only is left out instead, for it would
open the rest.

`PolicyCompiler` keeps what it made and compiles only what changed since; `compile_table` starts afresh. Both give
the same table for the same input, byte for byte. Pure: no clock, no look-ups.
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from stockade.model.addresses import Address, AddressRange
from stockade.model.filters import Action, Direction, FilterTable, SpecificFilter
from stockade.model.negotiation import Negotiation
from stockade.model.reasons import ReasonCode, error_for
from stockade.model.traffic import TCP, UDP, Flow, TrafficSelector
from stockade.policy.candidates import (
    Candidate,
    Expanded,
    Key,
    Order,
    PlaceExpander,
    Settled,
    renumbered,
    settle,
)
from stockade.policy.dynamic import DynamicSet
from stockade.policy.exemptions import DEFAULT_EXEMPT_LEVEL, exemptions_for, level_meaning
from stockade.policy.expansion import Expander
from stockade.policy.facts import HostFacts, as_facts
from stockade.policy.objects import ConnectionType, Filter, PolicySet
from stockade.policy.places import (
    Place,
    assigned_policies,
    default_response,
    dynamic_places,
    rule_name,
    static_places,
)
from stockade.policy.specific import make_filter, table_order

__all__ = ["MAXIMUM_FILTERS", "MAXIMUM_WARNINGS", "PolicyCompiler", "compile_table", "rule_name"]

MAXIMUM_FILTERS = 500_000
"""Specific filters of one table; a policy that expands to more is refused."""

MAXIMUM_WARNINGS = 200

DNS_PORT = 53

ALL_VERSIONS = frozenset({4, 6})


class _Warnings:
    """Text for people, each once, a bounded number of them."""

    def __init__(self) -> None:
        self._texts: dict[str, None] = {}
        self._more = 0

    def add(self, text: str) -> None:
        if text in self._texts:
            return
        if len(self._texts) < MAXIMUM_WARNINGS:
            self._texts[text] = None
        else:
            self._more += 1

    def finish(self) -> tuple[str, ...]:
        more = (f"and {self._more} more",) if self._more else ()
        return (*self._texts, *more)


@dataclass(slots=True)
class _Compiled:
    """A place and what its filters expanded to, one entry for each filter."""

    place: Place
    expanded: list[Expanded]
    notes: tuple[str, ...]
    doubtful: int
    """How many of the filters have notes."""

    @property
    def size(self) -> int:
        return sum(len(entry.candidates) for entry in self.expanded)

    def warnings(self) -> Iterator[str]:
        yield from self.notes
        if self.doubtful:
            for index, entry in enumerate(self.expanded, 1):
                for note in entry.notes:
                    yield f"{self.place.about(index)} {note}"


@dataclass(slots=True)
class _Change:
    """What has to be done to the groups before the next table can be put together."""

    removed: list[Candidate] = field(default_factory=list)
    added: list[Candidate] = field(default_factory=list)
    moved: list[tuple[Candidate, int]] = field(default_factory=list)
    """Candidates whose filter has another number in its list now."""


def compile_table(
    policy_sets: Sequence[PolicySet],
    local_addresses: HostFacts | Sequence[Address],
    exempt_level: int = DEFAULT_EXEMPT_LEVEL,
    secured_versions: frozenset[int] = ALL_VERSIONS,
    dynamic: DynamicSet | None = None,
) -> FilterTable:
    """The filter table of the assigned policies for a computer with these addresses, or these facts.

    `exempt_level` is NoDefaultExempt, 0 to 3 (`exemptions.py`). `secured_versions` are the IP versions that
    the data plane can secure: where "me" and "any" make a negotiate filter speak of another one, that part is
    blocked (or permitted, where the filter lets clear traffic pass anyway), with a warning. Without an
    assigned policy the table is empty. Errors, each naming store, policy and rule: CallerError INVALID_POLICY
    (a missing object, too many filters, a contradiction), NOT_SECURABLE.
    """
    return PolicyCompiler().compile(policy_sets, local_addresses, exempt_level, secured_versions, dynamic)


class PolicyCompiler:
    """Compiles a policy again and again, each time only what changed. An error leaves it as it was."""

    def __init__(self) -> None:
        self._settings: tuple[object, ...] | None = None
        self._table: FilterTable | None = None
        self._forget()

    def _forget(self) -> None:
        self._places: dict[tuple[str, ...], _Compiled] = {}
        self._groups: dict[Key, list[Candidate]] = {}
        self._settled: dict[Key, Settled] = {}
        self._copies: Counter[str] = Counter()  # groups that have a filter of this id
        self._entries: list[tuple[Order, SpecificFilter]] = []
        self._negotiated: Counter[str] = Counter()
        self._versions: Counter[tuple[int, bool]] = Counter()  # (IP version, negotiates)
        self._pending: set[Key] = set()
        self._contested: set[Key] = set()

    def compile(
        self,
        policy_sets: Sequence[PolicySet],
        local_addresses: HostFacts | Sequence[Address],
        exempt_level: int = DEFAULT_EXEMPT_LEVEL,
        secured_versions: frozenset[int] = ALL_VERSIONS,
        dynamic: DynamicSet | None = None,
    ) -> FilterTable:
        """As `compile_table`. Where the index of the last table was built, that of the new one is made from
        it."""
        facts = as_facts(local_addresses)
        meaning = level_meaning(exempt_level)
        settings = (facts, exempt_level, secured_versions)
        places = [*static_places(policy_sets), *dynamic_places(dynamic or DynamicSet())]
        response = default_response(policy_sets)
        known = self._places if settings == self._settings else {}
        compiled, change = self._expand(places, facts, secured_versions, known)
        if settings != self._settings:
            self._forget()
        self._settings = settings
        self._places = compiled
        try:
            self._apply(change, facts.broadcasts, meaning.multicast_and_broadcast)
            filters = [entry for _, entry in self._entries]
            if self._pending:
                filters = self._with_dns_open(filters, facts, self._negotiations())
            if len(filters) > MAXIMUM_FILTERS:
                raise error_for(
                    ReasonCode.INVALID_POLICY,
                    f"the multicast parts bring the table over {MAXIMUM_FILTERS} specific filters",
                    limit=MAXIMUM_FILTERS,
                    local_addresses=len(facts.local),
                )
        except BaseException:
            self._settings = None  # half done: the next time from the beginning
            raise
        names = [(policy_set.store, policy.name) for policy_set, policy in assigned_policies(policy_sets)]
        if dynamic is not None and dynamic.rules:
            names.append(("dynamic", "dynamic rules"))
        negotiations = self._negotiations()
        if response is not None:
            negotiations[response.name] = response
        table = FilterTable(
            filters=(*self._exemptions(facts, exempt_level, response), *filters),
            negotiations=MappingProxyType(dict(sorted(negotiations.items()))),
            policy_name=_policy_name(names),
            warnings=self._warnings(),
            default_response=None if response is None else response.name,
        )
        if self._table is not None and self._table.is_prepared:
            table.prepare(self._table)
        self._table = table
        return table

    # ---- what is new

    def _expand(
        self,
        places: Iterable[Place],
        facts: HostFacts,
        secured_versions: frozenset[int],
        known: dict[tuple[str, ...], _Compiled],
    ) -> tuple[dict[tuple[str, ...], _Compiled], _Change]:
        """The candidates of all places, those of unchanged filters taken over. Changes nothing."""
        compiled: dict[tuple[str, ...], _Compiled] = {}
        change = _Change()
        expanders: dict[object, Expander] = {}
        total = 0
        for place in places:
            identity = place.identity
            while identity in compiled:  # one rule under two names: only a damaged store has that
                identity = (*identity, "again")
            setting = (place.connection, place.tunnel_endpoint)
            if setting not in expanders:
                expanders[setting] = Expander(facts, place.connection, place.tunnel_endpoint)
            expander = PlaceExpander(place, expanders[setting], secured_versions)
            old = known.get(identity)
            room = MAXIMUM_FILTERS - total
            if old is not None and old.place.frame == place.frame:
                made = self._again(place, old, expander, change, room)
            else:
                if old is not None:
                    change.removed.extend(one for entry in old.expanded for one in entry.candidates)
                made = _all(place, expander, room)
                change.added.extend(one for entry in made for one in entry.candidates)
            entry = _Compiled(place, made, expander.place_notes(), sum(bool(one.notes) for one in made))
            compiled[identity] = entry
            total += entry.size
        for identity, old in known.items():
            if identity not in compiled:
                change.removed.extend(one for entry in old.expanded for one in entry.candidates)
        return compiled, change

    def _again(
        self, place: Place, old: _Compiled, expander: PlaceExpander, change: _Change, room: int
    ) -> list[Expanded]:
        """The filters of a place of which some may be the same as before: those at the start and at the end of
        the list are; what stands between is expanded anew."""
        before, after = old.place.filters, place.filters
        if before is after:
            return old.expanded
        head = 0
        shorter = min(len(before), len(after))
        while head < shorter and _same(before[head], after[head]):
            head += 1
        tail = 0
        while tail < shorter - head and _same(before[-1 - tail], after[-1 - tail]):
            tail += 1
        shift = len(after) - len(before)
        made = list(old.expanded[:head])
        for entry in old.expanded[head : len(before) - tail]:
            change.removed.extend(entry.candidates)
        kept = old.expanded[len(before) - tail :]
        room -= sum(len(entry.candidates) for entry in (*made, *kept))
        fresh = _all(place, expander, room, after[head : len(after) - tail], head + 1)
        change.added.extend(one for entry in fresh for one in entry.candidates)
        if shift:
            for entry in kept:
                change.moved.extend((one, one.index + shift) for one in entry.candidates)
        return [*made, *fresh, *kept]

    # ---- the groups

    def _apply(self, change: _Change, broadcasts: tuple[AddressRange, ...], exempt_multicast: bool) -> None:
        touched: dict[Key, None] = {}
        for candidate in change.removed:
            self._groups[candidate.key].remove(candidate)
            touched[candidate.key] = None
        for candidate in change.added:
            self._groups.setdefault(candidate.key, []).append(candidate)
            touched[candidate.key] = None
        self._renumber(change.moved, touched)
        gone: list[tuple[Order, SpecificFilter]] = []
        come: list[tuple[Order, SpecificFilter]] = []
        for key in touched:
            old = self._settled.pop(key, None)
            if old is not None:
                self._count(old, -1)
                gone += old.filters
            group = self._groups[key]
            if not group:
                del self._groups[key]
                self._pending.discard(key)
                self._contested.discard(key)
                continue
            new = self._settled[key] = settle(group, broadcasts, exempt_multicast)
            self._count(new, 1)
            come += new.filters
            for flag, keys in ((new.winner.pending, self._pending), (new.conflicts, self._contested)):
                keys.add(key) if flag else keys.discard(key)
        self._replace(gone, come)

    def _renumber(self, moved: list[tuple[Candidate, int]], touched: dict[Key, None]) -> None:
        """Candidates whose filter has another number: where nobody contests them, only the provenance of what they
        settled to changes; the others are settled anew."""
        fresh: dict[str, tuple[Order, SpecificFilter]] = {}
        for candidate, index in moved:
            candidate.index = index
            key = candidate.key
            if key in touched:
                continue
            if len(self._groups[key]) > 1:
                touched[key] = None
                continue
            settled = self._settled[key] = renumbered(self._settled[key])
            for entry in settled.filters:
                fresh[entry[0][4]] = entry
        if fresh:
            self._entries = [fresh.get(entry[0][4], entry) for entry in self._entries]

    def _count(self, settled: Settled, step: int) -> None:
        for _, entry in settled.filters:
            if entry.negotiation is not None:
                self._negotiated[entry.negotiation] += step
            self._versions[(settled.winner.key[0], entry.negotiation is not None)] += step

    def _replace(
        self, gone: list[tuple[Order, SpecificFilter]], come: list[tuple[Order, SpecificFilter]]
    ) -> None:
        """Put the filters of changed groups into the sorted list. The parts of two groups that IPsec cannot secure
        may be one filter: it goes with the last of them."""
        for order, _ in gone:
            self._copies[order[4]] -= 1
        for order, _ in come:
            self._copies[order[4]] += 1
        entries = self._entries
        if len(gone) + len(come) > 64 + len(entries) // 32:
            dropped = {order[4] for order, _ in gone}
            merged = {entry[0][4]: entry for entry in entries if entry[0][4] not in dropped}
            merged.update(
                (entry[0][4], entry)
                for entry in entries
                if entry[0][4] in dropped and self._copies[entry[0][4]]
            )
            merged.update((entry[0][4], entry) for entry in come)
            self._entries = sorted(merged.values(), key=_order)
        else:
            for entry in (*gone, *come):
                place = bisect_left(entries, entry[0], key=_order)
                if place < len(entries) and entries[place][0] == entry[0]:
                    if not self._copies[entry[0][4]]:
                        del entries[place]
                elif self._copies[entry[0][4]]:
                    entries.insert(place, entry)
            for entry in come:
                place = bisect_left(entries, entry[0], key=_order)
                entries[place] = entry
        for order, _ in gone:
            if not self._copies[order[4]]:
                del self._copies[order[4]]

    # ---- the table

    def _negotiations(self) -> dict[str, Negotiation]:
        return {
            entry.place.negotiation.name: entry.place.negotiation
            for entry in self._places.values()
            if entry.place.negotiation is not None and self._negotiated[entry.place.negotiation.name]
        }

    def _exemptions(
        self, facts: HostFacts, exempt_level: int, response: Negotiation | None
    ) -> list[SpecificFilter]:
        versions = {version for (version, _), count in self._versions.items() if count}
        negotiated = {version for (version, secures), count in self._versions.items() if count and secures}
        if response is not None:
            negotiated |= versions
        made = exemptions_for(exempt_level, facts.local, versions, negotiated, facts.broadcasts)
        return sorted(made, key=table_order)

    def _warnings(self) -> tuple[str, ...]:
        warnings = _Warnings()
        for compiled in self._places.values():
            for text in compiled.warnings():
                warnings.add(text)
        told: set[object] = set()
        for settled in sorted(
            (self._settled[key] for key in self._contested), key=lambda settled: settled.filters[0][0]
        ):
            for pair, text in settled.conflicts:
                if pair not in told:  # told once, not once per address and direction
                    told.add(pair)
                    warnings.add(text)
        return warnings.finish()

    def _with_dns_open(
        self, filters: list[SpecificFilter], facts: HostFacts, negotiations: dict[str, Negotiation]
    ) -> list[SpecificFilter]:
        """Beside block filters whose names are pending: filters that leave DNS with our own servers to what decides
        about it without them. They have the weight of the pending filter, so that they win against it and against
        nothing else."""
        pending = {self._settled[key].filters[0][1].id for key in self._pending}
        servers = facts.dns_servers
        if not servers:
            return filters
        without = FilterTable(
            tuple(entry for entry in filters if entry.id not in pending), MappingProxyType(negotiations)
        )
        waiting = FilterTable(
            tuple(replace(entry, negotiation=None) for entry in filters if entry.id in pending)
        )
        more: dict[str, SpecificFilter] = {}
        for local in facts.local:
            for server in facts.local_servers(local):
                for protocol in (UDP, TCP):
                    for direction in Direction:
                        made = _dns_filter(without, waiting, local, server, protocol, direction)
                        if made is not None:
                            more[made.id] = made
        for entry in more.values():
            insort(filters, entry, key=table_order)
        return filters


def _dns_filter(
    without: FilterTable,
    waiting: FilterTable,
    local: Address,
    server: Address,
    protocol: int,
    direction: Direction,
) -> SpecificFilter | None:
    """The filter for one direction of DNS with one server, or None where no pending filter stops it."""
    flow = Flow(local, server, protocol, 0, DNS_PORT)
    if direction is Direction.INBOUND:
        flow = flow.reversed()
    block = waiting.lookup(flow, direction)
    decides = without.lookup(flow, direction)
    if block is None or (decides is not None and table_order(decides) < table_order(block)):
        return None
    return make_filter(
        TrafficSelector(
            AddressRange.host(flow.source),
            AddressRange.host(flow.destination),
            protocol,
            flow.source_port,
            flow.destination_port,
        ),
        direction,
        Action.PERMIT if decides is None else decides.action,
        block.weight,
        replace(block.provenance, description="DNS of this computer, so that the name can be resolved"),
        negotiation=None if decides is None else decides.negotiation,
        accept_clear=decides is not None and decides.accept_clear,
        allow_soft=decides is not None and decides.allow_soft,
    )


def _same(one: Filter, other: Filter) -> bool:
    return one is other or one == other


def _order(entry: tuple[Order, SpecificFilter]) -> Order:
    return entry[0]


def _all(
    place: Place,
    expander: PlaceExpander,
    room: int,
    filters: Sequence[Filter] | None = None,
    start: int = 1,
) -> list[Expanded]:
    """The candidates of filters of a place, at most `room` of them."""
    made: list[Expanded] = []
    for index, filter_ in enumerate(place.filters if filters is None else filters, start):
        entry = expander.expand(filter_, index)
        room -= len(entry.candidates)
        if room < 0:
            raise place.error(
                ReasonCode.INVALID_POLICY,
                f"{place} brings the table over {MAXIMUM_FILTERS} specific filters",
                limit=MAXIMUM_FILTERS,
            )
        made.append(entry)
    return made


def _policy_name(names: list[tuple[str, str]]) -> str | None:
    if not names:
        return None
    if len(names) == 1:
        return names[0][1]
    return " + ".join(f"{name} ({store})" for store, name in names)
