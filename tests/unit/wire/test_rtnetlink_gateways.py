"""Default gateways and kinds of interfaces out of rtnetlink messages."""

import socket
import struct
from ipaddress import ip_address

from hypothesis import given, settings
from hypothesis import strategies as st

from stockade.model.reasons import StockadeError
from stockade.wire import rtnetlink
from stockade.wire.netlink import encode_attributes

MAIN = 254
GATEWAY, PRIORITY, MULTIPATH, TABLE = 5, 6, 9, 15


def route(
    family: int, length: int, attributes: dict[int, bytes], *, table: int = MAIN, kind: int = 1
) -> bytes:
    header = struct.pack("=BBBBBBBBI", family, length, 0, 0, table & 0xFF, 4, 0, kind, 0)
    return header + encode_attributes(attributes)


def test_the_gateway_of_a_default_route_and_of_no_other():
    four, six = ip_address("10.0.0.1"), ip_address("fe80::1")
    assert rtnetlink.decode_gateways(route(socket.AF_INET, 0, {GATEWAY: four.packed}), MAIN) == (four,)
    assert rtnetlink.decode_gateways(route(socket.AF_INET6, 0, {GATEWAY: six.packed}), MAIN) == (six,)
    for other in (
        route(socket.AF_INET, 24, {GATEWAY: four.packed}),
        route(socket.AF_INET, 0, {GATEWAY: four.packed}, table=7),
        route(socket.AF_INET, 0, {GATEWAY: four.packed}, kind=7),
        route(socket.AF_INET, 0, {GATEWAY: four.packed, TABLE: struct.pack("=I", 0x5170)}),
        route(socket.AF_INET, 0, {}),
        route(socket.AF_INET6, 0, {GATEWAY: four.packed}),
    ):
        assert rtnetlink.decode_gateways(other, MAIN) == ()


def test_a_route_over_several_gateways_has_all_of_them():
    gateways = (ip_address("10.0.0.1"), ip_address("10.0.0.2"))
    hops = b""
    for gateway in gateways:
        inside = encode_attributes({GATEWAY: gateway.packed})
        hops += struct.pack("=HBBi", 8 + len(inside), 0, 0, 2) + inside
    assert rtnetlink.decode_gateways(route(socket.AF_INET, 0, {MULTIPATH: hops}), MAIN) == gateways
    for cut in range(len(hops)):
        found = rtnetlink.decode_gateways(route(socket.AF_INET, 0, {MULTIPATH: hops[:cut]}), MAIN)
        assert set(found) <= set(gateways)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(body: bytes):
    for decode in (lambda: rtnetlink.decode_gateways(body, MAIN), lambda: rtnetlink.decode_link_type(body)):
        try:
            decode()
        except StockadeError:
            continue


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
def test_any_next_hops_are_read_or_refused(hops: bytes):
    try:
        found = rtnetlink.decode_gateways(route(socket.AF_INET, 0, {MULTIPATH: hops}), MAIN)
    except StockadeError:
        return
    assert all(one.version == 4 for one in found)
