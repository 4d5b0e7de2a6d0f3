"""The driver's parts of the system beside nftables: the TUN device, the routing rule and the routing table.

    packet marked SECURE ──▶ ip rule (RULE_PRIORITY) ──▶ table ROUTING_TABLE ──▶ default dev stockade0
                                                                            └──▶ unreachable (worst metric)

The unreachable route stays when the device goes, with a killed agent: marked packets then get an error and do
not fall through to the main table. What comes in by the device carries the SECURE mark too and
`src_valid_mark` is on, so the reverse-path filter (of which the kernel takes the stricter of `all` and the
device's own) finds the way back by the device and accepts it, whatever this host has set; nobody else's
setting is touched.

What comes out of a tunnel for another host must not go back into it: a rule before ours (RETURN_PRIORITY)
takes what came by the device to the main table. The reverse-path filter's question does not meet that rule.

Every name and number is a constant of this file. They belong to one network namespace, so agents in different
namespaces do not meet; two agents in one namespace do, at the device, which only one of them can open.

All of it once per address family. The device gets no IPv6 address of its own and asks for no router; where
the kernel has no IPv6 (`has_ipv6`), that half is left out.
"""

import errno
import fcntl
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from struct import Struct
from typing import Final

from stockade.driver.netlink import NetlinkError, NetlinkSocket
from stockade.model.addresses import Address
from stockade.model.reasons import ReasonCode, StockadeError, error_for
from stockade.wire import rtnetlink
from stockade.wire.netlink import NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE
from stockade.wire.rtnetlink import MessageType, RouteType

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
RETURN_PRIORITY: Final = 5169
MAIN_TABLE: Final = 254
WORST_METRIC: Final = 0xFFFF_FFFF
LOG_GROUP: Final = 5170
"""nflog group for clear packets that were dropped."""

SMALLEST_MTU: Final = {4: 576, 6: 1280}
"""By IP version (RFC 791, RFC 8200 §5); what says less is wrong."""

CLAIM_SECONDS: Final = 5.0
"""How long to wait for the device while the process of a killed run is still dying."""

_TUNSETIFF: Final = 0x4004_54CA
_TUNSETOFFLOAD: Final = 0x4004_54D0
_IFF_TUN, _IFF_MULTI_QUEUE, _IFF_NO_PI, _IFF_VNET_HDR, _IFF_TUN_EXCL = 0x0001, 0x0100, 0x1000, 0x4000, 0x8000
_TUN_F_CSUM, _TUN_F_TSO4, _TUN_F_TSO6, _TUN_F_USO4, _TUN_F_USO6 = 0x01, 0x02, 0x04, 0x20, 0x40
_IFREQ = Struct("16sH22x")


