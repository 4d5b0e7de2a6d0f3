"""The kernel decides about every packet by the filter that the classifier of the model names.

Random tables, random changes of them, and real packets: outbound ones from a raw socket, inbound ones from
the wire to a host that takes every address for its own. Which filter decided is told by its counter."""

import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from ipaddress import IPv4Interface, ip_address
from types import MappingProxyType

import pytest

from stockade.driver.userspace import nft
from stockade.driver.userspace.rules import Rules
from stockade.lab.netns import Namespace, Network
from stockade.model.addresses import AddressRange
from stockade.model.filters import Action, Direction, FilterClass, FilterTable, Provenance, SpecificFilter
from stockade.model.negotiation import MainModePolicy, Negotiation, PresharedKey, QuickModePolicy
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, EspSuite, QuickModeProposal
from stockade.model.traffic import Flow, TrafficSelector
from stockade.policy.specific import make_filter, table_order
from stockade.policy.weights import weight_of

NEGOTIATION = Negotiation(
    "rule",
    MainModePolicy(),
    QuickModePolicy((QuickModeProposal(EspSuite(Encryption.AES_GCM_128, None)),)),
    (PresharedKey(Secret(b"key")),),
)
ROUNDS = 25
PACKETS = 60
IPV4_RANGES = [
    AddressRange.everything(),
    AddressRange.network("10.9.0.0/16"),
    AddressRange.network("10.9.2.0/24"),
    AddressRange.network("10.9.2.16/28"),
    AddressRange.network("10.8.0.0/13"),
    AddressRange(ip_address("10.9.2.7"), ip_address("10.9.3.9")),
    *(AddressRange.host(f"10.9.{high}.{low}") for high in (1, 2, 3) for low in (6, 7, 20)),
]
IPV6_RANGES = [
    AddressRange.everything(6),
    AddressRange.network("2001:db8:9::/48"),
    AddressRange.network("2001:db8:9:2::/64"),
    AddressRange.network("2001:db8::/29"),
    AddressRange(ip_address("2001:db8:9:2::7"), ip_address("2001:db8:9:3::9")),
    *(AddressRange.host(f"2001:db8:9:{high}::{low}") for high in (1, 2, 3) for low in (6, 7, 20)),
]
RANGES = {4: IPV4_RANGES, 6: IPV6_RANGES}
TRAFFIC = [
    (0, 0, 0),
    (6, 0, 0),
    (17, 0, 0),
    (6, 0, 80),
    (17, 53, 0),
    (17, 53, 80),
    (6, 80, 0),
    (1, 0, 0),
    (58, 0, 0),
]


def random_filter(chance: random.Random) -> SpecificFilter:
    version = chance.choice((4, 6))
    direction = chance.choice(list(Direction))
    selector = TrafficSelector(
        chance.choice(RANGES[version]), chance.choice(RANGES[version]), *chance.choice(TRAFFIC)
    )
    action = chance.choice(list(Action))
    exemption = (
        FilterClass.EXEMPTION if action is Action.PERMIT and not chance.randrange(4) else FilterClass.POLICY
    )
    return make_filter(
        selector,
        direction,
        action,
        weight_of(selector, direction, filter_class=exemption),
        Provenance("local", "policy", f"rule {chance.randrange(3)}"),
        filter_class=exemption,
        negotiation="rule" if action is Action.NEGOTIATE else None,
        accept_clear=action is Action.NEGOTIATE
        and direction is Direction.INBOUND
        and not chance.randrange(3),
    )


def table_of(filters: Sequence[SpecificFilter], shuffled: random.Random | None) -> FilterTable:
    unique = list({entry.id: entry for entry in filters}.values())
    if shuffled is None:
        unique.sort(key=table_order)
    else:
        shuffled.shuffle(unique)  # no compiler makes such an order; a driver keeps it all the same
    return FilterTable(tuple(unique), MappingProxyType({"rule": NEGOTIATION}))


