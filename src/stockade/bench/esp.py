"""How fast ESP is in user space: plain wire, Stockade, strongSwan with its user-space ESP (kernel-libipsec).

    stockade bench esp            (or: python benchmarks/esp.py)

    ┌───────── alpha ─────────┐   veth   ┌────────── beta ─────────┐
    │  lo 10.71.0.1 (tunnels) │          │  lo 10.72.0.1 (tunnels) │
    │          eth0 10.9.2.1 ─┼──────────┼─ eth0 10.9.2.2          │
    └─────────────────────────┘          └─────────────────────────┘

Two namespaces of this machine, both ends and iperf3 on it: one run measures all of them, so the ratios count
and the figures only say in what company. TCP with one stream and with eight, UDP with 64 bytes a packet (as
many as get through), a datagram there and back. strongSwan's plugin only has tunnels in UDP; Stockade's SAs
are installed by hand. A bare relay in C through user space without cryptography (`esp_relay`) is the floor.
Then where the time goes in the data plane, and many SAs: how fast they are installed, what memory they take,
what a packet costs beside them. Needs root, nftables and iperf3; without strongSwan its rows are left out.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from stockade.bench import esp_relay, esp_scale, esp_strongswan
from stockade.bench.esp_node import HOSTS, INNER, MODES, SUITES
from stockade.bench.report import Report
from stockade.driver.burst.engine import WORKERS, load_library
from stockade.lab.needs import find_program, real_network
from stockade.lab.netns import Namespace, sweep
from stockade.model.reasons import HostError

TRAFFIC = ("tcp", "tcp8", "udp", "latency")
UNITS = {"tcp": "Mbit/s", "tcp8": "Mbit/s", "udp": "packets/s", "latency": "µs"}
WORDS = {
    "tcp": "TCP, one stream",
    "tcp8": "TCP, eight streams",
    "udp": "UDP, 64 bytes",
    "latency": "there and back",
}
UDP_SIZE = 64
WARM_SECONDS = 1
"""Whole ones, as those of the measurement: iperf3 takes no others, and makes nothing of 0.5."""

START_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Wire:
    """Two hosts with one cable between them, and an address behind each."""

    alpha: Namespace
    beta: Namespace

    def __getitem__(self, name: str) -> Namespace:
        return self.alpha if name == "alpha" else self.beta


@contextmanager
def direct_wire() -> Iterator[Wire]:
    """No switch in between: it would be measured too."""
    sweep()
    owner = f"stockade-lab.{os.getpid()}.{_started()}.esp"
    with Namespace("alpha", owner=owner) as alpha, Namespace("beta", owner=owner) as beta:
        alpha.ip(f"link add eth0 type veth peer name eth0 netns {beta.full_name}")
        for name, namespace in (("alpha", alpha), ("beta", beta)):
            peer = "beta" if name == "alpha" else "alpha"
            namespace.ip(
                f"address add {HOSTS[name]}/24 dev eth0",
                "link set eth0 up",
                f"address add {INNER[name]}/32 dev lo",
            )
            namespace.addresses = (HOSTS[name],)
            namespace.ip(f"route add {INNER[peer]}/32 via {HOSTS[peer]} src {INNER[name]}")
        yield Wire(alpha, beta)


def _started() -> str:
    return Path(f"/proc/{os.getpid()}/stat").read_text().rsplit(")", 1)[1].split()[19]


def node_argv(*words: str) -> list[str]:
    return [sys.executable, "-P", "-m", "stockade.bench.esp_node", *words]


def node_environment() -> dict[str, str]:
    import stockade

    folder = str(Path(stockade.__file__).resolve().parent.parent)
    return {"PATH": os.environ.get("PATH", ""), "PYTHONPATH": folder}


@contextmanager
def stockade_hosts(
    wire: Wire, suite: str, mode: str, without: str = "", *, times: bool = False, queues: int = 0
) -> Iterator[list[dict[str, float]]]:
    """Both hosts' data planes. After it the list has the times of both."""
    seed = os.urandom(8).hex()
    nodes = []
    found: list[dict[str, float]] = []
    try:
        for name in ("alpha", "beta"):
            words = node_argv("host", name, suite, mode, seed, without, "times" if times else "", str(queues))
            nodes.append(
                subprocess.Popen(
                    wire[name].argv(words),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env=node_environment(),
                )
            )
        for node in nodes:
            assert node.stdout is not None
            if not node.stdout.readline().strip().isdigit():
                raise RuntimeError(f"the data plane did not start ({suite}, {mode})")
        yield found
    finally:
        for node in nodes:
            with suppress(OSError, ValueError):
                answer, _ = node.communicate(timeout=START_SECONDS)
                with suppress(json.JSONDecodeError):
                    found.append(json.loads(answer.strip().splitlines()[-1]))
            if node.poll() is None:
                node.kill()
                node.wait(5)