class System:
    """Takes hold of the parts and lets go of them. `claim`, `release` and `remove` may be called in any order
    and more than once. Failures are `HostError`."""

    def __init__(self) -> None:
        self._netlink: NetlinkSocket | None = None
        self._queues: tuple[int, ...] = ()

    @property
    def device_descriptors(self) -> tuple[int, ...]:
        """The queues of the open TUN device; none before `claim`. Reads and writes begin with a
        virtio_net_hdr of 10 bytes."""
        return self._queues

    def claim(self, *, segments: bool = True, datagrams: bool = True, queues: int = 1) -> None:
        """Make device, rule and routes, or complete what is there of them: also where somebody has removed
        our device. `segments`: the device may hand over bursts of TCP for us to cut; `datagrams`: of UDP too,
        where its driver can (Linux 6.2). `queues`: of the device, among which the kernel divides the
        flows."""
        if self._queues and _device_exists():
            return
        self._close()
        # Closed before open: the rule leads to nowhere until the device is there.
        _claim_rule(self._open_netlink())
        self._queues = _open_device(segments, datagrams, queues)
        try:
            _claim_device(self._open_netlink())
        except OSError as error:
            self._close()
            raise _refused(f"settings of device {DEVICE}", error) from None
        except BaseException:
            self._close()
            raise

    def take_over(self, *descriptors: int) -> None:
        """As `claim`, with the device that a data plane of an earlier agent has open."""
        self._queues = descriptors
        try:
            _claim_rule(self._open_netlink())
            _claim_device(self._open_netlink())
        except OSError as error:
            raise _refused(f"settings of device {DEVICE}", error) from None

    def release(self) -> None:
        """Close the device, which removes it. Rule and unreachable route stay: marked packets go nowhere."""
        self._close()
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None

    def remove(self) -> None:
        """Remove all of it, after a clean run or a killed one."""
        self._close()
        _remove(self._open_netlink())
        self.release()

    def in_use_by_other(self) -> bool:
        """Whether the device exists and is not ours: another agent runs in this network namespace."""
        return not self._queues and _device_exists()

    def path_mtu(self, peer: Address, default: int = 1500) -> int:
        """The MTU of the way to `peer`: of its interface, or less where the route says so. Learnt path MTUs
        are left out, for ours own ICMP messages make some that are about clear packets."""
        try:
            mtu = _path_mtu(self._open_netlink(), peer)
        except StockadeError:
            return default
        return mtu if mtu is not None and mtu >= SMALLEST_MTU[peer.version] else default

    def _close(self) -> None:
        for descriptor in self._queues:
            os.close(descriptor)
        self._queues = ()

    def _open_netlink(self) -> NetlinkSocket:
        if self._netlink is None:
            self._netlink = NetlinkSocket()
        return self._netlink


def _refused(what: str, error: OSError) -> StockadeError:
    if error.errno in (errno.EPERM, errno.EACCES):
        return error_for(ReasonCode.NOT_PRIVILEGED, what)
    return error_for(ReasonCode.DRIVER_FAILED, f"{what}: {error.strerror}")


def _device_exists() -> bool:
    return any(name == DEVICE for _, name in socket.if_nameindex())


def has_ipv6() -> bool:
    """Whether the kernel speaks IPv6 at all."""
    return Path("/proc/sys/net/ipv6/conf/all").exists()


def _versions() -> tuple[int, ...]:
    return (4, 6) if has_ipv6() else (4,)


def _claim_rule(netlink: NetlinkSocket) -> None:
    for version in _versions():
        nowhere = rtnetlink.default_route(
            version, ROUTING_TABLE, metric=WORST_METRIC, kind=RouteType.UNREACHABLE
        )
        netlink.change(MessageType.NEW_ROUTE, nowhere, NLM_F_CREATE | NLM_F_REPLACE)
        there = {rule.priority for rule in _rules(netlink, version)}
        if RETURN_PRIORITY not in there:
            rule = rtnetlink.mark_rule(version, MAIN_TABLE, RETURN_PRIORITY, SECURE_MARK, MARK_MASK, DEVICE)
            netlink.change(MessageType.NEW_RULE, rule, NLM_F_CREATE | NLM_F_EXCL)
        if RULE_PRIORITY not in there:
            rule = rtnetlink.mark_rule(version, ROUTING_TABLE, RULE_PRIORITY, SECURE_MARK, MARK_MASK)
            netlink.change(MessageType.NEW_RULE, rule, NLM_F_CREATE | NLM_F_EXCL)


def _claim_device(netlink: NetlinkSocket) -> None:
    ipv4, ipv6 = (Path(f"/proc/sys/net/{family}/conf") / DEVICE for family in ("ipv4", "ipv6"))
    (ipv4 / "rp_filter").write_text("0")
    (ipv4 / "src_valid_mark").write_text("1")
    if has_ipv6():
        # The host's default may be off. No address first (mode 1), then on.
        (ipv6 / "addr_gen_mode").write_text("1")
        for name in ("accept_ra", "router_solicitations", "disable_ipv6"):
            (ipv6 / name).write_text("0")
    index = socket.if_nametoindex(DEVICE)
    link = rtnetlink.set_link(index, mtu=DEVICE_MTU, queue=DEVICE_QUEUE)
    netlink.change(MessageType.NEW_LINK, link)
    for version in _versions():
        route = rtnetlink.default_route(version, ROUTING_TABLE, interface=index)
        netlink.change(MessageType.NEW_ROUTE, route, NLM_F_CREATE | NLM_F_REPLACE)


