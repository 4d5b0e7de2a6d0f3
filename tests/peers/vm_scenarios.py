"""Stockade and strongSwan protect each other's traffic: main mode, quick mode, packets, in both roles.

    ours: `stockade agent run`, user-space driver ── wire (captured) ── theirs: charon, the kernel's own ESP

This needs a kernel with ESP for strongSwan, so it is a program of its own that runs wherever one is: on this
machine or in a virtual one (scripts/vm). `test_strongswan_traffic.py` starts it once and reads its results:

    python vm_scenarios.py --results FILE --folder DIR [SCENARIO ...]

FILE gets a JSON object, scenario name -> {"outcome": "passed" or "failed", "seconds", "detail"}, rewritten
after every scenario, so that a machine that is stopped half-way still tells what it did.
"""

import argparse
import hashlib
import json
import os
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from stockade_node import StockadeNode
from strongswan_node import Connection, StrongSwan

from stockade.lab.capture import Capture, Tally, WireWatch
from stockade.lab.netns import Namespace, Network
from stockade.model.traffic import ICMP, TCP, Flow

OURS, THEIRS = "10.7.3.1", "10.7.3.2"
PORT = 5001
STREAM_BYTES = 256 * 1024
PRESHARED_KEY = "correct-horse-battery-staple"


@dataclass(frozen=True, slots=True)
class Suite:
    """The same protection in the words of both ends."""

    main_mode_methods: str
    quick_mode_methods: str
    ike_proposal: str
    esp_proposal: str
    perfect_forward_secrecy: bool = False
    protocol: str = "any"

    def policy(self, preshared_key: str = PRESHARED_KEY) -> str:
        """The netsh script."""
        secrecy = "yes" if self.perfect_forward_secrecy else "no"
        return f"""\
ipsec static delete all
ipsec static add filterlist name=traffic
ipsec static add filter filterlist=traffic srcaddr=me dstaddr={THEIRS} protocol={self.protocol} mirrored=yes
ipsec static add filteraction name=secure action=negotiate qmpfs={secrecy} inpass=no soft=no \
qmsecmethods="{self.quick_mode_methods}"
ipsec static add policy name=peers activatedefaultrule=no mmsecmethods="{self.main_mode_methods}"
ipsec static add rule name=traffic policy=peers filterlist=traffic filteraction=secure psk="{preshared_key}"
ipsec static set policy name=peers assign=yes
"""

    def connection(self) -> Connection:
        """strongSwan's side."""
        traffic = "" if self.protocol == "any" else f"[{self.protocol}]"
        return Connection(THEIRS, OURS, PRESHARED_KEY, self.ike_proposal, self.esp_proposal, traffic, traffic)


CLASSIC = Suite("3DES-SHA1-2", "ESP[3DES,SHA1]", "3des-sha1-modp1024", "3des-sha1")
CBC = Suite("AES128-SHA256-3", "ESP[AES128,SHA256]", "aes128-sha256-modp2048", "aes128-sha256-modp2048", True)
GCM = Suite("AES256-SHA384-ECP384", "ESP[AESGCM256,None]", "aes256-sha384-ecp384", "aes256gcm16-ecp384", True)
TCP_ONLY = Suite(
    "AES192-SHA1-ECP256", "ESP[AES256,SHA1]", "aes192-sha1-ecp256", "aes256-sha1", protocol="tcp"
)


@dataclass(slots=True)
class Laboratory:
    """The two hosts and what stands between them."""

    network: Network
    stockade: StockadeNode
    folder: Path

    @property
    def ours(self) -> Namespace:
        return self.network["ours"]

    @property
    def theirs(self) -> Namespace:
        return self.network["theirs"]

    def strongswan(self, name: str, connection: Connection) -> StrongSwan:
        folder = self.folder / name
        folder.mkdir()
        return StrongSwan(self.theirs, folder, connection)

    def capture(self, suite: Suite, *, only_ours: bool = False) -> Capture:
        """The wire, with clear packets of the suite's protocols (with `only_ours` only those that we send)
        counted as what must not be."""
        protocols = (ICMP, TCP) if suite.protocol == "any" else (TCP,)

        def must_be_secured(flow: Flow) -> bool:
            return flow.protocol in protocols and (not only_ours or str(flow.source) == OURS)

        return Capture(self.network.switch, self.network.port("theirs"), WireWatch(must_be_secured))


