"""Whether a data plane can do what is asked of it: the checks that every driver makes before it changes
anything."""

from dataclasses import replace
from ipaddress import IPv6Address
from types import MappingProxyType

from stockade.driver.contract import Capabilities
from stockade.model.addresses import Address
from stockade.model.filters import Action, Direction, FilterTable
from stockade.model.negotiation import Mode, Negotiation
from stockade.model.reasons import ReasonCode, StockadeError, error_for
from stockade.model.sa import SecurityAssociation
from stockade.model.suites import Encryption, Gmac, Hash, Integrity, QuickModeProposal
from stockade.wire.udp_encapsulation import NAT_TRAVERSAL_PORT

SOFTWARE_ENCRYPTIONS = frozenset(Encryption)
SOFTWARE_INTEGRITIES: frozenset[Integrity] = frozenset({*Hash, *Gmac})


def software_capabilities(name: str, ip_versions: frozenset[int] = frozenset({4, 6})) -> Capabilities:
    """What `datapath` can do: ESP, AH and AH over ESP in both modes, every suite that the model names.
    `ip_versions` is what the host has."""
    return Capabilities(
        name=name,
        modes=frozenset(Mode),
        encryptions=SOFTWARE_ENCRYPTIONS,
        integrities=SOFTWARE_INTEGRITIES,
        authentication_header=True,
        ip_versions=ip_versions,
        extended_sequence=True,
        udp_versions=ip_versions,
    )


def secures_ipv6(table: FilterTable) -> bool:
    """Whether a filter negotiates about IPv6: then neighbour discovery needs an exemption, and only then."""
    negotiate = Action.NEGOTIATE  # asked of every filter at every change: no step too many
    for entry in table.filters:
        if entry.action is negotiate and isinstance(entry.selector.source.first, IPv6Address):
            return True
    return False


def tunnels_of(table: FilterTable) -> dict[str, Address]:
    """The tunnel end points of the negotiations that ask for tunnel mode."""
    return {
        name: negotiation.quick_mode.tunnel_endpoint
        for name, negotiation in table.negotiations.items()
        if negotiation.quick_mode.tunnel_endpoint is not None
    }


def without_choice(table: FilterTable, capabilities: Capabilities) -> FilterTable:
    """The table as a data plane can have it whose rules each need one protocol: methods with other protocols
    than a rule's first one has are left out, with a warning. Never is anything secured less than by one of
    the rule's own methods; a peer that has only what is left out is refused."""
    if capabilities.protocol_choice:
        return table
    narrowed: dict[str, Negotiation] = {}
    for name, negotiation in table.negotiations.items():
        methods = negotiation.quick_mode.proposals
        kept = tuple(method for method in methods if _protocols(method) == _protocols(methods[0]))
        if len(kept) < len(methods):
            narrowed[name] = replace(negotiation, quick_mode=replace(negotiation.quick_mode, proposals=kept))
    if not narrowed:
        return table
    rules = {
        entry.negotiation: entry.provenance.rule for entry in table.filters if entry.negotiation in narrowed
    }
    warnings = tuple(
        f"rule {rules.get(name, name)!r} leaves open whether ESP, AH or both secure its traffic, which the"
        f" {capabilities.name} data plane cannot: only methods with {_protocols(one.quick_mode.proposals[0])}"
        " are used"
        for name, one in narrowed.items()
    )
    negotiations = MappingProxyType({**table.negotiations, **narrowed})
    return replace(table, negotiations=negotiations, warnings=(*table.warnings, *warnings))


def _protocols(method: QuickModeProposal) -> str:
    return " and ".join(word for word, part in (("ESP", method.esp), ("AH", method.ah)) if part is not None)


def check_table(table: FilterTable, capabilities: Capabilities) -> None:
    """`CallerError(DRIVER_LACKS)` with the rule's name if the table asks for more than the data plane can."""
    checked = set()
    for entry in table.filters:
        if entry.action is not Action.NEGOTIATE or entry.negotiation is None:
            continue
        rule = entry.provenance.rule
        if entry.selector.version not in capabilities.ip_versions:
            raise _lacks(capabilities, f"security for IPv{entry.selector.version}", rule=rule)
        if entry.negotiation in checked:
            continue
        checked.add(entry.negotiation)
        quick_mode = table.negotiations[entry.negotiation].quick_mode
        if quick_mode.mode not in capabilities.modes:
            raise _lacks(capabilities, f"{quick_mode.mode} mode", rule=rule)
        endpoint = quick_mode.tunnel_endpoint
        if endpoint is not None and endpoint.version not in capabilities.ip_versions:
            raise _lacks(capabilities, f"tunnel over IPv{endpoint.version}", rule=rule)
        for proposal in quick_mode.proposals:
            missing = _missing(proposal, capabilities)
            if missing is not None:
                raise _lacks(capabilities, missing, rule=rule, method=proposal)


def check_sa(sa: SecurityAssociation, capabilities: Capabilities) -> None:
    """`CallerError(DRIVER_LACKS)` if the data plane cannot hold such an SA."""
    missing = None
    if sa.mode not in capabilities.modes:
        missing = f"{sa.mode} mode"
    elif sa.udp is not None and sa.bundle is not None:
        missing = "AH through a NAT"
    elif sa.udp is not None and NAT_TRAVERSAL_PORT not in _own_port(sa):
        missing = "ESP in UDP at another port than 4500"
    elif sa.source.version != sa.destination.version or sa.source.version not in capabilities.ip_versions:
        missing = f"security between {sa.source} and {sa.destination}"
    elif sa.ah is not None:
        if not capabilities.authentication_header or sa.ah not in capabilities.integrities:
            missing = f"AH with {sa.ah}"
    elif sa.esp is None or sa.esp.encryption not in capabilities.encryptions:
        missing = "ESP" if sa.esp is None else str(sa.esp.encryption)
    elif not sa.esp.encryption.is_aead and sa.esp.integrity is None and sa.bundle is None:
        missing = "ESP without integrity"
    elif sa.esp.integrity is not None and sa.esp.integrity not in capabilities.integrities:
        missing = str(sa.esp.integrity)
    elif sa.extended_sequence and not capabilities.extended_sequence:
        missing = "extended sequence numbers"
    if missing is not None:
        raise _lacks(capabilities, missing, spi=f"{sa.spi:#010x}", peer=sa.peer)


def _own_port(sa: SecurityAssociation) -> tuple[int, ...]:
    """The port of this host in an SA with UDP: where its datagrams are looked for."""
    if sa.udp is None:
        return ()
    return (sa.udp.destination_port if sa.direction is Direction.INBOUND else sa.udp.source_port,)


def _missing(proposal: QuickModeProposal, capabilities: Capabilities) -> str | None:
    if proposal.ah is not None and not capabilities.authentication_header:
        return "AH"
    if proposal.ah is not None and proposal.ah not in capabilities.integrities:
        return f"AH with {proposal.ah}"
    if proposal.extended_sequence and not capabilities.extended_sequence:
        return "extended sequence numbers"
    if proposal.esp is None:
        return None
    if proposal.esp.encryption not in capabilities.encryptions:
        return str(proposal.esp.encryption)
    if proposal.esp.integrity is not None and proposal.esp.integrity not in capabilities.integrities:
        return str(proposal.esp.integrity)
    return None


def _lacks(capabilities: Capabilities, what: str, **facts: object) -> StockadeError:
    return error_for(ReasonCode.DRIVER_LACKS, f"the {capabilities.name} data plane has no {what}", **facts)
