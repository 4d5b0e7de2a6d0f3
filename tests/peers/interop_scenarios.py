"""Stockade, strongSwan and libreswan protect each other's traffic, all on the kernel's own ESP, in one go.

    ours: `stockade agent run --driver kernel` ──┬── strongswan: charon, an address for each case
                                                 └── libreswan: pluto, an address for each case

A program of its own, since the machine that the tests run on may have no ESP: `test_interop.py` starts it
in a User-Mode-Linux kernel and reads its results:

    python interop_scenarios.py --results FILE --folder DIR [CASE/PEER/ROLE ...]

FILE gets a JSON object, `case/peer/role` -> {"outcome", "seconds", "detail"}, rewritten after every trial.
`role` is ours. Outcomes: passed, failed, cannot (the peer; detail says why), we cannot.
"""

import argparse
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from ipaddress import ip_interface
from pathlib import Path
from typing import Protocol

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from interop_cases import (
    BY_NAME,
    CASES,
    NAT_INSIDE,
    NAT_OUTSIDE,
    NAT_THEIRS,
    OUR_HOST,
    OURS,
    PEERS,
    PRESHARED_KEY,
    Case,
    Public,
    SwanCases,
    policy,
)
from libreswan_node import PASSWORD, Libreswan, build
from stockade_node import StockadeNode
from strongswan_node import StrongSwan

from stockade.driver.probe import kernel_capabilities
from stockade.lab.capture import Capture, WireWatch
from stockade.lab.netns import Namespace, Network
from stockade.model.negotiation import Mode
from stockade.model.traffic import ICMP, TCP, Flow

PORT = 5001
STREAM_BYTES = 64 * 1024
UP_SECONDS = 15.0


class Peer(Protocol):
    """One of the two, as the trials see it."""

    namespace: Namespace

    def begin(self, case: Case) -> None:
        """Negotiate as the initiator; AssertionError when it says that it failed."""

    def delete(self, case: Case) -> None:
        """Delete the SAs of the case."""

    def kill(self) -> None: ...

    def start(self) -> None: ...

    def log(self) -> str: ...


class SwanPeer:
    def __init__(self, swan: StrongSwan) -> None:
        self.swan = swan
        self.namespace = swan.namespace
        self.kill, self.start, self.log = swan.kill, swan.start, swan.log

    def begin(self, case: Case) -> None:
        name = case.connection_name("responder")
        output, _ = (verdict := self.swan.initiate(15, name)).communicate(timeout=60)
        assert verdict.returncode == 0, output

    def delete(self, case: Case) -> None:
        self.swan.terminate(case.connection_name("responder")).communicate(timeout=30)


class LibreswanPeer:
    def __init__(self, libreswan: Libreswan) -> None:
        self.libreswan = libreswan
        self.namespace = libreswan.namespace
        self.kill, self.start, self.log = libreswan.kill, libreswan.start, libreswan.log

    def begin(self, case: Case) -> None:
        name = case.connection_name("responder")
        refused = self.libreswan.refused.get(name)
        assert refused is None, refused
        said = self.libreswan.initiate(name, 20)
        assert "IPsec SA established" in said, said

    def delete(self, case: Case) -> None:
        self.libreswan.terminate(case.connection_name("responder"))


# ---- the laboratory
class Laboratory:
    """`absent`: peers that cannot be had, and why."""

    def __init__(
        self, network: Network, stockade: StockadeNode, peers: dict[str, Peer], absent: dict[str, str]
    ) -> None:
        self.network = network
        self.ours = network["ours"]
        self.stockade = stockade
        self.peers = peers
        self.absent = absent
        self.tunnels = Mode.TUNNEL in kernel_capabilities().modes

    def capture(self, peer: str, *, only_ours: bool) -> Capture:
        """The wire at the peer; clear packets that must be secured are counted."""

        def must_be_secured(flow: Flow) -> bool:
            return flow.protocol in (ICMP, TCP) and (not only_ours or str(flow.source) == OURS)

        return Capture(self.network.switch, self.network.port(peer), WireWatch(must_be_secured))

    def quick_modes(self, address: str) -> list[dict[str, object]]:
        return [row for row in self.stockade.quick_modes() if row["peer"] == address]

    def states(self, case: Case, peer: str, role: str) -> list[str]:
        """The SAs of a case in the peer's kernel, one text each, as `ip -s xfrm state` prints them."""
        text = self.peers[peer].namespace.run(["ip", "-s", "xfrm", "state"]).stdout
        entries = [" ".join(entry.split()) for entry in re.split(r"\n(?=src )", text.strip())]
        ours, theirs = case.our_address(role), case.own_address(peer, role)
        ends = (f"src {ours} dst {theirs} ", f"src {theirs} dst {ours} ")
        return [entry for entry in entries if entry.startswith(ends)]


