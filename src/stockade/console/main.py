"""The `stockade` command. Imports happen inside the commands, so that `stockade status` need not load the
world.

Exit status: 0 done, 1 refused or not as promised, 2 the command line itself is wrong, 130 interrupted. There
is no traceback, whatever was wrong; with STOCKADE_DEBUG=1 there is one for faults of Stockade itself.
"""

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from stockade.console.handlers import EXIT_REFUSED, EXIT_USAGE
from stockade.console.output import give_refusal
from stockade.console.parser import make_parser
from stockade.model.reasons import ReasonCode, StockadeError, error_for

_COMMANDS_OF_WORDS = ("ipseccmd", "netsh")

EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    # The options before and after the command word share their actions, so a default there would undo what
    # stands before it.
    words = _guarded(sys.argv[1:] if arguments is None else arguments)
    if not all(map(_readable, words)):
        refusal = error_for(ReasonCode.SYNTAX, "a word of the command line is no UTF-8 text")
        give_refusal(refusal, "text")
        return EXIT_USAGE
    options = make_parser().parse_args(words, argparse.Namespace(home=None, format="text"))
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except StockadeError as error:
        give_refusal(error, options.format)
        return EXIT_REFUSED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) has gone; leave quietly, also at interpreter exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_REFUSED
    except OSError as error:
        code = ReasonCode.NOT_PRIVILEGED if isinstance(error, PermissionError) else ReasonCode.SYSTEM_REFUSED
        where = f"{error.filename}: " if error.filename is not None else ""
        give_refusal(error_for(code, f"{where}{error.strerror or error}"), options.format)
        return EXIT_REFUSED
    except Exception as error:
        if os.environ.get("STOCKADE_DEBUG"):
            raise
        # Never the text of the error: nobody knows what stands in it.
        detail = f"{type(error).__name__} at {_place(error.__traceback__)}"
        give_refusal(error_for(ReasonCode.INTERNAL, detail), options.format)
        return EXIT_REFUSED


def _readable(word: str) -> bool:
    """Neither NUL nor bytes that are no UTF-8: no file, name or address has them."""
    return "\0" not in word and not any("\ud800" <= one <= "\udfff" for one in word)


def _place(trace: TracebackType | None) -> str:
    """The innermost line of ours."""
    found = "an unknown place"
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if "stockade" in file.parts:
            found = f"{file.parent.name}/{file.name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return found


def _guarded(arguments: Sequence[str]) -> list[str]:
    """The words after `ipseccmd` begin with dashes and are not argparse's: a `--` in front of them says
    so."""
    words = list(arguments)
    place = next((place for place, word in enumerate(words) if word in _COMMANDS_OF_WORDS), None)
    if place is not None and words[place] == "ipseccmd":
        words.insert(place + 1, "--")
    return words


def entry() -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        # A terminal in Latin-1 has no “ and no ▁: better a question mark than nothing at all.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    sys.exit(main())


if __name__ == "__main__":
    entry()
