"""Authentication by pre-shared key (RFC 2409 §5.4): the HASH itself is the proof, and the key goes into
SKEYID.

So a wrong key shows first as message 5 that decrypts to nonsense. In main mode the responder must choose the
key before it learns the identity: by the peer's address."""

from stockade.crypto.hashing import equal
from stockade.crypto.ikev1_keys import preshared_skeyid
from stockade.model.negotiation import AuthenticationMethod, PresharedKey
from stockade.model.reasons import ReasonCode
from stockade.model.secret import Secret
from stockade.model.suites import Hash
from stockade.wire.isakmp.constants import PayloadType
from stockade.wire.isakmp.payloads import HashPayload, Payload

PRESHARED_KEY = 1


class PresharedKeyMethod:
    """Implements `AuthMethod`."""

    number = PRESHARED_KEY
    name = "preshared-key"
    mismatch = ReasonCode.PSK_MISMATCH
    proof_type = PayloadType.HASH

    __slots__ = ("_configured",)

    def __init__(self, configured: PresharedKey) -> None:
        self._configured = configured

    def same_as(self, configured: AuthenticationMethod) -> bool:
        return isinstance(configured, PresharedKey) and configured.key == self._configured.key

    def skeyid(self, hash_name: Hash, nonce_i: bytes, nonce_r: bytes, shared: Secret) -> Secret:
        return preshared_skeyid(hash_name, self._configured.key, nonce_i, nonce_r)

    def prove(self, digest: bytes) -> Payload:
        return HashPayload(digest)

    def verify(self, proof: Payload, digest: bytes) -> bool:
        return isinstance(proof, HashPayload) and equal(proof.data, digest)
