"""Per-SA objects of the data path: made once from the SA's keys, called for every packet.

`Aead` is AES-GCM in ESP (RFC 4106), AES-CCM (RFC 4309), ChaCha20-Poly1305 (RFC 7634) and GMAC (RFC 4543),
`Cbc` ESP's block ciphers and NULL (RFC 2405, 2451, 3602, 2410), `Mac` the truncated HMAC of ESP and AH (RFC
2403, 2404, 4868), `Gmac` that of AH by RFC 4543. The order of work of RFC 4303 §3.4 (replay check,
integrity, then decryption) is the caller's. A forged packet makes `Aead.decrypt` return None and `Mac.verify`
return False: on the packet path an exception would cost more than the check.
"""

import hmac
from collections.abc import Callable
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, ChaCha20Poly1305

from stockade.crypto.ciphers import block_cipher, check_block_key
from stockade.crypto.hashing import HASH_STATES, INNER_PAD, OUTER_PAD, Buffer, HashState, Key, key_bytes
from stockade.crypto.registry import encryption_algorithm, hash_algorithm, integrity_algorithm
from stockade.model import suites
from stockade.model.reasons import ReasonCode, error_for
from stockade.model.suites import Encryption, Hash

_NULL = Encryption.NULL

NONCE_SIZE: Final = 12  # salt (4) | IV of the packet (8), RFC 4106 §4, RFC 7634 §2; CCM's salt has 3 bytes

_CCM: Final = frozenset({Encryption.AES_CCM_128, Encryption.AES_CCM_192, Encryption.AES_CCM_256})
_GMAC_SALT: Final = 4
_GMAC_IV: Final = 8

_Seal = Callable[[Buffer, Buffer, Buffer], bytes]
_Update = Callable[[Buffer], bytes]


class Aead:
    """A combined-mode cipher with a 16-byte ICV. The key is without the salt; no nonce may come twice under
    one key. GMAC takes what it authenticates as `associated`, and has no text."""

    __slots__ = ("_decrypt", "_encrypt", "encryption", "nonce_size")

    def __init__(self, encryption: Encryption, key: Key) -> None:
        size = encryption_algorithm(encryption).key_size
        value = key_bytes(key)
        if not encryption.is_aead:
            raise ValueError(f"{encryption} is not a combined-mode cipher")
        if len(value) != size:
            raise ValueError(f"{encryption} takes a key of {size} bytes (without salt), not {len(value)}")
        self.encryption = encryption
        algorithm = encryption_algorithm(encryption)
        self.nonce_size = algorithm.salt_size + algorithm.iv_size
        self._encrypt: _Seal
        self._decrypt: _Seal
        if encryption is Encryption.CHACHA20_POLY1305:
            chacha = ChaCha20Poly1305(value)
            self._encrypt, self._decrypt = chacha.encrypt, chacha.decrypt
        elif encryption in _CCM:
            ccm = AESCCM(value, tag_length=algorithm.icv_size)
            self._encrypt, self._decrypt = ccm.encrypt, ccm.decrypt
        else:
            gcm = AESGCM(value)
            self._encrypt, self._decrypt = gcm.encrypt, gcm.decrypt

    def encrypt(self, nonce: Buffer, plaintext: Buffer, associated: Buffer) -> bytes:
        """Ciphertext and ICV. `nonce` of `nonce_size` bytes: salt | IV."""
        if len(nonce) != self.nonce_size:  # AES-GCM takes any, and another one would be another algorithm
            raise ValueError(f"a nonce has {self.nonce_size} bytes")
        return self._encrypt(nonce, plaintext, associated)

    def decrypt(self, nonce: Buffer, ciphertext: Buffer, associated: Buffer) -> bytes | None:
        """The plaintext of ciphertext and ICV; None where the integrity check fails (too short included)."""
        if len(nonce) != self.nonce_size:
            raise ValueError(f"a nonce has {self.nonce_size} bytes")
        try:
            return self._decrypt(nonce, ciphertext, associated)
        except InvalidTag:
            return None

    def __repr__(self) -> str:
        return f"<Aead {self.encryption}>"


class Cbc(Protocol):
    """A cipher of ESP that needs a `Mac` beside it. Data is whole blocks; padding is the caller's.

    One object belongs to one thread: it chains from call to call, see `_ChainedCbc`.
    """

    @property
    def encryption(self) -> Encryption: ...

    def encrypt_packet(self, data: Buffer) -> bytes:
        """The fast way. `data`: `iv_size` fresh random bytes | plaintext. Result: IV | ciphertext, as ESP
        carries it, with an IV that nobody can predict. `ValueError` unless `data` is whole blocks."""

    def decrypt_packet(self, data: Buffer) -> bytes:
        """The fast way back: IV | ciphertext as received -> plaintext. `PeerError` (MALFORMED_PACKET) unless
        `data` is whole blocks and at least the IV and one block."""

    def encrypt(self, iv: Buffer, data: Buffer) -> bytes:
        """The ciphertext under an IV that the caller drew at random; `ValueError` for wrong lengths."""

    def decrypt(self, iv: Buffer, data: Buffer) -> bytes:
        """The plaintext; `PeerError` (MALFORMED_PACKET) as in `decrypt_packet`."""


