"""What passes a wire of the laboratory, as a third party sees it."""

import socket
import threading
from types import TracebackType
from typing import Self

from stockade.lab.netns import Network

IPV4, IPV6 = b"\x08\x00", b"\x86\xdd"
IGMP = 2
"""The kernel's own when an address comes up; no filter of a test speaks of it."""


def watch_wire(network: Network, seconds: float = 0.2, buffer: int = 0) -> socket.socket:
    """A socket that gets all frames at alpha's port of the switch; one that waits `seconds` in vain raises
    `TimeoutError`."""
    wire = network.switch.call(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
    if buffer:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    wire.bind((network.port("alpha"), 3))
    wire.settimeout(seconds)
    return wire


def is_ipv4(frame: bytes) -> bool:
    return frame[12:14] == IPV4 and frame[23] != IGMP


class WireWatch:
    """A thread that hands each frame to `take` until `stop`: then all that came before is read. A context
    manager."""

    def __init__(self, network: Network) -> None:
        self._socket = watch_wire(network)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def take(self, frame: bytes) -> None:
        raise NotImplementedError

    def _run(self) -> None:
        while True:
            try:
                frame = self._socket.recv(65535)
            except TimeoutError:
                if self._stopped.is_set():
                    return
                continue
            self.take(frame)

    def stop(self) -> None:
        """More than once is no error."""
        self._stopped.set()
        self._thread.join()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
