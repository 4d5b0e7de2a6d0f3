"""The burst path beside the Python path: the same packets in, the same bytes, verdicts and counters out.

The burst path does its own input and output, so it gets socket pairs that keep the borders of packets: one in
the place of the TUN device, one in that of the raw socket.
"""

import os
import random
import select
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from burst_library import built_in
from hypothesis import given, settings
from hypothesis import strategies as st

from stockade.driver.burst import build
from stockade.driver.burst.engine import ABI, Batch, Burst, Verdict, Watch, load, load_library
from stockade.driver.datapath import Datapath
from stockade.driver.packets import big_sum, exchange_payload, flow_key, locate
from stockade.driver.replay import ReplayWindow
from stockade.driver.sad import OutboundEntry
from stockade.driver.userspace import virtio
from stockade.model.addresses import AddressRange, Endpoint
from stockade.model.filters import Direction
from stockade.model.negotiation import Mode
from stockade.model.sa import Lifetime, SecurityAssociation, UdpEncapsulation
from stockade.model.suites import Encryption, EspSuite, Hash
from stockade.model.traffic import TrafficSelector
from stockade.wire.transport import build_tcp, build_udp

SUITES = [
    EspSuite(Encryption.AES_GCM_128, None),
    EspSuite(Encryption.AES_GCM_192, None),
    EspSuite(Encryption.AES_GCM_256, None),
    EspSuite(Encryption.AES_CBC_128, Hash.SHA1),
    EspSuite(Encryption.AES_CBC_192, Hash.SHA_384),
    EspSuite(Encryption.AES_CBC_256, Hash.SHA_256),
    EspSuite(Encryption.AES_CBC_256, Hash.SHA_512),
    EspSuite(Encryption.TRIPLE_DES_CBC, Hash.SHA1),
    EspSuite(Encryption.DES_CBC, Hash.MD5),
    EspSuite(Encryption.NULL, Hash.SHA_256),
]
SHAPES = ["transport", "tunnel", "udp", "tunnel in udp"]
NEEDS_CHECKSUM, GSO_UDP = 1, 5
GIVEN_LIBRARY = "STOCKADE_TEST_BURST_LIBRARY"
"""Environment: test this one."""
EXAMPLES = 50 if GIVEN_LIBRARY in os.environ else 150
"""Of random packets; fewer where every access to memory is watched, which makes them slow."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from these sources, whatever is installed."""
    if given := os.environ.get(GIVEN_LIBRARY):
        return Path(given)
    return built_in(tmp_path_factory.mktemp("burst"))


@dataclass
class Side:
    """One host's burst path with the Python path that decides for it."""

    path: Datapath
    burst: Burst
    device: tuple[socket.socket, socket.socket]
    wire: tuple[socket.socket, socket.socket]

    def teach(self, key: bytes) -> None:
        for entry in self.path._sad:
            if entry.burst is not None:
                entry.burst.learn(key)

    def send(self, frames: Sequence[bytes], now: float = 1.0) -> tuple[list[bytes], int]:
        """What goes to the wire, and how many frames were left to the Python path."""
        for frame in frames:
            self.device[1].send(frame)
        wire: list[bytes] = []
        left = 0
        number = self.wire[0].fileno()
        while (batch := self.burst.outbound(self.device[0].fileno(), number, number)).received:
            wire += drain(self.wire[1])
            rest = self.path.account(batch.carried, batch.returned, now)
            left += len(rest)
            clear = [packet for frame in rest for packet in virtio.take_all(frame)]
            wire += self.path.outbound(clear, now).wire
        return wire, left

    def receive(
        self, packets: Sequence[bytes], now: float = 1.0, *, udp: bool = False, version: int = 4
    ) -> tuple[list[bytes], int]:
        """The frames for the device, and how many packets were left to the Python path."""
        frames: list[bytes] = []
        left = 0
        for start in range(0, len(packets), 64):
            for packet in packets[start : start + 64]:
                self.wire[1].send(packet)
            batch = self.burst.inbound(self.wire[0].fileno(), self.device[0].fileno(), version, udp=udp)
            frames += drain(self.device[1])
            rest = self.path.account(batch.carried, batch.returned, now)
            left += len(rest)
            take = self.path.inbound_udp if udp else self.path.inbound
            frames += [b"".join(parts) for parts in virtio.frames(take(rest, now))]
        return frames, left


def drain(end: socket.socket) -> list[bytes]:
    found = []
    while True:
        try:
            found.append(end.recv(1 << 17))
        except BlockingIOError:
            return found


