"""The registry against the numbers of IANA's registries, written out a second time."""

import pytest

from stockade.crypto.registry import (
    encryption_algorithm,
    encryption_from_esp,
    encryption_from_ike,
    esp_key_sizes,
    group_algorithm,
    group_from_number,
    hash_algorithm,
    hash_from_esp_auth,
    hash_from_ike,
    integrity_algorithm,
    integrity_from_ah,
    integrity_from_authentication,
)
from stockade.model.suites import Encryption, EspSuite, Gmac, Group, Hash


@pytest.mark.parametrize(
    ("encryption", "sizes", "ike_id", "esp_id", "bits", "xfrm"),
    [
        (Encryption.NULL, (0, 1, 0, 0, 0), None, 11, None, "ecb(cipher_null)"),
        (Encryption.DES_CBC, (8, 8, 8, 0, 0), 1, 2, None, "cbc(des)"),
        (Encryption.TRIPLE_DES_CBC, (24, 8, 8, 0, 0), 5, 3, None, "cbc(des3_ede)"),
        (Encryption.AES_CBC_128, (16, 16, 16, 0, 0), 7, 12, 128, "cbc(aes)"),
        (Encryption.AES_CBC_192, (24, 16, 16, 0, 0), 7, 12, 192, "cbc(aes)"),
        (Encryption.AES_CBC_256, (32, 16, 16, 0, 0), 7, 12, 256, "cbc(aes)"),
        (Encryption.AES_GCM_128, (16, 1, 8, 4, 16), None, 20, 128, "rfc4106(gcm(aes))"),
        (Encryption.AES_GCM_192, (24, 1, 8, 4, 16), None, 20, 192, "rfc4106(gcm(aes))"),
        (Encryption.AES_GCM_256, (32, 1, 8, 4, 16), None, 20, 256, "rfc4106(gcm(aes))"),
        (Encryption.AES_CCM_128, (16, 1, 8, 3, 16), None, 16, 128, "rfc4309(ccm(aes))"),
        (Encryption.AES_CCM_192, (24, 1, 8, 3, 16), None, 16, 192, "rfc4309(ccm(aes))"),
        (Encryption.AES_CCM_256, (32, 1, 8, 3, 16), None, 16, 256, "rfc4309(ccm(aes))"),
        (Encryption.CHACHA20_POLY1305, (32, 1, 8, 4, 16), None, 28, None, "rfc7539esp(chacha20,poly1305)"),
        (Encryption.AES_GMAC_128, (16, 1, 8, 4, 16), None, 23, 128, "rfc4543(gcm(aes))"),
        (Encryption.AES_GMAC_192, (24, 1, 8, 4, 16), None, 23, 192, "rfc4543(gcm(aes))"),
        (Encryption.AES_GMAC_256, (32, 1, 8, 4, 16), None, 23, 256, "rfc4543(gcm(aes))"),
    ],
)
def test_encryption_row(encryption, sizes, ike_id, esp_id, bits, xfrm):
    row = encryption_algorithm(encryption)
    assert (row.key_size, row.block_size, row.iv_size, row.salt_size, row.icv_size) == sizes
    assert (row.ike_id, row.esp_id, row.key_length_attribute, row.xfrm_name) == (ike_id, esp_id, bits, xfrm)
    assert encryption_from_esp(esp_id, bits) is encryption
    if ike_id is not None:
        assert encryption_from_ike(ike_id, bits) is encryption


@pytest.mark.parametrize(
    ("hash_name", "digest_bits", "ike_id", "authentication_id", "ah_id", "icv_bits", "xfrm"),
    [
        (Hash.MD5, 128, 1, 1, 2, 96, "hmac(md5)"),
        (Hash.SHA1, 160, 2, 2, 3, 96, "hmac(sha1)"),
        (Hash.SHA_256, 256, 4, 5, 5, 128, "hmac(sha256)"),
        (Hash.SHA_384, 384, 5, 6, 6, 192, "hmac(sha384)"),
        (Hash.SHA_512, 512, 6, 7, 7, 256, "hmac(sha512)"),
    ],
)
def test_hash_row(hash_name, digest_bits, ike_id, authentication_id, ah_id, icv_bits, xfrm):
    row = hash_algorithm(hash_name)
    assert (row.digest_size * 8, row.integrity_key_size * 8, row.icv_size * 8) == (
        digest_bits,
        digest_bits,
        icv_bits,
    )
    assert (row.ike_id, row.esp_auth_id, row.ah_id, row.xfrm_name) == (ike_id, authentication_id, ah_id, xfrm)
    assert hash_from_ike(ike_id) is hash_name
    assert hash_from_esp_auth(authentication_id) is hash_name
    assert integrity_from_ah(ah_id) is hash_name


