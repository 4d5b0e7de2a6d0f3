"""ESP in both directions against scapy, an implementation of its own (and slow to import: only here)."""

import logging
from types import SimpleNamespace

import pytest

from stockade.driver.esp import make_opener, make_sealer
from stockade.model.suites import Encryption, EspSuite, Hash

logging.getLogger("scapy.runtime").setLevel(logging.ERROR)
scapy_ipsec = pytest.importorskip("scapy.layers.ipsec")
scapy_inet = pytest.importorskip("scapy.layers.inet")

CBC_NAMES = {
    Encryption.NULL: "NULL",
    Encryption.DES_CBC: "DES",
    Encryption.TRIPLE_DES_CBC: "3DES",
    Encryption.AES_CBC_128: "AES-CBC",
    Encryption.AES_CBC_192: "AES-CBC",
    Encryption.AES_CBC_256: "AES-CBC",
}
COMBINED_NAMES = {"aes-gcm": "AES-GCM", "aes-ccm": "AES-CCM", "aes-gmac": "AES-NULL-GMAC"}
INTEGRITY_NAMES = {
    Hash.MD5: "HMAC-MD5-96",
    Hash.SHA1: "HMAC-SHA1-96",
    Hash.SHA_256: "SHA2-256-128",
    Hash.SHA_384: "SHA2-384-192",
    Hash.SHA_512: "SHA2-512-256",
}
SUITES = [
    *(EspSuite(entry, None) for entry in Encryption if entry.is_aead),
    *(EspSuite(entry, Hash.SHA1) for entry in CBC_NAMES),
    *(EspSuite(Encryption.AES_CBC_128, entry) for entry in Hash if entry is not Hash.SHA1),
]


def scapy_sa(suite: EspSuite, sa: object) -> object:
    """The SA as scapy wants it. scapy ≥ 2.5 knows 3DES and DES only where the library still has them."""
    keys = {"crypt_key": sa.encryption_key.reveal()}
    if suite.integrity is not None:
        keys["auth_key"] = sa.integrity_key.reveal()
        keys["auth_algo"] = INTEGRITY_NAMES[suite.integrity]
    family = suite.encryption.rpartition("-")[0]
    name = CBC_NAMES.get(suite.encryption) or COMBINED_NAMES.get(family, suite.encryption.upper())
    if name not in scapy_ipsec.CRYPT_ALGOS:
        pytest.skip(f"this scapy has no {name}")
    if suite.encryption is Encryption.NULL:
        del keys["crypt_key"]
    return scapy_ipsec.SecurityAssociation(scapy_ipsec.ESP, spi=0x1000, crypt_algo=name, **keys)


@pytest.mark.parametrize("suite", SUITES, ids=str)
@pytest.mark.parametrize("size", [0, 1, 13, 14, 64, 1400])
def test_scapy_opens_what_we_seal(hosts: SimpleNamespace, suite: EspSuite, size: int) -> None:
    sa = hosts.make_sa(suite)
    sealer = make_sealer(
        sa.spi, suite, sa.encryption_key, sa.integrity_key, lambda count: bytes(range(count))
    )
    packet = hosts.udp(bytes(number % 251 for number in range(size)))
    sealed = sealer.seal(17, [b"first of a batch", packet[20:], b"last"])
    judge = scapy_sa(suite, sa)
    whole = scapy_inet.IP(hosts.build_packet(hosts.ALPHA, hosts.BETA, 50, sealed[1]))
    assert whole[scapy_ipsec.ESP].seq == 2
    clear = judge.decrypt(whole)
    assert bytes(clear[scapy_inet.UDP]) == packet[20:]


@pytest.mark.parametrize("suite", SUITES, ids=str)
def test_we_open_what_scapy_seals(hosts: SimpleNamespace, suite: EspSuite) -> None:
    sa = hosts.make_sa(suite)
    judge = scapy_sa(suite, sa)
    opener = make_opener(sa.spi, suite, sa.encryption_key, sa.integrity_key)
    clear = [hosts.udp(bytes(size)) for size in (0, 1, 2, 3, 100, 1400)]
    sealed = [
        bytes(judge.encrypt(scapy_inet.IP(packet), seq_num=number + 1)) for number, packet in enumerate(clear)
    ]
    assert opener.open(sealed, 20) == [(17, packet[20:]) for packet in clear]
