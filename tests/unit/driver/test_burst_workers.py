"""The threads of the burst path, one for each queue of the device: every sequence number is used once, in
order, and Python teaches, forgets and decides meanwhile as if there were no threads.

Socket pairs that keep the borders of packets stand for the queues and for the wire.
"""

import os
import random
import select
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from types import SimpleNamespace

import pytest
from burst_library import built_in

from stockade.driver.burst import build
from stockade.driver.burst.engine import WORKERS, Batch, Burst, load
from stockade.driver.datapath import Datapath
from stockade.driver.packets import flow_key, locate
from stockade.driver.userspace import virtio
from stockade.model.addresses import AddressRange, Endpoint
from stockade.model.filters import Direction
from stockade.model.sa import Lifetime, SecurityAssociation
from stockade.model.traffic import TrafficSelector
from stockade.wire.transport import build_tcp, build_udp

GIVEN_LIBRARY = "STOCKADE_TEST_WORKERS_LIBRARY"
"""Environment: test this one."""

GAMMA = IPv4Address("10.0.0.3")
SEGMENT = 1000
DEADLINE = 120.0


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if given := os.environ.get(GIVEN_LIBRARY):
        return Path(given)
    if build.is_fresh():
        return build.LIBRARY
    return built_in(tmp_path_factory.mktemp("workers"))


@dataclass
class Host:
    """A data plane's burst path, its queues, and what has gone to the wire."""

    path: Datapath
    burst: Burst
    queues: list[socket.socket]
    sending: socket.socket
    slow: select.epoll
    wire: list[bytes] = field(default_factory=list)
    left: int = 0

    def turn(self, seconds: float = 0.05) -> list[Batch]:
        """As the loop of the data-plane process."""
        wire = self.sending.fileno()
        _, own = self.burst.run(self.slow.fileno(), wire, (wire, wire), seconds)
        batches = [own, *self.burst.worked()]
        for batch in batches:
            rest = self.path.account(batch.carried, batch.returned, 1.0)
            self.left += len(rest)
            clear = [packet for frame in rest for packet in virtio.take_all(frame)]
            for packet in self.path.outbound(clear, 1.0).wire:
                self.sending.sendall(packet)
        return batches


@contextmanager
def host(library: Path, count: int) -> Iterator[Host]:
    with ExitStack() as stack:
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(count + 1)]
        for end in (end for pair in pairs for end in pair):
            stack.enter_context(end)
        *queues, (sending, wire) = pairs
        for end, _ in queues:
            end.setblocking(False)
        slow = stack.enter_context(select.epoll())
        burst = load(library, plain=True, ipsec_mb=False)
        assert burst is not None
        made = Host(Datapath(os.urandom, burst), burst, [end for _, end in queues], sending, slow)

        def gather() -> None:
            while packet := wire.recv(1 << 17):
                made.wire.append(packet)

        gatherer = threading.Thread(target=gather, daemon=True)
        gatherer.start()
        assert burst.work([end.fileno() for end, _ in queues])
        try:
            yield made
        finally:
            burst._library.free(burst.pointer)  # ends the threads, while their descriptors are open
            burst.pointer = None
            sending.shutdown(socket.SHUT_RDWR)
            gatherer.join(30)


def to(destination: IPv4Address, sa: SecurityAssociation) -> dict[str, object]:
    return {
        "destination": destination,
        "selector": TrafficSelector(AddressRange.host(sa.source), AddressRange.host(destination)),
    }


def key_of(packet: bytes) -> bytes:
    place = locate(packet)
    assert place is not None
    return flow_key(packet, *place)


def burst_of(packet: bytes) -> bytes:
    return virtio._HEADER.pack(1, 1, 40, SEGMENT, 20, 16) + packet


def numbers_of(wire: list[bytes]) -> dict[int, list[int]]:
    """The sequence numbers of each SPI, as they went out."""
    found: defaultdict[int, list[int]] = defaultdict(list)
    for packet in wire:
        found[int.from_bytes(packet[20:24], "big")].append(int.from_bytes(packet[24:28], "big"))
    return found


