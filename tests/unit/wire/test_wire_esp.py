"""ESP's header and trailer, and what a datagram on port 4500 is."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockade.model.reasons import PeerError, ReasonCode
from stockade.wire.esp import EspHeader, decode_esp_header, esp_trailer, remove_esp_trailer
from stockade.wire.udp_encapsulation import DatagramKind, add_marker, classify, remove_marker


@settings(max_examples=60)
@given(st.integers(1, 0xFFFF_FFFF), st.integers(0, 0xFFFF_FFFF), st.binary(max_size=20))
def test_the_header_survives_the_wire(spi: int, sequence: int, before: bytes) -> None:
    header = EspHeader(spi, sequence)
    assert decode_esp_header(before + header.encode() + b"rest", len(before)) == header


def test_header_bytes() -> None:
    assert EspHeader(0xC0FFEE01, 2).encode().hex() == "c0ffee0100000002"


@pytest.mark.parametrize(
    ("packet", "offset", "text"),
    [
        (b"", 0, "8 bytes expected, 0 left"),
        (bytes(7), 0, "8 bytes expected, 7 left"),
        (bytes(12), 5, "8 bytes expected, 7 left"),
        (bytes(12), 50, "8 bytes expected, 0 left"),
        (bytes(12), -8, "8 bytes expected"),
        (bytes(12), 0, "the SPI is zero"),
    ],
)
def test_a_bad_header_is_refused(packet: bytes, offset: int, text: str) -> None:
    with pytest.raises(PeerError, match=text) as caught:
        decode_esp_header(packet, offset)
    assert caught.value.reason.code is ReasonCode.MALFORMED_PACKET


@settings(max_examples=100)
@given(st.binary(max_size=100), st.integers(0, 255), st.sampled_from((4, 8, 16)))
def test_the_trailer_aligns_and_is_removed_again(payload: bytes, next_header: int, alignment: int) -> None:
    contents = payload + esp_trailer(len(payload), next_header, alignment)
    assert len(contents) % alignment == 0
    assert len(contents) - len(payload) <= alignment + 1
    assert remove_esp_trailer(contents) == (len(payload), next_header)


def test_trailer_bytes() -> None:
    assert esp_trailer(1, 6, 8).hex() == "01020304050506"
    assert esp_trailer(6, 6, 8).hex() == "0006"


@pytest.mark.parametrize(
    ("contents", "text"),
    [
        ("", "2 bytes expected, 0 left"),
        ("06", "2 bytes expected, 1 left"),
        ("01020406", "4 bytes of padding announced, 2 left"),
        ("0000000206", "the padding is not"),
        ("0102040306", "the padding is not"),
    ],
)
def test_a_bad_trailer_is_refused(contents: str, text: str) -> None:
    with pytest.raises(PeerError, match=text) as caught:
        remove_esp_trailer(bytes.fromhex(contents))
    assert caught.value.reason.code is ReasonCode.MALFORMED_PACKET


@pytest.mark.parametrize("fields", [(0, 1), (1 << 32, 1), (1, -1), (1, 1 << 32)])
def test_an_impossible_header_cannot_be_made(fields: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="outside"):
        EspHeader(*fields)


# ---- UDP encapsulation
@pytest.mark.parametrize(
    ("datagram", "kind"),
    [
        ("ff", DatagramKind.KEEPALIVE),
        ("00000000ab", DatagramKind.IKE),
        ("0000000100000001", DatagramKind.ESP),
        ("ffffffff00000001", DatagramKind.ESP),
    ],
)
def test_datagrams_on_port_4500(datagram: str, kind: DatagramKind) -> None:
    assert classify(bytes.fromhex(datagram)) is kind


@pytest.mark.parametrize("datagram", ["", "00", "fe", "ffff", "00000000", "00000001", "00000001000000"])
def test_a_datagram_that_is_nothing_is_refused(datagram: str) -> None:
    with pytest.raises(PeerError) as caught:
        classify(bytes.fromhex(datagram))
    assert caught.value.reason.code is ReasonCode.MALFORMED_PACKET


def test_the_marker_goes_on_and_off() -> None:
    assert remove_marker(add_marker(b"message")) == b"message"
    with pytest.raises(PeerError, match="no non-ESP marker"):
        remove_marker(EspHeader(5, 5).encode())
    with pytest.raises(PeerError, match="no non-ESP marker"):
        remove_marker(b"\xff")