def _remove(netlink: NetlinkSocket) -> None:
    for version in _versions():
        for rule in _rules(netlink, version):
            incoming = DEVICE if rule.priority == RETURN_PRIORITY else None
            body = rtnetlink.mark_rule(version, rule.table, rule.priority, rule.mark, rule.mask, incoming)
            netlink.change(MessageType.DELETE_RULE, body)
        for message in netlink.dump(MessageType.GET_ROUTE, rtnetlink.get_routes(version)):
            if rtnetlink.decode_route(message.body).table == ROUTING_TABLE:
                with suppress(NetlinkError):  # the kernel removes a device's routes itself when it goes
                    netlink.change(MessageType.DELETE_ROUTE, message.body)


def _rules(netlink: NetlinkSocket, version: int) -> list[rtnetlink.Rule]:
    answers = netlink.dump(MessageType.GET_RULE, rtnetlink.get_routes(version))
    rules = [rtnetlink.decode_rule(message.body) for message in answers]
    return [
        rule
        for rule in rules
        if rule.priority in (RETURN_PRIORITY, RULE_PRIORITY) and rule.mark == SECURE_MARK
    ]


def _path_mtu(netlink: NetlinkSocket, peer: Address) -> int | None:
    (answer, *_) = netlink.get(MessageType.GET_ROUTE, rtnetlink.get_route(peer, OWN_MARK))
    route = rtnetlink.decode_route(answer.body)
    if route.interface is None:
        return None
    (answer, *_) = netlink.get(MessageType.GET_LINK, rtnetlink.get_link(route.interface))
    return rtnetlink.decode_link_mtu(answer.body)


def _offer(descriptor: int, segments: bool, datagrams: bool) -> None:
    """Tell the device what may be left to us; what an older kernel does not know it refuses as a whole."""
    wanted = (_TUN_F_TSO4 | _TUN_F_TSO6) * segments | (_TUN_F_USO4 | _TUN_F_USO6) * datagrams
    try:
        fcntl.ioctl(descriptor, _TUNSETOFFLOAD, wanted | _TUN_F_CSUM if wanted else 0)
    except OSError:
        if not datagrams:
            raise
        _offer(descriptor, segments, False)


def _open_queue(flags: int) -> int:
    """A queue of the device, which is made with the first one. `OSError`, `StockadeError`."""
    try:
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _refused("/dev/net/tun", error) from None
    try:
        request = _IFREQ.pack(DEVICE.encode(), _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR | flags)
        fcntl.ioctl(descriptor, _TUNSETIFF, request)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _open_device(segments: bool, datagrams: bool, queues: int) -> tuple[int, ...]:
    """The TUN device, with checksums, TCP segmentation (`segments`) and UDP segmentation (`datagrams`) left
    to us. Never one that somebody has: one of several queues could be joined (so IFF_TUN_EXCL)."""
    deadline = time.monotonic() + CLAIM_SECONDS
    several = _IFF_MULTI_QUEUE if queues > 1 else 0
    opened: list[int] = []
    while True:
        try:
            opened.append(_open_queue(several | _IFF_TUN_EXCL))
            while len(opened) < queues:
                opened.append(_open_queue(several))
            _offer(opened[0], segments, datagrams)
            return tuple(opened)
        except (OSError, StockadeError) as error:
            for descriptor in opened:
                os.close(descriptor)
            if isinstance(error, StockadeError):
                raise
            if error.errno != errno.EBUSY or opened:
                raise _refused(f"device {DEVICE}", error) from None
            if time.monotonic() >= deadline:
                raise error_for(
                    ReasonCode.DRIVER_FAILED,
                    f"another process holds device {DEVICE}; does another agent run?",
                ) from None
        time.sleep(0.02)