def ping(source: Namespace, ends: tuple[str, str], count: int, patience: float = 3) -> int:
    """How many of `count` echo requests from one address to the other were answered."""
    command = ["ping", "-n", "-I", ends[0], "-c", str(count), "-i", "0.05", "-W", str(patience), ends[1]]
    found = re.search(r"(\d+) received", source.run(command, timeout=120, check=False).stdout)
    return int(found[1]) if found else 0


def stream(
    source: Namespace, target: Namespace, ends: tuple[str, str], listening: str, size: int = STREAM_BYTES
) -> None:
    """Send `size` random bytes over TCP from one address to the other, where a program listens at the address
    that the target itself has, and check that the very same bytes arrive."""
    one, other = ends
    listener = target.call(lambda: socket.create_server((listening, PORT)))
    received = hashlib.sha256()

    def serve() -> None:
        with listener, listener.accept()[0] as connection:
            connection.settimeout(60)
            while data := connection.recv(65536):
                received.update(data)
            connection.sendall(b"done")

    listener.settimeout(60)
    server = threading.Thread(target=serve, daemon=True)
    server.start()
    data = os.urandom(size)
    made = source.call(lambda: socket.create_connection((other, PORT), timeout=30, source_address=(one, 0)))
    with made as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(16) == b"done"
    server.join(60)
    assert received.digest() == hashlib.sha256(data).digest(), "the stream arrived damaged"


def eventually(condition: Callable[[], object], seconds: float, message: Callable[[], str]) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, message()
        time.sleep(0.1)


# ---- trials
def bring_up(laboratory: Laboratory, case: Case, peer: str, role: str) -> None:
    """SAs for the case, begun by us or by the peer."""
    if role == "initiator":
        # A responder that makes its SAs at the third message may miss our first packets: not the matter here.
        eventually(
            lambda: ping(laboratory.ours, case.traffic(peer, role), 1, 1),
            UP_SECONDS,
            lambda: f"no answer; our journal: {laboratory.stockade.reasons()[-12:]}",
        )
    else:
        laboratory.peers[peer].begin(case)


def check_sas(laboratory: Laboratory, case: Case, peer: str, role: str) -> None:
    """The same pair at both ends, of the case's suite, in the role that was wanted; packets in both
    directions."""
    address = case.address(peer, role)
    (row,) = laboratory.quick_modes(address)
    assert row["role"] == role, row
    assert bool(row["pfs_group"]) == bool(case.group), row
    assert str(row["suite"]).startswith(case.quick_mode.split(":")[0]), row
    (main_mode,) = [
        entry for entry in laboratory.stockade.main_modes() if str(entry["peer"]).rsplit(":", 1)[0] == address
    ]
    assert main_mode["role"] == role, main_mode
    assert str(main_mode["suite"]) == case.main_mode, main_mode
    states = laboratory.states(case, peer, role)
    ends = case.our_address(role), case.own_address(peer, role)
    for spi, source in ((row["outbound_spi"], ends[0]), (row["inbound_spi"], ends[1])):
        (entry,) = [text for text in states if f"spi {spi}" in text]
        assert entry.startswith(f"src {source} "), entry
        assert "proto esp" in entry, entry
        assert f"mode {'tunnel' if case.tunnel else 'transport'}" in entry, entry
        assert ("encap type espinudp" in entry) is case.nat, entry


def delete(laboratory: Laboratory, case: Case, peer: str, role: str) -> None:
    """The end that began deletes; the other one has nothing left."""
    address = case.address(peer, role)
    if role == "initiator":
        laboratory.stockade.client.post("/v1/sas/delete", {"peer": address})
        eventually(
            lambda: not laboratory.states(case, peer, role),
            10,
            lambda: f"{peer} kept {laboratory.states(case, peer, role)}",
        )
    else:
        laboratory.peers[peer].delete(case)
        eventually(
            lambda: not laboratory.quick_modes(address),
            10,
            lambda: f"we kept {laboratory.quick_modes(address)}",
        )


