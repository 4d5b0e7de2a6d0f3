"""Scapy as the independent judge of our codecs: it reads what we write, we read what it writes."""

import io
from ipaddress import IPv4Address, IPv6Address

import pytest

from stockade.model.addresses import AddressRange, Endpoint
from stockade.model.traffic import ESP, Flow
from stockade.wire.esp import EspHeader, decode_esp_header
from stockade.wire.ip import build_packet, flow_of, ipv4_checksum_is_right, parse_packet
from stockade.wire.isakmp.message import HEADER_SIZE, Header, decode_header, decode_payloads, encode_message
from stockade.wire.isakmp.message import encode_payloads as encode
from stockade.wire.isakmp.payloads import (
    Attribute,
    DeletePayload,
    HashPayload,
    IdentificationPayload,
    KeyExchangePayload,
    NoncePayload,
    NotificationPayload,
    Payload,
    ProposalPayload,
    SecurityAssociationPayload,
    SignaturePayload,
    TransformPayload,
    VendorIdPayload,
)
from stockade.wire.pcap import LinkType, pcap_header, pcap_record, pcapng_header, pcapng_record, read_capture
from stockade.wire.transport import (
    TcpFlag,
    build_echo,
    build_tcp,
    build_udp,
    decode_icmp,
    decode_tcp,
    decode_udp,
)
from stockade.wire.udp_encapsulation import add_marker

inet = pytest.importorskip("scapy.layers.inet")
inet6 = pytest.importorskip("scapy.layers.inet6")
ipsec = pytest.importorskip("scapy.layers.ipsec")
isakmp = pytest.importorskip("scapy.layers.isakmp")
packets = pytest.importorskip("scapy.packet")
utils = pytest.importorskip("scapy.utils")

A4, B4 = IPv4Address("10.1.0.1"), IPv4Address("10.1.0.2")
A6, B6 = IPv6Address("fd00::1"), IPv6Address("fd00::2")
COOKIES = (b"initiate", b"respond.")

ADDRESS = IdentificationPayload.of_addresses(AddressRange.host("10.1.0.1"), 17, 500)
PAYLOADS: list[Payload] = [
    HashPayload(b"\x11" * 20),
    KeyExchangePayload(bytes(range(128))),
    NoncePayload(b"n" * 32),
    ADDRESS,
    IdentificationPayload(4, 6, 80, bytes.fromhex("0a000000ff000000")),
    SignaturePayload(b"s" * 64),
    VendorIdPayload(bytes.fromhex("4a131c81070358455c5728f20e95452f")),
    NotificationPayload(1, 3, b"\xaa\xbb\xcc\xdd", 24576, b"data"),
    DeletePayload(1, 3, 4, (b"\0\0\1\1", b"\0\0\1\2")),
]


def scapy_payloads() -> list[object]:
    """The same as PAYLOADS, in scapy's words."""
    return [
        isakmp.ISAKMP_payload_Hash(hash=b"\x11" * 20),
        isakmp.ISAKMP_payload_KE(ke=bytes(range(128))),
        isakmp.ISAKMP_payload_Nonce(nonce=b"n" * 32),
        isakmp.ISAKMP_payload_ID(IDtype=1, ProtoID=17, Port=500, IdentData="10.1.0.1"),
        isakmp.ISAKMP_payload_ID(IDtype=4, ProtoID=6, Port=80, IdentData=bytes.fromhex("0a000000ff000000")),
        isakmp.ISAKMP_payload_SIG(sig=b"s" * 64),
        isakmp.ISAKMP_payload_VendorID(VendorID=bytes.fromhex("4a131c81070358455c5728f20e95452f")),
        isakmp.ISAKMP_payload_Notify(
            doi=1, proto=3, SPI=b"\xaa\xbb\xcc\xdd", notify_msg_type=24576, notify_data=b"data"
        ),
        isakmp.ISAKMP_payload_Delete(doi=1, proto=3, SPIs=[b"\0\0\1\1", b"\0\0\1\2"]),
    ]


