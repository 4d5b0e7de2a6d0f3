"""The quick modes under one main mode: what waits, what runs, what answers repeated messages.

`quick_mode.py` has the exchange itself. Here: how many run at once, message ids that must not come twice,
SPIs and SAs that are given back when an exchange ends without a pair, and what a failure is told to whom."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stockade.ike.auth.method import Task
from stockade.ike.contract import Acquire, InstallSa, RemoveSa, ReportKind
from stockade.ike.limits import RecentlySeen
from stockade.ike.story import Story, StoryEvent
from stockade.ike.v1 import informational, quick_mode
from stockade.ike.v1.exchange import Exchange
from stockade.ike.v1.quick_mode_pair import QuickModeOutcome, QuickModeSetup
from stockade.model.filters import Direction
from stockade.model.negotiation import QuickModeMatch
from stockade.model.reasons import PeerError, Reason, ReasonCode, StockadeError, error_for
from stockade.model.sa import SecurityAssociation
from stockade.model.traffic import TrafficSelector
from stockade.wire.isakmp.constants import ExchangeType, ProtocolId
from stockade.wire.isakmp.message import Header
from stockade.wire.isakmp.payloads import NotificationPayload, microsoft_value
from stockade.wire.vendor_ids import MS_NEGOTIATION_DISCOVERY

if TYPE_CHECKING:  # a main mode has quick modes, and they have it
    from stockade.ike.v1.association import MainMode, MainModeHost

MAXIMUM_LINGERING = 64
DEAD = (ReasonCode.NEGOTIATION_TIMED_OUT, ReasonCode.UNKNOWN_COOKIE)
"""Reasons of a failed quick mode that say that the peer no longer has the main mode."""


@dataclass(slots=True, eq=False)
class Job:
    """An acquire (or a rekey, which `replaces` the pair with that inbound SPI) until it is done. `fresh`: a
    main mode was made for it, so a silent peer is not a peer that forgot an older one. `patience`: for so
    long (seconds) the peer may leave the quick mode unanswered; None: as long as its plan says."""

    acquire: Acquire
    replaces: int | None = None
    fresh: bool = False
    patience: float | None = None

    @property
    def key(self) -> tuple[str, TrafficSelector, object, object]:
        acquire = self.acquire
        return acquire.negotiation.name, acquire.selector, acquire.local, acquire.peer


@dataclass(slots=True, eq=False)
class QuickModeRun:
    """A quick mode under way, or done and answering repeated messages. `exhausted`: refused because its main
    mode has made all the quick modes that policy grants it."""

    message_id: int
    initiator: bool
    job: Job | None = None
    exchange: Exchange[QuickModeOutcome] | None = None
    spis: list[int] = field(default_factory=list)
    exhausted: bool = False
    story: Story | None = None
    installed: list[SecurityAssociation] = field(default_factory=list)


class QuickModes:
    """All quick modes of one main mode, in both roles."""

    def __init__(self, main_mode: "MainMode", host: "MainModeHost") -> None:
        self.made = 0
        """How many were begun by us, or completed by the peer."""
        self.used = RecentlySeen()
        """Message ids of this main mode's quick modes and informational exchanges."""
        self._main_mode = main_mode
        self._host = host
        self._context = main_mode.context
        self._config = main_mode.config
        self._waiting: list[Job] = []
        self._runs: dict[int, QuickModeRun] = {}

    def jobs(self) -> list[Job]:
        """What waits or runs."""
        running = [run.job for run in self.running(initiator=True) if run.job is not None]
        return [*self._waiting, *running]

    def running(self, *, initiator: bool) -> list[QuickModeRun]:
        return [
            run
            for run in self._runs.values()
            if run.initiator is initiator and run.exchange is not None and not run.exchange.done
        ]

    def add(self, job: Job, now: float) -> None:
        """Run a quick mode for the job, now or when the main mode is up and has room."""
        if len(self._waiting) >= self._config.waiting_acquires:
            reason = Reason.of(ReasonCode.QUEUE_FULL, "too many requests wait for one main mode")
            self._host.quick_mode_failed(self._main_mode, job, reason, now)
            return
        self._waiting.append(job)
        self.start_waiting(now)

    def close(self) -> list[Job]:
        """The main mode ends: take back what was installed half, and return the jobs that are not done."""
        jobs = self.jobs()
        self._waiting.clear()
        for run in list(self._runs.values()):
            self._withdraw(run, Reason.of(ReasonCode.SA_DELETED, "its main mode ended"))
            self._drop(run)
        return jobs

    def suspect(self, reason: Reason, now: float) -> None:
        """Somebody says that the peer no longer knows the main mode: do not wait long for its answers."""
        for run in self.running(initiator=True):
            assert run.exchange is not None
            run.exchange.suspect(reason, now)
            self._arm(run)

    def refused_by_peer(self, notification: NotificationPayload, reason: Reason, now: float) -> None:
        """An authenticated error notification: fail the quick mode that it is about."""
        run = self._meant(notification)
        if run is not None and run.exchange is not None:
            run.exchange.abandon(reason, now)

    def new_message_id(self) -> int:
        while True:
            message_id = int.from_bytes(self._context.random(4), "big")
            if message_id and message_id not in self.used:
                self.used.add(message_id)
                return message_id

    def start_waiting(self, now: float) -> None:
        """Begin what waits, as far as there is room."""
        while self._waiting and self._main_mode.established is not None and not self._main_mode.closed:
            if len(self.running(initiator=True)) >= self._config.quick_modes_in_progress:
                return
            job = self._waiting.pop(0)
            denied = self._main_mode.why_denied(job.acquire.negotiation.name)
            if denied is not None:
                self._host.quick_mode_failed(self._main_mode, job, denied, now)
            elif self._main_mode.usable(job.acquire.negotiation, now):
                self._initiate(job, now)
            else:
                self._host.take_back(job, now)

    def _initiate(self, job: Job, now: float) -> None:
        acquire = job.acquire
        match = QuickModeMatch(acquire.negotiation, acquire.selector, acquire.filter_id)
        run = QuickModeRun(self.new_message_id(), True, job)
        run.story = self._story(run)
        if run.story.on:
            what = "makes a new pair for" if job.replaces is not None else "secures"
            run.story.tell(
                StoryEvent.BEGUN,
                f"rule {acquire.negotiation.name} {what} {acquire.selector}",
                ("filter", acquire.filter_id),
                ("message id", f"{run.message_id:#010x}"),
            )
        conversation = self._main_mode.phase_2(ExchangeType.QUICK_MODE, run.message_id)
        self.made += 1
        steps = quick_mode.initiate(self._setup(run), match, conversation)
        self._run(run, Exchange("quick mode", steps, conversation, _RunOwner(self._main_mode, run),
                                initiator=True, now=now, lifetime=self._patience(job),
                                finished=lambda outcome, moment: self._up(run, outcome, moment),
                                failed=lambda reason, moment: self._down(run, reason, moment),
                                refused=self._main_mode.refused), now)  # fmt: skip

    def _patience(self, job: Job) -> float | None:
        """How long to wait for a peer that may have forgotten this main mode; None: all repetitions."""
        if job.fresh:
            return None
        if job.patience is not None:
            return job.patience
        plan = self._main_mode.plan
        hotfix = self._main_mode.fast_failover and self._config.failover_idle_seconds is not None
        return plan.quick_seconds if hotfix else None

    def receive(self, header: Header, datagram: bytes, now: float) -> None:
        """A quick mode message, of one under way or of a new one."""
        run = self._runs.get(header.message_id)
        if run is not None and run.exchange is not None:
            run.exchange.receive(header, datagram, now)
            self._arm(run)
            return
        try:
            self._check_new(header)
        except PeerError as error:
            self._main_mode.refused(error.reason, now)
            return
        run = QuickModeRun(header.message_id, False)
        run.story = self._story(run)
        conversation = self._main_mode.phase_2(ExchangeType.QUICK_MODE, run.message_id)
        steps = quick_mode.respond(self._setup(run), conversation)
        exchange = Exchange("quick mode", steps, conversation, _RunOwner(self._main_mode, run),
                            initiator=False, now=now, lifetime=self._config.half_open_seconds,
                            finished=lambda outcome, moment: self._up(run, outcome, moment),
                            failed=lambda reason, moment: self._down(run, reason, moment),
                            refused=self._main_mode.refused)  # fmt: skip
        self._run(run, exchange, now)
        exchange.receive(header, datagram, now)
        if exchange.begun:
            self.used.add(run.message_id)
            self._arm(run)
        else:
            # Not authentic: it must not leave anything behind, nor use up the message id.
            self._drop(run)

    def take_connected(self, header: Header, datagram: bytes, now: float) -> bool:
        """Whether this encrypted informational message is the CONNECTED that a quick mode of ours waits for
        (RFC 2408 §3.1: it has the quick mode's message id). Its IV goes on from message 3, or is one of a new
        exchange: the RFC does not say."""
        run = self._runs.get(header.message_id)
        exchange = None if run is None else run.exchange
        if run is None or exchange is None or exchange.done or exchange.expect is not quick_mode.MESSAGE_4:
            return False
        fresh = self._main_mode.phase_2(ExchangeType.INFORMATIONAL, header.message_id).protection
        assert fresh is not None
        exchange.conversation.alternatives = (fresh,)
        exchange.receive(header, datagram, now)
        exchange.conversation.alternatives = ()
        self._arm(run)
        return True

    def _story(self, run: QuickModeRun) -> Story:
        mode = self._main_mode
        ends = (mode.local, mode.remote)
        return Story(self._context, "quick mode", *ends, initiator=run.initiator, under=mode.story.number)

    def _check_new(self, header: Header) -> None:
        if self._main_mode.established is None or self._main_mode.closed:
            raise error_for(ReasonCode.UNEXPECTED_MESSAGE, "quick mode before main mode is up")
        if header.message_id in self.used:
            raise error_for(ReasonCode.UNEXPECTED_MESSAGE, "the message id was used before")
        if len(self.running(initiator=False)) >= self._config.quick_modes_in_progress:
            raise error_for(ReasonCode.TOO_MANY_NEGOTIATIONS, "too many quick modes at once")

    def _run(self, run: QuickModeRun, exchange: Exchange[QuickModeOutcome], now: float) -> None:
        run.exchange = exchange
        self._runs[run.message_id] = run
        done = [entry for entry in self._runs.values() if entry.exchange is not None and entry.exchange.done]
        for entry in done[: max(0, len(done) - MAXIMUM_LINGERING)]:
            self._drop(entry)
        exchange.start(now)
        self._arm(run)

    def _arm(self, run: QuickModeRun) -> None:
        exchange = run.exchange
        if exchange is None or self._main_mode.closed or exchange.done:
            return
        self._context.timers.set(run, exchange.due, lambda now: self._timeout(run, now))

    def _timeout(self, run: QuickModeRun, now: float) -> None:
        exchange = run.exchange
        assert exchange is not None
        exchange.timeout(now)  # which may drop the run
        self._context.count("retransmissions", int(not exchange.done))
        self._arm(run)

    def _linger(self, run: QuickModeRun, now: float) -> None:
        self._context.timers.set(run, now + self._config.linger_seconds, lambda moment: self._drop(run))

    def _drop(self, run: QuickModeRun) -> None:
        self._runs.pop(run.message_id, None)
        self._context.timers.cancel(run)
        run.exchange = None  # they know each other: keys and payloads would wait for the garbage collector

    def _up(self, run: QuickModeRun, outcome: QuickModeOutcome, now: float) -> None:
        if not run.initiator:
            self.made += 1
        if run.story is not None and run.story.on:
            life = outcome.inbound.lifetime
            run.story.tell(
                StoryEvent.ESTABLISHED,
                f"quick mode is up: {outcome.proposal}",
                ("traffic", outcome.selector),
                ("rule", outcome.match.negotiation.name),
                ("inbound SPI", ", ".join(f"{sa.spi:#010x}" for sa in outcome.of(Direction.INBOUND))),
                ("outbound SPI", ", ".join(f"{sa.spi:#010x}" for sa in outcome.of(Direction.OUTBOUND))),
                ("perfect forward secrecy", outcome.group.name if outcome.group else "no"),
                *((("the peer", outcome.info),) if outcome.info is not None else ()),
                ("rekeyed after", f"{life.soft_seconds:.0f} s or {life.soft_bytes} bytes"),
            )
        self._rest()
        used = {sa.spi for sa in outcome.of(Direction.INBOUND)}
        run.spis = [spi for spi in run.spis if spi not in used]  # those belong to the pair now
        run.installed.clear()
        if run.spis:
            self._withdraw(
                run, Reason.of(ReasonCode.SA_REPLACED, "the peer chose a method that needs no such SPI")
            )
        self._linger(run, now)
        self._host.quick_mode_established(self._main_mode, run, outcome, now)
        self.start_waiting(now)

    def _rest(self) -> None:
        outcome = self._main_mode.outcome
        if outcome is not None and all(
            run.exchange is None or run.exchange.done for run in self._runs.values()
        ):
            outcome.protection.cipher.rest()

    def _down(self, run: QuickModeRun, reason: Reason, now: float) -> None:
        main_mode = self._main_mode
        if run.initiator and run.installed and not main_mode.closed:
            # The responder has made its inbound SAs, and perhaps all of them: they are not wanted.
            for sa in run.installed:
                if sa.direction is Direction.INBOUND:
                    protocol = ProtocolId.AH if sa.esp is None else ProtocolId.ESP
                    main_mode.notices.deletes.send(informational.delete_quick_modes(protocol, [sa.spi]), now)
        self._withdraw(run, reason)
        self._rest()
        self._linger(run, now)
        if run.story is not None:
            run.story.refuse(StoryEvent.FAILED, reason)
        self._context.count("negotiation_failures")
        if run.initiator:
            assert run.job is not None
            self._host.quick_mode_failed(main_mode, run.job, reason, now)
            self.start_waiting(now)
            return
        self._context.count("receive_failures")
        self._context.report_limited(
            ReportKind.QUICK_MODE_FAILED,
            reason,
            main_mode.local,
            main_mode.remote,
            now,
            main_mode.cookies,
        )
        if run.exhausted:
            self._host.main_mode_exhausted(main_mode, reason, now)
            return
        payloads = informational.refusal_payloads(
            reason, run.message_id, b"", microsoft=main_mode.is_microsoft
        )
        if payloads and reason.code not in DEAD and run.exchange is not None and not main_mode.closed:
            run.exchange.store_reply(main_mode.notices.send_protected(payloads))

    def _withdraw(self, run: QuickModeRun, reason: Reason) -> None:
        """A quick mode ends without a pair: give back its SPI and take out what was installed."""
        peer = self._main_mode.remote.address
        for spi in run.spis:
            self._context.effects.append(RemoveSa(spi, Direction.INBOUND, peer, reason))
        for sa in run.installed:
            if sa.direction is Direction.OUTBOUND:
                self._context.effects.append(RemoveSa(sa.spi, sa.direction, peer, reason))
        run.spis.clear()
        run.installed.clear()

    def _setup(self, run: QuickModeRun) -> QuickModeSetup:
        main_mode, config, context = self._main_mode, self._config, self._context
        assert main_mode.outcome is not None

        def reserve() -> int:
            context.count("total_get_spi")
            try:
                spi = context.get_spi(main_mode.local.address, main_mode.remote.address)
            except StockadeError:
                context.count("get_spi_failures")
                raise
            run.spis.append(spi)
            return spi

        def find_rule(selector: TrafficSelector) -> QuickModeMatch | Reason:
            assert main_mode.choice is not None
            limit = main_mode.choice.candidate.negotiation.main_mode.quick_modes_per_main_mode
            others = sum(other is not run for other in self.running(initiator=False))
            if limit and self.made + others >= limit:
                run.exhausted = True
                detail = "the main mode has made all its quick modes"
                return Reason.of(ReasonCode.TOO_MANY_NEGOTIATIONS, detail, limit=limit)
            match = context.lookup.for_quick_mode(main_mode.local.address, main_mode.remote.address, selector)
            if isinstance(match, Reason):
                return match
            if main_mode.suits(match.negotiation):
                return main_mode.why_denied(match.negotiation.name) or match
            # Another rule's key opened this main mode: it must not open this rule's traffic.
            return Reason.of(
                ReasonCode.MAIN_MODE_DOES_NOT_FIT,
                "its suite or credential is not one of the rule's",
                rule=match.negotiation.name,
                requested=selector,
            )

        plan = main_mode.plan
        return QuickModeSetup(
            local=main_mode.local.address,
            remote=main_mode.remote.address,
            main_mode=main_mode.cookies,
            hash=main_mode.outcome.proposal.hash,
            keys=main_mode.outcome.keys,
            main_mode_group=main_mode.outcome.proposal.group,
            random=main_mode.random,
            private_value=context.private_value,
            reserve_spi=reserve,
            find_rule=find_rule,
            idle_seconds=plan.idle_seconds,
            silence_seconds=plan.silence_seconds,
            give_tokens=main_mode.tokens_for,
            replay_window=config.replay_window,
            repeat=config.responder_retransmits_quick_mode,
            commit=config.commit_bit and main_mode.is_microsoft,
            discovery=config.negotiation_discovery and main_mode.peer_has(MS_NEGOTIATION_DISCOVERY),
            story=run.story if run.story is not None else main_mode.story,
            nat=main_mode.nat,
            ports=main_mode.ports,
        )

    def _meant(self, notification: NotificationPayload) -> QuickModeRun | None:
        """The quick mode that a peer's error is about: named by message id (Microsoft) or by SPI, or else the
        only one under way."""
        running = self.running(initiator=True)
        value = microsoft_value(notification)
        if value is not None and value.message_id is not None:
            return next((run for run in running if run.message_id == value.message_id), None)
        if len(notification.spi) == 4:
            spi = int.from_bytes(notification.spi, "big")
            named = next((run for run in running if spi in run.spis), None)
            if named is not None:
                return named
        return running[0] if len(running) == 1 else None


class _RunOwner:
    """The main mode as the exchange of one quick mode sees it: remembers what was installed for it."""

    def __init__(self, main_mode: "MainMode", run: QuickModeRun) -> None:
        self.config = main_mode.config
        self.random = main_mode.random
        self.story = run.story if run.story is not None else main_mode.story
        self._main_mode = main_mode
        self._run = run

    def transmit(self, datagram: bytes, *, repeated: int = 0) -> None:
        self._main_mode.transmit(datagram, repeated=repeated)

    def accepted(self, *, protected: bool) -> None:
        self._main_mode.accepted(protected=protected)

    def give_away(self, task: Task) -> None:
        raise AssertionError("quick mode has nothing that may block")

    def install(self, sa: SecurityAssociation) -> None:
        self._run.installed.append(sa)
        self._main_mode.context.count("key_additions")
        self._main_mode.context.effects.append(InstallSa(sa))
