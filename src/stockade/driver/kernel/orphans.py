"""SAs that an earlier run left in the kernel. They go on until the agent asks for them (`survivors`), and end
where it does not: some time after the start, or a moment after their peer has an SA of this run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from stockade.driver.kernel import policies, states
from stockade.driver.kernel.ledger import Key, Ledger
from stockade.driver.kernel.tables import KernelTables, state_key
from stockade.model.addresses import Address
from stockade.model.sa import SecurityAssociation
from stockade.wire.xfrm import Encapsulation, State

ORPHAN_SECONDS: Final = 30.0
"""How long SAs of an earlier run stay at most."""

HANDOVER_SECONDS: Final = 2.0
"""How long they stay when their peer has an SA of this run."""


@dataclass(slots=True)
class _Orphan:
    """To be removed at `end`."""

    state: State
    end: float


class Orphans:
    """Of one driver. `now` is of the monotonic clock."""

    def __init__(self, tables: KernelTables, ledger: Ledger) -> None:
        self._tables = tables
        self._ledger = ledger
        self._orphans: dict[Key, _Orphan] = {}
        self._told: Mapping[Key, tuple[SecurityAssociation, float]] = {}

    def find(self, now: float) -> None:
        self._orphans = {
            state_key(state): _Orphan(state, now + ORPHAN_SECONDS)
            for state in self._tables.states()
            if states.is_ours(state)
        }
        self._told = self._ledger.read()
        self._ledger.begin(self._told)  # an agent that dies before it has asked leaves all of it to the next

    def recognize(
        self, request_id: Callable[[str], int | None]
    ) -> list[tuple[Key, State, SecurityAssociation, float]]:
        """Those whose record agrees with what is in the kernel, and when they were installed; the others are
        ended. `request_id`: of a negotiation, if the table in force has it."""
        found, unknown = [], []
        for key, orphan in self._orphans.items():
            sa, installed = self._told.get(key, (None, 0.0))
            if sa is None or not _is(orphan.state, sa, request_id(sa.negotiation)):
                unknown.append(key)
            else:
                found.append((key, orphan.state, sa, installed))
        refused = self._tables.remove_states(unknown)
        if refused is not None:
            raise refused
        self._orphans.clear()
        self._told = {}
        return found

    def peer_has_another(self, peer: Address, now: float) -> None:
        for orphan in self._orphans.values():
            if peer in (orphan.state.source, orphan.state.destination):
                orphan.end = min(orphan.end, now + HANDOVER_SECONDS)

    def is_gone(self, key: Key) -> None:
        """The kernel has ended it."""
        self._orphans.pop(key, None)

    def end_due(self, now: float) -> None:
        for key, orphan in list(self._orphans.items()):
            if now >= orphan.end:
                del self._orphans[key]
                self._tables.remove_state(key)

    def clear(self) -> None:
        self._orphans.clear()


def _is(state: State, sa: SecurityAssociation, request_id: int | None) -> bool:
    """Whether this is that SA, and the table's policies for its rule lead to it."""
    ports = None if sa.udp is None else Encapsulation(sa.udp.source_port, sa.udp.destination_port)
    return (
        (state.source, state.destination, state.spi) == (sa.source, sa.destination, sa.spi)
        and state.mode is policies.MODES[sa.mode]
        and state.request_id == request_id
        and state.encapsulation == ports
    )
