"""A tiny IP stack for virtual hosts: ICMP echo, TCP streams, UDP handlers. Bytes in, bytes out, virtual time.

It answers pings, accepts connections on ports where somebody listens and resets the others, and takes no
notice of anything else. Packets that are not for its address are dropped. It knows nothing of IPsec: what
protects a host stands between the stack and the network.
"""

from collections.abc import Callable
from contextlib import suppress

from stockade.lab.tcp import Connection, Segment
from stockade.lab.virtual import VirtualClock
from stockade.model.addresses import Address, Endpoint
from stockade.model.reasons import PeerError
from stockade.model.traffic import ICMP, ICMPV6, TCP, UDP
from stockade.wire.ip import parse_packet
from stockade.wire.transport import (
    ICMP_ECHO_REPLY,
    ICMP_ECHO_REQUEST,
    ICMP_HEADER_SIZE,
    ICMPV6_ECHO_REPLY,
    ICMPV6_ECHO_REQUEST,
    UDP_HEADER_SIZE,
    TcpFlag,
    build_echo,
    build_tcp,
    build_udp,
    decode_icmp,
    decode_tcp,
    decode_udp,
)

FIRST_PORT, LAST_PORT = 49152, 65535
ECHO_DATA = b"stockade laboratory echo request"

OnConnection = Callable[[Connection], None]
OnDatagram = Callable[[bytes, Endpoint, Endpoint], None]
"""Called with (datagram, local, remote)."""
OnEcho = Callable[[float, float], None]
"""Called with (sent, received) when a request is answered."""


