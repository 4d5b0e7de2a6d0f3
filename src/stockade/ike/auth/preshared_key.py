"""Authentication by pre-shared key (RFC 2409 §5.4): the HASH itself is the proof, and the key goes into
SKEYID.

So a wrong key shows first as message 5 that decrypts to nonsense. In main mode the responder must choose the
key before it learns the identity: by the peer's address."""

from collections.abc import Sequence
from dataclasses import dataclass

from stockade.crypto.hashing import equal
from stockade.crypto.ikev1_keys import preshared_skeyid
from stockade.ike.auth.method import Authenticated, OneRound, Presented
from stockade.ike.v1.identities import check_peer_identity, own_identity
from stockade.model.addresses import Address
from stockade.model.negotiation import AuthenticationMethod, PresharedKey
from stockade.model.reasons import ReasonCode, error_for
from stockade.model.secret import Secret
from stockade.model.suites import Hash
from stockade.pki.access import Proof
from stockade.wire.isakmp.constants import PayloadType
from stockade.wire.isakmp.payloads import (
    CertificateRequestPayload,
    HashPayload,
    IdentificationPayload,
    Payload,
)

PRESHARED_KEY = 1


@dataclass(frozen=True, slots=True)
class AddressProver:
    """We are our address, and the HASH is the proof."""

    identity: IdentificationPayload

    def prove(self, digest: bytes) -> tuple[Payload, ...]:
        return (HashPayload(digest),)


class PresharedKeyMethod(OneRound):
    """Implements `AuthMethod`."""

    number = PRESHARED_KEY
    name = "preshared-key"
    mismatch = ReasonCode.PSK_MISMATCH
    garbled = ReasonCode.PSK_MISMATCH
    proof_type = PayloadType.HASH

    __slots__ = ("_configured",)

    def __init__(self, configured: PresharedKey) -> None:
        self._configured = configured

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PresharedKeyMethod) and other._configured == self._configured

    def __hash__(self) -> int:
        return hash(self.name)

    def same_as(self, configured: AuthenticationMethod) -> bool:
        return isinstance(configured, PresharedKey) and configured.key == self._configured.key

    def skeyid(self, hash_name: Hash, nonce_i: bytes, nonce_r: bytes, shared: Secret) -> Secret:
        return preshared_skeyid(hash_name, self._configured.key, nonce_i, nonce_r)

    def proof_hash(self, negotiated: Hash) -> Hash:
        return negotiated

    def complete(self, received: Sequence[Payload]) -> "PresharedKeyMethod":
        return self

    def requests(self) -> tuple[Payload, ...]:
        return ()

    def prover(self, local: Address, asked: Sequence[CertificateRequestPayload]) -> AddressProver:
        return AddressProver(own_identity(local))

    def authenticate(self, presented: Presented, digest: bytes, remote: Address | None) -> Authenticated:
        proof = presented.proof
        if not isinstance(proof, HashPayload) or not equal(proof.data, digest):
            raise error_for(ReasonCode.PSK_MISMATCH, "the peer's HASH does not verify")
        identity = check_peer_identity(presented.identity, remote)
        return Authenticated(identity, self, Proof(names=() if remote is None else (str(remote),)))
