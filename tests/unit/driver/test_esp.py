"""ESP by itself: rounds, forged packets, IVs, sizes."""

import os
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockade.crypto.packet import aead, split_salt
from stockade.driver.esp import MALFORMED, make_opener, make_sealer
from stockade.model.reasons import CallerError
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, EspSuite, Hash

SUITES = [
    EspSuite(Encryption.AES_GCM_128, None),
    EspSuite(Encryption.AES_GCM_256, None),
    EspSuite(Encryption.AES_CBC_256, Hash.SHA_256),
    EspSuite(Encryption.TRIPLE_DES_CBC, Hash.SHA1),
    EspSuite(Encryption.NULL, Hash.SHA1),
]


def both(hosts: SimpleNamespace, suite: EspSuite) -> tuple[object, object]:
    sa = hosts.make_sa(suite)
    sealer = make_sealer(sa.spi, suite, sa.encryption_key, sa.integrity_key, os.urandom)
    return sealer, make_opener(sa.spi, suite, sa.encryption_key, sa.integrity_key)


@pytest.mark.parametrize("suite", SUITES, ids=str)
def test_payloads_of_any_length_come_back(hosts: SimpleNamespace, suite: EspSuite) -> None:
    sealer, opener = both(hosts, suite)

    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.binary(max_size=300), max_size=8), st.integers(0, 255))
    def check(payloads: list[bytes], next_header: int) -> None:
        sealed = sealer.seal(next_header, payloads)
        assert all(len(packet) % 4 == 0 for packet in sealed)
        assert opener.open(sealed, 0) == [(next_header, payload) for payload in payloads]

    check()


@pytest.mark.parametrize("suite", SUITES, ids=str)
def test_every_changed_byte_is_noticed(hosts: SimpleNamespace, suite: EspSuite) -> None:
    sealer, opener = both(hosts, suite)
    (good,) = sealer.seal(6, [b"some payload"])
    first = 4 if suite.encryption.is_aead else 0
    for position in range(first, len(good)):
        bad = bytearray(good)
        bad[position] ^= 1
        assert opener.open([good, bytes(bad), good], 0)[1] is None, position


@pytest.mark.parametrize("suite", SUITES, ids=str)
def test_the_largest_payload_is_the_largest(hosts: SimpleNamespace, suite: EspSuite) -> None:
    sealer, _ = both(hosts, suite)
    for space in range(200, 260):
        largest = sealer.largest_payload(space)
        fits, too_long = sealer.seal(6, [bytes(largest), bytes(largest + 1)])
        assert len(fits) <= space < len(too_long)


def test_sequence_numbers_and_ivs_never_come_twice(hosts: SimpleNamespace) -> None:
    for suite, size in ((hosts.GCM, 8), (hosts.CBC, 16)):
        sealer, _ = both(hosts, suite)
        packets = [packet for _ in range(5) for packet in sealer.seal(6, [b"same payload"] * 7)]
        assert [int.from_bytes(packet[4:8], "big") for packet in packets] == list(range(1, 36))
        assert len({packet[8 : 8 + size] for packet in packets}) == 35
        assert len({packet[8 + size : 20 + size] for packet in packets}) == 35


def test_an_inside_that_makes_no_sense_is_the_peers_fault(hosts: SimpleNamespace) -> None:
    """Integrity is right, the padding is not: a broken or hostile peer."""
    sa = hosts.make_sa()
    opener = make_opener(sa.spi, sa.esp, sa.encryption_key, sa.integrity_key)
    key, salt = split_salt(sa.esp.encryption, sa.encryption_key)
    cipher = aead(sa.esp.encryption, key)
    header, iv = bytes(8), bytes(8)

    def opened(inside: bytes) -> object:
        return opener.open([header + iv + cipher.encrypt(salt + iv, inside, header)], 0)[0]

    assert opened(b"payload\x01\x02\x03\x03\x06") == (6, b"payload")
    assert opened(b"payload\x01\x02\x07\x03\x06") is MALFORMED  # not 1, 2, 3
    assert opened(b"payload\xff\x06") is MALFORMED  # more padding than packet
    assert opened(b"\x06") is MALFORMED  # no room for a trailer
    assert opened(b"") is MALFORMED


def test_keys_of_a_wrong_size_are_refused(hosts: SimpleNamespace) -> None:
    with pytest.raises(CallerError, match="KEYMAT"):
        make_sealer(256, hosts.GCM, Secret(b"short"), Secret(b""), os.urandom)
    with pytest.raises(CallerError):
        make_opener(256, hosts.CBC, Secret(bytes(16)), Secret(bytes(5)))
