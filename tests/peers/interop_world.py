"""Where the trials of interop_trials.py take place: addresses, ways, the NAT, and what each end is told."""

from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_interface
from pathlib import Path
from typing import Self

from interop_cases import (
    CASES,
    NAT_INSIDE,
    NAT_OUTSIDE,
    NAT_THEIRS,
    OUR_HOST,
    OURS,
    PEERS,
    PRESHARED_KEY,
    Public,
    policy,
    swan_files,
    swan_text,
)
from interop_laboratory import SETTINGS, LibreswanPeer, SwanPeer
from interop_nat import address_nat
from libreswan_node import PASSWORD, Libreswan
from stockade_node import StockadeNode
from strongswan_node import StrongSwan

from stockade.lab.netns import Namespace, Network

OUR_HOSTS = {"ours": ip_interface(f"{OURS}/24"), "nat": ip_interface(f"{NAT_INSIDE}/24")}
PEER_HOSTS = {peer: ip_interface(f"{CASES[0].address(peer, 'initiator')}/24") for peer in PEERS}


@dataclass(frozen=True, slots=True)
class PeersFiles:
    """What the peers have on their disks: strongSwan's files by their place, libreswan's PKCS#12 files by
    nickname, and its roots."""

    swan: Mapping[str, bytes]
    containers: Mapping[str, bytes]
    roots: tuple[bytes, ...]

    @classmethod
    def of(cls, public: Public) -> Self:
        containers = {
            name: made.pkcs12(PASSWORD.encode(), *public.authorities[name], nickname=name.encode())
            for name, made in public.theirs.items()
            if name != "ecdsa"
        }
        return cls(swan_files(public), containers, tuple(made.pem for made in public.roots.values()))

    def as_json(self) -> dict[str, object]:
        def encoded(files: Mapping[str, bytes]) -> dict[str, str]:
            return {name: b64encode(content).decode() for name, content in files.items()}

        roots = [b64encode(content).decode() for content in self.roots]
        return {"swan": encoded(self.swan), "containers": encoded(self.containers), "roots": roots}

    @classmethod
    def from_json(cls, read: dict[str, dict[str, str]]) -> Self:
        def decoded(files: dict[str, str]) -> dict[str, bytes]:
            return {name: b64decode(content) for name, content in files.items()}

        roots = tuple(b64decode(content) for content in read["roots"])
        return cls(decoded(read["swan"]), decoded(read["containers"]), roots)


def new_public() -> Public:
    now = datetime.now(UTC)
    return Public(start=now - timedelta(days=1), end=now + timedelta(days=10))


class SwanCases:
    """strongSwan's configuration for all cases."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files

    def text(self) -> str:
        return swan_text()

    def files(self) -> Mapping[str, bytes]:
        return self._files


def strongswan(namespace: Namespace, folder: Path, files: PeersFiles) -> SwanPeer:
    return SwanPeer(StrongSwan(namespace, folder, SwanCases(files.swan)))


def libreswan(namespace: Namespace, folder: Path, files: PeersFiles) -> LibreswanPeer:
    connections = {
        name: case.libreswan_connection(role)
        for case in CASES
        if "libreswan" not in case.cannot
        for name, role in case.connections()
    }
    secrets = f'%any %any : PSK "{PRESHARED_KEY}"\n'
    return LibreswanPeer(Libreswan(namespace, folder, connections, secrets, files.containers, files.roots))


LocalPeer = SwanPeer | LibreswanPeer


def make_peers(
    network: Network, folder: Path, files: PeersFiles, *, with_libreswan: bool
) -> dict[str, LocalPeer]:
    """Both, not started yet; `folder` holds their files."""
    for name in PEERS:
        address_peer(network[name], name)
        (folder / name).mkdir(parents=True)
    peers: dict[str, LocalPeer] = {
        "strongswan": strongswan(network["strongswan"], folder / "strongswan", files)
    }
    if with_libreswan:
        peers["libreswan"] = libreswan(network["libreswan"], folder / "libreswan", files)
    return peers


@contextmanager
def started(peers: Mapping[str, LocalPeer]) -> Iterator[None]:
    """Start them at once, side by side, and wait for both when this context begins; stop them when it
    ends."""
    with ExitStack() as stack:
        for peer in peers.values():
            stack.callback(peer.stop)
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda peer: peer.enter(), peers.values()))
        yield


def make_ours(network: Network, folder: Path, public: Public, driver: str, *, tunnels: bool) -> StockadeNode:
    """Our host and the NAT, and an agent with certificates and policy, not started yet."""
    network["ours"].ip(f"address add {OUR_HOST}/32 dev lo")
    address_nat(network)
    route_to_peers(network["ours"])
    folder.mkdir()
    stockade = StockadeNode(network["ours"], folder, driver)
    password = folder / "password"
    password.touch(mode=0o600)
    password.write_text(PASSWORD)
    for name, made in public.ours.items():
        file = folder / f"{name}.p12"
        others = (public.roots[name], *public.authorities[name])
        file.write_bytes(made.pkcs12(PASSWORD.encode(), *others))
        stockade.command("cert", "import", str(file), "--trust-roots", "--password-file", str(password))
    stockade.configure(SETTINGS)
    stockade.apply(policy(tunnels=tunnels))
    return stockade


def address_peer(namespace: Namespace, peer: str) -> None:
    """Its addresses for all cases, the hosts behind it in tunnel mode, and the ways to us."""
    commands = [f"route add {OURS}/32 via {NAT_THEIRS} onlink dev eth0 table 8"]
    commands += ["rule add from 10.8.3.0/24 lookup 8"]
    known = {str(namespace.addresses[0])}
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
            via = OURS
            if case.nat:
                via = NAT_OUTSIDE if role == "initiator" else NAT_THEIRS
            table = f"{case.number(peer, role)}{int(role == 'initiator')}"
            commands += [
                f"address add {host}/32 dev lo",
                f"route add {ours} via {via} src {host} onlink dev eth0 table {table}",
                f"rule add from {theirs} lookup {table}",
            ]
    namespace.ip(*commands)


def route_to_peers(namespace: Namespace) -> None:
    """Our ways to the networks behind the peers."""
    commands = []
    for peer in PEERS:
        for case in CASES:
            for _, role in case.connections():
                if not case.tunnel:
                    continue
                gateway = case.own_address(peer, role)
                if case.nat:
                    gateway = NAT_INSIDE if role == "initiator" else case.address(peer, role)
                _, theirs = case.networks(peer, role)
                commands.append(f"route add {theirs} via {gateway} src {OUR_HOST} onlink dev eth0")
    namespace.ip(*commands)
