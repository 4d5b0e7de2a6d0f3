"""The kernel driver and agents over it, with real XFRM: a program of its own, since the machine that the
tests run on may have no ESP. `test_kernel_driver_real.py` starts it (in a User-Mode-Linux kernel,
scripts/uml) and reads its results:

    python kernel_scenarios.py --results FILE --folder DIR [SCENARIO ...]

What we wrote into the kernel is read back by `ip xfrm`, which is not ours.
"""

import argparse
import hashlib
import itertools
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
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from ipaddress import ip_address, ip_interface
from pathlib import Path
from types import MappingProxyType, SimpleNamespace

from stockade.crypto.registry import encryption_algorithm, hash_algorithm
from stockade.driver.contract import Acquire, PacketRefused, PeerMoved, SaExpired, SaIdle
from stockade.driver.datapath import Datapath
from stockade.driver.kernel.driver import KernelDriver
from stockade.driver.kernel.listener import bypass_socket, take_esp_in_udp
from stockade.driver.kernel.offload import HardwareOffload
from stockade.driver.netlink import NetlinkSocket
from stockade.driver.probe import esp_trial, kernel_capabilities, refusal_of
from stockade.lab.capture import Capture, WireWatch
from stockade.lab.examples import STOCKADE
from stockade.lab.netns import Namespace, Network
from stockade.lab.real import Agent
from stockade.model.addresses import AddressRange
from stockade.model.filters import Action, Direction, FilterTable, Provenance
from stockade.model.negotiation import (
    MainModePolicy,
    Mode,
    Negotiation,
    PresharedKey,
    QuickModePolicy,
)
from stockade.model.reasons import HostError, Reason, ReasonCode
from stockade.model.sa import Lifetime, SecurityAssociation, UdpEncapsulation
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, EspSuite, Hash, QuickModeProposal
from stockade.model.traffic import AH, ESP, ICMP, ICMPV6, TCP, Flow, TrafficSelector
from stockade.policy.specific import make_filter
from stockade.wire import xfrm as xfrm_wire
from stockade.wire import xfrm_decode, xfrm_layout
from stockade.wire.netlink import encode_attributes
from stockade.wire.pcap import read_capture
from stockade.wire.xfrm import PolicyDirection

ALPHA, BETA = "10.79.0.1", "10.79.0.2"
ALPHA6, BETA6 = "fd79::1", "fd79::2"
SECURED_PORT, PERMITTED_PORT, BLOCKED_PORT, OTHER_PORT = 7001, 7002, 7003, 7004

_NUMBERS = itertools.count(1)
"""Each agent has a home of its own."""

POLICY = """
ipsec static
add filterlist name=secured
add filter filterlist=secured srcaddr=me dstaddr={peer} protocol=ICMP
add filter filterlist=secured srcaddr=me dstaddr={peer} protocol=TCP
add filterlist name=open
add filter filterlist=open srcaddr={peer} dstaddr=me protocol=TCP dstport={permitted}
add filter filterlist=open srcaddr=me dstaddr={peer} protocol=TCP dstport={permitted}
add filterlist name=shut
add filter filterlist=shut srcaddr={peer} dstaddr=me protocol=TCP dstport={blocked}
add filter filterlist=shut srcaddr=me dstaddr={peer} protocol=TCP dstport={blocked}
add filteraction name=require inpass=no soft=no qmsecmethods="{methods}"
add filteraction name=permit action=permit
add filteraction name=block action=block
add policy name=test activatedefaultrule=no mmsecmethods="AES128-SHA256-ECP256"
add rule name=secure policy=test filterlist=secured filteraction=require psk="{psk}"
add rule name=open policy=test filterlist=open filteraction=permit
add rule name=shut policy=test filterlist=shut filteraction=block
set policy name=test assign=yes
"""


def speak_ipv6() -> None:
    """A lab network is silent about IPv6 by itself."""
    for device in ("lo", "eth0"):
        Path(f"/proc/sys/net/ipv6/conf/{device}/disable_ipv6").write_text("0\n", encoding="ascii")


class World:
    """alpha and beta on one wire, IPv4 and IPv6."""

    def __init__(self, network: Network, folder: Path) -> None:
        self.network = network
        self.folder = folder
        for name, address in (("alpha", ALPHA6), ("beta", BETA6)):
            network[name].call(speak_ipv6)
            network[name].ip(f"address add {address}/64 dev eth0 nodad")

    @property
    def alpha(self) -> Namespace:
        return self.network["alpha"]

    @property
    def beta(self) -> Namespace:
        return self.network["beta"]

    def capture(
        self, protocols: tuple[int, ...] = (ICMP,), ports: tuple[int, ...] = (SECURED_PORT,)
    ) -> Capture:
        """The wire; what must be secured is counted where it is clear."""

        def must_be_secured(flow: Flow) -> bool:
            if flow.source.is_link_local:  # of the kernel itself, for its IPv6 neighbours
                return False
            return flow.protocol in protocols or (
                flow.protocol == TCP and bool({flow.source_port, flow.destination_port} & set(ports))
            )

        return Capture(self.network.switch, self.network.port("beta"), WireWatch(must_be_secured))


def xfrm(namespace: Namespace, what: str) -> list[str]:
    """What `ip xfrm state` or `ip xfrm policy` prints, one text for each entry; policies of sockets left
    out."""
    text = namespace.run(["ip", "xfrm", what]).stdout
    entries = re.split(r"\n(?=src )", text.strip()) if text.strip() else []
    return [" ".join(entry.split()) for entry in entries if "socket " not in entry]


def is_loopback(policy: str) -> bool:
    """Whether this policy is one of those for loopback over IPv6, which is no filter of the table."""
    to_all = re.match(r"src ::/0 dst \S+ (dev lo )?dir", policy) is not None
    return to_all and "tmpl" not in policy and "action block" not in policy


def ping(namespace: Namespace, target: str, count: int = 3, patience: float = 3, size: int = 56) -> int:
    command = ["ping", "-n", "-c", str(count), "-i", "0.2", "-W", str(patience), "-s", str(size), target]
    output = namespace.run(command, timeout=60, check=False).stdout
    found = re.search(r"(\d+) received", output)
    assert found, output
    return int(found[1])


def connects(source: Namespace, target: Namespace, address: str, port: int, patience: float = 5.0) -> bool:
    """Whether a TCP connection comes up and carries 64 KiB unharmed."""
    listener = target.call(lambda: socket.create_server((address, port)))
    listener.settimeout(patience)
    data = os.urandom(1 << 16)
    digests: list[bytes] = []

    def serve() -> None:
        with listener, suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(patience)
                received = b""
                while part := connection.recv(65536):
                    received += part
                digests.append(hashlib.sha256(received).digest())

    server = threading.Thread(target=serve, daemon=True)
    server.start()
    try:
        with source.call(lambda: socket.create_connection((address, port), timeout=patience)) as client:
            client.sendall(data)
    except OSError:
        server.join(2 * patience)
        return False
    server.join(2 * patience)
    return digests == [hashlib.sha256(data).digest()]


