"""The local API on its Unix sockets, inside the agent's own event loop (uvicorn without its signal handling).

`agent.sock` is for root alone. The *door* is for the web console, which has no privileges and could open
nothing that is ours: a folder that nobody but root can reach by its path, with a socket that anybody may
open. Only who was root when it took hold of the folder, as the web console does before it gives that up,
gets through (`/proc/self/fd/N/api.sock`), before and after every restart of the agent."""

import asyncio
import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import uvicorn
from starlette.applications import Starlette

from stockade.agent.api import AgentOperations, application
from stockade.agent.web_api import DOOR


class QuietServer(uvicorn.Server):
    """Serves an application inside the agent's loop, from `begin` to `end`; at most `connections` at once."""

    def __init__(self, served: Starlette, connections: int | None = None) -> None:
        super().__init__(
            uvicorn.Config(
                served,
                log_config=None,
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=1,
                ws="none",
                loop="none",
                limit_concurrency=connections,
            )
        )
        self._task: asyncio.Task[None] | None = None

    async def begin(self, listener: socket.socket) -> None:
        self._task = asyncio.create_task(self.serve(sockets=[listener]))
        while not self.started and not self._task.done():
            await asyncio.sleep(0.002)

    async def end(self) -> None:
        self.should_exit = True
        if self._task is not None:
            await self._task

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The service has its own handlers; uvicorn's would replace them."""
        yield


class ApiServer:
    """`async with ApiServer(agent, path):` serves while the block runs."""

    def __init__(self, agent: AgentOperations, path: Path, *, door: bool = False) -> None:
        self._path = path
        self._door = door
        self._server = QuietServer(application(agent, DOOR if door else None))

    async def __aenter__(self) -> Self:
        if self._door:
            _make_hallway(self._path.parent)
        with suppress(FileNotFoundError):
            self._path.unlink()  # of a run that was killed: the lock says that no other agent uses it
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(0o177)  # the socket is never, not even for a moment, open to others
        try:
            listener.bind(str(self._path))
            if self._door:
                self._path.chmod(0o666)  # who may come is said by the folder
        finally:
            os.umask(mask)
        listener.listen(64)
        await self._server.begin(listener)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._server.end()
        with suppress(FileNotFoundError):
            self._path.unlink()


def _make_hallway(folder: Path) -> None:
    """`folder` can be passed through by anybody who holds it, and be reached by its owner only."""
    for path, mode in ((folder.parent, 0o700), (folder, 0o711)):
        path.mkdir(mode=0o700, exist_ok=True)
        if path.is_symlink() or path.stat().st_uid != os.geteuid():
            raise OSError(errno.EPERM, "belongs to somebody else", str(path))
        path.chmod(mode)
