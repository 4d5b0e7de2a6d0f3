"""Authentication with Kerberos V5 through GSS-API (method 65001; [MS-IKEE] §1.1 names a draft,
ipsec-isakmp-gss-auth-07, that is no longer to be had: the flow is what implementations of it do).

         initiator                                   responder
      1  HDR, SA (name of the initiator)   ->
      2                                     <-       HDR, SA (name of the responder)
      3  HDR, KE, Ni, token                ->
      4                                     <-       HDR, KE, Nr, token
      5  HDR*, IDii, HASH_I                ->
      6                                     <-       HDR*, IDir, HASH_R

Each transform with the method carries the attribute 16384, a principal in UTF-16 (little-endian, as Windows
writes it). The initiator asks its domain controller for a ticket for the responder's; the tokens are the two
messages of Kerberos' mutual authentication. SKEYID is that of signatures. HASH covers, after the identity,
the sender's name and tokens, and goes sealed with the session key that the tokens made: so names, tokens and
Diffie-Hellman values are bound together, and only who holds the keys of both principals can send it.

Getting a ticket and looking into a keytab may block: both are tasks that the engine gives away. Who the peer
is says the ticket, not its ID payload.

Left out: contexts that need more than one message each way (Kerberos never does), user credentials,
delegation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from stockade.crypto.hashing import equal
from stockade.crypto.ikev1_keys import signature_skeyid
from stockade.ike.auth.method import Authenticated, Presented, Task
from stockade.ike.v1.identities import check_peer_identity, own_identity
from stockade.model.addresses import Address
from stockade.model.identities import Identity
from stockade.model.negotiation import AuthenticationMethod, Kerberos
from stockade.model.reasons import Reason, ReasonCode, error_for
from stockade.model.secret import Secret
from stockade.model.suites import Hash
from stockade.pki.access import Proof
from stockade.wire.isakmp.constants import AuthenticationMethodNumber, IkeAttribute, PayloadType
from stockade.wire.isakmp.payloads import (
    Attribute,
    CertificateRequestPayload,
    GssPayload,
    HashPayload,
    IdentificationPayload,
    Payload,
)

GSS_KERBEROS = int(AuthenticationMethodNumber.GSS_KERBEROS)
MAXIMUM_NAME = 1024  # bytes of UTF-16
MAXIMUM_TOKEN = 48 * 1024
"""Tickets with many groups in them are large; a UDP datagram holds less than 64 KiB."""


class GssContext(Protocol):
    """One security context. Nothing of it blocks; `PeerError` KERBEROS_REFUSED for what the peer did."""

    @property
    def token(self) -> bytes:
        """What the peer must get to complete its side."""

    @property
    def peer(self) -> str:
        """The principal that the peer has proved to be."""

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups that the ticket says the peer is in, if it says any."""

    @property
    def groups_unknown(self) -> str:
        """Why these are not all its groups; empty where they are."""

    def complete(self, token: bytes) -> None:
        """The initiator's last step: the responder's token."""

    def wrap(self, data: bytes) -> bytes:
        """Seal, with confidentiality."""

    def unwrap(self, data: bytes) -> bytes: ...


class GssSource(Protocol):
    """This host's Kerberos. Implemented by `stockade.agent.kerberos`."""

    def own_name(self) -> str | Reason:
        """Our principal, or why we have none. Does not block."""

    def initiate(self, peer: str) -> GssContext:
        """A context towards the principal `peer`, with its first token. May block; `StockadeError`."""

    def accept(self, token: bytes) -> GssContext:
        """A complete context from the peer's token. May block; `StockadeError`."""


def kerberos_method(source: GssSource | None) -> "KerberosMethod | Reason":
    """The method, if this host has Kerberos."""
    if source is None:
        return Reason.of(ReasonCode.KERBEROS_UNAVAILABLE, "this host has no keytab")
    name = source.own_name()
    return name if isinstance(name, Reason) else KerberosMethod(source, name)


@dataclass(frozen=True, slots=True)
class _Session:
    """What belongs to one negotiation. Names and tokens as they went over the wire."""

    context: GssContext
    peer_name: bytes
    own_token: bytes
    peer_token: bytes = b""


@dataclass(frozen=True, slots=True)
class KerberosProver:
    """We are the principal of our keytab; the ID payload has our address."""

    identity: IdentificationPayload
    context: GssContext

    def prove(self, digest: bytes) -> tuple[Payload, ...]:
        return (HashPayload(self.context.wrap(digest)),)


