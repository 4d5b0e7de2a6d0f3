"""The packet path: hold and acquire, checks of RFC 4301, lifetimes, bounds."""

from dataclasses import replace
from ipaddress import IPv4Address
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockade.driver import hold
from stockade.driver.contract import Acquire, PacketRefused, SaExpired, SaIdle
from stockade.driver.datapath import LOOKS, Datapath
from stockade.driver.packets import with_payload
from stockade.driver.refusals import SOURCES, Refusals
from stockade.model.addresses import AddressRange
from stockade.model.filters import Direction
from stockade.model.reasons import CallerError, ReasonCode
from stockade.model.sa import Lifetime
from stockade.model.traffic import TrafficSelector
from stockade.wire.ip import ipv4_checksum_is_right

SECURE_ALL = (("negotiate", 0, 0),)


@pytest.fixture
def alpha(hosts: SimpleNamespace) -> Datapath:
    path = Datapath()
    path.install_filters(hosts.make_filters(*SECURE_ALL), 0.0)
    return path


@pytest.fixture
def beta(hosts: SimpleNamespace) -> Datapath:
    path = Datapath()
    path.install_filters(hosts.make_filters(*SECURE_ALL), 0.0)
    return path


def codes(path: Datapath) -> list[str]:
    return [event.reason.code.word for event in path.events() if isinstance(event, PacketRefused)]


# ---- there and back


@pytest.mark.parametrize("suite", ["GCM", "CBC"])
def test_packets_arrive_as_they_were(
    hosts: SimpleNamespace, alpha: Datapath, beta: Datapath, suite: str
) -> None:
    sa = hosts.make_sa(getattr(hosts, suite))
    alpha.add_sa(sa, 0.0)
    beta.add_sa(hosts.mirror(sa), 0.0)
    clear = [hosts.tcp(), hosts.udp(bytes(99)), hosts.ping(), hosts.tcp(b"", port=22)]
    wire = alpha.outbound(clear, 1.0).wire
    assert all(packet[9] == 50 and ipv4_checksum_is_right(packet) for packet in wire)
    assert not any(b"data" in packet for packet in wire)
    assert beta.inbound(wire, 1.0) == clear
    counters = {entry.direction: entry for entry in (*alpha.statistics(2.0).sas, *beta.statistics(2.0).sas)}
    for direction in Direction:
        assert counters[direction].packets == 4
        assert counters[direction].bytes == sum(len(packet) - 20 for packet in clear)
        assert counters[direction].age == 2.0
        assert counters[direction].idle == 1.0


def test_options_and_type_of_service_survive(hosts: SimpleNamespace, alpha: Datapath, beta: Datapath) -> None:
    sa = hosts.make_sa()
    alpha.add_sa(sa, 0.0)
    beta.add_sa(hosts.mirror(sa), 0.0)
    clear = hosts.build_packet(
        hosts.ALPHA,
        hosts.BETA,
        17,
        hosts.udp()[20:],
        traffic_class=0xB8,
        options=b"\x94\x04\0\0",
        hop_limit=3,
    )
    (wire,) = alpha.outbound([clear], 1.0).wire
    assert wire[:2] == clear[:2]
    assert beta.inbound([wire], 1.0) == [clear]


def test_a_large_tcp_packet_is_cut_to_the_path(
    hosts: SimpleNamespace, alpha: Datapath, beta: Datapath
) -> None:
    sa = hosts.make_sa(hosts.CBC)
    alpha.add_sa(sa, 0.0, mtu=1300)
    beta.add_sa(hosts.mirror(sa), 0.0)
    wire = alpha.outbound([hosts.tcp(bytes(50_000))], 1.0).wire
    assert max(map(len, wire)) <= 1300
    assert max(map(len, wire)) > 1300 - 16 - 4
    assert sum(len(packet) - 40 for packet in beta.inbound(wire, 1.0)) == 50_000