class IpStack:
    """One host's stack. `transmit` takes the packets that it sends; packets that arrive go to `receive`.
    `random` gives bytes for sequence numbers."""

    def __init__(
        self,
        address: Address,
        clock: VirtualClock,
        transmit: Callable[[bytes], None],
        random: Callable[[int], bytes],
    ) -> None:
        self.address = address
        self._clock, self._transmit, self._random = clock, transmit, random
        self._listeners: dict[int, OnConnection] = {}
        self._connections: dict[tuple[int, Address, int], Connection] = {}
        self._datagrams: dict[int, OnDatagram] = {}
        self._echoes: dict[tuple[int, int], tuple[float, OnEcho]] = {}
        self._echo_number = 0
        self._next_port = FIRST_PORT

    # ---- the user's side ----

    def listen(self, port: int, on_connection: OnConnection) -> None:
        """`on_connection` is called with every new connection, before its first data."""
        self._listeners[port] = on_connection

    def connect(self, peer: Address, port: int) -> Connection:
        """Begin a connection; set its callbacks before time goes on."""
        local = self._free_port(peer, port)
        connection = self._new_connection(local, peer, port)
        # The caller first gets the connection, then the SYN goes out.
        self._clock.call_later(0.0, connection.open)
        return connection

    def ping(self, peer: Address, on_echo: OnEcho) -> None:
        """Send one echo request."""
        self._echo_number = (self._echo_number + 1) & 0xFFFF_FFFF
        key = (self._echo_number >> 16, self._echo_number & 0xFFFF)
        self._echoes[key] = (self._clock.now, on_echo)
        self._transmit(build_echo(self.address, peer, identifier=key[0], sequence=key[1], payload=ECHO_DATA))

    def on_datagram(self, port: int, handler: OnDatagram) -> None:
        """UDP datagrams to `port` go to `handler`."""
        self._datagrams[port] = handler

    def send_datagram(self, datagram: bytes, local: Endpoint, remote: Endpoint) -> None:
        self._transmit(build_udp(local, remote, datagram))

    # ---- the network's side ----

    def receive(self, packet: bytes) -> None:
        """A packet came. What is malformed, a fragment, or not for us is dropped."""
        with suppress(PeerError):
            parsed = parse_packet(packet)
            if parsed.destination != self.address or parsed.is_fragment:
                return
            message = packet[parsed.payload_offset : parsed.total_length]
            if parsed.protocol == TCP:
                self._receive_tcp(parsed.source, message)
            elif parsed.protocol in (ICMP, ICMPV6):
                self._receive_icmp(parsed.source, message)
            elif parsed.protocol == UDP:
                header = decode_udp(message)
                handler = self._datagrams.get(header.destination_port)
                if handler is not None:
                    local = Endpoint(self.address, header.destination_port)
                    remote = Endpoint(parsed.source, header.source_port)
                    handler(message[UDP_HEADER_SIZE : header.length], local, remote)

    def _receive_icmp(self, source: Address, message: bytes) -> None:
        header = decode_icmp(message)
        if header.type in (ICMP_ECHO_REQUEST, ICMPV6_ECHO_REQUEST):
            self._transmit(
                build_echo(
                    self.address,
                    source,
                    identifier=header.identifier,
                    sequence=header.sequence,
                    payload=message[ICMP_HEADER_SIZE:],
                    reply=True,
                )
            )
        elif header.type in (ICMP_ECHO_REPLY, ICMPV6_ECHO_REPLY):
            asked = self._echoes.pop((header.identifier, header.sequence), None)
            if asked is not None:
                sent, on_echo = asked
                on_echo(sent, self._clock.now)

    def _receive_tcp(self, source: Address, message: bytes) -> None:
        header = decode_tcp(message)
        segment = Segment(
            header.source_port,
            header.destination_port,
            header.sequence,
            header.acknowledgement,
            header.flags,
            header.window,
            message[header.header_length :],
        )
        connection = self._connections.get((segment.destination_port, source, segment.source_port))
        if connection is not None:
            connection.receive(segment)
        elif segment.flags & TcpFlag.RST:
            return
        elif segment.flags & TcpFlag.SYN and not segment.flags & TcpFlag.ACK:
            listener = self._listeners.get(segment.destination_port)
            if listener is None:
                self._refuse(source, segment)
                return
            connection = self._new_connection(segment.destination_port, source, segment.source_port)
            listener(connection)
            connection.accept(segment)
        else:
            self._refuse(source, segment)

    def _refuse(self, peer: Address, segment: Segment) -> None:
        """Answer a segment that belongs to nothing with a reset (RFC 9293 §3.10.7.1)."""
        if segment.flags & TcpFlag.ACK:
            answer = Segment(
                segment.destination_port, segment.source_port, segment.acknowledgement, 0, TcpFlag.RST
            )
        else:
            occupied = (
                len(segment.data) + bool(segment.flags & TcpFlag.SYN) + bool(segment.flags & TcpFlag.FIN)
            )
            answer = Segment(
                segment.destination_port,
                segment.source_port,
                0,
                (segment.sequence + occupied) & 0xFFFF_FFFF,
                TcpFlag.RST | TcpFlag.ACK,
            )
        self._send_segment(peer, answer)

    # ---- helpers ----

    def _new_connection(self, local_port: int, peer: Address, peer_port: int) -> Connection:
        key = (local_port, peer, peer_port)
        connection = Connection(
            self._clock,
            local_port,
            peer_port,
            int.from_bytes(self._random(4), "big"),
            lambda segment: self._send_segment(peer, segment),
            lambda: self._forget(key),
        )
        self._connections[key] = connection
        return connection

    def _forget(self, key: tuple[int, Address, int]) -> None:
        self._connections.pop(key, None)

    def _free_port(self, peer: Address, port: int) -> int:
        for _ in range(FIRST_PORT, LAST_PORT + 1):
            candidate = self._next_port
            self._next_port = FIRST_PORT if candidate == LAST_PORT else candidate + 1
            if (candidate, peer, port) not in self._connections:
                return candidate
        raise ValueError(f"no free port for connections to {peer} port {port}")

    def _send_segment(self, peer: Address, segment: Segment) -> None:
        self._transmit(
            build_tcp(
                Endpoint(self.address, segment.source_port),
                Endpoint(peer, segment.destination_port),
                segment.data,
                sequence=segment.sequence,
                acknowledgement=segment.acknowledgement,
                flags=segment.flags,
                window=segment.window,
            )
        )
