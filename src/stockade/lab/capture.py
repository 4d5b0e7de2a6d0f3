"""What was on the wire: every packet is looked at and counted by kind; a capture file is written when asked
for.

`WireWatch` classifies IP packets, wherever they come from: a virtual network's tap, or `Capture`, which reads
them from a packet socket on an interface in a namespace (AF_PACKET, cooked, so without the Ethernet header)
in a thread of its own.

A capture proves that something was *not* on the wire only if it missed nothing: the kernel's count of packets
that did not fit into the socket's buffer is part of the tally.
"""

import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from select import select
from types import TracebackType
from typing import BinaryIO, Self

from stockade.lab.errors import LabError
from stockade.lab.netns import Namespace
from stockade.model.reasons import PeerError
from stockade.model.traffic import AH, ESP, UDP, Flow
from stockade.wire.ip import flow_of, flow_of_packet, parse_packet
from stockade.wire.pcap import LinkType, pcap_header, pcap_record
from stockade.wire.udp_encapsulation import IKE_PORT, NAT_TRAVERSAL_PORT, DatagramKind, classify

ETH_P_ALL = 3
SOL_PACKET, PACKET_STATISTICS = 263, 6
SO_RCVBUFFORCE = 33
BUFFER_BYTES = 128 * 1024 * 1024
LARGEST_PACKET = 1 << 17
IDLE_SECONDS = 0.05
SETTLE_SECONDS = 5.0

Predicate = Callable[[Flow], bool]


def nothing(flow: Flow) -> bool:
    """The predicate that no flow fulfils."""
    return False


class PacketKind(StrEnum):
    """What a packet on the wire is to us."""

    ESP = "esp"
    AH = "ah"
    IKE = "ike"
    PROTECTED_CLEAR = "protected-clear"
    BLOCKED = "blocked"
    PERMITTED = "permitted"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Tally:
    """Packets by kind. `protected_clear` are clear packets of traffic that must be secured, `example`
    describes the first of them; `missed` is how many the capture lost."""

    esp: int = 0
    ah: int = 0
    ike: int = 0
    protected_clear: int = 0
    blocked: int = 0
    permitted: int = 0
    other: int = 0
    missed: int = 0
    example: str = ""


class WireWatch:
    """Counts IP packets. The predicates say which clear traffic must be secured, which is blocked, which
    permitted; they are asked in this order."""

    def __init__(
        self, protected: Predicate, blocked: Predicate = nothing, permitted: Predicate = nothing
    ) -> None:
        self._predicates = (
            (PacketKind.PROTECTED_CLEAR, protected),
            (PacketKind.BLOCKED, blocked),
            (PacketKind.PERMITTED, permitted),
        )
        self._counts = dict.fromkeys(PacketKind, 0)
        self._example = ""

    def see(self, packet: bytes) -> PacketKind:
        """Count one IP packet; what is no IP packet counts as other."""
        kind = self._classify(packet)
        self._counts[kind] += 1
        if kind is PacketKind.PROTECTED_CLEAR and not self._example:
            self._example = str(flow_of(packet))
        return kind

    def tally(self) -> Tally:
        counts = {kind.name.lower(): number for kind, number in self._counts.items()}
        return replace(Tally(), **counts, example=self._example)

    def _classify(self, packet: bytes) -> PacketKind:
        if (
            len(packet) >= 20 and packet[0] >> 4 == 4 and packet[9] == ESP
        ):  # the usual case, without an object
            return PacketKind.ESP
        try:
            parsed = parse_packet(packet)
            flow = flow_of_packet(parsed, packet)
        except PeerError:
            return PacketKind.OTHER
        if flow.protocol == ESP:
            return PacketKind.ESP
        if flow.protocol == AH:
            return PacketKind.AH
        ports = {flow.source_port, flow.destination_port}
        if flow.protocol == UDP and ports & {IKE_PORT, NAT_TRAVERSAL_PORT}:
            return _udp_kind(packet[parsed.payload_offset + 8 :], NAT_TRAVERSAL_PORT in ports)
        for kind, predicate in self._predicates:
            if predicate(flow):
                return kind
        return PacketKind.OTHER


def _udp_kind(datagram: bytes, on_nat_port: bool) -> PacketKind:
    with suppress(PeerError):  # too short to be anything: not ESP, at any rate
        if on_nat_port and classify(datagram) is DatagramKind.ESP:
            return PacketKind.ESP
    return PacketKind.IKE


class Capture:
    """Watches an interface in a namespace from entry to exit. `pcap` is a file to write every packet to."""

    def __init__(
        self, namespace: Namespace, interface: str, watch: WireWatch, pcap: Path | None = None
    ) -> None:
        self._namespace, self._interface, self._watch, self._pcap = namespace, interface, watch, pcap
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._idle = 0
        self._missed = 0
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Everything that passes after this call is seen."""
        self._socket = self._namespace.call(self._open)
        self._thread = threading.Thread(target=self._work, name="capture", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop, with all that is in the buffer counted. Stopping twice is no error."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(SETTLE_SECONDS)
            self._thread = None
        if self._socket is not None:
            self._count_missed(self._socket)
            self._socket.close()
            self._socket = None

    def tally(self) -> Tally:
        """What has passed up to this call."""
        if self._thread is not None and self._socket is not None:
            # Twice idle after now means that everything which was in the buffer is counted.
            wanted, deadline = self._idle + 2, time.monotonic() + SETTLE_SECONDS
            while self._idle < wanted and self._thread.is_alive() and time.monotonic() < deadline:
                time.sleep(0.01)
            self._count_missed(self._socket)
        if self._failure is not None:
            raise LabError(f"the capture on {self._interface} broke off: {self._failure}") from self._failure
        return replace(self._watch.tally(), missed=self._missed)

    def _open(self) -> socket.socket:
        capture = socket.socket(
            socket.AF_PACKET, socket.SOCK_DGRAM, 0
        )  # protocol 0: nothing before it is bound
        with suppress(OSError):
            capture.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        capture.setblocking(False)
        capture.bind((self._interface, ETH_P_ALL))
        return capture

    def _work(self) -> None:
        try:
            if self._pcap is None:
                self._read(None)
            else:
                with self._pcap.open("wb") as file:
                    file.write(pcap_header(LinkType.RAW))
                    self._read(file)
        except BaseException as error:
            self._failure = error

    def _read(self, file: BinaryIO | None) -> None:
        capture = self._socket
        assert capture is not None
        buffer = bytearray(LARGEST_PACKET)
        view = memoryview(buffer)
        while True:
            try:
                size = capture.recv_into(view)
            except BlockingIOError:
                self._idle += 1
                if self._stopping.is_set():
                    return
                select([capture], [], [], IDLE_SECONDS)
                continue
            packet = bytes(view[:size])
            self._watch.see(packet)
            if file is not None:
                file.write(pcap_record(time.time_ns(), packet))

    def _count_missed(self, capture: socket.socket) -> None:
        """The kernel's counter of packets that did not fit; reading it sets it to zero."""
        _, dropped = struct.unpack("II", capture.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        self._missed += dropped
