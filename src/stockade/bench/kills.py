"""Agents and data planes killed under traffic: what gets out, what is lost, and how soon all is well again.

    alpha: killed and started    ◀── a numbered ping every 20 ms, secured ──▶    beta: left alone
                       └── capture on the wire between them ──┘

Three rounds: SIGKILL to the agent at calm moments (each after the one before has settled), to the agent at
random moments (most of them while it still starts), and to the data plane at random moments, where it is a
process and not the kernel's. Root."""

import argparse
import os
import random
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from ipaddress import ip_interface
from pathlib import Path

from stockade.agent.client import AgentClient
from stockade.agent.paths import Paths
from stockade.bench.report import Report
from stockade.lab.capture import Capture, WireWatch
from stockade.lab.errors import LabError
from stockade.lab.examples import STOCKADE
from stockade.lab.netns import Namespace, Network
from stockade.lab.real import Agent
from stockade.model.reasons import StockadeError
from stockade.model.traffic import ICMP, Flow

ALPHA, BETA = "10.81.0.1", "10.81.0.2"
PATIENCE = 60.0
POLICY = """
ipsec static
add filterlist name=secured
add filter filterlist=secured srcaddr=me dstaddr={peer} protocol=ICMP
add filteraction name=require qmsecmethods="ESP[AESGCM128,None]"
add policy name=kills activatedefaultrule=no mmsecmethods="AES128-SHA256-ECP256"
add rule name=secure policy=kills filterlist=secured filteraction=require psk="only for this"
set policy name=kills assign=yes
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kills", type=int, default=100, metavar="N", help="of each round (default 100)")
    parser.add_argument("--calm", type=int, default=5, metavar="N", help="kills at calm moments (default 5)")
    parser.add_argument("--seed", type=int, help="for the random moments")


def run(options: argparse.Namespace, report: Report) -> None:
    seed = options.seed if options.seed is not None else random.randrange(1 << 32)
    report.line(f"seed {seed}; each round with a ping every 20 ms")
    moments = random.Random(seed)
    with _world() as (network, alpha):
        with _round(report, "agent, calm", network):
            for _ in range(options.calm):
                _kill_calmly(report, alpha)
        with _round(report, f"agent, {options.kills} random moments", network):
            for _ in range(options.kills):
                alpha.kill()
                alpha.start()
                time.sleep(moments.uniform(0.0, 2.0))
            alpha.wait_until_ready()
        if not _has_data_plane(network["alpha"]):
            report.line("\ndata plane: the kernel's, which nobody can kill")
            return
        with _round(report, f"data plane, {options.kills} random moments", network):
            for _ in range(options.kills):
                _kill_data_plane(network["alpha"])
                time.sleep(moments.uniform(0.0, 1.0))


@contextmanager
def _world() -> Iterator[tuple[Network, Agent]]:
    """Two hosts with agents that have an SA."""
    hosts = {"alpha": ip_interface(f"{ALPHA}/24"), "beta": ip_interface(f"{BETA}/24")}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stockade-kills-")))
        network = stack.enter_context(Network(hosts))
        agents = []
        for name, peer in (("alpha", BETA), ("beta", ALPHA)):
            home = folder / name
            script = home.with_suffix(".netsh")
            script.write_text(POLICY.format(peer=peer), encoding="utf-8")
            network[name].run([*STOCKADE, "--home", str(home), "netsh", "-f", str(script), "--atomic"])
            agents.append(Agent(network[name], home))
            agents[-1].start()
        for agent in agents:
            agent.wait_until_ready()
        _wait("the first SA", lambda: _answers(network["alpha"]))
        yield network, agents[0]


@contextmanager
def _round(report: Report, name: str, network: Network) -> Iterator[None]:
    """Traffic and a capture around it; what both saw."""
    report.line(f"\n{name}")
    with tempfile.TemporaryFile("w+") as output:
        with Capture(network.switch, network.port("alpha"), WireWatch(_is_protected)) as capture:
            pinging = network["alpha"].popen(["ping", "-n", "-i", "0.02", BETA], stdout=output.fileno())
            try:
                yield
                _wait("an answer", lambda: _answers(network["alpha"]))
                pinging.send_signal(signal.SIGINT)
                pinging.wait(PATIENCE)
            finally:
                if pinging.poll() is None:
                    os.killpg(pinging.pid, signal.SIGKILL)
                    pinging.wait()
            tally = capture.tally()
        output.seek(0)
        answered = {int(number) for number in re.findall(r"icmp_seq=(\d+)", output.read())}
    sent = max(answered, default=0)
    report.figure(f"{name}: clear packets of protected traffic", tally.protected_clear, "packets")
    report.figure(f"{name}: sealed packets", tally.esp, "packets")
    report.figure(f"{name}: pings lost", sent - len(answered), "pings", float(sent), "those sent")


def _kill_calmly(report: Report, alpha: Agent) -> None:
    """Kill, start at once, and say how long it took until the new pair of SAs was there."""
    client = AgentClient(Paths.of(alpha.home).socket, timeout=5.0)
    time.sleep(1.0)
    killed = time.time()
    alpha.kill()
    alpha.start()
    found: dict[str, float] = {}

    def is_back() -> bool:
        try:
            entries = client.get("/v1/journal", {"last": "100"})["entries"]
        except StockadeError:
            return False
        for entry in entries if isinstance(entries, list) else ():
            when = datetime.fromisoformat(str(entry["time"])).timestamp()
            if when >= killed:
                found.setdefault(str(entry["kind"]), when - killed)
        return "quick-mode-established" in found

    _wait("a new pair", is_back)
    for kind, words in (("quick-mode-adopted", "SAs adopted"), ("quick-mode-established", "new SAs")):
        if kind in found:
            report.figure(f"{words} after SIGKILL and start", found[kind], "s")


def _data_planes(namespace: Namespace) -> Iterator[int]:
    for process in namespace.processes():
        with suppress(OSError):  # it has just ended
            line = Path(f"/proc/{process}/cmdline").read_bytes()
            if b"stockade.driver.userspace.process" in line:
                yield process


def _has_data_plane(namespace: Namespace) -> bool:
    """Whether there is one that can be killed: the kernel's cannot."""
    return any(True for _ in _data_planes(namespace))


def _kill_data_plane(namespace: Namespace) -> None:
    for process in _data_planes(namespace):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def _is_protected(flow: Flow) -> bool:
    return flow.protocol == ICMP and {str(flow.source), str(flow.destination)} == {ALPHA, BETA}


def _answers(namespace: Namespace) -> bool:
    command = namespace.argv(["ping", "-q", "-c", "1", "-W", "5", BETA])
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _wait(what: str, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"{what} did not come within {PATIENCE:g} seconds")
        time.sleep(0.02)
