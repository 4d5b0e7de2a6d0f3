"""What `bench esp` runs inside a network namespace.

    … esp_node host NAME SUITE MODE SEED WITHOUT TIMES QUEUES   a data plane with its SAs, until it is told
    … esp_node echo ADDRESS                              answers datagrams
    … esp_node ask ADDRESS SECONDS                       asks, prints microseconds as JSON

The SAs are installed by hand, without a key exchange; both hosts derive the same keys from the seed, which is
fit for a benchmark and nothing else.
"""

import hashlib
import json
import os
import socket
import sys
import tempfile
import time
from ipaddress import IPv4Address
from pathlib import Path
from statistics import median
from types import MappingProxyType

from stockade.crypto.registry import encryption_algorithm, hash_algorithm
from stockade.driver.userspace.driver import UserspaceDriver
from stockade.driver.userspace.offloads import read_offloads
from stockade.model.addresses import AddressRange
from stockade.model.filters import Action, Direction, FilterTable, Provenance, SpecificFilter
from stockade.model.negotiation import MainModePolicy, Mode, Negotiation, PresharedKey, QuickModePolicy
from stockade.model.sa import Lifetime, SecurityAssociation, UdpEncapsulation
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, EspSuite, Hash, QuickModeProposal
from stockade.model.traffic import UDP, TrafficSelector
from stockade.wire.udp_encapsulation import NAT_TRAVERSAL_PORT

HOSTS = {"alpha": IPv4Address("10.9.2.1"), "beta": IPv4Address("10.9.2.2")}
INNER = {"alpha": IPv4Address("10.71.0.1"), "beta": IPv4Address("10.72.0.1")}
"""Addresses behind the hosts, for tunnel mode."""

NETWORKS = {name: f"{address}/32" for name, address in INNER.items()}
SUITES = {
    "aes-gcm-128": EspSuite(Encryption.AES_GCM_128, None),
    "aes-cbc-256-sha-256": EspSuite(Encryption.AES_CBC_256, Hash.SHA_256),
    "3des-sha1": EspSuite(Encryption.TRIPLE_DES_CBC, Hash.SHA1),
}
STRONGSWAN_PROPOSALS = {
    "aes-gcm-128": "aes128gcm16",
    "aes-cbc-256-sha-256": "aes256-sha256",
    "3des-sha1": "3des-sha1",
}
MODES = ("transport", "tunnel", "udp", "tunnel-udp")
ECHO_PORT = 7007
ECHO_SIZE = 64
RULE = "rule"


def other(name: str) -> str:
    return "beta" if name == "alpha" else "alpha"


def secure_everything(name: str, mode: str) -> FilterTable:
    """Negotiate about all traffic; in tunnel mode about that between the networks behind the hosts."""
    tunnel = mode.startswith("tunnel")
    filters = []
    for number, direction in enumerate(Direction):
        source, destination = (name, other(name)) if direction is Direction.OUTBOUND else (other(name), name)
        everyone = AddressRange.everything()
        selector = (
            TrafficSelector(
                AddressRange.network(NETWORKS[source]), AddressRange.network(NETWORKS[destination])
            )
            if tunnel
            else TrafficSelector(everyone, everyone)
        )
        filters.append(
            SpecificFilter(
                f"{number:016x}",
                selector,
                direction,
                Action.NEGOTIATE,
                1,
                Provenance("benchmark", "policy", RULE),
                negotiation=RULE,
            )
        )
    if mode == "udp":
        # As the agent's exemption for the key exchange: otherwise what carries ESP were a clear packet that
        # somebody wants secured.
        for number, direction in enumerate(Direction, len(filters)):
            everyone = AddressRange.everything()
            selector = TrafficSelector(everyone, everyone, UDP, destination_port=NAT_TRAVERSAL_PORT)
            where = Provenance("benchmark", "policy", "ESP in UDP")
            filters.insert(0, SpecificFilter(f"{number:016x}", selector, direction, Action.PERMIT, 2, where))
    quick_mode = QuickModePolicy(
        tuple(QuickModeProposal(suite) for suite in SUITES.values()),
        mode=Mode.TUNNEL if tunnel else Mode.TRANSPORT,
        tunnel_endpoint=HOSTS[other(name)] if tunnel else None,
    )
    negotiation = Negotiation(RULE, MainModePolicy(), quick_mode, (PresharedKey(Secret(b"unused")),))
    return FilterTable(tuple(filters), MappingProxyType({RULE: negotiation}))


