"""Cutting, joining and rewriting packets, each against the slow and plain way of `wire/`."""

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockade.driver import packets
from stockade.driver.userspace import virtio
from stockade.model.addresses import Endpoint
from stockade.wire.checksum import transport_checksum
from stockade.wire.ip import ipv4_checksum_is_right, parse_packet
from stockade.wire.transport import build_tcp, decode_tcp


def is_right(packet: bytes) -> bool:
    """Both checksums, by `wire/`."""
    parsed = parse_packet(packet)
    body = packet[parsed.payload_offset :]
    return (
        ipv4_checksum_is_right(packet)
        and transport_checksum(parsed.source, parsed.destination, parsed.protocol, body) == 0
    )


@pytest.fixture(params=[False, True], ids=["integers", "numpy"])
def accelerated(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packets, "_array_sums", None)
    if request.param and not packets.load_accelerator():
        pytest.skip("NumPy is not installed")


@pytest.mark.usefixtures("accelerated")
@pytest.mark.parametrize("options", [b"", b"\x01\x01\x08\x0a" + bytes(range(8))])
@pytest.mark.parametrize("size", [1461, 2801, 14_000, 59_999])
def test_segments_are_the_packet_again(hosts: SimpleNamespace, options: bytes, size: int) -> None:
    payload = bytes(number * 7 % 256 for number in range(size))
    packet = build_tcp(
        Endpoint(hosts.ALPHA, 4000),
        Endpoint(hosts.BETA, 80),
        payload,
        sequence=0xFFFF_F000,  # wraps on the way
        acknowledgement=77,
        flags=0x80 | 0x10 | 0x08 | 0x01,
        options=options,
    )
    segments = packets.segment_tcp(packet, 1438, 20)
    assert segments is not None
    assert all(len(segment) <= 1438 for segment in segments)
    whole = packets.with_header(packet, 20, 6, segments)
    assert all(is_right(entry) for entry in whole)
    headers = [decode_tcp(segment) for segment in segments]
    assert b"".join(segment[20 + len(options) :] for segment in segments) == payload
    expected = 0xFFFF_F000
    for header, segment in zip(headers, segments, strict=True):
        assert header.sequence == expected
        expected = (expected + len(segment) - 20 - len(options)) & 0xFFFF_FFFF
        assert header.acknowledgement == 77
        assert header.options == options
    flags = [int(header.flags) for header in headers]
    assert flags[0] == 0x90
    assert flags[-1] == 0x19
    assert set(flags[1:-1]) <= {0x10}


def test_syn_and_urgent_data_are_not_cut(hosts: SimpleNamespace) -> None:
    for flags in (0x02, 0x30):
        assert packets.segment_tcp(hosts.tcp(bytes(3000), flags=flags), 1400, 20) is None
    assert packets.segment_tcp(hosts.tcp(bytes(3000))[:30], 1400, 20) is None


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=3000))
def test_sums_agree_with_the_definition(data: bytes) -> None:
    padded = data + bytes(len(data) % 2)
    plain = sum(int.from_bytes(padded[at : at + 2], "big") for at in range(0, len(padded), 2)) % 65535
    assert packets.ones_complement_sum(data) == plain
    assert packets.big_sum(padded) == plain


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 255), st.binary(max_size=60), st.binary(max_size=1400))
def test_an_exchanged_payload_leaves_a_right_header(protocol: int, old: bytes, new: bytes) -> None:
    from ipaddress import IPv4Address

    from stockade.wire.ip import build_packet

    packet = build_packet(
        IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2"), 50, old, options=b"\x01\x01\x01\x00"
    )
    other = packets.exchange_payload(packet, 24, protocol, new)
    parsed = parse_packet(other)
    assert ipv4_checksum_is_right(other)
    assert (parsed.protocol, other[24:]) == (protocol, new)
    assert other[4:9] == packet[4:9]
    assert other[12:24] == packet[12:24]


