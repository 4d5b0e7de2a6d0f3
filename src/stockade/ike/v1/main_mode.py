"""Main mode (RFC 2409 §5, identity protection): authenticate the hosts, make the keys of all that follows.

         initiator                                   responder
      1  HDR, SA, VID…                      ->
      2                                     <-       HDR, SA, VID…
      3  HDR, KE, Ni                        ->
      4                                     <-       HDR, KE, Nr
      5  HDR*, IDii, HASH_I [, N]           ->
      6                                     <-       HDR*, IDir, HASH_R [, N]

With certificates (RFC 2409 §5.1) messages 3 and 4 may carry CERTREQ, and messages 5 and 6 are

      5  HDR*, IDii, CERT…, SIG_I [, N]     ->
      6                                     <-       HDR*, IDir, CERT…, SIG_R [, N]

`*` = encrypted. N is INITIAL-CONTACT: I have no other SA with you (RFC 2407 §4.6.3.3). The vendor id
Vid-Initial-Contact of [MS-IKEE] §3.5 says the same in message 1 or 2, unauthenticated: it counts only once
the main mode that carried it is authenticated.

NAT traversal adds NAT-D to messages 3 and 4 and moves 5 and all after it to port 4500 (`nat_traversal.py`).

Kerberos adds a token to messages 3 and 4 (`ike/auth/kerberos.py`), and a pause before 3 (the initiator gets
a ticket) and before 4 (the responder looks into its keytab).

Left out: aggressive mode."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache

from stockade.crypto.ikev1_keys import (
    MainModeKeys,
    derive_main_mode_keys,
    main_mode_hash,
    phase1_iv,
)
from stockade.crypto.key_exchange import PrivateValue
from stockade.ike.auth.kerberos import GSS_KERBEROS
from stockade.ike.auth.method import Authenticated, AuthMethod, Presented
from stockade.ike.auth.preshared_key import PresharedKeyMethod
from stockade.ike.config import NatScope
from stockade.ike.contract import RandomSource
from stockade.ike.story import Story, StoryEvent, numbered, tell_own_choice, tell_peers_choice
from stockade.ike.v1.exchange import Conversation
from stockade.ike.v1.main_mode_proposals import (
    MainModeCandidate,
    MainModeChoice,
    check_main_mode_choice,
    choose_main_mode,
    judge_main_modes,
    main_mode_offer,
)
from stockade.ike.v1.nat_traversal import (
    Nat,
    Variant,
    common_variant,
    detection_payloads,
    find_nat,
    why_not_allowed,
)
from stockade.ike.v1.protection import MessageProtection
from stockade.ike.v1.steps import Expectation, Finish, Incoming, Step, Steps, answered, performed
from stockade.model.addresses import Address, Endpoint
from stockade.model.identities import Identity
from stockade.model.quickly_made import quickly_made
from stockade.model.reasons import PeerError, Reason, ReasonCode, error_for, error_of
from stockade.model.suites import Group, Hash, MainModeProposal
from stockade.pki.access import Proof
from stockade.wire.isakmp.constants import (
    DomainOfInterpretation,
    NotifyType,
    PayloadType,
    ProtocolId,
)
from stockade.wire.isakmp.message import encode_payloads
from stockade.wire.isakmp.payloads import (
    CertificatePayload,
    CertificateRequestPayload,
    IdentificationPayload,
    KeyExchangePayload,
    NatDetectionPayload,
    NoncePayload,
    NotificationPayload,
    Payload,
    SecurityAssociationPayload,
    VendorIdPayload,
)
from stockade.wire.vendor_ids import GSSAPI, is_vendor

NONCE_SIZE = 32
MAXIMUM_ALTERNATIVES = 15
"""How many more pre-shared keys message 5 is tried with: it is the work that a stranger can cause."""

_NAT = frozenset({PayloadType.NAT_DETECTION, PayloadType.NAT_DETECTION_DRAFT})
_CERTIFICATES = frozenset({PayloadType.CERTIFICATE, PayloadType.CERTIFICATE_REQUEST})
_REQUEST = frozenset({PayloadType.CERTIFICATE_REQUEST})

MESSAGE_1 = Expectation("main mode message 1", (PayloadType.SECURITY_ASSOCIATION,))
MESSAGE_2 = Expectation("main mode message 2", (PayloadType.SECURITY_ASSOCIATION,))


def exchange_expectation(number: int, method: AuthMethod) -> Expectation:
    """Message 3 or 4: what the keys are made of."""
    return _exchange_expectation(number, method.exchanged)


@cache
def _exchange_expectation(number: int, exchanged: tuple[PayloadType, ...]) -> Expectation:
    needs = (PayloadType.KEY_EXCHANGE, PayloadType.NONCE, *exchanged)
    return Expectation(f"main mode message {number}", needs, _NAT | _REQUEST)


def proof_expectation(number: int, method: AuthMethod) -> Expectation:
    """Message 5 or 6: the identity and its proof."""
    return _proof_expectation(number, method.proof_type, method.mismatch, method.garbled)


@cache
def _proof_expectation(
    number: int, proof_type: PayloadType, mismatch: ReasonCode, garbled: ReasonCode
) -> Expectation:
    return Expectation(
        f"main mode message {number}",
        (PayloadType.IDENTIFICATION, proof_type),
        _CERTIFICATES,
        protected=True,
        # The responder gets message 5 and stays silent, or cannot read it: what differs is the key.
        silence=mismatch if number == 6 else ReasonCode.NEGOTIATION_TIMED_OUT,
        garbled=garbled,
    )


@lru_cache(maxsize=64)
def _announcement(vendor_ids: tuple[bytes, ...]) -> tuple[tuple[VendorIdPayload, ...], bytes]:
    """Vendor ids as payloads, and these encoded: the end of message 1 or 2, the same for most peers."""
    payloads = tuple(VendorIdPayload(data) for data in vendor_ids)
    return payloads, encode_payloads(payloads)[1]


@quickly_made
@dataclass(frozen=True, slots=True)
class MainModeSetup:
    """What both roles need. `claim_initial_contact` is asked when message 5 or 6 is made. `endpoints`: local
    and remote of the message that came last; `note_nat` is told when a NAT is found, `note_keys` what
    messages 3 and 4 have made."""

    local: Address
    remote: Address
    candidates: Sequence[MainModeCandidate]
    vendor_ids: Sequence[bytes]
    random: RandomSource
    private_value: Callable[[Group], PrivateValue]
    claim_initial_contact: Callable[[], bool]
    why_denied: Callable[[Authenticated], Reason | None]
    authentication_attempts: int
    note_choice: Callable[[MainModeChoice], None]
    note_vendor_ids: Callable[[Sequence[bytes]], None]
    nat_traversal: bool
    nat_scope: NatScope
    endpoints: Callable[[], tuple[Endpoint, Endpoint]]
    note_nat: Callable[[Nat], None]
    note_keys: Callable[[Sequence[tuple[MessageProtection, MainModeKeys]]], None]
    story: Story


@quickly_made
@dataclass(frozen=True, slots=True)
class MainModeOutcome:
    """An established main mode. `last_block` is the IV seed of phase 2; `initial_contact`: the peer said so
    by an authenticated notification."""

    proposal: MainModeProposal
    method: AuthMethod
    keys: MainModeKeys
    lifetime_seconds: int
    peer_identity: Identity
    proof: Proof
    initial_contact: bool
    protection: MessageProtection


# ---- the ladder, from both sides
def initiate(setup: MainModeSetup, conversation: Conversation) -> Steps[MainModeOutcome]:
    """Messages 1, 3 and 5."""
    offer = main_mode_offer(setup.candidates)
    vendor_ids, tail = _announcement(tuple(setup.vendor_ids))

    def take_choice(message: Incoming) -> tuple[MainModeChoice, bytes]:
        cookie = message.header.responder_cookie
        if not any(cookie):
            raise error_for(ReasonCode.UNEXPECTED_MESSAGE, "main mode message 2 has no responder cookie")
        return _chosen(
            check_main_mode_choice(message.one(SecurityAssociationPayload), setup.candidates)
        ), cookie

    def take_answer(message: Incoming) -> tuple[MainModeChoice, bytes, Variant | None]:
        variant = _note_vendor_ids(setup, message)
        return *take_choice(message), variant

    choice, cookie, variant = yield from answered(
        Step(MESSAGE_2, (offer, *vendor_ids), tail=tail), take_answer
    )
    conversation.responder_cookie = cookie
    setup.note_choice(choice)
    if setup.story.on:
        tell_peers_choice(setup.story, str(choice.candidate), [str(each) for each in setup.candidates])

    private = setup.private_value(choice.candidate.proposal.group)
    nonce = setup.random(NONCE_SIZE)

    cookies = conversation.initiator_cookie + conversation.responder_cookie
    hash_name = choice.candidate.proposal.hash
    detection = detection_payloads(variant, hash_name, cookies, *setup.endpoints())

    method = yield from performed(choice.candidate.method.prepare(choice.offered), choice.candidate.method)

    def agree(message: Incoming) -> "_Agreement":
        peer_nonce = message.one(NoncePayload).data
        return _agree(
            choice,
            method.complete([entry.payload for entry in message.payloads]),
            conversation,
            private,
            message,
            nonce_i=nonce,
            nonce_r=peer_nonce,
            initiator=True,
            nat=_find_nat(setup, variant, hash_name, cookies, message, initiator=True),
        )

    agreement = yield from answered(
        Step(
            exchange_expectation(4, method),
            (KeyExchangePayload(private.public), NoncePayload(nonce), *method.requests(), *detection),
        ),
        agree,
    )
    conversation.protection = agreement.protection
    setup.note_keys([(agreement.protection, agreement.keys)])
    if agreement.nat is not None:
        setup.note_nat(agreement.nat)  # from here on we speak from port 4500
    sa_body = offer.encode_body()
    peer, message = yield from answered(
        Step(
            proof_expectation(6, method),
            (*_prove(agreement, setup, sa_body), *_initial_contact(setup, conversation)),
            protected=True,
            attempts=setup.authentication_attempts,
        ),
        lambda message: _authenticate(message, agreement, sa_body, setup),
    )
    yield from performed(peer.pending, peer.method)
    return Finish(agreement.outcome(peer, _says_initial_contact(message)))


def respond(setup: MainModeSetup, conversation: Conversation) -> Steps[MainModeOutcome]:
    """Messages 2, 4 and 6."""
    message = yield Step(MESSAGE_1)
    variant = _note_vendor_ids(setup, message)
    candidates = _mutual(setup.candidates, message)
    offer = message.one(SecurityAssociationPayload)
    if setup.story.on:
        judged = judge_main_modes(offer, candidates)
        setup.story.tell(StoryEvent.OFFERED, "the peer offers", *numbered([what for what, _ in judged]))
    choice = _chosen(choose_main_mode(offer, candidates))
    method = choice.candidate.method
    setup.note_choice(choice)
    if setup.story.on:
        tell_own_choice(setup.story, str(choice.candidate), judge_main_modes(offer, candidates))
    sa_body = message.body(SecurityAssociationPayload)
    vendor_ids, tail = _announcement(tuple(setup.vendor_ids))
    nonce = setup.random(NONCE_SIZE)
    cookies = conversation.initiator_cookie + conversation.responder_cookie
    hash_name = choice.candidate.proposal.hash

    def agree(message: Incoming) -> tuple["_Agreement", PrivateValue, Incoming]:
        private = setup.private_value(choice.candidate.proposal.group)
        peer_nonce = message.one(NoncePayload).data
        return (
            _agree(
                choice,
                method,
                conversation,
                private,
                message,
                nonce_i=peer_nonce,
                nonce_r=nonce,
                initiator=False,
                nat=_find_nat(setup, variant, hash_name, cookies, message, initiator=False),
            ),
            private,
            message,
        )

    agreement, private, message = yield from answered(
        Step(exchange_expectation(3, method), (choice.reply, *vendor_ids), tail=tail), agree
    )
    received = [entry.payload for entry in message.payloads]
    method = yield from performed(method.answer(choice.offered, received), method)
    if method is not agreement.method:
        agreement = replace(agreement, method=method)
    conversation.protection = agreement.protection
    detection = detection_payloads(variant, hash_name, cookies, *setup.endpoints())
    if agreement.nat is not None:
        setup.note_nat(agreement.nat)
    # Which pre-shared key the peer means shows only now: message 5 is read with each of them.
    alternatives = (agreement, *agreement.alternatives)
    conversation.alternatives = tuple(entry.protection for entry in agreement.alternatives)
    setup.note_keys([(entry.protection, entry.keys) for entry in alternatives])
    peer, message, agreement = yield from answered(
        Step(
            proof_expectation(5, method),
            (KeyExchangePayload(private.public), NoncePayload(nonce), *method.requests(), *detection),
        ),
        lambda message: _authenticate_any(message, alternatives, sa_body, setup),
    )
    conversation.protection, conversation.alternatives = agreement.protection, ()
    for entry in alternatives:
        if entry.protection is not agreement.protection:
            entry.protection.cipher.rest()
    if agreement.choice.candidate is not choice.candidate:
        setup.note_choice(agreement.choice)
    yield from performed(peer.pending, peer.method)
    return Finish(
        agreement.outcome(peer, _says_initial_contact(message)),
        (
            *_prove(agreement, setup, sa_body, tuple(message.all(CertificateRequestPayload))),
            *_initial_contact(setup, conversation),
        ),
        protected=True,
    )


# ---- the rungs that both share
@quickly_made
@dataclass(frozen=True, slots=True)
class _Agreement:
    """After messages 3 and 4: keys, and the inputs of HASH_I and HASH_R."""

    choice: MainModeChoice
    method: AuthMethod
    keys: MainModeKeys
    protection: MessageProtection
    own_public: bytes
    peer_public: bytes
    own_cookie: bytes
    peer_cookie: bytes
    asked: tuple[CertificateRequestPayload, ...]
    nat: Nat | None
    alternatives: "tuple[_Agreement, ...]" = ()
    """The same with our other credentials for what was negotiated (the responder's)."""

    @property
    def proof_hash(self) -> Hash:
        return self.method.proof_hash(self.choice.candidate.proposal.hash)

    def own_hash(self, sa_body: bytes, identity_body: bytes) -> bytes:
        return main_mode_hash(
            self.proof_hash,
            self.keys.skeyid,
            self.own_public,
            self.peer_public,
            self.own_cookie,
            self.peer_cookie,
            sa_body,
            identity_body + self.method.covered(own=True),
        )

    def peer_hash(self, sa_body: bytes, identity_body: bytes) -> bytes:
        return main_mode_hash(
            self.proof_hash,
            self.keys.skeyid,
            self.peer_public,
            self.own_public,
            self.peer_cookie,
            self.own_cookie,
            sa_body,
            identity_body + self.method.covered(own=False),
        )

    def outcome(self, peer: Authenticated, initial_contact: bool) -> MainModeOutcome:
        return MainModeOutcome(
            self.choice.candidate.proposal,
            peer.method,
            self.keys,
            self.choice.lifetime_seconds,
            peer.identity,
            peer.proof,
            initial_contact,
            self.protection,
        )


def _mutual(candidates: Sequence[MainModeCandidate], message: Incoming) -> Sequence[MainModeCandidate]:
    """Kerberos only with a peer that says it can: others mean something else by the same number (XAUTH with
    a pre-shared key)."""
    if all(entry.method.number != GSS_KERBEROS for entry in candidates):
        return candidates
    if any(is_vendor(payload.data, GSSAPI) for payload in message.all(VendorIdPayload)):
        return candidates
    return [entry for entry in candidates if entry.method.number != GSS_KERBEROS]


def _chosen(choice: MainModeChoice | Reason) -> MainModeChoice:
    if isinstance(choice, Reason):
        raise PeerError(choice)
    return choice


def _agree(
    choice: MainModeChoice,
    method: AuthMethod,
    conversation: Conversation,
    private: PrivateValue,
    message: Incoming,
    *,
    nonce_i: bytes,
    nonce_r: bytes,
    initiator: bool,
    nat: Nat | None,
) -> _Agreement:
    """`message`: the peer's, 3 or 4."""
    peer_public = message.one(KeyExchangePayload).data
    proposal = choice.candidate.proposal
    shared = private.shared(peer_public)
    if nonce_i == nonce_r or private.public == peer_public:
        raise error_for(ReasonCode.INVALID_KEY_EXCHANGE, "the peer sent our own value back")
    cookie_i, cookie_r = conversation.initiator_cookie, conversation.responder_cookie
    own, peer = private.public, peer_public
    iv = phase1_iv(proposal.hash, proposal.encryption, *((own, peer) if initiator else (peer, own)))

    def keys_of(method: AuthMethod) -> MainModeKeys:
        skeyid = method.skeyid(proposal.hash, nonce_i, nonce_r, shared)
        return derive_main_mode_keys(proposal.hash, proposal.encryption, skeyid, shared, cookie_i, cookie_r)

    def protection_of(keys: MainModeKeys) -> MessageProtection:
        return MessageProtection(proposal.encryption, keys.encryption_key, iv)

    keys = keys_of(method)
    agreement = _Agreement(
        choice,
        method,
        keys,
        protection_of(keys),
        own,
        peer,
        cookie_i if initiator else cookie_r,
        cookie_r if initiator else cookie_i,
        tuple(message.all(CertificateRequestPayload)),
        nat,
    )
    others: list[_Agreement] = []
    for candidate in () if initiator else _other_candidates(choice):
        # Signatures share the keys of what was negotiated, each pre-shared key makes its own.
        other, meant = candidate.method, choice.by(candidate)
        if isinstance(other, PresharedKeyMethod):
            keys = keys_of(other)
            protection = protection_of(keys)
            others.append(replace(agreement, choice=meant, method=other, keys=keys, protection=protection))
        else:
            others.append(replace(agreement, choice=meant, method=other))
    return replace(agreement, alternatives=tuple(others)) if others else agreement


def _other_candidates(choice: MainModeChoice) -> Sequence[MainModeCandidate]:
    """Those with another credential, each credential once."""
    if not choice.alternatives:
        return ()
    methods = [choice.candidate.method]
    found: list[MainModeCandidate] = []
    for candidate in choice.alternatives:
        if candidate.method not in methods and len(found) < MAXIMUM_ALTERNATIVES:
            methods.append(candidate.method)
            found.append(candidate)
    return found


def _note_vendor_ids(setup: MainModeSetup, message: Incoming) -> Variant | None:
    """Remember the peer's vendor ids; the variant of NAT traversal that both ends know."""
    vendor_ids = [payload.data for payload in message.all(VendorIdPayload)]
    setup.note_vendor_ids(vendor_ids)
    return common_variant(setup.vendor_ids, vendor_ids) if setup.nat_traversal else None


def _find_nat(
    setup: MainModeSetup,
    variant: Variant | None,
    hash_name: Hash,
    cookies: bytes,
    message: Incoming,
    *,
    initiator: bool,
) -> Nat | None:
    nat = find_nat(variant, hash_name, cookies, message.all(NatDetectionPayload), *setup.endpoints())
    forbidden = None if nat is None else why_not_allowed(nat, setup.nat_scope, initiator=initiator)
    if forbidden is not None:
        raise PeerError(forbidden)
    return nat


def _prove(
    agreement: _Agreement,
    setup: MainModeSetup,
    sa_body: bytes,
    asked: tuple[CertificateRequestPayload, ...] = (),
) -> tuple[Payload, ...]:
    """Our identity and its proof. `asked`: requests beyond those of message 3 or 4 (strongSwan's initiator
    sends them in message 5)."""
    prover = agreement.method.prover(setup.local, (*agreement.asked, *asked))
    if setup.story.on:
        who = Identity(prover.identity.id_type, prover.identity.data)
        setup.story.tell(StoryEvent.PROVED, f"we prove by {agreement.method.name} that we are {who}")
    digest = agreement.own_hash(sa_body, prover.identity.encode_body())
    return (prover.identity, *prover.prove(digest))


def _authenticate(
    message: Incoming, agreement: _Agreement, sa_body: bytes, setup: MainModeSetup
) -> tuple[Authenticated, Incoming]:
    """Who the peer proves to be, and the message that proves it."""
    method = agreement.method
    digest = agreement.peer_hash(sa_body, message.body(IdentificationPayload))
    proof = next(entry.payload for entry in message.payloads if entry.type == method.proof_type)
    presented = Presented(message.one(IdentificationPayload), proof, tuple(message.all(CertificatePayload)))
    # Behind a NAT the peer cannot know the address that it speaks from.
    behind = agreement.nat is not None and agreement.nat.peer_behind
    peer = method.authenticate(presented, digest, None if behind else setup.remote)
    if setup.story.on:
        text = f"the peer proves by {peer.method.name} that it is {peer.identity}"
        certificates = ("certificates", len(presented.certificates))
        setup.story.tell(StoryEvent.PROVED, text, *((certificates,) if presented.certificates else ()))
    denied = setup.why_denied(peer)
    if denied is not None:
        raise error_of(denied)  # not the peer's error: no other message would help
    return peer, message


def _authenticate_any(
    message: Incoming, agreements: Sequence[_Agreement], sa_body: bytes, setup: MainModeSetup
) -> tuple[Authenticated, Incoming, _Agreement]:
    """With the first of our credentials that fits; if none does, the error is that of the first."""
    refusal: Reason | None = None  # not the error: it would know this frame, and this frame it
    for agreement in agreements:
        if agreement.protection is not message.protection:
            continue
        try:
            return *_authenticate(message, agreement, sa_body, setup), agreement
        except PeerError as error:
            refusal = refusal or error.reason
    assert refusal is not None
    raise PeerError(refusal)


def _says_initial_contact(message: Incoming) -> bool:
    return any(entry.type == NotifyType.INITIAL_CONTACT for entry in message.all(NotificationPayload))


def _initial_contact(setup: MainModeSetup, conversation: Conversation) -> tuple[Payload, ...]:
    if not setup.claim_initial_contact():
        return ()
    cookies = conversation.initiator_cookie + conversation.responder_cookie
    notification = NotificationPayload(
        DomainOfInterpretation.IPSEC, ProtocolId.ISAKMP, cookies, NotifyType.INITIAL_CONTACT
    )
    return (notification,)
