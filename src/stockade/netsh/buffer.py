"""Changes that are collected and written together: batch mode, and scripts that are all or nothing.

Each store that a command touches gets a working copy in memory. `flush` writes what differs, in one
transaction per store, the dynamic objects of the agent inside those transactions, so that a refusal of the
agent takes everything back; then the settings. A store that somebody else changed meanwhile is not
overwritten."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from stockade.model.reasons import ReasonCode, error_for
from stockade.netsh.contract import (
    DescribedStore,
    DynamicStore,
    Settings,
    WholeTransaction,
)
from stockade.policy.contract import PolicyStore
from stockade.policy.dynamic import DynamicSet
from stockade.policy.memory_store import MemoryStore


@dataclass(slots=True)
class _Copy:
    base: PolicyStore
    version: int
    working: MemoryStore


class Buffer:
    """The working copies of one batch."""

    def __init__(self) -> None:
        self._copies: dict[str, _Copy] = {}
        self._settings: _WorkingSettings | None = None
        self._dynamic: _WorkingDynamic | None = None

    def store(self, base: PolicyStore) -> MemoryStore:
        """The working copy of a store; made when it is first asked for."""
        copy = self._copies.get(base.name)
        if copy is None:
            # Version first: what changes between the two looks is noticed when the batch is written.
            version = base.version()
            copy = self._copies[base.name] = _Copy(base, version, MemoryStore(base.read()))
        return copy.working

    def original(self, store: PolicyStore) -> PolicyStore:
        """The store that a working copy stands for."""
        return next((copy.base for copy in self._copies.values() if copy.working is store), store)

    def settings(self, base: Settings) -> Settings:
        if self._settings is None:
            self._settings = _WorkingSettings(base)
        return self._settings

    def dynamic(self, base: DynamicStore) -> DynamicStore:
        if self._dynamic is None:
            self._dynamic = _WorkingDynamic(base, base.read())
        return self._dynamic

    def flush(self, command: str) -> None:
        """Write everything. CallerError or HostError where that is refused; then nothing is written."""
        with ExitStack() as open_transactions:
            for copy in self._copies.values():
                if not copy.working.version():
                    continue
                if isinstance(copy.base, DescribedStore):
                    copy.base.describe(command)
                change = open_transactions.enter_context(copy.base.transaction())
                if copy.base.version() != copy.version:
                    raise error_for(
                        ReasonCode.STORE_BUSY,
                        "somebody else has changed it since the batch began; nothing of the batch is applied",
                        store=copy.base.name,
                    )
                if not isinstance(change, WholeTransaction):
                    raise error_for(
                        ReasonCode.NOT_AVAILABLE,
                        f"batches in the {copy.base.name} store",
                        store=copy.base.name,
                    )
                change.replace_all(copy.working.read())
            if self._dynamic is not None:
                self._dynamic.write()
        if self._settings is not None:
            self._settings.write()


class _WorkingSettings:
    def __init__(self, base: Settings) -> None:
        self._base = base
        self._changed: dict[str, str | None] = {}

    def get_setting(self, key: str) -> str | None:
        return self._changed[key] if key in self._changed else self._base.get_setting(key)

    def put_setting(self, key: str, value: str | None) -> None:
        self._changed[key] = value

    def write(self) -> None:
        for key, value in self._changed.items():
            self._base.put_setting(key, value)


class _WorkingDynamic:
    def __init__(self, base: DynamicStore, objects: DynamicSet) -> None:
        self._base = base
        self._before = self._objects = objects

    def read(self) -> DynamicSet:
        return self._objects

    def replace(self, objects: DynamicSet) -> None:
        self._objects = objects

    @contextmanager
    def transaction(self) -> Iterator["_WorkingDynamic"]:
        before = self._objects
        try:
            yield self
        except BaseException:
            self._objects = before
            raise

    def write(self) -> None:
        if self._objects == self._before:
            return
        with self._base.transaction() as change:
            if change.read() != self._before:
                raise error_for(
                    ReasonCode.STORE_BUSY,
                    "somebody else has changed the dynamic policy since the batch began; nothing is applied",
                )
            change.replace(self._objects)
