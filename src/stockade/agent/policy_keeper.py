"""Which policy is in force: reads the stores and what goes with them, puts it in force through the core, and
keeps the last good one where it cannot.

    stores ─┐
    certificates, access list ─┼─▶ PolicyKeeper ─▶ HostCore.load; boot filters go, the last good copy is kept
    facts ──┘                          └─▶ `refusal`: why what the stores have now is not what is in force
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from stockade.agent.boot import Gate
from stockade.agent.core import HostCore
from stockade.agent.domain import DomainPolicy
from stockade.agent.facts_keeper import FactsKeeper
from stockade.agent.group_lookup import GroupLookup
from stockade.agent.journal import Entry
from stockade.agent.paths import Paths
from stockade.agent.restart_secret import next_restart_secret
from stockade.agent.service_settings import SIMPLE_POLICY_FALLBACK, ServiceSettings, with_asked
from stockade.agent.settings import Settings
from stockade.agent.stores import Configuration, Stores, Versions
from stockade.agent.web_desk import WebDesk
from stockade.ike.proofs import RestartSecret
from stockade.model.reasons import Reason, ReasonCode, StockadeError
from stockade.pki.access import AccessList
from stockade.pki.access_file import closed_access, read_access
from stockade.pki.credentials import Credentials
from stockade.pki.distribution import ListFetcher
from stockade.pki.machine_store import MachineStore
from stockade.pki.revocation import RevocationCheck
from stockade.policy.objects import PolicySet


class PolicyKeeper:
    """One per agent. `begin` comes after `read_certificates`, `read_access_list` and `read_restart_secret`,
    which the core is made with; `pump` is called when the core may have something to send."""

    def __init__(
        self,
        paths: Paths,
        settings: Settings,
        stores: Stores,
        gate: Gate,
        groups: GroupLookup | None,
        facts: FactsKeeper,
        domain: DomainPolicy,
        journal: Callable[[Entry], object],
        pump: Callable[[], None],
    ) -> None:
        self._paths = paths
        self._settings = settings
        self._stores = stores
        self._gate = gate
        self._groups = groups
        self._facts = facts
        self._domain = domain
        self._tell = journal
        self._pump = pump
        fetch = settings.fetch_revocation_lists
        self._lists = ListFetcher(paths.certificates / "fetched") if fetch else None
        self._persistent: tuple[PolicySet, ...] = ()
        self._facts_refusal: Reason | None = None
        self._store_refused = False  # it is a store that cannot be read
        self._versions: Versions = ()
        self.refusal: Reason | None = None
        """Why the stores' policy is not in force, where it is not."""
        self.asked = ServiceSettings()
        """What `set config` says."""

        self._core: HostCore
        self._desk: WebDesk

    @property
    def trouble(self) -> Reason | None:
        """Why the stores' policy, or the host's new facts, are not in force; None where they are."""
        return self.refusal or self._facts_refusal

    def begin(self, core: HostCore, desk: WebDesk) -> None:
        """Put the policy in force, or the last good one. Where neither can be, the boot filters stay, under
        the persistent policy: the host is as closed as the administrator asked for, and the agent waits for
        a better policy."""
        self._core, self._desk = core, desk
        if self._gate.trouble is not None:
            self._tell(Entry("boot-filters-failed", self._gate.trouble))
        self._begin_persistent()
        try:
            configuration = self._read_policy()
        except StockadeError as error:
            self._refuse_store(error.reason)
        else:
            self._enforce(configuration)
            if self.refusal is None or self._store_refused:
                self._open_gate()
                return
        refusal = self.refusal
        try:
            last = self._stores.read_last_good()
            if self._core.load(last.policy_sets, time.monotonic(), self._facts.facts).refusal is None:
                self._take_settings(last)
                self._open_gate()
                return
        except StockadeError as error:
            self._tell(Entry("last-good-refused", error.reason))
        finally:
            self.refusal = refusal
        self._hold_at_boot()

    def _begin_persistent(self) -> None:
        """The persistent policy comes first, over the boot filters: reading and compiling the rest may take
        seconds. Only where boot filters hold: over the filters of a killed agent it would open what they
        close. One that is refused, or cannot be read, is told of when the whole policy is."""
        if not self._gate.is_closed:
            return
        try:
            persistent = self._stores.read_persistent()
        except StockadeError:
            return
        if persistent.assigned is None:
            return
        if self._core.load([persistent], time.monotonic(), self._facts.facts).refusal is None:
            self._gate.stand_under(self._core.table)

    def _open_gate(self) -> None:
        """A policy is in force: the boot filters go."""
        try:
            self._gate.open()
        except StockadeError as error:  # more closed than the policy says, and told
            self._tell(Entry("boot-filters-failed", error.reason))

    def _hold_at_boot(self) -> None:
        """No policy can be put in force: the persistent one alone, and the boot filters below it."""
        try:
            persistent = self._stores.read_persistent()
            if persistent.assigned is not None:
                result = self._core.load([persistent], time.monotonic(), self._facts.facts)
                if result.refusal is not None:
                    raise StockadeError(result.refusal)
            self._gate.stand_under(self._core.table)
        except StockadeError as error:
            self._tell(Entry("persistent-refused", error.reason))
            self._gate.close_all()
        mode = Reason.of(ReasonCode.NO_POLICY, "no policy is in force", boot_mode=self._gate.table.mode)
        self._tell(Entry("boot-filters-stay", mode))

    def stay_persistent(self) -> bool:
        """At an orderly stop: an assigned persistent policy stays in force (what it secures is closed, for
        there is nobody to negotiate), everything else is taken out."""
        if not self._persistent:
            return False
        return self._core.load(self._persistent, time.monotonic()).refusal is None

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
        if self.refusal != reason:
            self._tell(Entry("policy-refused", reason))
        self.refusal, self._store_refused = reason, True

    def read_certificates(self) -> Credentials:
        """The machine store as it is now; files that cannot be read are told and left out."""
        rules = self._settings.chains
        if self.asked.strong_crl_check is not None:
            rules = replace(rules, revocation=RevocationCheck(self.asked.strong_crl_check))
        credentials, problems = MachineStore(self._paths.certificates).credentials(rules, self._lists)
        for problem in problems:
            self._tell(Entry("certificate-not-read", problem))
        return credentials

    def read_restart_secret(self) -> RestartSecret | None:
        """What proves to peers that we lost state; without it they find out by their timers."""
        try:
            return next_restart_secret(self._paths.restart, self._settings.cluster)
        except StockadeError as error:
            self._tell(Entry("restart-secret-lost", error.reason))
            return None

    def read_access_list(self) -> AccessList:
        """The access list as it is now. One that cannot be read closes the host: who may connect is then not
        known."""
        try:
            access = read_access(self._paths.access)
            if self._groups is not None:
                self._groups.follow(access)
            return access
        except StockadeError as error:
            self._tell(Entry("access-list-not-read", error.reason))
            return closed_access(error.reason)

    def look(self) -> None:
        """Load where the stores have changed, or could not be read the last time."""
        with suppress(StockadeError):  # in the journal; the last good policy stays
            if self._store_versions() != self._versions or self._store_refused:
                self.load()
                if self.refusal is None:
                    found = Reason.of(ReasonCode.POLICY_LOADED, "found when looking at the stores")
                    self._tell(Entry("stores-changed", found))

    def apply_facts(self, now: float) -> None:
        """The facts changed: only the difference that they make goes to the driver."""
        self._facts_refusal = self._core.set_facts(self._facts.facts, now).refusal

    def settle_gate(self) -> None:
        """Where the persistent policy alone is in force, the boot filters stand under what it is now."""
        if self._gate.is_closed:
            self._gate.stand_under(self._core.table)

    def load(self) -> None:
        """Read and enforce the stores' present content; on failure the last good policy stays and the error
        says why."""
        versions = self._store_versions()
        try:
            configuration = self._stores.read()
        except StockadeError as error:
            self._refuse_store(error.reason)
            raise
        self._versions, self._store_refused = versions, False
        self._enforce(configuration)
        self._pump()
        if self.refusal is None:
            self._open_gate()
            self.keep_good_copy()

    def load_quietly(self) -> None:
        with suppress(StockadeError):  # in the journal and in the status
            self.load()

    def _enforce(self, configuration: Configuration) -> None:
        """Put a configuration in force; `refusal` says why it is not, where it is not."""
        self._take_settings(configuration)
        with suppress(StockadeError):  # a policy that names what is not there: the core says so
            self._facts.want_names(configuration.policy_sets, configuration.dynamic)
        result = self._core.load(
            configuration.policy_sets,
            time.monotonic(),
            self._facts.facts,
            dynamic=configuration.dynamic,
            level=configuration.settings.exempt_level,
        )
        if result.refusal is None:
            self._facts_refusal = None
            self._persistent = configuration.persistent
        if result.refusal is not None or not self._store_refused:
            self.refusal = result.refusal

    def _take_settings(self, configuration: Configuration) -> None:
        """What `set config` says, of as much as acts at once."""
        asked = self.asked = configuration.settings
        now = time.monotonic()
        self._desk.set_always(asked.ike_logging)
        self._core.packet_log.set(asked.diagnostics, asked.log_interval, now)
        soft = self._settings.soft
        if asked.simple_policy:
            soft = replace(soft, fallback_seconds=SIMPLE_POLICY_FALLBACK)
        self._core.soft.settings = soft
        self._core.engine.set_config(with_asked(self._settings.ike, asked))
        self._core.engine.set_credentials(self.read_certificates())
        self._core.engine.set_access(self.read_access_list(), now)

    def keep_good_copy(self) -> None:
        """Remember what is in force, for a start that finds a store damaged."""
        try:
            self._stores.keep_good_copies()
            self._domain.keep()
        except StockadeError as error:
            self._tell(Entry("last-good-not-kept", error.reason))
