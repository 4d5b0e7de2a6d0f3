"""What the kernel says by itself: acquires, expiries, NATs that changed, and ESP packets whose SPI nobody
knows."""

import socket
from collections.abc import Iterator
from typing import Final

from stockade.model.addresses import Address, AddressRange
from stockade.model.reasons import PeerError, StockadeError
from stockade.model.traffic import ESP
from stockade.wire.esp import decode_esp_header
from stockade.wire.ip import parse_packet
from stockade.wire.netlink import decode_messages
from stockade.wire.xfrm import (
    Acquired,
    Expired,
    Group,
    Mapped,
    MessageType,
    Policy,
    PolicyAction,
    PolicyDirection,
    XfrmSelector,
)
from stockade.wire.xfrm_decode import (
    decode_acquire,
    decode_expire,
    decode_mapping,
)

BATCH: Final = 256
"""Messages taken at a time: the rest waits for the next call."""

_RECEIVE_BYTES: Final = 1 << 16
_BUFFER_BYTES: Final = 1 << 20
_SOL_NETLINK: Final = 270
_NETLINK_ADD_MEMBERSHIP: Final = 1
_SO_RCVBUFFORCE: Final = 33
_IP_XFRM_POLICY: Final = 17
_IPV6_XFRM_POLICY: Final = 35
_UDP_ENCAP: Final = 100
_UDP_ENCAP_ESP_IN_UDP: Final = 2


Told = Acquired | Expired | Mapped


class Listener:
    """A netlink socket in all groups of `Group`. Where it overflows, messages are lost: the kernel asks again
    for what it still needs, and SAs that are gone are found missing at the next look."""

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_XFRM)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        self._socket.bind((0, 0))
        for group in Group:
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, int(group))

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def read(self) -> Iterator[Told]:
        for _ in range(BATCH):
            try:
                data, sender = self._socket.recvfrom(_RECEIVE_BYTES)
            except BlockingIOError:
                return
            except OSError:  # ENOBUFS: see above
                continue
            if sender[0] != 0:
                continue  # not the kernel
            yield from _decode(data)


def _decode(data: bytes) -> Iterator[Told]:
    try:
        for message in decode_messages(data):
            if message.type == MessageType.ACQUIRE:
                yield decode_acquire(message.body)
            elif message.type == MessageType.EXPIRE:
                yield decode_expire(message.body)
            elif message.type == MessageType.MAPPING:
                yield decode_mapping(message.body)
    except StockadeError:
        return  # of a kind that we do not use


class UnknownSpiWatch:
    """Copies of the ESP packets that come in, for a short time after the kernel counted some without an SA:
    it does not say from whom they came. IPv4 only."""

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_INET, kind, ESP)
        bypass_socket(self._socket)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def read(self) -> Iterator[tuple[int, Address, Address]]:
        """(SPI, source, destination) of at most BATCH packets."""
        for _ in range(BATCH):
            try:
                data = self._socket.recv(128)
            except OSError:
                return
            try:
                packet = parse_packet(data)
                yield (
                    decode_esp_header(data[packet.payload_offset :]).spi,
                    packet.source,
                    packet.destination,
                )
            except PeerError:
                continue


def bypass_socket(sock: socket.socket) -> None:
    """Let what this socket sends and receives pass in clear, whatever the policies say (IP_XFRM_POLICY). For
    the sockets of the key exchange. Raises OSError."""
    versions = {socket.AF_INET: (4,), socket.AF_INET6: (6,)}[socket.AddressFamily(sock.family)]
    for version in versions:
        everything = next(AddressRange.everything(version).networks())
        for direction in (PolicyDirection.IN, PolicyDirection.OUT):
            policy = Policy(XfrmSelector(everything, everything), direction, PolicyAction.ALLOW, 0)
            level, option = (
                (socket.IPPROTO_IP, _IP_XFRM_POLICY)
                if version == 4
                else (socket.IPPROTO_IPV6, _IPV6_XFRM_POLICY)
            )
            sock.setsockopt(level, option, policy.encode_fixed())


def take_esp_in_udp(sock: socket.socket) -> None:
    """Have the kernel open the ESP in UDP that comes to this socket (RFC 3948); IKE behind its marker still
    comes to the socket. Raises OSError."""
    sock.setsockopt(socket.IPPROTO_UDP, _UDP_ENCAP, _UDP_ENCAP_ESP_IN_UDP)
