"""Quick mode (RFC 2409 §5.5): a pair of IPsec SAs under the protection of a main mode.

         initiator                                   responder
      1  HDR*, HASH(1), SA, Ni [, KE] [, IDci, IDcr]  ->
      2       <-  HDR*, HASH(2), SA, Nr [, KE] [, IDci, IDcr] [, N]        inbound SA in place
         inbound SA in place
      3  HDR*, HASH(3)                                ->                   outbound SA in place
         outbound SA in place

Each end can receive before the other may send. The initiator's outbound SA comes after message 3, not before
it: it releases the packets that wait for it, and to a responder that makes its SAs at message 3 (strongSwan
does) they would come too early. KE is perfect forward secrecy. N is RESPONDER-LIFETIME (RFC 2407 §4.6.3.1),
sent where our lifetime is shorter than the offer says, and obeyed where the peer's is.

With the commit bit (RFC 2408 §3.1) in message 2 the responder says: do not send before you hear that I am
ready. Windows sets it as a responder; so do we towards Windows (and each other), and obey whoever sets it.
Message 3 is then repeated until message 4 comes, so its loss cannot leave the two ends of different minds.

      2                           <-  HDR*[commit], HASH(2), SA, Nr …
      3  HDR*, HASH(3)                                ->                   outbound SA in place
      4                           <-  HDR*, HASH(4), N(CONNECTED)          HASH(4) = prf(SKEYID_a, M-ID | N)
         outbound SA in place

RFC 2408 §3.1 has CONNECTED in an informational exchange with the quick mode's message id: read, too. A peer
that asks to be waited for and then says nothing is given up after `CONNECTED_ATTEMPTS` of message 3 (15 s),
and told by a delete that its half of the pair is not wanted.

The SAs that come of it are made in `quick_mode_pair.py`. Left out: several SA payloads in one quick mode."""

from collections.abc import Sequence
from dataclasses import replace

from stockade.crypto.hashing import equal
from stockade.crypto.ikev1_keys import (
    informational_hash,
    quick_mode_hash_1,
    quick_mode_hash_2,
    quick_mode_hash_3,
)
from stockade.crypto.key_exchange import PrivateValue
from stockade.ike.story import StoryEvent, numbered, tell_own_choice, tell_peers_choice
from stockade.ike.v1.discovery import exchange_info
from stockade.ike.v1.exchange import Conversation
from stockade.ike.v1.identities import requested_selector, selector_payloads
from stockade.ike.v1.nat_traversal import Nat, encapsulation
from stockade.ike.v1.quick_mode_pair import QuickModeOutcome, QuickModeSetup, make_pair
from stockade.ike.v1.quick_mode_proposals import (
    QuickModeTerms,
    check_quick_mode_choice,
    choose_quick_mode,
    is_bundle,
    judge_quick_modes,
    offered_methods,
    offers_encapsulation,
    quick_mode_offer,
)
from stockade.ike.v1.responder_lifetime import responder_lifetime, with_responder_lifetime
from stockade.ike.v1.steps import Expectation, Finish, Incoming, Step, Steps, answered
from stockade.model.addresses import AddressRange
from stockade.model.filters import Direction
from stockade.model.negotiation import Mode, Negotiation, QuickModeMatch
from stockade.model.reasons import PeerError, Reason, ReasonCode, error_for
from stockade.model.secret import Secret
from stockade.model.suites import Group
from stockade.model.traffic import TrafficSelector
from stockade.wire.isakmp.constants import DomainOfInterpretation, NotifyType, PayloadType, ProtocolId
from stockade.wire.isakmp.message import encode_payloads
from stockade.wire.isakmp.payloads import (
    HashPayload,
    IdentificationPayload,
    KeyExchangePayload,
    NoncePayload,
    NotificationPayload,
    Payload,
    SecurityAssociationPayload,
)

