"""The one local API: HTTP with JSON over a Unix socket, events as server-sent events.

The command line, the terminal monitor and the web console are its clients. `ROUTES` is the whole of it; the
Starlette application and the OpenAPI document (`GET /v1/openapi.json`) are both made from that table. The
socket belongs to the agent's user, mode 0600: who may open it may administer.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Protocol

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from stockade import __version__
from stockade.agent import messages, views, web_api
from stockade.agent.event_store import EventQuery, read_query
from stockade.agent.web_desk import WebDesk
from stockade.model.addresses import Address
from stockade.model.filters import Direction
from stockade.model.reasons import Fault, ReasonCode, StockadeError, error_for
from stockade.model.traffic import PROTOCOLS_WITH_PORTS, Flow
from stockade.policy.dynamic import DynamicSet
from stockade.store.dynamic import dynamic_of
from stockade.store.json_form import FormError

EVENT_QUEUE = 1000
"""Journal entries that wait for one slow reader of /v1/events; then it loses the oldest and is told how
many."""

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

MAXIMUM_BODY = 32 * 1024 * 1024

_PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132, "any": 0}


class AgentOperations(Protocol):
    """What the API asks of the service."""

    @property
    def desk(self) -> WebDesk: ...

    def status(self) -> messages.Status: ...
    def filters(self) -> messages.Filters: ...
    def sas(self) -> messages.Sas: ...
    def methods(self) -> messages.Methods: ...
    def reload(self) -> messages.Loaded: ...
    def delete_peer(self, peer: Address) -> messages.Deleted: ...
    def delete_quick_mode(self, inbound_spi: int) -> messages.Deleted: ...
    def rekey(self, inbound_spi: int) -> messages.Rekeyed: ...
    def dynamic(self, *, with_keys: bool) -> messages.Dynamic: ...
    def set_dynamic(self, version: int, objects: DynamicSet) -> messages.Loaded: ...
    def release_address(self, address: Address | None) -> messages.Released: ...
    def explain(self, flow: Flow, direction: Direction | None) -> messages.ExplanationMessage: ...
    def explain_peer(self, peer: Address) -> messages.PeerPlan: ...
    def journal(self, last: int) -> messages.JournalEntries: ...
    def events(self, query: EventQuery) -> messages.JournalEntries: ...
    def metrics(self) -> bytes: ...
    def series(self) -> messages.Series: ...
    def capture_keys(self, kept: str) -> messages.CaptureKeys: ...
    def listen(self, listener: Callable[[dict[str, object]], None]) -> Callable[[], None]: ...


@dataclass(frozen=True, slots=True)
class Parameter:
    """One query parameter."""

    name: str
    description: str
    required: bool = False


@dataclass(frozen=True, slots=True)
class Endpoint:
    method: str
    path: str
    summary: str
    answer: type[msgspec.Struct] | None
    handle: Callable[[AgentOperations, Request], msgspec.Struct]
    parameters: tuple[Parameter, ...] = ()
    body: type[msgspec.Struct] | None = None
    """What the request brings; its bytes are in `request.state.body`."""
    reads_files: bool = False
    """Takes its time and touches nothing but files: done in a thread."""


def _set_dynamic(agent: AgentOperations, request: Request) -> msgspec.Struct:
    try:
        message = msgspec.json.decode(request.state.body, type=messages.Dynamic)
        objects = dynamic_of(message.objects)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        # Never the text itself: it holds keys.
        what = str(error) if isinstance(error, FormError) else type(error).__name__
        raise error_for(ReasonCode.SYNTAX, f"the dynamic objects cannot be read: {what}") from None
    return agent.set_dynamic(message.version, objects)


def _explain(agent: AgentOperations, request: Request) -> msgspec.Struct:
    source = _address(_required(request, "source"), "source")
    destination = _address(_required(request, "destination"), "destination")
    word = request.query_params.get("protocol", "any").lower()
    protocol = _PROTOCOLS.get(word, -1) if not word.isdecimal() else int(word)
    if not 0 <= protocol <= 255:
        raise error_for(ReasonCode.SYNTAX, f"protocol {word!r}: expected tcp, udp, icmp or a number 0–255")
    ports = [_port(request, name) for name in ("source_port", "destination_port")]
    if any(ports) and protocol not in PROTOCOLS_WITH_PORTS:
        raise error_for(ReasonCode.SYNTAX, f"a port needs protocol tcp or udp, not {word!r}")
    if source.version != destination.version:
        raise error_for(ReasonCode.SYNTAX, f"{source} and {destination} are of different address families")
    wanted = request.query_params.get("direction")
    if wanted not in (None, "inbound", "outbound"):
        raise error_for(ReasonCode.SYNTAX, f"direction {wanted!r}: expected inbound or outbound")
    direction = Direction(wanted) if wanted else None
    return agent.explain(Flow(source, destination, protocol, ports[0], ports[1]), direction)


def _release(agent: AgentOperations, request: Request) -> msgspec.Struct:
    text = request.query_params.get("address")
    return agent.release_address(_address(text, "address") if text else None)


def _journal(agent: AgentOperations, request: Request) -> msgspec.Struct:
    last = request.query_params.get("last", "100")
    if not last.isdecimal():
        raise error_for(ReasonCode.SYNTAX, f"last {last!r}: expected a number")
    return agent.journal(int(last))


def _kept(request: Request) -> str:
    word = request.query_params.get("kept") or "file"
    if word not in ("file", "memory"):
        raise error_for(ReasonCode.SYNTAX, f"kept {word[:40]!r}: expected file or memory")
    return word


def _spi(request: Request) -> int:
    text = _required(request, "spi")
    try:
        spi = int(text, 16)
    except ValueError:
        spi = -1
    if not 0 < spi < 1 << 32:
        raise error_for(ReasonCode.SYNTAX, f"spi {text!r}: expected 0x and eight hexadecimal digits")
    return spi


_SPI = Parameter("spi", "our inbound SPI, 0x…", required=True)

_FLOW_PARAMETERS = (
    Parameter("source", "source address", required=True),
    Parameter("destination", "destination address", required=True),
    Parameter("protocol", "tcp, udp, icmp, any or a number"),
    Parameter("source_port", "0 or absent: any"),
    Parameter("destination_port", "0 or absent: any"),
    Parameter("direction", "inbound or outbound; absent: what the local addresses say"),
)

ROUTES = (
    Endpoint("GET", "/v1/status", "How the agent is", messages.Status, lambda agent, _: agent.status()),
    Endpoint(
        "GET", "/v1/filters", "The filter table in force", messages.Filters, lambda agent, _: agent.filters()
    ),
    Endpoint("GET", "/v1/sas", "Main-mode and quick-mode SAs", messages.Sas, lambda agent, _: agent.sas()),
    Endpoint(
        "GET",
        "/v1/methods",
        "The main-mode and quick-mode policies in force, without keys",
        messages.Methods,
        lambda agent, _: agent.methods(),
    ),
    Endpoint(
        "GET",
        "/v1/explain",
        "What happens to a packet and why",
        messages.ExplanationMessage,
        _explain,
        _FLOW_PARAMETERS,
    ),
    Endpoint(
        "GET",
        "/v1/explain/peer",
        "When a silent peer counts as dead, and why",
        messages.PeerPlan,
        lambda agent, request: agent.explain_peer(_address(_required(request, "peer"), "peer")),
        (Parameter("peer", "the peer's address", required=True),),
    ),
    Endpoint(
        "GET",
        "/v1/journal",
        "The newest journal entries",
        messages.JournalEntries,
        _journal,
        (Parameter("last", "how many, 100 by default"),),
    ),
    Endpoint(
        "GET",
        "/v1/events/history",
        "Events that were, also before this start, oldest first",
        messages.JournalEntries,
        lambda agent, request: agent.events(read_query(request.query_params)),
        (
            Parameter("last", "how many at most, the newest ones; 100 by default, 10000 at most"),
            Parameter("since", "an ISO 8601 time, or seconds since 1970"),
            Parameter("until", "the same"),
            Parameter("id", "Windows event ids, with commas between them"),
            Parameter("kind", "kinds of events, such as main-mode-failed, with commas"),
            Parameter("reason", "reasons, such as psk-mismatch, with commas"),
            Parameter("peer", "events with this address"),
            Parameter("before", "only events with a smaller number: the page before"),
            Parameter("after", "only events with a larger number"),
        ),
        reads_files=True,
    ),
    Endpoint(
        "POST",
        "/v1/policy/reload",
        "Read the policy store again now",
        messages.Loaded,
        lambda agent, _: agent.reload(),
    ),
    Endpoint(
        "POST",
        "/v1/capture/keys",
        "Give out the keys of all SAs, to decrypt a capture with; the journal tells of it",
        messages.CaptureKeys,
        lambda agent, request: agent.capture_keys(_kept(request)),
        (Parameter("kept", "where they are kept: file (default) or memory; the event says so"),),
    ),
    Endpoint(
        "GET",
        "/v1/policy",
        "The policies of all stores, without keys",
        messages.PolicyTree,
        lambda agent, _: agent.desk.policy(),
    ),
    Endpoint(
        "GET",
        "/v1/policy/history",
        "The revisions of a store",
        messages.History,
        web_api.history,
        (Parameter("store", "local (default) or persistent"),),
    ),
    Endpoint(
        "GET",
        "/v1/policy/difference",
        "What changed between two revisions",
        messages.Difference,
        web_api.difference,
        (
            Parameter("store", "local (default) or persistent"),
            Parameter("first", "the older revision", required=True),
            Parameter("second", "the newer one; absent: the store as it is now"),
        ),
    ),
    Endpoint(
        "GET",
        "/v1/negotiations",
        "The stories of the newest negotiations, while they are recorded",
        messages.Negotiations,
        web_api.negotiations,
        (
            Parameter("last", "how many, 50 by default, at most 100"),
            Parameter("watch", "go on telling them for so many seconds (0–60): somebody is looking"),
        ),
    ),
    Endpoint(
        "POST",
        "/v1/negotiations/record",
        "Record the stories of negotiations for some time",
        messages.Recording,
        web_api.record,
        (Parameter("seconds", "0 (stop) to 3600, 600 by default"),),
    ),
    Endpoint(
        "GET",
        "/v1/series",
        "The figures of the last hour, for plots",
        messages.Series,
        lambda agent, _: agent.series(),
    ),
    Endpoint(
        "POST",
        "/v1/web/ticket",
        "A way into the web console, good once",
        messages.WebTicket,
        web_api.ticket,
        (Parameter("role", "viewer or operator (default)"),),
    ),
    Endpoint(
        "POST",
        "/v1/web/redeem",
        "What a ticket is good for (for the web console)",
        messages.WebEntry,
        web_api.redeem,
        body=messages.WebKey,
    ),
    Endpoint(
        "POST",
        "/v1/web/report",
        "Write into the journal what the web console refused or somebody did in it",
        messages.Noted,
        web_api.report,
        body=messages.WebReport,
    ),
    Endpoint(
        "GET",
        "/v1/dynamic",
        "The objects of the dynamic store",
        messages.Dynamic,
        lambda agent, request: agent.dynamic(with_keys=request.query_params.get("keys") == "yes"),
        (Parameter("keys", "yes: with pre-shared keys"),),
    ),
    Endpoint(
        "PUT",
        "/v1/dynamic",
        "Put dynamic objects in force in place of those that there are",
        messages.Loaded,
        _set_dynamic,
        body=messages.Dynamic,
    ),
    Endpoint(
        "POST",
        "/v1/sas/delete",
        "Delete all SAs with one peer and tell it",
        messages.Deleted,
        lambda agent, request: agent.delete_peer(_address(_required(request, "peer"), "peer")),
        (Parameter("peer", "the peer's address", required=True),),
    ),
    Endpoint(
        "POST",
        "/v1/sas/quick/delete",
        "Delete one quick mode and tell the peer",
        messages.Deleted,
        lambda agent, request: agent.delete_quick_mode(_spi(request)),
        (_SPI,),
    ),
    Endpoint(
        "POST",
        "/v1/sas/quick/rekey",
        "Make a quick mode anew; the old one goes on until then",
        messages.Rekeyed,
        lambda agent, request: agent.rekey(_spi(request)),
        (_SPI,),
    ),
    Endpoint(
        "POST",
        "/v1/cluster/release",
        "Say good-bye to all peers on a virtual address that is going to be moved",
        messages.Released,
        _release,
        (Parameter("address", "the virtual address; absent: all that this node has"),),
    ),
)


def application(agent: AgentOperations, only: frozenset[tuple[str, str]] | None = None) -> Starlette:
    """The ASGI application over `agent`; with `only` it has those methods and paths alone."""

    def plain(endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
        async def handler(request: Request) -> Response:
            try:
                if endpoint.body is not None:
                    request.state.body = await _body(request)
                if endpoint.reads_files:
                    answer = await asyncio.to_thread(endpoint.handle, agent, request)
                else:
                    answer = endpoint.handle(agent, request)
            except StockadeError as error:
                status = 400 if error.reason.code.fault is Fault.CALLER else 503
                message = views.reason_message(error.reason)
                return Response(msgspec.json.encode(message), status, media_type="application/json")
            return Response(msgspec.json.encode(answer), media_type="application/json")

        return handler

    async def events(_: Request) -> Response:
        headers = {"Cache-Control": "no-store"}
        return StreamingResponse(_events(agent), media_type="text/event-stream", headers=headers)

    async def document(_: Request) -> Response:
        return JSONResponse(openapi())

    async def metrics(_: Request) -> Response:
        return metrics_answer(agent)

    routes = [
        Route(endpoint.path, plain(endpoint), methods=[endpoint.method])
        for endpoint in ROUTES
        if only is None or (endpoint.method, endpoint.path) in only
    ]
    if only is not None:
        return Starlette(routes=routes)
    routes.append(Route("/v1/events", events, methods=["GET"]))
    routes.append(Route("/metrics", metrics, methods=["GET"]))
    routes.append(Route("/v1/openapi.json", document, methods=["GET"]))
    return Starlette(routes=routes)


def metrics_answer(agent: AgentOperations) -> Response:
    """The figures as Prometheus reads them; 503 with the reason where the data plane cannot be asked."""
    try:
        return Response(agent.metrics(), media_type=METRICS_TYPE)
    except StockadeError as error:
        return Response(f"{error}\n", 503, media_type="text/plain")


def openapi() -> dict[str, Any]:
    """The OpenAPI 3.1 document of the API."""
    bodies = [endpoint.body for endpoint in ROUTES if endpoint.body]
    structs = [
        messages.ReasonMessage,
        *bodies,
        *(endpoint.answer for endpoint in ROUTES if endpoint.answer),
    ]
    template = "#/components/schemas/{name}"
    references, components = msgspec.json.schema_components(structs, ref_template=template)
    refusal = {"description": "Refused", "content": {"application/json": {"schema": references[0]}}}
    taken = iter(references[1 : 1 + len(bodies)])
    answers = iter(references[1 + len(bodies) :])
    paths: dict[str, Any] = {}
    for endpoint in ROUTES:
        content = {"application/json": {"schema": next(answers)}} if endpoint.answer else {}
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = {
            "summary": endpoint.summary,
            "parameters": [
                {
                    "name": parameter.name,
                    "in": "query",
                    "required": parameter.required,
                    "description": parameter.description,
                    "schema": {"type": "string"},
                }
                for parameter in endpoint.parameters
            ],
            "responses": {"200": {"description": "OK", "content": content}, "400": refusal, "503": refusal},
        }
        if endpoint.body:
            paths[endpoint.path][endpoint.method.lower()]["requestBody"] = {
                "required": True,
                "content": {"application/json": {"schema": next(taken)}},
            }
    paths["/v1/events"] = {
        "get": {
            "summary": "Journal entries as they come (server-sent events)",
            "responses": {"200": {"description": "OK", "content": {"text/event-stream": {}}}},
        }
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Stockade agent", "version": __version__},
        "paths": paths,
        "components": {"schemas": components},
    }


async def _events(agent: AgentOperations) -> AsyncIterator[bytes]:
    queue: asyncio.Queue[dict[str, object]] = asyncio.Queue(EVENT_QUEUE)
    lost = 0

    def listener(record: dict[str, object]) -> None:
        nonlocal lost
        if queue.full():
            queue.get_nowait()
            lost += 1
        queue.put_nowait(record)

    stop = agent.listen(listener)
    try:
        yield b": stockade journal\n\n"
        while True:
            record = await queue.get()
            if lost:
                record, lost = {**record, "lost_before": lost}, 0
            yield f"event: {record['kind']}\ndata: {json.dumps(record, ensure_ascii=False)}\n\n".encode()
    finally:
        stop()


async def _body(request: Request) -> bytes:
    """The request's body; CallerError where it is longer than any honest one."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAXIMUM_BODY:
            raise error_for(ReasonCode.SYNTAX, f"the request has more than {MAXIMUM_BODY} bytes")
    return bytes(body)


def _required(request: Request, name: str) -> str:
    value = request.query_params.get(name)
    if not value:
        raise error_for(ReasonCode.SYNTAX, f"parameter {name} is missing")
    return value


def _address(text: str, name: str) -> Address:
    try:
        return ip_address(text)
    except ValueError:
        raise error_for(ReasonCode.SYNTAX, f"{name} {text!r}: expected an IP address") from None


def _port(request: Request, name: str) -> int:
    text = request.query_params.get(name) or "0"
    if not text.isdecimal() or int(text) > 65_535:
        raise error_for(ReasonCode.SYNTAX, f"{name} {text!r}: expected a number 0–65535")
    return int(text)
