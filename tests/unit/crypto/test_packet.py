"""Per-SA objects: AES-GCM against the test cases of McGrew and Viega ("The Galois/Counter Mode of Operation",
Appendix B), truncated HMAC against RFC 2202 and RFC 4868 §2.7, chaining CBC against fresh contexts, whole ESP
packets against scapy."""

import hmac
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP
from scapy.layers.ipsec import ESP
from scapy.layers.ipsec import SecurityAssociation as ScapySa

from stockade.crypto.ciphers import cbc_decrypt, cbc_encrypt
from stockade.crypto.packet import aead, cbc, mac, split_salt
from stockade.crypto.registry import encryption_algorithm, hash_algorithm
from stockade.model.reasons import PeerError, ReasonCode
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, Hash

CBC_CIPHERS = [name for name in Encryption if name is not Encryption.NULL and not name.is_aead]
GCM_CIPHERS = [name for name in Encryption if name.is_aead]

GCM_KEY = "feffe9928665731c6d6a8f9467308308"
GCM_NONCE = "cafebabefacedbaddecaf888"
GCM_PLAINTEXT = (
    "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
    "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
)
GCM_ASSOCIATED = "feedfacedeadbeeffeedfacedeadbeefabaddad2"

GCM_VECTORS = [
    ("case 1", Encryption.AES_GCM_128, "00" * 16, "00" * 12, "", "", "58e2fccefa7e3061367f1d57a4e7455a"),
    (
        "case 2",
        Encryption.AES_GCM_128,
        "00" * 16,
        "00" * 12,
        "00" * 16,
        "",
        "0388dace60b6a392f328c2b971b2fe78ab6e47d42cec13bdf53a67b21257bddf",
    ),
    (
        "case 4",
        Encryption.AES_GCM_128,
        GCM_KEY,
        GCM_NONCE,
        GCM_PLAINTEXT,
        GCM_ASSOCIATED,
        "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e"
        "21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e0915bc94fbc3221a5db94fae95ae7121a47",
    ),
    (
        "case 10",
        Encryption.AES_GCM_192,
        GCM_KEY + GCM_KEY[:16],
        GCM_NONCE,
        GCM_PLAINTEXT,
        GCM_ASSOCIATED,
        "3980ca0b3c00e841eb06fac4872a2757859e1ceaa6efd984628593b40ca1e19c"
        "7d773d00c144c525ac619d18c84a3f4718e2448b2fe324d9ccda27102519498e80f1478f37ba55bd6d27618c",
    ),
    (
        "case 16",
        Encryption.AES_GCM_256,
        GCM_KEY * 2,
        GCM_NONCE,
        GCM_PLAINTEXT,
        GCM_ASSOCIATED,
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
        "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f66276fc6ece0f4e1768cddf8853bb2d551b",
    ),
]


# ---- AES-GCM
@pytest.mark.parametrize(
    ("encryption", "key", "nonce", "plaintext", "associated", "sealed"),
    [pytest.param(row[1], *map(bytes.fromhex, row[2:]), id=row[0]) for row in GCM_VECTORS],
)
def test_aead_gives_the_published_ciphertext_and_tag(encryption, key, nonce, plaintext, associated, sealed):
    cipher = aead(encryption, key)
    assert cipher.encrypt(nonce, plaintext, associated) == sealed
    assert cipher.decrypt(nonce, sealed, associated) == plaintext


@pytest.mark.parametrize("encryption", GCM_CIPHERS)
def test_aead_refuses_every_change_of_one_bit(encryption):
    cipher = aead(encryption, os.urandom(encryption_algorithm(encryption).key_size))
    nonce, associated = os.urandom(cipher.nonce_size), os.urandom(8)
    sealed = cipher.encrypt(nonce, b"four", associated)

    def flipped(data, index):
        return data[:index] + bytes((data[index] ^ 1,)) + data[index + 1 :]

    assert cipher.decrypt(nonce, sealed, associated) == b"four"
    assert all(cipher.decrypt(nonce, flipped(sealed, i), associated) is None for i in range(len(sealed)))
    assert all(cipher.decrypt(nonce, sealed, flipped(associated, i)) is None for i in range(8))
    assert all(
        cipher.decrypt(flipped(nonce, i), sealed, associated) is None for i in range(cipher.nonce_size)
    )