def test_large_datagrams_are_sealed_whole_or_refused_by_icmp(hosts: SimpleNamespace, alpha: Datapath) -> None:
    alpha.add_sa(hosts.make_sa(), 0.0, mtu=1500)
    forbidding = hosts.udp(bytes(1472))  # build_packet sets DF
    output = alpha.outbound([forbidding], 1.0)
    assert output.wire == []
    (icmp,) = output.local
    fits = int.from_bytes(icmp[26:28], "big")
    exact = hosts.udp(bytes(fits - 28))
    assert [len(packet) <= 1500 for packet in alpha.outbound([exact], 1.0).wire] == [True]
    allowing = hosts.build_packet(
        hosts.ALPHA, hosts.BETA, 17, hosts.udp(bytes(1472))[20:], dont_fragment=False
    )
    pieces = alpha.outbound([allowing], 1.0).wire
    assert [len(piece) <= 1500 for piece in pieces] == [True, True]


# ---- hold and acquire


def test_the_first_packets_wait_and_leave_in_order(
    hosts: SimpleNamespace, alpha: Datapath, beta: Datapath
) -> None:
    clear = [hosts.udp(bytes([number])) for number in range(10)]
    assert alpha.outbound(clear, 0.0).wire == []
    (event,) = alpha.events()
    assert isinstance(event, Acquire)
    assert (event.flow.source, event.flow.destination, event.flow.destination_port) == (
        hosts.ALPHA,
        hosts.BETA,
        53,
    )
    assert alpha.statistics(0.0).held_packets == 10
    sa = hosts.make_sa()
    beta.add_sa(hosts.mirror(sa), 0.1)
    wire = alpha.add_sa(sa, 0.1).wire
    assert beta.inbound(wire, 0.1) == clear
    assert alpha.statistics(0.1).held_packets == 0


def test_an_acquire_comes_once_a_second_for_a_pair_of_hosts(hosts: SimpleNamespace, alpha: Datapath) -> None:
    for now in (0.0, 0.5, 0.99, 1.0, 1.5, 2.1):
        alpha.outbound([hosts.tcp(), hosts.ping()], now)
        alpha.outbound([hosts.udp(destination=IPv4Address("10.0.0.3"))], now)
    peers = [str(event.flow.destination) for event in alpha.events() if isinstance(event, Acquire)]
    assert peers.count("10.0.0.2") == 3
    assert peers.count("10.0.0.3") == 3


def test_a_failed_negotiation_drops_what_waits_and_asks_anew(hosts: SimpleNamespace, alpha: Datapath) -> None:
    alpha.outbound([hosts.udp()], 0.0)
    (event,) = alpha.events()
    assert isinstance(event, Acquire)
    alpha.release(event.filter_id, hosts.BETA, 0.1)
    assert alpha.statistics(0.1).held_packets == 0
    alpha.outbound([hosts.udp()], 0.2)
    assert isinstance(alpha.events()[0], Acquire)


def test_an_sa_that_goes_soon_after_it_came_is_asked_for_again_at_once(
    hosts: SimpleNamespace, alpha: Datapath
) -> None:
    alpha.outbound([hosts.udp()], 0.0)
    sa = hosts.make_sa()
    assert len(alpha.add_sa(sa, 0.1).wire) == 1
    alpha.events()
    alpha.remove_sa(sa.spi, Direction.OUTBOUND, hosts.BETA)
    alpha.outbound([hosts.udp()], 0.2)
    assert [type(event) for event in alpha.events()] == [Acquire]


def test_an_sa_of_another_selector_releases_nothing(hosts: SimpleNamespace, alpha: Datapath) -> None:
    alpha.outbound([hosts.udp()], 0.0)
    assert alpha.add_sa(hosts.make_sa(protocol=6), 0.1).wire == []
    assert alpha.statistics(0.1).held_packets == 1
    assert len(alpha.add_sa(hosts.make_sa(spi=0x2000, protocol=17), 0.2).wire) == 1


def test_an_sa_of_another_rule_secures_nothing(hosts: SimpleNamespace, alpha: Datapath) -> None:
    alpha.add_sa(hosts.make_sa(negotiation="another rule"), 0.0)
    assert alpha.outbound([hosts.udp()], 0.1).wire == []


