"""Signatures of IKEv1, against the library's own and against what must not verify."""

import pytest
from certificate_maker import root
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature

from stockade.crypto.hashing import prf
from stockade.crypto.ikev1_keys import signature_skeyid
from stockade.crypto.signatures import ECDSA_HASHES, PrivateKey
from stockade.model.secret import Secret
from stockade.model.suites import Hash

KINDS = {"rsa2048": (3, 20, 256), "p256": (9, 32, 64), "p384": (10, 48, 96), "p521": (11, 64, 132)}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_signature_verifies_and_no_other_does(kind: str) -> None:
    method, digest_size, size = KINDS[kind]
    made = root("x", kind)
    key = PrivateKey.load(made.key_pem)
    digest = bytes(range(digest_size))
    signature = key.sign_ike(digest)
    assert key.public.method == method
    assert len(signature) == size
    assert key.public.verify_ike(digest, signature)
    assert not key.public.verify_ike(digest[::-1], signature)
    assert not PrivateKey.load(root("y", kind).key_pem).public.verify_ike(digest, signature)
    for wrong in (b"", signature[:-1], signature + b"\0", bytes(size), b"\xff" * size, signature[::-1]):
        assert not key.public.verify_ike(digest, wrong)


def test_rsa_signs_the_bare_value_in_a_block_of_type_1() -> None:
    """RFC 2409 §5.1: a private key encryption in PKCS #1 format, not a signature with DigestInfo."""
    made = root("x", "rsa2048")
    digest = bytes(20)
    signature = PrivateKey.load(made.key_pem).sign_ike(digest)
    numbers = made.key.public_key().public_numbers()
    block = pow(int.from_bytes(signature, "big"), numbers.e, numbers.n).to_bytes(256, "big")
    assert block == b"\x00\x01" + b"\xff" * (256 - 3 - 20) + b"\x00" + digest
    with_digest_info = made.key.sign(b"x", padding.PKCS1v15(), hashes.SHA1())
    assert not PrivateKey.load(made.key_pem).public.verify_ike(digest, with_digest_info)


def test_ecdsa_signs_the_hmac_as_the_hash() -> None:
    made = root("x")
    digest = prf(ECDSA_HASHES[9], b"skeyid", b"what HASH_I covers")
    signature = PrivateKey.load(made.key_pem).sign_ike(digest)
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    made.key.public_key().verify(encode_dss_signature(r, s), digest, ec.ECDSA(Prehashed(hashes.SHA256())))


def test_skeyid_of_signatures_is_keyed_by_the_nonces() -> None:
    shared = Secret(b"g^xy")
    assert signature_skeyid(Hash.SHA1, b"Ni", b"Nr", shared).reveal() == prf(Hash.SHA1, b"NiNr", b"g^xy")
