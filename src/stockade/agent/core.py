"""One host: policy, key exchange and driver joined, still without sockets or clocks.

    driver events ──▶ commands ──▶ ┌────────┐ ──▶ Send        (to the callable given to `pump`)
    datagrams ───────────────────▶ │ engine │ ──▶ InstallSa / RemoveSa ──▶ driver
    timeouts ────────────────────▶ └────────┘ ──▶ Report ──▶ journal, release of held packets, known peers

The asyncio service and the laboratory both run this class; every decision about what an event means is here,
so that a coroutine decides nothing. Times are seconds on one monotonic clock.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from stockade.agent.journal import Entry
from stockade.agent.known_peers import KnownPeers, KnownQuickMode
from stockade.driver import contract as driver_contract
from stockade.driver.contract import Driver
from stockade.ike import contract as ike
from stockade.ike.auth.kerberos import GssSource
from stockade.ike.config import EngineConfig
from stockade.ike.engine import Engine
from stockade.model.addresses import Address, Endpoint
from stockade.model.filters import Action, Direction, FilterTable, SpecificFilter
from stockade.model.negotiation import Mode
from stockade.model.reasons import Reason, ReasonCode, StockadeError, error_for
from stockade.model.sa import SecurityAssociation
from stockade.model.traffic import TrafficSelector
from stockade.pki.credentials import CredentialSource
from stockade.policy.compiler import compile_table
from stockade.policy.dynamic import DynamicSet
from stockade.policy.lookup import FilterTableLookup
from stockade.policy.objects import PolicySet

MAXIMUM_ROUNDS = 64
"""How often `pump` goes back and forth between driver and engine at most: a loop would be our own fault."""

RECOVERY_INTERVAL = 1.0
"""Seconds between two attempts to negotiate anew with a peer that uses an SPI which we do not know."""

RECONNECT_BURST = 64
"""How many known quick modes are negotiated at once after a start; the others wait for traffic."""


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What loading a policy did: the table in force, or why the last good one stays."""

    table: FilterTable
    refusal: Reason | None = None


