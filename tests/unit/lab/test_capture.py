"""What a packet on the wire is counted as."""

from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from stockade.lab.capture import PacketKind, WireWatch
from stockade.lab.story import HOSTS, is_blocked, is_permitted, is_protected
from stockade.model.addresses import Endpoint
from stockade.model.traffic import Flow
from stockade.wire.ip import build_packet
from stockade.wire.transport import build_echo, build_tcp, build_udp

ALPHA, BETA, GAMMA = (HOSTS[name].ip for name in ("alpha", "beta", "gamma"))


def watch() -> WireWatch:
    return WireWatch(is_protected, is_blocked, is_permitted)


def tcp(source, destination, source_port: int, destination_port: int) -> bytes:
    return build_tcp(Endpoint(source, source_port), Endpoint(destination, destination_port), b"data")


def udp(source_port: int, destination_port: int, payload: bytes) -> bytes:
    return build_udp(Endpoint(ALPHA, source_port), Endpoint(BETA, destination_port), payload)


def test_secured_traffic_in_clear_is_noticed_in_both_directions_with_an_example() -> None:
    seen = watch()
    assert seen.see(tcp(ALPHA, BETA, 40000, 80)) is PacketKind.PROTECTED_CLEAR
    assert seen.see(tcp(BETA, ALPHA, 80, 40000)) is PacketKind.PROTECTED_CLEAR
    assert seen.see(build_echo(BETA, ALPHA, identifier=1, sequence=1)) is PacketKind.PROTECTED_CLEAR
    assert seen.tally().protected_clear == 3
    assert seen.tally().example == "tcp 10.99.0.1:40000 -> 10.99.0.2:80"


def test_a_later_fragment_of_secured_traffic_is_noticed() -> None:
    fragment = build_packet(ALPHA, BETA, 6, bytes(64), dont_fragment=False, fragment_offset=1024)
    assert watch().see(fragment) is PacketKind.PROTECTED_CLEAR


def test_an_answer_to_the_outsider_is_a_leak_but_its_own_attempt_is_not() -> None:
    assert watch().see(tcp(GAMMA, BETA, 40000, 80)) is PacketKind.OTHER
    assert watch().see(tcp(BETA, GAMMA, 80, 40000)) is PacketKind.PROTECTED_CLEAR


def test_permitted_and_blocked_ports_are_counted_apart() -> None:
    seen = watch()
    assert seen.see(tcp(ALPHA, BETA, 40000, 22)) is PacketKind.PERMITTED
    assert seen.see(tcp(BETA, ALPHA, 22, 40000)) is PacketKind.PERMITTED
    assert seen.see(tcp(ALPHA, BETA, 40000, 23)) is PacketKind.BLOCKED


def test_esp_plain_and_in_udp_and_ike_are_told_apart() -> None:
    esp = (0x1234).to_bytes(4, "big") + bytes(40)
    assert watch().see(build_packet(ALPHA, BETA, 50, esp)) is PacketKind.ESP
    assert watch().see(build_packet(ALPHA, BETA, 51, bytes(24))) is PacketKind.AH
    assert watch().see(udp(4500, 4500, esp)) is PacketKind.ESP
    assert watch().see(udp(4500, 4500, bytes(4) + bytes(28))) is PacketKind.IKE
    assert watch().see(udp(4500, 4500, b"\xff")) is PacketKind.IKE
    assert watch().see(udp(500, 500, bytes(28))) is PacketKind.IKE
    assert watch().see(udp(53, 5353, esp)) is PacketKind.OTHER


@given(st.binary(max_size=100))
def test_any_bytes_are_counted_once(data: bytes) -> None:
    seen = watch()
    seen.see(data)
    tally = seen.tally()
    kinds = (
        tally.esp,
        tally.ah,
        tally.ike,
        tally.protected_clear,
        tally.blocked,
        tally.permitted,
        tally.other,
    )
    assert sum(kinds) == 1


def test_the_predicates_of_the_story_do_not_overlap() -> None:
    for source in (ALPHA, BETA, GAMMA, ip_address("10.0.0.1")):
        for port in (22, 23, 80):
            flow = Flow(source, BETA, 6, 40000, port)
            assert is_protected(flow) + is_blocked(flow) + is_permitted(flow) <= 1
