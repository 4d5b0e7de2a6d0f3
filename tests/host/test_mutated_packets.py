"""A flood of broken and forged packets at a running data plane of user space, with live traffic beside it.

    mallory ── mutated ESP, AH, ESP in UDP, ICMP, IP, as fast as they go ──▶ alpha ◀── TCP, secured ──▶ beta

Everything that reaches the data plane is counted under a reason, nothing of it comes out in alpha, the live
traffic goes on, and none of it is ever in clear."""

import os
import random
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Interface
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from driver_net import AgentSide, add_ipv6, add_pair
from streams import transfer

from stockade.driver.burst.engine import load_library
from stockade.lab.capture import Capture, WireWatch
from stockade.lab.netns import Namespace, Network
from stockade.model.suites import Hash
from stockade.model.traffic import AH, ESP, ICMP, TCP, UDP

ALPHA, BETA = "10.9.0.1", "10.9.0.2"
ALPHA6, BETA6 = "2001:db8:9::1", "2001:db8:9::2"
HOSTS = {name: IPv4Interface(f"10.9.0.{n}/24") for n, name in enumerate(("alpha", "beta", "mallory"), 1)}
LIVE_PORT = 7777
NOBODYS = 0x7000_0000
RULES = [
    {"action": "permit", "protocol": 17, "port": 4500},
    {"action": "negotiate"},
    {"action": "negotiate", "version": 6},
]
OURS = frozenset({"unknown-spi", "integrity-failed", "replayed", "malformed-packet", "selector-mismatch"})
REPORTS, OVERFLOW = "path-report-ignored", "receive-overflow"

Frames = list[bytes]


def internet_checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ip_packet(payload: bytes, protocol: int, *, version: int = 4, source: str = "") -> bytes:
    """To alpha, from beta if nobody else is named."""
    if version == 6:
        ends = socket.inet_pton(socket.AF_INET6, source or BETA6) + socket.inet_pton(socket.AF_INET6, ALPHA6)
        return struct.pack(">IHBB", 6 << 28, len(payload), protocol, 64) + ends + payload
    ends = socket.inet_aton(source or BETA) + socket.inet_aton(ALPHA)
    header = bytearray(struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0) + ends)
    header[10:12] = internet_checksum(bytes(header)).to_bytes(2, "big")
    return bytes(header) + payload


