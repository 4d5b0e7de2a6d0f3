"""What makes the user-space data plane fast, by name: each is tried on this host, and each can be switched
off.

    stockade agent run --no-offload burst,tso        or, in agent.toml:  no_offload = ["burst", "tso"]

Nothing here changes what is protected, nor a verdict or a counter: without them all the same packets go the
plain way. `stockade doctor` shows what this host has.
"""

import fcntl
import os
import socket
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from stockade.driver.burst.engine import WORKERS, load_library
from stockade.driver.kernel.offload import ESP_HW
from stockade.driver.userspace import raw
from stockade.model.reasons import ReasonCode, error_for

BURST: Final = "burst"
IPSEC_MB: Final = "ipsec-mb"
TSO: Final = "tso"
USO: Final = "uso"
GRO: Final = "gro"
UDP_GSO: Final = "udp-gso"
MQ: Final = "mq"
MODERATION: Final = "moderation"
BATCHES: Final = "batches"
VECTORS: Final = "vectors"

OFFLOADS: Final = {
    BURST: "whole batches in one call of compiled code",
    IPSEC_MB: "AES-GCM by Intel's ipsec-mb, in the burst path",
    TSO: "bursts of TCP up to 64 KiB from the TUN device, cut here",
    USO: "bursts of UDP datagrams that a program sends in one call (UDP_SEGMENT), cut here",
    GRO: "segments of a TCP stream merged before they are written to the TUN device",
    UDP_GSO: "ESP in UDP over IPv4: many datagrams in one send and one receive, in the burst path",
    MQ: "several queues of the TUN device, a thread for each, in the burst path (from four processors on)",
    MODERATION: "a raw socket from which few packets came at once rests for 0.1 ms, in the burst path",
    BATCHES: "many packets in one system call (sendmmsg, recvmmsg) of the Python path",
    VECTORS: "checksums by NumPy in the Python path",
}
"""By name, with what each is."""

_TUNGETFEATURES: Final = 0x8004_54CF
_TUNSETIFF: Final = 0x4004_54CA
_TUNSETOFFLOAD: Final = 0x4004_54D0
_PROBE_DEVICE: Final = struct.pack("16sH22x", b"stockade-try%d", 0x0001 | 0x1000 | 0x4000)
"""TUN, without packet information, with IFF_VNET_HDR."""
_USO_FEATURES: Final = 0x01 | 0x20 | 0x40
"""Checksums, and UDP of both families."""
_IFF_MULTI_QUEUE, _IFF_VNET_HDR = 0x0100, 0x4000
PROCESSORS_FOR_QUEUES: Final = 4
"""With fewer, the programs that send and receive need those that there are: several threads take turns then,
and cost more than they carry."""
_OWN_GROUP: Final = Path("/proc/self/cgroup")
_GROUPS: Final = Path("/sys/fs/cgroup")
_UDP_GRO: Final = 104


@dataclass(frozen=True, slots=True)
class Offload:
    """One of them on this host. `detail`: what it is, or why it is not there."""

    name: str
    there: bool
    detail: str


def read_offloads(words: Iterable[str]) -> frozenset[str]:
    """Names to switch off; `CallerError(INVALID_SETTING)` for one that there is not."""
    names = frozenset(word.strip() for word in words if word.strip())
    unknown = sorted(names - OFFLOADS.keys() - {ESP_HW})
    if unknown:
        known = ", ".join((*OFFLOADS, ESP_HW))
        raise error_for(ReasonCode.INVALID_SETTING, f"no offload is called {unknown[0]!r}; known are {known}")
    return names


def examine(without: frozenset[str] = frozenset()) -> tuple[Offload, ...]:
    """All of them, by trying; nothing stays."""
    found = []
    for name, meaning in OFFLOADS.items():
        missing = "switched off" if name in without else _PROBES[name]()
        found.append(Offload(name, missing is None, meaning if missing is None else missing))
    return tuple(found)


def queue_count(without: frozenset[str]) -> int:
    """How many queues the device is to have on this host; each beyond the first has a thread too."""
    if MQ in without or BURST in without or _mq() is not None:
        return 1
    return min(WORKERS, processors() - 1)


def processors() -> int:
    """How many this process may use: by its affinity, and by the quota of its control group and those above
    (cgroup v2, `CPUQuota=` of systemd, `--cpus` of containers)."""
    count = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):
        lines = _OWN_GROUP.read_text().splitlines()
        group = PurePosixPath(*(line.removeprefix("0::") for line in lines if line.startswith("0::")))
        for folder in (group, *group.parents):
            with suppress(OSError, ValueError):
                quota, period = (_GROUPS / str(folder).lstrip("/") / "cpu.max").read_text().split()
                count = min(count, max(1, int(quota) // int(period)))
    return count


def _mq() -> str | None:
    if _burst() is not None:
        return "the burst path was not built"
    count = processors()
    if count < PROCESSORS_FOR_QUEUES:
        return f"not with {count} processor{'s' * (count != 1)}: one thread carries all"
    return _device_has(_IFF_MULTI_QUEUE, "IFF_MULTI_QUEUE")


def _burst() -> str | None:
    return (
        None
        if load_library() is not None
        else "not built from these sources (python -m stockade.driver.burst.build)"
    )


def _ipsec_mb() -> str | None:
    library = load_library()
    if library is None:
        return "the burst path was not built"
    return None if library.has_ipsec_mb() else "not there, or another version than it was built with"


def _vnet_header() -> str | None:
    return _device_has(_IFF_VNET_HDR, "IFF_VNET_HDR")


def _device_has(flag: int, name: str) -> str | None:
    try:
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return f"/dev/net/tun cannot be opened: {error.strerror}"
    try:
        features = bytearray(4)
        fcntl.ioctl(descriptor, _TUNGETFEATURES, features)
        return None if int.from_bytes(features, "little") & flag else f"the TUN driver lacks {name}"
    except OSError as error:
        return f"the TUN driver does not tell: {error.strerror}"
    finally:
        os.close(descriptor)


def _uso() -> str | None:
    """The TUN driver tells of it by taking it: on a device of its own, which goes again at once."""
    missing = _vnet_header()
    if missing is not None:
        return missing
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, _PROBE_DEVICE)
        fcntl.ioctl(descriptor, _TUNSETOFFLOAD, _USO_FEATURES)
    except PermissionError:
        return "only root can ask the TUN driver"
    except OSError as error:
        return f"the TUN driver lacks TUN_F_USO4 (Linux 6.2): {error.strerror}"
    finally:
        os.close(descriptor)
    return None


def _udp_gso() -> str | None:
    if _burst() is not None:
        return "the burst path was not built"
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.IPPROTO_UDP, _UDP_GRO, 1)
    except OSError as error:
        return f"the kernel has no UDP_GRO: {error.strerror}"
    return None


def _batches() -> str | None:
    return None if raw.HAVE_BATCHES else "sendmmsg is not as on 64-bit Linux"


def _vectors() -> str | None:
    try:
        import numpy  # noqa: F401
    except ImportError:
        return "NumPy is not installed (the extra `fast`)"
    return None


_PROBES: Final[dict[str, Callable[[], str | None]]] = {
    BURST: _burst,
    IPSEC_MB: _ipsec_mb,
    TSO: _vnet_header,
    USO: _uso,
    GRO: _vnet_header,
    UDP_GSO: _udp_gso,
    MQ: _mq,
    MODERATION: _burst,
    BATCHES: _batches,
    VECTORS: _vectors,
}
