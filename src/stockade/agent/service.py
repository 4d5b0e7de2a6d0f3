"""The agent as a process: sockets, timers, signals, the policy store and the local API around one `HostCore`.

Nothing is decided here. The loop turns what happens (a datagram, a driver event, a timer, a changed store, a
changed address) into a call of the core, sends what the core wants sent, and sets the timer that the core
asks for. What the API asks is answered by `operations.py`.

Start, so that the host is closed before it is open: driver (which heals what a killed run left; `launch.py`),
policy store, filters, IKE sockets, known peers, and only then the local API. SIGTERM and SIGINT: peers are
told, everything that was put into the system is taken out.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

from stockade import __version__
from stockade.agent.boot import Gate
from stockade.agent.collector import Collector
from stockade.agent.core import HostCore
from stockade.agent.descriptors import open_ike_sockets
from stockade.agent.domain import DomainPolicy
from stockade.agent.doors import StraysWatch
from stockade.agent.event_store import EventStore, newest_number
from stockade.agent.facts_keeper import FactsKeeper
from stockade.agent.group_lookup import GroupLookup
from stockade.agent.host_facts import present_addresses, source_address
from stockade.agent.interfaces import InterfaceChanges
from stockade.agent.journal import Entry, Journal
from stockade.agent.known_peers import KnownPeers
from stockade.agent.measuring import Measuring
from stockade.agent.names import NameKeeper
from stockade.agent.oakley import OakleyLog
from stockade.agent.paths import Paths
from stockade.agent.policy_keeper import PolicyKeeper
from stockade.agent.settings import Settings
from stockade.agent.stores import Stores
from stockade.agent.udp import STRANGERS, STRANGERS_IN_FLOOD, Batch, Screen, UdpSockets
from stockade.agent.unreachable import UnreachableReports
from stockade.agent.web_desk import WebDesk
from stockade.agent.workers import Workers
from stockade.driver.contract import Driver, OutlivesAgents, leave
from stockade.driver.userspace.system import OWN_MARK
from stockade.ike.auth.kerberos import GssSource
from stockade.ike.contract import Perform, Performed, Send, StoryLine, perform
from stockade.ike.cookies import KEY_SIZE, CookieMark
from stockade.model.reasons import Reason, ReasonCode, StockadeError
from stockade.pki.access_file import seconds_unchanged

if TYPE_CHECKING:
    from stockade.agent.cluster import ClusterNode
    from stockade.agent.event_outputs import Outputs
    from stockade.agent.operations import Operations

STORE_POLL = 1.0
"""Seconds between two looks at the policy store's version; `stockade netsh` also tells us at once."""

FAREWELL_SECONDS = 1.0
"""How long a stopping agent waits for its deletes to be acknowledged ([MS-IKEE] §3.8.7.1: 1 s)."""

QUIET_SECONDS = 0.05
"""Without a message for so long the key exchange may work ahead."""

AHEAD_SECONDS = 0.005
"""Between two pieces of such work, each a millisecond at most: nobody waits long behind one."""