@pytest.mark.parametrize("length", range(17))
def test_aead_takes_any_short_packet_as_a_forgery(length):
    assert aead(Encryption.AES_GCM_128, bytes(16)).decrypt(bytes(12), b"\xff" * length, bytes(8)) is None


def test_aead_refuses_wrong_sizes_of_our_own():
    with pytest.raises(ValueError, match="takes a key of 16 bytes"):
        aead(Encryption.AES_GCM_128, bytes(20))  # the salt does not belong to the key
    with pytest.raises(ValueError, match="not a combined-mode cipher"):
        aead(Encryption.AES_CBC_128, bytes(16))
    cipher = aead(Encryption.AES_GCM_128, bytes(16))
    for nonce in (bytes(8), bytes(13)):
        with pytest.raises(ValueError, match="12 bytes"):
            cipher.encrypt(nonce, b"", b"")
        with pytest.raises(ValueError, match="12 bytes"):
            cipher.decrypt(nonce, bytes(32), b"")


@pytest.mark.parametrize("encryption", Encryption)
def test_salt_is_what_follows_the_key(encryption):
    row = encryption_algorithm(encryption)
    material = bytes(range(row.key_size)) + b"salt"[: row.salt_size]
    assert split_salt(encryption, Secret(material)) == (
        bytes(range(row.key_size)),
        b"salt"[: row.salt_size] if encryption.is_aead else b"",
    )
    with pytest.raises(ValueError, match="bytes of KEYMAT"):
        split_salt(encryption, material + b"x")


# ---- CBC
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_chained_cbc_equals_fresh_contexts_whatever_the_order_of_calls(data):
    encryption = data.draw(st.sampled_from(CBC_CIPHERS))
    row = encryption_algorithm(encryption)
    key = data.draw(st.binary(min_size=row.key_size, max_size=row.key_size))
    cipher = cbc(encryption, key)
    for _ in range(data.draw(st.integers(1, 6))):
        action = data.draw(
            st.sampled_from(["encrypt", "encrypt_packet", "decrypt", "decrypt_packet", "refused"])
        )
        first = data.draw(st.binary(min_size=row.block_size, max_size=row.block_size))
        text = data.draw(st.binary(min_size=1, max_size=4)) * row.block_size
        if action == "encrypt":
            assert cipher.encrypt(first, text) == cbc_encrypt(encryption, key, first, text)
        elif action == "encrypt_packet":
            packet = cipher.encrypt_packet(first + text)
            iv, ciphertext = packet[: row.block_size], packet[row.block_size :]
            assert ciphertext == cbc_encrypt(encryption, key, iv, text)
        elif action == "decrypt":
            assert cipher.decrypt(first, text) == cbc_decrypt(encryption, key, first, text)
        elif action == "decrypt_packet":
            assert cipher.decrypt_packet(first + text) == cbc_decrypt(encryption, key, first, text)
        else:
            with pytest.raises(ValueError, match="whole blocks"):
                cipher.encrypt_packet(first + text + b"x")
            with pytest.raises(PeerError):
                cipher.decrypt_packet(first + text + b"x")


@pytest.mark.parametrize("encryption", CBC_CIPHERS)
def test_the_iv_of_a_packet_is_neither_its_random_block_nor_the_last_block_before(encryption):
    row = encryption_algorithm(encryption)
    cipher = cbc(encryption, bytes(range(row.key_size)))
    before = cipher.encrypt_packet(bytes(2 * row.block_size))
    random_block = os.urandom(row.block_size)
    iv = cipher.encrypt_packet(random_block + bytes(row.block_size))[: row.block_size]
    assert iv not in (random_block, before[-row.block_size :])
    # SP 800-38A Appendix C: the cipher of a block that is random, here the random block ^ the block before
    assert iv == cbc_encrypt(encryption, bytes(range(row.key_size)), before[-row.block_size :], random_block)


