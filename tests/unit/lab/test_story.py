"""The story tells the truth: a promise that a world breaks is found and printed, and the status is 1."""

import contextlib
import io
import json
import re
import signal
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console

from stockade.lab.capture import Tally
from stockade.lab.demo import EXIT_BROKEN, EXIT_INTERRUPTED, choose_world, show
from stockade.lab.errors import LabError
from stockade.lab.story import STEPS, FailoverResult, FileResult, Findings, PingResult, tell
from stockade.model.reasons import ReasonCode, error_for

KEYS = [
    "esp_packets",
    "clear_packets",
    "ping_loss",
    "file_intact",
    "blocked",
    "permitted",
    "outsider_refused",
    "reconnect_s",
    "failover_s",
    "failover_strongswan_s",
    "throughput_mbit_s",
]


class PerfectWorld:
    """Keeps every promise. Tests break one at a time."""

    def __init__(self) -> None:
        self.agents = False
        self.closed = 0
        self.wire = Tally(esp=100, ike=9)
        self.seconds: float | None = 0.75
        self.left: list[str] = []
        self.file = FileResult(1_000_000, 0.5, True)

    def describe(self) -> str:
        return "a world of paper"

    def data_plane(self) -> str:
        return "paper"

    def time_word(self) -> str:
        return "seconds"

    def throughput_note(self) -> str:
        return ""

    def set_up(self) -> None: ...

    def apply_policies(self) -> None: ...

    def start_agents(self) -> None:
        self.agents = True

    def ping(self, source: str, target: str, count: int) -> PingResult:
        if self.agents and source == "gamma":
            return PingResult(count, 0)
        return PingResult(count, count, (0.1,) + (0.001,) * (count - 1))

    def probe(self, source: str, target: str, port: int) -> str:
        if self.agents and (source == "gamma" or port == 23):
            return "unanswered"
        if self.agents and port == 22:
            self.wire = replace(self.wire, permitted=self.wire.permitted + 6)
        return "open"

    def move_file(self, source: str, target: str) -> FileResult:
        return self.file

    def fail_over(self) -> FailoverResult | None:
        return FailoverResult(0.125, 4.5, None, 10.0)

    def crash_and_restart(self, host: str, pinging: str) -> float | None:
        return self.seconds

    def tally(self) -> Tally:
        return self.wire

    def stop_agents(self) -> list[str]:
        self.agents = False
        return self.left

    def close(self) -> None:
        self.closed += 1


class LossyWorld(PerfectWorld):
    def ping(self, source: str, target: str, count: int) -> PingResult:
        result = super().ping(source, target, count)
        return replace(result, received=result.received - 1) if count > 2 and source == "alpha" else result


class TelnetWorld(PerfectWorld):
    def probe(self, source: str, target: str, port: int) -> str:
        return "open" if port == 23 else super().probe(source, target, port)


class LeakyTelnetWorld(PerfectWorld):
    def probe(self, source: str, target: str, port: int) -> str:
        if self.agents and port == 23:
            self.wire = replace(self.wire, blocked=1)
        return super().probe(source, target, port)


class NoSshWorld(PerfectWorld):
    def probe(self, source: str, target: str, port: int) -> str:
        return "unanswered" if self.agents and port == 22 else super().probe(source, target, port)


class SecuredSshWorld(PerfectWorld):
    def tally(self) -> Tally:
        return replace(self.wire, permitted=0)


class WelcomingWorld(PerfectWorld):
    def ping(self, source: str, target: str, count: int) -> PingResult:
        return PingResult(count, count, (0.001,) * count)


class OpenWorld(PerfectWorld):
    def probe(self, source: str, target: str, port: int) -> str:
        return "open" if source == "gamma" else super().probe(source, target, port)


class StuckWorld(PerfectWorld):
    def ping(self, source: str, target: str, count: int) -> PingResult:
        if self.closed == 0 and not self.agents and self.left == ["stuck"]:
            return PingResult(count, 0)
        return super().ping(source, target, count)

    def stop_agents(self) -> list[str]:
        super().stop_agents()
        self.left = ["stuck"]
        return []


def with_wire(**changes: int) -> Callable[[], PerfectWorld]:
    def make() -> PerfectWorld:
        world = PerfectWorld()
        world.wire = replace(world.wire, **changes)
        return world

    return make


def with_attribute(name: str, value: object) -> Callable[[], PerfectWorld]:
    def make() -> PerfectWorld:
        world = PerfectWorld()
        setattr(world, name, value)
        return world

    return make


def run(world: PerfectWorld, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, object], str]:
    status = show(world, "json")
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 1
    return status, json.loads(captured.out), captured.err


