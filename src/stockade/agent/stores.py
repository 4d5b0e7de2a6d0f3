"""The policy stores of an agent: persistent first, then local, and what is in memory; with the copies of what
was last in force, for a start that finds one of them damaged."""

from collections.abc import Callable
from dataclasses import dataclass

from stockade.agent.paths import Paths
from stockade.model.reasons import Reason, ReasonCode, StockadeError
from stockade.policy.dynamic import DynamicSet
from stockade.policy.exemptions import DEFAULT_EXEMPT_LEVEL
from stockade.policy.objects import PolicySet
from stockade.store.dynamic import DynamicMemory
from stockade.store.local import LocalStore
from stockade.store.opening import last_good_path

EXEMPTION_SETTING = "ipsecexempt"
LOGGING_SETTING = "ikelogging"

Versions = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Configuration:
    """What is to be put in force: the stores' objects, what is in memory, and the exemption level (0–3)."""

    policy_sets: tuple[PolicySet, ...]
    dynamic: DynamicSet
    exempt_level: int
    ike_logging: bool = False


class Stores:
    """Reads all stores of one agent."""

    def __init__(self, paths: Paths) -> None:
        # In the order in which they act: the persistent policy is there before any other.
        self._stores = (LocalStore(paths.persistent, "persistent"), LocalStore(paths.policy))
        self._in_force: Versions = ()
        self.dynamic = DynamicMemory()

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

    def keep_good_copies(self) -> None:
        """Remember what is in force. Only what changed since the last copy is copied."""
        versions = self.versions()
        for place, store in enumerate(self._stores):
            if _is_used(store) and (not self._in_force or self._in_force[place] != versions[place]):
                store.copy_to(last_good_path(store.path))
        self._in_force = versions

    def _configuration(self, stores: tuple[LocalStore, ...]) -> Configuration:
        level = stores[-1].settings.number(EXEMPTION_SETTING, DEFAULT_EXEMPT_LEVEL)
        logging = bool(stores[-1].settings.number(LOGGING_SETTING, 0))
        return Configuration(tuple(map(_read, stores)), self.dynamic.read(), level, logging)


def _is_used(store: LocalStore) -> bool:
    """A persistent store that nobody wrote to has no file yet, and need not get one."""
    return store.name != "persistent" or store.is_open or store.path.exists()


def _read(store: LocalStore) -> PolicySet:
    return store.read() if _is_used(store) else PolicySet(store=store.name)
