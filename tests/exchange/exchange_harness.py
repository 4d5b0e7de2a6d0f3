"""Two (or more) engines, a virtual clock, and a network that loses, doubles, delays and tampers.

Everything is decided by one seed: a failing test prints it, and the run can be repeated."""

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from itertools import count

from stockade.ike.config import EngineConfig
from stockade.ike.contract import Acquire, InstallSa, RemoveSa, Report, ReportKind, Send
from stockade.ike.engine import Engine
from stockade.model.addresses import Address, AddressRange, Endpoint
from stockade.model.filters import Direction
from stockade.model.negotiation import (
    MainModePolicy,
    Negotiation,
    PresharedKey,
    QuickModeMatch,
    QuickModePolicy,
)
from stockade.model.reasons import Reason, ReasonCode
from stockade.model.sa import SecurityAssociation
from stockade.model.secret import Secret
from stockade.model.suites import (
    Encryption,
    EspSuite,
    Group,
    Hash,
    MainModeProposal,
    QuickModeProposal,
)
from stockade.model.traffic import TrafficSelector
from stockade.pki.credentials import CredentialSource
from stockade.wire.isakmp.message import Header, decode_header
from stockade.wire.udp_encapsulation import KEEPALIVE, NAT_TRAVERSAL_PORT, NON_ESP_MARKER

ALPHA, BETA, GAMMA = (ip_address(f"10.9.0.{host}") for host in (1, 2, 3))
EXACT = EngineConfig(retransmission_jitter=0.0)
AES = MainModeProposal(Encryption.AES_CBC_128, Hash.SHA1, Group.ECP_256)
ESP = QuickModeProposal(EspSuite(Encryption.AES_CBC_128, Hash.SHA1))


def negotiation(
    *,
    key: bytes = b"correct horse",
    main: tuple[MainModeProposal, ...] = (AES,),
    quick: tuple[QuickModeProposal, ...] = (ESP,),
    lifetime: int = 28_800,
    limit: int = 0,
    pfs: bool = False,
    group: Group | None = None,
    name: str = "local/test/rule",
) -> Negotiation:
    return Negotiation(
        name,
        MainModePolicy(main, lifetime, limit),
        QuickModePolicy(quick, pfs, group),
        (PresharedKey(Secret(key)),),
    )


class Policy:
    """A `NegotiationLookup` with one rule: everything between this host and any other, or the given
    selector."""

    def __init__(
        self, rule: Negotiation | None, selector: TrafficSelector | None = None, filter_id: str = "f0"
    ) -> None:
        self.rule = rule
        self.selector = selector
        self.filter_id = filter_id

    def for_peer(self, local: Address, peer: Address) -> tuple[Negotiation, ...] | Reason:
        return (self.rule,) if self.rule is not None else Reason.of(ReasonCode.NO_POLICY)

    def for_quick_mode(
        self, local: Address, peer: Address, requested: TrafficSelector
    ) -> QuickModeMatch | Reason:
        if self.rule is None or (self.selector is not None and not self.selector.covers(requested)):
            return Reason.of(ReasonCode.INVALID_IDENTITY, f"{requested} is not covered")
        return QuickModeMatch(self.rule, requested, self.filter_id)


class Node:
    """A host: an engine, and what its effects have made of the driver."""

    def __init__(
        self,
        address: Address,
        policy: Policy,
        seed: int = 0,
        config: EngineConfig = EXACT,
        credentials: CredentialSource | None = None,
    ) -> None:
        self.address = address
        self.endpoint = Endpoint(address, 500)
        self.policy = policy
        generator = random.Random(f"{seed} {address}")
        self._spis = count(generator.randrange(0x1000, 0x7000_0000))
        self.engine = Engine(
            policy, lambda local, peer: next(self._spis), generator.randbytes, config, credentials
        )
        self.sas: dict[tuple[int, Direction], SecurityAssociation] = {}
        self.history: list[InstallSa | RemoveSa] = []
        self.reports: list[Report] = []

    def acquire(self, peer: Address, selector: TrafficSelector | None = None) -> Acquire:
        assert self.policy.rule is not None
        if selector is None:
            selector = TrafficSelector(AddressRange.host(self.address), AddressRange.host(peer))
        return Acquire(self.address, peer, selector, self.policy.rule, self.policy.filter_id)

    def apply(self, effect: InstallSa | RemoveSa | Report) -> None:
        match effect:
            case InstallSa(sa=sa):
                assert (sa.spi, sa.direction) not in self.sas
                self.sas[sa.spi, sa.direction] = sa
                self.history.append(effect)
            case RemoveSa():
                self.sas.pop((effect.spi, effect.direction), None)
                self.history.append(effect)
            case Report():
                self.reports.append(effect)

    def of(self, direction: Direction) -> list[SecurityAssociation]:
        return [sa for sa in self.sas.values() if sa.direction is direction]

    def reported(self, kind: ReportKind) -> list[Report]:
        return [report for report in self.reports if report.kind is kind]

    def codes(self, kind: ReportKind) -> list[ReasonCode]:
        return [report.reason.code for report in self.reported(kind)]


@dataclass
class Packet:
    """A datagram on its way. `number` counts all that were sent, from 1."""

    number: int
    send: Send
    at: float
    header: Header


Fate = Callable[[Packet], list[tuple[float, bytes]]]
"""What becomes of a packet: (delay, bytes) for each copy that arrives."""