NONCE_SIZE = 32
CONNECTED_ATTEMPTS = 4
"""Sendings of message 3 to a peer that wants to be waited for. It has answered message 1 a moment ago, so it
is no slow path that keeps it silent; and its inbound SA is held for us as long as we wait."""
_MAY = frozenset(
    {
        PayloadType.KEY_EXCHANGE,
        PayloadType.IDENTIFICATION,
        PayloadType.NAT_ORIGINAL_ADDRESS,
        PayloadType.NAT_ORIGINAL_ADDRESS_DRAFT,
    }
)
_NEEDS = (PayloadType.HASH, PayloadType.SECURITY_ASSOCIATION, PayloadType.NONCE)
MESSAGE_1 = Expectation("quick mode message 1", _NEEDS, _MAY, protected=True)
MESSAGE_2 = Expectation("quick mode message 2", _NEEDS, _MAY, protected=True)
MESSAGE_3 = Expectation("quick mode message 3", (PayloadType.HASH,), protected=True)

MESSAGE_4 = Expectation(
    "quick mode message 4 (connected)", (PayloadType.HASH, PayloadType.NOTIFICATION), protected=True
)


# ---- the ladder, from both sides
def initiate(
    setup: QuickModeSetup, match: QuickModeMatch, conversation: Conversation
) -> Steps[QuickModeOutcome]:
    """Messages 1 and 3."""
    policy = match.negotiation.quick_mode
    encapsulated = encapsulation(setup.nat, policy.mode)
    methods = offered_methods(policy, encapsulated)
    if not methods:
        detail = "every security method of the rule has AH, which does not pass the NAT between the hosts"
        raise error_for(ReasonCode.INVALID_POLICY, detail, rule=match.negotiation.name)
    _check_hosts(match, setup)
    spi = setup.reserve_spi()
    ah_spi = setup.reserve_spi() if any(is_bundle(method) for method in methods) else 0
    group = required_group(match.negotiation, setup.main_mode_group)
    private = None if group is None else setup.private_value(group)
    nonce = setup.random(NONCE_SIZE)
    identities = selector_payloads(match.selector)
    rest: tuple[Payload, ...] = (
        quick_mode_offer(policy, spi, group, encapsulated, ah_spi),
        NoncePayload(nonce),
    )
    if private is not None:
        rest += (KeyExchangePayload(private.public),)
    rest += identities
    rest += _original_addresses(setup, policy.mode, initiator=True)
    rest += _tokens(setup, spi, ah_spi)
    if setup.discovery:
        protocol = ProtocolId.AH if methods[0].esp is None else ProtocolId.ESP
        rest += (exchange_info(policy, protocol, conversation.message_id),)
    tail = encode_payloads(rest)[1]
    proof = quick_mode_hash_1(setup.hash, setup.keys.skeyid_a, conversation.message_id_bytes, tail)

    def verify(message: Incoming) -> Incoming:
        wanted = quick_mode_hash_2(
            setup.hash, setup.keys.skeyid_a, conversation.message_id_bytes, nonce, message.after_hash()
        )
        return _verified(message, wanted, "HASH(2)")

    if setup.story.on:
        setup.story.tell(StoryEvent.OFFERED, "we offer", *numbered(methods), ("own SPI", f"{spi:#010x}"))
    answer = yield from answered(
        Step(MESSAGE_2, (HashPayload(proof), *rest), protected=True, tail=tail), verify, suspicious=False
    )
    # From here on it is the peer who speaks: what does not fit ends the exchange.
    peer_public = _public_value(answer)
    choice = check_quick_mode_choice(
        answer.one(SecurityAssociationPayload), policy, group, peer_public is not None, encapsulated
    )
    if isinstance(choice, Reason):
        raise PeerError(choice)
    if not same_identities(answer.all(IdentificationPayload), identities, setup.nat, policy.mode):
        raise error_for(ReasonCode.INVALID_IDENTITY, "the peer returned other identities than we sent")
    choice = with_responder_lifetime(choice, answer)
    if setup.story.on:
        tell_peers_choice(setup.story, str(choice.proposal), [str(method) for method in methods])
    peer_nonce = answer.one(NoncePayload).data
    shared = private.shared(peer_public) if private is not None and peer_public is not None else None
    outcome = make_pair(
        setup,
        match,
        choice,
        (spi, ah_spi),
        nonce_i=nonce,
        nonce_r=peer_nonce,
        shared=shared,
        initiator=True,
        message=answer,
        message_id=conversation.message_id,
    )
    last = quick_mode_hash_3(
        setup.hash, setup.keys.skeyid_a, conversation.message_id_bytes, nonce, peer_nonce
    )
    if not answer.header.commit:
        return Finish(outcome, (HashPayload(last),), protected=True, install=outcome.of(Direction.INBOUND))
    yield from answered(
        Step(
            MESSAGE_4,
            (HashPayload(last),),
            protected=True,
            install=outcome.of(Direction.INBOUND),
            attempts=CONNECTED_ATTEMPTS,
        ),
        lambda message: _connected(message, setup, conversation.message_id_bytes),
        suspicious=False,
    )
    return Finish(replace(outcome, connected=True))


