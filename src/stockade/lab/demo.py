"""`stockade demo`: two hosts, one policy, real packets, and what was promised of it, shown and checked.

As root, with what the user-space data plane needs, the hosts are network namespaces; otherwise the same story
runs over virtual hosts, and says so. Either way everything is removed again: at the end, after Ctrl-C,
SIGTERM or any failure, and what a killed run left is removed by the next one.

Exit status: 0 everything as promised, 1 something was not (or could not be shown), 130 interrupted.
"""

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Protocol, TypeAlias

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from stockade.lab import needs
from stockade.lab.errors import LabError
from stockade.lab.story import STEPS, FailoverResult, Findings, World, tell
from stockade.model.reasons import StockadeError

EXIT_BROKEN, EXIT_INTERRUPTED = 1, 130

_TEXTS = dict(STEPS)


Give: TypeAlias = Callable[[Mapping[str, object], str], None]
"""Prints what was found in a form other than text."""


def run_demo(
    form: str = "text", console: Console | None = None, *, pcap: Path | None = None, give: Give | None = None
) -> int:
    """Run the demo and print what it showed; the exit status.

    `form` is `text` or `json` (one object on standard output and nothing else; what went wrong is on standard
    error), or what `give` prints, in the same way. `pcap` keeps what was on the wire (with real packets
    only)."""
    missing = needs.real_network()
    return show(choose_world(missing, pcap), form, console, missing or "", give)


def choose_world(missing: str | None, pcap: Path | None = None) -> World:
    """The real world where nothing is missing for it, else the virtual one."""
    # Imported late: each half needs parts of the product that the other does without.
    if missing is None:
        from stockade.lab.real import RealWorld

        return RealWorld(pcap)
    from stockade.lab.virtual_world import VirtualWorld

    return VirtualWorld()


def show(
    world: World,
    form: str = "text",
    console: Console | None = None,
    missing: str = "",
    give: Give | None = None,
) -> int:
    """Tell the story in `world`, print it in `form`, close the world. `missing` says why the world is not
    real."""
    console = console if console is not None else Console(highlight=False)
    display = _display(form, console)
    display.begin(world.describe() + (f" ({missing})" if missing else ""))
    findings = Findings()
    try:
        with _interruptible():
            try:
                with display:
                    tell(world, lambda name: _step(display, name, findings), findings)
            finally:
                with _undisturbed():
                    world.close()
    except KeyboardInterrupt:
        sys.stderr.write("stockade: interrupted; everything was removed\n")
        return EXIT_INTERRUPTED
    except (LabError, StockadeError, OSError, subprocess.SubprocessError) as error:
        findings.broken.append(f"the demo broke off: {error}")
    _print(world, findings, form, console, give)
    return EXIT_BROKEN if findings.broken else 0


# ---- signals ----


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM and SIGHUP end the demo as Ctrl-C does: through every `finally`. Only a program's main thread
    has signals; anywhere else nothing is changed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """An impatient second Ctrl-C must not break the cleaning up, which is bounded in time."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ---- progress ----


class Display(Protocol):
    """How progress is shown."""

    def begin(self, title: str) -> None: ...

    def __enter__(self) -> object: ...

    def __exit__(self, *details: object) -> None: ...

    def start(self, name: str) -> None: ...

    def finish(self, name: str, seconds: float, well: bool) -> None: ...


@contextlib.contextmanager
def _step(display: Display, name: str, findings: Findings) -> Iterator[None]:
    began, broken = time.monotonic(), len(findings.broken)
    display.start(name)
    well = False
    try:
        yield
        well = len(findings.broken) == broken
    finally:
        display.finish(name, time.monotonic() - began, well)


class _Silent:
    def begin(self, title: str) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(self, *details: object) -> None: ...

    def start(self, name: str) -> None: ...

    def finish(self, name: str, seconds: float, well: bool) -> None: ...


class _Lines:
    """One line a step, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def begin(self, title: str) -> None:
        self._console.print(title, markup=False, soft_wrap=True)

    def __enter__(self) -> None: ...

    def __exit__(self, *details: object) -> None: ...

    def start(self, name: str) -> None: ...

    def finish(self, name: str, seconds: float, well: bool) -> None:
        word = "ok    " if well else "FAILED"
        self._console.print(f"{word} {_TEXTS[name]} ({seconds:.1f} s)", markup=False, soft_wrap=True)


