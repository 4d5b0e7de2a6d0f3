"""Default exemptions: what passes in clear whatever the rules say (Windows: NoDefaultExempt,
`netsh ipsec dynamic set config ipsecexempt value={0|1|2|3}`).

    level        IKE   Kerberos (88)   RSVP (46)   multicast   broadcast
    0             x         x              x           x           x
    1             x         -              -           x           x
    2             x         x              x           -           -
    3 (default)   x         -              -           -           -

* **IKE** (UDP 500 and 4500) is exempt when, and only when, a rule negotiates (the default response rule does,
  as soon as there is a filter that could stop IKE). Only the port of this computer
  counts, at its own addresses: port 500 of a *peer* must not open every UDP port here, and a peer behind a
  NAT has any port. Port 4500 includes ESP in UDP.
* **ESP and AH** have no filter. The data plane takes these protocols for itself: what arrives is opened by an
  SA (or dropped without one) and then looked up by what is inside; what leaves was looked up before it was
  sealed. An exemption would only let the ESP of some other program through.
* **Kerberos** by either port, TCP and UDP, as Windows does. Level 0 and 2 are an old way in: whoever sends
  from port 88 passes every filter. That is why 3 is the default.
* **Broadcast** is 255.255.255.255, and the broadcast address of each subnet that this computer is in, where
  its prefix length is known (`facts.HostFacts.broadcasts`).
* **Multicast at level 2 and 3** meets the filters. IPsec cannot secure it; the multicast part of a filter
  that negotiates is therefore blocked, or permitted where the filter allows clear traffic: the compiler adds
  a filter that says so (`unsecurable_parts`).
* **IPv6 neighbour discovery** (RFC 4861) is exempt when a rule negotiates over IPv6: it has to work before
  the first IKE message can be sent, so negotiating about it waits for ever. Selectors cannot name its types,
  so ICMPv6 with a link-local or link-scope multicast address at either end is exempt as a whole; routers do
  not forward either. Solicitations and advertisements between two *global* addresses are not covered by this;
  a data plane that can see ICMPv6 types lets 133-137 with hop limit 255 pass.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from stockade.model.addresses import Address, AddressRange
from stockade.model.filters import Action, Direction, FilterClass, Provenance, SpecificFilter
from stockade.model.reasons import ReasonCode, error_for
from stockade.model.traffic import ICMPV6, TCP, UDP, TrafficSelector
from stockade.policy.objects import Filter
from stockade.policy.specific import make_filter
from stockade.policy.weights import weight_of

DEFAULT_EXEMPT_LEVEL = 3
IKE_PORTS = (500, 4500)
KERBEROS_PORT = 88
RSVP = 46

MULTICAST = {4: AddressRange.network("224.0.0.0/4"), 6: AddressRange.network("ff00::/8")}
BROADCAST = AddressRange.host("255.255.255.255")
_UNSECURABLE = {
    IPv4Address: tuple((int(entry.first), int(entry.last)) for entry in (MULTICAST[4], BROADCAST)),
    IPv6Address: tuple((int(entry.first), int(entry.last)) for entry in (MULTICAST[6],)),
}
LINK_LOCAL = AddressRange.network("fe80::/10")
LINK_SCOPE_MULTICAST = AddressRange.network("ff02::/16")


@dataclass(frozen=True, slots=True)
class ExemptLevel:
    """What one value of NoDefaultExempt exempts besides IKE."""

    kerberos_and_rsvp: bool
    multicast_and_broadcast: bool


_LEVELS = {
    0: ExemptLevel(kerberos_and_rsvp=True, multicast_and_broadcast=True),
    1: ExemptLevel(kerberos_and_rsvp=False, multicast_and_broadcast=True),
    2: ExemptLevel(kerberos_and_rsvp=True, multicast_and_broadcast=False),
    3: ExemptLevel(kerberos_and_rsvp=False, multicast_and_broadcast=False),
}


def level_meaning(level: int) -> ExemptLevel:
    """The meaning of a level; CallerError INVALID_POLICY for anything but 0 to 3."""
    if level not in _LEVELS:
        raise error_for(ReasonCode.INVALID_POLICY, f"exemption level {level} is none of 0, 1, 2, 3")
    return _LEVELS[level]


def unsecurable_ranges(version: int, broadcasts: Sequence[AddressRange] = ()) -> tuple[AddressRange, ...]:
    """The destinations that IPsec never secures: multicast, the limited broadcast of IPv4, and the broadcast
    addresses of our subnets."""
    return (MULTICAST[4], BROADCAST, *broadcasts) if version == 4 else (MULTICAST[6],)


FIRST_MULTICAST = {4: 0xE0000000, 6: 0xFF << 120}
"""By IP version, as numbers: what stands below can be secured, but for subnets' broadcast addresses."""


