"""A main mode as it lives: its exchange, then the quick modes and informational messages under it.

The exchanges are generators (`main_mode.py`, `quick_mode.py`) run by `exchange.py`. Here stands what joins
them: which message goes to which exchange, what waits for what, and what an end means for the others. What
concerns more than one main mode is the host's business (`MainModeHost`: the engine)."""

from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Protocol

from stockade.ike import proofs
from stockade.ike.auth.method import AuthMethod, Task
from stockade.ike.config import EngineConfig
from stockade.ike.context import NAT_TRAVERSAL_PORT, NON_ESP_MARKER, Context
from stockade.ike.contract import RandomSource, ReportKind, Send
from stockade.ike.cookies import new_cookie
from stockade.ike.liveness import PeerTraits, Plan
from stockade.ike.retransmission import random_fraction
from stockade.ike.story import Story, StoryEvent, numbered
from stockade.ike.v1 import fragments, informational, main_mode
from stockade.ike.v1.candidates import untried_candidates
from stockade.ike.v1.complaints import Complaints
from stockade.ike.v1.exchange import NO_COOKIE, Conversation, Exchange
from stockade.ike.v1.main_mode import MainModeOutcome, MainModeSetup
from stockade.ike.v1.main_mode_proposals import MainModeCandidate, MainModeChoice
from stockade.ike.v1.nat_traversal import Nat
from stockade.ike.v1.notices import Notices
from stockade.ike.v1.protection import phase_2_protection
from stockade.ike.v1.quick_mode_pair import QuickModeOutcome
from stockade.ike.v1.quick_modes import Job, QuickModeRun, QuickModes
from stockade.model.addresses import Endpoint
from stockade.model.negotiation import Negotiation
from stockade.model.reasons import PeerError, Reason, ReasonCode
from stockade.model.sa import SecurityAssociation
from stockade.wire.isakmp.constants import ExchangeType, PayloadType
from stockade.wire.isakmp.message import HEADER_SIZE, Header, decode_payloads
from stockade.wire.isakmp.payloads import NotificationPayload, VendorIdPayload
from stockade.wire.vendor_ids import (
    DEAD_PEER_DETECTION,
    FRAGMENTATION,
    MS_NEGOTIATION_DISCOVERY,
    MS_NT5_ISAKMPOAKLEY,
    NLBS_PRESENT,
    STOCKADE_PROOFS,
    VID_INITIAL_CONTACT,
    is_vendor,
    microsoft_version,
    vendor_name,
)

_FRAGMENT = int(PayloadType.FRAGMENT)
_MAIN_MODE, _QUICK_MODE = int(ExchangeType.IDENTITY_PROTECTION), int(ExchangeType.QUICK_MODE)
MAXIMUM_VENDOR_IDS = 32
_ACTED_ON = (
    FRAGMENTATION,
    MS_NT5_ISAKMPOAKLEY,
    NLBS_PRESENT,
    STOCKADE_PROOFS,
    VID_INITIAL_CONTACT,
    DEAD_PEER_DETECTION,
    MS_NEGOTIATION_DISCOVERY,
)
_AUTHENTICATION = (
    ReasonCode.PSK_MISMATCH,
    ReasonCode.AUTHENTICATION_FAILED,
    ReasonCode.INVALID_SIGNATURE,
    ReasonCode.NO_PEER_CERTIFICATE,
    ReasonCode.CERTIFICATE_INVALID,
    ReasonCode.CERTIFICATE_KEY,
    ReasonCode.CERTIFICATE_EXPIRED,
    ReasonCode.CERTIFICATE_USAGE,
    ReasonCode.CERTIFICATE_REVOKED,
    ReasonCode.CERTIFICATE_UNTRUSTED,
    ReasonCode.ACCESS_DENIED,
    ReasonCode.KERBEROS_REFUSED,
    ReasonCode.KERBEROS_CLOCK_SKEW,
    ReasonCode.KERBEROS_NO_TICKET,
    ReasonCode.KERBEROS_EXPIRED,
    ReasonCode.KERBEROS_UNREACHABLE,
    ReasonCode.KERBEROS_UNAVAILABLE,
)


