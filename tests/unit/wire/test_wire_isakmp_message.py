"""The ISAKMP header and the chain of payloads: lengths, limits, padding, refusals."""

import pytest

from stockade.model.reasons import PeerError, ReasonCode
from stockade.wire.isakmp.constants import ExchangeType, HeaderFlag, PayloadType
from stockade.wire.isakmp.message import (
    MAXIMUM_PAYLOADS,
    Header,
    decode_header,
    decode_payloads,
    encode_message,
    encode_payload,
    encode_payloads,
)
from stockade.wire.isakmp.payloads import (
    FragmentPayload,
    NoncePayload,
    UnknownPayload,
    VendorIdPayload,
)

HEADER = Header(b"initiate", b"respond.", PayloadType.NONCE, 0x10, ExchangeType.QUICK_MODE, 1, 0xDEADBEEF)


def test_header_bytes() -> None:
    datagram = encode_message(HEADER, b"\xaa\xbb")
    expected = b"initiate" + b"respond." + bytes.fromhex("0a102001 deadbeef 0000001e aabb")
    assert datagram == expected
    header = decode_header(datagram)
    assert header.encrypted
    assert header.flags & HeaderFlag.ENCRYPTION
    assert header.major_version == 1
    assert header.cookies == b"initiate".hex() + ":" + b"respond.".hex()


@pytest.mark.parametrize(
    ("datagram", "text"),
    [
        (b"", "0 bytes, at least 28"),
        (bytes(27), "27 bytes, at least 28"),
        (encode_message(HEADER, b"x")[:-1], "length says 29 bytes, the datagram has 28"),
        (encode_message(HEADER, b"x") + b"y", "length says 29 bytes, the datagram has 30"),
        (bytes(8) + encode_message(HEADER, b"")[8:], "the initiator cookie is zero"),
    ],
)
def test_a_bad_header_is_refused(datagram: bytes, text: str) -> None:
    with pytest.raises(PeerError, match=text) as caught:
        decode_header(datagram)
    assert caught.value.reason.code is ReasonCode.MALFORMED_HEADER


def test_a_datagram_longer_than_any_message_is_refused() -> None:
    with pytest.raises(PeerError, match="at most 65535"):
        decode_header(HEADER.encode()[:24] + (65536).to_bytes(4, "big") + bytes(65536 - 28))
    with pytest.raises(ValueError, match="too long"):
        encode_message(HEADER, bytes(65535 - 27))


def test_no_payloads() -> None:
    assert encode_payloads(()) == (0, b"")
    assert decode_payloads(0, b"") == ()


def test_received_bytes_and_offsets_are_kept_with_the_garbage_in_them() -> None:
    body = bytes.fromhex("0dff000c 0101010101010101" + "00ee0006 abcd")
    nonce, vendor = decode_payloads(PayloadType.NONCE, body)
    assert (nonce.payload, vendor.payload) == (NoncePayload(b"\1" * 8), VendorIdPayload(b"\xab\xcd"))
    assert (nonce.start, nonce.end, vendor.start, vendor.end) == (0, 12, 12, 18)
    assert body[vendor.start : vendor.end] == bytes.fromhex("00ee0006 abcd")


@pytest.mark.parametrize("size", range(4))
def test_a_payload_shorter_than_its_header_is_refused(size: int) -> None:
    with pytest.raises(PeerError, match=f"length of vendor id is {size}, at least 4 expected"):
        decode_payloads(PayloadType.VENDOR_ID, bytes((0, 0, 0, size)))


@pytest.mark.parametrize(
    ("body", "text", "offset"),
    [
        ("00", "generic header of vendor id", 28),
        ("0000 0009 00000000", "vendor id: 5 bytes expected, 4 left", 32),
        ("0d00 0004", "generic header of vendor id: 4 bytes expected, 0 left", 32),
        ("0000 0004 00", "1 bytes left over", 32),
    ],
)
def test_a_broken_chain_is_refused_and_the_offset_counts_from_the_isakmp_header(
    body: str, text: str, offset: int
) -> None:
    with pytest.raises(PeerError, match=text) as caught:
        decode_payloads(PayloadType.VENDOR_ID, bytes.fromhex(body))
    assert caught.value.reason.code is ReasonCode.MALFORMED_PAYLOAD
    assert dict(caught.value.reason.facts)["offset"] == str(offset)


def test_bytes_without_a_payload_are_leftovers() -> None:
    with pytest.raises(PeerError, match="left over"):
        decode_payloads(PayloadType.NONE, b"\0")


def test_padding_is_allowed_behind_decrypted_payloads_only_and_not_without_end() -> None:
    first, body = encode_payloads([VendorIdPayload(b"x")])
    assert decode_payloads(first, body + bytes(7), padded=True) == decode_payloads(first, body)
    assert len(decode_payloads(first, body + bytes(255), padded=True)) == 1
    with pytest.raises(PeerError, match="left over"):
        decode_payloads(first, body + bytes(7), padded=False)
    with pytest.raises(PeerError, match="256 bytes of padding"):
        decode_payloads(first, body + bytes(256), padded=True)


def test_the_number_of_payloads_is_bounded() -> None:
    first, body = encode_payloads([VendorIdPayload(b"")] * MAXIMUM_PAYLOADS)
    assert len(decode_payloads(first, body)) == MAXIMUM_PAYLOADS
    longer = encode_payload(VendorIdPayload(b""), PayloadType.VENDOR_ID) + body
    with pytest.raises(PeerError, match="more than 64 payloads"):
        decode_payloads(first, longer)
    with pytest.raises(ValueError, match="65 payloads"):
        encode_payloads([VendorIdPayload(b"")] * (MAXIMUM_PAYLOADS + 1))


def test_a_fragment_stands_alone() -> None:
    fragment = FragmentPayload(1, 1, 1, b"data")
    first, body = encode_payloads([fragment])
    assert [each.payload for each in decode_payloads(first, body)] == [fragment]
    vendor = encode_payload(VendorIdPayload(b""), PayloadType.FRAGMENT)
    with pytest.raises(PeerError, match="alone expected"):
        decode_payloads(PayloadType.VENDOR_ID, vendor + body)
    with pytest.raises(ValueError, match="alone"):
        encode_payloads([VendorIdPayload(b""), fragment])


def test_a_body_longer_than_any_message_is_refused() -> None:
    with pytest.raises(PeerError, match="too long"):
        decode_payloads(PayloadType.VENDOR_ID, bytes(65535))
    with pytest.raises(ValueError, match="too long"):
        encode_payloads([UnknownPayload(200, bytes(65532))])
    with pytest.raises(ValueError, match="too long"):
        encode_payloads([UnknownPayload(200, bytes(40000))] * 2)


@pytest.mark.parametrize(
    "fields",
    [
        (b"short", b"respond.", 0, 0x10, 2, 0, 0),
        (b"initiate", b"", 0, 0x10, 2, 0, 0),
        (b"initiate", b"respond.", 256, 0x10, 2, 0, 0),
        (b"initiate", b"respond.", 0, 0x10, 2, -1, 0),
        (b"initiate", b"respond.", 0, 0x10, 2, 0, 1 << 32),
    ],
)
def test_an_impossible_header_cannot_be_made(fields: tuple[bytes, bytes, int, int, int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"cookie|header field"):
        Header(*fields)
