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

NAT-OA goes with the inbound SA of transport mode, for the checksums of what it opens. Left out: several SA
payloads in one quick mode."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from stockade.crypto.hashing import equal
from stockade.crypto.ikev1_keys import (
    MainModeKeys,
    informational_hash,
    keymat,
    quick_mode_hash_1,
    quick_mode_hash_2,
    quick_mode_hash_3,
)
from stockade.crypto.key_exchange import PrivateValue
from stockade.crypto.registry import esp_key_sizes, integrity_algorithm
from stockade.ike.contract import RandomSource
from stockade.ike.proofs import given_in
from stockade.ike.retransmission import random_fraction
from stockade.ike.story import Story, StoryEvent, numbered, tell_own_choice, tell_peers_choice
from stockade.ike.v1.discovery import ExchangeInfo, exchange_info, told_by
from stockade.ike.v1.exchange import (
    Conversation,
    Expectation,
    Finish,
    Incoming,
    Step,
    Steps,
    answered,
)
from stockade.ike.v1.identities import requested_selector, selector_payloads
from stockade.ike.v1.nat_traversal import Nat, Variant, encapsulation
from stockade.ike.v1.quick_mode_proposals import (
    QuickModeChoice,
    QuickModeTerms,
    check_quick_mode_choice,
    choose_quick_mode,
    is_bundle,
    judge_quick_modes,
    offered_methods,
    offers_encapsulation,
    quick_mode_offer,
)
from stockade.model.addresses import Address, AddressRange
from stockade.model.filters import Direction
from stockade.model.negotiation import Mode, Negotiation, QuickModeMatch
from stockade.model.quickly_made import quickly_made
from stockade.model.reasons import PeerError, Reason, ReasonCode, error_for
from stockade.model.sa import Lifetime, SecurityAssociation, UdpEncapsulation
from stockade.model.secret import Secret
from stockade.model.suites import Group, Hash, QuickModeProposal
from stockade.model.traffic import TrafficSelector
from stockade.wire.cursor import Cursor
from stockade.wire.isakmp.constants import (
    DomainOfInterpretation,
    IpsecAttribute,
    LifeType,
    NotifyType,
    PayloadType,
    ProtocolId,
)
from stockade.wire.isakmp.message import encode_payloads
from stockade.wire.isakmp.payloads import (
    Attribute,
    HashPayload,
    IdentificationPayload,
    KeyExchangePayload,
    NatOriginalAddressPayload,
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


@quickly_made
@dataclass(frozen=True, slots=True)
class QuickModeSetup:
    """What a quick mode takes from its main mode and from the engine. `find_rule` is policy's answer to a
    peer's request (responder). `repeat` lets the responder repeat message 2, `commit` asks the initiator to
    wait for its word. `give_tokens`: what proves later that we lost the pair with this SPI of ours.
    `discovery`: both ends know negotiation discovery.
    `ports`: local and remote UDP ports, for encapsulation where there is a NAT."""

    local: Address
    remote: Address
    main_mode: str
    hash: Hash
    keys: MainModeKeys
    main_mode_group: Group
    random: RandomSource
    private_value: Callable[[Group], PrivateValue]
    reserve_spi: Callable[[], int]
    find_rule: Callable[[TrafficSelector], QuickModeMatch | Reason]
    idle_seconds: float | None
    silence_seconds: float | None
    give_tokens: Callable[[int], tuple[NotificationPayload, ...]]
    replay_window: int
    repeat: bool
    commit: bool
    discovery: bool
    story: Story
    nat: Nat | None
    ports: Callable[[], tuple[int, int]]


@quickly_made
@dataclass(frozen=True, slots=True)
class QuickModeOutcome:
    """A pair of SAs. `selector` is outbound; `proposal` has the lifetimes in force. `headers`: the two SAs of
    AH, inbound and outbound, where AH and ESP go together; `inbound` and `outbound` are then ESP's.
    `connected`: the peer has said that it is ready to receive. `tokens`: what it will prove the loss of
    the pair, or of the main mode, with (`proofs.given_in`)."""

    inbound: SecurityAssociation
    outbound: SecurityAssociation
    selector: TrafficSelector
    proposal: QuickModeProposal
    group: Group | None
    match: QuickModeMatch
    headers: tuple[SecurityAssociation, ...] = ()
    connected: bool = False
    tokens: tuple[tuple[bytes, bytes], ...] = ()
    info: ExchangeInfo | None = None
    """What the peer says of it, with negotiation discovery."""

    def of(self, direction: Direction) -> tuple[SecurityAssociation, ...]:
        """All SAs of one direction."""
        if not self.headers:
            return (self.inbound if direction is Direction.INBOUND else self.outbound,)
        return tuple(sa for sa in (self.inbound, self.outbound, *self.headers) if sa.direction is direction)


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
    choice = _with_responder_lifetime(choice, answer)
    if setup.story.on:
        tell_peers_choice(setup.story, str(choice.proposal), [str(method) for method in methods])
    peer_nonce = answer.one(NoncePayload).data
    shared = private.shared(peer_public) if private is not None and peer_public is not None else None
    outcome = _make_pair(
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
    outcome = _make_pair(
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
        rest += (_responder_lifetime(choice, spi),)
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


def _original_of_peer(
    setup: QuickModeSetup, message: Incoming, *, initiator: bool
) -> tuple[Address, Address] | None:
    """Source and destination of the peer's packets as the peer has them, where its NAT-OA payloads tell both:
    with the RFC the initiator's address comes first, then the responder's. Packets' checksums are corrected
    by them and nothing else, so a peer that lies spoils its own packets."""
    if setup.nat is None or setup.nat.variant is not Variant.RFC:
        return None
    addresses = [payload.address for payload in message.all(NatOriginalAddressPayload)]
    if len(addresses) != 2:
        return None
    if any(address.version != setup.local.version for address in addresses):
        return None
    initiators, responders = addresses
    return (responders, initiators) if initiator else (initiators, responders)


def _make_pair(
    setup: QuickModeSetup,
    match: QuickModeMatch,
    choice: QuickModeChoice,
    spis: tuple[int, int],
    *,
    nonce_i: bytes,
    nonce_r: bytes,
    shared: Secret | None,
    initiator: bool,
    message: Incoming,
    message_id: int,
) -> QuickModeOutcome:
    """`spis`: ours, of ESP (or AH alone) and of AH beside ESP. `message`: the peer's, 1 or 2."""
    original = _original_of_peer(setup, message, initiator=initiator)
    proposal, policy = choice.proposal, match.negotiation.quick_mode
    selector = match.selector
    if policy.mode is Mode.TRANSPORT:
        selector = selector.narrowed_to(setup.local, setup.remote)
    lifetime = _lifetime(proposal, initiator, setup.random)
    bundled = is_bundle(proposal)

    def one(direction: Direction, protocol: ProtocolId) -> SecurityAssociation:
        inbound = direction is Direction.INBOUND
        is_header = bundled and protocol is ProtocolId.AH
        ours, theirs = (spis[1], choice.peer_ah_spi) if is_header else (spis[0], choice.peer_spi)
        partner = (spis[0], choice.peer_spi) if is_header else (spis[1], choice.peer_ah_spi)
        own, other = (ours, theirs) if inbound else (theirs, ours)
        esp = proposal.esp if protocol is ProtocolId.ESP else None
        ah = proposal.ah if protocol is ProtocolId.AH else None
        sizes = (0, 0)
        if esp is not None:
            sizes = esp_key_sizes(esp)
        elif ah is not None:
            sizes = (0, integrity_algorithm(ah).integrity_key_size)
        material = keymat(
            setup.hash,
            setup.keys.skeyid_d,
            protocol,
            own.to_bytes(4, "big"),
            nonce_i,
            nonce_r,
            shared,
            sum(sizes),
        ).reveal()
        return SecurityAssociation(
            spi=own,
            direction=direction,
            source=setup.remote if inbound else setup.local,
            destination=setup.local if inbound else setup.remote,
            selector=selector.reversed() if inbound else selector,
            mode=policy.mode,
            esp=esp,
            ah=ah,
            encryption_key=Secret(material[: sizes[0]]),
            integrity_key=Secret(material[sizes[0] :]),
            pair=other,
            negotiation=match.negotiation.name,
            filter_id=match.filter_id,
            main_mode=setup.main_mode,
            lifetime=lifetime,
            replay_window=setup.replay_window,
            idle_seconds=setup.idle_seconds,
            silence_seconds=setup.silence_seconds,
            udp=_udp(setup, inbound=inbound),
            original=original if inbound and policy.mode is Mode.TRANSPORT else None,
            bundle=partner[0 if inbound else 1] if bundled else None,
            extended_sequence=proposal.extended_sequence,
        )

    headers = (
        tuple(one(direction, ProtocolId.AH) for direction in (Direction.INBOUND, Direction.OUTBOUND))
        if bundled
        else ()
    )
    return QuickModeOutcome(
        one(Direction.INBOUND, choice.protocol),
        one(Direction.OUTBOUND, choice.protocol),
        selector,
        proposal,
        choice.group,
        match if selector is match.selector else replace(match, selector=selector),
        headers,
        tokens=given_in(message.all(NotificationPayload)),
        info=told_by(message, message_id),
    )


def _udp(setup: QuickModeSetup, *, inbound: bool) -> UdpEncapsulation | None:
    if setup.nat is None:
        return None
    local, remote = setup.ports()
    return UdpEncapsulation(remote, local) if inbound else UdpEncapsulation(local, remote)


def _lifetime(proposal: QuickModeProposal, initiator: bool, random: RandomSource) -> Lifetime:
    """Hard and soft lifetimes. The initiator rekeys 60 to 90 s early, or at 80 to 88 % of the bytes
    ([MS-IKEE]: randomised, so that many pairs do not rekey in one moment; at 10 Gbit/s the rest of Windows'
    100 000 KB lasts 10 ms or more, which a negotiation needs); the responder later, only if the initiator
    does not."""
    seconds = float(proposal.lifetime_seconds)
    volume = proposal.lifetime_kilobytes * 1024
    fraction = random_fraction(random)
    if initiator:
        lead = min(60 + 30 * fraction, seconds * (0.15 + 0.1 * fraction))
        soft_bytes = int(volume * (0.8 + 0.08 * fraction))
    else:
        lead = min(30.0, seconds * 0.08)
        soft_bytes = int(volume * 0.94)
    return Lifetime(seconds - lead, seconds, soft_bytes, volume)


# ---- RESPONDER-LIFETIME
def _responder_lifetime(choice: QuickModeChoice, spi: int) -> NotificationPayload:
    attributes: list[Attribute] = []
    for kind, value in (
        (LifeType.SECONDS, choice.proposal.lifetime_seconds),
        (LifeType.KILOBYTES, choice.proposal.lifetime_kilobytes),
    ):
        attributes.append(Attribute(IpsecAttribute.SA_LIFE_TYPE, int(kind)))
        attributes.append(Attribute(IpsecAttribute.SA_LIFE_DURATION, value.to_bytes(4, "big")))
    data = b"".join(attribute.encode() for attribute in attributes)
    return NotificationPayload(
        DomainOfInterpretation.IPSEC,
        choice.protocol,
        spi.to_bytes(4, "big"),
        NotifyType.RESPONDER_LIFETIME,
        data,
    )


def _with_responder_lifetime(choice: QuickModeChoice, answer: Incoming) -> QuickModeChoice:
    """The choice with lifetimes that the responder's notification shortens; one that lengthens or that cannot
    be read changes nothing."""
    seconds, kilobytes = choice.proposal.lifetime_seconds, choice.proposal.lifetime_kilobytes
    for notification in answer.all(NotificationPayload):
        if notification.type != NotifyType.RESPONDER_LIFETIME:
            continue
        kind = None
        for attribute in _attributes(notification.data):
            if attribute.type == IpsecAttribute.SA_LIFE_TYPE:
                kind = attribute.number
            elif attribute.type == IpsecAttribute.SA_LIFE_DURATION and attribute.number:
                if kind == LifeType.SECONDS:
                    seconds = min(seconds, attribute.number)
                elif kind == LifeType.KILOBYTES:
                    kilobytes = min(kilobytes, attribute.number)
    if (seconds, kilobytes) == (choice.proposal.lifetime_seconds, choice.proposal.lifetime_kilobytes):
        return choice
    proposal = replace(choice.proposal, lifetime_seconds=seconds, lifetime_kilobytes=kilobytes)
    return replace(choice, proposal=proposal)


def _attributes(data: bytes) -> list[Attribute]:
    cursor = Cursor(data, "RESPONDER-LIFETIME")
    attributes: list[Attribute] = []
    try:
        while cursor.remaining and len(attributes) < 16:
            attributes.append(Attribute.decode(cursor))
    except PeerError:
        return []
    return attributes