class Service:
    """One running agent, over a driver that was started. `ready` is called once, when the policy is in force,
    IKE answers and the local API does."""

    def __init__(
        self,
        paths: Paths,
        driver: Driver,
        ready: Callable[[], None],
        settings: Settings,
        stores: Stores,
        gate: Gate,
        kerberos: GssSource | None = None,
        groups: GroupLookup | None = None,
    ) -> None:
        self._kerberos = kerberos
        self._groups = groups
        self._workers = Workers()
        self._settings = settings
        self._gate = gate
        self._paths = paths
        self._driver = driver
        self._ready = ready
        self._started = time.monotonic()
        self._stop = asyncio.Event()
        self._parted: asyncio.Event | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._ahead: asyncio.TimerHandle | None = None
        self._quiet_since = 0.0
        self._settling: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop
        self._measuring = Measuring()
        self._collector = Collector(self._started)
        self._outputs: Outputs | None = None
        self._journal: Journal
        self._events: EventStore
        self._known: KnownPeers
        self._stores = stores
        self._oakley = OakleyLog(paths.journal)
        self._facts: FactsKeeper
        self._domain: DomainPolicy
        self._policy: PolicyKeeper
        self._core: HostCore
        self._desk: WebDesk
        self._cluster: ClusterNode | None = None
        self._udp: UdpSockets
        self._strays: StraysWatch | None = None

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then stop the driver. Errors before that are `StockadeError`; what
        is in force then stays in force."""
        folder = self._paths.journal
        self._journal = Journal(folder, newest=lambda: newest_number(folder))
        self._journal.observe = self._measuring.recorder.saw
        self._events = EventStore(folder, self._on_event_store_in_thread)
        self._journal.kept = self._events.add
        loop = self._loop = asyncio.get_running_loop()
        self._known = KnownPeers(self._paths.state, self._soon)
        if self._known.trouble:
            reason = Reason.of(ReasonCode.STATE_UNUSABLE, self._known.trouble)
            self._journal.write(Entry("known-peers-lost", reason))
        self._events.start()
        self._start_outputs()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        names = NameKeeper(
            self._on_names_in_thread,
            self._journal.write,
            self._paths.names,
            refresh_seconds=self._settings.name_refresh_seconds,
        )
        self._facts = FactsKeeper(names, self._settings.host)
        self._domain = DomainPolicy(
            self._settings.directory,
            self._settings.kerberos.keytab,
            self._paths.domain,
            self._journal.write,
            lambda: self._policy.load_quietly(),
            lambda: self._facts.facts.local,
        )
        self._policy = PolicyKeeper(
            self._paths,
            self._settings,
            self._stores,
            self._gate,
            self._groups,
            self._facts,
            self._domain,
            self._journal.write,
            self._pump,
        )
        self._stores.domain = self._domain.policy_sets
        keep = orderly = False
        try:
            self._start_policy()
            await self._serve_network()
            keep, orderly = self._policy.stay_persistent(), True
        finally:
            names.close()
            if orderly:
                self._driver.stop(keep_filters=keep)
            else:
                leave(self._driver)
            self._journal.write(Entry("agent-stopped", Reason.of(ReasonCode.SHUTTING_DOWN)))
            self._workers.stop()
            self._known.close()
            self._oakley.close()
            if self._outputs is not None:
                self._outputs.close()
            self._events.close()
            self._journal.close()

    def _start_policy(self) -> None:
        """Make the core, and put the policy in force."""
        self._facts.refresh()
        self._domain.start()
        self._core = HostCore(
            self._driver,
            self._facts.facts,
            os.urandom,
            journal=self._journal.write,
            known_peers=self._known,
            config=self._settings.ike,
            credentials=self._policy.read_certificates(),
            kerberos=self._kerberos,
            perform=self._perform,
            soft=self._settings.soft,
            source_for=source_address,
            restart_secret=self._policy.read_restart_secret(),
        )
        self._core.engine.set_access(self._policy.read_access_list(), time.monotonic())
        self._desk = WebDesk(self._stores, self._journal.write, self._core.log_key_exchange)
        self._core.oakley = self._on_story
        if self._settings.cluster is not None:
            from stockade.agent.cluster import ClusterNode

            self._cluster = ClusterNode(self._settings.cluster, self._core, self._journal.write)
        self._policy.begin(self._core, self._desk)

    async def _serve_network(self) -> None:
        loop = asyncio.get_running_loop()
        if isinstance(self._driver, OutlivesAgents):
            self._driver.free_ike_ports()
        cookies = CookieMark(os.urandom(KEY_SIZE))
        self._core.engine.mark_cookies(cookies)
        self._udp = open_ike_sockets(self._driver, OWN_MARK, cookies)
        changes, reports = InterfaceChanges(), UnreachableReports()
        try:
            for descriptor in reports.filenos():
                loop.add_reader(descriptor, self._on_unreachable, reports)
            for descriptor, read in self._udp.main_doors():
                loop.add_reader(descriptor, self._on_datagrams, read)
            for descriptor, read_strangers in self._udp.strangers_doors():
                loop.add_reader(descriptor, self._on_strangers, read_strangers)
            self._strays = StraysWatch(loop, self._udp.strays_doors(), self._on_datagrams)
            if self._driver.fileno() >= 0:
                loop.add_reader(self._driver.fileno(), self._pump)
            loop.add_reader(changes.fileno(), self._on_interface_change, changes)
            self._core.adopt(seconds_unchanged(self._paths.access), time.monotonic())
            self._measuring.recorder.started(self._known.all(), self._started)
            self._core.reconnect(time.monotonic())
            self._pump()
            if self._cluster is not None:
                self._cluster.start()
            if self._policy.refusal is None:
                self._policy.keep_good_copy()
            started = Reason.of(ReasonCode.AGENT_STARTED, version=__version__, pid=os.getpid())
            self._journal.write(Entry("agent-started", started))
            tasks = [asyncio.create_task(self._watch())]
            tasks.append(asyncio.create_task(self._measuring.run(self._core, self._driver)))
            if self._domain.configured:
                tasks.append(asyncio.create_task(self._domain.run()))
            try:
                await self._serve_api()
            finally:
                for task in tasks:
                    task.cancel()
            await self._part()
        finally:
            if self._cluster is not None:
                self._cluster.stop()
            for timer in (self._timer, self._ahead):
                if timer is not None:
                    timer.cancel()
            if self._strays is not None:
                self._strays.close()
            for descriptor, _ in self._udp.descriptors():
                loop.remove_reader(descriptor)
            if self._driver.fileno() >= 0:
                loop.remove_reader(self._driver.fileno())
            loop.remove_reader(changes.fileno())
            for descriptor in reports.filenos():
                loop.remove_reader(descriptor)
            reports.close()
            changes.close()
            self._udp.close()

    async def _serve_api(self) -> None:
        # Imported late: the web stack takes longer to import than all the rest, and the host is protected by
        # now.
        from stockade.agent.operations import Operations
        from stockade.agent.server import ApiServer
        from stockade.agent.web_keeper import WebKeeper

        web = WebKeeper(self._paths, self._journal.write) if self._settings.serve_web else None
        operations = Operations(
            paths=self._paths,
            settings=self._settings,
            started=self._started,
            core=self._core,
            driver=self._driver,
            policy=self._policy,
            stores=self._stores,
            gate=self._gate,
            domain=self._domain,
            facts=self._facts,
            known_peers=self._known,
            measuring=self._measuring,
            log=self._journal,
            event_store=self._events,
            desk=self._desk,
            cluster=self._cluster,
            web=web,
            pump=self._pump,
        )
        async with ApiServer(operations, self._paths.socket), AsyncExitStack() as others:
            try:
                door = ApiServer(operations, self._paths.web_door / "api.sock", door=True)
                await others.enter_async_context(door)
            except OSError as error:  # the web console does without, and says so
                reason = Reason.of(ReasonCode.STATE_UNUSABLE, f"{error.strerror}: {error.filename}")
                self._journal.write(Entry("web-door-closed", reason))
            self._ready()
            await self._serve_metrics(operations, others)
            if web is not None:
                await others.enter_async_context(web)
            await self._stop.wait()

    async def _serve_metrics(self, operations: "Operations", others: AsyncExitStack) -> None:
        """On its port, where one is asked for. One that is taken keeps no host from being protected."""
        outputs = self._settings.outputs
        if outputs is None or outputs.metrics is None:
            return
        from stockade.agent.metrics_server import MetricsServer

        try:
            await others.enter_async_context(MetricsServer(operations, *outputs.metrics))
        except StockadeError as error:
            self._journal.write(Entry("metrics-not-served", error.reason))

    async def _part(self) -> None:
        """Say good-bye, and let the peers say that they heard it: a lost datagram would leave them with SAs
        that lead nowhere. Who does not answer keeps nobody from stopping."""
        self._parted = asyncio.Event()
        self._core.shutdown(time.monotonic())
        self._pump()
        with suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_SECONDS):
                await self._parted.wait()

    # ---- what happens

    def _on_story(self, line: StoryLine) -> None:
        if self._policy.asked.ike_logging:
            self._oakley.write(line)
        self._desk.remember(line)

    def _on_datagrams(self, read: Callable[[], Batch]) -> None:
        now, core = time.monotonic(), self._core
        for datagram, local, remote in read():
            core.receive(datagram, local, remote, now)
            core.pump(now, self._send)  # each answer leaves at once: its peer works while we read the next
        self._pumped(now)

    def _on_strangers(self, read: Callable[[Screen, float, int], Batch]) -> None:
        """First messages. One turn of the loop reads some of them, and all that waits at the main doors."""
        now = time.monotonic()
        core = self._core
        admitted = read(core.screen, now, STRANGERS_IN_FLOOD if core.engine.floods else STRANGERS)
        for datagram, local, remote in admitted:
            core.receive(datagram, local, remote, now)
            core.pump(now, self._send)
        if admitted:
            self._pumped(now)

    def _on_unreachable(self, reports: UnreachableReports) -> None:
        now, said = time.monotonic(), reports.read()
        for one in said:
            self._core.unreachable(one, now)
        if said:
            self._pump()

    def _on_timer(self) -> None:
        self._timer = None
        self._core.timeout(time.monotonic())
        self._pump()

    def _on_interface_change(self, changes: InterfaceChanges) -> None:
        changes.drain()
        if self._cluster is not None and self._address_moved(self._cluster):
            self._reread_facts()  # peers wait for it
            return
        if self._settling is None:
            loop = asyncio.get_running_loop()
            self._settling = loop.call_later(self._facts.settling, self._reread_facts)

    def _address_moved(self, cluster: "ClusterNode") -> bool:
        try:
            return cluster.differs(present_addresses())
        except StockadeError:
            return False

    def _reread_facts(self) -> None:
        if self._settling is not None:
            self._settling.cancel()
        self._settling = None
        try:
            changed = self._facts.refresh()
        except StockadeError as error:  # the kernel does not answer: what was known stays
            self._journal.write(Entry("facts-not-read", error.reason))
            return
        if changed:
            self._apply_facts()

    def _start_outputs(self) -> None:
        settings = self._settings.outputs
        if settings is not None and (settings.journald or settings.notifiers):
            from stockade.agent.event_outputs import Outputs  # only who sends events needs it

            self._outputs = Outputs(settings, self._write_in_thread)
            self._outputs.start()
            self._journal.listeners.add(self._outputs.add)

    def _soon(self, work: Callable[[], None]) -> None:
        """Before the loop sleeps again: what a turn makes known is one transaction, and survives a kill from
        then on."""
        self._loop.call_soon(work)

    def _on_event_store_in_thread(self, reason: Reason) -> None:
        self._write_in_thread(Entry("events-not-kept", reason))

    def _write_in_thread(self, entry: Entry) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._journal.write, entry)

    def _on_names_in_thread(self) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._on_names)

    def _on_names(self) -> None:
        if self._facts.names.collect(time.monotonic()):
            self._apply_facts()

    def _apply_facts(self) -> None:
        now = time.monotonic()
        if self._cluster is not None:
            self._cluster.before_facts(set(self._facts.facts.local), now)
        self._policy.apply_facts(now)
        if self._cluster is not None:
            self._cluster.after_facts(now)
        self._policy.settle_gate()
        self._pump()

    def _pump(self) -> None:
        now = time.monotonic()
        self._core.pump(now, self._send)
        self._pumped(now)

    def _pumped(self, now: float) -> None:
        """The core is quiet: see to what comes next."""
        self._set_timer(now)
        self._quiet_since = now
        if self._ahead is None and self._core.engine.has_work_ahead:
            self._ahead = self._loop.call_later(QUIET_SECONDS, self._work_ahead)
        if self._parted is not None and not self._core.awaits_farewells:
            self._parted.set()

    def _work_ahead(self) -> None:
        """Nothing has happened for a moment: make a key pair for an exchange to come, a little at a time."""
        self._ahead = None
        now = time.monotonic()
        if self._parted is not None:
            return
        if now - self._quiet_since < QUIET_SECONDS:
            self._ahead = self._loop.call_later(QUIET_SECONDS, self._work_ahead)
        elif self._core.engine.work_ahead(now):
            self._ahead = self._loop.call_later(AHEAD_SECONDS, self._work_ahead)

    def _perform(self, effect: Perform) -> None:
        """A Kerberos ticket or token: in a thread, as a domain controller may take its time."""
        loop = asyncio.get_running_loop()

        def work() -> None:
            answer = perform(effect)
            with suppress(RuntimeError):  # the loop has ended: nobody waits
                loop.call_soon_threadsafe(self._on_performed, answer)

        self._workers.submit(work)

    def _on_performed(self, answer: Performed) -> None:
        self._core.performed(answer, time.monotonic())
        self._pump()

    def _send(self, send: Send) -> None:
        try:
            self._udp.send(send.datagram, send.local, send.remote)
        except OSError as error:
            self._core.counters["send_failures"] += 1
            reason = Reason.of(ReasonCode.SEND_FAILED, os.strerror(error.errno or 0), peer=send.remote)
            self._journal.write(Entry("send-failed", reason))

    def _set_timer(self, now: float) -> None:
        wanted = self._core.next_timeout()
        if self._timer is not None:
            if wanted is not None and self._timer_at <= wanted:
                return  # to wake too early is no harm, and cheaper than another timer after every message
            self._timer.cancel()
            self._timer = None
        if wanted is not None:
            loop = asyncio.get_running_loop()
            self._timer_at = wanted
            self._timer = loop.call_later(max(0.0, wanted - now), self._on_timer)

    async def _watch(self) -> None:
        """What tells no event: other processes' changes of the stores and files, names that are due."""
        while True:
            await asyncio.sleep(STORE_POLL)
            self._policy.look()
            if self._facts.files_changed():
                self._reread_facts()
            now = time.monotonic()
            self._facts.names.ask_due(now)
            self._collector.look(now, quiet=now - self._quiet_since >= QUIET_SECONDS)
