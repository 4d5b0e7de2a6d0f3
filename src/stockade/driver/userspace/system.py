"""The driver's parts of the system beside nftables: the TUN device, the routing rule and the routing table.

    packet marked SECURE ──▶ ip rule (RULE_PRIORITY) ──▶ table ROUTING_TABLE ──▶ default dev stockade0
                                                                            └──▶ unreachable (worst metric)

The unreachable route stays when the device goes, with a killed agent: marked packets then get an error and do
not fall through to the main table. What comes in by the device carries the SECURE mark too and
`src_valid_mark` is on, so the reverse-path filter (of which the kernel takes the stricter of `all` and the
device's own) finds the way back by the device and accepts it, whatever this host has set; nobody else's
setting is touched.

Every name and number is a constant of this file. They belong to one network namespace, so agents in different
namespaces do not meet; two agents in one namespace do, at the device, which only one of them can open.

`pyroute2` runs an event loop of its own under its synchronous calls and refuses to do so in a thread that
runs one already, as the agent's does: the calls run in a thread of their own.
"""

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from pathlib import Path
from struct import Struct
from typing import Final, Protocol, TypeVar

from stockade.model.addresses import Address
from stockade.model.reasons import ReasonCode, StockadeError, error_for

DEVICE: Final = "stockade0"
DEVICE_MTU: Final = 65535
DEVICE_QUEUE: Final = 2000
"""Packets that wait for the data plane, of up to 64 KiB each; more are dropped, as by any full device."""

MARK_MASK: Final = 0xFF00_0000
SECURE_MARK: Final = 0x5100_0000
"""A packet that must be sealed."""
OWN_MARK: Final = 0x5200_0000
"""Set (`SO_MARK`) on the sockets of the agent and the data plane: what they send passes the filters."""

ROUTING_TABLE: Final = 0x5170
RULE_PRIORITY: Final = 5170
WORST_METRIC: Final = 0xFFFF_FFFF
LOG_GROUP: Final = 5170
"""nflog group for clear packets that were dropped."""

CALL_SECONDS: Final = 5.0
CLAIM_SECONDS: Final = 5.0
"""How long to wait for the device while the process of a killed run is still dying."""

_TUNSETIFF: Final = 0x4004_54CA
_TUNSETOFFLOAD: Final = 0x4004_54D0
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
_TUN_F_CSUM, _TUN_F_TSO4 = 0x01, 0x02
_IFREQ = Struct("16sH22x")

Result = TypeVar("Result")


class Message(Protocol):
    """A netlink message as pyroute2 gives it."""

    def get(self, name: str, default: object = None, /) -> object: ...


class Netlink(Protocol):
    """The calls of `pyroute2.IPRoute` that are used here."""

    def link_lookup(self, **filters: object) -> list[int]: ...
    def link(self, command: str, **values: object) -> object: ...
    def get_links(self, *indices: int) -> Iterator[Message]: ...
    def route(self, command: str, **values: object) -> object: ...
    def rule(self, command: str, **values: object) -> object: ...
    def get_rules(self, **filters: object) -> Iterator[Message]: ...
    def flush_routes(self, **filters: object) -> object: ...
    def close(self) -> None: ...


class System:
    """Takes hold of the parts and lets go of them. `claim`, `release` and `remove` may be called in any order
    and more than once. Failures are `HostError`."""

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None
        self._netlink: Netlink | None = None
        self._descriptor = -1

    @property
    def device_descriptor(self) -> int:
        """The open TUN device; -1 before `claim`. Reads and writes begin with a virtio_net_hdr of 10
        bytes."""
        return self._descriptor

    def claim(self) -> None:
        """Make device, rule and routes, or complete what is there of them."""
        if self._descriptor >= 0:
            return
        # Closed before open: the rule leads to nowhere until the device is there.
        self._call(_claim_rule)
        descriptor = _open_device()
        try:
            self._call(_claim_device)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def release(self) -> None:
        """Close the device, which removes it. Rule and unreachable route stay: marked packets go nowhere."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._netlink is not None:
            with suppress(StockadeError):
                self._call(lambda netlink: netlink.close())
            self._netlink = None
        if self._executor is not None:
            self._executor.shutdown(wait=False)
            self._executor = None

    def remove(self) -> None:
        """Remove all of it, after a clean run or a killed one."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._call(_remove)
        self.release()

    def in_use_by_other(self) -> bool:
        """Whether the device exists and is not ours: another agent runs in this network namespace."""
        return self._descriptor < 0 and bool(self._call(lambda netlink: netlink.link_lookup(ifname=DEVICE)))

    def path_mtu(self, peer: Address, default: int = 1500) -> int:
        """The MTU of the way to `peer`: of its interface, or less where the route says so. Learnt path MTUs
        are left out, for ours own ICMP messages make some that are about clear packets."""
        try:
            return self._call(lambda netlink: _path_mtu(netlink, peer, default))
        except StockadeError:
            return default

    def _call(self, function: Callable[[Netlink], Result]) -> Result:
        if self._executor is None:
            self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="stockade-netlink")
        try:
            return self._executor.submit(self._run, function).result(CALL_SECONDS)
        except StockadeError:
            raise
        except FutureTimeoutError:
            raise error_for(ReasonCode.DRIVER_FAILED, "the kernel did not answer over netlink") from None
        except Exception as error:  # pyroute2 raises many kinds; all mean that the system refused us
            raise _refused("netlink", error) from error

    def _run(self, function: Callable[[Netlink], Result]) -> Result:
        if self._netlink is None:
            # Imported late: it takes a tenth of a second, and nobody but a running agent needs it.
            from pyroute2 import IPRoute

            self._netlink = IPRoute()
        return function(self._netlink)


