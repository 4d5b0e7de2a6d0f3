"""Signatures: those that prove an IKEv1 peer, and those that join the links of a certificate chain.

IKEv1 signs HASH_I or HASH_R, a value that is a hash already:

    RSA    (RFC 2409 §5.1)  PKCS #1 v1.5 block type 1 over the bare value, without the DigestInfo
    ECDSA  (RFC 4754)       over the bare value, too, which is then the HMAC of the curve's own hash, whatever
                            hash was negotiated (`ECDSA_HASHES`); r | s, each as long as the field

Certificates are signed with RSA PKCS #1 v1.5 (with DigestInfo) or ECDSA (DER). SHA-1 is still verified there,
because the peers of this protocol's time have such certificates; MD5 is not: a certificate can be forged with
it on a desk computer.
"""

import hashlib
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import (
    NoDigestInfo,
    Prehashed,
    decode_dss_signature,
    encode_dss_signature,
)

from stockade.model.reasons import ReasonCode, error_for
from stockade.model.secret import Secret
from stockade.model.suites import Hash

RSA_SIGNATURES: Final = 3
ECDSA_METHODS: Final = {"secp256r1": 9, "secp384r1": 10, "secp521r1": 11}
"""Values of the Authentication Method attribute (RFC 2409 Appendix A, RFC 4754 §4)."""
ECDSA_HASHES: Final = {9: Hash.SHA_256, 10: Hash.SHA_384, 11: Hash.SHA_512}
"""Authentication method -> the hash of HASH_I and HASH_R, which are what is signed."""
MAXIMUM_RSA_BITS = 16_384  # a longer modulus would only cost us time

_BY_SIZE: Final[tuple[hashes.HashAlgorithm, ...]] = (
    hashes.SHA256(),
    hashes.SHA384(),
    hashes.SHA512(),
)
# RFC 8017 §9.2, note 1: the DER of DigestInfo in front of the hash.
_DIGEST_INFO: Final = {
    "sha1": bytes.fromhex("3021300906052b0e03021a05000414"),
    "sha256": bytes.fromhex("3031300d060960864801650304020105000420"),
    "sha384": bytes.fromhex("3041300d060960864801650304020205000430"),
    "sha512": bytes.fromhex("3051300d060960864801650304020305000440"),
}
_CERTIFICATE_ECDSA: Final[dict[str, hashes.HashAlgorithm]] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}


def _prehashed(digest: bytes) -> tuple[bytes, Prehashed]:
    """A value that ECDSA takes as the hash itself; the library knows it by its length."""
    return digest, Prehashed(next(entry for entry in _BY_SIZE if entry.digest_size == len(digest)))


class PublicKey:
    """A peer's or an authority's key. `kind` is `RSA` or `ECDSA <curve>`, `bits` its length."""

    __slots__ = ("_key", "bits", "kind", "method")

    def __init__(self, key: object) -> None:
        """`key`: a public key of the library. `PeerError` CERTIFICATE_KEY for a kind that IKEv1 cannot
        use."""
        self._key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey
        if isinstance(key, rsa.RSAPublicKey):
            self._key, self.kind, self.bits, self.method = key, "RSA", key.key_size, RSA_SIGNATURES
            if key.key_size > MAXIMUM_RSA_BITS:
                raise error_for(ReasonCode.CERTIFICATE_KEY, f"an RSA key of {key.key_size} bits")
        elif isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in ECDSA_METHODS:
            self._key, self.bits = key, key.curve.key_size
            self.kind, self.method = f"ECDSA {key.curve.name}", ECDSA_METHODS[key.curve.name]
        else:
            raise error_for(ReasonCode.CERTIFICATE_KEY, "neither RSA nor ECDSA on P-256, P-384 or P-521")

    @property
    def encoded(self) -> bytes:
        """SubjectPublicKeyInfo, DER: what tells two keys apart."""
        return self._key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def verify_ike(self, digest: bytes, signature: bytes) -> bool:
        """Whether `signature` is this key's over HASH_I or HASH_R."""
        try:
            if isinstance(self._key, rsa.RSAPublicKey):
                return self._recover(signature) == digest
            size = (self._key.curve.key_size + 7) // 8
            if len(signature) != 2 * size:
                return False
            r, s = int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big")
            value, algorithm = _prehashed(digest)
            self._key.verify(encode_dss_signature(r, s), value, ec.ECDSA(algorithm))
        except (InvalidSignature, ValueError):
            return False
        return True

    def verify_link(self, hash_name: str, signature: bytes, data: bytes) -> bool:
        """Whether this key signed a certificate or a revocation list. `hash_name` as hashlib writes it; one
        that is not accepted verifies nothing."""
        if hash_name not in _DIGEST_INFO:
            return False
        digest = hashlib.new(hash_name, data, usedforsecurity=False).digest()
        try:
            if isinstance(self._key, rsa.RSAPublicKey):
                return self._recover(signature) == _DIGEST_INFO[hash_name] + digest
            if hash_name in _CERTIFICATE_ECDSA:
                self._key.verify(signature, data, ec.ECDSA(_CERTIFICATE_ECDSA[hash_name]))
                return True
        except (InvalidSignature, ValueError):
            pass
        return False

    def _recover(self, signature: bytes) -> bytes:
        """What an RSA signature signs, exactly as it stands in the block."""
        assert isinstance(self._key, rsa.RSAPublicKey)
        return self._key.recover_data_from_signature(signature, padding.PKCS1v15(), None)


class PrivateKey:
    """Our key. Its `repr` shows the kind only."""

    __slots__ = ("_key", "public")

    def __init__(self, key: object) -> None:
        """`key`: a private key of the library."""
        if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
            raise error_for(ReasonCode.CERTIFICATE_KEY, "neither RSA nor ECDSA on P-256, P-384 or P-521")
        self._key = key
        self.public = PublicKey(key.public_key())

    @classmethod
    def load(cls, pem: bytes, password: Secret | None = None) -> "PrivateKey":
        """From PEM (PKCS #8 or the older forms). `CallerError` INVALID_FILE otherwise."""
        try:
            secret = None if password is None else password.reveal()
            return cls(serialization.load_pem_private_key(pem, secret))
        except (ValueError, TypeError, UnsupportedAlgorithm) as fault:
            # The library's text may quote what it read; the kind of fault is enough.
            wrong = "it needs a password" if isinstance(fault, TypeError) else "it cannot be read"
            raise error_for(
                ReasonCode.INVALID_FILE, f"private key: {wrong}, or the password is wrong"
            ) from None

    def pem(self) -> Secret:
        """PKCS #8, not encrypted: for a file that only its owner may read."""
        return Secret(
            self._key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )

    def sign_ike(self, digest: bytes) -> bytes:
        """The body of our signature payload over HASH_I or HASH_R."""
        if isinstance(self._key, rsa.RSAPrivateKey):
            return self._key.sign(digest, padding.PKCS1v15(), NoDigestInfo())
        value, algorithm = _prehashed(digest)
        der = self._key.sign(value, ec.ECDSA(algorithm))
        size = (self._key.curve.key_size + 7) // 8
        return b"".join(number.to_bytes(size, "big") for number in decode_dss_signature(der))

    def __repr__(self) -> str:
        return f"PrivateKey({self.public.kind} {self.public.bits})"
