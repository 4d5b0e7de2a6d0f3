"""The boot filters as nftables text: order, and nothing but drops below what was let through."""

from ipaddress import ip_address

from stockade.driver.boot_filters import TABLE, render
from stockade.model.addresses import AddressRange
from stockade.model.filters import Action, Direction, FilterTable, Provenance
from stockade.model.traffic import TrafficSelector
from stockade.policy.boot import BootMode, compile_boot_table, parse_exemptions, stand_over
from stockade.policy.specific import make_filter

PEER = AddressRange.host(ip_address("10.0.0.9"))
EVERYTHING = AddressRange.everything(4)


def chain(text, name):
    return [line.strip() for line in text.split(f"chain {name} {{")[1].split("\n\t}")[0].splitlines()]


def test_the_persistent_policy_decides_before_conversations_and_these_before_the_boot_filters():
    where = Provenance("persistent", "Always", "no telnet")
    selector = TrafficSelector(EVERYTHING, PEER, 6, 0, 23)
    blocked = make_filter(selector, Direction.OUTBOUND, Action.BLOCK, 5, where)
    boot = compile_boot_table(BootMode.STATEFUL, parse_exemptions("tcp:0:3389:inbound"))
    text = render(stand_over(FilterTable((blocked,), policy_name="Always"), boot).table)
    output = chain(text, "output")
    mine = next(index for index, line in enumerate(output) if "10.0.0.9" in line)
    tracked = next(index for index, line in enumerate(output) if line.startswith("ct state"))
    assert mine < tracked
    assert output[mine].endswith("drop")
    inbound = chain(text, "input")
    assert any("dport 3389 accept" in line for line in inbound)
    assert inbound[-1].endswith("drop")
    assert text.startswith(f"table inet {TABLE}")


def test_block_mode_drops_both_ways_and_lets_dhcp_and_neighbours_through():
    text = render(compile_boot_table(BootMode.BLOCK).table)
    for name in ("output", "input"):
        lines = chain(text, name)
        dropped = sorted(line for line in lines if line.endswith("drop"))
        assert dropped == ["meta nfproto ipv4 drop", "meta nfproto ipv6 drop"]
        assert any("l4proto 17" in line and "67" in line for line in lines)
