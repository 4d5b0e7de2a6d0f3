"""The peers on the ESP of a User-Mode-Linux kernel, reached from here.

ours, nat ── switch (bridge) ── far0 (TAP) ═ vec0 ── bridge in UML ── strongswan, libreswan
                 └── far1 (TAP) ═ vec1: calls (interop_far.py)
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from interop_cases import Case
from interop_combinations import EVERY
from interop_far import CONTROL_ADDRESS, CONTROL_PORT
from interop_world import PeersFiles
from user_mode_linux import CHECKOUT, LIMIT_SECONDS, SCRIPTS, TESTS

from stockade.lab.netns import Namespace

WIRE, CONTROL = "far0", "far1"
START_SECONDS = 90.0
CALL_SECONDS = 150.0
STOP_SECONDS = 20.0


class FarMachine:
    """The User-Mode-Linux machine, a context manager. Its wire is a port of the bridge in `switch`; `folder`
    is shared with it."""

    def __init__(self, switch: Namespace, folder: Path, files: PeersFiles) -> None:
        self._switch, self._folder, self._files = switch, folder, files
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._switch.ip(
            f"tuntap add dev {WIRE} mode tap",
            f"link set {WIRE} master wire up",
            f"tuntap add dev {CONTROL} mode tap",
            f"address add 10.255.7.1/24 dev {CONTROL}",
            f"link set {CONTROL} up",
        )
        files = self._folder / "files.json"
        files.touch(mode=0o600)
        files.write_text(json.dumps(self._files.as_json()), encoding="utf-8")
        runner = [str(SCRIPTS / "uml-run.sh"), "-t", str(LIMIT_SECONDS), "-s", str(self._folder)]
        runner += ["-k", str(self._folder / "console"), "-i", WIRE, "-i", CONTROL]
        control = f"ip address add {CONTROL_ADDRESS}/24 dev vec1; ip link set vec1 up; "
        program = [sys.executable, str(TESTS / "peers" / "interop_far.py"), "--files", str(files)]
        every = [f"{EVERY}=1"] if EVERY in os.environ else []
        command = ["env", f"PYTHONPATH={CHECKOUT / 'src'}", *every, "sh", "-c", f'{control} exec "$@"', "far"]
        with (self._folder / "far.out").open("w", encoding="utf-8") as output:
            self._process = self._switch.popen([*runner, "--", *command, *program], stdout=output.fileno())
        try:
            self._connect()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _connect(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            assert self._process is not None
            assert self._process.poll() is None, f"the far machine ended:\n{self.output()}"
            assert time.monotonic() < deadline, f"the far machine does not answer:\n{self.output()}"
            with suppress(OSError):
                self._socket = self._switch.call(
                    lambda: socket.create_connection((CONTROL_ADDRESS, CONTROL_PORT), timeout=1)
                )
                break
            time.sleep(0.1)
        self._socket.settimeout(CALL_SECONDS)
        self._lines = self._socket.makefile("rw", encoding="utf-8")

    def close(self) -> None:
        """Say that no call comes any more, on which it ends; it is killed where it does not."""
        if hasattr(self, "_lines"):
            with suppress(OSError):
                self._lines.close()
            self._socket.close()
        if self._process is None:
            return
        try:
            self._process.wait(STOP_SECONDS if hasattr(self, "_lines") else 0.1)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process = None

    def output(self) -> str:
        """What it printed, and the end of its console."""
        parts = []
        for name in ("far.out", "console"):
            with suppress(OSError):
                parts.append((self._folder / name).read_text(encoding="utf-8", errors="replace")[-4000:])
        return "\n".join(parts)

    def call(self, peer: str, name: str, *arguments: object) -> object:
        """Have something done there; AssertionError with the trace from there when it failed."""
        with self._lock:
            self._lines.write(json.dumps({"peer": peer, "call": name, "arguments": arguments}) + "\n")
            self._lines.flush()
            answer = json.loads(self._lines.readline() or '{"error": "the far machine is gone"}')
        assert "error" not in answer, answer["error"]
        result: object = answer["result"]
        return result


class RemoteHost:
    """The namespace of a peer (interop_host.Host)."""

    def __init__(self, far: FarMachine, peer: str) -> None:
        self._far, self._peer = far, peer

    def run(self, command: Sequence[str], *, check: bool = True) -> str:
        return str(self._far.call(self._peer, "run", list(command), check))

    def ip(self, *commands: str) -> None:
        self._far.call(self._peer, "ip", *commands)

    def listen(self, address: str) -> None:
        self._far.call(self._peer, "listen", address)

    def received(self) -> str:
        return str(self._far.call(self._peer, "received"))

    def send(self, ends: tuple[str, str], size: int) -> str:
        return str(self._far.call(self._peer, "send", ends, size))

    def drop_fragments(self, wanted: bool) -> None:
        self._far.call(self._peer, "drop_fragments", wanted)


class RemotePeer:
    """A peer (interop_trials.Peer)."""

    def __init__(self, far: FarMachine, name: str) -> None:
        self._far, self._name = far, name
        self.host = RemoteHost(far, name)

    def begin(self, case: Case) -> None:
        self._far.call(self._name, "begin", case.name)

    def delete(self, case: Case) -> None:
        self._far.call(self._name, "delete", case.name)

    def kill(self) -> None:
        self._far.call(self._name, "kill")

    def start(self) -> None:
        self._far.call(self._name, "start")

    def log(self) -> str:
        return str(self._far.call(self._name, "log"))
