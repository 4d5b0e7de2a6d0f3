"""What concerns more than one main mode: which one serves an acquire, what a peer's deletes and its
INITIAL-CONTACT mean, what the end of one means for the others.

Two decisions of our own. Both ends beginning at once make two main modes and two pairs; both stay, and the
newest serves. INITIAL-CONTACT is claimed only when there is neither a main mode nor a pair with the peer, and
removes only what was up before the main mode that carries it began: so it cannot hit the other one of two
simultaneous negotiations."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial

from stockade.ike.auth.kerberos import GSS_KERBEROS
from stockade.ike.config import EngineConfig
from stockade.ike.context import Context
from stockade.ike.contract import Acquire, PeerUnreachable, ReportKind, Send
from stockade.ike.cookies import new_cookie
from stockade.ike.evidence import Evidence
from stockade.ike.lost_state import LostState
from stockade.ike.pairs import PairKeeper
from stockade.ike.peers import PeerTable, QuickModePair
from stockade.ike.story import StoryEvent
from stockade.ike.v1 import nat_traversal
from stockade.ike.v1.association import MainMode
from stockade.ike.v1.candidates import known_key_first, main_mode_candidates
from stockade.ike.v1.informational import Deleted
from stockade.ike.v1.main_mode_proposals import MainModeCandidate
from stockade.ike.v1.quick_mode_pair import QuickModeOutcome
from stockade.ike.v1.quick_modes import DEAD, Job, QuickModeRun
from stockade.model.addresses import Address, Endpoint
from stockade.model.reasons import Reason, ReasonCode
from stockade.wire.isakmp.constants import DomainOfInterpretation, NotifyType, ProtocolId
from stockade.wire.isakmp.payloads import NotificationPayload
from stockade.wire.udp_encapsulation import KEEPALIVE
from stockade.wire.vendor_ids import (
    DEAD_PEER_DETECTION,
    FRAGMENTATION,
    GSSAPI,
    MS_NEGOTIATION_DISCOVERY,
    NLBS_PRESENT,
    STOCKADE_PROOFS,
    VID_INITIAL_CONTACT,
    microsoft_vendor_id,
)

HASTE_SECONDS = 120.0
MAXIMUM_HASTY = 1024
FORGETTING_SECONDS = 10.0  # for the jitter of repeated deletes


class Negotiator:
    """All main modes of one engine. Implements `MainModeHost`."""

    def __init__(self, context: Context, table: PeerTable, pairs: PairKeeper) -> None:
        self._context = context
        self._config = context.config
        self._table = table
        self._pairs = pairs
        self._hasty: OrderedDict[tuple[Address, Address], tuple[float, tuple[float, ...]]] = OrderedDict()
        self._lost = LostState(context, table, self._peer_lost)
        self._evidence = Evidence(context, table, pairs, self.take)
        self.stopping: Reason | None = None
        """Why nothing new begins."""

    def set_config(self, config: EngineConfig) -> None:
        """Other settings, for what begins from now on."""
        self._config = config

    # ---- main modes
    def make(
        self,
        local: Endpoint,
        remote: Endpoint,
        candidates: Sequence[MainModeCandidate],
        initiator_cookie: bytes | None,
        now: float,
        own_cookie: bytes | None = None,
    ) -> MainMode:
        config = self._config
        while own_cookie is None or self._table.is_own_cookie(own_cookie):
            own_cookie = new_cookie(self._context.random, self._context.cookie_mark)
        vendor_ids = _vendor_ids(
            config.microsoft_version,
            not self._knows(local.address, remote.address),
            config.fragmentation,
            config.dead_peer_detection,
            config.nat_traversal and local.address.version == 4,
            any(candidate.method.number == GSS_KERBEROS for candidate in candidates),
            self._context.restart_secret is not None,
            config.negotiation_discovery,
            config.advertise_cluster,
        )
        return MainMode(
            self._context,
            self,
            local,
            remote,
            candidates,
            vendor_ids,
            initiator_cookie=initiator_cookie,
            now=now,
            own_cookie=own_cookie,
            config=self._haste(local.address, remote.address, now) if initiator_cookie is None else None,
        )

    def _haste(self, local: Address, remote: Address, now: float) -> EngineConfig | None:
        """Other repetitions of main mode, towards a peer that is known to be away for a moment."""
        hasty = self._hasty.get((local, remote))
        if hasty is None:
            return None
        until, intervals = hasty
        if now > until:
            del self._hasty[local, remote]
            return None
        return replace(self._config, retransmission_intervals=intervals, retransmission_jitter=0.0)

    def _expect_back(self, mode: MainMode, intervals: tuple[float, ...], now: float) -> None:
        if not mode.peer_has(STOCKADE_PROOFS) or self._context.restart_secret is None:
            return
        key = (mode.local.address, mode.remote.address)
        self._hasty.pop(key, None)
        self._hasty[key] = (now + HASTE_SECONDS, intervals)
        if len(self._hasty) > MAXIMUM_HASTY:
            self._hasty.popitem(last=False)

    def _knows(self, local: Address, remote: Address, but: MainMode | None = None) -> bool:
        """Whether there is an established main mode or a pair with the peer."""
        modes = self._table.with_peer(local, remote)
        return bool(self._table.pairs_with(local, remote)) or any(
            mode.established is not None and mode is not but for mode in modes
        )

    # ---- jobs
    def is_on_its_way(self, acquire: Acquire, now: float) -> bool:
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

    def take(self, job: Job, now: float) -> None:
        """Find a main mode for the job, or begin one."""
        self._context.count("total_acquire")
        if self.stopping is not None:
            self._fail(job, self.stopping, now)
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
        candidates = main_mode_candidates(
            [acquire.negotiation], self._context.credentials, self._context.kerberos
        )
        if isinstance(candidates, Reason):
            self._fail(job, candidates, now)
            return
        if self._table.initiated >= self._config.initiated_total:
            reason = Reason.of(ReasonCode.QUEUE_FULL, "too many main modes are being negotiated")
            self._fail(job, reason, now)
            return
        job.fresh = True
        peers = (acquire.local, acquire.peer)
        local, remote = (Endpoint(address, 500) for address in peers)
        shown = [mode.outcome.method for mode in self._table.with_peer(*peers) if mode.outcome is not None]
        candidates = known_key_first(candidates, shown)
        mode = self.make(local, remote, candidates, None, now)
        self._table.add(mode)
        if mode.story.on:
            rule, traffic = acquire.negotiation.name, acquire.selector
            mode.story.tell(
                StoryEvent.BEGUN, f"rule {rule} wants to secure {traffic}", ("filter", acquire.filter_id)
            )
        mode.quick_modes.add(job, now)
        mode.start(now)

    def _fail(self, job: Job, reason: Reason, now: float) -> None:
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
        if not main_mode.initiator:
            self._join_unanswered(main_mode, now)

    def _join_unanswered(self, main_mode: MainMode, now: float) -> None:
        """The peer began by itself, as a node does that has just got its address. A main mode of ours that
        it never answered would reach it late, and its claim of initial contact would then be wrong: what
        waits for it goes on under the peer's."""
        if main_mode.nat is not None and main_mode.nat.peer_behind:
            return  # the unanswered one may be for another host behind the same NAT
        for mode in self._table.with_peer(main_mode.local.address, main_mode.remote.address):
            if not mode.initiator or mode.closed or any(mode.conversation.responder_cookie):
                continue
            jobs = mode.quick_modes.jobs()
            if all(main_mode.usable(job.acquire.negotiation, now) for job in jobs):
                jobs = mode.quick_modes.close()
                reason = Reason.of(ReasonCode.SA_REPLACED, "the peer began by itself", peer=mode.remote)
                self.end(mode, reason, now, tell=False)
                for job in jobs:
                    self.take(job, now)

    def initial_contact(self, main_mode: MainMode, now: float) -> None:
        """The peer (authenticated) has no older SA with us: remove what was up before it began to speak."""
        local, remote = main_mode.local.address, main_mode.remote.address
        modes = self._table.with_peer(local, remote)
        if modes == [main_mode] and not self._table.pairs_with(local, remote):
            return  # a first contact it is
        reason = Reason.of(ReasonCode.INITIAL_CONTACT, peer=remote)
        # Several peers can stand behind one NAT, and one does not speak for the others.
        others = {mode.cookies for mode in modes if not _same_peer(mode, main_mode)}
        for pair in self._table.pairs_with(local, remote):
            if pair.established < main_mode.created and pair.main_mode not in others:
                self._pairs.remove(pair, reason, now)
        for mode in modes:
            older = mode.established is not None and mode.established < main_mode.created
            if mode is not main_mode and older and mode.cookies not in others:
                self.end(mode, reason, now, tell=False)

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
        if not self.is_on_its_way(pair.acquire(), now):  # the peer itself may be making the new one
            self.take(Job(pair.acquire(), replaces=pair.inbound_spi), now)

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
        """Where a pre-shared key did not fit, or Kerberos gave no ticket, the rule's other methods are left:
        what both ends have shows only by trying."""
        left = main_mode.untried(reason) if self.stopping is None else []
        if not left:
            self.end(main_mode, reason, now, tell=False)
            return
        jobs = main_mode.quick_modes.close()
        self.end(main_mode, reason, now, tell=False)
        mode = self.make(
            Endpoint(main_mode.local.address, 500), Endpoint(main_mode.remote.address, 500), left, None, now
        )
        self._table.add(mode)
        for job in jobs:
            mode.quick_modes.add(job, now)
        mode.start(now)

    def main_mode_expired(self, main_mode: MainMode, now: float) -> None:
        self.end(main_mode, Reason.of(ReasonCode.MAIN_MODE_EXPIRED), now, tell=True)

    def main_mode_ages(self, main_mode: MainMode, now: float) -> None:
        """Make the next one before this one ends, so that rekeying and deleting never wait for it; not where
        nothing is secured any more, where policy gives each quick mode a main mode of its own, or where there
        is a newer one already."""
        local, remote = main_mode.local.address, main_mode.remote.address
        if self.stopping is not None or main_mode.choice is None or main_mode.established is None:
            return
        negotiation = main_mode.choice.candidate.negotiation
        limit = negotiation.main_mode.quick_modes_per_main_mode
        nat = main_mode.nat
        scope = self._config.nat_scope
        if nat is not None and nat_traversal.why_not_allowed(nat, scope, initiator=True) is not None:
            return  # the end behind the NAT begins, or nobody
        if limit or not self._table.pairs_with(local, remote):
            return
        for mode in self._table.with_peer(local, remote):
            if mode is not main_mode and mode.created > main_mode.established and not mode.closed:
                return
        candidates = main_mode_candidates([negotiation], self._context.credentials, self._context.kerberos)
        if isinstance(candidates, Reason) or self._table.initiated >= self._config.initiated_total:
            return  # the next quick mode tries again, and says why it cannot
        if main_mode.outcome is not None:
            candidates = known_key_first(candidates, [main_mode.outcome.method])
        mode = self.make(Endpoint(local, 500), Endpoint(remote, 500), candidates, None, now)
        self._table.add(mode)
        mode.story.tell(StoryEvent.BEGUN, f"main mode #{main_mode.story.number} is nearly over")
        mode.start(now)

    def main_mode_exhausted(self, main_mode: MainMode, reason: Reason, now: float) -> None:
        """A peer wants more quick modes than policy grants one main mode: it must authenticate anew."""
        self.end(main_mode, reason, now, tell=True)

    def quick_mode_failed(self, main_mode: MainMode, job: Job, reason: Reason, now: float) -> None:
        """A quick mode that we began failed. Where an older main mode got no answer the peer has forgotten
        it: once, a new main mode is tried."""
        if reason.code in DEAD and not job.fresh and self.stopping is None:
            detail = "the peer no longer answers under this main mode"
            forgotten = Reason(reason.code, detail, reason.facts)
            if reason.code is ReasonCode.NEGOTIATION_TIMED_OUT:
                self._forget_silent(main_mode, job, forgotten, now)
            else:  # somebody says so, with no proof: nothing but this main mode goes for that
                self._begin(job, now)
                self.end(main_mode, forgotten, now, tell=False)
            return
        self._fail(job, reason, now)

    def _forget_silent(self, main_mode: MainMode, job: Job, reason: Reason, now: float) -> None:
        """The whole time of a quick mode passed without an answer: the peer has forgotten this main mode, and
        those that are older. Where its pairs are silent too (or fast failover says not to wait) they go as
        well, and the new main mode says so (Vid-Initial-Contact); else they live on as long as they may."""
        local, remote = main_mode.local.address, main_mode.remote.address
        jobs = [job]
        for mode in self._table.with_peer(local, remote):
            if mode is main_mode or (mode.established is not None and mode.created <= main_mode.created):
                jobs += mode.quick_modes.close()
                self.end(mode, reason, now, tell=False)
        modes = {mode.cookies for mode in self._table.with_peer(local, remote)}
        hotfix = main_mode.fast_failover and self._config.failover_idle_seconds is not None
        gone = hotfix or job.patience is not None
        for pair in self._table.pairs_with(local, remote):
            if gone and pair.main_mode not in modes:
                self._pairs.remove(pair, reason, now)
        for one in jobs:
            one.fresh = True
            self.take(one, now)

    def silent(self, pair: QuickModePair, now: float) -> None:
        """What goes out through a pair has no answer: begin with the first rung that this peer can do."""
        plan = self._context.plan(pair.traits)
        if pair.replaced or self.stopping is not None:
            return
        if plan.silence_is_idle:
            self._pairs.delete([pair], Reason.of(ReasonCode.SA_IDLE, seconds=plan.silence_seconds), now)
            return
        speaker = self._pairs.speaker(pair)
        if plan.probes and speaker is not None and speaker.traits.can_be_asked:
            speaker.notices.probe(now, plan.probes)
        else:
            self.take(Job(pair.acquire(), replaces=pair.inbound_spi, patience=plan.quick_seconds), now)

    def unreachable(self, said: PeerUnreachable, now: float) -> None:
        if self.stopping is None:
            self._evidence.unreachable(said, now)

    def take_back(self, job: Job, now: float) -> None:
        self.take(job, now)

    def peer_deleted(self, main_mode: MainMode, deleted: Deleted, now: float) -> None:
        """Authenticated deletes. Quick modes live on when only their main mode is deleted ([MS-IKEE]
        §3.8)."""
        local, remote = main_mode.local.address, main_mode.remote.address
        reason = Reason.of(ReasonCode.SA_DELETED, peer=remote)
        for spi in deleted.outbound_spis:
            pair = self._table.pair_by_outbound(remote, spi)
            if pair is not None and pair.local.address == local:
                self._pairs.remove(pair, reason, now)
        for cookies in deleted.main_modes:
            for mode in self._table.with_peer(local, remote):
                conversation = mode.conversation
                if cookies == conversation.initiator_cookie + conversation.responder_cookie:
                    self.end(mode, reason, now, tell=False, lingers=True)
                    self._keep_departed(mode, now, self._config.departed_seconds)

    def _keep_departed(self, mode: MainMode, now: float, seconds: float) -> None:
        """A peer that says good-bye deletes its quick modes first, but the network may swap the messages; and
        what we delete is acknowledged under the main mode that we have deleted."""
        self._table.keep_departed(mode)
        forget = now + seconds
        self._context.timers.set(("departed", mode), forget, lambda _: self._table.forget_departed(mode))

    def _forget_departed(self, mode: MainMode) -> None:
        """Nothing more is expected."""
        self._context.timers.cancel(("departed", mode))
        self._table.forget_departed(mode)

    @property
    def lost(self) -> LostState:
        return self._lost

    def lost_state(self, main_mode: MainMode, notification: NotificationPayload, now: float) -> None:
        self._lost.about_mode(main_mode, notification, now)

    def _peer_lost(
        self, mode: MainMode | None, pairs: list[QuickModePair], reason: Reason, now: float
    ) -> None:
        """Proved. What the pairs secured is negotiated at once: nobody waits for a timer."""
        wanted = [pair.acquire() for pair in pairs if not pair.replaced and self._pairs.allowed(pair)]
        for pair in pairs:
            self._pairs.remove(pair, reason, now)
        if mode is not None:
            self.end(mode, reason, now, tell=False)
        for acquire in wanted:
            self.take(Job(acquire), now)

    def farewell(self, main_mode: MainMode, now: float) -> None:
        """Its deletes follow; the next packet finds the node that is there then."""
        self._expect_back(main_mode, self._config.farewell_intervals, now)

    def peer_dead(self, main_mode: MainMode, reason: Reason, now: float) -> None:
        """Its main mode, and the pairs that this main mode (or one that is gone) made: the next packet
        negotiates anew. Another living main mode keeps its own."""
        local, remote = main_mode.local.address, main_mode.remote.address
        modes = self._table.with_peer(local, remote)
        others = {mode.cookies for mode in modes if mode is not main_mode}
        self._expect_back(main_mode, self._config.return_intervals, now)
        self.end(main_mode, reason, now, tell=False)
        for pair in self._table.pairs_with(local, remote):
            if pair.main_mode not in others:
                self._pairs.remove(pair, reason, now)

    def quick_mode_established(
        self, main_mode: MainMode, run: QuickModeRun, outcome: QuickModeOutcome, now: float
    ) -> None:
        self._pairs.establish(main_mode, run, outcome, now)

    def enforce_access(self, now: float) -> None:
        """The access list changed: end what it no longer allows. A pair whose main mode is gone cannot be
        judged, and goes: the next packet asks the peer again who it is."""
        modes = {mode.cookies: mode for mode in self._table.main_modes()}
        for pair in list(self._table.pairs()):
            above = modes.get(pair.main_mode)
            rule = pair.outcome.match.negotiation.name
            gone = Reason.of(ReasonCode.POLICY_CHANGED, "the access list changed")
            denied = gone if above is None else above.why_denied() or above.why_denied(rule)
            if denied is not None:
                self._pairs.delete([pair], denied, now)
        for mode in modes.values():
            denied = mode.why_denied()
            if denied is not None:
                self.end(mode, denied, now, tell=True)

    # ---- ends
    def end(self, mode: MainMode, reason: Reason, now: float, *, tell: bool, lingers: bool = False) -> None:
        """End a main mode. Jobs under an established one go on under another, others fail with it. Its
        keys go with it, unless something is still expected under it; `lingers`: the caller sees to that."""
        if mode.closed:
            return
        was_established = mode.established is not None
        context = self._context
        jobs = mode.close(now, tell=tell)
        if not was_established:
            self._table.settle(mode)
        self._table.remove(mode)
        if mode.notices.deletes.pending:
            mode.notices.deletes.settled = partial(self._forget_departed, mode)
            self._keep_departed(mode, now, sum(self._config.delete_intervals) + FORGETTING_SECONDS)
        elif not lingers:
            mode.forget()
        if was_established:
            mode.story.refuse(StoryEvent.DELETED, reason)
        kind = ReportKind.MAIN_MODE_DELETED if was_established else ReportKind.MAIN_MODE_FAILED
        if was_established or (mode.initiator and not jobs):
            context.report(kind, reason, mode.local, mode.remote, mode.cookies)
        elif not mode.initiator:
            # A stranger can begin main modes at will, so their ends are reported at a bounded rate.
            context.report_limited(kind, reason, mode.local, mode.remote, now, mode.cookies)
        for job in jobs:
            if was_established and reason.code not in (ReasonCode.POLICY_CHANGED, ReasonCode.ACCESS_DENIED):
                self.take(job, now)
            elif was_established:
                self._fail(job, reason, now)
            else:
                context.count("acquire_failures")
                acquire = job.acquire
                context.report(
                    kind, reason, mode.local, mode.remote, mode.cookies, acquire.filter_id, acquire.selector
                )

    def delete_all(self, chosen: Callable[[Address], bool], reason: Reason, now: float) -> None:
        stopping, self.stopping = self.stopping, reason  # what ends must not begin anew
        if reason.code is ReasonCode.SHUTTING_DOWN:
            self._say_farewell(chosen)
        self._pairs.delete([pair for pair in self._table.pairs() if chosen(pair.remote.address)], reason, now)
        for mode in self._table.main_modes():
            if chosen(mode.remote.address):
                self.end(mode, reason, now, tell=True)
        self.stopping = stopping

    def _say_farewell(self, chosen: Callable[[Address], bool]) -> None:
        """Before the deletes: whoever understands it looks for us, or for the next node, often."""
        if self._context.restart_secret is None:
            return
        for mode in self._table.main_modes():
            able = mode.established is not None and mode.peer_has(STOCKADE_PROOFS)
            if able and chosen(mode.remote.address):
                cookies = mode.conversation.initiator_cookie + mode.conversation.responder_cookie
                farewell = NotificationPayload(
                    DomainOfInterpretation.IPSEC, ProtocolId.ISAKMP, cookies, NotifyType.STOCKADE_FAREWELL
                )
                mode.notices.send_protected((farewell,))

    def delete_local(self, local: Address, reason: Reason, now: float, *, tell: bool) -> None:
        """One of our own addresses goes, and what was made on it with it."""
        stopping, self.stopping = self.stopping, reason
        pairs = [pair for pair in self._table.pairs() if pair.local.address == local]
        if tell:
            self._pairs.delete(pairs, reason, now)
        else:
            for pair in pairs:
                self._pairs.remove(pair, reason, now)
        for mode in self._table.main_modes():
            if mode.local.address == local:
                self.end(mode, reason, now, tell=tell)
        self.stopping = stopping


