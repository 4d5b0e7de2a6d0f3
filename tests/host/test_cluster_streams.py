"""TCP streams over a failure: the service lives behind the nodes, or on a host whose agent is started anew.

client ══ tunnel ══ virtual 10.79.0.100 ┐        ┌ virtual 10.79.72.100 ── service 10.79.72.9
10.79.0.1                               ├ one    ┤
                                        └ or two ┘
"""

import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Interface
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from cluster_harness import CLIENT, NODES, VIRTUAL, Host, eventually, write_cluster

from stockade.lab import moving
from stockade.lab.netns import Namespace, Network

SERVICE, INSIDE = "10.79.72.9", IPv4Interface("10.79.72.100/24")
PORT = 7007
LONGEST_PAUSE = 45.0

TUNNEL = """
ipsec static
add filterlist name=out
add filter filterlist=out srcaddr={here} srcmask={here_mask} dstaddr={there} dstmask={there_mask} mirrored=no
add filterlist name=in
add filter filterlist=in srcaddr={there} srcmask={there_mask} dstaddr={here} dstmask={here_mask} mirrored=no
add filteraction name=require qmsecmethods="ESP[AES128,SHA256]"
add policy name=test activatedefaultrule=no mmsecmethods="AES128-SHA256-ECP256"
add rule name=out policy=test filterlist=out filteraction=require tunnel={peer} psk="a key of the cluster"
add rule name=in policy=test filterlist=in filteraction=require tunnel={own} psk="a key of the cluster"
set policy name=test assign=yes
"""