def carries_traffic(laboratory: Laboratory, case: Case, peer: str, role: str) -> None:
    """SAs, packets both ways, delete."""
    ours, _ = ends = case.traffic(peer, role)
    # behind a NAT in transport mode each end knows itself, and the other as the NAT shows it
    theirs = laboratory.peers[peer].namespace
    seen = ends if case.tunnel else (case.our_address(role), case.own_address(peer, role))
    with laboratory.capture(peer, only_ours=role == "initiator") as wire:
        bring_up(laboratory, case, peer, role)
        assert ping(laboratory.ours, ends, 3) == 3, "echo requests were lost"
        assert ping(theirs, (seen[1], seen[0]), 3) == 3, "echo requests were lost"
        stream(laboratory.ours, theirs, ends, seen[1])
        stream(theirs, laboratory.ours, (seen[1], seen[0]), ours)
        check_sas(laboratory, case, peer, role)
        tally = wire.tally()
    assert tally.missed == 0, tally
    assert tally.esp > 0, tally
    assert tally.protected_clear == 0, tally
    delete(laboratory, case, peer, role)


def address_peer(network: Network, peer: str) -> None:
    """Its addresses for all cases, the hosts behind it in tunnel mode, and the ways to us."""
    commands = [f"route add {OURS}/32 via {NAT_THEIRS} onlink dev eth0 table 8"]
    commands += ["rule add from 10.8.3.0/24 lookup 8"]
    known = {str(network[peer].addresses[0])}
    for case in CASES:
        for _, role in case.connections():
            own = case.own_address(peer, role)
            if own not in known:
                known.add(own)
                commands.append(f"address add {own}/24 dev eth0")
            if not case.tunnel:
                continue
            ours, theirs = case.networks(peer, role)
            host = case.traffic(peer, role)[1]
            via, gateway = OURS, own
            if case.nat:
                via = NAT_OUTSIDE if role == "initiator" else NAT_THEIRS
                gateway = NAT_INSIDE if role == "initiator" else case.address(peer, role)
            table = f"{case.number(peer)}{int(role == 'initiator')}"
            commands += [
                f"address add {host}/32 dev lo",
                f"route add {ours} via {via} src {host} onlink dev eth0 table {table}",
                f"rule add from {theirs} lookup {table}",
            ]
            network["ours"].ip(f"route add {theirs} via {gateway} src {OUR_HOST} onlink dev eth0")
    network[peer].ip(*commands)


def address_nat(network: Network) -> None:
    """We reach 10.9.3.0/24 through the NAT, which puts its own address in the place of ours; peers with an
    address in 10.8.3.0/24 reach us through it, which puts the case's public address there."""
    network["ours"].ip(f"route add 10.9.3.0/24 via {NAT_INSIDE}")
    public = [
        (case.own_address(peer, "responder"), case.address(peer, "responder"))
        for case in CASES
        for peer in PEERS
        if case.nat
    ]
    nat = network["nat"]
    nat.ip(
        f"address add {NAT_OUTSIDE}/24 dev eth0",
        f"address add {NAT_THEIRS}/24 dev eth0",
        *(f"address add {address}/24 dev eth0" for _, address in public),
    )
    settings = {"ip_forward": 1, "conf/all/send_redirects": 0, "conf/eth0/send_redirects": 0}

    def set_up() -> None:
        for name, value in settings.items():
            Path("/proc/sys/net/ipv4", name).write_text(f"{value}\n", encoding="ascii")

    nat.call(set_up)
    rules = [["-d", "10.9.3.0/24", "-p", "udp", "-j", "SNAT", "--to", f"{NAT_OUTSIDE}:20000-29999"]]
    rules += [["-s", own, "-p", "udp", "-j", "SNAT", "--to", f"{to}:20000-29999"] for own, to in public]
    for rule in rules:
        nat.run(["iptables-legacy", "-t", "nat", "-A", "POSTROUTING", *rule])


class Pinging:
    """Echo requests, twenty a second, for as long as this context lasts; then none may be without answer."""

    def __init__(self, source: Namespace, ends: tuple[str, str]) -> None:
        self._command = ["ping", "-n", "-I", ends[0], "-i", "0.05", "-W", "2", ends[1]]
        self._source = source

    def __enter__(self) -> None:
        self._process = self._source.popen(self._command, stdout=subprocess.PIPE)

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        self._process.send_signal(signal.SIGINT)  # ping then prints its sum
        output, _ = self._process.communicate(timeout=10)
        if value is not None:
            return
        found = re.search(r"(\d+) packets transmitted, (\d+) received", output)
        assert found, output
        # the last one may have been under way when ping was told to end
        assert int(found[1]) > 20, found[0]
        assert int(found[1]) - int(found[2]) <= 1, found[0]