@contextmanager
def side(
    library: Path,
    *,
    merge: bool = True,
    ipsec_mb: bool = True,
    rest: bool = True,
    noise: "Noise | None" = None,
) -> Iterator[Side]:
    burst = load(library, merge=merge, ipsec_mb=ipsec_mb, rest=rest, plain=True)
    assert burst is not None
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
    for end in (end for pair in pairs for end in pair):
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
    try:
        yield Side(Datapath(noise or os.urandom, burst), burst, pairs[0], pairs[1])
    finally:
        for end in (end for pair in pairs for end in pair):
            end.close()


class Noise:
    """Random bytes that can be had twice."""

    def __init__(self, seed: int) -> None:
        self._source = random.Random(seed)

    def __call__(self, size: int) -> bytes:
        return self._source.randbytes(size)


def sa_of(
    hosts: SimpleNamespace, suite: EspSuite, shape: str, version: int, **values: object
) -> SecurityAssociation:
    sa = hosts.make_sa(suite, version=version, **values)
    if "udp" in shape:
        sa = replace(sa, udp=UdpEncapsulation(4500, 4500))
    if "tunnel" in shape:
        everyone = AddressRange.everything(version)
        sa = replace(sa, mode=Mode.TUNNEL, selector=TrafficSelector(everyone, everyone))
    return sa


def ends(hosts: SimpleNamespace, version: int, port: int = 80) -> tuple[Endpoint, Endpoint]:
    alpha, beta = (hosts.ALPHA, hosts.BETA) if version == 4 else (hosts.ALPHA6, hosts.BETA6)
    return Endpoint(alpha, 4000), Endpoint(beta, port)


def frame_of(packet: bytes, *, gso: int = 0, at: int = 20) -> bytes:
    """As the device gives it: with half a checksum where it is a TSO burst."""
    if not gso:
        return bytes(10) + packet
    kind = 1 if packet[0] >> 4 == 4 else 4
    header = virtio._HEADER.pack(NEEDS_CHECKSUM, kind, at + 20, gso, at, 16)
    return header + packet


def datagrams_of(packet: bytes, size: int, at: int) -> bytes:
    """As the device gives a burst of UDP datagrams of `size` bytes each."""
    return virtio._HEADER.pack(NEEDS_CHECKSUM, GSO_UDP, at + 8, size, at, 6) + packet


def key_of(packet: bytes) -> bytes:
    place = locate(packet)
    assert place is not None
    return flow_key(packet, *place)


def install(path: Datapath, hosts: SimpleNamespace, version: int, *sas: SecurityAssociation) -> None:
    tunnels = {"rule": hosts.BETA if version == 4 else hosts.BETA6}
    wanted = tunnels if any(sa.mode is Mode.TUNNEL for sa in sas) else {}
    path.install_filters(hosts.make_filters(("negotiate", 0, 0), version=version), 0.0, wanted)
    for sa in sas:
        path.add_sa(sa, 0.0)


def counters(path: Datapath) -> object:
    found = path.statistics(1.0)
    return (found.sas, found.refused, found.held_packets)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("suite", "ipsec_mb"),
    [(suite, by) for suite in SUITES for by in ((True, False) if suite.encryption.is_aead else (False,))],
    ids=str,
)
def test_the_same_bytes_go_out_and_come_in(
    hosts: SimpleNamespace, library: Path, suite: EspSuite, ipsec_mb: bool, shape: str, version: int
) -> None:
    check_the_same_bytes(hosts, library, sa_of(hosts, suite, shape, version), ipsec_mb, 0)


BEFORE_THE_WRAP = (5 << 32) - 9


@pytest.mark.parametrize(
    ("suite", "ipsec_mb"),
    [(suite, by) for suite in SUITES for by in ((True, False) if suite.encryption.is_aead else (False,))],
    ids=str,
)
def test_extended_sequence_numbers_pass_the_end_of_32_bits(
    hosts: SimpleNamespace, library: Path, suite: EspSuite, ipsec_mb: bool
) -> None:
    sa = sa_of(hosts, suite, "tunnel", 4, extended_sequence=True)
    check_the_same_bytes(hosts, library, sa, ipsec_mb, BEFORE_THE_WRAP)


def set_numbers(path: Datapath, used: int) -> None:
    """As if so many packets had passed."""
    for entry in path._sad:
        if isinstance(entry, OutboundEntry):
            assert entry.sealer is not None
            entry.sealer.sequence = used
        elif used:
            assert entry.window.accept(used)