class World:
    """alpha and beta with an SA of ESP (IPv4) and one of AH (IPv6); mallory has nothing but the wire."""

    def __init__(self, network: Network, alpha: AgentSide, beta: AgentSide) -> None:
        self.network, self.alpha, self.beta = network, alpha, beta
        mallory = network["mallory"]
        self._out = mallory.call(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
        self._out.bind(("eth0", 0))
        self._out.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
        target, own = (
            bytes.fromhex(host.run(["cat", "/sys/class/net/eth0/address"]).stdout.strip().replace(":", ""))
            for host in (alpha.namespace, mallory)
        )
        self._ends = target + own

    def send(self, packets: Frames) -> int:
        """As fast as they go; how many the wire took."""
        kinds = {4: self._ends + b"\x08\x00", 6: self._ends + b"\x86\xdd"}
        sent = 0
        for packet in packets:
            frame = kinds.get(packet[0] >> 4, kinds[4]) + packet
            sent += self._out.send(frame) == len(frame)
        return sent

    def refused(self) -> dict[str, int]:
        return dict(self.alpha.call("statistics")["refused"])

    def sealed_packets(self, count: int) -> Frames:
        """What beta sends to alpha under its SAs, taken from the wire."""
        wire = self.network.switch.call(
            lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
        )
        with wire:
            wire.bind((self.network.port("beta"), 3))
            wire.settimeout(30)
            found: dict[int, Frames] = {4: [], 6: []}
            sender = threading.Thread(target=self._say, args=(2 * count,), daemon=True)
            sender.start()
            while min(map(len, found.values())) < count:
                packet = wire.recv(1 << 16)
                version = packet[0] >> 4
                protocol, source = (packet[9], packet[12:16]) if version == 4 else (packet[6], packet[8:24])
                if protocol in (ESP, AH) and source in (
                    socket.inet_aton(BETA),
                    socket.inet_pton(socket.AF_INET6, BETA6),
                ):
                    found[version].append(packet)
            sender.join()
        return [packet for packets in found.values() for packet in packets[:count]]

    def _say(self, count: int) -> None:
        for family, address in ((socket.AF_INET, ALPHA), (socket.AF_INET6, ALPHA6)):
            beta = self.beta.namespace
            with beta.call(lambda family=family: socket.socket(family, socket.SOCK_DGRAM)) as sock:
                for _ in range(count):
                    sock.sendto(b"said before the flood", (address, LIVE_PORT))
                    time.sleep(0.001)


@contextmanager
def world(folder: Path, without: str) -> Iterator[World]:
    with ExitStack() as stack:
        network = stack.enter_context(Network(HOSTS))
        sides = []
        for name in ("alpha", "beta"):
            side = AgentSide(network[name], folder / name)
            stack.callback(side.close)
            add_ipv6(side)
            side.call("start", without=without)
            side.call("bind_ike")
            side.call("install", rules=RULES)
            sides.append(side)
        alpha, beta = sides
        add_pair(alpha, beta)
        add_pair(alpha, beta, base=0x2000, version=6, ah=Hash.SHA_256)
        yield World(network, alpha, beta)


class Listener:
    """What alpha's programs get."""

    def __init__(self, host: Namespace) -> None:
        self.seen: list[bytes] = []
        self._sock = host.call(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self._sock.bind(("::", LIVE_PORT))
        self._sock.settimeout(0.1)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Listener":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self._sock.close()

    def _run(self) -> None:
        while not self._end.is_set():
            try:
                self.seen.append(self._sock.recv(1 << 16))
            except TimeoutError:
                continue


def flip(packet: bytes, chance: random.Random, start: int) -> bytes:
    """A few bits behind `start`, or an end that is missing or too much."""
    kind = chance.randrange(8)
    if kind == 0:
        return rebuilt(packet[: chance.randrange(start + 8, len(packet))])
    if kind == 1:
        return rebuilt(packet + chance.randbytes(chance.randrange(1, 40)))
    changed = bytearray(packet)
    for _ in range(chance.randrange(1, 9)):
        changed[chance.randrange(start, len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def rebuilt(packet: bytes) -> bytes:
    """With the length that it has by now."""
    if packet[0] >> 4 == 6:
        return packet[:4] + (len(packet) - 40).to_bytes(2, "big") + packet[6:]
    return ip_packet(packet[20:], packet[9])


def secured_looking(samples: Frames, chance: random.Random) -> bytes:
    """ESP, AH, or ESP in UDP that the data plane must refuse."""
    kind = chance.randrange(6)
    version = chance.choice((4, 6))
    if kind == 0:  # nobody's SPI
        body = (NOBODYS | chance.getrandbits(28)).to_bytes(4, "big") + chance.randbytes(
            chance.randrange(20, 900)
        )
        return ip_packet(body, ESP, version=version)
    if kind == 1:
        body = struct.pack(">BBHI", 6, chance.choice((4, 0, 255)), 0, NOBODYS | chance.getrandbits(28))
        return ip_packet(body + chance.randbytes(chance.randrange(24, 400)), AH, version=version)
    if kind == 2:  # in UDP, with a true SPI or another one
        spi = chance.choice((0x1000, 0x1001, NOBODYS | chance.getrandbits(28)))
        body = spi.to_bytes(4, "big") + chance.randbytes(chance.randrange(24, 400))
        return ip_packet(struct.pack(">HHHH", 4500, 4500, 8 + len(body), 0) + body, UDP)
    packet = chance.choice(samples)
    if kind == 3:
        return packet  # heard before
    return flip(packet, chance, 40 if packet[0] >> 4 == 6 else 20)


def report(chance: random.Random) -> bytes:
    """Too long, it says, was what alpha did not send: another SPI, another peer, a number of the future."""
    spi, number, peer, peer6 = chance.choice(
        (
            (0x1234_5678, 1, BETA, BETA6),
            (0x1000, 0xF000_0000, BETA, BETA6),
            (0x1000, 1, "10.9.0.77", "2001:db8:9::77"),
        )
    )
    inside = struct.pack(">II", spi, number) + chance.randbytes(16)
    mtu = chance.choice((0, 1, 68, 576, 1280, 65535))
    if chance.random() < 0.5:
        quoted = bytearray(ip_packet(inside, ESP))
        quoted[12:20] = socket.inet_aton(ALPHA) + socket.inet_aton(peer)
        message = struct.pack(">BBHI", 3, 4, 0, mtu) + bytes(quoted)
        check = internet_checksum(message).to_bytes(2, "big")
        return ip_packet(message[:2] + check + message[4:], ICMP, source="10.9.0.3")
    ends = socket.inet_pton(socket.AF_INET6, ALPHA6) + socket.inet_pton(socket.AF_INET6, peer6)
    quoted6 = struct.pack(">IHBB", 6 << 28, len(inside), ESP, 64) + ends + inside
    message = struct.pack(">BBHI", 2, 0, 0, mtu) + quoted6
    pseudo = (
        socket.inet_pton(socket.AF_INET6, BETA6)
        + socket.inet_pton(socket.AF_INET6, ALPHA6)
        + struct.pack(">II", len(message), 58)
    )
    check = internet_checksum(pseudo + message).to_bytes(2, "big")
    return ip_packet(message[:2] + check + message[4:], 58, version=6)


def broken(samples: Frames, chance: random.Random) -> bytes:
    """Whatever: headers too, so the kernel may drop it before us."""
    packet = bytearray(chance.choice(samples) if chance.random() < 0.7 else report(chance))
    for _ in range(chance.randrange(1, 12)):
        # not the source: who answers a broken packet answers somebody
        place = chance.choice([*range(12), *range(16, len(packet))])
        packet[place] = chance.randrange(256)
    if packet[0] >> 4 == 4 and chance.random() < 0.8:
        packet[10:12] = bytes(2)
        size = max(20, (packet[0] & 15) * 4)
        packet[10:12] = internet_checksum(bytes(packet[:size])).to_bytes(2, "big")
    return bytes(packet[: chance.randrange(20, len(packet) + 1)] if chance.random() < 0.2 else packet)


def eventually(question: Callable[[], bool], seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while not (answer := question()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return answer


@pytest.mark.parametrize(
    ("without", "count"),
    [
        pytest.param(
            "",
            60_000,
            marks=pytest.mark.skipif(load_library() is None, reason="the burst path was not built"),
        ),
        ("burst", 20_000),
    ],
)
def test_a_flood_of_forged_packets_is_counted_and_nothing_else_happens(
    tmp_path: Path, without: str, count: int
) -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    print(f"seed {seed}")
    chance = random.Random(seed)
    with world(tmp_path, without) as lab, Listener(lab.alpha.namespace) as listener:
        process = lab.alpha.call("pid")
        samples = lab.sealed_packets(50)
        said = 2 * len(samples)
        assert eventually(lambda: len(listener.seen) == said)
        assert lab.refused() == {}
        flood = [secured_looking(samples, chance) for _ in range(count)]
        reports = [report(chance) for _ in range(count // 10)]
        anything = [broken(samples, chance) for _ in range(count // 4)]
        carried: list[bool] = []
        flooding = threading.Event()
        flooding.set()

        def live() -> None:
            data = os.urandom(300_000)
            for number in range(1000):
                way = (lab.network["beta"], lab.network["alpha"], ALPHA)
                back = (lab.network["alpha"], lab.network["beta"], BETA)
                carried.append(transfer(*(way if number % 2 else back), data, 5000 + number))
                if not flooding.is_set():
                    return

        protected = Capture(
            lab.network.switch,
            lab.network.port("beta"),
            WireWatch(lambda flow: flow.protocol in (TCP, UDP)),
        )
        with protected as wire:
            traffic = threading.Thread(target=live)
            traffic.start()
            try:
                began = time.monotonic()
                sent = lab.send(flood)
                seconds = time.monotonic() - began
                assert sent == count

                def counted(words: frozenset[str] = OURS | {OVERFLOW}) -> int:
                    return sum(number for word, number in lab.refused().items() if word in words)

                assert eventually(lambda: counted() >= sent), (sent, lab.refused())
                time.sleep(1.5)  # to be told of more than there were
                assert counted() == sent, lab.refused()
                before = counted(frozenset({OVERFLOW}))
                assert lab.send(reports) == len(reports)
                wanted = before + len(reports)
                assert eventually(lambda: counted(frozenset({REPORTS, OVERFLOW})) == wanted), lab.refused()
                print(f"{sent / seconds:.0f} packets/s; {lab.refused()}; {len(carried)} transfers")
                assert lab.send(anything) == len(anything)
            finally:
                flooding.clear()
                traffic.join()
            assert len(carried) >= 2
            assert all(carried), f"{carried.count(False)} of {len(carried)} transfers failed"
            tally = wire.tally()
        assert tally.missed == 0, tally
        assert tally.protected_clear == 0, tally
        assert tally.esp > 100, tally
        assert len(listener.seen) == said, "something of the flood was delivered"
        assert lab.alpha.call("pid") == process, "the data plane ended"
        assert "Traceback" not in (tmp_path / "alpha" / "dataplane.log").read_text()
