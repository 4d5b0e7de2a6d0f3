"""The demo's world with real packets: three network namespaces, agents as processes, a capture on the wire.
Root.

alpha and beta each have a folder of their own (`--home`), the policy comes through `stockade netsh -f`, the
agents are `stockade agent run`; nothing here knows more about the product than a user does.
"""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from stockade.agent.client import AgentClient
from stockade.agent.paths import Paths
from stockade.lab import netns
from stockade.lab.capture import Capture, Tally, WireWatch
from stockade.lab.errors import LabError
from stockade.lab.examples import STOCKADE, apply_example_policy
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
    address_of,
    is_blocked,
    is_permitted,
    is_protected,
)
from stockade.model.reasons import StockadeError

TRANSFER = (sys.executable, "-m", "stockade.lab.transfer")
FILE_BYTES = 16 * 1024 * 1024
START_SECONDS = 60.0
STOP_SECONDS = 20.0
PROBE_SECONDS = 2.0
PING_INTERVAL = 0.05
FOLLOW_INTERVAL = 0.02
LOG_LINES = 8


class Agent:
    """`stockade --home DIR agent run` inside a namespace. What it prints goes to a file in its folder."""

    def __init__(self, namespace: netns.Namespace, home: Path) -> None:
        self.home = home
        self._namespace = namespace
        self._log = home.with_suffix(".log")
        self._process: subprocess.Popen[str] | None = None
        self._client = AgentClient(Paths.of(home).socket, timeout=2.0)

    def start(self) -> None:
        """Start it; returns at once."""
        with self._log.open("ab") as log:
            self._process = self._namespace.popen(
                [*STOCKADE, "--home", str(self.home), "agent", "run"], stdout=log.fileno()
            )

    def wait_until_ready(self) -> dict[str, object]:
        """Wait until a policy is in force; the agent's status."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                raise LabError(f"{self._namespace.name}'s agent ended at once: {self.last_words()}")
            with contextlib.suppress(StockadeError):
                status: dict[str, object] = self._client.get("/v1/status")
                if status.get("policy_refused"):
                    raise LabError(
                        f"{self._namespace.name}'s agent refuses the policy: {status['policy_refused']}"
                    )
                if status.get("policy"):
                    return status
            time.sleep(0.02)
        raise LabError(f"{self._namespace.name}'s agent has no policy in force: {self.last_words()}")

    def kill(self) -> float:
        """SIGKILL to the agent's own process and nothing else; waits until the rest of it (the data plane) is
        gone too. Returns when that was, on the monotonic clock."""
        process = self._running()
        # A session of its own: all of the agent's processes have this group.
        group = os.getpgid(process.pid)
        process.kill()
        process.wait(STOP_SECONDS)
        deadline = time.monotonic() + STOP_SECONDS / 4
        while _group_exists(group):
            if time.monotonic() > deadline:
                raise LabError("the data plane outlives an agent that was killed")
            time.sleep(0.002)
        return time.monotonic()

    def terminate(self) -> int:
        """SIGTERM; the exit status."""
        process = self._running()
        process.terminate()
        try:
            return process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired as error:
            name = self._namespace.name
            raise LabError(
                f"{name}'s agent does not stop within {STOP_SECONDS:g} seconds: {self.last_words()}"
            ) from error

    def last_words(self) -> str:
        """The end of what it printed."""
        with contextlib.suppress(OSError):
            lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
            return "\n".join(lines[-LOG_LINES:]) or "it said nothing"
        return "it said nothing"

    def _running(self) -> "subprocess.Popen[str]":
        if self._process is None or self._process.poll() is not None:
            raise LabError(f"{self._namespace.name}'s agent is not running: {self.last_words()}")
        return self._process


class RealWorld:
    """Implements `stockade.lab.story.World`. `pcap`: where to keep what was on the wire, if anywhere."""

    def __init__(self, pcap: Path | None = None) -> None:
        self._pcap = pcap
        self._open = contextlib.ExitStack()
        self._network: netns.Network | None = None
        self._folder = Path()
        self._agents: dict[str, Agent] = {}
        self._capture: Capture | None = None
        self._clean: dict[str, dict[str, set[str]]] = {}
        self._driver = ""

    def describe(self) -> str:
        return "real packets: three network namespaces on this machine, agents as processes"

    def data_plane(self) -> str:
        return self._driver

    def time_word(self) -> str:
        return "seconds"

    def throughput_note(self) -> str:
        return "(TCP, both hosts and the capture on this machine)"

    # ---- the steps ----

    def set_up(self) -> None:
        self._network = self._open.enter_context(netns.Network(HOSTS))
        self._folder = netns.make_folder()
        self._open.callback(shutil.rmtree, self._folder, ignore_errors=True)
        self._serve()

    def apply_policies(self) -> None:
        for host in PROTECTED_HOSTS:
            home = self._folder / host
            self._agents[host] = Agent(self._host(host), home)
            apply_example_policy(host, home)

    def start_agents(self) -> None:
        self._clean = {host: _system_state(self._host(host)) for host in PROTECTED_HOSTS}
        for agent in self._agents.values():
            agent.start()
        states = [agent.wait_until_ready() for agent in self._agents.values()]
        self._driver = str(states[0].get("driver", ""))
        network = self._net()
        # Beta's port on the switch: everything between beta and the other two passes there, once.
        watch = WireWatch(is_protected, is_blocked, is_permitted)
        self._capture = Capture(network.switch, network.port("beta"), watch, self._pcap)
        self._open.enter_context(self._capture)

    def ping(self, source: str, target: str, count: int) -> PingResult:
        timeout = 1.0 if count < 5 else 5.0
        arguments = ("--count", str(count), "--interval", str(PING_INTERVAL), "--timeout", str(timeout))
        answer = self._transfer(source, "ping", str(address_of(target)), *arguments)
        times = answer["round_trips"]
        assert isinstance(times, list)
        return PingResult(_number(answer, "sent"), _number(answer, "received"), tuple(times))

    def probe(self, source: str, target: str, port: int) -> str:
        answer = self._transfer(
            source, "probe", str(address_of(target)), str(port), "--timeout", str(PROBE_SECONDS)
        )
        return str(answer["result"])

    def move_file(self, source: str, target: str) -> FileResult:
        file = self._folder / "file"
        content = secrets.token_bytes(FILE_BYTES)
        file.write_bytes(content)
        answer = self._transfer(source, "send", str(address_of(target)), str(FILE_PORT), str(file))
        intact = (
            answer.get("sha256") == hashlib.sha256(content).hexdigest() and answer.get("bytes") == FILE_BYTES
        )
        seconds = answer.get("seconds", 0.0)
        assert isinstance(seconds, float)
        return FileResult(FILE_BYTES, seconds, intact, str(answer.get("error", "")))

    def crash_and_restart(self, host: str, pinging: str) -> float | None:
        agent = self._agents[host]
        with Follower(self._host(pinging), str(address_of(host))) as follower:
            if follower.wait_for_answer(after=0.0, limit=PROBE_SECONDS * 2) is None:
                raise LabError(f"{host} does not answer {pinging}'s ping before the crash")
            killed = time.monotonic()
            dead = agent.kill()
            agent.start()
            # Only a request that was sent when all of the old agent was gone shows that the new one works.
            answered = follower.wait_for_answer(after=dead, limit=RECONNECT_LIMIT_SECONDS)
        agent.wait_until_ready()
        return None if answered is None else answered - killed

    def fail_over(self) -> FailoverResult | None:
        from stockade.lab import failover  # it builds on this module

        return failover.measure()

    def tally(self) -> Tally:
        if self._capture is None:
            raise LabError("the capture does not run yet")
        return self._capture.tally()

    def stop_agents(self) -> list[str]:
        if self._capture is not None:
            self._capture.stop()
        left = []
        for host, agent in self._agents.items():
            status = agent.terminate()
            if status != 0:
                left.append(f"{host}'s agent ended with status {status}: {agent.last_words()}")
        for host, clean in self._clean.items():
            namespace = self._host(host)
            now = _system_state(namespace)
            left += [
                f"{kind} in {host}: {entry}"
                for kind in now
                for entry in sorted(now[kind] - clean.get(kind, set()))
            ]
            serving = 1 if host == "beta" else 0
            if len(namespace.processes()) > serving:
                left.append(f"processes in {host}")
        return left

    def close(self) -> None:
        self._open.close()  # the network kills what still runs in it

    # ---- helpers ----

    def _net(self) -> netns.Network:
        if self._network is None:
            raise LabError("the network is not set up")
        return self._network

    def _host(self, name: str) -> netns.Namespace:
        return self._net()[name]

    def _serve(self) -> None:
        """Start the listeners on beta and wait until they listen."""
        arguments = ["serve", str(address_of("beta")), "--sink", str(FILE_PORT)]
        for port in (SSH_PORT, TELNET_PORT, WEB_PORT):
            arguments += ["--greet", str(port)]
        server = self._host("beta").popen([*TRANSFER, *arguments], stdout=subprocess.PIPE)
        self._open.callback(_reap, server)
        if _first_line(server, START_SECONDS) != "ready\n":
            raise LabError("the listeners on beta did not start")

    def _transfer(self, host: str, *arguments: str) -> dict[str, object]:
        """Run the traffic maker in a host; what it prints."""
        result = self._host(host).run(
            [*TRANSFER, *arguments], timeout=2 * netns.COMMAND_SECONDS + PROBE_SECONDS
        )
        answer: dict[str, object] = json.loads(result.stdout)
        return answer


class Follower:
    """Pings without end; every answer is (sent, received) on the monotonic clock, which all namespaces
    share."""

    def __init__(self, namespace: netns.Namespace, address: str) -> None:
        arguments = ["ping", address, "--interval", str(FOLLOW_INTERVAL)]
        limit = RECONNECT_LIMIT_SECONDS + START_SECONDS
        self._process = namespace.popen(
            [*TRANSFER, *arguments, "--follow", str(limit)], stdout=subprocess.PIPE
        )
        self._answers: list[tuple[float, float]] = []
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> "Follower":
        self._thread.start()
        return self

    def __exit__(self, *details: object) -> None:
        _reap(self._process)
        self._thread.join(1.0)

    def wait_for_answer(self, after: float, limit: float) -> float | None:
        """When the first request that was sent at `after` or later was answered; None if not within
        `limit`."""
        deadline = time.monotonic() + limit
        position = 0
        while time.monotonic() < deadline:
            while position < len(self._answers):
                sent, received = self._answers[position]
                position += 1
                if sent >= after:
                    return received
            time.sleep(0.005)
        return None

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with contextlib.suppress(ValueError, KeyError):
                record = json.loads(line)
                self._answers.append((float(record["sent"]), float(record["received"])))


def _system_state(namespace: netns.Namespace) -> dict[str, set[str]]:
    """What an agent could leave in the system, as comparable lines: nftables, routing rules, links,
    routes."""

    def lines(argv: Sequence[str]) -> set[str]:
        text = namespace.run(argv).stdout
        return {" ".join(line.split()) for line in text.splitlines() if line.strip()}

    return {
        "nftables table": lines(["nft", "list", "tables"]),
        "routing rule": lines(["ip", "rule", "show"]),
        "link": lines(["ip", "-brief", "link", "show"]),
        "route": lines(["ip", "route", "show", "table", "all"]),
    }


def _group_exists(group: int) -> bool:
    """Whether a living process has this process group. Zombies do not count: where process 1 reaps nobody,
    the dead data plane of a dead agent stays one."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                fields = (
                    (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
                )
                if int(fields[2]) == group and fields[0] not in "ZX":
                    return True
    return False


def _first_line(process: "subprocess.Popen[str]", seconds: float) -> str:
    """The first line that a process prints; empty if it ends without one, or after `seconds` (then it is
    killed)."""
    assert process.stdout is not None
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    try:
        return process.stdout.readline()
    finally:
        timer.cancel()


def _reap(process: "subprocess.Popen[str]") -> None:
    """Kill a process of ours and everything that it started, and wait for it."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(netns.KILL_SECONDS)
    if process.stdout is not None:
        process.stdout.close()


def _number(answer: dict[str, object], key: str) -> int:
    value = answer[key]
    assert isinstance(value, int)
    return value
