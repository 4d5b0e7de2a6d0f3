"""Key derivation of IKEv1 against a second implementation, written here from the text of RFC 2409 alone.

No published vectors are used: the RFC has none. The second implementation shares nothing with the product but
the standard library's HMAC, which `test_hashing` holds against RFC 2202 and RFC 4231. A third one, by
others, judges in tests/peers/test_key_derivation.py.
"""

import hashlib
import hmac

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockade.crypto.ikev1_keys import (
    MAXIMUM_KEYMAT,
    derive_main_mode_keys,
    expand_encryption_key,
    informational_hash,
    keymat,
    main_mode_hash,
    phase1_iv,
    phase2_iv,
    preshared_skeyid,
    quick_mode_hash_1,
    quick_mode_hash_2,
    quick_mode_hash_3,
)
from stockade.crypto.registry import encryption_algorithm
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, Hash

HASHLIB = {
    Hash.MD5: "md5",
    Hash.SHA1: "sha1",
    Hash.SHA_256: "sha256",
    Hash.SHA_384: "sha384",
    Hash.SHA_512: "sha512",
}
MAIN_MODE_CIPHERS = {
    Encryption.DES_CBC: (8, 8),
    Encryption.TRIPLE_DES_CBC: (24, 8),
    Encryption.AES_CBC_128: (16, 16),
    Encryption.AES_CBC_192: (24, 16),
    Encryption.AES_CBC_256: (32, 16),
}  # key and block in bytes

PSK = b"correct horse"
NI, NR = b"initiator's nonce...", b"the nonce of the responder"
CKY_I, CKY_R = b"\x01" * 7 + b"I", b"\x02" * 7 + b"R"
GXY = bytes(range(128))
GXI, GXR = b"\x03" * 128, b"\x04" * 128
SAI_B, IDII_B, IDIR_B = (
    b"sa payload body",
    b"\x01\x11\x01\xf4\x0a\x07\x00\x01",
    b"\x01\x11\x01\xf4\x0a\x07\x00\x02",
)
M_ID = b"\xde\xad\xbe\xef"


def rfc_prf(hash_name, key, *message):
    return hmac.new(key, b"".join(message), HASHLIB[hash_name]).digest()


def rfc_skeyids(hash_name, skeyid):
    """RFC 2409 §5, the three lines after "The result of either Main Mode or Aggressive Mode"."""
    d = rfc_prf(hash_name, skeyid, GXY, CKY_I, CKY_R, bytes([0]))
    a = rfc_prf(hash_name, skeyid, d, GXY, CKY_I, CKY_R, bytes([1]))
    e = rfc_prf(hash_name, skeyid, a, GXY, CKY_I, CKY_R, bytes([2]))
    return d, a, e


def rfc_ka(hash_name, skeyid_e, size):
    """RFC 2409 Appendix B: Ka = K1 | K2 | K3, K1 = prf(SKEYID_e, 0), K2 = prf(SKEYID_e, K1), …"""
    if size <= len(skeyid_e):
        return skeyid_e[:size]
    k1 = rfc_prf(hash_name, skeyid_e, bytes([0]))
    k2 = rfc_prf(hash_name, skeyid_e, k1)
    k3 = rfc_prf(hash_name, skeyid_e, k2)
    return (k1 + k2 + k3)[:size]


@pytest.mark.parametrize("hash_name", Hash)
def test_skeyid_of_a_preshared_key(hash_name):
    skeyid = preshared_skeyid(hash_name, Secret(PSK), NI, NR)
    assert skeyid == Secret(rfc_prf(hash_name, PSK, NI, NR))


