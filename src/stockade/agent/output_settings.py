"""`[events]` and `[metrics]` of `agent.toml`: what the agent tells others by itself.

    [metrics]
    listen = "127.0.0.1:9495"          # address and port; [::1]:9495 for IPv6

    [events]
    journald = true                    # to systemd's journal, with fields (default: no)

    [[events.notify]]                  # a webhook …
    url = "https://alerts.example.net/hook"
    token_file = "/etc/stockade/hook.token"   # sent as Authorization: Bearer …
    reasons = ["peer-dead", "psk-mismatch"]   # words of docs/reasons.md
    ids = [4652, 4653]                 # or event ids
    kinds = ["policy-refused"]         # or kinds; any of the three is enough
    per_minute = 30                    # at most so many, 1 to 600

    [[events.notify]]                  # … or a program: it gets the event as JSON on its standard input
    command = ["/usr/local/sbin/tell-somebody", "--ipsec"]
    reasons = ["peer-dead"]

What is told goes out only to what this file names, so the file, a token and a program must belong to root (or
to the agent's own user) and be writable for nobody else; otherwise the start is refused.
"""

import os
import stat
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from stockade.model.addresses import Address
from stockade.model.reasons import ReasonCode, StockadeError, error_for
from stockade.model.secret import Secret
from stockade.model.windows_events import BY_NUMBER

DEFAULT_PER_MINUTE = 30
MAXIMUM_NOTIFIERS = 16
MAXIMUM_TOKEN = 4096


@dataclass(frozen=True, slots=True)
class Notifier:
    """Whom to tell of which events: a `url` or a `command`."""

    url: str = ""
    command: tuple[str, ...] = ()
    token: Secret | None = None
    reasons: frozenset[str] = frozenset()
    ids: frozenset[int] = frozenset()
    kinds: frozenset[str] = frozenset()
    per_minute: int = DEFAULT_PER_MINUTE

    @property
    def name(self) -> str:
        """For the journal: without a path or a query, which may be secret."""
        if self.url:
            parts = urlsplit(self.url)
            return f"{parts.scheme}://{parts.hostname}"
        return self.command[0]

    def wants(self, record: dict[str, object]) -> bool:
        ids = record.get("windows_events")
        return (
            record.get("reason") in self.reasons
            or record.get("kind") in self.kinds
            or (isinstance(ids, list) and not self.ids.isdisjoint(ids))
        )


@dataclass(frozen=True, slots=True)
class OutputSettings:
    """What goes out by itself."""

    metrics: tuple[Address, int] | None = None
    journald: bool = False
    notifiers: tuple[Notifier, ...] = ()


def read_outputs(path: Path, events: object, metrics: object) -> OutputSettings:
    """Errors: INVALID_SETTING."""
    found = _table(path, events, "events", {"journald", "notify"})
    journald = found.get("journald", False)
    if not isinstance(journald, bool):
        raise _invalid(path, f"events.journald must be true or false, not {journald!r}")
    entries = found.get("notify", [])
    if not isinstance(entries, list) or len(entries) > MAXIMUM_NOTIFIERS:
        raise _invalid(path, f"events.notify is written [[events.notify]], {MAXIMUM_NOTIFIERS} times at most")
    if entries:
        _only_ours(path, path)
    return OutputSettings(
        _listen(path, metrics), journald, tuple(_notifier(path, entry) for entry in entries)
    )


def _listen(path: Path, metrics: object) -> tuple[Address, int] | None:
    text = _table(path, metrics, "metrics", {"listen"}).get("listen", "")
    if text == "":
        return None
    problem = _invalid(path, f"metrics.listen must be an address and a port, as 127.0.0.1:9495, not {text!r}")
    if not isinstance(text, str):
        raise problem
    host, colon, port = text.rpartition(":")
    try:
        address = ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        raise problem from None
    if not colon or not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65536:
        raise problem
    return address, int(port)


