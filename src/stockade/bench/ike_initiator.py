"""The initiator of the handshake benchmark, in a process of its own: many hosts behind one pair of sockets.

    python -m stockade.bench.ike_initiator '{"responder": "10.9.9.2", "group": "modp-2048", …}'

The namespace that it runs in answers for a whole network of addresses (a local route, "AnyIP"), so every
handshake comes from a host of its own, as it would in life. A window of handshakes is under way at any time:
UDP has no flow control, and a responder that is flooded measures its time-outs. Prints one line of JSON: how
many came up and failed, and the seconds from the first message to the last.
"""

import contextlib
import gc
import itertools
import json
import os
import select
import sys
import time
from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_address

from stockade.agent.launch import COLLECTOR
from stockade.agent.udp import UdpSockets
from stockade.ike.config import EngineConfig, NatScope
from stockade.ike.contract import Acquire, Report, ReportKind, Send
from stockade.ike.engine import Engine
from stockade.model.addresses import Address, AddressRange
from stockade.model.negotiation import (
    AuthenticationMethod,
    Certificate,
    MainModePolicy,
    Mode,
    Negotiation,
    PresharedKey,
    QuickModeMatch,
    QuickModePolicy,
)
from stockade.model.reasons import Reason, StockadeError
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, EspSuite, Group, Hash, MainModeProposal, QuickModeProposal
from stockade.model.traffic import TrafficSelector
from stockade.pki.chain import Trust
from stockade.pki.credentials import Credentials, OwnCertificate
from stockade.wire.isakmp.constants import ExchangeType

PATIENCE = 15.0
"""Seconds without any handshake coming up after which the run ends."""
_EXCHANGE_TYPE = 18
"""Where an ISAKMP message has it."""


@dataclass(frozen=True, slots=True)
class Task:
    """What to do. `first` is the address of the first host, the others follow it; `main_only` stops after
    main mode. PEM texts as `pki`: certificate, key, root; without them the pre-shared key."""

    responder: str
    first: str
    count: int
    window: int
    group: str
    preshared_key: str
    main_only: bool = False
    tunnel: bool = False
    pki: tuple[str, str, str] | None = None
    root_name: str = ""
    seconds: float = 120.0


@dataclass
class Outcome:
    established: int = 0
    failed: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    reasons: dict[str, int] = field(default_factory=dict)


def suite(group: Group) -> MainModeProposal:
    return MainModeProposal(Encryption.AES_CBC_128, Hash.SHA_256, group)


ESP = QuickModeProposal(EspSuite(Encryption.AES_CBC_128, Hash.SHA_256))


class OneRule:
    """A policy with one negotiation, for everybody."""

    def __init__(self, rule: Negotiation) -> None:
        self._rule = rule

    def for_peer(self, local: Address, peer: Address) -> tuple[Negotiation, ...] | Reason:
        return (self._rule,)

    def for_quick_mode(
        self, local: Address, peer: Address, requested: TrafficSelector
    ) -> QuickModeMatch | Reason:
        return QuickModeMatch(self._rule, requested, "benchmark")


def negotiation(task: Task) -> Negotiation:
    method: AuthenticationMethod = (
        Certificate(task.root_name) if task.pki else PresharedKey(Secret(task.preshared_key.encode()))
    )
    quick_mode = (
        QuickModePolicy((ESP,), mode=Mode.TUNNEL, tunnel_endpoint=ip_address(task.responder))
        if task.tunnel
        else QuickModePolicy((ESP,))
    )
    return Negotiation("benchmark", MainModePolicy((suite(Group(task.group)),)), quick_mode, (method,))


def credentials(task: Task) -> Credentials | None:
    if task.pki is None:
        return None
    import ssl

    from stockade.crypto.signatures import PrivateKey
    from stockade.pki.certificate import read_certificate

    certificate, root = (ssl.PEM_cert_to_DER_cert(text) for text in (task.pki[0], task.pki[2]))
    key = task.pki[1].encode()
    return Credentials(
        [OwnCertificate(read_certificate(certificate), PrivateKey.load(key))],
        Trust((read_certificate(root),)),
    )


def run(task: Task) -> Outcome:
    """All handshakes of the task."""
    rule, responder = negotiation(task), ip_address(task.responder)
    spis = itertools.count(0x1000)
    # charon with its ESP in user space says that it is behind a NAT
    config = EngineConfig(initiated_total=task.window + 1, nat_scope=NatScope.BOTH)
    engine = Engine(OneRule(rule), lambda local, peer: next(spis), os.urandom, config, credentials(task))
    sockets = UdpSockets(None)
    readers = dict(sockets.descriptors())
    poll = select.poll()
    for descriptor in readers:
        poll.register(descriptor, select.POLLIN)
    outcome = Outcome()
    gc.freeze()  # as the agent does
    gc.set_threshold(*COLLECTOR)
    end = ReportKind.MAIN_MODE_ESTABLISHED if task.main_only else ReportKind.QUICK_MODE_ESTABLISHED
    begun = 0
    start = last = time.monotonic()
    cpu = time.process_time()
    first = int(IPv4Address(task.first))

    def act(now: float) -> None:
        nonlocal last
        for effect in engine.effects():
            if isinstance(effect, Send):
                if task.main_only and effect.datagram[_EXCHANGE_TYPE] == ExchangeType.QUICK_MODE:
                    continue
                with contextlib.suppress(OSError):  # a full queue of the interface: retransmission's business
                    sockets.send(effect.datagram, effect.local, effect.remote)
            elif isinstance(effect, Report):
                if effect.kind is end:
                    outcome.established += 1
                    last = now
                elif effect.kind in (ReportKind.MAIN_MODE_FAILED, ReportKind.QUICK_MODE_FAILED):
                    if task.main_only and effect.kind is ReportKind.QUICK_MODE_FAILED:
                        continue
                    outcome.failed += 1
                    word = effect.reason.code.word
                    outcome.reasons[word] = outcome.reasons.get(word, 0) + 1

    while outcome.established + outcome.failed < task.count:
        now = time.monotonic()
        if now - last > PATIENCE or now - start > task.seconds:
            break
        while begun < task.count and begun - outcome.established - outcome.failed < task.window:
            local = IPv4Address(first + begun)
            selector = TrafficSelector(AddressRange.host(local), AddressRange.host(responder))
            engine.command(Acquire(local, responder, selector, rule, "benchmark"), now)
            begun += 1
        act(now)
        due = engine.next_timeout()
        wait = 0.2 if due is None else max(0.0, min(0.2, due - time.monotonic()))
        for descriptor, _ in poll.poll(wait * 1000):
            now = time.monotonic()
            for datagram, local_end, remote in readers[descriptor]():
                engine.receive(datagram, local_end, remote, now)
                act(now)  # so that the responder works while the next one is read
        engine.timeout(time.monotonic())
    outcome.seconds = last - start
    outcome.cpu_seconds = time.process_time() - cpu
    sockets.close()
    return outcome


def main() -> int:
    words = json.loads(sys.argv[1])
    if words.get("pki"):
        words["pki"] = tuple(words["pki"])
    try:
        outcome = run(Task(**words))
    except StockadeError as error:
        print(f"stockade: {error}", file=sys.stderr)
        return 1
    print(json.dumps(outcome.__dict__))
    return 0


if __name__ == "__main__":
    sys.exit(main())
