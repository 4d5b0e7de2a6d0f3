"""Two agents with one policy on a wire, for the tests that kill them: pings and TCP are secured."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from stockade.lab.netns import Namespace, Network
from stockade.lab.real import Agent
from stockade.model.traffic import ICMP, TCP, Flow

ALPHA, BETA = "10.78.0.1", "10.78.0.2"
POLICY = """
ipsec static
add filterlist name=secured
add filter filterlist=secured srcaddr=me dstaddr={peer} protocol=ICMP
add filter filterlist=secured srcaddr=me dstaddr={peer} protocol=TCP
add filteraction name=require qmsecmethods="ESP[AES128,SHA256]"
add policy name=test activatedefaultrule=no mmsecmethods="AES128-SHA256-ECP256"
add rule name=secure policy=test filterlist=secured filteraction=require psk="a key"
set policy name=test assign=yes
"""


def is_protected(flow: Flow) -> bool:
    return flow.protocol in (ICMP, TCP) and {str(flow.source), str(flow.destination)} == {ALPHA, BETA}


def make_agent(namespace: Namespace, home: Path, peer: str) -> Agent:
    script = home.with_suffix(".netsh")
    script.write_text(POLICY.format(peer=peer))
    words = ["-m", "stockade.console.main", "--home", str(home), "netsh", "-f", str(script), "--atomic"]
    namespace.run([sys.executable, *words])
    return Agent(namespace, home)


def secured_pair(wire: Network, folder: Path) -> tuple[Agent, Agent]:
    """Alpha's and beta's agents, whose SAs are up; their homes are in `folder`."""
    alpha = make_agent(wire["alpha"], folder / "alpha", BETA)
    beta = make_agent(wire["beta"], folder / "beta", ALPHA)
    for agent in (alpha, beta):
        agent.start()
    for agent in (alpha, beta):
        agent.wait_until_ready()
    assert ping(wire["alpha"], BETA)
    return alpha, beta


def end(process: "subprocess.Popen[str]") -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(60)


def ping(namespace: Namespace, peer: str, seconds: int = 30) -> bool:
    argv = ["ping", "-q", "-c", "1", "-W", str(seconds), peer]
    return namespace.run(argv, check=False, timeout=seconds + 30).returncode == 0


def data_plane_of(namespace: Namespace) -> int | None:
    for process in namespace.processes():
        try:
            line = Path(f"/proc/{process}/cmdline").read_bytes()
        except OSError:
            continue
        if b"stockade.driver.userspace.process" in line:
            return process
    return None
