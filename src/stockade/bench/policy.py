"""What the policy compiler and the filter table cost, and how that grows with the number of filters.

    stockade bench policy            (or: python benchmarks/policy.py)

Sections: compiling a policy from the beginning; the index over the table; the filter of a new flow and of a
known one, beside a walk over the table; one changed filter in a policy that is in force. Times are
processor time of this process (the best of several rounds where that makes sense), so that a busy machine
does not count. Runs for about one minute.
"""

import argparse
import gc
import random
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, ip_address
from statistics import median

from stockade.bench.report import Report
from stockade.model.addresses import AddressRange
from stockade.model.filters import Action, Direction, FilterTable
from stockade.model.negotiation import PresharedKey
from stockade.model.secret import Secret
from stockade.model.traffic import Flow
from stockade.policy.compiler import PolicyCompiler, compile_table
from stockade.policy.difference import difference
from stockade.policy.lookup import FilterTableLookup
from stockade.policy.objects import (
    Filter,
    FilterAction,
    FilterAddress,
    FilterList,
    Policy,
    PolicySet,
    Rule,
)

SIZES = (100, 1_000, 10_000, 100_000)
CHANGED_SIZE = 10_000
FLOWS = 20_000
ROUNDS = 7
PART = 1_000
LOCAL = (ip_address("192.0.2.1"),)

COMPILE_LIMITS = {10_000: 1.0, 100_000: 12.0}
"""Seconds, by generic filters."""
FLOW_KINDS = ("new outbound", "new inbound", "known")
FLOW_LIMITS = (10e-6, 10e-6, 1e-6)
CHANGE_LIMIT = 50e-3
CHANGE_ROUNDS = 5


def policy_of(size: int) -> PolicySet:
    """A policy of `size` generic filters in three rules (permit, block, negotiate): mostly hosts, many
    subnets of all sizes, half of them with a protocol or a port, and one "all traffic"."""
    source = random.Random(size)
    me, anything = FilterAddress.me(), FilterAddress.any()
    lists: list[list[Filter]] = [[], [], [Filter(me, anything)]]
    while sum(len(entry) for entry in lists) < size:
        length = 32 if source.random() < 0.6 else source.choice((8, 12, 16, 20, 22, 24, 24, 24, 25, 28))
        first = source.getrandbits(31) >> (32 - length) << (32 - length)
        network = AddressRange(IPv4Address(first), IPv4Address(first | (1 << (32 - length)) - 1))
        protocol = source.choice((0, 6, 6, 17))
        port = source.choice((0, 22, 80, 443, source.randrange(1, 65_536))) if protocol else 0
        lists[source.randrange(3)].append(Filter(me, FilterAddress.of(network), protocol, 0, port))
    actions = (
        FilterAction("permit", Action.PERMIT),
        FilterAction("block", Action.BLOCK),
        FilterAction("secure"),
    )
    key = (PresharedKey(Secret(b"a key for nothing but this benchmark")),)
    rules = tuple(Rule(f"rule {number}", f"list {number}", actions[number].name, key) for number in range(3))
    return PolicySet(
        (Policy("benchmark", rules, assigned=True),),
        tuple(FilterList(f"list {number}", tuple(entry)) for number, entry in enumerate(lists)),
        actions,
    )


def flows_for(table: FilterTable, count: int) -> list[Flow]:
    """Flows out of this computer, no two alike: half of them to addresses that a filter names."""
    source = random.Random(1)
    named = [entry.selector.destination for entry in table.filters if entry.direction is Direction.OUTBOUND]
    flows = []
    for number in range(count):
        if number % 2:
            destination = IPv4Address(source.getrandbits(31))
        else:
            ends = source.choice(named)
            destination = IPv4Address(source.randint(int(ends.first), int(ends.last)))
        port = source.choice((22, 80, 443, source.randrange(1, 65_536)))
        flows.append(Flow(LOCAL[0], destination, source.choice((6, 17)), 1024 + number % 60_000, port))
    return flows


def processor_time(operation: Callable[[], object]) -> float:
    gc.collect()
    start = time.process_time()
    operation()
    return time.process_time() - start


def per_flow(table: FilterTable, flows: list[Flow], direction: Direction) -> tuple[float, float]:
    """Seconds for a new and for a known flow: of each thousand flows the best of several rounds, and the
    mean of these. A table without memory of flows is made for each round."""
    parts = [flows[start : start + PART] for start in range(0, len(flows), PART)]
    new, known = [float("inf")] * len(parts), [float("inf")] * len(parts)
    for _ in range(ROUNDS):
        fresh = replace(table)
        fresh.prepare(table)
        lookup = fresh.lookup
        gc.collect()
        for best in (new, known):
            for number, part in enumerate(parts):
                start = time.process_time()
                for flow in part:
                    lookup(flow, direction)
                best[number] = min(best[number], time.process_time() - start)
    return sum(new) / len(flows), sum(known) / len(flows)


def per_walk(table: FilterTable, flows: list[Flow]) -> float:
    """Seconds for a walk over the table: what the index saves."""

    def walk() -> None:
        for flow in flows:
            for entry in table.filters:
                if entry.direction is Direction.OUTBOUND and entry.selector.matches(flow):
                    break

    return processor_time(walk) / len(flows)


