"""Many SAs and filters in the user-space data plane: how fast they are installed, what memory one takes, what
a packet costs beside them, and for how long packets wait while lifetimes are looked at. In this process,
without a network: the data path and the burst path where there is one.
"""

import gc
import os
import select
import socket
import time
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

from stockade.bench.esp_node import HOSTS, RULE, SUITES, sas_of
from stockade.bench.report import Report
from stockade.driver.burst.engine import Burst, Watch, load
from stockade.driver.datapath import Datapath
from stockade.driver.userspace import virtio
from stockade.model.addresses import AddressRange, Endpoint
from stockade.model.filters import Action, Direction, Provenance, SpecificFilter
from stockade.model.sa import SecurityAssociation
from stockade.model.traffic import TCP, Flow, TrafficSelector
from stockade.wire.transport import build_tcp

PACKETS = 4000
ROUNDS = 5
SPREAD = 1000
FLOWS = 500
WAITING = 200
"""Small packets that wait in the device for one call of the burst path."""
CALL_SECONDS = 0.002
NOW = 1.0


def run(count: int, report: Report) -> None:
    report.line(f"\n{count} SAs, half of them inbound, and {count} filters")
    for name, engine in (("Python path", False), ("burst path", True)):
        if engine and load(plain=True) is None:
            report.line("the burst path was not built")
            continue
        burst, few_burst = (load(plain=True), load(plain=True)) if engine else (None, None)
        few, path = Datapath(burst=few_burst), Datapath(burst=burst)
        for each in (few, path):
            each.install_filters(_filters(1), 0.0)
            for sa in _pair(0):
                each.add_sa(sa, 0.0)
        gc.collect()
        filters = _filters(count // 2)
        began = time.process_time()
        path.install_filters(filters, 0.0)
        path.lookup(_flow(_pair(0)[1], 1), Direction.OUTBOUND)
        took = time.process_time() - began
        report.figure(f"{name}: filters installed in a second", len(filters) / took, "filters/s")
        gc.collect()
        before = _memory()
        began = time.process_time()
        for number in range(1, count // 2 + 1):
            for sa in _pair(number):
                path.add_sa(sa, 0.0)
        took = time.process_time() - began
        size = _memory() - before
        report.figure(f"{name}: SAs installed in a second", count / took, "SAs/s")
        report.figure(f"{name}: memory of one SA", size / count, "bytes")
        # In turn, and the best of several: on a busy machine one after the other says more of the machine.
        last = _pair(count // 2)[1]
        least = [
            (_packet_cost(few, few_burst, _pair(0)[1]), _packet_cost(path, burst, last))
            for _ in range(ROUNDS)
        ]
        one, many = (min(column) for column in zip(*least, strict=True))
        report.figure(f"{name}: a packet beside {count} of both", many, "µs", one, "a packet beside 2")
        spread = [_pair(number)[1] for number in range(1, min(SPREAD, count // 2) + 1)]
        singles = [
            (_single_cost(few, few_burst, [_pair(0)[1]]), _single_cost(path, burst, spread))
            for _ in range(ROUNDS)
        ]
        one, many = (min(column) for column in zip(*singles, strict=True))
        words = f"{name}: small packets, each of another of {len(spread)} SAs"
        report.figure(words, many, "µs", one, "all of one SA beside 2")
        firsts = [
            (
                _first_packet_cost(few, _pair(0)[1], FLOWS * number),
                _first_packet_cost(path, last, FLOWS * number),
            )
            for number in range(ROUNDS)
        ]
        one, many = (min(column) for column in zip(*firsts, strict=True))
        report.figure(f"{name}: the first packet of a flow", many, "µs", one, "the same beside 2")
        longest, whole = _looks(path)
        report.figure(f"{name}: longest wait for a look at lifetimes", longest, "ms")
        report.figure(f"{name}: processor time of all looks, each second or two", whole, "ms")


def _filters(peers: int) -> tuple[SpecificFilter, ...]:
    """One for each peer and direction, and one for the peer that is there from the start."""
    made = []
    for number in range(peers + 1):
        for direction in Direction:
            inbound, outbound = _pair_selectors(number)
            made.append(
                SpecificFilter(
                    f"{2 * number + (direction is Direction.OUTBOUND):016x}",
                    outbound if direction is Direction.OUTBOUND else inbound,
                    direction,
                    Action.NEGOTIATE,
                    1,
                    Provenance("benchmark", "policy", RULE),
                    negotiation=RULE,
                )
            )
    return tuple(made)


def _peer(number: int) -> IPv4Address:
    return IPv4Address(int(IPv4Address("10.128.0.0")) + number)


def _pair_selectors(number: int) -> tuple[TrafficSelector, TrafficSelector]:
    """Inbound and outbound."""
    peer, local = AddressRange.host(_peer(number)), AddressRange.host(HOSTS["alpha"])
    return TrafficSelector(peer, local), TrafficSelector(local, peer)


def _flow(sa: SecurityAssociation, port: int) -> Flow:
    return Flow(sa.source, sa.destination, TCP, port, 2)


def _first_packet_cost(path: Datapath, sa: SecurityAssociation, start: int) -> float:
    """Microseconds of processor time for a packet whose flow nobody has looked up yet."""
    flows = FLOWS
    packets = [
        build_tcp(Endpoint(sa.source, 1000 + start + number), Endpoint(sa.destination, 2), bytes(100))
        for number in range(flows)
    ]
    began = time.process_time()
    sealed = path.outbound(packets, NOW).wire
    took = time.process_time() - began
    if len(sealed) != flows:
        raise RuntimeError("the benchmark's packets are not secured")
    return took / flows * 1e6


def _looks(path: Datapath) -> tuple[float, float]:
    """Milliseconds: the longest part of a look at all SAs, and the whole of it."""
    while not path.tick_some(NOW):
        pass
    parts = []
    done = False
    while not done:
        began = time.process_time()
        done = path.tick_some(NOW)
        parts.append((time.process_time() - began) * 1e3)
    return max(parts), sum(parts)


def _pair(number: int) -> tuple[SecurityAssociation, SecurityAssociation]:
    """The SAs with one more peer, inbound first."""
    peer = _peer(number)
    local = HOSTS["alpha"]
    made = []
    for sa in sas_of("alpha", SUITES["aes-gcm-128"], "transport", f"{number}"):
        source, destination = (peer, local) if sa.direction is Direction.INBOUND else (local, peer)
        made.append(
            replace(
                sa,
                spi=0x10000 + 2 * number + (sa.direction is Direction.OUTBOUND),
                pair=0x10000 + 2 * number + (sa.direction is Direction.INBOUND),
                source=source,
                destination=destination,
                selector=TrafficSelector(AddressRange.host(source), AddressRange.host(destination)),
                negotiation=RULE,
                idle_seconds=300.0,
                silence_seconds=60.0,
            )
        )
    return made[0], made[1]


def _packet_cost(path: Datapath, burst: Burst | None, sa: SecurityAssociation) -> float:
    """Microseconds of processor time to seal one TCP segment of 1400 bytes, of bursts of 60 KB."""
    packet = build_tcp(Endpoint(HOSTS["alpha"], 1), Endpoint(sa.destination, 2), os.urandom(60_000))
    sealed = len(path.outbound([packet], NOW).wire)  # teaches the flow to the burst path
    rounds = PACKETS // sealed
    if burst is None:
        began = time.process_time()
        for _ in range(rounds):
            path.outbound([packet], NOW)
        return (time.process_time() - began) / (rounds * sealed) * 1e6
    return _sealed_in_c(burst, [packet] * rounds) / (rounds * sealed) * 1e6


def _single_cost(path: Datapath, burst: Burst | None, sas: list[SecurityAssociation]) -> float:
    """Microseconds of processor time to seal a packet of 100 bytes, each of the next of these SAs."""
    packets = [build_tcp(Endpoint(HOSTS["alpha"], 1), Endpoint(sa.destination, 2), bytes(60)) for sa in sas]
    path.outbound(packets, NOW)
    packets *= SPREAD // len(packets)
    if burst is not None:
        return _sealed_in_c(burst, packets) / len(packets) * 1e6
    began = time.process_time()
    for packet in packets:
        path.outbound([packet], NOW)
    return (time.process_time() - began) / len(packets) * 1e6


def _sealed_in_c(burst: Burst, packets: list[bytes]) -> float:
    """Seconds of processor time, of the calls that seal."""
    spent = 0.0
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
    (device, feed), (wire, sink) = pairs
    at_a_time = 4 if len(packets[0]) > 1500 else WAITING
    slow = select.epoll()
    burst.watch(device.fileno(), Watch.DEVICE)
    try:
        for end in (device, feed, wire, sink):
            end.setblocking(False)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        for start in range(0, len(packets), at_a_time):
            for packet in packets[start : start + at_a_time]:
                feed.send(bytes(virtio.HEADER_SIZE) + packet)
            left = len(packets[start : start + at_a_time])
            while left > 0:
                began = time.process_time()
                _, batch = burst.run(slow.fileno(), device.fileno(), (wire.fileno(), -1), CALL_SECONDS)
                spent += time.process_time() - began
                if batch.returned:
                    raise RuntimeError("the benchmark's packets are not known to the burst path")
                left -= batch.received
            with suppress(BlockingIOError):
                while sink.recv(1 << 16):
                    pass
    finally:
        burst.unwatch(device.fileno())
        slow.close()
        for end in (device, feed, wire, sink):
            end.close()
    return spent


def _memory() -> int:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