class HostCore:
    """Policy + engine + driver of one host.

    `random(size)` gives bytes for cookies, nonces and keys. `journal` is called with every entry.
    `known_peers` remembers with whom we had SAs, over restarts. `credentials` are the host's certificates,
    `kerberos` is its keytab. `perform` has work done that may block, and answers by `performed`; without it
    the work is done at once.
    """

    def __init__(
        self,
        driver: Driver,
        local_addresses: Sequence[Address],
        random: Callable[[int], bytes],
        *,
        journal: Callable[[Entry], None] = lambda entry: None,
        known_peers: KnownPeers | None = None,
        config: EngineConfig | None = None,
        exempt_level: int = 3,
        credentials: CredentialSource | None = None,
        kerberos: GssSource | None = None,
        perform: Callable[[ike.Perform], None] | None = None,
    ) -> None:
        self.driver = driver
        self.table = FilterTable()
        self.local_addresses: tuple[Address, ...] = tuple(local_addresses)
        self.exempt_level = exempt_level
        self.known_peers = known_peers if known_peers is not None else KnownPeers()
        self._journal = journal
        self._filters: dict[str, SpecificFilter] = {}
        self._inbound_of: dict[tuple[Direction, int], SecurityAssociation] = {}
        self._recovered: dict[Address, float] = {}
        self._stopping = False
        self._perform = perform
        self.engine = Engine(
            FilterTableLookup(self.table),
            driver.get_spi,
            random,
            config if config is not None else EngineConfig(),
            credentials,
            kerberos,
        )

    # ---- policy

    def load(
        self,
        policy_sets: Sequence[PolicySet],
        now: float,
        local_addresses: Sequence[Address] | None = None,
        *,
        dynamic: DynamicSet | None = None,
    ) -> LoadResult:
        """Compile and enforce; `dynamic` is what the dynamic store holds. A policy that cannot be compiled or
        enforced leaves the last good one in force; the refusal is returned and written to the journal."""
        if local_addresses is not None:
            self.local_addresses = tuple(local_addresses)
        try:
            versions = self.driver.capabilities.ip_versions
            table = compile_table(policy_sets, self.local_addresses, self.exempt_level, versions, dynamic)
            _refuse_tunnels(table)
            # Its temporary filters are not kept here yet: an SA without one would carry nothing.
            table = replace(table, default_response=None)
            self.driver.install_filters(table)
        except StockadeError as error:
            self._note("policy-refused", error.reason, now)
            return LoadResult(self.table, error.reason)
        self.table = table
        self._filters = {entry.id: entry for entry in table.filters}
        self.engine.set_lookup(FilterTableLookup(table), now)
        self._note(
            "policy-loaded",
            Reason.of(
                ReasonCode.POLICY_LOADED, policy=table.policy_name or "none", filters=len(table.filters)
            ),
            now,
        )
        for warning in table.warnings:
            self._note("policy-warning", Reason.of(ReasonCode.POLICY_DOUBTFUL, warning), now)
        return LoadResult(table)

    def reconnect(self, now: float) -> int:
        """After a start: negotiate anew with the peers that we had SAs with, so that nobody waits for a
        time-out of theirs. Returns how many negotiations were begun."""
        begun = 0
        for known in self.known_peers.all()[:RECONNECT_BURST]:
            begun += self._acquire_known(known, now)
        return begun

    # ---- doors

    def receive(self, datagram: bytes, local: Endpoint, remote: Endpoint, now: float) -> None:
        """A UDP datagram came on port 500 or 4500."""
        self.engine.receive(datagram, local, remote, now)

    def timeout(self, now: float) -> None:
        self.engine.timeout(now)

    def next_timeout(self) -> float | None:
        return self.engine.next_timeout()

    def pump(self, now: float, send: Callable[[ike.Send], None]) -> None:
        """Carry driver events to the engine and its effects to the driver and to `send`, in their order,
        until both are quiet. The order matters: the last message of a quick mode leaves before the packets
        that it was for."""
        for _ in range(MAXIMUM_ROUNDS):
            events = self.driver.events()
            for event in events:
                self._on_driver_event(event, now)
            effects = self.engine.effects()
            for effect in effects:
                if isinstance(effect, ike.Send):
                    send(effect)
                else:
                    self._apply(effect, now)
            if not events and not effects:
                break

    def delete_peer(self, peer: Address, now: float) -> None:
        """Delete all SAs with one peer, as `delete` of the API asks."""
        reason = Reason.of(ReasonCode.SA_DELETED, "deleted by an administrator", peer=peer)
        self.engine.command(ike.DeletePeer(peer, reason), now)

    def shutdown(self, now: float) -> None:
        """Say good-bye to every peer; call `pump` once more for the datagrams, then stop the driver."""
        self._stopping = True
        self.engine.command(ike.Shutdown(Reason.of(ReasonCode.SHUTTING_DOWN)), now)

    # ---- driver -> engine
    # ----------------------------------------------------------------------------------------

    def _on_driver_event(self, event: driver_contract.DriverEvent, now: float) -> None:
        if isinstance(event, driver_contract.Acquire):
            self._on_acquire(event, now)
        elif isinstance(event, driver_contract.SaExpired):
            sa = self._inbound_of.get((event.direction, event.spi))
            if sa is None:
                return
            if event.hard:
                reason = Reason.of(ReasonCode.SA_EXPIRED, spi=f"{event.spi:#010x}")
                self.engine.command(ike.DeleteQuickMode(sa.spi, reason), now)
            else:
                self.engine.command(ike.RekeyQuickMode(sa.spi), now)
        elif isinstance(event, driver_contract.SaIdle):
            sa = self._inbound_of.get((event.direction, event.spi))
            if sa is not None:
                reason = Reason.of(ReasonCode.SA_IDLE, seconds=sa.idle_seconds)
                self.engine.command(ike.DeleteQuickMode(sa.spi, reason), now)
        elif isinstance(event, driver_contract.PacketRefused):
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
                self._on_unknown_spi(event.source, now)
        else:
            self._note("driver-failed", event.reason, now)

    def _on_acquire(self, event: driver_contract.Acquire, now: float) -> None:
        if self._stopping:
            return
        peer = event.flow.destination
        entry = self._filters.get(event.filter_id)
        if entry is None or entry.action is not Action.NEGOTIATE or entry.negotiation is None:
            # The table changed while the event was on its way; the next packet finds the new one.
            self.driver.release(event.filter_id, peer, Reason.of(ReasonCode.POLICY_CHANGED))
            return
        selector = entry.selector.narrowed_to(event.flow.source, peer)
        negotiation = self.table.negotiations[entry.negotiation]
        self.engine.command(ike.Acquire(event.flow.source, peer, selector, negotiation, entry.id), now)

    def _on_unknown_spi(self, source: Address, now: float) -> None:
        """A peer that we had SAs with uses one that we lost. Anybody can forge such a packet: it makes us
        negotiate (authenticated, with known peers only, at most once a second each), never tear anything
        down."""
        known = self.known_peers.with_peer(source)
        if (
            not known
            or self._stopping
            or now - self._recovered.get(source, -RECOVERY_INTERVAL) < RECOVERY_INTERVAL
        ):
            return
        self._recovered[source] = now  # bounded: only known peers get here
        for quick_mode in known:
            self._acquire_known(quick_mode, now)

    def _acquire_known(self, known: KnownQuickMode, now: float) -> bool:
        """Negotiate a known quick mode anew, if today's policy still has the very traffic as a negotiate
        filter."""
        for entry in self.table.filters:
            if (
                entry.direction is Direction.OUTBOUND
                and entry.negotiation is not None
                and known.local in entry.selector.source
                and known.peer in entry.selector.destination
                and _same_ports(entry.selector, known.selector)
            ):
                negotiation = self.table.negotiations[entry.negotiation]
                command = ike.Acquire(known.local, known.peer, known.selector, negotiation, entry.id)
                self.engine.command(command, now)
                return True
        return False

    # ---- engine -> driver
    # ------------------------------------------------------------------------------------------

    def performed(self, answer: ike.Performed, now: float) -> None:
        """What `perform` was given is done."""
        self.engine.command(answer, now)

    def _apply(self, effect: ike.InstallSa | ike.RemoveSa | ike.Report | ike.Perform, now: float) -> None:
        if isinstance(effect, ike.InstallSa):
            self._install(effect.sa, now)
        elif isinstance(effect, ike.RemoveSa):
            sa = self._inbound_of.pop((effect.direction, effect.spi), None)
            if sa is not None and effect.direction is Direction.INBOUND:
                self._inbound_of.pop((Direction.OUTBOUND, sa.pair), None)
            self.driver.remove_sa(effect.spi, effect.direction, effect.peer)
        elif isinstance(effect, ike.Perform):
            if self._perform is None:
                self.engine.command(ike.perform(effect), now)
            else:
                self._perform(effect)
        else:
            self._on_report(effect, now)

    def _install(self, sa: SecurityAssociation, now: float) -> None:
        if sa.direction is Direction.INBOUND:
            self._inbound_of[(Direction.INBOUND, sa.spi)] = sa
            self._inbound_of[(Direction.OUTBOUND, sa.pair)] = sa
        try:
            self.driver.add_sa(sa)
        except StockadeError as error:
            self._note("sa-refused", error.reason, now, spi=f"{sa.spi:#010x}", peer=str(sa.peer))
            inbound = sa.spi if sa.direction is Direction.INBOUND else sa.pair
            self.engine.command(ike.DeleteQuickMode(inbound, error.reason), now)

    def _on_report(self, report: ike.Report, now: float) -> None:
        self._note(
            report.kind.value,
            report.reason,
            now,
            local=str(report.local),
            peer=str(report.remote),
            main_mode=report.main_mode,
            selector=str(report.selector) if report.selector is not None else "",
            filter=self._provenance(report.filter_id),
        )
        failed = (ike.ReportKind.QUICK_MODE_FAILED, ike.ReportKind.MAIN_MODE_FAILED)
        if report.kind in failed and report.filter_id:
            self.driver.release(report.filter_id, report.remote.address, report.reason)
        if report.selector is None:
            return
        known = KnownQuickMode(report.local.address, report.remote.address, report.selector)
        if report.kind is ike.ReportKind.QUICK_MODE_ESTABLISHED:
            self.known_peers.add(known)
        elif report.kind is ike.ReportKind.QUICK_MODE_DELETED and not self._still_up(known, now):
            self.known_peers.remove(known)

    def _still_up(self, known: KnownQuickMode, now: float) -> bool:
        return any(
            view.peer == known.peer and view.local == known.local and view.selector == known.selector
            for view in self.engine.quick_modes(now)
        )

    # ---- journal

    def _provenance(self, filter_id: str) -> str:
        entry = self._filters.get(filter_id)
        return str(entry.provenance) if entry is not None else ""

    def _note(self, kind: str, reason: Reason, now: float, **fields: object) -> None:
        kept: Iterable[tuple[str, object]] = ((name, value) for name, value in fields.items() if value != "")
        self._journal(Entry(kind, reason, tuple((name, str(value)) for name, value in kept)))


def _refuse_tunnels(table: FilterTable) -> None:
    """An acquire here is for the two hosts that talk; one for the end points of a tunnel is not made yet."""
    for entry in table.filters:
        if entry.negotiation is None:
            continue
        if table.negotiations[entry.negotiation].quick_mode.mode is Mode.TUNNEL:
            raise error_for(
                ReasonCode.DRIVER_LACKS, "this agent negotiates no tunnels", rule=entry.provenance.rule
            )


def _same_ports(one: TrafficSelector, other: TrafficSelector) -> bool:
    return (one.protocol, one.source_port, one.destination_port) == (
        other.protocol,
        other.source_port,
        other.destination_port,
    )
