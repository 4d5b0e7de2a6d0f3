"""Where the scenarios of kernel_scenarios.py take place: two hosts on one wire, what is asked of them, and
what `ip xfrm` says of their kernel."""

import hashlib
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from stockade.lab.capture import Capture, WireWatch
from stockade.lab.netns import Namespace, Network
from stockade.model.traffic import ICMP, TCP, Flow

ALPHA, BETA = "10.79.0.1", "10.79.0.2"
ALPHA6, BETA6 = "fd79::1", "fd79::2"
SECURED_PORT, PERMITTED_PORT, BLOCKED_PORT, OTHER_PORT = 7001, 7002, 7003, 7004


def speak_ipv6() -> None:
    """A lab network is silent about IPv6 by itself."""
    for device in ("lo", "eth0"):
        Path(f"/proc/sys/net/ipv6/conf/{device}/disable_ipv6").write_text("0\n", encoding="ascii")


class World:
    """alpha and beta on one wire, IPv4 and IPv6."""

    def __init__(self, network: Network, folder: Path) -> None:
        self.network = network
        self.folder = folder
        for name, address in (("alpha", ALPHA6), ("beta", BETA6)):
            network[name].call(speak_ipv6)
            network[name].ip(f"address add {address}/64 dev eth0 nodad")

    @property
    def alpha(self) -> Namespace:
        return self.network["alpha"]

    @property
    def beta(self) -> Namespace:
        return self.network["beta"]

    def capture(
        self, protocols: tuple[int, ...] = (ICMP,), ports: tuple[int, ...] = (SECURED_PORT,)
    ) -> Capture:
        """The wire; what must be secured is counted where it is clear."""

        def must_be_secured(flow: Flow) -> bool:
            # of the kernel itself, for its IPv6 neighbours, also while it has no address yet
            if flow.source.is_link_local or flow.source.is_unspecified:
                return False
            return flow.protocol in protocols or (
                flow.protocol == TCP and bool({flow.source_port, flow.destination_port} & set(ports))
            )

        return Capture(self.network.switch, self.network.port("beta"), WireWatch(must_be_secured))


def xfrm(namespace: Namespace, what: str) -> list[str]:
    """What `ip xfrm state` or `ip xfrm policy` prints, one text for each entry; policies of sockets left
    out."""
    text = namespace.run(["ip", "xfrm", what]).stdout
    entries = re.split(r"\n(?=src )", text.strip()) if text.strip() else []
    return [" ".join(entry.split()) for entry in entries if "socket " not in entry]


def is_loopback(policy: str) -> bool:
    """Whether this policy is one of those for loopback over IPv6, which is no filter of the table."""
    to_all = re.match(r"src ::/0 dst \S+ (dev lo )?dir", policy) is not None
    return to_all and "tmpl" not in policy and "action block" not in policy


def ping(namespace: Namespace, target: str, count: int = 3, patience: float = 3, size: int = 56) -> int:
    command = ["ping", "-n", "-c", str(count), "-i", "0.2", "-W", str(patience), "-s", str(size), target]
    output = namespace.run(command, timeout=60, check=False).stdout
    found = re.search(r"(\d+) received", output)
    assert found, output
    return int(found[1])


def connects(source: Namespace, target: Namespace, address: str, port: int, patience: float = 5.0) -> bool:
    """Whether a TCP connection comes up and carries 64 KiB unharmed."""
    listener = target.call(lambda: socket.create_server((address, port)))
    listener.settimeout(patience)
    data = os.urandom(1 << 16)
    digests: list[bytes] = []

    def serve() -> None:
        with listener, suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(patience)
                received = b""
                while part := connection.recv(65536):
                    received += part
                digests.append(hashlib.sha256(received).digest())

    server = threading.Thread(target=serve, daemon=True)
    server.start()
    try:
        with source.call(lambda: socket.create_connection((address, port), timeout=patience)) as client:
            client.sendall(data)
    except OSError:
        server.join(2 * patience)
        return False
    server.join(2 * patience)
    return digests == [hashlib.sha256(data).digest()]


def eventually(question: Callable[[], object], seconds: float = 20.0) -> object:
    deadline = time.monotonic() + seconds
    while not (answer := question()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return answer
