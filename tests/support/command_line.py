"""The `stockade` command in a namespace without the start of an interpreter, and the drivers of tests/host.

The tests of real hosts run it many hundred times, mostly to write a policy or to read what an agent says.
Loading its modules is most of its work. So a process that has loaded them waits, one for each process of
tests, and makes a copy of itself for each command:

    test ── a call, its streams ──▶ server ── fork ──▶ keeper ── fork ──▶ the command
      ◀── the command's id, then its exit status ────────┘

The copy is a process of its own, in a session of its own, in the network and with the mounts that `ip netns
exec` gives, with the environment, the working folder and the streams of the call, and it ends as any
interpreter does. The server runs nothing of a test, so a command finds its modules loaded and nothing else.
That the program starts by itself is what others see: the tutorial, the demo, tests/unit/console.
"""

import ctypes
import gc
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from stockade.lab.needs import SYSTEM_PATH
from stockade.lab.netns import CLONE_NEWNET, NETNS_FOLDER, Namespace

NETNS_FILES = Path("/etc/netns")
CLONE_NEWNS = 0x0002_0000
MS_BIND, MS_REC, MS_SLAVE, MNT_DETACH = 0x1000, 0x4000, 0x8_0000, 2
LOADED = ("console", "netsh", "policy", "store")
"""The rooms whose modules are loaded beforehand."""
LATER = ("stockade.console.monitor", "stockade.console.shell", "stockade.console.web")
"""Not those, which only people need."""
LONGEST = 1 << 17
"""Bytes of a call, most of which is the environment."""
START_SECONDS = 120.0
HOST = Path(__file__).parents[1] / "host"


# ---- the side of the tests
class _Server:
    """It ends when this process does, however that happens: nobody holds the other end any more."""

    def __init__(self) -> None:
        self.calls, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )  # fmt: skip


_servers: dict[int, _Server] = {}
"""By the process that made it: a copy of this process makes its own."""


class Running:
    """A program that the server runs in a namespace: `stockade`, or `driver_agent` (tests/host). `streams`:
    descriptors of its input, its output and its errors."""

    def __init__(
        self,
        namespace: Namespace,
        program: str,
        arguments: Sequence[str],
        streams: tuple[int, int, int],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._words = [program, *arguments]
        path = os.environ.get("PATH", "")
        values = {**os.environ, "PATH": f"{path}:{SYSTEM_PATH}", "LC_ALL": "C.UTF-8", **(environment or {})}
        call = json.dumps([namespace.full_name, self._words, values, str(Path.cwd())]).encode()
        server = _servers.get(os.getpid()) or _servers.setdefault(os.getpid(), _Server())
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            socket.send_fds(server.calls, [call], [*streams, theirs.fileno()])
        self._status: int | None = None
        self._process = self._hear(START_SECONDS)

    def wait(self, seconds: float) -> int:
        """The exit status, negative for a signal. What takes longer is killed: AssertionError."""
        if self._status is None:
            try:
                self._status = self._hear(seconds)
            except TimeoutError:
                self.kill()
                self._connection.close()
                raise AssertionError(f"no end after {seconds:g} seconds: {self._words}") from None
            self._connection.close()
        return self._status

    def kill(self) -> None:
        """SIGKILL to its process alone. One that has ended is left alone."""
        if self._status is None and not select.select([self._connection], [], [], 0)[0]:
            with suppress(ProcessLookupError):
                os.kill(self._process, signal.SIGKILL)

    def _hear(self, seconds: float) -> int:
        self._connection.settimeout(seconds)
        part = self._connection.recv(64)
        assert part, f"the copy that runs a program is gone: {self._words}"
        return int(part)


def run_stockade(
    namespace: Namespace,
    home: Path,
    *words: str,
    timeout: float = 120.0,
    input_text: str = "",
    environment: Mapping[str, str] | None = None,
) -> "subprocess.CompletedProcess[str]":
    """`stockade --home HOME WORDS` in a namespace, as its `run` does it with `check=False`."""
    arguments = ["--home", str(home), *words]
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as bad:
        given.write(input_text.encode())
        given.seek(0)
        streams = given.fileno(), said.fileno(), bad.fileno()
        status = Running(namespace, "stockade", arguments, streams, environment).wait(timeout)
        texts = []
        for file in (said, bad):
            file.seek(0)
            texts.append(file.read().decode().replace("\r\n", "\n"))
    return subprocess.CompletedProcess(["stockade", *arguments], status, texts[0], texts[1])


# ---- the server's side
def _load() -> None:
    sys.path.insert(0, str(HOST))
    import_module("driver_agent")
    for room in LOADED:
        package = import_module(f"stockade.{room}")
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.startswith(LATER):
                try:
                    import_module(module.name)
                except ImportError:
                    continue  # an optional library: the command that needs it says so


def _serve(calls: socket.socket) -> tuple[str, list[str], dict[str, str], str, list[int]]:
    """Comes back in each copy that is to run a command, with what to run; never in the server."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for keepers
    while True:
        call, descriptors, _, _ = socket.recv_fds(calls, LONGEST, 4)
        if not call:  # the tests are at their end
            os._exit(0)
        if os.fork():
            for descriptor in descriptors:
                os.close(descriptor)
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        calls.close()
        streams, answers = descriptors[:3], descriptors[3]
        command = os.fork()
        if command == 0:
            os.close(answers)
            name, words, environment, folder = json.loads(call)
            return name, words, environment, folder, streams
        try:
            for stream in streams:
                os.close(stream)
            os.write(answers, b"%d" % command)
            _, status = os.waitpid(command, 0)
            os.write(answers, b"%d" % os.waitstatus_to_exitcode(status))
        finally:
            os._exit(0)


def _enter(name: str) -> None:
    """What `ip netns exec` does."""
    libc = ctypes.CDLL(None, use_errno=True)

    def done(result: int, what: str) -> None:
        if result != 0:
            raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")

    with (NETNS_FOLDER / name).open("rb") as file:
        done(libc.setns(file.fileno(), CLONE_NEWNET), "setns")
    done(libc.unshare(CLONE_NEWNS), "unshare")
    done(libc.mount(b"", b"/", b"none", ctypes.c_ulong(MS_SLAVE | MS_REC), None), "mount /")
    libc.umount2(b"/sys", MNT_DETACH)
    done(libc.mount(name.encode(), b"/sys", b"sysfs", ctypes.c_ulong(0), None), "mount /sys")
    folder = NETNS_FILES / name
    for file in folder.iterdir() if folder.is_dir() else ():
        target = Path("/etc") / file.name
        done(libc.mount(bytes(file), bytes(target), b"none", ctypes.c_ulong(MS_BIND), None), str(target))


def _become(
    name: str, words: list[str], environment: dict[str, str], folder: str, streams: list[int]
) -> NoReturn:
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.closerange(3, 4096)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)
    _enter(name)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    module = import_module({"stockade": "stockade.console.main"}.get(words[0], words[0]))
    sys.argv = [str(module.__file__), *words[1:]]
    sys.exit(module.entry() if words[0] == "stockade" else module.main())


def _main() -> NoReturn:
    calls = socket.socket(fileno=int(sys.argv[1]))
    sys.path.pop(0)  # this folder, which Python put there for the program
    _load()
    gc.collect()
    gc.freeze()
    _become(*_serve(calls))


if __name__ == "__main__":
    _main()
