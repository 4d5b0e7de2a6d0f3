"""Who may connect says a group of the domain: by the groups in the ticket (the PAC) at the responder, by a
look into the directory at the initiator."""

import json
import time
from collections.abc import Callable

import pytest
from command_line import run_stockade

from stockade.lab.real import Agent

ADDRESSES = {"alpha": "10.79.0.2", "beta": "10.79.0.3"}
PATIENCE = 120.0
SCRIPT = """
ipsec static
add filterlist name=ping
add filter filterlist=ping srcaddr=10.79.0.2 dstaddr=10.79.0.3 protocol=ICMP
add filteraction name=require qmsecmethods="ESP[AES128,SHA256]"
add policy name=local activatedefaultrule=no mmsecmethods="AES128-SHA256-ECP256"
add rule name=secure policy=local filterlist=ping filteraction=require kerberos=yes
set policy name=local assign=yes
"""


def eventually(question: Callable[[], object], patience: float = PATIENCE) -> object:
    deadline = time.monotonic() + patience
    while not (answer := question()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return answer


class Member:
    def __init__(self, domain, name, home):
        self.name, self.home, self.namespace = name, home, domain[name]
        home.mkdir(mode=0o700)
        (home / "agent.toml").write_text(
            f'[kerberos]\nkeytab = "{domain.keytab(name)}"\n[directory]\ndomain = "lab.test"\n'
        )
        script = home / "local.netsh"
        script.write_text(SCRIPT)
        self.stockade("netsh", "-f", str(script))
        self.agent = Agent(self.namespace, home)

    def stockade(self, *words: str) -> str:
        result = run_stockade(self.namespace, self.home, *words, timeout=400)
        assert result.returncode == 0, (words, result.stdout, result.stderr)
        return result.stdout

    def ping(self, peer: str) -> bool:
        argv = ["ping", "-q", "-c", "1", "-W", "6", ADDRESSES[peer]]
        return self.namespace.run(argv, check=False, timeout=30).returncode == 0

    def denied(self) -> list[str]:
        text = (self.home / "journal" / "journal.jsonl").read_text()
        rows = map(json.loads, text.splitlines())
        return [row["text"] for row in rows if row.get("reason") == "access-denied"]


@pytest.fixture
def members(domain, tmp_path):
    controller = domain.controller
    controller.tool("group", "add", "Secure Hosts")
    controller.tool("group", "add", "Nested Hosts")
    controller.tool("group", "addmembers", "Secure Hosts", "Nested Hosts")
    controller.tool("group", "addmembers", "Nested Hosts", "alpha$")
    both = [Member(domain, name, tmp_path / name) for name in ("alpha", "beta")]
    yield both
    for one in both:
        one.agent.terminate()
    for name in ("Nested Hosts", "Secure Hosts"):
        controller.tool("group", "delete", name)


def test_groups_of_the_domain_decide_who_may_connect(domain, members):
    alpha, beta = members
    beta.stockade("access", "allow", "group", "Secure Hosts")
    for one in members:
        one.agent.start()
    for one in members:
        one.agent.wait_until_ready()
    # beta answers: the ticket says that alpha is in a group of the group.
    assert eventually(lambda: alpha.ping("beta")), beta.denied()
    # The entry denies: alpha is cut off at once, and cannot come back.
    beta.stockade("access", "remove", "1")
    beta.stockade("access", "deny", "group", "Secure Hosts")
    assert eventually(lambda: not alpha.ping("beta")), beta.denied()
    assert eventually(lambda: any("Secure Hosts" in text for text in beta.denied())), beta.denied()
    beta.stockade("access", "remove", "1")
    # alpha asks: that beta is in no such group says the directory.
    alpha.stockade("access", "allow", "group", "Secure Hosts")
    assert eventually(lambda: alpha.ping("beta") or any("Secure Hosts" in one for one in alpha.denied()))
    assert not alpha.ping("beta")
    assert any("Secure Hosts" in text for text in alpha.denied()), alpha.denied()
    alpha.stockade("access", "allow", "group", "lab.test\\Domain Computers")
    assert eventually(lambda: alpha.ping("beta")), alpha.denied()
