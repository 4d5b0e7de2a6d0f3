"""The packet path over IPv6, and fragments of both families."""

from ipaddress import IPv6Address
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockade.driver import packets, reassembly
from stockade.driver.contract import Acquire
from stockade.driver.datapath import Datapath
from stockade.driver.memory import MemoryDriver
from stockade.driver.reassembly import Reassembly
from stockade.driver.userspace import virtio
from stockade.model.addresses import Endpoint
from stockade.model.reasons import PeerError
from stockade.wire.checksum import transport_checksum
from stockade.wire.ip import build_packet, flow_of, parse_packet
from stockade.wire.transport import build_echo, build_tcp, build_udp

ALPHA, BETA = IPv6Address("2001:db8::1"), IPv6Address("2001:db8::2")
HOP_BY_HOP = bytes((6, 0)) + b"\x01\x04\0\0\0\0"
DESTINATION_OPTIONS = bytes((17, 0)) + b"\x01\x04\0\0\0\0"


def make_path(hosts: SimpleNamespace) -> Datapath:
    path = Datapath()
    path.install_filters(hosts.make_filters(("negotiate", 0, 0), version=6), 0.0)
    return path


@pytest.fixture
def alpha(hosts: SimpleNamespace) -> Datapath:
    return make_path(hosts)


@pytest.fixture
def beta(hosts: SimpleNamespace) -> Datapath:
    return make_path(hosts)


def tcp(payload: bytes = b"data", **values: object) -> bytes:
    return build_tcp(Endpoint(ALPHA, 4000), Endpoint(BETA, 80), payload, **values)


def udp(payload: bytes = b"data") -> bytes:
    return build_udp(Endpoint(ALPHA, 4000), Endpoint(BETA, 53), payload)


def checksums_are_right(packet: bytes) -> bool:
    parsed = parse_packet(packet)
    body = packet[parsed.payload_offset :]
    return transport_checksum(parsed.source, parsed.destination, parsed.protocol, body) == 0


@pytest.mark.parametrize("suite", ["GCM", "CBC"])
def test_packets_arrive_as_they_were(
    hosts: SimpleNamespace, alpha: Datapath, beta: Datapath, suite: str
) -> None:
    sa = hosts.make_sa(getattr(hosts, suite), version=6)
    alpha.add_sa(sa, 0.0)
    beta.add_sa(hosts.mirror(sa), 0.0)
    clear = [
        tcp(),
        udp(bytes(99)),
        build_echo(ALPHA, BETA, identifier=7, sequence=1, payload=b"ping"),
        build_packet(ALPHA, BETA, 17, udp()[40:], traffic_class=0xB8, flow_label=0x12345, hop_limit=3),
    ]
    wire = alpha.outbound(clear, 1.0).wire
    assert all(packet[6] == 50 for packet in wire)
    assert not any(b"data" in packet for packet in wire)
    assert beta.inbound(wire, 1.0) == clear


@pytest.mark.parametrize(("options", "first"), [(HOP_BY_HOP, 0), (DESTINATION_OPTIONS, 60)])
def test_extension_headers_stay_before_the_esp_header(
    hosts: SimpleNamespace, alpha: Datapath, beta: Datapath, options: bytes, first: int
) -> None:
    sa = hosts.make_sa(version=6)
    alpha.add_sa(sa, 0.0)
    beta.add_sa(hosts.mirror(sa), 0.0)
    body = tcp()[40:] if first == 0 else udp()[40:]
    clear = build_packet(ALPHA, BETA, first, body, options=options)
    (wire,) = alpha.outbound([clear], 1.0).wire
    assert (wire[6], wire[40]) == (first, 50)
    assert beta.inbound([wire], 1.0) == [clear]


def test_ports_behind_a_hidden_extension_header_are_checked(hosts: SimpleNamespace) -> None:
    """A peer puts destination options inside ESP: the second packet must not pass on the first one's word."""
    alpha, beta = make_path(hosts), Datapath()
    beta.install_filters(hosts.make_filters(("negotiate", 17, 53), version=6), 0.0)
    sa = hosts.make_sa(version=6)
    alpha.add_sa(sa, 0.0)
    beta.add_sa(hosts.mirror(sa), 0.0)
    (entry,) = alpha._sad
    inner = [DESTINATION_OPTIONS + udp()[40:], DESTINATION_OPTIONS + b"\x00\x01\x00\x02" + udp()[44:]]
    wire = [build_packet(ALPHA, BETA, 50, sealed) for sealed in entry.sealer.seal(60, inner)]
    assert beta.inbound(wire, 1.0) == [build_packet(ALPHA, BETA, 60, inner[0])]
    assert dict(beta.statistics(1.0).refused) == {"selector-mismatch": 1}


