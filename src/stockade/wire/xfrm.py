"""The XFRM messages of Linux: IPsec SAs and policies over netlink (linux/xfrm.h).

A message is one fixed structure, then attributes; `wire/netlink.py` has the framing.

    NEWSA, UPDSA        State              DELSA, GETSA           state_id(…)
    NEWPOLICY, UPDPOLICY Policy            DELPOLICY, GETPOLICY   policy_id(…)
    ALLOCSPI            allocate_spi(…)    MIGRATE                migrate(…)
    ACQUIRE             Acquired           EXPIRE                 Expired
    NEWSADINFO          SaStatistics       NEWSPDINFO             PolicyStatistics
    MAPPING             Mapped

Numbers are in the host's byte order, but for addresses, SPIs and ports, which are in the network's. `bytes`
here are the bodies behind the netlink header; `xfrm_decode` reads what the kernel sends. Selectors have
prefixes and port masks, not ranges: a range is several policies.

Left out: compression, security contexts, PF_KEY's leftovers, and decoding of keys: what comes back from the
kernel is never asked for its keys, so that a dump cannot leak them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag

from stockade.model.addresses import Address, Network
from stockade.model.secret import Secret
from stockade.wire import xfrm_layout as layout
from stockade.wire.netlink import encode_attributes


class MessageType(IntEnum):
    """XFRM_MSG_*."""

    NEW_SA = 0x10
    DELETE_SA = 0x11
    GET_SA = 0x12
    NEW_POLICY = 0x13
    DELETE_POLICY = 0x14
    GET_POLICY = 0x15
    ALLOCATE_SPI = 0x16
    ACQUIRE = 0x17
    EXPIRE = 0x18
    UPDATE_POLICY = 0x19
    UPDATE_SA = 0x1A
    POLICY_EXPIRE = 0x1B
    MIGRATE = 0x21
    NEW_SA_STATISTICS = 0x22
    GET_SA_STATISTICS = 0x23
    NEW_POLICY_STATISTICS = 0x24
    GET_POLICY_STATISTICS = 0x25
    MAPPING = 0x26


class Group(IntEnum):
    """XFRMNLGRP_*: what a socket can listen to."""

    ACQUIRE = 1
    EXPIRE = 2
    MAPPING = 8


class Attribute(IntEnum):
    """XFRMA_*."""

    ALGORITHM_AUTHENTICATION = 1
    ALGORITHM_ENCRYPTION = 2
    ENCAPSULATION = 4
    TEMPLATES = 5
    LAST_USED = 15
    MIGRATE = 17
    ALGORITHM_AEAD = 18
    ALGORITHM_AUTHENTICATION_TRUNCATED = 20
    MARK = 21
    REPLAY_ESN = 23
    EXTRA_FLAGS = 24
    PROTOCOL = 25
    OFFLOAD_DEVICE = 28
    INTERFACE_ID = 31


class PolicyDirection(IntEnum):
    """XFRM_POLICY_IN, OUT, FWD."""

    IN = 0
    OUT = 1
    FORWARD = 2


class PolicyAction(IntEnum):
    """XFRM_POLICY_ALLOW: secured by the templates, or clear where there are none."""

    ALLOW = 0
    BLOCK = 1


class XfrmMode(IntEnum):
    TRANSPORT = 0
    TUNNEL = 1


class StateFlag(IntFlag):
    """XFRM_STATE_*."""

    NO_ECN = 1
    DECAPSULATE_DSCP = 2
    NO_PATH_MTU_DISCOVERY = 4
    WILDCARD_RECEIVE = 8
    ICMP = 16
    ANY_FAMILY = 32
    ALIGN_4 = 64
    EXTENDED_SEQUENCE = 128


class OffloadFlag(IntFlag):
    """XFRM_OFFLOAD_*."""

    IPV6 = 1
    INBOUND = 2
    PACKET = 4


NO_FLAGS = StateFlag(0)
INFINITY = 0xFFFF_FFFF_FFFF_FFFF
"""XFRM_INF: no limit, for bytes and packets. For seconds that is 0."""

UDP_ENCAPSULATION_ESP = 2
"""UDP_ENCAP_ESPINUDP, RFC 3948."""

ALL_ALGORITHMS = 0xFFFF_FFFF
LEGACY_WINDOW = 32
"""The largest replay window that needs no REPLAY_ESN attribute."""


@dataclass(frozen=True, slots=True)
class XfrmSelector:
    """The packets of an SA or policy, as they are on the wire: a prefix on each side. Protocol and port 0
    mean any. For ICMP the ports are type and code."""

    source: Network
    destination: Network
    protocol: int = 0
    source_port: int = 0
    destination_port: int = 0
    interface: int = 0

    def __post_init__(self) -> None:
        if self.source.version != self.destination.version:
            raise ValueError("a selector is of one IP version")

    @property
    def version(self) -> int:
        return self.source.version

    def encode(self) -> bytes:
        return layout.SELECTOR.pack(
            _packed(self.destination.network_address),
            _packed(self.source.network_address),
            *_port(self.destination_port),
            *_port(self.source_port),
            layout.FAMILY_OF[self.version],
            self.destination.prefixlen,
            self.source.prefixlen,
            self.protocol,
            self.interface,
            0,
        )


@dataclass(frozen=True, slots=True)
class Limits:
    """When an SA or policy ends. Bytes and packets: INFINITY is no limit; seconds: 0 is none."""

    soft_bytes: int = INFINITY
    hard_bytes: int = INFINITY
    soft_packets: int = INFINITY
    hard_packets: int = INFINITY
    soft_seconds: int = 0
    hard_seconds: int = 0
    soft_unused_seconds: int = 0
    hard_unused_seconds: int = 0

    def encode(self) -> bytes:
        return layout.LIFETIME.pack(
            self.soft_bytes,
            self.hard_bytes,
            self.soft_packets,
            self.hard_packets,
            self.soft_seconds,
            self.hard_seconds,
            self.soft_unused_seconds,
            self.hard_unused_seconds,
        )


@dataclass(frozen=True, slots=True)
class Usage:
    """What an SA carried. Times in seconds since the epoch by the system's clock, 0 for never; `last_used` is
    the time of the last packet, `first_used` that of the first."""

    bytes: int = 0
    packets: int = 0
    added: int = 0
    first_used: int = 0
    last_used: int = 0
    replays: int = 0
    window_misses: int = 0
    integrity_failures: int = 0


@dataclass(frozen=True, slots=True)
class Algorithm:
    """A transform by its kernel name. `icv_bits` for truncated integrity and for combined modes; `is_aead`
    tells which. The key of a combined mode ends with its salt. Empty keys are those of the null cipher, and
    of what was decoded."""

    name: str
    key: Secret = field(default_factory=lambda: Secret(b""))
    icv_bits: int | None = None
    is_aead: bool = False

    def encode(self) -> bytes:
        name = self.name.encode("ascii")
        if len(name) >= layout.NAME_SIZE:
            raise ValueError("the name of the algorithm is too long")
        key = self.key.reveal()
        if self.icv_bits is None:
            return layout.ALGORITHM.pack(name, 8 * len(key)) + key
        numbers = (8 * len(key), self.icv_bits)
        return layout.ALGORITHM_WITH_ICV.pack(name, *numbers) + key


@dataclass(frozen=True, slots=True)
class Encapsulation:
    """ESP in UDP: the ports of the outer header."""

    source_port: int
    destination_port: int


@dataclass(frozen=True, slots=True)
class Offload:
    """An SA that a network device carries. `flags` of OffloadFlag."""

    interface: int
    flags: OffloadFlag


@dataclass(frozen=True, slots=True)
class State:
    """One SA (xfrm_usersa_info and its attributes). `window`: replay window in packets, 0 none. A decoded one
    has no keys. An SPI of 0 is a larval SA: the kernel waits for a key exchange."""

    selector: XfrmSelector | None
    source: Address
    destination: Address
    spi: int
    protocol: int
    request_id: int
    mode: XfrmMode
    limits: Limits = Limits()
    window: int = 0
    flags: StateFlag = NO_FLAGS
    encryption: Algorithm | None = None
    integrity: Algorithm | None = None
    encapsulation: Encapsulation | None = None
    offload: Offload | None = None
    mark: tuple[int, int] | None = None
    usage: Usage = Usage()

    def encode(self) -> bytes:
        """The body of a NEW_SA or UPDATE_SA request."""
        extended = self.window > LEGACY_WINDOW or bool(self.flags & StateFlag.EXTENDED_SEQUENCE)
        return self._fixed(0 if extended else self.window) + encode_attributes(self._attributes(extended))

    def _fixed(self, window: int) -> bytes:
        selector = bytes(layout.SELECTOR.size) if self.selector is None else self.selector.encode()
        return layout.STATE.pack(
            selector,
            layout.ID.pack(_packed(self.destination), self.spi.to_bytes(4, "big"), self.protocol),
            _packed(self.source),
            self.limits.encode(),
            bytes(layout.CURRENT.size),
            *(0, 0, 0, 0),
            self.request_id,
            layout.FAMILY_OF[self.destination.version],
            self.mode,
            window,
            self.flags,
        )

    def _attributes(self, extended: bool) -> dict[int, bytes]:
        attributes: dict[int, bytes] = {}
        if self.encryption is not None:
            kind = Attribute.ALGORITHM_AEAD if self.encryption.is_aead else Attribute.ALGORITHM_ENCRYPTION
            attributes[kind] = self.encryption.encode()
        if self.integrity is not None:
            attributes[Attribute.ALGORITHM_AUTHENTICATION_TRUNCATED] = self.integrity.encode()
        if self.encapsulation is not None:
            attributes[Attribute.ENCAPSULATION] = layout.ENCAPSULATION.pack(
                UDP_ENCAPSULATION_ESP,
                self.encapsulation.source_port.to_bytes(2, "big"),
                self.encapsulation.destination_port.to_bytes(2, "big"),
                bytes(layout.ADDRESS_SIZE),
            )
        if extended:
            words = (self.window + 31) // 32
            attributes[Attribute.REPLAY_ESN] = layout.REPLAY_ESN.pack(words, 0, 0, 0, 0, self.window) + bytes(
                4 * words
            )
        if self.offload is not None:
            attributes[Attribute.OFFLOAD_DEVICE] = layout.OFFLOAD.pack(
                self.offload.interface, self.offload.flags
            )
        if self.mark is not None:
            attributes[Attribute.MARK] = layout.MARK.pack(*self.mark)
        return attributes


@dataclass(frozen=True, slots=True)
class Template:
    """What secures the packets of a policy. Without addresses: those of the packet (transport mode).
    `optional`: inbound, a packet that is not secured passes too (`level use`)."""

    protocol: int
    mode: XfrmMode
    request_id: int
    version: int
    source: Address | None = None
    destination: Address | None = None
    optional: bool = False

    def encode(self) -> bytes:
        return layout.TEMPLATE.pack(
            layout.ID.pack(_packed(self.destination), bytes(4), self.protocol),
            layout.FAMILY_OF[self.version],
            _packed(self.source),
            self.request_id,
            self.mode,
            0,
            self.optional,
            ALL_ALGORITHMS,
            ALL_ALGORITHMS,
            ALL_ALGORITHMS,
        )


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy (xfrm_userpolicy_info, its templates and its mark). Smaller `priority` is looked at earlier.
    The kernel gives the `index`. Limits in packets mean nothing to it, but it keeps them."""

    selector: XfrmSelector
    direction: PolicyDirection
    action: PolicyAction
    priority: int
    templates: tuple[Template, ...] = ()
    limits: Limits = Limits()
    index: int = 0
    mark: tuple[int, int] | None = None

    def encode_fixed(self) -> bytes:
        """The structure alone, which is also the value of the socket option IP_XFRM_POLICY."""
        return layout.POLICY.pack(
            self.selector.encode(),
            self.limits.encode(),
            bytes(layout.CURRENT.size),
            self.priority,
            self.index,
            self.direction,
            self.action,
            0,
            0,
        )

    def encode(self) -> bytes:
        """The body of a NEW_POLICY or UPDATE_POLICY request."""
        attributes: dict[int, bytes] = {}
        if self.templates:
            attributes[Attribute.TEMPLATES] = b"".join(template.encode() for template in self.templates)
        if self.mark is not None:
            attributes[Attribute.MARK] = layout.MARK.pack(*self.mark)
        return self.encode_fixed() + encode_attributes(attributes)


