"""The web console that the agent serves by itself: the first visitor starts it, it has no privileges, and it
ends with the agent however that ends."""

import http.client
import os
import time
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any

import pytest

from stockade.agent.client import AgentClient
from stockade.agent.paths import Paths
from stockade.lab.examples import STOCKADE
from stockade.lab.netns import Namespace, Network
from stockade.model.reasons import StockadeError

pytestmark = pytest.mark.timeout(600)  # for machines that are slow and busy
SECONDS = 120.0


def await_web(home: Path, fits: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """What the agent's status says of the console, once it fits."""
    client, deadline, said = (
        AgentClient(Paths.of(home).socket, timeout=60.0),
        time.monotonic() + SECONDS,
        None,
    )
    while time.monotonic() < deadline:
        try:
            said = client.get("/v1/status")["web"]
        except StockadeError:
            said = None
        if said and fits(said):
            return dict(said)
        time.sleep(0.05)
    raise AssertionError(f"the console's state is {said}")


def visit(namespace: Namespace, url: str) -> int:
    """The status of its first page."""
    host, _, port = url.removeprefix("http://").partition(":")

    def ask() -> int:
        connection = http.client.HTTPConnection(host, int(port), timeout=SECONDS)
        connection.request("GET", "/")
        status = connection.getresponse().status
        connection.close()
        return status

    return int(namespace.call(ask))


def fields_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    return {line.partition(":")[0]: line.partition(":")[2].strip() for line in lines}


def is_gone(pid: int) -> bool:
    """Zombies are: where process 1 reaps nobody, orphans stay ones."""
    try:
        return fields_of(pid)["State"].startswith("Z")
    except OSError:
        return True


def test_the_agent_serves_its_console_and_takes_it_along(tmp_path: Path) -> None:
    home = tmp_path / "home"
    command = [*STOCKADE, "--home", str(home), "agent", "run", "--driver", "memory"]
    with Network({"alpha": IPv4Interface("10.78.0.1/24")}) as network:
        start = partial(network["alpha"].popen, command)
        agent = start()
        said = await_web(home, lambda web: web["state"] == "waiting")
        assert said["url"] == "http://127.0.0.1:8500"
        assert said["pid"] is None, "nobody looked, and a process runs"
        assert visit(network["alpha"], said["url"]) == 303

        first = await_web(home, lambda web: web["state"] == "running")["pid"]
        fields = fields_of(first)
        assert fields["Uid"].split() != ["0"] * 4
        assert fields["CapEff"] == fields["CapPrm"] == "0000000000000000"
        assert fields["NoNewPrivs"] == "1"
        assert int(fields["PPid"]) == agent.pid

        os.kill(first, 9)
        told = await_web(home, lambda web: web["trouble"] is not None)
        assert "signal 9" in told["trouble"]["text"]
        assert visit(network["alpha"], said["url"]) == 303
        second = await_web(home, lambda web: web["state"] == "running")["pid"]
        assert second != first

        agent.kill()
        agent.wait(SECONDS)
        deadline = time.monotonic() + SECONDS
        while not is_gone(second):
            assert time.monotonic() < deadline, "the console outlives an agent that was killed"
            time.sleep(0.05)

        agent = start()
        await_web(home, lambda web: web["state"] == "waiting")
        assert visit(network["alpha"], said["url"]) == 303
        third = await_web(home, lambda web: web["state"] == "running")["pid"]
        agent.terminate()
        assert agent.wait(SECONDS) == 0
        assert is_gone(third)


def test_an_agent_that_is_told_so_serves_none(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    (home / "agent.toml").write_text("[web]\nserve = false\n")
    command = [*STOCKADE, "--home", str(home), "agent", "run", "--driver", "memory"]
    with Network({"alpha": IPv4Interface("10.78.0.1/24")}) as network:
        agent = network["alpha"].popen(command)
        client, deadline = AgentClient(Paths.of(home).socket, timeout=60.0), time.monotonic() + SECONDS
        while True:
            try:
                assert client.get("/v1/status")["web"] is None
                break
            except StockadeError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        with pytest.raises(ConnectionRefusedError):
            visit(network["alpha"], "http://127.0.0.1:8500")
        agent.terminate()
        agent.wait(SECONDS)