def check_the_same_bytes(
    hosts: SimpleNamespace, library: Path, out: SecurityAssociation, ipsec_mb: bool, used: int
) -> None:
    """Sealed and opened by both paths; `used` sequence numbers are gone already."""
    version, in_udp = out.source.version, out.udp is not None
    one, other = ends(hosts, version)
    frames = [
        frame_of(
            build_tcp(one, other, Noise(1)(20_000), sequence=0xFFFF_F000),
            gso=1400,
            at=20 if version == 4 else 40,
        ),
        *(frame_of(build_tcp(one, other, Noise(size)(size))) for size in (0, 1, 2, 3, 17, 1000)),
        frame_of(build_udp(one, other, Noise(2)(777))),
        datagrams_of(build_udp(one, other, Noise(3)(4000)), 333, 20 if version == 4 else 40),
    ]
    packets = [packet for frame in frames for packet in virtio.take_all(frame)]
    reference = Datapath(Noise(7))
    install(reference, hosts, version, out)
    set_numbers(reference, used)
    wanted = reference.outbound(packets, 1.0).wire
    assert len(wanted) > 15
    with side(library, ipsec_mb=ipsec_mb) as sender:
        install(sender.path, hosts, version, out)
        set_numbers(sender.path, used)
        sender.burst.preload_noise(Noise(7)(16 * len(wanted))[: 16 * 64])
        for packet in packets:
            sender.teach(key_of(packet))
        got, left = sender.send(frames)
        assert left == 0
        assert got == wanted
        assert counters(sender.path) == counters(reference)

    into = hosts.mirror(out)
    for merge in (True, False):
        reference = Datapath()
        install(reference, hosts, version, into)
        set_numbers(reference, used)
        opened = (reference.inbound_udp if in_udp else reference.inbound)(wanted, 1.0)
        assert len(opened) == len(wanted)
        with side(library, merge=merge, ipsec_mb=ipsec_mb) as receiver:
            install(receiver.path, hosts, version, into)
            set_numbers(receiver.path, used)
            for packet in packets:
                receiver.teach(key_of(packet))
            clear, left = receiver.receive(wanted, udp=in_udp, version=version)
            assert left == 0
            if merge:
                # Several flows are merged at a time, so their order among each other is another.
                assert sorted(clear) == sorted(b"".join(parts) for parts in virtio.frames(opened))
            else:
                assert clear == [virtio.CHECKSUM_KNOWN + packet for packet in opened]
            assert counters(receiver.path) == counters(reference)


def test_what_it_has_not_been_taught_goes_the_python_way_once(hosts: SimpleNamespace, library: Path) -> None:
    out = hosts.make_sa()
    one, other = ends(hosts, 4)
    packet = build_tcp(one, other, b"data")
    with side(library) as sender, side(library) as receiver:
        install(sender.path, hosts, 4, out)
        install(receiver.path, hosts, 4, hosts.mirror(out))
        for expected in (1, 0, 0):
            wire, left = sender.send([frame_of(packet)])
            assert (len(wire), left) == (1, expected)
            clear, left = receiver.receive(wire)
            assert clear == [virtio.CHECKSUM_KNOWN + packet]
            assert left == expected
        # New filters: every flow is asked about again, by both.
        for each in (sender, receiver):
            each.path.install_filters(hosts.make_filters(("negotiate", 0, 0)), 2.0)
        wire, left = sender.send([frame_of(packet)])
        assert left == 1
        assert receiver.receive(wire)[1] == 1
        # Filters that have nothing to secure any more.
        for each in (sender, receiver):
            each.path.install_filters((), 3.0)
        assert sender.send([frame_of(packet)]) == ([], 1)
        assert receiver.receive(wire)[0] == []


def test_both_paths_count_one_sequence(hosts: SimpleNamespace, library: Path) -> None:
    """With AES-GCM a number that came twice would be a nonce that came twice."""
    one, other = ends(hosts, 4)
    known = build_tcp(one, other, b"known")
    with side(library) as sender:
        install(sender.path, hosts, 4, hosts.make_sa())
        seen = []
        for number in range(40):
            unknown = build_udp(Endpoint(hosts.ALPHA, 1000 + number), other, b"new")
            wire, _ = sender.send([frame_of(known), frame_of(unknown), frame_of(known)])
            seen += [int.from_bytes(packet[24:28], "big") for packet in wire]
        assert sorted(seen) == list(range(1, len(seen) + 1))


def test_the_last_sequence_number_is_not_overrun(hosts: SimpleNamespace, library: Path) -> None:
    one, other = ends(hosts, 4)
    packet = build_tcp(one, other, b"data")
    burst_of_packets = build_tcp(one, other, bytes(10_000))
    with side(library) as sender:
        install(sender.path, hosts, 4, hosts.make_sa())
        sender.teach(key_of(packet))
        (entry,) = sender.path._sad
        assert entry.burst is not None
        entry.burst.sequence = 0xFFFF_FFFD
        wire, _ = sender.send([frame_of(burst_of_packets, gso=1400)])
        assert [packet[24:28].hex() for packet in wire] == ["fffffffe", "ffffffff"]
        assert sender.send([frame_of(packet)])[0] == []
        kinds = [type(event).__name__ for event in sender.path.events()]
        assert "SaExpired" in kinds


