"""The Internet checksum (RFC 1071), its incremental update (RFC 1624) and the pseudo headers (RFC 9293 §3.1,
RFC 8200 §8.1)."""

from stockade.model.addresses import Address


def ones_sum(*parts: bytes) -> int:
    """The one's complement sum of all parts, one behind the other as 16-bit words: 0–65535. Only the last
    part may have an odd length (it is filled up with a zero).

    A number modulo 65535 is the sum of its 16-bit digits, so the interpreter's long integers do the work.
    """
    total = 0
    for part in parts:
        number = int.from_bytes(part, "big")
        if len(part) & 1:
            number <<= 8
        # 0 and 65535 are both zero in one's complement; words that are not all zero never sum up to +0.
        total += number % 0xFFFF or (0xFFFF if number else 0)
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def internet_checksum(*parts: bytes) -> int:
    """The checksum over the parts (its own field being zero). Over data that contain a right checksum: 0."""
    return ones_sum(*parts) ^ 0xFFFF


def update_checksum(checksum: int, old: bytes, new: bytes) -> int:
    """The checksum after `old` became `new` somewhere on an even offset (equal, even lengths; RFC 1624
    eqn. 3)."""
    total = (checksum ^ 0xFFFF) + (ones_sum(old) ^ 0xFFFF) + ones_sum(new)
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def pseudo_header(source: Address, destination: Address, protocol: int, length: int) -> bytes:
    """What TCP, UDP and ICMPv6 sum up before their own `length` bytes."""
    addresses = source.packed + destination.packed
    if source.version == 4:
        return addresses + bytes((0, protocol)) + length.to_bytes(2, "big")
    return addresses + length.to_bytes(4, "big") + bytes((0, 0, 0, protocol))


def transport_checksum(
    source: Address, destination: Address, protocol: int, segment: bytes | bytearray | memoryview
) -> int:
    """The checksum of a TCP, UDP or ICMPv6 segment whose checksum field is zero (0 over a right one)."""
    return internet_checksum(pseudo_header(source, destination, protocol, len(segment)), bytes(segment))
