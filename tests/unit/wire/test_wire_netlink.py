"""Netlink framing and the rtnetlink messages that the driver sends; the kernel is the judge in tests/host."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stockade.model.reasons import HostError
from stockade.wire import rtnetlink
from stockade.wire.netlink import (
    NLMSG_ERROR,
    NetlinkMessage,
    decode_attributes,
    decode_messages,
    encode_attributes,
)


@given(st.dictionaries(st.integers(0, 0x3FFF), st.binary(max_size=40), max_size=8))
def test_attributes_survive_a_round_trip(attributes):
    assert decode_attributes(encode_attributes(attributes)) == attributes


@given(
    st.lists(
        st.builds(
            NetlinkMessage,
            st.integers(0, 0xFFFF),
            st.integers(0, 0xFFFF),
            st.integers(0, 0xFFFF_FFFF),
            st.binary(max_size=40),
        ),
        max_size=5,
    )
)
def test_messages_survive_a_round_trip(messages):
    assert list(decode_messages(b"".join(message.encode() for message in messages))) == messages


def test_an_error_message_gives_its_errno():
    body = (-17).to_bytes(4, "little", signed=True) + bytes(16)
    assert NetlinkMessage(NLMSG_ERROR, 0, 1, body).error == 17
    assert NetlinkMessage(NLMSG_ERROR, 0, 1, bytes(4)).error == 0
    assert NetlinkMessage(20, 0, 1, body).error is None


@pytest.mark.parametrize("data", [b"\1", bytes(16), b"\xff\xff" + bytes(20)])
def test_impossible_lengths_are_refused(data):
    with pytest.raises(HostError):
        list(decode_messages(data))


def test_a_rule_and_a_route_read_back_what_was_written():
    rule = rtnetlink.decode_rule(rtnetlink.mark_rule(4, 0x5170, 5170, 0x51000000, 0xFF000000))
    assert (rule.table, rule.priority, rule.mark, rule.mask) == (0x5170, 5170, 0x51000000, 0xFF000000)
    route = rtnetlink.decode_route(rtnetlink.default_route(4, 0x5170, interface=7, metric=9))
    assert (route.table, route.interface, route.metric, route.mtu) == (0x5170, 7, 9, None)
    assert rtnetlink.decode_link_mtu(rtnetlink.set_link(1, mtu=9000, queue=5)) == 9000
