"""We, strongSwan and libreswan on one wire, and what every trial of theirs needs (interop_trials.py)."""

import math
import re
import signal
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from interop_cases import OURS, PRESHARED_KEY, Case
from interop_host import Host, LocalHost
from libreswan_node import Libreswan
from stockade_node import StockadeNode
from strongswan_node import StrongSwan

from stockade.lab.capture import Capture, WireWatch
from stockade.lab.netns import Namespace
from stockade.model.traffic import ICMP, TCP, Flow

SETTINGS = "[ike]\ndead_peer_seconds = 10\n"
"""Our agent's: half of the default, so that nobody waits so long for it."""
STREAM_BYTES = 64 * 1024
UP_SECONDS = 60.0
WAIT_FOR_NOTHING = 4
"""Seconds that a peer is given for what must not succeed."""


class Peer(Protocol):
    """One of the two, as the trials see it."""

    host: Host

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
        self.host: Host = LocalHost(swan.namespace)
        self.enter, self.stop = swan.__enter__, swan.stop
        self.kill, self.start, self.log = swan.kill, swan.start, swan.log

    def begin(self, case: Case) -> None:
        name = case.connection_name("responder")
        seconds = 15 if case.our_key == PRESHARED_KEY else WAIT_FOR_NOTHING
        output, _ = (verdict := self.swan.initiate(seconds, name)).communicate(timeout=60)
        assert verdict.returncode == 0, output

    def delete(self, case: Case) -> None:
        self.swan.terminate(case.connection_name("responder")).communicate(timeout=60)


class LibreswanPeer:
    def __init__(self, libreswan: Libreswan) -> None:
        self.libreswan = libreswan
        self.host: Host = LocalHost(libreswan.namespace)
        self.enter, self.stop = libreswan.__enter__, libreswan.stop
        self.kill, self.start, self.log = libreswan.kill, libreswan.start, libreswan.log

    def begin(self, case: Case) -> None:
        name = case.connection_name("responder")
        refused = self.libreswan.refused.get(name)
        assert refused is None, refused
        seconds = 20 if case.our_key == PRESHARED_KEY else WAIT_FOR_NOTHING
        said = self.libreswan.initiate(name, seconds)
        assert "IPsec SA established" in said, said

    def delete(self, case: Case) -> None:
        self.libreswan.terminate(case.connection_name("responder"))


# ---- the laboratory
@dataclass(slots=True)
class Begun:
    """A trial that was begun before its turn (interop_both_phases.py): what watches it, its main mode, and
    why it could not be begun."""

    watch: ExitStack
    main_mode: str = ""
    trouble: str = ""


class Laboratory:
    """We, and the peers on one wire. `wires`: where each peer's packets can be captured, a namespace and an
    interface in it. `absent`: peers that cannot be had, and why. `overtaken`: peers that send under a new
    pair before we can have it, on a data plane that may lose their very first packets."""

    def __init__(
        self,
        stockade: StockadeNode,
        peers: Mapping[str, Peer],
        wires: Mapping[str, tuple[Namespace, str]],
        absent: Mapping[str, str],
        nat: Namespace,
        *,
        tunnels: bool,
        overtaken: Collection[str] = (),
    ) -> None:
        self.overtaken = overtaken
        self.ours = stockade.namespace
        self.nat = nat
        self.our_host = LocalHost(stockade.namespace)
        self.stockade = stockade
        self.peers = peers
        self.absent = absent
        self.tunnels = tunnels
        self.begun: dict[str, Begun] = {}
        self._wires = wires

    def capture(
        self,
        peer: str,
        *,
        only_ours: bool,
        protocols: tuple[int, ...] = (ICMP, TCP),
        beside: frozenset[str] = frozenset(),
    ) -> Capture:
        """The wire at the peer; clear packets that must be secured are counted. Not those of the addresses
        `beside`: of a peer's other cases a late word may still come (a fragment's reassembly ran out)."""

        def must_be_secured(flow: Flow) -> bool:
            if str(flow.source) == OURS:
                return flow.protocol in protocols
            return not only_ours and flow.protocol in protocols and str(flow.source) not in beside

        return Capture(*self._wires[peer], WireWatch(must_be_secured))

    def pinging(self, peer: str, ends: tuple[str, str]) -> "Pinging":
        """Echo requests from here. Of twenty one may be lost with a peer whose packets overtake its SA."""
        return Pinging(self.ours, ends, 20 if peer in self.overtaken else math.inf)

    def main_modes(self, address: str) -> list[dict[str, object]]:
        return [row for row in self.stockade.main_modes() if str(row["peer"]).rsplit(":", 1)[0] == address]

    def quick_modes(self, address: str) -> list[dict[str, object]]:
        return [row for row in self.stockade.quick_modes() if row["peer"] == address]

    def states(self, case: Case, peer: str, role: str) -> list[str]:
        """The SAs of a case in the peer's kernel, one text each, as `ip -s xfrm state` prints them."""
        text = self.peers[peer].host.run(["ip", "-s", "xfrm", "state"])
        entries = [" ".join(entry.split()) for entry in re.split(r"\n(?=src )", text.strip())]
        ours, theirs = case.our_address(role), case.own_address(peer, role)
        ends = (f"src {ours} dst {theirs} ", f"src {theirs} dst {ours} ")
        return [entry for entry in entries if entry.startswith(ends)]


