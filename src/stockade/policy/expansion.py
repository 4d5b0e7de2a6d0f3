"""From a filter as configured (*generic*) to selectors of one direction (*specific*).

    me    -> each address of this computer        any -> every address, of each family that fits
    host, subnet, range -> as they are            mirrored -> the reverse as well

Direction: a filter whose source covers an address of ours speaks of outbound packets, one whose destination
does speaks of inbound packets; both can be true (any → any). Packets between two addresses of this computer
never leave it and are no matter of IPsec. A tunnel rule's filters may speak of networks behind us, so there
the tunnel's end point decides: the peer's address makes the filter outbound, our own inbound.

Left out: DNS names and server kinds (DNS, WINS, DHCP, gateway), which a store resolves before it gets here.
"""

from collections.abc import Iterable, Iterator
from ipaddress import IPv6Address

from stockade.model.addresses import Address, AddressRange
from stockade.model.filters import Direction
from stockade.model.traffic import TrafficSelector
from stockade.policy.objects import AddressKind, Filter, FilterAddress


def usable_addresses(addresses: Iterable[Address]) -> tuple[Address, ...]:
    """The addresses that "me" stands for: no loopback, unspecified or multicast ones, IPv6 without its zone,
    each once, in a steady order."""
    usable = {
        IPv6Address(int(address)) if isinstance(address, IPv6Address) else address
        for address in addresses
        if not (address.is_loopback or address.is_unspecified or address.is_multicast)
    }
    return tuple(sorted(usable, key=lambda address: (address.version, int(address))))


def _end_ranges(end: FilterAddress, version: int, local: tuple[Address, ...]) -> list[AddressRange]:
    if end.kind is AddressKind.ME:
        return [AddressRange.host(address) for address in local if address.version == version]
    if end.addresses is None:
        return [AddressRange.everything(version)]
    return [end.addresses] if end.addresses.version == version else []


def selectors_of(filter_: Filter, local: tuple[Address, ...]) -> Iterator[TrafficSelector]:
    """The selectors of the filter as written (not its mirror), one per local address and family."""
    for version in (4, 6):
        destinations = _end_ranges(filter_.destination, version, local)
        for source in _end_ranges(filter_.source, version, local):
            for destination in destinations:
                yield TrafficSelector(
                    source, destination, filter_.protocol, filter_.source_port, filter_.destination_port
                )


def directions_of(
    selector: TrafficSelector, local: tuple[Address, ...], tunnel_endpoint: Address | None = None
) -> tuple[Direction, ...]:
    """In which directions this computer can meet packets of the selector; empty where it cannot."""
    if tunnel_endpoint is not None:
        return (Direction.INBOUND,) if tunnel_endpoint in local else (Direction.OUTBOUND,)

    def ours(end: AddressRange) -> bool:
        # "any" is ours even before the first address is configured, so that a block of everything holds
        return end.is_everything or any(address in end for address in local)

    def only_ours(end: AddressRange) -> bool:
        return end.size <= len(local) and sum(address in end for address in local) == end.size

    directions = []
    if ours(selector.source) and not only_ours(selector.destination):
        directions.append(Direction.OUTBOUND)
    if ours(selector.destination) and not only_ours(selector.source):
        directions.append(Direction.INBOUND)
    return tuple(directions)


def expand(
    filter_: Filter, local: tuple[Address, ...], tunnel_endpoint: Address | None = None
) -> Iterator[tuple[TrafficSelector, Direction, bool]]:
    """The specific selectors of a filter: selector, direction, and whether it is the mirrored one."""
    for selector in selectors_of(filter_, local):
        directions = directions_of(selector, local, tunnel_endpoint)
        for direction in directions:
            yield selector, direction, False
        if filter_.mirrored:
            mirror = selector.reversed()
            if mirror == selector and tunnel_endpoint is None:
                continue  # any to any, any port: both directions are there already
            if tunnel_endpoint is not None:
                # the mirror of a tunnelled filter comes back through the same tunnel
                directions = tuple(
                    Direction.INBOUND if entry is Direction.OUTBOUND else Direction.OUTBOUND
                    for entry in directions
                )
            else:
                directions = directions_of(mirror, local)
            for direction in directions:
                yield mirror, direction, True