def test_lifetimes_in_bytes_hold(hosts: SimpleNamespace, library: Path) -> None:
    one, other = ends(hosts, 4)
    packet = build_tcp(one, other, bytes(1000))
    sa = hosts.make_sa(lifetime=Lifetime(soft_bytes=2000, hard_bytes=4000))
    with side(library) as sender:
        install(sender.path, hosts, 4, sa)
        sender.teach(key_of(packet))
        events = []
        for _ in range(6):
            sender.send([frame_of(packet)])
            events += [event.hard for event in sender.path.events() if hasattr(event, "hard")]
        assert events == [False, True]
        assert not sender.path._sad.in_burst
        assert not sender.burst._sas


def test_a_removed_sa_opens_nothing(hosts: SimpleNamespace, library: Path) -> None:
    one, other = ends(hosts, 4)
    packet = build_tcp(one, other, b"data")
    out = hosts.make_sa()
    with side(library) as sender, side(library) as receiver:
        install(sender.path, hosts, 4, out)
        install(receiver.path, hosts, 4, hosts.mirror(out))
        receiver.teach(key_of(packet))
        wire = sender.send([frame_of(packet)] * 2)[0]
        assert len(receiver.receive(wire[:1])[0]) == 1
        (entry,) = receiver.path._sad
        handle = entry.burst
        receiver.path.remove_sa(out.spi, Direction.INBOUND, hosts.ALPHA)
        assert receiver.receive(wire[1:]) == ([], 1)
        receiver.path.tick(60.0)  # until then it might have been ahead of a new SA
        assert dict(receiver.path.statistics(1.0).refused) == {"unknown-spi": 1}
        assert handle is not None
        assert not handle.check(5)
        assert not handle.accept(5)


@pytest.mark.parametrize("size", [0, 32, 33, 63, 64, 65, 128, 1000, 4095, 4096])
def test_the_window_is_that_of_the_python_path(hosts: SimpleNamespace, library: Path, size: int) -> None:
    source = random.Random(size)
    burst = load(library, plain=True)
    assert burst is not None
    handle = burst.add(hosts.mirror(hosts.make_sa(), replay_window=size))
    assert handle is not None
    window = ReplayWindow(size)
    top = 1
    for _ in range(4000):
        step = source.choice([0, 1, 1, 1, 2, 31, 64, 65, size, size + 1, 100_000])
        number = source.choice([top + step, max(0, top - source.randrange(1, 2 * size + 100))])
        number = min(number, 0xFFFF_FFFF)
        assert handle.check(number) == window.check(number), (size, number, window.top)
        if source.random() < 0.8:
            assert handle.accept(number) == window.accept(number), (size, number, window.top)
        assert handle.top == window.top
        top = window.top
    for number in (0xFFFF_FFFF, 0xFFFF_FFFF, 0xFFFF_FFFE, 0, 1):
        assert handle.accept(number) == window.accept(number)


@pytest.mark.parametrize("size", [32, 33, 64, 1000, 4096])
def test_the_window_of_extended_numbers_is_that_of_the_python_path(
    hosts: SimpleNamespace, library: Path, size: int
) -> None:
    source = random.Random(size)
    burst = load(library, plain=True)
    assert burst is not None
    handle = burst.add(hosts.mirror(hosts.make_sa(), replay_window=size, extended_sequence=True))
    assert handle is not None
    window = ReplayWindow(size, extended=True)
    top = 1
    for _ in range(4000):
        step = source.choice([0, 1, 1, 2, 31, 64, 65, size, size + 1, 100_000, (1 << 32) - size - 1, 1 << 30])
        whole = source.choice([top + step, max(0, top - source.randrange(1, 2 * size + 100))])
        number = handle.number_of(whole & 0xFFFF_FFFF)
        assert number == window.number_of(whole & 0xFFFF_FFFF), (size, whole, window.top)
        assert handle.check(number) == window.check(number), (size, number, window.top)
        if source.random() < 0.8:
            assert handle.accept(number) == window.accept(number), (size, number, window.top)
        assert handle.top == window.top
        top = window.top
        if source.random() < 0.02:  # near the end of a space
            top = ((top >> 32) + 1 << 32) - source.randrange(1, 2 * size)
            if top > window.top:
                assert handle.accept(top)
                assert window.accept(top)
            top = window.top
    assert top > 1 << 33


