"""The filter table in the kernel: which policies are in force, for which filter, and the request ids by which
policies and SAs of one negotiation find each other. What policies a table needs, and in which order they
change, is `policies`'."""

from collections.abc import Iterable, Mapping, Set
from contextlib import suppress

from stockade.driver.kernel import policies
from stockade.driver.kernel.policies import Change, Step
from stockade.driver.kernel.system import own_ipv6_addresses
from stockade.driver.kernel.tables import KernelTables
from stockade.model.addresses import Address
from stockade.model.capabilities import Capabilities
from stockade.model.filters import FilterTable
from stockade.model.reasons import StockadeError
from stockade.model.sa import SecurityAssociation
from stockade.wire.xfrm import Policy, PolicyDirection


class InstalledFilters:
    """Of one driver."""

    def __init__(self, tables: KernelTables) -> None:
        self._tables = tables
        self.table = FilterTable()
        """The one in force."""
        self._installed: dict[policies.Key, Policy] = {}
        self._by_filter: dict[str, list[Policy]] = {}
        self._is_plain = False  # every filter of the table has all its policies, and nothing else is ours
        self._request_ids: dict[str, int] = {}

    def find(self) -> None:
        """Take over what an earlier run left."""
        self._installed = {policies.key_of(policy): policy for policy in self._tables.policies()}

    def remove(self) -> StockadeError | None:
        """All that is ours, whoever put it there; what the kernel refused is returned, and keeps nothing
        else."""
        steps = policies.steps_between(self._tables.policies(), ())
        refused = self._tables.remove_policies(step.policy for step in steps)
        self._installed.clear()
        return refused

    def distrust(self) -> None:
        """The next table is compared with all that is in force, however little it differs from this one."""
        self._is_plain = False

    def install(self, table: FilterTable, capabilities: Capabilities, needed: Iterable[str]) -> Set[str]:
        """As a difference; where the kernel refuses a step the table before is in force again. `needed`: the
        negotiations of SAs, whose ids stay known as long as they may live. Returns the ids of the filters
        that went."""
        names = list(table.negotiations)
        ids = policies.request_ids(names, self._request_ids)
        few = self._install_few(table, ids, capabilities)
        if few is not None:
            return few
        doubles: list[Policy] = []
        wanted = policies.policies_of(table, ids, capabilities, doubles)
        if any(entry.selector.version == 6 for entry in table.filters):
            wanted = [*policies.loopback_policies(*own_ipv6_addresses()), *wanted]
        before = list(self._installed.values())
        try:
            for step in policies.steps_between(before, wanted):
                self._apply(step)
        except StockadeError:
            with suppress(StockadeError):
                for step in policies.steps_between(list(self._installed.values()), before):
                    self._apply(step)
            raise
        self._by_filter = {}
        for policy in self._installed.values():
            self._by_filter.setdefault(policies.filter_id_of(policy), []).append(policy)
        for found in self._by_filter.values():
            found.sort(key=lambda policy: policy.priority)
        self._is_plain = not doubles and len(self._by_filter) == len(table.filters)
        used = {*needed, *names}
        self._request_ids = {
            name: number for name, number in {**self._request_ids, **ids}.items() if name in used
        }
        went = self.table.ids - table.ids
        self.table = table
        return went

    def _install_few(
        self, table: FilterTable, ids: Mapping[str, int], capabilities: Capabilities
    ) -> Set[str] | None:
        """A table that differs little from the one in force, without a look at all of it. None where that is
        not so simple, or failed: the whole difference is looked for then."""
        if not self._is_plain or table.negotiations != self.table.negotiations:
            return None
        if any(self._request_ids.get(name) != number for name, number in ids.items()):
            return None
        changes = table.since(self.table)
        if any(entry.selector.version == 6 for entry in table.filters if entry.id in changes.came):
            return None  # beside the first filter for IPv6 loopback gets policies
        steps = policies.few_steps(self._installed, self._by_filter, self.table, table, ids, capabilities)
        if steps is None:
            return None
        try:
            for step in steps:
                self._apply(step)
        except StockadeError:
            self._is_plain = False
            return None
        for entry_id in changes.went:
            self._by_filter.pop(entry_id, None)
        for step in steps:
            if step.change is Change.ADD:
                self._by_filter.setdefault(policies.filter_id_of(step.policy), []).append(step.policy)
        self.table = table
        return changes.went

    def _apply(self, step: Step) -> None:
        policy, key = step.policy, policies.key_of(step.policy)
        if step.change is Change.REMOVE:
            self._tables.remove_policy(policy)
            self._installed.pop(key, None)
            return
        if step.change is Change.ADD:
            self._tables.add_policy(policy)
        else:
            self._tables.replace_policy(policy)
        self._installed[key] = policy

    # ---- questions about what is in force ------------------------------------------------------------------

    def request_id(self, negotiation: str) -> int:
        """The number of a negotiation; a new one where it has none yet (see `know`)."""
        known = self._request_ids.get(negotiation)
        if known is not None:
            return known
        return policies.request_ids([negotiation], self._request_ids)[negotiation]

    def known_request_id(self, negotiation: str) -> int | None:
        return self._request_ids.get(negotiation)

    def know(self, negotiation: str, request_id: int) -> None:
        """There is an SA with it."""
        self._request_ids[negotiation] = request_id

    def tunnel_end(self, filter_id: str) -> Address | None:
        """The other end of the tunnel of a filter; None where it has none."""
        entry = self.table.by_id(filter_id)
        if entry is None or entry.negotiation is None:
            return None
        return self.table.negotiations[entry.negotiation].quick_mode.tunnel_endpoint

    def send_held(self, filter_id: str, sa: SecurityAssociation | None = None) -> None:
        """Have the kernel look up anew what it holds for the filter, or only what waits for this SA: by
        itself it looks at its queues by a timer of up to a minute."""
        for policy in self._by_filter.get(filter_id, ()):
            selector = policy.selector
            if policy.direction is PolicyDirection.OUT and (
                sa is None
                or (
                    sa.selector.source.first in selector.source
                    and sa.selector.destination.first in selector.destination
                )
            ):
                self._tables.replace_policy(policy)
