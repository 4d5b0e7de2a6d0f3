"""`stockade support-bundle`: what somebody needs who is to help, in one file, without a secret.

    status, filters, SAs, events    of the agent, where one runs
    policy, history                 of the stores, as commands without keys
    journal, oakley.log             as they are
    settings                        agent.toml, web.toml
    system                          versions, `doctor`, addresses, routes, nftables

The API gives no keys. Beside that, every text is searched for what is secret on this host (pre-shared keys
in all their writings, hashes of passwords, private keys and tokens in files that settings name) and for
what looks like it, and that is taken out. SAs of the kernel are left out: its tools print their keys."""

import argparse
import base64
import io
import json
import os
import platform
import re
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from importlib.metadata import distributions
from pathlib import Path

from stockade import __version__
from stockade.agent.paths import Paths
from stockade.console.output import give
from stockade.model.negotiation import PresharedKey
from stockade.model.reasons import ReasonCode, StockadeError, error_for

REMOVED = "(removed)"
MAXIMUM_MEMBER = 16 * 1024 * 1024
MAXIMUM_TOKEN_FILE = 4096
COMMAND_SECONDS = 20
SHORTEST_SECRET = 6
"""Shorter ones are not searched for: they would stand in words of every text."""

_QUESTIONS = (
    ("status", "/v1/status"),
    ("filters", "/v1/filters"),
    ("sas", "/v1/sas"),
    ("policy", "/v1/policy"),
    ("history", "/v1/policy/history"),
    ("dynamic", "/v1/dynamic"),
    ("negotiations", "/v1/negotiations"),
)
_COMMANDS = (
    ("addresses", ("ip", "-details", "address")),
    ("routes", ("ip", "route", "show", "table", "all")),
    ("rules", ("ip", "rule")),
    ("routes-ipv6", ("ip", "-6", "route")),
    ("xfrm-policies", ("ip", "xfrm", "policy")),
    ("nftables", ("nft", "list", "ruleset")),
    ("sockets", ("ss", "-lun")),
)
_LOOKS_SECRET = re.compile(
    r"""(?ix)
    ( \b (?: psk | pskhex | password | passwd | token | secret | api_?key | authorization | bearer )
      ["']? \s* [=:] \s* )
    ( "(?:[^"\\]|\\.)*" | '[^']*' | [^\s,}"']+ )
    """
)
_IN_URL = re.compile(r"(?i)(\b[a-z][a-z0-9+.-]*://)[^/\s@\"']+@")
_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----", re.DOTALL)


def run_bundle(options: argparse.Namespace) -> int:
    """Exit status of `stockade support-bundle`."""
    name = options.file or time.strftime("stockade-support-%Y%m%dT%H%M%S.tar.gz", time.gmtime())
    paths = Paths.of(options.home)
    members = list(collect(paths))
    write(Path(name), members)
    answer = {"file": name, "members": [member for member, _ in members]}
    give(answer, options.format, f"{name}: {len(members)} files. Look into it before you send it.")
    return 0


def collect(paths: Paths) -> Iterator[tuple[str, str]]:
    """Names and texts, cleaned. What cannot be had says why in its place."""
    clean = cleaner(secrets_of(paths))
    for name, make in _sources(paths):
        try:
            text = make()
        except StockadeError as error:
            text = f"{error.reason}\n"
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            text = f"could not be read: {type(error).__name__}\n"
        yield name, clean(text)


def write(path: Path, members: Iterable[tuple[str, str]]) -> None:
    """A tar archive for its owner only. CallerError where the file is there already or cannot be made."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
            for name, text in members:
                content = text.encode("utf-8", "replace")[:MAXIMUM_MEMBER]
                entry = tarfile.TarInfo(f"stockade-support/{name}")
                entry.size, entry.mode, entry.mtime = len(content), 0o600, int(time.time())
                archive.addfile(entry, io.BytesIO(content))
    except OSError as error:
        raise error_for(
            ReasonCode.FILE_UNUSABLE, f"cannot make {path}: {error.strerror}", file=path
        ) from error


# ---- what goes in


def _sources(paths: Paths) -> Iterator[tuple[str, Callable[[], str]]]:
    from stockade.agent.client import AgentClient

    yield "version.txt", _versions
    yield "doctor.json", _doctor
    client = AgentClient(paths.socket, timeout=COMMAND_SECONDS)
    for name, path in _QUESTIONS:
        yield f"agent/{name}.json", lambda path=path: json.dumps(client.get(path), indent=1)  # type: ignore[misc]
    for store in ("local", "persistent"):
        yield f"policy/{store}.netsh", lambda store=store: _policy(paths, store)  # type: ignore[misc]
    for settings in (paths.settings, paths.web_settings, paths.access):
        if settings.exists():
            yield f"settings/{settings.name}", lambda settings=settings: _text(settings)  # type: ignore[misc]
    for log in sorted(paths.journal.glob("*.jsonl")) + sorted(paths.journal.glob("oakley.log*")):
        yield f"journal/{log.name}", lambda log=log: _text(log)  # type: ignore[misc]
    for name, command in _COMMANDS:
        yield f"system/{name}.txt", lambda command=command: _output(command)  # type: ignore[misc]


def _versions() -> str:
    lines = [f"stockade {__version__}", f"python {sys.version}", f"system {' '.join(platform.uname())}"]
    with suppress(OSError):
        lines.append(Path("/etc/os-release").read_text("utf-8"))
    packages = {f"{one.metadata['Name']} {one.version}" for one in distributions()}
    return "\n".join([*lines, *sorted(packages), ""])


def _doctor() -> str:
    from stockade.console.doctor import examine

    return json.dumps(examine().as_dict(), indent=1)


def _policy(paths: Paths, store: str) -> str:
    from stockade.netsh.dump import Keys, static_lines
    from stockade.store.opening import open_store

    path = paths.policy if store == "local" else paths.persistent
    if not path.exists():
        return "this store was never written to\n"
    return "\n".join(static_lines(open_store(path, store).store.read(), Keys(shown=False))) + "\n"


def _text(path: Path) -> str:
    """The end of a file: the newest part is what matters."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - MAXIMUM_MEMBER))
        return file.read(MAXIMUM_MEMBER).decode("utf-8", "replace")