def test_no_number_is_used_twice_and_all_leave_in_order(hosts: SimpleNamespace, library: Path) -> None:
    """Three queues, two SAs that all of them want, new flows, forgotten flows, SAs that come and go."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    source = random.Random(seed)
    some = hosts.make_sa()
    sas = [some, hosts.make_sa(hosts.CBC, spi=0x2000, **to(GAMMA, some))]
    frames: list[list[bytes]] = [[] for _ in range(3)]
    clear: defaultdict[bytes, list[bytes]] = defaultdict(list)  # by flow
    for queue, frame_list in enumerate(frames):
        for number in range(400):
            peer = source.choice([hosts.BETA, GAMMA])
            flow = Endpoint(hosts.ALPHA, 4000 + queue * 10 + source.randrange(4)), Endpoint(peer, 80)
            if source.random() < 0.5:
                data = source.randbytes(source.randrange(1, 8 * SEGMENT))
                packet = build_tcp(*flow, data, sequence=number)
                frame_list.append(burst_of(packet) if len(packet) > 1400 else bytes(10) + packet)
            else:
                data = source.randbytes(source.randrange(1, SEGMENT))
                packet = build_udp(*flow, data)
                frame_list.append(bytes(10) + packet)
            clear[key_of(packet)].append(data)

    def feed(end: socket.socket, what: list[bytes]) -> None:
        for frame in what:
            end.sendall(frame)

    with host(library, 3) as sender:
        sender.path.install_filters(hosts.make_filters(("negotiate", 0, 0)), 0.0)
        for sa in sas:
            sender.path.add_sa(sa, 0.0)
        feeders = [
            threading.Thread(target=feed, args=pair) for pair in zip(sender.queues, frames, strict=True)
        ]
        for feeder in feeders:
            feeder.start()
        taken = turns = 0
        deadline = time.monotonic() + DEADLINE
        while taken < sum(map(len, frames)):
            assert time.monotonic() < deadline, f"{taken} frames taken"
            taken += sum(batch.received for batch in sender.turn(0.02))
            turns += 1
            if turns % 20 == 0:  # which forgets all flows too
                other = hosts.make_sa(spi=0x3000 + turns, **to(IPv4Address("10.0.0.9"), some))
                sender.path.add_sa(other, 0.0)
                sender.path.remove_sa(other.spi, Direction.OUTBOUND, other.destination)
        for feeder in feeders:
            feeder.join(30)
        carried = sum(sa.packets for sa in sender.path.statistics(1.0).sas)
        while len(sender.wire) < carried and time.monotonic() < deadline:
            time.sleep(0.01)
        wire = list(sender.wire)
        print(f"{turns} turns, {sender.left} frames of {taken} went the Python way")
        assert 0 < sender.left < taken / 2

    assert len(wire) == carried
    for sa in sas:
        numbers = numbers_of(wire)[sa.spi]
        assert numbers == list(range(1, len(numbers) + 1))
    receiver = Datapath()
    receiver.install_filters(hosts.make_filters(("negotiate", 0, 0)), 0.0)
    for sa in sas:
        receiver.add_sa(hosts.mirror(sa, replay_window=64), 0.0)
    opened: defaultdict[bytes, bytes] = defaultdict(bytes)
    for packet in receiver.inbound(wire, 1.0):
        payload = packet[20 + (packet[32] >> 4) * 4 :] if packet[9] == 6 else packet[28:]
        opened[key_of(packet)] += payload
    assert not receiver.statistics(1.0).refused
    assert opened == {key: b"".join(parts) for key, parts in clear.items()}


def test_a_lifetime_in_bytes_ends_the_sa_for_all_queues(hosts: SimpleNamespace, library: Path) -> None:
    one, other = Endpoint(hosts.ALPHA, 4000), Endpoint(hosts.BETA, 80)
    packet = build_tcp(one, other, bytes(1000))
    with host(library, 2) as sender:
        sender.path.install_filters(hosts.make_filters(("negotiate", 0, 0)), 0.0)
        sender.path.add_sa(hosts.make_sa(lifetime=Lifetime(soft_bytes=2000, hard_bytes=4000)), 0.0)
        events = []
        deadline = time.monotonic() + DEADLINE
        for number in range(8):
            sender.queues[number % 2].sendall(bytes(10) + packet)
            while not any(batch.received for batch in sender.turn()):
                assert time.monotonic() < deadline
            events += [event.hard for event in sender.path.events() if hasattr(event, "hard")]
        assert events == [False, True]
        assert sender.path.statistics(1.0).held_packets
        while len(sender.wire) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert numbers_of(sender.wire)[0x1000] == [1, 2, 3, 4]


def test_at_most_so_many_queues_get_threads(library: Path) -> None:
    with host(library, WORKERS) as full:
        assert not full.burst.work([0])
    burst = load(library, plain=True)
    assert burst is not None
    assert not burst.work([0] * (WORKERS + 1))
    assert burst.worked() == []


def test_no_two_threads_touch_the_same_memory_without_a_lock(tmp_path: Path, library: Path) -> None:
    """The tests of this file again, with a library that watches the threads."""
    if os.environ.get(GIVEN_LIBRARY):
        pytest.skip("this is that run")
    compiler = build.compiler()
    assert compiler is not None
    watched = tmp_path / "watched.so"
    refusal = build.build(watched, ["-fsanitize=thread", "-g", "-O1"])
    words = [compiler, "-print-file-name=libtsan.so"]
    runtime = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    if refusal is not None or "/" not in runtime:
        pytest.skip(f"this compiler has no thread sanitizer: {refusal}")
    environment = {
        **os.environ,
        GIVEN_LIBRARY: str(watched),
        "LD_PRELOAD": runtime,
        "TSAN_OPTIONS": "halt_on_error=1 exitcode=66",
    }
    if subprocess.run(
        [sys.executable, "-c", ""], env=environment, capture_output=True, check=False
    ).returncode:
        pytest.skip("the thread sanitizer does not run on this kernel")
    words = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    assert "data race" not in done.stderr + done.stdout
