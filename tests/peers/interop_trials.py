"""What is tried with strongSwan and libreswan, whatever data plane is ours and wherever the peers run.

A trial is `case/peer/role`; `role` is ours. `attempt` makes one and says what became of it: passed, failed,
cannot (the peer; detail says why), we cannot.
"""

import re
import signal
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from interop_cases import BY_NAME, CASES, OURS, PEERS, PRESHARED_KEY, Case
from interop_host import Host, LocalHost
from interop_nat import MAPPED_ANEW, change_mapping
from libreswan_node import Libreswan
from stockade_node import StockadeNode
from strongswan_node import StrongSwan

from stockade.lab.capture import Capture, WireWatch
from stockade.lab.netns import Namespace
from stockade.model.traffic import ICMP, TCP, Flow

SETTINGS = "[ike]\ndead_peer_seconds = 10\n"
"""Our agent's: half of the default, so that nobody waits so long for it."""
STREAM_BYTES = 64 * 1024
UP_SECONDS = 15.0
COME_BACK_SECONDS = {"responder": 30.0, "initiator": 45.0}
"""By our role: a peer that begins is there at once; where only we speak we must notice first."""
ASKED_SECONDS = 5
"""For so long a peer asks every second whether we live."""
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
        self.swan.terminate(case.connection_name("responder")).communicate(timeout=30)


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
class Laboratory:
    """We, and the peers on one wire. `wires`: where each peer's packets can be captured, a namespace and an
    interface in it. `absent`: peers that cannot be had, and why."""

    def __init__(
        self,
        stockade: StockadeNode,
        peers: Mapping[str, Peer],
        wires: Mapping[str, tuple[Namespace, str]],
        absent: Mapping[str, str],
        nat: Namespace,
        *,
        tunnels: bool,
    ) -> None:
        self.ours = stockade.namespace
        self.nat = nat
        self.our_host = LocalHost(stockade.namespace)
        self.stockade = stockade
        self.peers = peers
        self.absent = absent
        self.tunnels = tunnels
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


# ---- trials
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
    theirs = laboratory.peers[peer].host
    seen = ends if case.tunnel else (case.our_address(role), case.own_address(peer, role))
    here = case.own_address(peer, role)
    beside = frozenset(other.own_address(one, role) for one in PEERS for other in CASES) - {here}
    with laboratory.capture(peer, only_ours=role == "initiator", beside=beside) as wire:
        bring_up(laboratory, case, peer, role)
        assert ping(laboratory.our_host, ends, 3) == 3, "echo requests were lost"
        assert ping(theirs, (seen[1], seen[0]), 3) == 3, "echo requests were lost"
        stream(laboratory.our_host, theirs, ends, seen[1])
        stream(theirs, laboratory.our_host, (seen[1], seen[0]), ours)
        check_sas(laboratory, case, peer, role)
        tally = wire.tally()
    assert tally.missed == 0, tally
    assert tally.esp > 0, tally
    assert tally.protected_clear == 0, tally
    delete(laboratory, case, peer, role)


class Pinging:
    """Echo requests, twenty a second, for as long as this context lasts; then none may be without answer."""

    def __init__(self, source: Namespace, ends: tuple[str, str]) -> None:
        self._command = ["ping", "-n", "-I", ends[0], "-i", "0.05", "-W", "2", ends[1]]
        self._source = source

    def __enter__(self) -> None:
        self._process = self._source.popen(self._command, stdout=subprocess.PIPE)

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        if value is None:
            time.sleep(1)  # what the body did lies a second behind what is still under way at the end
        self._process.send_signal(signal.SIGINT)  # ping then prints its sum
        output, _ = self._process.communicate(timeout=10)
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
        assert not missing, f"echo requests {missing} of {sent} were lost"
        assert sent - last <= 20, f"no answer after echo request {last} of {sent}"


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
    assert ping(laboratory.our_host, ends, 3) == 3, "echo requests were lost"
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


