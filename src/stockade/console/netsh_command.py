"""`stockade netsh`: commands on the policy store, with a word to the running agent afterwards.

The store is written directly, as netsh static writes the registry: no agent need run. A running agent is told
at once and its refusal is shown, because a policy that cannot be enforced is not in force.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stockade.agent.client import AgentClient
from stockade.agent.paths import Paths
from stockade.model.reasons import ReasonCode, StockadeError, error_for
from stockade.netsh.interpreter import decode_script, run_command, run_script
from stockade.netsh.session import Outcome, Session
from stockade.store.local import LocalStore

MAXIMUM_SCRIPT_BYTES = 16 * 1024 * 1024


def run_netsh(paths: Paths, words: Sequence[str], *, script: str | None, atomic: bool, form: str) -> int:
    """Run one command or a script; the exit status is 0 when every command succeeded."""
    if (script is None) == (not words):
        raise error_for(
            ReasonCode.SYNTAX, "expected one command, such as ipsec static show policy all, or -f FILE"
        )
    paths.make_folders()
    store = LocalStore(paths.policy)
    before = store.version()
    session = Session(store)
    if script is None:
        outcomes = [run_command(list(words), session)]
    else:
        text, source = _read_script(script)
        outcomes = run_script(text, session, source=source, atomic=atomic)
    _print(outcomes, form, one_command=script is None)
    failed = any(outcome.failed for outcome in outcomes)
    if store.version() != before and not _tell_agent(paths):
        failed = True
    return 1 if failed else 0


def _read_script(name: str) -> tuple[str, str]:
    try:
        if name == "-":
            data, source = sys.stdin.buffer.read(MAXIMUM_SCRIPT_BYTES + 1), "standard input"
        else:
            with Path(name).open("rb") as file:
                data, source = file.read(MAXIMUM_SCRIPT_BYTES + 1), name
    except OSError as error:
        raise error_for(ReasonCode.SYNTAX, f"cannot read the script {name}: {error.strerror}") from error
    if len(data) > MAXIMUM_SCRIPT_BYTES:
        raise error_for(ReasonCode.SYNTAX, f"the script {name} is longer than {MAXIMUM_SCRIPT_BYTES} bytes")
    return decode_script(data), source


def _print(outcomes: Sequence[Outcome], form: str, *, one_command: bool) -> None:
    if form == "json":
        answers = [_as_dict(outcome) for outcome in outcomes]
        print(json.dumps(answers[0] if one_command else answers, indent=2, ensure_ascii=False))
        return
    for outcome in outcomes:
        if outcome.text:
            print(outcome.text, file=sys.stderr if outcome.failed else sys.stdout)


def _as_dict(outcome: Outcome) -> dict[str, Any]:
    answer: dict[str, Any] = {"status": outcome.status, "data": outcome.data, "text": outcome.text}
    if outcome.line:
        answer |= {"source": outcome.source, "line": outcome.line}
    if outcome.reason is not None:
        answer["refused"] = outcome.reason.as_dict()
    return answer


def _tell_agent(paths: Paths) -> bool:
    """Have a running agent read the store now. False, with the reason on standard error, if it refuses."""
    if not paths.socket.exists():
        return True
    try:
        answer = AgentClient(paths.socket).post("/v1/policy/reload")
    except StockadeError as error:
        if error.reason.code is ReasonCode.AGENT_NOT_RUNNING:
            return True  # a socket that a killed agent left: nothing to tell
        raise
    refused = answer["refused"]
    if refused:
        print(f"stored, but the last good policy stays in force: {refused['text']}", file=sys.stderr)
        print(f"what to do: {refused['remedy']}", file=sys.stderr)
    return not refused