def test_extended_numbers_are_one_sequence_for_both_paths(hosts: SimpleNamespace, library: Path) -> None:
    """Over the end of 32 bits, with a third of the packets lost and the rest in another order."""
    one, other = ends(hosts, 4)
    known = build_tcp(one, other, b"known")
    sa = hosts.make_sa(extended_sequence=True)
    source = random.Random(11)
    with side(library) as sender, side(library, merge=False) as receiver:
        install(sender.path, hosts, 4, sa)
        install(receiver.path, hosts, 4, hosts.mirror(sa))
        for path in (sender.path, receiver.path):
            set_numbers(path, (1 << 32) - 40)
        arrived = 0
        for number in range(30):
            unknown = build_udp(Endpoint(hosts.ALPHA, 1000 + number), other, b"new")
            wire, _ = sender.send([frame_of(known), frame_of(unknown), frame_of(known)])
            through = [packet for packet in wire if source.random() < 0.67]
            source.shuffle(through)
            clear, _ = receiver.receive(through)
            assert len(clear) == len(through)
            arrived += len(clear)
        (entry,) = sender.path._sad
        assert entry.sequence == (1 << 32) + 50
        assert arrived > 40
        assert not receiver.path.statistics(1.0).refused
        kinds = {type(event).__name__ for event in sender.path.events()}
        assert "SaExpired" not in kinds  # neither the soft nor the hard end of 32 bits counts


CHANGES = st.sampled_from(
    ["none", "flip", "cut", "append", "twice", "late", "spi", "congested", "other flow", "dummy"]
)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    suite=st.sampled_from(SUITES),
    shape=st.sampled_from(SHAPES),
    version=st.sampled_from([4, 6]),
    changes=st.lists(CHANGES, min_size=1, max_size=90),
    seed=st.integers(0, 2**32),
)
def test_any_packets_get_the_same_verdicts_and_counters(
    burst_and_hosts: tuple[Path, SimpleNamespace],
    suite: EspSuite,
    shape: str,
    version: int,
    changes: list[str],
    seed: int,
) -> None:
    """Mutated, repeated, late, foreign packets among good ones: what comes out and what is counted is that of
    the Python path alone."""
    library, hosts = burst_and_hosts
    source = random.Random(seed)
    out = sa_of(hosts, suite, shape, version)
    sealer = Datapath()
    install(sealer, hosts, version, out)
    one, other = ends(hosts, version)
    packets: list[bytes] = []
    for change in changes:
        target = Endpoint(other.address, 81) if change == "other flow" else other
        clear = build_tcp(one, target, source.randbytes(source.randrange(200)))
        (packet,) = sealer.outbound([clear], 0.0).wire
        at = 20 if version == 4 else 40
        match change:
            case "flip":
                place = source.randrange(at, len(packet))
                packet = (
                    packet[:place] + bytes((packet[place] ^ 1 << source.randrange(8),)) + packet[place + 1 :]
                )
            case "cut":
                end = source.randrange(at, len(packet))
                packet = exchange_payload(
                    packet, at, packet[9] if version == 4 else packet[6], packet[at:end]
                )
            case "append":
                more = packet[at:] + source.randbytes(source.randrange(1, 40))
                packet = exchange_payload(packet, at, packet[9] if version == 4 else packet[6], more)
            case "spi":
                place = at + (8 if "udp" in shape else 0)
                packet = packet[:place] + source.randbytes(4) + packet[place + 4 :]
            case "congested":
                packet = packet[:1] + (b"\x03" if version == 4 else b"\x30") + packet[2:]
            case "twice":
                packets.append(packet)
            case "dummy":
                entry = next(iter(sealer._sad))
                (inside,) = entry.sealer.seal(59, [b"nothing"])  # type: ignore[union-attr]
                if "udp" in shape:
                    packet = exchange_payload(
                        packet,
                        at,
                        17,
                        packet[at : at + 4] + (len(inside) + 8).to_bytes(2, "big") + b"\0\0" + inside,
                    )
                else:
                    packet = exchange_payload(packet, at, 50, inside)
            case "late":
                packets.insert(source.randrange(len(packets) + 1), packet)
                continue
        packets.append(packet)
    into = hosts.mirror(out)
    reference = Datapath()
    install(reference, hosts, version, into)
    wanted = []
    for start in range(0, len(packets), 64):
        take = reference.inbound_udp if "udp" in shape else reference.inbound
        wanted += take(packets[start : start + 64], 1.0)
    with side(library, merge=False) as receiver:
        install(receiver.path, hosts, version, into)
        receiver.teach(key_of(build_tcp(one, other, b"")))
        clear, _ = receiver.receive(packets, udp="udp" in shape, version=version)
        assert sorted(frame[10:] for frame in clear) == sorted(wanted)
        assert counters(receiver.path) == counters(reference)


