"""The filter table in nftables: which rules are in force, and what each filter counted, also before rules
were written anew."""

from contextlib import suppress

from stockade.driver.contract import FilterCounters
from stockade.driver.userspace import nft
from stockade.driver.userspace.rules import Rules
from stockade.model.filters import FilterTable
from stockade.model.reasons import StockadeError


class InstalledRules:
    """Of one driver. Raises what `nft` raises."""

    def __init__(self) -> None:
        self._table = FilterTable()
        self._rules: Rules | None = None
        self._counted: dict[str, FilterCounters] = {}

    @property
    def are_known(self) -> bool:
        """Whether this driver has installed them: an earlier one may have left some."""
        return self._rules is not None

    def forget(self) -> None:
        """They are gone, or are nothing that we know of any more."""
        self._rules = None

    def install(self, table: FilterTable) -> None:
        if self._rules is None:
            self._rules = nft.install_whole(table)
        else:
            self._rules = nft.install_difference(table, self._rules, self._count_on)
        self._table = table

    def _count_on(self) -> None:
        """The rules are about to be written anew: what they counted so far is kept here."""
        with suppress(StockadeError):
            self._counted = {counted.filter_id: counted for counted in self.counters()}

    def counters(self) -> tuple[FilterCounters, ...]:
        """Of every filter of the table, in its order; of whatever is in the kernel where there is none."""
        found = {counted.filter_id: counted for counted in nft.read_counters()}
        if self._rules is None:
            return tuple(found.values())
        return tuple(
            [
                FilterCounters(
                    name,
                    sum(counts[name].packets for counts in (found, self._counted) if name in counts),
                    sum(counts[name].bytes for counts in (found, self._counted) if name in counts),
                )
                for name in self._table.ids
            ]
        )
