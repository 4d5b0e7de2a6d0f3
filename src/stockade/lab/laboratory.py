"""The failover laboratory: who is back how soon, when a cluster node fails or a server restarts.

    client ──── virtual network ──── the shared address: node a, then node b

Virtual hosts, virtual time; the key exchange, the policy and the packet path are the product's own. The
clients are profiles of our engine: the timers and vendor ids of Windows 2000 to 2008 R2 as Microsoft
documents them (KB 306677, KB 980915, [MS-IKEE] §3.5), a peer with dead-peer detection only, and Stockade.
Clients of other makers have servers of their own kind: such a node says nothing of an SA that it does not
know. That is what their published figures come from; with a Stockade server many of them are back sooner.

`reconnect_s` counts from the moment at which somebody is there again to answer (the address has moved, the
server is up, the cable is back) to the first answer to a packet sent after that. What is not modelled: the
time that Kerberos takes, and how long a user waits before trying again: the client sends all the time."""

import os
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from ipaddress import ip_address
from itertools import pairwise

from stockade.agent.journal import Entry
from stockade.agent.known_peers import KnownPeers
from stockade.ike.config import EngineConfig
from stockade.ike.proofs import RestartSecret
from stockade.lab.errors import LabError
from stockade.lab.virtual import Timer, VirtualClock, VirtualNetwork
from stockade.lab.virtual_host import VirtualHost
from stockade.model.filters import Action
from stockade.model.negotiation import PresharedKey
from stockade.model.reasons import PeerError, ReasonCode
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, EspSuite, Group, Hash, MainModeProposal, QuickModeProposal
from stockade.model.traffic import UDP
from stockade.policy.objects import Filter, FilterAction, FilterAddress, FilterList, Policy, PolicySet, Rule
from stockade.wire.ip import parse_packet
from stockade.wire.isakmp.constants import ExchangeType
from stockade.wire.isakmp.message import decode_header
from stockade.wire.transport import UDP_HEADER_SIZE
from stockade.wire.udp_encapsulation import IKE_PORT

CLIENT, SERVICE = ip_address("10.66.0.1"), ip_address("10.66.0.100")
LIMIT_SECONDS = 420.0
SOON_SECONDS, SOON_INTERVAL, LATER_INTERVAL = 1.0, 0.04, 2.0
CALM_SECONDS = 0.2
"""How long the client speaks with the service before the failure."""
MOVE_SECONDS = 1.0
"""How long the surviving node takes to notice and to take the address over."""
PLANNED_MOVE_SECONDS = 0.05
RESTART_SECONDS = 30.0
CUT_SECONDS = 90.0
LATE_SECONDS, LATE_DELAY = 30.0, 5.0
LOSSY_SECONDS, LOSS = 120.0, 0.3
_EXCHANGES = {ExchangeType.IDENTITY_PROTECTION: "main mode", ExchangeType.QUICK_MODE: "quick mode",
              ExchangeType.INFORMATIONAL: "informational"}  # fmt: skip
_GIVEN_UP = (
    ReasonCode.PEER_DEAD,
    ReasonCode.NEGOTIATION_TIMED_OUT,
    ReasonCode.SA_IDLE,
    ReasonCode.PEER_LOST_STATE,
)


@dataclass(frozen=True, slots=True)
class Client:
    """A profile. `stockade`: both ends are ours, with all that we know about each other."""

    name: str
    config: EngineConfig
    stockade: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """`at`: seconds after the failure."""

    at: float
    what: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """One client in one scenario. `reconnect_s` None: not back within `LIMIT_SECONDS`. `gap_s`: the longest
    time without an answer. `given_up`: how often a peer or a pair was given up."""

    scenario: str
    client: str
    reconnect_s: float | None
    gap_s: float | None
    given_up: int
    events: tuple[Event, ...]

    def as_dict(self) -> dict[str, object]:
        return {
            "scenario": self.scenario,
            "client": self.client,
            "reconnect_s": None if self.reconnect_s is None else round(self.reconnect_s, 3),
            "gap_s": None if self.gap_s is None else round(self.gap_s, 3),
            "given_up": self.given_up,
            "events": [{"at": round(event.at, 3), "what": event.what} for event in self.events],
        }


_WINDOWS = EngineConfig(
    notice_seconds=0.0,
    dead_peer_detection=False,
    proofs=False,
    silence_is_idle=True,
    confirmation_seconds=63.0,
    retransmission_jitter=0.0,
    responder_retransmits_quick_mode=False,
)
_HOTFIX = replace(_WINDOWS, failover_idle_seconds=8.0, failover_quick_seconds=3.0)

