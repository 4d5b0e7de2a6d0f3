"""Who sent clear packets that the input chain dropped: nflog messages of the kernel
(linux/netfilter/nfnetlink_log.h).

The chain logs the first 40 bytes of such packets, at most 100 a second; they become `CLEAR_DROPPED` events.
The counters of the filters have all of them.
"""

import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from struct import Struct, error
from typing import Final

from stockade.driver.userspace.system import LOG_GROUP
from stockade.model.addresses import Address

_NETLINK_NETFILTER: Final = 12
_SUBSYSTEM_ULOG: Final = 4
_MESSAGE_PACKET, _MESSAGE_CONFIG = 0, 1
_CONFIG_COMMAND, _CONFIG_MODE = 1, 2
_COMMAND_BIND: Final = 1
_COPY_PACKET: Final = 2
_ATTRIBUTE_PAYLOAD: Final = 9
_REQUEST_AND_ACK: Final = 5
_MESSAGE = Struct("=IHHII")  # length, type, flags, sequence, port
_NFGEN = Struct("!BBH")  # family, version, group
_ATTRIBUTE = Struct("=HH")  # length, type


def open_socket() -> socket.socket | None:
    """A socket that gets the log messages; None where the kernel has no nflog or somebody else has the
    group."""
    try:
        connection = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_NETFILTER
        )
    except OSError:
        return None
    try:
        connection.bind((0, 0))
        connection.settimeout(1.0)
        for attribute, value in (
            (_CONFIG_COMMAND, bytes((_COMMAND_BIND,))),
            (_CONFIG_MODE, Struct("!IBB").pack(64, _COPY_PACKET, 0)),
        ):
            connection.send(_configuration(attribute, value))
            answer = connection.recv(4096)
            # NLMSG_ERROR with code 0 is the acknowledgement.
            if len(answer) < 20 or answer[16:20] != bytes(4):
                raise OSError("nflog refused")
        connection.settimeout(0.0)
    except OSError:
        connection.close()
        return None
    return connection


def read_packets(connection: socket.socket) -> Iterator[tuple[Address, Address]]:
    """(source, destination) of the logged packets that wait; bounded, never blocks, never raises."""
    for _ in range(64):
        try:
            data = connection.recv(65536)
        except OSError:  # nothing waits, or messages were lost: both mean to come back later
            return
        yield from _parse(data)


def _parse(data: bytes) -> Iterator[tuple[Address, Address]]:
    at = 0
    while at + 16 <= len(data):
        length, kind, *_ = _MESSAGE.unpack_from(data, at)
        if length < 16 or at + length > len(data):
            return
        if kind == _SUBSYSTEM_ULOG << 8 | _MESSAGE_PACKET:
            packet = _payload(data[at + 20 : at + length])
            if len(packet) >= 20 and packet[0] >> 4 == 4:
                yield IPv4Address(packet[12:16]), IPv4Address(packet[16:20])
            elif len(packet) >= 40 and packet[0] >> 4 == 6:
                yield IPv6Address(packet[8:24]), IPv6Address(packet[24:40])
        at += (length + 3) & ~3


def _payload(attributes: bytes) -> bytes:
    at = 0
    while at + 4 <= len(attributes):
        try:
            length, kind = _ATTRIBUTE.unpack_from(attributes, at)
        except error:
            break
        if length < 4:
            break
        if kind & 0x3FFF == _ATTRIBUTE_PAYLOAD:
            return attributes[at + 4 : at + length]
        at += (length + 3) & ~3
    return b""


def _configuration(attribute: int, value: bytes) -> bytes:
    body = _NFGEN.pack(0, 0, LOG_GROUP)
    body += _ATTRIBUTE.pack(4 + len(value), attribute) + value + bytes(-len(value) % 4)
    return (
        _MESSAGE.pack(16 + len(body), _SUBSYSTEM_ULOG << 8 | _MESSAGE_CONFIG, _REQUEST_AND_ACK, 1, 0) + body
    )
