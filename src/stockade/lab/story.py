"""The story of the demo: what happens, in which order, and what was promised. The same over real and virtual
hosts.

    alpha ══ ESP ══ beta      the same policy on both: TCP and ICMP secured, telnet blocked, SSH permitted
               ╳
             gamma            no IPsec

A `World` carries out the steps, `tell` takes it through them, `Findings` holds what was seen. A promise that
can be kept by accident is checked against the time before: every port and every ping must work while no
policy is in force, so that a broken listener does not count as a blocked port.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface
from typing import Protocol

from stockade.lab.capture import Tally
from stockade.lab.errors import LabError
from stockade.model.traffic import ICMP, TCP, Flow

HOSTS = {
    "alpha": IPv4Interface("10.99.0.1/24"),
    "beta": IPv4Interface("10.99.0.2/24"),
    "gamma": IPv4Interface("10.99.0.3/24"),
}
PROTECTED_HOSTS = ("alpha", "beta")
SSH_PORT, TELNET_PORT, WEB_PORT, FILE_PORT = 22, 23, 8080, 5001
"""SSH is permitted, telnet blocked; the others stand for all TCP, which is secured."""
PING_COUNT = 20
RECONNECT_LIMIT_SECONDS = 60.0


def address_of(host: str) -> IPv4Address:
    return HOSTS[host].ip


def is_protected(flow: Flow) -> bool:
    """Whether a packet on the wire is traffic that the policy secures: ICMP, and TCP but for telnet and SSH,
    sent by a host that has the policy. (What gamma sends in clear is gamma's affair; an answer to it would be
    ours.)"""
    if flow.source not in {address_of(host) for host in PROTECTED_HOSTS}:
        return False
    if flow.protocol == ICMP:
        return True
    return flow.protocol == TCP and not {SSH_PORT, TELNET_PORT} & {flow.source_port, flow.destination_port}


def is_blocked(flow: Flow) -> bool:
    """Telnet between the hosts that have the policy."""
    return flow.protocol == TCP and TELNET_PORT in (flow.source_port, flow.destination_port)


def is_permitted(flow: Flow) -> bool:
    """SSH, which passes in clear."""
    return flow.protocol == TCP and SSH_PORT in (flow.source_port, flow.destination_port)


@dataclass(frozen=True, slots=True)
class PingResult:
    """Echo requests and answers; `round_trips` in seconds, in the order of the answers."""

    sent: int
    received: int
    round_trips: tuple[float, ...] = ()

    @property
    def loss(self) -> float:
        """0.0 (all answered) to 1.0."""
        return 1.0 - self.received / self.sent if self.sent else 1.0


@dataclass(frozen=True, slots=True)
class FileResult:
    """A file that was moved. `size` in bytes, `seconds` that it took."""

    size: int
    seconds: float
    intact: bool
    trouble: str = ""

    @property
    def megabits_per_second(self) -> float:
        return self.size * 8 / self.seconds / 1e6 if self.intact and self.seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class FailoverResult:
    """Seconds until the first answer, from the moment that the address was on the other node; None: there was
    none within the limit. `no_strongswan` says why strongSwan was not measured."""

    stockade_s: float | None
    strongswan_tight_s: float | None = None
    strongswan_default_s: float | None = None
    waited_s: float = 0.0
    """For strongSwan's default settings."""
    no_strongswan: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times longer strongSwan's tightest settings need."""
        if not self.stockade_s or self.strongswan_tight_s is None:
            return None
        return self.strongswan_tight_s / self.stockade_s


