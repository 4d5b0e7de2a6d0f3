"""The policy stores of an agent: persistent first, then local, and what is in memory; with the copies of what
was last in force, for a start that finds one of them damaged."""

from collections.abc import Callable
from dataclasses import dataclass

from stockade.agent.paths import Paths
from stockade.agent.service_settings import ServiceSettings, read_service_settings
from stockade.model.reasons import Reason, ReasonCode, StockadeError, error_for
from stockade.policy.dynamic import DynamicSet
from stockade.policy.objects import PolicySet
from stockade.store.dynamic import DynamicMemory
from stockade.store.local import LocalStore
from stockade.store.opening import last_good_path

Versions = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Configuration:
    """What is to be put in force: the stores' objects, what is in memory, and what `set config` says."""

    policy_sets: tuple[PolicySet, ...]
    dynamic: DynamicSet
    settings: ServiceSettings

    @property
    def persistent(self) -> tuple[PolicySet, ...]:
        """The persistent policy alone; nothing where none is assigned."""
        return tuple(one for one in self.policy_sets if one.store == "persistent" and one.assigned)


class Stores:
    """Reads all stores of one agent."""

    def __init__(self, paths: Paths) -> None:
        # In the order in which they act: the persistent policy is there before any other.
        self._persistent = LocalStore(paths.persistent, "persistent")
        self._local = LocalStore(paths.policy)
        self._stores = (self._persistent, self._local)
        self._in_force: Versions = ()
        self.dynamic = DynamicMemory()
        self.domain: Callable[[], tuple[PolicySet, ...]] = tuple
        """The domain's store, where it assigns a policy."""

    def versions(self) -> Versions:
        """Differs after every change of any store. HostError as `LocalStore.version`."""
        return tuple(store.version() if _is_used(store) else 0 for store in self._stores)

    def read(self) -> Configuration:
        """Everything, as it is now. HostError STORE_UNREADABLE or STORE_BUSY names the store."""
        return self._configuration(self._stores)

    def read_at_start(self, refused: Callable[[Reason], None]) -> Configuration:
        """Everything; of a damaged store the last good copy, and `refused` is told why. HostError where there
        is no copy: without it nobody knows what to protect."""
        readable = []
        for store in self._stores:
            try:
                _read(store)
            except StockadeError as error:
                copy = last_good_path(store.path)
                if error.reason.code is not ReasonCode.STORE_UNREADABLE or not copy.exists():
                    raise
                refused(error.reason)
                store = LocalStore(copy, store.name)
            readable.append(store)
        return self._configuration(tuple(readable))

    def read_last_good(self) -> Configuration:
        """What was last in force. HostError where nobody knows that (any more)."""
        copies = []
        for store in self._stores:
            path = last_good_path(store.path)
            copies.append(LocalStore(path, store.name) if path.exists() or _is_used(store) else store)
            if _is_used(store) and not path.exists():
                raise error_for(ReasonCode.STORE_UNREADABLE, "nothing was in force before", file=path)
        return self._configuration(tuple(copies))

    def read_persistent(self) -> PolicySet:
        """The persistent policy, or its last good copy. HostError where there is neither."""
        return _read(_good(self._persistent))

    def boot_settings(self) -> ServiceSettings:
        """What `set config` says, of the local store or its last good copy. HostError where there is
        neither."""
        store = _good(self._local)
        return read_service_settings(store, ever_assigned=store.read().assigned is not None)

    def local_store(self, name: str) -> LocalStore:
        """The store called `local` or `persistent`."""
        return self._persistent if name == self._persistent.name else self._local

    def persistent_is_readable(self) -> bool:
        try:
            self.read_persistent()
        except StockadeError:
            return False
        return True

    def keep_good_copies(self) -> None:
        """Remember what is in force. Only what changed since the last copy is copied."""
        versions = self.versions()
        for place, store in enumerate(self._stores):
            if _is_used(store) and (not self._in_force or self._in_force[place] != versions[place]):
                store.copy_to(last_good_path(store.path))
        self._in_force = versions

    def _configuration(self, stores: tuple[LocalStore, ...]) -> Configuration:
        sets = tuple(map(_read, stores))
        assigned = any(one.assigned is not None for one in (*sets, *self.domain()))
        return Configuration(
            (*sets, *self.domain()),
            self.dynamic.read(),
            read_service_settings(stores[-1], ever_assigned=assigned),
        )


def _good(store: LocalStore) -> LocalStore:
    """The store, or its last good copy."""
    try:
        _read(store)
    except StockadeError:
        copy = last_good_path(store.path)
        if not copy.exists():
            raise
        return LocalStore(copy, store.name)
    return store


def _is_used(store: LocalStore) -> bool:
    """A persistent store that nobody wrote to has no file yet, and need not get one."""
    return store.name != "persistent" or store.is_open or store.path.exists()


def _read(store: LocalStore) -> PolicySet:
    return store.read() if _is_used(store) else PolicySet(store=store.name)
