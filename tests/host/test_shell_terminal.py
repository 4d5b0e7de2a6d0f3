"""The interactive shell as a person has it: a real process at a real (pseudo) terminal."""

import os
import pty
import re
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

PATIENCE = 60.0
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[=>]|\r|\x07")


class Terminal:
    """A shell at a terminal: what is typed, and what stands there."""

    def __init__(self, home: Path) -> None:
        self.process, self._descriptor = pty.fork()
        if self.process == 0:
            os.environ.update(TERM="xterm", COLUMNS="120", LINES="40", PROMPT_TOOLKIT_NO_CPR="1")
            code = "import sys; from stockade.console.main import main; sys.exit(main())"
            os.execv(sys.executable, [sys.executable, "-c", code, "--home", str(home), "netsh"])
        self._seen = ""

    def type(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    def expect(self, text: str) -> str:
        """What came until `text` stands there, with it."""
        end = time.monotonic() + PATIENCE
        while text not in self._seen:
            ready, _, _ = select.select([self._descriptor], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                pytest.fail(f"{text!r} did not come; there stands {self._seen[-2000:]!r}")
            try:
                octets = os.read(self._descriptor, 65536)
            except OSError:
                octets = b""
            if not octets:
                pytest.fail(f"the shell ended before {text!r} came; there stands {self._seen[-2000:]!r}")
            self._seen = _CONTROL.sub("", self._seen + octets.decode("utf-8", "replace"))
        before, _, self._seen = self._seen.partition(text)
        return before + text

    def run(self, line: str, answer: str) -> str:
        """Type a line, and what came until `answer` stands there and the shell waits again."""
        self.type(line + "\r")
        came = self.expect(answer)
        self.rest()
        return came

    def rest(self) -> None:
        """Wait until nothing has come for a while: the prompt is drawn several times."""
        while select.select([self._descriptor], [], [], 0.7)[0]:
            os.read(self._descriptor, 65536)
        self._seen = ""

    def ended(self) -> int:
        """The exit status."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            ready, _, _ = select.select([self._descriptor], [], [], 0.1)
            if ready:
                with suppress(OSError):  # the shell has let go of its terminal
                    octets = os.read(self._descriptor, 65536)
                    self._seen = _CONTROL.sub("", self._seen + octets.decode("utf-8", "replace"))
            ended, status = os.waitpid(self.process, os.WNOHANG)
            if ended:
                self.process = 0
                return os.waitstatus_to_exitcode(status)
        pytest.fail(f"the shell did not end; there stands {self._seen[-2000:]!r}")

    def close(self) -> None:
        if self.process:
            os.kill(self.process, signal.SIGKILL)
            os.waitpid(self.process, 0)
        os.close(self._descriptor)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    made = Terminal(tmp_path)
    yield made
    made.close()


def test_contexts_help_completion_history_and_the_way_out(terminal, tmp_path):
    terminal.expect("netsh>")
    terminal.rest()
    terminal.run("ipsec static", "netsh ipsec static>")
    terminal.run("?", "exportpolicy")
    terminal.run("add rule ?", "filteraction")
    told = terminal.run("add plicy", "what to do")
    assert "policy" in told  # the nearest word
    assert "Traceback" not in told
    # the tabulator completes the word, then the tag, then the name of an object
    for part in ("add filterl\t", " nam\t", "Web\r", "show filterl\t", " name=W\t"):
        terminal.type(part)
        terminal.rest()
    terminal.run("", "FilterList Name          : Web")
    # the arrow upwards brings a line back
    terminal.run("show store", "Local Store")
    terminal.run("\x1b[A", "Local Store")
    terminal.run("..", "netsh ipsec>")
    terminal.run("..", "netsh>")
    terminal.type("bye\r")
    assert terminal.ended() == 0
    history = (tmp_path / "netsh-history").read_text()
    assert "show store" in history
    assert (tmp_path / "netsh-history").stat().st_mode & 0o077 == 0


def test_a_line_with_a_key_is_not_kept(terminal, tmp_path):
    terminal.expect("netsh>")
    terminal.rest()
    line = 'ipsec static add rule name=r policy=p filterlist=l filteraction=a psk="not for the history"'
    terminal.run(line, "what to do")  # there is no such policy
    terminal.run("ipsec static show store", "Local Store")
    terminal.type("\x04")
    assert terminal.ended() == 0
    history = (tmp_path / "netsh-history").read_text()
    assert "show store" in history
    assert "not for the history" not in history
