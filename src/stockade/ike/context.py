"""What all parts of one engine share: settings, sources, the queue of effects, timers, counters, limits."""

from collections.abc import Callable, Collection

from stockade.crypto.key_exchange import PrivateValue
from stockade.ike.auth.kerberos import GssSource
from stockade.ike.auth.method import AuthMethod, Task
from stockade.ike.config import EngineConfig
from stockade.ike.contract import (
    Effect,
    NegotiationLookup,
    Perform,
    Performed,
    RandomSource,
    Report,
    ReportKind,
    SpiSource,
    StoryLine,
)
from stockade.ike.cookies import CookieMark
from stockade.ike.key_pool import KeyPool
from stockade.ike.limits import RateLimiter, TokenBucket
from stockade.ike.liveness import PeerTraits, Plan, plan_for
from stockade.ike.proofs import RestartSecret
from stockade.ike.timers import TimerQueue
from stockade.model.addresses import Address, Endpoint
from stockade.model.reasons import Reason, ReasonCode
from stockade.model.suites import Group
from stockade.model.traffic import TrafficSelector
from stockade.pki.access import EVERYBODY
from stockade.pki.credentials import CredentialSource

COUNTERS = (
    "main_modes",
    "quick_modes",
    "soft_associations",
    "authentication_failures",
    "negotiation_failures",
    "acquire_failures",
    "receive_failures",
    "total_acquire",
    "total_get_spi",
    "get_spi_failures",
    "key_additions",
    "key_deletions",
    "rekeys",
    "invalid_cookies_received",
    "invalid_packets_received",
    "retransmissions",
    "proofs_sent",
    "proofs_accepted",
    "proofs_refused",
    "unreachables_received",
    "datagrams_received",
    "datagrams_sent",
    "reports_suppressed",
)
"""Counters since the start, after the IKE statistics of `netsh ipsec dynamic show stats`."""

LINES_LEFT_OUT = "lines left out before this one"
TaskDone = Callable[[AuthMethod | Reason, float], None]
"""Hears what came of a task, and when."""

NON_ESP_MARKER = bytes(4)
NAT_TRAVERSAL_PORT = 4500


