"""Floods from forged addresses, and what honest peers notice of them.

    stockade bench flood          (or: python benchmarks/flood.py)

The agent as it is, with the memory driver, in one namespace; in another, on the same veth, a sender and
honest peers that rekey and that come anew. One flood is of first messages (half of them with Microsoft's
vendor id), one of messages of main modes that there never were: encrypted and not, of main and of quick mode,
with made-up cookies of both ends. The same honest peers without a flood stand beside them. Sender, agent and
peers share the processors of this machine. Needs root.
"""

import argparse
import json
import subprocess
import sys
from contextlib import ExitStack
from ipaddress import IPv4Address
from statistics import median

from stockade.agent.client import AgentClient
from stockade.agent.paths import Paths
from stockade.bench.flood_honest import KINDS
from stockade.bench.ike import laboratory, task_of
from stockade.bench.ike_initiator import OneRule, Task, negotiation
from stockade.bench.ike_responders import PRESHARED_KEY, RESPONDER, StockadeResponder, Usage
from stockade.bench.report import Report
from stockade.ike.contract import Acquire, Send
from stockade.ike.engine import Engine
from stockade.lab.needs import real_network
from stockade.lab.netns import Namespace
from stockade.model.addresses import AddressRange
from stockade.model.traffic import TrafficSelector
from stockade.wire.isakmp.constants import ExchangeType, PayloadType
from stockade.wire.isakmp.message import VERSION, Header, encode_message
from stockade.wire.vendor_ids import MS_NT5_ISAKMPOAKLEY

