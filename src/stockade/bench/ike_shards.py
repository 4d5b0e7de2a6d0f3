"""The engine sharded over processes by peer: each process has an engine that knows a share of the peers.

An engine keeps nothing that two peers share but counters, so shards need not speak with each other. Every
process here plays responder and initiators of its peers, once all processes are ready; what is told is how
many handshakes a second all make together, of how much processor they got, and how much of that was the
responders': a busy machine gives two processes no two processors, and that is not the engine's doing.
"""

import multiprocessing
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection

from stockade.bench.ike_responders import Pki
from stockade.bench.ike_split import WARM_UP, came_up, handshake, two_engines

_READY_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Shards:
    """What so many shards did: handshakes a second of all, processors that they got (processor time for
    time), and seconds of processor time of a responder for a handshake."""

    rate: float
    processors: float
    responder: float

    @property
    def capacity(self) -> float:
        """Handshakes a second for which the responders alone would have had time, on what they got."""
        return self.processors / self.responder


def measure(group: str, pki: Pki | None, count: int, shards: int) -> Shards:
    """Main and quick modes of `shards` processes, each with its share of `count` peers."""
    shares: list[list[int]] = [[] for _ in range(shards)]
    for number in range(WARM_UP, WARM_UP + count):
        shares[number % shards].append(number)  # which is the peer's address, as hosts are numbered
    context = multiprocessing.get_context("spawn")
    lines = [context.Pipe() for _ in shares]
    processes = [
        context.Process(target=_work, args=(group, pki, share, line[1]), daemon=True)
        for share, line in zip(shares, lines, strict=True)
    ]
    for process in processes:
        process.start()
    try:
        for line, _ in lines:
            _answer(line)
        for line, _ in lines:
            line.send("begin")
        results = [_answer(line) for line, _ in lines]
    finally:
        for process in processes:
            process.kill()
            process.join()
    began, ended = min(result[0] for result in results), max(result[1] for result in results)
    whole, responders = sum(result[2] for result in results), sum(result[3] for result in results)
    return Shards(count / (ended - began), whole / (ended - began), responders / count)


def _answer(line: Connection) -> tuple[float, float, float, float]:
    if not line.poll(_READY_SECONDS):
        raise AssertionError("a shard does not answer")
    try:
        found: tuple[float, float, float, float] = line.recv()
    except EOFError:
        raise AssertionError("a shard failed") from None
    return found


def _work(group: str, pki: Pki | None, numbers: list[int], line: Connection) -> None:
    responder, initiator, rule = two_engines(group, pki, len(numbers))
    for number in range(WARM_UP):
        list(handshake(responder, initiator, rule, number))
    line.send((0.0, 0.0, 0.0, 0.0))
    line.recv()
    began, whole, responders = time.monotonic(), time.process_time(), 0.0
    for number in numbers:
        steps = handshake(responder, initiator, rule, number)
        for _ in steps:
            start = time.thread_time()
            next(steps)
            responders += time.thread_time() - start
    line.send((began, time.monotonic(), time.process_time() - whole, responders))
    came_up(responder, WARM_UP + len(numbers))