@dataclass(frozen=True, slots=True)
class Acquired:
    """The kernel wants an SA: a packet (`selector`: its addresses, protocol, ports) met a policy and found
    none."""

    source: Address
    destination: Address
    selector: XfrmSelector
    policy: Policy
    templates: tuple[Template, ...]
    sequence: int


@dataclass(frozen=True, slots=True)
class Expired:
    """An SA is past its soft limits, or its hard ones: then it is gone."""

    state: State
    hard: bool


@dataclass(frozen=True, slots=True)
class Mapped:
    """An authentic packet of an inbound SA came in UDP from elsewhere: its sender's NAT has another mapping.
    `destination` is the SA's, which is us."""

    destination: Address
    spi: int
    protocol: int
    old_source: Address
    old_port: int
    source: Address
    port: int


@dataclass(frozen=True, slots=True)
class SaStatistics:
    """How many SAs there are, and the buckets of their hash table: now and at most."""

    count: int
    buckets: int
    most_buckets: int


@dataclass(frozen=True, slots=True)
class PolicyStatistics:
    """How many policies there are; `sockets`: those of single sockets."""

    inbound: int
    outbound: int
    forward: int
    sockets: int


# ---- requests


def state_id(destination: Address, spi: int, protocol: int, mark: tuple[int, int] | None = None) -> bytes:
    """The body of a DELETE_SA or GET_SA request."""
    fixed = layout.STATE_ID.pack(
        _packed(destination), spi.to_bytes(4, "big"), layout.FAMILY_OF[destination.version], protocol
    )
    return fixed + encode_attributes({} if mark is None else {Attribute.MARK: layout.MARK.pack(*mark)})