def sas_of(name: str, suite: EspSuite, mode: str, seed: str) -> list[SecurityAssociation]:
    """The SAs that a host has, inbound first."""

    def key(source: str, what: str, size: int) -> Secret:
        return Secret(hashlib.shake_256(f"{seed} {source} {what}".encode()).digest(size))

    spis = {"alpha": 0x1000, "beta": 0x2000}  # by source
    integrity_size = hash_algorithm(suite.integrity).integrity_key_size if suite.integrity else 0
    tunnel = mode.startswith("tunnel")
    ends = (
        {each: AddressRange.network(network) for each, network in NETWORKS.items()}
        if tunnel
        else {each: AddressRange.host(address) for each, address in HOSTS.items()}
    )
    return [
        SecurityAssociation(
            spi=spis[source],
            direction=direction,
            source=HOSTS[source],
            destination=HOSTS[other(source)],
            selector=TrafficSelector(ends[source], ends[other(source)]),
            mode=Mode.TUNNEL if tunnel else Mode.TRANSPORT,
            esp=suite,
            ah=None,
            encryption_key=key(source, "encryption", encryption_algorithm(suite.encryption).keymat_size),
            integrity_key=key(source, "integrity", integrity_size),
            pair=spis[other(source)],
            negotiation=RULE,
            filter_id="0" * 16,
            main_mode="",
            # As a key exchange gives them: the data plane watches the bytes, which never run out here.
            lifetime=Lifetime(3500, 3600, 1 << 50, 1 << 51),
            replay_window=1024,
            udp=UdpEncapsulation(4500, 4500) if mode.endswith("udp") else None,
        )
        for direction, source in ((Direction.INBOUND, other(name)), (Direction.OUTBOUND, name))
    ]


def run_host(
    name: str, suite: str, mode: str, seed: str, without: str, times: bool, queues: int | None
) -> None:
    """Prints the process id of the data plane when it is ready; at the end what its log says, as JSON."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ike:
        ike.bind(("", 4500))
        # Where an agent has its IKE socket. Nobody reads this one: the smallest buffer.
        ike.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
        driver = UserspaceDriver(
            Path(folder), without=read_offloads(without.split(",")), times=times, queues=queues
        )
        driver.start()
        driver.join_ike_socket(ike)
        try:
            driver.install_filters(secure_everything(name, mode))
            for sa in sas_of(name, SUITES[suite], mode, seed):
                driver.add_sa(sa)
            print(driver.process_id, flush=True)
            sys.stdin.read()
        finally:
            driver.stop()
        print((Path(folder) / "dataplane.log").read_text().strip() or "{}", flush=True)


def echo(address: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((address, ECHO_PORT))
        print("ready", flush=True)
        while True:
            data, peer = sock.recvfrom(2048)
            sock.sendto(data, peer)


def ask(address: str, seconds: float) -> None:
    """One datagram there and back at a time."""
    took: list[int] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(1.0)
        sock.connect((address, ECHO_PORT))
        data = os.urandom(ECHO_SIZE)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            began = time.perf_counter_ns()
            try:
                sock.send(data)
                sock.recv(2048)
            except OSError:
                continue
            took.append(time.perf_counter_ns() - began)
    took.sort()
    print(
        json.dumps({"median": median(took) / 1e3, "p99": took[len(took) * 99 // 100] / 1e3} if took else {})
    )


def main(words: list[str]) -> None:
    match words:
        case ["host", name, suite, mode, seed, without, times, queues]:
            run_host(name, suite, mode, seed, without, times == "times", int(queues) or None)
        case ["echo", address]:
            echo(address)
        case ["ask", address, seconds]:
            ask(address, float(seconds))
        case _:
            sys.exit("what `stockade bench esp` runs inside a namespace")


if __name__ == "__main__":
    main(sys.argv[1:])
