"""Raw sockets for sealed packets, many packets a system call.

Out: one `IPPROTO_RAW` socket per address family, so the header that the datapath made goes out as it is
(DSCP, TTL, options, DF). The datapath has made fragments of what the path does not take; where an interface
takes even less than it knew, they are made here. In: one socket per family and protocol; fragments are put
together by the kernel first, and its own IPsec does not exist or has no SA. An IPv6 raw socket gives no IP
header: it is made anew from what the kernel says about the packet (addresses, hop limit, traffic class), so
what comes out of here is whole packets in both families. Its extension headers and flow label are lost.

ESP in UDP comes by a raw UDP socket of its own whose filter takes port 4500 with ESP in it (RFC 3948); the
agent keeps its IKE socket there, which must exist (or the kernel answers that the port is closed) and filters
ESP out, see `agent.udp`. So neither needs the other to be started first, and no IKE message passes the data
plane.

Python has no sendmmsg and recvmmsg; they are called through ctypes on one arena of slots, set up once. Where
that cannot be done (another size of the structures than on 64-bit Linux), one packet a call does the same.
"""

import array
import ctypes
import errno
import select
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from struct import Struct
from struct import error as StructError
from typing import Final

from stockade.driver.ah import AH
from stockade.driver.packets import ESP, UDP, UDP_HEADER, fragment, locate
from stockade.driver.userspace.system import OWN_MARK, SMALLEST_MTU, has_ipv6
from stockade.model.traffic import ICMP, ICMPV6
from stockade.wire.udp_encapsulation import ESP_DOOR, NAT_TRAVERSAL_PORT

SLOTS: Final = 64
SEND_SLOT: Final = 16 * 1024
RECEIVE_SLOT: Final = 64 * 1024
RECEIVE_BUFFER: Final = 8 << 20
REPORT_SIZE: Final = 2048
"""Of an ICMP message; what it quotes beyond that is of no use."""

SEND_BUFFER: Final = 4 << 20
SEND_WAIT_MS: Final = 50
"""How long a full device may hold the data plane up; then packets are dropped, as they would be in the
kernel."""

RAW_PROTOCOLS: Final = {"esp": ESP, "ah": AH, "udp": UDP}
"""What is received, by the first part of its socket's name (`esp4`, `esp6`)."""

_FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
_MTU_DISCOVER: Final = {4: (socket.IPPROTO_IP, 10), 6: (socket.IPPROTO_IPV6, 23)}
_PMTUDISC_INTERFACE: Final = 4
_IPV6_CONTROL: Final = Struct("=QIi16sI4xQIii4xQIii4x")  # packet information, hop limit, traffic class
_IPV6_CONTROL_KINDS: Final = (socket.IPV6_PKTINFO, socket.IPV6_HOPLIMIT, socket.IPV6_TCLASS)
_IPV6_START: Final = Struct(">IHBB")
_NAME_SIZES: Final = {4: 16, 6: 28}
_NAME_ADDRESSES: Final = {4: slice(4, 8), 6: slice(8, 24)}
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_SO_ATTACH_FILTER = 26
_SO_ATTACH_REUSEPORT_CBPF = 51
_SOL_UDP, _UDP_SEGMENT, _UDP_GRO = 17, 103, 104
_IP_PKTINFO, _IP_RECVTTL, _IP_RECVTOS = 8, 12, 13
_PMTUDISC_PROBE = 3
_BPF: Final = Struct("=HBBI")
_ESP_TO_THE_SECOND: Final = b"".join(
    _BPF.pack(*instruction)
    for instruction in (
        (0x20, 0, 0, 0),  # A = the datagram's first word; too short: 0 is the result, the first socket
        (0x15, 0, 1, 0),
        (0x06, 0, 0, 0),
        (0x06, 0, 0, 1),
    )
)
_MSG_DONTWAIT = 0x40


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Msghdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("iov", ctypes.c_void_p),
        ("iov_length", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Mmsghdr(ctypes.Structure):
    _fields_ = (("header", _Msghdr), ("length", ctypes.c_uint32))


_STRIDE = ctypes.sizeof(_Mmsghdr)
HAVE_BATCHES: Final = _STRIDE == 64 and ctypes.sizeof(_Iovec) == 16 and hasattr(ctypes.CDLL(None), "sendmmsg")


def open_sockets() -> dict[str, socket.socket]:
    """`send4`, `esp4`, `icmp4` …, and the same with 6 where the kernel has IPv6. Needs CAP_NET_RAW and
    CAP_NET_ADMIN (`PermissionError`)."""
    sockets: dict[str, socket.socket] = {}
    try:
        for version in (4, 6) if has_ipv6() else (4,):
            sockets[f"send{version}"] = _open_sending(version)
            for name, protocol in RAW_PROTOCOLS.items():
                sockets[f"{name}{version}"] = open_receiving(
                    version, protocol, _udp_filter(version) if protocol == UDP else None
                )
            sockets[f"icmp{version}"] = _open_reports(version)
    except OSError:
        for entry in sockets.values():
            entry.close()
        raise
    return sockets


def _udp_filter(version: int) -> bytes:
    """A classic BPF program: datagrams to port 4500 with ESP in them, and nothing else of all the host's UDP
    (RFC 3948 §2). A raw socket's filter sees the IPv4 header too, and not the IPv6 one."""
    if version == 4:
        start = [(0xB1, 0, 0, 0), (0x48, 0, 0, 2)]  # X = header length; A = half word at X + 2
        marker = (0x40, 0, 0, UDP_HEADER)
    else:
        start = [(0x28, 0, 0, 2)]
        marker = (0x20, 0, 0, UDP_HEADER)
    program = [
        *start,
        (0x15, 0, 3, NAT_TRAVERSAL_PORT),
        marker,  # beyond the end: the packet is not taken
        (0x15, 1, 0, 0),
        (0x06, 0, 0, 0xFFFF_FFFF),
        (0x06, 0, 0, 0),
    ]
    return b"".join(_BPF.pack(*instruction) for instruction in program)


def _open_reports(version: int) -> socket.socket:
    """Takes the ICMP messages about packets that were too long, and nothing else.

    A packet socket, which looks before the filters do: where all traffic must be secured they drop the ICMP
    of routers, which have no SA with us (and the host's own stack shall not believe them)."""
    kinds = {
        4: [
            (0x30, 0, 0, 9),  # the protocol is ICMP,
            (0x15, 0, 6, ICMP),
            (0x28, 0, 0, 6),  # not a later fragment,
            (0x45, 4, 0, 0x1FFF),
            (0xB1, 0, 0, 0),
            (0x48, 0, 0, 0),  # type and code
            (0x15, 0, 1, 0x0304),
        ],
        6: [(0x30, 0, 0, 6), (0x15, 0, 3, ICMPV6), (0x28, 0, 0, 40), (0x15, 0, 1, 0x0200)],
    }
    program = [*kinds[version], (0x06, 0, 0, 0xFFFF_FFFF), (0x06, 0, 0, 0)]
    link = 0x0800 if version == 4 else 0x86DD
    kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
    reports = socket.socket(socket.AF_PACKET, kind, socket.htons(link))
    try:
        attach_filter(reports, b"".join(_BPF.pack(*instruction) for instruction in program))
        # What came before the filter was there.
        while read_reports(reports):
            pass
    except OSError:
        reports.close()
        raise
    return reports


def read_reports(reports: socket.socket) -> list[bytes]:
    """What waits there, at most `SLOTS` packets."""
    packets: list[bytes] = []
    with suppress(OSError):
        while len(packets) < SLOTS:
            packets.append(reports.recv(REPORT_SIZE))
    return packets


def open_datagrams(ike: socket.socket) -> socket.socket | None:
    """A UDP socket for ESP on the port of `ike`, the bound IPv4 IKE socket of port 4500; None where the
    kernel does not let that be.

    They are in one group (SO_REUSEPORT), the key exchange's first: its filter sends ESP to `ESP_DOOR`. A lone
    socket of somebody else gets such a filter here (RFC 3948 §2.2). Unlike a raw socket this one takes and
    gives many datagrams at once (UDP_GRO, UDP_SEGMENT), which the kernel then carries through all its layers
    as one."""
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        ike.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        datagrams.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        datagrams.setsockopt(_SOL_UDP, _UDP_GRO, 1)
        datagrams.setsockopt(_SOL_UDP, _UDP_SEGMENT, 0)  # known, and off unless a send asks for it
        datagrams.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, OWN_MARK)
        datagrams.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, SEND_BUFFER)
        datagrams.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER)
        for option in (_IP_PKTINFO, _IP_RECVTTL, _IP_RECVTOS):
            datagrams.setsockopt(socket.IPPROTO_IP, option, 1)
        # Always "don't fragment", whatever was learnt about the path: only such packets go this way.
        datagrams.setsockopt(*_MTU_DISCOVER[4], _PMTUDISC_PROBE)
        datagrams.bind(ike.getsockname())
        match _sharers(ike.getsockname()[1]):
            case 2:
                _attach(datagrams, _ESP_TO_THE_SECOND, _SO_ATTACH_REUSEPORT_CBPF)
            case count if count != ESP_DOOR + 1:
                raise OSError(errno.EADDRINUSE, "other sockets than expected share the port")
    except OSError:
        datagrams.close()
        return None
    return datagrams


