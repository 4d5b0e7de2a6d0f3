"""Both phases made anew between two agents while a flood of packets passes: none may be lost.

Quick modes live for 4 seconds (or 350 kilobytes), and every main mode makes two of them, so that a third
needs a new one. Soft lifetimes come from the data plane, the old pair goes on until the new one is in."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from stockade.lab.netns import Namespace, Network
from stockade.lab.real import Agent

STOCKADE = [sys.executable, "-m", "stockade.console.main"]
ALPHA, BETA = "10.78.0.1", "10.78.0.2"
POLICY = """
ipsec static
add filterlist name=secured
add filter filterlist=secured srcaddr=me dstaddr={peer} protocol=ICMP
add filteraction name=require qmsecmethods="ESP[AES128,SHA256]:{lifetime}"
add policy name=test activatedefaultrule=no mmsecmethods="AES128-SHA256-ECP256" qmpermm=2
add rule name=secure policy=test filterlist=secured filteraction=require psk="a key"
set policy name=test assign=yes
"""
PACKETS = 1000
INTERVAL = 0.01  # seconds

pytestmark = pytest.mark.timeout(90)


class Host:
    def __init__(self, namespace: Namespace, home: Path, peer: str, lifetime: str) -> None:
        self.namespace = namespace
        self.home = home
        self.agent = Agent(namespace, home)
        script = home.with_suffix(".netsh")
        script.write_text(POLICY.format(peer=peer, lifetime=lifetime))
        namespace.run([*STOCKADE, "--home", str(home), "netsh", "-f", str(script), "--atomic"])

    def told(self, kind: str) -> list[dict]:
        lines = (self.home / "journal" / "journal.jsonl").read_text().splitlines()
        return [entry for entry in map(json.loads, lines) if entry["kind"] == kind]

    def flood(self, target: str) -> subprocess.Popen[str]:
        argv = ["ping", "-q", "-i", str(INTERVAL), "-c", str(PACKETS), "-s", "1000", "-W", "5", target]
        return self.namespace.popen(argv, stdout=subprocess.PIPE)


@pytest.mark.parametrize("lifetime", ["100000k/4s", "350k/3600s"])
def test_no_packet_is_lost_while_both_phases_are_made_anew(
    wire: Network, tmp_path: Path, lifetime: str
) -> None:
    alpha = Host(wire["alpha"], tmp_path / "alpha", BETA, lifetime)
    beta = Host(wire["beta"], tmp_path / "beta", ALPHA, lifetime)
    for host in (alpha, beta):
        host.agent.start()
    for host in (alpha, beta):
        host.agent.wait_until_ready()
    output, _ = alpha.flood(BETA).communicate(timeout=60)
    found = re.search(r"(\d+) packets transmitted, (\d+) received", output)
    assert found is not None, output
    assert found[1] == found[2] == str(PACKETS), output
    for host in (alpha, beta):
        quick_modes, main_modes = host.told("quick-mode-established"), host.told("main-mode-established")
        assert len(quick_modes) >= 3, quick_modes
        assert len(main_modes) >= 2, main_modes
        assert not host.told("quick-mode-failed")
        assert not host.told("main-mode-failed")
        assert not host.told("packets-refused")
    for host in (alpha, beta):
        assert host.agent.terminate() == 0