def test_the_first_packet_acquires(hosts: SimpleNamespace, alpha: Datapath) -> None:
    alpha.outbound([udp()], 0.0)
    (event,) = alpha.events()
    assert isinstance(event, Acquire)
    assert event.flow == flow_of(udp())
    assert len(alpha.add_sa(hosts.make_sa(version=6), 0.1).wire) == 1


def test_a_large_tcp_packet_is_cut_to_the_path(
    hosts: SimpleNamespace, alpha: Datapath, beta: Datapath
) -> None:
    sa = hosts.make_sa(version=6)
    alpha.add_sa(sa, 0.0, mtu=1300)
    beta.add_sa(hosts.mirror(sa), 0.0)
    wire = alpha.outbound([tcp(bytes(range(256)) * 200)], 1.0).wire
    assert 1290 < max(map(len, wire)) <= 1300
    opened = beta.inbound(wire, 1.0)
    assert b"".join(packet[60:] for packet in opened) == bytes(range(256)) * 200
    assert all(checksums_are_right(packet) for packet in opened)


def test_consecutive_segments_are_joined_and_cut_again() -> None:
    segments = [tcp(bytes([number]) * 1000, sequence=number * 1000) for number in range(5)]
    (parts,) = virtio.frames(segments)
    frame = b"".join(parts)
    assert (frame[0], frame[1]) == (1, 4)
    packet = virtio.take(frame[:1] + b"\0" + frame[2:])
    assert checksums_are_right(packet)
    assert packets.segment_tcp(packet, 1020, 40) == [segment[40:] for segment in segments]


def test_segments_of_different_flow_labels_are_not_joined() -> None:
    one, two = tcp(bytes(1000)), tcp(bytes(1000), sequence=1000)
    other = two[:3] + b"\1" + two[4:]
    assert len(list(virtio.frames([one, other]))) == 2


def test_a_large_datagram_is_fragmented_and_its_sender_told_once_a_second(
    hosts: SimpleNamespace, alpha: Datapath, beta: Datapath
) -> None:
    sa = hosts.make_sa(version=6)
    alpha.add_sa(sa, 0.0, mtu=1500)
    beta.add_sa(hosts.mirror(sa), 0.0)
    large = udp(bytes(3000))
    output = alpha.outbound([large, large], 1.0)
    assert max(map(len, output.wire)) <= 1500
    assembly = Reassembly()
    whole = [found for piece in output.wire if (found := assembly.add(piece, 1.0)) is not None]
    assert beta.inbound(whole, 1.0) == [large, large]
    (told,) = output.local
    parsed = parse_packet(told)
    assert (parsed.source, parsed.destination, parsed.protocol) == (BETA, ALPHA, 58)
    assert told[40:42] == b"\x02\x00"
    assert int.from_bytes(told[44:48], "big") == 1466
    assert len(told) <= 1280
    assert checksums_are_right(told)
    assert told[48:] == large[: len(told) - 48]
    assert len(alpha.outbound([large], 1.5).local) == 0
    assert len(alpha.outbound([large], 2.0).local) == 1


def test_less_than_every_link_takes_is_told_to_nobody(hosts: SimpleNamespace, alpha: Datapath) -> None:
    alpha.add_sa(hosts.make_sa(version=6), 0.0, mtu=1280)
    output = alpha.outbound([udp(bytes(2000))], 1.0)
    assert output.local == []
    assert len(output.wire) == 2


