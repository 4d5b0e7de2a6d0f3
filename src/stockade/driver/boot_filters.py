"""The boot filters: an nftables table of their own, which lets pass or drops until a policy is in force.

    chain output, chain input    what the agent sends, loopback, ESP and AH pass; then the filters of the
                                 persistent policy: what it permits or secures passes (the data plane sees to
                                 it), what it blocks is dropped; then packets of conversations that were let
                                 through; then the boot filters, which decide about first packets

It needs no agent and no data plane: it may be put there while the computer starts, stays when an agent is
killed, and goes when a policy is in force. In nftables a packet must pass every table, so what stands here
only ever closes; a packet never passes because of it. Forwarded traffic is left alone.
"""

import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from stockade.driver.nft_match import match_of
from stockade.model.filters import Action, Direction, FilterTable, SpecificFilter
from stockade.model.reasons import ReasonCode, error_for

TABLE: Final = "stockade_boot"
BOOT_STORE: Final = "boot"
"""The store that boot filters name in their provenance."""

SECONDS: Final = 15.0
_POLICY_TABLE: Final = "stockade"
_DEVICE: Final = "stockade0"
_OWN_MARK: Final = "meta mark & 0xff000000 == 0x52000000"
_PATH: Final = "/usr/sbin:/sbin:/usr/bin:/bin"


def render(table: FilterTable) -> str:
    """The transaction that puts these filters in force, as input of `nft -f`. Filters of the store `boot`
    come after the tracked conversations, all others before them."""
    lines = [f"table inet {TABLE} {{\n}}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n"]
    for direction, hook, open_to in (
        (Direction.OUTBOUND, "output", f'\t\t{_OWN_MARK} accept\n\t\toifname "lo" accept\n'),
        (Direction.INBOUND, "input", f'\t\tiifname {{ "lo", "{_DEVICE}" }} accept\n'),
    ):
        filters = [entry for entry in table.filters if entry.direction is direction]
        lines.append(
            f"\tchain {hook} {{\n\t\ttype filter hook {hook} priority filter; policy accept;\n{open_to}"
            "\t\tmeta l4proto { esp, ah } accept\n"
        )
        lines += _rules(entry for entry in filters if entry.provenance.store != BOOT_STORE)
        lines.append("\t\tct state { established, related } accept\n")
        lines += _rules(entry for entry in filters if entry.provenance.store == BOOT_STORE)
        lines.append("\t}\n")
    return "".join((*lines, "}\n"))


def install(table: FilterTable) -> None:
    """All or nothing. HostError NOT_PRIVILEGED, MISSING_PROGRAM, DRIVER_FAILED."""
    _run(["-f", "-"], render(table))


def remove() -> None:
    """Take them out; no error where there are none. HostError as `install`."""
    _run(["-f", "-"], f"table inet {TABLE} {{\n}}\ndelete table inet {TABLE}\n")


@dataclass(frozen=True, slots=True)
class InForce:
    """What holds in the system now: boot filters, and the filters of a user-space data plane (of an agent
    that was killed, if none runs)."""

    boot: bool
    policy: bool


def in_force() -> InForce:
    """Neither where nftables cannot be asked: then nobody put them there."""
    program = _program()
    if program is None:
        return InForce(False, False)
    try:
        result = subprocess.run(
            [program, "list", "tables"], capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return InForce(False, False)
    names = {line.split()[-1] for line in result.stdout.splitlines() if line.startswith("table inet ")}
    return InForce(TABLE in names, _POLICY_TABLE in names)


def _rules(filters: Iterable[SpecificFilter]) -> Iterator[str]:
    for entry in filters:
        verdict = "drop" if entry.action is Action.BLOCK else "accept"
        yield f"\t\t{match_of(entry.selector)} {verdict}\n"


def _program() -> str | None:
    return shutil.which("nft", path=_PATH) or shutil.which("nft")


def _run(arguments: list[str], text: str) -> None:
    program = _program()
    if program is None:
        raise error_for(
            ReasonCode.MISSING_PROGRAM, "nft holds the boot filters", program="nft", package="nftables"
        )
    try:
        result = subprocess.run(
            [program, *arguments], input=text, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise error_for(ReasonCode.DRIVER_FAILED, "nft did not finish", seconds=SECONDS) from None
    except OSError as error:
        raise error_for(ReasonCode.DRIVER_FAILED, f"nft could not be run: {error.strerror}") from None
    if result.returncode:
        message = (result.stderr.strip().splitlines() or [f"exit status {result.returncode}"])[0]
        code = ReasonCode.NOT_PRIVILEGED if "Operation not permitted" in message else ReasonCode.DRIVER_FAILED
        raise error_for(code, f"boot filters: {message}")
