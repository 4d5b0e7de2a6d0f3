"""Whole hosts on a virtual clock: policy, key exchange and the memory driver, joined by `HostCore`.

Packets are whole IP packets; a host delivers what is for its own address or for the net behind it."""

import random
from collections.abc import Callable
from ipaddress import IPv4Network, ip_address

from stockade.agent.core import HostCore
from stockade.agent.journal import Entry
from stockade.agent.soft import SoftSettings
from stockade.driver.memory import MemoryDriver
from stockade.ike.config import EngineConfig
from stockade.ike.contract import Send
from stockade.lab.virtual import VirtualClock
from stockade.model.addresses import Address, AddressRange
from stockade.model.filters import Action
from stockade.model.negotiation import PresharedKey
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, EspSuite, Group, Hash, MainModeProposal, QuickModeProposal
from stockade.pki.credentials import Credentials
from stockade.policy.dynamic import DynamicSet
from stockade.policy.facts import HostFacts
from stockade.policy.objects import Filter, FilterAction, FilterAddress, FilterList, Policy, PolicySet, Rule
from stockade.wire.checksum import internet_checksum

ALPHA, BETA, GAMMA = (ip_address(f"10.9.0.{host}") for host in (1, 2, 3))
MAIN = MainModeProposal(Encryption.AES_CBC_128, Hash.SHA1, Group.ECP_256)
QUICK = QuickModeProposal(EspSuite(Encryption.AES_CBC_128, Hash.SHA1))
DELAY = 0.005


def key(text: str = "one key") -> tuple[PresharedKey, ...]:
    return (PresharedKey(Secret(text.encode())),)


def subnet(text: str) -> FilterAddress:
    network = IPv4Network(text)
    return FilterAddress.of(AddressRange(network[0], network[-1]))


def me_to(peer: object, **settings: object) -> Filter:
    end = peer if isinstance(peer, FilterAddress) else FilterAddress.of(peer)
    return Filter(FilterAddress.me(), end, **settings)


def secure(name: str = "secure", **settings: object) -> FilterAction:
    return FilterAction(name, Action.NEGOTIATE, (QUICK,), **settings)


BLOCK, PERMIT = FilterAction("block", Action.BLOCK), FilterAction("permit", Action.PERMIT)


def policy_set(
    *rules: tuple[FilterAction, tuple[Filter, ...], dict[str, object]],
    default_response: bool = False,
    authentication: tuple[PresharedKey, ...] | None = None,
    store: str = "local",
) -> PolicySet:
    """One assigned policy: (action, filters, more of the rule) for each rule."""
    psk = authentication or key()
    made = [
        Rule(f"rule {number}", f"list {number}", action.name, **{"authentication": psk, **more})
        for number, (action, _, more) in enumerate(rules, 1)
    ]
    if default_response:
        made.append(Rule("", "<Dynamic>", "Default Response", psk, is_default_response=True,
                         response_methods=(QUICK,)))  # fmt: skip
    actions = {action.name: action for action, _, _ in rules}
    return PolicySet(
        (Policy("test", tuple(made), assigned=True, main_mode_methods=(MAIN,)),),
        tuple(FilterList(f"list {number}", filters) for number, (_, filters, _) in enumerate(rules, 1)),
        tuple(actions.values()),
        store,
    )


def udp(source: Address, destination: Address, text: bytes, port: int = 9, source_port: int = 4000) -> bytes:
    """An IPv4 packet with a UDP datagram (no checksum, RFC 768)."""
    body = b"".join(number.to_bytes(2, "big") for number in (source_port, port, 8 + len(text), 0)) + text
    head = b"\x45\0" + (20 + len(body)).to_bytes(2, "big") + bytes(4) + b"\x40\x11\0\0"
    head += source.packed + destination.packed
    return head[:10] + internet_checksum(head).to_bytes(2, "big") + head[12:] + body


