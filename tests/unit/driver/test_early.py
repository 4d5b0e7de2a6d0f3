"""Packets that overtake the key exchange: kept for a moment, opened under their SA, never without it."""

from ipaddress import IPv4Address, ip_address
from types import SimpleNamespace

import pytest

from stockade.driver import early
from stockade.driver.contract import PacketRefused
from stockade.driver.datapath import Datapath
from stockade.driver.early import EarlyPackets
from stockade.driver.memory import MemoryDriver
from stockade.driver.spis import AWAITED_SECONDS
from stockade.model.filters import Direction
from stockade.model.reasons import ReasonCode
from stockade.model.sa import UdpEncapsulation
from stockade.wire.udp_encapsulation import NAT_TRAVERSAL_PORT


@pytest.fixture
def alpha(hosts: SimpleNamespace) -> Datapath:
    path = Datapath()
    path.install_filters(hosts.make_filters(("negotiate", 0, 0)), 0.0)
    return path


@pytest.fixture
def beta(hosts: SimpleNamespace) -> Datapath:
    path = Datapath()
    path.install_filters(hosts.make_filters(("negotiate", 0, 0)), 0.0)
    return path


def refused(path: Datapath, now: float) -> dict[str, int]:
    return dict(path.statistics(now).refused)


def test_packets_ahead_of_their_sa_are_opened_in_order_once_it_is_there(
    hosts: SimpleNamespace, alpha: Datapath, beta: Datapath
) -> None:
    sa = hosts.make_sa()
    alpha.add_sa(sa, 0.0)
    packets = [hosts.udp(bytes([number])) for number in range(5)]
    wire = alpha.outbound(packets, 0.1).wire
    assert beta.inbound(wire, 0.2) == []
    assert [event.reason.code for event in beta.events()] == [ReasonCode.UNKNOWN_SPI]  # told at once
    assert beta.add_sa(hosts.mirror(sa), 0.4).local == packets
    assert refused(beta, 0.4) == {}  # and not counted as refused, as it was not
    assert beta.inbound(wire[:1], 0.5) == []  # what was opened then counts against replay
    assert refused(beta, 0.5) == {"replayed": 1}
    beta.tick(60.0)
    assert "unknown-spi" not in refused(beta, 60.0)


def test_what_is_forged_ahead_of_an_sa_is_refused_under_it(
    hosts: SimpleNamespace, alpha: Datapath, beta: Datapath
) -> None:
    sa = hosts.make_sa()
    alpha.add_sa(sa, 0.0)
    one, two = alpha.outbound([hosts.udp(b"1"), hosts.udp(b"2")], 0.1).wire
    beta.inbound([one[:-1] + bytes([one[-1] ^ 1]), two, two], 0.2)
    assert beta.add_sa(hosts.mirror(sa), 0.4).local == [hosts.udp(b"2")]
    assert refused(beta, 0.4) == {"integrity-failed": 1, "replayed": 1}


def test_nothing_waits_for_long(hosts: SimpleNamespace, alpha: Datapath, beta: Datapath) -> None:
    sa = hosts.make_sa()
    alpha.add_sa(sa, 0.0)
    beta.inbound(alpha.outbound([hosts.udp()], 0.1).wire, 0.2)
    beta.tick(0.2 + early.SECONDS)
    assert refused(beta, 3.0) == {"unknown-spi": 1}
    assert beta.add_sa(hosts.mirror(sa), 3.0).local == []


def test_esp_in_udp_may_come_early_too(hosts: SimpleNamespace, alpha: Datapath, beta: Datapath) -> None:
    sa = hosts.make_sa(udp=UdpEncapsulation(NAT_TRAVERSAL_PORT, NAT_TRAVERSAL_PORT))
    alpha.add_sa(sa, 0.0)
    wire = alpha.outbound([hosts.udp(b"in udp")], 0.1).wire
    assert beta.inbound_udp(wire, 0.2) == []
    assert beta.add_sa(hosts.mirror(sa), 0.4).local == [hosts.udp(b"in udp")]


def test_room_is_bounded_and_the_oldest_gives_way() -> None:
    dropped: list[None] = []
    packets = EarlyPackets(lambda: dropped.append(None))
    for number in range(early.PACKETS_PER_SPI + 3):
        packets.add(b"one", bytes([number % 256]), 0.0)
    assert (len(packets), len(dropped)) == (early.PACKETS_PER_SPI, 3)
    for number in range(3 * early.PACKETS):
        packets.add(number.to_bytes(4, "big"), b"x", 0.0)
    assert len(packets) == early.PACKETS
    for _ in range(100):
        packets.add(b"large", bytes(65_000), 0.0)
    assert len(packets) <= early.BYTES // 65_000 + 1
    assert len(packets) + len(dropped) == early.PACKETS_PER_SPI + 3 + 3 * early.PACKETS + 100
    packets.expire(early.SECONDS)
    assert len(packets) == 0
    assert packets.take(b"large") == []


def test_order_is_that_of_arrival_and_what_is_taken_is_gone() -> None:
    packets = EarlyPackets(lambda: None)
    for number in range(4):
        packets.add(b"spi", bytes([number]), float(number))
    packets.expire(1.5 + early.SECONDS)
    assert packets.take(b"spi") == [b"\2", b"\3"]
    assert packets.take(b"spi") == []
    assert len(packets) == 0


def test_a_packet_for_a_reserved_spi_is_no_sign_of_lost_state(hosts: SimpleNamespace) -> None:
    driver = MemoryDriver(lambda packet: None, lambda packet: None)
    driver.start()
    spi = driver.get_spi(hosts.BETA, hosts.ALPHA)

    def comes(number: int, source: IPv4Address) -> list[int]:
        esp = number.to_bytes(4, "big") + bytes(60)
        driver.inbound(hosts.build_packet(source, hosts.BETA, 50, esp), 1.0)
        return [event.spi for event in driver.events() if isinstance(event, PacketRefused)]

    assert comes(spi, hosts.ALPHA) == []
    driver.remove_sa(spi, Direction.INBOUND, hosts.ALPHA)  # the negotiation came to nothing
    assert comes(spi, IPv4Address("10.0.0.9")) == [spi]
    assert comes(0xDEAD_BEEF, ip_address("10.0.0.10")) == [0xDEAD_BEEF]


def test_news_of_a_packet_ahead_of_its_sa_is_kept_back_for_some_seconds_only(hosts: SimpleNamespace) -> None:
    """Later the same news says that the data plane has not what its driver believes: the agent must hear."""
    driver = MemoryDriver(lambda packet: None, lambda packet: None)
    driver.start()
    driver.install_filters(hosts.make_table(("negotiate", 0, 0)))
    spi = driver.get_spi(hosts.BETA, hosts.ALPHA)
    driver.tick(10.0)
    driver.add_sa(hosts.mirror(hosts.make_sa(spi=spi)))

    def comes(source: str, now: float) -> list[int]:
        """To another address than the SA's: the data plane has no such SA."""
        esp = spi.to_bytes(4, "big") + bytes(60)
        driver.inbound(hosts.build_packet(ip_address(source), ip_address("10.0.0.3"), 50, esp), now)
        return [event.spi for event in driver.events() if isinstance(event, PacketRefused)]

    assert comes("10.0.0.4", 10.5) == []
    assert comes("10.0.0.5", 10.0 + AWAITED_SECONDS) == [spi]
