"""The seam of main-mode authentication: what differs between pre-shared keys, certificates and Kerberos.

    message                    3 / 4                 5 / 6
    pre-shared key             –                     ID, HASH
    signature                  [CERTREQ …]           ID, [CERT …], SIG
    (GSS-API                   token                 ID, wrapped HASH)

Built: the pre-shared key and signatures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from stockade.model.addresses import Address
from stockade.model.identities import Identity
from stockade.model.negotiation import AuthenticationMethod
from stockade.model.reasons import ReasonCode
from stockade.model.secret import Secret
from stockade.model.suites import Hash
from stockade.wire.isakmp.constants import PayloadType
from stockade.wire.isakmp.payloads import (
    CertificatePayload,
    CertificateRequestPayload,
    IdentificationPayload,
    Payload,
)


class Prover(Protocol):
    """This host, about to prove who it is."""

    @property
    def identity(self) -> IdentificationPayload:
        """What we call ourselves; HASH_I or HASH_R covers it."""

    def prove(self, digest: bytes) -> tuple[Payload, ...]:
        """What follows the identity in message 5 or 6: the proof over HASH_I or HASH_R."""


@dataclass(frozen=True, slots=True)
class Presented:
    """What the peer says in message 5 or 6."""

    identity: IdentificationPayload
    proof: Payload
    certificates: tuple[CertificatePayload, ...] = ()


@dataclass(frozen=True, slots=True)
class Authenticated:
    """Who the peer has proved to be, and `method` narrowed to the credential that it used: what decides
    which rules the main mode may serve."""

    identity: Identity
    method: "AuthMethod"


class AuthMethod(Protocol):
    """One way to authenticate, with this host's credentials in it."""

    @property
    def number(self) -> int:
        """The value of the Authentication Method attribute (RFC 2409 Appendix A)."""

    @property
    def name(self) -> str:
        """As reports and `show mmsas` print it."""

    @property
    def mismatch(self) -> ReasonCode:
        """The likely cause where no answer comes to our proof, or an unprotected complaint."""

    @property
    def garbled(self) -> ReasonCode:
        """The likely cause where the encrypted message that carries the proof makes no sense."""

    @property
    def proof_type(self) -> PayloadType:
        """The payload that carries the proof."""

    def same_as(self, configured: AuthenticationMethod) -> bool:
        """Whether `configured` is this method with the same credential."""

    def skeyid(self, hash_name: Hash, nonce_i: bytes, nonce_r: bytes, shared: Secret) -> Secret:
        """SKEYID (RFC 2409 §5), from the nonces' bodies and g^xy."""

    def proof_hash(self, negotiated: Hash) -> Hash:
        """The hash whose HMAC makes HASH_I and HASH_R."""

    def requests(self) -> tuple[Payload, ...]:
        """What message 3 or 4 asks of the peer."""

    def prover(self, local: Address, asked: Sequence[CertificateRequestPayload]) -> Prover:
        """Our side of the proof; `asked` is what the peer's message 3 or 4 asks of us."""

    def authenticate(self, presented: Presented, digest: bytes, remote: Address | None) -> Authenticated:
        """Judge the peer's proof by the HASH that it should have computed; `PeerError` says what is wrong.
        `remote` None: the peer is behind a NAT, and the address that it knows is another one."""
