"""One host: policy, key exchange and driver joined, still without sockets or clocks.

    driver events ──▶ commands ──▶ ┌────────┐ ──▶ Send        (to the callable given to `pump`)
    datagrams ───────────────────▶ │ engine │ ──▶ InstallSa / RemoveSa ──▶ driver
    timeouts ────────────────────▶ └────────┘ ──▶ Report ──▶ journal, release of held packets, known peers

The asyncio service and the laboratory both run this class; every decision about what an event means is here,
so that a coroutine decides nothing. Times are seconds on one monotonic clock.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from stockade.agent.adoption import Adoption
from stockade.agent.diagnostics import PacketLog
from stockade.agent.journal import Entry
from stockade.agent.known_peers import KnownPeers, KnownQuickMode
from stockade.agent.reconnection import Reconnection
from stockade.agent.soft import SoftFallback, SoftSettings
from stockade.agent.survivors import SurvivingPair
from stockade.agent.temporary import SoftAssociation, TemporaryFilters
from stockade.driver import contract as driver_contract
from stockade.driver.contract import Driver, ListensAhead
from stockade.ike import contract as ike
from stockade.ike.auth.kerberos import GssSource
from stockade.ike.config import EngineConfig
from stockade.ike.engine import Engine
from stockade.ike.flood import Verdict, is_first_message
from stockade.ike.proofs import RestartSecret
from stockade.model.addresses import Address, Endpoint
from stockade.model.filters import Action, Direction, FilterTable, SpecificFilter
from stockade.model.negotiation import QuickModeMatch
from stockade.model.reasons import Reason, ReasonCode, StockadeError, error_for
from stockade.model.sa import SecurityAssociation
from stockade.model.traffic import Flow
from stockade.pki.credentials import CredentialSource
from stockade.policy.compiler import PolicyCompiler
from stockade.policy.dynamic import DynamicSet
from stockade.policy.facts import HostFacts, as_facts
from stockade.policy.lookup import FilterTableLookup
from stockade.policy.objects import PolicySet
from stockade.policy.places import stores_in_force
from stockade.wire.udp_encapsulation import NAT_TRAVERSAL_PORT, NON_ESP_MARKER
from stockade.wire.unreachable import Unreachable

MAXIMUM_ROUNDS = 64
"""How often `pump` goes back and forth between driver and engine at most: a loop would be our own fault."""


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What loading a policy did: the table in force, or why the last good one stays."""

    table: FilterTable
    refusal: Reason | None = None