@lru_cache(maxsize=64)  # there are few kinds of hosts and peers, and one is looked for in every handshake
def _vendor_ids(
    microsoft_version: int,
    initial_contact: bool,
    fragmentation: bool,
    dead_peer_detection: bool,
    nat: bool,
    kerberos: bool,
    proofs: bool,
    negotiation_discovery: bool,
    cluster: bool,
) -> tuple[bytes, ...]:
    """What we say of ourselves, in this order."""
    conditional = (
        (initial_contact, (VID_INITIAL_CONTACT,)),
        (fragmentation, (FRAGMENTATION,)),
        (dead_peer_detection, (DEAD_PEER_DETECTION,)),
        (nat, nat_traversal.vendor_ids(microsoft_version)),
        (kerberos, (GSSAPI,)),
        (proofs, (STOCKADE_PROOFS,)),
        (negotiation_discovery, (MS_NEGOTIATION_DISCOVERY,)),
        (cluster, (NLBS_PRESENT,)),
    )
    chosen = [vendor_id for wanted, ids in conditional if wanted for vendor_id in ids]
    return (microsoft_vendor_id(microsoft_version), *chosen)


def _same_peer(one: MainMode, other: MainMode) -> bool:
    """Whether two main modes with one address are with one peer, which behind a NAT only its identity
    says."""
    if other.nat is None or not other.nat.peer_behind or one.outcome is None or other.outcome is None:
        return True
    return one.outcome.peer_identity == other.outcome.peer_identity
