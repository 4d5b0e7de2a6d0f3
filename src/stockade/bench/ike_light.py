"""The initiator of the handshake benchmark, in a process of its own: many hosts behind one pair of sockets.

    python -m stockade.bench.ike_light '{"responder": "10.9.9.2", "group": "modp-2048", …}'

A responder is measured only where its initiator costs less than it does. So this one is no engine. It writes
the messages of one ladder from templates, knows no policy and keeps no SA:

      HDR, SA, VID …             ->
                                 <-  HDR, SA, VID …
      HDR, KE, Ni, NAT-D, NAT-D  ->
                                 <-  HDR, KE, Nr, …
      HDR*, ID, HASH             ->      with RSA: ID, CERT, SIG
                                 <-  HDR*, ID, HASH                        checked
      HDR*, HASH, SA, Ni, ID, ID ->
                                 <-  HDR*, HASH, SA, Nr, ID, ID            checked
      HDR*, HASH                 ->
                                 <-  HDR*, HASH, N(connected)              where the commit bit asked for it

What its keys spare it they do not spare the responder (`ike_cheap_keys.py`).

The namespace that it runs in answers for a whole network of addresses (a local route, "AnyIP"), so every
handshake comes from a host of its own, as it would in life. A window of handshakes is under way at any time:
UDP has no flow control, and a responder that is flooded measures its time-outs. Prints one line of JSON: how
many came up and failed, the seconds from the first message to the last, and its own processor time.
"""

import contextlib
import hmac
import json
import os
import select
import ssl
import struct
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from ipaddress import IPv4Address

from stockade.agent.udp import IKE_PORT, UdpSockets
from stockade.bench.ike_cheap_keys import CheapRsa, cheap_value, verifier
from stockade.bench.ike_initiator import Task, negotiation
from stockade.crypto.packet import Cbc, cbc
from stockade.crypto.registry import encryption_algorithm, group_algorithm, hash_algorithm
from stockade.ike.v1.quick_mode_proposals import quick_mode_offer
from stockade.model.addresses import Address, Endpoint
from stockade.model.identities import IdentityType
from stockade.model.reasons import StockadeError
from stockade.model.suites import Encryption, Group, Hash
from stockade.wire.isakmp.constants import (
    CertificateEncoding,
    DomainOfInterpretation,
    EncapsulationMode,
    ExchangeType,
    HeaderFlag,
    IkeAttribute,
    IsakmpTransform,
    LifeType,
    PayloadType,
    ProtocolId,
    Situation,
)
from stockade.wire.isakmp.message import HEADER_SIZE, encode_payloads
from stockade.wire.isakmp.payloads import (
    Attribute,
    ProposalPayload,
    SecurityAssociationPayload,
    TransformPayload,
    VendorIdPayload,
)
from stockade.wire.udp_encapsulation import NAT_TRAVERSAL_PORT, NON_ESP_MARKER
from stockade.wire.vendor_ids import DEAD_PEER_DETECTION, RFC_3947, microsoft_vendor_id

PATIENCE = 15.0
"""Seconds without any handshake coming up after which the run ends."""
RESEND_SECONDS = 1.0
ATTEMPTS = 5
_HEADER = struct.Struct("!8s8sBBBBII")
_GENERIC = struct.Struct("!BxH")
_BLOCK = 16
_NONCE = 32
_PRESHARED_KEY, _RSA = 1, 3
_WINDOWS = 9
"""The version that Windows 8 and later say."""
_MAIN, _QUICK = int(ExchangeType.IDENTITY_PROTECTION), int(ExchangeType.QUICK_MODE)
_ENCRYPTED, _COMMIT = int(HeaderFlag.ENCRYPTION), int(HeaderFlag.COMMIT)
_SA, _KE, _ID = (
    int(PayloadType.SECURITY_ASSOCIATION),
    int(PayloadType.KEY_EXCHANGE),
    int(PayloadType.IDENTIFICATION),
)
_CERT, _CERTREQ = int(PayloadType.CERTIFICATE), int(PayloadType.CERTIFICATE_REQUEST)
_HASH, _SIG, _NONCES = int(PayloadType.HASH), int(PayloadType.SIGNATURE), int(PayloadType.NONCE)
_NATD, _NOTIFY = int(PayloadType.NAT_DETECTION), int(PayloadType.NOTIFICATION)
_ADDRESS = bytes((IdentityType.IPV4_ADDR, 0, 0, 0))


@dataclass
class Outcome:
    """What the process says. Seconds; `reasons` counts what went wrong."""

    established: int = 0
    failed: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    reasons: dict[str, int] = field(default_factory=dict)


class Refused(Exception):
    """What the responder said cannot be. One word."""


