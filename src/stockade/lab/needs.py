"""What this machine lacks: one function per need, each gives the reason in words, or None where the need is
met.

The demo chooses between its two variants with it, the tests skip with it. Each question is asked once per
process.
"""

import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

Need = Callable[[], str | None]

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where programs of the system are, also for a user whose PATH has no sbin."""


def find_program(name: str) -> str | None:
    """The path of a program, or None."""
    return shutil.which(name) or shutil.which(name, path=SYSTEM_PATH)


@cache
def root() -> str | None:
    return None if os.geteuid() == 0 else "not root"


@cache
def ip_program() -> str | None:
    return None if find_program("ip") else "the program ip is not installed (Debian: iproute2)"


@cache
def nft_program() -> str | None:
    return None if find_program("nft") else "the program nft is not installed (Debian: nftables)"


@cache
def tun_device() -> str | None:
    """A TUN device can be opened: the file is there and the kernel has the driver behind it."""
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"/dev/net/tun cannot be opened: {error.strerror}"
    return None


@cache
def packet_socket() -> str | None:
    """CAP_NET_RAW: captures and raw ESP sockets."""
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
    except OSError as error:
        return f"no packet sockets: {error.strerror}"
    return None


@cache
def namespaces() -> str | None:
    """Network namespaces with nftables in them can be made: asked by making one, for nobody else to see."""
    missing = root() or ip_program() or nft_program()
    if missing is not None:
        return missing
    unshare = find_program("unshare")
    if unshare is None:
        return "the program unshare is not installed (Debian: util-linux)"
    nft = find_program("nft")
    probe = "ip link add lab0 type veth peer name lab1 && ip link add lab2 type bridge"
    probe += f" && {nft} add table inet lab"
    try:
        result = subprocess.run(
            [unshare, "--net", "/bin/sh", "-c", probe],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "PATH": SYSTEM_PATH},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"network namespaces do not work here: {error}"
    if result.returncode != 0:
        lines = result.stderr.strip().splitlines() or [f"exit status {result.returncode}"]
        return f"network namespaces with veth, bridge and nftables do not work here: {lines[-1]}"
    return None


@cache
def real_network() -> str | None:
    """All that the demo with real packets needs."""
    return namespaces() or tun_device() or packet_socket()


@cache
def strongswan() -> str | None:
    for program in ("charon-systemd", "swanctl"):
        if find_program(program) is None:
            return f"strongSwan is not installed (no {program})"
    return None


@cache
def user_mode_linux() -> str | None:
    for name in ("linux.uml", "linux"):
        if find_program(name):
            return None
    return "User-Mode Linux is not installed (Debian: user-mode-linux)"


@cache
def samba() -> str | None:
    return (
        None if find_program("samba") else "Samba's domain controller is not installed (Debian: samba-ad-dc)"
    )


@cache
def procfs() -> str | None:
    return None if Path("/proc/self/stat").exists() else "/proc is not mounted"


TIERS: dict[str, tuple[Need, ...]] = {
    "unit": (),
    "exchange": (),
    "host": (real_network, procfs),
    "kernel": (root,),
    "peers": (root, ip_program, strongswan),
    "directory": (root, samba),
    "fuzz": (),
}
"""Every tier of the tests (the first folder under tests/), in the order of the last line of a run, and its
needs. A test that needs more than its tier asks by itself."""


def missing_for(tier: str) -> str | None:
    """Why the tests of this tier cannot run here, or None. An unknown tier has no needs."""
    for need in TIERS.get(tier, ()):
        reason = need()
        if reason is not None:
            return reason
    return None