# ---- ISAKMP
def test_isakmp_payloads_are_the_bytes_that_scapy_makes() -> None:
    message = isakmp.ISAKMP(init_cookie=COOKIES[0], resp_cookie=COOKIES[1], exch_type=5, id=0x01020304)
    for payload in scapy_payloads():
        message = message / payload
    first, body = encode(PAYLOADS)
    assert encode_message(Header(*COOKIES, first, 0x10, 5, 0, 0x01020304), body) == bytes(message)


def test_isakmp_payloads_of_scapy_are_read() -> None:
    message = isakmp.ISAKMP(init_cookie=COOKIES[0], resp_cookie=COOKIES[1], exch_type=5, id=7)
    for payload in scapy_payloads():
        message = message / payload
    datagram = bytes(message)
    header = decode_header(datagram)
    assert (header.initiator_cookie, header.responder_cookie) == COOKIES
    assert (header.exchange_type, header.message_id, header.version) == (5, 7, 0x10)
    received = decode_payloads(header.next_payload, datagram[HEADER_SIZE:])
    assert [each.payload for each in received] == PAYLOADS


def test_scapy_reads_our_main_mode_offer() -> None:
    transforms = tuple(
        TransformPayload(
            number,
            1,
            (
                Attribute(1, encryption),
                Attribute(2, 2),
                Attribute(3, 1),
                Attribute(4, group),
                Attribute(11, 1),
                Attribute(12, (86400).to_bytes(4, "big")),
                *((Attribute(14, 256),) if encryption == 7 else ()),
            ),
        )
        for number, encryption, group in ((1, 5, 2), (2, 7, 14))
    )
    offer = SecurityAssociationPayload(1, 1, (ProposalPayload(1, 1, b"", transforms),))
    first, body = encode([offer, VendorIdPayload(b"vendor")])
    message = isakmp.ISAKMP(encode_message(Header(*COOKIES, first, 0x10, 2, 0, 0), body))
    assert (message.exch_type, message.length) == (2, HEADER_SIZE + len(body))
    association = message[isakmp.ISAKMP_payload_SA]
    proposal = association.prop
    assert (association.doi, association.situation) == (1, 1)
    assert (proposal.proposal, proposal.proto, proposal.SPIsize, proposal.trans_nb) == (1, 1, 0, 2)
    one, two = proposal.trans, proposal.trans.payload
    assert (one.transform_count, one.transform_id, two.transform_count) == (1, 1, 2)
    assert dict(one.transforms) == {
        "Encryption": "3DES-CBC",
        "Hash": "SHA",
        "Authentication": "PSK",
        "GroupDesc": "1024MODPgr",
        "LifeType": "Seconds",
        "LifeDuration": 86400,
    }
    assert dict(two.transforms)["Encryption"] == "AES-CBC"
    assert dict(two.transforms)["GroupDesc"] == "2048MODPgr"
    assert dict(two.transforms)["KeyLength"] == 256
    assert message[isakmp.ISAKMP_payload_VendorID].VendorID == b"vendor"


def test_we_read_scapys_main_mode_offer() -> None:
    transforms = [
        ("Encryption", "AES-CBC"),
        ("KeyLength", 128),
        ("Hash", "SHA2-256"),
        ("GroupDesc", "1536MODPgr"),
        ("Authentication", "PSK"),
        ("LifeType", "Seconds"),
        ("LifeDuration", 100_000),
    ]
    message = isakmp.ISAKMP(init_cookie=COOKIES[0], exch_type=2) / isakmp.ISAKMP_payload_SA(
        prop=isakmp.ISAKMP_payload_Proposal(
            trans_nb=1, trans=isakmp.ISAKMP_payload_Transform(transform_count=1, transforms=transforms)
        )
    )
    datagram = bytes(message)
    (received,) = decode_payloads(decode_header(datagram).next_payload, datagram[HEADER_SIZE:])
    assert received.payload == SecurityAssociationPayload(
        1,
        1,
        (
            ProposalPayload(
                1,
                1,
                b"",
                (
                    TransformPayload(
                        1,
                        1,
                        (
                            Attribute(1, 7),
                            Attribute(14, 128),
                            Attribute(2, 4),
                            Attribute(4, 5),
                            Attribute(3, 1),
                            Attribute(11, 1),
                            Attribute(12, (100_000).to_bytes(3, "big")),
                        ),
                    ),
                ),
            ),
        ),
    )


