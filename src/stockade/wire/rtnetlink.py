"""The rtnetlink messages that we need: addresses, links, routes, rules (RFC 3549 §3.1; linux/rtnetlink.h,
linux/fib_rules.h).

`pyroute2` does far more, and takes 0.2 s to import and an event loop of its own: at the start of an agent
whose peers wait for it that is most of the waiting. Left out: everything but these four kinds, and
notifications' content.
"""

import socket
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import ip_address
from struct import Struct

from stockade.model.addresses import Address
from stockade.wire.netlink import decode_attributes, decode_number, encode_attributes, unpack_fixed


class MessageType(IntEnum):
    """RTM_*."""

    NEW_LINK = 16
    GET_LINK = 18
    NEW_ADDRESS = 20
    GET_ADDRESS = 22
    NEW_ROUTE = 24
    DELETE_ROUTE = 25
    GET_ROUTE = 26
    NEW_RULE = 32
    DELETE_RULE = 33
    GET_RULE = 34


class RouteType(IntEnum):
    """RTN_*."""

    UNICAST = 1
    UNREACHABLE = 7


_ADDRESS = Struct("=BBBBI")
_LINK = Struct("=BxHiII")
_ROUTE = Struct("=BBBBBBBBI")
_NEXT_HOP = Struct("=HBBi")
_U32 = Struct("=I")

_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_IFLA_MTU, _IFLA_TXQLEN = 4, 13
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY = 1, 4, 5, 6
_RTA_METRICS, _RTA_MULTIPATH, _RTA_TABLE, _RTA_MARK = 8, 9, 15, 16
_RTAX_MTU = 2
_FRA_IIFNAME, _FRA_PRIORITY, _FRA_FWMARK, _FRA_TABLE, _FRA_FWMASK = 3, 6, 10, 15, 16
_IFF_UP = 1
_FR_ACT_TO_TABLE = 1
_RTPROT_STATIC = 4
_SCOPE_UNIVERSE, _SCOPE_LINK = 0, 253
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


def get_addresses() -> bytes:
    """Body of a GET_ADDRESS dump: all families."""
    return _ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class InterfaceAddress:
    """An address of an interface. `prefix_length` is that of its network."""

    address: Address
    prefix_length: int
    interface: int


def decode_address(body: bytes) -> InterfaceAddress | None:
    """The body of a NEW_ADDRESS message; None for families other than IP."""
    family, prefix_length, _, _, interface = unpack_fixed(_ADDRESS, body)
    attributes = decode_attributes(body[_ADDRESS.size :])
    packed = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)
    if packed is None or (family, len(packed)) not in ((socket.AF_INET, 4), (socket.AF_INET6, 16)):
        return None
    return InterfaceAddress(ip_address(packed), prefix_length, interface)


def set_link(interface: int, *, mtu: int, queue: int) -> bytes:
    """Body of a NEW_LINK request that sets MTU (bytes) and queue length (packets) and puts the link up."""
    attributes = {_IFLA_MTU: _U32.pack(mtu), _IFLA_TXQLEN: _U32.pack(queue)}
    return _LINK.pack(socket.AF_UNSPEC, 0, interface, _IFF_UP, _IFF_UP) + encode_attributes(attributes)


def get_link(interface: int) -> bytes:
    """Body of a GET_LINK request."""
    return _LINK.pack(socket.AF_UNSPEC, 0, interface, 0, 0)


def get_links() -> bytes:
    """Body of a GET_LINK dump."""
    return _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)


def decode_link_type(body: bytes) -> tuple[int, int]:
    """Index and kind (ARPHRD_*, linux/if_arp.h) of the interface in the body of a NEW_LINK message."""
    fields = unpack_fixed(_LINK, body)
    return fields[2], fields[1]


def decode_link_mtu(body: bytes) -> int | None:
    """The MTU in the body of a NEW_LINK message."""
    unpack_fixed(_LINK, body)
    packed = decode_attributes(body[_LINK.size :]).get(_IFLA_MTU)
    return decode_number(packed) if packed is not None else None


def default_route(
    version: int,
    table: int,
    *,
    interface: int | None = None,
    metric: int | None = None,
    kind: RouteType = RouteType.UNICAST,
) -> bytes:
    """Body of a NEW_ROUTE or DELETE_ROUTE request for the default route of `table`."""
    scope = _SCOPE_LINK if interface is not None else _SCOPE_UNIVERSE
    attributes = {_RTA_TABLE: _U32.pack(table)}
    if interface is not None:
        attributes[_RTA_OIF] = _U32.pack(interface)
    if metric is not None:
        attributes[_RTA_PRIORITY] = _U32.pack(metric)
    header = _ROUTE.pack(_FAMILIES[version], 0, 0, 0, 0, _RTPROT_STATIC, scope, kind, 0)
    return header + encode_attributes(attributes)


