"""Packets that came faster than the data plane took them: the kernel drops them at the full socket and keeps
a number (SO_MEMINFO), which is counted with the other refusals. Nothing is dropped silently."""

import socket
from struct import Struct
from typing import Final

_SO_MEMINFO: Final = 55
_MEMINFO: Final = Struct("=9I")
_DROPS: Final = 8


class Overflows:
    """Of the sockets that packets come by."""

    def __init__(self) -> None:
        self._seen: dict[socket.socket, int] = {}

    def watch(self, sock: socket.socket) -> None:
        """What it has dropped until now was somebody else's, or counted before."""
        self._seen[sock] = _dropped(sock, 0)

    def forget(self, sock: socket.socket) -> int:
        """It is about to be closed; what it dropped since the last look."""
        before = self._seen.pop(sock, None)
        return 0 if before is None else (_dropped(sock, before) - before) & 0xFFFF_FFFF

    def take(self) -> int:
        """Packets dropped since the last look."""
        found = 0
        for sock, before in self._seen.items():
            self._seen[sock] = now = _dropped(sock, before)
            found += (now - before) & 0xFFFF_FFFF
        return found


def _dropped(sock: socket.socket, before: int) -> int:
    """Since the socket was made, modulo 2^32; what it was `before` where the kernel does not tell (before
    Linux 4.12)."""
    try:
        data = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
    except OSError:
        return before
    number: int = _MEMINFO.unpack(data)[_DROPS] if len(data) == _MEMINFO.size else before
    return number
