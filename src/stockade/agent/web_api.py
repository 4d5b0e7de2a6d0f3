"""The endpoints that the web console needs, and which endpoints its own door has.

The door (`Paths.web_door`) is for a process without privileges: what it lacks are the dynamic store (which
holds keys) and the making of tickets. Whoever breaks into the web console can do what an operator can, and
no more."""

from typing import TYPE_CHECKING, TypeVar

import msgspec
from starlette.requests import Request

from stockade.agent import messages
from stockade.model.reasons import ReasonCode, error_for

if TYPE_CHECKING:
    from stockade.agent.api import AgentOperations

_Message = TypeVar("_Message", bound=msgspec.Struct)

STORES = ("local", "persistent")

DOOR = frozenset(
    {
        ("GET", "/v1/status"),
        ("GET", "/v1/filters"),
        ("GET", "/v1/sas"),
        ("GET", "/v1/explain"),
        ("GET", "/v1/explain/peer"),
        ("GET", "/v1/journal"),
        ("GET", "/v1/events/history"),
        ("GET", "/v1/policy"),
        ("GET", "/v1/policy/history"),
        ("GET", "/v1/policy/difference"),
        ("GET", "/v1/negotiations"),
        ("GET", "/v1/series"),
        ("POST", "/v1/negotiations/record"),
        ("POST", "/v1/policy/reload"),
        ("POST", "/v1/sas/delete"),
        ("POST", "/v1/web/redeem"),
        ("POST", "/v1/web/report"),
    }
)


def whole_number(request: Request, name: str, default: str = "") -> int:
    """A query parameter as a number; CallerError where it is none."""
    text = request.query_params.get(name) or default
    if not text.isdecimal() or len(text) > 9:
        raise error_for(ReasonCode.SYNTAX, f"{name} {text[:40]!r}: expected a number")
    return int(text)


def store_name(request: Request) -> str:
    name = request.query_params.get("store") or "local"
    if name not in STORES:
        raise error_for(ReasonCode.SYNTAX, f"store {name[:40]!r}: expected {' or '.join(STORES)}")
    return name


def history(agent: "AgentOperations", request: Request) -> msgspec.Struct:
    return agent.desk.history(store_name(request))


def difference(agent: "AgentOperations", request: Request) -> msgspec.Struct:
    second = whole_number(request, "second") if request.query_params.get("second") else None
    return agent.desk.difference(store_name(request), whole_number(request, "first"), second)


def negotiations(agent: "AgentOperations", request: Request) -> msgspec.Struct:
    seconds = whole_number(request, "watch", "0")
    return agent.desk.negotiations(whole_number(request, "last", "50"), watch=seconds)


def record(agent: "AgentOperations", request: Request) -> msgspec.Struct:
    return agent.desk.record(whole_number(request, "seconds", "600"))


def ticket(agent: "AgentOperations", request: Request) -> msgspec.Struct:
    return agent.desk.ticket(request.query_params.get("role") or "operator")


def redeem(agent: "AgentOperations", request: Request) -> msgspec.Struct:
    return agent.desk.redeem(_decode(request, messages.WebKey).ticket)


def report(agent: "AgentOperations", request: Request) -> msgspec.Struct:
    return agent.desk.report(_decode(request, messages.WebReport))


def _decode(request: Request, kind: type[_Message]) -> _Message:
    try:
        return msgspec.json.decode(request.state.body, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise error_for(ReasonCode.SYNTAX, f"the request cannot be read: {type(error).__name__}") from None