class _ChainedCbc:
    """CBC that never restarts: one library context per direction serves all packets of an SA.

    A new context per packet costs ten times the encryption of a small packet, and the library cannot give an
    old one a new IV. CBC itself does not need it: C[n] = E(P[n] ^ C[n-1]) runs on over packet borders.

    Encrypting: the first block that goes in is random, so what comes out for it is the cipher of a random
    block, the first way of SP 800-38A Appendix C to make an IV; the packet's first block is then chained to
    it as CBC says. (The last block of the packet before is *not* the IV: RFC 3602 §3 wants an unpredictable
    one.) For a chosen IV, the last ciphertext block is cancelled by XOR.

    Decrypting: the IV goes in as if it were a ciphertext block; what comes out for it is dropped.
    """

    __slots__ = ("_block_size", "_decrypt", "_encrypt", "_key", "_last", "encryption")

    def __init__(self, encryption: Encryption, key: Key) -> None:
        check_block_key(encryption, key)
        self._key = key
        self.encryption = encryption
        self._block_size = encryption_algorithm(encryption).block_size
        self._last = bytes(self._block_size)
        # Made with the first packet: an SA goes in one direction, and needs one of them. Until then it is a
        # key and no more: most of a thousand SAs that come up at once wait for their first packet.
        self._encrypt: _Update | None = None
        self._decrypt: _Update | None = None

    def _cipher(self) -> "Cipher[modes.CBC]":
        return Cipher(block_cipher(self.encryption, self._key), modes.CBC(bytes(self._block_size)))

    def _begin_encrypting(self) -> "_Update":
        self._encrypt = self._cipher().encryptor().update
        return self._encrypt

    def _begin_decrypting(self) -> "_Update":
        self._decrypt = self._cipher().decryptor().update
        return self._decrypt

    def encrypt_packet(self, data: Buffer) -> bytes:
        size = self._block_size
        if len(data) < 2 * size or len(data) % size:
            raise ValueError(f"{len(data)} bytes are not a random block and whole blocks of {size}")
        result = (self._encrypt or self._begin_encrypting())(data)
        self._last = result[-size:]
        return result

    def decrypt_packet(self, data: Buffer) -> bytes:
        size = self._block_size
        if len(data) < 2 * size or len(data) % size:
            raise error_for(
                ReasonCode.MALFORMED_PACKET,
                "the encrypted part is not whole cipher blocks",
                length=len(data),
                block_size=size,
            )
        return (self._decrypt or self._begin_decrypting())(data)[size:]

    def encrypt(self, iv: Buffer, data: Buffer) -> bytes:
        size = self._block_size
        if len(iv) != size or not data or len(data) % size:
            raise ValueError(f"an IV of {len(iv)} and {len(data)} bytes are not whole blocks of {size}")
        first = int.from_bytes(data[:size]) ^ int.from_bytes(iv) ^ int.from_bytes(self._last)
        encrypt = self._encrypt or self._begin_encrypting()
        result = encrypt(b"".join((first.to_bytes(size), data[size:])))
        self._last = result[-size:]
        return result

    def decrypt(self, iv: Buffer, data: Buffer) -> bytes:
        if len(iv) != self._block_size:
            raise error_for(ReasonCode.MALFORMED_PACKET, "the IV is not one block", length=len(iv))
        return self.decrypt_packet(b"".join((iv, data)))

    def __repr__(self) -> str:
        return f"<Cbc {self.encryption}>"


class _NullCipher:
    """NULL encryption (RFC 2410): no IV, blocks of one byte."""

    __slots__ = ()
    encryption: Encryption = Encryption.NULL

    def encrypt_packet(self, data: Buffer) -> bytes:
        return bytes(data)

    def decrypt_packet(self, data: Buffer) -> bytes:
        return bytes(data)

    def encrypt(self, iv: Buffer, data: Buffer) -> bytes:
        return bytes(data)

    def decrypt(self, iv: Buffer, data: Buffer) -> bytes:
        return bytes(data)

    def __repr__(self) -> str:
        return "<Cbc null>"