def rekeyed(laboratory: Laboratory, address: str, before: str, main_modes: set[str]) -> bool:
    """Whether the newest quick mode and (where `main_modes` names what there was) a main mode are others now.
    strongSwan leaves a replaced quick mode until it expires."""
    rows = laboratory.quick_modes(address)
    newest = min(rows, key=lambda row: float(str(row["age"])), default=None)
    cookies = {
        str(row["cookies"])
        for row in laboratory.stockade.main_modes()
        if str(row["peer"]).startswith(address + ":")
    }
    if newest is None or newest["inbound_spi"] == before:
        return False
    return not main_modes or bool(cookies - main_modes)


def rekeys_lose_nothing(laboratory: Laboratory, case: Case, peer: str, role: str) -> None:
    """Lifetimes of seconds on the peer's side: both phases are made anew while echo requests go."""
    bring_up(laboratory, case, peer, role)
    ends = case.traffic(peer, role)
    address = case.address(peer, role)
    assert ping(laboratory.ours, ends, 3) == 3, "echo requests were lost"
    with laboratory.capture(peer, only_ours=True) as wire, Pinging(laboratory.ours, ends):
        first = str(laboratory.quick_modes(address)[0]["inbound_spi"])
        modes = {str(row["cookies"]) for row in laboratory.stockade.main_modes()}
        eventually(
            lambda: rekeyed(laboratory, address, first, modes),
            25,
            lambda: f"not rekeyed: {laboratory.stockade.client.get('/v1/sas')}",
        )
        tally = wire.tally()
    assert tally.protected_clear == 0, tally
    delete(laboratory, case, peer, role)


def we_rekey_by_volume(laboratory: Laboratory, case: Case, peer: str, role: str) -> None:
    """20 MB is the lifetime that our policy grants: we make the quick mode anew while TCP goes on."""
    bring_up(laboratory, case, peer, role)
    ends, address = case.traffic(peer, role), case.address(peer, role)
    assert ping(laboratory.ours, ends, 3) == 3, "echo requests were lost"
    first = str(laboratory.quick_modes(address)[0]["inbound_spi"])
    theirs = laboratory.peers[peer].namespace
    with Pinging(laboratory.ours, ends):
        for _ in range(8):
            stream(laboratory.ours, theirs, ends, ends[1], 5 << 20)
            time.sleep(0.5)
            if rekeyed(laboratory, address, first, set()):
                break
        eventually(
            lambda: rekeyed(laboratory, address, first, set()),
            10,
            lambda: f"not rekeyed: {laboratory.quick_modes(address)}",
        )
    delete(laboratory, case, peer, role)


def a_killed_peer_comes_back(laboratory: Laboratory, case: Case, peer: str, role: str) -> None:
    """SIGKILL, its SAs are lost (the machine started anew), and it starts again. The end that has something
    to say, which is the one of the role, brings the connection back."""
    node = laboratory.peers[peer]
    bring_up(laboratory, case, peer, role)
    ends = case.traffic(peer, role)
    with laboratory.capture(peer, only_ours=True) as wire:
        node.kill()
        node.namespace.ip("xfrm state flush", "xfrm policy flush")
        assert ping(laboratory.ours, ends, 2, 1) == 0
        node.start()
        if role == "responder":
            node.begin(case)
        eventually(
            lambda: ping(laboratory.ours, ends, 1, 1),
            30,
            lambda: f"no answer; our journal: {laboratory.stockade.reasons()[-12:]}",
        )
        assert ping(laboratory.ours, ends, 3) == 3, "echo requests were lost"
        tally = wire.tally()
    assert tally.protected_clear == 0, tally
    laboratory.stockade.client.post("/v1/sas/delete", {"peer": case.address(peer, role)})


def no_ip_fragment_passes(laboratory: Laboratory, case: Case, peer: str, role: str) -> None:
    """Both ends drop fragments of IP, as many a router does: only IKE's own bring the chain over."""
    ends = laboratory.ours, laboratory.peers[peer].namespace
    rule = ["PREROUTING", "--fragment", "-j", "DROP"]
    for end in ends:
        end.run(["iptables-legacy", "-t", "raw", "-A", *rule])
    try:
        carries_traffic(laboratory, case, peer, role)
    finally:
        for end in ends:
            end.run(["iptables-legacy", "-t", "raw", "-D", *rule])


TRIALS: dict[str, Callable[[Laboratory, Case, str, str], None]] = {
    "chain-in-fragments": no_ip_fragment_passes,
    "rekey-by-the-peer": rekeys_lose_nothing,
    "rekey-by-us": we_rekey_by_volume,
    "peer-killed": a_killed_peer_comes_back,
}
"""What is tried where it is not `carries_traffic`."""


