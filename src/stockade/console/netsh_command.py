"""`stockade netsh`: commands on the policy stores and the running agent.

The stores are written directly, as netsh static writes the registry: no agent need run. A running agent is
told at once and its refusal is shown, because a policy that cannot be enforced is not in force.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stockade.agent.paths import Paths
from stockade.console.netsh_world import Console
from stockade.console.output import FORMS, give
from stockade.model.reasons import ReasonCode, error_for
from stockade.netsh.interpreter import decode_script, run_command, run_script
from stockade.netsh.session import Outcome

MAXIMUM_SCRIPT_BYTES = 16 * 1024 * 1024


def run_netsh(
    paths: Paths,
    words: Sequence[str],
    *,
    script: str | None,
    atomic: bool,
    form: str,
    context: str | None = None,
) -> int:
    """Run one command or a script, or the shell where there is neither; the exit status is 0 when every
    command succeeded. `context` is entered first, as netsh -c does."""
    words, form = own_options(words, form)
    if script is not None and words:
        raise error_for(ReasonCode.SYNTAX, "a command and -f FILE exclude each other")
    with Console(paths, ask=sys.stdin is not None and sys.stdin.isatty()) as console:
        if context is not None:
            run_command(context, console.session)
        if script is None and not words:
            from stockade.console.shell import run_shell

            return run_shell(console, paths, form)
        if script is None:
            outcomes = [run_command(list(words), console.session)]
        else:
            text, source = _read_script(script)
            outcomes = run_script(text, console.session, source=source, atomic=atomic)
        print_outcomes(outcomes, form, one_command=script is None)
        failed = any(outcome.failed for outcome in outcomes)
        return 0 if console.tell_agent() and not failed else 1


def own_options(words: Sequence[str], form: str) -> tuple[list[str], str]:
    """`--format json` after the command too: netsh itself has no word that begins with two dashes."""
    kept = list(words)
    for place, word in enumerate(kept):
        if word == "--format":
            form = (kept[place + 1 : place + 2] or ["nothing"])[0]
            del kept[place : place + 2]
        elif word.startswith("--format="):
            form = word.partition("=")[2]
            del kept[place]
        else:
            continue
        if form not in FORMS:
            detail = f"--format {form[:40]!r}: expected {', '.join(FORMS)}"
            raise error_for(ReasonCode.SYNTAX, detail)
        break
    return kept, form


def _read_script(name: str) -> tuple[str, str]:
    try:
        if name == "-":
            data, source = sys.stdin.buffer.read(MAXIMUM_SCRIPT_BYTES + 1), "standard input"
        else:
            with Path(name).open("rb") as file:
                data, source = file.read(MAXIMUM_SCRIPT_BYTES + 1), name
    except OSError as error:
        raise error_for(
            ReasonCode.FILE_UNUSABLE, f"cannot read the script {name}: {error.strerror}"
        ) from error
    if len(data) > MAXIMUM_SCRIPT_BYTES:
        raise error_for(ReasonCode.SYNTAX, f"the script {name} is longer than {MAXIMUM_SCRIPT_BYTES} bytes")
    return decode_script(data, source), source


def print_outcomes(outcomes: Sequence[Outcome], form: str, *, one_command: bool) -> None:
    """Text to standard output, notes and failures to standard error; or all of it as JSON. Tables and lists
    are of what a command shows; where it shows nothing but says something, that is said."""
    if form == "json":
        answers = [_as_dict(outcome) for outcome in outcomes]
        give(answers[0] if one_command else answers, form, None)
        return
    for outcome in outcomes:
        if outcome.failed or outcome.note:
            if outcome.text:
                print(outcome.text, file=sys.stderr)
        elif outcome.data:
            give(outcome.data, form, outcome.text or None)
        elif outcome.text:
            print(outcome.text)


def _as_dict(outcome: Outcome) -> dict[str, Any]:
    answer: dict[str, Any] = {"status": outcome.status, "data": outcome.data, "text": outcome.text}
    if outcome.line:
        answer |= {"source": outcome.source, "line": outcome.line}
    if outcome.note:
        answer["note"] = True
    if outcome.reason is not None:
        answer["refused"] = outcome.reason.as_dict()
    return answer
