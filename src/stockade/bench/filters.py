"""What filters cost in the kernel, with the user-space data plane: putting them there, changing one, and each
packet that is classified by them.

    stockade bench filters            (or: python benchmarks/filters.py)

The table of `stockade bench policy`'s policy is put into nftables in a namespace. The packet is the worst
one: a UDP datagram of which only the last filter speaks ("any to any: permit"), so every step is looked at.
Its cost is processor time for sending it, beside the same without any table. Needs root; runs for about half
a minute."""

import argparse
import gc
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Interface
from typing import TypeVar

from stockade.bench.policy import changed, policy_of, put
from stockade.bench.report import Report
from stockade.driver.datapath import Datapath
from stockade.driver.userspace import nft
from stockade.driver.userspace.rules import Rules
from stockade.lab.netns import Namespace, Network
from stockade.model.addresses import Address
from stockade.model.filters import Direction, FilterTable
from stockade.policy.compiler import PolicyCompiler
from stockade.policy.objects import PolicySet

SIZES = (100, 1_000, 10_000)
PACKETS = 20_000
ROUNDS = 5
CHANGE_LIMIT = 50e-3
"""Seconds for one changed filter in a table of 10 000."""

NAME, PEER_NAME = "alpha", "beta"
INTERFACE, PEER_INTERFACE = IPv4Interface("192.0.2.1/24"), IPv4Interface("192.0.2.2/24")

Result = TypeVar("Result")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="generic filters, between commas")


def run(options: argparse.Namespace, report: Report) -> None:
    sizes = tuple(int(word) for word in options.sizes.split(","))
    with Network({NAME: INTERFACE, PEER_NAME: PEER_INTERFACE}) as network:
        host = network[NAME]
        bare = packet_cost(host)
        report.figure("a packet without filters", bare * 1e6, "us")
        costs = {size: bench_size(host, size, bare, report) for size in sizes}
    report.figure(
        f"a packet: growth from {sizes[0]} to {sizes[-1]} filters",
        costs[sizes[-1]] / costs[sizes[0]],
        "times",
    )


def permissive(policy: PolicySet) -> PolicySet:
    """With "permit" for the list that ends with all traffic."""
    (found,) = policy.policies
    actions = [rule.filter_action for rule in found.rules]
    rules = tuple(
        replace(rule, filter_action=action)
        for rule, action in zip(found.rules, reversed(actions), strict=True)
    )
    return replace(policy, policies=(replace(found, rules=rules),))


def bench_size(host: Namespace, size: int, bare: float, report: Report) -> float:
    """Seconds of processor time for a packet."""
    policy = permissive(policy_of(size))
    local: tuple[Address, ...] = (INTERFACE.ip,)
    compiler = PolicyCompiler()
    table = compiler.compile([policy], local)
    whole, rules = timed(lambda: host.call(lambda: nft.install_whole(table)))
    steps = len(rules.layout.steps[Direction.OUTBOUND, 4])
    count = len(table.filters)
    report.line()
    report.line(f"{size} generic filters, {count} specific ones, {steps} steps for an outbound packet")
    report.figure(f"install {count} filters", whole, "s")
    report.figure("install rate", count / whole, "filters/s")
    cost = packet_cost(host)
    report.figure("a packet that meets the last filter", cost * 1e6, "us", bare * 1e6, "no filters")
    table.prepare()
    gc.collect()
    compiling, new = timed(lambda: compiler.compile([changed(policy, put)], local))
    installing = change(host, table, new, rules)
    report.figure("one changed filter: nftables", installing, "s", CHANGE_LIMIT)
    report.figure(
        "one changed filter: compiling, index and nftables", compiling + installing, "s", CHANGE_LIMIT
    )
    changes = new.since(table)
    report.figure("one changed filter: filters touched", len(changes.came) + len(changes.went), "filters")
    report.figure("one changed filter: data plane", data_plane_change(table, new), "s", CHANGE_LIMIT)
    host.call(nft.remove)
    return cost


def change(host: Namespace, old: FilterTable, new: FilterTable, rules: Rules) -> float:
    """Seconds by the clock, the best of several rounds there and back."""
    best = float("inf")
    for _ in range(ROUNDS):
        seconds, there = timed(lambda before=rules: host.call(lambda: difference(new, before)))  # type: ignore[misc]
        rules = host.call(lambda there=there: difference(old, there))  # type: ignore[misc]
        best = min(best, seconds)
    return best


def difference(table: FilterTable, before: Rules) -> Rules:
    return nft.install_difference(table, before, lambda: None)


def data_plane_change(old: FilterTable, new: FilterTable) -> float:
    """Seconds for which packets wait in the data-plane process."""
    datapath = Datapath(os.urandom)
    datapath.install_filters(old.filters, 0.0)
    changes = new.since(old)
    added = []
    follower: str | None = None
    for entry in reversed(new.filters):
        if entry.id in changes.came:
            added.append((entry, follower))
        follower = entry.id
    gc.collect()
    seconds, _ = timed(lambda: datapath.change_filters(added[::-1], changes.went, 0.0))
    return seconds


def packet_cost(host: Namespace) -> float:
    """Seconds of processor time, the best of several rounds."""
    with host.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
        sender.connect((str(PEER_INTERFACE.ip), 33_333))
        payload = bytes(32)
        best = float("inf")
        for _ in range(ROUNDS):
            start = time.thread_time()
            for _ in range(PACKETS):
                with suppress(ConnectionRefusedError):  # nobody listens there, and sometimes says so
                    sender.send(payload)
            best = min(best, time.thread_time() - start)
    return best / PACKETS


def timed(operation: Callable[[], Result]) -> tuple[float, Result]:
    start = time.perf_counter()
    result = operation()
    return time.perf_counter() - start, result
