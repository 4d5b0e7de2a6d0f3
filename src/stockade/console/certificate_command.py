"""`stockade cert import|list`: the machine store, written directly; a running agent reads it anew at once."""

import getpass
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from stockade.agent.client import AgentClient
from stockade.agent.paths import Paths
from stockade.console.output import clean, give
from stockade.model.reasons import CallerError, Reason, ReasonCode, StockadeError, error_for
from stockade.model.secret import Secret
from stockade.pki.containers import MAXIMUM_FILE, needs_password
from stockade.pki.machine_store import Imported, MachineStore, Stored


def import_certificates(
    paths: Paths, file: str, *, password_file: str | None, trust_roots: bool, form: str
) -> int:
    """Take over a file. Status 1 where nothing in it was taken."""
    data = _read(file)
    password = _password(file, data, password_file)
    try:
        done = MachineStore(paths.certificates).import_file(data, password, trust_roots=trust_roots)
    except CallerError as error:
        facts = (*error.reason.facts, ("file", file))
        raise CallerError(Reason(error.reason.code, error.reason.detail, facts)) from None
    give([_imported(entry) for entry in done], form, "\n".join(_line(entry) for entry in done))
    if any(entry.place for entry in done):
        _tell_agent(paths)
        return 0
    return 1


def list_certificates(paths: Paths, form: str) -> int:
    """Print the machine store. Status 1 where a file of it cannot be read."""
    found, problems = MachineStore(paths.certificates).entries()
    rows = [_stored(entry) for entry in found]
    answer = {"certificates": rows, "problems": [problem.as_dict() for problem in problems]}
    give(answer, form, lambda: _print(rows, problems))
    return 1 if problems else 0


def _print(rows: Sequence[dict[str, Any]], problems: Sequence[Reason]) -> None:
    for shown in rows:
        print(f"{shown['place']:<12} {shown['fingerprint'][:16]}  {clean(shown['subject'])}")
        print(f"{'':12} until {shown['not_after']}, {shown['key']}, issued by {clean(shown['issuer'])}")
    if not rows:
        print("the machine store is empty: stockade cert import FILE")
    for problem in problems:
        print(f"stockade: {problem}", file=sys.stderr)


def _line(entry: Imported) -> str:
    note = f" ({clean(entry.note)})" if entry.note else ""
    return f"{entry.place or 'left out':<12} {entry.fingerprint[:16]}  {clean(entry.subject)}{note}"


def _read(file: str) -> bytes:
    try:
        with Path(file).open("rb") as stream:
            return stream.read(MAXIMUM_FILE + 1)
    except OSError as error:
        raise error_for(ReasonCode.FILE_UNUSABLE, f"cannot read {file}: {error.strerror}") from error


def _password(file: str, data: bytes, password_file: str | None) -> Secret | None:
    if password_file is not None:
        return Secret(_read(password_file).rstrip(b"\r\n"))
    if needs_password(data) and sys.stdin.isatty():
        return Secret(getpass.getpass(f"password of {file}: ").encode())
    return None


def _imported(entry: Imported) -> dict[str, str]:
    return {
        "place": entry.place,
        "subject": entry.subject,
        "fingerprint": entry.fingerprint,
        "note": entry.note,
    }


def _stored(entry: Stored) -> dict[str, Any]:
    shown: dict[str, Any] = {"place": entry.place, "fingerprint": entry.fingerprint}
    if entry.certificate is not None:
        certificate = entry.certificate
        return shown | {
            "subject": certificate.subject_text,
            "issuer": certificate.issuer_text,
            "not_before": f"{certificate.not_before:%Y-%m-%d %H:%M} UTC",
            "not_after": f"{certificate.not_after:%Y-%m-%d %H:%M} UTC",
            "key": f"{certificate.public_key.kind} {certificate.public_key.bits}",
            "private_key": entry.private_key is not None,
        }
    assert entry.revocation_list is not None
    following = entry.revocation_list.next_update
    return shown | {
        "subject": f"{len(entry.revocation_list.revoked)} revoked",
        "issuer": entry.revocation_list.issuer_text,
        "not_after": "not given" if following is None else f"{following:%Y-%m-%d %H:%M} UTC",
        "key": "revocation list",
    }


def _tell_agent(paths: Paths) -> None:
    if paths.socket.exists():
        with suppress(StockadeError):  # none runs; the next one reads the store when it starts
            AgentClient(paths.socket).post("/v1/policy/reload")
