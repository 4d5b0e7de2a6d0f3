"""Captures: what we write we read; both byte orders, units, sections; cut and broken files."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockade.model.reasons import PeerError, ReasonCode
from stockade.wire.pcap import (
    CapturedPacket,
    LinkType,
    pcap_header,
    pcap_record,
    pcapng_header,
    pcapng_record,
    read_capture,
)

FORMATS = {"pcap": (pcap_header, pcap_record), "pcapng": (pcapng_header, pcapng_record)}
records = st.lists(
    st.tuples(
        st.integers(0, 0xFFFF_FFFF * 1_000_000_000), st.binary(max_size=50), st.integers(50, 0xFFFF_FFFF)
    ),
    max_size=5,
)


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=50)
@given(records=records, link_type=st.sampled_from(list(LinkType)))
def test_a_capture_survives(name: str, records: list[tuple[int, bytes, int]], link_type: int) -> None:
    head, record = FORMATS[name]
    data = head(link_type) + b"".join(record(time, packet, size) for time, packet, size in records)
    expected = [CapturedPacket(time, packet, size, link_type) for time, packet, size in records]
    assert list(read_capture(data)) == expected


@pytest.mark.parametrize("name", FORMATS)
def test_a_capture_that_is_cut_anywhere_gives_its_whole_packets_where_that_is_allowed(name: str) -> None:
    head, record = FORMATS[name]
    start, parts = head(LinkType.RAW), [record(n, bytes(n)) for n in range(3)]
    data = start + b"".join(parts)
    for cut in range(len(start), len(data)):
        whole = sum(cut >= len(start) + sum(map(len, parts[: n + 1])) for n in range(3))
        assert len(list(read_capture(data[:cut], allow_cut=True))) == whole
    with pytest.raises(PeerError, match=r"bytes expected"):
        list(read_capture(data[:-1]))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(("magic", "unit"), [(0xA1B2C3D4, 1000), (0xA1B23C4D, 1)])
def test_both_byte_orders_and_units_of_pcap(order: str, magic: int, unit: int) -> None:
    data = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 65535, 0x1000_0001)
    data += struct.pack(order + "IIII", 5, 6, 2, 60) + b"ab"
    assert list(read_capture(data)) == [CapturedPacket(5_000_000_000 + 6 * unit, b"ab", 60, 1)]


def block(order: str, kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    return struct.pack(order + "II", kind, len(body) + 12) + body + struct.pack(order + "I", len(body) + 12)


def section(order: str) -> bytes:
    return block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))


def interface(order: str, link_type: int, snapshot: int = 0, options: bytes = b"") -> bytes:
    return block(order, 1, struct.pack(order + "HHI", link_type, 0, snapshot) + options)


@pytest.mark.parametrize("order", "<>")
def test_pcapng_with_several_interfaces_units_and_blocks(order: str) -> None:
    comment = struct.pack(order + "HH", 1, 3) + b"why\0"
    powers = struct.pack(order + "HHB3x", 9, 1, 0x8A)  # 2^-10 seconds
    offset = struct.pack(order + "HHq", 14, 8, -1)
    end = struct.pack(order + "HH", 0, 0)
    data = section(order)
    data += interface(order, 1) + interface(order, 101, 4, comment + powers + offset + end)
    data += block(order, 5, b"statistics..")
    data += block(order, 6, struct.pack(order + "IIIII", 0, 0, 7, 3, 3) + b"abc" + b"\0" + comment + end)
    data += block(order, 6, struct.pack(order + "IIIII", 1, 1, 512, 1, 9) + b"x")
    data += block(order, 3, struct.pack(order + "I", 5) + b"whole")
    data += section(order) + interface(order, 228, 4) + block(order, 3, struct.pack(order + "I", 5) + b"whol")
    later = (((1 << 32) + 512) * 1_000_000_000) // 1024 - 1_000_000_000
    assert list(read_capture(data)) == [
        CapturedPacket(7000, b"abc", 3, 1, 0),
        CapturedPacket(later, b"x", 9, 101, 1),
        CapturedPacket(0, b"whole", 5, 1, 0),
        CapturedPacket(0, b"whol", 5, 228, 0),
    ]


def test_sections_may_differ_in_byte_order() -> None:
    data = b"".join(
        section(order)
        + interface(order, 101)
        + block(order, 6, struct.pack(order + "IIIII", 0, 0, 1, 1, 1) + b"x")
        for order in "<>"
    )
    assert len(list(read_capture(data))) == 2


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "magic number: 4 bytes expected, 0 left"),
        (b"what", "neither pcap nor pcapng"),
        (pcap_header(1)[:20], "link type: 4 bytes expected, 0 left"),
        (pcap_header(1)[:4] + b"\3\0" + pcap_header(1)[6:], "pcap version 3"),
        (pcap_header(1) + pcap_record(0, b"abc")[:-1], "packet data: 3 bytes expected, 2 left"),
        (pcap_header(1) + b"\0", "seconds: 4 bytes expected, 1 left"),
        (b"\n\r\r\n" + bytes(24), "byte-order magic 00000000"),
        (section("<")[:-4] + bytes(4), "the two lengths of a block differ"),
        (section("<") + struct.pack("<II", 5, 8), "block length 8"),
        (section("<") + struct.pack("<II", 5, 13), "block length 13"),
        (section("<") + struct.pack("<II", 5, 16), "block 5: 4 bytes expected, 0 left"),
        (section("<") + block("<", 6, bytes(20)), "interface 0 of a packet is not described"),
        (section("<") + block("<", 3, bytes(4)), "interface 0 of a packet is not described"),
        (section("<") + interface("<", 1) * 1025, "more than 1024 interfaces"),
        (section("<") + interface("<", 1, 0, b"\x09\0\4\0"), "option 9: 4 bytes expected, 0 left"),
        (
            section("<") + interface("<", 1) + block("<", 6, struct.pack("<IIIII", 0, 0, 0, 9, 9)),
            "packet data: 9 bytes expected, 0 left",
        ),
    ],
)
def test_a_broken_capture_is_refused(data: bytes, text: str) -> None:
    with pytest.raises(PeerError, match=text) as caught:
        list(read_capture(data))
    assert caught.value.reason.code is ReasonCode.MALFORMED_PACKET


def test_packets_before_the_broken_place_are_given() -> None:
    packets = read_capture(pcap_header(1) + pcap_record(1, b"good") + b"bad")
    assert next(packets).data == b"good"
    with pytest.raises(PeerError):
        next(packets)
