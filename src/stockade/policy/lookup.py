"""The filter table as the key exchange sees it: `NegotiationLookup` of the IKE engine's contract.

IKEv1 cannot narrow traffic (RFC 2409 §5.5: the responder takes the identities of a quick mode or refuses
them), so a request is accepted as it is or not at all. It is accepted when

1. the heaviest filter that covers *all* of it negotiates. Peers mostly ask for exactly one of our filters,
   with host addresses in the place of "any"; more is refused, and the reason names the nearest filter.
   The outbound filter decides; a filter list that is not mirrored may have the inbound one only, then that
   one does;
2. in transport mode it is between the two hosts that talk (behind a NAT the engine puts the outer addresses
   in the place of the inner ones first): nobody gets an SA for a third host's traffic; in tunnel mode the
   peer, or this computer, is the rule's tunnel end point.

Windows has two rules for a tunnel, one for each direction: the first one's end point is the peer, the second
one's is this computer. One pair of SAs carries both, so what is negotiated is what both rules allow
(`joined`): a peer that proved only one rule's credential gets nothing of the other's traffic, and rules that
have nothing in common make no tunnel.

A main mode is answered by what could serve the peer's address, and by nothing else: the rules that decide
about traffic between the two hosts, and the tunnels to this peer, as both of their rules allow them. So the
key of a rule for other peers opens none, nor does that of a tunnel's one rule alone. A tunnel of which only
the inbound rule is there names no peer, and answers any.

A heavier filter that covers only a part of the request (block telnet, permit SSH, beside "secure all") does
not refuse the rest. Every packet is looked up in the filter table before it is sealed and after it is
opened, so such a filter decides about its part whatever the SA's selector says. A driver must keep to that:
what comes out of an SA and meets a block filter is dropped.

Where no filter speaks of any of it, the default response rule answers, if it is active: for traffic between
the two hosts, in transport mode. The match is then `dynamic`: whoever installs the SAs puts the temporary
filters `dynamic.response_filters` into the table for as long as they live. A request of which a rule
secures a part is still refused: the rule says how to secure it, and the peer may not choose another way.

Default exemptions and the multicast parts of filters play no role here. Nothing raises. Anybody can make us
look by sending a first main-mode message: a look goes through the table's index.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from stockade.model.addresses import Address
from stockade.model.filters import Action, Direction, FilterClass, FilterTable, SpecificFilter
from stockade.model.negotiation import Mode, Negotiation, QuickModeMatch
from stockade.model.reasons import Reason, ReasonCode
from stockade.model.traffic import TrafficSelector
from stockade.policy.dynamic import response_filters
from stockade.policy.exemptions import is_unsecurable

_INBOUND, _OUTBOUND = Direction.INBOUND, Direction.OUTBOUND
REMEMBERED = 1024
"""Pairs of hosts of which a lookup remembers the filters that speak of them."""


class FilterTableLookup:
    """`NegotiationLookup` over one filter table."""

    def __init__(self, table: FilterTable) -> None:
        self._table = table
        self._response = (
            None if table.default_response is None else table.negotiations[table.default_response]
        )
        self._asked: dict[tuple[int, int, type, bool], tuple[SpecificFilter, ...]] = {}
        self._together: dict[tuple[int, ...], tuple[SpecificFilter, ...]] = {}
        """By the identities of what the table says of two addresses, which live as long as the table."""
        self._answered: dict[tuple[int, int], tuple[tuple[object, object], tuple[Negotiation, ...]]] = {}
        """By the identities of two of those, which stand beside the answer: while it is remembered no other
        ones can have the same identities."""
        self._tunnels: _Tunnels | None = None
        self._between: dict[tuple[Address, Address], tuple[Negotiation, ...]] = {}

    def for_peer(self, local: Address, peer: Address) -> tuple[Negotiation, ...] | Reason:
        """The negotiations whose filters cover some traffic between the two hosts, heaviest filter first, and
        those of tunnels between them, and at last the default response rule, where it could answer. NO_POLICY
        where there is none."""
        if local.version != peer.version:
            return Reason.of(
                ReasonCode.NO_POLICY, "the addresses are of two families", local=local, peer=peer
            )
        outbound = self._about(local, peer, _OUTBOUND)
        inbound = self._about(peer, local, _INBOUND)
        tunnels = self._tunnels_between(local, peer)
        if tunnels:
            return self._answers(local, peer, outbound, inbound, tunnels)
        # Peers under the same filters get the same answer.
        key = (id(outbound), id(inbound))
        known = self._answered.get(key)
        if known is not None:
            return known[1]
        answers = self._answers(local, peer, outbound, inbound, tunnels)
        if not isinstance(answers, Reason):  # which names the peer
            if len(self._answered) >= REMEMBERED:
                self._answered.clear()
            self._answered[key] = (outbound, inbound), answers
        return answers

    def _answers(
        self,
        local: Address,
        peer: Address,
        about: tuple[SpecificFilter, ...],
        about_back: tuple[SpecificFilter, ...],
        tunnels: tuple[Negotiation, ...],
    ) -> tuple[Negotiation, ...] | Reason:
        """`for_peer`, from the filters that speak of the two hosts' addresses in either direction."""
        outbound, inbound = [*_down_to_cover(about)], [*_down_to_cover(about_back)]
        found = outbound + inbound
        found.sort(key=lambda entry: -entry.weight)
        names = dict.fromkeys(
            entry.negotiation
            for entry in found
            if entry.negotiation is not None
            and self._table.negotiations[entry.negotiation].quick_mode.mode is Mode.TRANSPORT
        )
        answers = [self._table.negotiations[name] for name in names]
        answers += tunnels
        if (
            self._response is not None
            and self._response.name not in names
            and not any(_is_of_all(entry.selector) for entry in found)
        ):
            answers.append(self._response)
        if answers:
            return tuple(answers)
        facts: dict[str, object] = {"local": local, "peer": peer}
        if found:
            facts["filter"] = found[0].id
            facts["decided_by"] = found[0].provenance
        return Reason.of(ReasonCode.NO_POLICY, f"no rule negotiates with {peer}", **facts)

    def for_quick_mode(
        self, local: Address, peer: Address, requested: TrafficSelector
    ) -> QuickModeMatch | Reason:
        """The rule for the traffic that a peer asks to protect; `requested` is outbound as we see it, and is
        the match's selector unchanged. INVALID_IDENTITY or NO_POLICY, naming the filter, otherwise."""
        if is_unsecurable(requested.destination) or is_unsecurable(requested.source):
            return Reason.of(
                ReasonCode.INVALID_IDENTITY,
                "the peer asks for multicast or broadcast, which IPsec cannot secure",
                requested=requested,
            )
        reverse = requested.reversed()
        outbound = self._covering(requested, Direction.OUTBOUND)
        inbound = self._covering(reverse, Direction.INBOUND)
        # the outbound filter decides; the inbound one only where it alone asks for security
        deciding = next(
            (entry for entry in (outbound, inbound) if entry is not None and entry.negotiation is not None),
            outbound or inbound,
        )
        if deciding is None:
            return self._not_covered(local, peer, requested)
        if deciding.negotiation is None:
            return Reason.of(
                ReasonCode.INVALID_IDENTITY,
                f"a filter says {deciding.action} where the peer asks for security",
                requested=requested,
                filter=deciding.id,
                decided_by=deciding.provenance,
            )
        negotiation = self._table.negotiations[deciding.negotiation]
        misfit = _misfit(negotiation, local, peer, requested)
        if misfit:
            return Reason.of(
                ReasonCode.INVALID_IDENTITY,
                misfit,
                requested=requested,
                filter=deciding.id,
                decided_by=deciding.provenance,
            )
        if inbound is not None and deciding is outbound:
            both = self._both_ways(negotiation, inbound, local, peer)
            if isinstance(both, Reason):
                return both
            negotiation = both
        return QuickModeMatch(negotiation, requested, deciding.id)

    def for_acquire(self, entry: SpecificFilter, local: Address, peer: Address) -> Negotiation | Reason:
        """What to negotiate for traffic that an outbound filter wants secured between these two hosts: its
        own negotiation, or in tunnel mode what the rule of the other direction allows too."""
        assert entry.negotiation is not None
        negotiation = self._table.negotiations[entry.negotiation]
        if negotiation.quick_mode.tunnel_endpoint is None:
            return negotiation
        inbound = self._covering(entry.selector.reversed(), Direction.INBOUND)
        return negotiation if inbound is None else self._both_ways(negotiation, inbound, local, peer)

    def _tunnels_between(self, local: Address, peer: Address) -> tuple[Negotiation, ...]:
        """What there may be of tunnels between the two, as all of their rules allow it."""
        if self._tunnels is None:
            self._tunnels = self._find_tunnels()
        known = self._between.get((local, peer))
        if known is not None:
            return known
        found: list[Negotiation] = []
        for entry in self._tunnels.outbound.get(peer, ()):
            way = self.for_acquire(entry, local, peer)
            if not isinstance(way, Reason) and way not in found:
                found.append(way)
        answers = (*found, *self._tunnels.alone.get(local, {}).values())
        if peer in self._tunnels.outbound:  # strangers' addresses are not remembered
            self._between[local, peer] = answers
        return answers

    def _find_tunnels(self) -> "_Tunnels":
        found = _Tunnels()
        ends = {name: one.quick_mode.tunnel_endpoint for name, one in self._table.negotiations.items()}
        if not any(ends.values()):
            return found
        for entry in self._table.filters:
            end = None if entry.negotiation is None else ends[entry.negotiation]
            if end is None or entry.negotiation is None:
                continue
            if entry.direction is Direction.OUTBOUND:
                found.outbound.setdefault(end, []).append(entry)
                continue
            decides = self._covering(entry.selector.reversed(), Direction.OUTBOUND)
            if decides is None or decides.negotiation is None:
                found.alone.setdefault(end, {})[entry.negotiation] = self._table.negotiations[
                    entry.negotiation
                ]
        return found

    def _both_ways(
        self, negotiation: Negotiation, inbound: SpecificFilter, local: Address, peer: Address
    ) -> Negotiation | Reason:
        """The negotiation of a tunnel whose other direction another rule decides about."""
        if (
            negotiation.quick_mode.tunnel_endpoint != peer
            or inbound.negotiation is None
            or inbound.negotiation == negotiation.name
        ):
            return negotiation
        other = self._table.negotiations[inbound.negotiation]
        if other.quick_mode.tunnel_endpoint != local:
            return negotiation  # what comes back is not of this tunnel: no packet of it is let in
        return joined(negotiation, other)

    def _about(
        self, source: Address, destination: Address, direction: Direction
    ) -> tuple[SpecificFilter, ...]:
        """The filters of rules that speak of both addresses, heaviest first: of a selector that begins with
        them all that cover it are among them, and for two hosts all that overlap it. The same filters are one
        object each time, while the lookup lives."""
        # A handshake asks twice, for its main mode and for its quick mode. Bounded; a table never changes.
        key = (int(source), int(destination), source.__class__, direction is _OUTBOUND)
        found = self._asked.get(key)
        if found is None:
            entries = self._table.about(source, destination, direction)
            same = tuple(map(id, entries))
            found = self._together.get(same)
            if found is None:
                if len(self._together) >= REMEMBERED:
                    self._forget()
                found = self._together[same] = tuple(
                    entry
                    for entry in entries
                    if entry.filter_class is FilterClass.POLICY
                    and not is_unsecurable(entry.selector.destination)
                )
            if len(self._asked) >= REMEMBERED:
                self._asked.clear()
            self._asked[key] = found
        return found

    def _forget(self) -> None:
        """All at once: what is remembered of a tuple is found by where it lies."""
        self._asked.clear()
        self._answered.clear()
        self._together.clear()

    def _about_traffic(self, selector: TrafficSelector, direction: Direction) -> tuple[SpecificFilter, ...]:
        return self._about(selector.source.first, selector.destination.first, direction)

    def _covering(self, selector: TrafficSelector, direction: Direction) -> SpecificFilter | None:
        for one in self._about_traffic(selector, direction):
            if one.selector.covers(selector):
                return one
        return None

    def _overlapping(self, selector: TrafficSelector, direction: Direction) -> Iterator[SpecificFilter]:
        hosts = selector.source.is_host and selector.destination.is_host
        for entry in self._about_traffic(selector, direction) if hosts else self._table.filters:
            if entry.direction is direction and entry.selector.overlaps(selector):
                yield entry

    def _not_covered(
        self, local: Address, peer: Address, requested: TrafficSelector
    ) -> QuickModeMatch | Reason:
        """No filter covers the request: is there one that covers a part of it? Else the default response."""
        for selector, direction in (
            (requested, Direction.OUTBOUND),
            (requested.reversed(), Direction.INBOUND),
        ):
            for entry in self._overlapping(selector, direction):
                if entry.action is Action.NEGOTIATE:
                    return Reason.of(
                        ReasonCode.INVALID_IDENTITY,
                        "the peer asks for more than the filter secures",
                        requested=requested,
                        filter=entry.id,
                        secured=entry.selector,
                        decided_by=entry.provenance,
                    )
        if self._response is None:
            return Reason.of(ReasonCode.NO_POLICY, "no filter speaks of this traffic", requested=requested)
        misfit = _misfit(self._response, local, peer, requested)
        if misfit:
            return Reason.of(
                ReasonCode.INVALID_IDENTITY,
                f"no filter speaks of this traffic, and the default response rule does not either: {misfit}",
                requested=requested,
            )
        outbound, _ = response_filters(self._response, requested)
        return QuickModeMatch(self._response, requested, outbound.id, dynamic=True)