def test_the_queue_is_bounded_and_the_oldest_go(
    hosts: SimpleNamespace, alpha: Datapath, beta: Datapath
) -> None:
    clear = [hosts.udp(number.to_bytes(2, "big")) for number in range(100)]
    alpha.outbound(clear, 0.0)
    assert alpha.statistics(0.0).held_packets == hold.PACKETS_PER_PEER
    assert codes(alpha) == ["queue-full"]
    assert dict(alpha.statistics(0.0).refused) == {"queue-full": 36}
    sa = hosts.make_sa()
    beta.add_sa(hosts.mirror(sa), 0.1)
    assert beta.inbound(alpha.add_sa(sa, 0.1).wire, 0.1) == clear[36:]


def test_many_peers_share_one_bound(hosts: SimpleNamespace, alpha: Datapath) -> None:
    for number in range(2000):
        alpha.outbound([hosts.udp(destination=IPv4Address(0x0A01_0000 + number))], 0.0)
    assert alpha.statistics(0.0).held_packets == hold.PACKETS


def test_large_packets_are_bounded_in_bytes(hosts: SimpleNamespace, alpha: Datapath) -> None:
    for number in range(300):
        peer = IPv4Address(0x0A01_0000 + number)
        alpha.outbound([hosts.build_packet(hosts.ALPHA, peer, 17, bytes(65_000))], 0.0)
    assert alpha.statistics(0.0).held_packets * 65_020 <= hold.BYTES


def test_old_packets_do_not_wait_for_ever(hosts: SimpleNamespace, alpha: Datapath) -> None:
    alpha.outbound([hosts.udp()], 0.0)
    alpha.tick(hold.SECONDS - 1)
    assert alpha.statistics(0.0).held_packets == 1
    alpha.tick(hold.SECONDS)
    assert alpha.statistics(0.0).held_packets == 0


# ---- never in clear


def test_what_no_negotiate_filter_covers_any_more_is_dropped(hosts: SimpleNamespace, alpha: Datapath) -> None:
    alpha.add_sa(hosts.make_sa(), 0.0)
    assert len(alpha.outbound([hosts.udp()], 0.1).wire) == 1
    for word in ("permit", "block"):
        alpha.install_filters(hosts.make_filters((word, 0, 0)), 0.2)
        output = alpha.outbound([hosts.udp()], 0.3)
        assert (output.wire, output.local) == ([], [])


def test_multicast_is_not_secured_and_half_a_datagram_waits(hosts: SimpleNamespace, alpha: Datapath) -> None:
    alpha.outbound([hosts.udp(destination=IPv4Address("224.0.0.251"))], 0.0)
    alpha.outbound([hosts.udp(destination=IPv4Address("255.255.255.255"))], 0.0)
    alpha.outbound([hosts.build_packet(hosts.ALPHA, hosts.BETA, 17, bytes(8), more_fragments=True)], 0.0)
    assert alpha.events() == []
    assert alpha.statistics(0.0).held_packets == 0


# ---- inbound checks


def test_replays_forgeries_and_unknown_spis_are_refused(
    hosts: SimpleNamespace, alpha: Datapath, beta: Datapath
) -> None:
    sa = hosts.make_sa()
    alpha.add_sa(sa, 0.0)
    beta.add_sa(hosts.mirror(sa), 0.0)
    one, two = alpha.outbound([hosts.udp(b"1"), hosts.udp(b"2")], 0.1).wire
    assert beta.inbound([one, one], 0.2) == [hosts.udp(b"1")]
    assert beta.inbound([one], 0.2) == []
    assert beta.inbound([two[:-1] + bytes([two[-1] ^ 1])], 0.2) == []
    assert beta.inbound([two[:20] + b"\0\0\xff\xff" + two[24:]], 0.2) == []
    assert beta.inbound([two], 0.3) == [hosts.udp(b"2")]
    assert codes(beta) == ["replayed", "integrity-failed", "unknown-spi"]
    (counters,) = beta.statistics(0.3).sas
    assert (counters.packets, counters.replays, counters.integrity_failures) == (2, 2, 1)


