"""Hashes and HMAC against FIPS 180-4 examples, RFC 1321, RFC 2202 and RFC 4231."""

import hmac

import pytest

from stockade.crypto.hashing import digest, equal, prf
from stockade.model.secret import Secret
from stockade.model.suites import Hash

LARGE_KEY_DATA = b"Test Using Larger Than Block-Size Key - Hash Key First"
JEFE_DATA = b"what do ya want for nothing?"


@pytest.mark.parametrize(
    ("hash_name", "expected"),
    [
        (Hash.MD5, "900150983cd24fb0d6963f7d28e17f72"),  # RFC 1321 A.5
        (Hash.SHA1, "a9993e364706816aba3e25717850c26c9cd0d89d"),  # FIPS 180 examples, message "abc"
        (Hash.SHA_256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (
            Hash.SHA_384,
            "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7",
        ),
        (
            Hash.SHA_512,
            "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
            "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
        ),
    ],
)
def test_digest_of_abc(hash_name, expected):
    assert digest(hash_name, b"abc").hex() == expected


@pytest.mark.parametrize(
    ("hash_name", "key", "data", "expected"),
    [
        # RFC 2202 §2
        (Hash.MD5, b"\x0b" * 16, b"Hi There", "9294727a3638bb1c13f48ef8158bfc9d"),
        (Hash.MD5, b"Jefe", JEFE_DATA, "750c783e6ab0b503eaa86e310a5db738"),
        (Hash.MD5, b"\xaa" * 16, b"\xdd" * 50, "56be34521d144c88dbb8c733f0e8b3f6"),
        (Hash.MD5, b"\xaa" * 80, LARGE_KEY_DATA, "6b1ab7fe4bd7bf8f0b62e6ce61b9d0cd"),
        # RFC 2202 §3
        (Hash.SHA1, b"\x0b" * 20, b"Hi There", "b617318655057264e28bc0b6fb378c8ef146be00"),
        (Hash.SHA1, b"Jefe", JEFE_DATA, "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"),
        (Hash.SHA1, b"\xaa" * 20, b"\xdd" * 50, "125d7342b9ac11cd91a39af48aa17b4f63f175d3"),
        (Hash.SHA1, b"\xaa" * 80, LARGE_KEY_DATA, "aa4ae5e15272d00e95705637ce8a3b55ed402112"),
        # RFC 4231 §4.2, §4.3, §4.7
        (
            Hash.SHA_256,
            b"\x0b" * 20,
            b"Hi There",
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
        ),
        (
            Hash.SHA_384,
            b"\x0b" * 20,
            b"Hi There",
            "afd03944d84895626b0825f4ab46907f15f9dadbe4101ec682aa034c7cebc59cfaea9ea9076ede7f4af152e8b2fa9cb6",
        ),
        (
            Hash.SHA_512,
            b"\x0b" * 20,
            b"Hi There",
            "87aa7cdea5ef619d4ff0b4241a1d6cb02379f4e2ce4ec2787ad0b30545e17cde"
            "daa833b7d6b8a702038b274eaea3f4e4be9d914eeb61f1702e696c203a126854",
        ),
        (
            Hash.SHA_256,
            b"Jefe",
            JEFE_DATA,
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        ),
        (
            Hash.SHA_384,
            b"Jefe",
            JEFE_DATA,
            "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649",
        ),
        (
            Hash.SHA_512,
            b"Jefe",
            JEFE_DATA,
            "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554"
            "9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
        ),
        (
            Hash.SHA_256,
            b"\xaa" * 131,
            LARGE_KEY_DATA,
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
        ),
    ],
)
def test_prf_is_hmac(hash_name, key, data, expected):
    assert prf(hash_name, key, data).hex() == expected
    assert prf(hash_name, Secret(key), data).hex() == expected


def test_equal_compares_in_constant_time(monkeypatch):
    calls = []

    def watch(first, second):
        calls.append((first, second))
        return first == second

    monkeypatch.setattr(hmac, "compare_digest", watch)
    assert equal(b"abc", b"abc")
    assert not equal(b"abc", b"abd")
    assert not equal(b"abc", b"abcd")
    assert len(calls) == 3