def test_neighbour_discovery_passes_where_ipv6_is_negotiated(hosts: SimpleNamespace) -> None:
    sent: list[bytes] = []
    delivered: list[bytes] = []
    driver = MemoryDriver(sent.append, delivered.append)
    driver.start()
    driver.install_filters(hosts.make_table(("negotiate", 0, 0), version=6))
    solicitation = build_packet(ALPHA, BETA, 58, b"\x87" + bytes(23), hop_limit=255)
    from_afar = build_packet(ALPHA, BETA, 58, b"\x87" + bytes(23), hop_limit=254)
    echo = build_packet(ALPHA, BETA, 58, b"\x80" + bytes(23), hop_limit=255)
    for packet in (solicitation, from_afar, echo):
        driver.outbound(packet, 0.0)
        driver.inbound(packet, 0.0)
    assert sent == delivered == [solicitation]
    driver.install_filters(hosts.make_table(("block", 0, 0), version=6))
    driver.outbound(solicitation, 1.0)
    assert sent == [solicitation]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 200), st.integers(0, 255), st.integers(0, 3))
def test_mutated_packets_are_counted_and_nothing_else(at: int, value: int, cut: int) -> None:
    from stockade.driver.contract import PacketRefused

    hosts = SimpleNamespace(**_names())
    alpha, beta = make_path(hosts), make_path(hosts)
    sa = hosts.make_sa(version=6)
    alpha.add_sa(sa, 0.0)
    beta.add_sa(hosts.mirror(sa), 0.0)
    clear = udp(bytes(100))
    (wire,) = alpha.outbound([clear], 1.0).wire
    at %= len(wire)
    mutated = wire[:at] + bytes((value,)) + wire[at + 1 : len(wire) - cut]
    result = beta.inbound([mutated], 1.0)
    if mutated == wire:
        assert result == [clear]
    elif result:
        # traffic class, flow label and hop limit are not protected by ESP (RFC 4303 §3.3.2)
        assert at in (0, 1, 2, 3, 7)
    else:
        beta.tick(10.0)  # what waits for an SA of its SPI is given up, and counted
        assert sum(count for _, count in beta.statistics(1.0).refused) == 1
        assert all(isinstance(event, PacketRefused) for event in beta.events())
    alpha.outbound([mutated], 1.0)


