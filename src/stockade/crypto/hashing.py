"""Hash functions, the prf of IKE, and comparison in constant time.

The prf of IKEv1 is HMAC (RFC 2104) of the negotiated hash, not truncated (RFC 2409 §4). MD5 and SHA1 serve
here as HMAC and for the IVs of IKEv1 only, where collisions do not matter.
"""

import hashlib
import hmac
from collections.abc import Callable
from typing import Protocol

from stockade.model.secret import Secret
from stockade.model.suites import Hash

Buffer = bytes | bytearray | memoryview
Key = Secret | bytes
"""What functions of this room take as a key. Prefer a `Secret`: the bytes then stay inside this room."""


class HashState(Protocol):
    """A running hash of `hashlib`."""

    def update(self, data: Buffer, /) -> None: ...
    def digest(self) -> bytes: ...
    def copy(self) -> "HashState": ...


def _md5(data: bytes = b"") -> HashState:
    # A hardened OpenSSL refuses MD5 unless told that its collisions do not matter here.
    return hashlib.md5(data, usedforsecurity=False)


def _sha1(data: bytes = b"") -> HashState:
    return hashlib.sha1(data, usedforsecurity=False)


HASH_STATES: dict[Hash, Callable[..., HashState]] = {
    Hash.MD5: _md5,
    Hash.SHA1: _sha1,
    Hash.SHA_256: hashlib.sha256,
    Hash.SHA_384: hashlib.sha384,
    Hash.SHA_512: hashlib.sha512,
}
BLOCK_SIZES = {Hash.MD5: 64, Hash.SHA1: 64, Hash.SHA_256: 64, Hash.SHA_384: 128, Hash.SHA_512: 128}
"""Bytes that the hash takes at once: as long as HMAC makes its key."""
INNER_PAD = bytes(byte ^ 0x36 for byte in range(256))
OUTER_PAD = bytes(byte ^ 0x5C for byte in range(256))
"""The bytes of HMAC's two keys by those of its key, for `bytes.translate` (RFC 2104 §2)."""


def key_bytes(key: Key) -> bytes:
    """The bytes of a key that may be a `Secret`. Only for handing them on to an algorithm."""
    return key.reveal() if isinstance(key, Secret) else key


def digest(hash_name: Hash, data: Buffer) -> bytes:
    """The hash of `data`, at full length."""
    return HASH_STATES[hash_name](data).digest()


def prf(hash_name: Hash, key: Key, data: Buffer) -> bytes:
    """HMAC of `data` under a key of any length, at full length (RFC 2104)."""
    # Two plain hashes: OpenSSL 3 looks its algorithms up anew for every HMAC, which costs more than both.
    make, size = HASH_STATES[hash_name], BLOCK_SIZES[hash_name]
    value = key if key.__class__ is bytes else key_bytes(key)
    if len(value) > size:
        value = make(value).digest()
    value = value.ljust(size, b"\x00")
    return make(value.translate(OUTER_PAD) + make(value.translate(INNER_PAD) + data).digest()).digest()


def equal(first: Buffer, second: Buffer) -> bool:
    """Whether two byte strings are equal, in a time that depends on their lengths only."""
    return hmac.compare_digest(first, second)