class World(Protocol):
    """Three hosts on one wire, real or virtual. Every step ends within a bounded time; one that cannot be
    carried out raises `LabError` or a `StockadeError`. `close` can be called at any moment and removes
    everything."""

    def describe(self) -> str:
        """One line: what is real about it."""

    def data_plane(self) -> str:
        """Which driver protects the hosts; known once the agents run."""

    def time_word(self) -> str:
        """`seconds`, or what its seconds are."""

    def throughput_note(self) -> str:
        """What the throughput is of, where that is not obvious."""

    def set_up(self) -> None:
        """Hosts, wire, and listeners on beta."""

    def apply_policies(self) -> None:
        """Put the example policies into the stores of alpha and beta."""

    def start_agents(self) -> None:
        """Start the agents of alpha and beta, wait until their policies are in force, begin to watch the
        wire."""

    def ping(self, source: str, target: str, count: int) -> PingResult: ...

    def probe(self, source: str, target: str, port: int) -> str:
        """Connect: `open`, `refused`, `unanswered` or `failed: …`."""

    def move_file(self, source: str, target: str) -> FileResult: ...

    def crash_and_restart(self, host: str, pinging: str) -> float | None:
        """Kill the agent of `host` without warning and start it again, while `pinging` asks it all the time:
        the seconds from the kill to the first answer to a request sent after it, None if there was none."""

    def fail_over(self) -> FailoverResult | None:
        """Move a cluster's address to another node after a crash, with Stockade and with strongSwan; None
        where that needs real packets."""

    def tally(self) -> Tally:
        """What was on the wire since the agents started."""

    def stop_agents(self) -> list[str]:
        """Stop the agents orderly; what they left behind in the system, in words (nothing, if all is
        well)."""

    def close(self) -> None: ...


@dataclass(slots=True)
class Findings:
    """What was seen. The defaults are what counts if the story breaks off: nothing was shown."""

    esp_packets: int = 0
    clear_packets: int = 0
    ping_loss: float = 1.0
    file_intact: bool = False
    blocked: bool = False
    permitted: bool = False
    outsider_refused: bool = False
    reconnect_s: float | None = None
    failover: FailoverResult | None = None
    throughput_mbit_s: float = 0.0
    ike_packets: int = 0
    first_ping_s: float | None = None
    median_ping_s: float | None = None
    file_bytes: int = 0
    data_plane: str = ""
    broken: list[str] = field(default_factory=list)
    """Promises that were not kept, in words."""

    def as_json(self) -> dict[str, int | float | bool | None]:
        """The keys of `stockade demo --format json`."""
        return {
            "esp_packets": self.esp_packets,
            "clear_packets": self.clear_packets,
            "ping_loss": self.ping_loss,
            "file_intact": self.file_intact,
            "blocked": self.blocked,
            "permitted": self.permitted,
            "outsider_refused": self.outsider_refused,
            "reconnect_s": None if self.reconnect_s is None else round(self.reconnect_s, 3),
            "failover_s": _rounded(self.failover.stockade_s if self.failover else None),
            "failover_strongswan_s": _rounded(self.failover.strongswan_tight_s if self.failover else None),
            "throughput_mbit_s": round(self.throughput_mbit_s, 1),
        }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


STEPS = (
    ("set up", "three hosts on one wire"),
    ("before", "without a policy everything passes"),
    ("policy", "apply the policies with stockade netsh -f"),
    ("agents", "start the agents of alpha and beta"),
    ("ping", "ping beta from alpha: the first packet is held, not lost"),
    ("file", "move a file over TCP and compare its hash"),
    ("rules", "telnet is dead, SSH is open"),
    ("outsider", "gamma, without IPsec, cannot get through"),
    ("crash", "kill beta's agent with SIGKILL, start it again"),
    ("cluster", "a cluster's node dies, its address moves to another one"),
    ("wire", "look at what was on the wire"),
    ("stop", "stop the agents: nothing is left behind"),
)
"""Each step's short name and what it does, in order."""

Step = Callable[[str], AbstractContextManager[None]]


def tell(world: World, step: Step, findings: Findings) -> None:
    """Take a world through the story; what is seen goes into `findings` as it is seen. `step(name)` surrounds
    each step. Raises what the world raises; a promise that is not kept is no exception but an entry in
    `findings.broken`."""
    with step("set up"):
        world.set_up()
    with step("before"):
        _before(world)
    with step("policy"):
        world.apply_policies()
    with step("agents"):
        world.start_agents()
        findings.data_plane = world.data_plane()
    with step("ping"):
        _ping(world, findings)
    with step("file"):
        _move_file(world, findings)
    with step("rules"):
        before = world.tally()
        _rules(world, findings, before)
    with step("outsider"):
        _outsider(world, findings)
    with step("crash"):
        _crash(world, findings)
    with step("cluster"):
        _fail_over(world, findings)
    with step("wire"):
        _look_at_wire(world, findings)
    with step("stop"):
        _stop(world, findings)