def _sharers(port: int) -> int:
    """How many IPv4 UDP sockets are bound to this port on all addresses, in the network of this thread."""
    lines = Path("/proc/thread-self/net/udp").read_text(encoding="ascii").splitlines()[1:]
    return sum(line.split()[1] == f"00000000:{port:04X}" for line in lines)


def take_nothing(receiving: socket.socket) -> None:
    """Let a raw socket of which nobody reads any more keep nothing."""
    attach_filter(receiving, _BPF.pack(0x06, 0, 0, 0))


def take_esp_in_udp(receiving: socket.socket, version: int) -> None:
    """Undo `take_nothing` of the raw socket for UDP."""
    attach_filter(receiving, _udp_filter(version))


def attach_filter(target: socket.socket, program: bytes) -> None:
    """SO_ATTACH_FILTER; the kernel copies the program."""
    _attach(target, program, _SO_ATTACH_FILTER)


def _attach(target: socket.socket, program: bytes, option: int) -> None:
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // _BPF.size, ctypes.addressof(buffer))
    target.setsockopt(socket.SOL_SOCKET, option, header)


def _open_raw(version: int, protocol: int) -> socket.socket:
    return socket.socket(_FAMILIES[version], socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)


def _open_sending(version: int) -> socket.socket:
    sending = _open_raw(version, socket.IPPROTO_RAW)
    try:
        sending.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, OWN_MARK)
        sending.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, SEND_BUFFER)
        # The interface's MTU, not a learnt one: what was learnt may be from our own ICMP about clear packets.
        level, option = _MTU_DISCOVER[version]
        sending.setsockopt(level, option, _PMTUDISC_INTERFACE)
    except OSError:
        sending.close()
        raise
    return sending


def open_receiving(version: int, protocol: int, program: bytes | None = None) -> socket.socket:
    """A raw socket for `Receiver` that takes what the classic BPF `program` lets pass. `OSError`."""
    receiving = _open_raw(version, protocol)
    try:
        if program is not None:
            attach_filter(receiving, program)
        receiving.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER)
        if version == 6:
            for option in (socket.IPV6_RECVPKTINFO, socket.IPV6_RECVHOPLIMIT, socket.IPV6_RECVTCLASS):
                receiving.setsockopt(socket.IPPROTO_IPV6, option, 1)
    except OSError:
        receiving.close()
        raise
    return receiving


