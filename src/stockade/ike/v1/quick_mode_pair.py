"""What a quick mode is made from and what it makes: a pair of IPsec SAs, or two where AH and ESP go together.

Key material is KEYMAT of RFC 2409 §5.5, one for each direction and protocol. NAT-OA (RFC 3947 §5.2) goes
with the inbound SA of transport mode, for the checksums of what it opens."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from stockade.crypto.ikev1_keys import MainModeKeys, keymat
from stockade.crypto.key_exchange import PrivateValue
from stockade.crypto.registry import esp_key_sizes, integrity_algorithm
from stockade.ike.contract import RandomSource
from stockade.ike.proofs import given_in
from stockade.ike.retransmission import random_fraction
from stockade.ike.story import Story
from stockade.ike.v1.discovery import ExchangeInfo, told_by
from stockade.ike.v1.nat_traversal import Nat, Variant
from stockade.ike.v1.quick_mode_proposals import QuickModeChoice, is_bundle
from stockade.ike.v1.steps import Incoming
from stockade.model.addresses import Address
from stockade.model.filters import Direction
from stockade.model.negotiation import Mode, QuickModeMatch
from stockade.model.quickly_made import quickly_made
from stockade.model.reasons import Reason
from stockade.model.sa import Lifetime, SecurityAssociation, UdpEncapsulation
from stockade.model.secret import Secret
from stockade.model.suites import Group, Hash, QuickModeProposal
from stockade.model.traffic import TrafficSelector
from stockade.wire.isakmp.constants import ProtocolId
from stockade.wire.isakmp.payloads import NatOriginalAddressPayload, NotificationPayload

_AH, _ESP, _INBOUND = ProtocolId.AH, ProtocolId.ESP, Direction.INBOUND


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
            return (self.inbound if direction is _INBOUND else self.outbound,)
        return tuple(sa for sa in (self.inbound, self.outbound, *self.headers) if sa.direction is direction)


def make_pair(
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
        inbound = direction is _INBOUND
        is_header = bundled and protocol is _AH
        ours, theirs = (spis[1], choice.peer_ah_spi) if is_header else (spis[0], choice.peer_spi)
        partner = (spis[0], choice.peer_spi) if is_header else (spis[1], choice.peer_ah_spi)
        own, other = (ours, theirs) if inbound else (theirs, ours)
        esp = proposal.esp if protocol is _ESP else None
        ah = proposal.ah if protocol is _AH else None
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
