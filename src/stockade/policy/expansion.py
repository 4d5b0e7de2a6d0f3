"""From a filter as configured (*generic*) to selectors of one direction (*specific*).

    me    -> each address of this computer        any -> every address, of each family that fits
    host, subnet, range -> as they are            dns, wins, dhcp, gateway -> each such server
    DNS name -> each address that it has          mirrored -> the reverse as well

Direction: a filter whose source covers an address of ours speaks of outbound packets, one whose destination
does speaks of inbound packets; both can be true (any → any). Packets between two addresses of this computer
never leave it and are no matter of IPsec. A tunnel rule's filters may speak of networks behind us, so there
the tunnel's end point decides: the peer's address makes the filter outbound, our own inbound.

A name about which nothing is known makes the whole filter *pending*: `Expander.expand` lets it stand for any
address and says so; the compiler decides what that is good for.

A rule for one kind of connection means the addresses of such interfaces, where the kind of every interface is
known.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stockade.model.addresses import Address, AddressRange
from stockade.model.filters import Direction
from stockade.model.traffic import TrafficSelector
from stockade.policy.facts import HostFacts, as_facts, usable_addresses
from stockade.policy.objects import AddressKind, ConnectionType, Filter, FilterAddress
from stockade.policy.weights import WHOLE_ADDRESS, address_bits

__all__ = ["End", "Expander", "Expansion", "directions_of", "expand", "selectors_of", "usable_addresses"]

_IN, _OUT = Direction.INBOUND, Direction.OUTBOUND
_FEW_LOCAL = 8


@dataclass(slots=True)
class End:
    """The addresses of one end of a specific filter, and what the rest of the compiler asks about them
    again and again. `bits` as `weights.address_bits`; `ours`: an address of this computer is in it;
    `only_ours`: nothing else is."""

    addresses: AddressRange
    first: int
    last: int
    bits: int
    ours: bool
    only_ours: bool


Expansion = tuple[End, End, Direction, bool]
"""Source, destination, direction, and whether it is the mirrored one (then ports are to be swapped too)."""


class Expander:
    """Expands the filters of one rule: the facts, the rule's connection type and its tunnel are fixed."""

    def __init__(
        self,
        facts: HostFacts | Sequence[Address],
        connection: ConnectionType = ConnectionType.ALL,
        tunnel_endpoint: Address | None = None,
    ) -> None:
        self.facts = facts = as_facts(facts)
        local = facts.local_on(connection) if facts.knows_connections else facts.local
        self._local = {
            version: [int(address) for address in local if address.version == version] for version in (4, 6)
        }
        self._tunnel: tuple[Direction, ...] = ()
        if tunnel_endpoint is not None:
            self._tunnel = (_IN,) if tunnel_endpoint in facts.local else (_OUT,)
        self._me = {
            version: [
                self._end(AddressRange.host(address)) for address in local if address.version == version
            ]
            for version in (4, 6)
        }
        self._any = {version: [self._end(AddressRange.everything(version))] for version in (4, 6)}

    def _end(self, addresses: AddressRange) -> End:
        first, last = int(addresses.first), int(addresses.last)
        local = self._local[addresses.first.version]
        if first == last:
            ours = first in local if len(local) < _FEW_LOCAL else self._held(local, first, first) > 0
            return End(addresses, first, first, WHOLE_ADDRESS, ours, ours)
        held = self._held(local, first, last)
        size = last - first + 1
        # "any" is ours even before the first address is configured, so that a block of everything holds
        ours = held > 0 or size == 1 << addresses.first.max_prefixlen
        return End(addresses, first, last, address_bits(addresses), ours, held == size)

    @staticmethod
    def _held(local: list[int], first: int, last: int) -> int:
        return bisect_right(local, last) - bisect_left(local, first)

    def _ends(self, end: FilterAddress, version: int) -> list[End] | None:
        """What the end stands for in one address family; None where nothing is known about its name."""
        if end.addresses is not None:
            return [self._end(end.addresses)] if end.addresses.first.version == version else []
        if end.version is not None and end.version != version:
            return []
        if end.kind is AddressKind.ME:
            return self._me[version]
        if end.kind is AddressKind.ANY:
            return self._any[version]
        if end.kind is AddressKind.NAME:
            found = self.facts.resolve(end.name)
            if found is None:
                return None
        else:
            found = self.facts.servers(end.kind)
        return [self._end(AddressRange.host(address)) for address in found if address.version == version]

    def unresolved(self, filter_: Filter) -> tuple[str, ...]:
        """The names in the filter about which nothing is known."""
        return tuple(
            end.name
            for end in (filter_.source, filter_.destination)
            if end.kind is AddressKind.NAME and self.facts.resolve(end.name) is None
        )

    def pairs(self, filter_: Filter) -> tuple[list[tuple[End, End]], bool]:
        """The ends of the filter as written, per local address and family, and whether a name in it is
        pending: such a name stands for any address."""
        pending = False
        found: list[tuple[End, End]] = []
        family = filter_.source.family or filter_.destination.family
        for version in (4, 6) if family is None else (family,):
            sources = self._ends(filter_.source, version)
            destinations = self._ends(filter_.destination, version)
            if sources is None or destinations is None:
                pending = True
                sources = self._any[version] if sources is None else sources
                destinations = self._any[version] if destinations is None else destinations
            for source in sources:
                found.extend([(source, destination) for destination in destinations])
        return found, pending

    def _directions(self, source: End, destination: End) -> tuple[Direction, ...]:
        if self._tunnel:
            return self._tunnel
        if source.ours and not destination.only_ours:
            if destination.ours and not source.only_ours:
                return (_OUT, _IN)
            return (_OUT,)
        return (_IN,) if destination.ours and not source.only_ours else ()

    def expand(self, filter_: Filter) -> tuple[list[Expansion], bool]:
        """The specific filters of a filter, and whether a name in it is pending."""
        pairs, pending = self.pairs(filter_)
        found: list[Expansion] = []
        mirrored = filter_.mirrored
        for source, destination in pairs:
            for direction in self._directions(source, destination):
                found.append((source, destination, direction, False))
            if not mirrored:
                continue
            if self._tunnel:
                # the mirror of a tunnelled filter comes back through the same tunnel
                found.append((destination, source, _IN if self._tunnel == (_OUT,) else _OUT, True))
                continue
            if (
                filter_.source_port == filter_.destination_port
                and source.first == destination.first
                and source.last == destination.last
            ):
                continue  # any to any, any port: both directions are there already
            for direction in self._directions(destination, source):
                found.append((destination, source, direction, True))
        return found, pending