def respond(setup: QuickModeSetup, conversation: Conversation) -> Steps[QuickModeOutcome]:
    """Message 2."""
    skeyid_a, message_id = setup.keys.skeyid_a, conversation.message_id_bytes

    def verify(message: Incoming) -> Incoming:
        return _verified(
            message, quick_mode_hash_1(setup.hash, skeyid_a, message_id, message.after_hash()), "HASH(1)"
        )

    request = yield from answered(Step(MESSAGE_1), verify, suspicious=False)
    identities = request.all(IdentificationPayload)
    offer = request.one(SecurityAssociationPayload)
    requested = requested_selector(identities, setup.local, setup.remote)
    match = setup.find_rule(_translated(requested, offer, setup))
    if setup.story.on:
        setup.story.tell(StoryEvent.RULE, f"the peer asks for {requested}")
    if isinstance(match, Reason):
        raise PeerError(match)
    _check_hosts(match, setup)
    peer_public = _public_value(request)
    required = required_group(match.negotiation, setup.main_mode_group)
    policy = match.negotiation.quick_mode
    encapsulated = encapsulation(setup.nat, policy.mode)
    terms = QuickModeTerms(policy, required, peer_public is not None, encapsulated)
    if setup.story.on:
        judged = judge_quick_modes(offer, terms)
        setup.story.tell(
            StoryEvent.RULE, f"rule {match.negotiation.name} covers it", ("filter", match.filter_id)
        )
        setup.story.tell(StoryEvent.OFFERED, "the peer offers", *numbered([what for what, _ in judged]))
    # Choose first with no SPI of ours: what is refused must not use up one.
    choice = choose_quick_mode(offer, terms, 0)
    if isinstance(choice, Reason):
        raise PeerError(choice)
    spi = setup.reserve_spi()
    ah_spi = setup.reserve_spi() if choice.peer_ah_spi else 0
    if setup.story.on:
        tell_own_choice(setup.story, str(choice.proposal), judged)
    private: PrivateValue | None = None
    shared: Secret | None = None
    if choice.group is not None and peer_public is not None:
        private = setup.private_value(choice.group)
        shared = private.shared(peer_public)
    peer_nonce = request.one(NoncePayload).data
    nonce = setup.random(NONCE_SIZE)
    outcome = make_pair(
        setup,
        match,
        choice,
        (spi, ah_spi),
        nonce_i=peer_nonce,
        nonce_r=nonce,
        shared=shared,
        initiator=False,
        message=request,
        message_id=conversation.message_id,
    )
    rest: tuple[Payload, ...] = (choice.reply_with(spi, ah_spi), NoncePayload(nonce))
    if private is not None:
        rest += (KeyExchangePayload(private.public),)
    rest += tuple(identities)
    rest += _original_addresses(setup, policy.mode, initiator=False)
    if setup.discovery:
        rest += (exchange_info(policy, choice.protocol, conversation.message_id),)
    if choice.shortened:
        rest += (responder_lifetime(choice, spi),)
    rest += _tokens(setup, spi, ah_spi)
    tail = encode_payloads(rest)[1]
    proof = quick_mode_hash_2(setup.hash, skeyid_a, message_id, peer_nonce, tail)
    last = quick_mode_hash_3(setup.hash, skeyid_a, message_id, peer_nonce, nonce)
    yield from answered(
        Step(
            MESSAGE_3,
            (HashPayload(proof), *rest),
            protected=True,
            tail=tail,
            install=outcome.of(Direction.INBOUND),
            repeat=setup.repeat,
            commit=setup.commit,
        ),
        lambda message: _verified(message, last, "HASH(3)"),
        suspicious=False,
    )
    if not setup.commit:
        return Finish(outcome, install=outcome.of(Direction.OUTBOUND))
    connected = NotificationPayload(
        DomainOfInterpretation.IPSEC, choice.protocol, spi.to_bytes(4, "big"), NotifyType.CONNECTED
    )
    proof = informational_hash(setup.hash, skeyid_a, message_id, encode_payloads((connected,))[1])
    return Finish(
        outcome, (HashPayload(proof), connected), protected=True, install=outcome.of(Direction.OUTBOUND)
    )


