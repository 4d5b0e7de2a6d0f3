"""`/v1/dynamic`: read with and without keys, put back as a whole, refuse anything else."""

import json

import pytest
from starlette.testclient import TestClient

from stockade.agent import api, messages
from stockade.agent.api import application, openapi
from stockade.model.negotiation import PresharedKey
from stockade.model.secret import Secret
from stockade.policy.dynamic import DynamicRule, DynamicSet, MainModePolicyObject, QuickModePolicyObject
from stockade.policy.objects import Filter, FilterAddress
from stockade.store.dynamic import DynamicMemory, dynamic_form

RULE = DynamicRule(
    Filter(FilterAddress.me(), FilterAddress.any()),
    "M",
    "Q",
    authentication=(PresharedKey(Secret(b"\xabkey")),),
)
OBJECTS = DynamicSet((MainModePolicyObject("M"),), (QuickModePolicyObject("Q"),), (RULE,))


class Agent:
    def __init__(self) -> None:
        self.memory = DynamicMemory()

    def dynamic(self, *, with_keys: bool) -> messages.Dynamic:
        objects = dynamic_form(self.memory.read(), with_keys=with_keys)
        return messages.Dynamic(version=self.memory.version, objects=objects)

    def set_dynamic(self, version: int, objects: DynamicSet) -> messages.Loaded:
        self.memory.require_version(version)
        self.memory.replace(objects)
        return messages.Loaded(policy=None, filters=0, refused=None)


@pytest.fixture
def agent() -> Agent:
    return Agent()


@pytest.fixture
def client(agent: Agent) -> TestClient:
    return TestClient(application(agent))  # type: ignore[arg-type]


def test_there_and_back(client: TestClient, agent: Agent) -> None:
    version = client.get("/v1/dynamic").json()["version"]
    form = dynamic_form(OBJECTS, with_keys=True)
    answer = client.put("/v1/dynamic", json={"version": version, "objects": form})
    assert answer.status_code == 200
    assert agent.memory.read() == OBJECTS
    assert "ab6b6579" not in client.get("/v1/dynamic").text
    assert client.get("/v1/dynamic?keys=yes").json()["objects"] == json.loads(json.dumps(form))
    late = client.put("/v1/dynamic", json={"version": version, "objects": form})
    assert (late.status_code, late.json()["reason"]) == (503, "store-busy")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'{"version": 1}',
        b'{"version": "x", "objects": {}}',
        b'{"version": 1, "objects": {"rules": []}}',
        b"\xff",
        b"[" * 10_000,
        b'{"version": 1, "objects": {"main_mode_policies": [], "quick_mode_policies": [], "rules": [7]}}',
    ],
)
def test_anything_else_is_refused(client: TestClient, agent: Agent, body: bytes) -> None:
    answer = client.put("/v1/dynamic", content=body)
    assert (answer.status_code, answer.json()["reason"]) == (400, "syntax")
    assert agent.memory.read() == DynamicSet()


def test_a_body_without_end_is_refused(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "MAXIMUM_BODY", 1000)
    answer = client.put("/v1/dynamic", content=b" " * 1001)
    assert answer.status_code == 400
    assert "1000" in answer.json()["text"]


def test_a_refusal_holds_no_key(client: TestClient) -> None:
    form = json.loads(json.dumps(dynamic_form(OBJECTS, with_keys=True)))
    form["rules"][0]["authentication"][0]["method"] = "other"
    answer = client.put("/v1/dynamic", json={"version": 1, "objects": form})
    assert answer.status_code == 400
    assert "ab6b6579" not in answer.text


def test_the_document_names_the_body() -> None:
    put = openapi()["paths"]["/v1/dynamic"]["put"]
    assert put["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/Dynamic")
    assert openapi()["paths"]["/v1/dynamic"]["get"]["responses"]["200"]["content"]["application/json"][
        "schema"
    ]
