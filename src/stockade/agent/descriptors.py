"""What a service manager keeps for the agent while none runs (sd_notify(3) FDSTORE=1, sd_listen_fds(3)).

    agent ──FDSTORE=1, the sockets of port 4500──▶ systemd ──LISTEN_FDS at the next start──▶ next agent

On the kernel data plane the kernel takes ESP in UDP from the sockets of port 4500 (RFC 3948), also while
nobody reads them. So an agent that dies leaves them to systemd, and until the next one has them, packets
through a NAT go on. IKE waits in their queues. The data plane in user space has its own process for that, and
wants none: with one of ours beside it, the kernel would give it half of what comes.

Without a service manager that keeps them (NOTIFY_SOCKET), packets through a NAT are lost for as long as no
agent runs."""

import array
import os
import socket
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import suppress
from typing import Final

from stockade.agent.udp import UdpSockets
from stockade.driver.contract import Driver, PreparesSockets, join_with, prepare_with
from stockade.ike.cookies import CookieMark
from stockade.wire.udp_encapsulation import NAT_TRAVERSAL_PORT

FIRST: Final = 3
"""SD_LISTEN_FDS_START."""
MAXIMUM: Final = 16
"""Descriptors that are looked at; we keep two."""

_NAMES: Final = {4: "esp-in-udp-4", 6: "esp-in-udp-6"}
_FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}


class DescriptorStore:
    """The service manager's, as `environment` tells of it. Where there is none, nothing is kept."""

    def __init__(self, environment: MutableMapping[str, str] | None = None) -> None:
        self._environment = os.environ if environment is None else environment

    def take(self) -> dict[str, socket.socket]:
        """The sockets that an earlier agent left, by name; once. What is no socket is closed."""
        names = self._environment.pop("LISTEN_FDNAMES", "").split(":")
        count = self._environment.pop("LISTEN_FDS", "")
        if self._environment.pop("LISTEN_PID", "") != str(os.getpid()) or not count.isdecimal():
            return {}
        found: dict[str, socket.socket] = {}
        for number in range(min(int(count), MAXIMUM)):
            descriptor = FIRST + number
            try:
                sock = socket.socket(fileno=descriptor)
            except OSError:
                with suppress(OSError):
                    os.close(descriptor)
                continue
            sock.set_inheritable(False)
            sock.setblocking(False)
            name = names[number] if number < len(names) else ""
            if name in found:
                found[name].close()
            found[name] = sock
        return found

    def keep(self, name: str, sock: socket.socket) -> None:
        """Have it kept. The manager recognises one that it has already."""
        self._tell(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", sock)

    def forget(self, name: str) -> None:
        self._tell(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def _tell(self, text: str, *sockets: socket.socket) -> None:
        """Nothing depends on whether it is heard."""
        address = self._environment.get("NOTIFY_SOCKET", "")
        if not address.startswith(("/", "@")):
            return
        if address.startswith("@"):
            address = "\0" + address[1:]
        rights = array.array("i", [sock.fileno() for sock in sockets])
        extra = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights.tobytes())] if sockets else []
        with (
            suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager,
        ):
            manager.settimeout(1.0)
            manager.sendmsg([text.encode()], extra, 0, address)


def open_ike_sockets(
    driver: Driver, mark: int | None, cookies: CookieMark | None, store: DescriptorStore | None = None
) -> UdpSockets:
    """The sockets of the key exchange: with those that an earlier agent left, where the data plane takes ESP
    from them. Errors: those of `UdpSockets`."""
    store = DescriptorStore() if store is None else store
    left = store.take()
    wanted = isinstance(driver, PreparesSockets)
    kept = dict(_usable(left)) if wanted else {}
    for name, sock in left.items():
        if sock not in kept.values():
            sock.close()
            store.forget(name)
    sockets = UdpSockets(mark, prepare_with(driver), cookies, kept, join_with(driver))
    if wanted:
        for version, sock in sockets.nat_doors():
            store.keep(_NAMES[version], sock)
    return sockets


def _usable(left: Mapping[str, socket.socket]) -> Iterator[tuple[int, socket.socket]]:
    for version, name in _NAMES.items():
        sock = left.get(name)
        if sock is None:
            continue
        with suppress(OSError):
            kind = sock.family, sock.type, sock.getsockname()[1]
            if kind == (_FAMILIES[version], socket.SOCK_DGRAM, NAT_TRAVERSAL_PORT):
                yield version, sock
