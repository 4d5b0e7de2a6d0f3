"""The demo's world without root: the same story in one process, over the memory driver and a virtual network.

What is real: the policies and the command line that writes them, compiling, the key exchange, ESP with its
keys, the filters' decisions. What is not: the packets never leave the process, the hosts' TCP is the
laboratory's, and time is virtual, so `reconnect_s` is what it would take with `START_SECONDS` for the agent's
start. Throughput is by the wall clock: what this process can push through both ends at once.
"""

import contextlib
import hashlib
import os
import shutil
import time
from pathlib import Path

from stockade.agent.known_peers import KnownPeers
from stockade.agent.paths import Paths
from stockade.lab import netns
from stockade.lab.capture import Tally, WireWatch
from stockade.lab.errors import LabError
from stockade.lab.examples import apply_example_policy
from stockade.lab.story import (
    FILE_PORT,
    HOSTS,
    PROTECTED_HOSTS,
    RECONNECT_LIMIT_SECONDS,
    SSH_PORT,
    TELNET_PORT,
    WEB_PORT,
    FailoverResult,
    FileResult,
    PingResult,
    is_blocked,
    is_permitted,
    is_protected,
)
from stockade.lab.tcp import Connection, State
from stockade.lab.virtual import VirtualClock, VirtualNetwork
from stockade.lab.virtual_host import RandomBytes, VirtualHost
from stockade.policy.objects import PolicySet
from stockade.store.local import LocalStore

FILE_BYTES = 2 * 1024 * 1024
START_SECONDS = 0.5
PING_INTERVAL = 0.05
FOLLOW_INTERVAL = 0.02
PROBE_SECONDS = 2.0
FILE_SECONDS = 600.0
GREETING = b"hello from the laboratory\r\n"