@pytest.mark.parametrize("hash_name", Hash)
@pytest.mark.parametrize("encryption", MAIN_MODE_CIPHERS)
def test_main_mode_keys(hash_name, encryption):
    skeyid = rfc_prf(hash_name, PSK, NI, NR)
    keys = derive_main_mode_keys(hash_name, encryption, Secret(skeyid), Secret(GXY), CKY_I, CKY_R)
    d, a, e = rfc_skeyids(hash_name, skeyid)
    assert keys.skeyid == Secret(skeyid)
    assert (keys.skeyid_d, keys.skeyid_a, keys.skeyid_e) == (Secret(d), Secret(a), Secret(e))
    assert keys.encryption_key == Secret(rfc_ka(hash_name, e, MAIN_MODE_CIPHERS[encryption][0]))


@pytest.mark.parametrize(
    ("hash_name", "encryption", "expanded"),
    [
        (Hash.MD5, Encryption.AES_CBC_128, False),
        (Hash.MD5, Encryption.TRIPLE_DES_CBC, True),
        (Hash.MD5, Encryption.AES_CBC_256, True),
        (Hash.SHA1, Encryption.DES_CBC, False),
        (Hash.SHA1, Encryption.TRIPLE_DES_CBC, True),
        (Hash.SHA1, Encryption.AES_CBC_128, False),
        (Hash.SHA1, Encryption.AES_CBC_192, True),
        (Hash.SHA1, Encryption.AES_CBC_256, True),
        (Hash.SHA_256, Encryption.TRIPLE_DES_CBC, False),
        (Hash.SHA_256, Encryption.AES_CBC_256, False),
    ],
)
def test_the_key_is_expanded_exactly_where_skeyid_e_is_too_short(hash_name, encryption, expanded):
    skeyid_e = bytes(range(hashlib.new(HASHLIB[hash_name]).digest_size))
    size = encryption_algorithm(encryption).key_size
    key = expand_encryption_key(hash_name, skeyid_e, size).reveal()
    assert len(key) == size
    assert (key == skeyid_e[:size]) is not expanded
    assert key == rfc_ka(hash_name, skeyid_e, size)


@pytest.mark.parametrize("hash_name", Hash)
@pytest.mark.parametrize("encryption", MAIN_MODE_CIPHERS)
def test_ivs_are_the_first_block_of_the_hash(hash_name, encryption):
    block = MAIN_MODE_CIPHERS[encryption][1]
    first = hashlib.new(HASHLIB[hash_name], GXI + GXR).digest()[:block]
    assert phase1_iv(hash_name, encryption, GXI, GXR) == first
    last_block = b"\x77" * block
    second = hashlib.new(HASHLIB[hash_name], last_block + M_ID).digest()[:block]
    assert phase2_iv(hash_name, encryption, last_block, M_ID) == second


@pytest.mark.parametrize("hash_name", Hash)
def test_main_mode_hashes_of_both_ends(hash_name):
    skeyid = rfc_prf(hash_name, PSK, NI, NR)
    hash_i = rfc_prf(hash_name, skeyid, GXI, GXR, CKY_I, CKY_R, SAI_B, IDII_B)
    hash_r = rfc_prf(hash_name, skeyid, GXR, GXI, CKY_R, CKY_I, SAI_B, IDIR_B)
    assert main_mode_hash(hash_name, Secret(skeyid), GXI, GXR, CKY_I, CKY_R, SAI_B, IDII_B) == hash_i
    assert main_mode_hash(hash_name, Secret(skeyid), GXR, GXI, CKY_R, CKY_I, SAI_B, IDIR_B) == hash_r


@pytest.mark.parametrize("hash_name", Hash)
def test_quick_mode_and_informational_hashes(hash_name):
    skeyid_a, after = b"a" * 20, b"\x0a\0\0\x08SA..\0\0\0\x08Ni.."
    key = Secret(skeyid_a)
    assert quick_mode_hash_1(hash_name, key, M_ID, after) == rfc_prf(hash_name, skeyid_a, M_ID, after)
    assert quick_mode_hash_2(hash_name, key, M_ID, NI, after) == rfc_prf(hash_name, skeyid_a, M_ID, NI, after)
    assert quick_mode_hash_3(hash_name, key, M_ID, NI, NR) == rfc_prf(
        hash_name, skeyid_a, b"\0", M_ID, NI, NR
    )
    assert informational_hash(hash_name, key, M_ID, after) == rfc_prf(hash_name, skeyid_a, M_ID, after)


