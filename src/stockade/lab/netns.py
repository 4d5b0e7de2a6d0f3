"""Real network namespaces: hosts that share one wire, made and removed by this process.

    ┌─────────┐      ┌────────── switch ──────────┐      ┌─────────┐
    │ alpha   │      │  port0 ─┐         ┌─ port1 │      │ beta    │
    │    eth0 ├──────┤         ├─ wire ──┤        ├──────┤ eth0    │
    └─────────┘ veth │  port2 ─┘ (bridge)         │ veth └─────────┘
                     └────┬───────────────────────┘
    gamma: eth0 ──────────┘

The bridge stands in a namespace of its own, `switch`, with no address in it: it is the cable and no host, it
carries frames between the hosts only, and a capture on one of its ports sees what is on the wire and not what
a host's own stack still does to it.

Names are `stockade-lab.PID.START.NUMBER.HOST`, where PID and START (clock ticks since boot) are the process
that made them. So two runs never meet, and `sweep` knows which namespaces belong to a process that is dead,
even where its number is used again: it kills what runs in them and removes them. `Network` sweeps before it
begins, so a run that was killed leaves nothing for longer than until the next one.

The `ip` program does the work: one batch a namespace is atomic enough for a laboratory, and unlike a netlink
library it needs no process or thread of its own in each namespace. Everything is bounded in time. Needs root.
"""

import ctypes
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from stockade.lab.needs import SYSTEM_PATH, find_program
from stockade.model.addresses import Address
from stockade.model.reasons import HostError, ReasonCode, error_for

PREFIX = "stockade-lab"
NETNS_FOLDER = Path("/run/netns")
COMMAND_SECONDS = 60.0
KILL_SECONDS = 30.0
CLONE_NEWNET = 0x4000_0000
INTERFACE = "eth0"

_networks = itertools.count(1)

Result = TypeVar("Result")


class Namespace:
    """One network namespace, a context manager: made on entry; on exit what runs in it is killed and it is
    removed.

    `name` is the short one (`alpha`), `full_name` what `ip netns` calls it. `addresses` are those that
    `Network` gave it."""

    def __init__(self, name: str, *, owner: str | None = None) -> None:
        self.name = name
        self.full_name = f"{owner if owner is not None else _owner()}.{name}"
        self.addresses: tuple[Address, ...] = ()

    def __enter__(self) -> Self:
        self.create()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    @property
    def exists(self) -> bool:
        return (NETNS_FOLDER / self.full_name).exists()

    def create(self) -> None:
        """Make it, with loopback up and IPv6 off (a lab network speaks IPv4; router solicitations would only
        blur a capture)."""
        _ip("netns", "add", self.full_name)
        self.call(_quiet_ipv6)
        self.ip("link set lo up")

    def remove(self) -> None:
        """Kill what runs in it and remove it. A namespace that is not there is no error."""
        if self.exists:
            _kill_all_in(self.full_name)
            _ip("netns", "delete", self.full_name)

    def ip(self, *commands: str) -> None:
        """Run commands of the `ip` program inside, in one batch that stops at the first error
        (`HostError`)."""
        _ip("-n", self.full_name, "-batch", "-", input_text="\n".join(commands) + "\n")

    def argv(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs `argv` inside."""
        return [_ip_path(), "netns", "exec", self.full_name, *argv]

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float = COMMAND_SECONDS,
        check: bool = True,
        input_text: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program inside and wait for it, `timeout` seconds at most (then it is killed).

        With `check` a failure is `HostError(DRIVER_FAILED)` with the last line of its error output."""
        return _run(self.argv(argv), timeout, check, input_text, environment)

    def popen(
        self, argv: Sequence[str], *, stdout: int | None = None, environment: Mapping[str, str] | None = None
    ) -> "subprocess.Popen[str]":
        """Start a program inside, in a session of its own (so Ctrl-C reaches us alone), without standard
        input; its error output goes where `stdout` goes unless that is a pipe."""
        return subprocess.Popen(
            self.argv(argv),
            stdin=subprocess.DEVNULL,
            stdout=stdout if stdout is not None else subprocess.DEVNULL,
            stderr=subprocess.DEVNULL if stdout in (None, subprocess.PIPE) else subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env=_environment(environment),
        )

    def call(self, function: Callable[[], Result]) -> Result:
        """Call a function with this namespace as the network of the calling thread: in a thread of its own,
        which ends with it. Sockets that it opens belong to the namespace from then on, wherever they are
        used."""
        return _call_in(NETNS_FOLDER / self.full_name, function)

    def processes(self) -> list[int]:
        """The ids of the processes that run inside."""
        return _processes_in(self.full_name)


class Network:
    """Hosts on one wire, a context manager. `hosts` maps short names to their addresses (`10.1.2.3/24`).

    `network["alpha"]` is a `Namespace`; `network.switch` holds the bridge; `network.port("alpha")` is the
    name of alpha's port there, which is where to capture."""

    def __init__(self, hosts: Mapping[str, IPv4Interface | IPv6Interface], *, mtu: int = 1500) -> None:
        owner = f"{_owner()}.{next(_networks)}"
        self.switch = Namespace("switch", owner=owner)
        self._hosts = {name: Namespace(name, owner=owner) for name in hosts}
        self._interfaces = dict(hosts)
        self._mtu = mtu

    def __enter__(self) -> Self:
        sweep()
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getitem__(self, name: str) -> Namespace:
        return self._hosts[name]

    def port(self, name: str) -> str:
        return f"port{list(self._hosts).index(name)}"

    def close(self) -> None:
        """Remove every namespace, whatever happens to one of them; the first failure is raised at the end."""
        failures = []
        for namespace in (*self._hosts.values(), self.switch):
            try:
                namespace.remove()
            except Exception as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def _build(self) -> None:
        self.switch.create()
        # No spanning tree and no learning delay: the first frame must pass.
        self.switch.ip("link add wire type bridge stp_state 0 forward_delay 0", "link set wire up")
        for name, namespace in self._hosts.items():
            namespace.create()
            interface, port = self._interfaces[name], self.port(name)
            self.switch.ip(
                f"link add {port} mtu {self._mtu} type veth peer name {INTERFACE} mtu {self._mtu}"
                f" netns {namespace.full_name}",
                f"link set {port} master wire up",
            )
            only_once = ""
            if interface.version == 6:
                namespace.run(["sysctl", "-qw", f"net.ipv6.conf.{INTERFACE}.disable_ipv6=0"])
                only_once = " nodad"  # nobody else has it, and it is there at once
            namespace.ip(f"address add {interface} dev {INTERFACE}{only_once}", f"link set {INTERFACE} up")
            namespace.addresses = (interface.ip,)


def sweep() -> list[str]:
    """Remove what runs that died have left: namespaces (and what runs in them) and temporary folders. The
    names of what was removed. What belongs to a living process is left alone."""
    removed = []
    names = sorted(entry.name for entry in NETNS_FOLDER.glob(f"{PREFIX}.*")) if NETNS_FOLDER.is_dir() else []
    for name in names:
        if _is_orphan(name):
            _kill_all_in(name)
            with suppress(Exception):  # another run may sweep at the same moment
                _ip("netns", "delete", name)
                removed.append(name)
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}.*"):
        with suppress(OSError):
            # Anybody can make such a name in /tmp: only a true folder of our own user is ours.
            found = folder.lstat()
            if (
                found.st_uid == os.geteuid()
                and folder.is_dir()
                and not folder.is_symlink()
                and _is_orphan(folder.name)
            ):
                shutil.rmtree(folder)
                removed.append(str(folder))
    return removed


