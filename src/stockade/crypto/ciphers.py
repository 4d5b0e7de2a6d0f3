"""CBC encryption of IKE messages (RFC 2409 Appendix B, RFC 2405, RFC 2451, RFC 3602).

For packets see `stockade.crypto.packet`. DES is 3DES with one key three times: E(D(E(x))) = E(x).
"""

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import BlockCipherAlgorithm, Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from stockade.crypto.hashing import Buffer, Key, key_bytes
from stockade.crypto.registry import encryption_algorithm
from stockade.model.reasons import ReasonCode, error_for
from stockade.model.suites import Encryption

_NULL, _DES, _TRIPLE_DES = Encryption.NULL, Encryption.DES_CBC, Encryption.TRIPLE_DES_CBC
# By a name of the module: to look a member up in its enumeration costs ten times that, and several of these
# are asked for in every message of the key exchange. So do other rooms.


def check_block_key(encryption: Encryption, key: Key) -> None:
    """`ValueError` for a wrong key size or a cipher that is not CBC."""
    algorithm = encryption_algorithm(encryption)
    if encryption is _NULL or encryption.is_aead:
        raise ValueError(f"{encryption} is not a CBC cipher")
    if len(key) != algorithm.key_size:
        raise ValueError(f"{encryption} takes a key of {algorithm.key_size} bytes, not {len(key)}")


def block_cipher(encryption: Encryption, key: Key) -> BlockCipherAlgorithm:
    """The library's cipher object of a CBC cipher; errors as of `check_block_key`. Parity bits of DES keys
    are ignored, as the cipher ignores them (RFC 2409 Appendix B sets none)."""
    check_block_key(encryption, key)
    value = key_bytes(key)
    if encryption is _DES:
        return TripleDES(value * 3)
    return TripleDES(value) if encryption is _TRIPLE_DES else AES(value)


def cbc_encrypt(encryption: Encryption, key: Key, iv: Buffer, data: Buffer) -> bytes:
    """Encrypt whole blocks; the caller pads. `ValueError` where a length is wrong."""
    block_size = encryption_algorithm(encryption).block_size
    if len(data) % block_size:
        raise ValueError(f"{len(data)} bytes are not whole blocks of {block_size}")
    encryptor = Cipher(block_cipher(encryption, key), modes.CBC(bytes(iv))).encryptor()
    return encryptor.update(data) + encryptor.finalize()


def cbc_decrypt(encryption: Encryption, key: Key, iv: Buffer, data: Buffer) -> bytes:
    """Decrypt whole blocks; padding is left on. `data` is the peer's: `PeerError` (DECRYPTION_FAILED) unless
    it is one block or more and nothing over. `ValueError` for a wrong key or IV size, which are ours."""
    block_size = encryption_algorithm(encryption).block_size
    if not data or len(data) % block_size:
        raise error_for(
            ReasonCode.DECRYPTION_FAILED,
            "the encrypted part is not whole cipher blocks",
            length=len(data),
            block_size=block_size,
        )
    decryptor = Cipher(block_cipher(encryption, key), modes.CBC(bytes(iv))).decryptor()
    return decryptor.update(data) + decryptor.finalize()
