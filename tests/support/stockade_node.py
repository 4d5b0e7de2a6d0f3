"""Stockade as a user has it: the `stockade` command with a home of its own, and its agent in one
namespace."""

import io
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import TracebackType
from typing import Self

from stockade.agent.client import AgentClient
from stockade.agent.paths import Paths
from stockade.console.main import main as stockade
from stockade.lab.netns import Namespace
from stockade.model.reasons import StockadeError

START_SECONDS = 120.0
STOP_SECONDS = 30.0


class StockadeNode:
    """One agent, a context manager: started on entry, told to stop on exit."""

    def __init__(self, namespace: Namespace, folder: Path, driver: str = "userspace") -> None:
        self.namespace = namespace
        self._folder = folder
        self._driver = driver
        self._home = folder / "home"
        self._output = folder / "agent.out"
        self._process: subprocess.Popen[str] | None = None
        self.client = AgentClient(Paths.of(self._home).socket, timeout=30.0)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def configure(self, settings: str) -> None:
        """The text of agent.toml, which the agent reads when it starts."""
        self._home.mkdir(mode=0o700, exist_ok=True)
        (self._home / "agent.toml").write_text(settings, encoding="utf-8")

    def command(self, *words: str) -> str:
        """Run a `stockade` command by its own entry point, in this process; what it printed."""
        printed = io.StringIO()
        with redirect_stdout(printed), redirect_stderr(printed):
            status = stockade(["--home", str(self._home), *words])
        assert status == 0, f"stockade {words}: {printed.getvalue()}"
        return printed.getvalue()

    def apply(self, script: str) -> None:
        """Run a netsh script by the command line's own entry point (in this process: an emulated machine
        needs ten seconds to start another one); a running agent has the new policy when this returns."""
        path = self._folder / "policy.netsh"
        path.touch(mode=0o600)
        path.write_text(script, encoding="utf-8")
        self.command("netsh", "-f", str(path))
        if self.running:
            refused = self.client.get("/v1/status")["policy_refused"]
            assert refused is None, refused

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Run the agent and wait until its policy is in force."""
        command = [sys.executable, "-m", "stockade.console.main", "--home", str(self._home), "agent", "run"]
        command += ["--driver", self._driver]
        with self._output.open("a", encoding="utf-8") as output:
            self._process = self.namespace.popen(command, stdout=output.fileno())
        deadline = time.monotonic() + START_SECONDS
        while True:
            assert self._process.poll() is None, f"the agent ended at once:\n{self.output()}"
            try:
                self.client.get("/v1/status")
                return
            except StockadeError:
                assert time.monotonic() < deadline, f"the agent does not answer:\n{self.output()}"
                time.sleep(0.1)

    def stop(self) -> None:
        """SIGTERM, as a service manager stops it."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            self._process = None

    def kill(self) -> None:
        """SIGKILL, as a crash is."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def main_modes(self) -> list[dict[str, object]]:
        """The rows of `stockade show sas` for main modes."""
        return [row for row in self.client.get("/v1/sas")["main_modes"] if row["established"]]

    def quick_modes(self) -> list[dict[str, object]]:
        """The rows of `stockade show sas` for quick modes."""
        rows: list[dict[str, object]] = self.client.get("/v1/sas")["quick_modes"]
        return rows

    def reasons(self) -> list[str]:
        """The words of the reasons in the newest journal entries, oldest first."""
        entries = self.client.get("/v1/journal", {"last": "200"})["entries"]
        return [str(entry.get("reason")) for entry in entries]

    def output(self) -> str:
        """What the agent printed, and the end of its journal's files."""
        text = self._output.read_text(encoding="utf-8", errors="replace") if self._output.exists() else ""
        journal = self._home / "journal"
        for path in sorted(journal.glob("*")) if journal.is_dir() else ():
            if path.is_file():
                lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
                text += "\n".join(["", f"-- {path.name}", *lines[-60:]])
        return text
