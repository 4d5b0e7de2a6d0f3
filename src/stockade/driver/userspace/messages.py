"""What the agent and the data-plane process say to each other, and how: msgspec (MessagePack) in
length-prefixed frames.

    request  agent ──▶ process    one at a time, each answered by one reply
    reply    process ──▶ agent
    event    process ──▶ agent    on a socket of its own, whenever something happened

Keys are in `AddSa` and nowhere else; these frames go over an inherited socket pair and into no log. The
filter table goes without its negotiations (the process needs no pre-shared keys) and without provenance.
"""

import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address
from struct import Struct
from types import MappingProxyType
from typing import Final, TypeVar

import msgspec

from stockade.driver.contract import (
    Acquire,
    DriverEvent,
    DriverFailed,
    DriverStatistics,
    PacketRefused,
    PeerMoved,
    SaExpired,
    SaIdle,
    SaSilent,
)
from stockade.model.addresses import Address, AddressRange
from stockade.model.filters import Action, Direction, Provenance, SpecificFilter, TableChanges
from stockade.model.negotiation import Mode
from stockade.model.reasons import Reason, ReasonCode, error_for
from stockade.model.sa import EndedCounters, Lifetime, SaCounters, SecurityAssociation, UdpEncapsulation
from stockade.model.secret import Secret
from stockade.model.suites import EspSuite, integrity_named
from stockade.model.traffic import Flow, TrafficSelector

MAXIMUM_FRAME: Final = 64 << 20
_LENGTH: Final = Struct(">I")

Range = tuple[str, str]
Selector = tuple[Range, Range, int, int, int]
FlowTuple = tuple[str, str, int, int, int]


class Filter(msgspec.Struct, frozen=True, array_like=True):
    id: str
    selector: Selector
    direction: Direction
    action: Action
    negotiation: str | None
    accept_clear: bool
    allow_soft: bool


class InstallFilters(msgspec.Struct, frozen=True, tag=True):
    filters: list[Filter]
    tunnels: dict[str, str]


class ChangeFilters(msgspec.Struct, frozen=True, tag=True):
    """What differs from the filters in force. `added`: with the id of the filter that follows, None at the
    end, in table order."""

    added: list[tuple[Filter, str | None]]
    removed: list[str]
    tunnels: dict[str, str]


class AddSa(msgspec.Struct, frozen=True, tag=True):
    """One direction of an SA, with its keys."""

    spi: int
    direction: Direction
    source: str
    destination: str
    selector: Selector
    mode: Mode
    esp: EspSuite | None
    ah: str | None
    bundle: int | None
    udp: UdpEncapsulation | None
    encryption_key: bytes
    integrity_key: bytes
    pair: int
    negotiation: str
    filter_id: str
    lifetime: Lifetime
    replay_window: int
    idle_seconds: float | None
    silence_seconds: float | None
    original: tuple[str, str] | None
    extended_sequence: bool
    mtu: int
    main_mode: str = ""

    def __repr__(self) -> str:
        return f"AddSa(spi={self.spi:#010x}, {self.direction})"


class RemoveSa(msgspec.Struct, frozen=True, tag=True):
    spi: int
    direction: Direction
    peer: str


class Release(msgspec.Struct, frozen=True, tag=True):
    filter_id: str
    peer: str


class TakeUdpSocket(msgspec.Struct, frozen=True, tag=True):
    """The UDP socket of port 4500 for ESP, over IPv4; its descriptor comes beside the frame."""


class AskStatistics(msgspec.Struct, frozen=True, tag=True):
    pass


class DropUdpSocket(msgspec.Struct, frozen=True, tag=True):
    """Back to the raw socket for ESP in UDP, before the port is opened anew."""


class AskSas(msgspec.Struct, frozen=True, tag=True):
    """Which SAs there are, for an agent that did not make them."""


class Attach(msgspec.Struct, frozen=True, tag=True):
    """The first message of an agent to a process that it did not start (`survival.shape`); the socket for
    events comes beside it."""

    shape: str


class Quit(msgspec.Struct, frozen=True, tag=True):
    """End. Without this the process outlives its agent, where it can be found."""


Request = (
    InstallFilters
    | ChangeFilters
    | AddSa
    | RemoveSa
    | Release
    | AskStatistics
    | TakeUdpSocket
    | DropUdpSocket
    | AskSas
    | Attach
    | Quit
)


class Done(msgspec.Struct, frozen=True, tag=True):
    pass


class Refused(msgspec.Struct, frozen=True, tag=True):
    """The request changed nothing. `code` is the name of a `ReasonCode`."""

    code: str
    detail: str
    facts: tuple[tuple[str, str], ...] = ()


class Statistics(msgspec.Struct, frozen=True, tag=True):
    sas: tuple[SaCounters, ...]
    held_packets: int
    refused: tuple[tuple[str, int], ...]
    ended: tuple[EndedCounters, ...] = ()