class HostCore:
    """Policy + engine + driver of one host.

    `facts` are what the host knows of itself (or just its addresses). `random(size)` gives bytes for cookies,
    nonces and keys. `journal` is called with every entry. `known_peers` remembers with whom we had SAs, over
    restarts. `credentials` are the host's certificates. `source_for(peer)` is our address towards a tunnel's
    end point, None where there is no way; without it the first address of the family is taken. `kerberos` is
    the host's keytab. `perform` has work done that may block, and answers by `performed`; without it the work
    is done at once. `restart_secret` proves to peers that we lost state.
    """

    def __init__(
        self,
        driver: Driver,
        facts: HostFacts | Sequence[Address],
        random: Callable[[int], bytes],
        *,
        journal: Callable[[Entry], None] = lambda entry: None,
        known_peers: KnownPeers | None = None,
        config: EngineConfig | None = None,
        exempt_level: int = 3,
        credentials: CredentialSource | None = None,
        kerberos: GssSource | None = None,
        perform: Callable[[ike.Perform], None] | None = None,
        soft: SoftSettings | None = None,
        source_for: Callable[[Address], Address | None] | None = None,
        restart_secret: RestartSecret | None = None,
    ) -> None:
        self.driver = driver
        self.table = FilterTable()
        """The filter table in force, temporary filters included."""
        self.facts = as_facts(facts)
        self.exempt_level = exempt_level
        self.known_peers = known_peers if known_peers is not None else KnownPeers()
        self.packet_log = PacketLog()
        self._journal = journal
        self.oakley: Callable[[ike.StoryLine], None] = lambda line: None
        """Gets every line of the Oakley log, while `log_key_exchange` has it on."""
        self._compiler = PolicyCompiler()
        self._compiled = FilterTable()
        self._policy: tuple[tuple[PolicySet, ...], DynamicSet | None] = ((), None)
        self._temporary = TemporaryFilters()
        self.soft = SoftFallback(
            self,
            self._temporary,
            soft if soft is not None else SoftSettings(),
            lambda kind, reason, now, entry: self._note(kind, reason, now, filter=entry),
        )
        self._listen_ahead = driver.listen_ahead if isinstance(driver, ListensAhead) else lambda: None
        self._source_for = source_for if source_for is not None else self._any_source
        self._inbound_of: dict[tuple[Direction, int, Address], SecurityAssociation] = {}
        self._gone: set[tuple[int, Address]] = set()
        """Inbound SAs (SPI, peer) that the data plane refused or lost, and that the engine has not ended yet:
        a negotiation under way goes on."""
        self.established: Callable[[KnownQuickMode], None] = lambda known: None
        """Is told every quick mode that comes up."""
        self._released: set[Address] = set()
        self._stopping = False
        self.counters = dict.fromkeys(
            ("key_updates", "key_update_failures", "key_addition_failures", "send_failures"), 0
        )
        """What Windows counts among its IKE statistics and the engine cannot know."""
        self._perform = perform
        self.lookup = FilterTableLookup(self.table)
        """What the policy in force says of a peer or of traffic; the engine asks the same."""
        self.engine = Engine(
            self.lookup,
            driver.get_spi,
            random,
            config if config is not None else EngineConfig(),
            credentials,
            kerberos,
            restart_secret,
        )
        self._adoption = Adoption(driver, self.engine, self._keep_survivor, self._note_survivor)
        self._reconnection = Reconnection(self)

    # ---- policy

    @property
    def local_addresses(self) -> tuple[Address, ...]:
        """What "me" stands for."""
        return self.facts.local

    @property
    def compiled(self) -> FilterTable:
        """The table of the policy, without anything temporary."""
        return self._compiled

    @property
    def soft_associations(self) -> tuple[SoftAssociation, ...]:
        """Whom we speak with in clear because negotiating failed."""
        return self._temporary.soft

    def load(
        self,
        policy_sets: Sequence[PolicySet],
        now: float,
        facts: HostFacts | Sequence[Address] | None = None,
        *,
        dynamic: DynamicSet | None = None,
        level: int | None = None,
    ) -> LoadResult:
        """Compile and enforce; `dynamic` is what the dynamic store holds, `level` the exemption level (0 to
        3; None: as before). A policy that cannot be compiled or
        enforced leaves the last good one in force; the refusal is returned and written to the journal."""
        if facts is not None:
            self.facts = as_facts(facts)
        before, self.exempt_level = self.exempt_level, level if level is not None else self.exempt_level
        policy = (tuple(policy_sets), dynamic)
        refusal = self._enforce(policy, now)
        if refusal is not None:
            self.exempt_level = before
            return LoadResult(self.table, refusal)
        self._policy = policy
        table = self.table
        self._note(
            "policy-loaded",
            Reason.of(
                ReasonCode.POLICY_LOADED, policy=table.policy_name or "none", filters=len(table.filters)
            ),
            now,
            stores=stores_in_force(policy_sets),
        )
        for warning in table.warnings:
            self._note("policy-warning", Reason.of(ReasonCode.POLICY_DOUBTFUL, warning), now)
        return LoadResult(table)

    def set_facts(self, facts: HostFacts, now: float) -> LoadResult:
        """What the host knows of itself has changed: the policy in force is expanded anew, and only the
        difference goes to the driver."""
        self.facts = facts
        before, warned = self.table, set(self.table.warnings)
        refusal = self._enforce(self._policy, now)
        if refusal is not None:
            return LoadResult(self.table, refusal)
        changes = self.table.since(before)
        if changes.came or changes.went:
            detail = f"addresses, servers or names changed: {len(changes.came)} filters came and "
            reason = Reason.of(
                ReasonCode.POLICY_LOADED,
                f"{detail}{len(changes.went)} went",
                policy=self.table.policy_name or "none",
                filters=len(self.table.filters),
            )
            self._note("policy-expanded", reason, now)
        for warning in self.table.warnings:
            if warning not in warned:
                self._note("policy-warning", Reason.of(ReasonCode.POLICY_DOUBTFUL, warning), now)
        return LoadResult(self.table)

    def _enforce(self, policy: tuple[tuple[PolicySet, ...], DynamicSet | None], now: float) -> Reason | None:
        """Compile and put in force; the refusal, after which everything is as it was."""
        policy_sets, dynamic = policy
        try:
            able = self.driver.capabilities
            compiled = self._compiler.compile(
                policy_sets, self.facts, self.exempt_level, able.ip_versions, dynamic, able
            )
            self._install_table(compiled)
        except StockadeError as error:
            self._note("policy-refused", error.reason, now, stores=stores_in_force(policy_sets))
            return error.reason
        self.lookup = FilterTableLookup(compiled)
        self.engine.set_lookup(self.lookup, now)
        return None

    def _install_table(self, compiled: FilterTable) -> None:
        """Put a compiled table in force, with what stands over it for a while."""
        table = self._temporary.over(compiled)
        self.driver.install_filters(table)
        self._compiled, self.table = compiled, table

    def _refresh(self, now: float) -> None:
        """The temporary filters changed."""
        try:
            self._install_table(self._compiled)
        except StockadeError as error:
            self._note("policy-refused", error.reason, now)

    def adopt(self, judged: float, now: float) -> int:
        """After a start, when the policy is in force: go on with the SAs that outlived an earlier agent, as
        far as today's policy would make them, and end the rest. `judged`: seconds since the access list
        changed. Returns how many pairs go on."""
        try:
            return self._adoption.take(self.facts.local, judged, now)
        except StockadeError as error:
            self._note("driver-failed", error.reason, now)
            return 0

    def _keep_survivor(self, pair: SurvivingPair, now: float) -> None:
        for sa in pair.sas:
            self._find_by(sa)
            self._make_room(sa, now)

    def _note_survivor(self, sa: SecurityAssociation, reason: Reason, now: float) -> None:
        spi = f"{sa.spi:#010x}"
        self._note("sa-not-adopted", reason, now, spi=spi, direction=sa.direction, peer=str(sa.peer))

    def reconnect(self, now: float) -> int:
        """After a start: negotiate anew with the peers that we had SAs with, so that nobody waits for a
        time-out of theirs; first with those whose SAs are gone. Returns how many negotiations were begun."""
        return self._reconnection.after_start(self._adoption.known, now) + self._adoption.renew(now)

    def take_over(self, known: Iterable[KnownQuickMode], now: float) -> int:
        """An address has come to this host, and with it the peers of whoever had it: negotiate with them
        before they notice. Returns how many negotiations were begun."""
        return self._reconnection.take_over(known, now)

    def release(self, local: Address, now: float) -> None:
        """An address of ours is about to leave: say good-bye on it, and begin nothing on it until it was
        away (`gone`), so that the peers' next messages find the node that gets it."""
        self._released.add(local)
        reason = Reason.of(ReasonCode.CLUSTER_ADDRESS, "it moves to another node", address=local)
        self.engine.command(ike.DeleteLocal(local, reason, tell=True), now)

    def keep(self, local: Address) -> None:
        """An address that was released stays after all."""
        self._released.discard(local)

    def gone(self, local: Address, now: float) -> None:
        """An address has left: what was made on it is of no use, and nobody can be told."""
        self._released.discard(local)
        reason = Reason.of(ReasonCode.CLUSTER_ADDRESS, "it has left this host", address=local)
        self.engine.command(ike.DeleteLocal(local, reason, tell=False), now)

    # ---- doors

    def receive(self, datagram: bytes, local: Endpoint, remote: Endpoint, now: float) -> None:
        """A UDP datagram came on port 500 or 4500."""
        if local.address in self._released:
            marker = NON_ESP_MARKER if local.port == NAT_TRAVERSAL_PORT else b""
            if is_first_message(datagram[len(marker) :]):
                return
        self.engine.receive(datagram, local, remote, now)

    def unreachable(self, said: Unreachable, now: float) -> None:
        """The network says that a packet of ours did not arrive. Anybody can say that."""
        if said.local in self.facts.local:
            detail = f"{said.reporter} says: {said.what} unreachable"
            reason = Reason.of(ReasonCode.PEER_UNREACHABLE, detail, peer=said.peer, reporter=said.reporter)
            self.engine.command(ike.PeerUnreachable(said.local, said.peer, said.spi, reason), now)

    def screen(self, datagram: bytes, origin: bytes, now: float) -> bytes | Verdict:
        """What becomes of a first message (`Engine.screen`); what is admitted goes to `receive`."""
        return self.engine.screen(datagram, origin, now)

    def timeout(self, now: float) -> None:
        self.engine.timeout(now)
        if self.soft.timeout(now):
            self._refresh(now)
        self._adoption.renew(now)
        for entry in self.packet_log.take_due(now):
            self._journal(entry)

    def next_timeout(self) -> float | None:
        due = self.engine.next_timeout()
        for other in (self.soft.next_due(), self.packet_log.next_due(), self._adoption.next_due()):
            if other is not None and (due is None or other < due):
                due = other
        return due

    def pump(self, now: float, send: Callable[[ike.Send], None]) -> None:
        """Carry driver events to the engine and its effects to the driver and to `send`, in their order,
        until both are quiet. The order matters: the last message of a quick mode leaves before the packets
        that it was for."""
        for _ in range(MAXIMUM_ROUNDS):
            events = self.driver.events()
            for event in events:
                self._on_driver_event(event, now)
            effects = self.engine.effects()
            if effects:
                self._listen_ahead()  # an event may have begun what reserved an SPI: no round lies between
            applied = False
            for effect in effects:
                if isinstance(effect, ike.Send):
                    send(effect)
                elif isinstance(effect, ike.StoryLine):
                    self.oakley(effect)
                else:
                    self._apply(effect, now)
                    applied = True
            if not events and not applied and not self.engine.has_effects:
                break  # what is sent moves neither of them

    def log_key_exchange(self, on: bool) -> None:
        """Turn the Oakley log on or off (`set config property=ikelogging`)."""
        self.engine.set_logging(on)

    def delete_peer(self, peer: Address, now: float) -> None:
        """Delete all SAs with one peer, as `delete` of the API asks."""
        reason = Reason.of(ReasonCode.SA_DELETED, "deleted by an administrator", peer=peer)
        self.engine.command(ike.DeletePeer(peer, reason), now)

    @property
    def awaits_farewells(self) -> bool:
        """After `shutdown`: whether a peer has yet to acknowledge that its SAs are gone."""
        return self.engine.unacknowledged_deletes > 0

    def shutdown(self, now: float) -> None:
        """Say good-bye to every peer; call `pump` for the datagrams, wait a moment while `awaits_farewells`,
        then stop the driver."""
        self._stopping = self.soft.stopping = True
        self.engine.command(ike.Shutdown(Reason.of(ReasonCode.SHUTTING_DOWN)), now)

    # ---- driver -> engine
    # ----------------------------------------------------------------------------------------

    def _on_driver_event(self, event: driver_contract.DriverEvent, now: float) -> None:
        if isinstance(event, driver_contract.Acquire):
            self._on_acquire(event, now)
        elif isinstance(event, driver_contract.SaExpired):
            sa = self._inbound_of.get((event.direction, event.spi, event.peer))
            if sa is None:
                return
            if event.hard:
                if event.direction is Direction.INBOUND:
                    self._gone.add((event.spi, event.peer))
                reason = Reason.of(ReasonCode.SA_EXPIRED, spi=f"{event.spi:#010x}")
                self.engine.command(ike.DeleteQuickMode(sa.spi, reason), now)
            else:
                self.engine.command(ike.RekeyQuickMode(sa.spi), now)
        elif isinstance(event, driver_contract.SaIdle):
            sa = self._inbound_of.get((event.direction, event.spi, event.peer))
            if sa is not None:
                reason = Reason.of(ReasonCode.SA_IDLE, seconds=sa.idle_seconds)
                self.engine.command(ike.DeleteQuickMode(sa.spi, reason), now)
        elif isinstance(event, driver_contract.SaSilent):
            sa = self._inbound_of.get((event.direction, event.spi, event.peer))
            if sa is not None:
                self.engine.command(ike.Silent(sa.spi), now)
        elif isinstance(event, driver_contract.PeerMoved):
            self.engine.command(ike.FollowPeer(event.spi, event.port), now)
        elif isinstance(event, driver_contract.PacketRefused):
            if self.packet_log.is_told(event, now):
                self._note(
                    "packets-refused",
                    event.reason,
                    now,
                    source=str(event.source),
                    destination=str(event.destination),
                    spi=f"{event.spi:#010x}" if event.spi else "",
                    count=event.count,
                )
            if event.reason.code is ReasonCode.UNKNOWN_SPI:
                self.engine.prove_lost(event.destination, event.source, event.spi, now, event.port)
                if not self._stopping:
                    self._reconnection.unknown_spi(event.source, now)
        else:
            self._note("driver-failed", event.reason, now)

    def _on_acquire(self, event: driver_contract.Acquire, now: float) -> None:
        if self._stopping:
            return
        peer = event.flow.destination
        entry = self.table.by_id(event.filter_id)
        if entry is None or entry.action is not Action.NEGOTIATE or entry.negotiation is None:
            # The table changed while the event was on its way; the next packet finds the new one.
            self.driver.release(event.filter_id, peer, Reason.of(ReasonCode.POLICY_CHANGED))
            return
        command = self._command(entry, event.flow)
        if isinstance(command, Reason):
            self._note("quick-mode-failed", command, now, filter=str(entry.provenance))
            endpoint = self.table.negotiations[entry.negotiation].quick_mode.tunnel_endpoint
            self.driver.release(entry.id, peer if endpoint is None else endpoint, command)
            return
        if command.local in self._released:
            self.driver.release(entry.id, command.peer, Reason.of(ReasonCode.CLUSTER_ADDRESS))
            return
        if self._temporary.soft_with(entry.id, command.local, command.peer) is not None:
            self.driver.release(entry.id, command.peer, Reason.of(ReasonCode.SOFT_FALLBACK))
            return  # the event was on its way when the soft SA came
        if entry.allow_soft and command.negotiation.quick_mode.tunnel_endpoint is None:
            opened = self.soft.acquired(command, now)
            if opened:
                self._refresh(now)
                self.driver.release(entry.id, command.peer, Reason.of(ReasonCode.SOFT_FALLBACK))
        self.engine.command(command, now)

    def _command(self, entry: SpecificFilter, flow: Flow) -> ike.Acquire | Reason:
        """What the key exchange is asked for, for a packet of a negotiate filter: in transport mode the
        filter's traffic between the two hosts, in tunnel mode all of it, between the two ends of the
        tunnel."""
        assert entry.negotiation is not None
        negotiation = self.table.negotiations[entry.negotiation]
        endpoint = negotiation.quick_mode.tunnel_endpoint
        if endpoint is None:
            selector = entry.selector.narrowed_to(flow.source, flow.destination)
            return ike.Acquire(flow.source, flow.destination, selector, negotiation, entry.id)
        local = self._source_for(endpoint)
        if local is None or endpoint in self.facts.local:
            return Reason.of(
                ReasonCode.INVALID_POLICY, "the rule's tunnel end point is no other computer that we reach",
                endpoint=endpoint,
            )  # fmt: skip
        both = self.lookup.for_acquire(entry, local, endpoint)
        return (
            both if isinstance(both, Reason) else ike.Acquire(local, endpoint, entry.selector, both, entry.id)
        )

    def _any_source(self, peer: Address) -> Address | None:
        return next((one for one in self.facts.local if one.version == peer.version), None)

    # ---- engine -> driver
    # ------------------------------------------------------------------------------------------

    def performed(self, answer: ike.Performed, now: float) -> None:
        """What `perform` was given is done."""
        self.engine.command(answer, now)

    def _apply(self, effect: ike.InstallSa | ike.RemoveSa | ike.Report | ike.Perform, now: float) -> None:
        if isinstance(effect, ike.InstallSa):
            self._install(effect.sa, now)
        elif isinstance(effect, ike.RemoveSa):
            sa = self._inbound_of.pop((effect.direction, effect.spi, effect.peer), None)
            if effect.direction is Direction.INBOUND:
                self._gone.discard((effect.spi, effect.peer))
            if sa is not None and effect.direction is Direction.INBOUND:
                self._inbound_of.pop((Direction.OUTBOUND, sa.pair, effect.peer), None)
                self.soft.sa_went(sa, now)
            self.driver.remove_sa(effect.spi, effect.direction, effect.peer)
            if self._temporary.remove_response(effect.spi, effect.direction, effect.peer):
                self._refresh(now)
        elif isinstance(effect, ike.Perform):
            if self._perform is None:
                self.engine.command(ike.perform(effect), now)
            else:
                self._perform(effect)
        else:
            self._on_report(effect, now)

    def _install(self, sa: SecurityAssociation, now: float) -> None:
        self._find_by(sa)
        self._make_room(sa, now)
        updates = sa.direction is Direction.INBOUND  # its SPI was reserved before, so Windows says: updated
        inbound = sa.spi if updates else sa.pair
        try:
            if updates:
                self._gone.discard((inbound, sa.peer))
            elif (
                inbound,
                sa.peer,
            ) in self._gone:  # the peer would send to nobody, for as long as the pair lives
                raise error_for(
                    ReasonCode.DRIVER_FAILED, "the data plane has not the other half of this pair"
                )
            self.driver.add_sa(sa)
            self.counters["key_updates"] += updates
        except StockadeError as error:
            if updates:
                self._gone.add((inbound, sa.peer))
            self.counters["key_update_failures" if updates else "key_addition_failures"] += 1
            self._note("sa-refused", error.reason, now, spi=f"{sa.spi:#010x}", peer=str(sa.peer))
            self.engine.command(ike.DeleteQuickMode(inbound, error.reason), now)

    def _find_by(self, sa: SecurityAssociation) -> None:
        """Driver events about either direction lead to the inbound SA."""
        if sa.direction is Direction.INBOUND:
            self._inbound_of[Direction.INBOUND, sa.spi, sa.peer] = sa
            self._inbound_of[Direction.OUTBOUND, sa.pair, sa.peer] = sa

    def _make_room(self, sa: SecurityAssociation, now: float) -> None:
        """What the table needs before this SA can carry anything: the filters of the default response rule,
        and no soft SA in its way."""
        outbound = sa.selector if sa.direction is Direction.OUTBOUND else sa.selector.reversed()
        changed = self.soft.sa_came(sa, outbound, now)
        if sa.negotiation == self._compiled.default_response:
            negotiation = self._compiled.negotiations[sa.negotiation]
            match = QuickModeMatch(negotiation, outbound, sa.filter_id, dynamic=True)
            changed = self._temporary.add_response(match, sa) or changed
        if changed:
            self._refresh(now)

    def associations(self) -> dict[tuple[Direction, int], SecurityAssociation]:
        """The inbound SA of each pair, by either SPI (two peers may have chosen the same one for what we
        send: then one of them)."""
        return {(direction, spi): sa for (direction, spi, _), sa in self._inbound_of.items()}

    @property
    def ike_statistics(self) -> dict[str, int]:
        """All of Windows' IKE statistics, and those of the engine beside them. A heap of Windows is a list
        here."""
        found = {**self.engine.statistics, **self.counters}
        found["acquire_heap_size"] = found["active_acquire"]
        found["receive_heap_size"] = found["active_receive"]
        found["connection_list_size"] = found["active_quick_modes"]
        return found

    def has_answered(self, local: Address, peer: Address) -> bool:
        """Whether this peer has said a word of IKE."""
        return self.engine.has_answered(local, peer)

    def packet_counts(self) -> dict[str, int]:
        """Packets by filter identifier, where the data plane counts them."""
        return {entry.filter_id: entry.packets for entry in self.driver.statistics().filters}

    # ---- reports

    def _on_report(self, report: ike.Report, now: float) -> None:
        self._note(
            report.kind.value,
            report.reason,
            now,
            local=str(report.local),
            peer=str(report.remote),
            main_mode=report.main_mode,
            phase=report.phase,
            role="" if report.initiator is None else "initiator" if report.initiator else "responder",
            seconds="" if report.seconds is None else f"{report.seconds:.6f}",
            selector=str(report.selector) if report.selector is not None else "",
            filter=self._provenance(report.filter_id),
        )
        failed = (ike.ReportKind.QUICK_MODE_FAILED, ike.ReportKind.MAIN_MODE_FAILED)
        if report.kind in failed and report.filter_id:
            if self.soft.failed(report, now):
                self._refresh(now)
            self.driver.release(report.filter_id, report.remote.address, report.reason)
        if report.selector is None:
            return
        known = KnownQuickMode(report.local.address, report.remote.address, report.selector)
        if report.kind is ike.ReportKind.QUICK_MODE_ESTABLISHED:
            self.known_peers.add(known)
            self.established(known)
        elif report.kind is ike.ReportKind.QUICK_MODE_DELETED and not self._still_up(known, now):
            self.known_peers.remove(known)

    def _still_up(self, known: KnownQuickMode, now: float) -> bool:
        views = self.engine.quick_modes_with(known.local, known.peer, now)
        return any(view.selector == known.selector for view in views)

    # ---- journal

    def _provenance(self, filter_id: str) -> str:
        entry = self.table.by_id(filter_id)
        return str(entry.provenance) if entry is not None else ""

    def _note(self, kind: str, reason: Reason, now: float, **fields: object) -> None:
        kept = [(name, str(value)) for name, value in fields.items() if value != ""]
        self._journal(Entry(kind, reason, tuple(kept)))
