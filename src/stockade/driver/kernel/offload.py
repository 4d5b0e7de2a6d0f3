"""ESP in network cards: which devices can, and what an SA asks of them.

    ethtool's esp-hw-offload is on ─▶ XFRMA_OFFLOAD_DEV with the SA ─▶ the card's driver takes it, or not

The device is left to the kernel, which finds the one on the way to the peer. A card that does not take an SA
leaves it to the kernel's own ESP; a kernel that refuses the request altogether is asked again without it.
Only the cryptography goes to the card: policies, replay windows and lifetimes stay with the kernel, so that
nothing of what is protected depends on the card.

Left out: packet offload (Linux 6.2), where the card decides itself. The kernel has no offload for AH and for
ESP in UDP."""

import array
import fcntl
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Final

from stockade.model.filters import Direction
from stockade.model.sa import SecurityAssociation
from stockade.wire.xfrm import Offload, OffloadFlag

ESP_HW: Final = "esp-hw"
"""Its name for `--no-offload`."""

FEATURE: Final = "esp-hw-offload"
LOOK_SECONDS: Final = 10.0
"""How long an answer about the devices holds: cards come, and administrators switch features."""

_SIOCETHTOOL: Final = 0x8946
_GET_SET_INFO, _GET_STRINGS, _GET_FEATURES = 0x37, 0x1B, 0x3A
_SET_FEATURES: Final = 4  # ETH_SS_FEATURES
_STRING_BYTES: Final = 32
_MAXIMUM_FEATURES: Final = 1024
_BY_KERNEL: Final = 0
"""An interface number: the kernel looks for the device."""


class HardwareOffload:
    """What SAs ask of network cards. `wanted` False: nothing. `devices` says which cards there are."""

    def __init__(self, *, wanted: bool, devices: Callable[[], tuple[str, ...]] | None = None) -> None:
        self._wanted = wanted
        self._devices = devices if devices is not None else lambda: esp_devices()
        self._looked = float("-inf")
        self._found = False

    def of(self, sa: SecurityAssociation) -> Offload | None:
        """What to ask for this SA; None where there is nobody to ask."""
        if not self._wanted or sa.esp is None or sa.udp is not None or sa.bundle is not None:
            return None
        now = time.monotonic()
        if now - self._looked >= LOOK_SECONDS:
            self._looked, self._found = now, bool(self._devices())
        if not self._found:
            return None
        flags = OffloadFlag(0) if sa.source.version == 4 else OffloadFlag.IPV6
        if sa.direction is Direction.INBOUND:
            flags |= OffloadFlag.INBOUND
        return Offload(_BY_KERNEL, flags)


def esp_devices() -> tuple[str, ...]:
    """The network devices of this namespace with ESP offload switched on."""
    return tuple(name for _, name in socket.if_nameindex() if FEATURE in _features(name))


def _features(device: str) -> frozenset[str]:
    """The features that a device has switched on (ethtool -k), empty where it does not tell."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            return frozenset(_active(sock, device))
    except OSError:
        return frozenset()


def _active(sock: socket.socket, device: str) -> Iterator[str]:
    answer = _ask(sock, device, struct.pack("=IIQI", _GET_SET_INFO, 0, 1 << _SET_FEATURES, 0))
    _, _, found, count = struct.unpack("=IIQI", answer)
    if not found or not 0 < count <= _MAXIMUM_FEATURES:
        return
    room = bytes(count * _STRING_BYTES)
    strings = _ask(sock, device, struct.pack("=III", _GET_STRINGS, _SET_FEATURES, count) + room)[12:]
    blocks = -(-count // 32)
    # available, requested, active, never changed: 32 features each
    words = _ask(sock, device, struct.pack("=II", _GET_FEATURES, blocks) + bytes(16 * blocks))[8:]
    for number in range(count):
        (active,) = struct.unpack_from("=I", words, 16 * (number // 32) + 8)
        if active >> number % 32 & 1:
            name = strings[number * _STRING_BYTES : (number + 1) * _STRING_BYTES]
            yield name.partition(b"\0")[0].decode("ascii", "replace")


def _ask(sock: socket.socket, device: str, request: bytes) -> bytes:
    """One ethtool command; the answer stands where the request stood. OSError."""
    buffer = array.array("B", request)
    name = device.encode()[:15]
    fcntl.ioctl(sock.fileno(), _SIOCETHTOOL, struct.pack("=16sQ16x", name, buffer.buffer_info()[0]))
    return buffer.tobytes()
