"""The pages. Each asks the agent what it shows, and says in the page where the agent has no answer."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from threading import BoundedSemaphore
from typing import Any, Protocol

import jinja2
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from stockade import __version__
from stockade.agent.client import AgentClient
from stockade.agent.web_settings import WebSettings
from stockade.console.web import pictures
from stockade.console.web.accounts import Account, verify
from stockade.console.web.guard import Report, cookie_name
from stockade.console.web.sessions import Sessions, Tries
from stockade.model.reasons import Fault, StockadeError

ROWS = 100
"""Rows of a page of a table."""

LOGINS_AT_ONCE = 2
"""Passwords that are checked at the same time: each takes 32 MiB and a tenth of a second."""

PROTOCOLS = ("any", "tcp", "udp", "icmp", "icmpv6")
RECORD_SECONDS = 600

NAVIGATION = (
    ("/", "Overview", "o"),
    ("/filters", "Filters", "f"),
    ("/sas", "SAs", "s"),
    ("/negotiations", "Negotiations", "n"),
    ("/policy", "Policy", "p"),
    ("/history", "History", "h"),
    ("/explain", "Explain", "e"),
    ("/timeline", "Time line", "t"),
    ("/journal", "Journal", "j"),
)

_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".txt": "text/plain"}


class AccountsView(Protocol):
    """What the pages need of `server.AccountsKeeper`."""

    accounts: dict[str, Account]
    trouble: StockadeError | None


@dataclass(frozen=True, slots=True)
class Console:
    """All that a page may use."""

    client: AgentClient
    settings: WebSettings
    sessions: Sessions
    tries: Tries
    keeper: AccountsView
    report: Report


Page = Callable[[Console, Request, "Templates"], Response]


class Templates:
    """All templates and files, read at the start: the process may not be able to later."""

    def __init__(self, settings: WebSettings) -> None:
        folder = files("stockade.console.web")
        texts = {
            entry.name: entry.read_text(encoding="utf-8")
            for entry in folder.joinpath("templates").iterdir()
            if entry.name.endswith(".html")
        }
        self.static = {entry.name: entry.read_bytes() for entry in folder.joinpath("static").iterdir()}
        self._environment = jinja2.Environment(
            loader=jinja2.DictLoader(texts),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
        )
        self._environment.filters |= {"size": _size, "span": _span, "clock": _clock}
        for name in texts:
            self._environment.get_template(name)
        self._fixed = {"navigation": NAVIGATION, "version": __version__, "settings": settings}

    def page(self, request: Request, name: str, code: int = 200, /, **values: object) -> HTMLResponse:
        session = getattr(request.state, "session", None)
        live = "hx-request" in request.headers
        text = self._environment.get_template(name).render(
            **self._fixed,
            session=session,
            operator=session is not None and session.role == "operator",
            token=session.token if session is not None else "",
            path=request.url.path,
            layout="fragment.html" if live else "layout.html",
            **values,
        )
        return HTMLResponse(text, code)


def application(console: Console) -> Starlette:
    """The pages as an ASGI application; `Guard` belongs around it."""
    templates = Templates(console.settings)

    def bound(page: Page) -> Callable[[Request], Response]:
        def endpoint(request: Request) -> Response:
            try:
                return page(console, request, templates)
            except StockadeError as error:
                caller = error.reason.code.fault is Fault.CALLER
                return templates.page(
                    request,
                    "error.html",
                    400 if caller else 503,
                    title="Refused" if caller else "No answer",
                    reason=error.reason,
                )

        return endpoint

    def for_operators(page: Page) -> Page:
        def guarded(console: Console, request: Request, templates: Templates) -> Response:
            session = request.state.session
            if session.role != "operator":
                console.report("request", "a viewer asked for what operators may", user=session.name)
                return PlainTextResponse("only operators may do this\n", 403)
            return page(console, request, templates)

        return guarded

    def missing(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 404
        return PlainTextResponse("there is no such page\n", status)

    reading: tuple[tuple[str, Page], ...] = (
        ("/", _overview),
        ("/series.json", _series),
        ("/filters", _filters),
        ("/sas", _sas),
        ("/negotiations", _negotiations),
        ("/negotiations/{number:int}", _negotiation),
        ("/policy", _policy),
        ("/history", _history),
        ("/difference", _difference),
        ("/explain", _explain),
        ("/timeline", _time_line),
        ("/journal", _journal),
        ("/login", _login_form),
        ("/link", _link),
        ("/static/{name}", _static),
    )
    writing: tuple[tuple[str, Page], ...] = (
        ("/login", _login),
        ("/logout", _logout),
        ("/sas/delete", for_operators(_delete)),
        ("/policy/reload", for_operators(_reload)),
        ("/negotiations/record", for_operators(_record)),
    )
    return Starlette(
        routes=[
            *(Route(path, bound(page), methods=["GET"]) for path, page in reading),
            *(Route(path, bound(page), methods=["POST"]) for path, page in writing),
        ],
        exception_handlers={404: missing, 405: missing},
    )


# ---- reading


def _overview(console: Console, request: Request, templates: Templates) -> Response:
    status = console.client.get("/v1/status")
    newest = console.client.get("/v1/journal", {"last": "12"})["entries"]
    return templates.page(
        request, "overview.html", title="Overview", status=status, newest=list(reversed(newest))
    )


def _series(console: Console, request: Request, templates: Templates) -> Response:
    return Response(json.dumps(console.client.get("/v1/series")), media_type="application/json")


def _filters(console: Console, request: Request, templates: Templates) -> Response:
    found = console.client.get("/v1/filters")
    words = _query(request, "q").lower().split()
    rows = [row for row in found["filters"] if _has(row, words)]
    return templates.page(
        request,
        "filters.html",
        title="Filters",
        policy=found["policy"],
        warnings=found["warnings"],
        total=len(found["filters"]),
        **_paged(request, rows),
    )


def _sas(console: Console, request: Request, templates: Templates) -> Response:
    sas = console.client.get("/v1/sas")
    words = _query(request, "q").lower().split()
    kept = {name: [row for row in rows if _has(row, words)] for name, rows in sas.items()}
    more = {name: max(0, len(rows) - ROWS) for name, rows in kept.items()}
    return templates.page(
        request,
        "sas.html",
        title="Security associations",
        q=_query(request, "q"),
        more=more,
        main_modes=kept["main_modes"][:ROWS],
        quick_modes=kept["quick_modes"][:ROWS],
        soft=kept["soft"][:ROWS],
    )


def _negotiations(console: Console, request: Request, templates: Templates) -> Response:
    found = console.client.get("/v1/negotiations", {"last": "100"})
    words = _query(request, "q").lower().split()
    stories = [story for story in found["negotiations"] if _has(story, words)]
    return templates.page(
        request,
        "negotiations.html",
        title="Negotiations",
        q=_query(request, "q"),
        stories=stories,
        recording=found["recording"],
        seconds_left=found["seconds_left"],
    )


def _negotiation(console: Console, request: Request, templates: Templates) -> Response:
    number = request.path_params["number"]
    stories = console.client.get("/v1/negotiations", {"last": "100"})["negotiations"]
    story = next((one for one in stories if one["number"] == number), None)
    if story is None:
        return templates.page(request, "gone.html", 404, title=f"Negotiation {number}")
    return templates.page(
        request,
        "negotiation.html",
        title=f"Negotiation {number}",
        story=story,
        picture=pictures.ladder(story),
    )


def _policy(console: Console, request: Request, templates: Templates) -> Response:
    tree = console.client.get("/v1/policy")
    return templates.page(request, "policy.html", title="Policy", policies=tree["policies"])


def _history(console: Console, request: Request, templates: Templates) -> Response:
    store = _query(request, "store") or "local"
    found = console.client.get("/v1/policy/history", {"store": store})
    return templates.page(
        request, "history.html", title="History", store=found["store"], revisions=found["revisions"]
    )


def _difference(console: Console, request: Request, templates: Templates) -> Response:
    asked = {name: _query(request, name) for name in ("store", "first", "second") if _query(request, name)}
    found = console.client.get("/v1/policy/difference", asked)
    return templates.page(
        request,
        "difference.html",
        title="What changed",
        lines=found["lines"],
        changed_keys=found["changed_keys"],
        store=found["store"],
    )


def _explain(console: Console, request: Request, templates: Templates) -> Response:
    names = ("source", "destination", "protocol", "source_port", "destination_port", "direction")
    asked = {name: _query(request, name).strip() for name in names}
    explanation: Mapping[str, Any] | None = None
    refusal = None
    picture = Markup("")
    if asked["source"] or asked["destination"]:
        try:
            explanation = console.client.get(
                "/v1/explain", {name: value for name, value in asked.items() if value}
            )
            picture = pictures.verdict(explanation["explanation"])
        except StockadeError as error:
            refusal = error.reason
    return templates.page(
        request,
        "explain.html",
        title="Explain",
        asked=asked,
        protocols=PROTOCOLS,
        found=explanation,
        refusal=refusal,
        picture=picture,
    )


def _time_line(console: Console, request: Request, templates: Templates) -> Response:
    # of the events that outlive the agent: what led to its restart is what one looks for
    asked = {"last": str(pictures.MAXIMUM_MARKS), "kind": ",".join(pictures.KINDS)}
    marks = pictures.marks_of(console.client.get("/v1/events/history", asked)["entries"])
    cluster = console.client.get("/v1/status")["cluster"]
    return templates.page(
        request,
        "timeline.html",
        title="Time line",
        picture=pictures.time_line(marks),
        marks=list(reversed(marks))[:ROWS],
        cluster=cluster,
    )


def _journal(console: Console, request: Request, templates: Templates) -> Response:
    entries = console.client.get("/v1/events/history", {"last": "1000"})["entries"]
    words = _query(request, "q").lower().split()
    rows = [entry for entry in reversed(entries) if _has(entry, words)]
    return templates.page(request, "journal.html", title="Journal", **_paged(request, rows))


def _static(console: Console, request: Request, templates: Templates) -> Response:
    name = request.path_params["name"]
    content = templates.static.get(name)
    if content is None:
        raise HTTPException(404)
    suffix = "." + name.rpartition(".")[2]
    return Response(content, media_type=_TYPES.get(suffix, "application/octet-stream"))


# ---- coming and going


def _login_form(console: Console, request: Request, templates: Templates) -> Response:
    if request.state.session is not None:
        return RedirectResponse("/", 303)
    return templates.page(
        request, "login.html", title="Sign in", failed="", accounts=bool(console.keeper.accounts)
    )


_password_gate = BoundedSemaphore(LOGINS_AT_ONCE)


def _login(console: Console, request: Request, templates: Templates) -> Response:
    form = request.state.form
    name, password = form.get("name", ""), form.get("password", "")
    address = _client(request)

    def refuse(status: int, text: str, told: str, wait: float = 0.0) -> Response:
        console.report("login", told, address=address)
        page = templates.page(
            request,
            "login.html",
            status,
            title="Sign in",
            failed=text,
            accounts=bool(console.keeper.accounts),
        )
        if wait:
            page.headers["retry-after"] = str(int(wait) + 1)
        return page

    wait = console.tries.wait(address, name)
    if wait > 0:
        return refuse(
            429, f"Too many tries. Wait {int(wait) + 1} seconds.", "a try to sign in before its time", wait
        )
    if not _password_gate.acquire(timeout=5):
        return refuse(503, "Too many people sign in at once. Try again.", "too many tries at once")
    try:
        account = verify(console.keeper.accounts, name, password)
    finally:
        _password_gate.release()
    if account is None:
        console.tries.failed(address, name)
        return refuse(403, "Name or password is wrong.", "a wrong name or password")
    console.tries.succeeded(address, name)
    return _enter(console, request, account.name, account.role)


def _link(console: Console, request: Request, templates: Templates) -> Response:
    """The one-time link of `stockade web link`."""
    address = _client(request)
    wait = console.tries.wait(address, "")
    if wait > 0:
        console.report("login", "a try to sign in before its time", address=address)
        return PlainTextResponse(f"too many tries; wait {int(wait) + 1} seconds\n", 429)
    ticket = _query(request, "ticket")
    role = console.client.post_json("/v1/web/redeem", {"ticket": ticket})["role"] if ticket else ""
    if not role:
        console.tries.failed(address, "")
        console.report("login", "a link that is used up, too old or made up", address=address)
        return PlainTextResponse(
            "this link is used up or too old: make another with stockade web link\n", 403
        )
    return _enter(console, request, f"({role} by link)", role)


def _enter(console: Console, request: Request, name: str, role: str) -> Response:
    console.sessions.end(request.state.cookie)
    cookie = console.sessions.begin(name, role)
    console.report("action", "signed in", user=name, role=role, address=_client(request))
    answer = RedirectResponse("/", 303)
    answer.set_cookie(
        cookie_name(console.settings),
        cookie,
        httponly=True,
        samesite="strict",
        secure=console.settings.secure,
        path="/",
    )
    return answer


def _logout(console: Console, request: Request, templates: Templates) -> Response:
    console.sessions.end(request.state.cookie)
    console.report("action", "signed out", user=request.state.session.name)
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(
        cookie_name(console.settings), path="/", secure=console.settings.secure, httponly=True
    )
    return answer


# ---- what operators do


def _delete(console: Console, request: Request, templates: Templates) -> Response:
    peer = request.state.form.get("peer", "")
    done = console.client.post("/v1/sas/delete", {"peer": peer})
    _did(console, request, "deleted the SAs with a peer", peer=done["peer"])
    return RedirectResponse("/sas", 303)


def _reload(console: Console, request: Request, templates: Templates) -> Response:
    console.client.post("/v1/policy/reload")
    _did(console, request, "had the policy read again")
    return RedirectResponse("/policy", 303)


def _record(console: Console, request: Request, templates: Templates) -> Response:
    seconds = RECORD_SECONDS if request.state.form.get("on") == "yes" else 0
    console.client.post("/v1/negotiations/record", {"seconds": str(seconds)})
    _did(console, request, "had negotiations recorded" if seconds else "ended a recording")
    return RedirectResponse("/negotiations", 303)


def _did(console: Console, request: Request, text: str, **facts: object) -> None:
    console.report("action", text, user=request.state.session.name, address=_client(request), **facts)


# ---- small things


def _client(request: Request) -> str:
    return request.client.host if request.client else "?"


def _query(request: Request, name: str) -> str:
    return request.query_params.get(name, "")[:400]


def _has(row: Mapping[str, Any], words: list[str]) -> bool:
    """Whether every word stands somewhere in the row."""
    if not words:
        return True
    text = " ".join(map(str, row.values())).lower()
    return all(word in text for word in words)


def _paged(request: Request, rows: list[dict[str, Any]]) -> dict[str, Any]:
    pages = max(1, -(-len(rows) // ROWS))
    asked = _query(request, "page")
    page = min(pages, max(1, int(asked) if asked.isdecimal() and len(asked) < 7 else 1))
    return {
        "rows": rows[(page - 1) * ROWS : page * ROWS],
        "found": len(rows),
        "page": page,
        "pages": pages,
        "q": _query(request, "q"),
    }


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return ""


def _span(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    whole = int(seconds)
    if whole < 120:
        return f"{seconds:.0f} s"
    if whole < 7200:
        return f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min" if whole < 172_800 else f"{whole // 86_400} days"


def _clock(stamp: object) -> str:
    if isinstance(stamp, (int, float)):
        return time.strftime("%H:%M:%S", time.localtime(stamp))
    return str(stamp).replace("T", " ").removesuffix("Z")
