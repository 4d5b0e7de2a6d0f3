"""Checksums behind a NAT: corrected by the addresses that the peer has, or computed anew."""

from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.packet import Raw

from stockade.driver.nat import checksum_mender
from stockade.model.addresses import AddressRange
from stockade.model.filters import Direction
from stockade.model.negotiation import Mode
from stockade.model.sa import SecurityAssociation, UdpEncapsulation
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, EspSuite, Hash
from stockade.model.traffic import TrafficSelector

PRIVATE, PUBLIC, SERVER, SERVER_INSIDE = "10.77.0.2", "203.0.113.1", "198.51.100.7", "10.9.9.9"


def inbound(original: tuple[str, str] | None) -> SecurityAssociation:
    return SecurityAssociation(
        spi=0x1000,
        direction=Direction.INBOUND,
        source=ip_address(PUBLIC),
        destination=ip_address(SERVER_INSIDE),
        selector=TrafficSelector(
            AddressRange.host(ip_address(PUBLIC)), AddressRange.host(ip_address(SERVER_INSIDE))
        ),
        mode=Mode.TRANSPORT,
        esp=EspSuite(Encryption.AES_CBC_128, Hash.SHA1),
        ah=None,
        encryption_key=Secret(bytes(16)),
        integrity_key=Secret(bytes(20)),
        pair=0x1001,
        negotiation="local/test/rule",
        filter_id="00" * 8,
        main_mode="",
        udp=UdpEncapsulation(20_000, 4500),
        original=None if original is None else (ip_address(original[0]), ip_address(original[1])),
    )


def translated(packet: IP) -> bytes:
    """The packet as it comes out of ESP: the peer's checksum, the addresses of this side of both NATs."""
    raw = bytearray(bytes(packet))
    raw[12:20] = ip_address(PUBLIC).packed + ip_address(SERVER_INSIDE).packed
    return bytes(raw)


def right(packet: IP) -> bytes:
    """The transport part as scapy makes it for the addresses of this side."""
    copy = packet.copy()
    copy[IP].src, copy[IP].dst = PUBLIC, SERVER_INSIDE
    del copy[IP].payload.chksum
    return bytes(copy)[20:]


@pytest.mark.parametrize("original", [(PRIVATE, SERVER), None], ids=["told", "not-told"])
@given(data=st.binary(max_size=60), port=st.integers(1, 65535), tcp=st.booleans())
@settings(max_examples=150, deadline=None)
def test_the_checksum_fits_the_addresses_on_this_side(
    original: tuple[str, str] | None, data: bytes, port: int, tcp: bool
) -> None:
    mend = checksum_mender(inbound(original))
    assert mend is not None
    upper = TCP(sport=port, dport=80) if tcp else UDP(sport=port, dport=80)
    packet = IP(src=PRIVATE, dst=SERVER) / upper / Raw(data)
    assert mend(translated(packet), 20, 6 if tcp else 17)[20:] == right(packet)


def test_what_was_wrong_stays_wrong_where_the_addresses_are_known() -> None:
    mend = checksum_mender(inbound((PRIVATE, SERVER)))
    assert mend is not None
    packet = IP(src=PRIVATE, dst=SERVER) / TCP(sport=5, dport=80) / Raw(b"payload")
    spoilt = bytearray(translated(packet))
    spoilt[-1] ^= 1
    assert mend(bytes(spoilt), 20, 6)[36:38] == right(packet)[16:18]


def test_udp_without_a_checksum_and_stumps_are_left_alone() -> None:
    for original in ((PRIVATE, SERVER), None):
        mend = checksum_mender(inbound(original))
        assert mend is not None
        packet = translated(IP(src=PRIVATE, dst=SERVER) / UDP(sport=5, dport=80, chksum=0) / Raw(b"x"))
        assert mend(packet, 20, 17) == packet
        for protocol in (6, 17, 1):
            assert mend(packet[:22], 20, protocol) == packet[:22]


def test_only_inbound_transport_mode_in_udp_needs_it() -> None:
    sa = inbound((PRIVATE, SERVER))
    assert checksum_mender(replace(sa, direction=Direction.OUTBOUND)) is None
    assert checksum_mender(replace(sa, mode=Mode.TUNNEL)) is None
    assert checksum_mender(replace(sa, udp=None)) is None
    assert checksum_mender(replace(sa, original=(sa.source, sa.destination))) is None
