"""Two gateways with a tunnel between them, and a host behind each; the wire between the gates is watched."""

import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from stockade.lab.netns import Namespace, Network

sys.path.insert(0, str(Path(__file__).parent))
from driver_net import AgentSide, add_pair, two_hosts
from wire_watch import is_ipv4, watch_wire

LANS = ("10.71.0.0/24", "10.72.0.0/24")
GATES = ("10.9.0.1", "10.9.0.2")
Site = tuple[Network, AgentSide, AgentSide, Namespace, Namespace]


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[Site]:
    with two_hosts(tmp_path) as (network, alpha, beta), ExitStack() as stack:
        inner = []
        for number, side in enumerate((alpha, beta)):
            lan = LANS[number].rsplit(".", 1)[0]
            host = stack.enter_context(Namespace(f"lan{number}"))
            gate = side.namespace
            gate.ip(f"link add lan type veth peer name eth0 netns {host.full_name}")
            gate.ip(
                f"addr add {lan}.1/24 dev lan",
                "link set lan up",
                f"route add default via {GATES[1 - number]}",
            )
            host.ip(f"addr add {lan}.9/24 dev eth0", "link set eth0 up", f"route add default via {lan}.1")
            gate.run(["sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=1"])
            side.call("start")
            rule = {"source": LANS[number], "destination": LANS[1 - number], "tunnel": GATES[1 - number]}
            side.call("install", rules=[rule])
            inner.append(host)
        yield network, alpha, beta, inner[0], inner[1]


def protocols(wire: socket.socket) -> set[int]:
    found = set()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            frame = wire.recv(65535)
        except TimeoutError:
            break
        if is_ipv4(frame):
            found.add(frame[23])
    wire.close()
    return found


def ping(host: Namespace, address: str, *options: str) -> int:
    result = host.run(["ping", "-c", "3", "-i", "0.1", "-W", "20", *options, address], check=False)
    return sum("bytes from" in line for line in result.stdout.splitlines())


def test_hosts_behind_the_gateways_meet_and_the_wire_sees_esp(sites: Site) -> None:
    network, alpha, beta, one, other = sites
    wire = watch_wire(network)
    first = one.popen(["ping", "-c", "1", "-W", "60", "10.72.0.9"])
    assert alpha.wait_for("acquire")["peer"] == "10.72.0.9"
    add_pair(alpha, beta, networks=LANS)
    assert first.wait(90) == 0
    assert ping(one, "10.72.0.9") == 3
    assert ping(other, "10.71.0.9", "-s", "3000", "-M", "dont") == 3
    # From the gateway itself, by its address on the inner side, and to the other one's.
    assert ping(alpha.namespace, "10.72.0.9", "-I", "10.71.0.1") == 3
    assert ping(one, "10.72.0.1") == 3
    # A forbidding sender behind the gateway learns what fits.
    result = one.run(["ping", "-c", "2", "-W", "1", "-s", "1472", "-M", "do", "10.72.0.9"], check=False)
    assert "mtu = " in result.stdout
    assert protocols(wire) == {50}
    assert alpha.call("statistics")["refused"] == beta.call("statistics")["refused"] == {}


def test_clear_packets_that_pretend_to_be_from_behind_the_tunnel_do_not_pass(sites: Site) -> None:
    _, alpha, beta, one, _ = sites
    add_pair(alpha, beta, networks=LANS)
    alpha.call("stop")  # now alpha forwards in clear
    assert ping(one, "10.72.0.9", "-W", "0.3") == 0
    assert beta.wait_for("refused")["reason"] == "clear-dropped"


def test_a_killed_gateway_leaks_nothing(sites: Site) -> None:
    network, alpha, beta, one, _ = sites
    add_pair(alpha, beta, networks=LANS)
    assert ping(one, "10.72.0.9") == 3
    wire = watch_wire(network)
    data_plane = Path(f"/proc/{alpha.call('pid')}")
    alpha.kill()
    deadline = time.monotonic() + 60
    while data_plane.exists():
        assert time.monotonic() < deadline, "the data plane outlives its agent"
        time.sleep(0.02)
    assert ping(one, "10.72.0.9", "-W", "0.3") == 0
    assert protocols(wire) <= {50}