CLIENTS = (
    Client("Windows 2000", replace(_WINDOWS, microsoft_version=2, cluster_idle_seconds=300.0)),
    Client("Windows 2003", replace(_WINDOWS, microsoft_version=4)),
    Client("Windows 2003 with hotfix", replace(_HOTFIX, microsoft_version=4)),
    Client("Vista and later with hotfix", replace(_HOTFIX, microsoft_version=7, retransmission_jitter=0.5)),
    Client("third party, DPD 120 s", replace(_WINDOWS, dead_peer_detection=True, notice_seconds=120.0,
                                             silence_is_idle=False)),
    Client("Stockade", EngineConfig(), stockade=True),
)  # fmt: skip


def _policy() -> list[PolicySet]:
    everything = FilterList("all", (Filter(FilterAddress.me(), FilterAddress.any()),))
    suite = QuickModeProposal(EspSuite(Encryption.AES_CBC_128, Hash.SHA1))
    secure = FilterAction("secure", Action.NEGOTIATE, (suite,))
    rule = Rule("secure all", "all", "secure", authentication=(PresharedKey(Secret(b"of the laboratory")),))
    method = MainModeProposal(Encryption.AES_CBC_128, Hash.SHA1, Group.ECP_256)
    assigned = Policy("failover", (rule,), assigned=True, main_mode_methods=(method,))
    return [PolicySet((assigned,), (everything,), (secure,))]


class _Journal(list[Entry]):
    """Keeps when each entry came."""

    def __init__(self, note: Callable[[Entry], None]) -> None:
        super().__init__()
        self._note = note

    def append(self, entry: Entry) -> None:
        super().append(entry)
        self._note(entry)


class Scene:
    """One client, two nodes, one address. `failed` and `back` are when the trouble begins and when there is
    somebody to answer again."""

    def __init__(self, client: Client, seed: int) -> None:
        self.clock = VirtualClock()
        self.network = VirtualNetwork(self.clock, delay=0.002, seed=seed)
        self.failed = self.back = float("inf")
        self.given_up = 0
        self.events: list[Event] = []
        self.answers: list[tuple[float, float]] = []
        self._client = client
        self._random = random.Random(f"{seed} {client.name}").randbytes
        self._key = self._random(32)
        self._known = KnownPeers()
        self._asking: Timer | None = None
        self.nodes = [VirtualHost(name, SERVICE, self.network, self._random) for name in ("b", "a")]
        self.node = self.nodes[1]
        self.client = VirtualHost("client", CLIENT, self.network, self._random)
        self.client.journal = _Journal(self._on_entry)
        for host in self.nodes:
            self.start(host)
        own = RestartSecret(Secret(self._random(32)), 0) if client.stockade else None
        self.client.start_agent(_policy(), config=client.config, restart_secret=own)
        self.network.tap(self._on_packet)
        self._ask()
        if not self.clock.run(10.0, lambda: bool(self.answers)):
            raise LabError(f"{client.name} does not reach the service in the beginning")
        self.clock.run(CALM_SECONDS)

    # ---- what scenarios do

    def start(self, host: VirtualHost, generation: int = 0) -> None:
        """An agent on a node. Only ours remembers its peers, and proves that it has lost them."""
        secret = None
        if self._client.stockade:
            others = tuple(name for name in ("a", "b") if name != host.name)
            secret = RestartSecret(Secret(self._key), generation, host.name, others)
        config = replace(self._client.config, advertise_cluster=True, failover_idle_seconds=None)
        known = self._known if secret is not None and host.name == "a" else None
        host.start_agent(_policy(), known, config, restart_secret=secret)

    def fails(self, what: str) -> None:
        self.failed = self.clock.now
        self.note(what)
        self._ask()

    def returns(self, what: str) -> None:
        self.back = self.clock.now
        self.note(what)
        self._ask()

    def move_to(self, host: VirtualHost) -> None:
        host.take_address()
        self.returns(f"node {host.name} has the address")

    def note(self, what: str) -> None:
        self.events.append(Event(self.clock.now - self.failed, what))

    # ---- what is seen

    def _ask(self) -> None:
        self.client.stack.ping(SERVICE, lambda sent, received: self.answers.append((sent, received)))
        if self._asking is not None:
            self._asking.cancel()
        now = self.clock.now
        soon = self.failed > now or any(0 <= now - at < SOON_SECONDS for at in (self.failed, self.back))
        self._asking = self.clock.call_later(SOON_INTERVAL if soon else LATER_INTERVAL, self._ask)

    def _on_entry(self, entry: Entry) -> None:
        if entry.kind in ("main-mode-deleted", "quick-mode-deleted") and self.failed < self.clock.now:
            self.given_up += entry.reason.code in _GIVEN_UP
        if self.failed <= self.clock.now and "mode-" in entry.kind:
            self.note(f"{entry.kind.replace('-', ' ')}: {entry.reason.code.word}")

    def _on_packet(self, now: float, packet: bytes) -> None:
        """Each try of the client's key exchange, as it goes out."""
        if now < self.failed:
            return
        parsed = parse_packet(packet)
        if parsed.protocol != UDP or parsed.source != CLIENT or parsed.is_fragment:
            return
        datagram = packet[parsed.payload_offset :]
        if int.from_bytes(datagram[2:4], "big") != IKE_PORT:
            return
        try:
            header = decode_header(datagram[UDP_HEADER_SIZE:])
        except PeerError:
            return
        self.note(f"{_EXCHANGES.get(ExchangeType(header.exchange_type), 'message')} sent")

    def outcome(self, scenario: str) -> Outcome:
        """Let time pass until a packet sent after `back` is answered."""

        def is_back() -> bool:
            return bool(self.answers) and self.answers[-1][0] >= self.back

        back = self.clock.run(LIMIT_SECONDS, is_back)
        if back:
            self.note("first packet secured and answered")
        before = [received for sent, received in self.answers if received <= self.failed]
        after = sorted(received for sent, received in self.answers if received > self.failed)
        return Outcome(
            scenario,
            self._client.name,
            self.answers[-1][1] - self.back if back else None,
            _largest_gap(before[-1:] + after),
            self.given_up,
            tuple(self.events),
        )


