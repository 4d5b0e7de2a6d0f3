"""One X.509 certificate as this product sees it: RFC 5280, over the library's parser.

What cannot be read is refused with the name of the part; an extension that is critical and that nobody here
knows makes the certificate unusable (RFC 5280 §4.2), which the chain says."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from stockade.crypto.signatures import PublicKey
from stockade.model.distinguished_names import KEYWORDS
from stockade.model.identities import Identity, IdentityType
from stockade.model.reasons import ReasonCode, error_for
from stockade.pki.names import Part, fold, name_text

MAXIMUM_SIZE = 64 * 1024
_REMEMBERED, _REMEMBERED_SIZE = 256, 4096

MAXIMUM_POINTS = 4

_UNDERSTOOD = frozenset(
    {
        x509.BasicConstraints.oid,
        x509.KeyUsage.oid,
        x509.ExtendedKeyUsage.oid,
        x509.SubjectAlternativeName.oid,
        x509.CRLDistributionPoints.oid,
        x509.CertificatePolicies.oid,  # any policy will do: none is asked for
    }
)


@dataclass(frozen=True, slots=True)
class Constraints:
    """Basic constraints (RFC 5280 §4.2.1.9). `path_length` None = any."""

    authority: bool
    path_length: int | None


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate that could be read. `subject` and `issuer` are the DER of the names; the `_parts` are for
    comparison with text. `key_usage` None = the extension is not there, so any use; the words are those of
    the extension. `unknown_critical`: object identifiers."""

    der: bytes
    subject: bytes
    issuer: bytes
    subject_parts: tuple[Part, ...]
    subject_text: str
    issuer_text: str
    serial_number: int
    not_before: datetime
    not_after: datetime
    public_key: PublicKey
    constraints: Constraints | None
    key_usage: frozenset[str] | None
    extended_key_usage: frozenset[str] | None
    alternative_names: tuple[Identity, ...]
    unknown_critical: tuple[str, ...]
    distribution_points: tuple[str, ...]
    """Where its revocation list is, as http URLs; at most `MAXIMUM_POINTS`."""
    hash_name: str
    signature: bytes
    signed_part: bytes

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the DER, in hexadecimal digits."""
        return hashlib.sha256(self.der).hexdigest()

    @property
    def self_issued(self) -> bool:
        return self.subject == self.issuer

    def issued(self, other: "Certificate") -> bool:
        """Whether this certificate's key signed the other one. Names are not compared."""
        if len(self.der) > _REMEMBERED_SIZE or len(other.der) > _REMEMBERED_SIZE:
            return _signed(self, other)
        key = (self.der, other.der)
        known = _signatures.get(key)
        if known is None:
            known = _signed(self, other)
            if len(_signatures) >= _REMEMBERED:
                _signatures.clear()
            _signatures[key] = known
        return known

    @property
    def identity(self) -> Identity:
        """The subject as an IKE identity."""
        return Identity(IdentityType.DER_ASN1_DN, self.subject)


def read_certificate(der: bytes) -> Certificate:
    """Parse one certificate, DER. `PeerError` CERTIFICATE_INVALID or CERTIFICATE_KEY."""
    if len(der) > MAXIMUM_SIZE:
        raise error_for(ReasonCode.CERTIFICATE_INVALID, f"a certificate of {len(der)} bytes is too long")
    return _remembered(der) if len(der) <= _REMEMBERED_SIZE else _parse(der)


def _parse(der: bytes) -> Certificate:
    try:
        return _read(x509.load_der_x509_certificate(der))
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension) as fault:
        raise error_for(ReasonCode.CERTIFICATE_INVALID, f"{type(fault).__name__} while reading it") from None


def _signed(issuer: Certificate, subject: Certificate) -> bool:
    return issuer.public_key.verify_link(subject.hash_name, subject.signature, subject.signed_part)


# Who signed what is written in the two certificates and never changes, and peers come again. What depends on
# time, trust or revocation is judged anew each time. Bounded in number and size.
_signatures: dict[tuple[bytes, bytes], bool] = {}

# One handshake reads a certificate twice (its key, then its chain), and peers come again. What was read says
# nothing of trust or time: those are judged anew each time. Bounded in number and size.
_remembered = lru_cache(maxsize=_REMEMBERED)(_parse)