def load_algorithms(namespace: Namespace) -> None:
    """Have the kernel load the modules that strongSwan's SAs need: on an emulated machine that takes
    seconds, in which packets of ours would come too early for them."""
    ends = f"xfrm state add src {OURS} dst {THEIRS} proto esp spi"
    commands = (
        f"{ends} 0x1001 mode transport enc cbc(des3_ede) 0x{'11' * 24} auth hmac(sha1) 0x{'22' * 20}",
        f"{ends} 0x1002 mode transport enc cbc(aes) 0x{'11' * 32} auth-trunc hmac(sha256) 0x{'22' * 32} 128",
        f"{ends} 0x1003 mode transport aead rfc4106(gcm(aes)) 0x{'11' * 36} 128",
        "xfrm state flush",
    )
    # beside other work an emulated machine takes a minute for it
    namespace.run(["ip", "-batch", "-"], input_text="\n".join(commands) + "\n", timeout=180)


# ---- traffic ----
def ping(source: Namespace, target: str, count: int = 5, patience: int = 15, size: int = 56) -> int:
    """How many of `count` echo requests were answered."""
    command = ["ping", "-n", "-c", str(count), "-i", "0.2", "-W", str(patience), "-s", str(size), target]
    output = source.run(command, timeout=60, check=False).stdout
    for line in output.splitlines():
        if " received" in line:
            return int(line.split(" received")[0].rsplit(" ", 1)[1])
    raise AssertionError(f"ping said: {output}")


def first_ping(laboratory: Laboratory) -> None:
    """Our first packets, which need SAs first: they are held, and every one of them is sealed and sent.

    Not every one need be answered. A responder of IKEv1 may wait for the third message of quick mode
    before it puts its SAs and policies into force, and strongSwan does. Our held packets follow that message
    closely; on an emulated machine, where charon needs a tenth of a second, some come too early, and some are
    answered in clear, which we refuse."""
    answered = ping(laboratory.ours, THEIRS, patience=3)
    (quick_mode,) = laboratory.stockade.quick_modes()
    print(f"first echo requests: 5 sent, {answered} answered")
    assert quick_mode["outbound_packets"] == 5, quick_mode


def stream(source: Namespace, target: Namespace, address: str, size: int = STREAM_BYTES) -> None:
    """Send `size` random bytes over TCP and check that the very same bytes arrive."""
    listener = target.call(lambda: socket.create_server((address, PORT)))
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
    with source.call(lambda: socket.create_connection((address, PORT), timeout=60)) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(16) == b"done"
    server.join(60)
    assert received.digest() == hashlib.sha256(data).digest(), "the stream arrived damaged"


def eventually(condition: Callable[[], bool], seconds: float, message: Callable[[], str]) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, message()
        time.sleep(0.2)


# ---- what must be so ----
def check_same_sas(laboratory: Laboratory, theirs: StrongSwan, role: str, suite: Suite) -> None:
    """One main mode and one quick mode on both ends, the same ones, and packets went through both
    directions."""
    (main_mode,) = laboratory.stockade.main_modes()
    (ike_sa,) = theirs.established()
    assert main_mode["cookies"] == f"{ike_sa['initiator-spi']}:{ike_sa['responder-spi']}", (main_mode, ike_sa)
    assert main_mode["role"] == role, main_mode
    (quick_mode,) = laboratory.stockade.quick_modes()
    (child,) = theirs.children()
    assert child["mode"] == "TRANSPORT", child
    assert quick_mode["role"] == role, quick_mode
    assert int(str(quick_mode["inbound_spi"]), 16) == int(str(child["spi-out"]), 16), (quick_mode, child)
    assert int(str(quick_mode["outbound_spi"]), 16) == int(str(child["spi-in"]), 16), (quick_mode, child)
    assert bool(suite.perfect_forward_secrecy) == ("dh-group" in child), child
    for ours, peers in (("inbound_packets", "packets-out"), ("outbound_packets", "packets-in")):
        assert int(str(quick_mode[ours])) > 0, quick_mode
        assert int(str(child[peers])) > 0, child


