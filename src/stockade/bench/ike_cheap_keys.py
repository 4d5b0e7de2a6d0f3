"""Keys that cost their owner little and the other end what they always cost: for a benchmark's initiator, and
for nothing else.

    MODP   a private value of 64 bits      a thirtieth of the work; the peer's exponent is its own
    RSA    eight primes of 256 bits        a tenth; n has 2048 bits, e is 65537: to verify costs the same
    both   one Diffie-Hellman value for all handshakes

Somebody could break either, with patience; there is nothing behind them.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

import gmpy2
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers

from stockade.crypto.key_exchange import MODP_PRIMES, generate
from stockade.crypto.registry import group_algorithm
from stockade.model.suites import Group

PUBLIC_EXPONENT = 65_537
MODULUS_SIZE = 256
"""Bytes of an RSA key."""
PRIMES = 8
_EXPONENT_BITS = 64
_GENERATOR = 2


def cheap_value(group: Group) -> tuple[bytes, Callable[[bytes], bytes]]:
    """A public value of Diffie-Hellman, and what makes the shared secret of a peer's."""
    if group not in MODP_PRIMES:
        value = generate(group, os.urandom)
        return value.public, lambda peer: value.shared(peer).reveal()
    prime, size = gmpy2.mpz(MODP_PRIMES[group]), group_algorithm(group).public_size
    exponent = int.from_bytes(os.urandom(_EXPONENT_BITS // 8)) | 1 << (_EXPONENT_BITS - 1)

    def power(base: int) -> bytes:
        return int(gmpy2.powmod(base, exponent, prime)).to_bytes(size)

    return power(_GENERATOR), lambda peer: power(int.from_bytes(peer))


@dataclass(frozen=True, slots=True)
class CheapRsa:
    """An RSA key of 2048 bits of many primes."""

    primes: tuple[int, ...]

    @classmethod
    def make(cls) -> "CheapRsa":
        bits = MODULUS_SIZE * 8 // PRIMES
        while True:
            primes = tuple(_prime(bits) for _ in range(PRIMES))
            if _product(primes).bit_length() == MODULUS_SIZE * 8:
                return cls(primes)

    @property
    def public_key(self) -> RSAPublicKey:
        return RSAPublicNumbers(PUBLIC_EXPONENT, _product(self.primes)).public_key()

    def signer(self) -> Callable[[bytes], bytes]:
        """Signs as IKEv1 does: PKCS #1 v1.5 around a hash without its name (RFC 2409 §5.1)."""
        modulus = gmpy2.mpz(_product(self.primes))
        parts = []
        for prime in map(gmpy2.mpz, self.primes):
            others = modulus // prime
            parts.append(
                (prime, gmpy2.invert(PUBLIC_EXPONENT, prime - 1), others * gmpy2.invert(others, prime))
            )

        def sign(digest: bytes) -> bytes:
            number = int.from_bytes(padded(digest))
            result = sum(gmpy2.powmod(number, exponent, prime) * part for prime, exponent, part in parts)
            return int(result % modulus).to_bytes(MODULUS_SIZE)

        return sign


def verifier(modulus: int) -> Callable[[bytes, bytes], bool]:
    """Whether a signature is one of a hash."""
    number = gmpy2.mpz(modulus)

    def verify(signature: bytes, digest: bytes) -> bool:
        found = gmpy2.powmod(int.from_bytes(signature), PUBLIC_EXPONENT, number)
        return int(found).to_bytes(MODULUS_SIZE) == padded(digest)

    return verify


def padded(digest: bytes) -> bytes:
    return b"\x00\x01" + b"\xff" * (MODULUS_SIZE - 3 - len(digest)) + b"\x00" + digest


def _prime(bits: int) -> int:
    while True:
        drawn = int.from_bytes(os.urandom(bits // 8)) | 1 | 3 << (bits - 2)
        prime = int(gmpy2.next_prime(drawn))
        if (prime - 1) % PUBLIC_EXPONENT:
            return prime


def _product(primes: tuple[int, ...]) -> int:
    product = 1
    for prime in primes:
        product *= prime
    return product