@pytest.mark.parametrize("encryption", CBC_CIPHERS)
def test_equal_packets_never_look_equal(encryption):
    row = encryption_algorithm(encryption)
    cipher = cbc(encryption, bytes(range(row.key_size)))
    packets = {cipher.encrypt_packet(os.urandom(row.block_size) + bytes(row.block_size)) for _ in range(50)}
    assert len(packets) == 50


@pytest.mark.parametrize("encryption", CBC_CIPHERS)
@pytest.mark.parametrize("extra", [-1, 1])
def test_broken_blocks_of_a_packet_are_the_peers_fault(encryption, extra):
    row = encryption_algorithm(encryption)
    cipher = cbc(encryption, bytes(row.key_size))
    size = row.block_size
    for call in (
        lambda: cipher.decrypt_packet(bytes(2 * size + extra)),
        lambda: cipher.decrypt_packet(bytes(size)),
        lambda: cipher.decrypt_packet(b""),
        lambda: cipher.decrypt(bytes(size), bytes(size + extra)),
        lambda: cipher.decrypt(bytes(size + extra), bytes(size)),
    ):
        with pytest.raises(PeerError) as caught:
            call()
        assert caught.value.reason.code is ReasonCode.MALFORMED_PACKET


def test_null_encryption_changes_nothing_and_takes_no_key():
    cipher = cbc(Encryption.NULL, b"")
    assert cipher.encrypt_packet(b"clear") == cipher.decrypt_packet(b"clear") == b"clear"
    assert cipher.encrypt(b"", b"clear") == cipher.decrypt(b"", b"clear") == b"clear"
    with pytest.raises(ValueError, match="no key"):
        cbc(Encryption.NULL, b"key")


# ---- HMAC
@pytest.mark.parametrize(
    ("hash_name", "key", "data", "expected"),
    [
        # RFC 2202 §2 and §3, test case 5: the digests cut to 96 bits
        (Hash.MD5, b"\x0c" * 16, b"Test With Truncation", "56461ef2342edc00f9bab995"),
        (Hash.SHA1, b"\x0c" * 20, b"Test With Truncation", "4c1a03424b55e07fe7f27be1"),
        # RFC 4868 §2.7.2, first case of each
        (Hash.SHA_256, b"\x0b" * 32, b"Hi There", "198a607eb44bfbc69903a0f1cf2bbdc5"),
        (Hash.SHA_384, b"\x0b" * 48, b"Hi There", "b6a8d5636f5c6a7224f9977dcf7ee6c7fb6d0c48cbdee973"),
        (
            Hash.SHA_512,
            b"\x0b" * 64,
            b"Hi There",
            "637edc6e01dce7e6742a99451aae82df23da3e92439e590e43e761b33e910fb8",
        ),
    ],
)
def test_mac_gives_the_published_truncated_value(hash_name, key, data, expected):
    integrity = mac(hash_name, key)
    assert integrity.compute(data).hex() == expected
    assert integrity.compute(data[:3], memoryview(data)[3:]).hex() == expected
    assert integrity.verify(bytes.fromhex(expected), data)


@pytest.mark.parametrize("hash_name", Hash)
def test_mac_refuses_wrong_and_short_values(hash_name):
    row = hash_algorithm(hash_name)
    integrity = mac(hash_name, Secret(os.urandom(row.integrity_key_size)))
    icv = integrity.compute(b"header", b"body")
    assert len(icv) == integrity.icv_size == row.icv_size
    assert integrity.verify(icv, b"headerbody")
    assert not integrity.verify(icv, b"headerbodx")
    assert not integrity.verify(b"", b"headerbody")
    assert not integrity.verify(icv[:-1], b"headerbody")
    assert not integrity.verify(icv + b"\0", b"headerbody")
    assert not integrity.verify(icv[:-1] + bytes((icv[-1] ^ 1,)), b"headerbody")


