from ipaddress import ip_address

from stockade.model.addresses import AddressRange
from stockade.model.filters import Direction
from stockade.policy.expansion import directions_of, expand, selectors_of, usable_addresses
from stockade.policy.objects import Filter, FilterAddress

IN, OUT = Direction.INBOUND, Direction.OUTBOUND
LOCAL = tuple(ip_address(text) for text in ("10.0.0.5", "10.1.0.5", "2001:db8::5"))


def end(text):
    if text in ("me", "any"):
        return FilterAddress.me() if text == "me" else FilterAddress.any()
    return FilterAddress.of(AddressRange.network(text))


def expanded(source, destination, *, local=LOCAL, tunnel=None, **settings):
    filter_ = Filter(end(source), end(destination), **settings)
    tunnel = None if tunnel is None else ip_address(tunnel)
    return {
        (f"{selector}", direction, mirrored)
        for selector, direction, mirrored in expand(filter_, local, tunnel)
    }


def test_me_is_no_loopback_zone_or_multicast_address_and_each_address_once():
    given = ["10.0.0.5", "127.0.0.1", "::1", "fe80::1%eth0", "0.0.0.0", "224.0.0.1", "10.0.0.5"]
    addresses = usable_addresses(ip_address(text) for text in given)
    assert [str(address) for address in addresses] == ["10.0.0.5", "fe80::1"]


def test_me_to_any_gives_one_filter_per_address_outbound_and_its_mirror_inbound():
    assert expanded("me", "any") == {
        ("any 10.0.0.5 -> any", OUT, False),
        ("any 10.1.0.5 -> any", OUT, False),
        ("any 2001:db8::5 -> any", OUT, False),
        ("any any -> 10.0.0.5", IN, True),
        ("any any -> 10.1.0.5", IN, True),
        ("any any -> 2001:db8::5", IN, True),
    }


def test_without_mirror_one_direction_is_left():
    assert {direction for _, direction, _ in expanded("me", "any", mirrored=False)} == {OUT}
    assert {direction for _, direction, _ in expanded("any", "me", mirrored=False)} == {IN}


def test_the_mirror_swaps_ports():
    assert expanded("me", "198.51.100.7/32", protocol=6, destination_port=80, local=LOCAL[:1]) == {
        ("tcp 10.0.0.5 -> 198.51.100.7:80", OUT, False),
        ("tcp 198.51.100.7:80 -> 10.0.0.5", IN, True),
    }


def test_me_to_a_host_takes_the_family_of_the_host():
    assert {text for text, _, _ in expanded("me", "2001:db8::9/128", mirrored=False)} == {
        "any 2001:db8::5 -> 2001:db8::9"
    }


def test_any_to_any_is_both_directions_and_both_families_once():
    found = list(expand(Filter(end("any"), end("any")), LOCAL))
    assert len(found) == 4
    assert {(selector.version, direction) for selector, direction, _ in found} == {
        (4, OUT),
        (4, IN),
        (6, OUT),
        (6, IN),
    }


def test_any_to_any_holds_before_the_first_address_is_there():
    assert {direction for _, direction, _ in expanded("any", "any", local=())} == {IN, OUT}


def test_any_to_any_with_a_port_mirrors_the_port():
    assert expanded("any", "any", protocol=6, destination_port=23, local=LOCAL[:1]) >= {
        ("tcp any -> any:23", OUT, False),
        ("tcp any -> any:23", IN, False),
        ("tcp any:23 -> any", OUT, True),
        ("tcp any:23 -> any", IN, True),
    }


def test_a_subnet_that_holds_an_address_of_ours_stays_a_subnet_and_gives_its_directions():
    assert expanded("10.0.0.0/24", "198.51.100.7/32") == {
        ("any 10.0.0.0/24 -> 198.51.100.7", OUT, False),
        ("any 198.51.100.7 -> 10.0.0.0/24", IN, True),
    }
    assert {direction for _, direction, _ in expanded("10.0.0.0/24", "any", mirrored=False)} == {IN, OUT}


def test_traffic_between_others_gives_nothing():
    assert expanded("198.51.100.0/24", "203.0.113.0/24") == set()


def test_traffic_between_our_own_addresses_gives_nothing():
    assert expanded("10.0.0.5/32", "10.1.0.5/32") == set()
    assert expanded("me", "10.0.0.5/32") == set()


def test_a_tunnel_end_at_the_peer_is_outbound_and_here_inbound():
    networks = ("192.168.1.0/24", "192.168.2.0/24")
    assert expanded(*networks, tunnel="203.0.113.1", mirrored=False) == {
        ("any 192.168.1.0/24 -> 192.168.2.0/24", OUT, False)
    }
    assert expanded(*networks, tunnel="10.0.0.5", mirrored=False) == {
        ("any 192.168.1.0/24 -> 192.168.2.0/24", IN, False)
    }


def test_the_mirror_of_a_tunnel_filter_comes_back_the_other_way():
    assert expanded("192.168.1.0/24", "192.168.2.0/24", tunnel="203.0.113.1") == {
        ("any 192.168.1.0/24 -> 192.168.2.0/24", OUT, False),
        ("any 192.168.2.0/24 -> 192.168.1.0/24", IN, True),
    }


def test_both_ends_me_cannot_be_written_and_no_selector_mixes_families():
    for selector in selectors_of(Filter(end("me"), end("any")), LOCAL):
        assert selector.source.version == selector.destination.version
        assert directions_of(selector, LOCAL) == (OUT,)