def random_flow(chance: random.Random) -> Flow:
    version = chance.choice((4, 6))
    hosts = RANGES[version][-9:]
    source, destination = (chance.choice(hosts).first + chance.choice((0, 0, 1)) for _ in range(2))
    protocol = chance.choice((6, 17, 1 if version == 4 else 58, 47))
    ports = (chance.choice((53, 80, 99)), chance.choice((53, 80, 99))) if protocol in (6, 17) else (0, 0)
    return Flow(source, destination, protocol, *ports)


def packet_of(flow: Flow) -> bytes:
    if flow.protocol == 17:
        payload = struct.pack(">HHHH", flow.source_port, flow.destination_port, 16, 0) + bytes(8)
    else:
        # TCP with ports and nothing else; for the others an ICMP echo that nobody answers, or zeros (GRE).
        payload = struct.pack(">HH", flow.source_port, flow.destination_port) + bytes(8) + b"\x50" + bytes(7)
    source, destination = flow.source.packed, flow.destination.packed
    if flow.source.version == 6:
        return struct.pack(">IHBB", 6 << 28, len(payload), flow.protocol, 64) + source + destination + payload
    head = (
        struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 7, 0, 64, flow.protocol, 0)
        + source
        + destination
    )
    total = sum(struct.unpack(">10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    total = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return head[:10] + struct.pack(">H", total) + head[12:] + payload


class Hosts:
    """alpha sends whatever it is told, from any address; beta takes every address for its own."""

    def __init__(self, network: Network) -> None:
        self.alpha, self.beta = network["alpha"], network["beta"]
        for host in (self.alpha, self.beta):
            host.run(
                [
                    "sysctl",
                    "-qw",
                    "net.ipv6.conf.all.disable_ipv6=0",
                    "net.ipv6.conf.default.disable_ipv6=0",
                    "net.ipv6.conf.eth0.disable_ipv6=0",
                ]
            )
            host.run(["sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.eth0.rp_filter=0"])
        # Every source is one of its own addresses too.
        self.beta.run(
            ["sysctl", "-qw", "net.ipv4.conf.all.accept_local=1", "net.ipv4.conf.eth0.accept_local=1"]
        )
        self.alpha.ip(
            "link add nowhere type veth peer name elsewhere",
            "link set nowhere arp off up",
            "link set elsewhere up",
            "route add default dev nowhere",
            "route add ::/0 dev nowhere metric 1",
        )
        self.beta.ip("route add local default dev lo", "route add local ::/0 dev lo metric 1")
        self._raw = {
            4: self.alpha.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)),
            6: self.alpha.call(lambda: socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)),
        }
        self._wire = network["alpha"].call(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
        self._wire.bind(("eth0", 0))
        self._station = bytes.fromhex(
            self.beta.run(["cat", "/sys/class/net/eth0/address"]).stdout.strip().replace(":", "")
        )

    def send(self, flow: Flow, direction: Direction) -> None:
        packet, version = packet_of(flow), flow.source.version
        if direction is Direction.OUTBOUND:
            with suppress(PermissionError):  # what an output chain drops is told to the sender so
                self._raw[version].sendto(packet, (str(flow.destination), 0))
        else:
            kind = b"\x08\x00" if version == 4 else b"\x86\xdd"
            self._wire.send(self._station + b"\x02\0\0\0\0\x01" + kind + packet)

    def close(self) -> None:
        for entry in (*self._raw.values(), self._wire):
            entry.close()


@contextmanager
def hosts() -> Iterator[Hosts]:
    addresses = {"alpha": IPv4Interface("10.77.0.1/24"), "beta": IPv4Interface("10.77.0.2/24")}
    with Network(addresses) as network:
        found = Hosts(network)
        try:
            yield found
        finally:
            found.close()


def counted(namespace: Namespace) -> Counter[str]:
    return Counter({entry.filter_id: entry.packets for entry in namespace.call(nft.read_counters)})


def settled(
    namespace: Namespace, start: Counter[str], expected: Counter[str], looked_at: set[str]
) -> Counter[str]:
    """What the filters `looked_at` counted since; packets may be on their way for a moment."""

    def since() -> Counter[str]:
        gone = counted(namespace) - start
        return Counter({name: gone[name] for name in gone if name in looked_at})

    deadline = time.monotonic() + 30.0
    while (found := since()) != expected and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


@pytest.mark.parametrize("ordered", [True, False])
def test_the_kernel_hits_the_filter_that_the_classifier_names(ordered: bool) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    shuffled = None if ordered else chance
    filters: list[SpecificFilter] = []
    wholes = 0

    def on_whole() -> None:
        nonlocal wholes
        wholes += 1

    with hosts() as world:
        rules: dict[str, Rules] = {}
        sides = {Direction.OUTBOUND: world.alpha, Direction.INBOUND: world.beta}
        for number in range(ROUNDS):
            kept = [entry for entry in filters if chance.randrange(4)]
            filters = kept + [random_filter(chance) for _ in range(chance.randrange(1, 12))]
            table = table_of(filters, shuffled)
            for side in sides.values():
                if side.name not in rules:
                    rules[side.name] = side.call(lambda table=table: nft.install_whole(table))
                else:
                    before = rules[side.name]
                    rules[side.name] = side.call(
                        lambda table=table, before=before: nft.install_difference(table, before, on_whole)
                    )
                # What is in the kernel is what the rules of this table are, however they came there.
                assert in_kernel(side) == as_written(side, table, rules[side.name].generation)
            start = {direction: counted(side) for direction, side in sides.items()}
            expected: dict[Direction, Counter[str]] = {direction: Counter() for direction in sides}
            for _ in range(PACKETS):
                flow, direction = random_flow(chance), chance.choice(list(Direction))
                entry = table.lookup(flow, direction)
                if entry is not None:
                    expected[direction][entry.id] += 1
                world.send(flow, direction)
            for direction, side in sides.items():
                # The host answers some of it (a reset, a neighbour's question): not what was sent here.
                mine = {entry.id for entry in table.filters if entry.direction is direction}
                found = settled(side, start[direction], expected[direction], mine)
                names = {entry.id: str(entry) for entry in table.filters}
                assert found == expected[direction], (
                    seed,
                    number,
                    direction,
                    {
                        names.get(name, name): (found[name], expected[direction][name])
                        for name in found | expected[direction]
                        if found[name] != expected[direction][name]
                    },
                )
        assert ordered is False or wholes < ROUNDS  # a compiler's tables change in place, but for IPv6 coming


def in_kernel(namespace: Namespace) -> list[str]:
    """Our table, without counts, handles, and the order of what has none."""
    text = namespace.run([nft.program(), "-s", "list", "table", "inet", "stockade"]).stdout
    blocks = []
    for block in text.replace("\t", " ").split("\n\n"):
        lines = " ".join(block.split())
        if "elements = {" in lines:
            head, elements = lines.split("elements = { ", 1)
            lines = head + "|".join(
                sorted(elements.removesuffix(" }").removesuffix(" }").rstrip(" }").split(", "))
            )
        blocks.append(lines.removeprefix("table inet stockade { ").removesuffix(" }"))
    return sorted(blocks)


def as_written(namespace: Namespace, table: FilterTable, generation: int) -> list[str]:
    """The same, of a kernel that was given the whole table at once."""
    text = Rules(table, generation=generation).whole().first
    program = f"{nft.program()} -f - && {nft.program()} -s list table inet stockade"
    fresh = ["unshare", "-n", "/bin/sh", "-c", program]
    listing = namespace.run(fresh, input_text=text).stdout

    class Other:
        def run(self, argv: object) -> object:
            return type("Result", (), {"stdout": listing})

    return in_kernel(Other())  # type: ignore[arg-type]
