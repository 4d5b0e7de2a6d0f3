"""IP headers, TCP, UDP and ICMP headers, checksums and flows."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockade.model.addresses import Endpoint
from stockade.model.reasons import PeerError, ReasonCode
from stockade.model.traffic import ESP, ICMP, ICMPV6, TCP, UDP, Flow
from stockade.wire.checksum import (
    internet_checksum,
    ones_sum,
    pseudo_header,
    transport_checksum,
    update_checksum,
)
from stockade.wire.ip import (
    build_packet,
    flow_of,
    flow_of_packet,
    ipv4_checksum_is_right,
    parse_packet,
    replace_payload,
)
from stockade.wire.transport import (
    IcmpHeader,
    TcpFlag,
    TcpHeader,
    UdpHeader,
    build_echo,
    build_tcp,
    build_udp,
    decode_icmp,
    decode_tcp,
    decode_udp,
)

A4, B4 = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2")
A6, B6 = IPv6Address("fd00::1"), IPv6Address("fd00::2")

octet = st.integers(0, 0xFF)
u16 = st.integers(0, 0xFFFF)
u32 = st.integers(0, 0xFFFF_FFFF)


# ---- checksums
def slow_checksum(data: bytes) -> int:
    """RFC 1071 §4.1, word by word."""
    total = 0
    for index in range(0, len(data), 2):
        total += int.from_bytes(data[index : index + 2].ljust(2, b"\0"), "big")
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def test_checksum_of_the_rfcs_example() -> None:
    assert ones_sum(bytes.fromhex("0001f203f4f5f6f7")) == 0xDDF2


@settings(max_examples=200)
@given(st.one_of(st.binary(max_size=100), st.lists(st.sampled_from((0, 255))).map(bytes)))
def test_checksum_is_that_of_the_definition(data: bytes) -> None:
    assert internet_checksum(data) == slow_checksum(data)
    half = len(data) // 4 * 2
    assert internet_checksum(data[:half], data[half:]) == slow_checksum(data)


@settings(max_examples=100)
@given(
    st.binary(min_size=2, max_size=40).filter(lambda data: len(data) % 2 == 0 and any(data[2:])),
    st.binary(min_size=2, max_size=2),
)
def test_incremental_update_is_the_same_as_computing_anew(data: bytes, new: bytes) -> None:
    assert update_checksum(internet_checksum(data), data[:2], new) == internet_checksum(new, data[2:])


def test_pseudo_headers() -> None:
    assert pseudo_header(A4, B4, 17, 8).hex() == "0a0000010a00000200110008"
    assert pseudo_header(A6, B6, 6, 20).hex() == A6.packed.hex() + B6.packed.hex() + "0000001400000006"


# ---- IPv4 and IPv6
@settings(max_examples=100)
@given(
    addresses=st.one_of(*(st.tuples(st.ip_addresses(v=v), st.ip_addresses(v=v)) for v in (4, 6))),
    protocol=octet.filter(lambda number: number not in (0, 43, 44, 60)),
    payload=st.binary(max_size=60),
    hop_limit=octet,
    traffic_class=octet,
    rest=st.binary(max_size=5),
)
def test_a_packet_survives(addresses, protocol, payload, hop_limit, traffic_class, rest) -> None:  # type: ignore[no-untyped-def]
    source, destination = addresses
    data = build_packet(
        source, destination, protocol, payload, hop_limit=hop_limit, traffic_class=traffic_class
    )
    packet = parse_packet(data + rest)
    assert (packet.version, packet.source, packet.destination) == (source.version, source, destination)
    assert (packet.protocol, packet.hop_limit, packet.traffic_class) == (protocol, hop_limit, traffic_class)
    assert data[packet.payload_offset : packet.total_length] == payload
    assert (packet.total_length, packet.payload_length) == (len(data), len(payload))
    assert data[packet.protocol_offset] == protocol
    assert not packet.is_fragment
    if source.version == 4:
        assert ipv4_checksum_is_right(data)
        assert not ipv4_checksum_is_right(data[:8] + bytes((data[8] ^ 1,)) + data[9:])


def test_ipv4_options_and_fragments() -> None:
    options = bytes.fromhex("01940400000000")[:6] + b"\0\0"  # no operation, router alert, end, padding
    data = build_packet(
        A4,
        B4,
        UDP,
        b"12345678",
        options=options,
        identification=0xABCD,
        more_fragments=True,
        fragment_offset=1480,
        dont_fragment=False,
    )
    packet = parse_packet(data)
    assert (packet.header_length, packet.payload_offset) == (28, 28)
    assert (packet.identification, packet.fragment_offset) == (0xABCD, 1480)
    assert packet.more_fragments
    assert packet.is_fragment
    assert not packet.dont_fragment
    assert ipv4_checksum_is_right(data)


def test_ipv6_extension_headers_are_walked() -> None:
    hop_by_hop = bytes((60, 0, 5, 2, 0, 0, 1, 0))
    destination_options = bytes((43, 1)) + bytes((1, 12)) + bytes(12)
    routing = bytes((44, 0, 3, 0)) + bytes(4)
    fragment = bytes((TCP, 0xFF, 0x00, 0x01)) + bytes.fromhex("12345678")
    extensions = hop_by_hop + destination_options + routing + fragment
    data = build_packet(A6, B6, 0, b"\x04\xd2\x00\x50", options=extensions, flow_label=0xABCDE)
    packet = parse_packet(data)
    assert packet.protocol == TCP
    assert packet.payload_offset == 40 + len(extensions)
    assert packet.protocol_offset == 40 + len(extensions) - 8
    assert (packet.identification, packet.flow_label) == (0x12345678, 0xABCDE)
    assert packet.more_fragments
    assert packet.fragment_offset == 0
    assert flow_of_packet(packet, data) == Flow(A6, B6, TCP, 1234, 80)


def test_a_later_ipv6_fragment_has_no_ports_and_its_payload_is_not_walked() -> None:
    fragment = bytes((60, 0, 0x05, 0xC8)) + bytes(4)
    data = build_packet(A6, B6, 44, b"\xff" * 4, options=fragment)
    packet = parse_packet(data)
    assert (packet.fragment_offset, packet.protocol, packet.payload_offset) == (0x5C8, 60, 48)


IPV4 = build_packet(A4, B4, TCP, bytes(20))
IPV6 = build_packet(A6, B6, TCP, bytes(20))


def patched(data: bytes, offset: int, new: str) -> bytes:
    value = bytes.fromhex(new)
    return data[:offset] + value + data[offset + len(value) :]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "an empty packet"),
        (b"\x50" + bytes(40), "version 5"),
        (IPV4[:19], "20 bytes expected, 19 left"),
        (IPV6[:39], "40 bytes expected, 39 left"),
        (patched(IPV4, 0, "44"), "a header of 16 bytes"),
        (patched(IPV4, 0, "4f"), "total length 40, 60 to 40"),
        (patched(IPV4, 2, "0013"), "total length 19"),
        (IPV4[:-1], "total length 40, 20 to 39"),
        (patched(IPV4, 6, "3fff"), "ends behind 65535"),
        (build_packet(A4, B4, TCP, b"", options=bytes.fromhex("94050000")), "option 148: length 5"),
        (build_packet(A4, B4, TCP, b"", options=bytes.fromhex("94000000")), "option 148: length 0"),
        (build_packet(A4, B4, TCP, b"", options=bytes.fromhex("01010194")), "option 148: length 0"),
        (IPV6[:-1], "payload length 20, at most 19"),
        (build_packet(A6, B6, 60, bytes(7)), "8 bytes expected, 7 left"),
        (build_packet(A6, B6, 60, bytes((6, 1)) + bytes(6)), "16 bytes expected, 8 left"),
        (build_packet(A6, B6, 43, bytes((6, 0, 0, 1)) + bytes(4)), "segments left"),
        (build_packet(A6, B6, 60, bytes((0, 0)) + bytes(6) + bytes(8)), "hop-by-hop"),
        (build_packet(A6, B6, 44, bytes((44, 0)) + bytes(6) + bytes(8)), "two fragment headers"),
        (build_packet(A6, B6, 44, bytes((6, 0, 0xFF, 0xF8)) + bytes(12)), "ends behind 65535"),
        (build_packet(A6, B6, 60, (bytes((60, 0)) + bytes(6)) * 9), "more than 8 extension headers"),
    ],
)
def test_a_malformed_packet_is_refused(data: bytes, text: str) -> None:
    with pytest.raises(PeerError, match=text) as caught:
        parse_packet(data)
    assert caught.value.reason.code is ReasonCode.MALFORMED_PACKET


def test_eight_extension_headers_are_allowed() -> None:
    options = (bytes((60, 0)) + bytes(6)) * 7 + bytes((TCP, 0)) + bytes(6)
    assert parse_packet(build_packet(A6, B6, 60, bytes(20), options=options)).protocol == TCP


@pytest.mark.parametrize(
    "arguments",
    [
        {"source": A4, "destination": B6},
        {"protocol": 256},
        {"hop_limit": -1},
        {"payload": bytes(65516)},
        {"fragment_offset": 4},
        {"fragment_offset": 65536},
        {"options": bytes(3)},
        {"options": bytes(44)},
        {"identification": 65536},
        {"source": A6, "destination": B6, "more_fragments": True},
        {"source": A6, "destination": B6, "payload": bytes(65536)},
        {"source": A6, "destination": B6, "flow_label": 1 << 20},
    ],
)
def test_an_impossible_packet_cannot_be_built(arguments: dict[str, object]) -> None:
    defaults: dict[str, object] = {"source": A4, "destination": B4, "protocol": TCP, "payload": b""}
    with pytest.raises(ValueError, match=r"."):
        build_packet(**(defaults | arguments))  # type: ignore[arg-type]


# ---- another protocol inside the same header
@pytest.mark.parametrize(
    "data",
    [
        build_packet(A4, B4, TCP, b"segment", options=bytes.fromhex("01010101"), identification=77),
        build_packet(A6, B6, 0, b"segment", options=bytes((TCP, 0, 5, 2, 0, 0, 1, 0)), flow_label=5),
    ],
)
def test_a_replaced_payload_and_back(data: bytes) -> None:
    before = parse_packet(data)
    sealed = replace_payload(before, data, ESP, b"some longer sealed bytes")
    packet = parse_packet(sealed)
    assert packet.protocol == ESP
    assert sealed[packet.payload_offset :] == b"some longer sealed bytes"
    assert (packet.payload_offset, packet.identification) == (before.payload_offset, before.identification)
    assert packet.version == 6 or ipv4_checksum_is_right(sealed)
    assert replace_payload(packet, sealed, TCP, b"segment") == data
    with pytest.raises(ValueError, match="too long"):
        replace_payload(before, data, ESP, bytes(65536))


# ---- flows
@pytest.mark.parametrize(
    ("data", "flow"),
    [
        (build_tcp(Endpoint(A4, 1234), Endpoint(B4, 80)), Flow(A4, B4, TCP, 1234, 80)),
        (build_udp(Endpoint(A6, 53), Endpoint(B6, 5353), b"x"), Flow(A6, B6, UDP, 53, 5353)),
        (build_echo(A4, B4, identifier=7, sequence=1), Flow(A4, B4, ICMP)),
        (build_echo(A6, B6, identifier=7, sequence=1), Flow(A6, B6, ICMPV6)),
        (build_packet(A4, B4, ESP, b""), Flow(A4, B4, ESP)),
        (build_packet(A4, B4, 132, bytes.fromhex("00010002")), Flow(A4, B4, 132, 1, 2)),
        (build_packet(A4, B4, TCP, b"", fragment_offset=16), Flow(A4, B4, TCP)),
        (build_packet(A4, B4, UDP, b"", fragment_offset=8), Flow(A4, B4, UDP)),
    ],
)
def test_flows(data: bytes, flow: Flow) -> None:
    assert flow_of(data) == flow


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (build_packet(A4, B4, TCP, b"\0\1\0"), "4 bytes of ports expected, 3 left"),
        (build_packet(A4, B4, UDP, b"") + bytes(20), "4 bytes of ports expected, 0 left"),
        (build_packet(A4, B4, TCP, bytes(40), fragment_offset=8), "begins inside the TCP header"),
    ],
)
def test_a_packet_that_could_deceive_a_filter_has_no_flow(data: bytes, text: str) -> None:
    with pytest.raises(PeerError, match=text) as caught:
        flow_of(data)
    assert caught.value.reason.code is ReasonCode.MALFORMED_PACKET


# ---- TCP, UDP, ICMP
@settings(max_examples=60)
@given(u16, u16, u16, st.binary(max_size=30))
def test_udp_headers_survive(source: int, destination: int, checksum: int, data: bytes) -> None:
    header = UdpHeader(source, destination, 8 + len(data), checksum)
    assert decode_udp(header.encode() + data + b"padding") == header


@settings(max_examples=60)
@given(
    st.builds(
        TcpHeader,
        u16,
        u16,
        u32,
        u32,
        st.integers(0, 0x1FF),
        u16,
        u16,
        u16,
        st.binary(max_size=10).map(lambda words: words * 4),
    ),
    st.binary(max_size=10),
)
def test_tcp_headers_survive(header: TcpHeader, data: bytes) -> None:
    encoded = header.encode()
    assert len(encoded) == header.header_length
    assert decode_tcp(encoded + data) == header


@settings(max_examples=60)
@given(st.builds(IcmpHeader, octet, octet, u16, u16, u16), st.binary(max_size=10))
def test_icmp_headers_survive(header: IcmpHeader, data: bytes) -> None:
    assert decode_icmp(header.encode() + data) == header


def test_reserved_bits_of_tcp_are_ignored() -> None:
    segment = bytearray(TcpHeader(1, 2, 3, 4, TcpFlag.SYN, 5).encode())
    segment[12] |= 0x0E
    assert decode_tcp(bytes(segment)).flags == TcpFlag.SYN


@pytest.mark.parametrize(
    ("decode", "segment", "text"),
    [
        (decode_udp, bytes(7), "8 bytes expected, 7 left"),
        (decode_udp, bytes.fromhex("0001000200070000"), "length 7, 8 to 8"),
        (decode_udp, bytes.fromhex("0001000200090000"), "length 9, 8 to 8"),
        (decode_tcp, bytes(19), "20 bytes expected, 19 left"),
        (decode_tcp, bytes(12) + b"\x40" + bytes(7), "a header of 16 bytes"),
        (decode_tcp, bytes(12) + b"\x60" + bytes(7), "a header of 24 bytes"),
        (decode_icmp, bytes(7), "8 bytes expected, 7 left"),
    ],
)
def test_a_malformed_segment_is_refused(decode, segment: bytes, text: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(PeerError, match=text) as caught:
        decode(segment)
    assert caught.value.reason.code is ReasonCode.MALFORMED_PACKET


@pytest.mark.parametrize(("source", "destination"), [(A4, B4), (A6, B6)])
def test_built_segments_have_right_checksums(source, destination) -> None:  # type: ignore[no-untyped-def]
    tcp = build_tcp(
        Endpoint(source, 1), Endpoint(destination, 2), b"odd", options=bytes(4), flags=TcpFlag.SYN
    )
    udp = build_udp(Endpoint(source, 1), Endpoint(destination, 2), b"odd")
    for protocol, data in ((TCP, tcp), (UDP, udp)):
        packet = parse_packet(data)
        assert transport_checksum(source, destination, protocol, data[packet.payload_offset :]) == 0
    echo = build_echo(source, destination, identifier=1, sequence=2, payload=b"odd", reply=True)
    segment = echo[parse_packet(echo).payload_offset :]
    if source.version == 4:
        assert internet_checksum(segment) == 0
    else:
        assert transport_checksum(source, destination, ICMPV6, segment) == 0
    header = decode_icmp(segment)
    assert (header.type, header.identifier, header.sequence) == (0 if source.version == 4 else 129, 1, 2)


def test_a_udp_checksum_of_zero_is_written_as_all_ones() -> None:
    source, destination = Endpoint(ip_address("0.0.0.0"), 0), Endpoint(ip_address("0.0.0.0"), 0)
    filler = 0xFFFF - (17 + 10 + 10)  # pseudo header: protocol and length; header: length
    data = build_udp(source, destination, filler.to_bytes(2, "big"))
    assert decode_udp(data[20:]).checksum == 0xFFFF