def _notifier(path: Path, entry: object) -> Notifier:
    known = {"url", "command", "token_file", "reasons", "ids", "kinds", "per_minute"}
    table = _table(path, entry, "events.notify", known)
    url, command = table.get("url", ""), table.get("command", [])
    if not isinstance(url, str) or bool(url) == bool(command):
        raise _invalid(path, "events.notify needs either a url or a command")
    if url:
        _check_url(path, url)
    if not isinstance(command, list) or not all(isinstance(word, str) and word for word in command):
        raise _invalid(path, "events.notify.command must be a list of words, the program's path first")
    if command:
        program = Path(command[0])
        if not program.is_absolute() or not os.access(program, os.X_OK):
            raise _invalid(path, f"events.notify.command: {program} is no absolute path of a program")
        _only_ours(path, program)
    reasons, kinds = (_words(path, table, name) for name in ("reasons", "kinds"))
    words = {code.word for code in ReasonCode}
    for reason in sorted(reasons - words):
        raise _invalid(path, f"events.notify.reasons: there is no reason {reason!r}; see docs/reasons.md")
    ids = table.get("ids", [])
    if not isinstance(ids, list) or not all(isinstance(one, int) and one in BY_NUMBER for one in ids):
        raise _invalid(path, "events.notify.ids must be a list of event ids; see docs/event-ids.md")
    if not (reasons or kinds or ids):
        raise _invalid(path, "events.notify names no reasons, ids or kinds: it would tell nothing")
    rate = table.get("per_minute", DEFAULT_PER_MINUTE)
    if isinstance(rate, bool) or not isinstance(rate, int) or not 1 <= rate <= 600:
        raise _invalid(path, f"events.notify.per_minute must be a number from 1 to 600, not {rate!r}")
    token = _token(path, table.get("token_file", "")) if url else None
    return Notifier(url, tuple(command), token, reasons, frozenset(ids), kinds, rate)


def _check_url(path: Path, url: str) -> None:
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        fine = False
    if not fine or not url.isascii() or not url.isprintable() or " " in url or parts.username is not None:
        raise _invalid(path, "events.notify.url must be an http or https address without a user's name")


def _token(path: Path, name: object) -> Secret | None:
    if name == "":
        return None
    if not isinstance(name, str):
        raise _invalid(path, "events.notify.token_file must be a path")
    token = Path(name)
    _only_ours(path, token, secret=True)
    try:
        content = token.read_bytes()[: MAXIMUM_TOKEN + 1].strip()
    except OSError as error:
        raise _invalid(path, f"events.notify.token_file {token}: {error.strerror}") from None
    if not content or len(content) > MAXIMUM_TOKEN or not all(32 < one < 127 for one in content):
        raise _invalid(path, f"events.notify.token_file {token} holds no token: one line of ASCII")
    return Secret(content)


def _words(path: Path, table: dict[str, object], name: str) -> frozenset[str]:
    value = table.get(name, [])
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise _invalid(path, f"events.notify.{name} must be a list of words")
    return frozenset(value)


def _only_ours(path: Path, file: Path, secret: bool = False) -> None:
    """What decides where events go must be in nobody else's hands."""
    try:
        state = file.stat()
    except OSError as error:
        raise _invalid(path, f"{file}: {error.strerror}") from None
    refused = stat.S_IWGRP | stat.S_IWOTH | (stat.S_IROTH if secret else 0)
    if state.st_uid not in (0, os.geteuid()) or state.st_mode & refused:
        what = "read or written" if secret else "written"
        raise _invalid(path, f"{file} can be {what} by others: events would go where they say")


def _table(path: Path, value: object, name: str, known: set[str]) -> dict[str, object]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _invalid(path, f"{name} must be a table")
    if not known >= value.keys():
        unknown, words = min(value.keys() - known), ", ".join(sorted(known))
        raise _invalid(path, f"unknown key {name}.{unknown}; known are {words}")
    return value


def _invalid(path: Path, detail: str) -> StockadeError:
    return error_for(ReasonCode.INVALID_SETTING, detail, file=path)
