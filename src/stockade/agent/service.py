"""The agent as a process: sockets, timers, signals, the policy store and the local API around one `HostCore`.

Nothing is decided here. The loop turns what happens (a datagram, a driver event, a timer, a changed store, a
changed address) into a call of the core, sends what the core wants sent, and sets the timer that the core
asks for.

Start, so that the host is closed before it is open: driver (which heals what a killed run left; `launch.py`),
policy store, filters, IKE sockets, known peers, and only then the local API. SIGTERM and SIGINT: peers are
told, everything that was put into the system is taken out.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress

from stockade import __version__
from stockade.agent import messages, views
from stockade.agent.core import HostCore
from stockade.agent.interfaces import AddressChanges, local_addresses
from stockade.agent.journal import Entry, Journal
from stockade.agent.known_peers import KnownPeers
from stockade.agent.oakley import OakleyLog
from stockade.agent.paths import Paths
from stockade.agent.stores import Configuration, Stores, Versions
from stockade.agent.udp import UdpSockets
from stockade.analyze.explain import explain_flow
from stockade.driver.contract import Driver, prepare_with
from stockade.driver.userspace.system import OWN_MARK
from stockade.ike.config import EngineConfig
from stockade.ike.contract import Send
from stockade.model.addresses import Address, Endpoint
from stockade.model.filters import Direction
from stockade.model.reasons import Reason, ReasonCode, StockadeError
from stockade.model.traffic import Flow
from stockade.pki.chain import ChainRules
from stockade.pki.credentials import Credentials
from stockade.pki.machine_store import MachineStore
from stockade.policy.dynamic import DynamicSet
from stockade.store.dynamic import dynamic_form

STORE_POLL = 1.0
"""Seconds between two looks at the policy store's version; `stockade netsh` also tells us at once."""

ADDRESS_SETTLING = 0.2
"""Seconds to wait after an address changed: changes come in flocks."""


