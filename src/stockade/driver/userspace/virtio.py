"""Packets as the TUN device hands them over with IFF_VNET_HDR: a virtio_net_hdr, then an IP packet.

    flags (1) | gso_type (1) | hdr_len (2) | gso_size (2) | csum_start (2) | csum_offset (2)

in host byte order. In: one read is one packet, or up to 64 KiB of one TCP flow (TSO) that the datapath cuts;
checksums may be half done (only the pseudo header's sum is in place) and are finished here. Out: what was
opened is marked as checked, and consecutive segments of a TCP flow are joined into one (GRO), which saves the
stack most of its work per packet.

Joining follows what the kernel's own GRO takes for safe: same addresses, ports, TOS, TTL, acknowledgement,
window and options; sequence numbers that run on; all of one size but the last, which may be shorter; no flags
but ACK, and PSH which ends the run.
"""

from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Final

from stockade.driver.packets import TCP, checksum, with_payload

HEADER_SIZE: Final = 10
CHECKSUM_KNOWN: Final = b"\x02" + bytes(9)
"""VIRTIO_NET_HDR_F_DATA_VALID: nobody needs to look at the transport checksum, ESP's integrity check has seen
it."""

READ_SIZE: Final = HEADER_SIZE + 65535

ALWAYS_CUT: Final = 9216
"""TCP packets longer than this are always cut into segments, whatever the MTU, so their checksum can wait for
that."""

_HEADER: Final = Struct("=BBHHHH")
_NEEDS_CHECKSUM: Final = 1
_GSO_TCPV4: Final = 1
_MAXIMUM_JOINED: Final = 65_000
_ACK, _PSH = 0x10, 0x08
_UDP: Final = 17


def take(frame: bytes) -> bytes:
    """The IP packet of a read, its checksum finished unless the datapath will make new ones."""
    flags, gso_type, _, _, start, offset = _HEADER.unpack_from(frame)
    packet = frame[HEADER_SIZE:]
    if not flags & _NEEDS_CHECKSUM or (gso_type and len(packet) > ALWAYS_CUT):
        return packet
    at = start + offset
    if at + 2 > len(packet):
        return packet
    value = checksum(packet[start:])
    if value == 0 and len(packet) > 9 and packet[9] == _UDP:
        value = 0xFFFF  # 0 would mean "no checksum" (RFC 768)
    return packet[:at] + value.to_bytes(2, "big") + packet[at + 2 :]


def frames(packets: Sequence[bytes]) -> Iterator[list[bytes]]:
    """What to write for these packets, each item the parts of one write."""
    run: list[bytes] = []
    shape = b""
    size = total = header = 0
    expected = -1
    for packet in packets:
        if packet[9] == TCP and packet[0] == 0x45 and len(packet) > 40:
            offset = 20 + (packet[32] >> 4 << 2)
            length = len(packet) - offset
            flags = packet[33]
            joinable = length > 0 and flags & ~_PSH == _ACK and offset >= 40
        else:
            joinable = False
        if not joinable:
            if run:
                yield _joined(run, header, size)
                run = []
            yield [CHECKSUM_KNOWN, packet]
            continue
        sequence = int.from_bytes(packet[24:28], "big")
        now = packet[:2] + packet[6:9] + packet[12:24] + packet[28:33] + packet[34:36] + packet[40:offset]
        if run and (
            sequence != expected or length > size or total + length > _MAXIMUM_JOINED or now != shape
        ):
            yield _joined(run, header, size)
            run = []
        if not run:
            shape, size, header, total = now, length, offset, offset
        run.append(packet)
        total += length
        expected = (sequence + length) & 0xFFFF_FFFF
        if flags & _PSH or length < size:
            yield _joined(run, header, size)
            run = []
    if run:
        yield _joined(run, header, size)


def _joined(run: list[bytes], header: int, size: int) -> list[bytes]:
    if len(run) == 1:
        return [CHECKSUM_KNOWN, run[0]]
    first = run[0]
    parts = [packet[header:] for packet in run]
    tcp_length = header - 20 + sum(map(len, parts))
    # The pseudo header's sum, not inverted: the stack (or a device behind it) goes on from there.
    pseudo = (int.from_bytes(first[12:20], "big") + TCP + tcp_length) % 65535
    head = b"".join(
        (
            _HEADER.pack(_NEEDS_CHECKSUM, _GSO_TCPV4, header, size, 20, 16),
            with_payload(first[:20], TCP, tcp_length),
            first[20:33],
            bytes((first[33] | run[-1][33] & _PSH,)),
            first[34:36],
            pseudo.to_bytes(2, "big"),
            first[38:header],
        )
    )
    return [head, *parts]
