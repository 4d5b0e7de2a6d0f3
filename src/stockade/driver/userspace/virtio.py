"""Packets as the TUN device hands them over with IFF_VNET_HDR: a virtio_net_hdr, then an IP packet.

    flags (1) | gso_type (1) | hdr_len (2) | gso_size (2) | csum_start (2) | csum_offset (2)

in host byte order. In: one read is one packet, or up to 64 KiB of one TCP flow (TSO) that the datapath cuts,
or a burst of UDP datagrams that a program sent in one call (USO), which is cut here, for its borders are the
program's. Checksums may be half done (only the pseudo header's sum is in place) and are finished here. Out:
what was opened is marked as checked, and consecutive segments of a TCP flow are joined into one (GRO), which
saves the stack most of its work per packet.

Joining follows what the kernel's own GRO takes for safe: same addresses, ports, TOS (for IPv6 traffic class
and flow label), TTL, acknowledgement, window and options; sequence numbers that run on; all of one size but
the last, which may be shorter; no flags but ACK, and PSH which ends the run. IPv6 packets with extension
headers are not joined.
"""

from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Final

from stockade.driver.packets import TCP, checksum, ones_complement_sum, with_payload

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
_GSO_TCPV4, _GSO_TCPV6 = 1, 4
_GSO_UDP, _GSO_KIND = 5, 0x7F
_UDP, _UDP_HEADER = 17, 8
_MAXIMUM_JOINED: Final = 65_000
_ACK, _PSH = 0x10, 0x08
_UDP_CHECKSUM: Final = 6
"""Where a UDP header has its checksum; no other protocol that leaves it to the device has it there."""


def take_all(frame: bytes) -> list[bytes]:
    """The IP packets of a read: one, or the datagrams of a burst of UDP; as `take`."""
    _, gso_type, _, size, start, _ = _HEADER.unpack_from(frame)
    if gso_type & _GSO_KIND == _GSO_UDP:
        packet = frame[HEADER_SIZE:]
        least = 20 if packet[:1] < b"\x50" else 40
        if size and least <= start and start + _UDP_HEADER < len(packet):
            return _datagrams(packet, start, size)
    return [take(frame)]


def _datagrams(packet: bytes, at: int, size: int) -> list[bytes]:
    """The datagrams with `size` bytes each (the last one with what is left) of a burst whose UDP header
    stands at `at`. IPv4 identifications run on, as the kernel's do."""
    is_v4 = packet[0] >> 4 == 4
    ports = packet[at : at + 4]
    addresses = packet[12:20] if is_v4 else packet[8:40]
    fixed = int.from_bytes(addresses + ports, "big") + _UDP
    made = []
    for number, position in enumerate(range(at + _UDP_HEADER, len(packet), size)):
        data = packet[position : position + size]
        length = _UDP_HEADER + len(data)
        value = (65535 - (fixed + 2 * length + ones_complement_sum(data)) % 65535) % 65535
        upper = b"".join((ports, length.to_bytes(2, "big"), (value or 0xFFFF).to_bytes(2, "big"), data))
        if is_v4:
            identification = (int.from_bytes(packet[4:6], "big") + number) & 0xFFFF
            header = packet[:4] + identification.to_bytes(2, "big") + packet[6:at]
            made.append(with_payload(header, packet[9], length) + upper)
        else:
            made.append(packet[:4] + (at - 40 + length).to_bytes(2, "big") + packet[6:at] + upper)
    return made


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
    if value == 0 and offset == _UDP_CHECKSUM:
        value = 0xFFFF  # 0 would mean "no checksum" (RFC 768)
    return packet[:at] + value.to_bytes(2, "big") + packet[at + 2 :]


def frames(packets: Sequence[bytes], *, merge: bool = True) -> Iterator[list[bytes]]:
    """What to write for these packets, each item the parts of one write."""
    run: list[bytes] = []
    shape = b""
    size = total = header = 0
    expected = -1
    for packet in packets:
        first = packet[0]
        if first == 0x45 and packet[9] == TCP:
            at, joinable = 20, len(packet) > 40
        elif first >> 4 == 6 and packet[6] == TCP:
            at, joinable = 40, len(packet) > 60
        else:
            joinable = False
        if joinable:
            offset = at + (packet[at + 12] >> 4 << 2)
            length = len(packet) - offset
            flags = packet[at + 13]
            joinable = length > 0 and flags & ~_PSH == _ACK and offset >= at + 20
        if not (joinable and merge):
            if run:
                yield _joined(run, header, size)
                run = []
            yield [CHECKSUM_KNOWN, packet]
            continue
        # All of both headers but lengths, IPv4 identification and checksum, sequence number, PSH, checksum.
        if at == 20:
            sequence = int.from_bytes(packet[24:28], "big")
            now = packet[:2] + packet[6:9] + packet[12:24] + packet[28:33] + packet[34:36] + packet[40:offset]
        else:
            sequence = int.from_bytes(packet[44:48], "big")
            now = packet[:4] + packet[6:44] + packet[48:53] + packet[54:56] + packet[60:offset]
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
    if first[0] == 0x45:
        at, kind, addresses = 20, _GSO_TCPV4, first[12:20]
    else:
        at, kind, addresses = 40, _GSO_TCPV6, first[8:40]
    tcp_length = header - at + sum(map(len, parts))
    if at == 20:
        ip_header = with_payload(first[:20], TCP, tcp_length)
    else:
        ip_header = first[:4] + tcp_length.to_bytes(2, "big") + first[6:40]
    # The pseudo header's sum, not inverted: the stack (or a device behind it) goes on from there.
    pseudo = (int.from_bytes(addresses, "big") + TCP + tcp_length) % 65535
    head = b"".join(
        (
            _HEADER.pack(_NEEDS_CHECKSUM, kind, header, size, at, 16),
            ip_header,
            first[at : at + 13],
            bytes((first[at + 13] | run[-1][at + 13] & _PSH,)),
            first[at + 14 : at + 16],
            pseudo.to_bytes(2, "big"),
            first[at + 18 : header],
        )
    )
    return [head, *parts]
