"""What the kernel sends over XFRM netlink, as objects of `xfrm`; `HostError(DRIVER_FAILED)` for what it never
sends."""

import socket
from ipaddress import ip_address, ip_network
from struct import Struct

from stockade.model.addresses import Address, Network
from stockade.model.reasons import ReasonCode, StockadeError, error_for
from stockade.wire import xfrm_layout as layout
from stockade.wire.netlink import decode_attributes, decode_number, unpack_fixed
from stockade.wire.xfrm import (
    Acquired,
    Algorithm,
    Attribute,
    Encapsulation,
    Expired,
    Limits,
    Mapped,
    Offload,
    OffloadFlag,
    Policy,
    PolicyAction,
    PolicyDirection,
    PolicyStatistics,
    SaStatistics,
    State,
    StateFlag,
    Template,
    Usage,
    XfrmMode,
    XfrmSelector,
)


def decode_state(body: bytes) -> State:
    """The body of a NEW_SA message."""
    fields = _unpack(layout.STATE, body)
    attributes = decode_attributes(body[layout.STATE.size :])
    return _state(fields, attributes)


def _state(fields: tuple[bytes | int, ...], attributes: dict[int, bytes]) -> State:
    selector, identity, source, limits, current = (_bytes(part) for part in fields[:5])
    misses, replays, failures, _, request_id, family, mode, window, flags = (
        _int(part) for part in fields[5:]
    )
    version = _version(family)
    destination, spi, protocol = layout.ID.unpack(identity)
    size, packets, added, first_used = layout.CURRENT.unpack(current)
    last_used = attributes.get(Attribute.LAST_USED)
    esn = attributes.get(Attribute.REPLAY_ESN)
    if esn is not None:
        window = unpack_fixed(layout.REPLAY_ESN, esn)[5]
    return State(
        selector=_decode_selector(selector),
        source=_address(source, version),
        destination=_address(destination, version),
        spi=int.from_bytes(spi, "big"),
        protocol=protocol,
        request_id=request_id,
        mode=_mode(mode),
        limits=Limits(*layout.LIFETIME.unpack(limits)),
        window=window,
        flags=StateFlag(flags),
        encryption=_encryption(attributes),
        integrity=_integrity(attributes),
        encapsulation=_encapsulation(attributes),
        offload=_offload(attributes),
        mark=_mark(attributes),
        usage=Usage(
            size,
            packets,
            added,
            first_used,
            unpack_fixed(layout.U64, last_used)[0] if last_used is not None else first_used,
            replays,
            misses,
            failures,
        ),
    )


def decode_policy(body: bytes) -> Policy:
    """The body of a NEW_POLICY message."""
    fields = _unpack(layout.POLICY, body)
    return _policy(fields, decode_attributes(body[layout.POLICY.size :]))


def _policy(fields: tuple[bytes | int, ...], attributes: dict[int, bytes]) -> Policy:
    selector, limits, _ = (_bytes(part) for part in fields[:3])
    priority, index, direction, action, _, _ = (_int(part) for part in fields[3:])
    decoded = _decode_selector(selector)
    if decoded is None or direction > max(PolicyDirection) or action > max(PolicyAction):
        raise _malformed("policy")
    return Policy(
        selector=decoded,
        direction=PolicyDirection(direction),
        action=PolicyAction(action),
        priority=priority,
        templates=_templates(attributes),
        limits=Limits(*layout.LIFETIME.unpack(limits)),
        index=index,
        mark=_mark(attributes),
    )


def decode_acquire(body: bytes) -> Acquired:
    """The body of an ACQUIRE message."""
    fields = _unpack(layout.ACQUIRE, body)
    identity, source, selector, policy = (_bytes(part) for part in fields[:4])
    decoded = _decode_selector(selector)
    if decoded is None:
        raise _malformed("acquire")
    attributes = decode_attributes(body[layout.ACQUIRE.size :])
    return Acquired(
        source=_address(source, decoded.version),
        destination=_address(layout.ID.unpack(identity)[0], decoded.version),
        selector=decoded,
        policy=_policy(layout.POLICY.unpack(policy), {}),
        templates=_templates(attributes),
        sequence=_int(fields[7]),
    )


def decode_expire(body: bytes) -> Expired:
    """The body of an EXPIRE message."""
    fields = _unpack(layout.EXPIRE, body)
    attributes = decode_attributes(body[layout.EXPIRE.size :])
    return Expired(_state(layout.STATE.unpack(_bytes(fields[0])), attributes), bool(fields[1]))


def decode_mapping(body: bytes) -> Mapped:
    """The body of a MAPPING message."""
    destination, spi, family, protocol, _, old, new, old_port, port = _unpack(layout.MAPPING, body)
    version = _version(_int(family))
    return Mapped(
        _address(_bytes(destination), version),
        int.from_bytes(_bytes(spi), "big"),
        _int(protocol),
        _address(_bytes(old), version),
        int.from_bytes(_bytes(old_port), "big"),
        _address(_bytes(new), version),
        int.from_bytes(_bytes(port), "big"),
    )


def decode_sa_statistics(body: bytes) -> SaStatistics:
    """The body of a NEW_SA_STATISTICS message."""
    attributes = _statistics(body)
    buckets, most = unpack_fixed(layout.MARK, attributes.get(2, b""))
    return SaStatistics(decode_number(attributes.get(1, b"")), buckets, most)


