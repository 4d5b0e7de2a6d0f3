"""Both phases made anew between two agents while packets pass: none may be lost.

Quick modes live for some seconds (or kilobytes), and a main mode makes one of them, so that each needs a new
one. Soft lifetimes come from the data plane, the old pair goes on until the new one is in. Packets pass until
enough was made anew, however long a busy machine takes for it."""

import json
import re
import time
from pathlib import Path

import pytest
from command_line import run_stockade

from stockade.lab.netns import Namespace, Network
from stockade.lab.real import Agent

ALPHA, BETA = "10.78.0.1", "10.78.0.2"
POLICY = """
ipsec static
add filterlist name=secured
add filter filterlist=secured srcaddr=me dstaddr={peer} protocol=ICMP
add filteraction name=require qmsecmethods="ESP[AES128,SHA256]:{lifetime}"
add policy name=test activatedefaultrule=no mmsecmethods="AES128-SHA256-ECP256" qmpermm=1
add rule name=secure policy=test filterlist=secured filteraction=require psk="a key"
set policy name=test assign=yes
"""
PACKETS = 100
INTERVAL = 0.02  # seconds
PATIENCE = 90.0


class Host:
    def __init__(self, namespace: Namespace, home: Path, peer: str, lifetime: str) -> None:
        self.namespace = namespace
        self.home = home
        self.agent = Agent(namespace, home)
        script = home.with_suffix(".netsh")
        script.write_text(POLICY.format(peer=peer, lifetime=lifetime))
        done = run_stockade(namespace, home, "netsh", "-f", str(script), "--atomic")
        assert done.returncode == 0, done.stderr

    def told(self, kind: str) -> list[dict]:
        lines = (self.home / "journal" / "journal.jsonl").read_text().splitlines()
        return [entry for entry in map(json.loads, lines) if entry["kind"] == kind]

    def send(self, target: str) -> None:
        """Some packets, each of which must be answered."""
        argv = ["ping", "-q", "-i", str(INTERVAL), "-c", str(PACKETS), "-s", "1000", "-W", "20", target]
        output = self.namespace.run(argv, check=False, timeout=120).stdout
        found = re.search(r"(\d+) packets transmitted, (\d+) received", output)
        assert found is not None, output
        assert found[1] == found[2] == str(PACKETS), output


@pytest.mark.parametrize(("lifetime", "pairs"), [("100000k/10s", 3), ("600k/3600s", 2)])
def test_no_packet_is_lost_while_both_phases_are_made_anew(
    wire: Network, tmp_path: Path, lifetime: str, pairs: int
) -> None:
    alpha = Host(wire["alpha"], tmp_path / "alpha", BETA, lifetime)
    beta = Host(wire["beta"], tmp_path / "beta", ALPHA, lifetime)
    for host in (alpha, beta):
        host.agent.start()
    for host in (alpha, beta):
        host.agent.wait_until_ready()
    deadline = time.monotonic() + PATIENCE
    while any(len(host.told("quick-mode-established")) < pairs for host in (alpha, beta)):
        assert time.monotonic() < deadline, (alpha.told("quick-mode-established"), alpha.agent.last_words())
        alpha.send(BETA)
    for host in (alpha, beta):
        assert len(host.told("main-mode-established")) >= pairs
        assert not host.told("quick-mode-failed")
        assert not host.told("main-mode-failed")
        assert not host.told("packets-refused")
    for host in (alpha, beta):
        assert host.agent.terminate() == 0