def unsecurable_end(filter_: Filter) -> AddressRange | None:
    """The addresses of an end of the filter that names nothing but multicast or broadcast."""
    for end in (filter_.destination, filter_.source):
        if end.addresses is None:
            continue
        last = end.addresses.last
        # cheap, and true for hardly any filter
        if int(last) >= FIRST_MULTICAST[last.version] and is_unsecurable(end.addresses):
            return end.addresses
    return None


def is_unsecurable(destination: AddressRange) -> bool:
    """Whether the range names nothing but multicast or broadcast addresses."""
    first, last = int(destination.first), int(destination.last)
    # every first message asks this of some ranges: compared as numbers
    return any(low <= first and last <= high for low, high in _UNSECURABLE[destination.first.__class__])


def unsecurable_parts(
    selector: TrafficSelector, broadcasts: Sequence[AddressRange] = ()
) -> Iterator[TrafficSelector]:
    """The parts of the selector whose destination is multicast or broadcast."""
    for entry in unsecurable_ranges(selector.version, broadcasts):
        part = selector.destination.intersection(entry)
        if part is not None:
            yield TrafficSelector(
                selector.source, part, selector.protocol, selector.source_port, selector.destination_port
            )


def _permit(selector: TrafficSelector, direction: Direction, why: str) -> SpecificFilter:
    return make_filter(
        selector,
        direction,
        Action.PERMIT,
        weight_of(selector, direction, filter_class=FilterClass.EXEMPTION),
        Provenance(store="exemption", policy="", rule=why),
        filter_class=FilterClass.EXEMPTION,
    )


def _both_ways(selector: TrafficSelector, why: str) -> Iterator[SpecificFilter]:
    """The selector outbound and its reverse inbound."""
    yield _permit(selector, Direction.OUTBOUND, why)
    yield _permit(selector.reversed(), Direction.INBOUND, why)


def _ike(local: Address) -> Iterator[SpecificFilter]:
    everything = AddressRange.everything(local.version)
    for port in IKE_PORTS:
        selector = TrafficSelector(AddressRange.host(local), everything, UDP, source_port=port)
        yield from _both_ways(selector, f"IKE, UDP {port} of this computer")


def _kerberos_and_rsvp(version: int) -> Iterator[SpecificFilter]:
    everything = AddressRange.everything(version)
    for protocol in (TCP, UDP):
        for source_port, destination_port in ((0, KERBEROS_PORT), (KERBEROS_PORT, 0)):
            selector = TrafficSelector(everything, everything, protocol, source_port, destination_port)
            yield from _both_ways(selector, "Kerberos, port 88 (exemption level 0 or 2)")
    yield from _both_ways(
        TrafficSelector(everything, everything, RSVP), "RSVP, protocol 46 (exemption level 0 or 2)"
    )


def _multicast_and_broadcast(version: int, broadcasts: Sequence[AddressRange]) -> Iterator[SpecificFilter]:
    everything = AddressRange.everything(version)
    for destination in unsecurable_ranges(version, broadcasts):
        word = "multicast" if destination == MULTICAST[version] else "broadcast"
        for direction in Direction:
            selector = TrafficSelector(everything, destination)
            yield _permit(selector, direction, f"{word} (exemption level 0 or 1)")


def _neighbour_discovery() -> Iterator[SpecificFilter]:
    everything = AddressRange.everything(6)
    why = "IPv6 neighbour discovery, which comes before IKE"
    for source, destination in (
        (everything, LINK_SCOPE_MULTICAST),
        (everything, LINK_LOCAL),
        (LINK_LOCAL, everything),
    ):
        for direction in Direction:
            yield _permit(TrafficSelector(source, destination, ICMPV6), direction, why)


def exemptions_for(
    level: int,
    local_addresses: Sequence[Address],
    versions: Collection[int],
    negotiated: Collection[int],
    broadcasts: Sequence[AddressRange] = (),
) -> tuple[SpecificFilter, ...]:
    """The exemption filters of a table whose filters speak of the IP `versions`, and negotiate about those in
    `negotiated`; none where there is no filter to be exempt from.

    `local_addresses` as `facts.usable_addresses` gives them. Error: CallerError INVALID_POLICY (level).
    """
    meaning = level_meaning(level)
    exemptions: list[SpecificFilter] = []
    if negotiated:
        for address in local_addresses:
            exemptions.extend(_ike(address))
    if 6 in negotiated:
        exemptions.extend(_neighbour_discovery())
    for version in sorted(versions):
        if meaning.kerberos_and_rsvp:
            exemptions.extend(_kerberos_and_rsvp(version))
        if meaning.multicast_and_broadcast:
            exemptions.extend(_multicast_and_broadcast(version, broadcasts))
    return tuple(exemptions)


def default_exemptions(
    level: int, local_addresses: Sequence[Address], filters: Sequence[SpecificFilter]
) -> tuple[SpecificFilter, ...]:
    """`exemptions_for` the table of these filters."""
    return exemptions_for(
        level,
        local_addresses,
        {entry.selector.version for entry in filters},
        {entry.selector.version for entry in filters if entry.action is Action.NEGOTIATE},
    )