@settings(max_examples=EXAMPLES, deadline=None)
@given(frames=st.lists(st.binary(max_size=200), max_size=8), dress=st.booleans(), seed=st.integers(0, 2**32))
def test_any_bytes_from_the_device_and_the_wire_are_survived(
    burst_and_hosts: tuple[Path, SimpleNamespace], frames: list[bytes], dress: bool, seed: int
) -> None:
    library, hosts = burst_and_hosts
    source = random.Random(seed)
    sa = hosts.make_sa()
    one, other = ends(hosts, 4)
    known = build_tcp(one, other, b"data" * 30)
    with side(library) as each:
        install(each.path, hosts, 4, sa, hosts.mirror(hosts.make_sa(spi=0x2000)))
        each.teach(key_of(known))
        if dress:  # a known packet with a few bytes changed, behind any virtio header
            frames = [
                source.randbytes(10) + known[: source.randrange(len(known))] + frame for frame in frames
            ] + [source.randbytes(10) + _scratched(known, source) for _ in range(5)]
        for frame in frames:
            if len(frame) >= 10:
                each.send([frame])
        each.receive([frame for frame in frames if frame])


def _scratched(packet: bytes, source: random.Random) -> bytes:
    changed = bytearray(packet)
    for _ in range(source.randrange(4)):
        changed[source.randrange(len(changed))] = source.randrange(256)
    return bytes(changed)


@pytest.fixture(scope="module")
def burst_and_hosts(library: Path, hosts: SimpleNamespace) -> tuple[Path, SimpleNamespace]:
    return library, hosts


