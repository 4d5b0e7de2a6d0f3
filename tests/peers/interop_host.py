"""A host of a trial: one namespace here, or one on a machine that is reached by calls (interop_remote.py)."""

import hashlib
import os
import socket
import threading
from collections.abc import Sequence
from typing import Protocol

from stockade.lab.needs import find_program
from stockade.lab.netns import Namespace

PORT = 5001
RUN_SECONDS = 120.0
_NO_FRAGMENTS = """\
table ip trial {
    chain fragments {
        type filter hook prerouting priority -450; policy accept;
        ip frag-off & 0x1fff != 0 drop
        ip frag-off & 0x2000 != 0 drop
    }
}
"""


class Host(Protocol):
    """What a trial wants of one."""

    def run(self, command: Sequence[str], *, check: bool = True) -> str:
        """Run a program and wait for it; what it printed."""

    def ip(self, *commands: str) -> None:
        """Commands of the `ip` program."""

    def listen(self, address: str) -> None:
        """Take one TCP connection at PORT from now on."""

    def received(self) -> str:
        """The hash of what came over that connection, once it ended."""

    def send(self, ends: tuple[str, str], size: int) -> str:
        """Send `size` random bytes over TCP from one address to PORT of the other; their hash, once the
        other side has all of them."""

    def drop_fragments(self, wanted: bool) -> None:
        """Whether fragments of IP are dropped when they arrive."""


class LocalHost:
    """A namespace of this machine."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._hash = hashlib.sha256()
        self._server: threading.Thread | None = None

    def run(self, command: Sequence[str], *, check: bool = True) -> str:
        return self._namespace.run(command, timeout=RUN_SECONDS, check=check).stdout

    def ip(self, *commands: str) -> None:
        self._namespace.ip(*commands)

    def listen(self, address: str) -> None:
        listener = self._namespace.call(lambda: socket.create_server((address, PORT)))
        listener.settimeout(60)
        self._hash = received = hashlib.sha256()

        def serve() -> None:
            with listener, listener.accept()[0] as connection:
                connection.settimeout(60)
                while data := connection.recv(65536):
                    received.update(data)
                connection.sendall(b"done")

        self._server = threading.Thread(target=serve, daemon=True)
        self._server.start()

    def received(self) -> str:
        assert self._server is not None
        self._server.join(60)
        return self._hash.hexdigest()

    def send(self, ends: tuple[str, str], size: int) -> str:
        data = os.urandom(size)
        source, target = ends
        with self._namespace.call(
            lambda: socket.create_connection((target, PORT), timeout=30, source_address=(source, 0))
        ) as client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            assert client.recv(16) == b"done"
        return hashlib.sha256(data).hexdigest()

    def drop_fragments(self, wanted: bool) -> None:
        if "STOCKADE_IN_UML" in os.environ:  # whose nf_tables knows no IP
            words = f"-t raw {'-A' if wanted else '-D'} PREROUTING --fragment -j DROP"
            self._namespace.run(["iptables-legacy", *words.split()])
            return
        nft = find_program("nft")
        assert nft is not None
        script = _NO_FRAGMENTS if wanted else "delete table ip trial\n"
        self._namespace.run([nft, "-f", "-"], input_text=script)
