"""ESP in transport mode: seal and open (RFC 4303), in batches of one SA.

     0               1               2               3
    |            Security Parameters Index (SPI)            |  ┐
    |                    Sequence Number                    |  │ integrity
    |     IV (AES-GCM 8, AES-CBC 16, 3DES and DES 8 bytes)  |  │ (AES-GCM: over SPI and sequence number
    |        payload (TCP, UDP, ICMP … header and data)     |  │  as associated data, and the ciphertext)
    |   padding 1,2,3,…   |   pad length   |  next header   |  ┘ encrypted from the payload to here
    |            Integrity Check Value (12, 16, 24, 32)     |

Suites: AES-GCM (RFC 4106), AES-CCM (RFC 4309) and ChaCha20-Poly1305 (RFC 7634) with 16-byte ICV, GMAC (RFC
4543, which encrypts nothing), AES-CBC (RFC 3602), 3DES (RFC 2451), DES (RFC 2405) and NULL (RFC
2410) with HMAC (RFC 2403, 2404, 4868). Nothing here knows IP: payloads in, ESP packets out, and back.

CBC is done a batch at a time, which is what makes it fast in Python. Outbound all payloads go through one CBC
stream and a secret random block stands before each; its ciphertext is that packet's IV, as unpredictable as
NIST SP 800-38A appendix C asks (a nonce encrypted under the same key). Inbound a CBC stream may be cut and
joined at will, for each block depends on the ciphertext before it only: the packets, with their IVs, are one
stream.

Extended sequence numbers have 64 bits, of which the packet carries the lower half; the upper one is in the
integrity check all the same: in the associated data of combined modes between SPI and lower half (RFC 4106
§5, RFC 4309 §5, RFC 7634 §2.1, RFC 4543 §3.3), and after the next header for the others (RFC 4303 §2.2.1).
The IV of combined modes is the whole number.

Left out: traffic-flow confidentiality beyond accepting it, tunnel mode.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from struct import Struct
from typing import Final, Protocol

from stockade.crypto import packet as packet_crypto
from stockade.crypto.registry import encryption_algorithm, hash_algorithm
from stockade.model.reasons import ReasonCode, error_for
from stockade.model.secret import Secret
from stockade.model.suites import EspSuite

MAXIMUM_SEQUENCE: Final = 0xFFFF_FFFF
MAXIMUM_EXTENDED_SEQUENCE: Final = 0xFFFF_FFFF_FFFF_FFFF
HEADER_SIZE: Final = 8
NO_NEXT_HEADER: Final = 59
"""The next header of a dummy packet, dropped without a word (RFC 4303 §2.6)."""

_HEADER = Struct(">II")
_HEADER_AND_IV = Struct(">IIQ")
_EXTENDED_HEADER = Struct(">IQ")
_UPPER = Struct(">I")
_PADDING = bytes(range(1, 256))

Opened = tuple[int, bytes]
"""(next header, payload)."""

MALFORMED: Final[Opened] = (-1, b"")
"""Stands for a packet whose integrity is right and whose inside is not: the peer's own fault."""


class Sealer(Protocol):
    """Makes the ESP packets of one outbound SA."""

    sequence: int
    """The last sequence number that was used; 0 before the first packet."""

    def seal(self, next_header: int, payloads: Sequence[bytes]) -> list[bytes]:
        """One ESP packet for each payload. The caller keeps `sequence + len(payloads)` within 32 bits, or
        within 64 with extended sequence numbers."""

    def largest_payload(self, space: int) -> int:
        """How many bytes of payload fit in an ESP packet of `space` bytes; negative where none do."""


class Opener(Protocol):
    """Takes the ESP packets of one inbound SA apart."""

    minimum_size: int
    """Bytes of the shortest ESP packet of this suite."""

    def open(self, packets: Sequence[bytes], offset: int, numbers: Sequence[int] = ()) -> list[Opened | None]:
        """For each packet, whose ESP header stands at `offset` (and which is long enough), next header and
        payload; None where the integrity check fails, `MALFORMED` where the inside makes no sense. With
        extended sequence numbers each packet's whole one is in `numbers`; nobody looks there without."""