class KerberosMethod:
    """Implements `AuthMethod`."""

    number = GSS_KERBEROS
    name = "kerberos"
    mismatch = ReasonCode.AUTHENTICATION_FAILED
    garbled = ReasonCode.DECRYPTION_FAILED
    proof_type = PayloadType.HASH
    exchanged = (PayloadType.GSS,)

    __slots__ = ("_name", "_session", "_source")

    def __init__(self, source: GssSource, name: str, session: _Session | None = None) -> None:
        self._source = source
        self._name = name.encode("utf-16-le")
        self._session = session

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        return (Attribute(IkeAttribute.GSS_IDENTITY_NAME, self._name),)

    def same_as(self, configured: AuthenticationMethod) -> bool:
        return isinstance(configured, Kerberos)

    def skeyid(self, hash_name: Hash, nonce_i: bytes, nonce_r: bytes, shared: Secret) -> Secret:
        return signature_skeyid(hash_name, nonce_i, nonce_r, shared)

    def proof_hash(self, negotiated: Hash) -> Hash:
        return negotiated

    # ---- the tokens
    def prepare(self, offered: Sequence[Attribute]) -> Task:
        name = _name_in(offered)
        peer = _read_name(name)

        def task() -> KerberosMethod:
            context = self._source.initiate(peer)
            return self._with(_Session(context, name, context.token))

        return _task(task, f"a ticket for {peer}")

    def answer(self, offered: Sequence[Attribute], received: Sequence[Payload]) -> Task:
        name, token = _name_in(offered), _token_in(received)

        def task() -> KerberosMethod:
            context = self._source.accept(token)
            return self._with(_Session(context, name, context.token, token))

        return _task(task, "a look into the keytab")

    def complete(self, received: Sequence[Payload]) -> "KerberosMethod":
        session, token = self._begun, _token_in(received)
        session.context.complete(token)
        return self._with(_Session(session.context, session.peer_name, session.own_token, token))

    def covered(self, *, own: bool) -> bytes:
        session = self._begun
        return self._name + session.own_token if own else session.peer_name + session.peer_token

    def requests(self) -> tuple[Payload, ...]:
        return (GssPayload(self._begun.own_token),)

    # ---- the proof
    def prover(self, local: Address, asked: Sequence[CertificateRequestPayload]) -> KerberosProver:
        return KerberosProver(own_identity(local), self._begun.context)

    def authenticate(self, presented: Presented, digest: bytes, remote: Address | None) -> Authenticated:
        context, proof = self._begun.context, presented.proof
        check_peer_identity(presented.identity, remote)
        if not isinstance(proof, HashPayload) or not equal(context.unwrap(proof.data), digest):
            raise error_for(
                ReasonCode.KERBEROS_REFUSED, "the peer's sealed HASH is another one", peer=context.peer
            )
        # The context has done its work; what is kept is a method without it.
        method = KerberosMethod(self._source, self._name.decode("utf-16-le"))
        return Authenticated(Identity.principal(context.peer), method, _proof(context))

    @property
    def _begun(self) -> _Session:
        assert self._session is not None, "the tokens come before the proof"
        return self._session

    def _with(self, session: _Session) -> "KerberosMethod":
        return KerberosMethod(self._source, self._name.decode("utf-16-le"), session)


def _task(run: Callable[[], KerberosMethod], about: str) -> Task:
    return Task(run, about, ReasonCode.KERBEROS_UNAVAILABLE, ReasonCode.KERBEROS_UNREACHABLE)


def _proof(context: GssContext) -> Proof:
    name, _, realm = context.peer.rpartition("@")
    host = (name.removeprefix("host/"),) if name.startswith("host/") else ()
    return Proof(
        names=(context.peer, *host),
        groups=context.groups,
        groups_unknown=context.groups_unknown,
        domains=(realm,),
    )


def _name_in(attributes: Sequence[Attribute]) -> bytes:
    """The peer's name as it came; empty where it gives none."""
    for attribute in attributes:
        if attribute.type == IkeAttribute.GSS_IDENTITY_NAME and isinstance(attribute.value, bytes):
            return attribute.value
    return b""


def _read_name(name: bytes) -> str:
    """The principal to get a ticket for. `PeerError` KERBEROS_REFUSED."""
    text = ""
    if len(name) <= MAXIMUM_NAME:
        try:
            text = name.decode("utf-16-le").rstrip("\0")
        except UnicodeDecodeError:
            text = ""
    if not text or not text.isprintable():
        raise error_for(ReasonCode.KERBEROS_REFUSED, "the peer chose Kerberos and names no principal")
    return text


def _token_in(received: Sequence[Payload]) -> bytes:
    for payload in received:
        if isinstance(payload, GssPayload) and len(payload.data) <= MAXIMUM_TOKEN:
            return payload.data
    raise error_for(ReasonCode.KERBEROS_REFUSED, "the peer sent no token of an acceptable size")