def _selector(filter_: Filter, source: End, destination: End, mirrored: bool) -> TrafficSelector:
    ports = (filter_.source_port, filter_.destination_port)
    return TrafficSelector(
        source.addresses, destination.addresses, filter_.protocol, *(ports[::-1] if mirrored else ports)
    )


def selectors_of(filter_: Filter, local: HostFacts | Sequence[Address]) -> Iterator[TrafficSelector]:
    """The selectors of the filter as written (not its mirror), one per local address and family; none where a
    name in it is pending."""
    pairs, pending = Expander(local).pairs(filter_)
    for source, destination in [] if pending else pairs:
        yield _selector(filter_, source, destination, False)


def directions_of(
    selector: TrafficSelector, local: HostFacts | Sequence[Address], tunnel_endpoint: Address | None = None
) -> tuple[Direction, ...]:
    """In which directions this computer can meet packets of the selector; empty where it cannot."""
    expander = Expander(local, tunnel_endpoint=tunnel_endpoint)
    return expander._directions(expander._end(selector.source), expander._end(selector.destination))


def expand(
    filter_: Filter, local: HostFacts | Sequence[Address], tunnel_endpoint: Address | None = None
) -> Iterator[tuple[TrafficSelector, Direction, bool]]:
    """The specific selectors of a filter: selector, direction, and whether it is the mirrored one; none
    where a name in it is pending."""
    found, pending = Expander(local, tunnel_endpoint=tunnel_endpoint).expand(filter_)
    for source, destination, direction, mirrored in [] if pending else found:
        yield _selector(filter_, source, destination, mirrored), direction, mirrored