def make_sealer(
    spi: int,
    suite: EspSuite,
    encryption_key: Secret,
    integrity_key: Secret,
    random: Callable[[int], bytes],
    *,
    extended: bool = False,
) -> Sealer:
    """`encryption_key` with the salt of combined modes; `extended`: sequence numbers of 64 bits. Keys of a
    wrong size are `CallerError(DRIVER_LACKS)`."""
    try:
        if suite.encryption.is_aead and not suite.encryption.is_confidential:
            return _GmacSealer(spi, suite, encryption_key, extended)
        if suite.encryption.is_aead:
            return _AeadSealer(spi, suite, encryption_key, extended)
        return _CbcSealer(spi, suite, encryption_key, integrity_key, random, extended)
    except ValueError as error:
        raise error_for(ReasonCode.DRIVER_LACKS, str(error), spi=f"{spi:#010x}") from None


def make_opener(
    spi: int, suite: EspSuite, encryption_key: Secret, integrity_key: Secret, *, extended: bool = False
) -> Opener:
    """As `make_sealer`."""
    try:
        if suite.encryption.is_aead and not suite.encryption.is_confidential:
            return _GmacOpener(suite, encryption_key, extended)
        if suite.encryption.is_aead:
            return _AeadOpener(suite, encryption_key, extended)
        return _CbcOpener(suite, encryption_key, integrity_key, extended)
    except ValueError as error:
        raise error_for(ReasonCode.DRIVER_LACKS, str(error), spi=f"{spi:#010x}") from None


@lru_cache(maxsize=512)
def _trailers(alignment: int, next_header: int) -> tuple[bytes, ...]:
    """Padding, pad length and next header, by payload length modulo `alignment` (RFC 4303 §2.4: 1, 2, 3
    …)."""
    sizes = ((-(remainder + 2)) % alignment for remainder in range(alignment))
    return tuple(_PADDING[:size] + bytes((size, next_header)) for size in sizes)


def _take_apart(plain: bytes) -> Opened:
    """Strip padding, pad length and next header. RFC 4303 §2.4: the receiver should look at the padding."""
    padding = plain[-2]
    end = len(plain) - 2 - padding
    if end < 0 or (padding and plain[end:-2] != _PADDING[:padding]):
        return MALFORMED
    return plain[-1], plain[:end]


def _no_icv(*parts: bytes) -> bytes:
    return b""


def _no_check(icv: bytes, *parts: bytes) -> bool:
    return True


class _AeadSealer:
    """Combined modes: the IV is the sequence number, which never comes twice under one key (RFC 4106
    §3.1)."""

    __slots__ = ("_encrypt", "_extended", "_salt", "_spi", "sequence")

    def __init__(self, spi: int, suite: EspSuite, encryption_key: Secret, extended: bool) -> None:
        key, self._salt = packet_crypto.split_salt(suite.encryption, encryption_key)
        self._encrypt = packet_crypto.aead(suite.encryption, key).encrypt
        self._spi = spi
        self._extended = extended
        self.sequence = 0

    def seal(self, next_header: int, payloads: Sequence[bytes]) -> list[bytes]:
        trailers = _trailers(4, next_header)
        encrypt, salt, spi, sequence, pack = (
            self._encrypt,
            self._salt,
            self._spi,
            self.sequence,
            _HEADER_AND_IV.pack,
        )
        # Taken before the first byte is encrypted: whatever fails below, no number is used twice.
        self.sequence = sequence + len(payloads)
        extended = self._extended
        sealed = []
        for payload in payloads:
            sequence += 1
            head = pack(spi, sequence & 0xFFFF_FFFF, sequence)
            # The IV is the whole number: SPI and IV are what extended numbers have as associated data.
            associated = head[:4] + head[8:] if extended else head[:HEADER_SIZE]
            sealed.append(head + encrypt(salt + head[8:], payload + trailers[len(payload) & 3], associated))
        return sealed

    def largest_payload(self, space: int) -> int:
        return (space - HEADER_SIZE - 8 - 16) // 4 * 4 - 2


