"""The nftables table in the kernel: written (`rules` has the text), read, removed, by the `nft` program."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from typing import Final, NoReturn

from stockade.driver.contract import FilterCounters
from stockade.driver.userspace.rules import COUNTER_PREFIX, TABLE, Change, Leftovers, Rules
from stockade.model.filters import FilterTable
from stockade.model.reasons import ReasonCode, StockadeError, error_for

SECONDS: Final = 60.0
_PATH: Final = "/usr/sbin:/sbin:/usr/bin:/bin"
_REMOVE: Final = f"table inet {TABLE} {{\n}}\ndelete table inet {TABLE}\n"


def program() -> str:
    """Where `nft` is; `HostError(MISSING_PROGRAM)` without it."""
    found = shutil.which("nft", path=_PATH) or shutil.which("nft")
    if found is None:
        raise error_for(
            ReasonCode.MISSING_PROGRAM, "nft classifies the packets", program="nft", package="nftables"
        )
    return found


def install(change: Change) -> None:
    """Make a change, first what comes and then what goes; `HostError(DRIVER_FAILED)`. Where the first half
    fails nothing is changed; where the second does, filters of both tables are in force."""
    for text in (change.first, change.then):
        if text:
            _run(["-f", "-"], text)


def install_whole(table: FilterTable, *, track_answers: bool = False) -> Rules:
    """Make `table` the one in force, whatever was there, without a moment in which neither is. What is there
    and cannot be built upon (another version's, or damaged) is replaced in one transaction."""
    there = leftovers()
    rules = Rules(table, generation=there.generation, track_answers=track_answers)
    try:
        install(rules.whole(there))
    except StockadeError:
        if there == Leftovers():
            raise
        _run(["-f", "-"], _REMOVE + rules.whole().first)
    return rules


def install_difference(table: FilterTable, previous: Rules, before_whole: Callable[[], None]) -> Rules:
    """Make `table` the one in force where `previous` is; as much as differs is touched. Where that cannot be
    said in place, or the kernel's table is not what it should be (somebody else changed it), it is written
    anew, after a call of `before_whole`: counters begin at 0 then."""
    rules = Rules(table, previous=previous)
    change = rules.since(previous)
    if change is not None:
        try:
            install(change)
        except StockadeError:
            pass
        else:
            return rules
    before_whole()
    return install_whole(table)


def leftovers() -> Leftovers:
    """The names in our table as it is in the kernel; nothing where there is none."""
    result = _execute(["-j", "-t", "list", "table", "inet", TABLE], "")
    if result.returncode != 0:
        if "No such file" in result.stderr:
            return Leftovers()
        _raise(result)
    names: dict[str, list[str]] = {"chain": [], "map": [], "counter": []}
    for kind, item in _items(result.stdout):
        name = item.get("name")
        if kind in names and isinstance(name, str):
            names[kind].append(name)
    return Leftovers(tuple(names["chain"]), tuple(names["map"]), tuple(names["counter"]))


def remove() -> None:
    """Delete the table if there is one."""
    _run(["-f", "-"], _REMOVE)


def read_counters() -> tuple[FilterCounters, ...]:
    """Packets and bytes of each filter of the table that is in the kernel; empty without one. A filter that
    says the same as one above it has no place there and no counter."""
    result = _execute(["-j", "list", "table", "inet", TABLE], "")
    if result.returncode != 0:
        if "No such file" in result.stderr:
            return ()
        _raise(result)
    sums: dict[str, tuple[int, int]] = {}
    for name, packets, size in _counters(result.stdout):
        before = sums.get(name, (0, 0))
        sums[name] = (before[0] + packets, before[1] + size)
    return tuple(FilterCounters(name, packets, size) for name, (packets, size) in sums.items())


def _counters(text: str) -> Iterator[tuple[str, int, int]]:
    try:
        for kind, item in _items(text):
            if kind == "counter":
                name, counter = str(item["name"]).removeprefix(COUNTER_PREFIX), item
                yield name, _number(counter["packets"]), _number(counter["bytes"])
            elif kind == "map":
                elements = item.get("elem", [])
                assert isinstance(elements, list)
                for element, _ in elements:
                    inside = element["elem"]
                    counter = inside["counter"]
                    yield str(inside["comment"]), _number(counter["packets"]), _number(counter["bytes"])
    except (KeyError, TypeError, ValueError, AssertionError):
        raise error_for(ReasonCode.DRIVER_FAILED, "nft printed counters that cannot be read") from None


def _number(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(value)
    return value


def _items(text: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    """(kind, object) of what `nft -j list` prints."""
    try:
        for entry in json.loads(text)["nftables"]:
            yield from entry.items()
    except (ValueError, KeyError, TypeError, AttributeError):
        raise error_for(ReasonCode.DRIVER_FAILED, "nft printed a list that cannot be read") from None


def _run(arguments: list[str], text: str) -> str:
    result = _execute(arguments, text)
    if result.returncode != 0:
        _raise(result)
    return result.stdout


def _execute(arguments: list[str], text: str) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(
            [program(), *arguments],
            input=text,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise error_for(ReasonCode.DRIVER_FAILED, "nft did not finish", seconds=SECONDS) from None
    except OSError as error:
        raise error_for(ReasonCode.DRIVER_FAILED, f"nft could not be run: {error.strerror}") from None


def _raise(result: "subprocess.CompletedProcess[str]") -> NoReturn:
    message = (result.stderr.strip().splitlines() or [f"exit status {result.returncode}"])[0]
    if "Operation not permitted" in message:
        raise error_for(ReasonCode.NOT_PRIVILEGED, "nft")
    raise error_for(ReasonCode.DRIVER_FAILED, f"nft: {message}")
