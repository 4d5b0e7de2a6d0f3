"""The agent's API under schemathesis: whatever the OpenAPI document allows, and what it does not, gets an
answer that the document describes; a real agent answers, over its socket, and lives on."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable

from stockade.agent.client import AgentClient
from stockade.agent.paths import Paths
from stockade.lab.needs import namespaces
from stockade.lab.netns import Namespace
from stockade.model.reasons import StockadeError

schemathesis = pytest.importorskip("schemathesis")
from schemathesis import GenerationMode  # noqa: E402
from schemathesis.checks import load_all_checks  # noqa: E402
from schemathesis.specs.openapi.checks import (  # noqa: E402
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [response_schema_conformance, content_type_conformance, status_code_conformance]
START_SECONDS = 120
EXAMPLES = 15


class Bridge:
    """TCP on loopback to a Unix socket, or into a namespace, for a client that knows neither."""

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        self._connect = connect
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = self._connect()
            except OSError:
                near.close()
                continue
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=pump, args=(one, other), daemon=True).start()

    def close(self) -> None:
        self._listener.close()


def connect_to(path: Path) -> socket.socket:
    far = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    far.connect(str(path))
    return far


def pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while piece := source.recv(65_536):
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        source.close()
        target.close()


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentClient]:
    """An agent that moves no packets, in a namespace of its own."""
    if os.geteuid() != 0 or namespaces() is not None:
        pytest.skip("an agent needs root and a network namespace")
    home = tmp_path_factory.mktemp("api") / "home"
    command = [sys.executable, "-m", "stockade.console.main", "--home", str(home), "agent", "run"]
    with Namespace("api") as namespace:
        process = namespace.popen([*command, "--driver", "memory"])
        client = AgentClient(Paths.of(home).socket, timeout=60.0)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                client.get("/v1/status")
                break
            except StockadeError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield client
        assert process.poll() is None, "the agent did not live through it"
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


@pytest.fixture(scope="module")
def api(agent: AgentClient) -> Iterator[object]:
    load_all_checks()
    bridge = Bridge(partial(connect_to, agent._path))
    yield schemathesis.openapi.from_url(f"{bridge.url}/v1/openapi.json").exclude(path="/v1/events")
    bridge.close()


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.timeout(600)
def test_every_answer_is_one_that_the_document_describes(api, agent: AgentClient, mode) -> None:  # type: ignore[no-untyped-def]
    tried = []
    for found in api.get_all_operations():
        operation = found.ok()

        @settings(
            max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case) -> None:  # type: ignore[no-untyped-def]
            answer = case.call(timeout=60)
            assert answer.status_code != 500, answer.text
            if answer.status_code in (404, 405):  # a method or path that is not in the document
                return
            case.validate_response(answer, checks=CHECKS)
            if answer.status_code >= 400:
                assert answer.json()["reason"], answer.text
                assert "Traceback" not in answer.text

        try:
            ask()
        except Unsatisfiable:  # nothing can be wrong about an operation that takes nothing
            continue
        tried.append(operation.label)
    assert len(tried) > 8, tried