def test_a_secured_packet_must_fit_its_sa(hosts: SimpleNamespace, alpha: Datapath, beta: Datapath) -> None:
    """A peer that may send us TCP sends UDP by the same SA (RFC 4301 §5.2)."""
    sa = hosts.make_sa()
    alpha.add_sa(sa, 0.0)
    narrow = TrafficSelector(AddressRange.host(hosts.ALPHA), AddressRange.host(hosts.BETA), 6)
    beta.add_sa(hosts.mirror(sa, selector=narrow), 0.0)
    wire = alpha.outbound([hosts.tcp(), hosts.udp()], 0.1).wire
    assert beta.inbound(wire, 0.1) == [hosts.tcp()]
    assert codes(beta) == ["selector-mismatch"]


@pytest.mark.parametrize("rules", [(("permit", 0, 0),), (("block", 0, 0),), ()])
def test_a_secured_packet_must_be_what_policy_secures(
    hosts: SimpleNamespace, alpha: Datapath, beta: Datapath, rules: tuple[tuple[str, int, int], ...]
) -> None:
    sa = hosts.make_sa()
    alpha.add_sa(sa, 0.0)
    beta.add_sa(hosts.mirror(sa), 0.0)
    one, two = alpha.outbound([hosts.udp(), hosts.udp()], 0.1).wire
    assert len(beta.inbound([one], 0.1)) == 1
    beta.install_filters(hosts.make_filters(*rules), 0.2)
    assert beta.inbound([two], 0.3) == []
    assert codes(beta) == ["selector-mismatch"]


def test_another_rules_sa_does_not_carry_this_rules_traffic(
    hosts: SimpleNamespace, alpha: Datapath, beta: Datapath
) -> None:
    sa = hosts.make_sa()
    alpha.add_sa(sa, 0.0)
    beta.add_sa(hosts.mirror(sa, negotiation="weaker rule"), 0.0)
    assert beta.inbound(alpha.outbound([hosts.udp()], 0.1).wire, 0.1) == []


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=120), st.booleans())
def test_any_bytes_from_the_network_are_refused_without_an_exception(data: bytes, dress: bool) -> None:
    path = Datapath()
    if dress:
        header = b"\x45\0\0\0\0\0\0\0\x40\x32\0\0\x0a\0\0\x01\x0a\0\0\x02"
        data = with_payload(header, 50, len(data)) + data
    assert path.inbound([data], 0.0) == []
    assert path.outbound([data], 0.0).wire == []
    path.tick(1.0)


# ---- the life of an SA


def test_the_newest_sa_is_used(hosts: SimpleNamespace, alpha: Datapath) -> None:
    alpha.add_sa(hosts.make_sa(), 0.0)
    alpha.outbound([hosts.udp()], 0.1)
    alpha.add_sa(hosts.make_sa(spi=0x2000), 0.2)
    (wire,) = alpha.outbound([hosts.udp()], 0.3).wire
    assert wire[20:24] == b"\0\0\x20\0"
    alpha.remove_sa(0x2000, Direction.OUTBOUND, hosts.BETA)
    (wire,) = alpha.outbound([hosts.udp()], 0.4).wire
    assert wire[20:24] == b"\0\0\x10\0"
    alpha.remove_sa(0x1000, Direction.OUTBOUND, hosts.BETA)
    alpha.remove_sa(0x1000, Direction.OUTBOUND, hosts.BETA)
    assert alpha.outbound([hosts.udp()], 0.5).wire == []


def test_an_sa_is_never_installed_twice(hosts: SimpleNamespace, alpha: Datapath) -> None:
    sa = hosts.make_sa()
    for entry in (sa, hosts.mirror(sa)):
        alpha.add_sa(entry, 0.0)
        with pytest.raises(CallerError, match="in use"):
            alpha.add_sa(entry, 0.0)


def test_lifetimes_in_seconds_are_told_once_each(hosts: SimpleNamespace, alpha: Datapath) -> None:
    sa = hosts.make_sa(lifetime=Lifetime(soft_seconds=10, hard_seconds=20))
    alpha.add_sa(sa, 100.0)
    told = []
    for now in (105.0, 109.9, 110.0, 115.0, 119.0, 120.0, 121.0):
        alpha.tick(now)
        told += [(now, event.hard) for event in alpha.events() if isinstance(event, SaExpired)]
    assert told == [(110.0, False), (120.0, True)]
    assert alpha.statistics(121.0).sas == ()


