"""NAT traversal in IKEv1: RFC 3947, and draft-ietf-ipsec-nat-t-ike-02, which Windows 2000 to 2003 speak.

    1, 2   vendor ids: both ends can
    3, 4   NAT-D (where I believe you are), NAT-D (where I am)      HASH(CKY-I | CKY-R | address | port)
    5 …    if a hash does not fit there is a NAT: port 4500, non-ESP marker, keep-alives
    quick  encapsulation mode UDP-…; NAT-OA in transport mode: the addresses before translation

The first NAT-D is compared with our own address, the others (one per interface of the peer) with the address
that the message came from. NAT-D is not authenticated: who tampers with it can make two ends encapsulate
needlessly, or fail to, and no more. Microsoft knows no NAT traversal with IPv6; we follow."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from stockade.crypto.hashing import digest
from stockade.ike.config import NatScope
from stockade.model.addresses import Address, Endpoint
from stockade.model.negotiation import Mode
from stockade.model.reasons import Reason, ReasonCode
from stockade.model.suites import Hash
from stockade.wire.isakmp.constants import EncapsulationMode, PayloadType
from stockade.wire.isakmp.payloads import NatDetectionPayload, NatOriginalAddressPayload, Payload
from stockade.wire.vendor_ids import DRAFT_NATT_02, DRAFT_NATT_02_N, RFC_3947

FIRST_WITH_RFC = 5
"""The version in the implementation id that is Windows Vista's; those before it know the draft only."""


def vendor_ids(microsoft_version: int) -> tuple[bytes, ...]:
    """What a host says that it can, which is what the Windows that it calls itself can."""
    return (RFC_3947, DRAFT_NATT_02_N) if microsoft_version >= FIRST_WITH_RFC else (DRAFT_NATT_02_N,)


class Variant(Enum):
    """What differs between the RFC and the draft: the numbers."""

    RFC = (
        PayloadType.NAT_DETECTION,
        PayloadType.NAT_ORIGINAL_ADDRESS,
        EncapsulationMode.UDP_TRANSPORT,
        EncapsulationMode.UDP_TUNNEL,
    )
    DRAFT = (
        PayloadType.NAT_DETECTION_DRAFT,
        PayloadType.NAT_ORIGINAL_ADDRESS_DRAFT,
        EncapsulationMode.UDP_TRANSPORT_DRAFT,
        EncapsulationMode.UDP_TUNNEL_DRAFT,
    )

    def __init__(
        self, detection: int, original: int, transport: EncapsulationMode, tunnel: EncapsulationMode
    ) -> None:
        self.detection = detection
        self.original = original
        self.transport = transport
        self.tunnel = tunnel


@dataclass(frozen=True, slots=True)
class Nat:
    """What messages 3 and 4 found. An object only exists where there is a NAT."""

    variant: Variant
    local_behind: bool
    peer_behind: bool

    def encapsulation(self, mode: Mode) -> EncapsulationMode:
        return self.variant.transport if mode is Mode.TRANSPORT else self.variant.tunnel

    def original_addresses(self, own: Address, peer: Address, *, initiator: bool) -> tuple[Payload, ...]:
        """NAT-OA for a quick mode in transport mode: the RFC sends the initiator's and the responder's, the
        draft one's own."""
        if self.variant is Variant.DRAFT:
            return (NatOriginalAddressPayload(self.variant.original, own),)
        addresses = (own, peer) if initiator else (peer, own)
        return tuple(NatOriginalAddressPayload(self.variant.original, address) for address in addresses)


def why_not_allowed(nat: Nat, scope: NatScope, *, initiator: bool) -> Reason | None:
    """Whether the settings forbid a main mode that we begin (or answer) through such NATs."""
    responder_behind, initiator_behind = (
        (nat.peer_behind, nat.local_behind) if initiator else (nat.local_behind, nat.peer_behind)
    )
    if not responder_behind or scope is NatScope.BOTH:
        return None
    if scope is NatScope.RESPONDER and not initiator_behind:
        return None
    who = "the peer" if initiator else "this computer"
    both = ", as is the end that begins" if initiator_behind else ""
    detail = f"{who} answers from behind a NAT{both}"
    return Reason.of(ReasonCode.NAT_NOT_ALLOWED, detail, allowed=int(scope))


PLAIN = {Mode.TRANSPORT: EncapsulationMode.TRANSPORT, Mode.TUNNEL: EncapsulationMode.TUNNEL}


def encapsulation(nat: Nat | None, mode: Mode) -> EncapsulationMode:
    """The encapsulation mode of a quick mode (RFC 2407 §4.5, RFC 3947 §5.1)."""
    return PLAIN[mode] if nat is None else nat.encapsulation(mode)


def common_variant(own: Sequence[bytes], peer_vendor_ids: Sequence[bytes]) -> Variant | None:
    """The variant that both ends know, the RFC's before the draft's; None where the peer knows none. `own`:
    what we say."""
    if RFC_3947 in own and RFC_3947 in peer_vendor_ids:
        return Variant.RFC
    if DRAFT_NATT_02_N in peer_vendor_ids or DRAFT_NATT_02 in peer_vendor_ids:
        return Variant.DRAFT
    return None


def detection_payloads(
    variant: Variant | None, hash_name: Hash, cookies: bytes, local: Endpoint, remote: Endpoint
) -> tuple[Payload, ...]:
    """NAT-D for message 3 or 4; nothing without a variant."""
    if variant is None:
        return ()
    return tuple(
        NatDetectionPayload(variant.detection, _detection_hash(hash_name, cookies, end))
        for end in (remote, local)
    )


def find_nat(
    variant: Variant | None,
    hash_name: Hash,
    cookies: bytes,
    received: Sequence[NatDetectionPayload],
    local: Endpoint,
    remote: Endpoint,
) -> Nat | None:
    """What the peer's NAT-D payloads say; `local` and `remote` are where its message came to and from."""
    if variant is None:
        return None
    hashes = [payload.hash for payload in received if payload.type == variant.detection]
    if len(hashes) < 2:
        return None  # the peer announced it and does not do it
    local_behind = hashes[0] != _detection_hash(hash_name, cookies, local)
    peer_behind = _detection_hash(hash_name, cookies, remote) not in hashes[1:]
    return Nat(variant, local_behind, peer_behind) if local_behind or peer_behind else None


def _detection_hash(hash_name: Hash, cookies: bytes, end: Endpoint) -> bytes:
    return digest(hash_name, cookies + end.address.packed + end.port.to_bytes(2, "big"))
