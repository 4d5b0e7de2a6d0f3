"""First messages while too many main modes are half open: proof of the sender's address before any state.

                 initiator                                      responder (more than 500 half open)
          1      HDR(CKY-I, 0), SA, VID…            ->
                                                    <-          HDR(CKY-I, 0), N(DOS-COOKIE, 8 bytes)
          1 bis  HDR(CKY-I, those 8 bytes), SA, …   ->          goes on as always; they are its CKY-R

[MS-IKEE] §3.9. The 8 bytes are a keyed hash of the initiator's cookie and both ends, with a secret that
changes every 150 seconds (the one before it counts too): nothing is kept between the two messages. What a
forged sender gets out of us is one datagram, smaller than its own.

IKEv1 has no such thing in its RFCs, and it cannot be had by delaying the state to message 3 either: message 3
does not repeat the SA payload that HASH_I and HASH_R cover. So for peers that are not Microsoft's (nor ours)
there is another proof, weaker and just as stateless towards each of them: an honest peer repeats message 1
when no answer comes, a flood of forged senders has no reason to. A first message is let in when the same one
came some seconds ago from the same place, at most `unproven_per_second` of them; what came is kept in bit
fields of a fixed size (Bloom 1970) for `MEMORY_SECONDS`. Left out: proof for such a peer before its first
repetition."""

from collections.abc import Sequence
from enum import Enum

from stockade.crypto.hashing import equal, prf
from stockade.ike.config import EngineConfig
from stockade.ike.contract import RandomSource
from stockade.ike.cookies import COOKIE_SIZE, FREE_SIZE, CookieMark
from stockade.ike.limits import TokenBucket
from stockade.model.addresses import Endpoint
from stockade.model.secret import Secret
from stockade.model.suites import Hash
from stockade.wire.isakmp.constants import (
    DomainOfInterpretation,
    ExchangeType,
    NotifyType,
    PayloadType,
    ProtocolId,
)
from stockade.wire.isakmp.message import VERSION, Header, encode_message, encode_payloads
from stockade.wire.isakmp.payloads import NotificationPayload, Payload
from stockade.wire.vendor_ids import MS_NT5_ISAKMPOAKLEY

SECRET_SECONDS = 150.0
NO_COOKIE = bytes(8)
HEADER_SIZE = 28

SLOT_SECONDS = 2.0
MEMORY_SLOTS = 8
MEMORY_SECONDS = SLOT_SECONDS * MEMORY_SLOTS
_FIELD_BITS = 23
"""A field of 2^23 bits is 1 MiB: 100 000 first messages in a slot set 3.5 % of it, and one forged message in
3000 passes for a repeated one, over all fields."""
_HASHES = 3


def origin_of(local: Endpoint, remote: Endpoint) -> bytes:
    """Both ends of a datagram as bytes."""
    ports = local.port << 16 | remote.port
    return local.address.packed + remote.address.packed + ports.to_bytes(4, "big")


class Verdict(Enum):
    """What becomes of a first message."""

    ADMIT = "admit"
    DROP = "drop"


def is_first_message(datagram: bytes) -> bool:
    """Whether this looks like message 1 of main mode, without decoding it: a complete header, version 1,
    identity protection, an SA payload first, no cookie of the responder, nothing encrypted, no message id."""
    return (
        len(datagram) > HEADER_SIZE
        and datagram[8:16] == NO_COOKIE
        and datagram[16] == PayloadType.SECURITY_ASSOCIATION
        and datagram[17] >> 4 == 1
        and datagram[18] == ExchangeType.IDENTITY_PROTECTION
        and not datagram[19] & 1
        and datagram[20:24] == b"\0\0\0\0"
    )