class Sender:
    """Sends packets of one IP version as they are. `dropped` counts those that the system did not take."""

    def __init__(self, sending: socket.socket, version: int = 4, *, batches: bool = True) -> None:
        self._socket = sending
        self._version = version
        self._destination = slice(16, 20) if version == 4 else slice(24, 40)
        self.dropped = 0
        self._batches = HAVE_BATCHES and batches
        if not self._batches:
            return
        self._name_size, self._name_address = _NAME_SIZES[version], _NAME_ADDRESSES[version]
        self._sendmmsg = ctypes.CDLL(None, use_errno=True).sendmmsg
        self._arena = bytearray(SLOTS * SEND_SLOT)
        self._names = bytearray(SLOTS * self._name_size)
        self._iovecs = (_Iovec * SLOTS)()
        self._headers = (_Mmsghdr * SLOTS)()
        self._keep = _point(self._headers, self._iovecs, self._arena, SEND_SLOT)
        self._keep.append(_name(self._headers, self._names, self._name_size))
        for slot in range(SLOTS):
            at = slot * self._name_size
            self._names[at : at + 2] = _FAMILIES[version].to_bytes(2, "little")
        self._view = memoryview(self._arena)
        self._name_view = memoryview(self._names)
        self._lengths = memoryview(self._iovecs).cast("B").cast("Q")

    def send(self, packets: Sequence[bytes]) -> None:
        """Send all, in order; nothing raises."""
        if not self._batches:
            for packet in packets:
                self._send_one(packet)
            return
        filled = 0
        view, names, lengths = self._view, self._name_view, self._lengths
        destination, name_size = self._destination, self._name_size
        name_start, name_end = self._name_address.start, self._name_address.stop
        for packet in packets:
            size = len(packet)
            if size > SEND_SLOT:
                self._flush(filled)
                filled = 0
                self._send_one(packet)
                continue
            at = filled * SEND_SLOT
            view[at : at + size] = packet
            lengths[filled * 2 + 1] = size
            at = filled * name_size
            names[at + name_start : at + name_end] = packet[destination]
            filled += 1
            if filled == SLOTS:
                self._flush(filled)
                filled = 0
        self._flush(filled)

    def _flush(self, filled: int) -> None:
        done = 0
        base = ctypes.addressof(self._headers)
        while done < filled:
            sent = self._sendmmsg(
                self._socket.fileno(), ctypes.c_void_p(base + done * _STRIDE), filled - done, 0
            )
            if sent > 0:
                done += sent
                continue
            at = done * SEND_SLOT
            if not self._refused(
                ctypes.get_errno(), bytes(self._view[at : at + self._lengths[done * 2 + 1]])
            ):
                done += 1

    def _send_one(self, packet: bytes) -> None:
        address = socket.inet_ntop(_FAMILIES[self._version], packet[self._destination])
        while True:
            try:
                self._socket.sendto(packet, (address, 0))
                return
            except OSError as error:
                if not self._refused(error.errno or 0, packet):
                    return

    def _refused(self, number: int, packet: bytes) -> bool:
        """The system refused a packet. True: try it again; False: it was dealt with."""
        if number == errno.EMSGSIZE and len(packet) > SMALLEST_MTU[self._version] and locate(packet):
            # The interface takes less than it did when the SA came. Fragments of fragments are not made.
            for piece in fragment(packet, SMALLEST_MTU[self._version]):
                self._send_one(piece)
            return False
        if number == errno.EINTR:
            return True
        if number in (errno.EAGAIN, errno.ENOBUFS):
            poll = select.poll()
            poll.register(self._socket, select.POLLOUT)
            if poll.poll(SEND_WAIT_MS) and number == errno.EAGAIN:
                return True
        self.dropped += 1
        return False