def we_answer_that_we_live(laboratory: Laboratory, case: Case, peer: str, role: str) -> None:
    """The peer asks every second whether we are there (RFC 3706), and would give up after three without an
    answer. That we ask a peer, and what becomes of it when it is gone, shows where one is killed."""
    bring_up(laboratory, case, peer, role)
    ends, address = case.traffic(peer, role), case.address(peer, role)
    assert ping(laboratory.our_host, ends, 3) == 3, "echo requests were lost"
    (before,) = laboratory.quick_modes(address)
    log = len(laboratory.peers[peer].log())
    with laboratory.capture(peer, only_ours=True) as wire:
        time.sleep(ASKED_SECONDS)
        questions_and_answers = wire.tally().ike
    assert questions_and_answers >= 4, questions_and_answers
    if peer == "strongswan":  # libreswan says nothing of it
        said = laboratory.peers[peer].log()[log:]
        assert said.count("N(DPD_ACK)") >= 2, said
    (after,) = laboratory.quick_modes(address)
    assert after["inbound_spi"] == before["inbound_spi"]
    assert laboratory.states(case, peer, role), "the peer gave us up"
    assert ping(laboratory.our_host, ends, 3) == 3, "echo requests were lost"
    delete(laboratory, case, peer, role)


def we_rekey_by_volume(laboratory: Laboratory, case: Case, peer: str, role: str) -> None:
    """20 MB is the lifetime that our policy grants: we make the quick mode anew while TCP goes on."""
    bring_up(laboratory, case, peer, role)
    ends, address = case.traffic(peer, role), case.address(peer, role)
    assert ping(laboratory.our_host, ends, 3) == 3, "echo requests were lost"
    first = str(laboratory.quick_modes(address)[0]["inbound_spi"])
    theirs = laboratory.peers[peer].host
    with Pinging(laboratory.ours, ends):
        stream(laboratory.our_host, theirs, ends, ends[1], 14 << 20)
        # more at once would pass the hard limit too before a busy machine has negotiated
        for _ in range(40):
            stream(laboratory.our_host, theirs, ends, ends[1], 1 << 20)
            time.sleep(0.2)
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
        node.host.ip("xfrm state flush", "xfrm policy flush")
        assert ping(laboratory.our_host, ends, 2, 1) == 0
        node.start()
        if role == "responder":
            node.begin(case)
        eventually(
            lambda: ping(laboratory.our_host, ends, 1, 1),
            COME_BACK_SECONDS[role],
            lambda: f"no answer; our journal: {laboratory.stockade.reasons()[-12:]}",
        )
        assert ping(laboratory.our_host, ends, 3) == 3, "echo requests were lost"
        tally = wire.tally()
    assert tally.protected_clear == 0, tally
    laboratory.stockade.client.post("/v1/sas/delete", {"peer": case.address(peer, role)})


def our_killed_agent_comes_back(laboratory: Laboratory, case: Case, peer: str, role: str) -> None:
    """SIGKILL and start: nothing of ours leaves in clear meanwhile, and the peer reaches us again without any
    dead-peer detection of its own."""
    stockade = laboratory.stockade
    bring_up(laboratory, case, peer, role)
    ours, theirs = ends = case.traffic(peer, role)
    with laboratory.capture(peer, only_ours=True) as wire:
        stockade.kill()
        ping(laboratory.our_host, ends, 3, 1)  # a kernel's SAs may carry them, a dead process does not
        stockade.start()
        eventually(
            lambda: ping(laboratory.peers[peer].host, (theirs, ours), 1, 1),
            30,
            lambda: f"{peer} cannot reach us; our journal: {stockade.reasons()[-12:]}",
        )
        assert ping(laboratory.our_host, ends, 3) == 3, "echo requests were lost"
        tally = wire.tally()
    assert tally.protected_clear == 0, tally
    delete(laboratory, case, peer, role)