def _names() -> dict[str, object]:
    import importlib.util
    from pathlib import Path

    spec = importlib.util.spec_from_file_location("hosts", Path(__file__).with_name("conftest.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return vars(module)


# ---- fragments


@pytest.mark.parametrize("version", [4, 6])
def test_fragments_come_together_in_any_order(hosts: SimpleNamespace, version: int) -> None:
    packet = udp(bytes(number % 251 for number in range(5000)))
    if version == 4:
        packet = hosts.build_packet(
            hosts.ALPHA,
            hosts.BETA,
            17,
            packet[40:],
            dont_fragment=False,
            identification=9,
            options=b"\x01\x01\x01\0",
        )
    pieces = packets.fragment(packet, 1400)
    assert all(len(piece) <= 1400 for piece in pieces)
    assert len(pieces) == 4
    for order in (pieces, pieces[::-1], [pieces[2], *pieces]):
        assembly = Reassembly()
        results = [assembly.add(piece, 0.0) for piece in order]
        assert results[-1] == packet
        assert results[:-1] == [None] * (len(results) - 1)


def test_outbound_fragments_are_sealed_as_one(
    hosts: SimpleNamespace, alpha: Datapath, beta: Datapath
) -> None:
    sa = hosts.make_sa(version=6)
    alpha.add_sa(sa, 0.0, mtu=9000)
    beta.add_sa(hosts.mirror(sa), 0.0)
    large = udp(bytes(3000))
    wire = alpha.outbound(packets.fragment(large, 1400), 1.0).wire
    assert beta.inbound(wire, 1.0) == [large]


def test_overlaps_end_a_datagram_and_bounds_hold() -> None:
    pieces = packets.fragment(udp(bytes(5000)), 1400)
    assembly = Reassembly()
    assembly.add(pieces[0], 0.0)
    overlapping = pieces[1][:42] + (8).to_bytes(2, "big")[:1] + b"\x09" + pieces[1][44:]
    with pytest.raises(PeerError):
        assembly.add(overlapping, 0.0)
    assert assembly.dropped == 1
    for number in range(500):
        assembly.add(pieces[0][:44] + number.to_bytes(4, "big") + pieces[0][48:], 0.0)
    assert len(assembly._datagrams) <= reassembly.DATAGRAMS
    assert assembly.add(pieces[1], 100.0) is None
    assert len(assembly._datagrams) == 1
    assert assembly._bytes == len(pieces[1]) - 48


def fragments_of(hosts: SimpleNamespace, version: int, payload: bytes, size: int) -> list[bytes]:
    """A datagram to port 53 in pieces of `size` bytes of its payload, the UDP header among them."""
    packet = udp(payload)
    if version == 4:
        packet = hosts.build_packet(
            hosts.ALPHA, hosts.BETA, 17, packet[40:], dont_fragment=False, identification=9
        )
    return packets.fragment(packet, (20 if version == 4 else 48) + size)


@pytest.mark.parametrize("version", [4, 6])
def test_after_an_overlap_the_rest_of_the_datagram_is_not_taken_either(
    hosts: SimpleNamespace, version: int
) -> None:
    """Else its fragments, sent once more, would make a datagram of the attacker's choice (RFC 5722 §4)."""
    pieces = fragments_of(hosts, version, bytes(60), 32)
    assert len(pieces) == 3
    assembly = Reassembly()
    assert assembly.add(pieces[0], 0.0) is None
    forged = pieces[0][:-8] + b"overlaps"
    with pytest.raises(PeerError):
        assembly.add(forged, 0.1)
    for piece in (*pieces, forged, *pieces[1:]):
        with pytest.raises(PeerError):
            assembly.add(piece, 1.0)
    assert (assembly.dropped, assembly._bytes) == (1, 0)
    # The identification may be used again when the datagram could no longer come.
    later = [assembly.add(piece, 1.0 + reassembly.SECONDS) for piece in pieces]
    assert later[-1] is not None
    assert assembly.dropped == 1


@pytest.mark.parametrize("version", [4, 6])
def test_tiny_fragments_hide_no_port_from_the_filters(hosts: SimpleNamespace, version: int) -> None:
    """RFC 1858 §3: the first fragment ends before what filters look for. In pieces of 8 bytes, in any order,
    a blocked port stays blocked, and what is secured leaves as one whole datagram."""
    for rules, leaves in (((("block", 17, 53), ("negotiate", 17, 0)), 0), ((("negotiate", 17, 53),), 1)):
        path = Datapath()
        path.install_filters(hosts.make_filters(*rules, version=version), 0.0)
        path.add_sa(hosts.make_sa(version=version), 0.0, mtu=1500)
        tiny = fragments_of(hosts, version, b"x" * 100, 8)
        assert len(tiny) == 14
        wire = path.outbound(tiny[::-1], 1.0).wire
        assert len(wire) == leaves, rules


def test_a_flood_of_fragments_takes_bounded_memory_and_time(hosts: SimpleNamespace) -> None:
    """Ten thousand datagrams that never come to an end, of both families: the oldest go."""
    assembly = Reassembly()
    pieces = {version: fragments_of(hosts, version, bytes(3000), 1400)[1] for version in (4, 6)}
    for number in range(10_000):
        version = 4 if number % 2 else 6
        at = 4 if version == 4 else 46
        piece = pieces[version]
        assembly.add(piece[:at] + number.to_bytes(2, "big") + piece[at + 2 :], number / 10_000)
        assert len(assembly._datagrams) <= reassembly.DATAGRAMS
    assert assembly._bytes <= reassembly.BYTES
    assert assembly.dropped == 10_000 - len(assembly._datagrams)
    most = Reassembly()
    whole = fragments_of(hosts, 4, bytes(60_000), 8)
    for piece in whole[: reassembly.PIECES]:
        assert most.add(piece, 0.0) is None
    with pytest.raises(PeerError):
        most.add(whole[reassembly.PIECES], 0.0)
    assert most._bytes == 0, "too many pieces end the datagram"


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 60), st.integers(0, 255)), max_size=12))
def test_any_fragments_give_a_datagram_or_the_peers_error(changes: list[tuple[int, int, int]]) -> None:
    pieces = packets.fragment(udp(bytes(5000)), 1400)
    assembly = Reassembly()
    for which, at, value in changes:
        piece = pieces[which]
        try:
            assembly.add(piece[:at] + bytes((value,)) + piece[at + 1 :], 0.0)
        except PeerError:
            continue
    assert assembly._bytes == sum(entry.bytes for entry in assembly._datagrams.values())
