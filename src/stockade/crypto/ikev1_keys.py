"""Keys and hashes of IKEv1: RFC 2409 §5, §5.4 (pre-shared key), §5.5 (quick mode), §5.7 and Appendix B.

    SKEYID   = prf(pre-shared key, Ni_b | Nr_b)                      pre-shared key
    SKEYID   = prf(Ni_b | Nr_b, g^xy)                                signatures (§5.1)
    SKEYID_d = prf(SKEYID,            g^xy | CKY-I | CKY-R | 0)      for KEYMAT
    SKEYID_a = prf(SKEYID, SKEYID_d | g^xy | CKY-I | CKY-R | 1)      for HASH(n)
    SKEYID_e = prf(SKEYID, SKEYID_a | g^xy | CKY-I | CKY-R | 2)      for the cipher of IKE messages

`_b` means the body of a payload without its generic header. prf is HMAC of the negotiated hash.

Left out: the search for weak and semi-weak DES keys (Appendix A lists 16; chance 2^-52 per key, and a peer
that does not skip the same bytes could no longer talk to us), and SKEYID for public-key encryption.
"""

from dataclasses import dataclass

from stockade.crypto.hashing import Buffer, Key, digest, key_bytes, prf
from stockade.crypto.registry import encryption_algorithm
from stockade.model.quickly_made import quickly_made
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, Hash

MAXIMUM_KEYMAT = 4096
COOKIE_SIZE = 8
MESSAGE_ID_SIZE = 4


@quickly_made
@dataclass(frozen=True, slots=True)
class MainModeKeys:
    """What a main mode keeps. `encryption_key` has the cipher's key size."""

    skeyid: Secret
    skeyid_d: Secret
    skeyid_a: Secret
    skeyid_e: Secret
    encryption_key: Secret


def preshared_skeyid(hash_name: Hash, psk: Secret, nonce_i: bytes, nonce_r: bytes) -> Secret:
    """SKEYID of pre-shared key authentication (§5.4), from the bodies of the nonce payloads."""
    return Secret(prf(hash_name, psk, nonce_i + nonce_r))


def signature_skeyid(hash_name: Hash, nonce_i: bytes, nonce_r: bytes, shared: Key) -> Secret:
    """SKEYID of authentication with signatures (§5.1), from the bodies of the nonce payloads and g^xy."""
    return Secret(prf(hash_name, nonce_i + nonce_r, key_bytes(shared)))


def derive_main_mode_keys(
    hash_name: Hash, encryption: Encryption, skeyid: Key, shared: Key, cookie_i: bytes, cookie_r: bytes
) -> MainModeKeys:
    """SKEYID_d, _a, _e and the cipher's key (§5, Appendix B). `shared` is g^xy."""
    if len(cookie_i) != COOKIE_SIZE or len(cookie_r) != COOKIE_SIZE:
        raise ValueError(f"cookies have {COOKIE_SIZE} bytes")
    key = key_bytes(skeyid)
    context = key_bytes(shared) + cookie_i + cookie_r
    skeyid_d = prf(hash_name, key, context + b"\x00")
    skeyid_a = prf(hash_name, key, skeyid_d + context + b"\x01")
    skeyid_e = prf(hash_name, key, skeyid_a + context + b"\x02")
    encryption_key = expand_encryption_key(hash_name, skeyid_e, encryption_algorithm(encryption).key_size)
    return MainModeKeys(Secret(key), Secret(skeyid_d), Secret(skeyid_a), Secret(skeyid_e), encryption_key)


def expand_encryption_key(hash_name: Hash, skeyid_e: Key, size: int) -> Secret:
    """The cipher's key of `size` bytes (Appendix B): the first bytes of SKEYID_e where it is long enough,
    else of K1 | K2 | …, with K1 = prf(SKEYID_e, 0) and Kn = prf(SKEYID_e, Kn-1). "0" is one octet."""
    key = key_bytes(skeyid_e)
    if len(key) >= size:
        return Secret(key[:size])
    block = prf(hash_name, key, b"\x00")
    material = block
    while len(material) < size:
        block = prf(hash_name, key, block)
        material += block
    return Secret(material[:size])


def phase1_iv(hash_name: Hash, encryption: Encryption, g_xi: bytes, g_xr: bytes) -> bytes:
    """The IV of the first encrypted message of main mode: the first block of hash(g^xi | g^xr), the bodies of
    the KE payloads (Appendix B). Later messages continue from the last ciphertext block."""
    return digest(hash_name, g_xi + g_xr)[: encryption_algorithm(encryption).block_size]