class Mac:
    """HMAC, truncated to `icv_size` bytes."""

    __slots__ = ("_inner", "_key", "_outer", "hash_name", "icv_size")

    def __init__(self, hash_name: Hash, key: Key) -> None:
        algorithm = hash_algorithm(hash_name)
        if len(key) != algorithm.integrity_key_size:
            raise ValueError(
                f"HMAC-{hash_name} takes a key of {algorithm.integrity_key_size} bytes, not {len(key)}"
            )
        self.hash_name = hash_name
        self.icv_size = algorithm.icv_size
        self._key = key
        # The two hashes of RFC 2104, each begun with its half of the key, at the first packet; a packet
        # copies them.
        self._inner: HashState | None = None
        self._outer: HashState

    def _begin(self) -> HashState:
        begun = HASH_STATES[self.hash_name]
        padded = key_bytes(self._key).ljust(hash_algorithm(self.hash_name).block_size, b"\x00")
        self._outer = begun(padded.translate(OUTER_PAD))
        self._inner = begun(padded.translate(INNER_PAD))
        return self._inner

    def compute(self, *parts: Buffer) -> bytes:
        """The ICV over the parts as if they were one string."""
        inner = (self._inner or self._begin()).copy()
        for part in parts:
            inner.update(part)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()[: self.icv_size]

    def verify(self, icv: Buffer, *parts: Buffer) -> bool:
        """Whether `icv` is that of the parts; constant time, and False for an ICV of another length."""
        return hmac.compare_digest(icv, self.compute(*parts))

    def __repr__(self) -> str:
        return f"<Mac {self.hash_name}>"


class Gmac:
    """AES-GMAC of AH (RFC 4543 §3): the field is the IV of 8 bytes and the ICV of 16. Every `compute` of one
    object has an IV of its own, so an SA has one object for all its packets."""

    __slots__ = ("_cipher", "_last", "_salt", "icv_size", "name")

    def __init__(self, name: suites.Gmac, key: Key) -> None:
        algorithm = integrity_algorithm(name)
        value = key_bytes(key)
        if len(value) != algorithm.integrity_key_size:
            raise ValueError(f"{name} takes {algorithm.integrity_key_size} bytes of KEYMAT, not {len(value)}")
        self.name = name
        self.icv_size = algorithm.icv_size
        self._salt = value[-_GMAC_SALT:]
        self._cipher = AESGCM(value[:-_GMAC_SALT])
        self._last = 0

    def compute(self, *parts: Buffer) -> bytes:
        """IV and ICV over the parts as if they were one string."""
        self._last += 1
        return self._compute(self._last.to_bytes(_GMAC_IV), parts)

    def verify(self, icv: Buffer, *parts: Buffer) -> bool:
        """As of `Mac`; `icv` begins with the IV."""
        return hmac.compare_digest(icv, self._compute(bytes(icv[:_GMAC_IV]).ljust(_GMAC_IV, b"\0"), parts))

    def _compute(self, iv: bytes, parts: tuple[Buffer, ...]) -> bytes:
        return iv + self._cipher.encrypt(self._salt + iv, b"", b"".join(parts))

    def __repr__(self) -> str:
        return f"<Gmac {self.name}>"


class Authentication(Protocol):
    """What authenticates AH: `Mac` or `Gmac`."""

    @property
    def icv_size(self) -> int: ...

    def compute(self, *parts: Buffer) -> bytes: ...

    def verify(self, icv: Buffer, *parts: Buffer) -> bool: ...


def aead(encryption: Encryption, key: Key) -> Aead:
    """A combined-mode cipher with a key of `key_size` bytes, without the salt: see `split_salt`."""
    return Aead(encryption, key)


def cbc(encryption: Encryption, key: Key) -> Cbc:
    """A CBC cipher, or NULL (with an empty key and an empty IV)."""
    if encryption is not _NULL:
        return _ChainedCbc(encryption, key)
    if len(key):
        raise ValueError("NULL encryption takes no key")
    return _NullCipher()


def mac(hash_name: Hash, key: Key) -> Mac:
    """Truncated HMAC with a key of `integrity_key_size` bytes."""
    return Mac(hash_name, key)


def authentication(integrity: suites.Integrity, key: Key) -> Authentication:
    """That of AH, with a key (and salt) of `integrity_key_size` bytes."""
    return Gmac(integrity, key) if isinstance(integrity, suites.Gmac) else Mac(integrity, key)


def split_salt(encryption: Encryption, material: Key) -> tuple[bytes, bytes]:
    """An SA's encryption key as KEYMAT gives it, cut into (key, salt); the salt is empty unless a
    combined mode (RFC 4106 §8.1: the last 4 bytes; CCM 3, RFC 4309 §7.1). `ValueError` for a wrong size."""
    algorithm = encryption_algorithm(encryption)
    value = key_bytes(material)
    if len(value) != algorithm.keymat_size:
        raise ValueError(f"{encryption} takes {algorithm.keymat_size} bytes of KEYMAT, not {len(value)}")
    return value[: algorithm.key_size], value[algorithm.key_size :]
