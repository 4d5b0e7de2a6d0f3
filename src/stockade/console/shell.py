"""The interactive shell of `stockade netsh`: a prompt per context, history, completion, help at each level.

    netsh> ipsec static
    netsh ipsec static> add policy ?

Where standard input is no terminal it is read line by line without a prompt. Lines with a key are not kept in
the history, neither in memory nor in the file."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from stockade.agent.paths import Paths
from stockade.console.netsh_command import print_outcomes
from stockade.console.netsh_world import Console
from stockade.model.reasons import StockadeError
from stockade.netsh.completion import complete, may_hold_key
from stockade.netsh.interpreter import run_command
from stockade.netsh.session import Outcome, Session, reason_data

if TYPE_CHECKING:
    from prompt_toolkit.completion import Completer
    from prompt_toolkit.history import History

MAXIMUM_HISTORY = 256 * 1024  # bytes of the history file before it is begun anew


def run_shell(console: Console, paths: Paths, form: str) -> int:
    """Read commands until `exit` or the end of the input; the exit status is 1 if any of them failed."""
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    read = _terminal(console.session, paths) if interactive else _plain
    failed = False
    try:
        for line in read():
            outcome = _run(line, console.session)
            print_outcomes([outcome], form, one_command=True)
            failed |= outcome.failed
            failed |= not _told(console)
            if console.session.ended:
                break
    finally:
        failed |= not _end_batch(console)
    # In a dialogue the person has seen each failure; a script that is piped in must hear of it at the end.
    return 1 if failed and not interactive else 0


def _run(line: str, session: Session) -> Outcome:
    try:
        return run_command(line, session)
    except StockadeError as error:
        reason = error.reason
        return Outcome(f"{reason}\nwhat to do: {reason.code.remedy}", reason_data(reason), 1, reason=reason)


def _told(console: Console) -> bool:
    try:
        return console.tell_agent()
    except StockadeError as error:
        print(f"stockade: {error.reason}", file=sys.stderr)
        return False


def _end_batch(console: Console) -> bool:
    """Write what batch mode collected."""
    try:
        console.session.end_buffer("shell (batch mode)", keep=True)
    except StockadeError as error:
        print(f"stockade: {error.reason}", file=sys.stderr)
        return False
    return _told(console)


def _plain() -> Iterator[str]:
    for line in sys.stdin:
        yield line.rstrip("\r\n").removeprefix("\ufeff")


def prompt(session: Session) -> str:
    """`netsh ipsec static>`; a star where batch mode holds changes back."""
    return f"{' '.join(('netsh', *session.context))}{'*' if session.buffer is not None else ''}>"


def _terminal(session: Session, paths: Paths) -> Callable[[], Iterator[str]]:
    # It takes a tenth of a second to import, and only a person at a terminal needs it.
    from prompt_toolkit import PromptSession

    prompts: PromptSession[str] = PromptSession(
        history=_history(paths.state.with_name("netsh-history"), session),
        completer=_completer(session),
        complete_while_typing=False,
    )

    def read() -> Iterator[str]:
        while True:
            try:
                yield prompts.prompt(prompt(session))
            except KeyboardInterrupt:
                continue
            except EOFError:
                return

    return read


def _history(path: Path, session: Session) -> "History":
    from prompt_toolkit.history import FileHistory

    class History(FileHistory):
        def append_string(self, string: str) -> None:
            if not may_hold_key(string, session):
                super().append_string(string)

    if path.exists() and path.stat().st_size > MAXIMUM_HISTORY:
        path.unlink()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    os.close(descriptor)
    return History(str(path))


def _completer(session: Session) -> "Completer":
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion
    from prompt_toolkit.document import Document

    class OfTheTable(Completer):
        def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
            for found in complete(document.text_before_cursor, session):
                yield Completion(found.text, -found.replaces, display_meta=found.about)

    return OfTheTable()
