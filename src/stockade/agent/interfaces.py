"""A descriptor that tells when addresses, links or routes change (rtnetlink, RFC 3549)."""

import socket

_LINKS, _IPV4_ADDRESSES, _IPV4_ROUTES, _IPV6_ADDRESSES, _IPV6_ROUTES = 0x1, 0x10, 0x40, 0x100, 0x400
_GROUPS = _LINKS | _IPV4_ADDRESSES | _IPV4_ROUTES | _IPV6_ADDRESSES | _IPV6_ROUTES


class InterfaceChanges:
    """Readable when an address, a link or a route came or went."""

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        self._socket.bind((0, _GROUPS))

    def fileno(self) -> int:
        return self._socket.fileno()

    def drain(self) -> None:
        """Read away what is queued: everything is read afresh anyway. An overrun is a change too."""
        while True:
            try:
                self._socket.recv(65_536)
            except BlockingIOError:
                return
            except OSError:  # ENOBUFS: messages were lost; there may be more behind
                continue

    def close(self) -> None:
        self._socket.close()