def bench_sizes(sizes: tuple[int, ...], flow_count: int, report: Report) -> None:
    """Compiling, the index and the filter of a flow, by the number of generic filters; then how the last
    grows."""
    report.line(
        "generic    specific    compile s   us/filter    index s   new out us   new in us"
        "   known us   walk us"
    )
    flow_figures: dict[int, tuple[float, float, float]] = {}
    compile_figures: dict[int, float] = {}
    for size in sizes:
        policy = policy_of(size)
        compiled = float("inf")
        for _ in range(3 if size <= 10_000 else 1):
            gc.collect()
            start = time.process_time()
            table = compile_table([policy], LOCAL)
            compiled = min(compiled, time.process_time() - start)
        index = processor_time(table.prepare)
        flows = flows_for(table, flow_count)
        new, known = per_flow(table, flows, Direction.OUTBOUND)
        new_inbound, _ = per_flow(table, [flow.reversed() for flow in flows], Direction.INBOUND)
        walk = per_walk(table, flows[: max(10, 200_000 // size)])
        report.line(
            f"{size:7} {len(table.filters):11} {compiled:12.3f} {compiled / size * 1e6:11.1f} {index:10.3f}"
            f" {new * 1e6:12.2f} {new_inbound * 1e6:11.2f} {known * 1e6:10.2f} {walk * 1e6:9.1f}"
        )
        compile_figures[size] = compiled
        flow_figures[size] = (new, new_inbound, known)
        del table, flows, policy
    report.line()
    for size in sizes:
        report.figure(f"compile {size} filters", compile_figures[size], "s", COMPILE_LIMITS.get(size))
        for name, seconds, limit in zip(FLOW_KINDS, flow_figures[size], FLOW_LIMITS, strict=True):
            report.figure(f"{name} flow at {size} filters", seconds * 1e6, "us", limit * 1e6)
    for name, early, late in zip(FLOW_KINDS, flow_figures[sizes[0]], flow_figures[sizes[-1]], strict=True):
        report.figure(f"{name} flow: growth from {sizes[0]} to {sizes[-1]} filters", late / early, "times")


def changed(policy: PolicySet, change: Callable[[list[Filter]], None]) -> PolicySet:
    entry = policy.filter_lists[1]
    filters = list(entry.filters)
    change(filters)
    lists = (policy.filter_lists[0], replace(entry, filters=tuple(filters)), policy.filter_lists[2])
    return replace(policy, filter_lists=lists)


def put(filters: list[Filter]) -> None:
    filters[len(filters) // 2] = replace(filters[0], protocol=6, source_port=0, destination_port=4711)


def append(filters: list[Filter]) -> None:
    filters.append(replace(filters[1], protocol=6, source_port=0, destination_port=4712))


def insert(filters: list[Filter]) -> None:
    filters.insert(len(filters) // 2, replace(filters[2], protocol=6, source_port=0, destination_port=4713))


def take(filters: list[Filter]) -> None:
    del filters[0]


CHANGES = (
    ("one filter replaced", put),
    ("one added at the end of its list", append),
    ("one put into the middle of its list", insert),
    ("the first of its list taken away", take),
)


def bench_changes(size: int, report: Report) -> None:
    """One changed filter: compiling, the new index, the lookup for the key exchange, and the difference. The
    median of several rounds; between them the change is undone."""
    policy = policy_of(size)
    compiler = PolicyCompiler()
    table = compiler.compile([policy], LOCAL)
    table.prepare()
    report.line(f"\none change in a policy of {size} filters              added   removed   unchanged")
    limit = CHANGE_LIMIT * 1e3 if size == CHANGED_SIZE else None
    for name, change in CHANGES:
        following = changed(policy, change)
        times: list[float] = []
        for _ in range(CHANGE_ROUNDS):
            gc.collect()
            start = time.process_time()
            made = compiler.compile([following], LOCAL)
            FilterTableLookup(made)
            what = difference(table, made)
            times.append(time.process_time() - start)
            before, table = table, compiler.compile([policy], LOCAL)
            FilterTableLookup(table)
            back = difference(before, table)
            if back.added or back.removed:
                raise AssertionError(f"the table is not as it was before: {back}")
        report.line(f"{name:52} {len(what.added):7} {len(what.removed):9} {what.unchanged:11}")
        report.figure(f"{name}: median", median(times) * 1e3, "ms", limit)
        report.figure(f"{name}: longest", max(times) * 1e3, "ms", limit)
    same = min(processor_time(lambda: difference(table, compile_table([policy], LOCAL))) for _ in range(2))
    report.figure("for comparison: all of it compiled anew", same * 1e3, "ms")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sizes", type=_numbers, default=SIZES, metavar="N,…", help="numbers of generic filters"
    )
    parser.add_argument("--flows", type=int, default=FLOWS, metavar="N", help="flows to look up")
    parser.add_argument(
        "--changed", type=int, default=CHANGED_SIZE, metavar="N", help="filters of the policy to change"
    )


def _numbers(text: str) -> tuple[int, ...]:
    numbers = tuple(int(word) for word in text.split(","))
    if min(numbers) < 1:
        raise ValueError
    return numbers


def run(options: argparse.Namespace, report: Report) -> None:
    """Say all figures."""
    bench_sizes(options.sizes, options.flows, report)
    bench_changes(options.changed, report)