def _largest_gap(moments: list[float]) -> float | None:
    return max((later - earlier for earlier, later in pairwise(moments)), default=None)


# ---- the scenarios
def _crash(scene: Scene) -> None:
    survivor, node = scene.nodes
    node.kill_agent()
    scene.network.detach(SERVICE)
    scene.fails("node a crashes")
    scene.clock.run(MOVE_SECONDS)
    scene.move_to(survivor)


def _planned(scene: Scene) -> None:
    survivor, node = scene.nodes
    scene.fails("node a is told to hand over")
    node.stop_agent()
    scene.network.detach(SERVICE)
    scene.clock.run(PLANNED_MOVE_SECONDS)
    scene.move_to(survivor)


def _restart(scene: Scene) -> None:
    node = scene.node
    node.kill_agent()
    scene.network.detach(SERVICE)
    scene.fails("the server crashes")
    scene.clock.run(RESTART_SECONDS)
    node.take_address()
    scene.start(node, generation=1)
    scene.returns("the server is back")


def _cut(scene: Scene) -> None:
    scene.network.cut(CLIENT, SERVICE)
    scene.fails("the network is cut")
    scene.clock.run(CUT_SECONDS)
    scene.network.mend(CLIENT, SERVICE)
    scene.returns("the network is back")


def _late(scene: Scene) -> None:
    scene.fails(f"every packet takes {LATE_DELAY:g} s")
    scene.network.delay, before = LATE_DELAY, scene.network.delay
    scene.clock.run(LATE_SECONDS)
    scene.network.delay = before
    scene.returns("the node is fast again")


def _lossy(scene: Scene) -> None:
    scene.fails(f"{LOSS:.0%} of all packets are lost")
    scene.network.loss = LOSS
    scene.clock.run(LOSSY_SECONDS)
    scene.network.loss = 0.0
    scene.returns("the path is good again")


SCENARIOS: dict[str, Callable[[Scene], None]] = {
    "cluster node crash": _crash,
    "planned failover": _planned,
    "server restart": _restart,
    "network cut and return": _cut,
    "overloaded node": _late,
    "lossy path": _lossy,
}


def run_one(scenario: str, client: Client, seed: int) -> Outcome:
    """The same seed gives the same story."""
    scene = Scene(client, seed)
    SCENARIOS[scenario](scene)
    return scene.outcome(scenario)


def run_all(
    scenarios: Sequence[str] = tuple(SCENARIOS), clients: Sequence[Client] = CLIENTS, seed: int = 1
) -> list[Outcome]:
    """All of them, on every processor that there is."""
    work = [(scenario, client, seed) for scenario in scenarios for client in clients]
    with ProcessPoolExecutor(min(len(work), os.cpu_count() or 1)) as pool:
        # Four at a time: fewer would be more talk than work, more would leave one processor idle in the end.
        return list(pool.map(run_one, *zip(*work, strict=True), chunksize=4))
