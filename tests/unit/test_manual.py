"""What the manual prints is what there is: commands that can be read, and no block of a how-to that nobody
runs without saying why. (Its policies: tests/unit/netsh/test_documented_policies.py.)"""

import re
import shlex
from pathlib import Path

import pytest

from stockade.console.main import _guarded
from stockade.console.parser import make_parser

CHECKOUT = Path(__file__).resolve().parents[2]
PAGES = sorted([CHECKOUT / "README.md", *(CHECKOUT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`(stockade [^`]+)`")
NOT_RUN = re.compile(r"<!-- not run: [^>]{10,} -->\n+$")


def blocks(page: Path) -> list[tuple[str, str, str]]:
    """(language, text, what stands before) of each fenced block."""
    text = page.read_text(encoding="utf-8")
    return [(found[1], found[2], text[: found.start()]) for found in BLOCK.finditer(text)]


@pytest.mark.parametrize(
    "page", sorted((CHECKOUT / "docs" / "how-to").glob("*.md")), ids=lambda page: page.name
)
def test_every_block_of_a_how_to_is_run_or_says_why_not(page: Path) -> None:
    for kind, text, before in blocks(page):
        is_run = kind == "netsh" or text.startswith("# /etc/")  # tests/peers/test_how_to.py
        assert is_run or NOT_RUN.search(before), f"mark it with <!-- not run: why -->, or run it:\n{text}"


def commands(page: Path) -> list[str]:
    """Whole commands, in the text and in blocks; not their outlines (`[--x]`, `…`, A|B, FILE)."""
    found = INLINE.findall(page.read_text(encoding="utf-8"))
    for kind, text, _ in blocks(page):
        if kind in ("", "bash", "sh", "console"):
            found += [
                line.lstrip("#$ ") for line in text.splitlines() if line.lstrip("#$ ").startswith("stockade ")
            ]
    # What stands behind a command after a few blanks says what it is; a redirection is the shell's.
    found = [re.split(r"  +|\s[|>&#]", command.replace("\\\n", " "))[0] for command in found]
    outline = re.compile(r"[…{\[|]|\b[A-Z]{2,}\b(?![A-Z]*[=,\]])|\$")
    return [" ".join(command.split()) for command in found if not outline.search(command)]


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.name)
def test_every_command_of_the_manual_can_be_read(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    groups = {
        "show",
        "sa",
        "policy",
        "access",
        "cert",
        "web",
        "agent",
        "cluster",
        "boot-filters",
        "lab",
        "web user",
    }
    for command in commands(page):
        words = shlex.split(command)[1:]
        if not words or " ".join(words) in groups:
            continue  # a group, named as such
        try:
            make_parser().parse_args(_guarded([re.sub(r"^N$", "1", word) for word in words]))
        except SystemExit as ended:
            said = capsys.readouterr().err
            if ended.code and "required" not in said:  # half a command, which the text goes on with
                pytest.fail(f"{page.name}: `{command}`: {said}")
