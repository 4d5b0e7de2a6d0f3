"""The `stockade` command. Imports happen inside the commands, so that `stockade status` need not load the
world.

Exit status: 0 done, 1 refused or not as promised, 2 the command line itself is wrong, 130 interrupted.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from stockade.console.handlers import EXIT_REFUSED
from stockade.console.output import give_refusal
from stockade.console.parser import make_parser
from stockade.model.reasons import StockadeError

_COMMANDS_OF_WORDS = ("ipseccmd", "netsh")

EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    # The options before and after the command word share their actions, so a default there would undo what
    # stands before it.
    words = _guarded(sys.argv[1:] if arguments is None else arguments)
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


def _guarded(arguments: Sequence[str]) -> list[str]:
    """The words after `ipseccmd` begin with dashes and are not argparse's: a `--` in front of them says
    so."""
    words = list(arguments)
    place = next((place for place, word in enumerate(words) if word in _COMMANDS_OF_WORDS), None)
    if place is not None and words[place] == "ipseccmd":
        words.insert(place + 1, "--")
    return words


def entry() -> NoReturn:
    sys.exit(main())


if __name__ == "__main__":
    entry()
