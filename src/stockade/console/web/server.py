"""The web console as a process: port, TLS, limits of connections, privileges."""

import asyncio
import os
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from stockade.agent.client import AgentClient
from stockade.agent.paths import Paths
from stockade.agent.web_settings import WebSettings, listen_on
from stockade.console.web.accounts import Account, make_accounts_folder, read_accounts
from stockade.console.web.door import AGENT_SECONDS, Folder, Reporter, die_with, give_up_privileges
from stockade.console.web.guard import Guard
from stockade.console.web.pages import Console, application
from stockade.console.web.sessions import Sessions, Tries
from stockade.model.reasons import ReasonCode, StockadeError, error_for

MAXIMUM_CONNECTIONS = 100
MAXIMUM_OF_ONE = 30
REQUEST_SECONDS = 15.0
"""From its first byte (or the connection) to the end of its answer."""

HANDSHAKE_SECONDS = 8.0
MAXIMUM_HEAD = 16 * 1024
KEEP_ALIVE_SECONDS = 10
LEAVE_SECONDS = 900.0
"""So long without a request, and with no session left, the agent's console ends."""


class AccountsKeeper:
    """The accounts as the file has them now. Where it cannot be read, nobody gets in, and nobody stays."""

    def __init__(self, folder: Path, sessions: Sessions) -> None:
        self._folder = folder
        self._sessions = sessions
        self._seen: tuple[int, int] | None = (-1, -1)
        self.accounts: dict[str, Account] = {}
        self.trouble: StockadeError | None = None

    def refresh(self) -> None:
        try:
            state = (self._folder / "accounts.json").stat()
            seen: tuple[int, int] | None = (state.st_mtime_ns, state.st_ino)
        except OSError:
            seen = None
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self.accounts, self.trouble = read_accounts(self._folder), None
        except StockadeError as error:
            self.accounts, self.trouble = {}, error
        known = {one.name: one.role for one in self.accounts.values()}
        self._sessions.end_all_of(lambda one: one.name.startswith("(") or known.get(one.name) == one.role)


class _BoundedProtocol(H11Protocol):
    """HTTP/1.1 with a deadline for every request, and few connections from one address."""

    report: Callable[..., None] = staticmethod(lambda *_words, **_facts: None)
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        own = self.client[0] if self.client else ""
        same = sum((getattr(one, "client", None) or ("",))[0] == own for one in self.connections)
        if len(self.connections) > MAXIMUM_CONNECTIONS or same > MAXIMUM_OF_ONE:
            self.report("request", "too many connections", address=own)
            transport.abort()
            return
        self._begin()

    def data_received(self, data: bytes) -> None:
        if self._deadline is None:
            self._begin()
        super().data_received(data)

    def on_response_complete(self) -> None:
        self._end()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()
        super().connection_lost(exc)

    def _begin(self) -> None:
        self._deadline = self.loop.call_later(REQUEST_SECONDS, self._too_slow)

    def _end(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        self.report("request", "a request that took too long", address=self.client[0] if self.client else "")
        self.transport.abort()


class _Loop(asyncio.SelectorEventLoop):
    """asyncio gives a TLS handshake a minute, while nobody counts the connection; ours a few seconds."""

    async def create_server(self, *words: Any, **settings: Any) -> asyncio.Server:
        if settings.get("ssl") is not None:
            settings["ssl_handshake_timeout"] = HANDSHAKE_SECONDS
        return await super().create_server(*words, **settings)


class _Server(uvicorn.Server):
    """Ends by itself where it is an agent's child and nobody needs it: the next visitor starts another."""

    def __init__(self, config: uvicorn.Config, sessions: Sessions, last_use: Callable[[], float]) -> None:
        super().__init__(config)
        self._sessions = sessions
        self._last_use = last_use
        self.leaves = False

    async def on_tick(self, counter: int) -> bool:
        done = await super().on_tick(counter)
        if self.leaves and counter % 50 == 0 and time.monotonic() - self._last_use() > LEAVE_SECONDS:
            done = done or not self._sessions.any_open()
        return done


def run_web(
    paths: Paths, settings: WebSettings, ready: Callable[[str], None], agent: tuple[int, int] | None = None
) -> None:
    """Serve until told to stop. `agent` is (process, descriptor of the listening socket) of an agent whose
    child this is: it ends with it. Errors: AGENT_NOT_RUNNING (its door is not there), NOT_PRIVILEGED,
    PORT_TAKEN, INVALID_SETTING, STATE_UNUSABLE."""
    listener = listen_on(settings) if agent is None else _taken_over(agent[1])
    make_accounts_folder(paths.web_accounts)
    door, folder = Folder.hold(paths.web_door), Folder.hold(paths.web_accounts)
    if not settings.address.is_loopback and not read_accounts(folder.path):
        raise error_for(
            ReasonCode.INVALID_SETTING,
            f"listen {settings.address} is not loopback and there is no account: stockade web user add NAME",
            file=paths.web_settings,
        )
    client = AgentClient(door.path / "api.sock", AGENT_SECONDS)
    sessions = Sessions(settings.session_seconds, time.monotonic)
    keeper = AccountsKeeper(folder.path, sessions)
    reporter_slot: list[Reporter] = []

    def report(kind: str, text: str, **facts: object) -> None:
        reporter_slot[0].tell(kind, text, **facts)

    console = Console(client, settings, sessions, Tries(time.monotonic), keeper, report)
    guarded = Guard(application(console), settings, sessions, report, keeper.refresh)
    protocol = type("Protocol", (_BoundedProtocol,), {"report": staticmethod(report)})
    config = uvicorn.Config(
        guarded,
        http=protocol,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=MAXIMUM_HEAD,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=2,
    )
    config.load()
    if settings.secure:
        config.ssl = _tls(settings)
    _load_the_rest()
    give_up_privileges(settings.user)
    if agent is not None:
        die_with(agent[0])  # after the change of user, which forgets it
    reporter_slot.append(Reporter(client))
    ready(settings.url_on(listener))
    server = _Server(config, sessions, lambda: guarded.last_use)
    server.leaves = agent is not None
    with asyncio.Runner(loop_factory=_Loop) as runner:
        runner.run(server.serve(sockets=[listener]))


def _tls(settings: WebSettings) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.certificate, settings.key)
    except (OSError, ssl.SSLError) as error:
        raise error_for(
            ReasonCode.INVALID_SETTING,
            f"certificate and key: {error.strerror or error}",
            file=settings.certificate,
        ) from error
    return context


def _taken_over(descriptor: int) -> socket.socket:
    """The socket that the agent listens on. CallerError where it is none."""
    try:
        listener = socket.socket(fileno=descriptor)
        listens = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError:
        listens = 0
    if not listens:
        raise error_for(ReasonCode.SYNTAX, f"descriptor {descriptor} is no socket that listens")
    os.set_inheritable(descriptor, False)
    return listener


def _load_the_rest() -> None:
    """What the libraries would import at the first request; nobody may be unable to read it by then."""
    import encodings.idna  # noqa: F401

    import uvicorn.lifespan.off  # noqa: F401