class Receiver:
    """Takes what waits in a raw socket of one IP version and protocol, without blocking."""

    def __init__(
        self, receiving: socket.socket, version: int = 4, protocol: int = ESP, *, batches: bool = True
    ) -> None:
        self._socket = receiving
        self._version, self._protocol = version, protocol
        self._batches = HAVE_BATCHES and batches
        if not self._batches:
            return
        self._recvmmsg = ctypes.CDLL(None, use_errno=True).recvmmsg
        self._arena = bytearray(SLOTS * RECEIVE_SLOT)
        self._iovecs = (_Iovec * SLOTS)()
        self._headers = (_Mmsghdr * SLOTS)()
        self._keep = _point(self._headers, self._iovecs, self._arena, RECEIVE_SLOT)
        self._view = memoryview(self._arena)
        self._lengths = memoryview(self._headers).cast("B").cast("I")
        if version == 6:
            self._names = bytearray(SLOTS * _NAME_SIZES[6])
            self._keep.append(_name(self._headers, self._names, _NAME_SIZES[6]))
            self._controls = bytearray(SLOTS * _IPV6_CONTROL.size)
            self._keep.append(_control(self._headers, self._controls, _IPV6_CONTROL.size))
            # What the kernel writes there is set back before each call.
            self._control_lengths = memoryview(self._headers).cast("B").cast("Q")[5 :: _STRIDE // 8]
            self._full = memoryview(array.array("Q", [_IPV6_CONTROL.size] * SLOTS)).cast("B").cast("Q")

    def receive(self) -> list[bytes]:
        """Up to `SLOTS` packets, empty if none wait."""
        if not self._batches:
            return self._receive_singly()
        if self._version == 6:
            self._control_lengths[:] = self._full
        count = self._recvmmsg(self._socket.fileno(), ctypes.byref(self._headers), SLOTS, _MSG_DONTWAIT, None)
        view, lengths = self._view, self._lengths
        packets = [
            bytes(view[slot * RECEIVE_SLOT : slot * RECEIVE_SLOT + lengths[slot * 16 + 14]])
            for slot in range(count)
        ]
        if self._version == 4:
            return packets
        names, size = self._names, _NAME_SIZES[6]
        return [
            header + payload
            for slot, payload in enumerate(packets)
            if (
                header := self._header(
                    bytes(names[slot * size + 8 : slot * size + 24]),
                    self._controls[slot * _IPV6_CONTROL.size : (slot + 1) * _IPV6_CONTROL.size],
                    len(payload),
                )
            )
            is not None
        ]

    def _header(self, source: bytes, control: bytes | bytearray, size: int) -> bytes | None:
        """The IPv6 header of a packet; None where the kernel did not say enough."""
        try:
            fields = _IPV6_CONTROL.unpack(control)
        except StructError:
            return None
        if (fields[2], fields[7], fields[11]) != _IPV6_CONTROL_KINDS or size > 65535:
            return None
        start = _IPV6_START.pack(6 << 28 | (fields[12] & 0xFF) << 20, size, self._protocol, fields[8] & 0xFF)
        destination: bytes = fields[3]
        return start + source + destination

    def _receive_singly(self) -> list[bytes]:
        packets: list[bytes] = []
        for _ in range(SLOTS):
            try:
                payload, ancillary, _, name = self._socket.recvmsg(RECEIVE_SLOT, 256)
            except BlockingIOError:
                break
            except OSError:
                continue
            if self._version == 4:
                packets.append(payload)
                continue
            found = {kind: data for _, kind, data in ancillary}
            with suppress(KeyError):
                address = found[socket.IPV6_PKTINFO][:16]
                hops, traffic_class = (found[kind][0] for kind in (socket.IPV6_HOPLIMIT, socket.IPV6_TCLASS))
                start = _IPV6_START.pack(6 << 28 | traffic_class << 20, len(payload), self._protocol, hops)
                source = socket.inet_pton(socket.AF_INET6, str(name[0]).partition("%")[0])
                packets.append(start + source + address + payload)
        return packets


def _point(
    headers: "ctypes.Array[_Mmsghdr]", iovecs: "ctypes.Array[_Iovec]", arena: bytearray, slot_size: int
) -> list[object]:
    """Make every header point to its slot of the arena. The result keeps the buffers where they are."""
    pointer = (ctypes.c_char * len(arena)).from_buffer(arena)
    for slot in range(SLOTS):
        iovecs[slot].base = ctypes.addressof(pointer) + slot * slot_size
        iovecs[slot].length = slot_size
        header = headers[slot].header
        header.iov = ctypes.addressof(iovecs[slot])
        header.iov_length = 1
    return [pointer]


def _name(headers: "ctypes.Array[_Mmsghdr]", names: bytearray, size: int) -> object:
    pointer = (ctypes.c_char * len(names)).from_buffer(names)
    for slot in range(SLOTS):
        headers[slot].header.name = ctypes.addressof(pointer) + slot * size
        headers[slot].header.name_length = size
    return pointer


def _control(headers: "ctypes.Array[_Mmsghdr]", controls: bytearray, size: int) -> object:
    pointer = (ctypes.c_char * len(controls)).from_buffer(controls)
    for slot in range(SLOTS):
        headers[slot].header.control = ctypes.addressof(pointer) + slot * size
        headers[slot].header.control_length = size
    return pointer
