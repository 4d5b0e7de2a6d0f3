"""The `Driver` protocol: what the agent asks of a data plane, and what the data plane tells it.

Calls are synchronous and short. Nothing is dropped silently and nothing is flushed at start:
`install_filters` takes the whole wanted table and applies the difference. Order inside a driver: block
before remove; the caller adds an inbound SA before the outbound one.
"""

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from stockade.model.addresses import Address
from stockade.model.capabilities import Capabilities
from stockade.model.filters import Direction, FilterTable
from stockade.model.reasons import Reason
from stockade.model.sa import EndedCounters, SaCounters, SecurityAssociation
from stockade.model.traffic import Flow


@dataclass(frozen=True, slots=True)
class Acquire:
    """The first packet of a flow that a negotiate filter wants secured; the packet is held until an SA is up
    or `release` is called. Repeated at most once a second per filter and pair of hosts."""

    filter_id: str
    flow: Flow


@dataclass(frozen=True, slots=True)
class SaExpired:
    """An SA reached its soft lifetime (rekey now) or its hard one (`hard`: it is removed already). `peer`:
    two peers may have chosen the same SPI for what we send."""

    spi: int
    direction: Direction
    hard: bool
    peer: Address


@dataclass(frozen=True, slots=True)
class SaIdle:
    """Nothing passed through the pair of this SA with `peer` for its idle time. Not removed: the agent
    decides."""

    spi: int
    direction: Direction
    peer: Address


@dataclass(frozen=True, slots=True)
class SaSilent:
    """Packets went out through this outbound SA for its `silence_seconds`, and none came back through the
    pair. Told again after each further such time; whether the peer is dead is for the agent to find out."""

    spi: int
    direction: Direction
    peer: Address


@dataclass(frozen=True, slots=True)
class PeerMoved:
    """An authentic packet of this inbound SA came from another UDP port of the same address: a NAT has
    changed its mapping. The driver's outbound SA follows by itself."""

    spi: int
    peer: Address
    port: int


@dataclass(frozen=True, slots=True)
class PacketRefused:
    """Packets dropped, summed up: the driver reports at most one of each `reason` per `source` and second.

    `reason.code` is one of UNKNOWN_SPI, INTEGRITY_FAILED, REPLAYED, SELECTOR_MISMATCH, CLEAR_DROPPED,
    MALFORMED_PACKET, QUEUE_FULL. `spi` is 0 where none is known; `port` is the sender's UDP port where ESP
    came in UDP (the last one's, of several), else 0.
    """

    reason: Reason
    source: Address
    destination: Address
    spi: int = 0
    count: int = 1
    port: int = 0


@dataclass(frozen=True, slots=True)
class DriverFailed:
    """The data plane died or lost a part of itself. Filters that need security hold: nothing passes in
    clear."""

    reason: Reason


DriverEvent = Acquire | SaExpired | SaIdle | SaSilent | PeerMoved | PacketRefused | DriverFailed


@dataclass(frozen=True, slots=True)
class FilterCounters:
    """Packets and bytes that one specific filter decided on since the table was installed."""

    filter_id: str
    packets: int
    bytes: int


@dataclass(frozen=True, slots=True)
class DriverStatistics:
    sas: tuple[SaCounters, ...]
    filters: tuple[FilterCounters, ...]
    held_packets: int
    refused: tuple[tuple[str, int], ...]
    """(reason word, packets) since the start."""
    offloaded_sas: int = 0
    """How many of the SAs a network card carries."""

    ended: tuple[EndedCounters, ...] = ()
    """What SAs that are no more carried; only ever grows while a data plane lives."""