class Templates:
    """What all handshakes of a task have in common."""

    def __init__(self, task: Task) -> None:
        self.responder = Endpoint(IPv4Address(task.responder), IKE_PORT)
        self.floating = Endpoint(IPv4Address(task.responder), NAT_TRAVERSAL_PORT)
        self.tunnel, self.main_only = task.tunnel, task.main_only
        self.public, self.shared = cheap_value(Group(task.group))
        self.shared_size = group_algorithm(Group(task.group)).public_size
        self.key = task.preshared_key.encode()
        self.sign: Callable[[bytes], bytes] | None = None
        self.verify: Callable[[bytes, bytes], bool] | None = None
        self.certificate = self.request = self.subject = b""
        if task.cheap is not None:
            self.sign = CheapRsa(tuple(int(prime) for prime in task.cheap.primes)).signer()
            self.verify = verifier(int(task.cheap.responder_modulus))
            encoding = bytes((CertificateEncoding.X509_SIGNATURE,))
            self.certificate = encoding + ssl.PEM_cert_to_DER_cert(task.cheap.certificate)
            self.subject = bytes((IdentityType.DER_ASN1_DN, 0, 0, 0)) + bytes.fromhex(task.cheap.subject)
            self.request = encoding + bytes.fromhex(task.cheap.issuer)
        offer = _offer(Group(task.group), _RSA if task.cheap is not None else _PRESHARED_KEY)
        self.offer = offer.encode_body()
        ids: tuple[bytes, ...] = (RFC_3947, DEAD_PEER_DETECTION)
        if task.windows:
            ids = (microsoft_vendor_id(_WINDOWS), *ids)
        self.first = encode_payloads((offer, *map(VendorIdPayload, ids)))[1]
        mode = EncapsulationMode.UDP_TUNNEL if task.tunnel else EncapsulationMode.TRANSPORT
        self.quick = quick_mode_offer(negotiation(task).quick_mode, 0x1111_1111, None, mode).encode_body()


def _offer(group: Group, method: int) -> SecurityAssociationPayload:
    cipher = encryption_algorithm(Encryption.AES_CBC_128)
    assert cipher.ike_id is not None
    attributes = (
        Attribute(IkeAttribute.ENCRYPTION_ALGORITHM, cipher.ike_id),
        Attribute(IkeAttribute.KEY_LENGTH, 128),
        Attribute(IkeAttribute.HASH_ALGORITHM, hash_algorithm(Hash.SHA_256).ike_id),
        Attribute(IkeAttribute.GROUP_DESCRIPTION, group.number),
        Attribute(IkeAttribute.AUTHENTICATION_METHOD, method),
        Attribute(IkeAttribute.LIFE_TYPE, LifeType.SECONDS),
        Attribute(IkeAttribute.LIFE_DURATION, 28_800),
    )
    transform = TransformPayload(1, IsakmpTransform.KEY_IKE, attributes)
    proposal = ProposalPayload(1, ProtocolId.ISAKMP, b"", (transform,))
    return SecurityAssociationPayload(DomainOfInterpretation.IPSEC, Situation.IDENTITY_ONLY, (proposal,))


