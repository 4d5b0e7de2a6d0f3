"""Authentication with signatures (RFC 2409 §5.1; ECDSA: RFC 4754): each end signs its HASH and sends the
certificates that lead to a root which the other end's rule names.

A rule may name several roots: they make one method per kind of key, since the number that is negotiated says
nothing about roots. Which of our certificates we show is decided by what the peer asks for (CERTREQ); without
a request, or with one that we cannot meet, it is the first one of the first root.

We call ourselves by the subject of our certificate. A peer's distinguished name, host name or mail address
must be in its certificate; an address that is not must at least be the one that it speaks from, and then the
subject is what is recorded. Names are compared with nothing else, as Windows compares them with nothing.

Left out: requests for other kinds of certificates, certificates in other messages than 5 and 6 ([MS-IKEE]
§3.1.5)."""

from collections.abc import Sequence
from dataclasses import dataclass

from stockade.crypto.ikev1_keys import signature_skeyid
from stockade.crypto.signatures import ECDSA_HASHES
from stockade.ike.auth.method import Authenticated, OneRound, Presented, Task
from stockade.ike.v1.identities import read_peer_identity
from stockade.model.addresses import Address
from stockade.model.distinguished_names import name_text
from stockade.model.identities import Identity, IdentityType
from stockade.model.negotiation import AuthenticationMethod, Certificate
from stockade.model.quickly_made import quickly_made
from stockade.model.reasons import CallerError, PeerError, Reason, ReasonCode, error_for
from stockade.model.secret import Secret
from stockade.model.suites import Hash
from stockade.pki import certificate as x509
from stockade.pki.access import Proof
from stockade.pki.containers import read_bundle
from stockade.pki.credentials import CredentialSource, OwnCertificate, VerifiedPeer
from stockade.pki.names import parse_name
from stockade.wire.isakmp.constants import CertificateEncoding, PayloadType
from stockade.wire.isakmp.payloads import (
    CertificatePayload,
    CertificateRequestPayload,
    IdentificationPayload,
    Payload,
    SignaturePayload,
)

MAXIMUM_REQUESTS = 16
MAXIMUM_CERTIFICATES = 16
MAXIMUM_SHOWN = 200  # characters of an address that a certificate names
_EMPTY_NAME = bytes.fromhex("3000")


def certificate_methods(
    configured: Sequence[Certificate], source: CredentialSource
) -> "list[CertificateMethod] | Reason":
    """The methods that the certificates of one rule make, in order of preference, or why there are none."""
    own: dict[int, list[OwnCertificate]] = {}
    refusals: list[Reason] = []
    allowed: list[Certificate] = []
    for entry in configured:
        allowed.append(entry)
        found = source.own(entry.root_ca)
        if isinstance(found, Reason):
            refusals.append(found)
            continue
        for certificate in found:
            own.setdefault(certificate.method, []).append(certificate)
    if not own:
        return refusals[0] if refusals else Reason.of(ReasonCode.NO_CERTIFICATE)
    return [
        CertificateMethod(tuple(allowed), tuple(certificates), number, source)
        for number, certificates in own.items()
    ]


@quickly_made
@dataclass(frozen=True, slots=True)
class CertificateProver:
    """We are what our certificate says, and can sign with its key."""

    identity: IdentificationPayload
    own: OwnCertificate

    def prove(self, digest: bytes) -> tuple[Payload, ...]:
        # The root itself is not sent: the peer has it, or it would not help.
        links = self.own.chain[:-1] or (self.own.certificate,)
        certificates = [CertificatePayload(CertificateEncoding.X509_SIGNATURE, link.der) for link in links]
        return (*certificates, SignaturePayload(self.own.private_key.sign_ike(digest)))