@settings(max_examples=60, deadline=None)
@given(
    hash_name=st.sampled_from(list(Hash)),
    protocol=st.sampled_from([2, 3]),
    spi=st.binary(min_size=4, max_size=4),
    shared=st.none() | st.binary(min_size=32, max_size=256),
    length=st.integers(1, 300),
)
def test_keymat_with_and_without_perfect_forward_secrecy(hash_name, protocol, spi, shared, length):
    """RFC 2409 §5.5: KEYMAT = K1 | K2 | K3 | …, and g(qm)^xy stands in every one of them."""
    skeyid_d = b"d" * 20
    tail = (b"" if shared is None else shared) + bytes([protocol]) + spi + NI + NR
    expected = block = rfc_prf(hash_name, skeyid_d, tail)
    while len(expected) < length:
        block = rfc_prf(hash_name, skeyid_d, block, tail)
        expected += block
    secret = None if shared is None else Secret(shared)
    result = keymat(hash_name, Secret(skeyid_d), protocol, spi, NI, NR, secret, length)
    assert result == Secret(expected[:length])


def test_keymat_differs_by_everything_that_goes_in():
    def derive(**changes):
        arguments = {"protocol": 3, "spi": b"spi1", "nonce_i": NI, "nonce_r": NR, "shared": None} | changes
        return keymat(Hash.SHA1, Secret(b"d" * 20), length=44, **arguments).reveal()

    results = {
        derive(),
        derive(protocol=2),
        derive(spi=b"spi2"),
        derive(nonce_i=NR, nonce_r=NI),
        derive(shared=Secret(GXY)),
        derive(shared=Secret(GXI)),
    }
    assert len(results) == 6


@pytest.mark.parametrize("length", [0, -1, MAXIMUM_KEYMAT + 1])
def test_keymat_of_a_senseless_length_is_refused(length):
    with pytest.raises(ValueError, match="KEYMAT"):
        keymat(Hash.SHA1, Secret(b"d" * 20), 3, b"spi1", NI, NR, None, length)


def test_wrong_sizes_are_refused_before_they_shift_a_prf_input():
    with pytest.raises(ValueError, match="message id"):
        quick_mode_hash_1(Hash.SHA1, b"a", b"\0\0\0", b"")
    with pytest.raises(ValueError, match="message id"):
        quick_mode_hash_2(Hash.SHA1, b"a", bytes(5), NI, b"")
    with pytest.raises(ValueError, match="message id"):
        quick_mode_hash_3(Hash.SHA1, b"a", b"", NI, NR)
    with pytest.raises(ValueError, match="message id"):
        phase2_iv(Hash.SHA1, Encryption.DES_CBC, bytes(8), b"")
    with pytest.raises(ValueError, match="last block"):
        phase2_iv(Hash.SHA1, Encryption.AES_CBC_128, bytes(8), M_ID)
    with pytest.raises(ValueError, match="cookies"):
        derive_main_mode_keys(Hash.SHA1, Encryption.DES_CBC, b"s" * 20, GXY, CKY_I, CKY_R[1:])


def test_no_key_shows_in_a_repr():
    skeyid = Secret(b"S" * 20)
    keys = derive_main_mode_keys(Hash.SHA1, Encryption.AES_CBC_256, skeyid, Secret(GXY), CKY_I, CKY_R)
    text = f"{keys!r} {keys}"
    for secret in (keys.skeyid, keys.skeyid_d, keys.skeyid_a, keys.skeyid_e, keys.encryption_key):
        assert secret.reveal().hex() not in text
        assert repr(secret.reveal())[2:-1] not in text