class _AeadOpener:
    __slots__ = ("_decrypt", "_extended", "_salt", "minimum_size")

    def __init__(self, suite: EspSuite, encryption_key: Secret, extended: bool) -> None:
        self._extended = extended
        key, self._salt = packet_crypto.split_salt(suite.encryption, encryption_key)
        self._decrypt = packet_crypto.aead(suite.encryption, key).decrypt
        self.minimum_size = HEADER_SIZE + 8 + 4 + 16

    def open(self, packets: Sequence[bytes], offset: int, numbers: Sequence[int] = ()) -> list[Opened | None]:
        decrypt, salt = self._decrypt, self._salt
        after_header, after_iv = offset + HEADER_SIZE, offset + HEADER_SIZE + 8
        opened: list[Opened | None] = []
        for packet, header in zip(packets, self._headers(packets, offset, numbers), strict=True):
            plain = decrypt(salt + packet[after_header:after_iv], packet[after_iv:], header)
            # The length check: an ICV over fewer than two bytes is right, yet there is no trailer to read.
            opened.append(None if plain is None else _take_apart(plain) if len(plain) >= 2 else MALFORMED)
        return opened

    def _headers(self, packets: Sequence[bytes], offset: int, numbers: Sequence[int]) -> list[bytes]:
        """SPI and sequence number of each, as they are authenticated."""
        end = offset + HEADER_SIZE
        if not self._extended:
            return [packet[offset:end] for packet in packets]
        pack, from_bytes = _EXTENDED_HEADER.pack, int.from_bytes
        return [
            pack(from_bytes(packet[offset : offset + 4], "big"), number)
            for packet, number in zip(packets, numbers, strict=True)
        ]


class _GmacSealer(_AeadSealer):
    """GMAC (RFC 4543 §3): nothing is encrypted; IV and payload are authenticated with the header."""

    __slots__ = ()

    def seal(self, next_header: int, payloads: Sequence[bytes]) -> list[bytes]:
        trailers = _trailers(4, next_header)
        encrypt, salt, pack, sequence = self._encrypt, self._salt, _HEADER_AND_IV.pack, self.sequence
        self.sequence = sequence + len(payloads)
        extended = self._extended
        sealed = []
        for payload in payloads:
            sequence += 1
            head = pack(self._spi, sequence & 0xFFFF_FFFF, sequence)
            rest = head[HEADER_SIZE:] + payload + trailers[len(payload) & 3]
            associated = (head[:4] + head[HEADER_SIZE:] if extended else head[:HEADER_SIZE]) + rest
            sealed.append(head[:HEADER_SIZE] + rest + encrypt(salt + head[HEADER_SIZE:], b"", associated))
        return sealed


class _GmacOpener(_AeadOpener):
    __slots__ = ()

    def open(self, packets: Sequence[bytes], offset: int, numbers: Sequence[int] = ()) -> list[Opened | None]:
        decrypt, salt = self._decrypt, self._salt
        iv, payload = offset + HEADER_SIZE, offset + HEADER_SIZE + 8
        opened: list[Opened | None] = []
        for packet, header in zip(packets, self._headers(packets, offset, numbers), strict=True):
            icv = len(packet) - 16
            genuine = decrypt(salt + packet[iv:payload], packet[icv:], header + packet[iv:icv])
            opened.append(
                None
                if genuine is None
                else _take_apart(packet[payload:icv])
                if icv - payload >= 2
                else MALFORMED
            )
        return opened


