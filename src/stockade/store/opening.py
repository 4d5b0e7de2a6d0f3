"""Opening a store that may be damaged: then its last good copy, read-only, with the reason why.

The agent keeps a copy of every store whose content it could put in force (`LocalStore.copy_to`), and the
command line one of what it wrote last; the newer of the two is shown. An agent starts from its own only. A
damaged store is never repaired by itself and never read as an empty one."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from stockade.model.reasons import Reason, ReasonCode, StockadeError, error_for
from stockade.policy.contract import PolicyTransaction
from stockade.policy.objects import PolicySet
from stockade.store.local import LocalStore


def last_good_path(path: Path) -> Path:
    """Where the last good copy of the store in `path` is: `policy.db` → `policy.last-good.db`."""
    return path.with_name(f"{path.stem}.last-good{path.suffix}")


def last_saved_path(path: Path) -> Path:
    """Where the command line keeps a copy after each of its changes, for a computer on which no agent has put
    the store in force yet: `policy.db` → `policy.last-saved.db`."""
    return path.with_name(f"{path.stem}.last-saved{path.suffix}")


def copies_of(path: Path) -> tuple[Path, ...]:
    """The copies of a store that are there, newest first."""
    found = [copy for copy in (last_good_path(path), last_saved_path(path)) if copy.exists()]
    return tuple(sorted(found, key=lambda copy: copy.stat().st_mtime, reverse=True))


class ReadOnlyStore:
    """A store that cannot be changed, and says why. Settings too."""

    def __init__(self, store: LocalStore, damage: Reason) -> None:
        self._store = store
        self.damage = damage

    @property
    def copy(self) -> LocalStore:
        """What is read. Whoever changes it changes the copy, not the store."""
        return self._store

    @property
    def name(self) -> str:
        return self._store.name

    def read(self) -> PolicySet:
        return self._store.read()

    def version(self) -> int:
        return self._store.version()

    def close(self) -> None:
        self._store.close()

    def transaction(self) -> AbstractContextManager[PolicyTransaction]:
        raise self._refused()

    def get_setting(self, key: str) -> str | None:
        return self._store.get_setting(key)

    def put_setting(self, key: str, value: str | None) -> None:
        raise self._refused()

    def _refused(self) -> StockadeError:
        detail = f"{self.damage.detail}; its last good copy is shown, and cannot be changed"
        return error_for(ReasonCode.STORE_UNREADABLE, detail, **dict(self.damage.facts))


@dataclass(frozen=True, slots=True)
class Opened:
    """A store, and what is wrong where it is a copy: `damage`, and when the copy was made."""

    store: LocalStore | ReadOnlyStore
    damage: Reason | None = None
    copied: datetime | None = None

    @property
    def what_is_shown(self) -> str:
        """A sentence for people about a store that is a copy."""
        made = "" if self.copied is None else f" of {self.copied:%Y-%m-%d %H:%M:%S} UTC"
        return f"what follows is its last good copy{made}, which is read-only"


def open_store(path: Path, name: str) -> Opened:
    """The store in `path`; where it is damaged, its last good copy. HostError STORE_UNREADABLE where there is
    none either, STORE_BUSY."""
    store = LocalStore(path, name)
    try:
        store.read()
    except StockadeError as error:
        if error.reason.code is not ReasonCode.STORE_UNREADABLE:
            raise
        for copy_path in copies_of(path):
            made = datetime.fromtimestamp(copy_path.stat().st_mtime, UTC)
            copy = LocalStore(copy_path, name)
            try:
                copy.read()
            except StockadeError:
                continue
            return Opened(ReadOnlyStore(copy, error.reason), error.reason, made)
        raise  # the damage of the store itself is what people must hear of
    return Opened(store)