class FloodGuard:
    """Decides about first messages. Inactive it admits all; `note_half_open` makes it active above
    `cookie_threshold` and inactive below `cookie_end`."""

    def __init__(self, config: EngineConfig, random: RandomSource) -> None:
        self._config = config
        self._random = random
        self.active = config.cookie_threshold == 0
        self.cookies_sent = 0
        self.cookies_proven = 0
        self.dropped = 0
        self._secret = Secret(b"")
        self._previous = Secret(b"")
        self._changes = float("-inf")
        self._place_key = Secret(b"")
        self._fields: list[bytearray] = []
        self._slot = 0
        self._unproven = TokenBucket(config.unproven_per_second)
        self.mark: CookieMark | None = None

    def note_half_open(self, number: int) -> None:
        """How many main modes are half open now."""
        if self.active:
            if number < self._config.cookie_end and self._config.cookie_threshold:
                self.active = False
                self._fields.clear()
        elif number > self._config.cookie_threshold:
            self.active = True

    def screen(self, datagram: bytes, origin: bytes, now: float) -> bytes | Verdict:
        """What to do with a first message (`is_first_message`) from and to `origin`, which is any bytes that
        name both ends. Bytes are the answer to send back, and nothing is to be kept."""
        if not self.active:
            return Verdict.ADMIT
        initiator_cookie = datagram[:8]
        if MS_NT5_ISAKMPOAKLEY in datagram:
            self.cookies_sent += 1
            cookie = self._cookie(self._secret_at(now), initiator_cookie, origin)
            return initiator_cookie + _CHALLENGE_TAIL + cookie
        if self._came_before(initiator_cookie, origin, now) and self._unproven.take(now):
            return Verdict.ADMIT
        self.dropped += 1
        return Verdict.DROP

    def proves(self, header: Header, origin: bytes, now: float) -> bool:
        """Whether the responder cookie of a repeated message 1 is one that we gave to this very sender. Also
        when the guard has become inactive meanwhile."""
        if not len(self._secret):
            return False  # we have never asked anybody
        current = self._secret_at(now)
        for secret in (current, self._previous):
            if len(secret) and equal(
                self._cookie(secret, header.initiator_cookie, origin), header.responder_cookie
            ):
                self.cookies_proven += 1
                return True
        return False

    def _secret_at(self, now: float) -> Secret:
        if now >= self._changes:
            late = now >= self._changes + SECRET_SECONDS
            self._previous = Secret(b"") if late else self._secret
            self._secret = Secret(self._random(32))
            self._changes = now + SECRET_SECONDS
        return self._secret

    def _cookie(self, secret: Secret, initiator_cookie: bytes, origin: bytes) -> bytes:
        proof = prf(Hash.SHA_256, secret, initiator_cookie + origin)
        cookie = proof[:COOKIE_SIZE] if self.mark is None else self.mark.complete(proof[:FREE_SIZE])
        return cookie if cookie != NO_COOKIE else b"\0\0\0\0\0\0\0\1"

    def _came_before(self, initiator_cookie: bytes, origin: bytes, now: float) -> bool:
        """Whether this came in an earlier slot; note it in the present one."""
        slot = int(now / SLOT_SECONDS)
        if not self._fields or slot - self._slot >= MEMORY_SLOTS:
            self._fields = [bytearray(1 << _FIELD_BITS - 3)]
            self._slot = slot
        while self._slot < slot:
            self._fields.insert(0, bytearray(1 << _FIELD_BITS - 3))
            self._slot += 1
        del self._fields[MEMORY_SLOTS + 1 :]
        if not len(self._place_key):
            self._place_key = Secret(self._random(32))  # so that nobody can aim at the bits of another
        number = int.from_bytes(prf(Hash.SHA_256, self._place_key, origin + initiator_cookie)[:12])
        places = [number >> 32 * index & (1 << _FIELD_BITS) - 1 for index in range(_HASHES)]
        present, *earlier = self._fields
        for place in places:
            present[place >> 3] |= 1 << (place & 7)
        return any(all(field[place >> 3] >> (place & 7) & 1 for place in places) for field in earlier)


def _challenge_tail() -> bytes:
    """All of a challenge between the initiator's cookie and ours: the notification names nothing yet
    negotiated ([MS-IKEE] §2.2.6)."""
    cookie = bytes(COOKIE_SIZE)
    notification = NotificationPayload(
        DomainOfInterpretation.IPSEC, ProtocolId.ISAKMP, b"", NotifyType.MICROSOFT_DOS_COOKIE, cookie
    )
    first, body = encode_payloads((notification,))
    header = Header(b"\1" * COOKIE_SIZE, NO_COOKIE, first, VERSION, ExchangeType.INFORMATIONAL, 0, 0)
    return encode_message(header, body)[COOKIE_SIZE:-COOKIE_SIZE]


_CHALLENGE_TAIL = _challenge_tail()


def offered_cookie(payloads: Sequence[Payload]) -> bytes | None:
    """The cookie in the payloads of a challenge: a lone notification with exactly 8 bytes that are not zero,
    else None."""
    if len(payloads) != 1:
        return None
    (notification,) = payloads
    if (
        not isinstance(notification, NotificationPayload)
        or notification.type != NotifyType.MICROSOFT_DOS_COOKIE
        or len(notification.data) != COOKIE_SIZE
        or notification.data == NO_COOKIE
    ):
        return None
    return bytes(notification.data)
