"""What a host knows that a policy does not say: its addresses, its servers, what names stand for.

    interfaces, leases, resolver ─▶ HostFacts ─▶ expansion.py: me, dns, wins …, names ─▶ addresses

Facts are input: policy looks nothing up. The agent gathers them and compiles again when they change. A name
has three states: addresses are known; it is known to have none (an empty tuple: it does not exist); nothing
is known (it is not in `names`: not looked up yet, or no answer). After an answer failed to come, the agent
keeps the last one that did, so a resolver that is down for a while changes nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from types import MappingProxyType

from stockade.model.addresses import Address, AddressRange
from stockade.policy.objects import AddressKind, ConnectionType, normal_name


@dataclass(frozen=True, slots=True)
class LocalAddress:
    """An address of this computer. `prefix_length` in bits, None if unknown. `connection`: what kind of
    interface has it, LAN or dial-up; None if unknown."""

    address: Address
    prefix_length: int | None = None
    connection: ConnectionType | None = None

    def __post_init__(self) -> None:
        if self.prefix_length is not None and not 0 <= self.prefix_length <= self.address.max_prefixlen:
            raise ValueError(f"{self.address}/{self.prefix_length}: no such prefix length")
        if self.connection is ConnectionType.ALL:
            raise ValueError("an interface is LAN or dial-up, not both")

    @property
    def broadcast(self) -> IPv4Address | None:
        """The broadcast address of its subnet (RFC 919), where it has one."""
        if not isinstance(self.address, IPv4Address) or self.prefix_length is None or self.prefix_length > 30:
            return None
        return IPv4Address(int(self.address) | ((1 << (32 - self.prefix_length)) - 1))


def usable_addresses(addresses: Iterable[Address]) -> tuple[Address, ...]:
    """The addresses that "me" stands for: no loopback, unspecified or multicast ones, IPv6 without its zone,
    each once, in a steady order."""
    usable = {
        IPv6Address(int(address)) if isinstance(address, IPv6Address) else address
        for address in addresses
        if not (address.is_loopback or address.is_unspecified or address.is_multicast)
    }
    return tuple(sorted(usable, key=lambda address: (address.version, int(address))))


@dataclass(frozen=True, slots=True)
class HostFacts:
    """The facts, as they are at one moment. `names` maps DNS names to their addresses; its keys are compared
    without regard to case or a dot at the end."""

    addresses: tuple[LocalAddress, ...] = ()
    dns_servers: tuple[Address, ...] = ()
    wins_servers: tuple[Address, ...] = ()
    dhcp_servers: tuple[Address, ...] = ()
    gateways: tuple[Address, ...] = ()
    names: Mapping[str, tuple[Address, ...]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        names = {normal_name(name): usable_addresses(found) for name, found in self.names.items()}
        object.__setattr__(self, "names", MappingProxyType(names))

    @classmethod
    def of(cls, addresses: Sequence[Address]) -> "HostFacts":
        """Facts with nothing but local addresses."""
        return cls(tuple(LocalAddress(address) for address in addresses))

    @property
    def local(self) -> tuple[Address, ...]:
        """What "me" stands for."""
        return usable_addresses(entry.address for entry in self.addresses)

    def local_on(self, connection: ConnectionType) -> tuple[Address, ...]:
        """What "me" stands for in a rule for this kind of connection; addresses of unknown kind are in."""
        return usable_addresses(
            entry.address
            for entry in self.addresses
            if connection is ConnectionType.ALL or entry.connection in (None, connection)
        )

    @property
    def knows_connections(self) -> bool:
        """Whether the kind of every address is known."""
        return bool(self.addresses) and all(entry.connection is not None for entry in self.addresses)

    @property
    def broadcasts(self) -> tuple[AddressRange, ...]:
        """The broadcast addresses of the subnets that this computer is in."""
        found = {entry.broadcast for entry in self.addresses if entry.broadcast is not None}
        return tuple(AddressRange.host(address) for address in sorted(found))

    def servers(self, kind: AddressKind) -> tuple[Address, ...]:
        """The servers of a kind (`AddressKind.is_server`), loopback left out: a resolver on this computer is
        reached without a packet that leaves it."""
        return usable_addresses(
            {
                AddressKind.DNS: self.dns_servers,
                AddressKind.WINS: self.wins_servers,
                AddressKind.DHCP: self.dhcp_servers,
                AddressKind.GATEWAY: self.gateways,
            }[kind]
        )

    def local_servers(self, local: Address) -> tuple[Address, ...]:
        """The DNS servers of the address family of `local`."""
        return tuple(one for one in self.servers(AddressKind.DNS) if one.version == local.version)

    def resolve(self, name: str) -> tuple[Address, ...] | None:
        """The addresses of a name, none (it does not exist), or None: unknown."""
        return self.names.get(normal_name(name))


def as_facts(facts: "HostFacts | Sequence[Address]") -> HostFacts:
    """A plain sequence of addresses means facts with only these."""
    return facts if isinstance(facts, HostFacts) else HostFacts.of(facts)