class CertificateMethod(OneRound):
    """Implements `AuthMethod`. `own` is not empty; all its keys are of the kind that `number` says."""

    mismatch = ReasonCode.AUTHENTICATION_FAILED
    garbled = ReasonCode.DECRYPTION_FAILED
    proof_type = PayloadType.SIGNATURE

    __slots__ = ("_configured", "_own", "_source", "name", "number")

    def __init__(
        self,
        configured: tuple[Certificate, ...],
        own: tuple[OwnCertificate, ...],
        number: int,
        source: CredentialSource,
    ) -> None:
        self._configured = configured
        self._own = own
        self._source = source
        self.number = number
        self.name = f"certificate ({own[0].private_key.public.kind})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CertificateMethod) and (other.number, other._configured) == (
            self.number,
            self._configured,
        )

    def __hash__(self) -> int:
        return hash((self.number, self._configured))

    def same_as(self, configured: AuthenticationMethod) -> bool:
        return isinstance(configured, Certificate) and any(
            (entry.root_ca, entry.map_to_account) == (configured.root_ca, configured.map_to_account)
            for entry in self._configured
        )

    def skeyid(self, hash_name: Hash, nonce_i: bytes, nonce_r: bytes, shared: Secret) -> Secret:
        return signature_skeyid(hash_name, nonce_i, nonce_r, shared)

    def proof_hash(self, negotiated: Hash) -> Hash:
        return ECDSA_HASHES.get(self.number, negotiated)

    def complete(self, received: Sequence[Payload]) -> "CertificateMethod":
        return self

    def requests(self) -> tuple[Payload, ...]:
        """One request per authority; a single one without a name where a rule keeps the name to itself, or
        the store does not know the authority."""
        names: list[bytes] = []
        for entry in self._configured:
            known = self._source.authority_names(entry.root_ca)
            if entry.exclude_ca_name or not known:
                return (CertificateRequestPayload(CertificateEncoding.X509_SIGNATURE, b""),)
            names += known
        return tuple(
            CertificateRequestPayload(CertificateEncoding.X509_SIGNATURE, name)
            for name in list(dict.fromkeys(names))[:MAXIMUM_REQUESTS]
        )

    def prover(self, local: Address, asked: Sequence[CertificateRequestPayload]) -> CertificateProver:
        wanted = {entry.authority for entry in asked}
        own = next((entry for entry in self._own if _serves(entry, wanted)), self._own[0])
        return CertificateProver(_own_identity(own.certificate), own)

    def authenticate(self, presented: Presented, digest: bytes, remote: Address | None) -> Authenticated:
        certificates = _sent(presented.certificates)
        if not certificates:
            raise error_for(ReasonCode.NO_PEER_CERTIFICATE)
        key = x509.read_certificate(certificates[0]).public_key
        if key.method != self.number:
            detail = f"the peer's certificate has an {key.kind} key, agreed was {self.name}"
            raise error_for(ReasonCode.INVALID_SIGNATURE, detail)
        proof = presented.proof
        if not isinstance(proof, SignaturePayload) or not key.verify_ike(digest, proof.data):
            raise error_for(ReasonCode.INVALID_SIGNATURE, "the peer's signature of HASH does not verify")
        source, roots = self._source, [entry.root_ca for entry in self._configured]
        verdict = source.verify(certificates, roots)
        if isinstance(verdict, Reason):
            raise PeerError(verdict)
        identity = _checked_identity(presented.identity, verdict.certificate, remote)
        used = tuple(entry for entry in self._configured if entry.root_ca == verdict.root_ca)
        method = CertificateMethod(used, self._own, self.number, self._source)
        wanted = verdict.wanted

        def settle(asked: Sequence[str]) -> CertificateMethod:
            settled = source.settle(certificates, roots, asked)
            if isinstance(settled, Reason):
                raise PeerError(settled)
            return method

        pending = Task(
            lambda: settle(wanted),
            f"{len(wanted)} revocation lists (first {wanted[0][:MAXIMUM_SHOWN]})" if wanted else "",
            ReasonCode.INTERNAL,
            ReasonCode.CERTIFICATE_REVOKED,
            lambda: settle(()),  # by the lists that are here, as strictly as the settings say
        )
        return Authenticated(identity, method, _proof(verdict, used), pending if wanted else None)


def _proof(verdict: VerifiedPeer, used: tuple[Certificate, ...]) -> Proof:
    """`used`: the entries of the rule that the certificate meets; it must be mapped where all of them ask for
    that."""
    certificate = verdict.certificate
    hosts = [str(name) for name in certificate.alternative_names if name.type == IdentityType.FQDN]
    return Proof(
        names=(certificate.subject_text, *map(str, certificate.alternative_names)),
        domains=tuple(dict.fromkeys(host.partition(".")[2] for host in hosts if "." in host)),
        authorities=(verdict.root_ca, *verdict.authorities),
        subject=certificate.subject_text,
        issuer=certificate.issuer_text,
        must_map=all(entry.map_to_account for entry in used),
    )


def _serves(own: OwnCertificate, wanted: set[bytes]) -> bool:
    """Whether our certificate is one that the peer asks for. No name asks for any."""
    return b"" in wanted or any(link.subject in wanted for link in own.chain[1:] or own.chain)


def _own_identity(certificate: x509.Certificate) -> IdentificationPayload:
    identity = certificate.identity
    if identity.data == _EMPTY_NAME and certificate.alternative_names:
        identity = certificate.alternative_names[0]
    return IdentificationPayload(identity.type, 0, 0, identity.data)


def _sent(payloads: Sequence[CertificatePayload]) -> list[bytes]:
    """The certificates that the peer sent, in its order; other kinds are passed over."""
    found: list[bytes] = []
    for payload in payloads:
        if payload.encoding == CertificateEncoding.X509_SIGNATURE:
            found.append(payload.data)
        elif payload.encoding == CertificateEncoding.PKCS7_WRAPPED_X509:
            found += read_bundle(payload.data)
    return found[:MAXIMUM_CERTIFICATES]


def _same_subject(identity: Identity, certificate: x509.Certificate) -> bool:
    """Whether a distinguished name is the certificate's subject in other string types (strongSwan writes
    what its configuration says, the issuing authority wrote something else)."""
    text = name_text(identity.data) if identity.type == IdentityType.DER_ASN1_DN else None
    try:
        return text is not None and parse_name(text) == certificate.subject_parts
    except CallerError:
        return False


def _is_address_of(identity: Identity, remote: Address | None) -> bool:
    if remote is None:
        return identity.type in (IdentityType.IPV4_ADDR, IdentityType.IPV6_ADDR)
    return identity == Identity.address(remote)


def _checked_identity(
    payload: IdentificationPayload, certificate: x509.Certificate, remote: Address | None
) -> Identity:
    identity = read_peer_identity(payload)
    if identity in (certificate.identity, *certificate.alternative_names):
        return identity
    if identity.type in (IdentityType.FQDN, IdentityType.USER_FQDN):
        names = {(entry.type, entry.data.lower()) for entry in certificate.alternative_names}
        if (identity.type, identity.data.lower()) in names:
            return identity
    elif _is_address_of(identity, remote) or _same_subject(identity, certificate):
        return certificate.identity
    raise error_for(
        ReasonCode.INVALID_IDENTITY,
        f"the peer calls itself {identity}, which is not in its certificate",
        certificate=certificate.subject_text,
    )