def decode_policy_statistics(body: bytes) -> PolicyStatistics:
    """The body of a NEW_POLICY_STATISTICS message."""
    inbound, outbound, forward, *sockets = unpack_fixed(layout.SPD_INFO, _statistics(body).get(1, b""))
    return PolicyStatistics(inbound, outbound, forward, sum(sockets))


# ---- parts


def _statistics(body: bytes) -> dict[int, bytes]:
    unpack_fixed(layout.U32, body)
    return decode_attributes(body[layout.U32.size :])


def _templates(attributes: dict[int, bytes]) -> tuple[Template, ...]:
    packed = attributes.get(Attribute.TEMPLATES, b"")
    if len(packed) % layout.TEMPLATE.size:
        raise _malformed("template")
    return tuple(_template(fields) for fields in layout.TEMPLATE.iter_unpack(packed))


def _template(fields: tuple[bytes | int, ...]) -> Template:
    destination, _, protocol = layout.ID.unpack(_bytes(fields[0]))
    version = _version(_int(fields[1]))
    return Template(
        protocol=protocol,
        mode=_mode(_int(fields[4])),
        request_id=_int(fields[3]),
        version=version,
        source=_address_or_none(_bytes(fields[2]), version),
        destination=_address_or_none(destination, version),
        optional=bool(fields[6]),
    )


def _encryption(attributes: dict[int, bytes]) -> Algorithm | None:
    aead = attributes.get(Attribute.ALGORITHM_AEAD)
    if aead is not None:
        name, _, icv_bits = _unpack(layout.ALGORITHM_WITH_ICV, aead)
        return Algorithm(_name(name), icv_bits=_int(icv_bits), is_aead=True)
    cipher = attributes.get(Attribute.ALGORITHM_ENCRYPTION)
    return Algorithm(_name(_unpack(layout.ALGORITHM, cipher)[0])) if cipher is not None else None


def _integrity(attributes: dict[int, bytes]) -> Algorithm | None:
    truncated = attributes.get(Attribute.ALGORITHM_AUTHENTICATION_TRUNCATED)
    if truncated is not None:
        name, _, icv_bits = _unpack(layout.ALGORITHM_WITH_ICV, truncated)
        return Algorithm(_name(name), icv_bits=_int(icv_bits))
    whole = attributes.get(Attribute.ALGORITHM_AUTHENTICATION)
    return Algorithm(_name(_unpack(layout.ALGORITHM, whole)[0])) if whole is not None else None


def _encapsulation(attributes: dict[int, bytes]) -> Encapsulation | None:
    packed = attributes.get(Attribute.ENCAPSULATION)
    if packed is None:
        return None
    _, source_port, destination_port, _ = _unpack(layout.ENCAPSULATION, packed)
    return Encapsulation(_big_endian(source_port), _big_endian(destination_port))


def _offload(attributes: dict[int, bytes]) -> Offload | None:
    packed = attributes.get(Attribute.OFFLOAD_DEVICE)
    if packed is None:
        return None
    interface, flags = unpack_fixed(layout.OFFLOAD, packed)
    return Offload(interface, OffloadFlag(flags))


def _mark(attributes: dict[int, bytes]) -> tuple[int, int] | None:
    packed = attributes.get(Attribute.MARK)
    if packed is None:
        return None
    value, mask = unpack_fixed(layout.MARK, packed)
    return value, mask


def _decode_selector(packed: bytes) -> XfrmSelector | None:
    """None for the selector that matches everything of any family (its family is 0)."""
    fields = layout.SELECTOR.unpack(packed)
    destination, source, port_to, mask_to, port_from, mask_from, family, to_bits, from_bits = fields[:9]
    if family == socket.AF_UNSPEC:
        return None
    version = _version(family)
    if max(to_bits, from_bits) > (32 if version == 4 else 128):
        raise _malformed("selector")
    return XfrmSelector(
        _network(source, from_bits, version),
        _network(destination, to_bits, version),
        fields[9],
        int.from_bytes(port_from, "big") & int.from_bytes(mask_from, "big"),
        int.from_bytes(port_to, "big") & int.from_bytes(mask_to, "big"),
        fields[10],
    )


def _network(packed: bytes, bits: int, version: int) -> Network:
    return ip_network((_address(packed, version), bits), strict=False)


def _address(packed: bytes, version: int) -> Address:
    return ip_address(packed[: 4 if version == 4 else 16])


def _address_or_none(packed: bytes, version: int) -> Address | None:
    return _address(packed, version) if any(packed) else None


def _version(family: int) -> int:
    version = layout.VERSION_OF.get(family)
    if version is None:
        raise _malformed("address family")
    return version


def _mode(mode: int) -> XfrmMode:
    if mode not in (0, 1):
        raise _malformed("mode")
    return XfrmMode(mode)


def _name(packed: bytes | int) -> str:
    return _bytes(packed).partition(b"\0")[0].decode("ascii", "replace")


def _unpack(layout: Struct, body: bytes) -> tuple[bytes | int, ...]:
    unpack_fixed(layout, body)  # refuses what is too short
    return layout.unpack_from(body)


def _bytes(part: bytes | int) -> bytes:
    assert isinstance(part, bytes)
    return part


def _int(part: bytes | int) -> int:
    assert isinstance(part, int)
    return part


def _big_endian(part: bytes | int) -> int:
    return int.from_bytes(_bytes(part), "big")


def _malformed(what: str) -> StockadeError:
    return error_for(ReasonCode.DRIVER_FAILED, f"the kernel sent an XFRM {what} that cannot be")
