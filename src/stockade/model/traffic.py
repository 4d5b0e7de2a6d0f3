"""Which packets: a flow (what one packet is) and a traffic selector (a set of flows, in one direction).

A selector is written from the packet's point of view (source, destination), as a filter of Windows is, and
not from the host's (local, remote). Ports count for TCP, UDP, SCTP, DCCP and UDP-Lite only. RFC 4301
§4.4.1.1."""

from dataclasses import dataclass

from stockade.model.addresses import Address, AddressRange
from stockade.model.quickly_made import quickly_made

ICMP, TCP, UDP, ESP, AH, ICMPV6, SCTP = 1, 6, 17, 50, 51, 58, 132
ANY_PROTOCOL = 0
ANY_PORT = 0
PROTOCOLS_WITH_PORTS = frozenset({6, 17, 33, 132, 136})

_PROTOCOL_WORDS = {
    0: "any",
    1: "icmp",
    6: "tcp",
    17: "udp",
    50: "esp",
    51: "ah",
    58: "icmpv6",
    132: "sctp",
    255: "raw",
}


def protocol_name(protocol: int) -> str:
    """`tcp`, `icmp` … where the protocol has a word, else its number; 0 is `any`."""
    return _PROTOCOL_WORDS.get(protocol, str(protocol))


def check_protocol_and_ports(protocol: int, *ports: int) -> None:
    """`ValueError` where they are outside their range, or a port stands with a protocol that has none."""
    if not 0 <= protocol <= 255:
        raise ValueError(f"protocol {protocol} is outside 0–255")
    for port in ports:
        if not 0 <= port <= 65535:
            raise ValueError(f"port {port} is outside 0–65535")
        if port and protocol not in PROTOCOLS_WITH_PORTS:
            raise ValueError(f"a port needs protocol TCP or UDP, not {protocol_name(protocol)}")


@quickly_made
@dataclass(frozen=True, slots=True)
class Flow:
    """What identifies one packet's conversation. Ports are 0 where the protocol has none or they are unknown
    (a later fragment)."""

    source: Address
    destination: Address
    protocol: int
    source_port: int = 0
    destination_port: int = 0

    def reversed(self) -> "Flow":
        return Flow(self.destination, self.source, self.protocol, self.destination_port, self.source_port)

    def __str__(self) -> str:
        if self.protocol in PROTOCOLS_WITH_PORTS:
            source, destination = (
                f"{self.source}:{self.source_port}",
                f"{self.destination}:{self.destination_port}",
            )
        else:
            source, destination = str(self.source), str(self.destination)
        return f"{protocol_name(self.protocol)} {source} -> {destination}"


@quickly_made
@dataclass(frozen=True, slots=True)
class TrafficSelector:
    """A set of flows in one direction. Protocol 0 and port 0 mean any."""

    source: AddressRange
    destination: AddressRange
    protocol: int = ANY_PROTOCOL
    source_port: int = ANY_PORT
    destination_port: int = ANY_PORT

    def __post_init__(self) -> None:
        # the class of an address tells its family, and costs no call of Python code
        if self.source.first.__class__ is not self.destination.first.__class__:
            raise ValueError(f"selector {self.source} -> {self.destination} mixes IPv4 and IPv6")
        if not 0 <= self.protocol <= 255:
            raise ValueError(f"protocol {self.protocol} is outside 0–255")
        if not self.source_port and not self.destination_port:
            return
        for port in (self.source_port, self.destination_port):
            if not 0 <= port <= 65535:
                raise ValueError(f"port {port} is outside 0–65535")
            if port and self.protocol not in PROTOCOLS_WITH_PORTS:
                raise ValueError(
                    f"port {port} needs a protocol with ports, not {protocol_name(self.protocol)}"
                )

    @property
    def version(self) -> int:
        return self.source.version

    def reversed(self) -> "TrafficSelector":
        """The same traffic in the other direction (a *mirrored* filter)."""
        return TrafficSelector(
            self.destination, self.source, self.protocol, self.destination_port, self.source_port
        )

    def matches(self, flow: Flow) -> bool:
        return (
            self.protocol in (ANY_PROTOCOL, flow.protocol)
            and self.source_port in (ANY_PORT, flow.source_port)
            and self.destination_port in (ANY_PORT, flow.destination_port)
            and flow.source in self.source
            and flow.destination in self.destination
        )

    def covers(self, other: "TrafficSelector") -> bool:
        """Whether every flow of `other` is one of this selector's."""
        return (
            self.protocol in (ANY_PROTOCOL, other.protocol)
            and self.source_port in (ANY_PORT, other.source_port)
            and self.destination_port in (ANY_PORT, other.destination_port)
            and self.source.covers(other.source)
            and self.destination.covers(other.destination)
        )

    def overlaps(self, other: "TrafficSelector") -> bool:
        return (
            (ANY_PROTOCOL in (self.protocol, other.protocol) or self.protocol == other.protocol)
            and (ANY_PORT in (self.source_port, other.source_port) or self.source_port == other.source_port)
            and (
                ANY_PORT in (self.destination_port, other.destination_port)
                or self.destination_port == other.destination_port
            )
            and self.source.overlaps(other.source)
            and self.destination.overlaps(other.destination)
        )

    def narrowed_to(self, source: Address, destination: Address) -> "TrafficSelector":
        """This selector for one pair of hosts, as a transport-mode SA needs it (ValueError if not inside)."""
        if source not in self.source or destination not in self.destination:
            raise ValueError(f"{source} -> {destination} is not inside {self}")
        if self.source.is_host and self.destination.is_host:
            return self
        return TrafficSelector(
            AddressRange.host(source),
            AddressRange.host(destination),
            self.protocol,
            self.source_port,
            self.destination_port,
        )

    def __str__(self) -> str:
        def end(addresses: AddressRange, port: int) -> str:
            text = "any" if addresses.is_everything else str(addresses)
            return f"{text}:{port}" if port else text

        return (
            f"{protocol_name(self.protocol)} {end(self.source, self.source_port)}"
            f" -> {end(self.destination, self.destination_port)}"
        )
