"""What the local API asks of the agent (`api.AgentOperations`): answers from its parts, and the few things
that an administrator has done at once: reload, delete, rekey, release an address, set dynamic objects."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from stockade import __version__
from stockade.agent import messages, views
from stockade.agent.boot import Gate
from stockade.agent.core import HostCore
from stockade.agent.domain import DomainPolicy
from stockade.agent.event_store import EventQuery, EventStore, find
from stockade.agent.facts_keeper import FactsKeeper
from stockade.agent.journal import Entry, Journal
from stockade.agent.known_peers import KnownPeers
from stockade.agent.measuring import FEW_FILTERS, Measuring
from stockade.agent.paths import Paths
from stockade.agent.policy_keeper import PolicyKeeper
from stockade.agent.settings import Settings
from stockade.agent.stores import Stores
from stockade.agent.web_desk import WebDesk
from stockade.driver.contract import Driver
from stockade.ike.contract import DeleteQuickMode, QuickModeView, RekeyQuickMode
from stockade.model.addresses import Address
from stockade.model.filters import Direction
from stockade.model.reasons import Reason, ReasonCode, StockadeError, error_for
from stockade.model.traffic import Flow
from stockade.policy.dynamic import DynamicSet
from stockade.store.dynamic import dynamic_form

if TYPE_CHECKING:
    from stockade.agent.cluster import ClusterNode
    from stockade.agent.web_keeper import WebKeeper


@dataclass(slots=True)
class Operations:
    """The parts of one agent, for the API. `pump` carries out what was asked of the core; `started` is a time
    of the monotonic clock."""

    paths: Paths
    settings: Settings
    started: float
    core: HostCore
    driver: Driver
    policy: PolicyKeeper
    stores: Stores
    gate: Gate
    domain: DomainPolicy
    facts: FactsKeeper
    known_peers: KnownPeers
    measuring: Measuring
    log: Journal
    event_store: EventStore
    desk: WebDesk
    cluster: "ClusterNode | None"
    web: "WebKeeper | None"
    pump: Callable[[], None]

    def status(self) -> messages.Status:
        now = time.monotonic()
        statistics = self.driver.statistics(filters=False)
        refusal = self.policy.trouble
        return messages.Status(
            version=__version__,
            pid=os.getpid(),
            uptime=round(now - self.started, 3),
            driver=self.driver.capabilities.name,
            policy=self.core.table.policy_name,
            policy_refused=views.reason_message(refusal) if refusal else None,
            filters=len(self.core.table.filters),
            main_modes=len(self.core.engine.main_modes(now)),
            quick_modes=len(self.core.engine.quick_modes(now)),
            held_packets=statistics.held_packets,
            refused_packets=dict(statistics.refused),
            ike=self.core.ike_statistics,
            ipsec=self.measuring.ipsec_statistics(self.core, statistics),
            addresses=[str(address) for address in self.core.local_addresses],
            known_quick_modes=len(self.known_peers.all()),
            facts=views.facts(self.facts, now),
            soft=len(self.core.soft_associations),
            domain=views.domain(self.domain, self.settings.directory.domain),
            boot_filters=str(self.gate.table.mode) if self.gate.is_closed else "",
            cluster=views.cluster(self.cluster) if self.cluster is not None else None,
            web=views.web(self.web) if self.web is not None else None,
        )

    def release_address(self, address: Address | None) -> messages.Released:
        """Planned failover: peers are told before a virtual address is moved."""
        if self.cluster is None:
            raise error_for(ReasonCode.NOT_SET_UP, "it is no node of a cluster: agent.toml has no [cluster]")
        released = self.cluster.release(address, time.monotonic())
        self.pump()
        return messages.Released(addresses=[str(one) for one in released])

    def filters(self) -> messages.Filters:
        return views.filters(self.core, self.driver.statistics())

    def sas(self) -> messages.Sas:
        return views.sas(self.core, self.driver.statistics(filters=False), time.monotonic())

    def methods(self) -> messages.Methods:
        return views.methods(self.core)

    def reload(self) -> messages.Loaded:
        self.domain.refresh()
        with suppress(StockadeError):  # told by `refused`
            self.policy.load()
            if self.policy.refusal is None:
                asked = Reason.of(ReasonCode.POLICY_LOADED, "as asked for")
                self.log.write(Entry("policy-reloaded", asked))
        return messages.Loaded(
            policy=self.core.table.policy_name,
            filters=len(self.core.table.filters),
            refused=views.reason_message(self.policy.refusal) if self.policy.refusal else None,
        )

    def dynamic(self, *, with_keys: bool) -> messages.Dynamic:
        memory = self.stores.dynamic
        objects = dynamic_form(memory.read(), with_keys=with_keys)
        return messages.Dynamic(version=memory.version, objects=objects)

    def set_dynamic(self, version: int, objects: DynamicSet) -> messages.Loaded:
        """Put dynamic objects in force in the place of those that there are. Where they cannot be enforced
        nothing changes and the error says why."""
        memory = self.stores.dynamic
        memory.require_version(version)
        before = memory.read()
        memory.replace(objects)
        try:
            self.policy.load()
            if self.policy.refusal is not None:
                raise StockadeError(self.policy.refusal)
        except StockadeError as error:
            memory.replace(before)
            with suppress(StockadeError):  # it was in force a moment ago
                self.policy.load()
            raise StockadeError(error.reason) from None
        return messages.Loaded(
            policy=self.core.table.policy_name, filters=len(self.core.table.filters), refused=None
        )

    def delete_peer(self, peer: Address) -> messages.Deleted:
        now = time.monotonic()
        before = (len(self.core.engine.main_modes(now)), len(self.core.engine.quick_modes(now)))
        self.core.delete_peer(peer, now)
        self.pump()
        after = (len(self.core.engine.main_modes(now)), len(self.core.engine.quick_modes(now)))
        return messages.Deleted(
            peer=str(peer), main_modes=before[0] - after[0], quick_modes=before[1] - after[1]
        )

    def delete_quick_mode(self, inbound_spi: int) -> messages.Deleted:
        now, view = time.monotonic(), self._quick_mode(inbound_spi)
        reason = Reason.of(ReasonCode.SA_DELETED, "deleted by an administrator", peer=view.peer)
        self.core.engine.command(DeleteQuickMode(inbound_spi, reason), now)
        self.pump()
        return messages.Deleted(peer=str(view.peer), main_modes=0, quick_modes=1)

    def rekey(self, inbound_spi: int) -> messages.Rekeyed:
        view = self._quick_mode(inbound_spi)
        self.core.engine.command(RekeyQuickMode(inbound_spi), time.monotonic())
        self.pump()
        return messages.Rekeyed(peer=str(view.peer), inbound_spi=f"{inbound_spi:#010x}")

    def _quick_mode(self, inbound_spi: int) -> QuickModeView:
        for view in self.core.engine.quick_modes(time.monotonic()):
            if view.inbound_spi == inbound_spi:
                return view
        raise error_for(ReasonCode.UNKNOWN_NAME, f"no quick mode has the inbound SPI {inbound_spi:#010x}")

    def explain(self, flow: Flow, direction: Direction | None) -> messages.ExplanationMessage:
        from stockade.analyze.explain import explain_flow  # late: nobody waits for it at the start

        if direction is None:
            direction = Direction.OUTBOUND if flow.source in self.core.local_addresses else Direction.INBOUND
        explanation = explain_flow(
            self.core.table, flow, direction, self.core.engine.quick_modes(time.monotonic())
        )
        if (trouble := self.policy.trouble) is not None:
            note = f"the newest policy is refused, this is the one before it: {trouble}"
            explanation = replace(explanation, notes=(*explanation.notes, note))
        return messages.ExplanationMessage(explanation=explanation.as_dict(), lines=list(explanation.lines()))

    def explain_peer(self, peer: Address) -> messages.PeerPlan:
        return views.peer_plan(self.core, peer)

    def journal(self, last: int) -> messages.JournalEntries:
        recent = self.log.recent
        return messages.JournalEntries(entries=recent[max(0, len(recent) - last) :])

    def events(self, query: EventQuery) -> messages.JournalEntries:
        return messages.JournalEntries(entries=find(self.paths.journal, query))

    def capture_keys(self, kept: str) -> messages.CaptureKeys:
        from stockade.agent.capture_keys import keys_message

        keys = keys_message(self.core.engine.export_keys())
        told = Reason.of(
            ReasonCode.KEYS_EXPORTED,
            main_modes=len(keys.ike),
            quick_mode_sas=len(keys.sas),
            kept=f"in {kept}",
        )
        self.log.write(Entry("keys-exported", told))
        return keys

    def metrics(self) -> bytes:
        from stockade.agent.metrics import Figures, render  # late: only those who ask pay for the library

        refusal = self.policy.trouble
        statistics = self.driver.statistics(filters=len(self.core.table.filters) <= FEW_FILTERS)
        self.measuring.look(self.core, statistics)
        snapshot, cluster = self.domain.snapshot, self.cluster
        return render(
            Figures(
                self.core,
                statistics,
                self.measuring.recorder,
                self.measuring.totals,
                time.monotonic(),
                self.measuring.started,
                __version__,
                self.driver.capabilities.name,
                refusal,
                self.gate.is_closed,
                self.measuring.offloads(self.driver),
                (snapshot.domain, max(0.0, time.time() - snapshot.read)) if snapshot else None,
                {one.name: one.alive for one in cluster.members()} if cluster else {},
                tuple(str(one) for one in cluster.replication.held) if cluster else (),
                self.event_store.left_out,
            )
        )

    def series(self) -> messages.Series:
        return views.series(self.measuring.history)

    def listen(self, listener: Callable[[dict[str, object]], None]) -> Callable[[], None]:
        self.log.listeners.add(listener)
        return lambda: self.log.listeners.discard(listener)
