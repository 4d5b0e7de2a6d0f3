"""ICMP about packets that were too long: what proves itself is believed, the rest is not."""

import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockade.driver.datapath import Datapath
from stockade.driver.packets import checksum, too_big
from stockade.driver.path_mtu import AGE, PathMtu, read_report
from stockade.driver.sad import OutboundEntry, SaDatabase
from stockade.model.negotiation import Mode
from stockade.model.sa import UdpEncapsulation
from stockade.model.secret import Secret
from stockade.model.suites import Gmac

UDP = UdpEncapsulation(4500, 61234)


def sender(hosts: SimpleNamespace, version: int, **values: object) -> tuple[Datapath, list[bytes]]:
    """alpha with an SA, and what it sent by it."""
    path = Datapath()
    path.install_filters(hosts.make_filters(("negotiate", 0, 0), version=version), 0.0)
    sa = hosts.make_sa(version=version, **values)
    path.add_sa(sa, 0.0)
    alpha, beta = (hosts.ALPHA, hosts.BETA) if version == 4 else (hosts.ALPHA6, hosts.BETA6)
    packets = [hosts.build_packet(alpha, beta, 17, bytes(8) + bytes(1300)) for _ in range(3)]
    sent = path.outbound(packets, 0.0).wire
    assert len(sent) == 3
    return path, sent


def report(packet: bytes, mtu: int) -> bytes:
    """What a router says about a packet (`too_big` puts the destination where the router's address is)."""
    return too_big(packet, mtu)


def mtu_of(path: Datapath) -> int:
    (entry,) = [each for each in path._sad if isinstance(each, OutboundEntry)]
    return entry.mtu


CASES = {
    "esp": {},
    "udp": {"udp": UDP},
    "ah": {"esp": None, "ah": Gmac.AES_GMAC_128, "integrity_key": Secret(bytes(20))},
    "tunnel": {"mode": Mode.TUNNEL},
}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("case", CASES)
def test_a_report_about_a_packet_of_ours_is_believed(hosts: SimpleNamespace, version: int, case: str) -> None:
    path, sent = sender(hosts, version, **CASES[case])
    path.path_reports([report(sent[1], 1290)], 1.0)
    assert mtu_of(path) == 1290
    path.path_reports([report(sent[2], 1400)], 2.0)
    assert mtu_of(path) == 1290, "it never grows by what somebody says"
    # a rekey begins with what is known, and so does the SA that follows
    path.add_sa(hosts.make_sa(version=version, spi=0x2000, **CASES[case]), 3.0)
    assert {each.mtu for each in path._sad} == {1290}
    path.tick(1.0 + AGE)
    assert {each.mtu for each in path._sad} == {1500}, "the path may be another one by now"


@pytest.mark.parametrize("version", [4, 6])
def test_a_forged_report_changes_nothing(hosts: SimpleNamespace, version: int) -> None:
    path, sent = sender(hosts, version)
    genuine = report(sent[1], 1290)
    at = 20 if version == 4 else 40
    quoted = at + 8
    esp = quoted + at
    addresses = range(quoted + 12, quoted + 20) if version == 4 else range(quoted + 8, quoted + 40)
    for position in (*addresses, *range(esp, esp + 8)):
        forged = bytearray(genuine)
        forged[position] ^= 0x80
        path.path_reports([bytes(forged)], 1.0)
        assert mtu_of(path) == 1500, position
    never_sent = bytearray(genuine)
    never_sent[esp + 4 : esp + 8] = (4).to_bytes(4, "big")
    zero = bytes(never_sent[: esp + 4]) + bytes(4) + bytes(never_sent[esp + 8 :])
    path.path_reports([bytes(never_sent), zero, genuine[: esp + 7]], 1.0)
    assert mtu_of(path) == 1500
    path.path_reports([genuine], 1.0)
    assert mtu_of(path) == 1290


def test_bare_and_in_udp_are_not_taken_for_each_other(hosts: SimpleNamespace) -> None:
    path, sent = sender(hosts, 4, udp=UDP)
    _, bare = sender(hosts, 4)
    other_port = bytearray(report(sent[1], 1290))
    other_port[20 + 8 + 20] ^= 1
    path.path_reports([report(bare[1], 1290), bytes(other_port)], 1.0)
    assert mtu_of(path) == 1500


@pytest.mark.parametrize(("version", "smallest"), [(4, 576), (6, 1280)])
def test_no_report_makes_a_path_narrower_than_every_path_is(
    hosts: SimpleNamespace, version: int, smallest: int
) -> None:
    for said in (0, 1, 68, 575):
        path, sent = sender(hosts, version)
        path.path_reports([report(sent[1], said)], 1.0)
        assert mtu_of(path) == smallest


def test_tcp_is_cut_to_the_path_and_a_sender_that_forbids_fragments_is_told(hosts: SimpleNamespace) -> None:
    path, sent = sender(hosts, 4)
    path.path_reports([report(sent[0], 1000)], 1.0)
    burst = path.outbound([hosts.tcp(bytes(20_000))], 1.0)
    assert len(burst.wire) > 20
    assert max(map(len, burst.wire)) <= 1000
    forbidden = bytearray(hosts.udp(bytes(1300)))
    forbidden[6] |= 0x40
    forbidden[10:12] = bytes(2)
    forbidden[10:12] = checksum(bytes(forbidden[:20])).to_bytes(2, "big")
    answer = path.outbound([bytes(forbidden)], 1.0)
    assert answer.wire == []
    (told,) = answer.local
    fits = int.from_bytes(told[26:28], "big")
    assert told[20:22] == b"\x03\x04"
    assert 900 < fits < 1000
    forbidden[6] &= ~0x40
    allowed = path.outbound([bytes(forbidden)], 1.0)
    assert len(allowed.wire) == 2
    assert max(map(len, allowed.wire)) <= 1000


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=120))
def test_any_bytes_are_looked_at_and_nothing_happens(data: bytes) -> None:
    for start in (
        b"",
        b"\x45",
        b"\x60",
        b"\x45" + bytes(8) + b"\x01" + bytes(10) + b"\x03\x04" + bytes(6) + b"\x45",
    ):
        read_report(start + data)
    paths = PathMtu(SaDatabase())
    assert not paths.take(data, 0.0)


def test_mutated_reports_never_raise(hosts: SimpleNamespace) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    for version in (4, 6):
        path, sent = sender(hosts, version)
        genuine = report(sent[1], 1290)
        for _ in range(300):
            mutated = bytearray(genuine[: chance.randrange(len(genuine))])
            for _ in range(min(len(mutated), chance.randrange(5))):
                mutated[chance.randrange(len(mutated))] = chance.randrange(256)
            path.path_reports([bytes(mutated)], 1.0)
        # A size that is changed and otherwise in order is believed, as far down as is allowed.
        assert (576 if version == 4 else 1280) <= mtu_of(path) <= 1500


def test_an_unrelated_sa_keeps_its_estimate(hosts: SimpleNamespace) -> None:
    path, sent = sender(hosts, 4)
    other = hosts.make_sa(spi=0x3000)
    path.add_sa(replace(other, destination=type(other.destination)("10.0.0.77")), 0.0)
    path.path_reports([report(sent[1], 1290)], 1.0)
    assert sorted(each.mtu for each in path._sad) == [1290, 1500]
