"""The user-space driver's offloads with real packets: with all of them, and without each."""

import os
import signal
import socket
import sys
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from driver_net import AgentSide, add_pair, two_hosts
from streams import transfer
from wire_watch import is_ipv4, watch_wire

from stockade.driver.burst.engine import load_library
from stockade.driver.userspace.offloads import OFFLOADS
from stockade.lab.netns import Network
from stockade.model.suites import Encryption, Hash

PORTS = {"action": "permit", "protocol": 17, "port": 4500}
MESSAGE = bytes(4) + b"a message of IKE, long enough to be one"
LARGEST = 1500 + 14


def start(sides: tuple[AgentSide, AgentSide], *, without: str = "", queues: int = 0) -> None:
    for side in sides:
        side.call("start", without=without, queues=queues)
        side.call("bind_ike")
        side.call("install", rules=[PORTS, {"action": "negotiate"}])


def frames_while(network: Network, data: bytes) -> list[bytes]:
    """What passes the wire while the data does; the data must arrive."""
    wire = watch_wire(network, buffer=8 << 20)
    try:
        assert transfer(network["alpha"], network["beta"], "10.9.0.2", data)
        frames = []
        while True:
            try:
                frames.append(wire.recv(1 << 17))
            except TimeoutError:
                return [frame for frame in frames if is_ipv4(frame)]
    finally:
        wire.close()


def received_ike(side: AgentSide) -> object:
    """What came to the agent's sockets, once something did."""
    deadline = time.monotonic() + 60
    while not (came := side.call("received_ike")) and time.monotonic() < deadline:
        time.sleep(0.05)
    return came


@pytest.mark.skipif(load_library() is None, reason="the burst path was not built")
def test_esp_in_udp_goes_many_datagrams_at_a_time_and_ike_keeps_its_port(tmp_path: Path) -> None:
    with two_hosts(tmp_path) as (network, alpha, beta):
        start((alpha, beta))
        add_pair(alpha, beta, udp=True)
        frames = frames_while(network, os.urandom(3_000_000))
        assert {frame[23] for frame in frames} == {17}
        assert max(map(len, frames)) > 4 * LARGEST, "no send had more than one datagram"
        for side, peer in ((alpha, "10.9.0.2"), (beta, "10.9.0.1")):
            side.call("send_ike", message=MESSAGE.hex(), peer=peer)
        for side in (alpha, beta):
            assert received_ike(side) == [MESSAGE.hex()]
            assert side.call("statistics")["refused"] == {}
        assert beta.call("statistics")["sas"]["inbound"] > 1000

        # A data plane that dies gets the socket again.
        before = beta.call("pid")
        os.kill(int(str(before)), signal.SIGKILL)
        deadline = time.monotonic() + 60
        while beta.call("pid") in (before, -1) and time.monotonic() < deadline:
            time.sleep(0.1)
            beta.call("events")
        add_pair(alpha, beta, udp=True, base=0x3000)
        assert transfer(network["alpha"], network["beta"], "10.9.0.2", b"again" * 1000, 5001)
        beta.call("send_ike", message=MESSAGE.hex(), peer="10.9.0.1")
        assert received_ike(alpha) == [MESSAGE.hex()]


ONE_WAY = {
    "mq": False,
    "uso": False,
    "ipsec-mb": False,
    "moderation": False,
    "vectors": False,
    "udp-gso": True,
}
"""Those that do not differ between bare ESP (False) and ESP in UDP, or are in one of them only."""


@pytest.mark.parametrize(
    ("without", "udp"),
    [
        (name, udp)
        for name in (*OFFLOADS, ",".join(OFFLOADS))
        for udp in (False, True)
        if ONE_WAY.get(name, udp) is udp
    ],
)
def test_a_file_passes_without_each_of_them(tmp_path: Path, without: str, udp: bool) -> None:
    with two_hosts(tmp_path) as (network, alpha, beta):
        start((alpha, beta), without=without)
        suite = Encryption.AES_CBC_128 if without in ("gro", "tso") else Encryption.AES_GCM_128
        add_pair(alpha, beta, udp=udp, encryption=suite, integrity=None if suite.is_aead else Hash.SHA_256)
        data = os.urandom(400_000)
        frames = frames_while(network, data)
        assert {frame[23] for frame in frames} == {17 if udp else 50}
        assert not any(data[n : n + 16] in frame for frame in frames for n in range(0, len(data), 40_000))
        for side in (alpha, beta):
            assert side.call("statistics")["refused"] == {}