class Host:
    """One host; `behind` is a net whose packets it forwards. Without `load` it has no IPsec."""

    def __init__(self, world: "World", address: Address, behind: str | None = None) -> None:
        self.world = world
        self.address = address
        self.behind = None if behind is None else IPv4Network(behind)
        self.journal: list[Entry] = []
        self.received: list[bytes] = []
        """The UDP payloads that arrived here."""
        self.driver = MemoryDriver(world.carry, self._deliver, random=world.random.randbytes)
        self.core: HostCore | None = None
        self.wants_ike = True
        world.hosts.append(self)

    def start(self, *policies: PolicySet, facts: HostFacts | None = None, soft: SoftSettings | None = None,
              dynamic: DynamicSet | None = None, config: EngineConfig | None = None,
              credentials: Credentials | None = None) -> HostCore:  # fmt: skip
        self.driver.start()
        self.driver.tick(self.world.clock.now)
        self.core = HostCore(
            self.driver,
            facts if facts is not None else [self.address],
            self.world.random.randbytes,
            journal=self.journal.append,
            soft=soft,
            config=config if config is not None else EngineConfig(retransmission_jitter=0.0),
            credentials=credentials,
        )
        result = self.core.load(policies, self.world.clock.now, dynamic=dynamic)
        assert result.refusal is None, result.refusal
        self.world.clock.call_later(0.5, self._tick)
        self.world.settle()
        return self.core

    def send(self, destination: Address, text: bytes, source: Address | None = None, port: int = 9) -> None:
        packet = udp(source or self.address, destination, text, port)
        self.driver.outbound(packet, self.world.clock.now)
        self.world.settle()

    def holds(self, address: Address) -> bool:
        return address == self.address or (self.behind is not None and address in self.behind)

    def kinds(self) -> list[str]:
        return [entry.kind for entry in self.journal]

    def pump(self) -> None:
        if self.core is not None:
            self.core.pump(self.world.clock.now, self._send_ike)

    def _send_ike(self, send: Send) -> None:
        for host in self.world.hosts:
            if host.address == send.remote.address and host.core is not None and host.wants_ike:
                self.world.clock.call_later(DELAY, lambda host=host: host._receive_ike(send))

    def _receive_ike(self, send: Send) -> None:
        assert self.core is not None
        self.core.receive(send.datagram, send.remote, send.local, self.world.clock.now)
        self.world.settle()

    def _deliver(self, packet: bytes) -> None:
        if packet[9] == 17:
            self.received.append(packet[28:])

    def _tick(self) -> None:
        self.driver.tick(self.world.clock.now)
        self.world.settle()
        self.world.clock.call_later(0.5, self._tick)


class World:
    """All hosts. `clear` is every unsealed UDP payload that was on the wire."""

    def __init__(self, seed: int = 7) -> None:
        self.clock = VirtualClock()
        self.random = random.Random(seed)
        self.hosts: list[Host] = []
        self.clear: list[bytes] = []

    def carry(self, packet: bytes) -> None:
        if packet[9] == 17:
            self.clear.append(packet[28:])
        destination = ip_address(packet[16:20])
        for host in self.hosts:
            if host.holds(destination):
                self.clock.call_later(DELAY, lambda host=host: self._arrive(host, packet))

    def _arrive(self, host: Host, packet: bytes) -> None:
        host.driver.inbound(packet, self.clock.now)
        self.settle()

    def settle(self) -> None:
        for host in self.hosts:
            host.pump()

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass; every core's timers run when they are due."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            if until():
                return True
            due = [
                when for host in self.hosts if host.core and (when := host.core.next_timeout()) is not None
            ]
            step = min([end, self.clock.now + 0.1, *due]) - self.clock.now  # new timers may come sooner
            if self.clock.run(max(0.0, step), until):
                return True
            for host in self.hosts:
                if host.core is not None:
                    host.core.timeout(self.clock.now)
            self.settle()
            if step <= 0:
                self.clock.run(0.001)
        return until()
