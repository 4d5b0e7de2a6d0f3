"""Two agents that prove themselves by Kerberos, with a real domain controller on the same wire."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Interface
from pathlib import Path

import pytest
from command_line import run_stockade
from key_distribution_center import REALM, KeyDistributionCenter, missing

from stockade.lab.netns import Namespace, Network
from stockade.lab.real import STOCKADE, Agent

ALPHA, BETA, CONTROLLER, STRANGE = "10.78.0.1", "10.78.0.2", "10.78.0.3", "10.78.0.4"
PATIENCE = 60.0
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")

POLICY = """
ipsec static
add filterlist name=secured
add filter filterlist=secured srcaddr=me dstaddr={peer} protocol=ICMP
add filteraction name=require qmsecmethods="ESP[AES128,SHA256]"
add policy name=test activatedefaultrule=no mmsecmethods="AES128-SHA256-ECP256"
add rule name=secure policy=test filterlist=secured filteraction=require {methods}
set policy name=test assign=yes
"""

pytestmark = pytest.mark.skipif(missing() is not None, reason=missing() or "")


class Host:
    """One namespace with an agent, its keytab and its policy."""

    def __init__(self, namespace: Namespace, home: Path, peer: str) -> None:
        self.namespace, self.home, self.peer = namespace, home, peer
        self.agent = Agent(namespace, home)

    def prepare(self, methods: str = "kerberos=yes", settings: str = "") -> None:
        self.home.mkdir(mode=0o700, exist_ok=True)
        keytab = self.home.with_suffix(".keytab")
        (self.home / "agent.toml").write_text(settings or f'[kerberos]\nkeytab = "{keytab}"\n')
        script = self.home.with_suffix(".netsh")
        script.write_text(POLICY.format(peer=self.peer, methods=methods))
        self.stockade("netsh", "-f", str(script), "--atomic")

    def stockade(self, *words: str) -> str:
        result = run_stockade(self.namespace, self.home, *words)
        assert result.returncode == 0, (words, result.stdout, result.stderr)
        return result.stdout

    def main_modes(self) -> list[dict]:
        """Those that are up."""
        rows = json.loads(self.stockade("show", "sas", "--format", "json"))["main_modes"]
        return [row for row in rows if row["established"]]

    def reasons(self) -> dict[str, dict]:
        """The journal's last entry of each reason."""
        text = (self.home / "journal" / "journal.jsonl").read_text()
        return {entry["reason"]: entry for entry in map(json.loads, text.splitlines())}

    def ping(self, seconds: int = 30) -> bool:
        argv = ["ping", "-q", "-c", "1", "-W", str(seconds), self.peer]
        return self.namespace.run(argv, check=False, timeout=seconds + 30).returncode == 0