def a_stopped_agent_tells_the_peer(laboratory: Laboratory, case: Case, peer: str, role: str) -> None:
    """SIGTERM: the peer has no SA of ours left, nothing of ours is left in the system."""
    stockade = laboratory.stockade
    bring_up(laboratory, case, peer, role)
    try:
        stockade.stop()
        eventually(
            lambda: not laboratory.states(case, peer, role),
            10,
            lambda: f"{peer} kept {laboratory.states(case, peer, role)}",
        )
        with laboratory.capture(peer, only_ours=True) as wire:
            ping(laboratory.our_host, case.traffic(peer, role), 3, 1)  # libreswan goes on to ask for security
            assert wire.tally().protected_clear >= 3, "without a policy all passes"
    finally:
        if not stockade.running:
            stockade.start()


def only_tcp_is_secured(laboratory: Laboratory, case: Case, peer: str, role: str) -> None:
    ends = ours, theirs = case.traffic(peer, role)
    host = laboratory.peers[peer].host
    with laboratory.capture(peer, only_ours=role == "initiator", protocols=(TCP,)) as wire:
        if role == "responder":
            laboratory.peers[peer].begin(case)
        stream(laboratory.our_host, host, ends, theirs)
        stream(host, laboratory.our_host, (theirs, ours), ours)
        secured = wire.tally().esp
        assert ping(laboratory.our_host, ends, 3) == 3, "what no filter names passes in clear"
        check_sas(laboratory, case, peer, role)
        tally = wire.tally()
    assert tally.protected_clear == 0, tally
    assert tally.other >= 6, tally
    assert secured > 0, tally
    delete(laboratory, case, peer, role)


def the_other_end_deletes(laboratory: Laboratory, case: Case, peer: str, role: str) -> None:
    """Not the end that began."""
    bring_up(laboratory, case, peer, role)
    assert ping(laboratory.our_host, case.traffic(peer, role), 3) == 3, "echo requests were lost"
    check_sas(laboratory, case, peer, role)
    address = case.address(peer, role)
    (row,) = laboratory.quick_modes(address)
    spis = {str(row["inbound_spi"]), str(row["outbound_spi"])}
    if role == "responder":
        laboratory.stockade.client.post("/v1/sas/delete", {"peer": address})
    else:
        laboratory.peers[peer].delete(case)

    # libreswan begins anew at once where it began: then there are others
    def theirs() -> list[str]:
        entries = laboratory.states(case, peer, role)
        return [entry for entry in entries if any(f"spi {spi}" in entry for spi in spis)]

    def kept() -> list[object]:
        ours = [entry for entry in laboratory.quick_modes(address) if entry["inbound_spi"] in spis]
        return [*ours, *theirs()]

    eventually(lambda: not kept(), 10, lambda: f"kept: {kept()}")
    laboratory.peers[peer].delete(case)
    eventually(lambda: not laboratory.quick_modes(address), 10, lambda: "the new pair was not deleted")


def another_key_is_refused(laboratory: Laboratory, case: Case, peer: str, role: str) -> None:
    """The keys differ: no SA, no packet in clear, and our journal says the likely cause."""
    node = laboratory.peers[peer]
    with laboratory.capture(peer, only_ours=True) as wire:
        try:
            node.begin(case)
        except AssertionError:
            pass
        else:
            raise AssertionError("it came up")
        assert laboratory.quick_modes(case.address(peer, role)) == []
        # The policy has the peer's key too, for other peers: then main mode comes up and serves for nothing.
        reasons = set(laboratory.stockade.reasons()[-12:])
        assert reasons & {"psk-mismatch", "main-mode-does-not-fit"}, reasons
        assert ping(laboratory.our_host, case.traffic(peer, role), 2, 1) == 0
        tally = wire.tally()
    assert tally.protected_clear == 0, tally
    node.delete(case)
    laboratory.stockade.client.post("/v1/sas/delete", {"peer": case.address(peer, role)})


def another_authority_is_refused(laboratory: Laboratory, case: Case, peer: str, role: str) -> None:
    """The peer proves itself last, by a certificate under a root that our rule does not name. It believes
    that all is well until our delete comes."""
    node = laboratory.peers[peer]
    log = len(node.log())
    with laboratory.capture(peer, only_ours=True) as wire:
        assert ping(laboratory.our_host, case.traffic(peer, role), 2, 1) == 0
        eventually(
            lambda: "certificate-untrusted" in laboratory.stockade.reasons()[-6:],
            30,
            lambda: f"our journal: {laboratory.stockade.reasons()[-12:]}",
        )
        eventually(
            lambda: re.search("received (DELETE|Delete)", node.log()[log:]),
            30,
            lambda: f"no delete: {node.log()[log:]}",
        )
        tally = wire.tally()
    assert tally.protected_clear == 0, tally
    assert laboratory.quick_modes(case.address(peer, role)) == []
    assert laboratory.states(case, peer, role) == []


