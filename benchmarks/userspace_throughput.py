"""How fast the user-space data plane moves one TCP stream, beside the bare wire in the same run.

Two namespaces on one wire, both ends and iperf3 on this machine: plain first, then ESP in transport mode with
SAs installed by hand (no IKE), suite by suite. Besides Mbit/s it prints what the two data-plane processes
took of a CPU, which on a busy machine says more. Needs root, nftables and iperf3.

    python benchmarks/userspace_throughput.py [--seconds 5] [--profile] [--format json]

`--profile` runs no network: it seals and opens in this process under cProfile and prints where the time goes.
"""

import argparse
import cProfile
import hashlib
import json
import os
import pstats
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from types import MappingProxyType

from stockade.crypto.registry import encryption_algorithm, hash_algorithm
from stockade.driver.datapath import Datapath
from stockade.driver.packets import load_accelerator
from stockade.driver.userspace import virtio
from stockade.driver.userspace.driver import UserspaceDriver
from stockade.lab.needs import find_program, real_network
from stockade.lab.netns import Namespace, Network
from stockade.model.addresses import AddressRange, Endpoint
from stockade.model.filters import Action, Direction, FilterTable, Provenance, SpecificFilter
from stockade.model.negotiation import MainModePolicy, Mode, Negotiation, PresharedKey, QuickModePolicy
from stockade.model.sa import SecurityAssociation
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, EspSuite, Hash, QuickModeProposal
from stockade.model.traffic import TrafficSelector
from stockade.wire.transport import build_tcp

ALPHA, BETA = IPv4Address("10.9.2.1"), IPv4Address("10.9.2.2")
SUITES = {
    "AES-GCM-128": EspSuite(Encryption.AES_GCM_128, None),
    "AES-CBC-128+SHA1": EspSuite(Encryption.AES_CBC_128, Hash.SHA1),
    "3DES+SHA1": EspSuite(Encryption.TRIPLE_DES_CBC, Hash.SHA1),
}


def secure_everything() -> FilterTable:
    everyone = AddressRange.everything()
    filters = tuple(
        SpecificFilter(
            f"{number:016x}",
            TrafficSelector(everyone, everyone),
            direction,
            Action.NEGOTIATE,
            1,
            Provenance("benchmark", "policy", "rule"),
            negotiation="rule",
        )
        for number, direction in enumerate(Direction)
    )
    quick_mode = QuickModePolicy(tuple(QuickModeProposal(suite) for suite in SUITES.values()))
    negotiation = Negotiation("rule", MainModePolicy(), quick_mode, (PresharedKey(Secret(b"unused")),))
    return FilterTable(filters, MappingProxyType({"rule": negotiation}))


def sas_of(local: IPv4Address, suite: EspSuite, seed: str) -> list[SecurityAssociation]:
    """The SAs that a host has, inbound first. Both hosts derive the same keys from the seed, which is fit for
    a benchmark and nothing else."""

    def key(source: IPv4Address, what: str, size: int) -> Secret:
        return Secret(hashlib.shake_256(f"{seed} {source} {what}".encode()).digest(size))

    peer = BETA if local == ALPHA else ALPHA
    spis = {ALPHA: 0x1000, BETA: 0x2000}  # by source
    integrity_size = hash_algorithm(suite.integrity).integrity_key_size if suite.integrity else 0
    return [
        SecurityAssociation(
            spi=spis[source],
            direction=direction,
            source=source,
            destination=destination,
            selector=TrafficSelector(AddressRange.host(source), AddressRange.host(destination)),
            mode=Mode.TRANSPORT,
            esp=suite,
            ah=None,
            encryption_key=key(source, "encryption", encryption_algorithm(suite.encryption).keymat_size),
            integrity_key=key(source, "integrity", integrity_size),
            pair=spis[destination],
            negotiation="rule",
            filter_id="0" * 16,
            main_mode="",
        )
        for direction, source, destination in (
            (Direction.INBOUND, peer, local),
            (Direction.OUTBOUND, local, peer),
        )
    ]


def run_node(local: str, suite: str, seed: str) -> None:
    """One host's agent side: prints the id of its data-plane process when it is ready, ends with its standard
    input."""
    with tempfile.TemporaryDirectory() as folder:
        driver = UserspaceDriver(Path(folder))
        driver.start()
        try:
            driver.install_filters(secure_everything())
            for sa in sas_of(IPv4Address(local), SUITES[suite], seed):
                driver.add_sa(sa)
            print(driver.process_id, flush=True)
            sys.stdin.read()
        finally:
            driver.stop()


