"""ESP by itself: rounds, forged packets, IVs, sizes."""

import os
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
        sealed = sealer.seal(next_header, payloads)  # type: ignore[attr-defined]
        assert all(len(packet) % 4 == 0 for packet in sealed)
        assert opener.open(sealed, 0) == [(next_header, payload) for payload in payloads]  # type: ignore[attr-defined]

    check()


@pytest.mark.parametrize("suite", SUITES, ids=str)
def test_every_changed_byte_is_noticed(hosts: SimpleNamespace, suite: EspSuite) -> None:
    sealer, opener = both(hosts, suite)
    (good,) = sealer.seal(6, [b"some payload"])  # type: ignore[attr-defined]
    first = 4 if suite.encryption.is_aead else 0
    for position in range(first, len(good)):
        bad = bytearray(good)
        bad[position] ^= 1
        assert opener.open([good, bytes(bad), good], 0)[1] is None, position  # type: ignore[attr-defined]


@pytest.mark.parametrize("suite", SUITES, ids=str)
def test_the_largest_payload_is_the_largest(hosts: SimpleNamespace, suite: EspSuite) -> None:
    sealer, _ = both(hosts, suite)
    for space in range(200, 260):
        largest = sealer.largest_payload(space)  # type: ignore[attr-defined]
        fits, too_long = sealer.seal(6, [bytes(largest), bytes(largest + 1)])  # type: ignore[attr-defined]
        assert len(fits) <= space < len(too_long)


def test_sequence_numbers_and_ivs_never_come_twice(hosts: SimpleNamespace) -> None:
    for suite, size in ((hosts.GCM, 8), (hosts.CBC, 16)):
        sealer, _ = both(hosts, suite)
        packets = [packet for _ in range(5) for packet in sealer.seal(6, [b"same payload"] * 7)]  # type: ignore[attr-defined]
        assert [int.from_bytes(packet[4:8], "big") for packet in packets] == list(range(1, 36))
        assert len({packet[8 : 8 + size] for packet in packets}) == 35
        assert len({packet[8 + size : 20 + size] for packet in packets}) == 35


@pytest.mark.parametrize("suite", SUITES, ids=str)
def test_an_inside_that_makes_no_sense_is_the_peers_fault(hosts: SimpleNamespace, suite: EspSuite) -> None:
    """Integrity is right, the padding is not (a hostile or broken peer)."""
    sealer, opener = both(hosts, suite)
    wrong = b"\x01\x02\x07\x03\x06"  # padding 1, 2, 7
    long = b"\xff\x06"  # more padding than there is packet
    # The sealer adds a trailer; the wrong one is made by lying about where the payload ends.
    for inside in (wrong, long):
        filler = bytes(14 + 16 - len(inside)) + inside
        (packet,) = sealer.seal(0, [filler])  # type: ignore[attr-defined]
        assert opener.open([packet], 0) == [(0, filler)]  # type: ignore[attr-defined]
    import stockade.driver.esp as module

    assert module._take_apart(b"x" * 11 + wrong) is MALFORMED
    assert module._take_apart(b"x" * 14 + long) is MALFORMED


def test_keys_of_a_wrong_size_are_refused(hosts: SimpleNamespace) -> None:
    with pytest.raises(CallerError, match="KEYMAT"):
        make_sealer(256, hosts.GCM, Secret(b"short"), Secret(b""), os.urandom)
    with pytest.raises(CallerError):
        make_opener(256, hosts.CBC, Secret(bytes(16)), Secret(bytes(5)))