def phase2_iv(hash_name: Hash, encryption: Encryption, last_phase1_block: bytes, message_id: bytes) -> bytes:
    """The IV of the first message of a quick mode or informational exchange: the first block of
    hash(last phase 1 ciphertext block | M-ID), the message id as 4 bytes (Appendix B)."""
    block_size = encryption_algorithm(encryption).block_size
    if len(last_phase1_block) != block_size:
        raise ValueError(f"the last block of {encryption} has {block_size} bytes")
    _check_message_id(message_id)
    return digest(hash_name, last_phase1_block + message_id)[:block_size]


def main_mode_hash(
    hash_name: Hash,
    skeyid: Key,
    g_x_own: bytes,
    g_x_peer: bytes,
    cookie_own: bytes,
    cookie_peer: bytes,
    sa_i_body: Buffer,
    id_own_body: Buffer,
) -> bytes:
    """HASH_I or HASH_R (§5), seen from the end that sends it ("own"):
    prf(SKEYID, g^x own | g^x peer | CKY own | CKY peer | SAi_b | ID_b own). The SA is always the initiator's
    offer, as it was received."""
    return prf(
        hash_name, skeyid, b"".join((g_x_own, g_x_peer, cookie_own, cookie_peer, sa_i_body, id_own_body))
    )


def quick_mode_hash_1(hash_name: Hash, skeyid_a: Key, message_id: bytes, after_hash: Buffer) -> bytes:
    """HASH(1) of quick mode (§5.5): prf(SKEYID_a, M-ID | SA | Ni [ | KE ] [ | IDci | IDcr ]). `after_hash` is
    all that follows the HASH payload, generic headers included, without padding."""
    _check_message_id(message_id)
    return prf(hash_name, skeyid_a, b"".join((message_id, after_hash)))


def quick_mode_hash_2(
    hash_name: Hash, skeyid_a: Key, message_id: bytes, nonce_i: bytes, after_hash: Buffer
) -> bytes:
    """HASH(2) of quick mode (§5.5): prf(SKEYID_a, M-ID | Ni_b | SA | Nr [ | KE ] [ | IDci | IDcr ]).
    `after_hash` as in `quick_mode_hash_1`, `nonce_i` the body of the initiator's nonce."""
    _check_message_id(message_id)
    return prf(hash_name, skeyid_a, b"".join((message_id, nonce_i, after_hash)))


def quick_mode_hash_3(
    hash_name: Hash, skeyid_a: Key, message_id: bytes, nonce_i: bytes, nonce_r: bytes
) -> bytes:
    """HASH(3) of quick mode (§5.5): prf(SKEYID_a, 0 | M-ID | Ni_b | Nr_b). "0" is one octet."""
    _check_message_id(message_id)
    return prf(hash_name, skeyid_a, b"".join((b"\x00", message_id, nonce_i, nonce_r)))


def informational_hash(hash_name: Hash, skeyid_a: Key, message_id: bytes, after_hash: Buffer) -> bytes:
    """HASH(1) of an informational exchange (§5.7): prf(SKEYID_a, M-ID | N/D), the notification or delete
    payload with its generic header."""
    return quick_mode_hash_1(hash_name, skeyid_a, message_id, after_hash)


def keymat(
    hash_name: Hash,
    skeyid_d: Key,
    protocol: int,
    spi: bytes,
    nonce_i: bytes,
    nonce_r: bytes,
    shared: Key | None,
    length: int,
) -> Secret:
    """`length` bytes of KEYMAT for one direction (§5.5): the SA whose receiver chose `spi`.

        K1 = prf(SKEYID_d,      [ g(qm)^xy | ] protocol | SPI | Ni_b | Nr_b)
        Kn = prf(SKEYID_d, Kn-1 | [ g(qm)^xy | ] protocol | SPI | Ni_b | Nr_b)

    `protocol` is the protocol id of the proposal (2 AH, 3 ESP; one octet), `spi` its 4 bytes, `shared` the
    secret of the quick mode's own Diffie-Hellman exchange or None without perfect forward secrecy. The
    encryption key comes first, then the integrity key: see `registry.esp_key_sizes`.
    """
    if not 0 < length <= MAXIMUM_KEYMAT:
        raise ValueError(f"KEYMAT of {length} bytes is outside 1–{MAXIMUM_KEYMAT}")
    key = key_bytes(skeyid_d)
    seed = b"" if shared is None else key_bytes(shared)
    seed += bytes((protocol,)) + spi + nonce_i + nonce_r
    block = prf(hash_name, key, seed)
    material = block
    while len(material) < length:
        block = prf(hash_name, key, block + seed)
        material += block
    return Secret(material[:length])


def _check_message_id(message_id: bytes) -> None:
    if len(message_id) != MESSAGE_ID_SIZE:
        raise ValueError(f"a message id has {MESSAGE_ID_SIZE} bytes")
