"""The filter table as an nftables table, replaced in one transaction.

    chain prerouting   what the TUN device brings gets the SECURE mark (see `system`: reverse-path filter)
    chain output       own packets pass; then the outbound filters, heaviest first:
                       permit: accept · block: drop · negotiate: mark SECURE, and the kernel routes it anew
    chain guard        (postrouting) what is marked SECURE leaves by the TUN device or not at all
    chain input        what the TUN device brings passes, ESP and AH (nft looks behind the AH of IPv6); then
    the inbound filters, heaviest first:
                       permit: accept · block: drop · negotiate: drop, or accept where clear may come in
                       (inpass)

So permitted traffic never leaves the kernel, blocked traffic dies in it, and with the agent killed the chains
go on: nothing that needs security passes in clear. Forwarded traffic is left alone but for tunnels
(`_forwarding`). Each filter has a named counter, `f_` and its id. Loopback is never touched, as in Windows.

IPv6 fragments meet the input chain one by one. Later ones have no ports and pass: without the first, which is
asked about (and which the kernel wants to hold the whole upper header, RFC 7112), nothing comes of them.

Left out: sets and maps. Filters are rules in their order, which is easy to read in `nft list table inet
stockade` and costs the kernel some nanoseconds a filter and packet.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Set
from types import MappingProxyType
from typing import Final

from stockade.driver.contract import FilterCounters
from stockade.driver.limits import secures_ipv6, tunnels_of
from stockade.driver.userspace.system import DEVICE, LOG_GROUP, MARK_MASK, OWN_MARK, SECURE_MARK
from stockade.model.addresses import AddressRange
from stockade.model.filters import Action, Direction, FilterTable, SpecificFilter
from stockade.model.reasons import ReasonCode, error_for
from stockade.model.traffic import TrafficSelector

TABLE: Final = "stockade"
SECONDS: Final = 60.0
COUNTER_PREFIX: Final = "f_"
_PATH: Final = "/usr/sbin:/sbin:/usr/bin:/bin"

_HEAD: Final = f"""\
table inet {TABLE} {{
}}
delete table inet {TABLE}
table inet {TABLE} {{
"""

_TUNNEL_INBOUND: Final = MappingProxyType(
    {Action.PERMIT: "return", Action.BLOCK: "drop", Action.NEGOTIATE: "goto clear_refused"}
)
_NEIGHBOUR_DISCOVERY: Final = "\t\ticmpv6 type 133-137 ip6 hoplimit 255 accept\n"


def program() -> str:
    """Where `nft` is; `HostError(MISSING_PROGRAM)` without it."""
    found = shutil.which("nft", path=_PATH) or shutil.which("nft")
    if found is None:
        raise error_for(
            ReasonCode.MISSING_PROGRAM, "nft classifies the packets", program="nft", package="nftables"
        )
    return found


def render(table: FilterTable) -> str:
    """The transaction that makes `table` the one in force, as input of `nft -f`."""
    lines = [_HEAD]
    lines += [f"\tcounter {COUNTER_PREFIX}{entry.id} {{ }}\n" for entry in table.filters]
    discovery = _NEIGHBOUR_DISCOVERY if secures_ipv6(table) else ""
    secure = f"meta mark set meta mark & {~MARK_MASK & 0xFFFF_FFFF:#010x} | {SECURE_MARK:#010x}"
    lines.append(
        f"""\
	chain clear_refused {{
		limit rate 100/second burst 100 packets log group {LOG_GROUP} snaplen 40
		drop
	}}
	chain prerouting {{
		type filter hook prerouting priority raw; policy accept;
		iifname "{DEVICE}" {secure}
	}}
	chain output {{
		type route hook output priority mangle; policy accept;
		meta mark & {MARK_MASK:#010x} == {OWN_MARK:#010x} accept
		oifname "lo" accept
{discovery}"""
    )
    verdicts = {Action.PERMIT: "accept", Action.BLOCK: "drop", Action.NEGOTIATE: f"{secure} accept"}
    lines += _rules(table, Direction.OUTBOUND, verdicts)
    lines.append("\t}\n")
    tunnels = frozenset(tunnels_of(table))
    if tunnels:
        lines += _forwarding(table, secure, tunnels)
    lines.append(
        f"""\
	chain guard {{
		type filter hook postrouting priority raw; policy accept;
		meta mark & {MARK_MASK:#010x} == {SECURE_MARK:#010x} oifname != "{DEVICE}" drop
	}}
	chain input {{
		type filter hook input priority filter; policy accept;
		iifname {{ "lo", "{DEVICE}" }} accept
		meta l4proto {{ esp, ah }} accept
		ip6 nexthdr ah accept
		frag nexthdr ah accept
		frag frag-off != 0 accept
{discovery}"""
    )
    verdicts = {Action.PERMIT: "accept", Action.BLOCK: "drop", Action.NEGOTIATE: "goto clear_refused"}
    lines += _rules(table, Direction.INBOUND, verdicts)
    lines.append("\t}\n}\n")
    return "".join(lines)


def _forwarding(table: FilterTable, secure: str, tunnels: Set[str]) -> Iterator[str]:
    """Forwarded traffic, by the tunnel filters and those that stand above them; the rest is left alone.

    Before routing, for the mark decides the way. What came out of a tunnel has the mark too and is routed
    without it (see `system`); it is taken off before the guard sees it."""
    unmark = f"meta mark set meta mark & {~MARK_MASK & 0xFFFF_FFFF:#010x}"
    yield "\tchain forwarded_inbound {\n"
    yield from _rules(table, Direction.INBOUND, _TUNNEL_INBOUND, tunnels)
    yield "\t}\n\tchain forwarded_outbound {\n"
    verdicts = {Action.PERMIT: "accept", Action.BLOCK: "drop", Action.NEGOTIATE: f"{secure} accept"}
    yield from _rules(table, Direction.OUTBOUND, verdicts, tunnels)
    yield f"""\
	}}
	chain before_forwarding {{
		type filter hook prerouting priority mangle; policy accept;
		iifname {{ "lo", "{DEVICE}" }} accept
		fib daddr type != unicast accept
		jump forwarded_inbound
		goto forwarded_outbound
	}}
	chain forward {{
		type filter hook forward priority raw; policy accept;
		iifname "{DEVICE}" {unmark} accept
	}}
"""


def install(text: str) -> None:
    """Run a transaction of `render`; all or nothing, `HostError(DRIVER_FAILED)` for nothing."""
    _run(["-f", "-"], text)


def remove() -> None:
    """Delete the table if there is one."""
    _run(["-f", "-"], f"table inet {TABLE} {{\n}}\ndelete table inet {TABLE}\n")


def read_counters() -> tuple[FilterCounters, ...]:
    """Packets and bytes of each filter of the table that is in the kernel; empty without one."""
    try:
        text = _run(["-j", "list", "counters", "table", "inet", TABLE], "")
        entries = json.loads(text)["nftables"]
        return tuple(_counters(entries))
    except (ValueError, KeyError, TypeError):
        raise error_for(ReasonCode.DRIVER_FAILED, "nft printed counters that cannot be read") from None


def _counters(entries: list[Mapping[str, Mapping[str, object]]]) -> Iterator[FilterCounters]:
    for entry in entries:
        counter = entry.get("counter")
        if counter is None:
            continue
        name, packets, size = counter["name"], counter["packets"], counter["bytes"]
        if isinstance(name, str) and isinstance(packets, int) and isinstance(size, int):
            yield FilterCounters(name.removeprefix(COUNTER_PREFIX), packets, size)


def _rules(
    table: FilterTable,
    direction: Direction,
    verdicts: Mapping[Action, str],
    tunnels: Set[str] | None = None,
) -> Iterator[str]:
    """With `tunnels` for forwarded traffic: what other negotiations say is not for it."""
    for entry in table.filters:
        if entry.direction is direction:
            verdict = "accept" if _lets_clear_in(entry) else verdicts[entry.action]
            if tunnels is not None and entry.negotiation is not None and entry.negotiation not in tunnels:
                verdict = verdicts[Action.PERMIT]
            yield f"\t\t{_match(entry.selector)} counter name {COUNTER_PREFIX}{entry.id} {verdict}\n"


def _lets_clear_in(entry: SpecificFilter) -> bool:
    return entry.direction is Direction.INBOUND and entry.action is Action.NEGOTIATE and entry.accept_clear


def _match(selector: TrafficSelector) -> str:
    """Ports are not looked for in later fragments: nft finds no transport header there, so such a rule does
    not match, as `TrafficSelector.matches` says too."""
    family = "ip" if selector.version == 4 else "ip6"
    parts = [f"meta nfproto ipv{selector.version}"]
    parts += [
        f"{family} {name} {_addresses(addresses)}"
        for name, addresses in (("saddr", selector.source), ("daddr", selector.destination))
        if not addresses.is_everything
    ]
    if selector.protocol:
        parts.append(f"meta l4proto {selector.protocol}")
    if selector.source_port:
        parts.append(f"th sport {selector.source_port}")
    if selector.destination_port:
        parts.append(f"th dport {selector.destination_port}")
    return " ".join(parts)


def _addresses(addresses: AddressRange) -> str:
    if addresses.is_host or addresses.prefix_length is not None:
        return str(addresses)
    return f"{addresses.first}-{addresses.last}"


def _run(arguments: list[str], text: str) -> str:
    try:
        result = subprocess.run(
            [program(), *arguments],
            input=text,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise error_for(ReasonCode.DRIVER_FAILED, "nft did not finish", seconds=SECONDS) from None
    except OSError as error:
        raise error_for(ReasonCode.DRIVER_FAILED, f"nft could not be run: {error.strerror}") from None
    if result.returncode == 0:
        return result.stdout
    message = (result.stderr.strip().splitlines() or [f"exit status {result.returncode}"])[0]
    if "Operation not permitted" in message:
        raise error_for(ReasonCode.NOT_PRIVILEGED, "nft")
    raise error_for(ReasonCode.DRIVER_FAILED, f"nft: {message}")
