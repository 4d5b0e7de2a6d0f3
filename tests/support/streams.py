"""TCP between two namespaces: a connection, a file."""

import hashlib
import socket
import threading
from ipaddress import ip_address

from stockade.lab.netns import Namespace

PATIENCE = 60.0


def _listener(host: Namespace, address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ip_address(address).version == 6 else socket.AF_INET
    return host.call(lambda: socket.create_server((address, port), family=family))


def connects(
    source: Namespace, target: Namespace, address: str, port: int, seconds: float = PATIENCE
) -> bool:
    """Whether a connection to `target`, which has `address`, comes up within these seconds: few of them where
    it must not."""
    with _listener(target, address, port):
        try:
            source.call(lambda: socket.create_connection((address, port), timeout=seconds)).close()
        except OSError:
            return False
        return True


def transfer(source: Namespace, target: Namespace, address: str, data: bytes, port: int = 5000) -> bool:
    """Send data to `target`, which has `address`: whether they arrive unharmed."""
    listener = _listener(target, address, port)
    listener.settimeout(PATIENCE)
    arrived = hashlib.sha256()

    def serve() -> None:
        connection, _ = listener.accept()
        connection.settimeout(PATIENCE)
        with connection:
            while chunk := connection.recv(1 << 18):
                arrived.update(chunk)

    with listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with source.call(lambda: socket.create_connection((address, port), timeout=PATIENCE)) as connection:
            connection.sendall(data)
        thread.join(1.5 * PATIENCE)
    return arrived.digest() == hashlib.sha256(data).digest()