class Sas(msgspec.Struct, frozen=True, tag=True):
    """Each SA, without its keys, and the seconds since it was installed."""

    sas: list[tuple[AddSa, float]]


class Attached(msgspec.Struct, frozen=True, tag=True):
    """The answer to `Attach`: what the descriptors are that come beside it."""

    names: tuple[str, ...]


Reply = Done | Refused | Statistics | Sas | Attached


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The first event: the process has given up its privileges and handles packets."""


class AcquireEvent(msgspec.Struct, frozen=True, tag=True):
    filter_id: str
    flow: FlowTuple


class Expired(msgspec.Struct, frozen=True, tag=True):
    spi: int
    direction: Direction
    hard: bool
    peer: str


class Idle(msgspec.Struct, frozen=True, tag=True):
    spi: int
    direction: Direction
    peer: str


class Silent(msgspec.Struct, frozen=True, tag=True):
    spi: int
    direction: Direction
    peer: str


class Moved(msgspec.Struct, frozen=True, tag=True):
    spi: int
    peer: str
    port: int


class PacketsRefused(msgspec.Struct, frozen=True, tag=True):
    code: str
    detail: str
    source: str
    destination: str
    spi: int
    count: int
    port: int


Event = Ready | AcquireEvent | Expired | Idle | Silent | Moved | PacketsRefused

Message = TypeVar("Message")

_encoder = msgspec.msgpack.Encoder()
request_decoder: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
reply_decoder: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)
event_decoder: msgspec.msgpack.Decoder[Event] = msgspec.msgpack.Decoder(Event)


def encode(message: Request | Reply | Event) -> bytes:
    """The message as a frame."""
    body = _encoder.encode(message)
    return _LENGTH.pack(len(body)) + body


class Frames:
    """Puts a stream back into frames. The other end is our own process; a frame beyond `MAXIMUM_FRAME` is a
    fault of ours and ends the stream (`ValueError`)."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        self._buffer += data
        while len(self._buffer) >= 4:
            size = _LENGTH.unpack_from(self._buffer)[0]
            if size > MAXIMUM_FRAME:
                raise ValueError(f"a frame of {size} bytes")
            if len(self._buffer) < 4 + size:
                return
            frame = bytes(self._buffer[4 : 4 + size])
            del self._buffer[: 4 + size]
            yield frame


def receive_frame(connection: socket.socket, frames: Frames) -> bytes | None:
    """Wait for one frame (as long as the socket's time-out allows: `TimeoutError`); None at the end of the
    stream."""
    while True:
        data = connection.recv(1 << 16)
        if not data:
            return None
        for frame in frames.feed(data):
            return frame


# ---- model <-> messages


def filters_message(
    filters: Sequence[SpecificFilter], tunnels: Mapping[str, Address] = MappingProxyType({})
) -> InstallFilters:
    return InstallFilters([_from_filter(entry) for entry in filters], _from_tunnels(tunnels))


def change_message(
    filters: Sequence[SpecificFilter],
    changes: TableChanges,
    tunnels: Mapping[str, Address] = MappingProxyType({}),
) -> ChangeFilters:
    """`filters`: the table that `changes` lead to."""
    added: list[tuple[Filter, str | None]] = []
    if changes.came:
        follower: str | None = None
        for entry in reversed(filters):
            if entry.id in changes.came:
                added.append((_from_filter(entry), follower))
            follower = entry.id
        added.reverse()
    return ChangeFilters(added, list(changes.went), _from_tunnels(tunnels))


def _from_filter(entry: SpecificFilter) -> Filter:
    return Filter(
        entry.id,
        _from_selector(entry.selector),
        entry.direction,
        entry.action,
        entry.negotiation,
        entry.accept_clear,
        entry.allow_soft,
    )


def _from_tunnels(tunnels: Mapping[str, Address]) -> dict[str, str]:
    return {name: str(address) for name, address in tunnels.items()}


_NO_PROVENANCE = Provenance("", "", "")


def _to_filter(entry: Filter) -> SpecificFilter:
    return SpecificFilter(
        entry.id,
        _to_selector(entry.selector),
        entry.direction,
        entry.action,
        0,
        _NO_PROVENANCE,
        negotiation=entry.negotiation,
        accept_clear=entry.accept_clear,
        allow_soft=entry.allow_soft,
    )


def filters_of(message: InstallFilters) -> tuple[SpecificFilter, ...]:
    return tuple(map(_to_filter, message.filters))


def added_of(message: ChangeFilters) -> list[tuple[SpecificFilter, str | None]]:
    return [(_to_filter(entry), before) for entry, before in message.added]


def tunnels_of(message: InstallFilters | ChangeFilters) -> dict[str, Address]:
    return {name: ip_address(address) for name, address in message.tunnels.items()}