def eventually(question: Callable[[], object], patience: float = PATIENCE) -> object:
    deadline = time.monotonic() + patience
    while not (answer := question()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return answer


@pytest.fixture
def network() -> Iterator[Network]:
    hosts = {"alpha": ALPHA, "beta": BETA, "dc": CONTROLLER, "strange": STRANGE}
    with Network({name: IPv4Interface(f"{address}/24") for name, address in hosts.items()}) as network:
        yield network


@pytest.fixture
def controller(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[KeyDistributionCenter]:
    center = KeyDistributionCenter(network["dc"], tmp_path / "kdc", CONTROLLER)
    monkeypatch.setenv("KRB5_CONFIG", str(center.krb5_conf))
    monkeypatch.setenv("KRB5RCACHENAME", f"dfl:{tmp_path}")
    with center:
        yield center


@pytest.fixture
def hosts(network: Network, tmp_path: Path) -> tuple[Host, Host]:
    alpha = Host(network["alpha"], tmp_path / "alpha", BETA)
    return alpha, Host(network["beta"], tmp_path / "beta", ALPHA)


def give_keytabs(controller: KeyDistributionCenter, *hosts: Host) -> None:
    for host in hosts:
        name = f"host/{host.namespace.name}.stockade.test"
        controller.add_host(name, host.home.with_suffix(".keytab"))


def start(*hosts: Host) -> None:
    for host in hosts:
        host.agent.start()
    for host in hosts:
        host.agent.wait_until_ready()


def test_traffic_is_secured_by_kerberos_and_the_peers_are_their_principals(controller, hosts):
    alpha, beta = hosts
    give_keytabs(controller, alpha, beta)
    for host in hosts:
        host.prepare()
    start(alpha, beta)
    assert alpha.ping(60), (alpha.reasons(), beta.reasons())
    for host, peer in ((alpha, "beta"), (beta, "alpha")):
        (row,) = host.main_modes()
        assert row["authentication"] == "kerberos"
        assert row["peer_identity"] == f"host/{peer}.stockade.test@{REALM}"


def test_the_access_list_decides_which_principal_may_connect(controller, hosts):
    alpha, beta = hosts
    give_keytabs(controller, alpha, beta)
    for host in hosts:
        host.prepare()
    beta.stockade("access", "allow", "group", "servers")
    start(alpha, beta)
    assert not alpha.ping(2)
    entry = eventually(lambda: beta.reasons().get("access-denied"))
    assert f"host/alpha.stockade.test@{REALM}" in entry["text"]
    beta.stockade("access", "group", "servers", f"host/*.stockade.test@{REALM}")
    assert eventually(alpha.ping), (alpha.reasons(), beta.reasons())
    beta.stockade("access", "deny", "computer", "alpha.stockade.test")
    assert not beta.main_modes()
    assert not alpha.ping(2)


def test_without_kerberos_the_rules_next_method_serves(controller, hosts):
    """The controller knows alpha no more: what is left of the rule is its pre-shared key."""
    alpha, beta = hosts
    give_keytabs(controller, alpha, beta)
    for host in hosts:
        host.prepare('kerberos=yes psk="a key of both"')
    controller.admin("delprinc -force host/alpha.stockade.test")
    start(alpha, beta)
    assert eventually(alpha.ping), (alpha.reasons(), beta.reasons())
    assert "kerberos-no-ticket" in alpha.reasons()
    assert {row["authentication"] for row in alpha.main_modes()} == {"preshared-key"}


def test_without_a_keytab_the_rule_says_what_is_missing(controller, hosts):
    alpha, beta = hosts
    give_keytabs(controller, beta)
    for host in hosts:
        host.prepare()
    start(alpha, beta)
    assert not alpha.ping(1)
    entry = eventually(lambda: alpha.reasons().get("authentication-method-unavailable"))
    assert f"the keytab {alpha.home.with_suffix('.keytab')} does not exist" in entry["text"]


def test_a_peer_of_another_realm_gets_no_ticket(controller, network, hosts, tmp_path):
    alpha, beta = hosts
    give_keytabs(controller, alpha)
    other = KeyDistributionCenter(network["strange"], tmp_path / "other", STRANGE, "ELSEWHERE.TEST")
    with other:
        give_keytabs(other, beta)
        for host in hosts:
            host.prepare()
        start(alpha, beta)
        assert not alpha.ping(3)
        entry = eventually(lambda: alpha.reasons().get("kerberos-no-ticket"))
        assert entry, alpha.reasons()
        assert "host/beta.stockade.test@ELSEWHERE.TEST" in entry["text"]
        assert entry["windows_code"] == 13827
        assert not alpha.main_modes()


def test_a_trust_in_one_direction_serves_in_that_one_and_is_named_in_the_other(
    controller, network, hosts, tmp_path, monkeypatch
):
    """The realm of beta trusts that of alpha, and not the other way round."""
    alpha, beta = hosts
    give_keytabs(controller, alpha)
    other = KeyDistributionCenter(
        network["strange"], tmp_path / "other", STRANGE, "ELSEWHERE.TEST", {REALM: CONTROLLER}
    )
    monkeypatch.setenv("KRB5_CONFIG", str(other.krb5_conf))
    with other:
        give_keytabs(other, beta)
        for center in (controller, other):
            center.admin(f"addprinc -pw shared krbtgt/ELSEWHERE.TEST@{REALM}")
        for host in hosts:
            host.prepare()
        start(alpha, beta)
        assert not beta.ping(3)
        entry = eventually(lambda: beta.reasons().get("kerberos-no-ticket"))
        assert entry, beta.reasons()
        assert f"host/alpha.stockade.test@{REALM}" in entry["text"]
        assert "needs a trust in both directions" in entry["text"]
        assert not beta.main_modes()
        assert eventually(lambda: alpha.ping(5), 60), alpha.reasons()


def test_a_controller_that_does_not_answer_is_named_and_keeps_nobody_else_waiting(controller, hosts):
    alpha, beta = hosts
    give_keytabs(controller, alpha, beta)
    for host in hosts:
        host.prepare()
    controller.stop()
    start(alpha, beta)
    # Silence, not a refused connection: the library waits.
    controller.namespace.run(["nft", "add table inet quiet"])
    controller.namespace.run(
        ["nft", "add chain inet quiet in { type filter hook input priority 0; policy drop; }"]
    )
    assert not alpha.ping(1)
    alpha.stockade("status")
    assert "kerberos-unreachable" not in alpha.reasons(), "the agent answers while a ticket is awaited"
    assert eventually(lambda: alpha.reasons().get("kerberos-unreachable")), alpha.reasons()


def test_an_expired_account_is_refused(controller, hosts):
    alpha, beta = hosts
    give_keytabs(controller, alpha, beta)
    controller.admin("modprinc -expire yesterday host/alpha.stockade.test")
    for host in hosts:
        host.prepare()
    start(alpha, beta)
    assert not alpha.ping(1)
    assert eventually(lambda: alpha.reasons().get("kerberos-expired")), alpha.reasons()


BEGIN = """
import sys, time
from pathlib import Path
from stockade.agent.kerberos import HostKerberos
alpha = HostKerberos(Path(sys.argv[1]))
assert alpha.own_name(), "as the agent asks first"
for pause in (6, 0, 0):
    print(alpha.initiate(sys.argv[2]).token.hex())
    time.sleep(pause)
"""
ACCEPT = """
import sys
from pathlib import Path
from stockade.agent.kerberos import HostKerberos
from stockade.model.reasons import StockadeError
try:
    print(HostKerberos(Path(sys.argv[1])).accept(bytes.fromhex(sys.stdin.read())).peer)
except StockadeError as error:
    print(error.reason.code.word, error.reason.code.windows_code, error.reason.detail)
"""


@pytest.mark.skipif(not FAKETIME.exists(), reason="libfaketime is not installed (Debian: libfaketime)")
def test_a_ticket_is_refused_when_it_has_expired_and_made_anew_before_it_does(controller, hosts, monkeypatch):
    """Tickets of four seconds: two that are asked for six seconds apart are both good. One that is shown an
    hour later is not."""
    alpha, beta = hosts
    give_keytabs(controller, alpha, beta)
    target, peer = (f"host/{name}.stockade.test@{REALM}" for name in ("beta", "alpha"))
    keytabs = [str(host.home.with_suffix(".keytab")) for host in hosts]
    controller.admin(f'modprinc -maxlife "4 seconds" {peer}')

    def accept(token: str) -> str:
        argv = [sys.executable, "-c", ACCEPT, keytabs[1]]
        return beta.namespace.run(argv, input_text=token, timeout=60).stdout.strip()

    argv = [sys.executable, "-c", BEGIN, keytabs[0], target]
    tokens = alpha.namespace.run(argv, timeout=120).stdout.splitlines()
    assert [accept(token) for token in tokens[:2]] == [peer, peer]
    with monkeypatch.context() as faked:
        faked.setenv("LD_PRELOAD", str(FAKETIME))
        faked.setenv("FAKETIME", "+1h")
        said = accept(tokens[2])
    assert said.startswith("kerberos-expired 13827 "), said
    assert "expired" in said.partition("13827")[2], said


def test_a_keytab_older_than_the_account_is_refused_by_the_responder(controller, hosts):
    alpha, beta = hosts
    give_keytabs(controller, alpha, beta)
    for host in hosts:
        host.prepare()
    controller.write_keytab("host/beta.stockade.test", beta.home.with_suffix(".newer"))
    start(alpha, beta)
    assert not alpha.ping(1)
    entry = eventually(lambda: beta.reasons().get("kerberos-refused"))
    assert entry, beta.reasons()
    assert not beta.main_modes()
    assert eventually(lambda: "authentication-failed" in alpha.reasons()), alpha.reasons()


@pytest.mark.skipif(not FAKETIME.exists(), reason="libfaketime is not installed (Debian: libfaketime)")
def test_a_peer_whose_clock_differs_by_an_hour_is_named(controller, hosts, monkeypatch):
    """The initiator and the controller agree about the time; the responder's clock is fast."""
    alpha, beta = hosts
    give_keytabs(controller, alpha, beta)
    for host in hosts:
        host.prepare()
    with monkeypatch.context() as faked:
        faked.setenv("LD_PRELOAD", str(FAKETIME))
        faked.setenv("FAKETIME", "+1h")
        faked.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        # No data plane there: the library that fakes the time upsets the programs that one runs.
        fast = beta.namespace.popen(
            [*STOCKADE, "--home", str(beta.home), "agent", "run", "--driver", "memory"]
        )
    try:
        journal = beta.home / "journal" / "journal.jsonl"
        assert eventually(lambda: journal.exists() and "agent-started" in journal.read_text(), 60)
        start(alpha)
        assert not alpha.ping(1)
        assert eventually(lambda: beta.reasons().get("kerberos-clock-skew")), beta.reasons()
        assert eventually(lambda: "authentication-failed" in alpha.reasons()), alpha.reasons()
        assert not alpha.main_modes()
    finally:
        fast.terminate()
        fast.wait(30)


@pytest.mark.skipif(not FAKETIME.exists(), reason="libfaketime is not installed (Debian: libfaketime)")
def test_a_clock_that_differs_from_the_controllers_by_an_hour_is_named(controller, hosts, monkeypatch):
    alpha, beta = hosts
    give_keytabs(controller, alpha, beta)
    for host in hosts:
        host.prepare()
    controller.stop()
    text = controller.krb5_conf.read_text()
    controller.krb5_conf.write_text(text.replace("[libdefaults]\n", "[libdefaults]\n  kdc_timesync = 0\n"))
    with monkeypatch.context() as faked:
        faked.setenv("LD_PRELOAD", str(FAKETIME))
        faked.setenv("FAKETIME", "+1h")
        faked.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        controller.start()
    start(alpha, beta)
    assert not alpha.ping(1)
    assert eventually(lambda: alpha.reasons().get("kerberos-clock-skew")), alpha.reasons()
    assert not alpha.main_modes()