@pytest.mark.parametrize(
    ("group", "number", "public_size", "shared_size"),
    [
        (Group.MODP_768, 1, 96, 96),
        (Group.MODP_1024, 2, 128, 128),
        (Group.MODP_2048, 14, 256, 256),
        (Group.ECP_256, 19, 64, 32),
        (Group.ECP_384, 20, 96, 48),
        (Group.CURVE_25519, 31, 32, 32),
    ],
)
def test_group_row(group, number, public_size, shared_size):
    row = group_algorithm(group)
    assert (row.name, row.number, row.public_size, row.shared_size) == (
        group,
        number,
        public_size,
        shared_size,
    )
    assert group_from_number(number) is group


@pytest.mark.parametrize(
    ("name", "number", "key_bytes"),
    [(Gmac.AES_GMAC_128, 11, 16), (Gmac.AES_GMAC_192, 12, 24), (Gmac.AES_GMAC_256, 13, 32)],
)
def test_gmac_row(name, number, key_bytes):
    """RFC 4543 §9: one number for transform and attribute; four bytes of salt follow the key."""
    row = integrity_algorithm(name)
    assert (row.name, row.ah_id, row.esp_auth_id, row.integrity_key_size, row.icv_size) == (
        name,
        number,
        number,
        key_bytes + 4,
        24,
    )
    assert integrity_from_ah(number) is name
    assert integrity_from_authentication(number) is name
    assert hash_from_esp_auth(number) is None


def test_every_algorithm_of_the_model_has_a_row_under_its_own_name():
    assert all(encryption_algorithm(name).name is name for name in Encryption)
    assert all(hash_algorithm(name).name is name for name in Hash)
    assert all(group_algorithm(name).name is name for name in Group)


@pytest.mark.parametrize(
    ("number", "bits"),
    [(7, None), (7, 0), (7, 129), (7, 512), (1, 64), (5, 192), (3, None), (0, None), (65001, 128)],
)
def test_main_mode_ciphers_that_we_do_not_know_are_none(number, bits):
    assert encryption_from_ike(number, bits) is None


@pytest.mark.parametrize(
    ("number", "bits"),
    [(12, None), (18, 128), (19, 128), (20, None), (20, 160), (3, 192), (11, 0), (1, None)],
)
def test_esp_ciphers_that_we_do_not_know_are_none(number, bits):
    """18 and 19 are AES-GCM with short ICVs: never offered, so never accepted."""
    assert encryption_from_esp(number, bits) is None


def test_unknown_hash_and_group_numbers_are_none():
    assert hash_from_ike(3) is None  # Tiger
    assert hash_from_ike(7) is None
    assert hash_from_esp_auth(3) is None  # DES-MAC
    assert hash_from_esp_auth(0) is None
    assert integrity_from_ah(4) is None  # DES
    assert group_from_number(5) is None
    assert group_from_number(24) is None


def test_key_sizes_of_an_esp_suite_count_the_salt_and_the_integrity_key():
    assert esp_key_sizes(EspSuite(Encryption.AES_GCM_128, None)) == (20, 0)
    assert esp_key_sizes(EspSuite(Encryption.TRIPLE_DES_CBC, Hash.SHA1)) == (24, 20)
    assert esp_key_sizes(EspSuite(Encryption.NULL, Hash.SHA_256)) == (0, 32)


@pytest.mark.parametrize("encryption", Encryption)
def test_esp_alignment_is_the_block_and_at_least_four_bytes(encryption):
    row = encryption_algorithm(encryption)
    assert row.esp_alignment % 4 == 0
    assert row.esp_alignment % row.block_size == 0
