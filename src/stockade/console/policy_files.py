"""What a policy file says, without an agent: a netsh script (policies, dynamic objects and settings), a file
of Windows (.ipsec, .reg, LDIF), or a policy store of ours. A script runs in a world of its own, in memory: it
begins with empty stores, reads the files that it names, and writes nothing.

Two kinds of command may fail in a script without making the answer a wrong one, and are told on standard
error: a `delete` of what is not there (scripts from the field begin by clearing up), and a `show` that needs
an agent."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from stockade.agent.client import AgentClient
from stockade.agent.paths import Paths
from stockade.console.netsh_world import AgentDynamic, SystemFiles, SystemResolver
from stockade.model.addresses import Address
from stockade.model.reasons import CallerError, Reason, ReasonCode, StockadeError, error_for
from stockade.netsh.contract import World
from stockade.netsh.interpreter import decode_script, run_script
from stockade.netsh.session import Outcome, Session
from stockade.policy.dynamic import DynamicSet
from stockade.policy.exemptions import DEFAULT_EXEMPT_LEVEL
from stockade.policy.memory_store import MemoryStore
from stockade.policy.objects import PolicySet
from stockade.store.dynamic import DynamicMemory
from stockade.store.formats import file_kind, read_policy_file
from stockade.store.local import LocalStore
from stockade.store.opening import ReadOnlyStore, open_store

MAXIMUM_FILE_BYTES = 256 * 1024 * 1024
_SQLITE_MAGIC = b"SQLite format 3\0"


@dataclass(frozen=True, slots=True)
class Written:
    """What a file, or the stores of this computer, say."""

    policy_sets: tuple[PolicySet, ...]
    exempt_level: int = DEFAULT_EXEMPT_LEVEL
    dynamic: DynamicSet | None = None
    names: Mapping[str, tuple[Address, ...]] = field(default_factory=dict)
    """DNS names whose addresses are known."""


def read_stores(paths: Paths) -> Written:
    """The stores, the settings, and of an agent that runs its dynamic objects and what names stand for."""
    found = ((paths.persistent, "persistent"), (paths.policy, "local"))
    sets, level = [], DEFAULT_EXEMPT_LEVEL
    for path, name in found:
        if path.exists():
            store = _store(path, name)
            sets.append(store.read())
            if name == "local":
                level = _level(store.get_setting("ipsecexempt"))
    dynamic, names = None, {}
    if paths.socket.exists():
        client = AgentClient(paths.socket)
        with suppress(StockadeError):  # an agent that is gone has no dynamic objects
            dynamic = AgentDynamic(client).read()
            names = {
                row["name"]: tuple(map(ip_address, row["addresses"]))
                for row in client.get("/v1/status")["facts"]["names"]
                if row["addresses"] is not None
            }
    return Written(tuple(sets), level, dynamic, names)


def read_file(path: Path) -> Written:
    """CallerError with the file, and the line where there is one, for what cannot be read."""
    try:
        with path.open("rb") as file:
            content = file.read(MAXIMUM_FILE_BYTES + 1)
    except OSError as error:
        raise error_for(ReasonCode.FILE_UNUSABLE, f"{path}: {error.strerror}") from error
    if len(content) > MAXIMUM_FILE_BYTES:
        raise error_for(ReasonCode.INVALID_FILE, f"{path} has more than {MAXIMUM_FILE_BYTES} bytes")
    if content.startswith(_SQLITE_MAGIC):
        store = LocalStore(path)
        return Written((store.read(),), _level(store.get_setting("ipsecexempt")))
    if file_kind(content) is not None:
        result = read_policy_file(content, str(path))
        for loss in result.losses:  # the answer is about what is left
            print(f"stockade: {loss}", file=sys.stderr)
        return Written((result.policy_set,))
    return _read_script(decode_script(content, str(path)), path)


def _store(path: Path, name: str) -> LocalStore | ReadOnlyStore:
    """A store; where it is damaged, its last good copy, and standard error says so."""
    opened = open_store(path, name)
    if opened.damage is not None:
        print(f"stockade: {opened.damage}\n{opened.what_is_shown}", file=sys.stderr)
    return opened.store


def _level(setting: str | None) -> int:
    if setting is not None and setting not in ("0", "1", "2", "3"):
        raise error_for(
            ReasonCode.STORE_UNREADABLE, "setting ipsecexempt does not fit", setting="ipsecexempt"
        )
    return DEFAULT_EXEMPT_LEVEL if setting is None else int(setting)


# -- scripts


class _Settings:
    def __init__(self) -> None:
        self._values: dict[str, str] = {}

    def get_setting(self, key: str) -> str | None:
        return self._values.get(key)

    def put_setting(self, key: str, value: str | None) -> None:
        if value is None:
            self._values.pop(key, None)
        else:
            self._values[key] = value


class _Dynamic:
    """The dynamic objects of an agent that there is not."""

    def __init__(self) -> None:
        self.memory = DynamicMemory()

    def read(self) -> DynamicSet:
        return self.memory.read()

    @contextmanager
    def transaction(self) -> Iterator["_DynamicChange"]:
        change = _DynamicChange(self.memory.read())
        yield change
        self.memory.replace(change.read())


class _DynamicChange:
    def __init__(self, objects: DynamicSet) -> None:
        self._objects = objects

    def read(self) -> DynamicSet:
        return self._objects

    def replace(self, objects: DynamicSet) -> None:
        self._objects = objects


class _ReadFiles(SystemFiles):
    """Files are read and not written."""

    def write(self, name: str, content: bytes) -> None:
        pass


def _read_script(text: str, path: Path) -> Written:
    stores = {name: MemoryStore(PolicySet(store=name)) for name in ("local", "persistent")}
    settings, dynamic = _Settings(), _Dynamic()
    world = World(
        open_store=stores.__getitem__,
        settings=settings,
        dynamic=dynamic,
        files=_ReadFiles(),
        resolver=SystemResolver(),
    )
    for outcome in run_script(text, Session(stores["local"], world=world), source=str(path)):
        if not outcome.failed or outcome.reason is None:
            continue
        if not _is_harmless(outcome):
            raise CallerError(_at(outcome.reason, path, outcome.line))
        print(f"stockade: {path}, line {outcome.line}: passed over: {outcome.reason}", file=sys.stderr)
    persistent = stores["persistent"].read()
    sets = (persistent, stores["local"].read()) if persistent.policies else (stores["local"].read(),)
    return Written(sets, _level(settings.get_setting("ipsecexempt")), dynamic.read())


def _is_harmless(outcome: Outcome) -> bool:
    assert outcome.reason is not None
    if "delete" in outcome.path:
        return outcome.reason.code is ReasonCode.UNKNOWN_NAME
    return "show" in outcome.path and outcome.reason.code is ReasonCode.NOT_AVAILABLE


def _at(reason: Reason, path: Path, line: int) -> Reason:
    """The reason with the place in the file, which a script's own output has before its text."""
    known = dict(reason.facts)
    more = {"file": str(path)} | ({"line": str(line)} if line else {})
    return Reason(
        reason.code,
        reason.detail,
        reason.facts + tuple(item for item in more.items() if item[0] not in known),
    )