@pytest.mark.timeout(600)
def test_nothing_is_read_or_written_where_it_must_not_be(tmp_path: Path, library: Path) -> None:
    """The tests of this file again, with a library that watches every access to memory."""
    if os.environ.get(GIVEN_LIBRARY):
        pytest.skip("this is that run")
    compiler = build.compiler()
    assert compiler is not None
    watched = tmp_path / "watched.so"
    refusal = build.build(watched, ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1"])
    runtime = subprocess.run(
        [compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    )
    if refusal is not None or "/" not in runtime.stdout:
        pytest.skip(f"this compiler has no address sanitizer: {refusal}")
    environment = {
        **os.environ,
        GIVEN_LIBRARY: str(watched),
        "LD_PRELOAD": runtime.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0",
    }
    chosen = (
        "mended or loop or any_packets or any_bytes or same_bytes or window_is or merged or last_sequence"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen, __file__],
        env=environment,
        capture_output=True,
        text=True,
        timeout=540,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("told", [False, True])
def test_checksums_behind_a_nat_are_mended_as_in_the_python_path(
    hosts: SimpleNamespace, library: Path, told: bool, version: int
) -> None:
    """Wrong checksums and right ones, of odd and even length, UDP without one, headers cut short."""
    one, other = ends(hosts, version)
    out = replace(sa_of(hosts, SUITES[0], "udp", version))
    source = random.Random(11)
    packets = [build_tcp(one, other, source.randbytes(size)) for size in (0, 1, 2, 99, 1000)]
    packets += [build_udp(one, other, source.randbytes(size)) for size in (0, 1, 2, 99, 1000)]
    at = 20 if version == 4 else 40
    packets += [packet[: at + 16] + source.randbytes(2) + packet[at + 18 :] for packet in packets[:5]]
    for word in (b"\0\0", b"\x12\x34"):
        packets += [packet[: at + 6] + word + packet[at + 8 :] for packet in packets[5:9]]
    sealer = Datapath()
    install(sealer, hosts, version, out)
    wire = sealer.outbound(packets, 0.0).wire
    original = (hosts.BETA, hosts.BETA) if version == 4 else (hosts.BETA6, hosts.BETA6)
    into = replace(hosts.mirror(out), original=original if told else None)
    reference = Datapath()
    install(reference, hosts, version, into)
    wanted = reference.inbound_udp(wire, 1.0)
    with side(library, merge=False) as receiver:
        install(receiver.path, hosts, version, into)
        for packet in packets:
            receiver.teach(key_of(packet))
        clear, left = receiver.receive(wire, udp=True, version=version)
        assert left == 0
        assert [frame[10:] for frame in clear] == wanted
        assert wanted != packets


def test_the_loop_carries_until_something_else_is_to_be_done(hosts: SimpleNamespace, library: Path) -> None:
    one, other = ends(hosts, 4)
    packet, unknown = build_tcp(one, other, b"data"), build_udp(one, other, b"new")
    waker, sleeper = socket.socketpair()
    with side(library) as each, waker, sleeper, select.epoll() as slow:
        slow.register(sleeper.fileno(), select.EPOLLIN)
        install(each.path, hosts, 4, hosts.make_sa())
        each.teach(key_of(packet))
        each.burst.watch(each.device[0].fileno(), Watch.DEVICE)
        wire = each.wire[0].fileno()

        def run(seconds: float) -> tuple[bool, Batch]:
            return each.burst.run(slow.fileno(), each.device[0].fileno(), (wire, wire), seconds)

        assert run(0.01) == (False, Batch(0))
        for _ in range(20):
            each.device[1].send(frame_of(packet))
        ready, batch = run(5.0)  # far less: a report is due 20 ms after the first packet
        assert (ready, batch.returned, batch.received) == (False, (), 20)
        assert [carried.packets for carried in batch.carried] == [20]
        assert len(drain(each.wire[1])) == 20
        each.device[1].send(frame_of(unknown))
        ready, batch = run(5.0)
        (entry,) = batch.returned
        assert (entry.packet, entry.verdict) == (frame_of(unknown), Verdict.PUNTED)
        assert batch.kind == Watch.DEVICE
        waker.send(b"x")
        assert run(5.0)[0]
        each.burst.unwatch(each.device[0].fileno())
        sleeper.recv(1)
        each.device[1].send(frame_of(packet))
        assert run(0.01) == (False, Batch(0))


def test_the_loop_ends_where_a_lifetime_in_bytes_does_and_not_before(
    hosts: SimpleNamespace, library: Path
) -> None:
    one, other = ends(hosts, 4)
    packet = build_tcp(one, other, bytes(1000))
    with side(library) as each, select.epoll() as slow:
        install(each.path, hosts, 4, hosts.make_sa(lifetime=Lifetime(hard_bytes=100_000)))
        each.teach(key_of(packet))
        each.burst.watch(each.device[0].fileno(), Watch.DEVICE)
        for _ in range(30):
            each.device[1].send(frame_of(packet))
        wire = each.wire[0].fileno()

        def run() -> int:
            _, batch = each.burst.run(slow.fileno(), each.device[0].fileno(), (wire, wire), 5.0)
            each.path.account(batch.carried, batch.returned, 1.0)
            return batch.received

        assert run() == 8  # one batch, for Python to say how much may follow
        carried = 8
        while carried < 30:  # one call, or more where the machine is slow: a report may be due
            carried += run()
        for _ in range(90):
            each.device[1].send(frame_of(packet))
        while not (events := each.path.events()):
            carried += run()
        assert carried == 102  # 1020 bytes each: the 99th passes the limit, in a batch that ends with 102
        (entry,) = events
        assert (entry.spi, entry.hard) == (0x1000, True)


def test_a_lifetime_in_bytes_that_is_far_away_does_not_end_the_loop(
    hosts: SimpleNamespace, library: Path
) -> None:
    one, other = ends(hosts, 4)
    packet = build_tcp(one, other, b"data")
    with side(library) as each, select.epoll() as slow:
        install(each.path, hosts, 4, hosts.make_sa(lifetime=Lifetime(soft_bytes=1 << 40)))
        each.teach(key_of(packet))
        each.burst.watch(each.device[0].fileno(), Watch.DEVICE)
        wire = each.wire[0].fileno()
        for _ in range(100):  # a stalled machine may owe a report after any batch, but not after each
            for _ in range(16):
                each.device[1].send(frame_of(packet))
            took = []
            while sum(took) < 16:
                _, batch = each.burst.run(slow.fileno(), each.device[0].fileno(), (wire, wire), 5.0)
                each.path.account(batch.carried, batch.returned, 1.0)
                took.append(batch.received)
            drain(each.wire[1])
            if took == [16]:
                return
        raise AssertionError("every call came back after one batch")


@pytest.mark.parametrize("rest", [True, False])
def test_a_socket_that_rests_loses_nothing_and_holds_nobody_up(
    hosts: SimpleNamespace, library: Path, rest: bool
) -> None:
    out = hosts.make_sa()
    one, other = ends(hosts, 4)
    packets = [build_udp(one, other, bytes([number])) for number in range(60)]
    back = build_udp(other, one, b"back")
    sender = Datapath()
    install(sender, hosts, 4, out)
    wire = sender.outbound(packets, 1.0).wire
    with side(library, rest=rest) as each, select.epoll() as slow:
        returning = hosts.make_sa(spi=0x2000, source=hosts.BETA, destination=hosts.ALPHA)
        install(each.path, hosts, 4, hosts.mirror(out), returning)
        each.teach(key_of(packets[0]))
        each.teach(key_of(back))
        each.burst.watch(each.device[0].fileno(), Watch.DEVICE)
        each.burst.watch(each.wire[0].fileno(), Watch.ESP)
        clear: list[bytes] = []
        sealed: list[bytes] = []
        number = each.wire[0].fileno()
        for start in range(0, 60, 6):  # batches that are small enough to be rested after
            for packet in wire[start : start + 6]:
                each.wire[1].send(packet)
            each.device[1].send(frame_of(back))
            wanted = start + 6, start // 6 + 1
            while (len(clear), len(sealed)) != wanted:
                _, batch = each.burst.run(slow.fileno(), each.device[0].fileno(), (number, number), 5.0)
                assert not each.path.account(batch.carried, batch.returned, 1.0)
                clear += drain(each.device[1])
                sealed += drain(each.wire[1])
        assert [frame[10:] for frame in clear] == packets


def test_thousands_of_flows_do_not_push_each_other_out(hosts: SimpleNamespace, library: Path) -> None:
    """In a table where each flow has one place, some 60 of these would meet another's."""
    packets = []
    for port in range(2000):
        one, other = ends(hosts, 4, 8000 + port)
        packets.append(build_udp(one, other, b"data"))
    with side(library) as sender:
        install(sender.path, hosts, 4, hosts.make_sa())
        for packet in packets:
            sender.teach(key_of(packet))
        sent = left = 0
        for start in range(0, 2000, 100):
            wire, back = sender.send([frame_of(packet) for packet in packets[start : start + 100]])
            sent, left = sent + len(wire), left + back
        assert (sent, left) == (2000, 0)


def test_streams_are_merged_beside_each_other(hosts: SimpleNamespace, library: Path) -> None:
    """Eight streams whose packets alternate: one write each, not one write a packet."""
    out = hosts.make_sa()
    streams = []
    for port in range(8):
        one, other = ends(hosts, 4, 8000 + port)
        streams.append(
            [build_tcp(one, other, bytes([port]) * 100, sequence=100 * n, flags=0x10) for n in range(5)]
        )
    packets = [packet for row in zip(*streams, strict=True) for packet in row]
    with side(library) as sender, side(library) as receiver:
        install(sender.path, hosts, 4, out)
        install(receiver.path, hosts, 4, hosts.mirror(out))
        for packet in packets[:8]:
            sender.teach(key_of(packet))
            receiver.teach(key_of(packet))
        wire, _ = sender.send([frame_of(packet) for packet in packets])
        clear, _ = receiver.receive(wire)
        assert len(clear) == 8
        assert all(len(frame) == 10 + 40 + 500 for frame in clear)


def test_a_library_of_other_sources_is_not_taken(tmp_path: Path, library: Path) -> None:
    assert load_library(tmp_path / "none.so") is None
    (tmp_path / "text.so").write_text("no library")
    assert load_library(tmp_path / "text.so") is None
    other = tmp_path / "other.so"
    assert build.build(other, [f"-DBURST_ABI_FOR_TESTS={ABI + 1}"]) is None
    assert load_library(other) is None
    assert load_library(library) is not None


def test_without_a_compiler_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    assert build.build(tmp_path / "x.so") == "no C compiler"
    assert not (tmp_path / "x.so").exists()


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("outer_version", [4, 6])
def test_the_ecn_field_of_a_tunnel_is_that_of_the_python_path(
    hosts: SimpleNamespace, library: Path, version: int, outer_version: int
) -> None:
    """RFC 6040, figure 4, whatever routers made of the outer header."""
    sa = sa_of(hosts, hosts.GCM, "tunnel", outer_version)
    everyone = AddressRange.everything(version)
    sa = replace(sa, selector=TrafficSelector(everyone, everyone))
    one, other = ends(hosts, version)

    def paths(path: Datapath, *sas: SecurityAssociation) -> None:
        peer = hosts.BETA if outer_version == 4 else hosts.BETA6
        filters = hosts.make_filters(("negotiate", 0, 0), version=version)
        path.install_filters(filters, 0.0, {"rule": peer})
        for each in sas:
            path.add_sa(each, 0.0)

    sender = Datapath()
    paths(sender, sa)
    with side(library, merge=False) as receiver:
        paths(receiver.path, hosts.mirror(sa))
        reference = Datapath()
        paths(reference, hosts.mirror(sa))
        for inside in range(4):
            for outside in range(4):
                clear = bytearray(build_udp(one, other, b"data"))
                if version == 4:
                    clear[1] = inside
                    clear[10:12] = bytes(2)
                    clear[10:12] = (~big_sum(bytes(clear[:20])) & 0xFFFF).to_bytes(2, "big")
                else:
                    clear[1] = clear[1] & 0x0F | inside << 4
                (sealed,) = sender.outbound([bytes(clear)], 1.0).wire
                arrived = bytearray(sealed)
                if outer_version == 4:
                    arrived[1] = outside
                else:
                    arrived[1] = arrived[1] & 0x0F | outside << 4
                receiver.teach(key_of(bytes(clear)))
                got, _ = receiver.receive([bytes(arrived)], version=outer_version)
                wanted = reference.inbound([bytes(arrived)], 1.0)
                assert [frame[10:] for frame in got] == wanted, (inside, outside)
        assert counters(receiver.path) == counters(reference)