def _read(certificate: x509.Certificate) -> Certificate:
    extensions = certificate.extensions
    constraints: Constraints | None = None
    key_usage: frozenset[str] | None = None
    extended: frozenset[str] | None = None
    names: tuple[Identity, ...] = ()
    points: tuple[str, ...] = ()
    unknown: list[str] = []
    for extension in extensions:
        value = extension.value
        if isinstance(value, x509.BasicConstraints):
            constraints = Constraints(value.ca, value.path_length)
        elif isinstance(value, x509.KeyUsage):
            key_usage = _key_usage(value)
        elif isinstance(value, x509.ExtendedKeyUsage):
            extended = frozenset(usage.dotted_string for usage in value)
        elif isinstance(value, x509.SubjectAlternativeName):
            names = _alternative_names(value)
        elif isinstance(value, x509.CRLDistributionPoints):
            points = _http_points(value)
        # Name constraints bind whether critical or not, and are not understood here: better no chain than one
        # that its authority forbids.
        binding = extension.critical or isinstance(value, x509.NameConstraints)
        if binding and extension.oid not in _UNDERSTOOD:
            unknown.append(extension.oid.dotted_string)
    algorithm = certificate.signature_hash_algorithm
    return Certificate(
        der=certificate.public_bytes(serialization.Encoding.DER),
        subject=certificate.subject.public_bytes(),
        issuer=certificate.issuer.public_bytes(),
        subject_parts=name_parts(certificate.subject),
        subject_text=shown_name(certificate.subject),
        issuer_text=shown_name(certificate.issuer),
        serial_number=certificate.serial_number,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        public_key=PublicKey(certificate.public_key()),
        constraints=constraints,
        key_usage=key_usage,
        extended_key_usage=extended,
        alternative_names=names,
        unknown_critical=tuple(unknown),
        distribution_points=points,
        hash_name=signature_hash(certificate.signature_algorithm_oid.dotted_string, algorithm),
        signature=certificate.signature,
        signed_part=certificate.tbs_certificate_bytes,
    )


_PSS = "1.2.840.113549.1.1.10"


def signature_hash(algorithm_oid: str, algorithm: object) -> str:
    """The hash of a link's signature as hashlib writes it; empty for signatures that are not verified here
    (RSA-PSS, EdDSA), so that no link with them holds."""
    name = getattr(algorithm, "name", "")
    return str(name) if algorithm_oid != _PSS else ""


def _pairs(name: x509.Name) -> list[tuple[str, str]]:
    pairs = []
    for attribute in name:
        identifier = attribute.oid.dotted_string
        value = attribute.value if isinstance(attribute.value, str) else attribute.value.hex()
        pairs.append((KEYWORDS.get(identifier, identifier), value))
    return pairs


def name_parts(name: x509.Name) -> tuple[Part, ...]:
    return tuple((keyword, fold(value)) for keyword, value in _pairs(name))


def shown_name(name: x509.Name) -> str:
    return name_text(tuple(_pairs(name))) or "(no name)"


def _http_points(value: x509.CRLDistributionPoints) -> tuple[str, ...]:
    """The places of lists that speak of every reason and are signed by the issuer itself."""
    urls = [
        name.value
        for point in value
        if point.full_name and not point.reasons and not point.crl_issuer
        for name in point.full_name
        if isinstance(name, x509.UniformResourceIdentifier)
    ]
    usable = [url for url in urls if url.lower().startswith("http://") and len(url) <= 1024]
    return tuple(usable[:MAXIMUM_POINTS])


def _key_usage(value: x509.KeyUsage) -> frozenset[str]:
    words = ("digital_signature", "content_commitment", "key_encipherment", "key_cert_sign", "crl_sign")
    return frozenset(word for word in words if getattr(value, word))


def _alternative_names(value: x509.SubjectAlternativeName) -> tuple[Identity, ...]:
    names: list[Identity] = []
    for entry in value:
        if isinstance(entry, x509.DNSName):
            names.append(Identity(IdentityType.FQDN, entry.value.encode()))
        elif isinstance(entry, x509.RFC822Name):
            names.append(Identity(IdentityType.USER_FQDN, entry.value.encode()))
        elif isinstance(entry, x509.IPAddress) and isinstance(entry.value, IPv4Address | IPv6Address):
            names.append(Identity.address(entry.value))
        elif isinstance(entry, x509.DirectoryName):
            names.append(Identity(IdentityType.DER_ASN1_DN, entry.value.public_bytes()))
    return tuple(names)
