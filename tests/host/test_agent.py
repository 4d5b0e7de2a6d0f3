"""The agent on real hosts: what it says, what it survives, what it leaves behind."""

import json
import random
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import msgspec
import pytest
from command_line import run_stockade

from stockade.agent.api import ROUTES
from stockade.agent.client import AgentClient
from stockade.agent.paths import Paths
from stockade.lab.netns import Namespace, Network
from stockade.lab.real import Agent
from stockade.model.reasons import CallerError
from stockade.policy.objects import Filter, FilterAddress
from stockade.store.local import LocalStore

ALPHA, BETA = "10.78.0.1", "10.78.0.2"
PATIENCE = 60.0

POLICY = """
ipsec static
add filterlist name=secured
add filter filterlist=secured srcaddr=me dstaddr={peer} protocol=ICMP
add filter filterlist=secured srcaddr=me dstaddr={peer} protocol=TCP
add filteraction name=require qmsecmethods="{methods}"
add policy name=test activatedefaultrule=no mmsecmethods="AES128-SHA256-ECP256"
add rule name=secure policy=test filterlist=secured filteraction=require psk="{psk}"
set policy name=test assign=yes
"""


class Host:
    """One namespace with an agent."""

    def __init__(self, namespace: Namespace, home: Path) -> None:
        self.namespace = namespace
        self.home = home
        self.agent = Agent(namespace, home)

    def stockade(self, *words: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
        result = run_stockade(self.namespace, self.home, *words)
        assert (result.returncode == 0) == ok, (result.stdout, result.stderr)
        return result

    def ask(self, *words: str) -> dict:
        return json.loads(self.stockade(*words, "--format", "json").stdout)

    def status_or_none(self) -> dict | None:
        """The status, None while no agent answers."""
        result = run_stockade(self.namespace, self.home, "status", "--format", "json")
        return json.loads(result.stdout) if result.returncode == 0 else None

    def journal(self) -> list[dict]:
        text = (self.home / "journal" / "journal.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]

    def write_policy(self, peer: str, psk: str = "a key", methods: str = "ESP[AES128,SHA256]") -> None:
        script = self.home.with_suffix(".netsh")
        script.write_text(POLICY.format(peer=peer, psk=psk, methods=methods))
        self.stockade("netsh", "-f", str(script), "--atomic")

    def ping(self, target: str, count: int = 1, seconds: int = 30) -> bool:
        argv = ["ping", "-q", "-c", str(count), "-i", "0.2", "-W", str(seconds), target]
        return self.namespace.run(argv, check=False, timeout=count + seconds + 30).returncode == 0


def eventually(question: Callable[[], object], patience: float = PATIENCE) -> object:
    """Ask until the answer is true; the last answer."""
    deadline = time.monotonic() + patience
    while not (answer := question()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return answer


@pytest.fixture
def hosts(wire: Network, tmp_path: Path) -> tuple[Host, Host]:
    return Host(wire["alpha"], tmp_path / "alpha"), Host(wire["beta"], tmp_path / "beta")


def start(hosts: Sequence[Host]) -> None:
    for host in hosts:
        host.agent.start()
    for host in hosts:
        host.agent.wait_until_ready()


def secure(hosts: tuple[Host, Host]) -> tuple[Host, Host]:
    """The two hosts, their agents ready, with a policy that secures what they say to each other."""
    alpha, beta = hosts
    alpha.write_policy(BETA)
    beta.write_policy(ALPHA)
    start(hosts)
    return hosts


def test_two_agents_secure_what_the_policy_says_and_tell(hosts):
    alpha, beta = secure(hosts)
    assert alpha.ping(BETA, count=3)

    for host, peer in ((alpha, BETA), (beta, ALPHA)):
        sas = host.ask("show", "sas")
        assert [row["peer"] for row in sas["main_modes"]] == [f"{peer}:500"]
        (row,) = sas["quick_modes"]
        assert row["peer"] == peer
        assert row["inbound_packets"] == row["outbound_packets"] == 3
        assert "ESP[AES128,SHA256]" in row["suite"]
    inbound = {row["inbound_spi"] for host in hosts for row in host.ask("show", "sas")["quick_modes"]}
    outbound = {row["outbound_spi"] for host in hosts for row in host.ask("show", "sas")["quick_modes"]}
    assert inbound == outbound

    status = alpha.ask("status")
    assert status["policy"] == "test"
    assert (status["main_modes"], status["quick_modes"]) == (1, 1)
    rows = alpha.ask("show", "filters")["filters"]
    assert [row["weight"] for row in rows] == sorted((row["weight"] for row in rows), reverse=True)
    secured = [row for row in rows if row["action"] == "negotiate" and row["protocol"] == "icmp"]
    assert {row["direction"] for row in secured} == {"inbound", "outbound"}
    assert "rule “secure”" in secured[0]["provenance"]
    explained = alpha.ask("explain", "me", BETA, "tcp", "--port", "80")
    assert explained["verdict"] == "secure"
    for words in (("status",), ("show", "filters"), ("show", "sas"), ("explain", "me", BETA)):
        assert alpha.stockade(*words).stdout.strip()
    assert "a key" not in (alpha.home / "journal" / "journal.jsonl").read_text()


def test_a_wrong_key_is_named_by_its_likely_cause_on_both_ends(hosts):
    alpha, beta = hosts
    alpha.write_policy(BETA, psk="the right key")
    beta.write_policy(ALPHA, psk="another key")
    start(hosts)
    assert not alpha.ping(BETA, seconds=3)

    def causes(host: Host) -> list[dict]:
        return [entry for entry in host.journal() if entry["reason"] == "psk-mismatch"]

    for host, peer in ((alpha, BETA), (beta, ALPHA)):
        assert eventually(lambda host=host: causes(host)), host.journal()
        entry = causes(host)[0]
        assert peer in entry["peer"]
        assert "pre-shared key" in entry["text"]
        assert "right key" not in json.dumps(host.journal())


def test_any_bytes_on_the_ike_ports_do_no_harm(hosts):
    alpha, beta = hosts
    alpha.write_policy(BETA)
    beta.write_policy(ALPHA)
    for host in hosts:
        host.agent.start()
    pid = alpha.agent.wait_until_ready()["pid"]
    beta.agent.wait_until_ready()
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    valid_start = bytes(range(1, 9)) + bytes(8) + bytes([1, 0x10, 2, 0]) + bytes(4)

    def flood() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for number in range(20_000):
                body = chance.randbytes(chance.randrange(0, 400))
                if number % 2:
                    body = valid_start + (28 + len(body)).to_bytes(4, "big") + body
                sender.sendto(body, (ALPHA, 500 if number % 3 else 4500))

    def resident() -> int:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

    beta.namespace.call(flood)
    assert alpha.ask("status")["pid"] == pid
    before = resident()
    beta.namespace.call(flood)
    assert alpha.ask("status")["pid"] == pid
    assert resident() - before < 8 * 1024  # KiB
    refused = [entry for entry in alpha.journal() if entry["kind"] == "message-refused"]
    assert refused
    assert len(refused) < 1000  # of 40 000
    assert not [entry for entry in alpha.journal() if entry["reason"] == "internal"]
    assert alpha.ping(BETA)


def test_a_policy_is_changed_while_traffic_runs(hosts):
    alpha, beta = secure(hosts)
    assert alpha.ping(BETA)

    static = ("netsh", "ipsec", "static")
    alpha.stockade(*static, "add", "filteraction", "name=deny", "action=block")
    alpha.stockade(*static, "set", "rule", "name=secure", "policy=test", "filteraction=deny")
    assert not alpha.ping(BETA, seconds=1)
    assert not alpha.ask("show", "sas")["quick_modes"]
    assert eventually(lambda: not beta.ask("show", "sas")["quick_modes"])  # alpha told beta
    alpha.stockade(*static, "set", "rule", "name=secure", "policy=test", "filteraction=require")
    assert alpha.ping(BETA)

    # What cannot be secured is refused before it is in the policy, which stays.
    multicast = ("filterlist=secured", "srcaddr=me", "dstaddr=224.0.0.9")
    refusal = alpha.stockade(*static, "add", "filter", *multicast, ok=False)
    assert "multicast" in refusal.stderr
    assert "secure" in refusal.stderr
    assert alpha.ask("status")["policy_refused"] is None

    # A policy that cannot be enforced, however it came, is refused whole, and the last good one stays.
    def put(filters: tuple[Filter, ...]) -> None:
        store = LocalStore(alpha.home / "policy.db")
        with store.transaction() as change:
            secured = change.read().filter_list("secured")
            change.put_filter_list(replace(secured, filters=filters))
        store.close()

    store = LocalStore(alpha.home / "policy.db")
    good = store.read().filter_list("secured").filters
    store.close()
    put((*good, Filter(FilterAddress.me(), FilterAddress.of(ip_address("224.0.0.9")))))
    refused = eventually(lambda: alpha.ask("status")["policy_refused"])
    assert isinstance(refused, dict)
    assert refused["reason"] == "not-securable"
    assert alpha.ping(BETA)
    put(good)
    assert eventually(lambda: alpha.ask("status")["policy_refused"] is None)

    # Unassigned: everything passes in clear again, on both ends.
    for host in hosts:
        host.stockade(*static, "set", "policy", "name=test", "assign=no")
    assert alpha.ping(BETA)
    assert not alpha.ask("show", "sas")["quick_modes"]


def test_an_unreadable_store_leaves_the_last_good_policy_in_force(hosts):
    alpha, _ = secure(hosts)
    policy = alpha.home / "policy.db"
    for leftover in alpha.home.glob("policy.db-*"):
        leftover.unlink()
    policy.write_bytes(b"no database at all" * 1000)
    assert eventually(lambda: alpha.ask("status")["policy_refused"])
    assert alpha.ask("status")["policy_refused"]["reason"] == "store-unreadable"
    assert alpha.ping(BETA)

    # Also over a restart.
    alpha.agent.kill()
    alpha.agent.start()
    assert eventually(lambda: alpha.status_or_none() is not None)
    status = alpha.status_or_none()
    assert status["policy"] == "test"
    assert status["policy_refused"]["reason"] == "store-unreadable"
    assert alpha.ping(BETA)


def test_a_new_address_is_protected_too(hosts):
    alpha, beta = hosts
    alpha.write_policy(BETA)
    beta.write_policy("10.78.0.0/24")
    start(hosts)
    alpha.namespace.ip("addr add 10.78.0.11/24 dev eth0")

    def covered() -> bool:
        return any(row["source"] == "10.78.0.11" for row in alpha.ask("show", "filters")["filters"])

    assert eventually(covered)
    result = alpha.namespace.run(["ping", "-q", "-c1", "-W5", "-I", "10.78.0.11", BETA], check=False)
    assert result.returncode == 0
    assert {row["local"] for row in alpha.ask("show", "sas")["quick_modes"]} == {"10.78.0.11"}


def test_a_second_agent_is_refused_with_the_reason(hosts):
    alpha, _ = hosts
    alpha.write_policy(BETA)
    alpha.agent.start()
    alpha.agent.wait_until_ready()
    again = alpha.stockade("agent", "run", ok=False)
    assert "an agent runs already" in again.stderr
    other = Host(alpha.namespace, alpha.home.with_name("other"))
    other.write_policy(BETA)
    elsewhere = other.stockade("agent", "run", ok=False)
    assert "agent" in elsewhere.stderr
    assert "Traceback" not in elsewhere.stderr
    assert alpha.ask("status")["policy"] == "test"  # undisturbed


def test_orderly_stop_leaves_nothing_and_tells_the_peer(hosts):
    alpha, beta = hosts
    state = ["ip rule", "ip route show table all", "ip -o link", "nft list tables", "ip -6 rule"]

    def system(host: Host) -> list[str]:
        lines = [host.namespace.run(command.split(), check=False).stdout for command in state]
        return [re.sub(r"(mtu|qdisc|state|qlen) \S+|<[^>]*>", "", text) for text in lines]

    before = system(alpha)
    secure(hosts)
    assert alpha.ping(BETA)
    assert system(alpha) != before
    assert alpha.agent.terminate() == 0
    assert system(alpha) == before
    assert not (alpha.home / "agent.sock").exists()
    assert eventually(lambda: not beta.ask("show", "sas")["main_modes"])
    reasons = {entry["reason"] for entry in beta.journal() if entry["kind"] == "quick-mode-deleted"}
    assert reasons == {"sa-deleted"}


def test_the_local_api_answers_as_its_own_document_says(hosts):
    alpha, _ = secure(hosts)
    client = AgentClient(Paths.of(alpha.home).socket)
    document = client.get("/v1/openapi.json")
    parameters = {"source": ALPHA, "destination": BETA, "peer": BETA}
    answered = set()
    for endpoint in ROUTES:
        assert endpoint.method.lower() in document["paths"][endpoint.path]
        if endpoint.path.startswith("/v1/cluster"):
            continue  # these hosts are no nodes of a cluster
        required = {entry.name for entry in endpoint.parameters if entry.required}
        if not required <= parameters.keys():
            continue  # about a revision, which these stores need not have
        wanted = {name: parameters[name] for name in required}
        ask = client.get if endpoint.method == "GET" else client.post
        if endpoint.answer is not None and endpoint.body is None:
            msgspec.convert(ask(endpoint.path, wanted), endpoint.answer, strict=True)
            answered.add(endpoint.path)
    assert {"/v1/status", "/v1/filters", "/v1/sas", "/v1/explain"} <= answered
    with pytest.raises(CallerError) as refusal:
        client.get("/v1/explain", {"source": "nonsense", "destination": BETA})
    assert "nonsense" in str(refusal.value)

    seen: list[str] = []

    def follow() -> None:
        for entry in client.events():
            seen.append(entry["kind"])
            if entry["kind"] == "quick-mode-established":
                return

    reader = threading.Thread(target=follow, daemon=True)
    reader.start()
    deadline = time.monotonic() + PATIENCE
    while reader.is_alive() and time.monotonic() < deadline:  # again where it was not listening yet
        client.post("/v1/sas/delete", {"peer": BETA})
        assert alpha.ping(BETA)
        reader.join(1)
    assert not reader.is_alive()
    assert {"main-mode-established", "quick-mode-established"} <= set(seen)


def test_the_socket_is_for_its_owner_only(hosts):
    alpha, _ = hosts
    alpha.write_policy(BETA)
    alpha.agent.start()
    alpha.agent.wait_until_ready()
    for name in ("agent.sock", "policy.db", "state.db", "journal/journal.jsonl", "policy.last-good.db"):
        assert (alpha.home / name).stat().st_mode & 0o077 == 0, name
