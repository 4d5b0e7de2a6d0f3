"""The host's own addresses, and a descriptor that tells when they change (rtnetlink, RFC 3549)."""

import socket
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address

from pyroute2 import IPRoute

from stockade.model.addresses import Address

_GROUP_IPV4_ADDRESSES, _GROUP_IPV6_ADDRESSES = 0x10, 0x100


def local_addresses() -> tuple[Address, ...]:
    """Every unicast address of every interface, loopback left out, sorted."""
    # pyroute2 runs an event loop of its own, which it cannot in a thread that runs one already, such as the
    # agent's.
    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(_read_addresses).result()


def _read_addresses() -> tuple[Address, ...]:
    found: set[Address] = set()
    with IPRoute() as netlink:
        for message in netlink.get_addr():
            text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
            if text is None:
                continue
            address = ip_address(text)
            if not address.is_loopback:
                found.add(address)
    return tuple(sorted(found, key=lambda address: (address.version, int(address))))


class AddressChanges:
    """Readable when an address came or went."""

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        self._socket.bind((0, _GROUP_IPV4_ADDRESSES | _GROUP_IPV6_ADDRESSES))

    def fileno(self) -> int:
        return self._socket.fileno()

    def drain(self) -> None:
        """Read away what is queued: the addresses are read afresh anyway. An overrun is a change too."""
        while True:
            try:
                self._socket.recv(65_536)
            except BlockingIOError:
                return
            except OSError:  # ENOBUFS: messages were lost; there may be more behind
                continue

    def close(self) -> None:
        self._socket.close()