def test_what_sas_carried_that_are_no_more_is_kept_in_sums(hosts: SimpleNamespace, alpha: Datapath) -> None:
    alpha.add_sa(hosts.make_sa(lifetime=Lifetime(soft_seconds=10, hard_seconds=20)), 0.0)
    alpha.outbound([hosts.udp(bytes(92))], 1.0)
    assert alpha.statistics(1.0).ended == ()
    alpha.tick(21.0)
    assert alpha.statistics(21.0).sas == (), "by its lifetime"
    (first,) = alpha.statistics(21.0).ended
    assert (first.direction, first.packets, first.bytes) == (Direction.OUTBOUND, 1, 100)
    assert first.classes == ("confidential", "authenticated", "transport")
    alpha.add_sa(hosts.make_sa(spi=0x2000), 22.0)
    alpha.outbound([hosts.udp(bytes(92))] * 2, 22.0)
    alpha.remove_sa(0x2000, Direction.OUTBOUND, hosts.BETA)
    alpha.remove_sa(0x2000, Direction.OUTBOUND, hosts.BETA)
    assert alpha.statistics(23.0).ended == (replace(first, packets=3, bytes=300),)


def test_lifetimes_in_bytes_count_the_protected_payload(
    hosts: SimpleNamespace, alpha: Datapath, beta: Datapath
) -> None:
    sa = hosts.make_sa(lifetime=Lifetime(soft_bytes=250, hard_bytes=400))
    alpha.add_sa(sa, 0.0)
    beta.add_sa(hosts.mirror(sa), 0.0)
    events: list[tuple[int, Direction, bool]] = []
    for number in range(1, 6):
        beta.inbound(alpha.outbound([hosts.udp(bytes(92))], 0.1).wire, 0.1)  # 100 bytes with the UDP header
        for path in (alpha, beta):
            events += [
                (number, event.direction, event.hard)
                for event in path.events()
                if isinstance(event, SaExpired)
            ]
    assert events == [
        (3, Direction.OUTBOUND, False),
        (3, Direction.INBOUND, False),
        (4, Direction.OUTBOUND, True),
        (4, Direction.INBOUND, True),
    ]


def test_sequence_numbers_do_not_wrap(hosts: SimpleNamespace, alpha: Datapath, beta: Datapath) -> None:
    sa = hosts.make_sa()
    alpha.add_sa(sa, 0.0)
    beta.add_sa(hosts.mirror(sa), 0.0)
    (entry,) = alpha._sad
    entry.sealer.sequence = 0xFFFF_FFFD
    wire = alpha.outbound([hosts.udp()] * 5, 0.1).wire
    assert [packet[24:28].hex() for packet in wire] == ["fffffffe", "ffffffff"]
    assert SaExpired(0x1000, Direction.OUTBOUND, True, sa.peer) in alpha.events()
    assert alpha.outbound([hosts.udp()], 0.2).wire == []
    assert len(beta.inbound(wire, 0.2)) == 2


def test_a_quiet_pair_is_told_idle_once_and_again_after_use(hosts: SimpleNamespace, alpha: Datapath) -> None:
    sa = hosts.make_sa(idle_seconds=5.0)
    alpha.add_sa(
        replace(
            hosts.mirror(sa),
            source=hosts.BETA,
            destination=hosts.ALPHA,
            selector=sa.selector.reversed(),
            spi=0x1001,
            pair=0x1000,
        ),
        0.0,
    )
    alpha.add_sa(sa, 0.0)
    told = []
    for now in (4.0, 5.0, 6.0, 12.0):
        alpha.tick(now)
        told += [now for event in alpha.events() if isinstance(event, SaIdle)]
    alpha.outbound([hosts.udp()], 13.0)
    for now in (17.0, 18.0, 25.0):
        alpha.tick(now)
        told += [now for event in alpha.events() if isinstance(event, SaIdle)]
    assert told == [5.0, 18.0]


# ---- bounded stories


