"""Boot modes, boot exemptions, and the way to the policy."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stockade.model.filters import Action, Direction, FilterTable
from stockade.model.reasons import CallerError
from stockade.model.traffic import ICMPV6, TCP, UDP, Flow
from stockade.policy.boot import (
    BootExemption,
    BootMode,
    compile_boot_table,
    default_mode,
    parse_exemptions,
    stand_over,
    when_persistent_is_unreadable,
)
from stockade.policy.compiler import compile_table
from stockade.policy.objects import Filter, FilterAddress

IN, OUT = Direction.INBOUND, Direction.OUTBOUND
ME, PEER = ip_address("192.0.2.1"), ip_address("192.0.2.2")
REMOTE_DESKTOP = BootExemption(TCP, 0, 3389, IN)


def verdict(table, flow, direction):
    entry = table.lookup(flow, direction)
    return None if entry is None else entry.action


@pytest.mark.parametrize(("ever", "mode"), [(False, BootMode.PERMIT), (True, BootMode.STATEFUL)])
def test_the_mode_is_stateful_once_a_policy_was_assigned(ever, mode):
    assert default_mode(ever) is mode


def test_the_registrys_numbers():
    assert [mode.operation_mode for mode in BootMode] == [0, 1, 3]


def test_permit_lets_everything_pass():
    boot = compile_boot_table(BootMode.PERMIT, [REMOTE_DESKTOP])
    assert boot.table.filters == ()
    assert not boot.track_answers


@pytest.mark.parametrize("mode", [BootMode.BLOCK, BootMode.STATEFUL])
@pytest.mark.parametrize("addresses", [(ME, PEER), (ip_address("2001:db8::1"), ip_address("2001:db8::2"))])
def test_first_packets_from_outside_pass_by_an_exemption_only(mode, addresses):
    own, other = addresses
    boot = compile_boot_table(mode, [REMOTE_DESKTOP])
    assert boot.track_answers
    assert verdict(boot.table, Flow(other, own, TCP, 40000, 3389), IN) is Action.PERMIT
    assert verdict(boot.table, Flow(other, own, TCP, 3389, 40000), IN) is Action.BLOCK
    assert verdict(boot.table, Flow(other, own, TCP, 40000, 22), IN) is Action.BLOCK
    outbound = Action.PERMIT if mode is BootMode.STATEFUL else Action.BLOCK
    assert verdict(boot.table, Flow(own, other, TCP, 40000, 443), OUT) is outbound
    assert verdict(boot.table, Flow(own, other, TCP, 3389, 40000), OUT) is outbound


def test_an_outbound_exemption_opens_nothing_inbound():
    boot = compile_boot_table(BootMode.BLOCK, [BootExemption(TCP, 0, 389, OUT)])
    assert verdict(boot.table, Flow(ME, PEER, TCP, 40000, 389), OUT) is Action.PERMIT
    assert verdict(boot.table, Flow(PEER, ME, TCP, 389, 40000), IN) is Action.BLOCK


@pytest.mark.parametrize("mode", [BootMode.BLOCK, BootMode.STATEFUL])
def test_dhcp_and_neighbour_discovery_pass(mode):
    table = compile_boot_table(mode).table
    anybody, everybody = ip_address("0.0.0.0"), ip_address("255.255.255.255")
    assert verdict(table, Flow(anybody, everybody, UDP, 68, 67), OUT) is Action.PERMIT
    assert verdict(table, Flow(PEER, everybody, UDP, 67, 68), IN) is Action.PERMIT
    assert verdict(table, Flow(PEER, ME, UDP, 68, 67), IN) is Action.BLOCK
    link, group = ip_address("fe80::1"), ip_address("ff02::1:ff00:1")
    assert verdict(table, Flow(link, group, ICMPV6), IN) is Action.PERMIT
    assert verdict(table, Flow(link, ip_address("fe80::2"), UDP, 546, 547), OUT) is Action.PERMIT
    assert verdict(table, Flow(ip_address("2001:db8::9"), ip_address("2001:db8::1"), ICMPV6), IN) is (
        Action.BLOCK
    )


# ---- words
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tcp:0:3389:inbound", REMOTE_DESKTOP),
        (" TCP : 0 : 3389 : Inbound ", REMOTE_DESKTOP),
        ("17:53:0:OUTBOUND", BootExemption(UDP, 53, 0, OUT)),
        ("any:0:0:inbound", BootExemption(0, 0, 0, IN)),
        ("icmp:0:0:outbound", BootExemption(1, 0, 0, OUT)),
    ],
)
def test_exemptions_are_read_as_netsh_writes_them(text, expected):
    assert BootExemption.parse(text) == expected
    assert BootExemption.parse(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tcp",
        "tcp:0:3389",
        "tcp:0:3389:inbound:more",
        "tcp:0:3389:sideways",
        "tcp:0:65536:inbound",
        "tcp:-1:1:inbound",
        "tcp:x:1:inbound",
        "tpc:0:1:inbound",
        "256:0:0:inbound",
        "icmp:0:80:inbound",
        "tcp:٣:1:inbound",
        "tcp:99999999999999999999:1:inbound",
    ],
)
def test_what_is_no_exemption_is_refused_with_its_text(text):
    with pytest.raises(CallerError) as caught:
        BootExemption.parse(text)
    assert f"“{text[:60]}”" in str(caught.value)


def test_lists_of_exemptions():
    two = parse_exemptions("tcp:0:3389:inbound, udp:0:53:outbound tcp:0:3389:inbound")
    assert [str(entry) for entry in two] == ["tcp:0:3389:inbound", "udp:0:53:outbound"]
    assert parse_exemptions("none") == parse_exemptions("") == ()
    with pytest.raises(CallerError, match="more than"):
        parse_exemptions(" ".join(["tcp:0:1:inbound"] * 2000))


@given(st.text(max_size=80))
def test_any_text_gives_exemptions_or_an_error_for_the_caller(text):
    try:
        found = parse_exemptions(text)
    except CallerError:
        return
    assert all(isinstance(entry, BootExemption) for entry in found)


# ---- from boot to policy
def test_the_persistent_policy_stands_over_the_boot_table(policy_set):
    telnet = Filter(FilterAddress.me(), FilterAddress.any(), TCP, 0, 23)
    web = Filter(FilterAddress.any(), FilterAddress.me(), TCP, 0, 80)
    persistent = compile_table(
        [policy_set(("no", telnet, "block"), ("web", web, "permit"), store="persistent")], [ME]
    )
    both = stand_over(persistent, compile_boot_table(BootMode.STATEFUL, [REMOTE_DESKTOP]))
    assert both.track_answers
    assert both.mode is BootMode.STATEFUL
    assert verdict(both.table, Flow(ME, PEER, TCP, 40000, 23), OUT) is Action.BLOCK
    assert verdict(both.table, Flow(PEER, ME, TCP, 40000, 80), IN) is Action.PERMIT
    assert verdict(both.table, Flow(PEER, ME, TCP, 40000, 81), IN) is Action.BLOCK
    assert verdict(both.table, Flow(PEER, ME, TCP, 40000, 3389), IN) is Action.PERMIT
    assert verdict(both.table, Flow(ME, PEER, TCP, 40000, 443), OUT) is Action.PERMIT
    assert persistent.ids <= both.table.ids


def test_no_persistent_policy_leaves_the_boot_table_as_it_is():
    boot = compile_boot_table(BootMode.BLOCK, [REMOTE_DESKTOP])
    assert stand_over(FilterTable(), boot).table.filters == boot.table.filters


def test_an_unreadable_persistent_store_means_block():
    boot = when_persistent_is_unreadable([REMOTE_DESKTOP])
    assert boot.mode is BootMode.BLOCK
    assert verdict(boot.table, Flow(ME, PEER, TCP, 40000, 443), OUT) is Action.BLOCK
    assert verdict(boot.table, Flow(PEER, ME, TCP, 40000, 3389), IN) is Action.PERMIT