class _CbcSealer:
    __slots__ = (
        "_alignment",
        "_block",
        "_cipher",
        "_extended",
        "_icv_size",
        "_mac",
        "_random",
        "_spi",
        "sequence",
    )

    def __init__(
        self,
        spi: int,
        suite: EspSuite,
        encryption_key: Secret,
        integrity_key: Secret,
        random: Callable[[int], bytes],
        extended: bool,
    ) -> None:
        self._extended = extended
        algorithm = encryption_algorithm(suite.encryption)
        self._cipher = packet_crypto.cbc(suite.encryption, encryption_key)
        # Without integrity ESP is allowed under AH only, which whoever installs the SA has seen to.
        self._mac = None if suite.integrity is None else packet_crypto.mac(suite.integrity, integrity_key)
        self._icv_size = 0 if suite.integrity is None else hash_algorithm(suite.integrity).icv_size
        self._block = algorithm.iv_size
        self._alignment = algorithm.esp_alignment
        self._random = random
        self._spi = spi
        self.sequence = 0

    def seal(self, next_header: int, payloads: Sequence[bytes]) -> list[bytes]:
        if not payloads:
            return []
        block, alignment, sequence = self._block, self._alignment, self.sequence
        trailers = _trailers(alignment, next_header)
        self.sequence = sequence + len(payloads)
        # One call for the randomness of the whole batch.
        noise = self._random(block * len(payloads))
        parts: list[bytes] = []
        at = 0
        for payload in payloads:
            parts += (noise[at : at + block], payload, trailers[len(payload) % alignment])
            at += block
        stream = self._cipher.encrypt_packet(b"".join(parts))
        sealed = []
        at = 0
        pack, spi = _HEADER.pack, self._spi
        compute = _no_icv if self._mac is None else self._mac.compute
        extended = self._extended
        for payload in payloads:
            sequence += 1
            end = at + block + len(payload) + len(trailers[len(payload) % alignment])
            packet = pack(spi, sequence & 0xFFFF_FFFF) + stream[at:end]
            icv = compute(packet, _UPPER.pack(sequence >> 32)) if extended else compute(packet)
            sealed.append(packet + icv)
            at = end
        return sealed

    def largest_payload(self, space: int) -> int:
        encrypted = space - HEADER_SIZE - self._block - self._icv_size
        return encrypted // self._alignment * self._alignment - 2


class _CbcOpener:
    __slots__ = ("_alignment", "_block", "_cipher", "_extended", "_icv_size", "_mac", "minimum_size")

    def __init__(
        self, suite: EspSuite, encryption_key: Secret, integrity_key: Secret, extended: bool
    ) -> None:
        self._extended = extended
        algorithm = encryption_algorithm(suite.encryption)
        self._cipher = packet_crypto.cbc(suite.encryption, encryption_key)
        # Without integrity ESP is allowed under AH only, which whoever installs the SA has seen to.
        self._mac = None if suite.integrity is None else packet_crypto.mac(suite.integrity, integrity_key)
        self._icv_size = 0 if suite.integrity is None else hash_algorithm(suite.integrity).icv_size
        self._block = algorithm.iv_size
        self._alignment = algorithm.esp_alignment
        self.minimum_size = HEADER_SIZE + self._block + self._alignment + self._icv_size

    def open(self, packets: Sequence[bytes], offset: int, numbers: Sequence[int] = ()) -> list[Opened | None]:
        opened: list[Opened | None] = []
        genuine: list[tuple[int, bytes]] = []
        icv_size, alignment = self._icv_size, self._alignment
        verify = _no_check if self._mac is None else self._mac.verify
        extended = self._extended
        for number, packet in enumerate(packets):
            end = len(packet) - icv_size
            body = packet[offset:end]
            behind = (_UPPER.pack(numbers[number] >> 32),) if extended else ()
            if not verify(packet[end:], body, *behind):
                opened.append(None)
                continue
            opened.append(MALFORMED)
            if not (len(body) - HEADER_SIZE) % alignment:
                genuine.append((number, body[HEADER_SIZE:]))
        if not genuine:
            return opened
        block = self._block
        # The first IV is not in the result, the others are (as rubbish): as if the result began a block
        # early.
        plain = self._cipher.decrypt_packet(b"".join([stream for _, stream in genuine]))
        at = -block
        for number, stream in genuine:
            end = at + len(stream)
            opened[number] = _take_apart(plain[at + block : end])
            at = end
        return opened
