"""The web console opened to the network, served by the agent: TLS with a certificate of an authority, names,
an account; and what is refused there."""

import datetime
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any

import pytest
from certificate_maker import Made, make, root

from stockade.agent.client import AgentClient
from stockade.agent.paths import Paths
from stockade.console.main import main as stockade
from stockade.console.web.accounts import make_account, write_accounts
from stockade.lab.examples import STOCKADE
from stockade.lab.netns import Namespace, Network
from stockade.model.reasons import StockadeError

pytestmark = pytest.mark.timeout(600)  # for machines that are slow and busy
SECONDS = 120.0
ALPHA, PORT, NAME = "10.78.0.1", 8443, "gate.example"


class World:
    """One agent with a console on alpha's address, and who asks it."""

    def __init__(self, namespace: Namespace, home: Path, authority: Made) -> None:
        self.namespace, self.home, self.authority = namespace, home, authority
        self.client = AgentClient(Paths.of(home).socket, timeout=60.0)

    def await_web(self, fits: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline, said = time.monotonic() + SECONDS, None
        while time.monotonic() < deadline:
            try:
                said = self.client.get("/v1/status")["web"]
            except StockadeError:
                said = None
            if said and fits(said):
                return dict(said)
            time.sleep(0.05)
        raise AssertionError(f"the console's state is {said}")

    def await_told(self, words: str) -> None:
        deadline = time.monotonic() + SECONDS
        while words not in json.dumps(self.client.get("/v1/journal", {"last": "1000"})):
            assert time.monotonic() < deadline, f"the journal does not tell: {words}"
            time.sleep(0.1)

    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        context.load_verify_locations(cadata=self.authority.pem.decode())
        return context

    def connect(self) -> socket.socket:
        def open_it() -> socket.socket:
            return socket.create_connection((ALPHA, PORT), SECONDS)

        return self.namespace.call(open_it)

    def ask(self, request: str, context: ssl.SSLContext | None = None, name: str = NAME) -> str:
        """The whole answer to a request over TLS."""
        with (context or self.context()).wrap_socket(self.connect(), server_hostname=name) as secured:
            secured.sendall(request.encode())
            answer = b""
            while piece := secured.recv(65_536):
                answer += piece
        return answer.decode()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    base = tmp_path_factory.mktemp("tls")
    today = datetime.datetime.now(datetime.UTC)
    valid = {"start": today - datetime.timedelta(days=1), "end": today + datetime.timedelta(days=9)}
    home, authority = base / "home", root(**valid)
    home.mkdir(mode=0o700)
    made = make(NAME, issuer=authority, names=[NAME, ALPHA], **valid)
    both = base / "web.pem"
    both.write_bytes(made.pem + made.key_pem)
    (home / "web.toml").write_text(
        f'listen = "{ALPHA}:{PORT}"\ncertificate = "{both}"\nkey = "{both}"\nnames = ["{NAME}"]\n'
    )
    with Network({"alpha": IPv4Interface(f"{ALPHA}/24")}) as network:
        command = [*STOCKADE, "--home", str(home), "agent", "run", "--driver", "memory"]
        agent = network["alpha"].popen(command)
        world = World(network["alpha"], home, authority)
        assert world.await_web(lambda web: web["state"] == "waiting")["url"] == f"https://{NAME}:{PORT}"
        # nobody could sign in: it does not begin, and says what is missing
        world.connect().close()
        said = world.await_web(lambda web: web["trouble"])
        assert "there is no account: stockade web user add" in said["trouble"]["text"]
        write_accounts(
            Paths.of(home).web_accounts, {"ann": make_account("ann", "viewer", "correct horse battery")}
        )
        world.connect().close()
        world.await_web(lambda web: web["state"] == "running")
        yield world
        agent.terminate()
        assert agent.wait(SECONDS) == 0


def get(path: str = "/login", *, host: str = f"{NAME}:{PORT}", cookie: str = "") -> str:
    given = f"Cookie: {cookie}\r\n" if cookie else ""
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{given}Connection: close\r\n\r\n"


def post(form: str, scheme: str = "https") -> str:
    """A form that signs in."""
    lines = (
        "POST /login HTTP/1.1",
        f"Host: {NAME}:{PORT}",
        f"Origin: {scheme}://{NAME}:{PORT}",
        "Connection: close",
        "Content-Type: application/x-www-form-urlencoded",
        f"Content-Length: {len(form)}",
    )
    return "\r\n".join(lines) + f"\r\n\r\n{form}"


def test_its_certificate_is_the_one_given_and_browsers_are_told_to_stay_with_tls(
    world: World,
) -> None:
    answer = world.ask(get())
    assert answer.startswith("HTTP/1.1 200")
    assert "strict-transport-security: max-age=31536000" in answer
    assert world.ask(get(host=f"{ALPHA}:{PORT}"), name=ALPHA).startswith("HTTP/1.1 200")
    with pytest.raises(ssl.SSLCertVerificationError):
        world.ask(get(), ssl.create_default_context())
    with pytest.raises(ssl.SSLCertVerificationError):
        world.ask(get(), name="other.example")


def test_who_signs_in_gets_a_cookie_that_stays_with_tls_and_this_host(world: World) -> None:
    answer = world.ask(post("name=ann&password=correct+horse+battery"))
    assert answer.startswith("HTTP/1.1 303")
    (line,) = (line for line in answer.splitlines() if line.lower().startswith("set-cookie: "))
    cookie = line.partition(": ")[2]
    assert cookie.startswith("__Host-stockade=")
    for word in ("secure", "httponly", "samesite=strict", "path=/"):
        assert word in cookie.lower()
    assert "domain" not in cookie.lower()
    page = world.ask(get("/", cookie=cookie.partition(";")[0]))
    assert page.startswith("HTTP/1.1 200")
    assert "ann" in page
    assert world.ask(get("/")).startswith("HTTP/1.1 303")
    world.await_told("ann")


def test_the_origin_of_plain_http_is_another_site(world: World) -> None:
    answer = world.ask(post("name=ann", "http"))
    assert answer.startswith("HTTP/1.1 403")
    world.await_told("a form from another site")


@pytest.mark.parametrize(
    ("version", "taken"),
    [
        (ssl.TLSVersion.TLSv1_1, False),
        (ssl.TLSVersion.TLSv1_2, True),
        (ssl.TLSVersion.TLSv1_3, True),
    ],
    ids=["1.1", "1.2", "1.3"],
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_versions_of_tls(world: World, version: ssl.TLSVersion, taken: bool) -> None:
    context = world.context()
    context.set_ciphers("ALL:@SECLEVEL=0")  # or this side would refuse by itself
    context.minimum_version = context.maximum_version = version
    if taken:
        assert world.ask(get(), context).startswith("HTTP/1.1 200")
    else:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            world.ask(get(), context)


def test_plain_http_gets_no_page(world: World) -> None:
    with world.connect() as connection:
        connection.sendall(get().encode())
        try:
            answer = connection.recv(65_536)
        except ConnectionError:
            answer = b""
    assert b"HTTP/1.1 2" not in answer
    assert b"<" not in answer


def test_a_name_that_is_not_ours_is_refused(world: World) -> None:
    for host in ("evil.example", f"{NAME}.evil.example", "localhost", "127.0.0.1"):
        answer = world.ask(get(host=host))
        assert answer.startswith("HTTP/1.1 421"), host
        assert "evil" not in answer.partition("\r\n\r\n")[2]
    world.await_told("a Host that is not ours")


def test_a_handshake_that_does_not_go_on_is_cut(world: World) -> None:
    with world.connect() as connection:
        began = time.monotonic()
        connection.settimeout(45)  # asyncio's own limit is a minute
        assert connection.recv(100) == b""
        assert time.monotonic() - began > 1, "it was refused, not cut"
    assert world.ask(get()).startswith("HTTP/1.1 200")


def test_a_form_that_trickles_in_is_cut(world: World) -> None:
    with world.context().wrap_socket(world.connect(), server_hostname=NAME) as secured:
        secured.sendall(
            f"POST /login HTTP/1.1\r\nHost: {NAME}\r\nOrigin: https://{NAME}\r\nContent-Length: 100\r\n"
            "Content-Type: application/x-www-form-urlencoded\r\n\r\nname=".encode()
        )
        secured.settimeout(SECONDS)
        answer = secured.recv(65_536)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 408")
    world.await_told("a form that came too slowly")


def test_a_certificate_that_cannot_be_used_stops_it_and_a_good_one_starts_it_again(
    world: World, tmp_path: Path
) -> None:
    settings = world.home / "web.toml"
    good = settings.read_text()
    bad = tmp_path / "bad.pem"
    bad.write_text("no certificate\n")
    settings.write_text(good.replace(str(world.home.parent / "web.pem"), str(bad)))
    try:
        world.await_web(lambda web: web["state"] == "waiting")
        world.connect().close()
        said = world.await_web(lambda web: web["trouble"])
        assert "certificate and key" in said["trouble"]["text"]
    finally:
        settings.write_text(good)
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            assert world.ask(get()).startswith("HTTP/1.1 200")
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    assert stockade(["--home", str(world.home), "web", "user", "list"]) == 0