@pytest.mark.skipif(load_library() is None, reason="the burst path was not built")
@pytest.mark.parametrize("udp", [False, True])
def test_streams_over_several_queues_arrive_and_number_every_packet_once(tmp_path: Path, udp: bool) -> None:
    """Three queues of the device with a thread each, also on a machine with few processors; then again with a
    new data plane on the same queues."""
    with two_hosts(tmp_path) as (network, alpha, beta):
        start((alpha, beta), queues=3)
        assert queues_of(network, "alpha") == 3
        for round_, base in enumerate((0x1000, 0x3000)):
            add_pair(alpha, beta, udp=udp, base=base)
            data = [os.urandom(150_000 + number) for number in range(6)]
            with watch_wire(network, buffer=8 << 20) as wire, ThreadPoolExecutor(len(data)) as pool:
                ports = range(5000 + 10 * round_, 5000 + 10 * round_ + len(data))
                arrived = list(pool.map(partial(send, network), data, ports))
                assert all(arrived)
                numbers = sent_numbers(wire, 42 if udp else 34)
            assert numbers, "nothing was seen on the wire"
            for spi, found in numbers.items():
                assert len(found) == len(set(found)), f"SPI {spi:#x} used a number twice"
            for side in (alpha, beta):
                # Sent in order, but processors of this machine may overtake each other below.
                assert set(side.call("statistics")["refused"]) <= {"replayed"}
            before = alpha.call("pid")
            if not round_:
                os.kill(int(str(before)), signal.SIGKILL)
                alpha.wait_for_another_process(before)
                assert queues_of(network, "alpha") == 3


def send(network: Network, data: bytes, port: int) -> bool:
    return transfer(network["alpha"], network["beta"], "10.9.0.2", data, port)


def queues_of(network: Network, name: str) -> int:
    """Of the device; IFF_MULTI_QUEUE in its flags, then the queues that somebody has open."""
    folder = Path("/sys/class/net/stockade0")
    told = network[name].run(["sh", "-c", f"cat {folder}/tun_flags; ls -d {folder}/queues/tx-* | wc -l"])
    flags, queues = told.stdout.split()
    return int(queues) if int(flags, 16) & 0x0100 else 1


def sent_numbers(wire: socket.socket, at: int) -> dict[int, list[int]]:
    """The sequence numbers that passed, by SPI; `at`: where ESP begins in a frame."""
    found: defaultdict[int, list[int]] = defaultdict(list)
    while True:
        try:
            frame = wire.recv(1 << 17)
        except TimeoutError:
            return found
        if frame[12:14] == b"\x08\x00" and frame[23] in (17, 50) and len(frame) >= at + 8:
            found[int.from_bytes(frame[at : at + 4], "big")].append(
                int.from_bytes(frame[at + 4 : at + 8], "big")
            )


@pytest.mark.parametrize("without", ["", "uso", "burst"])
def test_datagrams_that_a_program_sends_in_one_call_arrive_one_by_one(tmp_path: Path, without: str) -> None:
    """UDP_SEGMENT; the last of three bursts is of datagrams that do not fit and travel in fragments."""
    with two_hosts(tmp_path) as (network, alpha, beta):
        start((alpha, beta), without=without)
        add_pair(alpha, beta)
        taking = network["beta"].call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sending = network["alpha"].call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        with taking, sending:
            taking.bind(("10.9.0.2", 7000))
            taking.settimeout(30)
            for size, count in ((100, 40), (1300, 9), (1471, 3)):
                data = os.urandom(size * count - 5)
                sending.setsockopt(socket.IPPROTO_UDP, 103, size)
                sending.sendto(data, ("10.9.0.2", 7000))
                arrived = [taking.recv(4096) for _ in range(count)]
                assert [len(each) for each in arrived] == [size] * (count - 1) + [size - 5]
                assert b"".join(arrived) == data
        for side in (alpha, beta):
            assert side.call("statistics")["refused"] == {}