def _refused(what: str, error: Exception) -> StockadeError:
    number = getattr(error, "code", None) or getattr(error, "errno", None)
    if number in (errno.EPERM, errno.EACCES):
        return error_for(ReasonCode.NOT_PRIVILEGED, what)
    return error_for(ReasonCode.DRIVER_FAILED, f"{what}: {error}")


def _claim_rule(netlink: Netlink) -> None:
    netlink.route(
        "replace", dst="default", table=ROUTING_TABLE, type="unreachable", priority=WORST_METRIC, family=2
    )
    if not _rules(netlink):
        netlink.rule(
            "add",
            table=ROUTING_TABLE,
            priority=RULE_PRIORITY,
            fwmark=SECURE_MARK,
            fwmask=MARK_MASK,
            family=2,
        )


def _claim_device(netlink: Netlink) -> None:
    settings = Path("/proc/sys/net")
    for path, value in (
        (settings / "ipv4/conf" / DEVICE / "rp_filter", "0"),
        (settings / "ipv4/conf" / DEVICE / "src_valid_mark", "1"),
        (settings / "ipv6/conf" / DEVICE / "disable_ipv6", "1"),
    ):
        try:
            path.write_text(value)
        except FileNotFoundError:
            if "ipv4" in str(path):
                raise
            # A kernel without IPv6 has nothing to switch off.
    index = netlink.link_lookup(ifname=DEVICE)[0]
    netlink.link("set", index=index, mtu=DEVICE_MTU, txqlen=DEVICE_QUEUE, state="up")
    netlink.route("replace", dst="default", table=ROUTING_TABLE, oif=index, scope="link", family=2)


def _remove(netlink: Netlink) -> None:
    for rule in _rules(netlink):
        netlink.rule("del", table=ROUTING_TABLE, priority=rule.get("priority"), family=2)
    netlink.flush_routes(table=ROUTING_TABLE, family=2)


def _rules(netlink: Netlink) -> list[Message]:
    return [rule for rule in netlink.get_rules(family=2) if rule.get("table") == ROUTING_TABLE]


def _path_mtu(netlink: Netlink, peer: Address, default: int) -> int:
    found = netlink.route("get", dst=str(peer), mark=OWN_MARK)
    route = (
        next(iter(found), None) if isinstance(found, (list, tuple)) or hasattr(found, "__iter__") else None
    )
    if route is None:
        return default
    index = route.get("oif")
    link = next(iter(netlink.get_links(index)), None) if isinstance(index, int) else None
    mtu = link.get("mtu") if link is not None else None
    return mtu if isinstance(mtu, int) and mtu >= 576 else default


def _open_device() -> int:
    """The TUN device, with whole datagrams and TCP segmentation left to us."""
    deadline = time.monotonic() + CLAIM_SECONDS
    while True:
        try:
            descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise _refused("/dev/net/tun", error) from None
        try:
            request = _IFREQ.pack(DEVICE.encode(), _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR)
            fcntl.ioctl(descriptor, _TUNSETIFF, request)
            fcntl.ioctl(descriptor, _TUNSETOFFLOAD, _TUN_F_CSUM | _TUN_F_TSO4)
            return descriptor
        except OSError as error:
            os.close(descriptor)
            if error.errno != errno.EBUSY:
                raise _refused(f"device {DEVICE}", error) from None
            if time.monotonic() >= deadline:
                raise error_for(
                    ReasonCode.DRIVER_FAILED,
                    f"another process holds device {DEVICE}; does another agent run?",
                ) from None
        time.sleep(0.02)
