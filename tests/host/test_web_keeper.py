"""The web console as the agent's child: when it starts, how it ends, what is told. The children here are
small programs; the real one is in tests/host/test_web_served.py."""

import asyncio
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from stockade.agent import web_keeper
from stockade.agent.journal import Entry
from stockade.agent.paths import Paths
from stockade.agent.web_keeper import WebKeeper, WebState
from stockade.model.reasons import ReasonCode

ANSWERS = """
import json, socket, sys
listener = socket.socket(fileno=int(sys.argv[1].partition(":")[2]))
listener.setblocking(True)
print(json.dumps({"ready": True}), flush=True)
while True:
    connection, _ = listener.accept()
    asked = connection.recv(10)
    connection.sendall(b"hello")
    connection.close()
    if asked == b"leave":
        sys.exit(0)
"""
FAILS = "import sys; sys.exit('stockade: no certificate\\nwhat to do: set one')"


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_keeper, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(web_keeper, "FIRST_PAUSE", 0.1)


def keeper_of(home: Path, program: str, told: list[Entry], listen: str = "127.0.0.1:0") -> WebKeeper:
    (home / "web.toml").write_text(f'listen = "{listen}"\n')
    return WebKeeper(Paths.of(home), told.append, (sys.executable, "-c", program))


async def until(fits: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not fits():
            await asyncio.sleep(0.01)


async def ask(keeper: WebKeeper, words: bytes = b"hi") -> bytes:
    port = int(keeper.url.rpartition(":")[2])
    async with asyncio.timeout(60):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(words)
        answer = await reader.read()
        writer.close()
    return answer


async def begun(keeper: WebKeeper) -> int:
    """A first visitor has come; the child's number."""
    await until(lambda: keeper.url)
    await ask(keeper)
    await until(lambda: keeper.state is WebState.RUNNING)
    assert keeper.pid is not None
    return keeper.pid


def run(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(story())  # type: ignore[arg-type]


def alive(pid: int | None) -> bool:
    assert pid is not None
    return Path(f"/proc/{pid}/stat").exists()


def test_the_first_visitor_starts_it_and_the_end_of_the_agent_ends_it(tmp_path: Path) -> None:
    told: list[Entry] = []

    async def story() -> None:
        async with keeper_of(tmp_path, ANSWERS, told) as keeper:
            await until(lambda: keeper.state is WebState.WAITING)
            await asyncio.sleep(0.2)
            assert (keeper.state, keeper.pid) == (WebState.WAITING, None), "nobody came"
            assert await ask(keeper) == b"hello"
            await until(lambda: keeper.state is WebState.RUNNING)
            child = keeper.pid
            assert alive(child)
            assert await ask(keeper) == b"hello"
            assert keeper.pid == child
        assert not alive(child)
        assert keeper.pid is None

    run(story)
    assert told == []


def test_one_that_is_killed_is_told_and_started_again(tmp_path: Path) -> None:
    told: list[Entry] = []

    async def story() -> None:
        async with keeper_of(tmp_path, ANSWERS, told) as keeper:
            first = await begun(keeper)
            os.kill(first, 9)
            await until(lambda: told)
            assert keeper.trouble is not None
            assert await ask(keeper) == b"hello"
            await until(lambda: keeper.state is WebState.RUNNING)
            assert keeper.pid != first
            assert keeper.trouble is None, "what is over is no trouble"

    run(story)
    assert [entry.kind for entry in told] == ["web-console-ended"]
    assert "signal 9" in str(told[0].reason)


def test_one_that_leaves_by_itself_is_no_fault(tmp_path: Path) -> None:
    told: list[Entry] = []

    async def story() -> None:
        async with keeper_of(tmp_path, ANSWERS, told) as keeper:
            await until(lambda: keeper.url)
            assert await ask(keeper, b"leave") == b"hello"
            await until(lambda: keeper.state is WebState.WAITING and keeper.pid is None)
            assert await ask(keeper) == b"hello"

    run(story)
    assert told == []


def test_what_it_said_at_its_end_is_told_once_and_the_pauses_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Entry] = []
    starts = tmp_path / "starts"
    counting = f"open({str(starts)!r}, 'a').write('x')\n{FAILS}"
    monkeypatch.setattr(web_keeper, "LONGEST_PAUSE", 0.2)

    async def story() -> None:
        async with keeper_of(tmp_path, counting, told) as keeper:
            await until(lambda: keeper.url)
            port = int(keeper.url.rpartition(":")[2])
            with socket.create_connection(("127.0.0.1", port)):
                await until(lambda: starts.exists() and len(starts.read_text()) >= 3)
            assert keeper.trouble is not None
            assert keeper.trouble.code is ReasonCode.WEB_CONSOLE_ENDED

    run(story)
    assert len(told) == 1
    assert "exit status 1: stockade: no certificate what to do: set one" in str(told[0].reason)


def test_a_new_address_in_the_settings_needs_no_new_agent(tmp_path: Path) -> None:
    told: list[Entry] = []

    async def story() -> None:
        async with keeper_of(tmp_path, ANSWERS, told) as keeper:
            child = await begun(keeper)
            before = keeper.url
            (tmp_path / "web.toml").write_text('listen = "127.0.0.2:0"\n')
            await until(lambda: keeper.state is WebState.WAITING and keeper.url != before)
            assert keeper.url.startswith("http://127.0.0.2:")
            assert not alive(child)
            (tmp_path / "web.toml").write_text('lisen = "127.0.0.2:0"\n')
            await until(lambda: keeper.state is WebState.CLOSED)
            assert keeper.trouble is not None
            assert keeper.trouble.code is ReasonCode.INVALID_SETTING

    run(story)
    assert [entry.kind for entry in told] == ["web-console-not-served"]


def test_a_port_that_somebody_has_is_told_once_and_taken_when_it_is_free(tmp_path: Path) -> None:
    told: list[Entry] = []

    async def story() -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            keeper = keeper_of(tmp_path, ANSWERS, told, f"127.0.0.1:{port}")
            async with keeper:
                await until(lambda: keeper.trouble is not None)
                await asyncio.sleep(0.3)
                assert keeper.trouble is not None
                assert keeper.trouble.code is ReasonCode.PORT_TAKEN
                assert keeper.state is WebState.CLOSED
                other.close()
                await until(lambda: keeper.state is WebState.WAITING)
                assert await ask(keeper) == b"hello"

    run(story)
    assert [entry.kind for entry in told] == ["web-console-not-served"]
