"""Will the computer lock itself out? What it needs before it can negotiate anything must not need a
negotiation.

    DNS       to find its peers and its domain          UDP and TCP 53
    Kerberos  to get the tickets that IKE presents      TCP and UDP 88
    DHCP      to keep its address                       UDP 68 → 67

Each is looked up in the compiled table as the first packet that the computer would send, towards the
servers that the facts name, or towards an address that stands for "some server" where none is known.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from stockade.model.addresses import Address
from stockade.model.filters import Action, Direction, FilterTable, SpecificFilter
from stockade.model.negotiation import Kerberos
from stockade.model.traffic import TCP, UDP, Flow, protocol_name
from stockade.policy.facts import HostFacts
from stockade.policy.findings import Finding, Lint, Severity

_SOME_SERVER = {4: ip_address("203.0.113.253"), 6: ip_address("2001:db8:ffff::fffd")}
_EPHEMERAL = 49_152


@dataclass(frozen=True, slots=True)
class _Need:
    """Traffic that the computer cannot do without. `word` as people call it; `servers` those that are
    known."""

    word: str
    protocol: int
    source_port: int
    port: int
    servers: tuple[Address, ...]
    consequence: str
    remedy: str


def lint_lockout(table: FilterTable, facts: HostFacts) -> tuple[Finding, ...]:
    """Findings about traffic without which the computer is lost."""
    found: dict[Finding, None] = {}
    for need in _needs(table, facts):
        for local in facts.local:
            servers = [server for server in need.servers if server.version == local.version]
            if not servers and need.servers:
                continue  # its servers are of the other family
            for server in servers or [_SOME_SERVER[local.version]]:
                finding = _stopped(table, need, local, server, bool(servers))
                if finding is not None:
                    found.setdefault(finding)
    return tuple(found)


def _needs(table: FilterTable, facts: HostFacts) -> Iterator[_Need]:
    for protocol in (UDP, TCP):
        yield _Need(
            f"DNS ({protocol_name(protocol).upper()} 53)",
            protocol,
            0,
            53,
            facts.dns_servers,
            "names cannot be resolved",
            "permit it: add filter filterlist=<list> srcaddr=me dstaddr=dns"
            f" protocol={protocol_name(protocol)} dstport=53, in a rule with a permit action",
        )
    if any(
        isinstance(method, Kerberos)
        for negotiation in table.negotiations.values()
        for method in negotiation.authentication
    ):
        for protocol in (TCP, UDP):
            yield _Need(
                f"Kerberos ({protocol_name(protocol).upper()} 88)",
                protocol,
                0,
                88,
                (),
                "the tickets for Kerberos authentication cannot be fetched",
                "permit traffic with the domain controllers, by address, in a rule of its own",
            )
    if any(address.version == 4 for address in facts.local):
        yield _Need(
            "DHCP (UDP 67)",
            UDP,
            68,
            67,
            facts.dhcp_servers,
            "the lease of the address cannot be renewed",
            "permit it: add filter filterlist=<list> srcaddr=me dstaddr=dhcp protocol=udp srcport=68"
            " dstport=67, in a rule with a permit action",
        )


def _stopped(table: FilterTable, need: _Need, local: Address, server: Address, known: bool) -> Finding | None:
    if need.port == 67 and local.version == 6:
        return None
    flow = Flow(local, server, need.protocol, need.source_port or _EPHEMERAL, need.port)
    entry = table.lookup(flow, Direction.OUTBOUND)
    back = table.lookup(flow.reversed(), Direction.INBOUND)
    for decides, way in ((entry, ""), (back, "the answers of ")):
        if decides is None or decides.action is Action.PERMIT:
            continue
        if not known and need.port == 88 and _permits_to_some(table, need):
            return None  # the domain controllers are permitted by address; which ones they are nobody told
        if not known and _permits_to_some(table, need):
            return None
        if decides.action is Action.NEGOTIATE and (decides.allow_soft or (way and decides.accept_clear)):
            return None
        verb = "blocks" if decides.action is Action.BLOCK else "secures"
        to = f" with {server}" if known else ""
        after = "" if decides.action is Action.BLOCK else " before a negotiation that may need it"
        text = f"“{decides}” {verb} {way}{need.word}{to}: {need.consequence}{after}"
        return Finding(Lint.LOCKOUT, text, decides.provenance, Severity.ERROR, need.remedy)
    return None


def _permits_to_some(table: FilterTable, need: _Need) -> bool:
    """Whether a written filter lets this traffic out to somebody."""
    return any(_permits(entry, need) for entry in table.filters)


def _permits(entry: SpecificFilter, need: _Need) -> bool:
    selector = entry.selector
    return (
        entry.action is Action.PERMIT
        and entry.direction is Direction.OUTBOUND
        and selector.protocol in (0, need.protocol)
        and selector.destination_port in (0, need.port)
        and selector.source_port in (0, need.source_port)
        and not selector.destination.first.is_multicast
    )
