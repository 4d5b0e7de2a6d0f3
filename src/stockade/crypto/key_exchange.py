"""Diffie-Hellman of IKE: MODP groups 1, 2 (RFC 2409 §6) and 14 (RFC 3526 §3), ECP 19 and 20 (RFC 5903), and
Curve25519 (31, RFC 8031, which defines it for IKEv2; strongSwan takes it in IKEv1 too).

On the wire a MODP value is big-endian, as long as the prime (RFC 2409 §5); an ECP value is x|y, each as long
as the field (RFC 5903 §7). The shared secret that goes into the prf is as long as the prime for MODP and x
alone for ECP (RFC 5903 §7 and §9); for Curve25519 both are 32 bytes as RFC 7748 writes them.

A peer's value is accepted only if it generates the group that we mean: MODP 1 < y < p-1 and in the subgroup
of prime order, ECP a point on the curve. The MODP primes are safe primes with p = 7 (mod 8), so the
prime-order subgroup that 2 generates is exactly the quadratic residues; one Jacobi symbol of a public value
(some microseconds) decides it, where an exponentiation would cost more than the exchange itself. A value of
Curve25519 that gives the zero secret is refused (RFC 7748 §6.1).

MODP exponentiation is OpenSSL's, in constant time and twice as fast as gmpy2's; the library calls it
deprecated and will drop it, so gmpy2's `powmod_sec` stands behind it.
"""

import warnings
from collections.abc import Callable
from functools import cache
from typing import Final, Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.utils import CryptographyDeprecationWarning

try:
    from cryptography.hazmat.primitives.asymmetric import dh
except ImportError:  # a later release of the library
    dh = None  # type: ignore[assignment]

from stockade.crypto.registry import group_algorithm
from stockade.model.reasons import ReasonCode, StockadeError, error_for
from stockade.model.secret import Secret
from stockade.model.suites import Group

warnings.filterwarnings(
    "ignore", message="Diffie-Hellman over finite fields", category=CryptographyDeprecationWarning
)

RandomBytes = Callable[[int], bytes]


class PrivateValue(Protocol):
    """Our side of one exchange. `public` is the body of our KE payload. Its `repr` shows the group only."""

    @property
    def group(self) -> Group: ...

    @property
    def public(self) -> bytes: ...

    def shared(self, peer_public: bytes) -> Secret:
        """The shared secret with a peer; `PeerError` (INVALID_KEY_EXCHANGE) if its value is refused."""


# RFC 2409 §6.1, §6.2 and RFC 3526 §3. The tests compute them anew from the RFCs' formula.
MODP_PRIMES: Final = {
    Group.MODP_768: int(
        "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DD"
        "EF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A63A3620FFFFFFFFFFFFFFFF",
        16,
    ),
    Group.MODP_1024: int(
        "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DD"
        "EF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED"
        "EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE65381FFFFFFFFFFFFFFFF",
        16,
    ),
    Group.MODP_2048: int(
        "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DD"
        "EF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED"
        "EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF0598DA48361C55D39A69163FA8FD24CF5F"
        "83655D23DCA3AD961C62F356208552BB9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B"
        "E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF6955817183995497CEA956AE515D2261898FA0510"
        "15728E5A8AACAA68FFFFFFFFFFFFFFFF",
        16,
    ),
}
_GENERATOR: Final = 2

# Bytes of the private exponent, which needs at least twice as many bits as the group has strength: finding a
# short exponent takes 2^(bits / 2) steps. NIST SP 800-57 rates the 2048-bit group at 112 bits (SP 800-56A: so
# exponents of 224), RFC 3526 §8 at 110 to 160 (220 to 320). With 256 bits the exponent (2^128 steps) is not
# where that group is weakest; for 1024 and 768 they are far more than enough. Short exponents are safe here
# because the primes are safe primes: no small subgroup can betray parts of them.
_EXPONENT_SIZE: Final = 32

_CURVES: Final[dict[Group, ec.EllipticCurve]] = {Group.ECP_256: ec.SECP256R1(), Group.ECP_384: ec.SECP384R1()}
# Orders of the curves' groups: RFC 5903 §3.1, §3.2.
ECP_ORDERS: Final = {
    Group.ECP_256: 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    Group.ECP_384: int(
        "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973", 16
    ),
}
_KNOWN_BY_NAME: Final = frozenset({Group.MODP_2048})
_MAXIMUM_DRAWS = 64  # a sound source fails one draw in 2^32; 64 in a row mean that it is broken


def generate(group: Group, random: RandomBytes) -> PrivateValue:
    """A new private value of `group` from `random(size) -> bytes`, which alone decides the result.

    `HostError` (INTERNAL) where the source gives the wrong number of bytes or never a usable value.
    """
    if group in _CURVES:
        return _EcpPrivateValue(group, random)
    if group is Group.CURVE_25519:
        return _MontgomeryPrivateValue(random)
    return _ModpPrivateValue(group, random)


def _draw(random: RandomBytes, size: int) -> bytes:
    value = random(size)
    if len(value) != size:
        raise error_for(ReasonCode.INTERNAL, "the random source gave a wrong number of bytes")
    return value


def _refuse(group: Group, detail: str, **facts: object) -> StockadeError:
    return error_for(ReasonCode.INVALID_KEY_EXCHANGE, detail, group=group, **facts)


def _check_length(group: Group, peer_public: bytes) -> None:
    size = group_algorithm(group).public_size
    if len(peer_public) != size:
        raise _refuse(group, "wrong length", expected=size, received=len(peer_public))


