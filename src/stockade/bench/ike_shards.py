"""The engine sharded over processes by peer: each process has an engine that knows a share of the peers.

An engine keeps nothing that two peers share but counters, so shards need not speak with each other. Every
process here plays responder and initiators of its peers, once all processes are ready; what is told is how
many handshakes a second all make together.
"""

import multiprocessing
import time
from collections.abc import Callable

from stockade.bench.ike_responders import Pki
from stockade.bench.ike_split import WARM_UP, came_up, handshake, two_engines

_READY_SECONDS = 120.0


def measure(group: str, pki: Pki | None, count: int, shards: int) -> float:
    """Main and quick modes a second of `shards` processes, each with its share of `count` peers."""
    shares: list[list[int]] = [[] for _ in range(shards)]
    for number in range(WARM_UP, WARM_UP + count):
        shares[number % shards].append(number)  # which is the peer's address, as hosts are numbered
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(shards + 1)
    processes = [
        context.Process(target=_work, args=(group, pki, share, start.wait), daemon=True) for share in shares
    ]
    for process in processes:
        process.start()
    try:
        start.wait(_READY_SECONDS)
        began = time.perf_counter()
        for process in processes:
            process.join()
        seconds = time.perf_counter() - began
    finally:
        for process in processes:
            process.kill()
    if any(process.exitcode for process in processes):
        raise AssertionError("a shard failed")
    return count / seconds


def _work(group: str, pki: Pki | None, numbers: list[int], ready: Callable[[], int]) -> None:
    responder, initiator, rule = two_engines(group, pki, len(numbers))
    for number in range(WARM_UP):
        list(handshake(responder, initiator, rule, number))
    ready()
    for number in numbers:
        list(handshake(responder, initiator, rule, number))
    came_up(responder, WARM_UP + len(numbers))