# ---- the rungs that both share
def required_group(negotiation: Negotiation, main_mode_group: Group) -> Group | None:
    """The group of perfect forward secrecy that policy asks for."""
    if not negotiation.quick_mode.perfect_forward_secrecy:
        return None
    return negotiation.quick_mode.group or main_mode_group


def _tokens(setup: QuickModeSetup, spi: int, ah_spi: int) -> tuple[Payload, ...]:
    return setup.give_tokens(spi) + (setup.give_tokens(ah_spi)[:1] if ah_spi else ())


def _verified(message: Incoming, wanted: bytes, name: str) -> Incoming:
    if not equal(message.one(HashPayload).data, wanted):
        raise error_for(ReasonCode.INVALID_HASH, f"{name} of quick mode does not verify")
    return message


def _connected(message: Incoming, setup: QuickModeSetup, message_id: bytes) -> None:
    """`PeerError` unless this is the responder's word that it is ready."""
    wanted = informational_hash(setup.hash, setup.keys.skeyid_a, message_id, message.after_hash())
    _verified(message, wanted, "HASH(4)")
    if all(entry.type != NotifyType.CONNECTED for entry in message.all(NotificationPayload)):
        raise error_for(ReasonCode.UNEXPECTED_MESSAGE, "quick mode message 4 does not say CONNECTED")


def _public_value(message: Incoming) -> bytes | None:
    values = message.all(KeyExchangePayload)
    if len(values) > 1:
        raise error_for(ReasonCode.UNEXPECTED_MESSAGE, "a quick mode message has two key exchange payloads")
    return values[0].data if values else None


def _check_hosts(match: QuickModeMatch, setup: QuickModeSetup) -> None:
    """A transport-mode SA is for the two hosts that negotiate it, and nobody else."""
    if match.negotiation.quick_mode.mode is not Mode.TRANSPORT:
        return
    selector = match.selector
    if setup.local not in selector.source or setup.remote not in selector.destination:
        raise error_for(
            ReasonCode.INVALID_IDENTITY,
            "transport mode is for the two hosts themselves",
            requested=selector,
            hosts=f"{setup.local} and {setup.remote}",
        )


def _translated(
    requested: TrafficSelector, offer: SecurityAssociationPayload, setup: QuickModeSetup
) -> TrafficSelector:
    """What a peer asks for, in addresses as we see them: in transport mode an end behind a NAT names itself
    by the address that it has there (RFC 3947 §5.2), and packets come from another."""
    nat = setup.nat
    if nat is None or not offers_encapsulation(offer, nat.variant.transport):
        return requested
    if nat.peer_behind and requested.destination.is_host:
        requested = replace(requested, destination=AddressRange.host(setup.remote))
    if nat.local_behind and requested.source.is_host:
        requested = replace(requested, source=AddressRange.host(setup.local))
    return requested


def _original_addresses(setup: QuickModeSetup, mode: Mode, *, initiator: bool) -> tuple[Payload, ...]:
    if setup.nat is None or mode is not Mode.TRANSPORT:
        return ()
    return setup.nat.original_addresses(setup.local, setup.remote, initiator=initiator)


def same_identities(
    returned: Sequence[IdentificationPayload],
    sent: tuple[IdentificationPayload, ...],
    nat: Nat | None,
    mode: Mode,
) -> bool:
    """Whether a responder returned our identities, or none. In transport mode strongSwan writes the address
    that it sees into the identity of an end behind a NAT; the SA is for what we asked either way."""
    if not returned or tuple(returned) == sent:
        return True
    if nat is None or mode is not Mode.TRANSPORT or len(returned) != len(sent):
        return False
    translated = (nat.local_behind, nat.peer_behind)  # of IDci, which is us, and of IDcr
    return all(
        one == other
        or (
            behind
            and (one.id_type, one.protocol_id, one.port) == (other.id_type, other.protocol_id, other.port)
        )
        for one, other, behind in zip(returned, sent, translated, strict=False)
    )