def test_scapy_finds_ike_and_esp_on_port_4500() -> None:
    first, body = encode([NoncePayload(b"n" * 8)])
    ike = add_marker(encode_message(Header(*COOKIES, first, 0x10, 32, 0, 1), body))
    ends = Endpoint(A4, 4500), Endpoint(B4, 4500)
    assert isakmp.ISAKMP_payload_Nonce in inet.IP(build_udp(*ends, ike))
    esp = inet.IP(build_udp(*ends, EspHeader(0xABCD, 9).encode() + bytes(20)))
    assert (esp[ipsec.ESP].spi, esp[ipsec.ESP].seq) == (0xABCD, 9)


# ---- IP and above
@pytest.mark.parametrize(("source", "destination"), [(A4, B4), (A6, B6)])
def test_our_packets_are_the_bytes_that_scapy_makes(
    source: IPv4Address | IPv6Address, destination: IPv4Address | IPv6Address
) -> None:
    if source.version == 4:
        ip = inet.IP(src=str(source), dst=str(destination), ttl=64, flags="DF", id=0)
        echo = inet.ICMP(type=8, id=7, seq=9)
    else:
        ip = inet6.IPv6(src=str(source), dst=str(destination), hlim=64)
        echo = inet6.ICMPv6EchoRequest(id=7, seq=9)
    data = packets.Raw(b"some odd payload!")
    ends = Endpoint(source, 1234), Endpoint(destination, 80)
    tcp = build_tcp(
        *ends,
        bytes(data),
        sequence=0x01020304,
        acknowledgement=0x05060708,
        flags=TcpFlag.SYN | TcpFlag.ACK | TcpFlag.ECE,
        window=4096,
        options=bytes.fromhex("020405b4"),
    )
    options = [("MSS", 1460)]
    assert tcp == bytes(
        ip
        / inet.TCP(
            sport=1234,
            dport=80,
            seq=0x01020304,
            ack=0x05060708,
            flags="SAE",
            window=4096,
            options=options,
        )
        / data
    )
    assert build_udp(*ends, bytes(data)) == bytes(ip / inet.UDP(sport=1234, dport=80) / data)
    ours = build_echo(source, destination, identifier=7, sequence=9, payload=bytes(data))
    assert ours == bytes(ip / echo / data)


def test_we_read_scapys_ipv4_packet_with_options_and_fragments() -> None:
    whole = inet.IP(src="10.1.0.1", dst="10.1.0.2", id=77, tos=0x48, options=[inet.IPOption_Router_Alert()])
    whole = whole / inet.UDP(sport=5, dport=6) / packets.Raw(bytes(3000))
    first, *_, last = (bytes(part) for part in inet.fragment(whole, 1000))
    head, tail = parse_packet(first), parse_packet(last)
    assert (head.header_length, head.identification, head.traffic_class) == (24, 77, 0x48)
    assert (head.more_fragments, head.fragment_offset, tail.more_fragments) == (True, 0, False)
    assert tail.fragment_offset == inet.IP(last).frag * 8 > 0
    assert flow_of(first) == Flow(A4, B4, 17, 5, 6)
    assert flow_of(last) == Flow(A4, B4, 17)
    assert ipv4_checksum_is_right(first)
    udp = decode_udp(bytes(whole)[24:])
    assert (udp.source_port, udp.destination_port, udp.length) == (5, 6, 3008)


