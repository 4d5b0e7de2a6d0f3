"""Tunnel mode: every family in every other, against scapy, and what passes between the headers."""

import logging
import os
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockade.crypto.registry import encryption_algorithm
from stockade.driver.contract import Acquire
from stockade.driver.datapath import Datapath
from stockade.driver.packets import fragment, locate
from stockade.driver.reassembly import Reassembly
from stockade.driver.tunnel import take_out
from stockade.model.addresses import AddressRange, Endpoint
from stockade.model.filters import Action, Direction, Provenance, SpecificFilter
from stockade.model.negotiation import Mode
from stockade.model.sa import SecurityAssociation
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, EspSuite, Hash
from stockade.model.traffic import TrafficSelector
from stockade.wire.ip import build_packet, ipv4_checksum_is_right, parse_packet
from stockade.wire.transport import build_tcp, build_udp

logging.getLogger("scapy.runtime").setLevel(logging.ERROR)
scapy_ipsec = pytest.importorskip("scapy.layers.ipsec")
scapy_inet = pytest.importorskip("scapy.layers.inet")
scapy_inet6 = pytest.importorskip("scapy.layers.inet6")

GATES = {4: ("192.0.2.1", "192.0.2.2"), 6: ("2001:db8:f::1", "2001:db8:f::2")}
NETWORKS = {4: ("10.1.0.0/16", "10.2.0.0/16"), 6: ("2001:db8:1::/48", "2001:db8:2::/48")}
HOSTS = {4: ("10.1.0.9", "10.2.0.9"), 6: ("2001:db8:1::9", "2001:db8:2::9")}
FAMILIES = [(4, 4), (4, 6), (6, 4), (6, 6)]
GCM = EspSuite(Encryption.AES_GCM_128, None)


def filters(version: int) -> list[SpecificFilter]:
    there = TrafficSelector(*(AddressRange.network(network) for network in NETWORKS[version]))
    return [
        SpecificFilter(
            f"{number:016x}",
            selector,
            direction,
            Action.NEGOTIATE,
            1,
            Provenance("local", "policy", "rule"),
            negotiation="rule",
        )
        for number, (selector, direction) in enumerate(
            (selector, direction) for selector in (there, there.reversed()) for direction in Direction
        )
    ]


def make_sa(inner: int, outer: int, suite: EspSuite = GCM, **values: object) -> SecurityAssociation:
    source, destination = map(ip_address, GATES[outer])
    sa = SecurityAssociation(
        spi=0x1000,
        direction=Direction.OUTBOUND,
        source=source,
        destination=destination,
        selector=TrafficSelector(*(AddressRange.network(network) for network in NETWORKS[inner])),
        mode=Mode.TUNNEL,
        esp=suite,
        ah=None,
        encryption_key=Secret(os.urandom(encryption_algorithm(suite.encryption).keymat_size)),
        integrity_key=Secret(b""),
        pair=0x1001,
        negotiation="rule",
        filter_id="0" * 16,
        main_mode="",
    )
    return replace(sa, **values)


def make_paths(
    inner: int, outer: int, *sas: SecurityAssociation, mtu: int = 1500
) -> tuple[Datapath, Datapath]:
    paths = (Datapath(), Datapath())
    gates = [ip_address(gate) for gate in GATES[outer]]
    for number, path in enumerate(paths):
        path.install_filters(filters(inner), 0.0, {"rule": gates[1 - number]})
    for sa in sas:
        paths[1].add_sa(replace(sa, direction=Direction.INBOUND), 0.0)
        paths[0].add_sa(sa, 0.0, mtu)
    return paths


def packet(version: int, size: int = 50, **values: object) -> bytes:
    source, destination = map(ip_address, HOSTS[version])
    body = build_udp(Endpoint(source, 1), Endpoint(destination, 2), bytes(size))[20 if version == 4 else 40 :]
    return build_packet(source, destination, 17, body, **values)


