"""ESP in UDP (RFC 3948) in the packet path: against scapy, and what is refused."""

import logging
from dataclasses import replace
from ipaddress import ip_address
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockade.driver.datapath import Datapath
from stockade.driver.memory import MemoryDriver
from stockade.driver.packets import in_udp, locate, out_of_udp
from stockade.model.addresses import Endpoint
from stockade.model.reasons import ReasonCode
from stockade.model.sa import UdpEncapsulation
from stockade.wire.ip import build_packet
from stockade.wire.transport import build_tcp, build_udp

logging.getLogger("scapy.runtime").setLevel(logging.ERROR)
scapy_ipsec = pytest.importorskip("scapy.layers.ipsec")
scapy_inet = pytest.importorskip("scapy.layers.inet")

IN_UDP = UdpEncapsulation(4500, 4500)


def make_paths(hosts: SimpleNamespace, version: int = 4, mtu: int = 1500, **values: object) -> tuple:
    paths = (Datapath(), Datapath())
    for path in paths:
        path.install_filters(hosts.make_filters(("negotiate", 0, 0), version=version), 0.0)
    sa = hosts.make_sa(version=version, udp=IN_UDP, **values)
    paths[1].add_sa(hosts.mirror(sa), 0.0)
    paths[0].add_sa(sa, 0.0, mtu)
    return (*paths, sa)


@pytest.mark.parametrize("version", [4, 6])
def test_packets_arrive_as_they_were_and_fit(hosts: SimpleNamespace, version: int) -> None:
    alpha, beta, _ = make_paths(hosts, version, mtu=1400)
    ends = (hosts.ALPHA, hosts.BETA) if version == 4 else (hosts.ALPHA6, hosts.BETA6)
    small = build_udp(Endpoint(ends[0], 1), Endpoint(ends[1], 2), b"data")
    large = build_tcp(Endpoint(ends[0], 1), Endpoint(ends[1], 2), bytes(51_200))
    wire = alpha.outbound([small, large], 1.0).wire
    assert {locate(packet)[1] for packet in wire} == {17}
    assert 1390 < max(map(len, wire)) <= 1400
    opened = beta.inbound_udp(wire, 1.0)
    assert opened[0] == small
    assert sum(len(packet) - (40 if version == 4 else 60) for packet in opened[1:]) == 51_200


def test_scapy_and_we_understand_each_other(hosts: SimpleNamespace) -> None:
    alpha, beta, sa = make_paths(hosts)
    judge = scapy_ipsec.SecurityAssociation(
        scapy_ipsec.ESP,
        spi=0x1000,
        crypt_algo="AES-GCM",
        crypt_key=sa.encryption_key.reveal(),
        nat_t_header=scapy_inet.UDP(sport=4500, dport=4500),
    )
    (wire,) = alpha.outbound([hosts.udp()], 1.0).wire
    assert wire[20:24] == (4500).to_bytes(2, "big") * 2
    assert wire[26:28] == b"\0\0"
    received = scapy_inet.IP(wire)
    assert scapy_ipsec.ESP in received
    assert bytes(judge.decrypt(received))[20:] == hosts.udp()[20:]
    theirs = bytes(judge.encrypt(scapy_inet.IP(hosts.udp()), seq_num=3))
    (opened,) = beta.inbound_udp([theirs], 1.0)
    assert opened[20:] == hosts.udp()[20:]


def test_the_way_is_part_of_the_agreement(hosts: SimpleNamespace) -> None:
    alpha, beta, sa = make_paths(hosts)
    (wire,) = alpha.outbound([hosts.udp()], 1.0).wire
    bare = out_of_udp(wire, 20)
    assert bare is not None
    assert beta.inbound([bare], 1.0) == []
    assert beta.inbound_udp([wire], 1.0) == [hosts.udp()]
    plain = Datapath()
    plain.install_filters(hosts.make_filters(("negotiate", 0, 0)), 0.0)
    plain.add_sa(replace(hosts.mirror(sa), udp=None), 0.0)
    assert plain.inbound_udp([wire], 1.0) == []
    assert plain.inbound([bare], 1.0) == [hosts.udp()]


def test_ike_and_keepalives_are_no_esp(hosts: SimpleNamespace) -> None:
    for payload in (bytes(4) + bytes(28), b"\xff", b"", bytes(7)):
        packet = build_packet(hosts.BETA, hosts.ALPHA, 17, in_udp([payload], 4500, 4500)[0])
        assert out_of_udp(packet, 20) is None


def test_an_unknown_spi_is_told_with_the_port_that_an_answer_must_go_to(hosts: SimpleNamespace) -> None:
    path, gamma = Datapath(), ip_address("10.0.0.3")
    esp = (0x0BAD_5EED).to_bytes(4, "big") + bytes(40)
    packet = build_packet(hosts.BETA, hosts.ALPHA, 17, in_udp([esp], 30_002, 4500)[0])
    assert path.inbound_udp([packet], 1.0) == []
    cut = build_packet(hosts.BETA, hosts.ALPHA, 17, in_udp([esp[:9]], 1, 4500)[0])
    assert path.inbound_udp([cut], 1.0) == []
    assert path.inbound([build_packet(gamma, hosts.ALPHA, 50, esp)], 1.0) == []
    told = [event for event in path.events() if event.reason.code is ReasonCode.UNKNOWN_SPI]
    assert [(event.source, event.spi, event.port) for event in told] == [
        (hosts.BETA, 0x0BAD_5EED, 30_002),
        (gamma, 0x0BAD_5EED, 0),
    ]


def test_the_memory_driver_leaves_ike_to_the_host(hosts: SimpleNamespace) -> None:
    delivered: list[bytes] = []
    driver = MemoryDriver(lambda packet: None, delivered.append)
    driver.start()
    driver.install_filters(hosts.make_table(("permit", 17, 4500), ("negotiate", 0, 0)))
    alpha, _, sa = make_paths(hosts)
    driver.add_sa(hosts.mirror(sa))
    ike = build_packet(hosts.ALPHA, hosts.BETA, 17, in_udp([bytes(32)], 4500, 4500)[0])
    driver.inbound(ike, 1.0)
    driver.inbound(alpha.outbound([hosts.udp()], 1.0).wire[0], 1.0)
    assert delivered == [ike, hosts.udp()]


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=80))
def test_any_datagram_is_counted_and_dropped(payload: bytes) -> None:
    from ipaddress import ip_address

    path = Datapath()
    packet = build_packet(ip_address("10.0.0.1"), ip_address("10.0.0.2"), 17, payload)
    assert path.inbound_udp([packet, packet[:25], payload], 1.0) == []
    assert sum(count for _, count in path.statistics(1.0).refused) == 3
