"""Security associations as XFRM states, and what the kernel counts for them. Pure.

Ours carry STOCKADE as their hard limit in packets, which no SA reaches: the kernel refuses to send when the
32-bit sequence numbers are used up, and the soft limit asks for a rekey before that."""

import math
from typing import Final

from stockade.crypto.registry import encryption_algorithm, integrity_algorithm
from stockade.driver.kernel.policies import MODES, OWNER
from stockade.model.addresses import AddressRange, Network
from stockade.model.capabilities import Capabilities
from stockade.model.filters import Direction
from stockade.model.negotiation import Mode
from stockade.model.reasons import ReasonCode, error_for
from stockade.model.sa import Lifetime, SecurityAssociation
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, Integrity
from stockade.model.traffic import AH, ESP, TrafficSelector
from stockade.wire.xfrm import (
    INFINITY,
    LEGACY_WINDOW,
    NO_FLAGS,
    Algorithm,
    Encapsulation,
    Limits,
    Offload,
    State,
    StateFlag,
    XfrmMode,
    XfrmSelector,
)

SEQUENCE_REKEY: Final = 0xF000_0000
"""Packets after which a rekey is asked for, whatever the lifetimes say."""


def state_of(sa: SecurityAssociation, request_id: int, offload: Offload | None = None) -> State:
    """The state of one direction."""
    encryption, integrity = None, None
    if sa.esp is not None:
        encryption = encryption_of(sa.esp.encryption, sa.encryption_key)
        if sa.esp.integrity is not None:
            integrity = integrity_of(sa.esp.integrity, sa.integrity_key)
    elif sa.ah is not None:
        integrity = integrity_of(sa.ah, sa.integrity_key)
    # Around a tunnel of ESP stands AH in transport mode, between the gateways and for whatever is inside.
    around = sa.ah is not None and sa.bundle is not None and sa.mode is Mode.TUNNEL
    flags = StateFlag.EXTENDED_SEQUENCE if sa.extended_sequence else NO_FLAGS
    if sa.esp is None and sa.source.version == 4:
        # Otherwise the kernel pads AH to 8 bytes, as in IPv6, and refuses what RFC 4302 §3.3.3.2.1 wants: 4.
        flags |= StateFlag.ALIGN_4
    return State(
        selector=None if around else _selector(sa.selector),
        source=sa.source,
        destination=sa.destination,
        spi=sa.spi,
        protocol=ESP if sa.esp is not None else AH,
        request_id=request_id,
        mode=XfrmMode.TRANSPORT if around else MODES[sa.mode],
        limits=limits_of(sa.lifetime, extended=sa.extended_sequence),
        window=_window(sa),
        flags=flags | StateFlag.ANY_FAMILY if around else flags,
        encryption=encryption,
        integrity=integrity,
        encapsulation=Encapsulation(sa.udp.source_port, sa.udp.destination_port)
        if sa.udp is not None
        else None,
        offload=offload,
    )


def _window(sa: SecurityAssociation) -> int:
    """An outbound SA has no replay window, but the kernel wants one where numbers are extended."""
    if sa.direction is Direction.INBOUND:
        return sa.replay_window
    return LEGACY_WINDOW if sa.extended_sequence else 0


def is_ours(state: State) -> bool:
    return state.limits.hard_packets == OWNER


def encryption_of(encryption: Encryption, key: Secret) -> Algorithm:
    """The cipher in the kernel's words. The key of a combined mode ends with its salt."""
    row = encryption_algorithm(encryption)
    if encryption.is_aead:
        return Algorithm(row.xfrm_name, key, 8 * row.icv_size, is_aead=True)
    return Algorithm(row.xfrm_name, key)


def integrity_of(integrity: Integrity, key: Secret) -> Algorithm:
    row = integrity_algorithm(integrity)
    return Algorithm(row.xfrm_name, key, 8 * row.icv_size)


def limits_of(lifetime: Lifetime, *, extended: bool = False) -> Limits:
    """Whole seconds, rounded up: an SA never ends before the time that was agreed on. With `extended`
    sequence numbers there are enough for ever."""
    return Limits(
        soft_bytes=INFINITY if lifetime.soft_bytes is None else lifetime.soft_bytes,
        hard_bytes=INFINITY if lifetime.hard_bytes is None else lifetime.hard_bytes,
        soft_packets=INFINITY if extended else SEQUENCE_REKEY,
        hard_packets=OWNER,
        soft_seconds=_seconds(lifetime.soft_seconds),
        hard_seconds=_seconds(lifetime.hard_seconds),
    )


def check_sa(sa: SecurityAssociation, capabilities: Capabilities) -> None:
    """`CallerError(DRIVER_LACKS)` if this kernel cannot hold such an SA."""
    missing = None
    if sa.mode not in capabilities.modes:
        missing = f"{sa.mode} mode"
    elif sa.source.version != sa.destination.version or sa.source.version not in capabilities.ip_versions:
        missing = f"security between {sa.source} and {sa.destination}"
    elif sa.ah is not None and not capabilities.authentication_header:
        missing = "AH"
    elif sa.ah is not None and sa.ah not in capabilities.integrities:
        missing = f"AH with {sa.ah}"
    elif sa.esp is not None and sa.esp.encryption not in capabilities.encryptions:
        missing = str(sa.esp.encryption)
    elif (
        sa.esp is not None
        and sa.esp.integrity is None
        and not sa.esp.encryption.is_aead
        and sa.bundle is None
    ):
        missing = "ESP without integrity"
    elif sa.esp is not None and sa.esp.integrity not in (None, *capabilities.integrities):
        missing = str(sa.esp.integrity)
    elif sa.udp is not None and sa.bundle is not None:
        missing = "AH through a NAT"
    elif sa.udp is not None and sa.source.version not in capabilities.udp_versions:
        missing = f"ESP in UDP over IPv{sa.source.version}"
    elif sa.extended_sequence and not capabilities.extended_sequence:
        missing = "extended sequence numbers"
    if missing is not None:
        raise error_for(
            ReasonCode.DRIVER_LACKS,
            capabilities.lacks(missing),
            spi=f"{sa.spi:#010x}",
            peer=sa.peer,
        )


def _seconds(seconds: float | None) -> int:
    return 0 if seconds is None else max(1, math.ceil(seconds))


def _selector(selector: TrafficSelector) -> XfrmSelector:
    return XfrmSelector(
        _covering(selector.source),
        _covering(selector.destination),
        selector.protocol,
        selector.source_port,
        selector.destination_port,
    )


def _covering(addresses: AddressRange) -> Network:
    """The smallest prefix that holds the range. Where it holds more, the policies (which are exact) still
    decide what the SA is used for and what it lets in."""
    different = int(addresses.first) ^ int(addresses.last)
    length = addresses.bits - different.bit_length()
    network = next(AddressRange.host(addresses.first).networks())
    return network.supernet(new_prefix=length) if length < addresses.bits else network
