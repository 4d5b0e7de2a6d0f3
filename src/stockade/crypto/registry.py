"""The registry of algorithms: sizes, numbers on the wire and kernel names under the names of `model.suites`.

Numbers: IKE attribute values of RFC 2409 Appendix A, RFC 3602 §5.1 (AES), RFC 4868 §2.6 (SHA-2) and RFC 5903
§6 (groups); ESP and AH transforms and authentication algorithms of RFC 2407 §4.4.3, §4.4.4 and §4.5, RFC 3602
§5.2, RFC 4106 §8.3, RFC 4309 §7, RFC 4543 §9 and RFC 4868. ChaCha20-Poly1305 has a number in IKEv2 only (28,
RFC 7634 §5), and keeps it here, as Curve25519 does. Key and truncation sizes: RFC 2403, RFC 2404, RFC 4868
§2.1 and §2.3. Kernel names are those of the Linux crypto API, as XFRM takes them.

Left out: AES-GCM and AES-CCM with short ICVs (transforms 14, 15, 18 and 19, whose forgery bound is too weak
to offer), AES-CTR, XCBC, and every number that Windows never offers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from stockade.model.suites import Encryption, EspSuite, Gmac, Group, Hash, Integrity


@dataclass(frozen=True, slots=True)
class EncryptionAlgorithm:
    """One cipher with its key size. All sizes in bytes.

    `key_size` is without the salt: KEYMAT must yield `keymat_size` = key and salt. `iv_size` is the IV that
    an ESP packet carries; `icv_size` is that of the cipher itself (0 unless combined-mode). `block_size` 1
    means that the cipher needs no padding of its own. `ike_id` is None where main mode cannot use the cipher.
    `key_length_attribute` is the value in bits of the Key Length attribute, None where RFC 2409 Appendix A
    forbids to send one (ciphers whose key length is fixed).
    """

    name: Encryption
    key_size: int
    block_size: int
    iv_size: int
    salt_size: int
    icv_size: int
    ike_id: int | None
    esp_id: int
    key_length_attribute: int | None
    xfrm_name: str

    @property
    def keymat_size(self) -> int:
        """Bytes of KEYMAT that the cipher takes: key, then salt (RFC 4106 §8.1, RFC 4309 §7.1)."""
        return self.key_size + self.salt_size

    @property
    def esp_alignment(self) -> int:
        """What the encrypted part of an ESP packet must be a multiple of: at least 4 (RFC 4303 §2.4)."""
        return max(4, self.block_size)


@dataclass(frozen=True, slots=True)
class HashAlgorithm:
    """One hash function, as a hash, as HMAC prf and as truncated HMAC of ESP and AH. All sizes in bytes.

    `block_size` is the HMAC block of RFC 2104. `integrity_key_size` is fixed to the digest size (RFC 4868
    §2.1.1). `icv_size` is the truncated length on the wire.
    """

    name: Hash
    digest_size: int
    block_size: int
    ike_id: int
    esp_auth_id: int
    ah_id: int
    integrity_key_size: int
    icv_size: int
    xfrm_name: str


@dataclass(frozen=True, slots=True)
class GmacAlgorithm:
    """AES-GMAC in AH (RFC 4543). `integrity_key_size` is key and 4-byte salt; `icv_size` is that of AH's
    field, which begins with the IV of 8 bytes. `xfrm_name` is empty: the kernel's rfc4543(gcm(aes)) is a
    cipher of ESP (XFRMA_ALG_AEAD), and its AH takes nothing but keyed hashes (XFRMA_ALG_AUTH)."""

    name: Gmac
    esp_auth_id: int
    ah_id: int
    integrity_key_size: int
    icv_size: int
    xfrm_name: str


@dataclass(frozen=True, slots=True)
class GroupAlgorithm:
    """One Diffie-Hellman group. `public_size` and `shared_size` are bytes on the wire and into the prf: for
    ECP x|y and x alone (RFC 5903 §7 and §9), for MODP the length of the prime for both, for Curve25519 32
    bytes for both (RFC 8031 §2)."""

    name: Group
    number: int
    public_size: int
    shared_size: int


def _encryption_table() -> Mapping[Encryption, EncryptionAlgorithm]:
    rows = [
        #                   name                  key block iv salt icv ike  esp  attribute
        EncryptionAlgorithm(Encryption.NULL, 0, 1, 0, 0, 0, None, 11, None, "ecb(cipher_null)"),
        EncryptionAlgorithm(Encryption.DES_CBC, 8, 8, 8, 0, 0, 1, 2, None, "cbc(des)"),
        EncryptionAlgorithm(Encryption.TRIPLE_DES_CBC, 24, 8, 8, 0, 0, 5, 3, None, "cbc(des3_ede)"),
    ]
    for bits, cbc, gcm in (
        (128, Encryption.AES_CBC_128, Encryption.AES_GCM_128),
        (192, Encryption.AES_CBC_192, Encryption.AES_GCM_192),
        (256, Encryption.AES_CBC_256, Encryption.AES_GCM_256),
    ):
        rows.append(EncryptionAlgorithm(cbc, bits // 8, 16, 16, 0, 0, 7, 12, bits, "cbc(aes)"))
        rows.append(EncryptionAlgorithm(gcm, bits // 8, 1, 8, 4, 16, None, 20, bits, "rfc4106(gcm(aes))"))
    for bits, ccm, gmac in (
        (128, Encryption.AES_CCM_128, Encryption.AES_GMAC_128),
        (192, Encryption.AES_CCM_192, Encryption.AES_GMAC_192),
        (256, Encryption.AES_CCM_256, Encryption.AES_GMAC_256),
    ):
        rows.append(EncryptionAlgorithm(ccm, bits // 8, 1, 8, 3, 16, None, 16, bits, "rfc4309(ccm(aes))"))
        rows.append(EncryptionAlgorithm(gmac, bits // 8, 1, 8, 4, 16, None, 23, bits, "rfc4543(gcm(aes))"))
    chacha = Encryption.CHACHA20_POLY1305
    rows.append(EncryptionAlgorithm(chacha, 32, 1, 8, 4, 16, None, 28, None, "rfc7539esp(chacha20,poly1305)"))
    return MappingProxyType({row.name: row for row in rows})


def _hash_table() -> Mapping[Hash, HashAlgorithm]:
    rows = (
        #             name       digest block ike esp ah key icv
        HashAlgorithm(Hash.MD5, 16, 64, 1, 1, 2, 16, 12, "hmac(md5)"),
        HashAlgorithm(Hash.SHA1, 20, 64, 2, 2, 3, 20, 12, "hmac(sha1)"),
        HashAlgorithm(Hash.SHA_256, 32, 64, 4, 5, 5, 32, 16, "hmac(sha256)"),
        HashAlgorithm(Hash.SHA_384, 48, 128, 5, 6, 6, 48, 24, "hmac(sha384)"),
        HashAlgorithm(Hash.SHA_512, 64, 128, 6, 7, 7, 64, 32, "hmac(sha512)"),
    )
    return MappingProxyType({row.name: row for row in rows})


def _gmac_table() -> Mapping[Gmac, GmacAlgorithm]:
    sizes = ((Gmac.AES_GMAC_128, 11, 16), (Gmac.AES_GMAC_192, 12, 24), (Gmac.AES_GMAC_256, 13, 32))
    return MappingProxyType(
        {name: GmacAlgorithm(name, number, number, size + 4, 24, "") for name, number, size in sizes}
    )


def _group_table() -> Mapping[Group, GroupAlgorithm]:
    sizes = {
        Group.MODP_768: (96, 96),
        Group.MODP_1024: (128, 128),
        Group.MODP_2048: (256, 256),
        Group.ECP_256: (64, 32),
        Group.ECP_384: (96, 48),
        Group.CURVE_25519: (32, 32),
    }
    return MappingProxyType({group: GroupAlgorithm(group, group.number, *sizes[group]) for group in Group})


ENCRYPTION_ALGORITHMS = _encryption_table()
HASH_ALGORITHMS = _hash_table()
GMAC_ALGORITHMS = _gmac_table()
GROUP_ALGORITHMS = _group_table()

_ENCRYPTION_BY_IKE = {
    (row.ike_id, row.key_length_attribute): row.name
    for row in ENCRYPTION_ALGORITHMS.values()
    if row.ike_id is not None
}
_ENCRYPTION_BY_ESP = {
    (row.esp_id, row.key_length_attribute): row.name for row in ENCRYPTION_ALGORITHMS.values()
}
_HASH_BY_IKE = {row.ike_id: row.name for row in HASH_ALGORITHMS.values()}
_HASH_BY_ESP_AUTHENTICATION = {row.esp_auth_id: row.name for row in HASH_ALGORITHMS.values()}
_INTEGRITY_BY_AUTHENTICATION: Mapping[int, Integrity] = {
    **_HASH_BY_ESP_AUTHENTICATION,
    **{row.esp_auth_id: row.name for row in GMAC_ALGORITHMS.values()},
}
_INTEGRITY_BY_AH: Mapping[int, Integrity] = {
    **{row.ah_id: row.name for row in HASH_ALGORITHMS.values()},
    **{row.ah_id: row.name for row in GMAC_ALGORITHMS.values()},
}
_GROUP_BY_NUMBER = {row.number: row.name for row in GROUP_ALGORITHMS.values()}


def encryption_algorithm(encryption: Encryption) -> EncryptionAlgorithm:
    return ENCRYPTION_ALGORITHMS[encryption]


def hash_algorithm(hash_name: Hash) -> HashAlgorithm:
    return HASH_ALGORITHMS[hash_name]


def integrity_algorithm(integrity: Integrity) -> HashAlgorithm | GmacAlgorithm:
    """What authenticates AH, with its sizes."""
    return GMAC_ALGORITHMS[integrity] if isinstance(integrity, Gmac) else HASH_ALGORITHMS[integrity]


def group_algorithm(group: Group) -> GroupAlgorithm:
    return GROUP_ALGORITHMS[group]


def encryption_from_ike(ike_id: int, key_bits: int | None) -> Encryption | None:
    """The cipher of a main-mode transform: attribute 1 and, if sent, attribute 14 (Key Length, in bits).

    None for what we do not have. AES without a key length is None too (RFC 3602 §5.3 requires it), and so is
    a fixed-length cipher with one (RFC 2409 Appendix A forbids it): a guess could differ from the peer's.
    """
    return _ENCRYPTION_BY_IKE.get((ike_id, key_bits))


def encryption_from_esp(esp_id: int, key_bits: int | None) -> Encryption | None:
    """The cipher of an ESP transform and, if sent, attribute 6 (Key Length, in bits; for AES-GCM without the
    salt, RFC 4106 §8.4). None as in `encryption_from_ike`."""
    return _ENCRYPTION_BY_ESP.get((esp_id, key_bits))


def hash_from_ike(ike_id: int) -> Hash | None:
    """The hash of a main-mode transform (attribute 2)."""
    return _HASH_BY_IKE.get(ike_id)


def hash_from_esp_auth(esp_auth_id: int) -> Hash | None:
    """The integrity algorithm of the Authentication Algorithm attribute (5) beside an ESP cipher."""
    return _HASH_BY_ESP_AUTHENTICATION.get(esp_auth_id)


def integrity_from_authentication(number: int) -> Integrity | None:
    """The same attribute in a proposal of AH."""
    return _INTEGRITY_BY_AUTHENTICATION.get(number)


def integrity_from_ah(ah_id: int) -> Integrity | None:
    """The integrity algorithm of an AH transform id."""
    return _INTEGRITY_BY_AH.get(ah_id)


def group_from_number(number: int) -> Group | None:
    """The group of IANA's number (main-mode attribute 4, quick-mode attribute 3)."""
    return _GROUP_BY_NUMBER.get(number)


def esp_key_sizes(suite: EspSuite) -> tuple[int, int]:
    """Bytes of KEYMAT for the cipher (with its salt) and for integrity, in the order in which KEYMAT gives
    them (RFC 4301 §4.5.2: first encryption, then integrity)."""
    integrity = 0 if suite.integrity is None else HASH_ALGORITHMS[suite.integrity].integrity_key_size
    return ENCRYPTION_ALGORITHMS[suite.encryption].keymat_size, integrity
