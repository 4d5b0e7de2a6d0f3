"""The ISAKMP message: fixed header and chain of payloads (RFC 2408 §3.1, §3.2).

     | initiator cookie (8) | responder cookie (8) |
     | next payload | version | exchange type | flags | message id (4) | length (4) |
     | next payload | reserved | length (2) | body … |   once per payload

A receiver decodes the header of the datagram, decrypts what follows where the encryption flag is set, and
decodes the payloads. Nothing here knows a key. Offsets in errors count from the first byte of the ISAKMP
header.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct
from typing import NamedTuple

from stockade.model.quickly_made import quickly_made
from stockade.model.reasons import ReasonCode, error_for
from stockade.wire.cursor import Cursor
from stockade.wire.isakmp.constants import HeaderFlag, PayloadType
from stockade.wire.isakmp.payloads import (
    WHOLE_BODIES,
    FragmentPayload,
    Payload,
    decode_body,
    payload_name,
)

HEADER_SIZE = 28
GENERIC_HEADER_SIZE = 4
MAXIMUM_MESSAGE = 65535
MAXIMUM_PAYLOADS = 64
MAXIMUM_PADDING = 255
"""Of a decrypted message. RFC 2409 appendix B needs less than one block; racoon adds a random amount of
more."""
VERSION = 0x10

_HEADER = Struct("!8s8sBBBBII")
_GENERIC_HEADER = Struct("!BxH")
_ENCRYPTION = int(HeaderFlag.ENCRYPTION)
_COMMIT = int(HeaderFlag.COMMIT)
_FRAGMENT = int(PayloadType.FRAGMENT)
_SECURITY_ASSOCIATION = int(PayloadType.SECURITY_ASSOCIATION)
_NO_COOKIE = bytes(8)


@quickly_made
@dataclass(frozen=True, slots=True)
class Header:
    """The fixed header. Cookies are 8 bytes; `version` is major << 4 | minor; `length` counts header and body
    in bytes (0 in a header made to be sent: `encode_message` fills it)."""

    initiator_cookie: bytes
    responder_cookie: bytes
    next_payload: int
    version: int
    exchange_type: int
    flags: int
    message_id: int
    length: int = 0

    def __post_init__(self) -> None:
        if len(self.initiator_cookie) != 8 or len(self.responder_cookie) != 8:
            raise ValueError("a cookie is not 8 bytes long")
        # all at once first: every message makes two of these
        if (self.next_payload | self.version | self.exchange_type | self.flags) >> 8:
            raise ValueError("a header field of one byte is outside 0–255")
        if (self.message_id | self.length) >> 32:
            raise ValueError("a header field of four bytes is outside 32 bits")

    @property
    def encrypted(self) -> bool:
        return bool(self.flags & _ENCRYPTION)

    @property
    def commit(self) -> bool:
        """The commit bit: the sender wants the other end to wait for its word (RFC 2408 §3.1)."""
        return bool(self.flags & _COMMIT)

    @property
    def major_version(self) -> int:
        return self.version >> 4

    @property
    def cookies(self) -> str:
        """`<initiator hex>:<responder hex>`, the name of a main mode."""
        return f"{self.initiator_cookie.hex()}:{self.responder_cookie.hex()}"

    def encode(self, length: int | None = None) -> bytes:
        """The 28 bytes; `length` instead of the header's own."""
        return _HEADER.pack(
            self.initiator_cookie,
            self.responder_cookie,
            self.next_payload,
            self.version,
            self.exchange_type,
            self.flags,
            self.message_id,
            self.length if length is None else length,
        )


class ReceivedPayload(NamedTuple):
    """A decoded payload with its bytes as they were received: `body` without the generic header, `start` and
    `end` of the whole payload in the bytes given to `decode_payloads`. HASH inputs use these."""

    payload: Payload
    type: int
    body: bytes
    start: int
    end: int


_made = tuple.__new__
"""Of a named tuple: without the call of Python code that it costs by its name."""


def decode_header(datagram: bytes) -> Header:
    """The header of a whole message (without non-ESP marker). The body is `datagram[HEADER_SIZE:]`.

    Any version and exchange type is accepted, for the engine to answer; so are unknown flags. Raises
    `PeerError` MALFORMED_HEADER: too short, too long, a length that is not the datagram's, an initiator
    cookie of zero.
    """
    if len(datagram) < HEADER_SIZE:
        raise error_for(
            ReasonCode.MALFORMED_HEADER, f"{len(datagram)} bytes, at least {HEADER_SIZE} expected", offset=0
        )
    header = Header(*_HEADER.unpack_from(datagram))
    if header.length != len(datagram):
        raise error_for(
            ReasonCode.MALFORMED_HEADER,
            f"length says {header.length} bytes, the datagram has {len(datagram)}",
            offset=24,
        )
    if header.length > MAXIMUM_MESSAGE:
        raise error_for(
            ReasonCode.MALFORMED_HEADER,
            f"length is {header.length}, at most {MAXIMUM_MESSAGE} expected",
            offset=24,
        )
    if header.initiator_cookie == _NO_COOKIE:
        raise error_for(ReasonCode.MALFORMED_HEADER, "the initiator cookie is zero", offset=0)
    return header


