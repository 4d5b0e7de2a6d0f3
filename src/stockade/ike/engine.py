"""The IKE engine, sans-IO: bytes, commands and the time go in; effects come out (`stockade.ike.contract`).

    receive ─▶ header ─▶ main mode by cookies ─▶ its exchange (generator) ─▶ effects
    command ─▶ acquire ─▶ a main mode that serves, or a new one ─▶ quick mode ─▶ InstallSa

Here stand the doors, the way of a message to its main mode, and what strangers may cost: everything that
comes from the network costs a bounded amount of time and memory and raises nothing. `negotiator.py` has what
concerns more than one main mode, `pairs.py` the pairs of SAs, `v1/` the protocol."""

from collections.abc import Callable, Collection

from stockade.ike.adoption import adopted_outcome, why_not
from stockade.ike.auth.kerberos import GssSource
from stockade.ike.config import EngineConfig
from stockade.ike.context import NAT_TRAVERSAL_PORT, NON_ESP_MARKER, Context
from stockade.ike.contract import (
    Acquire,
    Command,
    DeleteLocal,
    DeletePeer,
    DeleteQuickMode,
    Effect,
    ExportedKeys,
    FollowPeer,
    MainModeView,
    NegotiationLookup,
    PeerUnreachable,
    Performed,
    ProbePeer,
    QuickModeView,
    RandomSource,
    RekeyQuickMode,
    Send,
    Shutdown,
    Silent,
    SpiSource,
    UnderWay,
)
from stockade.ike.cookies import CookieMark
from stockade.ike.flood import FloodGuard, Verdict, is_first_message, origin_of
from stockade.ike.liveness import PeerTraits, Plan
from stockade.ike.lost_state import IKE_PORT
from stockade.ike.negotiator import Negotiator
from stockade.ike.pairs import PairKeeper
from stockade.ike.peers import PeerTable
from stockade.ike.proofs import RestartSecret
from stockade.ike.story import StoryEvent
from stockade.ike.v1.candidates import NoCredentials, main_mode_candidates
from stockade.ike.v1.main_mode_proposals import MainModeCandidate
from stockade.ike.v1.quick_modes import Job
from stockade.ike.views import main_mode_view, quick_mode_view, under_way
from stockade.model.addresses import Address, Endpoint
from stockade.model.filters import Direction
from stockade.model.reasons import PeerError, Reason, ReasonCode
from stockade.model.sa import SecurityAssociation
from stockade.pki.access import AccessList
from stockade.pki.credentials import CredentialSource
from stockade.wire.isakmp.constants import ExchangeType, PayloadType
from stockade.wire.isakmp.message import Header, decode_header