def _prf(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def _chain(*payloads: tuple[int, bytes]) -> bytes:
    """Payloads (type, body) with their generic headers."""
    following = [kind for kind, _ in payloads[1:]] + [0]
    return b"".join(
        _GENERIC.pack(after, 4 + len(body)) + body
        for after, (_, body) in zip(following, payloads, strict=True)
    )


def _bodies(first: int, data: bytes) -> Iterator[tuple[int, bytes, int, int]]:
    """(type, body, start, end) of every payload."""
    start = 0
    while first:
        following, size = _GENERIC.unpack_from(data, start)
        if size < 4 or start + size > len(data):
            raise Refused("payloads")
        yield first, data[start + 4 : start + size], start, start + size
        first, start = following, start + size


class Handshake:
    """Main and quick mode of one host. `take` gets what came, and sets `message` to what is to be sent."""

    __slots__ = (
        "_cipher",
        "_common",
        "_iv",
        "_key",
        "_message_id",
        "_nonce",
        "_own",
        "_quick_nonce",
        "_skeyid",
        "_step",
        "attempts",
        "cookies",
        "done",
        "floats",
        "local",
        "message",
        "sent",
    )  # fmt: skip

    def __init__(self, common: Templates, local: IPv4Address) -> None:
        self._common, self.local = common, local
        self._own, self._step, self._nonce = os.urandom(8), 1, os.urandom(_NONCE)
        self.cookies = self._own + bytes(8)
        self.done, self.floats, self.attempts, self.sent = False, False, 0, 0.0
        self._cipher: Cbc
        self._iv = self._skeyid = self._key = self._message_id = self._quick_nonce = b""
        self.message = self._clear(_SA, common.first)

    def _clear(self, first: int, body: bytes) -> bytes:
        head = (self.cookies[:8], self.cookies[8:], first, 0x10, _MAIN, 0, 0, HEADER_SIZE + len(body))
        return _HEADER.pack(*head) + body

    def _sealed(self, first: int, exchange: int, message_id: bytes, body: bytes) -> bytes:
        body += bytes(-len(body) % _BLOCK)
        sealed = self._cipher.encrypt(self._iv, body)
        self._iv = sealed[-_BLOCK:]
        number, length = int.from_bytes(message_id), HEADER_SIZE + len(body)
        head = (self.cookies[:8], self.cookies[8:], first, 0x10, exchange, _ENCRYPTED, number, length)
        return _HEADER.pack(*head) + sealed

    def _open(self, data: bytes) -> bytes:
        plain = self._cipher.decrypt(self._iv, data[HEADER_SIZE:])
        self._iv = data[-_BLOCK:]
        return plain

    def take(self, data: bytes) -> bool:
        """Whether the message was the one that was waited for."""
        head = _HEADER.unpack_from(data)
        first, exchange, flags = head[2], head[4], head[5]
        if head[0] != self._own or head[7] != len(data):
            return False
        if exchange == ExchangeType.INFORMATIONAL and not flags & _ENCRYPTED:
            bodies = _bodies(first, data[HEADER_SIZE:])
            notice = next((body for kind, body, _, _ in bodies if kind == _NOTIFY), bytes(8))
            raise Refused(f"notification {int.from_bytes(notice[6:8])}")
        if self._step == 1 and exchange == _MAIN and first == _SA:
            self.cookies = self._own + head[1]
            self._second()
        elif self._step == 2 and exchange == _MAIN and first == _KE:
            self._third(data)
        elif self._step == 3 and exchange == _MAIN and flags & _ENCRYPTED:
            self._fourth(first, data)
        elif self._step == 4 and exchange == _QUICK:
            self._last(first, data, commit=bool(flags & _COMMIT))
        elif self._step == 5 and exchange == _QUICK and data[HEADER_SIZE:] != self._key:
            self.done, self.message = True, b""
        else:
            return False
        self._step += 1
        return True

    def _second(self) -> None:
        common = self._common
        ends = (common.responder, Endpoint(self.local, IKE_PORT))
        places = [sha256(self.cookies + end.address.packed + end.port.to_bytes(2)).digest() for end in ends]
        request = [(_CERTREQ, common.request)] if common.request else []
        body = _chain(
            (_KE, common.public), (_NONCES, self._nonce), *request, *((_NATD, place) for place in places)
        )
        self.message = self._clear(_KE, body)

    def _third(self, data: bytes) -> None:
        common = self._common
        found = {kind: body for kind, body, _, _ in _bodies(_KE, data[HEADER_SIZE:])}
        theirs, nonce = found[_KE], found[_NONCES]
        shared, nonces = common.shared(theirs), self._nonce + nonce
        skeyid = _prf(nonces, shared) if common.sign else _prf(common.key, nonces)
        context = shared + self.cookies
        skeyid_d = _prf(skeyid, context + b"\x00")
        self._key = _prf(skeyid, skeyid_d + context + b"\x01")
        self._cipher = cbc(Encryption.AES_CBC_128, _prf(skeyid, self._key + context + b"\x02")[:16])
        self._iv = sha256(common.public + theirs).digest()[:_BLOCK]
        self._skeyid = skeyid
        identity = common.subject or _ADDRESS + self.local.packed
        proof = _prf(skeyid, common.public + theirs + self.cookies + common.offer + identity)
        if common.sign is None:
            body = _chain((_ID, identity), (_HASH, proof))
        else:
            body = _chain((_ID, identity), (_CERT, common.certificate), (_SIG, common.sign(proof)))
        self._nonce = theirs  # of what was, only the peer's public value is needed still
        self.floats = common.tunnel
        self.message = self._sealed(_ID, _MAIN, bytes(4), body)

    def _fourth(self, first: int, data: bytes) -> None:
        common = self._common
        found = {kind: body for kind, body, _, _ in _bodies(first, self._open(data))}
        cookies = self.cookies[8:] + self.cookies[:8]
        proof = _prf(self._skeyid, self._nonce + common.public + cookies + common.offer + found[_ID])
        good = (
            common.verify(found[_SIG], proof)
            if common.verify
            else hmac.compare_digest(found.get(_HASH, b""), proof)
        )
        if not good:
            raise Refused("proof")
        if common.main_only:
            self.done, self.message = True, b""
            return
        self._message_id, self._quick_nonce = os.urandom(4), os.urandom(_NONCE)
        self._iv = sha256(self._iv + self._message_id).digest()[:_BLOCK]
        body = _chain(
            (_SA, common.quick),
            (_NONCES, self._quick_nonce),
            (_ID, _ADDRESS + self.local.packed),
            (_ID, _ADDRESS + common.responder.address.packed),
        )
        proof = _prf(self._key, self._message_id + body)
        self.message = self._sealed(
            _HASH, _QUICK, self._message_id, _GENERIC.pack(_SA, 4 + len(proof)) + proof + body
        )

    def _last(self, first: int, data: bytes, *, commit: bool) -> None:
        plain = self._open(data)
        payloads = list(_bodies(first, plain))
        nonce = next(body for kind, body, _, _ in payloads if kind == _NONCES)
        rest = plain[payloads[0][3] : payloads[-1][3]]
        expected = _prf(self._key, self._message_id + self._quick_nonce + rest)
        if payloads[0][0] != _HASH or not hmac.compare_digest(payloads[0][1], expected):
            raise Refused("quick mode's proof")
        proof = _prf(self._key, b"\x00" + self._message_id + self._quick_nonce + nonce)
        self.message = self._sealed(_HASH, _QUICK, self._message_id, _chain((_HASH, proof)))
        self.done = not commit
        self._key = data[HEADER_SIZE:]  # the answer to a message that is repeated is not the next one


def run(task: Task) -> Outcome:
    """All handshakes of the task."""
    if task.core is not None:
        os.sched_setaffinity(0, {task.core})
    common = Templates(task)
    sockets = UdpSockets(None)
    readers = dict(sockets.descriptors())
    poll = select.poll()
    for descriptor in readers:
        poll.register(descriptor, select.POLLIN)
    outcome = Outcome()
    under_way: dict[Address, Handshake] = {}
    begun = 0
    first = int(IPv4Address(task.first))

    def send(handshake: Handshake, now: float) -> None:
        handshake.sent = now
        marker, port = (NON_ESP_MARKER, NAT_TRAVERSAL_PORT) if handshake.floats else (b"", IKE_PORT)
        remote = common.floating if handshake.floats else common.responder
        with contextlib.suppress(OSError):  # a full queue of the interface: it is sent again
            sockets.send(marker + handshake.message, Endpoint(handshake.local, port), remote)

    def end(handshake: Handshake, why: str) -> None:
        del under_way[handshake.local]
        if why:
            outcome.failed += 1
            outcome.reasons[why] = outcome.reasons.get(why, 0) + 1
        else:
            outcome.established += 1

    def take(datagram: bytes, local: Endpoint, now: float) -> None:
        handshake = under_way.get(local.address)
        message = datagram[len(NON_ESP_MARKER) :] if local.port == NAT_TRAVERSAL_PORT else datagram
        if handshake is None or len(message) < HEADER_SIZE:
            return
        try:
            if not handshake.take(message):
                return
        except (Refused, StockadeError, KeyError, StopIteration) as refused:
            end(handshake, str(refused))
            return
        handshake.attempts = 0
        if handshake.message:
            send(handshake, now)
        if handshake.done:
            end(handshake, "")

    start = last = looked = time.monotonic()
    cpu = time.process_time()
    while outcome.established + outcome.failed < task.count:
        now = time.monotonic()
        if now - last > PATIENCE or now - start > task.seconds:
            break
        while begun < task.count and len(under_way) < task.window:
            handshake = Handshake(common, IPv4Address(first + begun))
            under_way[handshake.local] = handshake
            send(handshake, now)
            begun += 1
        for descriptor, _ in poll.poll(RESEND_SECONDS * 250):
            before, now = outcome.established, time.monotonic()
            for datagram, local, _remote in readers[descriptor]():
                take(datagram, local, now)
            if outcome.established > before:
                last = time.monotonic()
        if now - looked > RESEND_SECONDS / 4:
            looked = now
            for handshake in list(under_way.values()):
                if now - handshake.sent > RESEND_SECONDS:
                    handshake.attempts += 1
                    if handshake.attempts == ATTEMPTS:
                        end(handshake, "no answer")
                    else:
                        send(handshake, now)
    outcome.seconds = last - start
    outcome.cpu_seconds = time.process_time() - cpu
    sockets.close()
    return outcome


def main() -> int:
    try:
        outcome = run(Task.read(sys.argv[1]))
    except StockadeError as error:
        print(f"stockade: {error}", file=sys.stderr)
        return 1
    print(json.dumps(outcome.__dict__))
    return 0


if __name__ == "__main__":
    sys.exit(main())
