"""IP addresses, ranges of them, and UDP endpoints.

Addresses are those of the standard library's `ipaddress`; what it lacks is a range that need not be a prefix,
which IKE identities (RFC 2407 §4.6.2) and filters can name.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
    summarize_address_range,
)

from stockade.model.quickly_made import quickly_made

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def address_text(address: Address) -> str:
    """`str(address)`, at a third of its cost for IPv4: every report of the key exchange has some of these."""
    if isinstance(address, IPv4Address):
        a, b, c, d = address.packed
        return f"{a}.{b}.{c}.{d}"
    return str(address)


@quickly_made
@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """A UDP endpoint: address and port (0–65535)."""

    address: Address
    port: int

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port {self.port} is outside 0–65535")

    def __str__(self) -> str:
        address = self.address
        host = address_text(address) if isinstance(address, IPv4Address) else f"[{address}]"
        return f"{host}:{self.port}"


@quickly_made
@dataclass(frozen=True, slots=True)
class AddressRange:
    """The addresses from `first` to `last`, both included, of one family."""

    first: Address
    last: Address

    def __post_init__(self) -> None:
        if self.first.__class__ is not self.last.__class__:
            raise ValueError(f"range {self.first}-{self.last} mixes IPv4 and IPv6")
        if int(self.first) > int(self.last):
            raise ValueError(f"range {self.first}-{self.last} ends before it begins")

    @classmethod
    def host(cls, address: Address | str) -> "AddressRange":
        """The range that holds one address."""
        value = ip_address(address) if isinstance(address, str) else address
        return cls(value, value)

    @classmethod
    def network(cls, network: Network | str) -> "AddressRange":
        """The range of a prefix, such as `10.0.0.0/8`; host bits set are an error (`ValueError`)."""
        value = ip_network(network) if isinstance(network, str) else network
        return cls(value.network_address, value.broadcast_address)

    @classmethod
    def everything(cls, version: int = 4) -> "AddressRange":
        """Every address of IP `version` 4 or 6."""
        return cls.network("0.0.0.0/0" if version == 4 else "::/0")

    @property
    def version(self) -> int:
        return self.first.version

    @property
    def bits(self) -> int:
        """Address length of the family: 32 or 128."""
        return self.first.max_prefixlen

    @property
    def size(self) -> int:
        """How many addresses the range holds."""
        return int(self.last) - int(self.first) + 1

    @property
    def is_host(self) -> bool:
        return self.first is self.last or int(self.first) == int(self.last)

    @property
    def is_everything(self) -> bool:
        return self.size == 1 << self.bits

    @property
    def prefix_length(self) -> int | None:
        """The prefix length where the range is exactly one prefix, else None."""
        first = int(self.first)
        size = int(self.last) - first + 1
        if size & (size - 1) or first & (size - 1):
            return None
        return self.first.max_prefixlen - (size.bit_length() - 1)

    def networks(self) -> Iterator[Network]:
        """The prefixes that make up the range."""
        yield from summarize_address_range(self.first, self.last)

    def __contains__(self, address: object) -> bool:
        # the class tells the family, and costs no call of Python code
        return isinstance(address, self.first.__class__) and (
            int(self.first) <= int(address) <= int(self.last)
        )

    def covers(self, other: "AddressRange") -> bool:
        """Whether every address of `other` is in this range."""
        return (
            self.first.__class__ is other.first.__class__
            and int(self.first) <= int(other.first)
            and int(other.last) <= int(self.last)
        )

    def overlaps(self, other: "AddressRange") -> bool:
        return (
            self.version == other.version
            and int(self.first) <= int(other.last)
            and int(other.first) <= int(self.last)
        )

    def intersection(self, other: "AddressRange") -> "AddressRange | None":
        if not self.overlaps(other):
            return None
        first = self.first if int(self.first) >= int(other.first) else other.first
        last = self.last if int(self.last) <= int(other.last) else other.last
        return AddressRange(first, last)

    def __str__(self) -> str:
        if self.is_host:
            return address_text(self.first)
        prefix = self.prefix_length
        return f"{self.first}-{self.last}" if prefix is None else f"{self.first}/{prefix}"
