"""The path MTU with real packets: a router with a narrow link between two hosts that secure everything.

alpha 10.9.0.1 ── 10.9.0.254 router 10.9.1.254 ══ 1300 bytes ══ 10.9.1.2 beta
"""

import hashlib
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Interface, ip_address
from pathlib import Path

import pytest

from stockade.lab.netns import Namespace, Network

sys.path.insert(0, str(Path(__file__).parent))
from driver_net import AgentSide, add_pair, address_in, address_of

NARROW = 1300
VERSIONS = [4, 6] if Path("/proc/sys/net/ipv6/conf/all").exists() else [4]


def forward() -> None:
    for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        path = Path("/proc/sys/net") / name
        if path.exists():
            path.write_text("1\n", encoding="ascii")


def speak_ipv6() -> None:
    """Without the wait for duplicates of link-local addresses."""
    for folder in Path("/proc/sys/net/ipv6/conf").iterdir():
        for name in ("accept_dad", "disable_ipv6"):
            (folder / name).write_text("0\n", encoding="ascii")


def await_path(source: Namespace, address: str) -> None:
    """Until an echo request is answered, nothing being secured yet."""
    deadline = time.monotonic() + 30
    while source.run(["ping", "-n", "-c", "1", "-W", "1", address], check=False).returncode != 0:
        assert time.monotonic() < deadline, f"the network itself does not reach {address}"


@contextmanager
def narrow_path(directory: Path) -> Iterator[tuple[AgentSide, AgentSide]]:
    hosts = {"alpha": IPv4Interface("10.9.0.1/24"), "router": IPv4Interface("10.9.0.254/24")}
    with Network(hosts) as network, Namespace("beta") as beta:
        router, alpha = network["router"], network["alpha"]
        router.ip(
            f"link add narrow mtu {NARROW} type veth peer name eth0 mtu {NARROW} netns {beta.full_name}",
            "address add 10.9.1.254/24 dev narrow",
            "link set narrow up",
        )
        beta.ip("address add 10.9.1.2/24 dev eth0", "link set eth0 up", "route add default via 10.9.1.254")
        alpha.ip("route add default via 10.9.0.254")
        beta.addresses = (ip_address("10.9.1.2"),)
        if 6 in VERSIONS:
            for namespace in (alpha, router, beta):
                namespace.call(speak_ipv6)
            # `address_of` puts the last number into one network; here each host has a route of its own
            alpha.ip("address add 2001:db8:9::1/128 dev eth0 nodad", "address add fd09::1/64 dev eth0 nodad")
            router.ip(
                "address add fd09::fe/64 dev eth0 nodad",
                "address add fd0a::fe/64 dev narrow nodad",
            )
            beta.ip("address add 2001:db8:9::2/128 dev eth0 nodad", "address add fd0a::2/64 dev eth0 nodad")
            alpha.ip("route add 2001:db8:9::2 via fd09::fe src 2001:db8:9::1")
            beta.ip("route add 2001:db8:9::1 via fd0a::fe src 2001:db8:9::2")
            router.ip("route add 2001:db8:9::1 via fd09::1", "route add 2001:db8:9::2 via fd0a::2")
        router.call(forward)
        for version in VERSIONS:  # neighbours that look for each other for the first time may take a second
            await_path(alpha, address_in(beta, version))
        sides = [AgentSide(alpha, directory / "alpha"), AgentSide(beta, directory / "beta")]
        try:
            yield sides[0], sides[1]
        finally:
            for side in sides:
                side.close()


def carries(sender: Namespace, receiver: Namespace, address: str) -> bool:
    """Whether a megabyte of TCP arrives unharmed."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = receiver.call(lambda: socket.create_server((address, 7000), family=family))
    listener.settimeout(60)
    data = bytes(range(256)) * 4096
    digests = []

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(60)
            received = hashlib.sha256()
            while part := connection.recv(1 << 16):
                received.update(part)
            digests.append(received.digest())

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with listener, sender.call(lambda: socket.create_connection((address, 7000), timeout=60)) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        thread.join(90)
    return digests == [hashlib.sha256(data).digest()]


def pings(side: AgentSide, address: str, *options: str, seconds: int = 30) -> str:
    argv = ["ping", "-n", "-c", "1", "-W", str(seconds), *options, address]
    result = side.namespace.run(argv, check=False)
    return result.stdout + result.stderr


@pytest.mark.parametrize("without", ["", "burst"])
@pytest.mark.parametrize(
    ("version", "udp", "tunnel"),
    [(version, udp, tunnel) for version in VERSIONS for udp in (False, True) for tunnel in (False, True)],
)
def test_what_the_path_takes_is_learnt(
    tmp_path: Path, version: int, udp: bool, tunnel: bool, without: str
) -> None:
    with narrow_path(tmp_path) as (alpha, beta):
        one, other = address_of(alpha, version), address_of(beta, version)
        for side, far in ((alpha, other), (beta, one)):
            side.call("start", without=without)
            if udp:
                side.call("bind_ike")
            rules = [{"action": "negotiate", "version": version}]
            if tunnel:
                near = one if far == other else other
                rules = [{"tunnel": far, "source": near, "destination": far}]
            ports = {"action": "permit", "protocol": 17, "port": 4500, "version": version}
            side.call("install", rules=[ports, *rules])
        add_pair(alpha, beta, version=version, udp=udp, networks=(one, other) if tunnel else None)
        assert "1 received" in pings(alpha, other)
        size = 1240 if version == 4 else 1220
        if version == 4:
            lost = pings(alpha, other, "-M", "do", "-s", str(size), seconds=1)
            assert "0 received" in lost, "it meets the narrow link with DF, and is lost there"
            deadline = time.monotonic() + 60
            while "mtu" not in (told := pings(alpha, other, "-M", "do", "-s", str(size), seconds=1)):
                assert time.monotonic() < deadline, told
            assert "1 received" in pings(alpha, other, "-M", "dont", "-s", str(size)), "in fragments"
        assert carries(alpha.namespace, beta.namespace, other)
        assert carries(beta.namespace, alpha.namespace, one)
        assert not beta.call("statistics")["refused"]