def test_a_world_that_keeps_its_promises(capsys: pytest.CaptureFixture[str]) -> None:
    world = PerfectWorld()
    status, printed, errors = run(world, capsys)
    assert (status, errors) == (0, "")
    assert printed == {
        "esp_packets": 100,
        "clear_packets": 0,
        "ping_loss": 0.0,
        "file_intact": True,
        "blocked": True,
        "permitted": True,
        "outsider_refused": True,
        "reconnect_s": 0.75,
        "failover_s": 0.125,
        "failover_strongswan_s": 4.5,
        "throughput_mbit_s": 16.0,
    }
    assert list(printed) == KEYS
    assert world.closed == 1


@pytest.mark.parametrize(
    ("make", "key", "value", "complaint"),
    [
        (LossyWorld, "ping_loss", 0.05, "1 of 20 pings were lost"),
        (TelnetWorld, "blocked", False, "blocked port .telnet. can be reached"),
        (LeakyTelnetWorld, "blocked", False, "packets of the blocked port"),
        (NoSshWorld, "permitted", False, "SSH\\) is unanswered"),
        (SecuredSshWorld, "permitted", False, "not in clear on the wire"),
        (WelcomingWorld, "outsider_refused", False, "answers the ping of gamma"),
        (OpenWorld, "outsider_refused", False, "reaches a port that requires security"),
        (StuckWorld, None, None, "after the agents stopped, beta does not answer"),
        (with_wire(esp=0), "esp_packets", 0, "no ESP packet"),
        (with_wire(protected_clear=3), "clear_packets", 3, "3 clear packets"),
        (with_wire(missed=1), None, None, "the capture missed 1"),
        (with_attribute("seconds", None), "reconnect_s", None, "no connection within"),
        (with_attribute("left", ["nftables table in beta: x"]), None, None, "left behind: nftables"),
        (with_attribute("file", FileResult(5, 1.0, False)), "file_intact", False, "its hash differs"),
    ],
)
def test_a_broken_promise_is_found(
    make: Callable[[], PerfectWorld],
    key: str | None,
    value: object,
    complaint: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, printed, errors = run(make(), capsys)
    assert status == EXIT_BROKEN
    assert list(printed) == KEYS
    assert re.search(complaint, errors)
    if key is not None:
        assert printed[key] == value


def test_a_port_that_never_worked_proves_nothing() -> None:
    class DeadTelnet(PerfectWorld):
        def probe(self, source: str, target: str, port: int) -> str:
            return "refused" if port == 23 else super().probe(source, target, port)

    findings = Findings()
    with pytest.raises(LabError, match="before any policy, port 23 of beta is refused"):
        tell(DeadTelnet(), lambda name: contextlib.nullcontext(), findings)
    assert not findings.blocked


@pytest.mark.parametrize(
    "error", [LabError("no wire"), error_for(ReasonCode.NOT_PRIVILEGED, "no wire"), OSError("no wire")]
)
def test_a_world_that_breaks_off_is_closed_and_reported(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken(PerfectWorld):
        def start_agents(self) -> None:
            raise error

    world = Broken()
    status, printed, errors = run(world, capsys)
    assert (status, world.closed) == (EXIT_BROKEN, 1)
    assert "the demo broke off" in errors
    assert "no wire" in errors
    assert printed["esp_packets"] == 0
    assert printed["file_intact"] is False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_demo_and_closes_the_world(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupted(PerfectWorld):
        def start_agents(self) -> None:
            signal.raise_signal(number)

        def close(self) -> None:
            signal.raise_signal(signal.SIGINT)  # an impatient second Ctrl-C
            super().close()

    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    world = Interrupted()
    assert show(world, "json") == EXIT_INTERRUPTED
    assert world.closed == 1
    assert capsys.readouterr().out == ""
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_text_without_a_terminal_is_a_line_a_step_and_a_table() -> None:
    output = io.StringIO()
    assert show(PerfectWorld(), "text", Console(file=output, width=100), "not root") == 0
    text = output.getvalue()
    assert text.startswith("a world of paper (not root)\n")
    for _, description in STEPS:
        assert f"ok     {description} (" in text
    assert "everything as promised" in text
    assert "data plane" in text
    assert "0.75 seconds" in text


def test_text_names_the_failed_step_and_the_promise() -> None:
    output = io.StringIO()
    assert show(with_wire(protected_clear=3)(), "text", Console(file=output, width=100)) == EXIT_BROKEN
    assert "FAILED look at what was on the wire" in output.getvalue()
    assert "not as promised: 3 clear packets" in output.getvalue()


def test_a_terminal_gets_a_live_display() -> None:
    output = io.StringIO()
    console = Console(file=output, width=100, force_terminal=True, color_system=None)
    assert show(with_wire(esp=0)(), "text", console) == EXIT_BROKEN
    assert "✗ look at what was on the wire" in output.getvalue()
    assert "✓ stop the agents" in output.getvalue()
    assert "✓ look" not in output.getvalue()


def test_the_world_is_virtual_where_something_is_missing() -> None:
    assert "virtual" in choose_world("not root").describe()
    assert "namespaces" in choose_world(None).describe()