class Stream:
    """One TCP connection that says a number every 20 ms and hears it back, in order, and counts."""

    def __init__(self, client: Namespace, server: Namespace, address: str) -> None:
        self.echoed = 0
        self.longest_pause = 0.0
        """Seconds between two numbers that came back; set it to 0 to measure anew."""
        self.trouble = ""
        self._going_on = True
        self._listener = server.call(lambda: socket.create_server((address, PORT)))
        threading.Thread(target=self._serve, daemon=True).start()
        self._socket = client.call(lambda: socket.create_connection((address, PORT), timeout=LONGEST_PAUSE))
        self._thread = threading.Thread(target=self._talk, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            while data := connection.recv(4096):
                connection.sendall(data)

    def _talk(self) -> None:
        number, last = 0, time.monotonic()
        try:
            while self._going_on:
                said = number.to_bytes(8, "big")
                self._socket.sendall(said)
                heard = b""
                while len(heard) < 8:
                    heard += self._socket.recv(8 - len(heard)) or said[:0] + b"!" * 8
                assert heard == said
                number += 1
                self.echoed = number
                now = time.monotonic()
                self.longest_pause, last = max(self.longest_pause, now - last), now
                time.sleep(0.02)
        except (OSError, AssertionError) as error:
            self.trouble = repr(error)

    def goes_on(self) -> float | None:
        """Seconds until ten more numbers have come back; None if they do not."""
        began, before = time.monotonic(), self.echoed
        well = eventually(lambda: self.echoed >= before + 10 or self.trouble, LONGEST_PAUSE)
        return time.monotonic() - began if well and not self.trouble else None

    def close(self) -> None:
        self._going_on = False
        self._thread.join(LONGEST_PAUSE)
        self._socket.close()
        self._listener.close()


@contextmanager
def service_behind(network: Network) -> Iterator[Namespace]:
    """A host on a second wire, to which both nodes have an interface `lan`."""
    with Namespace("service") as service:
        service.ip("link add lan type bridge stp_state 0 forward_delay 0", "link set lan up")
        for number, name in enumerate(NODES):
            node = network[name]
            service.ip(f"link add port{number} type veth peer name lan netns {node.full_name}")
            service.ip(f"link set port{number} master lan up")
            node.ip(f"address add 10.79.72.1{number}/24 dev lan", "link set lan up")
            node.run(["sysctl", "-qw", "net.ipv4.ip_forward=1"])
        service.ip(f"address add {SERVICE}/24 dev lan", f"route add default via {INSIDE.ip}")
        yield service


@pytest.mark.parametrize("planned", [False, True], ids=["death", "planned"])
def test_a_stream_to_a_service_behind_the_nodes_survives_a_failover(tmp_path: Path, planned: bool) -> None:
    addresses = {"client": CLIENT, **NODES}
    with (
        Network({name: IPv4Interface(f"{one}/24") for name, one in addresses.items()}) as network,
        service_behind(network) as service,
    ):
        client = Host(network["client"], tmp_path / "client")
        client.namespace.ip(f"route add 10.79.72.0/24 via {VIRTUAL.ip}")
        nodes = {name: Host(network[name], tmp_path / name) for name in NODES}
        net, host = {"address": "10.79.72.0", "mask": "24"}, {"address": CLIENT, "mask": "32"}
        for each in (client, *nodes.values()):
            here, there = (host, net) if each is client else (net, host)
            own, peer = (CLIENT, VIRTUAL.ip) if each is client else (VIRTUAL.ip, CLIENT)
            script = each.home.with_suffix(".netsh")
            script.write_text(
                TUNNEL.format(
                    here=here["address"],
                    here_mask=here["mask"],
                    there=there["address"],
                    there_mask=there["mask"],
                    own=own,
                    peer=peer,
                )
            )
            each.stockade("netsh", "-f", str(script), "--atomic")
        for name, node in nodes.items():
            write_cluster(node, name)
        moving.give(nodes["one"].namespace, VIRTUAL)
        moving.give(nodes["one"].namespace, INSIDE, "lan")
        for each in (client, *nodes.values()):
            each.agent.start()
        for each in (client, *nodes.values()):
            each.agent.wait_until_ready()
        stream = Stream(client.namespace, service, SERVICE)
        try:
            assert stream.goes_on() is not None, stream.trouble
            told = eventually(lambda: nodes["two"].cluster()["members"][0]["quick_modes"] == 1)
            assert told, nodes["two"].cluster()
            stream.longest_pause = 0.0
            if planned:
                nodes["one"].stockade("cluster", "release")
            else:
                nodes["one"].agent.kill()
            moving.take(nodes["one"].namespace, VIRTUAL)
            moving.take(nodes["one"].namespace, INSIDE, "lan")
            moving.give(nodes["two"].namespace, VIRTUAL)
            moving.give(nodes["two"].namespace, INSIDE, "lan")
            seconds = stream.goes_on()
            assert seconds is not None, (stream.trouble, nodes["two"].journal("cluster-address-came"))
            print(f"the stream went on {seconds:.2f} s after the addresses had moved (with ten echoes)")
            print(f"longest pause of the stream {stream.longest_pause:.3f} s")
            if planned:  # the peer was told: nothing of it waited for a time-out
                failed = {entry["reason"] for entry in client.journal("main-mode-failed")}
                assert failed <= {"sa-replaced"}, failed
                assert nodes["one"].journal("cluster-address-released")
        finally:
            stream.close()


def test_a_stream_survives_an_agent_that_is_killed_and_started_again(tmp_path: Path) -> None:
    addresses = {"client": CLIENT, "one": NODES["one"]}
    with Network({name: IPv4Interface(f"{one}/24") for name, one in addresses.items()}) as network:
        client, server = (Host(network[name], tmp_path / name) for name in addresses)
        client.write_policy(NODES["one"])
        server.write_policy(CLIENT)
        for each in (client, server):
            each.agent.start()
        for each in (client, server):
            each.agent.wait_until_ready()
        stream = Stream(client.namespace, server.namespace, NODES["one"])
        try:
            assert stream.goes_on() is not None, stream.trouble
            server.agent.kill()
            server.agent.start()
            seconds = stream.goes_on()
            assert seconds is not None, stream.trouble
            print(f"the stream went on {seconds:.2f} s after the start (with ten echoes)")
        finally:
            stream.close()