def _output(command: tuple[str, ...]) -> str:
    result = subprocess.run(
        command,
        capture_output=True,
        timeout=COMMAND_SECONDS,
        check=False,
        env={**os.environ, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"},
    )
    return (result.stdout + result.stderr).decode("utf-8", "replace")


# ---- what stays out


def secrets_of(paths: Paths) -> list[bytes]:
    """Everything on this host that nobody else may see, as far as it can be read."""
    from stockade.console.web.accounts import read_accounts
    from stockade.store.local import LocalStore
    from stockade.store.opening import copies_of

    found: list[bytes] = []
    for path, name in ((paths.policy, "local"), (paths.persistent, "persistent")):
        for store in (path, *copies_of(path)):
            if not store.exists():
                continue
            with suppress(StockadeError):
                opened = LocalStore(store, name)
                sets = [opened.read()]
                for one in opened.history():
                    with suppress(StockadeError):
                        sets.append(opened.revision(one.number))
                found += [
                    method.key.reveal()
                    for objects in sets
                    for policy in objects.policies
                    for rule in policy.rules
                    for method in rule.authentication
                    if isinstance(method, PresharedKey)
                ]
    with suppress(StockadeError):
        for account in read_accounts(paths.web_accounts).values():
            found += [account.digest, account.salt]
    found += _dynamic_keys(paths)
    for settings in (paths.settings, paths.web_settings):
        with suppress(OSError, ValueError):
            found += _named_files(settings)
    return list(dict.fromkeys(found))


def _dynamic_keys(paths: Paths) -> list[bytes]:
    """The keys of the dynamic store, in the writings that the agent has for them."""
    from stockade.agent.client import AgentClient

    try:
        objects = AgentClient(paths.socket).get("/v1/dynamic", {"keys": "yes"})
    except StockadeError:
        return []
    found: list[bytes] = []
    for name, text in _texts(objects):
        if "key" in name or "psk" in name:
            found.append(text.encode())
            with suppress(ValueError):
                found.append(bytes.fromhex(text))
            with suppress(ValueError):
                found.append(base64.b64decode(text, validate=True))
    return found


def _texts(value: object, name: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a tree of tables and lists, with the name that it stands under."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(inner, str(key))
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, name)
    elif isinstance(value, str):
        yield name, value


def _named_files(settings: Path) -> list[bytes]:
    """What stands in token files that a settings file names."""
    import tomllib

    found: list[bytes] = []
    for name, text in _texts(tomllib.loads(settings.read_text("utf-8"))):
        if name.endswith("_file"):
            with suppress(OSError), Path(text).open("rb") as file:
                found.append(file.read(MAXIMUM_TOKEN_FILE).strip())
    return found


def cleaner(known: Iterable[bytes]) -> Callable[[str], str]:
    """A function that takes the known secrets, in the usual writings, and what looks like one out of a
    text."""
    writings: set[str] = set()
    for secret in known:
        if len(secret) < SHORTEST_SECRET:
            continue
        text = secret.decode("utf-8", "replace")
        writings |= {
            text,
            json.dumps(text)[1:-1],
            json.dumps(text, ensure_ascii=False)[1:-1],
            secret.hex(),
            secret.hex().upper(),
            ":".join(f"{byte:02x}" for byte in secret),
            base64.b64encode(secret).decode(),
            base64.urlsafe_b64encode(secret).decode(),
            text.encode("utf-16-le").hex(),
        }
    # the longest first: a shorter one may be part of it
    pattern = (
        re.compile("|".join(map(re.escape, sorted(writings, key=len, reverse=True)))) if writings else None
    )

    def clean(text: str) -> str:
        if pattern is not None:
            text = pattern.sub(REMOVED, text)
        text = _PEM.sub(REMOVED, text)
        text = _IN_URL.sub(rf"\1{REMOVED}@", text)
        return _LOOKS_SECRET.sub(lambda match: f"{match.group(1)}{REMOVED}", text)

    return clean
