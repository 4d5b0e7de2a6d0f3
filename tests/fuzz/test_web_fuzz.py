"""The web console under schemathesis: whatever is asked of its pages and forms gets a guarded answer, nothing
that was sent comes back as markup, and the process that an agent started lives on."""

import os
import socket
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from test_api_fuzz import Bridge

from stockade.agent.client import AgentClient
from stockade.agent.paths import Paths
from stockade.console.web.guard import HEADERS
from stockade.lab.examples import STOCKADE
from stockade.lab.needs import namespaces
from stockade.lab.netns import Namespace
from stockade.model.reasons import StockadeError

schemathesis = pytest.importorskip("schemathesis")
from schemathesis import GenerationMode  # noqa: E402

SECONDS = 120
EXAMPLES = 4
HONEST = {200, 303, 400, 403, 404, 405, 408, 413, 414, 415, 421, 429, 431}
READING = {
    "/": (),
    "/series.json": (),
    "/filters": ("q", "page"),
    "/sas": ("q",),
    "/negotiations": ("q",),
    "/negotiations/{number}": (),
    "/policy": (),
    "/history": ("store",),
    "/difference": ("store", "first", "second"),
    "/explain": ("source", "destination", "protocol", "source_port", "destination_port", "direction"),
    "/timeline": ("q", "peer"),
    "/journal": ("q", "before"),
    "/login": (),
    "/link": ("ticket",),
    "/static/{name}": (),
}
WRITING = {
    "/login": ("name", "password"),
    "/sas/delete": ("peer", "token"),
    "/policy/reload": ("token",),
    "/negotiations/record": ("seconds", "token"),
}


def document() -> dict[str, Any]:
    """The pages as OpenAPI: the console has no such document, as it is for people."""
    text = {"type": "string"}
    paths: dict[str, Any] = {}
    answer = {"responses": {"200": {"description": "a page"}}}
    for path, names in READING.items():
        given_ = [{"name": name, "in": "query", "schema": text} for name in names]
        for name in ("number", "name"):
            if "{" + name + "}" in path:
                given_.append({"name": name, "in": "path", "required": True, "schema": text})
        paths.setdefault(path, {})["get"] = {"parameters": given_, **answer}
    for path, names in WRITING.items():
        form = {"type": "object", "properties": dict.fromkeys(names, text)}
        content = {"application/x-www-form-urlencoded": {"schema": form}}
        paths.setdefault(path, {})["post"] = {"requestBody": {"content": content}, **answer}
    return {"openapi": "3.0.3", "info": {"title": "pages", "version": "1"}, "paths": paths}


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """(address, cookie of an operator) of a console that its agent started."""
    if os.geteuid() != 0 or namespaces() is not None:
        pytest.skip("an agent needs root and a network namespace")
    home: Path = tmp_path_factory.mktemp("pages") / "home"
    with Namespace("pages") as namespace:
        namespace.run(["ip", "link", "set", "lo", "up"])
        agent = namespace.popen([*STOCKADE, "--home", str(home), "agent", "run", "--driver", "memory"])
        client, deadline = AgentClient(Paths.of(home).socket, timeout=60.0), time.monotonic() + SECONDS
        while True:
            try:
                web = client.get("/v1/status")["web"]
                assert web is not None, "an agent that answers says where its console is"
                if web["state"] == "waiting":
                    break
            except StockadeError:
                assert agent.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        connect = partial(namespace.call, partial(socket.create_connection, ("127.0.0.1", 8500), 60.0))
        bridge = Bridge(connect)
        ticket = client.post("/v1/web/ticket", {"role": "operator"})["ticket"]
        link = f"{bridge.url}/link?ticket={ticket}"
        signed_in = requests.get(link, allow_redirects=False, timeout=SECONDS)
        cookie = signed_in.headers["Set-Cookie"].partition(";")[0]
        first = client.get("/v1/status")["web"]
        yield bridge.url, cookie
        last = client.get("/v1/status")["web"]
        bridge.close()
        assert (last["state"], last["pid"], last["trouble"]) == ("running", first["pid"], None)
        agent.terminate()
        agent.wait(SECONDS)


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.timeout(600)
def test_every_page_answers_whatever_it_is_asked(console: tuple[str, str], mode: GenerationMode) -> None:
    url, cookie = console
    api = schemathesis.openapi.from_dict(document())
    tried, statuses = [], set()
    for found in api.get_all_operations():
        operation = found.ok()

        @settings(
            max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            headers = {"Cookie": cookie, "Origin": url}
            answer = case.call(base_url=url, headers=headers, timeout=60, allow_redirects=False)
            assert answer.status_code in HONEST, (case.as_curl_command(), answer.status_code)
            assert answer.headers["content-security-policy"] == [HEADERS[0][1].decode()]
            statuses.add(answer.status_code)
            assert "Traceback" not in answer.text
            form = case.body if isinstance(case.body, dict) else {}
            for value in (*(case.query or {}).values(), *form.values()):
                if isinstance(value, str) and len(value) > 2 and "<" in value:
                    assert value not in answer.text

        try:
            ask()
        except Unsatisfiable:  # nothing can be wrong about a page that takes nothing
            continue
        tried.append(operation.label)
    assert len(tried) > 8, tried
    assert 200 in statuses
    assert statuses & {403, 429}, statuses  # tickets that are none: refused, after some of them unread
    headers = {"Cookie": cookie, "Origin": url}
    page = requests.get(f"{url}/sas", headers=headers, allow_redirects=False, timeout=60)
    assert page.status_code == 200, "the session did not hold"
    form = {"seconds": "1", "token": "made up"}
    refused = requests.post(
        f"{url}/negotiations/record", form, headers=headers, allow_redirects=False, timeout=60
    )
    assert refused.status_code == 403, "a form without the session's token"
