"""Certificates for tests: authorities, hosts, revocation lists, made when a test asks for them."""

import datetime
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import NameOID, ObjectIdentifier

from stockade.crypto.signatures import PrivateKey
from stockade.pki.certificate import Certificate, read_certificate
from stockade.pki.credentials import OwnCertificate
from stockade.pki.revocation import RevocationList, read_revocation_list

DER, PEM = serialization.Encoding.DER, serialization.Encoding.PEM
NOW = datetime.datetime(2026, 6, 1, 12, 0, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
CURVES = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}
DIGITAL_SIGNATURE = ("digital_signature",)
AUTHORITY_USAGE = ("key_cert_sign", "crl_sign")
_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "ZZ"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Laboratory"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def root_name(common_name: str = "Root") -> str:
    """As a rule names it."""
    return f"C=ZZ, O=Laboratory, CN={common_name}"


def new_key(kind: str = "p256") -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    """`rsa<bits>` or a curve."""
    if kind.startswith("rsa"):
        return rsa.generate_private_key(65_537, int(kind[3:]))
    return ec.generate_private_key(CURVES[kind])


@dataclass
class Made:
    """A certificate with its key; authorities can `issue` and `revoke`."""

    x509: x509.Certificate
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
    issuer: "Made | None" = None
    revoked: list[int] = field(default_factory=list)

    @property
    def der(self) -> bytes:
        return self.x509.public_bytes(DER)

    @property
    def pem(self) -> bytes:
        return self.x509.public_bytes(PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())

    @property
    def read(self) -> Certificate:
        return read_certificate(self.der)

    @property
    def own(self) -> OwnCertificate:
        return OwnCertificate(self.read, PrivateKey.load(self.key_pem))

    def pkcs12(self, password: bytes, *others: "Made", nickname: bytes = b"host") -> bytes:
        return pkcs12.serialize_key_and_certificates(
            nickname,
            self.key,
            self.x509,
            [other.x509 for other in others],
            serialization.BestAvailableEncryption(password),
        )

    def issue(self, common_name: str, kind: str = "p256", **options: object) -> "Made":
        return make(common_name, kind, issuer=self, **options)  # type: ignore[arg-type]

    def revocation_list(
        self,
        *revoked: "Made",
        moment: datetime.datetime = NOW,
        days: int = 7,
        signer: "Made | None" = None,
        partial: bool = False,
    ) -> RevocationList:
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.x509.subject)
            .last_update(moment - DAY)
            .next_update(moment + days * DAY if days > 0 else moment - DAY / 2)
        )
        for entry in revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(entry.x509.serial_number)
                .revocation_date(moment - DAY)
                .build()
            )
        if partial:
            point = x509.IssuingDistributionPoint(None, None, True, False, None, False, False)
            builder = builder.add_extension(point, critical=True)
        signed = builder.sign((signer or self).key, hashes.SHA256())
        return read_revocation_list(signed.public_bytes(DER))


def make(
    common_name: str,
    kind: str = "p256",
    *,
    issuer: Made | None = None,
    authority: bool = False,
    path_length: int | None = None,
    constraints: bool = True,
    usage: Iterable[str] | None = None,
    extended: Iterable[str] = (),
    names: Iterable[str] = (),
    start: datetime.datetime = NOW - 30 * DAY,
    end: datetime.datetime = NOW + 365 * DAY,
    critical: str = "",
    points: Iterable[str] = (),
) -> Made:
    key = new_key(kind)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(common_name))
        .issuer_name(name(common_name) if issuer is None else issuer.x509.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
    )
    if constraints:
        builder = builder.add_extension(x509.BasicConstraints(authority, path_length), critical=True)
    chosen = set(usage if usage is not None else AUTHORITY_USAGE if authority else DIGITAL_SIGNATURE)
    if chosen:
        builder = builder.add_extension(
            x509.KeyUsage(**{word: word in chosen for word in _USAGES}), critical=True
        )
    if extended:
        usages = [ObjectIdentifier(entry) for entry in extended]
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    if names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_general_name(entry) for entry in names]), critical=False
        )
    if points:
        places = [x509.UniformResourceIdentifier(url) for url in points]
        point = x509.DistributionPoint(places, None, None, None)
        builder = builder.add_extension(x509.CRLDistributionPoints([point]), critical=False)
    if critical:
        unknown = x509.UnrecognizedExtension(ObjectIdentifier(critical), b"\x05\x00")
        builder = builder.add_extension(unknown, critical=True)
    signer = key if issuer is None else issuer.key
    return Made(builder.sign(signer, hashes.SHA256()), key, issuer)


def root(common_name: str = "Root", kind: str = "p256", **options: object) -> Made:
    return make(common_name, kind, authority=True, **options)  # type: ignore[arg-type]


def _general_name(text: str) -> x509.GeneralName:
    if "@" in text:
        return x509.RFC822Name(text)
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        return x509.DNSName(text)