def renewal_lead(lifetime: float, initiator: bool, random: RandomSource) -> float:
    """How long before its end a main mode is made anew (seconds): its initiator first, at random so that many
    do not do it in one moment; the responder only if the initiator has not."""
    fraction = random_fraction(random)
    if initiator:
        return min(60 + 30 * fraction, lifetime * (0.15 + 0.1 * fraction))
    return min(30.0, lifetime * 0.08)


@lru_cache(maxsize=256)  # peers of one kind all say the same
def _known_vendors(told: tuple[bytes, ...]) -> tuple[tuple[bytes, ...], frozenset[bytes]]:
    """The ids, and which of those that we act on are among them, whatever their version."""
    return told, frozenset(known for known in _ACTED_ON if any(is_vendor(data, known) for data in told))


class MainModeHost(Protocol):
    """The engine, as a main mode sees it."""

    def main_mode_established(self, main_mode: "MainMode", now: float) -> None: ...

    def main_mode_failed(self, main_mode: "MainMode", reason: Reason, now: float) -> None: ...

    def main_mode_expired(self, main_mode: "MainMode", now: float) -> None: ...

    def main_mode_ages(self, main_mode: "MainMode", now: float) -> None:
        """Its lifetime is nearly over: time to make the next one, if it is needed."""

    def main_mode_exhausted(self, main_mode: "MainMode", reason: Reason, now: float) -> None: ...

    def claims_initial_contact(self, main_mode: "MainMode") -> bool: ...

    def initial_contact(self, main_mode: "MainMode", now: float) -> None: ...

    def quick_mode_established(
        self, main_mode: "MainMode", run: QuickModeRun, outcome: QuickModeOutcome, now: float
    ) -> None: ...

    def quick_mode_failed(self, main_mode: "MainMode", job: Job, reason: Reason, now: float) -> None: ...

    def peer_moved(self, main_mode: "MainMode", previous: Endpoint) -> None:
        """The peer, behind a NAT, now speaks from another port than `previous`."""

    def lost_state(self, main_mode: "MainMode", notification: NotificationPayload, now: float) -> None:
        """Somebody, in clear, shows what may prove that the peer has lost this main mode."""

    def farewell(self, main_mode: "MainMode", now: float) -> None:
        """The peer, under protection, announces that it restarts or gives its address to another node."""

    def peer_dead(self, main_mode: "MainMode", reason: Reason, now: float) -> None: ...

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
        own_cookie: bytes | None = None,
        config: EngineConfig | None = None,
    ) -> None:
        """`config`: until it is established, in place of the engine's.

        `own_cookie`: the one that we are known by already; a new one otherwise."""
        self.context = context
        self.config = context.config if config is None else config
        self.random = context.random
        self.local = local
        self.remote = remote
        self.first_remote = remote
        """Where the first message came from or goes to; behind a NAT the port may change later."""
        self.candidates = candidates
        self.initiator = initiator_cookie is None
        self.own_cookie = (
            new_cookie(context.random, context.cookie_mark) if own_cookie is None else own_cookie
        )
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
        self.peer_vendor_ids: tuple[bytes, ...] = ()
        self.token: bytes | None = None
        """By what the peer can prove that it lost this main mode."""
        self._peer_is: frozenset[bytes] = frozenset()
        self.closed = False
        self._host = host
        self.quick_modes = QuickModes(self, host)
        self.nat: Nat | None = None
        self.story = Story(context, "main mode", local, remote, initiator=self.initiator)
        self.notices = Notices(self, host)
        self.complaints = Complaints(self)
        self._reassembly = fragments.Reassembly()
        self._fragments_active = False
        self._arrived = (local, remote)
        self._last_block = b""
        setup = MainModeSetup(
            local.address,
            remote.address,
            candidates,
            vendor_ids,
            context.random,
            context.private_value,
            lambda: host.claims_initial_contact(self),
            lambda peer: context.access.why_denied(peer.proof),
            context.config.authentication_attempts,
            self._note_choice,
            self._note_vendor_ids,
            context.config.nat_traversal and local.address.version == 4,
            context.config.nat_scope,
            lambda: self._arrived,
            self._note_nat,
            self.complaints.note_keys,
            self.story,
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
            refused=self._main_mode_refused,
        )

    def give_away(self, task: Task) -> None:
        self.context.give_away(task, self._worked, self._overburdened)

    def _worked(self, outcome: AuthMethod | Reason, now: float) -> None:
        if not self.closed:
            self.exchange.worked(outcome, now)
            self.arm()

    def _overburdened(self, reason: Reason) -> None:
        # Not from within the exchange, which is just about to wait.
        self.context.timers.set(("task", self), 0.0, lambda now: self._worked(reason, now))

    # ---- what it is
    @property
    def cookies(self) -> str:
        conversation = self.conversation
        return f"{conversation.initiator_cookie.hex()}:{conversation.responder_cookie.hex()}"

    @property
    def fast_failover(self) -> bool:
        """The peer is a cluster member ([MS-IKEE] §3.5)."""
        return self.peer_has(NLBS_PRESENT)

    @property
    def plan(self) -> Plan:
        """What is done when the peer is silent."""
        return self.context.plan(self.traits)

    @property
    def traits(self) -> PeerTraits:
        proves = self.context.restart_secret is not None and self.peer_has(STOCKADE_PROOFS)
        return PeerTraits(self.peer_has(DEAD_PEER_DETECTION), self.fast_failover, proves)

    @property
    def peer_says_initial_contact(self) -> bool:
        """By vendor id or notification; both count only when the main mode is established."""
        told = self.outcome is not None and self.outcome.initial_contact
        return told or self.peer_has(VID_INITIAL_CONTACT)

    @property
    def is_microsoft(self) -> bool:
        return self.peer_has(MS_NT5_ISAKMPOAKLEY)

    @property
    def microsoft_version(self) -> int | None:
        """The version in the peer's implementation id (2: Windows 2000); None for other makers."""
        versions = (microsoft_version(data) for data in self.peer_vendor_ids)
        return next((version for version in versions if version is not None), None)

    @property
    def peer_vendor(self) -> str:
        names = [vendor_name(data) for data in self.peer_vendor_ids]
        known = [name for name in names if name is not None]
        return next((name for name in known if name.startswith("MS NT5")), known[0] if known else "")

    def tokens_for(self, spi: int) -> tuple[NotificationPayload, ...]:
        """What to give a peer that understands it, under protection, with an SPI of ours."""
        secret = self.context.restart_secret
        if secret is None or not self.peer_has(STOCKADE_PROOFS):
            return ()
        conversation = self.conversation
        cookies = conversation.initiator_cookie + conversation.responder_cookie
        about = (proofs.about_pair(spi), proofs.about_mode(cookies))
        ends = (self.local.address, self.remote.address)
        return tuple(proofs.give(what, secret.token(what, *ends)) for what in about)

    def peer_has(self, known: bytes) -> bool:
        return known in self._peer_is

    def suits(self, negotiation: Negotiation) -> bool:
        """Whether quick modes of `negotiation` may run under this main mode: its policy allows the proposal
        and has the credential that was (or will be) used."""
        if self.closed:
            return False
        if self.outcome is None:
            first = self.candidates[0].negotiation
            return (first.main_mode, first.authentication) == (
                negotiation.main_mode,
                negotiation.authentication,
            )
        return self.outcome.proposal in negotiation.main_mode.proposals and any(
            self.outcome.method.same_as(method) for method in negotiation.authentication
        )

    def untried(self, reason: Reason) -> list[MainModeCandidate]:
        """Initiator, failed with `reason`: the candidates whose credential was not tried, where the reason
        lies in the credential that was."""
        if not self.initiator or self.choice is None:
            return []
        return untried_candidates(self.candidates, self.choice.candidate.method, reason)

    def why_denied(self, rule: str = "") -> Reason | None:
        """Whether the access list denies the (established) peer all traffic, or that of a rule."""
        return None if self.outcome is None else self.context.access.why_denied(self.outcome.proof, rule)

    def usable(self, negotiation: Negotiation, now: float) -> bool:
        """Whether a new quick mode of `negotiation` may be begun under it. One that has made all the quick
        modes that policy grants it stays, for deletes, but begins none ([MS-IKEE] §3.8.7.2)."""
        if self.closed or self.established is None or self.expires is None or not self.suits(negotiation):
            return False
        limit = negotiation.main_mode.quick_modes_per_main_mode
        return now < self.expires and (not limit or self.quick_modes.made < limit)

    # ---- ExchangeOwner
    def transmit(self, datagram: bytes, *, repeated: int = 0) -> None:
        marker = NON_ESP_MARKER if self.local.port == NAT_TRAVERSAL_PORT else b""
        room = fragments.room_for(self.local.address.version, len(marker))
        parts = [datagram]
        if len(datagram) > room and self._may_fragment(repeated):
            self.context.fragment_id = self.context.fragment_id % 0xFFFF + 1
            parts = fragments.split(datagram, self.context.fragment_id, room)
        for part in parts:
            self.context.count("datagrams_sent")
            self.context.effects.append(Send(marker + part, self.local, self.remote))

    def _may_fragment(self, repeated: int) -> bool:
        """At once towards a peer that sent fragments itself; else when the message was lost twice, after the
        sum of the first two waits ([MS-IKEE] §3.3)."""
        if not self.config.fragmentation or not self.peer_has(FRAGMENTATION):
            return False
        encrypted = self.exchange.conversation.protection is not None
        return encrypted and (self._fragments_active or repeated >= 2)

    def install(self, sa: SecurityAssociation) -> None:
        raise AssertionError("main mode installs no SA")

    # ---- whether the peer is there
    def accepted(self, *, protected: bool) -> None:
        """Behind a NAT a peer's port may change at any time; only what is authentic moves us there. The
        address stays: it is what policy chose the credentials by."""
        if protected:
            self.notices.heard()
        if self.nat is None or not protected or (self.local, self.remote) == self._arrived:
            return
        previous = self.remote
        self.local, self.remote = self._arrived
        if self.established is not None:
            self._host.peer_moved(self, previous)

    def ports(self) -> tuple[int, int]:
        """Local and remote port of the message that came last: where SAs that it makes shall speak."""
        local, remote = self._arrived
        return local.port, remote.port

    # ---- doors
    def start(self, now: float) -> None:
        if self.story.on and self.initiator:
            self.story.tell(StoryEvent.OFFERED, "we offer", *numbered(self.candidates))
        self.exchange.start(now)
        self.arm()

    def receive(
        self,
        header: Header,
        datagram: bytes,
        now: float,
        arrived: tuple[Endpoint, Endpoint] | None = None,
    ) -> None:
        """A message that bears the cookies of this main mode. `arrived`: where to and from it came, if not
        at the main mode's own end points."""
        self._arrived = (self.local, self.remote) if arrived is None else arrived
        if header.next_payload == _FRAGMENT:
            whole = self._receive_fragment(header, datagram, now)
            if whole is None:
                return
            header, datagram = whole
        if self.closed:
            self.notices.receive_last_words(header, datagram, now)
        elif self._is_challenge(header):
            self.notices.receive(header, datagram, now)
        elif header.exchange_type == _MAIN_MODE and header.message_id == 0:
            self.complaints.note_message(header, datagram)
            self.exchange.receive(header, datagram, now)
            self.arm()
        elif header.exchange_type == _QUICK_MODE and header.message_id:
            self.quick_modes.receive(header, datagram, now)
        elif header.exchange_type == ExchangeType.INFORMATIONAL:
            self.notices.receive(header, datagram, now)
        else:
            detail = f"exchange type {header.exchange_type} with message id {header.message_id:#x}"
            self.refused(Reason.of(ReasonCode.UNEXPECTED_MESSAGE, detail), now)

    def _is_challenge(self, header: Header) -> bool:
        """Whether a responder may be asking for our address's proof. [MS-IKEE] §3.9 names no exchange, so one
        in the exchange that it is about is read too."""
        return (
            self.initiator
            and header.exchange_type == ExchangeType.IDENTITY_PROTECTION
            and header.next_payload == PayloadType.NOTIFICATION
            and not header.encrypted
            and not any(self.conversation.responder_cookie)
        )

    def _receive_fragment(self, header: Header, datagram: bytes, now: float) -> tuple[Header, bytes] | None:
        """The whole message, if this was the fragment that it lacked. Only encrypted messages come in
        fragments, so none is kept before there are keys."""
        if not self.config.fragmentation or self.closed or self.conversation.protection is None:
            detail = "a fragment before there are keys, or where none is expected"
            self.refused(Reason.of(ReasonCode.UNEXPECTED_MESSAGE, detail), now)
            return None
        try:
            whole = self._reassembly.add(header, datagram, now)
        except PeerError as error:
            self.refused(error.reason, now)
            return None
        self._fragments_active = True
        return whole

    def close(self, now: float, *, tell: bool) -> list[Job]:
        """End it, with all that runs under it; established pairs are not touched. The jobs that it leaves
        undone are returned. `tell`: send the peer a delete."""
        if self.closed:
            return []
        if tell and self.established is not None:
            conversation = self.conversation
            cookies = conversation.initiator_cookie + conversation.responder_cookie
            self.notices.deletes.send(informational.delete_main_mode(cookies), now)
        self.closed = True
        timers = self.context.timers
        timers.cancel(self)
        timers.cancel(self.exchange)
        timers.cancel(("renew", self))
        self.notices.close(tell=tell)
        return self.quick_modes.close()

    def forget(self) -> None:
        """It has ended, and nothing more is said or heard under it: its keys go now. It and what it consists
        of know each other, so all that is in them would wait for the garbage collector."""
        self.exchange.dismiss()
        self.complaints.note_keys(())
        self.outcome = self.choice = self.token = None
        self.candidates = ()

    # ---- main mode
    def arm(self) -> None:
        if not self.closed:
            self.context.timers.set(self.exchange, self.exchange.due, self._main_mode_timeout)

    def _main_mode_timeout(self, now: float) -> None:
        self.exchange.timeout(now)
        self.context.count("retransmissions", int(not self.exchange.done))
        self.arm()

    def _note_choice(self, choice: MainModeChoice) -> None:
        self.choice = choice

    def _note_nat(self, nat: Nat) -> None:
        self.nat = nat
        if self.story.on:
            ends = {"we": nat.local_behind, "the peer": nat.peer_behind}
            behind = " and ".join(name for name, is_behind in ends.items() if is_behind) or "nobody"
            self.story.tell(StoryEvent.NAT, f"behind a NAT: {behind}; port 4500 and ESP in UDP from here on")
        if self.initiator:
            self.local = Endpoint(self.local.address, NAT_TRAVERSAL_PORT)
            self.remote = Endpoint(self.remote.address, NAT_TRAVERSAL_PORT)
            self._arrived = (self.local, self.remote)

    def _note_vendor_ids(self, vendor_ids: Sequence[bytes]) -> None:
        if self.story.on:
            names = [
                vendor_name(data) or f"unknown ({data[:20].hex()})"
                for data in vendor_ids[:MAXIMUM_VENDOR_IDS]
            ]
            self.story.tell(StoryEvent.PEER, "the peer says what it is", *numbered(names, "vendor id"))
        told = dict.fromkeys((*self.peer_vendor_ids, *(data[:64] for data in vendor_ids)))
        self.peer_vendor_ids, self._peer_is = _known_vendors(tuple(told)[:MAXIMUM_VENDOR_IDS])

    def note_vendor_ids_of(self, header: Header, datagram: bytes) -> None:
        """What the sender of a first message is, where there will be no exchange that reads it."""
        with suppress(PeerError):
            payloads = decode_payloads(header.next_payload, datagram[HEADER_SIZE:])
            found = [entry.payload for entry in payloads]
            self._note_vendor_ids([entry.data for entry in found if isinstance(entry, VendorIdPayload)])

    def _established(self, outcome: MainModeOutcome, now: float) -> None:
        self.outcome = outcome
        self.complaints.note_keys(())  # those of the keys that the peer did not mean, too
        self.established = now
        self.config = self.context.config
        self.expires = now + outcome.lifetime_seconds
        self._last_block = outcome.protection.last_block
        self.context.timers.set(self, self.expires, lambda moment: self._host.main_mode_expired(self, moment))
        if self.config.renew_main_modes:
            due = self.expires - renewal_lead(outcome.lifetime_seconds, self.initiator, self.random)
            self.context.timers.set(
                ("renew", self), due, lambda moment: self._host.main_mode_ages(self, moment)
            )
        self.context.count("main_modes")
        reason = Reason.of(
            ReasonCode.SA_ESTABLISHED,
            "main mode is up",
            proposal=outcome.proposal,
            authentication=outcome.method.name,
            identity=outcome.peer_identity,
        )
        self.context.report(
            ReportKind.MAIN_MODE_ESTABLISHED,
            reason,
            self.local,
            self.remote,
            self.cookies,
            initiator=self.initiator,
            began=self.story.started,
        )
        if self.story.on:
            self.story.tell(
                StoryEvent.ESTABLISHED,
                f"main mode is up: {outcome.proposal}",
                ("cookies", self.cookies),
                ("lifetime", f"{outcome.lifetime_seconds} s"),
                ("local", self.local),
                ("remote", self.remote),
            )
        self._host.main_mode_established(self, now)
        self.quick_modes.start_waiting(now)

    def _failed(self, reason: Reason, now: float) -> None:
        self.context.count("negotiation_failures")
        self.story.refuse(StoryEvent.FAILED, reason)
        if reason.code in _AUTHENTICATION:
            self.context.count("authentication_failures")
        if self.initiator:
            if self.exchange.read_with is not None:  # message 6: the responder believes that all is well
                self.complaints.disown(reason, now)
        elif self.exchange.suspicion is None:
            self.complaints.send(reason, now)
        self._host.main_mode_failed(self, reason, now)

    def _main_mode_refused(self, reason: Reason, now: float) -> None:
        """A message of the main-mode exchange was not acceptable, perhaps long after that was over."""
        self.refused(reason, now, "main mode")

    def refused(self, reason: Reason, now: float, phase: str = "") -> None:
        """A message of the exchange `phase`, or of none, was not acceptable."""
        self.story.refuse(StoryEvent.REFUSED, reason)
        phase = phase or ("main mode" if self.established is None else "quick mode")
        self.context.refuse(reason, self.local, self.remote, now, self.cookies, phase)
        if self.established is None:
            self.complaints.send(reason, now)

    def phase_2(self, exchange_type: ExchangeType, message_id: int) -> Conversation:
        assert self.outcome is not None
        proposal = self.outcome.proposal
        protection = phase_2_protection(
            proposal.encryption,
            proposal.hash,
            self.outcome.keys.encryption_key,
            self._last_block,
            message_id,
            # only quick modes say when they are done with it
            self.outcome.protection.cipher if exchange_type is ExchangeType.QUICK_MODE else None,
        )
        conversation = self.conversation
        return Conversation(
            conversation.initiator_cookie,
            conversation.responder_cookie,
            exchange_type,
            message_id,
            protection,
        )
