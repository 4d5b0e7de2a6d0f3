"""The honest peers of the flood benchmark: some with SAs that they rekey, others that come anew.

    python -m stockade.bench.flood_honest '{"responder": "10.9.9.2", "known": 50, …}'

First `known` hosts negotiate; then a line `ready` is printed. For `seconds` from then on, in turn, one of
them rekeys its quick mode, and a host that was never seen begins: every second of these with Microsoft's
vendor id (it understands cookies), the others without (as a third party's). Prints one line of JSON: for each
kind how many came up and failed, and the seconds that each took.
"""

import contextlib
import itertools
import json
import os
import select
import sys
import time
from dataclasses import replace
from ipaddress import IPv4Address, ip_address

from stockade.agent.udp import UdpSockets
from stockade.bench.ike_initiator import OneRule, Task, negotiation
from stockade.ike.config import EngineConfig
from stockade.ike.contract import Acquire, InstallSa, RekeyQuickMode, Report, ReportKind, Send
from stockade.ike.engine import Engine
from stockade.model.addresses import Address, AddressRange
from stockade.model.filters import Direction
from stockade.model.traffic import TrafficSelector
from stockade.wire.vendor_ids import MS_NT5_ISAKMPOAKLEY

KINDS = ("rekey", "new, Microsoft's", "new, third party's")
_STRANGER = bytes(range(16))
"""Instead of Microsoft's vendor id."""
AFTER = 20.0
"""Seconds that the last ones have to come up."""


class Honest:
    """The peers, their engine, and when each of them began what it waits for."""

    def __init__(self, task: Task) -> None:
        self.rule = negotiation(task)
        self.responder = ip_address(task.responder)
        spis = itertools.count(0x1000)
        self.engine = Engine(
            OneRule(self.rule),
            lambda local, peer: next(spis),
            os.urandom,
            replace(EngineConfig(), initiated_total=10_000),
        )
        self.sockets = UdpSockets(None)
        self.readers = dict(self.sockets.descriptors())
        self.inbound: dict[Address, int] = {}
        self.waiting: dict[Address, tuple[str, float]] = {}
        self.took: dict[str, list[float]] = {kind: [] for kind in ("set-up", *KINDS)}
        self.failed: dict[str, int] = dict.fromkeys(("set-up", *KINDS), 0)
        self.strangers: set[Address] = set()

    def begin(self, local: Address, kind: str) -> None:
        now = time.monotonic()
        self.waiting[local] = (kind, now)
        if kind == "rekey":
            self.engine.command(RekeyQuickMode(self.inbound[local]), now)
            return
        if kind == KINDS[2]:
            self.strangers.add(local)
        selector = TrafficSelector(AddressRange.host(local), AddressRange.host(self.responder))
        self.engine.command(Acquire(local, self.responder, selector, self.rule, "benchmark"), now)

    def run(self, until: float) -> None:
        """Carry messages until then, or until nothing is waited for if that is sooner and negative."""
        while time.monotonic() < abs(until) and (until > 0 or self.waiting):
            self._apply()
            due = self.engine.next_timeout()
            wait = 0.02 if due is None else max(0.0, min(0.02, due - time.monotonic()))
            for descriptor in select.select(list(self.readers), [], [], wait)[0]:
                for datagram, local, remote in self.readers[descriptor]():
                    self.engine.receive(datagram, local, remote, time.monotonic())
            self.engine.timeout(time.monotonic())
        self._apply()

    def _apply(self) -> None:
        now = time.monotonic()
        for effect in self.engine.effects():
            if isinstance(effect, Send):
                datagram = effect.datagram
                if effect.local.address in self.strangers:
                    datagram = datagram.replace(MS_NT5_ISAKMPOAKLEY, _STRANGER)
                with contextlib.suppress(OSError):
                    self.sockets.send(datagram, effect.local, effect.remote)
            elif isinstance(effect, InstallSa) and effect.sa.direction is Direction.INBOUND:
                self.inbound[effect.sa.destination] = effect.sa.spi
            elif isinstance(effect, Report):
                local = effect.local.address
                if local not in self.waiting:
                    continue
                kind, began = self.waiting[local]
                if effect.kind is ReportKind.QUICK_MODE_ESTABLISHED:
                    self.took[kind].append(now - began)
                    del self.waiting[local]
                elif effect.kind in (ReportKind.MAIN_MODE_FAILED, ReportKind.QUICK_MODE_FAILED):
                    self.failed[kind] += 1
                    del self.waiting[local]


def main() -> int:
    words = json.loads(sys.argv[1])
    known, seconds, interval = words.pop("known"), words.pop("seconds"), words.pop("interval")
    honest = Honest(Task(**words, count=known, window=20))
    first = int(IPv4Address(words["first"]))
    hosts = [IPv4Address(first + index) for index in range(known)]
    for host in hosts:
        honest.begin(host, "set-up")
        honest.run(-(time.monotonic() + 5.0))
    print("ready", flush=True)
    start = time.monotonic()
    fresh = itertools.count(first + 10_000)
    for number in itertools.count():
        moment = start + number * interval
        if moment > start + seconds:
            break
        honest.run(moment)
        kind = KINDS[(0, 1, 0, 2)[number % 4]]
        local = hosts[number // 2 % known] if kind == "rekey" else IPv4Address(next(fresh))
        if local not in honest.waiting:
            honest.begin(local, kind)
    honest.run(-(time.monotonic() + AFTER))
    for kind, _ in honest.waiting.values():
        honest.failed[kind] += 1
    print(json.dumps({"took": honest.took, "failed": honest.failed}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