@dataclass(frozen=True, slots=True)
class Measured:
    """Mbit/s, packets/s or µs; 0 where nothing got through. `cost`: milliseconds of processor time for a
    megabyte of TCP, of both ends and iperf3 together; 0 where it is not known. On a busy machine it says
    more."""

    value: float
    cost: float = 0.0


def _processor_seconds(wire: Wire) -> float:
    """What the processes that run in both namespaces have used."""
    total = 0
    for process in (*wire.alpha.processes(), *wire.beta.processes()):
        with suppress(OSError):
            fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def datagrams_a_second(end: dict[str, dict[str, float]]) -> float:
    """What got through, from the `end` of iperf3's report.

    By the bytes that the receiver counted: with a warm-up (`-O`) iperf3 3.12 counts the packets without those
    of the warm-up and the lost ones with them, so that their difference may well be below 0."""
    received = end["sum_received"]
    return received["bytes"] / UDP_SIZE / received["seconds"]


def measure(wire: Wire, traffic: str, tunnel: bool, seconds: float) -> Measured:
    source, target = (INNER if tunnel else HOSTS)["alpha"], str((INNER if tunnel else HOSTS)["beta"])
    if traffic == "latency":
        with subprocess.Popen(
            wire.beta.argv(node_argv("echo", target)), stdout=subprocess.PIPE, env=node_environment()
        ) as echo:
            try:
                assert echo.stdout is not None
                echo.stdout.readline()
                words = node_argv("ask", target, str(seconds))
                asked = wire.alpha.run(words, timeout=seconds + 30, environment=node_environment())
                return Measured(float(json.loads(asked.stdout).get("median", 0.0)))
            finally:
                echo.kill()
    server = wire.beta.popen(["iperf3", "-s", "-1", "-B", target])
    try:
        time.sleep(0.4)
        words = ["iperf3", "-J", "-c", target, "-B", str(source), "-t", str(seconds), "-O", str(WARM_SECONDS)]
        words += {"tcp": [], "tcp8": ["-P", "8"], "udp": ["-u", "-b", "0", "-l", str(UDP_SIZE)]}[traffic]
        before = _processor_seconds(wire)
        # One that hangs (nothing gets through) is a figure of 0, not the end of all others.
        with suppress(json.JSONDecodeError, KeyError, HostError):
            done = wire.alpha.run(words, timeout=seconds + 15, check=False)
            end = json.loads(done.stdout)["end"]
            if traffic == "udp":
                return Measured(datagrams_a_second(end))
            used = _processor_seconds(wire) - before
            shares = end["cpu_utilization_percent"]
            used += (shares["host_total"] + shares["remote_total"]) / 100 * seconds
            received = end["sum_received"]["bytes"] * (seconds + WARM_SECONDS) / seconds / 1e6
            return Measured(end["sum_received"]["bits_per_second"] / 1e6, used * 1e3 / received)
        return Measured(0.0)
    finally:
        server.kill()
        server.wait(5)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    def words(known: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
        def read(text: str) -> tuple[str, ...]:
            given = tuple(text.split(","))
            if not set(given) <= set(known):
                raise argparse.ArgumentTypeError(f"choose from {', '.join(known)}")
            return given

        return read

    def whole_seconds(text: str) -> int:
        if not text.isdecimal() or int(text) < 1:
            raise argparse.ArgumentTypeError("a whole number of seconds, 1 or more")
        return int(text)

    parser.add_argument(
        "--suites", type=words(tuple(SUITES)), default=tuple(SUITES), help="of " + ", ".join(SUITES)
    )
    parser.add_argument("--modes", type=words(MODES), default=MODES, help="of " + ", ".join(MODES))
    parser.add_argument("--traffic", type=words(TRAFFIC), default=TRAFFIC, help="of " + ", ".join(TRAFFIC))
    parser.add_argument("--seconds", type=whole_seconds, default=2, help="of each measurement")
    parser.add_argument("--no-offload", default="", metavar="NAME,…", help="measure without these")
    parser.add_argument(
        "--queues",
        type=int,
        choices=range(WORKERS + 1),
        default=0,
        help="of the TUN device; 0: as it decides",
    )
    parser.add_argument("--no-strongswan", action="store_true", help="leave the peer out")
    parser.add_argument("--sas", type=int, default=10_000, help="SAs that the last part installs; 0: none")


def run(options: argparse.Namespace, report: Report) -> None:
    reason = real_network() or (None if find_program("iperf3") else "iperf3 is not installed")
    if reason is not None:
        report.line(f"the wire cannot be measured: {reason}")
    else:
        with direct_wire() as wire:
            _measure_all(wire, options, report)
    if options.sas:
        esp_scale.run(options.sas, report)


def _measure_all(wire: Wire, options: argparse.Namespace, report: Report) -> None:
    if load_library() is None:
        how = "python -m stockade.driver.burst.build"
        report.line(f"the burst path is not built from these sources ({how}): this is the Python path")
    report.line("\nplain wire")
    plain: dict[str, Measured] = {}
    floor: dict[str, Measured] = {}
    nothing = Measured(0.0)

    def take(who: str, traffic: str, tunnel: bool, peer: Measured = nothing) -> Measured:
        found = measure(wire, traffic, tunnel, options.seconds)
        beside = plain.get(traffic, nothing)
        report.figure(f"{who}: {WORDS[traffic]}", found.value, UNITS[traffic], beside.value or None, "plain")
        if not found.value:
            report.line(f"{who}: {WORDS[traffic]}: nothing got through")
        if found.cost:
            report.figure(f"{who}: processor time", found.cost, "ms/MB", beside.cost or None, "plain")
        if peer.value:
            report.figure(f"{who}: {WORDS[traffic]}, times strongSwan", found.value / peer.value, "")
        if traffic == "latency" and floor.get(traffic, nothing).value:
            limit = floor[traffic].value
            report.figure(f"{who}: there and back, beside the bare relay", found.value / limit, "")
        if peer.cost and found.cost:
            report.figure(f"{who}: work done in its time, times strongSwan", peer.cost / found.cost, "")
        return found

    for traffic in options.traffic:
        plain[traffic] = take("plain", traffic, False)
    with esp_relay.relayed(wire.alpha, wire.beta) as refusal:
        if refusal is not None:
            report.line(f"no bare relay: {refusal}")
        floor = {
            traffic: take("bare relay through user space, no cryptography", traffic, True)
            for traffic in options.traffic
            if refusal is None
        }
    missing = "left out" if options.no_strongswan else esp_strongswan.missing()
    for suite in options.suites:
        peer: dict[str, Measured] = {}
        report.line(f"\n{suite}" + (f"   (without strongSwan: {missing})" if missing else ""))
        if missing is None:
            with esp_strongswan.tunnel(wire.alpha, wire.beta, suite) as refusal:
                if refusal is not None:
                    report.line(f"strongSwan has no tunnel: {refusal}")
                for traffic in options.traffic if refusal is None else ():
                    peer[traffic] = take("strongSwan tunnel-udp", traffic, True)
        for mode in options.modes:
            with stockade_hosts(wire, suite, mode, options.no_offload, queues=options.queues):
                for traffic in options.traffic:
                    tunnel = mode.startswith("tunnel")
                    take(f"Stockade {mode}", traffic, tunnel, peer.get(traffic, nothing))
        _where_the_time_goes(wire, suite, options, report)


def _where_the_time_goes(wire: Wire, suite: str, options: argparse.Namespace, report: Report) -> None:
    """One stream once more, with clocks inside the data planes (which cost some themselves)."""
    mode = options.modes[0]
    with stockade_hosts(wire, suite, mode, options.no_offload, times=True, queues=options.queues) as found:
        measure(wire, "tcp", mode.startswith("tunnel"), options.seconds)
    for who, times in zip(("sender", "receiver"), found, strict=False):
        total = times.get("total", 0.0)
        if not total:
            continue
        crypto, system = times["crypto"] / total, times["system"] / total
        report.line(
            f"where the {who}'s time goes ({mode}): crypto {crypto:.0%}, system calls {system:.0%}, segments,"
            f" checksums and headers {1 - crypto - system:.0%}; the process worked {times['process']:.1f} s,"
            f" the burst path took {total:.1f} s (waiting for a processor included)"
        )
