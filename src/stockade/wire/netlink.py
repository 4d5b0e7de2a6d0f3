"""Netlink messages and attributes (RFC 3549 §2.2; linux/netlink.h): framing only, for rtnetlink and XFRM.

    0               4       6       8           12          16
    +---------------+-------+-------+-----------+-----------+------------------------------
    | length        | type  | flags | sequence  | port      | body, then attributes …
    +---------------+-------+-------+-----------+-----------+------------------------------
    attribute: length (2, with these 4), type (2), value, padded to 4

Integers are in the host's byte order: netlink never leaves the machine.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct

from stockade.model.reasons import ReasonCode, error_for

HEADER = Struct("=IHHII")
_ATTRIBUTE = Struct("=HH")
_ERROR = Struct("=i")
_U32 = Struct("=I")

NLMSG_NOOP, NLMSG_ERROR, NLMSG_DONE, NLMSG_OVERRUN = 1, 2, 3, 4
NLM_F_REQUEST, NLM_F_MULTI, NLM_F_ACK = 0x001, 0x002, 0x004
NLM_F_DUMP = 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
_TYPE_MASK = 0x3FFF  # the upper bits of an attribute's type are flags (nested, byte order)


@dataclass(frozen=True, slots=True)
class NetlinkMessage:
    """One message. `type` and `flags` are those of linux/netlink.h and the protocol's own header."""

    type: int
    flags: int
    sequence: int
    body: bytes
    port: int = 0

    def encode(self) -> bytes:
        size = HEADER.size + len(self.body)
        return (
            HEADER.pack(size, self.type, self.flags, self.sequence, self.port) + self.body + bytes(-size % 4)
        )

    @property
    def error(self) -> int | None:
        """The errno of an NLMSG_ERROR message as a positive number, 0 for an acknowledgement; None for
        others."""
        if self.type != NLMSG_ERROR or len(self.body) < _ERROR.size:
            return None
        number: int = _ERROR.unpack_from(self.body)[0]
        return -number


def decode_messages(data: bytes) -> Iterator[NetlinkMessage]:
    """The messages of one datagram. `HostError(DRIVER_FAILED)` where a length is wrong: the kernel sends
    none."""
    offset = 0
    while offset < len(data):
        if len(data) - offset < HEADER.size:
            raise _malformed("message", offset)
        size, kind, flags, sequence, port = HEADER.unpack_from(data, offset)
        if size < HEADER.size or size > len(data) - offset:
            raise _malformed("message", offset)
        yield NetlinkMessage(kind, flags, sequence, data[offset + HEADER.size : offset + size], port)
        offset += (size + 3) & ~3


def encode_attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded."""
    size = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(size, kind) + value + bytes(-size % 4)


def encode_attributes(attributes: dict[int, bytes]) -> bytes:
    return b"".join(encode_attribute(kind, value) for kind, value in attributes.items())


def decode_attributes(data: bytes) -> dict[int, bytes]:
    """Attribute type (without flag bits) to value; of a type that stands twice the last one counts."""
    found: dict[int, bytes] = {}
    offset = 0
    while offset < len(data):
        if len(data) - offset < _ATTRIBUTE.size:
            raise _malformed("attribute", offset)
        size, kind = _ATTRIBUTE.unpack_from(data, offset)
        if size < _ATTRIBUTE.size or size > len(data) - offset:
            raise _malformed("attribute", offset)
        found[kind & _TYPE_MASK] = data[offset + _ATTRIBUTE.size : offset + size]
        offset += (size + 3) & ~3
    return found


def unpack_fixed(layout: Struct, body: bytes) -> tuple[int, ...]:
    """The fixed part in front of a message's attributes."""
    if len(body) < layout.size:
        raise _malformed("message body", len(body))
    return layout.unpack_from(body)


def decode_number(value: bytes) -> int:
    """An attribute that is one 32-bit number."""
    if len(value) != _U32.size:
        raise _malformed("number", 0)
    number: int = _U32.unpack(value)[0]
    return number


def _malformed(what: str, offset: int) -> Exception:
    return error_for(
        ReasonCode.DRIVER_FAILED, f"netlink {what} at offset {offset} has a length that cannot be"
    )
