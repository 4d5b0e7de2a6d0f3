"""Revocation lists from a web server: a real one, on this host."""

import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from certificate_maker import NOW, root, root_name

from stockade.model.reasons import Reason, ReasonCode
from stockade.pki.chain import ChainRules, Trust
from stockade.pki.credentials import Credentials, VerifiedPeer
from stockade.pki.distribution import ListFetcher
from stockade.pki.revocation import MAXIMUM_SIZE, RevocationCheck


class Server(ThreadingHTTPServer):
    """Answers each path with what `pages` has for it; counts what was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages: dict[str, bytes] = {}
        self.asked: list[str] = []

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.path == "/elsewhere":
            self.send_response(302)
            self.send_header("Location", self.server.url("/list"))
            self.end_headers()
            return
        page = self.server.pages.get(self.path)
        self.send_response(404 if page is None else 200)
        self.end_headers()
        if page is not None:
            self.wfile.write(page)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def judged(
    server: Server, check: RevocationCheck, fetcher: ListFetcher, path: str = "/list", revoked: bool = False
):
    """What becomes of a certificate whose list is at `path`."""
    authority = root()
    peer = authority.issue("peer", points=(server.url(path),))
    server.pages["/list"] = authority.revocation_list(*([peer] if revoked else [])).der
    credentials = Credentials(
        (), Trust((authority.read,)), ChainRules(check), moment=lambda: NOW, fetched=fetcher
    )
    first = credentials.verify([peer.der], [root_name()])
    if isinstance(first, VerifiedPeer) and first.wanted:
        assert not server.asked, "the first look must not block"
        return credentials.settle([peer.der], [root_name()], first.wanted)
    return first


@pytest.mark.parametrize("check", [RevocationCheck.REVOKED_ONLY, RevocationCheck.STRICT])
def test_the_list_that_a_certificate_names_decides(server: Server, check: RevocationCheck) -> None:
    assert isinstance(judged(server, check, ListFetcher()), VerifiedPeer)
    assert server.asked == ["/list"]
    server.asked.clear()
    refusal = judged(server, check, ListFetcher(), revoked=True)
    assert isinstance(refusal, Reason)
    assert refusal.code is ReasonCode.CERTIFICATE_REVOKED
    assert "link 0" in str(refusal)
    assert "revoked by its issuer" in str(refusal)


def test_a_list_that_cannot_be_had_counts_as_the_check_says(server: Server) -> None:
    assert isinstance(judged(server, RevocationCheck.REVOKED_ONLY, ListFetcher(), "/none"), VerifiedPeer)
    server.asked.clear()
    refusal = judged(server, RevocationCheck.STRICT, ListFetcher(), "/none")
    assert isinstance(refusal, Reason)
    assert refusal.code is ReasonCode.CERTIFICATE_REVOKED
    assert "not fetched:" in str(refusal)
    assert "/none" in str(refusal)


def test_nothing_is_asked_where_nobody_looks(server: Server) -> None:
    assert isinstance(judged(server, RevocationCheck.NONE, ListFetcher(), revoked=True), VerifiedPeer)
    assert not server.asked


@pytest.mark.parametrize("path", ["/elsewhere", "/long", "/rubbish"])
def test_what_is_no_list_is_refused(server: Server, path: str) -> None:
    server.pages |= {"/long": bytes(MAXIMUM_SIZE + 1), "/rubbish": b"not a list"}
    fetcher = ListFetcher()
    fetcher.fetch([server.url(path)], NOW)
    assert fetcher.lists() == ()
    assert fetcher.trouble([server.url(path)])
    assert server.asked == [path]


def test_only_http_is_asked(tmp_path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"x")
    fetcher = ListFetcher()
    for url in (f"file://{secret}", "ftp://127.0.0.1/x", "https://127.0.0.1:1/x"):
        fetcher.fetch([url], NOW)
        assert "only http" in fetcher.trouble([url])


def test_lists_are_kept_and_failures_are_not_asked_again_at_once(server: Server, tmp_path) -> None:
    authority = root()
    server.pages["/list"] = authority.revocation_list().der
    good, bad = server.url("/list"), server.url("/none")
    fetcher = ListFetcher(tmp_path / "fetched")
    for _ in range(3):
        fetcher.fetch([good, bad], NOW)
    assert server.asked == ["/list", "/none"]
    fetcher.fetch([good, bad], NOW + timedelta(minutes=2))
    assert server.asked == ["/list", "/none", "/none"]
    fetcher.fetch([good], NOW + timedelta(days=2))
    assert server.asked[-1] == "/list"
    again = ListFetcher(tmp_path / "fetched")
    again.fetch([good], NOW + timedelta(days=2))
    assert len(again.lists()) == 1
    assert len(server.asked) == 4, "the folder had it"


def test_a_server_that_hangs_is_given_up(server: Server, monkeypatch) -> None:
    monkeypatch.setattr("stockade.pki.distribution.TIMEOUT_SECONDS", 0.2)
    held = threading.Event()
    monkeypatch.setattr(Handler, "do_GET", lambda self: held.wait(120))
    begun = time.monotonic()
    fetcher = ListFetcher()
    fetcher.fetch([server.url("/list")], NOW)
    held.set()
    assert fetcher.trouble([server.url("/list")])
    assert time.monotonic() - begun < 60
