"""ICMP unreachable, as scapy makes it, and what is none of our business."""

from ipaddress import ip_address

import pytest

from stockade.wire.unreachable import Unreachable, read_unreachable

inet = pytest.importorskip("scapy.layers.inet")
inet6 = pytest.importorskip("scapy.layers.inet6")

OURS, PEER, ROUTER = "10.0.0.1", "10.0.0.2", "10.0.0.254"
OURS6, PEER6, ROUTER6 = "fd00::1", "fd00::2", "fd00::fe"
ESP_START = (0x1234_5678).to_bytes(4, "big") + (9).to_bytes(4, "big")


def reported4(quoted: object, kind: int = 3, code: int = 1, keep: int = 28) -> bytes:
    return bytes(inet.IP(src=ROUTER, dst=OURS) / inet.ICMP(type=kind, code=code) / bytes(quoted)[:keep])


def reported6(quoted: object, kind: int = 1, code: int = 3) -> bytes:
    head = inet6.ICMPv6DestUnreach(type=kind, code=code)
    return bytes(inet6.IPv6(src=ROUTER6, dst=OURS6) / head / bytes(quoted))


def esp4() -> object:
    return inet.IP(src=OURS, dst=PEER, proto=50) / ESP_START / bytes(40)


def udp4(source: int, destination: int, load: bytes) -> object:
    return inet.IP(src=OURS, dst=PEER) / inet.UDP(sport=source, dport=destination) / load


def said(what: str, spi: int | None) -> Unreachable:
    return Unreachable(ip_address(ROUTER), ip_address(OURS), ip_address(PEER), what, spi)


def test_an_esp_packet_is_told_by_its_spi() -> None:
    assert read_unreachable(reported4(esp4())) == said("host", 0x1234_5678)
    assert read_unreachable(reported4(esp4(), keep=22)) == said("host", None)


def test_ah_and_esp_in_udp_too() -> None:
    ah = inet.IP(src=OURS, dst=PEER, proto=51) / (b"\x32\4\0\0" + ESP_START)
    assert read_unreachable(reported4(ah)) == said("host", 0x1234_5678)
    assert read_unreachable(reported4(udp4(4500, 61_000, ESP_START), keep=64)) == said("host", 0x1234_5678)
    assert read_unreachable(reported4(udp4(4500, 4500, ESP_START))) == said("host", None)


@pytest.mark.parametrize(("code", "what"), [(0, "network"), (3, "port"), (13, "host, by an administrator"),
                                            (200, "code 200")])  # fmt: skip
def test_ike_is_told_without_an_spi(code: int, what: str) -> None:
    assert read_unreachable(reported4(udp4(500, 500, b"\1" * 28), code=code, keep=64)) == said(what, None)
    marked = udp4(4500, 4500, bytes(4) + b"\1" * 28)
    assert read_unreachable(reported4(marked, code=code, keep=64)) == said(what, None)


def test_ipv6() -> None:
    esp = inet6.IPv6(src=OURS6, dst=PEER6, nh=50) / ESP_START
    ends = ip_address(ROUTER6), ip_address(OURS6), ip_address(PEER6)
    assert read_unreachable(reported6(esp)) == Unreachable(*ends, "host", 0x1234_5678)
    fragment = inet6.IPv6(src=OURS6, dst=PEER6) / inet6.IPv6ExtHdrFragment(nh=50, m=1) / ESP_START
    assert read_unreachable(reported6(fragment, code=4)) == Unreachable(*ends, "port", 0x1234_5678)
    later = inet6.IPv6(src=OURS6, dst=PEER6) / inet6.IPv6ExtHdrFragment(nh=50, offset=9) / ESP_START
    assert read_unreachable(reported6(later)) is None


def test_what_is_none_of_our_business() -> None:
    others = [
        reported4(esp4(), code=4),  # too long: the data plane's
        reported4(esp4(), kind=11),
        reported4(udp4(53, 500, b"\1" * 28), keep=64),
        reported4(inet.IP(src=OURS, dst=PEER) / inet.TCP()),
        reported6(inet6.IPv6(src=OURS6, dst=PEER6, nh=50) / ESP_START, kind=2),
        bytes(esp4()),
        bytes(inet.IP(src=ROUTER, dst=OURS, flags="MF", proto=1) / b"\3\1\0\0\0\0\0\0" / bytes(esp4())),
        b"",
    ]
    assert [read_unreachable(packet) for packet in others] == [None] * len(others)


def test_no_cut_message_is_an_error() -> None:
    for whole in (reported4(udp4(4500, 4500, ESP_START), keep=99),
                  reported6(inet6.IPv6(src=OURS6, dst=PEER6, nh=50) / ESP_START)):  # fmt: skip
        for end in range(len(whole)):
            read_unreachable(whole[:end])