def sa_message(sa: SecurityAssociation, mtu: int) -> AddSa:
    return AddSa(
        spi=sa.spi,
        direction=sa.direction,
        source=str(sa.source),
        destination=str(sa.destination),
        selector=_from_selector(sa.selector),
        mode=sa.mode,
        esp=sa.esp,
        ah=sa.ah,
        bundle=sa.bundle,
        udp=sa.udp,
        encryption_key=sa.encryption_key.reveal(),
        integrity_key=sa.integrity_key.reveal(),
        pair=sa.pair,
        negotiation=sa.negotiation,
        filter_id=sa.filter_id,
        lifetime=sa.lifetime,
        replay_window=sa.replay_window,
        idle_seconds=sa.idle_seconds,
        silence_seconds=sa.silence_seconds,
        original=None if sa.original is None else (str(sa.original[0]), str(sa.original[1])),
        extended_sequence=sa.extended_sequence,
        mtu=mtu,
        main_mode=sa.main_mode,
    )


def held_message(sa: SecurityAssociation, age: float) -> tuple[AddSa, float]:
    """An SA as the process tells of it: keys stay there."""
    nothing = Secret(b"")
    return sa_message(replace(sa, encryption_key=nothing, integrity_key=nothing), 0), age


def sa_of(message: AddSa) -> SecurityAssociation:
    return SecurityAssociation(
        spi=message.spi,
        direction=message.direction,
        source=ip_address(message.source),
        destination=ip_address(message.destination),
        selector=_to_selector(message.selector),
        mode=message.mode,
        esp=message.esp,
        ah=None if message.ah is None else integrity_named(message.ah),
        bundle=message.bundle,
        udp=message.udp,
        encryption_key=Secret(message.encryption_key),
        integrity_key=Secret(message.integrity_key),
        pair=message.pair,
        negotiation=message.negotiation,
        filter_id=message.filter_id,
        main_mode=message.main_mode,
        lifetime=message.lifetime,
        replay_window=message.replay_window,
        idle_seconds=message.idle_seconds,
        silence_seconds=message.silence_seconds,
        original=None
        if message.original is None
        else (ip_address(message.original[0]), ip_address(message.original[1])),
        extended_sequence=message.extended_sequence,
    )


def event_message(event: DriverEvent) -> Event:
    match event:
        case Acquire(filter_id, flow):
            return AcquireEvent(
                filter_id,
                (
                    str(flow.source),
                    str(flow.destination),
                    flow.protocol,
                    flow.source_port,
                    flow.destination_port,
                ),
            )
        case SaExpired(spi, direction, hard, peer):
            return Expired(spi, direction, hard, str(peer))
        case SaIdle(spi, direction, peer):
            return Idle(spi, direction, str(peer))
        case SaSilent(spi, direction, peer):
            return Silent(spi, direction, str(peer))
        case PeerMoved(spi, peer, port):
            return Moved(spi, str(peer), port)
        case PacketRefused(reason, source, destination, spi, count, port):
            ends = str(source), str(destination)
            return PacketsRefused(reason.code.name, reason.detail, *ends, spi, count, port)
        case DriverFailed():
            raise ValueError("the process cannot report its own end")


def event_of(message: Event) -> DriverEvent | None:
    """None for `Ready`, which is between the processes only."""
    match message:
        case AcquireEvent(filter_id, (source, destination, protocol, source_port, destination_port)):
            flow = Flow(ip_address(source), ip_address(destination), protocol, source_port, destination_port)
            return Acquire(filter_id, flow)
        case Expired(spi, direction, hard, peer):
            return SaExpired(spi, direction, hard, ip_address(peer))
        case Idle(spi, direction, peer):
            return SaIdle(spi, direction, ip_address(peer))
        case Silent(spi, direction, peer):
            return SaSilent(spi, direction, ip_address(peer))
        case Moved(spi, peer, port):
            return PeerMoved(spi, ip_address(peer), port)
        case PacketsRefused(code, detail, source, destination, spi, count, port):
            reason = Reason.of(ReasonCode[code], detail)
            return PacketRefused(reason, ip_address(source), ip_address(destination), spi, count, port)
        case Ready():
            return None


def refused_message(reason: Reason) -> Refused:
    return Refused(reason.code.name, reason.detail, reason.facts)


def raise_refused(message: Refused) -> None:
    raise error_for(ReasonCode[message.code], message.detail, **dict(message.facts))


def statistics_message(statistics: DriverStatistics) -> Statistics:
    return Statistics(statistics.sas, statistics.held_packets, statistics.refused, statistics.ended)


def address_of(text: str) -> Address:
    return ip_address(text)


def _from_selector(selector: TrafficSelector) -> Selector:
    return (
        (str(selector.source.first), str(selector.source.last)),
        (str(selector.destination.first), str(selector.destination.last)),
        selector.protocol,
        selector.source_port,
        selector.destination_port,
    )


def _to_selector(selector: Selector) -> TrafficSelector:
    source, destination, protocol, source_port, destination_port = selector
    return TrafficSelector(
        AddressRange(ip_address(source[0]), ip_address(source[1])),
        AddressRange(ip_address(destination[0]), ip_address(destination[1])),
        protocol,
        source_port,
        destination_port,
    )