Power = Callable[[int], int]
"""base → base^exponent mod p, in a time that does not depend on the exponent, which it holds."""


def _powmod_sec(group: Group, exponent: int) -> Power:
    import gmpy2

    prime = gmpy2.mpz(MODP_PRIMES[group])
    return lambda base: int(gmpy2.powmod_sec(gmpy2.mpz(base), exponent, prime))


@cache
def _parameters(group: Group) -> "dh.DHParameterNumbers | None":
    """The group as the library takes it; None where it does not (any more), or where it costs too much: the
    library knows the prime of group 14 by name, those of groups 1 and 2 it proves to be safe primes again
    with every key (150 to 300 ms)."""
    if dh is None or group not in _KNOWN_BY_NAME:
        return None
    try:
        numbers = dh.DHParameterNumbers(MODP_PRIMES[group], _GENERATOR)
        # The generator as the "peer's" value: what the library calls an exchange is then our public value.
        key = dh.DHPrivateNumbers(1 << 255, dh.DHPublicNumbers(4, numbers)).private_key()
        key.exchange(dh.DHPublicNumbers(_GENERATOR, numbers).public_key())
    except (UnsupportedAlgorithm, ValueError):
        return None
    return numbers


def _library_power(parameters: "dh.DHParameterNumbers", exponent: int) -> Power:
    # The library wants our public value beside the exponent and does not use it.
    key = dh.DHPrivateNumbers(exponent, dh.DHPublicNumbers(4, parameters)).private_key()
    return lambda base: int.from_bytes(key.exchange(dh.DHPublicNumbers(base, parameters).public_key()))


class _ModpPrivateValue:
    __slots__ = ("_group", "_power", "_public")

    def __init__(self, group: Group, random: RandomBytes) -> None:
        # The set top bit makes every exponent equally long, and so the time the same for all.
        exponent = int.from_bytes(_draw(random, _EXPONENT_SIZE)) | 1 << (8 * _EXPONENT_SIZE - 1)
        self._group = group
        parameters = _parameters(group)
        self._power = (
            _powmod_sec(group, exponent) if parameters is None else _library_power(parameters, exponent)
        )
        self._public = self._padded(self._power(_GENERATOR))

    @property
    def group(self) -> Group:
        return self._group

    @property
    def public(self) -> bytes:
        return self._public

    def shared(self, peer_public: bytes) -> Secret:
        _check_length(self._group, peer_public)
        prime = MODP_PRIMES[self._group]
        value = int.from_bytes(peer_public)
        if not 1 < value < prime - 1:
            raise _refuse(self._group, "the value is outside 2 to p-2")
        # Imported late: it loads a tenth of what an agent loads, and many never need it.
        import gmpy2

        if gmpy2.jacobi(value, prime) != 1:
            raise _refuse(self._group, "the value is not in the subgroup of prime order")
        return Secret(self._padded(self._power(value)))

    def _padded(self, value: int) -> bytes:
        return value.to_bytes(group_algorithm(self._group).public_size)

    def __repr__(self) -> str:
        return f"<private value of {self._group}>"


class _EcpPrivateValue:
    __slots__ = ("_group", "_key", "_public")

    def __init__(self, group: Group, random: RandomBytes) -> None:
        curve, order = _CURVES[group], ECP_ORDERS[group]
        size = group_algorithm(group).shared_size
        for _ in range(_MAXIMUM_DRAWS):
            # Values outside 1 to n-1 are thrown away, not reduced: a reduced one would not be uniform.
            candidate = int.from_bytes(_draw(random, size))
            if 0 < candidate < order:
                break
        else:
            raise error_for(ReasonCode.INTERNAL, "the random source gives no usable private value")
        self._group = group
        self._key = ec.derive_private_key(candidate, curve)
        numbers = self._key.public_key().public_numbers()
        self._public = numbers.x.to_bytes(size) + numbers.y.to_bytes(size)

    @property
    def group(self) -> Group:
        return self._group

    @property
    def public(self) -> bytes:
        return self._public

    def shared(self, peer_public: bytes) -> Secret:
        _check_length(self._group, peer_public)
        try:
            # 4 marks an uncompressed point (SEC 1 §2.3.3). The point at infinity has no such form, and with
            # cofactor 1 every other point of the curve has prime order.
            peer = ec.EllipticCurvePublicKey.from_encoded_point(_CURVES[self._group], b"\x04" + peer_public)
            return Secret(self._key.exchange(ec.ECDH(), peer))
        except ValueError:
            raise _refuse(self._group, "the point is not on the curve") from None

    def __repr__(self) -> str:
        return f"<private value of {self._group}>"


class _MontgomeryPrivateValue:
    """Curve25519."""

    __slots__ = ("_key", "_public")

    group = Group.CURVE_25519

    def __init__(self, random: RandomBytes) -> None:
        # Any 32 bytes are a private value: the library sets the bits that RFC 7748 §5 wants set.
        self._key = X25519PrivateKey.from_private_bytes(_draw(random, 32))
        self._public = self._key.public_key().public_bytes_raw()

    @property
    def public(self) -> bytes:
        return self._public

    def shared(self, peer_public: bytes) -> Secret:
        _check_length(self.group, peer_public)
        try:
            return Secret(self._key.exchange(X25519PublicKey.from_public_bytes(peer_public)))
        except ValueError:
            raise _refuse(self.group, "the value is of small order") from None

    def __repr__(self) -> str:
        return f"<private value of {self.group}>"