def make_folder() -> Path:
    """A new temporary folder (mode 0700) that `sweep` removes if this process dies; the caller removes it
    otherwise."""
    return Path(tempfile.mkdtemp(prefix=f"{_owner()}."))


# ---- owners ----


def _owner() -> str:
    return f"{PREFIX}.{os.getpid()}.{_started(os.getpid())}"


def _is_orphan(name: str) -> bool:
    """Whether this is a name of ours whose process is gone."""
    parts = name.split(".")
    if len(parts) < 4 or parts[0] != PREFIX or not (parts[1].isdecimal() and parts[2].isdecimal()):
        return False
    return _started(int(parts[1])) != int(parts[2])


def _started(process: int) -> int | None:
    """When a process was started (field 22 of /proc/PID/stat, clock ticks since boot); None if it is gone or
    a zombie."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may hold blanks and brackets
    return None if fields[0] in "ZX" else int(fields[19])


# ---- the ip program and namespaces ----


def _ip_path() -> str:
    found = find_program("ip")
    if found is None:
        raise error_for(ReasonCode.MISSING_PROGRAM, "ip is not installed", package="iproute2")
    return found


def _ip(*arguments: str, input_text: str | None = None) -> str:
    return _run([_ip_path(), *arguments], COMMAND_SECONDS, True, input_text, None).stdout


def _environment(more: Mapping[str, str] | None) -> dict[str, str]:
    path = os.environ.get("PATH", "")
    return {
        **os.environ,
        "PATH": f"{path}:{SYSTEM_PATH}" if path else SYSTEM_PATH,
        "LC_ALL": "C.UTF-8",
        **(more or {}),
    }


def _run(
    argv: Sequence[str],
    timeout: float,
    check: bool,
    input_text: str | None,
    environment: Mapping[str, str] | None,
) -> subprocess.CompletedProcess[str]:
    command = " ".join(argv[4:] if argv[1:3] == ["netns", "exec"] else argv)
    try:
        result: subprocess.CompletedProcess[str] = subprocess.run(
            list(argv),
            input=input_text or "",
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            start_new_session=True,
            env=_environment(environment),
        )
    except subprocess.TimeoutExpired as error:
        raise error_for(ReasonCode.DRIVER_FAILED, f"no end after {timeout:g} seconds: {command}") from error
    if check and result.returncode != 0:
        said = (result.stderr.strip() or result.stdout.strip()).splitlines() or ["it said nothing"]
        raise error_for(
            ReasonCode.DRIVER_FAILED, f"{command} failed: {said[-1]}", exit_status=result.returncode
        )
    return result


def _processes_in(full_name: str) -> list[int]:
    try:
        return [int(word) for word in _ip("netns", "pids", full_name).split()]
    except HostError:  # removed meanwhile
        return []


def _kill_all_in(full_name: str) -> None:
    """SIGKILL everything in a namespace of ours and wait until it is gone."""
    deadline = time.monotonic() + KILL_SECONDS
    while processes := _processes_in(full_name):
        for process in processes:
            if process != os.getpid():
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
        if time.monotonic() > deadline:
            return
        time.sleep(0.02)


def _call_in(namespace: Path, function: Callable[[], Result]) -> Result:
    results: list[Result] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            handle = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _set_namespace(handle)
            finally:
                os.close(handle)
            results.append(function())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work, name="in-namespace", daemon=True)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def _set_namespace(handle: int) -> None:
    """setns(2) for the calling thread; Python has it from 3.12 on only."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.setns(handle, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise error_for(ReasonCode.NOT_PRIVILEGED, f"cannot enter a network namespace: {os.strerror(number)}")


def _quiet_ipv6() -> None:
    for name in ("all", "default"):
        with suppress(OSError):  # a kernel without IPv6 is as quiet
            Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1\n", encoding="ascii")