FORGED, FORGED_FIRST, FORGED_NUMBER = "10.66.0.0/15", "10.66.0.1", 130_000
INSIDE = "10.64.0.0/14"
RATE, SECONDS, KNOWN, INTERVAL = 50_000, 10.0, 50, 0.1
FLOODS = ("first messages", "strays")
MEMORY_LIMIT = 64.0
"""MiB that the agent may grow by: the bit fields, the half-open main modes, the queues."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rate", type=int, default=RATE, help="first messages a second")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="how long")
    parser.add_argument("--known", type=int, default=KNOWN, help="peers that have SAs")
    parser.add_argument("--only", choices=FLOODS, help="one of the floods")


def run(options: argparse.Namespace, report: Report) -> None:
    missing = real_network()
    if missing is not None:
        report.line(f"no network here: {missing}")
        return
    calm: dict[str, list[float]] = {}
    for flooded in ("", *FLOODS):
        if flooded and options.only not in (None, flooded):
            continue
        with ExitStack() as stack:
            network, folder = laboratory(stack)
            network["initiator"].ip(f"route add blackhole {FORGED}")
            network["responder"].ip(f"route add {FORGED} via {network['initiator'].addresses[0]}")
            with StockadeResponder(
                network["responder"], folder, "curve-25519", None, peers=INSIDE
            ) as responder:
                honest = _start(
                    network["initiator"],
                    "flood_honest",
                    {
                        **_task(),
                        "known": options.known,
                        "seconds": options.seconds,
                        "interval": INTERVAL,
                    },
                )
                assert honest.stdout is not None
                if honest.stdout.readline().strip() != "ready":
                    raise AssertionError("the honest peers did not begin")
                before = responder.usage()
                sender = None
                if flooded:
                    forged = {
                        "messages": [text.hex() for text in messages_of(flooded)],
                        "cookies": 1 + FLOODS.index(flooded),
                        "destination": RESPONDER,
                        "first_source": int(IPv4Address(FORGED_FIRST)),
                        "sources": FORGED_NUMBER,
                        "rate": options.rate,
                        "seconds": options.seconds,
                    }
                    sender = _start(network["initiator"], "flood_sender", forged)
                sent = json.loads(sender.communicate(timeout=120)[0]) if sender is not None else {}
                output, _ = honest.communicate(timeout=120)
                outcome = json.loads(output)
                after = responder.usage()
                status = AgentClient(Paths.of(folder / "home").socket, timeout=30.0).get("/v1/status")
        report.line(f"\nwith a flood of {flooded}" if flooded else "\nwithout a flood")
        if flooded:
            _tell_flood(report, options, flooded, sent, before, after, status)
        for kind in KINDS:
            _tell_kind(report, kind, outcome, bool(flooded), calm)


def _tell_flood(
    report: Report,
    options: argparse.Namespace,
    kind: str,
    sent: dict[str, float],
    before: Usage,
    after: Usage,
    status: dict[str, object],
) -> None:
    reached = sent["sent"] / sent["seconds"]
    report.figure(f"forged {kind}", reached, "/s", options.rate, "what was asked")
    grown = (after.resident - before.resident) / 2**20
    report.figure("memory of the agent, growth", grown, "MiB", MEMORY_LIMIT)
    ike = status["ike"]
    assert isinstance(ike, dict)
    if kind == FLOODS[0]:
        read = ike["cookies_sent"] + ike["first_messages_dropped"]
        report.figure("first messages that the agent read", read / sent["seconds"], "/s")
        report.figure("answered by a cookie", ike["cookies_sent"] / sent["seconds"], "/s")
    else:
        report.figure("strays that the agent read", ike["invalid_cookies_received"] / sent["seconds"], "/s")
    report.figure("half-open main modes at the end", ike["active_receive"], "", 1000.0)
    report.figure("processor time of the agent", (after.cpu - before.cpu) / sent["seconds"], "s/s")


def _tell_kind(
    report: Report,
    kind: str,
    outcome: dict[str, dict[str, object]],
    flooded: bool,
    calm: dict[str, list[float]],
) -> None:
    took, failed = outcome["took"][kind], outcome["failed"][kind]
    assert isinstance(took, list)
    assert isinstance(failed, int)
    when = "in the flood" if flooded else "in peace"
    report.figure(f"{kind}, {when}: came up", len(took), "", float(len(took) + failed), "those that began")
    if took:
        reference = median(calm[kind]) * 1e3 if calm.get(kind) else None
        report.figure(f"{kind}, {when}: median", median(took) * 1e3, "ms", reference, "in peace")
        report.figure(f"{kind}, {when}: longest", max(took) * 1e3, "ms")
    if not flooded:
        calm[kind] = took


def _task() -> dict[str, object]:
    task = task_of("curve-25519", None, count=0)
    return {name: getattr(task, name) for name in ("responder", "first", "group", "preshared_key")}


def _start(namespace: Namespace, module: str, task: dict[str, object]) -> "subprocess.Popen[str]":
    return namespace.popen(
        [sys.executable, "-m", f"stockade.bench.{module}", json.dumps(task)], stdout=subprocess.PIPE
    )


def messages_of(flood: str) -> list[bytes]:
    """What a flood consists of."""
    if flood == FLOODS[0]:
        return first_messages()
    exchanges = (
        (PayloadType.KEY_EXCHANGE, ExchangeType.IDENTITY_PROTECTION, 0, 0),
        (PayloadType.IDENTIFICATION, ExchangeType.IDENTITY_PROTECTION, 1, 0),
        (PayloadType.HASH, ExchangeType.QUICK_MODE, 1, 0x1234_5678),
        (PayloadType.HASH, ExchangeType.INFORMATIONAL, 1, 0x1234_5678),
        (PayloadType.NOTIFICATION, ExchangeType.INFORMATIONAL, 0, 0x1234_5678),
    )
    body = bytes(range(200))
    return [
        encode_message(Header(b"\1" * 8, b"\2" * 8, first, VERSION, exchange, flags, message_id), body)
        for first, exchange, flags, message_id in exchanges
    ]


def first_messages() -> list[bytes]:
    """Two first messages that the agent's policy would accept: as Microsoft's and as a third party's."""
    task = Task(RESPONDER, "10.64.0.1", 1, 1, "curve-25519", PRESHARED_KEY)
    rule = negotiation(task)
    engine = Engine(OneRule(rule), lambda local, peer: 0x1000, lambda size: b"\x55" * size)
    local, peer = IPv4Address("10.64.0.1"), IPv4Address(RESPONDER)
    selector = TrafficSelector(AddressRange.host(local), AddressRange.host(peer))
    engine.command(Acquire(local, peer, selector, rule, "benchmark"), 0.0)
    (message,) = (effect.datagram for effect in engine.effects() if isinstance(effect, Send))
    return [message, message.replace(MS_NT5_ISAKMPOAKLEY, bytes(range(16)))]
