"""Opening sealed packets for a capture, where the data plane has no place at which they can be seen in clear.

The kernel's data plane shows packet sockets ESP and AH only: outbound packets after IPsec, inbound ones
before. The agent gives keys to who may administer it, so what was sealed is opened here once more, in memory:

    wire   … AH | ESP | ESP in UDP …  ──▶  SA of (destination, SPI)  ──▶  integrity, decryption  ──▶  clear

Fragments are put together first. Not looked at: replay, selectors, lifetimes (a capture shows what there is;
the kernel decides what it takes). A packet of an SA whose keys are not known yet waits a moment for them."""

import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from stockade.driver.ah import Verifier
from stockade.driver.esp import MALFORMED, Opener, make_opener
from stockade.driver.packets import exchange_payload, locate, out_of_udp
from stockade.driver.reassembly import Reassembly
from stockade.driver.tunnel import take_out
from stockade.model.reasons import PeerError, StockadeError
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, EspSuite, Hash, integrity_named
from stockade.model.traffic import AH, ESP, UDP

MAXIMUM_WAITING = 4096
WAITING_SECONDS = 5.0
NO_NEXT_HEADER = 59
"""Dummy packets (RFC 4303 §2.6)."""


@dataclass(slots=True)
class _Sa:
    opener: Opener
    is_tunnel: bool
    extended: bool
    upper: int = 0
    """The upper half of sequence numbers of 64 bits, as far as packets have shown it."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A sealed packet whose keys have not come; `stamp` in nanoseconds since 1970."""

    stamp: int
    outbound: bool
    packet: bytes


class PacketOpener:
    """Knows SAs by destination, protocol and SPI. `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sas: dict[bytes, _Sa] = {}
        self._fragments = Reassembly()
        self._waiting: deque[tuple[float, Waiting]] = deque(maxlen=MAXIMUM_WAITING)
        self.unknown = 0
        """Packets of SAs whose keys never came."""

    def learn(self, rows: list[dict[str, Any]]) -> list[tuple[Waiting, bytes]]:
        """Take over SAs as the agent tells them (`SaKeys`); what waited for them, opened."""
        for row in rows:
            with suppress(
                StockadeError, ValueError
            ):  # an algorithm of a newer agent: its packets stay sealed
                self._sas.setdefault(_key(row), _sa(row))
        found: list[tuple[Waiting, bytes]] = []
        now, waiting = self._clock(), list(self._waiting)
        self._waiting.clear()
        for since, one in waiting:
            inside = self._open(one.packet)
            if isinstance(inside, bytes):
                found.append((one, inside))
            elif inside is False and now - since < WAITING_SECONDS:
                self._waiting.append((since, one))
            else:
                self.unknown += inside is False
        return found

    def open(self, packet: bytes, stamp: int, outbound: bool) -> bytes | None:
        """The packet inside; None where there is none, or its keys have not come (`learn` gives it then)."""
        whole = self._whole(packet)
        if whole is None:
            return None
        inside = self._open(whole)
        if inside is False:
            if len(self._waiting) == MAXIMUM_WAITING:
                self.unknown += 1
            self._waiting.append((self._clock(), Waiting(stamp, outbound, whole)))
        return inside if isinstance(inside, bytes) else None

    def _whole(self, packet: bytes) -> bytes | None:
        try:
            return self._fragments.add(packet, self._clock())
        except PeerError:
            return packet  # no fragment

    def _open(self, packet: bytes) -> bytes | bool:
        """The packet inside; True: nothing to open, or it cannot be; False: keys that nobody told."""
        opened = False
        for _ in range(4):  # ESP in UDP, AH around it: no more than two layers are ours
            place = locate(packet)
            if place is None:
                return packet if opened else True
            at, protocol = place
            if protocol == UDP and not opened and 4500 in _ports(packet, at):
                bare = out_of_udp(packet, at)
                if bare is None:
                    return True  # IKE
                packet, protocol = bare, ESP
            if protocol not in (ESP, AH):
                return packet if opened else True
            spi = at if protocol == ESP else at + 4
            destination = packet[16:20] if packet[0] < 0x60 else packet[24:40]
            sa = self._sas.get(bytes([protocol]) + destination + packet[spi : spi + 4])
            if sa is None:
                return packet if opened else False
            inside = _taken_out(sa, packet, at, int.from_bytes(packet[spi + 4 : spi + 8], "big"))
            if inside is None:
                return True
            packet, opened = inside, True
            if sa.is_tunnel:
                return packet
        return True


def _ports(packet: bytes, at: int) -> tuple[int, int]:
    return int.from_bytes(packet[at : at + 2], "big"), int.from_bytes(packet[at + 2 : at + 4], "big")


def _taken_out(sa: _Sa, packet: bytes, at: int, number: int) -> bytes | None:
    """The packet without this layer; None: forged, cut off or a dummy."""
    if len(packet) - at < sa.opener.minimum_size:
        return None
    for upper in (sa.upper, sa.upper + 1) if sa.extended else (0,):
        (opened,) = sa.opener.open([packet], at, [upper << 32 | number])
        if opened is None:
            continue
        sa.upper = upper
        next_header, payload = opened
        if opened is MALFORMED or next_header == NO_NEXT_HEADER:
            return None
        if sa.is_tunnel:
            return take_out(packet, next_header, payload)
        return exchange_payload(packet, at, next_header, payload)
    return None


def _key(row: Mapping[str, Any]) -> bytes:
    destination = ip_address(row["destination"]).packed
    return (
        bytes([AH if row["protocol"] == "ah" else ESP]) + destination + int(row["spi"], 16).to_bytes(4, "big")
    )


def _sa(row: Mapping[str, Any]) -> _Sa:
    spi, extended = int(row["spi"], 16), bool(row["extended_sequence"])
    encryption_key, integrity_key = (
        Secret(bytes.fromhex(row[name])) for name in ("encryption_key", "integrity_key")
    )
    opener: Opener
    if row["protocol"] == "ah":
        opener = Verifier(spi, integrity_named(row["integrity"]), integrity_key, extended=extended)
    else:
        suite = EspSuite(Encryption(row["encryption"]), Hash(row["integrity"]) if row["integrity"] else None)
        opener = make_opener(spi, suite, encryption_key, integrity_key, extended=extended)
    return _Sa(opener, row["mode"] == "tunnel", extended)
