"""Identities in IKEv1: who a peer is (main mode), and whose traffic is meant (quick mode). RFC 2407
§4.6.2."""

from stockade.model.addresses import Address, AddressRange
from stockade.model.identities import Identity, IdentityType
from stockade.model.reasons import ReasonCode, error_for
from stockade.model.traffic import UDP, TrafficSelector
from stockade.wire.isakmp.payloads import IdentificationPayload

_ADDRESS_TYPES = (IdentityType.IPV4_ADDR, IdentityType.IPV6_ADDR)
_PORTS = (0, 500, 4500)


def own_identity(local: Address) -> IdentificationPayload:
    """Our main-mode identity: our address, protocol and port 0 (RFC 2407 §4.6.2 allows 0/0 or UDP/500)."""
    identity = Identity.address(local)
    return IdentificationPayload(identity.type, 0, 0, identity.data)


def check_peer_identity(payload: IdentificationPayload, remote: Address | None) -> Identity:
    """The main-mode identity of a peer with a pre-shared key. An address must be the one that the peer speaks
    from (`remote`; None behind a NAT): the key was chosen by that. Other names are only recorded; HASH covers
    them."""
    identity = read_peer_identity(payload)
    if remote is not None and payload.id_type in _ADDRESS_TYPES and payload.data != remote.packed:
        raise error_for(
            ReasonCode.INVALID_IDENTITY, f"the peer calls itself {identity} but speaks from {remote}"
        )
    return identity


def read_peer_identity(payload: IdentificationPayload) -> Identity:
    """What the peer calls itself; `PeerError` INVALID_IDENTITY where it names a protocol or port beside
    IKE's."""
    if payload.protocol_id not in (0, UDP) or payload.port not in _PORTS:
        raise error_for(
            ReasonCode.INVALID_IDENTITY,
            "a main-mode identity names protocol and port 0/0 or 17/500",
            protocol=payload.protocol_id,
            port=payload.port,
        )
    return Identity(payload.id_type, payload.data)


def selector_payloads(selector: TrafficSelector) -> tuple[IdentificationPayload, IdentificationPayload]:
    """IDci and IDcr of an initiator that wants to send `selector` (source = us)."""
    return (
        IdentificationPayload.of_addresses(selector.source, selector.protocol, selector.source_port),
        IdentificationPayload.of_addresses(
            selector.destination, selector.protocol, selector.destination_port
        ),
    )


def requested_selector(
    identities: list[IdentificationPayload], local: Address, remote: Address
) -> TrafficSelector:
    """The traffic that a peer asks us to protect, outbound as we see it: source is IDcr, destination IDci.
    Without identities the two hosts themselves are meant (RFC 2409 §5.5). `PeerError` INVALID_IDENTITY."""
    if not identities:
        return TrafficSelector(AddressRange.host(local), AddressRange.host(remote))
    if len(identities) != 2:
        raise error_for(ReasonCode.INVALID_IDENTITY, f"{len(identities)} identities, none or two expected")
    theirs, ours = identities
    source, destination = ours.addresses(), theirs.addresses()
    if source is None or destination is None:
        kinds = f"{theirs.id_type} and {ours.id_type}"
        raise error_for(
            ReasonCode.INVALID_IDENTITY, f"identity types {kinds} are not addresses, subnets or ranges"
        )
    if theirs.protocol_id != ours.protocol_id:
        raise error_for(
            ReasonCode.INVALID_IDENTITY,
            "the two identities name different protocols",
            initiator=theirs.protocol_id,
            responder=ours.protocol_id,
        )
    try:
        return TrafficSelector(source, destination, ours.protocol_id, ours.port, theirs.port)
    except ValueError as fault:
        raise error_for(ReasonCode.INVALID_IDENTITY, str(fault)) from None