def tcp(version: int, size: int) -> bytes:
    source, destination = map(ip_address, HOSTS[version])
    return build_tcp(Endpoint(source, 1), Endpoint(destination, 2), bytes(range(256)) * (size // 256))


def parse(data: bytes) -> object:
    return scapy_inet.IP(data) if data[0] >> 4 == 4 else scapy_inet6.IPv6(data)


@pytest.mark.parametrize(("inner", "outer"), FAMILIES)
def test_packets_arrive_as_they_were(inner: int, outer: int) -> None:
    alpha, beta = make_paths(inner, outer, make_sa(inner, outer))
    clear = [packet(inner), packet(inner, 1), packet(inner, 99, traffic_class=0xB8, hop_limit=7)]
    wire = alpha.outbound(clear, 1.0).wire
    for sealed, plain in zip(wire, clear, strict=True):
        seen = parse_packet(sealed)
        assert (str(seen.source), str(seen.destination)) == GATES[outer]
        assert (seen.protocol, seen.hop_limit) == (50, 64)
        assert seen.traffic_class == parse_packet(plain).traffic_class
        assert outer == 6 or (ipv4_checksum_is_right(sealed) and seen.dont_fragment == (inner == 4))
    assert beta.inbound(wire, 1.0) == clear


@pytest.mark.parametrize(("inner", "outer"), FAMILIES)
def test_scapy_and_we_understand_each_other(inner: int, outer: int) -> None:
    sa = make_sa(inner, outer)
    alpha, beta = make_paths(inner, outer, sa)
    source, destination = GATES[outer]
    layer = scapy_inet.IP if outer == 4 else scapy_inet6.IPv6
    judge = scapy_ipsec.SecurityAssociation(
        scapy_ipsec.ESP,
        spi=0x1000,
        crypt_algo="AES-GCM",
        crypt_key=sa.encryption_key.reveal(),
        tunnel_header=layer(src=source, dst=destination),
    )
    clear = packet(inner)
    (wire,) = alpha.outbound([clear], 1.0).wire
    assert bytes(judge.decrypt(parse(wire))) == clear
    theirs = bytes(judge.encrypt(parse(clear), seq_num=9))
    (opened,) = beta.inbound([theirs], 1.0)
    at = locate(opened)[0]
    assert opened[at:] == clear[at:]


@pytest.mark.parametrize(("inner", "outer"), FAMILIES)
def test_tcp_is_cut_to_the_path(inner: int, outer: int) -> None:
    alpha, beta = make_paths(inner, outer, make_sa(inner, outer), mtu=1400)
    wire = alpha.outbound([tcp(inner, 51_200)], 1.0).wire
    assert 1390 < max(map(len, wire)) <= 1400
    at = (20 if inner == 4 else 40) + 20
    assert b"".join(one[at:] for one in beta.inbound(wire, 1.0)) == bytes(range(256)) * 200


@pytest.mark.parametrize(("inner", "outer"), FAMILIES)
@pytest.mark.parametrize("with_esp", [False, True])
def test_ah_and_bundles_in_tunnel_mode(inner: int, outer: int, with_esp: bool) -> None:
    key = Secret(os.urandom(20))
    ah = make_sa(inner, outer, spi=0x2000)
    ah = replace(ah, esp=None, ah=Hash.SHA1, encryption_key=Secret(b""), integrity_key=key)
    sas = [ah]
    if with_esp:
        sas = [make_sa(inner, outer, bundle=0x2000), replace(ah, bundle=0x1000)]
    alpha, beta = make_paths(inner, outer, *sas)
    clear = [packet(inner), packet(inner, 7)]
    assert beta.inbound(alpha.outbound(clear, 1.0).wire, 1.0) == clear


def test_large_datagrams_are_refused_by_icmp_or_fragmented() -> None:
    alpha, beta = make_paths(4, 4, make_sa(4, 4))
    output = alpha.outbound([packet(4, 1480)], 1.0)
    assert output.wire == []
    (told,) = output.local
    assert told[20:22] == b"\x03\x04"
    assert str(parse_packet(told).destination) == HOSTS[4][0]
    fits = int.from_bytes(told[26:28], "big")
    assert [len(one) <= 1500 for one in alpha.outbound([packet(4, fits - 28)], 1.0).wire] == [True]
    allowing = packet(4, 1480, dont_fragment=False)
    assembly = Reassembly()
    pieces = alpha.outbound([allowing], 1.0).wire
    whole = [found for piece in pieces if (found := assembly.add(piece, 1.0)) is not None]
    assert len(pieces) == 2
    assert beta.inbound(whole, 1.0) == [allowing]


def test_the_first_packet_waits_for_the_tunnel() -> None:
    alpha, beta = make_paths(4, 6)
    assert alpha.outbound([packet(4), packet(4)], 0.0).wire == []
    assert [type(event) for event in alpha.events()] == [Acquire]
    sa = make_sa(4, 6)
    beta.add_sa(replace(sa, direction=Direction.INBOUND), 0.1)
    assert beta.inbound(alpha.add_sa(sa, 0.1).wire, 0.1) == [packet(4), packet(4)]
    alpha.remove_sa(sa.spi, Direction.OUTBOUND, sa.destination)
    alpha.outbound([packet(4)], 2.0)
    alpha.release("0" * 15 + "1", sa.destination, 2.1)
    assert alpha.statistics(2.1).held_packets == 0


NOT_ECT, ECT_1, ECT_0, CE = range(4)
DECAPSULATION = {  # RFC 6040, figure 4: by the inner field, for the outer ones Not-ECT, ECT(0), ECT(1), CE
    NOT_ECT: (NOT_ECT, NOT_ECT, NOT_ECT, None),
    ECT_0: (ECT_0, ECT_0, ECT_1, CE),
    ECT_1: (ECT_1, ECT_1, ECT_1, CE),
    CE: (CE, CE, CE, CE),
}


@pytest.mark.parametrize(("inner", "outer"), FAMILIES)
def test_congestion_leaves_the_tunnel_as_rfc_6040_says(inner: int, outer: int) -> None:
    at = 20 if inner == 4 else 40
    for inside, row in DECAPSULATION.items():
        for outside, result in zip((NOT_ECT, ECT_0, ECT_1, CE), row, strict=True):
            clear = packet(inner, traffic_class=0xB8 | inside)
            header = build_packet(*map(ip_address, GATES[outer]), 50, b"", traffic_class=0x20 | outside)
            found = take_out(header, 4 if inner == 4 else 41, clear)
            if result is None:
                assert found is None
                continue
            assert found is not None
            assert parse_packet(found).traffic_class == 0xB8 | result, (inside, outside)
            assert inner == 6 or ipv4_checksum_is_right(found)
            assert found[at:] == clear[at:]
            assert (found == clear) is (result == inside)


@pytest.mark.parametrize(("inner", "outer"), FAMILIES)
def test_the_outer_header_says_what_the_inner_one_does_about_congestion_and_fragments(
    inner: int, outer: int
) -> None:
    """RFC 6040 §4.1 (normal mode), RFC 4301 §5.1.2.1 and §8.1, with real packets."""
    alpha, _ = make_paths(inner, outer, make_sa(inner, outer))
    for traffic_class in (0x00, 0x01, 0x02, 0x03, 0xB8, 0xBB):
        for forbids in (False, True) if inner == 4 else (True,):
            words = {"dont_fragment": forbids} if inner == 4 else {}
            clear = packet(inner, traffic_class=traffic_class, **words)
            (sealed,) = alpha.outbound([clear], 1.0).wire
            seen = parse_packet(sealed)
            assert seen.traffic_class == traffic_class
            if outer == 4:
                assert seen.dont_fragment is (inner == 4 and forbids)


def test_padding_behind_the_packet_goes_and_other_things_are_refused() -> None:
    outer = build_packet(*map(ip_address, GATES[4]), 50, b"")
    assert take_out(outer, 4, packet(4) + bytes(30)) == packet(4)
    assert take_out(outer, 41, packet(4)) is None
    assert take_out(outer, 17, packet(4)) is None
    assert take_out(outer, 4, b"") is None
    assert take_out(outer, 4, packet(4)[:30]) is None


def test_a_tunnel_carries_what_its_rule_says_and_nothing_else() -> None:
    alpha, beta = make_paths(4, 4, make_sa(4, 4))
    (entry,) = alpha._sad
    foreign = build_packet(ip_address("10.3.0.1"), ip_address("10.2.0.9"), 17, packet(4)[20:])
    sealed = entry.sealer.seal(4, [foreign])
    wire = [build_packet(*map(ip_address, GATES[4]), 50, one) for one in sealed]
    assert beta.inbound(wire, 1.0) == []
    assert dict(beta.statistics(1.0).refused) == {"selector-mismatch": 1}


def test_two_rules_make_a_tunnel_as_in_windows_and_others_have_no_part_in_it() -> None:
    """The inbound filter is of a rule whose end point is our own address; an answer leaves by the SA's rule,
    or what came is another tunnel's."""
    sa = make_sa(4, 4)
    gates = [ip_address(gate) for gate in GATES[4]]
    elsewhere = ip_address("192.0.2.77")
    for endpoint, answers_leave_by, accepted in (
        (gates[1], "rule", True),
        (gates[1], "inbound rule", False),
        (gates[0], "rule", False),
        (elsewhere, "rule", False),
    ):
        alpha, beta = make_paths(4, 4, sa)
        names = {Direction.INBOUND: "inbound rule", Direction.OUTBOUND: answers_leave_by}
        other = [replace(entry, negotiation=names[entry.direction]) for entry in filters(4)]
        beta.install_filters(other, 0.0, {"rule": gates[0], "inbound rule": endpoint})
        assert bool(beta.inbound(alpha.outbound([packet(4)], 1.0).wire, 1.0)) == accepted


def test_fragments_that_are_forwarded_travel_as_one() -> None:
    alpha, beta = make_paths(4, 4, make_sa(4, 4), mtu=9000)
    large = packet(4, 3000, dont_fragment=False, identification=5)
    assert beta.inbound(alpha.outbound(fragment(large, 1000), 1.0).wire, 1.0) == [large]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(FAMILIES), st.binary(max_size=120), st.integers(0, 255))
def test_any_inside_gives_a_packet_or_a_refusal(
    families: tuple[int, int], inside: bytes, header: int
) -> None:
    inner, outer = families
    alpha, beta = make_paths(inner, outer, make_sa(inner, outer))
    (entry,) = alpha._sad
    sealed = entry.sealer.seal(header, [inside])
    wire = [build_packet(*map(ip_address, GATES[outer]), 50, one) for one in sealed]
    assert beta.inbound(wire, 1.0) == []
    assert sum(count for _, count in beta.statistics(1.0).refused) == (header != 59)