def ping(source: Host, ends: tuple[str, str], count: int, patience: int = 10) -> int:
    """How many of the first `count` echo requests from one address to the other were answered within so many
    seconds."""
    # Of several, ping gives up an answer that takes more than twice as long as the others: not with -w, but
    # then it goes on to send until it has that many answers.
    waiting = "-W" if count == 1 else "-w"
    command = ["ping", "-n", "-I", ends[0], "-c", str(count), "-i", "0.05", waiting, str(patience), ends[1]]
    output = source.run(command, check=False)
    return len({number for number in re.findall(r"icmp_seq=(\d+) ttl", output) if int(number) <= count})


def stream(
    source: Host, target: Host, ends: tuple[str, str], listening: str, size: int = STREAM_BYTES
) -> None:
    """Send `size` random bytes over TCP from one address to the other, where a program listens at the address
    that the target itself has, and check that the very same bytes arrive."""
    target.listen(listening)
    sent = source.send(ends, size)
    assert target.received() == sent, "the stream arrived damaged"


def eventually(condition: Callable[[], object], seconds: float, message: Callable[[], str]) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, message()
        time.sleep(0.1)


# ---- SAs and packets
def bring_up(laboratory: Laboratory, case: Case, peer: str, role: str) -> None:
    """SAs for the case, begun by us or by the peer."""
    if role == "initiator":
        # A responder that makes its SAs at the third message may miss our first packets: not the matter here.
        eventually(
            lambda: ping(laboratory.our_host, case.traffic(peer, role), 1, 1),
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
    (main_mode,) = laboratory.main_modes(address)
    assert main_mode["role"] == role, main_mode
    assert str(main_mode["suite"]) == case.main_mode, main_mode
    states = laboratory.states(case, peer, role)
    ends = case.our_address(role), case.own_address(peer, role)
    for spi, source in ((row["outbound_spi"], ends[0]), (row["inbound_spi"], ends[1])):
        (entry,) = [text for text in states if f"spi {spi}" in text]
        assert entry.startswith(f"src {source} "), entry
        assert f"proto {'ah' if case.ah else 'esp'}" in entry, entry
        assert f"mode {'tunnel' if case.tunnel else 'transport'}" in entry, entry
        assert ("encap type espinudp" in entry) is case.nat, entry


def delete(laboratory: Laboratory, case: Case, peer: str, role: str) -> None:
    """The end that began deletes; the other one has nothing left."""
    address = case.address(peer, role)
    if role == "initiator":
        laboratory.stockade.client.post("/v1/sas/delete", {"peer": address})
        eventually(
            lambda: not laboratory.states(case, peer, role),
            60,
            lambda: f"{peer} kept {laboratory.states(case, peer, role)}",
        )
    else:
        laboratory.peers[peer].delete(case)
        eventually(
            lambda: not laboratory.quick_modes(address),
            60,
            lambda: f"we kept {laboratory.quick_modes(address)}",
        )


class Pinging:
    """Echo requests, twenty a second, for as long as this context lasts; then none may be without answer, or
    one in `one_of`."""

    def __init__(self, source: Namespace, ends: tuple[str, str], one_of: float = math.inf) -> None:
        self._one_of = one_of
        self._command = ["ping", "-n", "-I", ends[0], "-i", "0.05", "-W", "2", ends[1]]
        self._source = source

    def __enter__(self) -> None:
        self._printed = tempfile.TemporaryFile("w+", encoding="utf-8")  # a pipe would be full in a minute
        self._process = self._source.popen(self._command, stdout=self._printed.fileno())

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        if value is None:
            time.sleep(1)  # what the body did lies a second behind what is still under way at the end
            printed = Path(f"/proc/self/fd/{self._printed.fileno()}")  # with a place of its own to read at
            deadline = time.monotonic() + 60
            while printed.read_text(encoding="utf-8").count(" ttl=") <= 21 and time.monotonic() < deadline:
                time.sleep(0.1)  # a busy machine sends fewer in a second
        self._process.send_signal(signal.SIGINT)  # ping then prints its sum
        self._process.wait(timeout=60)
        with self._printed as printed:
            printed.seek(0)
            output = printed.read()
        if value is not None:
            return
        found = re.search(r"(\d+) packets transmitted", output)
        assert found, output
        sent = int(found[1])
        assert sent > 20, found[0]
        answered = {int(number) for number in re.findall(r"icmp_seq=(\d+) ttl", output)}
        # the last ones may have been under way when ping was told to end, and they alone
        last = max(answered, default=0)
        missing = sorted(set(range(1, last)) - answered)
        assert len(missing) <= sent / self._one_of, f"echo requests {missing} of {sent} were lost"
        assert sent - last <= 20, f"no answer after echo request {last} of {sent}"


def rekeyed(laboratory: Laboratory, address: str, before: str, main_modes: set[str]) -> bool:
    """Whether the newest quick mode and (where `main_modes` names what there was) a main mode are others now.
    strongSwan leaves a replaced quick mode until it expires."""
    rows = laboratory.quick_modes(address)
    newest = min(rows, key=lambda row: float(str(row["age"])), default=None)
    cookies = {str(row["cookies"]) for row in laboratory.main_modes(address)}
    if newest is None or newest["inbound_spi"] == before:
        return False
    return not main_modes or bool(cookies - main_modes)
