"""AH: make and check it (RFC 4302), in transport mode or around what tunnel mode or ESP has made.

    | IP header, options, extension headers | AH | payload |        the ICV covers all three, see `wire.ah`

Whole IP packets in, whole IP packets out: unlike ESP, AH depends on the header. Slow beside ESP, for nothing
can be done a batch at a time; it is there for the policies that ask for it.

With extended sequence numbers the upper 32 bits stand behind the payload for the ICV, and nowhere in the
packet (RFC 4302 §2.5.1, §3.3.3.2.2).
"""

from collections.abc import Sequence
from struct import Struct
from typing import Final

from stockade.crypto import packet as packet_crypto
from stockade.driver.esp import MALFORMED, Opened
from stockade.driver.packets import locate, with_header, with_payload
from stockade.model.reasons import PeerError, ReasonCode, error_for
from stockade.model.secret import Secret
from stockade.model.suites import Integrity
from stockade.wire.ah import AH_FIXED_SIZE, MAXIMUM_PADDING, immutable_header, padded_icv_size

AH: Final = 51
_FIXED: Final = Struct(">BBHII")
_UPPER: Final = Struct(">I")


class Authenticator:
    """Puts the AH of one outbound SA into packets."""

    __slots__ = ("_extended", "_icv_size", "_mac", "_spi", "sequence")

    def __init__(self, spi: int, integrity: Integrity, key: Secret, *, extended: bool = False) -> None:
        """`extended`: sequence numbers of 64 bits. Keys of a wrong size are `CallerError(DRIVER_LACKS)`."""
        self._extended = extended
        self._mac = _make_mac(spi, integrity, key)
        self._icv_size = self._mac.icv_size
        self._spi = spi
        self.sequence = 0
        """The last sequence number that was used; the caller keeps it within 32 bits (or 64)."""

    def overhead(self, version: int) -> int:
        """Bytes that a packet of this IP version grows by."""
        return AH_FIXED_SIZE + padded_icv_size(self._icv_size, version)

    def protect(self, packets: Sequence[bytes]) -> list[bytes]:
        """The packets (which `locate` has passed) with an AH each."""
        protected = []
        for packet in packets:
            place = locate(packet)
            assert place is not None
            at, protocol = place
            self.sequence += 1
            version = packet[0] >> 4
            zeros = bytes(padded_icv_size(self._icv_size, version))
            words, lower = (AH_FIXED_SIZE + len(zeros)) // 4 - 2, self.sequence & 0xFFFF_FFFF
            fixed = _FIXED.pack(protocol, words, 0, self._spi, lower)
            behind = (_UPPER.pack(self.sequence >> 32),) if self._extended else ()
            body = packet[at:]
            if version == 4:
                header = packet[:at]
                if header[4:6] == b"\0\0":
                    # The kernel would put a number there, and the ICV covers it.
                    header = header[:4] + (self.sequence & 0xFFFF or 1).to_bytes(2, "big") + header[6:]
                header = with_payload(header, AH, len(fixed) + len(zeros) + len(body))
            else:
                header = with_header(packet, at, AH, (fixed + zeros + body,))[0][:at]
            icv = self._mac.compute(immutable_header(header), fixed, zeros, body, *behind)
            protected.append(b"".join((header, fixed, icv, zeros[self._icv_size :], body)))
        return protected


class Verifier:
    """Takes the AH of one inbound SA out of packets: an `Opener` (see `esp`) for whole packets."""

    __slots__ = ("_extended", "_icv_size", "_mac", "minimum_size")

    def __init__(self, spi: int, integrity: Integrity, key: Secret, *, extended: bool = False) -> None:
        self._extended = extended
        self._mac = _make_mac(spi, integrity, key)
        self._icv_size = self._mac.icv_size
        self.minimum_size = AH_FIXED_SIZE + self._icv_size

    def open(self, packets: Sequence[bytes], offset: int, numbers: Sequence[int] = ()) -> list[Opened | None]:
        if not self._extended:
            return [self._open(packet, offset) for packet in packets]
        return [
            self._open(packet, offset, _UPPER.pack(number >> 32))
            for packet, number in zip(packets, numbers, strict=True)
        ]

    def _open(self, packet: bytes, at: int, *behind: bytes) -> Opened | None:
        size = (packet[at + 1] + 2) * 4
        start = at + AH_FIXED_SIZE
        icv_end, end = start + self._icv_size, at + size
        if not icv_end <= end <= min(icv_end + MAXIMUM_PADDING, len(packet)):
            return None
        try:
            header = immutable_header(packet[:at])
        except PeerError:
            return None
        zeros = bytes(self._icv_size)
        if not self._mac.verify(
            packet[start:icv_end], header, packet[at:start], zeros, packet[icv_end:end], packet[end:], *behind
        ):
            return None
        # The reserved field is 0 (RFC 4302 §2.3); the ICV covers it, so it is the peer's own fault.
        return MALFORMED if packet[at + 2] or packet[at + 3] else (packet[at], packet[end:])


def _make_mac(spi: int, integrity: Integrity, key: Secret) -> packet_crypto.Authentication:
    try:
        return packet_crypto.authentication(integrity, key)
    except ValueError as error:
        raise error_for(ReasonCode.DRIVER_LACKS, str(error), spi=f"{spi:#010x}") from None
