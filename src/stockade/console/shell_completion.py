"""`stockade netsh --complete LINE`: what could come next, for the completion of a shell.

The shell's line up to the cursor comes in; out come the ways to go on, one a line, each in the place of the
word that bash completes: what stands after the last blank, `=` or `:`."""

import shlex

from stockade.agent.paths import Paths
from stockade.console.netsh_world import Console
from stockade.model.reasons import StockadeError
from stockade.netsh.completion import complete

_WORD_BREAKS = " \t=:"


def complete_line(line: str) -> int:
    """Print them. Never an error: a shell that completes has no use for one."""
    before, found, rest = line.partition(" netsh ")
    if not found:
        return 0
    try:
        console = Console(Paths.of(_home(before)))
        ways = complete(rest, console.session)
    except (OSError, StockadeError, ValueError):
        return 0
    start = _word_start(rest)
    for way in ways:
        whole = rest[: len(rest) - way.replaces] + way.text
        if len(whole) > start:
            print(whole[start:])
    return 0


def _home(before: str) -> str | None:
    words = shlex.split(before)
    for place, word in enumerate(words):
        if word.startswith("--home="):
            return word.partition("=")[2]
        if word == "--home" and place + 1 < len(words):
            return words[place + 1]
    return None


def _word_start(line: str) -> int:
    """Where bash's word begins; what stands in quotes is not broken."""
    start, quote = 0, ""
    for place, one in enumerate(line):
        if quote:
            quote = "" if one == quote else quote
        elif one in "\"'":
            quote = one
        elif one in _WORD_BREAKS:
            start = place + 1
    return start
