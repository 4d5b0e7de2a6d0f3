"""The host's own addresses, and a descriptor that tells when they change (rtnetlink, RFC 3549)."""

import socket

from stockade.driver.netlink import NetlinkSocket
from stockade.model.addresses import Address
from stockade.wire import rtnetlink

_GROUP_IPV4_ADDRESSES, _GROUP_IPV6_ADDRESSES = 0x10, 0x100


def local_addresses() -> tuple[Address, ...]:
    """Every address of every interface, loopback left out, sorted."""
    netlink = NetlinkSocket()
    try:
        answers = netlink.dump(rtnetlink.MessageType.GET_ADDRESS, rtnetlink.get_addresses())
    finally:
        netlink.close()
    decoded = (rtnetlink.decode_address(answer.body) for answer in answers)
    found = {entry.address for entry in decoded if entry is not None and not entry.address.is_loopback}
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
