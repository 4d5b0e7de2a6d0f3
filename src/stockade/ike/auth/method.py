"""The seam of main-mode authentication: what differs between pre-shared keys, certificates and Kerberos.

    message                    3 / 4                 5 / 6
    pre-shared key             –                     HASH
    (signature                 [CERT request]        [CERT], SIG)
    (GSS-API                   token                 wrapped HASH)

Built: the pre-shared key. The others fit the same seam: a method number in the offer, a SKEYID, a proof."""

from typing import Protocol

from stockade.model.negotiation import AuthenticationMethod
from stockade.model.reasons import ReasonCode
from stockade.model.secret import Secret
from stockade.model.suites import Hash
from stockade.wire.isakmp.constants import PayloadType
from stockade.wire.isakmp.payloads import Payload


class AuthMethod(Protocol):
    """One way to authenticate, with this host's credential in it."""

    @property
    def number(self) -> int:
        """The value of the Authentication Method attribute (RFC 2409 Appendix A)."""

    @property
    def name(self) -> str:
        """As reports and `show mmsas` print it."""

    @property
    def mismatch(self) -> ReasonCode:
        """The likely cause where the peer's proof, or an encrypted message that carries it, is wrong."""

    @property
    def proof_type(self) -> PayloadType:
        """The payload that carries the proof."""

    def same_as(self, configured: AuthenticationMethod) -> bool:
        """Whether `configured` is this method with the same credential."""

    def skeyid(self, hash_name: Hash, nonce_i: bytes, nonce_r: bytes, shared: Secret) -> Secret:
        """SKEYID (RFC 2409 §5), from the nonces' bodies and g^xy."""

    def prove(self, digest: bytes) -> Payload:
        """Our proof over HASH_I or HASH_R."""

    def verify(self, proof: Payload, digest: bytes) -> bool:
        """Whether the peer's proof is right for the HASH that it should have computed."""
