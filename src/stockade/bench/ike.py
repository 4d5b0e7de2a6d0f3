"""Full handshakes of IKEv1: how many a second, what they cost the responder, and what an SA keeps of memory.

    stockade bench ike            (or: python benchmarks/ike.py)

One and the same initiator (`ike_light.py`: no engine, so that it costs less than any responder) drives first
strongSwan's charon and then our agent, each in a process and a namespace of its own, over a veth. Every
handshake comes from another host. Each end has one processor (`--cores all`: what there is, of which charon's
16 threads use several). Who was busy all the time was the limit, and is told. Compared:

    main mode           both as they are
    main + quick mode   charon with its ESP in user space (kernel-libipsec), because the kernel may have none:
                        tunnel mode in UDP; our agent with the memory driver: transport mode. The messages of
                        the key exchange differ by a few payloads; what happens to the SAs is each one's own.

Processor time is that of all threads of the responder, from the scheduler; on a busy machine it says more
than the rate, because both ends and everybody else share the processors. *Split*: two engines in this
process, the responder's time inside the crypto room beside all the rest; key pairs are made within the
handshake, but for the one figure that says otherwise (and leaves their making out). Between processes what
the agent makes in idle time is in its processor time. Needs root; charon may be absent.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, ip_address, ip_interface
from pathlib import Path

from stockade.bench import ike_rekey, ike_shards, ike_split
from stockade.bench.ike_initiator import Task
from stockade.bench.ike_light import Outcome
from stockade.bench.ike_pki import make_pki
from stockade.bench.ike_responders import (
    INITIATOR,
    PEERS,
    PEERS_FIRST,
    PRESHARED_KEY,
    RESPONDER,
    CharonResponder,
    Pki,
    Responder,
    StockadeResponder,
)
from stockade.bench.report import Report
from stockade.lab.needs import find_program, real_network
from stockade.lab.netns import Namespace, Network
from stockade.model.reasons import ReasonCode, error_for

GROUPS = ("curve-25519", "ecp-256", "modp-2048")
METHODS = ("psk", "rsa")
SECTIONS = ("peers", "split", "memory", "rekey", "shards")
WINDOW = 20
BUSY = 0.85
"""Of a core: who is busy for so much of the time is what the others wait for."""
SETTLE_SECONDS = 0.3
AIMS = {"modp-2048": 1.5, "ecp-256": 0.7, "curve-25519": 0.7}
"""Of charon's rate, with a pre-shared key; with RSA it is 1.5 for all."""
REST_LIMIT = 1.0
"""Milliseconds of a handshake that are not crypto."""
MEMORY_LIMIT = 24.0
"""KiB for a main mode with its pair of SAs."""
LATENESS_LIMIT = 1000.0
"""Milliseconds. An SA is rekeyed a minute before it dies, so a second is no harm; more would be a backlog."""
MEMORY_SIZES = (1_000, 10_000)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    def names(allowed: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
        def parse(text: str) -> tuple[str, ...]:
            chosen = tuple(text.split(","))
            if not set(chosen) <= set(allowed):
                raise argparse.ArgumentTypeError(f"expected some of {','.join(allowed)}")
            return chosen

        return parse

    parser.add_argument("--count", type=int, default=300, help="handshakes per measurement")
    parser.add_argument("--rounds", type=int, default=1, help="measurements of each, the best counts")
    parser.add_argument("--groups", type=names(GROUPS), default=GROUPS, help=",".join(GROUPS))
    parser.add_argument("--methods", type=names(METHODS), default=METHODS, help="psk,rsa")
    parser.add_argument(
        "--sections",
        type=names(SECTIONS),
        default=SECTIONS,
        help=",".join(SECTIONS),
    )
    parser.add_argument("--phase", choices=("main", "both", "each"), default="each", help="what is compared")
    parser.add_argument("--memory", type=int, default=MEMORY_SIZES[-1], help="the largest number of SA pairs")
    parser.add_argument("--rekeys", type=int, default=MEMORY_SIZES[-1], help="peers whose SAs are rekeyed")
    parser.add_argument("--cores", choices=("one", "all"), default="one", help="that a responder may use")
    parser.add_argument("--windows", action="store_true", help="initiate as Windows does, with commit bit")
    parser.add_argument("--debug", action="store_true", help="print what the initiator says")


def run(options: argparse.Namespace, report: Report) -> None:
    pki = make_pki()
    kinds = [
        (method, group, pki if method == "rsa" else None)
        for method in options.methods
        for group in options.groups
    ]
    if "split" in options.sections:
        report.line("\nsplit: processor time of a responder in this process, main + quick mode")
        for method, group, own_pki in kinds:
            _split(report, method, group, own_pki, options.count)
    if "rekey" in options.sections:
        _rekey(options, report)
    if "shards" in options.sections:
        _shards(options, report)
    if not {"peers", "memory"} & set(options.sections):
        return
    missing = real_network()
    if missing is not None:
        report.line(f"\nno network here ({missing}): handshakes between processes are left out")
        return
    if "peers" in options.sections:
        for method, group, own_pki in kinds:
            for main_only in {"main": (True,), "both": (False,), "each": (True, False)}[options.phase]:
                _beside_charon(options, report, method, group, own_pki, main_only)
    if "memory" in options.sections:
        _memory(options, report)


# ---- sections
def _split(report: Report, method: str, group: str, pki: Pki | None, count: int) -> None:
    split = ike_split.measure(group, pki, count)
    ahead = ike_split.measure(group, pki, count, ahead=True)
    what = f"{method} {group}:"
    report.figure(f"{what} the whole", split.whole * 1e3, "ms")
    report.figure(f"{what} crypto", split.crypto * 1e3, "ms")
    report.figure(f"{what} the rest", (split.whole - split.crypto) * 1e3, "ms", REST_LIMIT)
    report.figure(f"{what} the rest, in the quietest handshakes", split.least_rest * 1e3, "ms", REST_LIMIT)
    report.figure(f"{what} the whole, its key pair made in idle time", ahead.whole * 1e3, "ms")


def _rekey(options: argparse.Namespace, report: Report) -> None:
    report.line(f"\nrekey: every SA of {options.rekeys} peers, on the clock of one core")
    result = ike_rekey.measure("curve-25519", options.rekeys)
    report.figure("rekeys", result.rekeyed, "SA pairs")
    report.figure("within", result.span, "s")
    report.figure("worst lateness of a timer", result.lateness * 1e3, "ms", LATENESS_LIMIT)
    report.figure("a look at all objects of both ends", result.collected * 1e3, "ms", LATENESS_LIMIT)
    report.figure("least left of a hard lifetime", result.margin, "s")
    report.figure("processor time of one rekey", result.cpu / result.rekeyed * 1e3, "ms")
    report.line(f"  (one core makes {result.rekeyed / result.cpu:.0f} rekeys a second)")


def _shards(options: argparse.Namespace, report: Report) -> None:
    report.line("\nshards: engines in processes of their own, each with a share of the peers and both roles")
    one: ike_shards.Shards | None = None
    for shards in range(1, (os.cpu_count() or 1) + 1):
        tries = [ike_shards.measure("curve-25519", None, options.count, shards) for _ in range(3)]
        best = max(tries, key=lambda entry: entry.rate)
        one = one or best
        what = f"{shards} of them:"
        report.figure(f"{what} handshakes of all together", best.rate, "/s", one.rate, "one's")
        report.figure(f"{what} processors that they got", best.processors, "", shards, "those asked for")
        report.figure(f"{what} a responder's processor time", best.responder * 1e3, "ms")
        report.figure(f"{what} the responders alone had time for", best.capacity, "/s", one.capacity, "one's")


def _beside_charon(
    options: argparse.Namespace, report: Report, method: str, group: str, pki: Pki | None, main_only: bool
) -> None:
    what = f"{method} {group} {'main mode' if main_only else 'main + quick mode'}"
    report.line(f"\n{what}: {options.count} handshakes, {WINDOW} at a time, best of {options.rounds}")
    best: dict[str, _Measured] = {}
    for _ in range(options.rounds):
        for name in ("charon", "Stockade"):
            if name == "charon" and find_program("charon-systemd") is None:
                continue
            measured = _measure(options, report, name, method, group, pki, main_only)
            if measured is not None:
                best[name] = measured.better(best.get(name))
    aim = 1.5 if method == "rsa" else AIMS[group]
    more, less = f"charon's, aim {aim} or more", f"charon's, aim {1 / aim:.2f} or less"
    charon = best.get("charon")
    for name, found in best.items():
        rate, cost = (None, None) if charon is None or found is charon else (charon.rate, charon.cost * 1e3)
        report.figure(f"{what}: {name}, rate", found.rate, "/s", rate, more)
        report.line(f"  {found.limit}")
        report.figure(f"{what}: {name}, responder CPU", found.cost * 1e3, "ms", cost, less)


@dataclass(frozen=True, slots=True)
class _Measured:
    """Of one responder: handshakes a second, its processor time for one in seconds, processors that it and
    the initiator were busy with."""

    rate: float
    cost: float
    responder: float
    initiator: float

    def better(self, other: "_Measured | None") -> "_Measured":
        """The faster of both, with the lower cost."""
        if other is None:
            return self
        return replace(max(self, other, key=lambda one: one.rate), cost=min(self.cost, other.cost))

    @property
    def limit(self) -> str:
        busy = f"responder busy {self.responder:.0%} of a core, initiator {self.initiator:.0%}"
        if self.initiator >= BUSY and self.initiator >= self.responder:
            return f"{busy}: the initiator was the limit, look at the processor time"
        if self.responder >= BUSY:
            return f"{busy}: the responder was the limit"
        return f"{busy}: other processes were the limit, look at the processor time"


def _measure(
    options: argparse.Namespace,
    report: Report,
    name: str,
    method: str,
    group: str,
    pki: Pki | None,
    main_only: bool,
) -> _Measured | None:
    """None where the handshakes failed."""
    with ExitStack() as stack:
        network, folder = laboratory(stack)
        responder: Responder
        if name == "charon":
            responder = CharonResponder(network["responder"], folder, group, pki, libipsec=not main_only)
        else:
            responder = StockadeResponder(network["responder"], folder, group, pki)
        with responder:
            tunnel = name == "charon" and not main_only
            task = replace(
                task_of(group, pki, count=20, main_only=main_only, tunnel=tunnel),
                windows=options.windows,
            )
            cores = sorted(os.sched_getaffinity(0))
            if options.cores == "one" and len(cores) > 1:
                responder.stay_on(cores[0])
                task = replace(task, core=cores[1])
            initiate(network["initiator"], task)  # caches are warm, everything is imported
            time.sleep(SETTLE_SECONDS)
            before = responder.usage()
            first = str(IPv4Address(int(ip_address(PEERS_FIRST)) + 20))
            outcome = initiate(network["initiator"], replace(task, first=first, count=options.count))
            time.sleep(SETTLE_SECONDS)  # what it puts off belongs to its price
            after = responder.usage()
        if options.debug:
            report.line(f"{name}: {outcome}")
        done, seconds = outcome.established, outcome.seconds
        if not done:
            report.line(f"{name}: no handshake came up: {outcome.reasons}")
            return None
        if done < options.count:
            report.line(f"{name}: {done} of {options.count} came up: {outcome.reasons}")
        used = after.cpu - before.cpu
        return _Measured(done / seconds, used / done, used / seconds, outcome.cpu_seconds / seconds)


def _memory(options: argparse.Namespace, report: Report) -> None:
    report.line(
        "\nmemory of the agent per host: a main mode, a pair of SAs, the driver's part; what there is once"
        " (a thousand journal entries, the caches) apart"
    )
    with ExitStack() as stack:
        network, folder = laboratory(stack)
        with StockadeResponder(network["responder"], folder, "curve-25519", None) as responder:
            initiate(network["initiator"], task_of("curve-25519", None, count=50))
            start, made = responder.usage().resident, 50
            last: tuple[int, int] | None = None
            for size in (*(size for size in MEMORY_SIZES if size < options.memory), options.memory):
                began = time.monotonic()
                task = task_of("curve-25519", None, count=size + 50 - made, skip=made)
                outcome = initiate(network["initiator"], task)
                established = outcome.established
                if made + established < size + 50:
                    report.line(f"  {established} of {size + 50 - made} came up: {outcome.reasons}")
                made += established
                grown = responder.usage().resident - start
                each = grown / (made - 50)
                report.figure(f"memory per SA pair at {made - 50}", each / 1024, "KiB", MEMORY_LIMIT)
                if last is not None:
                    slope = (grown - last[1]) / (made - 50 - last[0])
                    once = max(0.0, grown - slope * (made - 50))
                    report.figure(
                        f"  of it for each further pair, {last[0]} to {made - 50}", slope / 1024, "KiB"
                    )
                    report.figure("  of it once, however many there are", once / 1024, "KiB")
                last = made - 50, grown
                report.line(f"  (made in {time.monotonic() - began:.1f} s)")


# ---- the laboratory
def laboratory(stack: ExitStack) -> tuple[Network, Path]:
    """Two hosts; the initiator also answers for all of `PEERS`."""
    hosts = {
        "initiator": ip_interface(f"{INITIATOR}/24"),
        "responder": ip_interface(f"{RESPONDER}/24"),
    }
    network = stack.enter_context(Network(hosts))
    network["initiator"].ip(f"route add local {PEERS} dev lo")
    network["responder"].ip(f"route add {PEERS} via {INITIATOR}")
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stockade-bench-")))
    return network, folder


def task_of(
    group: str, pki: Pki | None, *, count: int, skip: int = 0, main_only: bool = False, tunnel: bool = False
) -> Task:
    return Task(
        responder=RESPONDER,
        first=str(IPv4Address(int(ip_address(PEERS_FIRST)) + skip)),
        count=count,
        window=WINDOW,
        group=group,
        preshared_key=PRESHARED_KEY,
        main_only=main_only,
        tunnel=tunnel,
        seconds=_seconds_for(count),
        cheap=pki.cheap if pki is not None else None,
    )


def _seconds_for(count: int) -> float:
    """How long so many handshakes may take at most, on the slowest machine that is worth a measurement."""
    return max(120.0, count / 10)


def initiate(namespace: Namespace, task: Task) -> Outcome:
    """Run the initiator in `namespace` and return what it says. `HostError` where it fails."""
    done = namespace.run(
        [sys.executable, "-m", "stockade.bench.ike_light", task.written],
        timeout=60 + _seconds_for(task.count),
        check=False,
    )
    if done.returncode:
        raise error_for(ReasonCode.INTERNAL, f"the initiator ended: {done.stderr.strip()[-300:]}")
    return Outcome(**json.loads(done.stdout))