def policy_id(
    selector: XfrmSelector, direction: PolicyDirection, mark: tuple[int, int] | None = None
) -> bytes:
    """The body of a DELETE_POLICY or GET_POLICY request."""
    fixed = layout.POLICY_ID.pack(selector.encode(), 0, direction)
    return fixed + encode_attributes({} if mark is None else {Attribute.MARK: layout.MARK.pack(*mark)})


def dump_states(protocol: int | None = None) -> bytes:
    """The body of a GET_SA dump: all SAs, or those of one protocol."""
    return encode_attributes({} if protocol is None else {Attribute.PROTOCOL: layout.U8.pack(protocol)})


def dump_policies() -> bytes:
    """The body of a GET_POLICY dump."""
    return b""


def allocate_spi(state: State, first: int, last: int) -> bytes:
    """The body of an ALLOCATE_SPI request: the kernel makes a larval SA with an SPI of this range."""
    return layout.ALLOCATE.pack(state._fixed(0), first, last)


@dataclass(frozen=True, slots=True)
class Move:
    """The end points of an SA change (mobility): what they were, what they become."""

    old_source: Address
    old_destination: Address
    new_source: Address
    new_destination: Address
    protocol: int
    mode: XfrmMode
    request_id: int


def migrate(selector: XfrmSelector, direction: PolicyDirection, moves: Sequence[Move]) -> bytes:
    """The body of a MIGRATE request, for the policy with this selector and its SAs."""
    packed = b"".join(
        layout.MIGRATE.pack(
            _packed(move.old_destination),
            _packed(move.old_source),
            _packed(move.new_destination),
            _packed(move.new_source),
            move.protocol,
            move.mode,
            0,
            move.request_id,
            layout.FAMILY_OF[move.old_source.version],
            layout.FAMILY_OF[move.new_source.version],
        )
        for move in moves
    )
    return layout.POLICY_ID.pack(selector.encode(), 0, direction) + encode_attributes(
        {Attribute.MIGRATE: packed}
    )


def get_statistics() -> bytes:
    """The body of a GET_SA_STATISTICS or GET_POLICY_STATISTICS request."""
    return layout.U32.pack(0xFFFF_FFFF)


# ---- parts


def _port(port: int) -> tuple[bytes, bytes]:
    mask = layout.ANY_PORT_MASK if port else 0
    return port.to_bytes(2, "big"), mask.to_bytes(2, "big")


def _packed(address: Address | None) -> bytes:
    return bytes(layout.ADDRESS_SIZE) if address is None else address.packed.ljust(layout.ADDRESS_SIZE, b"\0")