def a_changed_mapping_is_followed(laboratory: Laboratory, case: Case, peer: str, role: str) -> None:
    """The NAT gives the end behind it another port, which says nothing but what its applications say: we
    follow with the SAs that there are, and both ends reach each other whoever is behind it."""
    bring_up(laboratory, case, peer, role)
    ends, address = case.traffic(peer, role), case.address(peer, role)
    theirs, own = laboratory.peers[peer].host, case.own_address(peer, role)
    assert ping(laboratory.our_host, ends, 3) == 3, "echo requests were lost"
    (before,) = laboratory.quick_modes(address)
    ways = {
        "initiator": lambda: ping(laboratory.our_host, ends, 1, 1),
        "responder": lambda: ping(theirs, (own, case.our_address(role)), 1, 1),
    }
    with laboratory.capture(peer, only_ours=True) as wire:
        change_mapping(laboratory.nat, case, peer, role)
        for one in (role, *ways):  # the end behind the NAT first
            eventually(
                ways[one], 30, lambda one=one: f"nobody follows: {one}, {laboratory.quick_modes(address)}"
            )
        tally = wire.tally()
    assert tally.protected_clear == 0, tally
    if role == "responder":  # libreswan does not follow us: there we notice, and make a new pair
        (after,) = laboratory.quick_modes(address)
        assert after["inbound_spi"] == before["inbound_spi"], "a new pair was made"
        (port,) = [
            int(str(row["peer"]).rsplit(":", 1)[1])
            for row in laboratory.stockade.main_modes()
            if str(row["peer"]).startswith(address + ":")
        ]
        assert port in MAPPED_ANEW, port
    delete(laboratory, case, peer, role)


def the_draft_serves_too(laboratory: Laboratory, case: Case, peer: str, role: str) -> None:
    """As a Windows before Vista we say that we know the draft of NAT traversal and not the RFC."""
    stockade = laboratory.stockade
    try:
        stockade.stop()
        stockade.configure(f"{SETTINGS}microsoft_version = 4\n")
        stockade.start()
        carries_traffic(laboratory, case, peer, role)
    finally:
        stockade.stop()
        stockade.configure(SETTINGS)
        stockade.start()


def no_ip_fragment_passes(laboratory: Laboratory, case: Case, peer: str, role: str) -> None:
    """Both ends drop fragments of IP, as many a router does: only IKE's own bring the chain over."""
    ends = laboratory.our_host, laboratory.peers[peer].host
    for end in ends:
        end.drop_fragments(True)
    try:
        carries_traffic(laboratory, case, peer, role)
    finally:
        for end in ends:
            end.drop_fragments(False)


TRIALS: dict[str, Callable[[Laboratory, Case, str, str], None]] = {
    "chain-in-fragments": no_ip_fragment_passes,
    "rekey-by-the-peer": rekeys_lose_nothing,
    "rekey-by-us": we_rekey_by_volume,
    "peer-asks-whether-we-live": we_answer_that_we_live,
    "peer-killed": a_killed_peer_comes_back,
    "agent-killed": our_killed_agent_comes_back,
    "agent-stopped": a_stopped_agent_tells_the_peer,
    "tcp-only": only_tcp_is_secured,
    "deleted-by-the-other-end": the_other_end_deletes,
    "another-preshared-key": another_key_is_refused,
    "another-authority": another_authority_is_refused,
    "nat-mapping-changes": a_changed_mapping_is_followed,
    "nat-by-the-draft": the_draft_serves_too,
    "nat-tunnel-by-the-draft": the_draft_serves_too,
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
        return "we cannot", "our data plane has no tunnel mode here"
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