def deliver(packet: Packet) -> list[tuple[float, bytes]]:
    return [(0.01, packet.send.datagram)]


@dataclass
class Network:
    """The clock and the wires. `sent` is everything that any engine sent."""

    nodes: list[Node]
    fate: Fate = deliver
    now: float = 100.0
    sent: list[Packet] = field(default_factory=list)
    route: Callable[[Send], Send | None] = lambda send: send
    """What stands between the hosts: the datagram as it arrives, or None. Keepalives only pass it."""
    _queue: list[tuple[float, int, Send]] = field(default_factory=list)
    _numbers: "count[int]" = field(default_factory=count)

    def node(self, address: Address) -> Node | None:
        return next((node for node in self.nodes if node.address == address), None)

    def command(self, node: Node, command: object) -> None:
        node.engine.command(command, self.now)  # type: ignore[arg-type]
        self.pump()

    def inject(self, datagram: bytes, source: Endpoint, target: Node) -> None:
        target.engine.receive(datagram, target.endpoint, source, self.now)
        self.pump()

    def pump(self) -> None:
        for node in self.nodes:
            for effect in node.engine.effects():
                if not isinstance(effect, Send):
                    node.apply(effect)
                    continue
                arriving = self.route(effect)
                message = effect.datagram
                if effect.local.port == NAT_TRAVERSAL_PORT:
                    if message == KEEPALIVE:
                        continue
                    assert message.startswith(NON_ESP_MARKER)
                    message = message[len(NON_ESP_MARKER) :]
                packet = Packet(len(self.sent) + 1, effect, self.now, decode_header(message))
                self.sent.append(packet)
                for delay, data in self.fate(packet):
                    if arriving is None:
                        continue
                    copy = replace(arriving, datagram=data)
                    heapq.heappush(self._queue, (self.now + delay, next(self._numbers), copy))

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass; True as soon as `until` holds."""
        end = self.now + seconds
        for _ in range(100_000):
            self.pump()
            if until():
                return True
            times = [self._queue[0][0]] if self._queue else []
            times += [due for node in self.nodes if (due := node.engine.next_timeout()) is not None]
            if not times or min(times) > end:
                self.now = end
                return until()
            self.now = max(self.now, min(times))
            while self._queue and self._queue[0][0] <= self.now:
                _, _, send = heapq.heappop(self._queue)
                target = self.node(send.remote.address)
                if target is not None:
                    target.engine.receive(send.datagram, send.remote, send.local, self.now)
            for node in self.nodes:
                node.engine.timeout(self.now)
        raise AssertionError("the engines keep each other busy for ever")


def two_hosts(
    rule: Negotiation | None = None,
    other: Negotiation | None = None,
    *,
    fate: Fate = deliver,
    seed: int = 0,
    config: EngineConfig = EXACT,
) -> tuple[Network, Node, Node]:
    """alpha and beta with the same rule, or each with its own."""
    rule = rule if rule is not None else negotiation()
    alpha = Node(ALPHA, Policy(rule), seed, config)
    beta = Node(BETA, Policy(other if other is not None else rule), seed, config)
    return Network([alpha, beta], fate), alpha, beta


def pairs_up(*nodes: Node, pairs: int = 1) -> Callable[[], bool]:
    """Whether each node has so many SAs in each direction."""
    return lambda: all(
        len(node.of(Direction.INBOUND)) == pairs and len(node.of(Direction.OUTBOUND)) == pairs
        for node in nodes
    )


def assert_matching(alpha: Node, beta: Node) -> None:
    """Every SA of one end has its counterpart at the other: same SPI, keys, suite and traffic."""
    assert alpha.sas
    for one, other in ((alpha, beta), (beta, alpha)):
        for sa in one.of(Direction.OUTBOUND):
            mirror = other.sas[sa.spi, Direction.INBOUND]
            assert sa.encryption_key == mirror.encryption_key
            assert sa.integrity_key == mirror.integrity_key
            assert (sa.esp, sa.ah, sa.mode) == (mirror.esp, mirror.ah, mirror.mode)
            assert sa.selector == mirror.selector
            assert (sa.source, sa.destination) == (mirror.source, mirror.destination)
            assert sa.main_mode == mirror.main_mode
            assert (sa.pair, Direction.INBOUND) in one.sas
        assert len(one.of(Direction.OUTBOUND)) == len(other.of(Direction.INBOUND))


def established(network: Network, alpha: Node, beta: Node) -> None:
    """Bring one pair up between the two, and let it be old enough for another acquire to mean another
    pair."""
    network.command(alpha, alpha.acquire(beta.address))
    assert network.run(5, pairs_up(alpha, beta)), alpha.reports + beta.reports
    network.run(EXACT.acquire_interval)


def drop_numbers(*numbers: int) -> Fate:
    """Lose the packets with these numbers."""
    return lambda packet: [] if packet.number in numbers else deliver(packet)


def chaos(seed: int, loss: float = 0.2, duplication: float = 0.2, delay: float = 0.4) -> Fate:
    """Lose, double and reorder at random."""
    generator = random.Random(seed)

    def fate(packet: Packet) -> list[tuple[float, bytes]]:
        copies = 2 if generator.random() < duplication else 1
        return [
            (generator.random() * delay, packet.send.datagram)
            for _ in range(copies)
            if generator.random() >= loss
        ]

    return fate
