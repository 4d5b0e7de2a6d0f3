"""The web console as a user has it: `stockade web run` beside an agent, in the agent's namespace."""

import json
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from command_line import run_stockade

from stockade.agent.client import AgentClient
from stockade.agent.paths import Paths
from stockade.lab.netns import Namespace

STOCKADE = [sys.executable, "-m", "stockade.console.main"]
READY_SECONDS = 120.0


class WebConsole:
    """One console process, a context manager. `prefix` runs commands in its namespace."""

    def __init__(self, namespace: Namespace, home: Path, *words: str) -> None:
        self.namespace, self.home = namespace, home
        self._words = words
        self._process: subprocess.Popen[str] | None = None
        self.url = ""
        self.slow: socket.socket | None = None
        """A request that trickles in; the world's maker begins it."""

    def __enter__(self) -> Self:
        door = Paths.of(self.home).web_door / "api.sock"
        deadline = time.monotonic() + READY_SECONDS
        while not door.exists():
            assert time.monotonic() < deadline, "the agent opened no door for the web console"
            time.sleep(0.1)
        command = [*STOCKADE, "--home", str(self.home), "--format", "json", "web", "run", *self._words]
        self._process = subprocess.Popen(
            self.namespace.argv(command), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._process.stdout is not None
        watch = threading.Timer(READY_SECONDS, self._process.kill)
        watch.start()
        line = self._process.stdout.readline()
        watch.cancel()
        assert line, "the web console ended at once"
        told = json.loads(line)
        self.pid, self.url = int(told["pid"]), str(told["url"])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def stockade(self, *words: str, given: str = "") -> str:
        """Run a command of this home; what it printed."""
        result = run_stockade(self.namespace, self.home, *words, input_text=given)
        assert result.returncode == 0, (words, result.stdout, result.stderr)
        return result.stdout

    def link(self, role: str = "operator") -> str:
        """A link that signs in once, as `stockade web link` makes it."""
        ticket = AgentClient(Paths.of(self.home).socket, timeout=60.0).post("/v1/web/ticket", {"role": role})
        return f"{self.url}/link?ticket={ticket['ticket']}"

    def connect(self) -> socket.socket:
        """A connection to the console, from inside its namespace."""
        port = int(self.url.rpartition(":")[2])
        return self.namespace.call(partial(socket.create_connection, ("127.0.0.1", port), 60.0))

    def exchange(self, request: bytes) -> tuple[int, str]:
        """Send bytes as they are; the status, and all that came until the console closed (0: nothing)."""
        with self.connect() as connection:
            connection.sendall(request)
            answer = b""
            while piece := connection.recv(65_536):
                answer += piece
        text = answer.decode("utf-8", "replace")
        return (int(text.split(" ", 2)[1]) if text.startswith("HTTP/") else 0), text

    def ask(
        self, method: str, target: str, form: str = "", *, host: str = "127.0.0.1", **headers: str
    ) -> tuple[int, str]:
        """One request. Names of `headers` have _ for -."""
        lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", "Connection: close"]
        if form or method == "POST":
            lines += ["Content-Type: application/x-www-form-urlencoded", f"Content-Length: {len(form)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        return self.exchange(("\r\n".join(lines) + "\r\n\r\n" + form).encode())

    def sign_in(self, role: str = "operator") -> str:
        """The Cookie header of a new session."""
        status, text = self.ask("GET", self.link(role).partition("/link?")[2].join(["/link?", ""]))
        assert status == 303, text
        return cookie_of(text)


def cookie_of(answer: str) -> str:
    (line,) = (line for line in answer.splitlines() if line.lower().startswith("set-cookie: "))
    return line.partition(": ")[2].partition(";")[0]


def token_of(page: str) -> str:
    """The token of a page's forms."""
    return page.partition('name="token" value="')[2].partition('"')[0]