def check_wire(tally: Tally) -> None:
    assert tally.missed == 0, tally
    assert tally.esp > 0, tally
    assert tally.protected_clear == 0, tally


def exchange_traffic(laboratory: Laboratory, suite: Suite, *, we_begin: bool) -> None:
    """Packets of the protected kinds, both ways."""
    ours, theirs = laboratory.ours, laboratory.theirs
    if suite.protocol == "any":
        if we_begin:
            first_ping(laboratory)
        assert ping(theirs, OURS) == 5, "echo requests were lost"
        assert ping(ours, THEIRS) == 5, "echo requests were lost"
        assert ping(ours, THEIRS, size=1400) == 5, "large echo requests were lost"
    stream(ours, theirs, THEIRS)
    stream(theirs, ours, OURS)


# ---- scenarios ----
def we_initiate(laboratory: Laboratory, name: str, suite: Suite) -> None:
    """Our first packet is held, the SAs are made, the packet is sent; then we delete the SAs."""
    laboratory.stockade.apply(suite.policy())
    wire = laboratory.capture(suite, only_ours=True)
    with laboratory.strongswan(name, suite.connection()) as theirs, wire:
        exchange_traffic(laboratory, suite, we_begin=True)
        check_same_sas(laboratory, theirs, "initiator", suite)
        check_wire(wire.tally())
        laboratory.stockade.client.post("/v1/sas/delete", {"peer": THEIRS})
        eventually(lambda: not theirs.ike_sas(), 20, lambda: f"strongSwan kept {theirs.ike_sas()}")


def strongswan_initiates(laboratory: Laboratory, name: str, suite: Suite) -> None:
    """charon begins; then it deletes the SAs."""
    laboratory.stockade.apply(suite.policy())
    with laboratory.strongswan(name, suite.connection()) as theirs, laboratory.capture(suite) as wire:
        verdict = theirs.initiate(60)
        output, _ = verdict.communicate(timeout=90)
        assert verdict.returncode == 0, output
        exchange_traffic(laboratory, suite, we_begin=False)
        check_same_sas(laboratory, theirs, "responder", suite)
        check_wire(wire.tally())
        theirs.terminate().communicate(timeout=60)
        eventually(
            lambda: not laboratory.stockade.quick_modes() and not laboratory.stockade.main_modes(),
            20,
            lambda: f"we kept {laboratory.stockade.client.get('/v1/sas')}",
        )


def clear_traffic_is_refused(laboratory: Laboratory) -> None:
    """Nobody answers IKE at the other end: nothing passes either way, and nothing of ours leaves in clear."""
    laboratory.stockade.apply(CLASSIC.policy())
    with laboratory.capture(CLASSIC, only_ours=True) as wire:
        assert ping(laboratory.theirs, OURS, 3, 2) == 0
        assert ping(laboratory.ours, THEIRS, 3, 2) == 0
        tally = wire.tally()
    assert tally.other > 0, "the requests of the other end were not even seen"
    assert tally.ike > 0, tally
    assert tally.protected_clear == 0, tally


def a_wrong_key_is_told(laboratory: Laboratory) -> None:
    """The keys differ: no SA, no traffic, and our journal says the likely cause."""
    laboratory.stockade.apply(CBC.policy("another-key"))
    with laboratory.strongswan("wrong-key", CBC.connection()) as theirs:
        verdict = theirs.initiate(15)
        output, _ = verdict.communicate(timeout=60)
        assert verdict.returncode != 0, output
        assert laboratory.stockade.quick_modes() == []
        assert "psk-mismatch" in laboratory.stockade.reasons(), laboratory.stockade.reasons()
        assert theirs.established() == []