def get_route(destination: Address, mark: int) -> bytes:
    """Body of a GET_ROUTE request: which way would a packet with this mark go?"""
    header = _ROUTE.pack(_FAMILIES[destination.version], destination.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
    return header + encode_attributes({_RTA_DST: destination.packed, _RTA_MARK: _U32.pack(mark)})


def get_routes(version: int) -> bytes:
    """Body of a GET_ROUTE dump."""
    return _ROUTE.pack(_FAMILIES[version], 0, 0, 0, 0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Route:
    """What we read of a route. `mtu` is the route's own, None where it has none."""

    table: int
    interface: int | None
    metric: int
    mtu: int | None
    body: bytes
    """The message itself, with which the same route can be deleted."""


def decode_route(body: bytes) -> Route:
    """The body of a NEW_ROUTE message."""
    fields = unpack_fixed(_ROUTE, body)
    attributes = decode_attributes(body[_ROUTE.size :])
    metrics = decode_attributes(attributes.get(_RTA_METRICS, b""))
    mtu = metrics.get(_RTAX_MTU)
    return Route(
        _number(attributes.get(_RTA_TABLE), fields[4]),
        _number(attributes.get(_RTA_OIF), 0) or None,
        _number(attributes.get(_RTA_PRIORITY), 0),
        decode_number(mtu) if mtu is not None else None,
        body,
    )


def decode_gateways(body: bytes, table: int) -> tuple[Address, ...]:
    """The gateways of a default route of `table`, in the body of a NEW_ROUTE message; none for any other
    route. A route over several gateways (RTA_MULTIPATH) has all of them."""
    fields = unpack_fixed(_ROUTE, body)
    attributes = decode_attributes(body[_ROUTE.size :])
    family, prefix_length, kind = fields[0], fields[1], fields[7]
    if prefix_length or kind != RouteType.UNICAST or _number(attributes.get(_RTA_TABLE), fields[4]) != table:
        return ()
    size = 4 if family == socket.AF_INET else 16
    packed = [attributes.get(_RTA_GATEWAY)]
    hops = attributes.get(_RTA_MULTIPATH, b"")
    while len(hops) >= _NEXT_HOP.size:
        length = _NEXT_HOP.unpack_from(hops)[0]
        if not _NEXT_HOP.size <= length <= len(hops):
            break
        packed.append(decode_attributes(hops[_NEXT_HOP.size : length]).get(_RTA_GATEWAY))
        hops = hops[(length + 3) & ~3 :]
    return tuple(ip_address(one) for one in packed if one is not None and len(one) == size)


def mark_rule(
    version: int, table: int, priority: int, mark: int, mask: int, incoming: str | None = None
) -> bytes:
    """Body of a NEW_RULE or DELETE_RULE request: packets with `mark` under `mask` go to `table`; with
    `incoming` only those that came by this interface."""
    attributes = {
        _FRA_PRIORITY: _U32.pack(priority),
        _FRA_FWMARK: _U32.pack(mark),
        _FRA_FWMASK: _U32.pack(mask),
        _FRA_TABLE: _U32.pack(table),
    }
    if incoming is not None:
        attributes[_FRA_IIFNAME] = incoming.encode() + b"\0"
    # The old field of the table has 8 bits; 0 stands for "see the attribute".
    header = _ROUTE.pack(_FAMILIES[version], 0, 0, 0, 0, 0, 0, _FR_ACT_TO_TABLE, 0)
    return header + encode_attributes(attributes)


@dataclass(frozen=True, slots=True)
class Rule:
    """What we read of a routing rule."""

    table: int
    priority: int
    mark: int
    mask: int


def decode_rule(body: bytes) -> Rule:
    """The body of a NEW_RULE message."""
    fields = unpack_fixed(_ROUTE, body)
    attributes = decode_attributes(body[_ROUTE.size :])
    return Rule(
        _number(attributes.get(_FRA_TABLE), fields[4]),
        _number(attributes.get(_FRA_PRIORITY), 0),
        _number(attributes.get(_FRA_FWMARK), 0),
        _number(attributes.get(_FRA_FWMASK), 0),
    )


def _number(packed: bytes | None, default: int) -> int:
    return default if packed is None else decode_number(packed)