def decode_payloads(first: int, body: bytes, *, padded: bool = False) -> tuple[ReceivedPayload, ...]:
    """The payloads of a message body whose first payload has type `first` (0: none).

    `padded`: the body was decrypted, so up to 255 bytes of padding may follow the last payload. Without it
    anything that is left is an error. At most 64 payloads; a fragment must be alone. Raises `PeerError`
    MALFORMED_PAYLOAD.
    """
    if len(body) > MAXIMUM_MESSAGE - HEADER_SIZE:
        raise error_for(
            ReasonCode.MALFORMED_PAYLOAD, f"a body of {len(body)} bytes is too long", offset=HEADER_SIZE
        )
    # Every payload passes here, so the place is a number; a cursor is made where there is something to tell,
    # or a payload that is more than its bytes.
    size_of_all = len(body)
    received: list[ReceivedPayload] = []
    current, start = first, 0
    fragments = False
    while current:
        if len(received) == MAXIMUM_PAYLOADS:
            raise _cursor_at(body, start).error(f"more than {MAXIMUM_PAYLOADS} payloads")
        begin = start + GENERIC_HEADER_SIZE
        if begin > size_of_all:
            what = f"generic header of {payload_name(current)}"
            raise _cursor_at(body, start).error(f"{what}: 4 bytes expected, {size_of_all - start} left")
        following, size = _GENERIC_HEADER.unpack_from(body, start)
        if size < GENERIC_HEADER_SIZE:
            what = f"length of {payload_name(current)} is {size}"
            raise _cursor_at(body, start + 2).error(f"{what}, at least 4 expected")
        end = start + size
        data = body[begin:end]
        whole = WHOLE_BODIES.get(current) if end <= size_of_all else None
        payload = None if whole is None else whole(data)
        if payload is None:
            name = payload_name(current)
            payload = decode_body(current, _cursor_at(body, begin).sub(size - GENERIC_HEADER_SIZE, name))
        received.append(_made(ReceivedPayload, (payload, current, data, start, end)))
        fragments = fragments or current == _FRAGMENT
        current, start = following, end
    if fragments and len(received) > 1:
        raise _cursor_at(body, 0).error("a fragment beside other payloads, alone expected")
    if start != size_of_all:
        chain = _cursor_at(body, start)
        if not padded:
            chain.finish()
        if size_of_all - start > MAXIMUM_PADDING:
            raise chain.error(f"{chain.remaining} bytes of padding, at most {MAXIMUM_PADDING} expected")
    return tuple(received)


def _cursor_at(body: bytes, position: int) -> Cursor:
    cursor = Cursor(body, "message", offset=HEADER_SIZE)
    cursor.skip(position, "what was read already")
    return cursor


def decode_clear_payloads(first: int, body: bytes) -> tuple[ReceivedPayload, ...]:
    """`decode_payloads` of a message that came in clear. Offers are remembered: peers with one policy begin
    with the same bytes, and most of a first message's price is to read them."""
    if first != _SECURITY_ASSOCIATION or len(body) > _REMEMBERED_SIZE:
        return decode_payloads(first, body)
    known = _offers.get(body)
    if known is None:
        known = decode_payloads(first, body)
        if len(_offers) >= _REMEMBERED:
            _offers.clear()
        _offers[body] = known
    return known


# Bounded in number and size; strangers can only make it forget.
_REMEMBERED = 64
_REMEMBERED_SIZE = 1024
_offers: dict[bytes, tuple[ReceivedPayload, ...]] = {}


def encode_payload_body(payload: Payload) -> bytes:
    """The payload without its generic header."""
    return payload.encode_body()


def encode_payloads(payloads: Sequence[Payload]) -> tuple[int, bytes]:
    """Type of the first payload (0 if there is none) and the chain. Raises `ValueError` where a payload or
    the message is too long, or there are more than 64."""
    if len(payloads) > MAXIMUM_PAYLOADS:
        raise ValueError(f"{len(payloads)} payloads, at most {MAXIMUM_PAYLOADS} allowed")
    chain: list[bytes] = []
    following = 0
    for payload in reversed(payloads):
        if payload.__class__ is FragmentPayload and len(payloads) > 1:
            raise ValueError("a fragment stands alone in its message")
        body = payload.encode_body()
        size = len(body) + GENERIC_HEADER_SIZE
        if size > 0xFFFF:
            raise ValueError(f"a {payload_name(payload.payload_type)} payload of {size} bytes is too long")
        chain.append(body)
        chain.append(_GENERIC_HEADER.pack(following, size))
        following = payload.payload_type
    chain.reverse()
    data = b"".join(chain)
    if len(data) > MAXIMUM_MESSAGE - HEADER_SIZE:
        raise ValueError(f"a body of {len(data)} bytes is too long")
    return int(following), data


def encode_payload(payload: Payload, next_payload: int = PayloadType.NONE) -> bytes:
    """One payload with its generic header."""
    body = payload.encode_body()
    size = len(body) + GENERIC_HEADER_SIZE
    if size > 0xFFFF:
        raise ValueError(f"a {payload_name(payload.payload_type)} payload of {size} bytes is too long")
    return _GENERIC_HEADER.pack(next_payload, size) + body


def encode_datagram(
    initiator_cookie: bytes,
    responder_cookie: bytes,
    next_payload: int,
    exchange_type: int,
    flags: int,
    message_id: int,
    body: bytes,
) -> bytes:
    """`encode_message` with a header of our version made of these fields, which are our own and right."""
    length = HEADER_SIZE + len(body)
    if length > MAXIMUM_MESSAGE:
        raise ValueError(f"a message of {length} bytes is too long")
    head = (initiator_cookie, responder_cookie, next_payload, VERSION)
    return _HEADER.pack(*head, exchange_type, flags, message_id, length) + body


def encode_message(header: Header, body: bytes) -> bytes:
    """Header and body (payloads, encrypted or not) as one datagram; the header's length is filled in. Raises
    `ValueError` where it is longer than 65535 bytes."""
    length = HEADER_SIZE + len(body)
    if length > MAXIMUM_MESSAGE:
        raise ValueError(f"a message of {length} bytes is too long")
    return header.encode(length) + body