def a_killed_agent_comes_back(laboratory: Laboratory) -> None:
    """SIGKILL and start: the connection comes back by itself, without strongSwan's dead-peer detection."""
    laboratory.stockade.apply(CBC.policy())
    # charon sends clear packets between the end of its old SA and the new one; ours are what counts here
    wire = laboratory.capture(CBC, only_ours=True)
    with laboratory.strongswan("killed", CBC.connection()), wire:
        first_ping(laboratory)
        laboratory.stockade.kill()
        assert ping(laboratory.ours, THEIRS, 2, 2) == 0, "a dead agent must not mean clear packets"
        laboratory.stockade.start()
        eventually(lambda: ping(laboratory.theirs, OURS, 1, 2) == 1, 30, lambda: "strongSwan cannot reach us")
        assert ping(laboratory.ours, THEIRS) == 5
        check_wire(wire.tally())


def stopping_the_agent_tells_the_peer(laboratory: Laboratory) -> None:
    """SIGTERM: strongSwan has no SA of ours left, and nothing of ours is left in the system."""
    laboratory.stockade.apply(CBC.policy())
    with laboratory.strongswan("stopping", CBC.connection()) as theirs:
        first_ping(laboratory)
        assert len(theirs.established()) == 1
        laboratory.stockade.stop()
        eventually(lambda: not theirs.ike_sas(), 20, lambda: f"strongSwan kept {theirs.ike_sas()}")
        assert laboratory.ours.run(["nft", "list", "ruleset"]).stdout.strip() == ""
        assert ping(laboratory.ours, THEIRS) == 5, "without a policy everything passes in clear"


SCENARIOS: dict[str, Callable[[Laboratory], None]] = {
    "clear-traffic-is-refused": clear_traffic_is_refused,
    "we-initiate-3des-sha1": lambda lab: we_initiate(lab, "we-3des", CLASSIC),
    "strongswan-initiates-3des-sha1": lambda lab: strongswan_initiates(lab, "they-3des", CLASSIC),
    "we-initiate-aes-cbc-with-pfs": lambda lab: we_initiate(lab, "we-cbc", CBC),
    "strongswan-initiates-aes-cbc-with-pfs": lambda lab: strongswan_initiates(lab, "they-cbc", CBC),
    "we-initiate-aes-gcm-with-pfs": lambda lab: we_initiate(lab, "we-gcm", GCM),
    "strongswan-initiates-aes-gcm-with-pfs": lambda lab: strongswan_initiates(lab, "they-gcm", GCM),
    "we-initiate-tcp-only": lambda lab: we_initiate(lab, "we-tcp", TCP_ONLY),
    "strongswan-initiates-tcp-only": lambda lab: strongswan_initiates(lab, "they-tcp", TCP_ONLY),
    "a-wrong-key-is-told": a_wrong_key_is_told,
    "a-killed-agent-comes-back": a_killed_agent_comes_back,
    "stopping-the-agent-tells-the-peer": stopping_the_agent_tells_the_peer,
}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--folder", type=Path, help="where logs go (default: a temporary folder)")
    parser.add_argument("--driver", default="userspace", help="our data plane (default: userspace)")
    parser.add_argument("scenarios", nargs="*", help=f"some of: {', '.join(SCENARIOS)}")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="stockade-peers-"))
    results: dict[str, dict[str, object]] = {}
    hosts = {"ours": ip_interface(f"{OURS}/24"), "theirs": ip_interface(f"{THEIRS}/24")}
    with Network(hosts) as network, StockadeNode(network["ours"], folder, options.driver) as stockade:
        laboratory = Laboratory(network, stockade, folder)
        load_algorithms(network["theirs"])
        for name in options.scenarios or SCENARIOS:
            began = time.monotonic()
            outcome, detail = "passed", ""
            # what the last scenario left must not reach this one's charon before its configuration does
            stockade.client.post("/v1/sas/delete", {"peer": THEIRS})
            try:
                SCENARIOS[name](laboratory)
            except Exception:
                outcome, detail = "failed", stockade.output() + "\n\n" + traceback.format_exc()
            if not stockade.running:
                stockade.start()
            seconds = round(time.monotonic() - began, 1)
            print(f"{name}: {outcome} in {seconds} s", flush=True)
            results[name] = {"outcome": outcome, "seconds": seconds, "detail": detail}
            options.results.write_text(json.dumps(results, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
