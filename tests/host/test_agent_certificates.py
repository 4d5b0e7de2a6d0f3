"""Two agents with certificates on one wire: who may connect, and revocation lists from a web server there."""

import datetime
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Interface
from pathlib import Path

import pytest
from certificate_maker import DAY, Made, root, root_name
from stockade_node import StockadeNode

from stockade.lab.netns import Namespace, Network

ALPHA, BETA, WEB = "10.78.0.1", "10.78.0.2", "10.78.0.3"
URL = f"http://{WEB}/root.crl"
POLICY = """\
ipsec static delete all
ipsec static add filterlist name=secured
ipsec static add filter filterlist=secured srcaddr=me dstaddr={peer} protocol=ICMP
ipsec static add filteraction name=require qmsecmethods="ESP[AES128,SHA256]"
ipsec static add policy name=test activatedefaultrule=no mmsecmethods="AES128-SHA256-ECP256"
ipsec static add rule name=secure policy=test filterlist=secured filteraction=require rootca="{root}"
ipsec static set policy name=test assign=yes
"""


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def network(stack: ExitStack) -> Network:
    hosts = {"alpha": ALPHA, "beta": BETA, "web": WEB}
    return stack.enter_context(
        Network({name: IPv4Interface(f"{address}/24") for name, address in hosts.items()})
    )


def valid_now() -> dict[str, datetime.datetime]:
    now = datetime.datetime.now(datetime.UTC)
    return {"start": now - DAY, "end": now + DAY}


def node(network: Network, name: str, folder: Path, peer: str, own: Made, *trusted: Made) -> StockadeNode:
    """An agent, not started yet, with its certificate and the authorities that it knows."""
    home = folder / name
    home.mkdir()
    made = StockadeNode(network[name], home)
    for number, each in enumerate(trusted):
        (home / f"{number}.pem").write_bytes(each.pem)
        made.command("cert", "import", str(home / f"{number}.pem"), "--trust-roots")
    (home / "own.pem").touch(mode=0o600)
    (home / "own.pem").write_bytes(own.pem + own.key_pem)
    made.command("cert", "import", str(home / "own.pem"))
    made.apply(POLICY.format(peer=peer, root=root_name()))
    return made


def ping(source: Namespace, target: str = BETA, patience: float = 1) -> bool:
    command = ["ping", "-n", "-c", "1", "-W", str(patience), target]
    return "1 received" in source.run(command, timeout=60, check=False).stdout


