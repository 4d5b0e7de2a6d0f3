"""The IKE sockets: UDP 500 and 4500, IPv4 and IPv6, with the local address of every datagram.

A wildcard socket serves all addresses of the host; IP_PKTINFO (RFC 3542 for IPv6) says which one a datagram
came to and sets the one that an answer leaves from: IKE peers look for the address that they wrote to.
"""

import ctypes
import errno
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address

from stockade.model.addresses import Endpoint
from stockade.model.reasons import ReasonCode, error_for

IKE_PORT, NAT_TRAVERSAL_PORT = 500, 4500
MAXIMUM_DATAGRAM = 65_535
BATCH = 64
"""Datagrams read from one socket before timers and the driver have their turn."""

_IP_PKTINFO = 8
_SO_MARK = 36
_SO_ATTACH_FILTER = 26
_IKE_ONLY = (
    # Classic BPF over UDP header and payload: on port 4500 ESP has its SPI where IKE has four zero bytes.
    # ESP is the data plane's, which has a socket of its own for it; copies would only keep this one busy.
    (0x20, 0, 0, 8),  # A = the word behind the UDP header; a keepalive is too short and is not taken
    (0x15, 0, 1, 0),
    (0x06, 0, 0, 0xFFFF_FFFF),
    (0x06, 0, 0, 0),
)


class UdpSockets:
    """Opens the sockets (all or none) and has each prepared by `prepare`. Errors: `HostError` PORT_TAKEN,
    NOT_PRIVILEGED, and those of `prepare`."""

    def __init__(
        self, mark: int | None, prepare: Callable[[socket.socket], None] = lambda sock: None
    ) -> None:
        self._sockets: dict[tuple[int, int], socket.socket] = {}
        try:
            for port in (IKE_PORT, NAT_TRAVERSAL_PORT):
                self._sockets[(4, port)] = _open(socket.AF_INET, port, mark)
                with suppress(_NoIpv6):
                    self._sockets[(6, port)] = _open(socket.AF_INET6, port, mark)
            for sock in self._sockets.values():
                prepare(sock)
        except BaseException:
            self.close()
            raise

    def descriptors(self) -> Iterator[tuple[int, Callable[[], list[tuple[bytes, Endpoint, Endpoint]]]]]:
        """(file descriptor, function that reads a batch) of every socket."""
        for (version, port), sock in self._sockets.items():
            yield sock.fileno(), lambda sock=sock, version=version, port=port: _read(sock, version, port)  # type: ignore[misc]

    def send(self, datagram: bytes, local: Endpoint, remote: Endpoint) -> None:
        """Send from `local`. Raises OSError where the network refuses (no route, address gone)."""
        version = remote.address.version
        sock = self._sockets.get((version, local.port))
        if sock is None:
            raise OSError(errno.EAFNOSUPPORT, f"no IPv{version} socket on port {local.port}")
        if version == 4:
            information = struct.pack("=I4s4s", 0, local.address.packed, bytes(4))
            ancillary = [(socket.IPPROTO_IP, _IP_PKTINFO, information)]
        else:
            ancillary = [
                (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, local.address.packed + struct.pack("=I", 0))
            ]
        sock.sendmsg([datagram], ancillary, 0, (str(remote.address), remote.port))

    def close(self) -> None:
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()


class _NoIpv6(Exception):
    pass


def _open(family: int, port: int, mark: int | None) -> socket.socket:
    try:
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    except OSError as error:
        if family == socket.AF_INET6 and error.errno == errno.EAFNOSUPPORT:
            raise _NoIpv6 from error
        raise
    try:
        if family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        if mark is not None:
            sock.setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)
        if port == NAT_TRAVERSAL_PORT:
            program = b"".join(struct.pack("=HBBI", *instruction) for instruction in _IKE_ONLY)
            buffer = ctypes.create_string_buffer(program, len(program))  # the kernel copies it
            header = struct.pack("@HP", len(_IKE_ONLY), ctypes.addressof(buffer))
            sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, header)
        sock.bind(("", port))
    except OSError as error:
        sock.close()
        if family == socket.AF_INET6 and error.errno == errno.EADDRNOTAVAIL:
            raise _NoIpv6 from error
        if error.errno == errno.EADDRINUSE:
            raise error_for(ReasonCode.PORT_TAKEN, f"UDP port {port}") from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise error_for(ReasonCode.NOT_PRIVILEGED, f"opening UDP port {port}") from error
        raise
    return sock


def _read(sock: socket.socket, version: int, port: int) -> list[tuple[bytes, Endpoint, Endpoint]]:
    """Up to BATCH datagrams: (bytes, local endpoint, remote endpoint)."""
    batch: list[tuple[bytes, Endpoint, Endpoint]] = []
    for _ in range(BATCH):
        try:
            datagram, ancillary, flags, remote = sock.recvmsg(MAXIMUM_DATAGRAM, 64)
        except BlockingIOError:
            break
        except OSError:
            continue  # an ICMP error of an earlier send is reported here; retransmission deals with silence
        local = _local_address(ancillary)
        if local is None or flags & socket.MSG_TRUNC:
            continue
        host = str(remote[0]).partition("%")[0]
        batch.append((datagram, Endpoint(local, port), Endpoint(ip_address(host), remote[1])))
    return batch


def _local_address(ancillary: list[tuple[int, int, bytes]]) -> IPv4Address | IPv6Address | None:
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO and len(data) >= 12:
            return IPv4Address(data[8:12])
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO and len(data) >= 20:
            return IPv6Address(data[:16])
    return None
