"""What every request has to pass before a page sees it (ASGI).

    Host is ours ─▶ path and sizes are honest ─▶ session ─▶ POST: from our own page, with its token ─▶ role

Whoever fails is answered in few words and told to the journal; nothing that was sent is echoed. Answers
carry a content security policy without exceptions: no script, style or picture from elsewhere, none inside
a page."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stockade.agent.web_settings import WebSettings
from stockade.console.web.sessions import Session, Sessions

MAXIMUM_FORM = 16 * 1024
MAXIMUM_FIELDS = 50
MAXIMUM_TARGET = 4096
MAXIMUM_HEADERS = 16 * 1024
FORM_SECONDS = 10.0
OPEN_PATHS = frozenset({"/login", "/link"})
STATIC = "/static/"

HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        b"form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
)


@dataclass(frozen=True, slots=True)
class Refusal(Exception):
    """Why a request goes no further. `told` is for the journal; without it nobody is told."""

    status: int
    text: str
    told: str = ""


Report = Callable[..., None]
"""`Reporter.tell`."""


class Guard:
    """The middleware around `pages`. Puts `session`, `cookie` and `form` into the request's state."""

    def __init__(
        self,
        pages: ASGIApp,
        settings: WebSettings,
        sessions: Sessions,
        report: Report,
        refresh: Callable[[], None],
    ) -> None:
        self._pages = pages
        self._settings = settings
        self._sessions = sessions
        self._report = report
        self._refresh = refresh
        self.last_use = time.monotonic()

    @property
    def cookie_name(self) -> str:
        return cookie_name(self._settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        static = scope["path"].startswith(STATIC)
        self.last_use = time.monotonic()

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message["headers"], *HEADERS]
                caching = b"public, max-age=86400" if static and message["status"] == 200 else b"no-store"
                headers.append((b"cache-control", caching))
                if self._settings.secure:
                    headers.append((b"strict-transport-security", b"max-age=31536000"))
                message = {**message, "headers": headers}
            await send(message)

        request = Request(scope, receive)
        try:
            answer = await self._admit(request)
        except Refusal as refusal:
            if refusal.told:
                client = request.client.host if request.client else "?"
                self._report("request", refusal.told, address=client, method=request.method[:10])
            answer = PlainTextResponse(f"{refusal.text}\n", refusal.status)
            answer.headers["connection"] = "close"
        await (answer or self._pages)(scope, receive, send_guarded)

    async def _admit(self, request: Request) -> Response | None:
        """None where the request may go on; an answer that says where to sign in. Refusal."""
        self._check_target(request)
        host = self._check_host(request)
        request.state.form = {}
        if request.url.path.startswith(STATIC):
            return None
        self._refresh()
        cookie = _cookie(request, self.cookie_name)
        by_itself = request.headers.get("x-stockade-live") == "yes"
        session = self._sessions.find(cookie, touch=not by_itself)
        request.state.session, request.state.cookie = session, cookie
        opened = request.url.path in OPEN_PATHS
        if request.method == "POST":
            self._check_origin(request, host)
            request.state.form = await _form(request)
            if not opened:
                self._check_token(request, session)
        if session is None and not opened:
            if "hx-request" in request.headers:
                return Response(status_code=401, headers={"HX-Redirect": "/login"})
            return RedirectResponse("/login", 303)
        return None

    def _check_target(self, request: Request) -> None:
        if request.method not in ("GET", "HEAD", "POST"):
            raise Refusal(405, "this method is not known here", "a method that no page has")
        raw = request.scope.get("raw_path") or b""
        if len(raw) + len(request.scope["query_string"]) > MAXIMUM_TARGET:
            raise Refusal(414, "the address is too long", "an address of more than 4096 bytes")
        if sum(len(name) + len(value) for name, value in request.scope["headers"]) > MAXIMUM_HEADERS:
            raise Refusal(431, "the head of the request is too long", "a head of more than 16 KiB")
        path: str = request.scope["path"]
        if "\\" in path or "\0" in path or ".." in path.split("/") or not path.startswith("/"):
            raise Refusal(400, "this is no path of the console", "a path that climbs out of its folder")

    def _check_host(self, request: Request) -> str:
        hosts = request.headers.getlist("host")
        host = hosts[0] if len(hosts) == 1 else ""
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        if name.lower().rstrip(".") not in self._settings.hosts:
            raise Refusal(
                421, "the console is not known by this name; see names in web.toml", "a Host that is not ours"
            )
        return host

    def _check_origin(self, request: Request, host: str) -> None:
        """Where the browser says from which page a form comes, it must be one of ours."""
        scheme = "https" if self._settings.secure else "http"
        origin = request.headers.get("origin")
        site = request.headers.get("sec-fetch-site")
        if (origin is not None and origin.lower() != f"{scheme}://{host.lower()}") or site not in (
            None,
            "same-origin",
            "none",
        ):
            raise Refusal(403, "this form is not from a page of the console", "a form from another site")

    def _check_token(self, request: Request, session: Session | None) -> None:
        token = request.state.form.pop("token", "")
        if session is not None and not session.accepts(token):
            raise Refusal(
                403, "the form is too old or not ours: load the page again", "a form without its token"
            )
        if session is None and "origin" not in request.headers:
            raise Refusal(403, "sign in first", "a form without a session")


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form, in time and in bounds. Refusal."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise Refusal(415, "a form is expected", "a request body that is no form")
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length[:12]) > MAXIMUM_FORM:
        raise Refusal(413, "the form is too long", "a form of more than 16 KiB")
    body = bytearray()
    try:
        async with asyncio.timeout(FORM_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAXIMUM_FORM:
                    raise Refusal(413, "the form is too long", "a form of more than 16 KiB")
    except TimeoutError:
        raise Refusal(408, "the form did not come in time", "a form that came too slowly") from None
    try:
        fields = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=MAXIMUM_FIELDS)
    except ValueError:
        raise Refusal(400, "the form cannot be read", "a form that cannot be read") from None
    return dict(fields)


def cookie_name(settings: WebSettings) -> str:
    """With TLS the prefix makes browsers keep others from setting it."""
    return "__Host-stockade" if settings.secure else "stockade"


def _cookie(request: Request, name: str) -> str | None:
    try:
        found = SimpleCookie(request.headers.get("cookie", "")).get(name)
    except CookieError:
        return None
    return found.value if found else None
