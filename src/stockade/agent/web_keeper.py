"""The web console as the agent's child: served from the start, and running once somebody looks.

    agent ── listens on web.toml's address ── a first connection ──▶ starts the console, hands it the socket
          ◀─ it ends (nobody there any more, a fault, killed) ── listens again, after a fault a little later

The agent opens the port and no more: it never reads a byte of what browsers send. The process is
`stockade web run`, which gives up its privileges before it does; it ends with the agent, also with one that
was killed. The libraries of the console are loaded there and not here, so a start waits for none of them.

`web.toml` is looked at every few seconds: a new address or certificate needs no new agent.

Every limit of time is an `asyncio.timeout`: Python 3.11's `wait_for` forgets to be cancelled when what it
waits for comes at that moment, and an agent that stops would wait for ever."""

import asyncio
import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Self

import stockade
from stockade.agent.journal import Entry
from stockade.agent.paths import Paths
from stockade.agent.web_settings import WebSettings, listen_on, read_web_settings
from stockade.model.reasons import Reason, ReasonCode, StockadeError

LOOK_SECONDS = 2.0
"""Between two looks at `web.toml`, and at a port that somebody else has."""

READY_SECONDS = 60.0
"""How long a console may take from its start to its first word."""

LEAVE_SECONDS = 1.0
"""What it gets to end in an orderly way."""

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds to the next start after a fault, twice as long each time."""

CALM_SECONDS = 60.0
"""Who ran for so long was well: the next fault begins with the first pause."""

MAXIMUM_WORDS = 8192


class WebState(StrEnum):
    """Where the console stands."""

    WAITING = "waiting"
    """It listens; the first connection starts the process."""
    STARTING = "starting"
    RUNNING = "running"
    PAUSING = "pausing"
    """It failed, and will be tried again."""
    CLOSED = "closed"
    """It cannot listen, or its settings do not fit."""


class WebKeeper:
    """`async with WebKeeper(paths, journal):` serves while the block runs."""

    def __init__(
        self, paths: Paths, journal: Callable[[Entry], None], command: tuple[str, ...] | None = None
    ) -> None:
        self._paths = paths
        self._journal = journal
        self._command = command or _command_of(paths)
        self._task: asyncio.Task[None] | None = None
        self._told: Reason | None = None
        self.state = WebState.CLOSED
        self.url = ""
        self.pid: int | None = None
        self.trouble: Reason | None = None
        """Why it does not serve, or what ended it last."""

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            seen = _state_of(self._paths.web_settings)
            try:
                settings = read_web_settings(self._paths.web_settings)
                listener = listen_on(settings)
            except StockadeError as error:
                self.state, self.url = WebState.CLOSED, ""
                self._tell("web-console-not-served", error.reason)
                await asyncio.sleep(LOOK_SECONDS)
                continue
            with listener:
                listener.setblocking(False)
                self.url, self.trouble, self._told = settings.url_on(listener), None, None
                await self._serve(settings, listener, seen)

    async def _serve(self, settings: WebSettings, listener: socket.socket, seen: object) -> None:
        """Until `web.toml` changes."""
        pause = FIRST_PAUSE
        while True:
            self.state = WebState.WAITING
            if not await self._visited(listener, seen):
                return
            began = time.monotonic()
            self.state = WebState.STARTING
            ended = await self._run_console(listener, seen)
            if ended is None:
                return
            if ended.code is ReasonCode.WEB_CONSOLE_LEFT:
                pause = FIRST_PAUSE
                continue
            self.state = WebState.PAUSING
            self._tell("web-console-ended", ended)
            if time.monotonic() - began > CALM_SECONDS:
                pause = FIRST_PAUSE
            until = time.monotonic() + pause
            pause = min(2 * pause, LONGEST_PAUSE)
            while time.monotonic() < until:
                if _state_of(self._paths.web_settings) != seen:
                    return
                await asyncio.sleep(min(LOOK_SECONDS, max(0.0, until - time.monotonic())))

    async def _visited(self, listener: socket.socket, seen: object) -> bool:
        """True when somebody connects; False when `web.toml` changed before."""
        loop = asyncio.get_running_loop()
        knocked = asyncio.Event()
        loop.add_reader(listener.fileno(), knocked.set)
        try:
            while _state_of(self._paths.web_settings) == seen:
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_SECONDS):
                        await knocked.wait()
                        return True
            return False
        finally:
            loop.remove_reader(listener.fileno())

    async def _run_console(self, listener: socket.socket, seen: object) -> Reason | None:
        """One process from start to end: how it ended; None where `web.toml` changed meanwhile."""
        number = listener.fileno()
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                f"--agent={os.getpid()}:{number}",
                pass_fds=(number,),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={
                    "PATH": os.environ.get("PATH", ""),
                    "PYTHONPATH": str(Path(stockade.__file__).resolve().parent.parent),
                },
                start_new_session=True,
            )
        except OSError as error:
            return Reason.of(ReasonCode.WEB_CONSOLE_ENDED, f"cannot be started: {error.strerror}")
        self.pid = process.pid
        words = asyncio.create_task(_last_words(process))
        try:
            assert process.stdout is not None
            with suppress(TimeoutError, ValueError):
                async with asyncio.timeout(READY_SECONDS):
                    line = await process.stdout.readline()
                if _is_ready(line):
                    self.state, self.trouble, self._told = WebState.RUNNING, None, None
            if self.state is not WebState.RUNNING and process.returncode is None:
                with suppress(TimeoutError):  # it may be about to end, and to say why
                    async with asyncio.timeout(LEAVE_SECONDS):
                        await process.wait()
            while self.state is WebState.RUNNING and process.returncode is None:
                if _state_of(self._paths.web_settings) != seen:
                    return None
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_SECONDS):
                        await process.wait()
            ready = self.state is WebState.RUNNING
            return _how_it_ended(ready, process.returncode, await _soon(words))
        finally:
            self.pid = None
            words.cancel()
            await _end(process)

    def _tell(self, kind: str, reason: Reason) -> None:
        """Into the journal, once for what stays the same."""
        self.trouble = reason
        if self._told != reason:
            self._told = reason
            self._journal(Entry(kind, reason))


def _command_of(paths: Paths) -> tuple[str, ...]:
    home = ("--home", str(paths.home)) if paths.home else ()
    # -P: not the folder that we happen to stand in
    program = (sys.executable, "-P", "-m", "stockade.console.main")
    return (*program, "--format", "json", *home, "web", "run")


def _is_ready(line: bytes) -> bool:
    with contextlib.suppress(ValueError):
        told = json.loads(line)
        return isinstance(told, dict) and told.get("ready") is True
    return False


def _how_it_ended(ready: bool, status: int | None, words: str) -> Reason:
    if ready and status == 0:
        return Reason.of(ReasonCode.WEB_CONSOLE_LEFT)
    if status is None:
        return Reason.of(ReasonCode.WEB_CONSOLE_ENDED, f"not ready after {READY_SECONDS:g} seconds")
    how = f"signal {-status}" if status < 0 else f"exit status {status}"
    return Reason.of(ReasonCode.WEB_CONSOLE_ENDED, f"{how}{': ' if words else ''}{words}")


async def _last_words(process: asyncio.subprocess.Process) -> str:
    """The end of what it says on its standard error, on one line. What it prints otherwise is read away."""
    assert process.stderr is not None
    kept = b""
    while piece := await process.stderr.read(4096):
        kept = (kept + piece)[-MAXIMUM_WORDS:]
    return " ".join(kept.decode("utf-8", "replace").split())[-500:]


async def _soon(words: "asyncio.Task[str]") -> str:
    with suppress(TimeoutError):
        async with asyncio.timeout(LEAVE_SECONDS):
            return await words
    return ""


async def _end(process: asyncio.subprocess.Process) -> None:
    """Told to end, then made to."""
    if process.returncode is not None:
        return
    with _gone_is_fine():
        process.terminate()
    try:
        async with asyncio.timeout(LEAVE_SECONDS):
            await process.wait()
    except (TimeoutError, asyncio.CancelledError):
        with _gone_is_fine():
            process.kill()
        await process.wait()


@contextlib.contextmanager
def _gone_is_fine() -> Iterator[None]:
    with suppress(ProcessLookupError):
        yield


def _state_of(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file does; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