def test_icmp_says_what_fits(hosts: SimpleNamespace) -> None:
    packet = hosts.udp(bytes(2000))
    icmp = packets.too_big(packet, 1446)
    parsed = parse_packet(icmp)
    assert (str(parsed.source), str(parsed.destination)) == ("10.0.0.2", "10.0.0.1")
    assert icmp[20:22] == b"\x03\x04"
    assert int.from_bytes(icmp[26:28], "big") == 1446
    assert ipv4_checksum_is_right(icmp)
    assert packets.ones_complement_sum(icmp[20:]) == 0
    assert icmp[28:56] == packet[:28]


def stream(hosts: SimpleNamespace, count: int, size: int = 1000, **values: object) -> list[bytes]:
    return [hosts.tcp(bytes([number]) * size, sequence=number * size, **values) for number in range(count)]


def test_consecutive_segments_are_joined(hosts: SimpleNamespace) -> None:
    segments = stream(hosts, 5)
    (parts,) = virtio.frames(segments)
    frame = b"".join(parts)
    flags, kind, header, size = frame[0], frame[1], frame[2:4], frame[4:6]
    assert (flags, kind) == (1, 1)
    assert int.from_bytes(header, "little") == 40
    assert int.from_bytes(size, "little") == 1000
    packet = virtio.take(frame[:1] + b"\0" + frame[2:])  # finishes the checksum, as a network card would
    assert is_right(packet)
    assert packet[40:] == b"".join(segment[40:] for segment in segments)
    # And cut again they are what they were, identification apart.
    cut = packets.segment_tcp(packet, 1020, 20)
    assert cut == [segment[20:] for segment in segments]


def test_what_does_not_follow_is_not_joined(hosts: SimpleNamespace) -> None:
    segments = stream(hosts, 4)
    for changed in (
        [segments[0], segments[2]],  # a gap
        [segments[1], segments[0]],  # out of order
        [segments[0], hosts.tcp(bytes(1000), sequence=1000, acknowledgement=5)],
        [segments[0], hosts.tcp(bytes(1000), sequence=1000, window=5)],
        [segments[0], hosts.tcp(bytes(1000), sequence=1000, port=81)],
        [segments[0], hosts.tcp(bytes(1000), sequence=1000, flags=0x11)],
        [segments[0], hosts.tcp(bytes(1001), sequence=1000)],
        [segments[0], hosts.udp(), hosts.ping()],
        [hosts.tcp(b""), hosts.tcp(b"")],
    ):
        frames = [b"".join(parts) for parts in virtio.frames(changed)]
        assert frames == [virtio.CHECKSUM_KNOWN + packet for packet in changed]


def test_push_and_a_short_segment_end_a_run(hosts: SimpleNamespace) -> None:
    one, two = hosts.tcp(bytes(1000), sequence=0), hosts.tcp(bytes(500), sequence=1000, flags=0x18)
    three, four = hosts.tcp(bytes(500), sequence=1500), hosts.tcp(bytes(500), sequence=2000)
    sizes = [sum(map(len, parts[1:])) for parts in virtio.frames([one, two, three, four])]
    assert sizes == [1500, 1000]


def test_a_joined_run_stays_below_64_kib(hosts: SimpleNamespace) -> None:
    frames = [b"".join(parts) for parts in virtio.frames(stream(hosts, 100))]
    assert max(map(len, frames)) <= 65535
    assert sum(len(frame) - 50 for frame in frames) == 100_000


def test_half_done_checksums_are_finished(hosts: SimpleNamespace) -> None:
    for packet, offset in ((hosts.tcp(b"abc"), 16), (hosts.udp(b"abc"), 6)):
        at = 20 + offset
        pseudo = packets.ones_complement_sum(
            packet[12:20] + bytes((0, packet[9])) + (len(packet) - 20).to_bytes(2, "big")
        )
        half = packet[:at] + pseudo.to_bytes(2, "big") + packet[at + 2 :]
        header = b"\x01\x00" + bytes(4) + (20).to_bytes(2, "little") + offset.to_bytes(2, "little")
        assert virtio.take(header + half) == packet
        assert virtio.take(bytes(10) + half) == half


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=10, max_size=80))
def test_any_frame_is_taken(frame: bytes) -> None:
    assert len(virtio.take(frame)) == len(frame) - 10
