"""A main mode as it lives: its exchange, then the quick modes and informational messages under it.

The exchanges are generators (`main_mode.py`, `quick_mode.py`) run by `exchange.py`. Here stands what joins
them: which message goes to which exchange, what waits for what, and what an end means for the others. What
concerns more than one main mode is the host's business (`MainModeHost`: the engine)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from stockade.ike.context import NAT_TRAVERSAL_PORT, NON_ESP_MARKER, Context
from stockade.ike.contract import Acquire, InstallSa, RemoveSa, ReportKind, Send
from stockade.ike.limits import RecentlySeen
from stockade.ike.v1 import informational, main_mode, quick_mode
from stockade.ike.v1.exchange import NO_COOKIE, Conversation, Exchange
from stockade.ike.v1.main_mode import MainModeOutcome, MainModeSetup
from stockade.ike.v1.proposals import MainModeCandidate, MainModeChoice
from stockade.ike.v1.protection import phase_2_protection
from stockade.ike.v1.quick_mode import QuickModeOutcome, QuickModeSetup
from stockade.model.addresses import Endpoint
from stockade.model.filters import Direction
from stockade.model.negotiation import Negotiation, QuickModeMatch
from stockade.model.reasons import PeerError, Reason, ReasonCode, StockadeError, error_for
from stockade.model.sa import SecurityAssociation
from stockade.model.traffic import TrafficSelector
from stockade.wire.isakmp.constants import ExchangeType, NotifyType
from stockade.wire.isakmp.message import HEADER_SIZE, Header
from stockade.wire.isakmp.payloads import NotificationPayload, Payload, microsoft_value
from stockade.wire.vendor_ids import (
    MS_NT5_ISAKMPOAKLEY,
    NLBS_PRESENT,
    VID_INITIAL_CONTACT,
    is_vendor,
    vendor_name,
)

MAXIMUM_VENDOR_IDS = 32
MAXIMUM_LINGERING = 64
_AUTHENTICATION = (ReasonCode.PSK_MISMATCH, ReasonCode.AUTHENTICATION_FAILED)
DEAD = (ReasonCode.NEGOTIATION_TIMED_OUT, ReasonCode.UNKNOWN_COOKIE)
"""Reasons of a failed quick mode that say that the peer no longer has the main mode."""


@dataclass(slots=True, eq=False)
class Job:
    """An acquire (or a rekey, which `replaces` the pair with that inbound SPI) until it is done. `fresh`: a
    main mode was made for it, so a silent peer is not a peer that forgot an older one."""

    acquire: Acquire
    replaces: int | None = None
    fresh: bool = False

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
    spi: int | None = None
    exhausted: bool = False
    installed: list[SecurityAssociation] = field(default_factory=list)


class MainModeHost(Protocol):
    """The engine, as a main mode sees it."""

    def main_mode_established(self, main_mode: "MainMode", now: float) -> None: ...

    def main_mode_failed(self, main_mode: "MainMode", reason: Reason, now: float) -> None: ...

    def main_mode_expired(self, main_mode: "MainMode", now: float) -> None: ...

    def main_mode_exhausted(self, main_mode: "MainMode", reason: Reason, now: float) -> None: ...

    def claims_initial_contact(self, main_mode: "MainMode") -> bool: ...

    def initial_contact(self, main_mode: "MainMode", now: float) -> None: ...

    def quick_mode_established(
        self, main_mode: "MainMode", run: QuickModeRun, outcome: QuickModeOutcome, now: float
    ) -> None: ...

    def quick_mode_failed(self, main_mode: "MainMode", job: Job, reason: Reason, now: float) -> None: ...

    def take_back(self, job: Job, now: float) -> None:
        """The main mode can no longer serve this job: find it another one."""

    def peer_deleted(self, main_mode: "MainMode", deleted: informational.Deleted, now: float) -> None: ...


class MainMode:
    """One main mode, negotiating or established. Implements `ExchangeOwner` for its main-mode exchange."""

    def __init__(
        self,
        context: Context,
        host: MainModeHost,
        local: Endpoint,
        remote: Endpoint,
        candidates: Sequence[MainModeCandidate],
        vendor_ids: Sequence[bytes],
        *,
        initiator_cookie: bytes | None,
        now: float,
    ) -> None:
        self.context = context
        self.config = context.config
        self.random = context.random
        self.local = local
        self.remote = remote
        self.candidates = candidates
        self.initiator = initiator_cookie is None
        self.own_cookie = context.random(8)
        while not any(self.own_cookie):
            self.own_cookie = context.random(8)
        self.conversation = (
            Conversation(self.own_cookie, NO_COOKIE, ExchangeType.IDENTITY_PROTECTION)
            if initiator_cookie is None
            else Conversation(initiator_cookie, self.own_cookie, ExchangeType.IDENTITY_PROTECTION)
        )
        self.created = now
        self.established: float | None = None
        self.expires: float | None = None
        self.outcome: MainModeOutcome | None = None
        self.choice: MainModeChoice | None = None
        self.peer_vendor_ids: list[bytes] = []
        self.closed = False
        self.quick_modes_made = 0
        self.waiting: list[Job] = []
        self.runs: dict[int, QuickModeRun] = {}
        self._host = host
        self._used = RecentlySeen()
        self._last_block = b""
        setup = MainModeSetup(
            local.address,
            remote.address,
            candidates,
            vendor_ids,
            context.random,
            lambda: host.claims_initial_contact(self),
            context.config.authentication_attempts,
            self._note_choice,
            self._note_vendor_ids,
        )
        steps = main_mode.initiate if self.initiator else main_mode.respond
        self.exchange = Exchange(
            "main mode",
            steps(setup, self.conversation),
            self.conversation,
            self,
            initiator=self.initiator,
            now=now,
            lifetime=None if self.initiator else context.config.half_open_seconds,
            finished=self._established,
            failed=self._failed,
            refused=self._refused,
        )

    # ---- what it is
    @property
    def cookies(self) -> str:
        conversation = self.conversation
        return f"{conversation.initiator_cookie.hex()}:{conversation.responder_cookie.hex()}"

    @property
    def fast_failover(self) -> bool:
        """The peer is a cluster member ([MS-IKEE] §3.5)."""
        return self._peer_has(NLBS_PRESENT)

    @property
    def peer_says_initial_contact(self) -> bool:
        """By vendor id or notification; both count only when the main mode is established."""
        told = self.outcome is not None and self.outcome.initial_contact
        return told or self._peer_has(VID_INITIAL_CONTACT)

    @property
    def is_microsoft(self) -> bool:
        return self._peer_has(MS_NT5_ISAKMPOAKLEY)

    @property
    def peer_vendor(self) -> str:
        names = [vendor_name(data) for data in self.peer_vendor_ids]
        known = [name for name in names if name is not None]
        return next((name for name in known if name.startswith("MS NT5")), known[0] if known else "")

    def _peer_has(self, known: bytes) -> bool:
        return any(is_vendor(data, known) for data in self.peer_vendor_ids)

    def suits(self, negotiation: Negotiation) -> bool:
        """Whether quick modes of `negotiation` may run under this main mode: its policy allows the proposal
        and has the credential that was (or will be) used."""
        if self.outcome is None:
            first = self.candidates[0].negotiation
            return (first.main_mode, first.authentication) == (
                negotiation.main_mode,
                negotiation.authentication,
            )
        return self.outcome.proposal in negotiation.main_mode.proposals and any(
            self.outcome.method.same_as(method) for method in negotiation.authentication
        )

    def usable(self, negotiation: Negotiation, now: float) -> bool:
        """Whether a new quick mode of `negotiation` may be begun under it. One that has made all the quick
        modes that policy grants it stays, for deletes, but begins none ([MS-IKEE] §3.8.7.2)."""
        if self.closed or self.established is None or self.expires is None or not self.suits(negotiation):
            return False
        limit = negotiation.main_mode.quick_modes_per_main_mode
        return now < self.expires and (not limit or self.quick_modes_made < limit)

    def jobs(self) -> list[Job]:
        """What waits for it or runs under it."""
        running = [run.job for run in self._running(initiator=True) if run.job is not None]
        return [*self.waiting, *running]

    def _running(self, *, initiator: bool) -> list[QuickModeRun]:
        return [
            run
            for run in self.runs.values()
            if run.initiator is initiator and run.exchange is not None and not run.exchange.done
        ]

    # ---- ExchangeOwner
    def transmit(self, datagram: bytes) -> None:
        self.context.count("datagrams_sent")
        if self.local.port == NAT_TRAVERSAL_PORT:
            datagram = NON_ESP_MARKER + datagram
        self.context.effects.append(Send(datagram, self.local, self.remote))

    def install(self, sa: SecurityAssociation) -> None:
        raise AssertionError("main mode installs no SA")

    # ---- doors
    def start(self, now: float) -> None:
        self.exchange.start(now)
        self._arm_main_mode()

    def receive(self, header: Header, datagram: bytes, now: float) -> None:
        """A message that bears the cookies of this main mode."""
        if header.exchange_type == ExchangeType.IDENTITY_PROTECTION and header.message_id == 0:
            self.exchange.receive(header, datagram, now)
            self._arm_main_mode()
        elif header.exchange_type == ExchangeType.QUICK_MODE and header.message_id:
            self._receive_quick_mode(header, datagram, now)
        elif header.exchange_type == ExchangeType.INFORMATIONAL:
            self._receive_informational(header, datagram, now)
        else:
            detail = f"exchange type {header.exchange_type} with message id {header.message_id:#x}"
            self._refused(Reason.of(ReasonCode.UNEXPECTED_MESSAGE, detail), now)

    def add(self, job: Job, now: float) -> None:
        """Run a quick mode for the job, now or when this main mode is up and has room."""
        if len(self.waiting) >= self.config.waiting_acquires:
            reason = Reason.of(ReasonCode.QUEUE_FULL, "too many requests wait for one main mode")
            self._host.quick_mode_failed(self, job, reason, now)
            return
        self.waiting.append(job)
        self._start_waiting(now)

    def close(self, now: float, *, tell: bool) -> list[Job]:
        """End it, with all that runs under it; established pairs are not touched. The jobs that it leaves
        undone are returned. `tell`: send the peer a delete."""
        if self.closed:
            return []
        if tell and self.established is not None:
            conversation = self.conversation
            cookies = conversation.initiator_cookie + conversation.responder_cookie
            self.send_protected((informational.delete_main_mode(cookies),))
        self.closed = True
        timers = self.context.timers
        timers.cancel(self)
        timers.cancel(self.exchange)
        jobs = self.jobs()
        self.waiting.clear()
        for run in list(self.runs.values()):
            self._withdraw(run, Reason.of(ReasonCode.SA_DELETED, "its main mode ended"))
            self._drop(run)
        return jobs

    def send_protected(self, payloads: tuple[Payload, ...]) -> bytes:
        """A protected informational message; returns the datagram."""
        assert self.outcome is not None
        conversation = self._phase_2(ExchangeType.INFORMATIONAL, self._new_message_id())
        datagram = informational.encode_protected(
            conversation, self.outcome.proposal.hash, self.outcome.keys.skeyid_a, payloads
        )
        self.transmit(datagram)
        return datagram

    def notify_unprotected(self, kind: NotifyType, now: float) -> None:
        """Tell the peer what went wrong before there are keys; at most once a second."""
        if self.context.may_notify(self.remote, now):
            conversation = Conversation(
                self.conversation.initiator_cookie,
                self.conversation.responder_cookie,
                ExchangeType.INFORMATIONAL,
                int.from_bytes(self.random(4), "big") | 1,
            )
            self.transmit(conversation.encode((informational.notification(kind),), protected=False))

    # ---- main mode
    def _arm_main_mode(self) -> None:
        if not self.closed:
            self.context.timers.set(self.exchange, self.exchange.due, self._main_mode_timeout)

    def _main_mode_timeout(self, now: float) -> None:
        self.exchange.timeout(now)
        self.context.count("retransmissions", int(not self.exchange.done))
        self._arm_main_mode()

    def _note_choice(self, choice: MainModeChoice) -> None:
        self.choice = choice

    def _note_vendor_ids(self, vendor_ids: Sequence[bytes]) -> None:
        for data in vendor_ids:
            if data not in self.peer_vendor_ids and len(self.peer_vendor_ids) < MAXIMUM_VENDOR_IDS:
                self.peer_vendor_ids.append(data[:64])

    def _established(self, outcome: MainModeOutcome, now: float) -> None:
        self.outcome = outcome
        self.established = now
        self.expires = now + outcome.lifetime_seconds
        self._last_block = outcome.protection.last_block
        self.context.timers.set(self, self.expires, lambda moment: self._host.main_mode_expired(self, moment))
        self.context.count("main_modes")
        reason = Reason.of(
            ReasonCode.SA_ESTABLISHED,
            "main mode is up",
            proposal=outcome.proposal,
            authentication=outcome.method.name,
            identity=outcome.peer_identity,
        )
        self._report(ReportKind.MAIN_MODE_ESTABLISHED, reason)
        self._host.main_mode_established(self, now)
        self._start_waiting(now)

    def _failed(self, reason: Reason, now: float) -> None:
        self.context.count("negotiation_failures")
        if reason.code in _AUTHENTICATION:
            self.context.count("authentication_failures")
        kind = informational.notify_type_for(reason)
        if kind is not None and not self.initiator and self.exchange.suspicion is None:
            self.notify_unprotected(kind, now)
        self._host.main_mode_failed(self, reason, now)

    def _refused(self, reason: Reason, now: float) -> None:
        """A message of the main-mode exchange (or of none) was not acceptable."""
        self.context.refuse(reason, self.local, self.remote, now, self.cookies)
        kind = informational.notify_type_for(reason)
        if kind is not None and self.established is None:
            self.notify_unprotected(kind, now)

    # ---- quick mode
    def _start_waiting(self, now: float) -> None:
        while self.waiting and self.established is not None and not self.closed:
            if len(self._running(initiator=True)) >= self.config.quick_modes_in_progress:
                return
            job = self.waiting.pop(0)
            if self.usable(job.acquire.negotiation, now):
                self._initiate_quick_mode(job, now)
            else:
                self._host.take_back(job, now)

    def _initiate_quick_mode(self, job: Job, now: float) -> None:
        acquire = job.acquire
        match = QuickModeMatch(acquire.negotiation, acquire.selector, acquire.filter_id)
        run = QuickModeRun(self._new_message_id(), True, job)
        conversation = self._phase_2(ExchangeType.QUICK_MODE, run.message_id)
        self.quick_modes_made += 1
        steps = quick_mode.initiate(self._quick_mode_setup(run), match, conversation)
        self._run(run, Exchange("quick mode", steps, conversation, _RunOwner(self, run),
                                initiator=True, now=now, lifetime=None,
                                finished=lambda outcome, moment: self._quick_mode_up(run, outcome, moment),
                                failed=lambda reason, moment: self._quick_mode_down(run, reason, moment),
                                refused=self._refused), now)  # fmt: skip

    def _receive_quick_mode(self, header: Header, datagram: bytes, now: float) -> None:
        run = self.runs.get(header.message_id)
        if run is not None and run.exchange is not None:
            run.exchange.receive(header, datagram, now)
            self._arm(run)
            return
        try:
            self._check_new_quick_mode(header)
        except PeerError as error:
            self._refused(error.reason, now)
            return
        run = QuickModeRun(header.message_id, False)
        conversation = self._phase_2(ExchangeType.QUICK_MODE, run.message_id)
        steps = quick_mode.respond(self._quick_mode_setup(run), conversation)
        exchange = Exchange("quick mode", steps, conversation, _RunOwner(self, run),
                            initiator=False, now=now, lifetime=self.config.half_open_seconds,
                            finished=lambda outcome, moment: self._quick_mode_up(run, outcome, moment),
                            failed=lambda reason, moment: self._quick_mode_down(run, reason, moment),
                            refused=self._refused)  # fmt: skip
        self._run(run, exchange, now)
        exchange.receive(header, datagram, now)
        if exchange.begun:
            self._used.add(run.message_id)
            self._arm(run)
        else:
            # Not authentic: it must not leave anything behind, nor use up the message id.
            self._drop(run)

    def _check_new_quick_mode(self, header: Header) -> None:
        if self.established is None or self.closed:
            raise error_for(ReasonCode.UNEXPECTED_MESSAGE, "quick mode before main mode is up")
        if header.message_id in self._used:
            raise error_for(ReasonCode.UNEXPECTED_MESSAGE, "the message id was used before")
        if len(self._running(initiator=False)) >= self.config.quick_modes_in_progress:
            raise error_for(ReasonCode.TOO_MANY_NEGOTIATIONS, "too many quick modes at once")

    def _run(self, run: QuickModeRun, exchange: Exchange[QuickModeOutcome], now: float) -> None:
        run.exchange = exchange
        self.runs[run.message_id] = run
        done = [entry for entry in self.runs.values() if entry.exchange is not None and entry.exchange.done]
        for entry in done[: max(0, len(done) - MAXIMUM_LINGERING)]:
            self._drop(entry)
        exchange.start(now)
        self._arm(run)

    def _arm(self, run: QuickModeRun) -> None:
        exchange = run.exchange
        if exchange is None or self.closed or exchange.done:
            return
        self.context.timers.set(run, exchange.due, lambda now: self._quick_mode_timeout(run, now))

    def _quick_mode_timeout(self, run: QuickModeRun, now: float) -> None:
        assert run.exchange is not None
        run.exchange.timeout(now)
        self.context.count("retransmissions", int(not run.exchange.done))
        self._arm(run)

    def _linger(self, run: QuickModeRun, now: float) -> None:
        self.context.timers.set(run, now + self.config.linger_seconds, lambda moment: self._drop(run))

    def _drop(self, run: QuickModeRun) -> None:
        self.runs.pop(run.message_id, None)
        self.context.timers.cancel(run)

    def _quick_mode_up(self, run: QuickModeRun, outcome: QuickModeOutcome, now: float) -> None:
        if not run.initiator:
            self.quick_modes_made += 1
        run.spi = None  # it belongs to the pair now
        run.installed.clear()
        self._linger(run, now)
        self._host.quick_mode_established(self, run, outcome, now)
        self._start_waiting(now)

    def _quick_mode_down(self, run: QuickModeRun, reason: Reason, now: float) -> None:
        self._withdraw(run, reason)
        self._linger(run, now)
        self.context.count("negotiation_failures")
        if run.initiator:
            assert run.job is not None
            self._host.quick_mode_failed(self, run.job, reason, now)
            self._start_waiting(now)
            return
        self.context.count("receive_failures")
        self.context.report_limited(
            ReportKind.QUICK_MODE_FAILED, reason, self.local, self.remote, now, self.cookies
        )
        if run.exhausted:
            self._host.main_mode_exhausted(self, reason, now)
            return
        payloads = informational.refusal_payloads(reason, run.message_id, b"", microsoft=self.is_microsoft)
        if payloads and reason.code not in DEAD and run.exchange is not None and not self.closed:
            run.exchange.store_reply(self.send_protected(payloads))

    def _withdraw(self, run: QuickModeRun, reason: Reason) -> None:
        """A quick mode ends without a pair: give back its SPI and take out what was installed."""
        peer = self.remote.address
        if run.spi is not None:
            self.context.effects.append(RemoveSa(run.spi, Direction.INBOUND, peer, reason))
        for sa in run.installed:
            if sa.direction is Direction.OUTBOUND:
                self.context.effects.append(RemoveSa(sa.spi, sa.direction, peer, reason))
        run.spi = None
        run.installed.clear()

    def _quick_mode_setup(self, run: QuickModeRun) -> QuickModeSetup:
        assert self.outcome is not None
        config, context = self.config, self.context

        def reserve() -> int:
            context.count("total_get_spi")
            try:
                run.spi = context.get_spi(self.local.address, self.remote.address)
            except StockadeError:
                context.count("get_spi_failures")
                raise
            return run.spi

        def find_rule(selector: TrafficSelector) -> QuickModeMatch | Reason:
            assert self.choice is not None
            limit = self.choice.candidate.negotiation.main_mode.quick_modes_per_main_mode
            if limit and self.quick_modes_made >= limit:
                run.exhausted = True
                detail = "the main mode has made all its quick modes"
                return Reason.of(ReasonCode.TOO_MANY_NEGOTIATIONS, detail, limit=limit)
            return context.lookup.for_quick_mode(self.local.address, self.remote.address, selector)

        return QuickModeSetup(
            local=self.local.address,
            remote=self.remote.address,
            main_mode=self.cookies,
            hash=self.outcome.proposal.hash,
            keys=self.outcome.keys,
            main_mode_group=self.outcome.proposal.group,
            random=self.random,
            reserve_spi=reserve,
            find_rule=find_rule,
            idle_seconds=config.cluster_idle_seconds if self.fast_failover else config.idle_seconds,
            replay_window=config.replay_window,
            repeat=config.responder_retransmits_quick_mode,
        )

    def _new_message_id(self) -> int:
        while True:
            message_id = int.from_bytes(self.random(4), "big")
            if message_id and message_id not in self._used:
                self._used.add(message_id)
                return message_id

    def _phase_2(self, exchange_type: ExchangeType, message_id: int) -> Conversation:
        assert self.outcome is not None
        proposal = self.outcome.proposal
        protection = phase_2_protection(
            proposal.encryption,
            proposal.hash,
            self.outcome.keys.encryption_key,
            self._last_block,
            message_id,
        )
        conversation = self.conversation
        return Conversation(
            conversation.initiator_cookie,
            conversation.responder_cookie,
            exchange_type,
            message_id,
            protection,
        )

    # ---- informational
    def _receive_informational(self, header: Header, datagram: bytes, now: float) -> None:
        try:
            if not header.encrypted:
                message = self.conversation.decode(header, datagram[HEADER_SIZE:], informational.UNPROTECTED)
                for notification in message.all(NotificationPayload):
                    self._hint(notification, now)
            elif self.established is None:
                self._unreadable_informational(now)
            elif header.message_id not in self._used and header.message_id:
                self._protected_informational(header, datagram[HEADER_SIZE:], now)
        except PeerError as error:
            self._refused(error.reason, now)

    def _unreadable_informational(self, now: float) -> None:
        """strongSwan encrypts its complaint about message 5 with keys that, made from another pre-shared key,
        are not ours: that it comes at all tells the cause."""
        expect = self.exchange.expect
        if self.initiator and expect is not None and expect.protected:
            detail = "the peer answers main mode message 5 with something that we cannot decrypt"
            self.exchange.suspect(Reason.of(expect.garbled, detail), now)
            self._arm_main_mode()

    def _hint(self, notification: NotificationPayload, now: float) -> None:
        """An unprotected notification: anybody can have sent it, so it tears nothing down. It shortens the
        wait of an exchange that gets no better answer, and becomes the reason of its failure."""
        expect = self.exchange.expect
        authenticating = self.initiator and expect is not None and expect.protected
        reason = informational.reason_of(notification, authenticating=authenticating, protected=False)
        is_error = notification.is_error or microsoft_value(notification) is not None
        if self.established is None and is_error:
            self.exchange.suspect(reason, now)
            self._arm_main_mode()
        elif notification.type == NotifyType.INVALID_COOKIE:
            for run in self._running(initiator=True):
                assert run.exchange is not None
                run.exchange.suspect(reason, now)
                self._arm(run)
        self.context.report_limited(
            ReportKind.NOTIFICATION, reason, self.local, self.remote, now, self.cookies
        )

    def _protected_informational(self, header: Header, body: bytes, now: float) -> None:
        assert self.outcome is not None
        conversation = self._phase_2(ExchangeType.INFORMATIONAL, header.message_id)
        message = conversation.decode(header, body, informational.PROTECTED)
        hash_name, skeyid_a = self.outcome.proposal.hash, self.outcome.keys.skeyid_a
        informational.verify_protected(conversation, hash_name, skeyid_a, message)
        self._used.add(header.message_id)
        assert conversation.protection is not None
        conversation.protection.accept(body)
        acknowledgement = informational.acknowledge_delete(
            conversation, hash_name, skeyid_a, message, self.random(32)
        )
        if acknowledgement is not None:
            self.transmit(acknowledgement)
        for notification in message.all(NotificationPayload):
            self._notified(notification, now)
        deleted = informational.read_deletes(message)
        if deleted.main_modes or deleted.outbound_spis:
            self._host.peer_deleted(self, deleted, now)

    def _notified(self, notification: NotificationPayload, now: float) -> None:
        """An authenticated notification."""
        if notification.type == NotifyType.INITIAL_CONTACT:
            self._host.initial_contact(self, now)
            return
        reason = informational.reason_of(notification, authenticating=False, protected=True)
        if notification.is_error or microsoft_value(notification) is not None:
            run = self._meant(notification)
            if run is not None and run.exchange is not None:
                run.exchange.abandon(reason, now)
        self.context.report_limited(
            ReportKind.NOTIFICATION, reason, self.local, self.remote, now, self.cookies
        )

    def _meant(self, notification: NotificationPayload) -> QuickModeRun | None:
        """The quick mode that a peer's error is about: named by message id (Microsoft) or by SPI, or else the
        only one under way."""
        running = self._running(initiator=True)
        value = microsoft_value(notification)
        if value is not None and value.message_id is not None:
            return next((run for run in running if run.message_id == value.message_id), None)
        if len(notification.spi) == 4:
            spi = int.from_bytes(notification.spi, "big")
            named = next((run for run in running if run.spi == spi), None)
            if named is not None:
                return named
        return running[0] if len(running) == 1 else None

    def _report(self, kind: ReportKind, reason: Reason) -> None:
        self.context.report(kind, reason, self.local, self.remote, self.cookies)


class _RunOwner:
    """The main mode as the exchange of one quick mode sees it: remembers what was installed for it."""

    def __init__(self, main_mode: MainMode, run: QuickModeRun) -> None:
        self.config = main_mode.config
        self.random = main_mode.random
        self._main_mode = main_mode
        self._run = run

    def transmit(self, datagram: bytes) -> None:
        self._main_mode.transmit(datagram)

    def install(self, sa: SecurityAssociation) -> None:
        self._run.installed.append(sa)
        self._main_mode.context.count("key_additions")
        self._main_mode.context.effects.append(InstallSa(sa))
