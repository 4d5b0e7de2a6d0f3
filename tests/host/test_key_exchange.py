"""The key exchange of real agents: the Oakley log, AH with ESP, and what a scanner makes of us."""

import json
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import run_stockade

from stockade.agent.client import AgentClient
from stockade.agent.paths import Paths
from stockade.lab.netns import Namespace, Network
from stockade.lab.real import Agent

STOCKADE = [sys.executable, "-m", "stockade.console.main"]
ALPHA, BETA = "10.78.0.1", "10.78.0.2"
POLICY = """
ipsec static
add filterlist name=secured
add filter filterlist=secured srcaddr=me dstaddr={peer} protocol=ICMP
add filteraction name=require qmsecmethods="{methods}"
add policy name=test activatedefaultrule=no mmsecmethods="{main}"
add rule name=secure policy=test filterlist=secured filteraction=require psk="a secret thing"
set policy name=test assign=yes
"""


class Host:
    """One namespace with an agent."""

    def __init__(self, namespace: Namespace, home: Path) -> None:
        self.namespace, self.home = namespace, home
        self.agent = Agent(namespace, home)

    def stockade(self, *words: str, ok: bool = True) -> str:
        result = run_stockade(self.namespace, self.home, *words)
        assert (result.returncode == 0) == ok, (result.stdout, result.stderr)
        return result.stdout if ok else result.stderr

    def stories(self, *words: str) -> list[dict]:
        return json.loads(self.stockade("log", *words, "--format", "json"))["negotiations"]

    def prepare(
        self, peer: str, *, methods: str, main: str = "AES128-SHA256-ECP256", log: bool = True
    ) -> None:
        script = self.home.with_suffix(".netsh")
        script.write_text(POLICY.format(peer=peer, methods=methods, main=main))
        self.stockade("netsh", "-f", str(script), "--atomic")
        if log:
            self.switch_log(1)

    def switch_log(self, value: int) -> None:
        self.stockade(*f"netsh ipsec dynamic set config property=ikelogging value={value}".split())

    def ping(self, target: str, count: int = 3) -> bool:
        argv = ["ping", "-q", "-c", str(count), "-i", "0.2", "-W", "30", target]
        return self.namespace.run(argv, check=False, timeout=count + 60).returncode == 0


def start(*hosts: Host) -> None:
    for host in hosts:
        host.agent.start()
    for host in hosts:
        host.agent.wait_until_ready()


@pytest.fixture
def hosts(wire: Network, tmp_path: Path) -> tuple[Host, Host]:
    return Host(wire["alpha"], tmp_path / "alpha"), Host(wire["beta"], tmp_path / "beta")


def test_oakley_log_tells_every_negotiation_as_a_story(hosts: tuple[Host, Host]) -> None:
    alpha, beta = hosts
    alpha.prepare(BETA, methods="ESP[3DES,MD5] ESP[AES128,SHA256]", main="3DES-SHA1-2 AES128-SHA256-ECP256")
    beta.prepare(ALPHA, methods="ESP[AES128,SHA256]")
    assert "ikelogging" in alpha.stockade("log", ok=False)  # no log yet, and how to get one
    start(alpha, beta)
    assert alpha.ping(BETA)

    main, quick = beta.stories("--peer", ALPHA)
    assert (main["phase"], main["role"], main["outcome"]) == ("main mode", "responder", "established")
    assert (quick["phase"], quick["under"], quick["outcome"]) == ("quick mode", main["number"], "established")
    assert 0 < main["seconds"] < 60
    chosen = [line for line in main["lines"] if line["event"] == "chosen"]
    assert [fact["value"] for fact in chosen[0]["facts"]] == ["encryption, we have AES128", "chosen"]
    assert any(line["event"] == "proved" and ALPHA in line["text"] for line in main["lines"])
    main, quick = alpha.stories()
    assert main["role"] == "initiator"

    text = alpha.stockade("log")
    assert f"main mode with {BETA}:500" in text
    assert "we prove by preshared-key" in text
    file = alpha.home / "journal" / "oakley.log"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    for host in hosts:
        assert "a secret thing" not in (host.home / "journal" / "oakley.log").read_text()