def test_refusals_are_summed_up(hosts: SimpleNamespace) -> None:
    refusals = Refusals()
    events = [
        refusals.add(ReasonCode.UNKNOWN_SPI, hosts.ALPHA, hosts.BETA, 0.0, spi=number)
        for number in range(500)
    ]
    assert sum(event is not None for event in events) == 1
    assert refusals.collect(0.5) == []
    (event,) = refusals.collect(1.0)
    assert event.count == 499
    assert refusals.totals["unknown-spi"] == 500
    assert refusals.collect(2.0) == []
    assert refusals.add(ReasonCode.UNKNOWN_SPI, hosts.ALPHA, hosts.BETA, 2.1) is not None


def test_a_million_sources_need_bounded_memory(hosts: SimpleNamespace) -> None:
    refusals = Refusals()
    told = sum(
        refusals.add(ReasonCode.UNKNOWN_SPI, IPv4Address(number), hosts.BETA, 0.0) is not None
        for number in range(5000)
    )
    assert told == SOURCES
    assert refusals.totals["unknown-spi"] == 5000


def test_thousands_of_sas_are_looked_at_in_parts_and_none_is_forgotten(hosts: SimpleNamespace) -> None:
    path = Datapath()
    count = 3 * LOOKS + 5
    for number in range(count):
        life = Lifetime(soft_seconds=10.0, hard_seconds=20.0)
        path.add_sa(hosts.make_sa(spi=0x1000 + 2 * number, lifetime=life), 0.0)

    def sweep(now: float) -> tuple[int, list[SaExpired]]:
        calls = 1
        while not path.tick_some(now):
            calls += 1
        return calls, [event for event in path.events() if isinstance(event, SaExpired)]

    sweep(0.0)
    assert sweep(9.0) == (4, [])
    calls, told = sweep(10.0)
    assert calls == 4
    assert sorted(event.spi for event in told) == [0x1000 + 2 * number for number in range(count)]
    assert not any(event.hard for event in told)
    assert sweep(11.0) == (4, [])  # told once
    # One that goes in the middle of a look is not looked at.
    assert not path.tick_some(20.0)
    expired = {event.spi for event in path.events() if isinstance(event, SaExpired)}
    gone = 0x1000 + 2 * (count - 1)
    assert gone not in expired
    path.remove_sa(gone, Direction.OUTBOUND, hosts.BETA)
    _, told = sweep(20.0)
    assert {event.spi for event in told} | expired == {0x1000 + 2 * number for number in range(count - 1)}
    assert all(event.hard for event in told)
    assert sweep(21.0)[1] == []
    assert path.statistics(21.0).sas == ()


def test_what_nobody_was_told_is_told_again(hosts: SimpleNamespace) -> None:
    path = Datapath()
    path.add_sa(hosts.make_sa(lifetime=Lifetime(soft_seconds=10.0, hard_seconds=20.0)), 0.0)
    for _ in range(2):
        path.tick(12.0)
        assert [event.hard for event in path.events() if isinstance(event, SaExpired)] == [False]
        path.tick(13.0)
        assert not path.events()
        path.tell_again()


def test_a_forged_packet_with_a_number_of_its_own_batch_is_a_replay_as_if_it_came_alone(
    hosts: SimpleNamespace,
) -> None:
    sa = hosts.make_sa()
    sender = Datapath()
    sender.install_filters(hosts.make_filters(("negotiate", 0, 0)), 0.0)
    sender.add_sa(sa, 0.0)
    good, other = sender.outbound([hosts.udp(), hosts.udp()], 0.0).wire
    forged = good[:-1] + bytes((good[-1] ^ 1,))
    renumbered = other[:24] + good[24:28] + other[28:]
    packets = [good, forged, renumbered, other]
    counted = []
    for batch in (1, 4):
        receiver = Datapath()
        receiver.install_filters(hosts.make_filters(("negotiate", 0, 0)), 0.0)
        receiver.add_sa(hosts.mirror(sa), 0.0)
        clear = []
        for start in range(0, 4, batch):
            clear += receiver.inbound(packets[start : start + batch], 1.0)
        assert len(clear) == 2
        counted.append(receiver.statistics(1.0))
    assert counted[0] == counted[1]
    assert dict(counted[0].refused) == {"replayed": 2}