class _Live:
    """All steps at once, the present one turning."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(finished_text=""),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}

    def begin(self, title: str) -> None:
        self._console.print(title, style="bold", markup=False)

    def __enter__(self) -> None:
        self._progress.start()

    def __exit__(self, *details: object) -> None:
        self._progress.stop()

    def start(self, name: str) -> None:
        self._tasks[name] = self._progress.add_task(_TEXTS[name], total=1)

    def finish(self, name: str, seconds: float, well: bool) -> None:
        text = f"[green]✓[/] {_TEXTS[name]}" if well else f"[red]✗ {_TEXTS[name]}"
        self._progress.update(self._tasks[name], description=text, completed=1)


def _display(form: str, console: Console) -> Display:
    if form != "text":
        return _Silent()
    return _Live(console) if console.is_terminal else _Lines(console)


# ---- the end ----


def _print(world: World, findings: Findings, form: str, console: Console, give: Give | None) -> None:
    if form != "text":
        if give is not None:
            give(findings.as_json(), form)
        else:
            sys.stdout.write(json.dumps(findings.as_json()) + "\n")
            sys.stdout.flush()
        for promise in findings.broken:
            sys.stderr.write(f"stockade: {promise}\n")
        return
    console.print(_table(world, findings))
    for promise in findings.broken:
        console.print(f"not as promised: {promise}", style="red", markup=False, soft_wrap=True)
    if not findings.broken:
        console.print("everything as promised", style="green")


def _table(world: World, findings: Findings) -> Table:
    table = Table(show_header=False, show_edge=False, pad_edge=False)
    table.add_column("promise")
    table.add_column("seen", overflow="fold")

    def yes(value: bool) -> str:
        return "yes" if value else "NO"

    first, median = findings.first_ping_s, findings.median_ping_s
    pings = f"{findings.ping_loss:.0%} lost"
    if first is not None and median is not None:
        pings += (
            f"; first answer after {first * 1000:.1f} ms (with the key exchange), then {median * 1000:.1f} ms"
        )
    megabytes = findings.file_bytes / 2**20
    rows = (
        ("network", world.describe()),
        ("data plane", findings.data_plane or "none"),
        ("ESP packets on the wire", str(findings.esp_packets)),
        ("clear packets of protected traffic", str(findings.clear_packets)),
        ("ping", pings),
        ("file intact", f"{yes(findings.file_intact)} ({megabytes:.0f} MiB)"),
        ("throughput", f"{findings.throughput_mbit_s:.1f} Mbit/s {world.throughput_note()}".rstrip()),
        ("blocked port is dead", yes(findings.blocked)),
        ("permitted port is open, in clear", yes(findings.permitted)),
        ("outsider refused", yes(findings.outsider_refused)),
        ("back after SIGKILL", _seconds(findings.reconnect_s, world.time_word())),
        *_failover_rows(findings.failover),
    )
    for name, text in rows:
        table.add_row(name, text)
    return table


def _failover_rows(result: FailoverResult | None) -> tuple[tuple[str, str], ...]:
    if result is None:
        return (("a cluster's address moves", "only with real packets"),)
    ours = ("a cluster's address moves: back after", _seconds(result.stockade_s, "seconds"))
    if result.no_strongswan:
        return (ours, ("  strongSwan beside it", f"not measured: {result.no_strongswan}"))
    tight = _seconds(result.strongswan_tight_s, "seconds")
    if result.ratio is not None:
        tight += f", {result.ratio:.0f} times as long"
    default = result.strongswan_default_s
    waited = f"not back in {result.waited_s:g} s" if default is None else _seconds(default, "seconds")
    return (ours, ("  strongSwan, tightest settings", tight), ("  strongSwan, default settings", waited))


def _seconds(value: float | None, word: str) -> str:
    return "not seen" if value is None else f"{value:.2f} {word}"
