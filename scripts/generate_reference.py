"""Writes the pages of the manual that come from the code: `docs/reasons.md` from the list of reasons.

    scripts/generate_reference.py            write the pages
    scripts/generate_reference.py --check    write nothing; status 1 and the names of pages that are stale

A test compares the pages with what this script makes, so a new reason cannot be forgotten in the manual.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from stockade.model.reasons import Fault, ReasonCode

DOCS = Path(__file__).resolve().parent.parent / "docs"

_FAULTS = {
    Fault.CALLER: ("Yours to put right", "A command, a policy or an argument is wrong; nothing was applied."),
    Fault.PEER: (
        "The other end's",
        "Bytes or behaviour of the peer, or what the two policies make of each other.",
    ),
    Fault.HOST: ("This host's", "The system refuses or lacks something, or tells what it did."),
}


def _cell(text: str) -> str:
    """Text that cannot break a Markdown table."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


def reasons_page() -> str:
    """The page of all reasons: one table per kind of fault, in the order of the code."""
    lines = [
        "# Reasons and errors",
        "",
        "<!-- Written by scripts/generate_reference.py from src/stockade/model/reasons.py; do not edit. -->",
        "",
        "Everything that Stockade refuses, and everything that fails, is one of these reasons. The journal, "
        "the local API, `--format json` and `explain` use the same words, so one word finds it everywhere. "
        "Where Windows has an error code for the same thing, it stands beside it.",
        "",
    ]
    for fault in Fault:
        title, introduction = _FAULTS[fault]
        lines += [f"## {title}", "", introduction, ""]
        lines += ["| Reason | What it means | What to do | Windows |", "| --- | --- | --- | --- |"]
        for code in ReasonCode:
            if code.fault is fault:
                windows = "–" if code.windows_code is None else str(code.windows_code)
                lines.append(f"| `{code.word}` | {_cell(code.meaning)} | {_cell(code.remedy)} | {windows} |")
        lines.append("")
    return "\n".join(lines)


PAGES = {"reasons.md": reasons_page}


def stale_pages(folder: Path = DOCS) -> list[str]:
    """The names of generated pages that are missing from `folder` or differ from what the code says."""
    stale = []
    for name, make in PAGES.items():
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != make():
            stale.append(name)
    return stale


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="write the generated pages of the manual")
    parser.add_argument("--check", action="store_true", help="only say which pages are stale")
    options = parser.parse_args(arguments)
    stale = stale_pages()
    if options.check:
        for name in stale:
            print(f"docs/{name} is stale: run `make reference`", file=sys.stderr)
        return 1 if stale else 0
    for name in stale:
        (DOCS / name).write_text(PAGES[name](), encoding="utf-8")
        print(f"docs/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
