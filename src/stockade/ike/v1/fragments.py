"""Fragments of IKE messages ([MS-IKEE] §2.2.3, §3.3): a long encrypted message as several datagrams, for
paths that lose IP fragments.

     | ISAKMP header, next payload 132, not encrypted | fragment id, number, flags | data … |

Two forms are on the road. Microsoft's text splits what follows the header, and the header of the whole is
that of the first fragment; its encryption flag and next payload are lost and must be guessed. racoon,
strongSwan and libreswan split the whole message with its header. Both are understood; the second is sent.

A fragment proves nothing. So a set is bounded in size, number and time, and one that contradicts itself is
forgotten whole."""

from collections import OrderedDict
from dataclasses import dataclass, field, replace

from stockade.model.reasons import PeerError, ReasonCode, error_for
from stockade.wire.isakmp.constants import ExchangeType, HeaderFlag, PayloadType
from stockade.wire.isakmp.message import (
    HEADER_SIZE,
    Header,
    decode_header,
    decode_payloads,
    encode_message,
    encode_payloads,
)
from stockade.wire.isakmp.payloads import FragmentPayload

MAXIMUM_SETS = 4
MAXIMUM_BYTES = 64_000
REASSEMBLY_SECONDS = 70.0
LAST_FRAGMENT = 1

_FIRST_PAYLOADS = {
    ExchangeType.IDENTITY_PROTECTION: PayloadType.IDENTIFICATION,
    ExchangeType.QUICK_MODE: PayloadType.HASH,
    ExchangeType.INFORMATIONAL: PayloadType.HASH,
}
_OVERHEAD = {4: 20 + 8, 6: 40 + 8}  # IP and UDP
_DATAGRAM = {4: 576, 6: 1280}
_FRAGMENT_HEADER = 8


def room_for(version: int, marker: int) -> int:
    """The longest IKE message that goes without fragments: a packet of 576 bytes (IPv4) or 1280 (IPv6).
    `marker`: bytes of the non-ESP marker in front."""
    return _DATAGRAM[version] - _OVERHEAD[version] - marker


def split(datagram: bytes, identifier: int, room: int) -> list[bytes]:
    """An encrypted message as fragments, each at most `room` bytes long; at most 255."""
    header = decode_header(datagram)
    size = room - HEADER_SIZE - _FRAGMENT_HEADER
    parts = [datagram[start : start + size] for start in range(0, len(datagram), size)]
    carrier = replace(header, flags=header.flags & ~int(HeaderFlag.ENCRYPTION))
    found = []
    for number, part in enumerate(parts, 1):
        last = LAST_FRAGMENT if number == len(parts) else 0
        kind, body = encode_payloads((FragmentPayload(identifier, number, last, part),))
        found.append(encode_message(replace(carrier, next_payload=kind), body))
    return found


@dataclass(slots=True)
class _Set:
    expires: float
    header: Header | None = None
    parts: dict[int, bytes] = field(default_factory=dict)
    last: int | None = None

    @property
    def size(self) -> int:
        return sum(len(part) for part in self.parts.values())


class Reassembly:
    """The fragments that one main mode has received."""

    def __init__(self) -> None:
        self._sets: OrderedDict[int, _Set] = OrderedDict()

    def add(self, header: Header, datagram: bytes, now: float) -> tuple[Header, bytes] | None:
        """Take one fragment; header and datagram of the whole message once it is complete. `PeerError`
        MALFORMED_PAYLOAD for one that does not fit its set."""
        (received,) = decode_payloads(header.next_payload, datagram[HEADER_SIZE:])
        fragment = received.payload
        assert isinstance(fragment, FragmentPayload)
        self._forget(now)
        entry = self._sets.get(fragment.identifier)
        if entry is None:
            if len(self._sets) >= MAXIMUM_SETS:
                self._sets.popitem(last=False)
            entry = self._sets[fragment.identifier] = _Set(now + REASSEMBLY_SECONDS)
        if fragment.number in entry.parts:
            return None
        contradicts = (
            (fragment.is_last and entry.last is not None)
            or (fragment.is_last and any(number > fragment.number for number in entry.parts))
            or (entry.last is not None and fragment.number > entry.last)
            or entry.size + len(fragment.data) > MAXIMUM_BYTES
        )
        if contradicts:
            del self._sets[fragment.identifier]
            detail = "a fragment contradicts the others of its message, or they are too long"
            raise error_for(ReasonCode.MALFORMED_PAYLOAD, detail, fragment=fragment.identifier)
        entry.parts[fragment.number] = fragment.data
        if fragment.number == 1:
            entry.header = header
        if fragment.is_last:
            entry.last = fragment.number
        if entry.last is None or len(entry.parts) < entry.last or entry.header is None:
            return None
        del self._sets[fragment.identifier]
        return _whole(entry.header, b"".join(entry.parts[number] for number in range(1, entry.last + 1)))

    def _forget(self, now: float) -> None:
        while self._sets and next(iter(self._sets.values())).expires <= now:
            self._sets.popitem(last=False)


def _whole(first: Header, data: bytes) -> tuple[Header, bytes]:
    """The message that the data are: with its own header, or with that of its first fragment."""
    cookies = first.initiator_cookie + first.responder_cookie
    if data.startswith(cookies):
        try:
            inner = decode_header(data)
        except PeerError:
            pass
        else:
            same = (inner.exchange_type, inner.message_id) == (first.exchange_type, first.message_id)
            if same and inner.encrypted and inner.next_payload != PayloadType.FRAGMENT:
                return inner, data
    kind = next((p for e, p in _FIRST_PAYLOADS.items() if e == first.exchange_type), None)
    if kind is None:
        detail = f"fragments of exchange type {first.exchange_type}"
        raise error_for(ReasonCode.UNEXPECTED_MESSAGE, detail)
    header = replace(first, next_payload=int(kind), flags=first.flags | int(HeaderFlag.ENCRYPTION))
    datagram = encode_message(header, data)
    return decode_header(datagram), datagram