class Context:
    """One per engine."""

    def __init__(
        self,
        lookup: NegotiationLookup,
        get_spi: SpiSource,
        random: RandomSource,
        config: EngineConfig,
        credentials: CredentialSource,
        kerberos: GssSource | None = None,
        restart_secret: RestartSecret | None = None,
    ) -> None:
        self.lookup = lookup
        self.get_spi = get_spi
        self.random = random
        self.config = config
        self.credentials = credentials
        self.kerberos = kerberos
        self.restart_secret = restart_secret if config.proofs else None
        self.living_holders: Callable[[Address], Collection[str]] = lambda address: ()
        """The other nodes of the cluster that live and hold this address, for which nothing is proved."""
        self.access = EVERYBODY
        self.timers = TimerQueue()
        self.key_pool = KeyPool(random)
        self.effects: list[Effect] = []
        self.fragment_id = 0
        self.unacknowledged = 0
        """Deletes of ours that wait for the peer's word."""
        self._task_number = 0
        self._tasks: dict[int, TaskDone] = {}
        self.statistics: dict[str, int] = dict.fromkeys(COUNTERS, 0)
        self.cookie_mark: CookieMark | None = None
        self.now = 0.0
        """The time of the call under way."""
        self.narrating = False
        """Whether the Oakley log is on."""
        self._stories = 0
        self._lines = TokenBucket(config.story_lines_per_second, 4 * config.story_lines_per_second)
        self._lines_left_out = 0
        self._plans: dict[PeerTraits, Plan] = {}
        self._planned_with = config
        self._reports: dict[ReportKind, RateLimiter] = {}
        self._notifications = RateLimiter(config.notifications_per_second, 1.0)

    def next_story(self) -> int:
        self._stories += 1
        return self._stories

    def may_narrate(self) -> int | None:
        """How many lines were left out before the one that may be said now; None: leave this one out too."""
        if not self._lines.take(self.now):
            self._lines_left_out += 1
            return None
        left_out, self._lines_left_out = self._lines_left_out, 0
        return left_out

    def plan(self, traits: PeerTraits) -> Plan:
        """What is done about a silent peer of this kind; kept, for there are few kinds."""
        if self._planned_with is not self.config:
            self._plans.clear()
            self._planned_with = self.config
        found = self._plans.get(traits)
        if found is None:
            found = self._plans[traits] = plan_for(self.config, traits)
        return found

    def private_value(self, group: Group) -> PrivateValue:
        """Our side of one Diffie-Hellman exchange, and of no other."""
        return self.key_pool.take(group, self.now)

    def count(self, name: str, number: int = 1) -> None:
        self.statistics[name] += number

    # ---- what may block
    def give_away(self, task: Task, done: TaskDone, now_failed: Callable[[Reason], None]) -> None:
        """Have a task done by whoever serves the engine; `done` is called with the outcome and the time, or
        `now_failed` at once where too many are under way."""
        if len(self._tasks) >= self.config.tasks_total:
            detail = f"too many other lookups are under way for {task.about}"
            now_failed(Reason.of(ReasonCode.QUEUE_FULL, detail))
            return
        self._task_number += 1
        self._tasks[self._task_number] = done
        self.effects.append(Perform(self._task_number, task))

    def performed(self, answer: Performed, now: float) -> None:
        done = self._tasks.pop(answer.number, None)
        if done is not None:
            done(answer.outcome, now)

    def report(
        self,
        kind: ReportKind,
        reason: Reason,
        local: Endpoint,
        remote: Endpoint,
        main_mode: str = "",
        filter_id: str = "",
        selector: TrafficSelector | None = None,
        phase: str = "",
        initiator: bool | None = None,
        began: float | None = None,
    ) -> None:
        seconds = None if began is None else self.now - began
        self.effects.append(
            Report(kind, reason, local, remote, main_mode, filter_id, selector, phase, initiator, seconds)
        )

    def report_limited(
        self,
        kind: ReportKind,
        reason: Reason,
        local: Endpoint,
        remote: Endpoint,
        now: float,
        main_mode: str = "",
        phase: str = "",
    ) -> None:
        """A report that strangers can provoke: at most some a second of each kind (so that refused messages
        do not hide how it ended), with the number of those left out."""
        limiter = self._reports.get(kind)
        if limiter is None:
            rate, rate_per_peer = self.config.reports_per_second, self.config.reports_per_second_and_peer
            limiter = self._reports[kind] = RateLimiter(rate, rate_per_peer)
        if not limiter.take(remote.address, now):
            self.count("reports_suppressed")
            return
        if limiter.suppressed:
            facts = (*reason.facts, ("suppressed", str(limiter.suppressed)))
            reason = Reason(reason.code, reason.detail, facts)
            limiter.suppressed = 0
        if self.narrating and not main_mode:
            self._tell_of_stranger(reason, local, remote)
        self.report(kind, reason, local, remote, main_mode, phase=phase)

    def _tell_of_stranger(self, reason: Reason, local: Endpoint, remote: Endpoint) -> None:
        left_out = self.may_narrate()
        if left_out is None:
            return
        facts = reason.facts
        if left_out:
            facts += ((LINES_LEFT_OUT, str(left_out)),)
        text = reason.detail or reason.code.meaning
        self.effects.append(StoryLine(0, 0, "", False, local, remote, "refused", text, facts, reason=reason))

    def refuse(
        self,
        reason: Reason,
        local: Endpoint,
        remote: Endpoint,
        now: float,
        main_mode: str = "",
        phase: str = "main mode",
    ) -> None:
        """A message was refused."""
        self.count("invalid_packets_received")
        self.report_limited(ReportKind.MESSAGE_REFUSED, reason, local, remote, now, main_mode, phase)

    def may_notify(self, remote: Endpoint, now: float) -> bool:
        """Whether an unprotected notification may go to this peer now."""
        return self._notifications.take(remote.address, now)
