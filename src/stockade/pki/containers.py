"""Files that carry certificates and keys: PEM, DER, PKCS #12 (`.pfx`), and the PKCS #7 bundles that some
peers send instead of single certificates."""

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs7, pkcs12

from stockade.crypto.signatures import PrivateKey
from stockade.model.reasons import PeerError, ReasonCode, error_for
from stockade.model.secret import Secret
from stockade.pki.certificate import Certificate, read_certificate
from stockade.pki.revocation import RevocationList, read_revocation_list

MAXIMUM_FILE = 4 * 1024 * 1024
MAXIMUM_BUNDLE = 16

_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.+?-----END \1-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file holds, in its order."""

    certificates: tuple[Certificate, ...] = ()
    private_keys: tuple[PrivateKey, ...] = ()
    revocation_lists: tuple[RevocationList, ...] = ()


def read_file(data: bytes, password: Secret | None = None) -> Contents:
    """The contents of a PEM, DER or PKCS #12 file. `CallerError` INVALID_FILE says what is wrong."""
    if len(data) > MAXIMUM_FILE:
        raise error_for(ReasonCode.INVALID_FILE, f"longer than {MAXIMUM_FILE} bytes")
    try:
        contents = _read_pem(data, password) if b"-----BEGIN " in data else _read_binary(data, password)
    except PeerError as error:
        what = str(error.reason)
        if b"-----BEGIN " not in data and error.reason.code is ReasonCode.CERTIFICATE_INVALID:
            what = "neither PEM nor a certificate, a PKCS #12 file or a revocation list in DER"
        raise error_for(ReasonCode.INVALID_FILE, what) from None
    if not (contents.certificates or contents.private_keys or contents.revocation_lists):
        raise error_for(ReasonCode.INVALID_FILE, "neither certificates nor keys nor revocation lists in it")
    return contents


def _read_pem(data: bytes, password: Secret | None) -> Contents:
    certificates: list[Certificate] = []
    keys: list[PrivateKey] = []
    lists: list[RevocationList] = []
    for match in _BLOCK.finditer(data):
        kind, block = match[1], match[0]
        if kind in (b"CERTIFICATE", b"TRUSTED CERTIFICATE", b"X509 CERTIFICATE"):
            certificates.append(read_certificate(_der_of(block)))
        elif kind.endswith(b"PRIVATE KEY"):
            keys.append(PrivateKey.load(block, password))
        elif kind == b"X509 CRL":
            lists.append(read_revocation_list(_der_of(block)))
    return Contents(tuple(certificates), tuple(keys), tuple(lists))


def _der_of(block: bytes) -> bytes:
    lines = block.splitlines()[1:-1]
    try:
        return base64.b64decode(b"".join(line.strip() for line in lines), validate=True)
    except (binascii.Error, ValueError):
        raise error_for(ReasonCode.INVALID_FILE, "a PEM block is damaged") from None


def _read_binary(data: bytes, password: Secret | None) -> Contents:
    try:
        bundle = pkcs12.load_pkcs12(data, None if password is None else password.reveal())
    except (ValueError, TypeError, UnsupportedAlgorithm) as fault:
        if "password" in str(fault).lower():
            detail = "the password of the PKCS #12 file is wrong or missing"
            raise error_for(ReasonCode.INVALID_FILE, detail) from None
    else:
        found = [] if bundle.cert is None else [bundle.cert]
        found += bundle.additional_certs
        keys = () if bundle.key is None else (PrivateKey(bundle.key),)
        encoded = [entry.certificate.public_bytes(serialization.Encoding.DER) for entry in found]
        return Contents(tuple(read_certificate(der) for der in encoded), keys)
    try:
        return Contents(certificates=(read_certificate(data),))
    except PeerError as error:
        if error.reason.code is not ReasonCode.CERTIFICATE_INVALID:
            raise  # it is a certificate, but of no use
        return Contents(revocation_lists=(read_revocation_list(data),))


def needs_password(data: bytes) -> bool:
    """Whether the file is likely to be encrypted: a PKCS #12 file, or PEM with an encrypted key."""
    if b"-----BEGIN " in data:
        return b"ENCRYPTED" in data
    try:
        read_certificate(data)
    except PeerError:
        return True
    return False


def read_bundle(data: bytes) -> Sequence[bytes]:
    """The certificates (DER) of a PKCS #7 bundle (certificate encoding 1, RFC 2408 §3.9); `PeerError`
    CERTIFICATE_INVALID."""
    try:
        found: list[x509.Certificate] = pkcs7.load_der_pkcs7_certificates(data)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise error_for(ReasonCode.CERTIFICATE_INVALID, "a PKCS #7 bundle cannot be read") from None
    return [entry.public_bytes(serialization.Encoding.DER) for entry in found[:MAXIMUM_BUNDLE]]