class Service:
    """One running agent, over a driver that was started. `ready` is called once, when the policy is in force,
    IKE answers and the local API does."""

    def __init__(
        self,
        paths: Paths,
        driver: Driver,
        ready: Callable[[], None] = lambda: None,
        ike: EngineConfig | None = None,
        chains: ChainRules | None = None,
    ) -> None:
        self._ike = ike
        self._chains = chains
        self._paths = paths
        self._driver = driver
        self._ready = ready
        self._started = time.monotonic()
        self._stop = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._settling: asyncio.TimerHandle | None = None
        self._refusal: Reason | None = None
        self._store_refused = False  # it is a store that cannot be read
        self._versions: Versions = ()
        self._journal: Journal
        self._known: KnownPeers
        self._stores = Stores(paths)
        self._oakley = OakleyLog(paths.journal)
        self._core: HostCore
        self._udp: UdpSockets

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then stop the driver. Errors before that are `StockadeError`; what
        is in force then stays in force."""
        self._journal = Journal(self._paths.journal)
        self._known = KnownPeers(self._paths.state)
        if self._known.trouble:
            reason = Reason.of(ReasonCode.STATE_UNUSABLE, self._known.trouble)
            self._journal.write(Entry("known-peers-lost", reason))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        clean = False
        try:
            configuration = self._read_policy()
            self._core = HostCore(
                self._driver,
                local_addresses(),
                os.urandom,
                journal=self._journal.write,
                known_peers=self._known,
                config=self._ike,
                exempt_level=configuration.exempt_level,
                credentials=self._read_certificates(),
            )
            self._core.oakley = self._oakley.write
            self._core.log_key_exchange(configuration.ike_logging)
            result = self._core.load(configuration.policy_sets, time.monotonic())
            if result.refusal is not None:
                # There is no last good policy in this process; what an earlier run left in the kernel stays.
                raise StockadeError(result.refusal)
            await self._serve_network()
            clean = True
        finally:
            self._driver.stop(keep_filters=not clean)
            self._journal.write(Entry("agent-stopped", Reason.of(ReasonCode.SHUTTING_DOWN)))
            self._known.close()
            self._oakley.close()
            self._journal.close()

    async def _serve_network(self) -> None:
        loop = asyncio.get_running_loop()
        self._udp = UdpSockets(OWN_MARK, prepare_with(self._driver))
        addresses = AddressChanges()
        try:
            for descriptor, read in self._udp.descriptors():
                loop.add_reader(descriptor, self._on_datagrams, read)
            loop.add_reader(self._driver.fileno(), self._pump)
            loop.add_reader(addresses.fileno(), self._on_address_change, addresses)
            self._core.reconnect(time.monotonic())
            self._pump()
            if self._refusal is None:
                self._keep_good_copy()
            started = Reason.of(ReasonCode.AGENT_STARTED, version=__version__, pid=os.getpid())
            self._journal.write(Entry("agent-started", started))
            watcher = asyncio.create_task(self._watch_store())
            try:
                await self._serve_api()
            finally:
                watcher.cancel()
            self._core.shutdown(time.monotonic())
            self._pump()
        finally:
            if self._timer is not None:
                self._timer.cancel()
            for descriptor, _ in self._udp.descriptors():
                loop.remove_reader(descriptor)
            loop.remove_reader(self._driver.fileno())
            loop.remove_reader(addresses.fileno())
            addresses.close()
            self._udp.close()

    async def _serve_api(self) -> None:
        # Imported late: the web stack takes longer to import than all the rest, and the host is protected by
        # now.
        from stockade.agent.server import ApiServer

        async with ApiServer(self, self._paths.socket):
            self._ready()
            await self._stop.wait()

    # ---- what happens

    def _on_datagrams(self, read: Callable[[], list[tuple[bytes, Endpoint, Endpoint]]]) -> None:
        now = time.monotonic()
        for datagram, local, remote in read():
            self._core.receive(datagram, local, remote, now)
        self._pump()

    def _on_timer(self) -> None:
        self._timer = None
        self._core.timeout(time.monotonic())
        self._pump()

    def _on_address_change(self, changes: AddressChanges) -> None:
        changes.drain()
        if self._settling is None:
            self._settling = asyncio.get_running_loop().call_later(ADDRESS_SETTLING, self._reread_addresses)

    def _reread_addresses(self) -> None:
        self._settling = None
        found = local_addresses()
        if found != self._core.local_addresses:
            with suppress(StockadeError):  # in the journal; the last good policy stays
                self._load(found)

    def _pump(self) -> None:
        now = time.monotonic()
        self._core.pump(now, self._send)
        self._set_timer(now)

    def _send(self, send: Send) -> None:
        try:
            self._udp.send(send.datagram, send.local, send.remote)
        except OSError as error:
            reason = Reason.of(ReasonCode.SEND_FAILED, os.strerror(error.errno or 0), peer=send.remote)
            self._journal.write(Entry("send-failed", reason))

    def _set_timer(self, now: float) -> None:
        wanted = self._core.next_timeout()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if wanted is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.0, wanted - now), self._on_timer)

    # ---- policy

    async def _watch_store(self) -> None:
        while True:
            await asyncio.sleep(STORE_POLL)
            with suppress(StockadeError):  # in the journal; the last good policy stays
                if self._store_versions() != self._versions or self._store_refused:
                    self._load()

    def _read_policy(self) -> Configuration:
        """The stores' content at start; where one cannot be read, its last good copy."""
        configuration = self._stores.read_at_start(self._refuse_store)
        if not self._store_refused:
            self._versions = self._stores.versions()
        return configuration

    def _store_versions(self) -> Versions:
        try:
            return self._stores.versions()
        except StockadeError as error:
            self._refuse_store(error.reason)
            raise

    def _refuse_store(self, reason: Reason) -> None:
        """A store cannot be read: what was in force stays."""
        if self._refusal != reason:
            self._journal.write(Entry("policy-refused", reason))
        self._refusal, self._store_refused = reason, True

    def _read_certificates(self) -> Credentials:
        """The machine store as it is now; files that cannot be read are told and left out."""
        credentials, problems = MachineStore(self._paths.certificates).credentials(self._chains)
        for problem in problems:
            self._journal.write(Entry("certificate-not-read", problem))
        return credentials

    def _load(self, addresses: tuple[Address, ...] | None = None) -> None:
        """Read and enforce the stores' present content; on failure the last good policy stays and the error
        says why."""
        versions = self._store_versions()
        try:
            configuration = self._stores.read()
        except StockadeError as error:
            self._refuse_store(error.reason)
            raise
        self._versions, self._store_refused = versions, False
        self._core.exempt_level = configuration.exempt_level
        self._core.log_key_exchange(configuration.ike_logging)
        self._core.engine.set_credentials(self._read_certificates())
        result = self._core.load(
            configuration.policy_sets, time.monotonic(), addresses, dynamic=configuration.dynamic
        )
        self._refusal = result.refusal
        self._pump()
        if result.refusal is None:
            self._keep_good_copy()

    def _keep_good_copy(self) -> None:
        """Remember what is in force, for a start that finds a store damaged."""
        try:
            self._stores.keep_good_copies()
        except StockadeError as error:
            self._journal.write(Entry("last-good-not-kept", error.reason))

    # ---- what the API asks (api.AgentOperations)

    def status(self) -> messages.Status:
        now = time.monotonic()
        statistics = self._driver.statistics()
        return messages.Status(
            version=__version__,
            pid=os.getpid(),
            uptime=round(now - self._started, 3),
            driver=self._driver.capabilities.name,
            policy=self._core.table.policy_name,
            policy_refused=views.reason_message(self._refusal) if self._refusal else None,
            filters=len(self._core.table.filters),
            main_modes=len(self._core.engine.main_modes(now)),
            quick_modes=len(self._core.engine.quick_modes(now)),
            held_packets=statistics.held_packets,
            refused_packets=dict(statistics.refused),
            ike=dict(self._core.engine.statistics),
            addresses=[str(address) for address in self._core.local_addresses],
            known_quick_modes=len(self._known.all()),
        )

    def filters(self) -> messages.Filters:
        return views.filters(self._core, self._driver.statistics())

    def sas(self) -> messages.Sas:
        return views.sas(self._core, self._driver.statistics(), time.monotonic())

    def reload(self) -> messages.Loaded:
        with suppress(StockadeError):  # told by `refused`
            self._load()
        return messages.Loaded(
            policy=self._core.table.policy_name,
            filters=len(self._core.table.filters),
            refused=views.reason_message(self._refusal) if self._refusal else None,
        )

    def dynamic(self, *, with_keys: bool) -> messages.Dynamic:
        memory = self._stores.dynamic
        objects = dynamic_form(memory.read(), with_keys=with_keys)
        return messages.Dynamic(version=memory.version, objects=objects)

    def set_dynamic(self, version: int, objects: DynamicSet) -> messages.Loaded:
        """Put dynamic objects in force in the place of those that there are. Where they cannot be enforced
        nothing changes and the error says why."""
        memory = self._stores.dynamic
        memory.require_version(version)
        before = memory.read()
        memory.replace(objects)
        try:
            self._load()
            if self._refusal is not None:
                raise StockadeError(self._refusal)
        except StockadeError as error:
            memory.replace(before)
            with suppress(StockadeError):  # it was in force a moment ago
                self._load()
            raise StockadeError(error.reason) from None
        return messages.Loaded(
            policy=self._core.table.policy_name, filters=len(self._core.table.filters), refused=None
        )

    def delete_peer(self, peer: Address) -> messages.Deleted:
        now = time.monotonic()
        before = (len(self._core.engine.main_modes(now)), len(self._core.engine.quick_modes(now)))
        self._core.delete_peer(peer, now)
        self._pump()
        after = (len(self._core.engine.main_modes(now)), len(self._core.engine.quick_modes(now)))
        return messages.Deleted(
            peer=str(peer), main_modes=before[0] - after[0], quick_modes=before[1] - after[1]
        )

    def explain(self, flow: Flow, direction: Direction | None) -> messages.ExplanationMessage:
        if direction is None:
            direction = Direction.OUTBOUND if flow.source in self._core.local_addresses else Direction.INBOUND
        explanation = explain_flow(
            self._core.table, flow, direction, self._core.engine.quick_modes(time.monotonic())
        )
        return messages.ExplanationMessage(explanation=explanation.as_dict(), lines=list(explanation.lines()))

    def journal(self, last: int) -> messages.JournalEntries:
        recent = list(self._journal.recent)
        return messages.JournalEntries(entries=recent[max(0, len(recent) - last) :])

    def listen(self, listener: Callable[[dict[str, object]], None]) -> Callable[[], None]:
        self._journal.listeners.add(listener)
        return lambda: self._journal.listeners.discard(listener)