@dataclass(slots=True)
class _Tunnels:
    """Of one table: the outbound filters by the end point that their rule names, and the rules of inbound
    filters to whose traffic no outbound filter names another end, by this computer's address."""

    outbound: dict[Address, list[SpecificFilter]] = field(default_factory=dict)
    alone: dict[Address, dict[str, Negotiation]] = field(default_factory=dict)


def joined(first: Negotiation, second: Negotiation) -> Negotiation | Reason:
    """The first negotiation, as far as the second one allows the same; INVALID_POLICY where nothing is
    left."""
    main_mode, quick_mode = first.main_mode, first.quick_mode
    suites = tuple(one for one in main_mode.proposals if one in second.main_mode.proposals)
    known = {(one.esp, one.ah) for one in second.quick_mode.proposals}
    methods = tuple(one for one in quick_mode.proposals if (one.esp, one.ah) in known)
    ways = tuple(one for one in first.authentication if one in second.authentication)
    for what, left in (
        ("main-mode method", suites),
        ("quick-mode method", methods),
        ("way to authenticate", ways),
    ):
        if not left:
            return Reason.of(
                ReasonCode.INVALID_POLICY,
                f"the two rules of the tunnel have no {what} in common",
                rule=first.name,
                other=second.name,
            )
    return replace(
        first,
        main_mode=replace(main_mode, proposals=suites),
        quick_mode=replace(
            quick_mode,
            proposals=methods,
            perfect_forward_secrecy=quick_mode.perfect_forward_secrecy
            or second.quick_mode.perfect_forward_secrecy,
        ),
        authentication=ways,
    )


def _down_to_cover(entries: Iterable[SpecificFilter]) -> Iterator[SpecificFilter]:
    """Of filters that speak of two hosts' addresses those that decide about some traffic between them, down
    to the first one that covers all of it: what stands below that one is never reached."""
    for entry in entries:
        yield entry
        if _is_of_all(entry.selector):
            return


def _is_of_all(selector: TrafficSelector) -> bool:
    """Whether it covers all traffic between addresses of which it speaks."""
    return not (selector.protocol or selector.source_port or selector.destination_port)


def _misfit(negotiation: Negotiation, local: Address, peer: Address, requested: TrafficSelector) -> str:
    """Why the request does not fit the rule's mode and the two hosts; "" when it does."""
    endpoint = negotiation.quick_mode.tunnel_endpoint
    if endpoint is not None:
        return (
            "" if endpoint in (local, peer) else f"the rule's tunnel ends at {endpoint}, the peer is {peer}"
        )
    one_host_each = requested.source.is_host and requested.destination.is_host
    if one_host_each and local in requested.source and peer in requested.destination:
        return ""
    return f"transport mode secures traffic between {local} and {peer} only"
