"""The IKE engine, sans-IO: bytes, commands and the time go in; effects come out (`stockade.ike.contract`).

    receive ─▶ header ─▶ main mode by cookies ─▶ its exchange (generator) ─▶ effects
    command ─▶ acquire ─▶ a main mode that serves, or a new one ─▶ quick mode ─▶ InstallSa

Here stands what concerns more than one main mode: which one serves an acquire, what a peer's deletes and its
INITIAL-CONTACT mean, limits, policy changes, shutting down. Everything that comes from the network costs a
bounded amount of time and memory and raises nothing.

Two decisions of our own. Both ends beginning at once make two main modes and two pairs; both stay, and the
newest serves. INITIAL-CONTACT is claimed only when there is neither a main mode nor a pair with the peer, and
removes only what was up before the main mode that carries it began: so it cannot hit the other one of two
simultaneous negotiations."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from stockade.ike.config import EngineConfig
from stockade.ike.context import NAT_TRAVERSAL_PORT, NON_ESP_MARKER, Context
from stockade.ike.contract import (
    Acquire,
    Command,
    DeletePeer,
    DeleteQuickMode,
    Effect,
    InstallSa,
    MainModeView,
    NegotiationLookup,
    ProbePeer,
    QuickModeView,
    RandomSource,
    RekeyQuickMode,
    RemoveSa,
    ReportKind,
    Send,
    Shutdown,
    SpiSource,
)
from stockade.ike.peers import PeerTable, QuickModePair
from stockade.ike.v1 import informational, nat_traversal
from stockade.ike.v1.association import MainMode
from stockade.ike.v1.candidates import NoCredentials, main_mode_candidates
from stockade.ike.v1.informational import Deleted
from stockade.ike.v1.proposals import MainModeCandidate
from stockade.ike.v1.quick_mode import QuickModeOutcome
from stockade.ike.v1.quick_modes import DEAD, Job, QuickModeRun
from stockade.ike.views import main_mode_view, quick_mode_view
from stockade.model.addresses import Address, Endpoint
from stockade.model.reasons import PeerError, Reason, ReasonCode
from stockade.pki.credentials import CredentialSource
from stockade.wire.isakmp.constants import ExchangeType, NotifyType, ProtocolId
from stockade.wire.isakmp.message import Header, decode_header
from stockade.wire.udp_encapsulation import KEEPALIVE
from stockade.wire.vendor_ids import (
    DEAD_PEER_DETECTION,
    FRAGMENTATION,
    NLBS_PRESENT,
    VID_INITIAL_CONTACT,
    microsoft_vendor_id,
)

DEFAULT_CONFIG = EngineConfig()
MAXIMUM_DELETES = 64  # SPIs in one delete payload


class Engine:
    """IKEv1. `random(size)` gives that many random bytes; `get_spi(local, peer)` reserves an inbound SPI and
    may raise `HostError` NO_SPI; `credentials` are this host's certificates and what it trusts. All times
    are seconds on one monotonic clock."""

    def __init__(
        self,
        lookup: NegotiationLookup,
        get_spi: SpiSource,
        random: RandomSource,
        config: EngineConfig = DEFAULT_CONFIG,
        credentials: CredentialSource | None = None,
    ) -> None:
        source = NoCredentials() if credentials is None else credentials
        self._context = Context(lookup, get_spi, random, config, source)
        self._config = config
        self._table = PeerTable()
        self._stopping: Reason | None = None

    # ---- doors
    def receive(self, datagram: bytes, local: Endpoint, remote: Endpoint, now: float) -> None:
        """A UDP datagram that came from `remote` to `local`. On port 4500 with its non-ESP marker."""
        context = self._context
        context.count("datagrams_received")
        if self._stopping is not None:
            return
        try:
            if local.port == NAT_TRAVERSAL_PORT:
                if not datagram.startswith(NON_ESP_MARKER):
                    return  # ESP or a keepalive: not ours
                datagram = datagram[len(NON_ESP_MARKER) :]
            header = decode_header(datagram)
            self._dispatch(header, datagram, local, remote, now)
        except PeerError as error:
            context.refuse(error.reason, local, remote, now)

    def command(self, command: Command, now: float) -> None:
        """Never raises; what cannot be done is reported."""
        match command:
            case Acquire():
                if not self._is_on_its_way(command, now):
                    self._take(Job(command), now)
            case RekeyQuickMode(inbound_spi=spi):
                pair = self._table.pair(spi)
                if pair is not None and not pair.replaced:
                    self._take(Job(pair.acquire(), replaces=spi), now)
            case DeleteQuickMode(inbound_spi=spi, reason=reason):
                pair = self._table.pair(spi)
                if pair is not None:
                    self._delete_pairs([pair], reason, now)
            case DeletePeer(peer=peer, reason=reason):
                self._delete_all(lambda address: address == peer, reason, now)
            case ProbePeer(local=local, peer=peer):
                for mode in self._table.with_peer(local, peer):
                    mode.probe(now)
            case Shutdown(reason=reason):
                self._delete_all(lambda address: True, reason, now)
                self._stopping = reason

    def timeout(self, now: float) -> None:
        """Do what is due. Calling it early or late is no error."""
        self._context.timers.run(now)

    def next_timeout(self) -> float | None:
        return self._context.timers.next()

    def effects(self) -> list[Effect]:
        """What is to be done, in order; the queue is empty afterwards."""
        effects, self._context.effects = self._context.effects, []
        return effects

    # ---- what can be seen
    @property
    def statistics(self) -> dict[str, int]:
        """Counters since the start, and how many of each thing there are now."""
        modes = self._table.main_modes()
        return {
            **self._context.statistics,
            "active_acquire": sum(len(mode.quick_modes.jobs()) for mode in modes),
            "active_receive": len(self._table.half_open),
            "isadb_list_size": len(modes),
            "active_quick_modes": sum(1 for _ in self._table.pairs()),
        }

    def main_modes(self, now: float) -> tuple[MainModeView, ...]:
        pairs: dict[str, int] = {}
        for pair in self._table.pairs():
            pairs[pair.main_mode] = pairs.get(pair.main_mode, 0) + 1
        return tuple(
            main_mode_view(mode, pairs.get(mode.cookies, 0), now) for mode in self._table.main_modes()
        )

    def quick_modes(self, now: float) -> tuple[QuickModeView, ...]:
        return tuple(quick_mode_view(pair, now) for pair in self._table.pairs())

    def has_answered(self, local: Address, peer: Address) -> bool:
        """Whether this peer has said a word of IKE to us under any main mode that there is: a peer that has
        not may have no IPsec at all."""
        return any(
            mode.established is not None or any(mode.conversation.responder_cookie)
            for mode in self._table.with_peer(local, peer)
        )

    def set_lookup(self, lookup: NegotiationLookup, now: float) -> None:
        """The policy changed: what it no longer supports is deleted, the rest goes on."""
        self._context.lookup = lookup
        changed = Reason.of(ReasonCode.POLICY_CHANGED)
        self._delete_pairs([pair for pair in self._table.pairs() if not self._allowed(pair)], changed, now)
        for mode in self._table.main_modes():
            negotiations = lookup.for_peer(mode.local.address, mode.remote.address)
            if isinstance(negotiations, Reason) or not any(mode.suits(entry) for entry in negotiations):
                self._end(mode, changed, now, tell=True)

    def set_credentials(self, credentials: CredentialSource) -> None:
        """Other certificates, roots or revocation lists: for main modes that begin from now on."""
        self._context.credentials = credentials

    def _allowed(self, pair: QuickModePair) -> bool:
        """Whether the policy in force would make this pair again."""
        match = self._context.lookup.for_quick_mode(
            pair.local.address, pair.remote.address, pair.outcome.selector
        )
        if isinstance(match, Reason) or match.filter_id != pair.outcome.match.filter_id:
            return False
        if match.negotiation == pair.outcome.match.negotiation:
            return True
        policy, proposal = match.negotiation.quick_mode, pair.outcome.proposal
        return (
            match.negotiation.authentication == pair.outcome.match.negotiation.authentication
            and any((entry.esp, entry.ah) == (proposal.esp, proposal.ah) for entry in policy.proposals)
            and policy.mode is pair.outcome.inbound.mode
            and (pair.outcome.group is not None or not policy.perfect_forward_secrecy)
        )

    # ---- messages
    def _dispatch(
        self, header: Header, datagram: bytes, local: Endpoint, remote: Endpoint, now: float
    ) -> None:
        context = self._context
        if header.major_version != 1:
            reason = Reason.of(
                ReasonCode.UNSUPPORTED_EXCHANGE, f"IKE version {header.major_version}", peer=remote
            )
            context.refuse(reason, local, remote, now)
            return
        mode = self._table.find(header, local.address, remote.address)
        if mode is not None:
            mode.receive(header, datagram, now, (local, remote))
            return
        is_first = not any(header.responder_cookie) and not header.encrypted and not header.message_id
        if is_first and header.exchange_type == ExchangeType.IDENTITY_PROTECTION:
            self._receive_first(header, datagram, local, remote, now)
        elif is_first and header.exchange_type != ExchangeType.INFORMATIONAL:
            reason = Reason.of(
                ReasonCode.UNSUPPORTED_EXCHANGE, f"exchange type {header.exchange_type}", peer=remote
            )
            context.refuse(reason, local, remote, now)
        else:
            self._receive_stray(header, local, remote, now)

    def _receive_first(
        self, header: Header, datagram: bytes, local: Endpoint, remote: Endpoint, now: float
    ) -> None:
        """Main mode message 1: a peer begins."""
        context = self._context
        if self._table.is_own_cookie(header.initiator_cookie):
            detail = "our own first message came back"
            context.refuse(Reason.of(ReasonCode.UNEXPECTED_MESSAGE, detail), local, remote, now)
            return
        known = self._table.with_peer(local.address, remote.address)
        established = any(mode.established is not None for mode in known)
        config = self._config
        limit = config.half_open_per_established_peer if established else config.half_open_per_peer
        if self._table.half_open_of(remote.address) >= limit:
            reason = Reason.of(ReasonCode.TOO_MANY_NEGOTIATIONS, peer=remote.address, limit=limit)
            context.refuse(reason, local, remote, now)
            return
        candidates: list[MainModeCandidate] | Reason
        negotiations = context.lookup.for_peer(local.address, remote.address)
        candidates = (
            negotiations
            if isinstance(negotiations, Reason)
            else main_mode_candidates(negotiations, context.credentials)
        )
        refusal = candidates if isinstance(candidates, Reason) else None
        mode = self._make(
            local,
            remote,
            [] if isinstance(candidates, Reason) else candidates,
            header.initiator_cookie,
            now,
        )
        if refusal is not None:
            context.refuse(refusal, local, remote, now)
            mode.notify_unprotected(NotifyType.NO_PROPOSAL_CHOSEN, now)
            return
        if len(self._table.half_open) >= config.half_open_total:
            oldest = next(iter(self._table.half_open))
            detail = "given up for a newer one: too many main modes are half open"
            self._end(oldest, Reason.of(ReasonCode.TOO_MANY_NEGOTIATIONS, detail), now, tell=False)
        self._table.add(mode)
        mode.start(now)
        mode.receive(header, datagram, now)
        if not mode.exchange.begun and not mode.closed:
            # Not a first message at all (reported already): no state for it.
            mode.close(now, tell=False)
            self._table.settle(mode)
            self._table.remove(mode)

    def _receive_stray(self, header: Header, local: Endpoint, remote: Endpoint, now: float) -> None:
        """A message with cookies that we do not know, most likely of a main mode from before our restart. The
        hint INVALID-COOKIE lets an honest peer negotiate anew sooner; never in answer to a hint."""
        context = self._context
        context.count("invalid_cookies_received")
        reason = Reason.of(ReasonCode.UNKNOWN_COOKIE, cookies=header.cookies)
        context.refuse(reason, local, remote, now)
        if header.exchange_type != ExchangeType.QUICK_MODE:
            return
        if isinstance(context.lookup.for_peer(local.address, remote.address), Reason):
            return
        mode = self._make(local, remote, [], header.initiator_cookie, now)
        mode.conversation.responder_cookie = header.responder_cookie
        mode.notify_unprotected(NotifyType.INVALID_COOKIE, now)

    def _make(
        self,
        local: Endpoint,
        remote: Endpoint,
        candidates: Sequence[MainModeCandidate],
        initiator_cookie: bytes | None,
        now: float,
    ) -> MainMode:
        vendor_ids = [microsoft_vendor_id(self._config.microsoft_version)]
        if not self._knows(local.address, remote.address):
            vendor_ids.append(VID_INITIAL_CONTACT)
        if self._config.fragmentation:
            vendor_ids.append(FRAGMENTATION)
        if self._config.dead_peer_detection:
            vendor_ids.append(DEAD_PEER_DETECTION)
        if self._config.nat_traversal and local.address.version == 4:
            vendor_ids += nat_traversal.VENDOR_IDS
        if self._config.advertise_cluster:
            vendor_ids.append(NLBS_PRESENT)
        return MainMode(
            self._context,
            self,
            local,
            remote,
            candidates,
            vendor_ids,
            initiator_cookie=initiator_cookie,
            now=now,
        )

    def _knows(self, local: Address, remote: Address, but: MainMode | None = None) -> bool:
        """Whether there is an established main mode or a pair with the peer."""
        modes = self._table.with_peer(local, remote)
        return bool(self._table.pairs_with(local, remote)) or any(
            mode.established is not None and mode is not but for mode in modes
        )

    # ---- jobs
    def _is_on_its_way(self, acquire: Acquire, now: float) -> bool:
        """Whether a pair for this very traffic has just come up, or waits for the peer's last message: the
        peer's first secured packet can overtake that message, and our answer to it then asks for an SA. A
        driver that still has none asks again after a second."""
        wanted = acquire.selector.reversed()
        for mode in self._table.with_peer(acquire.local, acquire.peer):
            for run in mode.quick_modes.running(initiator=False):
                if any(sa.selector == wanted for sa in run.installed):
                    return True
        return any(
            pair.outcome.inbound.selector == wanted
            and not pair.replaced
            and now - pair.established < self._config.acquire_interval
            for pair in self._table.pairs_with(acquire.local, acquire.peer)
        )

    def _take(self, job: Job, now: float) -> None:
        """Find a main mode for the job, or begin one."""
        self._context.count("total_acquire")
        if self._stopping is not None:
            self._fail_job(job, self._stopping, now)
            return
        acquire = job.acquire
        modes = self._table.with_peer(acquire.local, acquire.peer)
        if any(job.key == other.key for mode in modes for other in mode.quick_modes.jobs()):
            return  # joins the one under way
        negotiation = acquire.negotiation
        for mode in reversed(modes):
            if mode.usable(negotiation, now):
                mode.quick_modes.add(job, now)
                return
        for mode in reversed(modes):
            if mode.initiator and mode.established is None and mode.suits(negotiation):
                job.fresh = True
                mode.quick_modes.add(job, now)
                return
        self._begin(job, now)

    def _begin(self, job: Job, now: float) -> None:
        """A new main mode for the job."""
        acquire = job.acquire
        candidates = main_mode_candidates([acquire.negotiation], self._context.credentials)
        if isinstance(candidates, Reason):
            self._fail_job(job, candidates, now)
            return
        if self._table.initiated >= self._config.initiated_total:
            reason = Reason.of(ReasonCode.QUEUE_FULL, "too many main modes are being negotiated")
            self._fail_job(job, reason, now)
            return
        job.fresh = True
        local, remote = Endpoint(acquire.local, 500), Endpoint(acquire.peer, 500)
        mode = self._make(local, remote, candidates, None, now)
        self._table.add(mode)
        mode.quick_modes.add(job, now)
        mode.start(now)

    def _fail_job(self, job: Job, reason: Reason, now: float) -> None:
        self._context.count("acquire_failures")
        acquire = job.acquire
        self._context.report(
            ReportKind.QUICK_MODE_FAILED,
            reason,
            Endpoint(acquire.local, 500),
            Endpoint(acquire.peer, 500),
            filter_id=acquire.filter_id,
            selector=acquire.selector,
        )

    # ---- MainModeHost
    def claims_initial_contact(self, main_mode: MainMode) -> bool:
        return not self._knows(main_mode.local.address, main_mode.remote.address, but=main_mode)

    def main_mode_established(self, main_mode: MainMode, now: float) -> None:
        self._table.settle(main_mode)
        if main_mode.nat is not None and main_mode.nat.local_behind:
            self._keep_alive(main_mode.local, main_mode.remote, now)
        if main_mode.peer_says_initial_contact:
            self.initial_contact(main_mode, now)

    def initial_contact(self, main_mode: MainMode, now: float) -> None:
        """The peer (authenticated) has no older SA with us: remove what was up before it began to speak."""
        local, remote = main_mode.local.address, main_mode.remote.address
        reason = Reason.of(ReasonCode.INITIAL_CONTACT, peer=remote)
        modes = self._table.with_peer(local, remote)
        # Several peers can stand behind one NAT, and one does not speak for the others.
        others = {mode.cookies for mode in modes if not _same_peer(mode, main_mode)}
        for pair in self._table.pairs_with(local, remote):
            if pair.established < main_mode.created and pair.main_mode not in others:
                self._remove_pair(pair, reason, now)
        for mode in modes:
            older = mode.established is not None and mode.established < main_mode.created
            if mode is not main_mode and older and mode.cookies not in others:
                self._end(mode, reason, now, tell=False)

    def peer_moved(self, main_mode: MainMode, previous: Endpoint) -> None:
        """New pairs go where the peer is now; the old ones cannot be moved, as the driver counts on in
        them."""
        local, remote = main_mode.local.address, main_mode.remote.address
        for pair in self._table.pairs_with(local, remote):
            if pair.remote == previous and not pair.replaced:
                self._context.timers.set(("moved", pair), 0.0, partial(self._follow, pair))

    def _follow(self, pair: QuickModePair, now: float) -> None:
        if self._table.pair(pair.inbound_spi) is not pair or pair.replaced:
            return
        if not self._is_on_its_way(pair.acquire(), now):  # the peer itself may be making the new one
            self._take(Job(pair.acquire(), replaces=pair.inbound_spi), now)

    def _keep_alive(self, local: Endpoint, remote: Endpoint, now: float) -> None:
        """Keep the NAT's mapping while there is anything to keep it for (RFC 3948 §4)."""
        modes = self._table.with_peer(local.address, remote.address)
        ends = [(mode.local, mode.remote) for mode in modes if mode.established is not None]
        pairs = self._table.pairs_with(local.address, remote.address)
        if (local, remote) not in (*ends, *((pair.local, pair.remote) for pair in pairs)):
            return
        self._context.effects.append(Send(KEEPALIVE, local, remote))
        due = now + self._config.keepalive_seconds
        self._context.timers.set(
            ("keepalive", local, remote), due, lambda moment: self._keep_alive(local, remote, moment)
        )

    def main_mode_failed(self, main_mode: MainMode, reason: Reason, now: float) -> None:
        self._end(main_mode, reason, now, tell=False)

    def main_mode_expired(self, main_mode: MainMode, now: float) -> None:
        self._end(main_mode, Reason.of(ReasonCode.MAIN_MODE_EXPIRED), now, tell=True)

    def main_mode_exhausted(self, main_mode: MainMode, reason: Reason, now: float) -> None:
        """A peer wants more quick modes than policy grants one main mode: it must authenticate anew."""
        self._end(main_mode, reason, now, tell=True)

    def quick_mode_established(
        self, main_mode: MainMode, run: QuickModeRun, outcome: QuickModeOutcome, now: float
    ) -> None:
        pair = QuickModePair(outcome, main_mode.local, main_mode.remote, run.initiator, now)
        self._table.add_pair(pair)
        if run.initiator:
            delay = 0.0 if main_mode.is_microsoft else self._config.outbound_delay_seconds
            if delay:
                self._context.timers.set(
                    ("outbound", pair), now + delay, lambda moment: self._install_outbound(pair)
                )
            else:
                self._install_outbound(pair)
        self._context.count("quick_modes")
        self._context.timers.set(pair, pair.expires, lambda moment: self._expire_pair(pair, moment))
        reason = Reason.of(
            ReasonCode.SA_ESTABLISHED,
            "quick mode is up",
            proposal=outcome.proposal,
            inbound=f"{outcome.inbound.spi:#010x}",
            outbound=f"{outcome.outbound.spi:#010x}",
        )
        self._report_pair(ReportKind.QUICK_MODE_ESTABLISHED, pair, reason)
        replaces = run.job.replaces if run.job is not None else None
        old = None if replaces is None else self._table.pair(replaces)
        if old is not None:
            self._context.count("rekeys")
            old.replaced = True
            until = min(now + self._config.rekey_grace_seconds, old.expires)
            self._context.timers.set(old, until, lambda moment: self._retire_pair(old, moment))

    def _install_outbound(self, pair: QuickModePair) -> None:
        self._context.count("key_additions")
        self._context.effects.append(InstallSa(pair.outcome.outbound))

    def quick_mode_failed(self, main_mode: MainMode, job: Job, reason: Reason, now: float) -> None:
        """A quick mode that we began failed. Where an older main mode got no answer the peer has forgotten
        it: once, a new main mode is tried."""
        if reason.code in DEAD and not job.fresh and self._stopping is None:
            detail = "the peer no longer answers under this main mode"
            self._begin(job, now)
            self._end(main_mode, Reason(reason.code, detail, reason.facts), now, tell=False)
            return
        self._fail_job(job, reason, now)

    def take_back(self, job: Job, now: float) -> None:
        self._take(job, now)

    def peer_deleted(self, main_mode: MainMode, deleted: Deleted, now: float) -> None:
        """Authenticated deletes. Quick modes live on when only their main mode is deleted ([MS-IKEE]
        §3.8)."""
        local, remote = main_mode.local.address, main_mode.remote.address
        reason = Reason.of(ReasonCode.SA_DELETED, peer=remote)
        for spi in deleted.outbound_spis:
            pair = self._table.pair_by_outbound(remote, spi)
            if pair is not None and pair.local.address == local:
                self._remove_pair(pair, reason, now)
        for cookies in deleted.main_modes:
            for mode in self._table.with_peer(local, remote):
                conversation = mode.conversation
                if cookies == conversation.initiator_cookie + conversation.responder_cookie:
                    self._end(mode, reason, now, tell=False)
                    self._keep_departed(mode, now)

    def _keep_departed(self, mode: MainMode, now: float) -> None:
        """A peer that says good-bye deletes its quick modes first, but the network may swap the messages."""
        self._table.keep_departed(mode)
        forget = now + self._config.departed_seconds
        self._context.timers.set(("departed", mode), forget, lambda _: self._table.forget_departed(mode))

    def peer_dead(self, main_mode: MainMode, reason: Reason, now: float) -> None:
        """Its main mode, and the pairs that this main mode (or one that is gone) made: the next packet
        negotiates anew. Another living main mode keeps its own."""
        local, remote = main_mode.local.address, main_mode.remote.address
        modes = self._table.with_peer(local, remote)
        others = {mode.cookies for mode in modes if mode is not main_mode}
        self._end(main_mode, reason, now, tell=False)
        for pair in self._table.pairs_with(local, remote):
            if pair.main_mode not in others:
                self._remove_pair(pair, reason, now)

    # ---- ends
    def _end(self, mode: MainMode, reason: Reason, now: float, *, tell: bool) -> None:
        """End a main mode. Jobs under an established one go on under another, others fail with it."""
        if mode.closed:
            return
        was_established = mode.established is not None
        context = self._context
        jobs = mode.close(now, tell=tell)
        if not was_established:
            self._table.settle(mode)
        self._table.remove(mode)
        kind = ReportKind.MAIN_MODE_DELETED if was_established else ReportKind.MAIN_MODE_FAILED
        if was_established or (mode.initiator and not jobs):
            context.report(kind, reason, mode.local, mode.remote, mode.cookies)
        elif not mode.initiator:
            # A stranger can begin main modes at will, so their ends are reported at a bounded rate.
            context.report_limited(kind, reason, mode.local, mode.remote, now, mode.cookies)
        for job in jobs:
            if was_established and reason.code is not ReasonCode.POLICY_CHANGED:
                self._take(job, now)
            elif was_established:
                self._fail_job(job, reason, now)
            else:
                context.count("acquire_failures")
                acquire = job.acquire
                context.report(
                    kind, reason, mode.local, mode.remote, mode.cookies, acquire.filter_id, acquire.selector
                )

    def _expire_pair(self, pair: QuickModePair, now: float) -> None:
        self._delete_pairs([pair], Reason.of(ReasonCode.SA_EXPIRED), now)

    def _retire_pair(self, pair: QuickModePair, now: float) -> None:
        self._delete_pairs([pair], Reason.of(ReasonCode.SA_REPLACED), now)

    def _remove_pair(self, pair: QuickModePair, reason: Reason, now: float) -> None:
        """Take a pair out, without a word to the peer."""
        self._table.remove_pair(pair)
        self._context.timers.cancel(pair)
        self._context.timers.cancel(("outbound", pair))
        self._context.count("key_deletions", 2)
        for sa in (pair.outcome.outbound, pair.outcome.inbound):
            self._context.effects.append(RemoveSa(sa.spi, sa.direction, pair.remote.address, reason))
        self._report_pair(ReportKind.QUICK_MODE_DELETED, pair, reason)

    def _delete_pairs(self, pairs: Iterable[QuickModePair], reason: Reason, now: float) -> None:
        """Take pairs out and tell their peers, if there is a main mode to do it with."""
        told: dict[tuple[MainMode, ProtocolId], list[int]] = {}
        for pair in pairs:
            mode = self._speaker(pair)
            protocol = ProtocolId.ESP if pair.outcome.inbound.esp is not None else ProtocolId.AH
            if mode is not None:
                told.setdefault((mode, protocol), []).append(pair.inbound_spi)
            self._remove_pair(pair, reason, now)
        for (mode, protocol), spis in told.items():
            for start in range(0, len(spis), MAXIMUM_DELETES):
                part = spis[start : start + MAXIMUM_DELETES]
                mode.send_protected((informational.delete_quick_modes(protocol, part),))

    def _speaker(self, pair: QuickModePair) -> MainMode | None:
        """A main mode to tell the peer of this pair something: its own, else the newest."""
        modes = self._table.with_peer(pair.local.address, pair.remote.address)
        able = [mode for mode in modes if mode.established is not None and not mode.closed]
        own = [mode for mode in able if mode.cookies == pair.main_mode]
        best = own or able
        return best[-1] if best else None

    def _delete_all(self, chosen: Callable[[Address], bool], reason: Reason, now: float) -> None:
        stopping, self._stopping = self._stopping, reason  # what ends must not begin anew
        self._delete_pairs([pair for pair in self._table.pairs() if chosen(pair.remote.address)], reason, now)
        for mode in self._table.main_modes():
            if chosen(mode.remote.address):
                self._end(mode, reason, now, tell=True)
        self._stopping = stopping

    def _report_pair(self, kind: ReportKind, pair: QuickModePair, reason: Reason) -> None:
        # Without the filter's id: that is for failures, by which the agent releases held packets.
        self._context.report(
            kind, reason, pair.local, pair.remote, pair.main_mode, selector=pair.outcome.selector
        )


def _same_peer(one: MainMode, other: MainMode) -> bool:
    """Whether two main modes with one address are with one peer, which behind a NAT only its identity
    says."""
    if other.nat is None or not other.nat.peer_behind or one.outcome is None or other.outcome is None:
        return True
    return one.outcome.peer_identity == other.outcome.peer_identity
