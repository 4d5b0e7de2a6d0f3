"""What a NAT on the path asks of the packet path (RFC 3948).

§3.1.2: in transport mode TCP and UDP computed their checksums over the addresses that the sending host has,
and the packet that comes out of ESP bears others. Where NAT-OA told both of the former the checksum is
corrected by the difference, so that what was wrong stays wrong; where it did not (Windows sends NAT-OA from
behind a NAT only, the draft has one's own address only) it is computed anew: ESP has proved the payload.
"""

from collections.abc import Callable

from stockade.driver.packets import MINIMUM_HEADER, TCP, UDP, big_sum
from stockade.model.addresses import Address
from stockade.model.filters import Direction
from stockade.model.negotiation import Mode
from stockade.model.sa import SecurityAssociation

Mender = Callable[[bytes, int, int], bytes]
"""(packet, where its payload begins, its protocol) -> the packet with the checksum of its addresses."""

_CHECKSUM_AT = {TCP: 16, UDP: 6}
_SMALLEST = {TCP: 20, UDP: 8}


def checksum_mender(sa: SecurityAssociation) -> Mender | None:
    """What to do with each packet of an SA after it was opened; None where its addresses are as they were."""
    if sa.udp is None or sa.mode is not Mode.TRANSPORT or sa.direction is not Direction.INBOUND:
        return None
    if sa.original is None:
        return _compute_anew
    difference = address_difference(sa, sa.original)
    if not difference:
        return None

    def correct(packet: bytes, at: int, protocol: int) -> bytes:
        offset = _CHECKSUM_AT.get(protocol)
        if offset is None or len(packet) - at < _SMALLEST[protocol]:
            return packet
        offset += at
        old = packet[offset] << 8 | packet[offset + 1]
        if protocol == UDP and not old:
            return packet  # without a checksum (RFC 768)
        value = (old + difference) % 0xFFFF or 0xFFFF
        return packet[:offset] + value.to_bytes(2, "big") + packet[offset + 2 :]

    return correct


def address_difference(sa: SecurityAssociation, original: tuple[Address, Address]) -> int:
    """What the checksums have to grow by: a checksum is the inverted sum, so it grows by what the sum
    lost."""
    was = int.from_bytes(b"".join(address.packed for address in original), "big") % 0xFFFF
    is_now = int.from_bytes(sa.source.packed + sa.destination.packed, "big") % 0xFFFF
    return (was - is_now) % 0xFFFF


def _compute_anew(packet: bytes, at: int, protocol: int) -> bytes:
    offset = _CHECKSUM_AT.get(protocol)
    if offset is None or len(packet) - at < _SMALLEST[protocol]:
        return packet
    offset += at
    if protocol == UDP and packet[offset : offset + 2] == b"\0\0":
        return packet
    length = len(packet) - at
    addresses = packet[12:MINIMUM_HEADER] if packet[0] < 0x60 else packet[8:40]
    pseudo = (int.from_bytes(addresses, "big") + protocol + length) % 0xFFFF
    segment = packet[at:offset] + b"\0\0" + packet[offset + 2 :] + bytes(length & 1)
    value = 0xFFFF - (pseudo + big_sum(segment)) % 0xFFFF
    return packet[:offset] + value.to_bytes(2, "big") + packet[offset + 2 :]
