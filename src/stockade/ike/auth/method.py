"""The seam of main-mode authentication: what differs between pre-shared keys, certificates and Kerberos.

    message                    3 / 4                 5 / 6
    pre-shared key             –                     ID, HASH
    signature                  [CERTREQ …]           ID, [CERT …], SIG
    GSS-API (Kerberos)         token                 ID, wrapped HASH

What may block (Kerberos talks with a domain controller) is a `Task`: the engine gives it away, and the
exchange goes on with the method that it returns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from stockade.model.addresses import Address
from stockade.model.identities import Identity
from stockade.model.negotiation import AuthenticationMethod
from stockade.model.quickly_made import quickly_made
from stockade.model.reasons import ReasonCode
from stockade.model.secret import Secret
from stockade.model.suites import Hash
from stockade.pki.access import Proof
from stockade.wire.isakmp.constants import PayloadType
from stockade.wire.isakmp.payloads import (
    Attribute,
    CertificatePayload,
    CertificateRequestPayload,
    IdentificationPayload,
    Payload,
)

NOTHING_PROVED = Proof()


@quickly_made
@dataclass(frozen=True, slots=True)
class Task:
    """Work that may block. `run` raises `StockadeError` where it fails, and touches nothing of the engine.

    `about` says what it gets, for people. `broken` is the reason where it fails in a way that nobody thought
    of, `silence` where it takes too long; `without`, which does not block, says instead how it ends then."""

    run: "Callable[[], AuthMethod]"
    about: str
    broken: ReasonCode
    silence: ReasonCode
    without: "Callable[[], AuthMethod] | None" = None


class Prover(Protocol):
    """This host, about to prove who it is."""

    @property
    def identity(self) -> IdentificationPayload:
        """What we call ourselves; HASH_I or HASH_R covers it."""

    def prove(self, digest: bytes) -> tuple[Payload, ...]:
        """What follows the identity in message 5 or 6: the proof over HASH_I or HASH_R."""


@quickly_made
@dataclass(frozen=True, slots=True)
class Presented:
    """What the peer says in message 5 or 6."""

    identity: IdentificationPayload
    proof: Payload
    certificates: tuple[CertificatePayload, ...] = ()


@quickly_made
@dataclass(frozen=True, slots=True)
class Authenticated:
    """Who the peer has proved to be, and `method` narrowed to the credential that it used: what decides
    which rules the main mode may serve. `proof`: what access lists are asked about."""

    identity: Identity
    method: "AuthMethod"
    proof: Proof = NOTHING_PROVED
    pending: Task | None = None
    """What must be looked up, where it may block, before all this counts; it raises where it does not."""


class OneRound:
    """What `AuthMethod` asks for and methods that prove all in messages 5 and 6 do not need."""

    exchanged: tuple[PayloadType, ...] = ()
    attributes: tuple[Attribute, ...] = ()

    __slots__ = ()

    def prepare(self, offered: Sequence[Attribute]) -> Task | None:
        return None

    def answer(self, offered: Sequence[Attribute], received: Sequence[Payload]) -> Task | None:
        return None

    def covered(self, *, own: bool) -> bytes:
        return b""


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

    @property
    def exchanged(self) -> tuple[PayloadType, ...]:
        """What messages 3 and 4 need beside key exchange and nonce."""

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """What the transform of message 1 or 2 says beside the proposal."""

    def prepare(self, offered: Sequence[Attribute]) -> Task | None:
        """Initiator, before message 3. `offered`: the attributes of the transform that the peer chose."""

    def answer(self, offered: Sequence[Attribute], received: Sequence[Payload]) -> Task | None:
        """Responder, after message 3, with its payloads."""

    def complete(self, received: Sequence[Payload]) -> "AuthMethod":
        """Initiator, on message 4: the method to go on with. Does not block; `PeerError` refuses."""

    def covered(self, *, own: bool) -> bytes:
        """What HASH covers beyond the identity: of our HASH, or of the peer's."""

    def requests(self) -> tuple[Payload, ...]:
        """What message 3 or 4 carries beside key exchange and nonce: requests, tokens."""

    def prover(self, local: Address, asked: Sequence[CertificateRequestPayload]) -> Prover:
        """Our side of the proof; `asked` is what the peer's message 3 or 4 asks of us."""

    def authenticate(self, presented: Presented, digest: bytes, remote: Address | None) -> Authenticated:
        """Judge the peer's proof by the HASH that it should have computed; `PeerError` says what is wrong.
        `remote` None: the peer is behind a NAT, and the address that it knows is another one."""