def eventually(question: Callable[[], object], patience: float = 60.0) -> object:
    deadline = time.monotonic() + patience
    while not (answer := question()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return answer


def told(host: StockadeNode, reason: str) -> str:
    """What the newest journal entry with this reason says; empty if there is none."""
    entries = host.client.get("/v1/journal", {"last": "400"})["entries"]
    return next((str(entry["text"]) for entry in reversed(entries) if entry.get("reason") == reason), "")


def test_who_may_connect_is_said_by_authority_domain_group_and_computer(
    stack: ExitStack, network: Network, tmp_path: Path
) -> None:
    top = root(**valid_now())
    issuing = top.issue("Issuing", authority=True, **valid_now())
    one = issuing.issue("alpha", names=("alpha.lab.test",), **valid_now())
    other = issuing.issue("beta", names=("beta.lab.test",), **valid_now())
    alpha = stack.enter_context(node(network, "alpha", tmp_path, BETA, one, top, issuing))
    beta = stack.enter_context(node(network, "beta", tmp_path, ALPHA, other, top, issuing))
    assert eventually(lambda: ping(network["alpha"])), beta.output()
    beta.command("access", "group", "servers", "alpha.*")
    for kind, fitting, another in (
        ("ca", root_name("Issuing"), root_name("Other")),
        ("domain", "lab.test", "elsewhere.test"),
        ("group", "servers", "clients"),
        ("computer", "ALPHA.lab.test", "gamma.lab.test"),
    ):
        beta.command("access", "allow", kind, another)
        assert not beta.main_modes(), "whom the list denies is cut off at once"
        assert not ping(network["alpha"]), kind
        saying = f"no entry allows it.*allow {kind} {another}.*alpha.lab.test"
        assert eventually(lambda saying=saying: re.search(saying, told(beta, "access-denied"))), beta.output()
        beta.command("access", "allow", kind, fitting)
        assert eventually(lambda: ping(network["alpha"])), (kind, beta.output())
        beta.command("access", "deny", kind, fitting)
        assert not beta.main_modes()
        assert not ping(network["alpha"]), kind
        saying = f"by “deny {kind} {fitting}”"
        assert eventually(lambda saying=saying: saying in told(beta, "access-denied")), beta.output()
        for _ in range(3):
            beta.command("access", "remove", "1")
    # The initiator denies the responder, which must not go on believing in a main mode.
    alpha.command("access", "deny", "computer", "beta.*")
    assert not ping(network["alpha"])
    assert eventually(lambda: "by “deny computer beta.*”" in told(alpha, "access-denied")), alpha.output()
    assert eventually(lambda: not beta.main_modes()), beta.output()


class Lists(ThreadingHTTPServer):
    """A web server in a namespace with one revocation list; counts who asked for it."""

    def __init__(self, namespace: Namespace, content: bytes) -> None:
        self.content, self.asked = content, 0
        namespace.call(lambda: super(Lists, self).__init__((WEB, 80), Page))
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Page(BaseHTTPRequestHandler):
    server: Lists

    def do_GET(self) -> None:
        self.server.asked += 1
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, *arguments: object) -> None:
        pass


def set_check(host: StockadeNode, value: int) -> None:
    """StrongCRLCheck, and no main mode from before it."""
    host.command("netsh", "ipsec", "dynamic", "set", "config", "strongcrlcheck", str(value))
    host.client.post("/v1/policy/reload")
    host.client.post("/v1/sas/delete", {"peer": ALPHA})


def test_the_list_that_a_certificate_names_is_asked_for_as_the_setting_says(
    stack: ExitStack, network: Network, tmp_path: Path
) -> None:
    top = root(**valid_now())
    one = top.issue("alpha", points=(URL,), **valid_now())
    alpha = stack.enter_context(node(network, "alpha", tmp_path, BETA, one, top))
    beta = node(network, "beta", tmp_path, ALPHA, top.issue("beta", **valid_now()), top)
    now = datetime.datetime.now(datetime.UTC)
    good, revoking = (top.revocation_list(*revoked, moment=now).der for revoked in ((), (one,)))
    with beta:  # nobody answers at the address
        set_check(beta, 2)
        assert not ping(network["alpha"])
        saying = f"no revocation list of its issuer is here.*{URL}: "
        assert eventually(lambda: re.search(saying, told(beta, "certificate-revoked"))), beta.output()
        assert eventually(lambda: "authentication-failed" in alpha.reasons())
        set_check(beta, 1)
        assert eventually(lambda: ping(network["alpha"])), beta.output()
    server = stack.enter_context(Lists(network["web"], good))
    with beta:
        set_check(beta, 2)
        assert eventually(lambda: ping(network["alpha"])), beta.output()
        assert server.asked == 1
        set_check(beta, 2)
        assert eventually(lambda: ping(network["alpha"])), beta.output()
        assert server.asked == 1, "a list in date is not asked for again"
    for kept in (tmp_path / "beta" / "home").glob("**/fetched/*"):
        kept.unlink()
    server.content = revoking
    with beta:
        for value in (1, 2):
            set_check(beta, value)
            assert not ping(network["alpha"])
            saying = "revoked by its issuer"
            assert eventually(lambda saying=saying: saying in told(beta, "certificate-revoked")), (
                beta.output()
            )
        assert server.asked == 2
        set_check(beta, 0)
        assert eventually(lambda: ping(network["alpha"])), beta.output()
    server.shutdown()
