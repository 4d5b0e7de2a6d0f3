"""`/metrics` on a TCP port, for Prometheus: one page, to read only, off unless `agent.toml` asks for it.

On a loopback address the Host header must be an address or `localhost`: a web page that has its own name lead
to 127.0.0.1 gets nothing. At most `CONNECTIONS` at once, and none stays idle."""

import socket
from ipaddress import ip_address
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from stockade.agent.api import AgentOperations, metrics_answer
from stockade.agent.server import QuietServer
from stockade.model.addresses import Address
from stockade.model.reasons import ReasonCode, error_for

CONNECTIONS = 16


class MetricsServer:
    """`async with MetricsServer(agent, address, port):` serves while the block runs. HostError PORT_TAKEN."""

    def __init__(self, agent: AgentOperations, address: Address, port: int) -> None:
        self._address, self._port = address, port

        async def metrics(request: Request) -> Response:
            if address.is_loopback and not _names_loopback(request.headers.get("host", "")):
                return PlainTextResponse("not for this host name\n", 421)
            return metrics_answer(agent)

        self._server = QuietServer(
            Starlette(routes=[Route("/metrics", metrics, methods=["GET"])]),
            CONNECTIONS,
        )

    async def __aenter__(self) -> Self:
        family = socket.AF_INET if self._address.version == 4 else socket.AF_INET6
        listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((str(self._address), self._port))
            listener.listen(CONNECTIONS)
        except OSError as error:
            listener.close()
            detail = f"metrics.listen {self._address} port {self._port}: {error.strerror}"
            raise error_for(ReasonCode.PORT_TAKEN, detail) from error
        await self._server.begin(listener)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._server.end()


def _names_loopback(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False