def test_mac_compares_in_constant_time(monkeypatch):
    calls = []

    def watch(first, second):
        calls.append((bytes(first), bytes(second)))
        return False

    monkeypatch.setattr(hmac, "compare_digest", watch)
    integrity = mac(Hash.SHA1, bytes(20))
    assert not integrity.verify(integrity.compute(b"x"), b"x")
    assert calls == [(integrity.compute(b"x"), integrity.compute(b"x"))]


def test_mac_refuses_a_key_of_another_size():
    with pytest.raises(ValueError, match="takes a key of 20 bytes"):
        mac(Hash.SHA1, bytes(19))


# ---- all of them
def test_no_key_shows_in_a_repr():
    key = b"K" * 16
    for thing in (aead(Encryption.AES_GCM_128, key), cbc(Encryption.AES_CBC_128, key), mac(Hash.MD5, key)):
        text = f"{thing!r} {thing} {[thing]}"
        assert "KKKK" not in text
        assert key.hex() not in text


@pytest.mark.parametrize(
    ("encryption", "scapy_name"),
    [(Encryption.AES_GCM_128, "AES-GCM"), (Encryption.AES_GCM_256, "AES-GCM")],
)
def test_scapy_reads_a_packet_sealed_with_aes_gcm(encryption, scapy_name):
    material = os.urandom(encryption_algorithm(encryption).keymat_size)
    key, salt = split_salt(encryption, material)
    iv, header = os.urandom(8), (0x1234).to_bytes(4) + (1).to_bytes(4)
    inner = bytes(ICMP()) + b"payload!" + b"\x01\x02\x02\x01"
    body = aead(encryption, key).encrypt(salt + iv, inner, header)
    packet = IP(src="10.0.0.1", dst="10.0.0.2") / ESP(spi=0x1234, seq=1, data=iv + body)
    peer = ScapySa(ESP, spi=0x1234, crypt_algo=scapy_name, crypt_key=material)
    assert bytes(peer.decrypt(IP(bytes(packet))).payload)[-8:] == b"payload!"


@pytest.mark.parametrize(
    ("encryption", "scapy_cipher", "hash_name", "scapy_hash"),
    [
        (Encryption.AES_CBC_256, "AES-CBC", Hash.SHA_256, "SHA2-256-128"),
        (Encryption.TRIPLE_DES_CBC, "3DES", Hash.SHA1, "HMAC-SHA1-96"),
        (Encryption.AES_CBC_128, "AES-CBC", Hash.SHA_512, "SHA2-512-256"),
    ],
)
def test_scapy_reads_a_packet_sealed_with_cbc_and_hmac(encryption, scapy_cipher, hash_name, scapy_hash):
    row = encryption_algorithm(encryption)
    key, integrity_key = os.urandom(row.key_size), os.urandom(hash_algorithm(hash_name).integrity_key_size)
    inner = bytes(ICMP()) + b"payload!" + bytes(range(1, 15)) + b"\x0e\x01"
    header = (0x1234).to_bytes(4) + (1).to_bytes(4)
    body = cbc(encryption, key).encrypt_packet(os.urandom(row.iv_size) + inner)
    icv = mac(hash_name, integrity_key).compute(header, body)
    packet = IP(src="10.0.0.1", dst="10.0.0.2") / ESP(spi=0x1234, seq=1, data=body + icv)
    peer = ScapySa(
        ESP,
        spi=0x1234,
        crypt_algo=scapy_cipher,
        crypt_key=key,
        auth_algo=scapy_hash,
        auth_key=integrity_key,
    )
    assert bytes(peer.decrypt(IP(bytes(packet))).payload)[-8:] == b"payload!"