def _before(world: World) -> None:
    for port in (SSH_PORT, TELNET_PORT, WEB_PORT):
        for source in ("alpha", "gamma"):
            answer = world.probe(source, "beta", port)
            if answer != "open":
                raise LabError(
                    f"before any policy, port {port} of beta is {answer} for {source}; it must be open"
                )
    for source in ("alpha", "gamma"):
        if world.ping(source, "beta", 2).received != 2:
            raise LabError(f"before any policy, beta does not answer {source}'s ping")


def _ping(world: World, findings: Findings) -> None:
    result = world.ping("alpha", "beta", PING_COUNT)
    findings.ping_loss = round(result.loss, 4)
    if result.round_trips:
        findings.first_ping_s = result.round_trips[0]
        findings.median_ping_s = sorted(result.round_trips)[len(result.round_trips) // 2]
    if result.received != result.sent:
        findings.broken.append(f"{result.sent - result.received} of {result.sent} pings were lost")


def _move_file(world: World, findings: Findings) -> None:
    result = world.move_file("alpha", "beta")
    findings.file_intact = result.intact
    findings.file_bytes = result.size
    findings.throughput_mbit_s = result.megabits_per_second
    if not result.intact:
        findings.broken.append(f"the file did not arrive intact: {result.trouble or 'its hash differs'}")


def _rules(world: World, findings: Findings, before: Tally) -> None:
    telnet = world.probe("alpha", "beta", TELNET_PORT)
    ssh = world.probe("alpha", "beta", SSH_PORT)
    web = world.probe("alpha", "beta", WEB_PORT)
    wire = world.tally()
    findings.blocked = telnet != "open" and wire.blocked == before.blocked
    findings.permitted = ssh == "open" and wire.permitted > before.permitted
    if telnet == "open":
        findings.broken.append("the blocked port (telnet) can be reached")
    elif not findings.blocked:
        findings.broken.append("packets of the blocked port (telnet) were on the wire")
    if ssh != "open":
        findings.broken.append(f"the permitted port (SSH) is {ssh}")
    elif not findings.permitted:
        findings.broken.append("the permitted port (SSH) was open, but not in clear on the wire")
    if web != "open":
        findings.broken.append(f"a secured port is {web} for alpha, which has the policy")


def _outsider(world: World, findings: Findings) -> None:
    answers = world.ping("gamma", "beta", 3).received
    web = world.probe("gamma", "beta", WEB_PORT)
    findings.outsider_refused = answers == 0 and web != "open"
    if answers:
        findings.broken.append("beta answers the ping of gamma, which has no IPsec")
    if web == "open":
        findings.broken.append("gamma, which has no IPsec, reaches a port that requires security")


def _crash(world: World, findings: Findings) -> None:
    findings.reconnect_s = world.crash_and_restart("beta", "alpha")
    if findings.reconnect_s is None:
        findings.broken.append(f"no connection within {RECONNECT_LIMIT_SECONDS:g} seconds after the crash")


def _fail_over(world: World, findings: Findings) -> None:
    findings.failover = world.fail_over()
    if findings.failover is not None and findings.failover.stockade_s is None:
        findings.broken.append("the cluster's other node did not serve the client")


def _look_at_wire(world: World, findings: Findings) -> None:
    wire = world.tally()
    findings.esp_packets = wire.esp
    findings.clear_packets = wire.protected_clear
    findings.ike_packets = wire.ike
    if not wire.esp:
        findings.broken.append("there was no ESP packet on the wire")
    if wire.protected_clear:
        findings.broken.append(
            f"{wire.protected_clear} clear packets of protected traffic were on the wire,"
            f" the first: {wire.example}"
        )
    if wire.missed:
        findings.broken.append(f"the capture missed {wire.missed} packets, so it proves nothing")


def _stop(world: World, findings: Findings) -> None:
    findings.broken += [f"left behind: {thing}" for thing in world.stop_agents()]
    for source in ("alpha", "gamma"):
        if world.ping(source, "beta", 2).received != 2:
            findings.broken.append(f"after the agents stopped, beta does not answer {source}'s ping")
