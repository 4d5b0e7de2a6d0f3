"""From the start of the service to its policy, with no gap (`policy.boot` says what the tables hold).

    boot filters (of the system's start, or put there now) ─▶ persistent policy, boot filters below it
        ─▶ whole policy ─▶ boot filters go

The boot filters are a gate beside the data plane (`driver.boot_filters`), so a command can put them there
long before an agent runs: `boot_table` reads the stores and says what they are. A policy that is refused
leaves them where they are: what the administrator asked to be closed stays closed until a policy is in
force.
"""

from stockade.agent.stores import Stores
from stockade.driver import boot_filters
from stockade.model.filters import FilterTable
from stockade.model.reasons import Reason, StockadeError
from stockade.policy.boot import (
    BootMode,
    BootTable,
    compile_boot_table,
    default_mode,
    stand_over,
    when_persistent_is_unreadable,
)


def boot_table(stores: Stores) -> BootTable:
    """What holds before the policy does, as `set config bootmode` and `bootexemptions` say. Where the
    persistent store cannot be read it is mode block; where the settings cannot be read, too: nobody knows
    what was asked for. Raises nothing."""
    try:
        settings = stores.boot_settings()
    except StockadeError:
        return when_persistent_is_unreadable()
    if not stores.persistent_is_readable():
        return when_persistent_is_unreadable(settings.boot_exemptions)
    mode = settings.boot_mode or default_mode(settings.ever_assigned)
    return compile_boot_table(mode, settings.boot_exemptions)


class Gate:
    """The boot filters as one agent handles them. `stores` None: the mode is permit. `trouble` says why they
    could not be put in force."""

    def __init__(self, stores: Stores | None, *, closed: bool = False) -> None:
        self.is_closed = closed
        self.trouble: Reason | None = None
        self._stores = stores
        self._table: BootTable | None = None
        self._above = FilterTable()

    @property
    def table(self) -> BootTable:
        """Read when it is needed: a start over the filters of a killed agent does not wait for it."""
        if self._table is None:
            stores = self._stores
            self._table = compile_boot_table(BootMode.PERMIT) if stores is None else boot_table(stores)
        return self._table

    def close(self) -> None:
        """Put them in force, but for mode permit."""
        if self.table.mode is BootMode.PERMIT:
            return
        try:
            boot_filters.install(stand_over(self._above, self.table).table)
        except StockadeError as error:
            self.trouble = error.reason
            return
        self.is_closed = True

    def stand_under(self, persistent: FilterTable) -> None:
        """The persistent policy is in force: it decides first."""
        self._above = persistent
        self.close()

    def close_all(self) -> None:
        """Nobody knows what the persistent policy would have blocked."""
        self._above = FilterTable()
        self._table = when_persistent_is_unreadable()
        self.close()

    def open(self) -> None:
        """The policy is in force. HostError where they cannot be taken out: the host stays more closed than
        its policy says."""
        if self.is_closed:
            boot_filters.remove()
            self.is_closed = False


def close_gate(stores: Stores, *, wanted: bool = True) -> Gate:
    """What an agent does first. Boot filters that are there stay; where the filters of an earlier agent hold
    already, or the data plane protects nothing (`wanted`), nothing is put beside them. Raises nothing."""
    if not wanted:
        return Gate(None)
    there = boot_filters.in_force()
    gate = Gate(stores, closed=there.boot)
    if not there.boot and not there.policy:
        gate.close()
    return gate
