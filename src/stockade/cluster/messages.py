"""What nodes of a cluster say to each other, as bytes.

     0        4      5                21                 37         45     46
    +--------+------+----------------+------------------+----------+------+--------+------ … -+----------+
    | "SKC1" | kind | sender session | receiver session | sequence | size | sender | body     | HMAC     |
    +--------+------+----------------+------------------+----------+------+--------+------ … -+----------+

HMAC-SHA-256 over all that stands before it, with the cluster's secret. A session is 16 random bytes that a
node draws when it starts; a message that names the receiver's present session cannot be a replay of what was
said to an earlier one, and within a session the sequence rises. Numbers are in network order.

| kind | body |
| --- | --- |
| HELLO | number of virtual addresses held, these, number and digest of the quick modes that the sender has |
| ADD, REMOVE | quick modes |
| FULL | quick modes, and the receiver forgets what it had of the sender |
| WANT | nothing: send FULL |

A quick mode is: IP version (1 byte), local, peer, first and last source, first and last destination,
protocol (1), ports (2 + 2). What is said is no secret (addresses), only who may say it matters.
"""

import hashlib
import hmac
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address

from stockade.model.addresses import Address, AddressRange
from stockade.model.known_quick_mode import KnownQuickMode
from stockade.model.reasons import ReasonCode, StockadeError, error_for
from stockade.model.secret import Secret
from stockade.model.traffic import TrafficSelector

MAXIMUM_MESSAGE = 1400
SESSION = 16
DIGEST = 16
_MAGIC = b"SKC1"
_HEAD = struct.Struct("!4sB16s16sQB")
_MAC = 32
_PORTS = struct.Struct("!BHH")
_SIZES = {4: 4, 6: 16}


class Kind(IntEnum):
    HELLO = 1
    ADD = 2
    REMOVE = 3
    FULL = 4
    WANT = 5


@dataclass(frozen=True, slots=True)
class Message:
    """One message; `receiver` is zeros where the sender does not know the receiver's session."""

    kind: Kind
    name: str
    sender: bytes
    receiver: bytes
    sequence: int
    body: bytes = b""

    def encode(self, secret: Secret) -> bytes:
        name = self.name.encode("ascii")
        head = _HEAD.pack(_MAGIC, self.kind, self.sender, self.receiver, self.sequence, len(name))
        message = head + name + self.body
        return message + hmac.digest(secret.reveal(), message, "sha256")


def decode(datagram: bytes, secret: Secret) -> Message:
    """An authentic message. PeerError AUTHENTICATION_FAILED, or MALFORMED_PAYLOAD for what a node with
    the secret has written wrong."""
    if not _HEAD.size + _MAC < len(datagram) <= MAXIMUM_MESSAGE:
        raise _malformed("its length")
    message, code = datagram[:-_MAC], datagram[-_MAC:]
    if not hmac.compare_digest(hmac.digest(secret.reveal(), message, "sha256"), code):
        raise error_for(ReasonCode.AUTHENTICATION_FAILED, "a cluster message by nobody who has the secret")
    magic, kind, sender, receiver, sequence, size = _HEAD.unpack_from(message)
    rest = message[_HEAD.size :]
    if magic != _MAGIC or len(rest) < size:
        raise _malformed("its head")
    try:
        return Message(Kind(kind), rest[:size].decode("ascii"), sender, receiver, sequence, rest[size:])
    except ValueError:
        raise _malformed("its kind or name") from None


@dataclass(frozen=True, slots=True)
class Hello:
    """What a node holds, and how much it has to tell."""

    held: tuple[Address, ...]
    count: int
    digest: bytes

    def encode(self) -> bytes:
        held = b"".join(bytes([address.version]) + address.packed for address in self.held)
        return bytes([len(self.held)]) + held + self.count.to_bytes(4, "big") + self.digest


def decode_hello(body: bytes) -> Hello:
    """PeerError MALFORMED_PAYLOAD."""
    held, position = [], 1
    for _ in range(body[0] if body else 0):
        address, position = _address(body, position)
        held.append(address)
    if len(body) != position + 4 + DIGEST:
        raise _malformed("the end of a hello")
    count = int.from_bytes(body[position : position + 4], "big")
    return Hello(tuple(held), count, body[position + 4 :])


def encode_entry(known: KnownQuickMode) -> bytes:
    selector = known.selector
    ends = (known.local, known.peer, selector.source.first, selector.source.last)
    addresses = (*ends, selector.destination.first, selector.destination.last)
    ports = _PORTS.pack(selector.protocol, selector.source_port, selector.destination_port)
    return b"".join(bytes([one.version]) + one.packed for one in addresses) + ports


def pack_entries(entries: Iterable[KnownQuickMode], limit: int) -> Iterator[bytes]:
    """Bodies of at most `limit` bytes; an empty one if there is no entry."""
    body = b""
    for entry in map(encode_entry, entries):
        if len(body) + len(entry) > limit:
            yield body
            body = b""
        body += entry
    yield body


def decode_entries(body: bytes) -> list[KnownQuickMode]:
    """PeerError MALFORMED_PAYLOAD."""
    found, position = [], 0
    while position < len(body):
        ends: list[Address] = []
        for _ in range(6):
            address, position = _address(body, position)
            ends.append(address)
        if len(body) < position + _PORTS.size:
            raise _malformed("a quick mode")
        protocol, source_port, destination_port = _PORTS.unpack_from(body, position)
        position += _PORTS.size
        try:
            source, destination = AddressRange(ends[2], ends[3]), AddressRange(ends[4], ends[5])
            selector = TrafficSelector(source, destination, protocol, source_port, destination_port)
        except (ValueError, TypeError, StockadeError):
            raise _malformed("the traffic of a quick mode") from None
        found.append(KnownQuickMode(ends[0], ends[1], selector))
    return found


def entry_digest(known: KnownQuickMode) -> int:
    """A number of 128 bits; the digest of a set is the exclusive or of its members'."""
    return int.from_bytes(hashlib.blake2b(encode_entry(known), digest_size=DIGEST).digest(), "big")


def _address(body: bytes, position: int) -> tuple[Address, int]:
    version = body[position] if position < len(body) else 0
    size = _SIZES.get(version, 0)
    packed = body[position + 1 : position + 1 + size]
    if not size or len(packed) != size:
        raise _malformed("an address")
    address: Address = IPv4Address(packed) if version == 4 else IPv6Address(packed)
    return address, position + 1 + size


def _malformed(what: str) -> StockadeError:
    return error_for(ReasonCode.MALFORMED_PAYLOAD, f"a cluster message: {what}")
