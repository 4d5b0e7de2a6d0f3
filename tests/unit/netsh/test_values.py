"""Addresses, masks, protocols, GUIDs, numbers, names."""

from ipaddress import IPv4Address, ip_address

import pytest

from stockade.model.addresses import AddressRange
from stockade.netsh.values import (
    FILTER_ADDRESS,
    GUID,
    MASK,
    MOMENT,
    NAME,
    NEW_NAME,
    PORT,
    PRESHARED_KEY,
    PRESHARED_KEY_HEX,
    PROTOCOL,
    TEXT,
    TUNNEL_ENDPOINT,
    YES_NO,
    Kind,
    mask_length,
)
from stockade.policy.objects import AddressKind


@pytest.mark.parametrize(
    ("text", "kind", "addresses"),
    [
        ("me", AddressKind.ME, None),
        ("ANY", AddressKind.ANY, None),
        ("10.0.0.1", AddressKind.ADDRESSES, AddressRange.host("10.0.0.1")),
        ("10.1.2.3/8", AddressKind.ADDRESSES, AddressRange.network("10.0.0.0/8")),
        (
            "10.0.0.1-10.0.0.9",
            AddressKind.ADDRESSES,
            AddressRange(ip_address("10.0.0.1"), ip_address("10.0.0.9")),
        ),
        ("2001:db8::/32", AddressKind.ADDRESSES, AddressRange.network("2001:db8::/32")),
        ("::1", AddressKind.ADDRESSES, AddressRange.host("::1")),
        ("::1-::9", AddressKind.ADDRESSES, AddressRange(ip_address("::1"), ip_address("::9"))),
    ],
)
def test_addresses(text: str, kind: AddressKind, addresses: AddressRange | None) -> None:
    word = FILTER_ADDRESS.parse(text)
    assert (word.kind, word.addresses) == (kind, addresses)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (FILTER_ADDRESS, "10.0.0"),
        (FILTER_ADDRESS, "10.0.0.256"),
        (FILTER_ADDRESS, "10.0.0.1/33"),
        (FILTER_ADDRESS, "10.0.0.9-10.0.0.1"),
        (FILTER_ADDRESS, "10.0.0.1-::1"),
        (FILTER_ADDRESS, "fe80::1%eth0"),
        (FILTER_ADDRESS, ""),
        (MASK, "255.0.255.0"),
        (MASK, "129"),
        (MASK, "255.255.255"),
        (MASK, "-1"),
        (PROTOCOL, "256"),
        (PROTOCOL, "tpc"),
        (PORT, "65536"),
        (PORT, "http"),
        (PORT, "１２"),
        (GUID, "{72385230-70FA-11D1-864C-14A300000000"),
        (GUID, "7238"),
        (YES_NO, "maybe"),
        (NAME, "  "),
        (NAME, "x" * 256),
        (NEW_NAME, "ALL"),
        (TEXT, "a\x00b"),
        (NAME, "a\nb"),
        (PRESHARED_KEY_HEX, "4"),
        (PRESHARED_KEY_HEX, ""),
        (FILTER_ADDRESS, "nay"),
        (FILTER_ADDRESS, "gatewy"),
        (FILTER_ADDRESS, "10.0.0.1@4"),
        (FILTER_ADDRESS, "me@5"),
        (FILTER_ADDRESS, "a..b"),
        (MOMENT, "yesterday"),
        (TEXT, "a\x1b[0m"),
        (TEXT, "\udcff"),
        (PRESHARED_KEY, ""),
        (PRESHARED_KEY, "\udcff"),
        (PRESHARED_KEY, "x" * 1025),
        (TUNNEL_ENDPOINT, "me"),
    ],
)
def test_refused(kind: Kind[object], text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        kind.parse(text)


@pytest.mark.parametrize(
    ("text", "kind", "name", "version"),
    [
        ("dns", AddressKind.DNS, "", None),
        ("WINS", AddressKind.WINS, "", None),
        ("DHCP", AddressKind.DHCP, "", None),
        ("gateway", AddressKind.GATEWAY, "", None),
        ("host.example.com", AddressKind.NAME, "host.example.com", None),
        ("a-b.example", AddressKind.NAME, "a-b.example", None),
        ("server1", AddressKind.NAME, "server1", None),
        ("nay.", AddressKind.NAME, "nay", None),
        ("server1.", AddressKind.NAME, "server1.", None),
        ("größe.example", AddressKind.NAME, "größe.example", None),
        ("me@4", AddressKind.ME, "", 4),
        ("ANY@6", AddressKind.ANY, "", 6),
        ("host.example@6", AddressKind.NAME, "host.example", 6),
    ],
)
def test_names_and_kinds_of_server(text: str, kind: AddressKind, name: str, version: int | None) -> None:
    word = FILTER_ADDRESS.parse(text)
    assert (word.kind, word.name, word.version, word.addresses) == (kind, name, version, None)


@pytest.mark.parametrize(
    ("mask", "address", "length"),
    [
        ("255.255.255.0", "10.0.0.0", 24),
        ("255.255.255.255", "10.0.0.0", 32),
        ("0.0.0.0", "10.0.0.0", 0),
        ("8", "10.0.0.0", 8),
        ("64", "2001:db8::", 64),
    ],
)
def test_masks(mask: str, address: str, length: int) -> None:
    assert MASK.parse(mask) == mask
    assert mask_length(mask, ip_address(address)) == length


def test_a_dotted_mask_does_not_fit_ipv6() -> None:
    with pytest.raises(ValueError, match="prefix length"):
        mask_length("255.0.0.0", ip_address("::1"))


def test_other_values() -> None:
    assert [PROTOCOL.parse(word) for word in ("any", "ICMP", "tcp", "UDP", "raw", "47")] == [
        0,
        1,
        6,
        17,
        255,
        47,
    ]
    assert [YES_NO.parse(word) for word in ("yes", "Y", "no", "N")] == [True, True, False, False]
    assert GUID.parse("{72385230-70FA-11D1-864C-14A300000000}") == GUID.parse(
        "72385230-70fa-11d1-864c-14a300000000"
    )
    assert PRESHARED_KEY.parse(" ä ").reveal() == b" \xc3\xa4 "
    assert TUNNEL_ENDPOINT.parse("0.0.0.0") is None
    assert TUNNEL_ENDPOINT.parse("gw.example.com") == "gw.example.com"
    assert PRESHARED_KEY_HEX.parse("00ff").reveal() == b"\x00\xff"
    assert TUNNEL_ENDPOINT.parse("192.0.2.1") == IPv4Address("192.0.2.1")