DEFAULT_CONFIG = EngineConfig()


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
        kerberos: GssSource | None = None,
        restart_secret: RestartSecret | None = None,
    ) -> None:
        source = NoCredentials() if credentials is None else credentials
        self._context = Context(lookup, get_spi, random, config, source, kerberos, restart_secret)
        self._config = config
        self._table = PeerTable()
        self._guard = FloodGuard(config, random)
        self._pairs = PairKeeper(self._context, self._table)
        self._negotiator = Negotiator(self._context, self._table, self._pairs)

    # ---- doors
    def receive(self, datagram: bytes, local: Endpoint, remote: Endpoint, now: float) -> None:
        """A UDP datagram that came from `remote` to `local`. On port 4500 with its non-ESP marker."""
        context = self._context
        context.now = now
        context.count("datagrams_received")
        try:
            if local.port == NAT_TRAVERSAL_PORT:
                if not datagram.startswith(NON_ESP_MARKER):
                    return  # ESP or a keepalive: not ours
                datagram = datagram[len(NON_ESP_MARKER) :]
            if self._guard.active and is_first_message(datagram):
                verdict = self.screen(datagram, origin_of(local, remote), now)
                if isinstance(verdict, bytes):
                    context.count("datagrams_sent")
                    marker = NON_ESP_MARKER if local.port == NAT_TRAVERSAL_PORT else b""
                    context.effects.append(Send(marker + verdict, local, remote))
                if verdict is not Verdict.ADMIT:
                    return
            header = decode_header(datagram)
            self._dispatch(header, datagram, local, remote, now)
        except PeerError as error:
            context.refuse(error.reason, local, remote, now)

    def screen(self, datagram: bytes, origin: bytes, now: float) -> bytes | Verdict:
        """What `receive` does first with a first message (`flood.is_first_message`, without non-ESP marker),
        for a loop that sheds load before it makes objects of what it read. Bytes are to be sent back; what
        is admitted goes to `receive`. `origin` is `flood.origin_of` both ends."""
        self._guard.note_half_open(len(self._table.half_open))
        return self._guard.screen(datagram, origin, now)

    @property
    def floods(self) -> bool:
        """Whether first messages must prove their sender's address now."""
        return self._guard.active

    def command(self, command: Command, now: float) -> None:
        """Never raises; what cannot be done is reported."""
        self._context.now = now
        match command:
            case Acquire():
                if not self._negotiator.is_on_its_way(command, now):
                    self._negotiator.take(Job(command), now)
            case RekeyQuickMode(inbound_spi=spi):
                pair = self._table.pair(spi)
                if pair is not None and not pair.replaced:
                    self._negotiator.take(Job(pair.acquire(), replaces=spi), now)
            case DeleteQuickMode(inbound_spi=spi, reason=reason):
                pair = self._table.pair(spi)
                if pair is not None:
                    self._pairs.delete([pair], reason, now)
            case DeletePeer(peer=peer, reason=reason):
                self._negotiator.delete_all(lambda address: address == peer, reason, now)
            case DeleteLocal(local=local, reason=reason, tell=tell):
                self._negotiator.delete_local(local, reason, now, tell=tell)
            case ProbePeer(local=local, peer=peer):
                for mode in self._table.with_peer(local, peer):
                    mode.notices.probe(now)
            case Silent(inbound_spi=spi):
                pair = self._table.pair(spi)
                if pair is not None:
                    self._negotiator.silent(pair, now)
            case PeerUnreachable():
                self._negotiator.unreachable(command, now)
            case FollowPeer(inbound_spi=spi, port=port):
                self._follow(spi, port)
            case Performed():
                self._context.performed(command, now)
            case Shutdown(reason=reason):
                self._negotiator.delete_all(lambda address: True, reason, now)
                self._negotiator.stopping = reason

    def adopt(
        self,
        inbound: SecurityAssociation,
        outbound: SecurityAssociation,
        headers: tuple[SecurityAssociation, ...],
        age: float,
        now: float,
        *,
        replaced: bool = False,
    ) -> Reason | None:
        """Go on with a pair that outlived an earlier engine, `age` seconds old, `headers` being the AH of a
        bundle; or why today's policy would not make it. `replaced`: there is a newer one. Nothing is asked of
        the driver."""
        self._context.now = now
        local, peer, selector = outbound.source, outbound.destination, outbound.selector
        match = self._context.lookup.for_quick_mode(local, peer, selector)
        if isinstance(match, Reason):
            return match
        outcome = adopted_outcome(inbound, outbound, headers, match)
        if isinstance(outcome, Reason):
            return outcome
        udp = outbound.udp
        ports = (IKE_PORT, IKE_PORT) if udp is None else (udp.source_port, udp.destination_port)
        ends = (Endpoint(local, ports[0]), Endpoint(peer, ports[1]))
        self._pairs.adopt(outcome, ends, age, now, replaced=replaced)
        return None

    def would_make(self, inbound: SecurityAssociation) -> bool:
        """Whether today's policy would make this inbound half of a pair."""
        local, peer, outbound = inbound.destination, inbound.source, inbound.selector.reversed()
        match = self._context.lookup.for_quick_mode(local, peer, outbound)
        return not isinstance(match, Reason) and why_not(inbound, outbound, inbound.ah, match) is None

    def awaits_replacement(self, inbound_spi: int) -> bool:
        """Whether this pair is there, and no newer one has taken its place."""
        pair = self._table.pair(inbound_spi)
        return pair is not None and not pair.replaced

    def _follow(self, inbound_spi: int, port: int) -> None:
        pair = self._table.pair(inbound_spi)
        if pair is None or pair.outcome.inbound.udp is None:
            return
        pair.remote = Endpoint(pair.remote.address, port)
        for mode in self._table.with_peer(pair.local.address, pair.remote.address):
            if mode.cookies == pair.main_mode and mode.nat is not None:
                mode.remote = pair.remote

    def timeout(self, now: float) -> None:
        """Do what is due. Calling it early or late is no error."""
        self._context.now = now
        self._context.timers.run(now)

    def next_timeout(self) -> float | None:
        return self._context.timers.next()

    @property
    def has_work_ahead(self) -> bool:
        """Whether `work_ahead` has anything to do."""
        return self._context.key_pool.wants

    def work_ahead(self, now: float) -> bool:
        """For a moment with nothing else to do, at most a millisecond or two: one key pair for an exchange to
        come. Whether there is more. Nothing depends on its being called."""
        if self._negotiator.stopping is not None:
            return False
        more = self._context.key_pool.prepare(now)
        self._forget_key_pairs_in_time()
        return more

    def _forget_key_pairs_in_time(self) -> None:
        pool = self._context.key_pool

        def forget(now: float) -> None:
            pool.forget(now)
            self._forget_key_pairs_in_time()

        self._context.timers.set(pool, pool.due, forget)

    @property
    def has_effects(self) -> bool:
        """Whether anything is to be done."""
        return bool(self._context.effects)

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
            "cookies_sent": self._guard.cookies_sent,
            "cookies_proven": self._guard.cookies_proven,
            "first_messages_dropped": self._guard.dropped,
        }

    def export_keys(self) -> ExportedKeys:
        """The keys of everything that is up, for who captures packets and asks for them explicitly."""
        modes = (mode for mode in self._table.main_modes() if mode.outcome is not None)
        return ExportedKeys(
            tuple(
                (mode.conversation.initiator_cookie, mode.outcome.keys.encryption_key)
                for mode in modes
                if mode.outcome is not None
            ),
            tuple(
                sa
                for pair in self._table.pairs()
                for direction in Direction
                for sa in pair.outcome.of(direction)
            ),
        )

    @property
    def unacknowledged_deletes(self) -> int:
        """Deletes of ours that peers have not acknowledged yet, of those that do so."""
        return self._context.unacknowledged

    def main_modes(self, now: float) -> tuple[MainModeView, ...]:
        pairs: dict[str, int] = {}
        for pair in self._table.pairs():
            pairs[pair.main_mode] = pairs.get(pair.main_mode, 0) + 1
        return tuple(
            main_mode_view(mode, pairs.get(mode.cookies, 0), now) for mode in self._table.main_modes()
        )

    def quick_modes(self, now: float) -> tuple[QuickModeView, ...]:
        return tuple(quick_mode_view(pair, now) for pair in self._table.pairs())

    def under_way(self, now: float) -> tuple[UnderWay, ...]:
        """The negotiations that have not ended, and what each waits for."""
        return tuple(view for mode in self._table.main_modes() for view in under_way(mode, now))

    def has_answered(self, local: Address, peer: Address) -> bool:
        """Whether this peer has said a word of IKE to us under any main mode that there is: a peer that has
        not may have no IPsec at all."""
        return any(
            mode.established is not None or any(mode.conversation.responder_cookie)
            for mode in self._table.with_peer(local, peer)
        )

    def prove_lost(self, local: Address, peer: Address, spi: int, now: float, port: int = 0) -> None:
        """A packet from `peer` (in UDP from `port`, where that is not 0) to `local` names an SPI that the
        driver does not have: if we lost it with our state, prove that (`proofs.py`)."""
        self._context.now = now
        if self._negotiator.stopping is None:
            self._negotiator.lost.prove_pair(local, peer, spi, now, port)

    def set_living_holders(self, living_holders: Callable[[Address], Collection[str]]) -> None:
        """Who else of the cluster lives and holds an address: nothing is proved for these nodes."""
        self._context.living_holders = living_holders

    def plans(self, peer: Address) -> tuple[tuple[MainModeView, Plan], ...]:
        """What is done when a peer is silent, for each main mode with it."""
        now = self._context.now
        modes = [mode for mode in self._table.main_modes() if mode.remote.address == peer]
        return tuple(
            (main_mode_view(mode, 0, now), mode.plan) for mode in modes if mode.established is not None
        )

    def plan_for_strangers(self, *, can_be_asked: bool = False) -> Plan:
        return self._context.plan(PeerTraits(can_be_asked))

    def mark_cookies(self, mark: CookieMark) -> None:
        """Choose cookies that the kernel can tell from others (`cookies.py`), from now on."""
        self._context.cookie_mark = self._guard.mark = mark

    def set_config(self, config: EngineConfig) -> None:
        """Other settings: for everything that begins from now on."""
        self._config = self._context.config = config
        self._negotiator.set_config(config)
        self._pairs.set_config(config)

    def quick_modes_with(self, local: Address, peer: Address, now: float) -> tuple[QuickModeView, ...]:
        """Those with one peer, without a look at all the others."""
        return tuple(quick_mode_view(pair, now) for pair in self._table.pairs_with(local, peer))

    def set_lookup(self, lookup: NegotiationLookup, now: float) -> None:
        """The policy changed: what it no longer supports is deleted, the rest goes on."""
        self._context.lookup = lookup
        self._context.now = now
        changed = Reason.of(ReasonCode.POLICY_CHANGED)
        self._pairs.delete(
            [pair for pair in self._table.pairs() if not self._pairs.allowed(pair)], changed, now
        )
        for mode in self._table.main_modes():
            negotiations = lookup.for_peer(mode.local.address, mode.remote.address)
            if isinstance(negotiations, Reason) or not any(mode.suits(entry) for entry in negotiations):
                self._negotiator.end(mode, changed, now, tell=True)

    def set_logging(self, on: bool) -> None:
        """Whether the story of every negotiation is told (`StoryLine` effects)."""
        self._context.narrating = on

    def set_credentials(self, credentials: CredentialSource) -> None:
        """Other certificates, roots or revocation lists: for main modes that begin from now on."""
        self._context.credentials = credentials

    def set_access(self, access: AccessList, now: float) -> None:
        """Another access list: whom it denies is cut off at once."""
        if access != self._context.access:
            self._context.access = access
            self._negotiator.enforce_access(now)

    # ---- messages
    def _dispatch(
        self, header: Header, datagram: bytes, local: Endpoint, remote: Endpoint, now: float
    ) -> None:
        context = self._context
        if self._negotiator.stopping is not None:
            departed = self._table.find(header, local.address, remote.address)
            if departed is not None:  # it may acknowledge what we deleted
                departed.receive(header, datagram, now, (local, remote))
            return
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
        if self._negotiator.lost.receive(header, datagram, local, remote, now):
            return
        in_clear = not header.encrypted and not header.message_id
        is_first = in_clear and not any(header.responder_cookie)
        if (
            in_clear
            and not is_first
            and header.exchange_type == ExchangeType.IDENTITY_PROTECTION
            and header.next_payload == PayloadType.SECURITY_ASSOCIATION
            and self._guard.proves(header, origin_of(local, remote), now)
        ):
            self._receive_first(header, datagram, local, remote, now, header.responder_cookie)
        elif is_first and header.exchange_type == ExchangeType.IDENTITY_PROTECTION:
            self._receive_first(header, datagram, local, remote, now)
        elif is_first and header.exchange_type != ExchangeType.INFORMATIONAL:
            reason = Reason.of(
                ReasonCode.UNSUPPORTED_EXCHANGE, f"exchange type {header.exchange_type}", peer=remote
            )
            context.refuse(reason, local, remote, now)
        else:
            self._receive_stray(header, local, remote, now)

    def _receive_first(
        self,
        header: Header,
        datagram: bytes,
        local: Endpoint,
        remote: Endpoint,
        now: float,
        own_cookie: bytes | None = None,
    ) -> None:
        """Main mode message 1: a peer begins. `own_cookie`: the one by which it proved its address."""
        context = self._context
        if self._table.is_own_cookie(header.initiator_cookie):
            detail = "our own first message came back"
            context.refuse(Reason.of(ReasonCode.UNEXPECTED_MESSAGE, detail), local, remote, now)
            return
        known = self._table.with_peer(local.address, remote.address)
        established = any(mode.established is not None for mode in known)
        config = self._config
        limit = config.half_open_per_established_peer if established else config.half_open_per_peer
        if self._table.half_open_of(remote if established else remote.address) >= limit:
            reason = Reason.of(ReasonCode.TOO_MANY_NEGOTIATIONS, peer=remote.address, limit=limit)
            context.refuse(reason, local, remote, now)
            return
        candidates: list[MainModeCandidate] | Reason
        negotiations = context.lookup.for_peer(local.address, remote.address)
        candidates = (
            negotiations
            if isinstance(negotiations, Reason)
            else main_mode_candidates(negotiations, context.credentials, context.kerberos)
        )
        refusal = candidates if isinstance(candidates, Reason) else None
        mode = self._negotiator.make(
            local,
            remote,
            [] if isinstance(candidates, Reason) else candidates,
            header.initiator_cookie,
            now,
            own_cookie,
        )
        if refusal is not None:
            context.refuse(refusal, local, remote, now)
            mode.note_vendor_ids_of(header, datagram)
            mode.complaints.send(refusal, now)
            mode.forget()
            return
        if len(self._table.half_open) >= config.half_open_total:
            oldest = next(iter(self._table.half_open))
            detail = "given up for a newer one: too many main modes are half open"
            self._negotiator.end(oldest, Reason.of(ReasonCode.TOO_MANY_NEGOTIATIONS, detail), now, tell=False)
        self._table.add(mode)
        mode.story.tell(StoryEvent.BEGUN, "the peer begins")
        self._guard.note_half_open(len(self._table.half_open))
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
        if header.encrypted and any(header.responder_cookie):
            self._negotiator.lost.prove_mode(header, local, remote, now)
        if header.exchange_type != ExchangeType.QUICK_MODE:
            return
        if isinstance(context.lookup.for_peer(local.address, remote.address), Reason):
            return
        mode = self._negotiator.make(local, remote, [], header.initiator_cookie, now)
        mode.conversation.responder_cookie = header.responder_cookie
        mode.complaints.send(reason, now)
        mode.forget()

    # ---- ends