def all_trials() -> Iterator[str]:
    for case in CASES:
        for peer in PEERS:
            for role in case.roles:
                yield f"{case.name}/{peer}/{role}"


def attempt(laboratory: Laboratory, name: str) -> tuple[str, str]:
    """Outcome and detail of one trial."""
    case_name, peer, role = name.split("/")
    case = BY_NAME[case_name]
    if case.tunnel and not laboratory.tunnels:
        return "we cannot", "our kernel data plane has no tunnel mode"
    if (why := case.cannot.get(peer) or laboratory.absent.get(peer)) is not None:
        return "cannot", why
    before = len(laboratory.peers[peer].log())
    try:
        TRIALS.get(case_name, carries_traffic)(laboratory, case, peer, role)
    except Exception:
        detail = [traceback.format_exc(), f"-- {peer}", laboratory.peers[peer].log()[before:][-6000:]]
        detail += ["-- ours", laboratory.stockade.output()[-6000:]]
        laboratory.stockade.client.post("/v1/sas/delete", {"peer": case.address(peer, role)})
        laboratory.peers[peer].delete(case)
        return "failed", "\n".join(detail)
    return "passed", ""


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--folder", type=Path, help="where logs go (default: a temporary folder)")
    parser.add_argument("trials", nargs="*", help="some of: CASE/PEER/ROLE (default: all)")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="stockade-interop-"))
    results: dict[str, dict[str, object]] = {}
    began = time.monotonic()
    hosts = {"ours": ip_interface(f"{OURS}/24")}
    hosts |= {peer: ip_interface(f"{CASES[0].address(peer, 'initiator')}/24") for peer in PEERS}
    hosts["nat"] = ip_interface(f"{NAT_INSIDE}/24")
    now = datetime.now(UTC)
    public = Public(start=now - timedelta(days=1), end=now + timedelta(days=10))
    with ExitStack() as stack:
        network = stack.enter_context(Network(hosts))
        network["ours"].ip(f"address add {OUR_HOST}/32 dev lo")
        for peer in PEERS:
            address_peer(network, peer)
            (folder / peer).mkdir()
        address_nat(network)
        (folder / "ours").mkdir()
        stockade = StockadeNode(network["ours"], folder / "ours", "kernel")
        password = folder / "password"
        password.touch(mode=0o600)
        password.write_text(PASSWORD)
        for name, made in public.ours.items():
            file = folder / f"{name}.p12"
            others = (public.roots[name], *public.authorities[name])
            file.write_bytes(made.pkcs12(PASSWORD.encode(), *others))
            stockade.command("cert", "import", str(file), "--trust-roots", "--password-file", str(password))
        stockade.apply(policy(tunnels=Mode.TUNNEL in kernel_capabilities().modes))
        swan = StrongSwan(network["strongswan"], folder / "strongswan", SwanCases(public))
        nodes: list[StrongSwan | Libreswan] = [swan]
        without = build()
        libreswan = isinstance(without, Path) and Libreswan(
            network["libreswan"],
            folder / "libreswan",
            {
                name: case.libreswan_connection(role)
                for case in CASES
                if "libreswan" not in case.cannot
                for name, role in case.connections()
            },
            f'%any %any : PSK "{PRESHARED_KEY}"\n',
            {
                name: made.pkcs12(PASSWORD.encode(), *public.authorities[name], nickname=name.encode())
                for name, made in public.theirs.items()
                if name != "ecdsa"
            },
            tuple(made.pem for made in public.roots.values()),
        )
        peers: dict[str, Peer] = {"strongswan": SwanPeer(swan)}
        if libreswan:
            nodes.append(libreswan)
            peers["libreswan"] = LibreswanPeer(libreswan)
        starting = [threading.Thread(target=node.__enter__) for node in nodes]
        for thread, node in zip(starting, nodes, strict=True):
            thread.start()
            stack.callback(node.stop)
        stack.enter_context(stockade)
        for thread in starting:
            thread.join()
        refused = stockade.client.get("/v1/status")["policy_refused"]
        assert refused is None, refused
        laboratory = Laboratory(network, stockade, peers, {} if libreswan else {"libreswan": str(without)})
        print(f"ready after {time.monotonic() - began:.1f} s", flush=True)
        for name in options.trials or all_trials():
            began = time.monotonic()
            outcome, detail = attempt(laboratory, name)
            seconds = round(time.monotonic() - began, 1)
            print(f"{name}: {outcome} in {seconds} s", flush=True)
            results[name] = {"outcome": outcome, "seconds": seconds, "detail": detail}
            options.results.write_text(json.dumps(results, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