def test_we_walk_scapys_ipv6_extension_headers() -> None:
    packet = inet6.IPv6(src=str(A6), dst=str(B6), tc=5, fl=6) / inet6.IPv6ExtHdrHopByHop()
    packet = packet / inet6.IPv6ExtHdrDestOpt() / inet6.IPv6ExtHdrFragment(id=9, offset=0, m=1)
    packet = packet / inet.TCP(sport=40000, dport=443, flags="S", options=[("MSS", 1440)])
    data = bytes(packet)
    parsed = parse_packet(data)
    assert (parsed.traffic_class, parsed.flow_label, parsed.identification) == (5, 6, 9)
    assert parsed.more_fragments
    assert flow_of(data) == Flow(A6, B6, 6, 40000, 443)
    tcp = decode_tcp(data[parsed.payload_offset :])
    assert (tcp.flags, tcp.header_length, tcp.options) == (TcpFlag.SYN, 24, bytes.fromhex("020405a0"))


def test_scapy_reads_our_icmp_and_we_read_its() -> None:
    reply = inet.IP(build_echo(A4, B4, identifier=1, sequence=2, reply=True))
    assert (reply[inet.ICMP].type, reply[inet.ICMP].id, reply[inet.ICMP].seq) == (0, 1, 2)
    header = decode_icmp(bytes(inet.ICMP(type=3, code=1, id=0, seq=1400)))
    assert (header.type, header.code) == (3, 1)


def test_esp_headers() -> None:
    ours = build_packet(A4, B4, ESP, EspHeader(0xC0FFEE, 42).encode() + b"sealed")
    theirs = inet.IP(ours)[ipsec.ESP]
    assert (theirs.spi, theirs.seq, theirs.data) == (0xC0FFEE, 42, b"sealed")
    data = bytes(ipsec.ESP(spi=0x1234, seq=5, data=b"x" * 16))
    assert decode_esp_header(data) == EspHeader(0x1234, 5)


# ---- captures
SAMPLE = [(1_700_000_000_123_456_789, build_echo(A4, B4, identifier=1, sequence=n)) for n in range(3)]


@pytest.mark.parametrize(
    ("head", "record", "reader"),
    [(pcap_header, pcap_record, "RawPcapReader"), (pcapng_header, pcapng_record, "RawPcapNgReader")],
)
def test_scapy_reads_our_captures(head, record, reader: str) -> None:  # type: ignore[no-untyped-def]
    data = head(LinkType.RAW) + b"".join(record(time, packet) for time, packet in SAMPLE)
    with getattr(utils, reader)(io.BytesIO(data)) as capture:
        found = list(capture)
    assert [packet for packet, _ in found] == [packet for _, packet in SAMPLE]
    for _, meta in found:
        if reader == "RawPcapReader":
            assert (meta.sec, meta.usec, meta.wirelen) == (1_700_000_000, 123_456_789, 28)
        else:
            ticks = meta.tshigh << 32 | meta.tslow
            assert (ticks, meta.tsresol, meta.linktype) == (SAMPLE[0][0], 10**9, LinkType.RAW)


@pytest.mark.parametrize("endianness", "<>")
@pytest.mark.parametrize("nano", [False, True])
def test_we_read_scapys_pcap(tmp_path, endianness: str, nano: bool) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "capture.pcap"
    with utils.PcapWriter(str(path), linktype=101, endianness=endianness, nano=nano) as writer:
        writer.write_header(None)
        for _, packet in SAMPLE:
            writer.write_packet(packet, sec=1_700_000_000, usec=123_456)
    unit = 1 if nano else 1000
    found = list(read_capture(path.read_bytes()))
    assert [each.data for each in found] == [packet for _, packet in SAMPLE]
    assert {each.timestamp for each in found} == {1_700_000_000_000_000_000 + 123_456 * unit}
    assert {each.link_type for each in found} == {LinkType.RAW}


def test_we_read_scapys_pcapng(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "capture.pcapng"
    utils.wrpcapng(str(path), [inet.IP(packet) for _, packet in SAMPLE])
    assert [each.data for each in read_capture(path.read_bytes())] == [packet for _, packet in SAMPLE]
