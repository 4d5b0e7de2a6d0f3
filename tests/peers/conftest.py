"""Lets the tests of this tier import the helpers beside them, and prints the matrix of what was tried with
which peer."""

import os
import re
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import libreswan_node

COLUMNS = tuple(
    f"{peer}/{role}" for peer in ("strongswan", "libreswan") for role in ("initiator", "responder")
)


PLANES = ("kernel", "user space")
"""Whose ESP is ours; the peers always use that of a kernel."""


PAGE = "STOCKADE_INTEROPERATION_PAGE"
"""The environment variable with a page of the manual to write the matrices of this run into."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for plane in PLANES:
        lines = matrix(terminalreporter.stats, plane)
        if lines:
            if PAGE in os.environ:
                write_page(Path(os.environ[PAGE]), plane, lines)
            terminalreporter.section(f"interoperation, our data plane {plane}: case × peer and our role")
            for line in lines:
                terminalreporter.write_line(line)


def matrix(stats: dict[str, list[object]], plane: str) -> list[str]:
    """One line per case, one column per peer and our role in it, and below why a peer cannot do a case. Empty
    where nothing of it ran. `stats` are the terminal reporter's."""
    cells: dict[str, dict[str, str]] = {}
    why: dict[str, str] = {}
    for report in (report for reports in stats.values() for report in reports):
        properties = dict(getattr(report, "user_properties", ()))
        trial = properties.get("interop")
        if getattr(report, "when", "") != "call" or properties.get("interop_plane") != plane:
            continue
        case, _, column = str(trial).partition("/")
        outcome = str(properties["interop_outcome"])
        cells.setdefault(case, {})[column] = outcome
        if "cannot" in outcome:
            why[f"{outcome}: {case}, {column.partition('/')[0]}"] = str(properties["interop_detail"])
    if not cells:
        return []
    width = max(map(len, cells)) + 2
    lines = [" " * width + "  ".join(f"{column:<21}" for column in COLUMNS).rstrip()]
    for case, row in cells.items():
        shown = "  ".join(f"{row.get(column, '-'):<21}" for column in COLUMNS)
        lines.append(f"{case:<{width}}{shown}".rstrip())
    return lines + [f"{case}: {reason}" for case, reason in why.items()]


def write_page(page: Path, plane: str, lines: list[str]) -> None:
    """Put the matrix of a data plane, with the versions that were tried, between its marks in the page."""
    text = page.read_text(encoding="utf-8")
    begin, end = f"<!-- {plane}: begin -->\n", f"<!-- {plane}: end -->\n"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    matrix_block = "\n".join(["```", *lines, "```", ""])
    versions = f"Tried on {date.today().isoformat()} with {', '.join(peer_versions())}.\n\n"
    page.write_text(before + begin + versions + matrix_block + end + after, encoding="utf-8")


def peer_versions() -> list[str]:
    asked = subprocess.run(
        ["dpkg-query", "-W", "strongswan-charon"], capture_output=True, text=True, check=False
    )
    found = [f"strongSwan {asked.stdout.split()[1]}"] if asked.returncode == 0 else []
    libreswan = libreswan_node.build()
    if isinstance(libreswan, Path):
        pluto = libreswan / "root" / "usr" / "libexec" / "ipsec" / "pluto"
        environment = {**os.environ, "LD_LIBRARY_PATH": str(libreswan / "lib")}
        asked = subprocess.run(
            [pluto, "--version"], capture_output=True, text=True, check=False, env=environment
        )
        version = re.search(r"Libreswan v?(\S+)", asked.stdout)
        found.append(f"libreswan {version[1] if version else '?'}")
    return found