class VirtualWorld:
    """Implements `stockade.lab.story.World`. `random` and the network's settings (`delay`, `loss` … of
    `VirtualNetwork`) make a run worse or repeatable; `file_bytes` is what `move_file` moves."""

    def __init__(
        self,
        *,
        random: RandomBytes = os.urandom,
        delay: float = 0.0005,
        loss: float = 0.0,
        duplication: float = 0.0,
        seed: int = 0,
        file_bytes: int = FILE_BYTES,
    ) -> None:
        self._random = random
        self._file_bytes = file_bytes
        self._clock = VirtualClock()
        self.network = VirtualNetwork(
            self._clock, delay=delay, jitter=delay / 10, loss=loss, duplication=duplication, seed=seed
        )
        self._watch: WireWatch | None = None
        self._hosts: dict[str, VirtualHost] = {}
        self._paths: dict[str, Paths] = {}
        self._open = contextlib.ExitStack()
        self._folder = Path()

    def describe(self) -> str:
        return "no packets on this machine: virtual hosts in one process, virtual time"

    def data_plane(self) -> str:
        driver = self._host("beta").driver
        return driver.capabilities.name if driver is not None else ""

    def time_word(self) -> str:
        return "virtual seconds"

    def throughput_note(self) -> str:
        return "(both ends in this process, wall clock)"

    # ---- the steps ----

    def set_up(self) -> None:
        self._folder = netns.make_folder()
        self._open.callback(shutil.rmtree, self._folder, ignore_errors=True)
        for name, interface in HOSTS.items():
            self._hosts[name] = VirtualHost(name, interface.ip, self.network, self._random)
        beta = self._host("beta").stack
        for port in (SSH_PORT, TELNET_PORT, WEB_PORT):
            beta.listen(port, _greet)
        beta.listen(FILE_PORT, _sink)

    def apply_policies(self) -> None:
        for host in PROTECTED_HOSTS:
            self._paths[host] = Paths.of(self._folder / host)
            apply_example_policy(host, self._folder / host)

    def start_agents(self) -> None:
        for host in PROTECTED_HOSTS:
            self._start(host)
        self._watch = watch = WireWatch(is_protected, is_blocked, is_permitted)

        def tap(now: float, packet: bytes) -> None:
            watch.see(packet)

        self.network.tap(tap)

    def ping(self, source: str, target: str, count: int) -> PingResult:
        times: list[float] = []
        stack, peer = self._host(source).stack, HOSTS[target].ip

        def on_echo(sent: float, received: float) -> None:
            times.append(received - sent)

        for _ in range(count):
            stack.ping(peer, on_echo)
            self._clock.run(PING_INTERVAL)
        self._clock.run(PROBE_SECONDS, lambda: len(times) == count)
        return PingResult(count, len(times), tuple(times))

    def probe(self, source: str, target: str, port: int) -> str:
        heard = bytearray()
        connection = self._host(source).stack.connect(HOSTS[target].ip, port)
        connection.on_data = heard.extend
        connection.on_end = connection.close
        self._clock.run(PROBE_SECONDS, lambda: heard == GREETING or connection.state is State.CLOSED)
        if heard == GREETING:
            self._clock.run(PROBE_SECONDS, lambda: connection.state is State.CLOSED)
            return "open"
        if connection.state is State.CLOSED:
            return connection.failed or "failed: no greeting"
        connection.abort("given up")
        return "unanswered"

    def move_file(self, source: str, target: str) -> FileResult:
        content = self._random(self._file_bytes)
        answer = bytearray()
        connection = self._host(source).stack.connect(HOSTS[target].ip, FILE_PORT)
        connection.on_data = answer.extend
        began = time.perf_counter()
        connection.send(content)
        connection.close()
        self._clock.run(FILE_SECONDS, lambda: connection.state is State.CLOSED)
        seconds = time.perf_counter() - began
        intact = bytes(answer) == hashlib.sha256(content).digest()
        trouble = connection.failed or (
            "" if connection.state is State.CLOSED else "the transfer did not end in time"
        )
        return FileResult(len(content), seconds, intact, trouble)

    def crash_and_restart(self, host: str, pinging: str) -> float | None:
        peer, stack = HOSTS[host].ip, self._host(pinging).stack
        answers: list[tuple[float, float]] = []
        going_on = True

        def ask() -> None:
            if going_on:
                stack.ping(peer, lambda sent, received: answers.append((sent, received)))
                self._clock.call_later(FOLLOW_INTERVAL, ask)

        ask()
        if not self._clock.run(PROBE_SECONDS, lambda: bool(answers)):
            raise LabError(f"{host} does not answer before the crash")
        killed = self._clock.now
        self._host(host).kill_agent()
        self._clock.run(START_SECONDS)
        self._start(host)
        back = self._clock.run(RECONNECT_LIMIT_SECONDS, lambda: bool(answers) and answers[-1][0] >= killed)
        going_on = False
        return answers[-1][1] - killed if back else None

    def fail_over(self) -> FailoverResult | None:
        return None  # what it takes is a matter of real processes and addresses

    def tally(self) -> Tally:
        if self._watch is None:
            raise LabError("nobody watches the wire yet")
        return self._watch.tally()

    def stop_agents(self) -> list[str]:
        left = []
        for name in PROTECTED_HOSTS:
            self._host(name).stop_agent()
            self._clock.run(1.0)  # the good-byes arrive
            for other in PROTECTED_HOSTS:
                core = self._host(other).core
                if core is not None and (core.engine.quick_modes(self._clock.now)):
                    left.append(f"SAs in {other} after {name} said good-bye")
        return left

    def close(self) -> None:
        self._open.close()

    # ---- helpers ----

    def _host(self, name: str) -> VirtualHost:
        if name not in self._hosts:
            raise LabError("the hosts are not set up")
        return self._hosts[name]

    def _start(self, host: str) -> None:
        paths = self._paths[host]
        known = KnownPeers(paths.state)
        self._open.callback(known.close)
        self._host(host).start_agent([_read(paths)], known)


def _read(paths: Paths) -> PolicySet:
    store = LocalStore(paths.policy)
    try:
        return store.read()
    finally:
        store.close()


def _greet(connection: Connection) -> None:
    def greet() -> None:
        connection.send(GREETING)
        connection.close()

    connection.on_open = greet


def _sink(connection: Connection) -> None:
    digest = hashlib.sha256()

    def answer() -> None:
        connection.send(digest.digest())
        connection.close()

    connection.on_data = digest.update
    connection.on_end = answer
