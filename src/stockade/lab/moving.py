"""A virtual address that moves between hosts of a lab network, as keepalived moves one: added here, removed
there, and told to the wire by a gratuitous ARP (RFC 5227 §3: an announcement; twice, as switches want it) or
an unsolicited neighbour advertisement (RFC 4861 §7.2.6)."""

import socket
import struct
from ipaddress import IPv4Interface, IPv6Interface

from stockade.lab.netns import INTERFACE, Namespace

_ETHERTYPE_ARP = 0x0806
_BROADCAST = b"\xff" * 6
_ADVERTISEMENT, _OVERRIDE, _LINK_ADDRESS = 136, 0x2000_0000, 2
_ALL_NODES = "ff02::1"


def give(host: Namespace, address: IPv4Interface | IPv6Interface, interface: str = INTERFACE) -> None:
    """Add the address to `host` and announce it."""
    without_a_look = " nodad" if address.version == 6 else ""  # detecting duplicates takes a second or two
    host.ip(f"address add {address} dev {interface}{without_a_look}")
    host.call(lambda: announce(address, interface))


def take(host: Namespace, address: IPv4Interface | IPv6Interface, interface: str = INTERFACE) -> None:
    """Remove the address from `host`."""
    host.ip(f"address del {address} dev {interface}")


def announce(address: IPv4Interface | IPv6Interface, interface: str = INTERFACE) -> None:
    """Tell everybody on the wire of the present namespace that the address is here."""
    if isinstance(address, IPv6Interface):
        _advertise(address, interface)
        return
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind((interface, 0))
        own = sock.getsockname()[4]
        for operation in (1, 2):  # some listen to requests, some to replies
            head = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation)
            body = head + own + address.ip.packed + _BROADCAST + address.ip.packed
            sock.send(_BROADCAST + own + struct.pack("!H", _ETHERTYPE_ARP) + body)


def _advertise(address: IPv6Interface, interface: str) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as link:
        link.bind((interface, 0))
        own = link.getsockname()[4]
    index = socket.if_nametoindex(interface)
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)  # else nobody believes it
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        sock.bind((str(address.ip), 0))
        head = struct.pack("!BBHI", _ADVERTISEMENT, 0, 0, _OVERRIDE)  # the kernel fills the checksum in
        body = address.ip.packed + bytes((_LINK_ADDRESS, 1)) + own
        sock.sendto(head + body, (_ALL_NODES, 0, 0, index))