class Driver(Protocol):
    """A data plane. Every call may raise `HostError(DRIVER_FAILED)`; arguments that the driver's capabilities
    exclude raise `CallerError(DRIVER_LACKS)` and change nothing."""

    @property
    def capabilities(self) -> Capabilities: ...

    def start(self) -> None:
        """Take hold of the system's parts (device, routes, rules). Finds and heals what an earlier run that
        was killed left behind, without a moment in which protected traffic could pass in clear."""

    def stop(self, keep_filters: bool = False) -> None:
        """Let go. With `keep_filters` blocked stays blocked and secured traffic stays closed; otherwise
        nothing that `start` or `install_filters` put into the system is left."""

    def install_filters(self, table: FilterTable) -> None:
        """Make `table` the one in force, as a difference and atomically; refuse it whole if it asks too
        much."""

    def get_spi(self, local: Address, peer: Address) -> int:
        """Reserve an SPI for an inbound SA."""

    def add_sa(self, sa: SecurityAssociation) -> None:
        """Install one direction. An outbound SA releases the packets held for its selector, in order."""

    def remove_sa(self, spi: int, direction: Direction, peer: Address) -> None:
        """Remove one direction; an unknown one is no error."""

    def release(self, filter_id: str, peer: Address, reason: Reason) -> None:
        """No SA is to be waited for: drop what is held for this filter and peer; the next packet acquires
        anew. What meets a permit filter with `allow_soft` by now goes out in clear instead."""

    def events(self) -> Sequence[DriverEvent]:
        """What happened since the last call; never blocks."""

    def fileno(self) -> int:
        """A descriptor that is readable when `events` has something, for an event loop; -1 if there is none
        (the memory driver: ask after every call)."""

    def statistics(self, *, filters: bool = True) -> DriverStatistics:
        """What was counted. Without `filters` those of the filters are left out: asking for thousands takes
        its time."""


@dataclass(frozen=True, slots=True)
class Survivor:
    """One direction of an SA that an earlier agent installed and that goes on in the data plane. `sa` has no
    keys: they are where they are used. `age` in seconds since it was installed."""

    sa: SecurityAssociation
    age: float


@runtime_checkable
class OutlivesAgents(Protocol):
    """A data plane whose SAs go on when the agent dies."""

    def survivors(self) -> Sequence[Survivor]:
        """What an earlier agent left, once, to be asked when filters are installed. Whoever asks keeps each
        by doing nothing, or ends it by `remove_sa`. `HostError(DRIVER_FAILED)`."""

    def leave(self) -> None:
        """Let go instead of `stop`, when the agent ends and was not told to: SAs and filters go on, for the
        next agent."""

    def free_ike_ports(self) -> None:
        """Called before the sockets of the key exchange are opened, after `start`.
        `HostError(DRIVER_FAILED)`."""


@runtime_checkable
class PreparesSockets(Protocol):
    """A data plane that lives in the kernel's sockets of the key exchange: IKE passes there whatever the
    filters say, and ESP in UDP is opened there, also while no agent reads them."""

    def prepare_ike_socket(self, sock: socket.socket, port: int) -> None:
        """Called once for each socket, after `start` and before it is bound to `port`: from then on the
        kernel may choose it for packets of any SA. `HostError(DRIVER_FAILED)`."""


@runtime_checkable
class JoinsSockets(Protocol):
    """A data plane with sockets of its own beside those of the key exchange."""

    def join_ike_socket(self, sock: socket.socket) -> None:
        """Called once for each socket, after `start`, when all of them are bound.
        `HostError(DRIVER_FAILED)`."""


@runtime_checkable
class ListensAhead(Protocol):
    """A data plane that must be told when it is time to listen for packets that come before their SA."""

    def listen_ahead(self) -> None:
        """Called before messages leave, which may tell a peer what `get_spi` has reserved: from then on
        packets may come."""


def leave(driver: Driver) -> None:
    """Let go of a driver after a failure: what is in force stays in force, SAs too where the data plane can
    do without an agent. May be called more than once."""
    if isinstance(driver, OutlivesAgents):
        driver.leave()
    else:
        driver.stop(keep_filters=True)


def prepare_with(driver: Driver) -> Callable[[socket.socket, int], None]:
    """What to call for each socket of the key exchange before it is bound to its port."""
    return driver.prepare_ike_socket if isinstance(driver, PreparesSockets) else lambda sock, port: None


def join_with(driver: Driver) -> Callable[[socket.socket], None]:
    """What to call for each socket of the key exchange when all are bound."""
    return driver.join_ike_socket if isinstance(driver, JoinsSockets) else lambda sock: None
