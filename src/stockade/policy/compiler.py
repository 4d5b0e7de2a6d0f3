"""The policy compiler: policies as written -> the filter table that the driver enforces.

    policy sets ──────▶ places.py: active rules with what they name
    host facts  ──────▶ expansion.py, candidates.py: specific filters, conflicts settled, multicast parts
    exemption level ──▶ exemptions.py ─▶ filter table, heaviest first  (weights.py)

Several stores are joined into one table: persistent, local or domain, dynamic. Nothing goes before by its
store: the weight decides, and between equals the most restrictive action. Rule order within a policy means
nothing, as in Windows. `places.in_force` says which of local and domain counts.

**Multicast and broadcast.** IPsec cannot secure them. A filter that negotiates and names nothing else is
refused (NOT_SECURABLE). A wider one (me → any) does not secure them: unless the exemption level lets them
pass, the table holds a filter of the same weight for its multicast part that *blocks*, or *permits* where the
filter allows clear traffic anyway (`soft` outbound, `inpass` inbound). So no driver ever acquires for them.

**Names that are not resolved.** A filter that permits or negotiates is not in force before its name is
known. One that blocks stands for any address until then, with the weight of *any*: closed when in doubt.
DNS between this computer and its own servers is decided as if that filter were not there, so that the name
can be resolved. A name that is known to have no address blocks nothing.

**Connection types.** Where the kind of every interface is known, a rule for one kind means its addresses.
Otherwise it acts on all, with a warning; one that *permits* on dial-up only is left out instead, for it would
open the rest.

**What the data plane lacks.** A rule whose methods, mode or tunnel end the data plane cannot do is refused,
and the whole policy with it (DRIVER_LACKS): a method that is offered must work. Where a data plane needs one
protocol per rule, methods of other protocols are left out, with a warning (`fitting.py`).

`PolicyCompiler` keeps what it made and compiles only what changed since; `compile_table` starts afresh.
Both give the same table for the same input, byte for byte. Pure: no clock, no look-ups.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from stockade.model.addresses import Address, AddressRange
from stockade.model.capabilities import Capabilities
from stockade.model.classifier import collector_paused
from stockade.model.filters import Action, Direction, FilterTable, Provenance, SpecificFilter, TableChanges
from stockade.model.negotiation import Negotiation
from stockade.model.reasons import ReasonCode, error_for
from stockade.model.traffic import TCP, UDP, Flow, TrafficSelector
from stockade.policy.candidates import Doubt, Expanded, Note, PlaceExpander
from stockade.policy.dynamic import DynamicSet
from stockade.policy.exemptions import DEFAULT_EXEMPT_LEVEL, exemptions_for, level_meaning
from stockade.policy.expansion import Expander
from stockade.policy.facts import HostFacts, as_facts
from stockade.policy.fitting import fit
from stockade.policy.groups import Change, Groups
from stockade.policy.objects import Filter, PolicySet
from stockade.policy.places import (
    Place,
    assigned_policies,
    default_response,
    dynamic_places,
    rule_name,
    static_places,
)
from stockade.policy.specific import make_filter, table_order

__all__ = [
    "ALL_VERSIONS",
    "MAXIMUM_FILTERS",
    "MAXIMUM_WARNINGS",
    "PolicyCompiler",
    "compile_table",
    "rule_name",
]

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
    notes: tuple[Note, ...]
    size: int
    """How many candidates there are."""
    doubtful: bool
    """Whether a filter has notes."""

    def doubts(self) -> Iterator[Doubt]:
        place = self.place
        for kind, text in self.notes:
            where = Provenance(
                place.store, place.policy, place.rule, place.filter_list, filter_action=place.filter_action
            )
            yield Doubt(kind, where, text)
        if self.doubtful:
            for index, entry in enumerate(self.expanded, 1):
                for kind, tail in entry.notes:
                    where = place.provenance(entry.position, place.filters[index - 1], False)
                    yield Doubt(kind, where, f"{place.about(index)} {tail}")


def compile_table(
    policy_sets: Sequence[PolicySet],
    local_addresses: HostFacts | Sequence[Address],
    exempt_level: int = DEFAULT_EXEMPT_LEVEL,
    secured_versions: frozenset[int] = ALL_VERSIONS,
    dynamic: DynamicSet | None = None,
    capabilities: Capabilities | None = None,
) -> FilterTable:
    """The filter table of the assigned policies for a computer with these addresses, or these facts.

    `exempt_level` is NoDefaultExempt, 0 to 3 (`exemptions.py`). `secured_versions` are the IP versions that
    the data plane can secure: where "me" and "any" make a negotiate filter speak of another one, that part is
    blocked (or permitted, where the filter lets clear traffic pass anyway), with a warning. `capabilities`:
    what it can do else (None: everything). Without an assigned policy the table is empty. Errors, each naming
    store, policy and rule: CallerError INVALID_POLICY (a missing object, too many filters, a contradiction),
    NOT_SECURABLE, DRIVER_LACKS.
    """
    return PolicyCompiler().compile(
        policy_sets, local_addresses, exempt_level, secured_versions, dynamic, capabilities
    )


class PolicyCompiler:
    """Compiles a policy again and again, each time only what changed. An error leaves it as it was."""

    def __init__(self) -> None:
        self._settings: tuple[object, ...] | None = None
        self._places: dict[tuple[str, ...], _Compiled] = {}
        self._groups = Groups()
        self._table: FilterTable | None = None
        self._narrowed: dict[str, Negotiation] = {}
        self._method_doubts: tuple[Doubt, ...] = ()
        self._extra: dict[str, SpecificFilter] = {}  # what the last table holds besides the groups' filters

    def compile(
        self,
        policy_sets: Sequence[PolicySet],
        local_addresses: HostFacts | Sequence[Address],
        exempt_level: int = DEFAULT_EXEMPT_LEVEL,
        secured_versions: frozenset[int] = ALL_VERSIONS,
        dynamic: DynamicSet | None = None,
        capabilities: Capabilities | None = None,
    ) -> FilterTable:
        """As `compile_table`. Where the index of the last table was built, that of the new one is made from
        it."""
        with collector_paused():
            return self._compile(
                policy_sets, local_addresses, exempt_level, secured_versions, dynamic, capabilities
            )

    def _compile(
        self,
        policy_sets: Sequence[PolicySet],
        local_addresses: HostFacts | Sequence[Address],
        exempt_level: int,
        secured_versions: frozenset[int],
        dynamic: DynamicSet | None,
        capabilities: Capabilities | None,
    ) -> FilterTable:
        facts = as_facts(local_addresses)
        meaning = level_meaning(exempt_level)
        settings = (facts, exempt_level, secured_versions, capabilities)
        places = [*static_places(policy_sets), *dynamic_places(dynamic or DynamicSet())]
        response = default_response(policy_sets)
        goes_on = settings == self._settings
        compiled, change = self._expand(places, facts, secured_versions, self._places if goes_on else {})
        asking = [entry.place for entry in compiled.values() if entry.size]
        narrowed, doubts = fit(asking, response, capabilities)
        if not goes_on:
            self._groups = Groups()
        self._settings = None  # half done: after an error the next time starts from the beginning
        self._places, self._narrowed, self._method_doubts = compiled, narrowed, doubts
        came, went = self._groups.apply(change, facts.broadcasts, meaning.multicast_and_broadcast)
        if len(self._groups.filters) > MAXIMUM_FILTERS:
            raise error_for(
                ReasonCode.INVALID_POLICY,
                f"the multicast parts bring the table over {MAXIMUM_FILTERS} specific filters",
                limit=MAXIMUM_FILTERS,
                local_addresses=len(facts.local),
            )
        negotiations = self._negotiations()
        open_for_dns = self._dns_filters(facts, negotiations)
        exemptions = self._exemptions(facts, exempt_level, response)
        filters: Sequence[SpecificFilter] = self._groups.filters
        if open_for_dns:
            filters = sorted((*filters, *open_for_dns), key=table_order)
        if response is not None:
            negotiations[response.name] = narrowed.get(response.name, response)
        names = [(policy_set.store, policy.name) for policy_set, policy in assigned_policies(policy_sets)]
        if dynamic is not None and dynamic.rules:
            names.append(("dynamic", "dynamic rules"))
        table = FilterTable(
            filters=(*exemptions, *filters),
            negotiations=MappingProxyType(dict(sorted(negotiations.items()))),
            policy_name=_policy_name(names),
            warnings=self._warnings(),
            default_response=None if response is None else response.name,
            overruled=MappingProxyType(self._groups.overruled()),
        )
        extra = {entry.id: entry for entry in (*exemptions, *open_for_dns)}
        if self._table is not None:
            if goes_on:
                came |= extra.keys() - self._extra.keys()
                went |= self._extra.keys() - extra.keys()
                table.assume(self._table, TableChanges(frozenset(came), frozenset(went), False))
            if self._table.is_prepared:
                table.prepare(self._table)
        self._table, self._extra, self._settings = table, extra, settings
        return table

    # ---- what is new

    def _expand(
        self,
        places: Iterable[Place],
        facts: HostFacts,
        secured_versions: frozenset[int],
        known: dict[tuple[str, ...], _Compiled],
    ) -> tuple[dict[tuple[str, ...], _Compiled], Change]:
        """The candidates of all places, those of unchanged filters taken over. Changes nothing."""
        compiled: dict[tuple[str, ...], _Compiled] = {}
        change = Change()
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
            size = sum([len(one.candidates) for one in made])
            doubtful = any(one.notes for one in made)
            entry = _Compiled(place, made, expander.place_notes(), size, doubtful)
            compiled[identity] = entry
            total += entry.size
        for identity, old in known.items():
            if identity not in compiled:
                change.removed.extend(one for entry in old.expanded for one in entry.candidates)
        return compiled, change

    def _again(
        self, place: Place, old: _Compiled, expander: PlaceExpander, change: Change, room: int
    ) -> list[Expanded]:
        """The filters of a place of which some may be the same as before: those at the start and at the end
        of the list are; what stands between is expanded anew."""
        before, after = old.place.filters, place.filters
        if before is after:
            return old.expanded
        head = 0
        shorter = min(len(before), len(after))
        while head < shorter and _same(before[head], after[head]):
            head += 1
        tail = 0
        last = shorter - head
        while tail < last and _same(before[-1 - tail], after[-1 - tail]):
            tail += 1
        shift = len(after) - len(before)
        made = list(old.expanded[:head])
        for entry in old.expanded[head : len(before) - tail]:
            change.removed.extend(entry.candidates)
        kept = old.expanded[len(before) - tail :]
        room -= sum([len(entry.candidates) for entry in made]) + sum(
            [len(entry.candidates) for entry in kept]
        )
        fresh = _all(place, expander, room, after[head : len(after) - tail], head + 1)
        change.added.extend(one for entry in fresh for one in entry.candidates)
        if shift:
            change.moved.append((kept, shift))
        return [*made, *fresh, *kept]

    # ---- the table

    def _negotiations(self) -> dict[str, Negotiation]:
        return {
            entry.place.negotiation.name: self._narrowed.get(
                entry.place.negotiation.name, entry.place.negotiation
            )
            for entry in self._places.values()
            if entry.place.negotiation is not None and self._groups.negotiates(entry.place.negotiation.name)
        }

    def _exemptions(
        self, facts: HostFacts, exempt_level: int, response: Negotiation | None
    ) -> list[SpecificFilter]:
        versions = self._groups.versions
        negotiated = self._groups.negotiated_versions if response is None else versions
        made = exemptions_for(exempt_level, facts.local, versions, negotiated, facts.broadcasts)
        return sorted(made, key=table_order)

    def doubts(self) -> Iterator[Doubt]:
        """What is doubtful in the policy compiled last; the table's warnings are the first of these
        sentences."""
        for compiled in self._places.values():
            yield from compiled.doubts()
        yield from self._groups.conflicts()
        yield from self._method_doubts

    def _warnings(self) -> tuple[str, ...]:
        warnings = _Warnings()
        for doubt in self.doubts():
            warnings.add(doubt.text)
        return warnings.finish()

    def _dns_filters(
        self, facts: HostFacts, negotiations: dict[str, Negotiation]
    ) -> tuple[SpecificFilter, ...]:
        """Beside block filters whose names are pending: filters that leave DNS with our own servers to what
        decides about it without them. They have the weight of the pending filter, so that they win against
        it and against nothing else."""
        pending = self._groups.pending
        if not pending or not facts.dns_servers:
            return ()
        filters = self._groups.filters
        without = FilterTable(
            tuple(entry for entry in filters if entry.id not in pending), MappingProxyType(negotiations)
        )
        waiting = FilterTable(tuple(entry for entry in filters if entry.id in pending))
        made: dict[str, SpecificFilter] = {}
        for local in facts.local:
            for server in facts.local_servers(local):
                for protocol in (UDP, TCP):
                    for direction in Direction:
                        entry = _dns_filter(without, waiting, local, server, protocol, direction)
                        if entry is not None:
                            made[entry.id] = entry
        return tuple(made.values())


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
    return one is other or (one == other and one.origin == other.origin)


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