def test_log_is_followed_switched_off_at_once_and_saved_at_the_next_start(hosts: tuple[Host, Host]) -> None:
    alpha, beta = hosts
    alpha.prepare(BETA, methods="ESP[AES128,SHA256]")
    beta.prepare(ALPHA, methods="ESP[AES128,SHA256]", log=False)
    start(alpha, beta)
    argv = [*STOCKADE, "--home", str(alpha.home), "log", "--follow", "--format", "json"]
    follower = alpha.namespace.popen(argv, stdout=subprocess.PIPE)
    try:
        assert alpha.ping(BETA)
        assert follower.stdout is not None
        events = [json.loads(follower.stdout.readline())["event"] for _ in range(6)]
        assert events[:3] == ["begun", "offered", "sent"]
    finally:
        follower.send_signal(signal.SIGINT)
        follower.wait(60)
        follower.stdout.close()
    assert not (beta.home / "journal" / "oakley.log").exists()

    alpha.switch_log(0)

    def negotiates_untold() -> bool:
        before = len(alpha.stories())
        AgentClient(Paths.of(alpha.home).socket, timeout=60.0).post("/v1/sas/delete", {"peer": BETA})
        assert alpha.ping(BETA)
        return len(alpha.stories()) == before

    deadline = time.monotonic() + 60
    while not negotiates_untold():  # the agent looks at its store once a second
        assert time.monotonic() < deadline
    before = len(alpha.stories())
    alpha.agent.terminate()
    assert len(alpha.stories()) == before
    alpha.switch_log(1)
    alpha.agent.start()
    alpha.agent.wait_until_ready()
    assert alpha.ping(BETA)
    assert len(alpha.stories("--saved")) == before
    assert alpha.stories()[0]["number"] == 1


def test_ah_with_esp_carries_packets_between_two_agents(hosts: tuple[Host, Host]) -> None:
    alpha, beta = hosts
    for host, peer in ((alpha, BETA), (beta, ALPHA)):
        host.prepare(peer, methods="AH[SHA1]+ESP[3DES,None]", log=False)
    start(alpha, beta)
    capture = beta.namespace.popen(
        ["tcpdump", "-n", "-l", "-c", "2", "-i", "eth0", "ah or esp or icmp"],
        stdout=subprocess.PIPE,
    )
    try:
        deadline = time.monotonic() + 60
        while capture.poll() is None:  # it takes a moment until it listens
            assert time.monotonic() < deadline
            assert alpha.ping(BETA)
        output, _ = capture.communicate(timeout=60)
    finally:
        if capture.poll() is None:
            capture.kill()
            capture.wait()
    lines = output.splitlines()
    assert lines
    assert all("AH(" in line and "ICMP" not in line for line in lines), lines
    for host in hosts:
        (row,) = json.loads(host.stockade("show", "sas", "--format", "json"))["quick_modes"]
        assert row["suite"].startswith("AH[SHA1]+ESP[3DES,None]")
        assert row["inbound_packets"] >= 3


@pytest.mark.skipif(shutil.which("ike-scan") is None, reason="needs ike-scan")
def test_ike_scan_gets_a_sane_answer(hosts: tuple[Host, Host]) -> None:
    alpha, beta = hosts
    alpha.prepare(BETA, methods="ESP[3DES,SHA1]", main="3DES-SHA1-2 AES128-SHA1-2")
    start(alpha)
    scan = ["ike-scan", "--sport=500", "--multiline", "--retry=2", "--timeout=2000"]
    good = beta.namespace.run([*scan, "--trans=(1=5,2=2,3=1,4=2)", ALPHA], check=False, timeout=120).stdout
    assert "Main Mode Handshake returned" in good, good
    assert "Enc=3DES" in good
    assert "Hash=SHA1" in good
    assert "Auth=PSK" in good
    assert "Group=2:modp1024" in good
    assert "1 returned handshake" in good
    bad = beta.namespace.run([*scan, "--trans=(1=1,2=1,3=1,4=1)", ALPHA], check=False, timeout=120).stdout
    assert "NO-PROPOSAL-CHOSEN" in bad, bad
    assert "1 returned notify" in bad
