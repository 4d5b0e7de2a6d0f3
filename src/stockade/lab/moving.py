"""A virtual address that moves between hosts of a lab network, as keepalived moves one: added here, removed
there, and told to the wire by a gratuitous ARP (RFC 5227 §3: an announcement; twice, as switches want it)."""

import socket
import struct
from ipaddress import IPv4Interface

from stockade.lab.netns import INTERFACE, Namespace

_ETHERTYPE_ARP = 0x0806
_BROADCAST = b"\xff" * 6


def give(host: Namespace, address: IPv4Interface, interface: str = INTERFACE) -> None:
    """Add the address to `host` and announce it."""
    host.ip(f"address add {address} dev {interface}")
    host.call(lambda: announce(address, interface))


def take(host: Namespace, address: IPv4Interface, interface: str = INTERFACE) -> None:
    """Remove the address from `host`."""
    host.ip(f"address del {address} dev {interface}")


def announce(address: IPv4Interface, interface: str = INTERFACE) -> None:
    """Tell everybody on the wire of the present namespace that the address is here."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind((interface, 0))
        own = sock.getsockname()[4]
        for operation in (1, 2):  # some listen to requests, some to replies
            head = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation)
            body = head + own + address.ip.packed + _BROADCAST + address.ip.packed
            sock.send(_BROADCAST + own + struct.pack("!H", _ETHERTYPE_ARP) + body)
