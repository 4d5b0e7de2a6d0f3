"""Whether a data plane can do what is asked of it: the checks that every driver makes before it changes
anything."""

from functools import cache
from ipaddress import IPv6Address

from stockade.crypto.registry import integrity_algorithm
from stockade.model.addresses import Address
from stockade.model.capabilities import Capabilities
from stockade.model.filters import Action, Direction, FilterTable
from stockade.model.negotiation import Mode
from stockade.model.reasons import ReasonCode, StockadeError, error_for
from stockade.model.sa import SecurityAssociation
from stockade.model.suites import Encryption, Gmac, Hash, Integrity
from stockade.wire.udp_encapsulation import NAT_TRAVERSAL_PORT

SOFTWARE_ENCRYPTIONS = frozenset(Encryption)
SOFTWARE_INTEGRITIES: frozenset[Integrity] = frozenset({*Hash, *Gmac})


@cache
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


def registered_kernel_capabilities() -> Capabilities:
    """What a kernel with everything built in has, by the registry: for questions about a computer that is not
    this one. AH with GMAC is missing: the kernel's RFC 4543 is a cipher of ESP (`probe` says the same)."""
    return Capabilities(
        name="kernel",
        modes=frozenset(Mode),
        encryptions=SOFTWARE_ENCRYPTIONS,
        integrities=frozenset(
            entry for entry in SOFTWARE_INTEGRITIES if integrity_algorithm(entry).xfrm_name
        ),
        authentication_header=True,
        ip_versions=frozenset({4, 6}),
        extended_sequence=True,
        udp_versions=frozenset({4, 6}),
        protocol_choice=False,  # a policy's template names its protocols
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
        refused = capabilities.refusal_of(table.negotiations[entry.negotiation])
        if refused is not None:
            text, method = refused
            raise error_for(
                ReasonCode.DRIVER_LACKS, text, rule=rule, **({} if method is None else {"method": method})
            )


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


def _lacks(capabilities: Capabilities, what: str, **facts: object) -> StockadeError:
    return error_for(ReasonCode.DRIVER_LACKS, capabilities.lacks(what), **facts)
