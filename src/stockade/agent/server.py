"""The local API on its Unix socket, inside the agent's own event loop (uvicorn without its signal
handling)."""

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import uvicorn

from stockade.agent.api import AgentOperations, application


class QuietServer(uvicorn.Server):
    """Serves inside the agent's loop."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The service has its own handlers; uvicorn's would replace them."""
        yield


class ApiServer:
    """`async with ApiServer(agent, path):` serves while the block runs."""

    def __init__(self, agent: AgentOperations, path: Path) -> None:
        self._path = path
        self._server = QuietServer(
            uvicorn.Config(
                application(agent),
                log_config=None,
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=1,
                ws="none",
                loop="none",
            )
        )
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        with suppress(FileNotFoundError):
            self._path.unlink()  # of a run that was killed: the lock says that no other agent uses it
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(0o177)  # the socket is never, not even for a moment, open to others
        try:
            listener.bind(str(self._path))
        finally:
            os.umask(mask)
        listener.listen(64)
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]))
        while not self._server.started and not self._task.done():
            await asyncio.sleep(0.002)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        if self._task is not None:
            await self._task
        with suppress(FileNotFoundError):
            self._path.unlink()
