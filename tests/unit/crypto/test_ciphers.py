"""CBC against RFC 3602 §4, SP 800-38A F.2, FIPS 81 and SP 800-67; refusals of wrong lengths."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stockade.crypto.ciphers import cbc_decrypt, cbc_encrypt
from stockade.crypto.packet import cbc
from stockade.crypto.registry import encryption_algorithm
from stockade.model.reasons import PeerError, ReasonCode
from stockade.model.secret import Secret
from stockade.model.suites import Encryption

SP_800_38A_PLAINTEXT = (
    "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
    "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
)
COUNTING_IV = "000102030405060708090a0b0c0d0e0f"

# (source, cipher, key, IV, plaintext, ciphertext), all in hexadecimal
VECTORS = [
    (
        "RFC 3602 §4 case 1",
        Encryption.AES_CBC_128,
        "06a9214036b8a15b512e03d534120006",
        "3dafba429d9eb430b422da802c9fac41",
        b"Single block msg".hex(),
        "e353779c1079aeb82708942dbe77181a",
    ),
    (
        "RFC 3602 §4 case 2",
        Encryption.AES_CBC_128,
        "c286696d887c9aa0611bbb3e2025a45a",
        "562e17996d093d28ddb3ba695a2e6f58",
        bytes(range(32)).hex(),
        "d296cd94c2cccf8a3a863028b5e1dc0a7586602d253cfff91b8266bea6d61ab1",
    ),
    (
        "RFC 3602 §4 case 3",
        Encryption.AES_CBC_128,
        "6c3ea0477630ce21a2ce334aa746c2cd",
        "c782dc4c098c66cbd9cd27d825682c81",
        b"This is a 48-byte message (exactly 3 AES blocks)".hex(),
        "d0a02b3836451753d493665d33f0e8862dea54cdb293abc7506939276772f8d5021c19216bad525c8579695d83ba2684",
    ),
    (
        "RFC 3602 §4 case 4",
        Encryption.AES_CBC_128,
        "56e47a38c5598974bc46903dba290349",
        "8ce82eefbea0da3c44699ed7db51b7d9",
        bytes(range(0xA0, 0xE0)).hex(),
        "c30e32ffedc0774e6aff6af0869f71aa0f3af07a9a31a9c684db207eb0ef8e4e"
        "35907aa632c3ffdf868bb7b29d3d46ad83ce9f9a102ee99d49a53e87f4c3da55",
    ),
    (
        "RFC 3602 §4 case 5 (ESP transport mode, ping)",
        Encryption.AES_CBC_128,
        "90d382b410eeba7ad938c46cec1a82bf",
        "e96e8c08ab465763fd098d45dd3ff893",
        "08000ebda70a00008e9c083db95b0700" + bytes(range(8, 0x38)).hex() + bytes(range(1, 15)).hex() + "0e01",
        "f663c25d325c18c6a9453e194e120849a4870b66cc6b9965330013b4898dc856"
        "a4699e523a55db080b59ec3a8e4b7e52775b07d1db34ed9c538ab50c551b874a"
        "a269add047ad2d5913ac19b7cfbad4a6",
    ),
    (
        "SP 800-38A F.2.1",
        Encryption.AES_CBC_128,
        "2b7e151628aed2a6abf7158809cf4f3c",
        COUNTING_IV,
        SP_800_38A_PLAINTEXT,
        "7649abac8119b246cee98e9b12e9197d5086cb9b507219ee95db113a917678b2"
        "73bed6b8e3c1743b7116e69e222295163ff1caa1681fac09120eca307586e1a7",
    ),
    (
        "SP 800-38A F.2.3",
        Encryption.AES_CBC_192,
        "8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b",
        COUNTING_IV,
        SP_800_38A_PLAINTEXT,
        "4f021db243bc633d7178183a9fa071e8b4d9ada9ad7dedf4e5e738763f69145a"
        "571b242012fb7ae07fa9baac3df102e008b0e27988598881d920a9e64f5615cd",
    ),
    (
        "SP 800-38A F.2.5",
        Encryption.AES_CBC_256,
        "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
        COUNTING_IV,
        SP_800_38A_PLAINTEXT,
        "f58c4c04d6e5f1ba779eabfb5f7bfbd69cfc4e967edb808d679f777bc6702c7d"
        "39f23369a9d9bacfa530e26304231461b2eb05e2c39be9fcda6c19078c6a9d1b",
    ),
    (
        "FIPS 81 Table C1",
        Encryption.DES_CBC,
        "0123456789abcdef",
        "1234567890abcdef",
        b"Now is the time for all ".hex(),
        "e5c7cdde872bf27c43e934008c389c0f683788499a7c05f6",
    ),
    # SP 800-67 Appendix B.1 is in ECB mode: one block of it is CBC with a zero IV.
    (
        "SP 800-67 B.1 block 1",
        Encryption.TRIPLE_DES_CBC,
        "0123456789abcdef23456789abcdef01456789abcdef0123",
        "00" * 8,
        b"The qufc".hex(),
        "a826fd8ce53b855f",
    ),
    (
        "SP 800-67 B.1 block 2",
        Encryption.TRIPLE_DES_CBC,
        "0123456789abcdef23456789abcdef01456789abcdef0123",
        "00" * 8,
        b"k brown ".hex(),
        "cce21c8112256fe6",
    ),
    (
        "SP 800-67 B.1 block 3",
        Encryption.TRIPLE_DES_CBC,
        "0123456789abcdef23456789abcdef01456789abcdef0123",
        "00" * 8,
        b"fox jump".hex(),
        "68d5c05dd9b6b900",
    ),
]
with_vectors = pytest.mark.parametrize(
    ("encryption", "key", "iv", "plaintext", "ciphertext"),
    [pytest.param(row[1], *map(bytes.fromhex, row[2:]), id=row[0]) for row in VECTORS],
)
CBC_CIPHERS = [name for name in Encryption if name is not Encryption.NULL and not name.is_aead]


@with_vectors
def test_message_cipher_gives_the_published_ciphertext(encryption, key, iv, plaintext, ciphertext):
    assert cbc_encrypt(encryption, key, iv, plaintext) == ciphertext
    assert cbc_decrypt(encryption, Secret(key), iv, ciphertext) == plaintext


@with_vectors
def test_packet_cipher_gives_the_published_ciphertext_again_and_again(
    encryption, key, iv, plaintext, ciphertext
):
    cipher = cbc(encryption, key)
    for _ in range(3):  # it chains over packets: the second packet is where that could go wrong
        assert cipher.encrypt(iv, plaintext) == ciphertext
        assert cipher.decrypt(iv, ciphertext) == plaintext
        assert cipher.decrypt_packet(iv + ciphertext) == plaintext


@given(
    encryption=st.sampled_from(CBC_CIPHERS),
    key=st.binary(min_size=32, max_size=32),
    iv=st.binary(min_size=16, max_size=16),
    blocks=st.integers(1, 5),
)
def test_messages_survive_the_round_trip(encryption, key, iv, blocks):
    row = encryption_algorithm(encryption)
    data = bytes(range(blocks * row.block_size))
    key, iv = key[: row.key_size], iv[: row.block_size]
    assert cbc_decrypt(encryption, key, iv, cbc_encrypt(encryption, key, iv, data)) == data


@pytest.mark.parametrize("encryption", CBC_CIPHERS)
@pytest.mark.parametrize("length", [0, 1, 7, 9, 17, 31])
def test_a_message_of_broken_blocks_is_the_peers_fault(encryption, length):
    row = encryption_algorithm(encryption)
    with pytest.raises(PeerError) as caught:
        cbc_decrypt(encryption, bytes(row.key_size), bytes(row.block_size), bytes(length))
    assert caught.value.reason.code is ReasonCode.DECRYPTION_FAILED


@pytest.mark.parametrize("encryption", CBC_CIPHERS)
def test_wrong_sizes_of_our_own_are_value_errors(encryption):
    row = encryption_algorithm(encryption)
    key, iv, data = bytes(row.key_size), bytes(row.block_size), bytes(row.block_size)
    for arguments in (
        (key[1:], iv, data),
        (key + b"x", iv, data),
        (key, iv[1:], data),
        (key, iv, data + b"x"),
    ):
        with pytest.raises(ValueError, match=r"takes a key of|IV|nonce|iv|whole blocks"):
            cbc_encrypt(encryption, *arguments)


@pytest.mark.parametrize("encryption", [Encryption.NULL, Encryption.AES_GCM_128])
def test_what_is_not_cbc_cannot_protect_a_message(encryption):
    row = encryption_algorithm(encryption)
    with pytest.raises(ValueError, match="not a CBC cipher"):
        cbc_encrypt(encryption, bytes(row.key_size), bytes(16), bytes(16))