def eventually(question: Callable[[], object], seconds: float = 20.0) -> object:
    deadline = time.monotonic() + seconds
    while not (answer := question()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return answer


# ---- agents -----------------------------------------------------------------------------------------------


class Host:
    """One agent with the kernel's data plane, as a user has it."""

    def __init__(self, world: World, namespace: Namespace, peer: str) -> None:
        self.namespace, self.peer = namespace, peer
        self.home = world.folder / f"{namespace.name}-{next(_NUMBERS)}"
        self.agent = Agent(namespace, self.home)

    def stockade(self, *words: str) -> str:
        result = self.namespace.run([*STOCKADE, "--home", str(self.home), *words], check=False, timeout=60)
        assert result.returncode == 0, (words, result.stdout, result.stderr)
        return result.stdout

    def ask(self, *words: str) -> dict:
        return json.loads(self.stockade(*words, "--format", "json"))

    def apply(self, methods: str = "ESP[AES128,SHA256]") -> None:
        self.apply_script(
            POLICY.format(
                peer=self.peer, methods=methods, permitted=PERMITTED_PORT, blocked=BLOCKED_PORT, psk="a key"
            )
        )

    def apply_script(self, text: str) -> None:
        script = self.home.with_suffix(".netsh")
        script.write_text(text)
        self.stockade("netsh", "-f", str(script), "--atomic")


@contextmanager
def two_agents(
    world: World, methods: str = "ESP[AES128,SHA256]", policies: tuple[str, str] | None = None
) -> Iterator[tuple[Host, Host]]:
    """`policies`: netsh scripts in the place of POLICY."""
    hosts = Host(world, world.alpha, BETA), Host(world, world.beta, ALPHA)
    try:
        for number, host in enumerate(hosts):
            if policies is None:
                host.apply(methods)
            else:
                host.apply_script(policies[number])
            host.agent.start()
        for host in hosts:
            assert host.agent.wait_until_ready()["driver"] == "kernel"
        yield hosts
    except Exception:
        for host in hosts:
            journal = host.home / "journal" / "journal.jsonl"
            print(host.namespace.name, host.agent.last_words(), sep="\n")
            if journal.exists():
                print("\n".join(journal.read_text().splitlines()[-8:]))
            print(*xfrm(host.namespace, "state"), *xfrm(host.namespace, "policy"), sep="\n")
        raise
    finally:
        for host in hosts:
            with suppress(Exception):
                host.agent.terminate()


def agents_negotiate_and_carry_traffic(world: World) -> None:
    """Two agents, real IKE, real ESP in the kernel; `ip xfrm` reads what they wrote; at the end nothing is
    left."""
    with world.capture() as wire, two_agents(world, "ESP[AES128,SHA256]") as (alpha, beta):
        assert ping(world.alpha, BETA, 3) == 3, "the first packet is held, none is lost"
        assert ping(world.beta, ALPHA, 2, size=3000) == 2, "in fragments"
        assert connects(world.alpha, world.beta, BETA, SECURED_PORT)
        tally = wire.tally()
        assert tally.esp > 0, tally
        assert tally.protected_clear == 0, tally

        for host, peer in ((alpha, BETA), (beta, ALPHA)):
            sas = host.ask("show", "sas")
            assert len(sas["main_modes"]) == 1, sas
            assert len(sas["quick_modes"]) == 2, sas  # ICMP and TCP
            assert all(
                row["inbound_packets"] > 0 and row["outbound_packets"] > 0 for row in sas["quick_modes"]
            )
            written = xfrm(host.namespace, "state")
            for row in sas["quick_modes"]:
                for spi, ends in (
                    (row["outbound_spi"], f"src {row['local']} dst {peer}"),
                    (row["inbound_spi"], f"src {peer} dst {row['local']}"),
                ):
                    (entry,) = [text for text in written if spi in text]
                    assert entry.startswith(ends), entry
                    assert "proto esp" in entry, entry
                    assert "mode transport" in entry, entry
                    assert "auth-trunc hmac(sha256)" in entry, entry
                    assert "enc cbc(aes)" in entry, entry
        ours = {row["inbound_spi"] for row in alpha.ask("show", "sas")["quick_modes"]}
        assert ours == {row["outbound_spi"] for row in beta.ask("show", "sas")["quick_modes"]}

        # loopback is left alone; those policies belong to no filter
        policies = [text for text in xfrm(world.alpha, "policy") if not is_loopback(text)]
        rows = alpha.ask("show", "filters")["filters"]
        for direction, word in (("inbound", "dir in"), ("outbound", "dir out")):
            mine = [text for text in policies if f" {word} " in text]
            wanted = [row for row in rows if row["direction"] == direction]
            assert len(mine) == len(wanted), (mine, wanted)
            priorities = [int(re.search(r"priority (\d+)", text)[1]) for text in mine]
            in_order = [text for _, text in sorted(zip(priorities, mine, strict=True))]
            for text, row in zip(in_order, wanted, strict=True):
                assert ("action block" in text) == (row["action"] == "block"), (text, row)
                assert ("tmpl" in text) == (row["action"] == "negotiate"), (text, row)
                port = row["destination_port"] or 0
                assert (f"dport {port}" in text) == bool(port), (text, row)
        secured = [row for row in rows if row["action"] == "negotiate"]
        assert any(row["packets"] > 0 for row in secured), secured
        a_capture_shows_packets_before_and_after(world, alpha)

        for host in (alpha, beta):
            assert host.agent.terminate() == 0
            assert xfrm(host.namespace, "state") == []
            assert xfrm(host.namespace, "policy") == []
            assert host.namespace.run(["cat", "/proc/sys/net/core/xfrm_larval_drop"]).stdout.strip() == "1"
    assert ping(world.alpha, BETA, 1) == 1, "without a policy everything passes in clear"


def a_capture_shows_packets_before_and_after(world: World, host: Host) -> None:
    """Packet sockets see ESP only: the capture opens it. The last packets are of SAs that came up later."""
    file = world.folder / "both-sides.pcapng"
    pattern = b"sixteen bytes in"
    command = [*STOCKADE, "--home", str(host.home), "capture", "--format", "json", str(file)]
    said = world.folder / "capture.json"
    with said.open("w") as stream:
        capture = host.namespace.popen(command, stdout=stream.fileno())
    try:
        assert eventually(file.exists)
        words = ["ping", "-q", "-c", "3", "-i", "0.2", "-W", "20", "-p", pattern.hex(), host.peer]
        assert host.namespace.run(words, check=False, timeout=60).returncode == 0
        assert eventually(lambda: file.read_bytes().count(pattern * 2) >= 6)
        host.stockade("sa", "delete", host.peer)
        assert host.namespace.run(words, check=False, timeout=60).returncode == 0
        assert eventually(lambda: file.read_bytes().count(pattern * 2) >= 12)
    finally:
        capture.send_signal(signal.SIGINT)
        capture.wait(60)
    told = json.loads("{" + said.read_text().partition("{")[2])  # what it says before goes there too
    assert told["missing"] == told["not_opened"] == 0, told
    seen = list(read_capture(file.read_bytes()))
    assert told["packets"] == len(seen)
    sealed = [one for one in seen if one.interface == 0 and one.data[9] == 50]
    clear = [one.data for one in seen if one.interface == 1]
    assert len(sealed) == len(clear) == 12, (len(sealed), len(clear))
    assert not any(pattern in one.data for one in sealed)
    assert all(packet[9] == 1 and pattern in packet for packet in clear)
    assert [packet[20] for packet in clear].count(8) == 6, "requests before, answers after IPsec"
    file.unlink()
    (told_of,) = {row["facts"]["kept"] for row in host.ask("events", "--kind", "keys-exported")["entries"]}
    assert told_of == "in memory"


def permit_and_block_are_kept(world: World) -> None:
    with two_agents(world, "ESP[AESGCM128,None]") as (alpha, _):
        assert connects(world.alpha, world.beta, BETA, PERMITTED_PORT), "permitted"
        assert xfrm(world.alpha, "state") == [], "permitted traffic needs no SA"
        assert not connects(world.alpha, world.beta, BETA, BLOCKED_PORT, 2), "blocked outbound"
        assert not connects(world.beta, world.alpha, ALPHA, BLOCKED_PORT, 2), "blocked inbound"
        assert connects(world.beta, world.alpha, ALPHA, SECURED_PORT), "secured, begun by the other end"
        (state, *_) = xfrm(world.alpha, "state")
        assert "aead rfc4106(gcm(aes))" in state, state
        # another policy under way: what was secured becomes blocked, and comes back
        alpha.stockade(
            "netsh", "ipsec", "static", "set", "rule", "name=secure", "policy=test", "filteraction=block"
        )
        assert eventually(lambda: ping(world.alpha, BETA, 1, 1) == 0)
        alpha.stockade(
            "netsh", "ipsec", "static", "set", "rule", "name=secure", "policy=test", "filteraction=require"
        )
        assert eventually(lambda: ping(world.alpha, BETA, 1, 2) == 1)


def clear_traffic_is_refused(world: World) -> None:
    """Only alpha has an agent: nothing that needs security passes, in either direction."""
    alpha = Host(world, world.alpha, BETA)
    alpha.apply()
    alpha.agent.start()
    try:
        alpha.agent.wait_until_ready()
        with world.capture((), ()) as wire:
            assert ping(world.beta, ALPHA, 2, 1) == 0
            assert ping(world.alpha, BETA, 2, 1) == 0
            assert not connects(world.beta, world.alpha, ALPHA, SECURED_PORT, 2)
            assert wire.tally().ike > 0, "nobody asked for an SA"
        refused = alpha.ask("status")["refused_packets"]
        assert refused.get("clear-dropped", 0) > 0, refused
    finally:
        alpha.agent.kill()
    # killed: closed, not open
    assert ping(world.alpha, BETA, 1, 1) == 0
    assert ping(world.beta, ALPHA, 1, 1) == 0
    world.alpha.call(lambda: KernelDriver().stop())
    assert xfrm(world.alpha, "policy") == []
    assert ping(world.alpha, BETA, 1, 1) == 1


def a_killed_agent_comes_back(world: World) -> None:
    """kill -9 under traffic: the SAs in the kernel go on, nothing passes in clear, the new agent adopts them
    and makes new ones, and no packet is lost."""
    with world.capture() as wire, two_agents(world) as (alpha, _):
        assert ping(world.alpha, BETA, 2) == 2
        before = {row["inbound_spi"] for row in alpha.ask("show", "sas")["quick_modes"]}
        output = alpha.home.with_name("pings.txt")
        with output.open("w") as file:
            pinging = world.alpha.popen(["ping", "-n", "-i", "0.05", BETA], stdout=file.fileno())
        alpha.agent.kill()
        assert not connects(world.alpha, world.beta, BETA, SECURED_PORT, 2), "new traffic waits for an agent"
        alpha.agent.start()
        alpha.agent.wait_until_ready()
        kinds = [entry["kind"] for entry in alpha.ask("show", "journal", "--last", "100")["entries"]]
        assert "quick-mode-adopted" in kinds, kinds
        assert "sa-not-adopted" not in kinds, kinds

        def rows() -> set[str]:
            return {row["inbound_spi"] for row in alpha.ask("show", "sas")["quick_modes"]}

        assert eventually(lambda: bool(rows() - before), 20), "SAs of the new agent"
        assert connects(world.alpha, world.beta, BETA, SECURED_PORT, 10)

        def old() -> list[str]:
            return [text for text in xfrm(world.alpha, "state") if any(spi in text for spi in before)]

        assert eventually(lambda: not old(), 60), old()
        answers = output.read_text().count("bytes from")
        assert eventually(lambda: output.read_text().count("bytes from") > answers + 10, 20)
        pinging.send_signal(signal.SIGINT)
        pinging.wait(10)
        answered = {int(number) for number in re.findall(r"icmp_seq=(\d+)", output.read_text())}
        assert answered == set(range(1, max(answered) + 1)), "a packet was lost"
        assert ping(world.beta, ALPHA, 2) == 2
        tally = wire.tally()
        assert tally.protected_clear == 0, tally


class KeptAgent(Agent):
    """An agent under a service manager that keeps its sockets, as systemd does: what it stores is given to
    the next one."""

    def __init__(self, namespace: Namespace, home: Path) -> None:
        super().__init__(namespace, home)
        self.kept: dict[str, int] = {}
        self._path = str(home.with_suffix(f".notify-{next(_NUMBERS)}"))
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(self._path)
        self._notify.setblocking(False)

    def start(self) -> None:
        moves = "; ".join(f"exec {60 + n}<&{fd}" for n, fd in enumerate(self.kept.values()))
        moves += "".join(f"; exec {3 + n}<&{60 + n} {60 + n}<&-" for n in range(len(self.kept)))
        script = f'{moves or ":"}; export LISTEN_PID=$$; exec "$@"'
        words = ["bash", "-c", script, "bash", *STOCKADE, "--home", str(self.home), "agent", "run"]
        manager = {
            "NOTIFY_SOCKET": self._path,
            "LISTEN_FDS": str(len(self.kept)),
            "LISTEN_FDNAMES": ":".join(self.kept),
        }
        for descriptor in self.kept.values():
            os.set_inheritable(descriptor, True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._namespace.argv(words),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
                close_fds=False,
                env={**os.environ, **manager},
            )

    def listen(self) -> None:
        """What was sent to us since the last time."""
        with suppress(BlockingIOError):
            while True:
                text, rights, _, _ = socket.recv_fds(self._notify, 4096, 4)
                values = dict(line.split("=", 1) for line in text.decode().splitlines())
                for descriptor in rights:
                    if values["FDNAME"] in self.kept:
                        os.close(self.kept[values["FDNAME"]])
                    self.kept[values["FDNAME"]] = descriptor

    def close(self) -> None:
        self._notify.close()
        for descriptor in self.kept.values():
            os.close(descriptor)


def packets_through_a_nat_survive_a_killed_agent(world: World) -> None:
    """alpha is behind a NAT, so ESP comes to a socket of its agent. The agent is killed and comes back two
    seconds later; its service manager has kept the socket, and no packet is lost. Without that they are."""
    for port in (500, 4500):
        rule = f"-t nat -A POSTROUTING -o eth0 -p udp --sport {port} -j SNAT --to-source {ALPHA}"
        world.alpha.run(["iptables-legacy", *f"{rule}:{20_000 + port}".split()])
    with two_agents(world) as (alpha, _):
        alpha.agent.terminate()
        for is_kept in (True, False):
            agent = alpha.agent = KeptAgent(world.alpha, alpha.home)
            agent.start()
            agent.wait_until_ready()
            assert eventually(lambda: ping(world.alpha, BETA, 2, 2) == 2), "a way through the NAT"
            assert any("espinudp" in text for text in xfrm(world.alpha, "state")), xfrm(world.alpha, "state")
            agent.listen()
            assert set(agent.kept) == {"esp-in-udp-4", "esp-in-udp-6"}
            if not is_kept:
                for descriptor in agent.kept.values():
                    os.close(descriptor)
                agent.kept.clear()
            output = alpha.home.with_name(f"pings-{is_kept}.txt")
            with output.open("w") as file:
                pinging = world.alpha.popen(["ping", "-n", "-i", "0.05", BETA], stdout=file.fileno())
            assert eventually(lambda file=output: file.read_text().count("bytes from") > 10)
            agent.kill()
            time.sleep(2)
            agent.start()
            agent.wait_until_ready()
            answers = output.read_text().count("bytes from")
            assert eventually(
                lambda file=output, n=answers: file.read_text().count("bytes from") > n + 10, 60
            )
            pinging.send_signal(signal.SIGINT)
            pinging.wait(10)
            answered = {int(number) for number in re.findall(r"icmp_seq=(\d+)", output.read_text())}
            lost = set(range(1, max(answered) + 1)) - answered
            assert bool(lost) is not is_kept, (is_kept, lost)
            agent.listen()
            assert agent.terminate() == 0
            agent.close()
        assert eventually(lambda: xfrm(world.alpha, "state") == []), "nothing is left"


# ---- the driver alone -------------------------------------------------------------------------------------


class Here:
    """A driver whose every call happens in its namespace."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace
        self.driver = namespace.call(KernelDriver)
        self.seen: list[object] = []

    def __getattr__(self, name: str) -> Callable[..., object]:
        return lambda *arguments, **words: self.namespace.call(
            lambda: getattr(self.driver, name)(*arguments, **words)
        )

    def wait_for(self, kind: type, seconds: float = 6.0, **fields: object) -> object:
        def found() -> object:
            self.seen += self.events()
            return next(
                (
                    event
                    for event in self.seen
                    if isinstance(event, kind)
                    and all(getattr(event, name) == value for name, value in fields.items())
                ),
                None,
            )

        event = eventually(found, seconds)
        assert event is not None, self.seen
        self.seen.remove(event)
        return event


@contextmanager
def two_drivers(world: World) -> Iterator[tuple[Here, Here]]:
    drivers = Here(world.alpha), Here(world.beta)
    try:
        for driver in drivers:
            driver.start()
        yield drivers
    finally:
        for driver in drivers:
            driver.stop()
    for driver in drivers:
        # what the kernel itself put there while it waited for an SA goes after 3 s
        assert eventually(lambda space=driver.namespace: xfrm(space, "state") == [])
        assert xfrm(driver.namespace, "policy") == []


def table_of(
    local: str, peer: str, protocol: int, proposal: QuickModeProposal, **options: bool
) -> FilterTable:
    negotiation = Negotiation(
        "local/test/rule",
        MainModePolicy(),
        QuickModePolicy((proposal,), mode=Mode.TRANSPORT),
        (PresharedKey(Secret(b"x")),),
    )
    selector = TrafficSelector(AddressRange.host(local), AddressRange.host(peer), protocol)
    provenance = Provenance("local", "test", "rule")
    return FilterTable(
        tuple(
            make_filter(
                selector if direction is Direction.OUTBOUND else selector.reversed(),
                direction,
                Action.NEGOTIATE,
                1,
                provenance,
                negotiation=negotiation.name,
                **options,
            )
            for direction in (Direction.OUTBOUND, Direction.INBOUND)
        ),
        MappingProxyType({negotiation.name: negotiation}),
    )


def sas_of(
    one: str,
    other: str,
    protocol: int,
    proposal: QuickModeProposal | SimpleNamespace,
    spi: int,
    **fields: object,
) -> tuple[SecurityAssociation, SecurityAssociation]:
    """One direction, as its receiver and as its sender have it."""
    esp, ah = proposal.esp, proposal.ah
    size = encryption_algorithm(esp.encryption).keymat_size if esp else 0
    integrity = esp.integrity if esp else ah
    common = dict(
        spi=spi,
        source=ip_address(one),
        destination=ip_address(other),
        selector=TrafficSelector(AddressRange.host(one), AddressRange.host(other), protocol),
        mode=fields.pop("mode", Mode.TRANSPORT),
        esp=esp,
        ah=ah,
        encryption_key=Secret(bytes(range(spi % 7, spi % 7 + size))),
        integrity_key=Secret(bytes(hash_algorithm(integrity).integrity_key_size) if integrity else b""),
        pair=spi ^ 1,
        negotiation="local/test/rule",
        filter_id="00" * 8,
        main_mode="",
        **fields,
    )
    return SecurityAssociation(direction=Direction.INBOUND, **common), SecurityAssociation(
        direction=Direction.OUTBOUND, **common
    )


def secure(
    alpha: Here,
    beta: Here,
    ends: tuple[str, str],
    protocol: int,
    proposal: QuickModeProposal,
    **fields: object,
) -> tuple[int, int]:
    """SAs in both directions, inbound first; the SPIs of alpha -> beta and of beta -> alpha."""
    one, other = ends
    forth, back = 0x1000, 0x1001
    to_beta = sas_of(one, other, protocol, proposal, forth, **fields)
    to_alpha = sas_of(other, one, protocol, proposal, back, **fields)
    beta.add_sa(to_beta[0])
    alpha.add_sa(to_alpha[0])
    beta.add_sa(to_alpha[1])
    alpha.add_sa(to_beta[1])
    return forth, back


SUITES = [
    QuickModeProposal(EspSuite(encryption, None if encryption.is_aead else integrity))
    for encryption, integrity in zip(
        Encryption,
        itertools.cycle((Hash.SHA1, Hash.SHA_256, Hash.SHA_512, Hash.MD5, Hash.SHA_384)),
        strict=False,
    )
] + [QuickModeProposal(ah=Hash.SHA_256)]


def every_suite_carries_packets(world: World) -> None:
    """The keys, sizes and names of each suite are right: two kernels' ends agree, IPv4 and IPv6, all
    windows."""
    windows = itertools.cycle((32, 64, 1024, 4096))
    has = world.alpha.call(kernel_capabilities)
    # this kernel is built without ChaCha20; everything else is there, and tried
    assert set(Encryption) - has.encryptions <= {Encryption.CHACHA20_POLY1305}, has
    suites = [one for one in SUITES if one.esp is None or one.esp.encryption in has.encryptions]
    for proposal, window in zip(suites, windows, strict=False):
        ends, protocol = ((ALPHA, BETA), ICMP) if window != 64 else ((ALPHA6, BETA6), ICMPV6)
        with two_drivers(world) as (alpha, beta):
            alpha.install_filters(table_of(ends[0], ends[1], protocol, proposal))
            beta.install_filters(table_of(ends[1], ends[0], protocol, proposal))
            forth, _ = secure(alpha, beta, ends, protocol, proposal, replay_window=window)
            if protocol == ICMPV6:
                know_the_neighbours(world)
            with world.capture((protocol,), ()) as wire:
                assert ping(world.alpha, ends[1], 2) == 2, f"{proposal} window {window}"
                tally = wire.tally()
            assert tally.protected_clear == 0, (str(proposal), tally)
            carried = {row.spi: row.packets for row in beta.statistics().sas}
            assert carried[forth] == 2, (str(proposal), carried)
            text = next(text for text in xfrm(world.beta, "state") if "0x00001000" in text)
            assert f"replay-window {window}" in text or f"replay_window {window}" in text, text


def the_kernel_reports_what_happens(world: World) -> None:
    """Acquire, soft and hard expiry, idle, an SPI that nobody knows, and packets that are not what they
    should be."""
    proposal = SUITES[6]
    with two_drivers(world) as (alpha, beta):
        tables = table_of(ALPHA, BETA, ICMP, proposal), table_of(BETA, ALPHA, ICMP, proposal)
        alpha.install_filters(tables[0])
        beta.install_filters(tables[1])
        # a reserved SPI is an SA to be
        spi = alpha.get_spi(ip_address(ALPHA), ip_address(BETA))
        assert any(f"{spi:#010x}" in text for text in xfrm(world.alpha, "state"))

        assert ping(world.alpha, BETA, 1, 1) == 0
        outbound = next(entry for entry in tables[0].filters if entry.direction is Direction.OUTBOUND)
        acquire = alpha.wait_for(Acquire)
        assert acquire == Acquire(outbound.id, Flow(ip_address(ALPHA), ip_address(BETA), ICMP)), acquire
        assert alpha.statistics().held_packets >= 1

        lifetime = Lifetime(soft_seconds=2, hard_seconds=5)
        forth, back = secure(alpha, beta, (ALPHA, BETA), ICMP, proposal, lifetime=lifetime, idle_seconds=1.5)
        assert ping(world.alpha, BETA, 2) == 2
        alpha.wait_for(SaIdle)
        alpha.wait_for(SaExpired, spi=forth, direction=Direction.OUTBOUND, hard=False)
        alpha.wait_for(SaExpired, spi=back, direction=Direction.INBOUND, hard=True, seconds=8)
        alpha.wait_for(SaExpired, spi=forth, direction=Direction.OUTBOUND, hard=True)
        beta.wait_for(SaExpired, spi=forth, direction=Direction.INBOUND, hard=True)
        assert alpha.statistics().sas == ()

        # alpha still sends, beta knows nothing
        alpha.add_sa(sas_of(ALPHA, BETA, ICMP, proposal, 0x2000)[1])
        pinger = world.alpha.popen(["ping", "-n", "-c", "30", "-i", "0.2", BETA])
        refused = beta.wait_for(PacketRefused)
        assert (refused.reason.code, refused.spi, str(refused.source)) == (
            ReasonCode.UNKNOWN_SPI,
            0x2000,
            ALPHA,
        )
        pinger.kill()
        pinger.wait()

        # the wrong key at the other end
        alpha.remove_sa(0x2000, Direction.OUTBOUND, ip_address(BETA))
        alpha.add_sa(sas_of(ALPHA, BETA, ICMP, proposal, 0x3000)[1])
        wrong = QuickModeProposal(EspSuite(Encryption.AES_GCM_128, None))
        assert proposal.esp == wrong.esp
        sa = sas_of(ALPHA, BETA, ICMP, wrong, 0x3000)[0]
        beta.add_sa(
            SecurityAssociation(
                **{
                    **{name: getattr(sa, name) for name in sa.__slots__},
                    "encryption_key": Secret(b"\xff" * len(sa.encryption_key)),
                }
            )
        )
        beta.seen.clear()
        assert ping(world.alpha, BETA, 3, 1) == 0
        refused = beta.wait_for(PacketRefused, spi=0x3000)
        assert refused.reason.code is ReasonCode.INTEGRITY_FAILED


def esp_in_udp_passes(world: World) -> None:
    """UDP encapsulation over the agent's own socket of port 4500, which still gets IKE; both families."""
    proposal = SUITES[6]
    for version, ends, protocol in ((4, (ALPHA, BETA), ICMP), (6, (ALPHA6, BETA6), ICMPV6)):
        with two_drivers(world) as (alpha, beta), ExitStack() as stack:
            alpha.install_filters(table_of(*ends, protocol, proposal))
            beta.install_filters(table_of(*reversed(ends), protocol, proposal))
            if version == 6:
                know_the_neighbours(world)
            sockets = []
            for driver, address in zip((alpha, beta), ends, strict=True):
                family = socket.AF_INET if version == 4 else socket.AF_INET6
                sock = driver.namespace.call(lambda family=family: socket.socket(family, socket.SOCK_DGRAM))
                stack.callback(sock.close)
                sock.bind((address, 4500))
                sock.settimeout(3)
                driver.prepare_ike_socket(sock)
                sockets.append(sock)
            secure(alpha, beta, ends, protocol, proposal, udp=UdpEncapsulation(4500, 4500))
            with world.capture((protocol,), ()) as wire:
                assert ping(world.alpha, ends[1], 2) == 2, f"IPv{version}"
                assert wire.tally().protected_clear == 0, wire.tally()
            sockets[0].sendto(bytes(4) + b"IKE behind its marker", (ends[1], 4500))
            assert sockets[1].recv(100).endswith(b"IKE behind its marker")


def know_the_neighbours(world: World) -> None:
    """Neighbour discovery is ICMPv6 too: a real table exempts it, here the neighbours are given."""
    for one, other, address in ((world.alpha, world.beta, BETA6), (world.beta, world.alpha, ALPHA6)):
        link = other.run(["cat", "/sys/class/net/eth0/address"], check=False).stdout.strip()
        if not link:
            text = other.run(["ip", "-brief", "link", "show", "eth0"]).stdout
            link = re.search(r"(\w\w:){5}\w\w", text)[0]
        one.ip(f"neighbour replace {address} lladdr {link} dev eth0 nud permanent")


# ---- extended sequence numbers, and AH around ESP ----------------------------------------------------------


BEFORE_THE_WRAP = (1 << 32) - 3


def set_numbers(driver: Here, sa: SecurityAssociation, used: int) -> None:
    """As if so many packets had passed (XFRM_MSG_NEWAE; the driver has no use for it)."""
    protocol = ESP if sa.esp is not None else AH
    high, low = used >> 32, used & 0xFFFF_FFFF
    window = sa.replay_window if sa.direction is Direction.INBOUND else xfrm_wire.LEGACY_WINDOW
    words = window // 32
    inbound = sa.direction is Direction.INBOUND
    numbers = (0, low, 0, high) if inbound else (low, 0, high, 0)
    replay = xfrm_layout.REPLAY_ESN.pack(words, *numbers, window) + bytes(4 * words)
    body = xfrm_wire.state_id(sa.destination, sa.spi, protocol)
    body += sa.source.packed.ljust(16, b"\0") + bytes(8)
    body += encode_attributes({xfrm_wire.Attribute.REPLAY_ESN: replay})

    def change() -> None:
        netlink = NetlinkSocket(socket.NETLINK_XFRM)
        netlink.change(0x1E, body, 0x100)  # XFRM_MSG_NEWAE, NLM_F_REPLACE
        netlink.close()

    driver.namespace.call(change)


def extended_sequence_numbers_pass_the_end_of_32_bits(world: World) -> None:
    """Both directions, ESP and AH; what the kernel sent is opened by the user-space path too."""
    for suite in (
        QuickModeProposal(EspSuite(Encryption.AES_GCM_128, None)),
        QuickModeProposal(EspSuite(Encryption.AES_CBC_256, Hash.SHA_256)),
        QuickModeProposal(EspSuite(Encryption.NULL, Hash.SHA1)),
        QuickModeProposal(ah=Hash.SHA_256),
    ):
        proposal = replace(suite, extended_sequence=True)
        protocol = ESP if proposal.esp is not None else AH
        with two_drivers(world) as (alpha, beta):
            alpha.install_filters(table_of(ALPHA, BETA, ICMP, proposal))
            beta.install_filters(table_of(BETA, ALPHA, ICMP, proposal))
            extended = {"extended_sequence": True, "replay_window": 64}
            secure(alpha, beta, (ALPHA, BETA), ICMP, proposal, **extended)
            to_beta = sas_of(ALPHA, BETA, ICMP, proposal, 0x1000, **extended)
            to_alpha = sas_of(BETA, ALPHA, ICMP, proposal, 0x1001, **extended)
            for driver, sa in zip((beta, alpha, alpha, beta), (*to_beta, *to_alpha), strict=True):
                set_numbers(driver, sa, BEFORE_THE_WRAP)
            sniffer = world.beta.call(
                lambda kind=protocol: socket.socket(socket.AF_INET, socket.SOCK_RAW, kind)
            )
            with sniffer:
                sniffer.setblocking(False)
                assert ping(world.alpha, BETA, 6) == 6, str(proposal)
                seen = []
                with suppress(BlockingIOError):
                    while True:
                        seen.append(sniffer.recv(2048))
            text = next(text for text in xfrm(world.beta, "state") if "0x00001000" in text)
            assert "esn" in text, text
            judge = Datapath()
            judge.install_filters(table_of(BETA, ALPHA, ICMP, proposal).filters, 0.0)
            judge.add_sa(to_beta[0], 0.0)
            (entry,) = judge._sad
            assert entry.window.accept(BEFORE_THE_WRAP)
            clear = judge.inbound(seen, 1.0)
            assert len(seen) == len(clear) == 6, (str(proposal), judge.statistics(1.0))
            assert entry.window.top == BEFORE_THE_WRAP + 6
            assert all(packet[9] == ICMP for packet in clear)


def ah_around_esp_carries_packets(world: World) -> None:
    """Both of it in every packet, in both families; with one half missing nothing passes."""
    for proposal, (ends, protocol) in itertools.product(
        (
            QuickModeProposal(EspSuite(Encryption.AES_CBC_128, None), Hash.SHA_256),
            QuickModeProposal(EspSuite(Encryption.AES_GCM_128, None), Hash.SHA1),
            QuickModeProposal(EspSuite(Encryption.TRIPLE_DES_CBC, Hash.SHA1), Hash.MD5),
        ),
        (((ALPHA, BETA), ICMP), ((ALPHA6, BETA6), ICMPV6)),
    ):
        with two_drivers(world) as (alpha, beta):
            alpha.install_filters(table_of(*ends, protocol, proposal))
            beta.install_filters(table_of(*reversed(ends), protocol, proposal))
            if protocol == ICMPV6:
                know_the_neighbours(world)
            halves = secure_both(alpha, beta, ends, protocol, proposal)
            with world.capture((protocol,), ()) as wire:
                assert ping(world.alpha, ends[1], 2) == 2, str(proposal)
                assert wire.tally().protected_clear == 0, wire.tally()
            carried = {row.spi: row.packets for row in beta.statistics().sas}
            assert [carried[spi] for spi in halves] == [2, 2, 2, 2], carried
            alpha.remove_sa(halves[1], Direction.OUTBOUND, ip_address(ends[1]))
            with world.capture((protocol,), ()) as wire:
                assert ping(world.alpha, ends[1], 2, 1) == 0, "ESP without its AH"
                tally = wire.tally()
                assert (tally.protected_clear, tally.esp) == (0, 0), tally


def secure_both(
    alpha: Here,
    beta: Here,
    ends: tuple[str, str],
    protocol: int,
    proposal: QuickModeProposal,
    change: Callable[[SecurityAssociation], SecurityAssociation] = lambda sa: sa,
) -> tuple[int, int, int, int]:
    """As `secure`, with AH around ESP: the SPIs of ESP and AH forth, and of both back."""
    halves = SimpleNamespace(esp=proposal.esp, ah=None), SimpleNamespace(esp=None, ah=proposal.ah)
    for start, (one, other), (sender, receiver) in (
        (0x1000, ends, (alpha, beta)),
        (0x1001, (ends[1], ends[0]), (beta, alpha)),
    ):
        spis = start, start + 16
        pairs = [
            sas_of(one, other, protocol, half, spi, bundle=bundle)
            for half, spi, bundle in zip(halves, spis, reversed(spis), strict=True)
        ]
        for received, _ in pairs:
            receiver.add_sa(change(received))
        for _, sent in pairs:
            sender.add_sa(change(sent))
    return 0x1000, 0x1010, 0x1001, 0x1011


def a_changed_mapping_is_followed(world: World) -> None:
    """alpha's NAT gives it another port: beta's kernel tells, and beta's packets go there."""
    proposal = SUITES[6]
    with two_drivers(world) as (alpha, beta):
        sockets = []
        for driver, address, port in ((alpha, ALPHA, 4500), (alpha, ALPHA, 4777), (beta, BETA, 4500)):
            sock = driver.namespace.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.bind((address, port))
            driver.namespace.call(lambda sock=sock: bypass_socket(sock))
            take_esp_in_udp(sock)
            sockets.append(sock)
        beta.install_filters(table_of(BETA, ALPHA, ICMP, proposal))
        alpha.install_filters(table_of(ALPHA, BETA, ICMP, proposal))
        forth, back = 0x1000, 0x1001
        moved, known = UdpEncapsulation(4777, 4500), UdpEncapsulation(4500, 4500)
        to_beta = sas_of(ALPHA, BETA, ICMP, proposal, forth)
        to_alpha = sas_of(BETA, ALPHA, ICMP, proposal, back)
        beta.add_sa(replace(to_beta[0], udp=known))
        alpha.add_sa(replace(to_alpha[0], udp=UdpEncapsulation(4500, 4777)))
        beta.add_sa(replace(to_alpha[1], udp=known))
        alpha.add_sa(replace(to_beta[1], udp=moved))
        ping(world.alpha, BETA, 1, 1)
        event = beta.wait_for(PeerMoved, spi=forth)
        assert (str(event.peer), event.port) == (ALPHA, 4777)
        assert ping(world.alpha, BETA, 3) == 3
        listed = xfrm(world.beta, "state")
        assert sum("4777" in line for line in listed) == 2, listed
        for sock in sockets:
            sock.close()


def what_began_a_negotiation_goes_in_clear_where_the_way_is_open(world: World) -> None:
    """Negotiation discovery: a permit filter comes above the one that asked, and the held packet leaves."""
    with two_drivers(world) as (alpha, _):
        asks = table_of(ALPHA, BETA, ICMP, SUITES[6], accept_clear=True)
        alpha.install_filters(asks)
        answered: list[int] = []
        thread = threading.Thread(target=lambda: answered.append(ping(world.alpha, BETA, 1, 30)))
        thread.start()
        acquired = alpha.wait_for(Acquire)
        opened = tuple(
            make_filter(
                entry.selector,
                entry.direction,
                Action.PERMIT,
                entry.weight,
                entry.provenance,
                allow_soft=True,
            )
            for entry in asks.filters
        )
        alpha.install_filters(replace(asks, filters=(*opened, *asks.filters)))
        alpha.release(acquired.filter_id, ip_address(BETA), Reason.of(ReasonCode.SOFT_FALLBACK))
        thread.join(60)
        assert answered == [1]
        # what the kernel keeps of an acquire goes by itself
        assert eventually(lambda: not xfrm(world.alpha, "state"))


def loopback_is_left_alone(world: World) -> None:
    """Everything is blocked, but for what does not leave the host."""
    ranges = [AddressRange.everything(version) for version in (4, 6)]
    filters = (
        make_filter(
            TrafficSelector(everything, everything),
            direction,
            Action.BLOCK,
            1,
            Provenance("local", "test", "rule"),
        )
        for everything in ranges
        for direction in Direction
    )
    alpha = Here(world.alpha)
    alpha.start()
    try:
        alpha.install_filters(FilterTable(tuple(filters)))
        for address in (ALPHA, "127.0.0.1", ALPHA6, "::1"):
            assert ping(world.alpha, address, 1) == 1, address
        for address in (BETA, BETA6):
            assert world.alpha.run(["ping", "-c1", "-W1", address], check=False).returncode != 0, address
        assert ping(world.beta, ALPHA, 1, 1) == 0
        assert ping(world.beta, ALPHA6, 1, 1) == 0
    finally:
        alpha.stop()


def accept_clear_lets_clear_packets_in(world: World) -> None:
    """inpass: beta takes clear packets from alpha, and answers them secured (so alpha hears nothing)."""
    proposal = SUITES[6]
    beta = Here(world.beta)
    beta.start()
    try:
        table = table_of(BETA, ALPHA, ICMP, proposal, accept_clear=True)
        beta.install_filters(table)
        assert ping(world.alpha, BETA, 1, 1) == 0
        beta.wait_for(Acquire)  # of the answer: so the request came in
        beta.install_filters(table_of(BETA, ALPHA, ICMP, proposal))
        time.sleep(4)  # until the kernel forgets that it asked
        beta.events()
        beta.seen.clear()
        assert ping(world.alpha, BETA, 1, 1) == 0
        time.sleep(0.3)
        assert not any(isinstance(event, Acquire) for event in beta.events())
        assert dict(beta.statistics().refused).get("clear-dropped", 0) > 0
        # a second driver in the same namespace is refused and changes nothing
        second = Here(world.beta)
        before = xfrm(world.beta, "policy")
        with suppress(HostError):
            second.start()
            raise AssertionError("two drivers in one namespace")
        second.stop()
        assert xfrm(world.beta, "policy") == before
    finally:
        beta.stop()


LANS = {4: ("10.81.0.0/24", "10.82.0.0/24"), 6: ("fd81::/64", "fd82::/64")}


IN_TUNNELS = QuickModeProposal(EspSuite(Encryption.AES_GCM_128, None))
BOTH_IN_TUNNELS = QuickModeProposal(EspSuite(Encryption.AES_CBC_128, None), Hash.SHA_256)


def tunnel_table(
    near: str, far: str, local: str, peer: str, proposal: QuickModeProposal = IN_TUNNELS
) -> FilterTable:
    """As Windows has it: a rule for each direction, whose end point is where its packets go."""
    negotiations = {}
    filters = []
    outward = TrafficSelector(AddressRange.network(near), AddressRange.network(far))
    for name, end, direction, selector in (
        ("local/test/out", peer, Direction.OUTBOUND, outward),
        ("local/test/in", local, Direction.INBOUND, outward.reversed()),
    ):
        negotiations[name] = Negotiation(
            name,
            MainModePolicy(),
            QuickModePolicy((proposal,), mode=Mode.TUNNEL, tunnel_endpoint=ip_address(end)),
            (PresharedKey(Secret(b"x")),),
        )
        filters.append(
            make_filter(
                selector,
                direction,
                Action.NEGOTIATE,
                1,
                Provenance("local", "test", name),
                negotiation=name,
            )
        )
    return FilterTable(tuple(filters), MappingProxyType(negotiations))


def tunnels_carry_packets(world: World) -> None:
    """Two gateways, a host's address behind each; both families outside and inside, each in the other."""
    with ExitStack() as stack:
        behind = two_networks(world, stack)
        for outer, inner, proposal in (
            *((outer, inner, IN_TUNNELS) for outer, inner in ((4, 4), (6, 6), (4, 6), (6, 4))),
            *((outer, inner, BOTH_IN_TUNNELS) for outer, inner in ((4, 4), (6, 6), (4, 6))),
        ):
            one, other = (ALPHA, BETA) if outer == 4 else (ALPHA6, BETA6)
            near, far = LANS[inner]
            target = "10.82.0.9" if inner == 4 else "fd82::9"
            back = "10.81.0.9" if inner == 4 else "fd81::9"
            with two_drivers(world) as (alpha, beta):
                alpha.install_filters(tunnel_table(near, far, one, other, proposal))
                beta.install_filters(tunnel_table(far, near, other, one, proposal))
                where = f"IPv{inner} in IPv{outer}, {proposal}"
                assert ping(behind[0], target, 1, 1) == 0, f"{where}: no SA"
                acquire = alpha.wait_for(Acquire)
                assert (str(acquire.flow.source), str(acquire.flow.destination)) == (back, target), acquire
                # in clear, from the other side: not past the gateway
                seen = beta.statistics().refused

                def change(
                    sa: SecurityAssociation, one: str = one, nets: tuple[str, str] = (near, far)
                ) -> SecurityAssociation:
                    forth = str(sa.source) == one
                    selector = TrafficSelector(*map(AddressRange.network, nets if forth else nets[::-1]))
                    return replace(sa, mode=Mode.TUNNEL, selector=selector, negotiation="local/test/out")

                if proposal.ah is not None:
                    secure_both(alpha, beta, (one, other), 0, proposal, change)
                else:
                    for spi, ends, driver in (
                        (0x1000, (one, other), (beta, alpha)),
                        (0x1001, (other, one), (alpha, beta)),
                    ):
                        for each, sa in zip(driver, sas_of(*ends, 0, proposal, spi), strict=True):
                            each.add_sa(change(sa))
                with world.capture((ICMP, ICMPV6), ()) as wire:
                    assert ping(behind[0], target, 3) == 3, where
                    if inner == 6:
                        # Only its sender cuts an IPv6 packet: the gateways tell both hosts what fits.
                        assert eventually(lambda: ping(behind[1], back, 1, size=3000) == 1), where  # noqa: B023
                    assert ping(behind[1], back, 2, size=3000) == 2, where
                    tally = wire.tally()
                assert tally.esp + tally.ah >= 8, (where, tally)
                carried = {row.spi: row.packets for row in beta.statistics().sas}
                assert carried[0x1000] >= 5, (where, carried)
                text = next(text for text in xfrm(world.beta, "state") if "0x00001000" in text)
                assert "mode tunnel" in text, text
                # what pretends to come from behind the tunnel, in clear
                alpha.stop()
                assert ping(behind[0], target, 2, 1) == 0, where
                after = dict(beta.statistics().refused)
                assert after.get("clear-dropped", 0) > dict(seen).get("clear-dropped", 0), (where, after)


TUNNEL_POLICY = """
ipsec static
add filterlist name=out
add filter filterlist=out srcaddr={near} srcmask={mask} dstaddr={far} dstmask={mask} mirrored=no
add filterlist name=in
add filter filterlist=in srcaddr={far} srcmask={mask} dstaddr={near} dstmask={mask} mirrored=no
add filteraction name=require inpass=no soft=no qmsecmethods="{methods}"
add policy name=test activatedefaultrule=no mmsecmethods="AES128-SHA256-ECP256"
add rule name=out policy=test filterlist=out filteraction=require tunnel={peer} psk="a key"
add rule name=in policy=test filterlist=in filteraction=require tunnel={local} psk="a key"
set policy name=test assign=yes
"""


def agents_negotiate_a_tunnel(world: World) -> None:
    """Two gateways with agents: the hosts behind them talk through ESP, and through AH around it."""
    with ExitStack() as stack:
        behind = two_networks(world, stack)
        near, far = (net.split("/")[0] for net in LANS[4])
        for methods, extended in (
            ("ESP[AESGCM128,None]:ESN", True),
            ("AH[SHA256]+ESP[AES128,None]", False),
        ):
            common = {"mask": "255.255.255.0", "methods": methods}
            scripts = (
                TUNNEL_POLICY.format(near=near, far=far, local=ALPHA, peer=BETA, **common),
                TUNNEL_POLICY.format(near=far, far=near, local=BETA, peer=ALPHA, **common),
            )
            with world.capture((ICMP, ICMPV6), ()) as wire, two_agents(world, policies=scripts) as hosts:
                assert ping(behind[0], "10.82.0.9", 3) == 3, "the first packet is held, none is lost"
                assert ping(behind[1], "10.81.0.9", 2, size=3000) == 2, "in fragments"
                tally = wire.tally()
                assert tally.esp + tally.ah >= 10, tally
                assert tally.protected_clear == 0, tally
                for host in hosts:
                    assert len(host.ask("show", "sas")["quick_modes"]) == 1
                    written = xfrm(host.namespace, "state")
                    assert sum("mode tunnel" in text for text in written) == 2, written
                    assert all("esn" in text for text in written) is extended, written
                    assert sum("proto ah" in text for text in written) == (0 if extended else 2), written
                for host in hosts:
                    assert host.agent.terminate() == 0
                    assert eventually(lambda space=host.namespace: xfrm(space, "state") == [])
                    assert xfrm(host.namespace, "policy") == []


def two_networks(world: World, stack: ExitStack) -> list[Namespace]:
    """A host behind each of alpha and beta."""
    behind = []
    for number, gate in enumerate((world.alpha, world.beta)):
        host = stack.enter_context(Namespace(f"behind{number}"))
        gate.ip(f"link add lan type veth peer name eth0 netns {host.full_name}")
        host.call(speak_ipv6)
        gate.call(lambda: Path("/proc/sys/net/ipv6/conf/lan/disable_ipv6").write_text("0\n"))
        gate.call(lambda: Path("/proc/sys/net/ipv4/ip_forward").write_text("1\n"))
        gate.call(lambda: Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1\n"))
        for version, length in ((4, 24), (6, 64)):
            net = LANS[version][number].split("/")[0].removesuffix("0" if version == 4 else "")
            nodad = "" if version == 4 else " nodad"
            gate.ip(f"address add {net}1/{length} dev lan{nodad}")
            host.ip(f"address add {net}9/{length} dev eth0{nodad}")
        gate.ip("link set lan up")
        host.ip("link set eth0 up", "route add default via " + ("10.81.0.1", "10.82.0.1")[number])
        host.ip("route add default via " + ("fd81::1", "fd82::1")[number])
        other = 1 - number
        gate.ip(f"route add {LANS[4][other]} via {(ALPHA, BETA)[other]}")
        gate.ip(f"route add {LANS[6][other]} via {(ALPHA6, BETA6)[other]}")
        behind.append(host)
    return behind


def sas_move_to_another_address(world: World) -> None:
    """MIGRATE: beta's end of the tunnel gets another address, with its SAs and their sequence numbers. And
    the kernel's own statistics, by our codec."""
    new = "10.79.0.77"
    world.beta.ip(f"address add {new}/24 dev eth0")
    with ExitStack() as stack:
        behind = two_networks(world, stack)
        near, far = LANS[4]
        with two_drivers(world) as (alpha, beta):
            alpha.install_filters(tunnel_table(near, far, ALPHA, BETA))
            beta.install_filters(tunnel_table(far, near, BETA, ALPHA))
            for spi, (one, other), nets, drivers in (
                (0x1000, (ALPHA, BETA), (near, far), (beta, alpha)),
                (0x1001, (BETA, ALPHA), (far, near), (alpha, beta)),
            ):
                selector = TrafficSelector(*map(AddressRange.network, nets))
                for driver, sa in zip(drivers, sas_of(one, other, 0, IN_TUNNELS, spi), strict=True):
                    driver.add_sa(
                        replace(sa, mode=Mode.TUNNEL, selector=selector, negotiation="local/test/out")
                    )
            assert ping(behind[0], "10.82.0.9", 2) == 2
            stays, goes = (ALPHA, ALPHA), (BETA, new)
            world.alpha.call(lambda: move_ends(alpha, stays, goes))
            world.beta.call(lambda: move_ends(beta, goes, stays))
            for space in (world.alpha, world.beta):
                for text in (*xfrm(space, "state"), *xfrm(space, "policy")):
                    assert not re.search(rf"(src|dst) {re.escape(BETA)}\b", text), text
            with world.capture((ICMP,), ()) as wire:
                assert ping(behind[0], "10.82.0.9", 3) == 3
                tally = wire.tally()
            assert tally.esp >= 6, tally
            assert tally.protected_clear == 0, tally
            texts = world.alpha.run(["ip", "-s", "xfrm", "state"]).stdout
            assert "anti-replay context: seq 0x0, oseq 0x5" in " ".join(texts.split()), texts
            counted = world.alpha.call(ask_statistics)
            assert (counted[0].count, counted[1].outbound) == (2, 1), counted


def move_ends(driver: Here, own: tuple[str, str], peer: tuple[str, str]) -> None:
    """What an agent would do for ends that move, each (old, new): all policies of the tunnel, whose templates
    take any address at our end, and the SAs of both directions with the outbound one."""
    (near, near_new), (far, far_new) = (tuple(map(ip_address, ends)) for ends in (own, peer))
    any_address = ip_address("0.0.0.0")
    netlink = NetlinkSocket(socket.NETLINK_XFRM)
    for policy in driver.driver._installed.values():
        outbound = policy.direction is PolicyDirection.OUT
        (template,) = policy.templates
        rest = template.protocol, template.mode, template.request_id
        if outbound:
            moves = [
                xfrm_wire.Move(any_address, far, near_new, far_new, *rest),
                xfrm_wire.Move(near, far, near_new, far_new, *rest),
                xfrm_wire.Move(far, near, far_new, near_new, *rest),
            ]
        else:
            moves = [xfrm_wire.Move(far, any_address, far_new, near_new, *rest)]
        body = xfrm_wire.migrate(policy.selector, policy.direction, moves)
        netlink.change(xfrm_wire.MessageType.MIGRATE, body)
    netlink.close()


def ask_statistics() -> tuple[xfrm_wire.SaStatistics, xfrm_wire.PolicyStatistics]:
    netlink = NetlinkSocket(socket.NETLINK_XFRM)
    body = xfrm_wire.get_statistics()
    (states,) = netlink.get(xfrm_wire.MessageType.GET_SA_STATISTICS, body)
    (policies,) = netlink.get(xfrm_wire.MessageType.GET_POLICY_STATISTICS, body)
    netlink.close()
    return (
        xfrm_decode.decode_sa_statistics(states.body),
        xfrm_decode.decode_policy_statistics(policies.body),
    )


def what_the_kernel_lacks_is_left_or_refused(world: World) -> None:
    """A network card that has no ESP: the SAs stay with the kernel's own. AH with GMAC: there is none."""
    with two_drivers(world) as (alpha, beta):
        for driver in (alpha, beta):
            driver.driver._hardware = HardwareOffload(wanted=True, devices=lambda: ("eth0",))
        alpha.install_filters(table_of(ALPHA, BETA, ICMP, SUITES[6]))
        beta.install_filters(table_of(BETA, ALPHA, ICMP, SUITES[6]))
        secure(alpha, beta, (ALPHA, BETA), ICMP, SUITES[6])
        assert ping(world.alpha, BETA, 2) == 2
        assert alpha.statistics().offloaded_sas == 0
        assert alpha.driver.capabilities.integrities == frozenset(Hash)
    netlink = world.alpha.call(lambda: NetlinkSocket(socket.NETLINK_XFRM))
    for is_aead in (False, True):
        gmac = xfrm_wire.Algorithm("rfc4543(gcm(aes))", Secret(bytes(20)), 128, is_aead=is_aead)
        state = replace(esp_trial(Encryption.NULL, Hash.SHA1), protocol=AH)
        state = replace(state, encryption=gmac if is_aead else None, integrity=None if is_aead else gmac)
        assert refusal_of(netlink, state) is not None, is_aead
    netlink.close()


SCENARIOS: dict[str, Callable[[World], None]] = {
    "every-suite-carries-packets": every_suite_carries_packets,
    "tunnels-carry-packets": tunnels_carry_packets,
    "the-kernel-reports-what-happens": the_kernel_reports_what_happens,
    "esp-in-udp-passes": esp_in_udp_passes,
    "a-changed-mapping-is-followed": a_changed_mapping_is_followed,
    "what-began-a-negotiation-goes-in-clear": what_began_a_negotiation_goes_in_clear_where_the_way_is_open,
    "extended-sequence-numbers": extended_sequence_numbers_pass_the_end_of_32_bits,
    "ah-around-esp": ah_around_esp_carries_packets,
    "sas-move-to-another-address": sas_move_to_another_address,
    "what-the-kernel-lacks": what_the_kernel_lacks_is_left_or_refused,
    "loopback-is-left-alone": loopback_is_left_alone,
    "accept-clear-lets-clear-packets-in": accept_clear_lets_clear_packets_in,
    "agents-negotiate-and-carry-traffic": agents_negotiate_and_carry_traffic,
    "agents-negotiate-a-tunnel": agents_negotiate_a_tunnel,
    "permit-and-block-are-kept": permit_and_block_are_kept,
    "clear-traffic-is-refused": clear_traffic_is_refused,
    "a-killed-agent-comes-back": a_killed_agent_comes_back,
    "packets-through-a-nat-survive-a-killed-agent": packets_through_a_nat_survive_a_killed_agent,
}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--folder", type=Path, help="where logs go (default: a temporary folder)")
    parser.add_argument("scenarios", nargs="*", help=f"some of: {', '.join(SCENARIOS)}")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="stockade-kernel-"))
    results: dict[str, dict[str, object]] = {}
    for name in options.scenarios or SCENARIOS:
        began = time.monotonic()
        outcome, detail = "passed", ""
        hosts = {"alpha": ip_interface(f"{ALPHA}/24"), "beta": ip_interface(f"{BETA}/24")}
        try:
            with Network(hosts) as network:
                SCENARIOS[name](World(network, folder))
        except Exception:
            outcome, detail = "failed", traceback.format_exc()
        seconds = round(time.monotonic() - began, 1)
        print(f"{name}: {outcome} in {seconds} s\n{detail}", flush=True)
        results[name] = {"outcome": outcome, "seconds": seconds, "detail": detail}
        options.results.write_text(json.dumps(results, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
