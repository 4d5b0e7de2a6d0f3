"""The access list as a file, TOML, written by `stockade access` and by hand:

[[entry]]
action = "allow"                      # or "deny"
computer = "host/a.example@EXAMPLE"   # or group, ca, domain
rule = "web"                          # left out: all traffic

[groups]
servers = ["host/*.example@EXAMPLE", "BACKUP$@EXAMPLE"]

[[account]]
account = "A$@EXAMPLE"
subject = "CN=a.example, O=Example"
issuer = "CN=Example Issuing"         # left out: any that the rule accepts
"""

import json
import math
import os
import tempfile
import time
import tomllib
from pathlib import Path

from stockade.model.reasons import Reason, ReasonCode, StockadeError, error_for
from stockade.pki.access import EVERYBODY, AccessEntry, AccessKind, AccessList, AccountMapping

MAXIMUM_SIZE = 4 * 1024 * 1024


def seconds_unchanged(path: Path) -> float:
    """How long the list has been what it is: since its file was written, or put into its place. Infinite
    where there is none (so nobody is kept out); 0 where that cannot be told."""
    try:
        return max(0.0, time.time() - path.stat().st_ctime)
    except FileNotFoundError:
        return math.inf
    except OSError:
        return 0.0


def read_access(path: Path) -> AccessList:
    """The list; everybody may connect where there is none. Errors: INVALID_SETTING with file and place."""
    try:
        with path.open("rb") as file:
            content = tomllib.loads(file.read(MAXIMUM_SIZE).decode())
    except FileNotFoundError:
        return EVERYBODY
    except (OSError, ValueError) as error:
        raise _invalid(path, str(error)) from None
    unknown = content.keys() - {"entry", "groups", "account"}
    if unknown:
        raise _invalid(path, f"unknown key {min(unknown)!r}; known are entry, groups and account")
    try:
        entries = tuple(_entry(item) for item in _tables(content.get("entry", [])))
        accounts = tuple(_account(item) for item in _tables(content.get("account", [])))
        groups = {name: _members(name, value) for name, value in _table(content.get("groups", {})).items()}
    except ValueError as error:
        raise _invalid(path, str(error)) from None
    except StockadeError as error:
        raise _invalid(path, error.reason.detail) from None
    return AccessList(entries, groups, accounts)


def write_access(path: Path, access: AccessList) -> None:
    """Replace the file as a whole, for its owner only."""
    text = access_text(access)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def access_text(access: AccessList) -> str:
    """The list as `read_access` reads it."""
    lines: list[str] = []
    for entry in access.entries:
        lines += ["[[entry]]", f'action = "{"allow" if entry.allow else "deny"}"']
        lines.append(f"{entry.kind} = {_quoted(entry.name)}")
        lines += [f"rule = {_quoted(entry.rule)}"] if entry.rule else []
        lines.append("")
    if access.groups:
        lines.append("[groups]")
        for name, members in access.groups.items():
            lines.append(f"{_quoted(name)} = [{', '.join(map(_quoted, members))}]")
        lines.append("")
    for account in access.accounts:
        lines += [
            "[[account]]",
            f"account = {_quoted(account.account)}",
            f"subject = {_quoted(account.subject)}",
        ]
        lines += [f"issuer = {_quoted(account.issuer)}"] if account.issuer else []
        lines.append("")
    return "\n".join(lines)


def closed_access(reason: Reason) -> AccessList:
    """For a list that cannot be read: nobody may connect, and every refusal says why."""
    return AccessList(closed=f"the access list cannot be read: {reason.detail}")


def _entry(table: dict[str, object]) -> AccessEntry:
    kinds = [kind for kind in AccessKind if kind.value in table]
    unknown = table.keys() - {"action", "rule", *AccessKind}
    if unknown or len(kinds) != 1:
        raise ValueError("an entry has an action, one of computer, group, ca and domain, and perhaps a rule")
    action = _text(table, "action")
    if action not in ("allow", "deny"):
        raise ValueError(f"action {action!r}: expected allow or deny")
    return AccessEntry(action == "allow", kinds[0], _text(table, kinds[0]), _text(table, "rule", ""))


def _account(table: dict[str, object]) -> AccountMapping:
    unknown = table.keys() - {"account", "subject", "issuer"}
    if unknown:
        raise ValueError(f"unknown key account.{min(unknown)}; known are account, subject and issuer")
    return AccountMapping(_text(table, "account"), _text(table, "subject"), _text(table, "issuer", ""))


def _text(table: dict[str, object], key: str, default: str | None = None) -> str:
    value = table.get(key, default)
    if not isinstance(value, str):
        raise _wrong(f"{key} is missing or no text")
    return value


def _members(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(member, str) for member in value):
        raise _wrong(f"group {name!r} must be a list of names")
    return tuple(value)


def _tables(value: object) -> list[dict[str, object]]:
    if not isinstance(value, list):
        raise _wrong("entry and account are lists of tables, written [[entry]] and [[account]]")
    return [_table(item) for item in value]


def _table(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _wrong("a table is expected")
    return value


def _wrong(what: str) -> ValueError:
    return ValueError(what)


def _quoted(text: str) -> str:
    # JSON's strings are TOML's, but for the delete character.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _invalid(path: Path, detail: str) -> StockadeError:
    return error_for(ReasonCode.INVALID_SETTING, detail, file=path)
