"""Certificates for the handshake benchmark, made anew for every run."""

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from stockade.bench.ike_cheap_keys import CheapRsa
from stockade.bench.ike_initiator import CheapKeys
from stockade.bench.ike_responders import Pki


def make_pki() -> Pki:
    """RSA-2048, a root and two hosts under it, for a day."""
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)

    def name(word: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, word)])

    root_key = rsa.generate_private_key(65_537, 2048)

    def issue(word: str, key: rsa.RSAPublicKey, *, authority: bool) -> bytes:
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name(word))
            .issuer_name(name("benchmark root"))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - day)
            .not_valid_after(now + day)
            .add_extension(x509.BasicConstraints(authority, None), critical=True)
            .sign(root_key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM)

    def host(word: str) -> tuple[bytes, bytes]:
        key = rsa.generate_private_key(65_537, 2048)
        text = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return issue(word, key.public_key(), authority=False), text

    root = issue("benchmark root", root_key.public_key(), authority=True)
    responder = host("responder")
    cheap = CheapRsa.make()
    keys = CheapKeys(
        tuple(map(str, cheap.primes)),
        issue("initiator", cheap.public_key, authority=False).decode(),
        name("initiator").public_bytes().hex(),
        name("benchmark root").public_bytes().hex(),
        str(_modulus(responder[0])),
    )
    return Pki(root, "CN=benchmark root", host("initiator"), responder, keys)


def _modulus(certificate: bytes) -> int:
    key = x509.load_pem_x509_certificate(certificate).public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    return key.public_numbers().n
