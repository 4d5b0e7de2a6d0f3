"""Raw sockets for ESP, many packets a system call.

Out: `IPPROTO_RAW`, so the header that the datapath made goes out as it is (DSCP, TTL, options, DF). Packets
longer than the interface takes go by the protocol-50 socket instead, where the kernel makes the header and
fragments. In: the protocol-50 socket; fragments are put together by the kernel first, and its own ESP does
not exist or has no SA.

Python has no sendmmsg and recvmmsg; they are called through ctypes on one arena of slots, set up once. Where
that cannot be done (another size of the structures than on 64-bit Linux), one packet a call does the same.
"""

import ctypes
import errno
import select
import socket
from collections.abc import Sequence
from typing import Final

from stockade.driver.packets import ESP, header_length
from stockade.driver.userspace.system import OWN_MARK

SLOTS: Final = 64
SEND_SLOT: Final = 16 * 1024
RECEIVE_SLOT: Final = 64 * 1024
RECEIVE_BUFFER: Final = 8 << 20
SEND_BUFFER: Final = 4 << 20
SEND_WAIT_MS: Final = 50
"""How long a full device may hold the data plane up; then packets are dropped, as they would be in the
kernel."""

_IP_MTU_DISCOVER, _IP_PMTUDISC_DONT, _IP_PMTUDISC_INTERFACE = 10, 0, 4
_IP_PKTINFO = 8
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
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


def open_sockets() -> tuple[socket.socket, socket.socket]:
    """(receiving and fragmenting socket, sending socket). Needs CAP_NET_RAW and CAP_NET_ADMIN
    (`PermissionError`)."""
    receiving = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, ESP)
    try:
        receiving.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, OWN_MARK)
        receiving.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER)
        receiving.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DONT)
        sending = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_RAW)
    except OSError:
        receiving.close()
        raise
    try:
        sending.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, OWN_MARK)
        sending.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, SEND_BUFFER)
        # The interface's MTU, not a learnt one: what was learnt may be from our own ICMP about clear packets.
        sending.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_INTERFACE)
    except OSError:
        receiving.close()
        sending.close()
        raise
    return receiving, sending


class Sender:
    """Sends IPv4 packets as they are. `dropped` counts those that the system did not take."""

    def __init__(self, sending: socket.socket, fragmenting: socket.socket) -> None:
        self._socket = sending
        self._fragmenting = fragmenting
        self.dropped = 0
        self._batches = HAVE_BATCHES
        if not self._batches:
            return
        self._sendmmsg = ctypes.CDLL(None, use_errno=True).sendmmsg
        self._arena = bytearray(SLOTS * SEND_SLOT)
        self._names = bytearray(SLOTS * 16)
        self._iovecs = (_Iovec * SLOTS)()
        self._headers = (_Mmsghdr * SLOTS)()
        self._keep = _point(self._headers, self._iovecs, self._arena, SEND_SLOT, self._names)
        for slot in range(SLOTS):
            self._names[slot * 16 : slot * 16 + 2] = socket.AF_INET.to_bytes(2, "little")
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
            at = filled * 16 + 4
            names[at : at + 4] = packet[16:20]
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
        while True:
            try:
                self._socket.sendto(packet, (socket.inet_ntoa(packet[16:20]), 0))
                return
            except OSError as error:
                if not self._refused(error.errno or 0, packet):
                    return

    def _refused(self, number: int, packet: bytes) -> bool:
        """The system refused a packet. True: try it again; False: it was dealt with."""
        if number == errno.EMSGSIZE:
            self._send_fragmented(packet)
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

    def _send_fragmented(self, packet: bytes) -> None:
        """By the kernel's own header, which it may fragment. IP options are lost on this way."""
        control = [
            (socket.IPPROTO_IP, _IP_PKTINFO, bytes(4) + packet[12:16] + bytes(4)),
            (socket.IPPROTO_IP, socket.IP_TTL, packet[8].to_bytes(4, "little")),
            (socket.IPPROTO_IP, socket.IP_TOS, packet[1].to_bytes(4, "little")),
        ]
        try:
            self._fragmenting.sendmsg(
                [packet[header_length(packet) :]], control, 0, (socket.inet_ntoa(packet[16:20]), 0)
            )
        except OSError:
            self.dropped += 1


class Receiver:
    """Takes what waits in a raw socket, without blocking."""

    def __init__(self, receiving: socket.socket) -> None:
        self._socket = receiving
        self._batches = HAVE_BATCHES
        if not self._batches:
            return
        self._recvmmsg = ctypes.CDLL(None, use_errno=True).recvmmsg
        self._arena = bytearray(SLOTS * RECEIVE_SLOT)
        self._iovecs = (_Iovec * SLOTS)()
        self._headers = (_Mmsghdr * SLOTS)()
        self._keep = _point(self._headers, self._iovecs, self._arena, RECEIVE_SLOT, None)
        self._view = memoryview(self._arena)
        self._lengths = memoryview(self._headers).cast("B").cast("I")

    def receive(self) -> list[bytes]:
        """Up to `SLOTS` packets, empty if none wait."""
        if not self._batches:
            return self._receive_singly()
        count = self._recvmmsg(self._socket.fileno(), ctypes.byref(self._headers), SLOTS, _MSG_DONTWAIT, None)
        view, lengths = self._view, self._lengths
        return [
            bytes(view[slot * RECEIVE_SLOT : slot * RECEIVE_SLOT + lengths[slot * 16 + 14]])
            for slot in range(count)
        ]

    def _receive_singly(self) -> list[bytes]:
        packets: list[bytes] = []
        while len(packets) < SLOTS:
            try:
                packets.append(self._socket.recv(RECEIVE_SLOT))
            except BlockingIOError:
                break
            except OSError:
                continue
        return packets


def _point(
    headers: "ctypes.Array[_Mmsghdr]",
    iovecs: "ctypes.Array[_Iovec]",
    arena: bytearray,
    slot_size: int,
    names: bytearray | None,
) -> list[object]:
    """Make every header point to its slot of the arena. The result keeps the buffers where they are."""
    arena_pointer = (ctypes.c_char * len(arena)).from_buffer(arena)
    keep: list[object] = [arena_pointer]
    name_base = 0
    if names is not None:
        name_pointer = (ctypes.c_char * len(names)).from_buffer(names)
        keep.append(name_pointer)
        name_base = ctypes.addressof(name_pointer)
    for slot in range(SLOTS):
        iovecs[slot].base = ctypes.addressof(arena_pointer) + slot * slot_size
        iovecs[slot].length = slot_size
        header = headers[slot].header
        header.iov = ctypes.addressof(iovecs[slot])
        header.iov_length = 1
        if names is not None:
            header.name = name_base + slot * 16
            header.name_length = 16
    return keep
