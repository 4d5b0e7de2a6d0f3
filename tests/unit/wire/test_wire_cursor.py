"""The cursor: limits hold, and errors say where and what."""

import pytest

from stockade.model.reasons import PeerError, ReasonCode
from stockade.wire.cursor import Cursor


def test_reads_numbers_big_endian_and_in_order() -> None:
    cursor = Cursor(bytes(range(1, 17)), "test")
    assert cursor.u8("a") == 1
    assert cursor.u16("b") == 0x0203
    assert cursor.u32("c") == 0x04050607
    assert cursor.u64("d") == 0x08090A0B0C0D0E0F
    assert cursor.rest() == b"\x10"
    assert cursor.rest() == b""
    cursor.finish()


def test_a_short_read_names_field_place_and_offset() -> None:
    cursor = Cursor(b"\1\2\3", "nonce", offset=100)
    cursor.u8("first")
    with pytest.raises(PeerError) as caught:
        cursor.take(5, "random data")
    reason = caught.value.reason
    assert reason.code is ReasonCode.MALFORMED_PAYLOAD
    assert reason.detail == "random data: 5 bytes expected, 2 left"
    assert dict(reason.facts) == {"where": "nonce", "offset": "101"}
    assert cursor.remaining == 2


def test_a_nested_cursor_cannot_read_beyond_its_limit() -> None:
    cursor = Cursor(bytes(10), "outer", offset=28)
    cursor.u16("head")
    inner = cursor.sub(3, "inner")
    assert cursor.remaining == 5
    inner.u16("two bytes")
    with pytest.raises(PeerError) as caught:
        inner.u16("two more")
    assert dict(caught.value.reason.facts) == {"where": "outer > inner", "offset": "32"}


def test_a_nested_cursor_cannot_be_longer_than_what_holds_it() -> None:
    with pytest.raises(PeerError, match="inner: 4 bytes expected, 3 left"):
        Cursor(bytes(3), "outer").sub(4, "inner")


def test_leftovers_are_an_error_of_the_given_code() -> None:
    cursor = Cursor(b"\0\0", "header", code=ReasonCode.MALFORMED_PACKET)
    cursor.u8("one")
    with pytest.raises(PeerError, match="1 bytes left over") as caught:
        cursor.finish()
    assert caught.value.reason.code is ReasonCode.MALFORMED_PACKET


def test_a_negative_size_is_never_read() -> None:
    with pytest.raises(PeerError):
        Cursor(b"\0\0", "test").take(-1, "negative")