@dataclass
class Result:
    """`cpu` is the share of one CPU that each data plane took, sender's and receiver's."""

    name: str
    mbit_s: float
    ratio: float
    cpu: tuple[float, float] = (0.0, 0.0)


def measure(network: Network, seconds: float) -> float:
    server = network["beta"].popen(["iperf3", "-s", "-1"])
    try:
        time.sleep(0.5)
        result = network["alpha"].run(
            ["iperf3", "-J", "-c", str(BETA), "-t", str(seconds)], timeout=seconds + 30
        )
        return float(json.loads(result.stdout)["end"]["sum_received"]["bits_per_second"]) / 1e6
    finally:
        server.kill()
        server.wait(5)


def start_node(namespace: Namespace, local: IPv4Address, suite: str, seed: str) -> "subprocess.Popen[str]":
    command = [sys.executable, __file__, "--node", str(local), suite, seed]
    return subprocess.Popen(namespace.argv(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure_suite(network: Network, suite: str, seconds: float, plain: float) -> Result:
    seed = os.urandom(8).hex()
    nodes = [
        start_node(network[name], address, suite, seed)
        for name, address in (("alpha", ALPHA), ("beta", BETA))
    ]
    try:
        processes = [int(node.stdout.readline()) for node in nodes if node.stdout is not None]
        before = [cpu_seconds(process) for process in processes]
        began = time.monotonic()
        rate = measure(network, seconds)
        took = time.monotonic() - began
        sender, receiver = (
            (cpu_seconds(process) - start) / took for process, start in zip(processes, before, strict=True)
        )
        return Result(suite, rate, rate / plain, (sender, receiver))
    finally:
        for node in nodes:
            with suppress(OSError):
                if node.stdin is not None:
                    node.stdin.close()
            try:
                node.wait(10)
            except subprocess.TimeoutExpired:
                node.kill()


def profile() -> None:
    """Seal and open bursts of 60 KB in this process."""
    load_accelerator()
    burst = build_tcp(Endpoint(ALPHA, 1), Endpoint(BETA, 2), os.urandom(60_000))
    for name, suite in SUITES.items():
        sender, receiver = Datapath(), Datapath()
        for path in (sender, receiver):
            path.install_filters(secure_everything().filters, 0.0)
        sender.add_sa(sas_of(ALPHA, suite, "profile")[1], 0.0)
        receiver.add_sa(sas_of(BETA, suite, "profile")[0], 0.0)
        bursts = 10 if suite.encryption is Encryption.TRIPLE_DES_CBC else 200
        for step in ("seal", "open"):
            profiler = cProfile.Profile()
            began = time.perf_counter()
            if step == "seal":
                sealed = [sender.outbound([burst], 1.0).wire for _ in range(bursts)]
                took = time.perf_counter() - began
                profiler.runcall(sender.outbound, [burst] * bursts, 1.0)
            else:
                opened = [list(virtio.frames(receiver.inbound(wire, 1.0))) for wire in sealed]
                took = time.perf_counter() - began
                assert all(opened)
            packets = sum(map(len, sealed))
            print(f"\n{name}, {step}: {took / packets * 1e6:.1f} µs a packet")
            if step == "seal":
                pstats.Stats(profiler).sort_stats("tottime").print_stats(8)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--format", choices=["text", "json"], default="text")
    parser.add_argument("--node", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.node:
        run_node(*arguments.node)
        return 0
    if arguments.profile:
        profile()
        return 0
    reason = real_network() or (None if find_program("iperf3") else "iperf3 is not installed")
    if reason is not None:
        print(f"cannot measure: {reason}", file=sys.stderr)
        return 1
    hosts = {"alpha": IPv4Interface(f"{ALPHA}/24"), "beta": IPv4Interface(f"{BETA}/24")}
    with Network(hosts) as network:
        plain = measure(network, arguments.seconds)
        results = [Result("plain", plain, 1.0)]
        results += [measure_suite(network, suite, arguments.seconds, plain) for suite in SUITES]
    if arguments.format == "json":
        figures = {entry.name: {"mbit_s": round(entry.mbit_s), "ratio": entry.ratio} for entry in results}
        print(json.dumps(figures))
        return 0
    for entry in results:
        print(
            f"{entry.name:18} {entry.mbit_s:9.0f} Mbit/s   {entry.ratio:7.4f} of plain"
            + (f"   data planes {entry.cpu[0]:.0%} and {entry.cpu[1]:.0%} of a CPU" if any(entry.cpu) else "")
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
