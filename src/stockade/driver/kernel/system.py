"""The kernel driver's parts of the network namespace beside states and policies.

* An abstract Unix socket says that a driver runs here: such names belong to the network namespace and end
  with the process, so two drivers never meet and a killed one leaves nothing.
* `xfrm_larval_drop` off: a packet that waits for an SA is queued (the kernel keeps up to 100 for a policy)
  instead of dropped. `xfrm_acq_expires`: how long the kernel waits for the key exchange before it asks again;
  its own 30 s would make the first packet after a failed negotiation wait that long.
* /proc/net/xfrm_stat counts what was dropped, and why. Only the kernel's configuration decides whether it is
  there.
"""

import socket
from contextlib import suppress
from ipaddress import IPv6Address
from pathlib import Path
from typing import Final

from stockade.driver.netlink import NetlinkSocket
from stockade.model.reasons import ReasonCode, error_for
from stockade.wire import rtnetlink

_CLAIM: Final = "\0stockade-kernel-driver"
_SYSCTL: Final = Path("/proc/sys/net/core")
_STATISTICS: Final = Path("/proc/thread-self/net/xfrm_stat")
_SETTINGS: Final = {"xfrm_larval_drop": ("0", "1"), "xfrm_acq_expires": ("3", "30")}
"""Name: ours, and the kernel's own."""

_MEANINGS: Final = {
    "XfrmInNoStates": ReasonCode.UNKNOWN_SPI,
    "XfrmAcquireError": ReasonCode.UNKNOWN_SPI,  # of a negotiation that is under way
    "XfrmInStateProtoError": ReasonCode.INTEGRITY_FAILED,
    "XfrmInStateSeqError": ReasonCode.REPLAYED,
    "XfrmInStateMismatch": ReasonCode.SELECTOR_MISMATCH,
    "XfrmInStateModeError": ReasonCode.SELECTOR_MISMATCH,
    "XfrmInNoPols": ReasonCode.SELECTOR_MISMATCH,
    "XfrmInTmplMismatch": ReasonCode.CLEAR_DROPPED,
    "XfrmInHdrError": ReasonCode.MALFORMED_PACKET,
    "XfrmFwdHdrError": ReasonCode.MALFORMED_PACKET,
    "XfrmInPolBlock": ReasonCode.BLOCKED,
    "XfrmOutPolBlock": ReasonCode.BLOCKED,
    "XfrmInStateExpired": ReasonCode.SA_EXPIRED,
    "XfrmOutStateExpired": ReasonCode.SA_EXPIRED,
    "XfrmOutStateSeqError": ReasonCode.SA_EXPIRED,  # its sequence numbers are used up
}
"""What the kernel counts, in our words. Left out is what tells of no packet of a peer or a policy: a kernel
without memory, templates that changed on the way."""


class Claim:
    """Held while a driver runs in this network namespace."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None

    def take(self) -> None:
        """`HostError(DRIVER_FAILED)` if another driver runs here."""
        if self._socket is not None:
            return
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            claim.bind(_CLAIM)
        except OSError as error:
            claim.close()
            raise error_for(
                ReasonCode.DRIVER_FAILED, f"another agent runs in this network namespace ({error.strerror})"
            ) from None
        self._socket = claim

    def release(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class Settings:
    """The two settings of the namespace; `restore` gives back what `apply` found. A value of ours that was
    found already is what a killed run left: the kernel's own comes back then."""

    def __init__(self) -> None:
        self._found: dict[str, str] = {}

    def apply(self) -> None:
        for name, (ours, default) in _SETTINGS.items():
            path = _SYSCTL / name
            with suppress(OSError):  # without it the first packets of a flow are lost, no more
                found = path.read_text().strip()
                self._found.setdefault(name, default if found == ours else found)
                path.write_text(ours)

    def restore(self) -> None:
        for name, value in self._found.items():
            with suppress(OSError):
                (_SYSCTL / name).write_text(value)
        self._found.clear()


def own_ipv6_addresses() -> tuple[list[IPv6Address], int]:
    """The IPv6 addresses of this host, loopback's too, and the number of the loopback interface. The agent
    installs its filters anew when addresses change."""
    netlink = NetlinkSocket()
    try:
        answers = netlink.dump(rtnetlink.MessageType.GET_ADDRESS, rtnetlink.get_addresses())
    finally:
        netlink.close()
    entries = (rtnetlink.decode_address(answer.body) for answer in answers)
    found = {entry.address for entry in entries if entry is not None}
    addresses = {address for address in found if isinstance(address, IPv6Address)} | {IPv6Address("::1")}
    return sorted(addresses), socket.if_nametoindex("lo")


def read_refusals() -> dict[ReasonCode, int]:
    """Dropped packets by reason, since the namespace was made; empty where the kernel does not count."""
    try:
        lines = _STATISTICS.read_text().splitlines()
    except OSError:
        return {}
    found: dict[ReasonCode, int] = {}
    for line in lines:
        name, _, value = line.partition("\t")
        code = _MEANINGS.get(name.strip())
        if code is not None and value.strip().isdecimal():
            found[code] = found.get(code, 0) + int(value)
    return found
