"""`stockade capture`: packets before and after IPsec in one pcapng file, and on request what decrypts them.

    interface 0  wire    ESP, AH and IKE (UDP 500, 4500) on every network device of this namespace
    interface 1  clear   what the policy secures: outbound before, inbound after IPsec

Clear packets are seen on the device of the user-space data plane. The kernel's data plane has no such place:
there what is on the wire is opened with the SAs' keys, in memory (`capture_opening.py`). Packet sockets
(packet(7)) give what is copied to them, with the header that says how the kernel cuts it (PACKET_VNET_HDR):
ESP in UDP leaves and comes 64 datagrams at a time, and each of them is written as a packet of its own, for so
they are on the wire.
"""

import os
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from stockade import __version__
from stockade.agent.client import AgentClient
from stockade.agent.paths import Paths
from stockade.console.capture_opening import PacketOpener
from stockade.console.output import give
from stockade.driver.userspace.system import DEVICE
from stockade.model.addresses import Address
from stockade.model.reasons import PeerError, ReasonCode, StockadeError, error_for
from stockade.model.traffic import AH, ESP, UDP
from stockade.wire.checksum import internet_checksum
from stockade.wire.ip import flow_of
from stockade.wire.pcap import LinkType, pcapng_interface, pcapng_record, pcapng_section

ETH_P_ALL = 3
SOL_PACKET, PACKET_VNET_HDR, PACKET_STATISTICS = 263, 15, 6
SO_RCVBUFFORCE = 33
BUFFER_BYTES = 64 * 1024 * 1024
LARGEST_PACKET = 1 << 17
VIRTIO_HEADER = struct.Struct("=BBHHHH")
GSO_UDP_L4 = 5
ETHERNET = frozenset({1, 772})  # ARPHRD_ETHER, ARPHRD_LOOPBACK: 14 bytes before the packet
OUTGOING = 4  # PACKET_OUTGOING
WIRE, CLEAR = 0, 1
IKE_PORTS = frozenset({500, 4500})
REFRESH_SECONDS = 1.0
MAXIMUM_REST = 64


@dataclass(frozen=True, slots=True)
class Seen:
    """One IP packet: on which of the two interfaces, and which way."""

    interface: int
    outbound: bool
    data: bytes


def sort_out(device: str, packet: bytes, outbound: bool, peer: Address | None) -> Iterator[Seen]:
    """What of a packet is written; nothing where it is not ours, or not of this peer."""
    try:
        flow = flow_of(packet)
    except PeerError:
        return
    if peer is not None and peer not in (flow.source, flow.destination):
        return
    if device == DEVICE:
        yield Seen(CLEAR, outbound, packet)
    elif flow.protocol in (ESP, AH) or (
        flow.protocol == UDP and (flow.source_port in IKE_PORTS or flow.destination_port in IKE_PORTS)
    ):
        yield Seen(WIRE, outbound, packet)


def datagrams(packet: bytes, size: int) -> list[bytes]:
    """A UDP packet that the kernel cuts (or has joined), as the datagrams of `size` bytes that are on the
    wire. Anything else stays whole."""
    version = packet[0] >> 4 if packet else 0
    head = (packet[0] & 15) * 4 if version == 4 else 40
    protocol = packet[9:10] if version == 4 else packet[6:7]
    body = packet[head + 8 :]
    if size <= 0 or protocol != bytes([UDP]) or len(body) <= size:
        return [packet]
    found = []
    for number, start in enumerate(range(0, len(body), size)):
        part = body[start : start + size]
        udp = packet[head : head + 4] + (len(part) + 8).to_bytes(2, "big") + bytes(2)
        found.append(_ip_header(packet[:head], len(part) + 8, number) + udp + part)
    return found


def _ip_header(header: bytes, size: int, number: int) -> bytes:
    if header[0] >> 4 == 6:
        return header[:4] + size.to_bytes(2, "big") + header[6:]
    identifier = (int.from_bytes(header[4:6], "big") + number) & 0xFFFF
    new = header[:2] + (len(header) + size).to_bytes(2, "big") + identifier.to_bytes(2, "big")
    new += header[6:10] + bytes(2) + header[12:]
    return new[:10] + internet_checksum(new).to_bytes(2, "big") + new[12:]


class PacketSocket:
    """All packets of all devices of this network namespace. HostError NOT_PRIVILEGED."""

    def __init__(self) -> None:
        try:
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        except PermissionError:
            raise error_for(ReasonCode.NOT_PRIVILEGED, "a capture needs a packet socket") from None
        except OSError as error:
            detail = f"a capture needs a packet socket: {error.strerror}"
            raise error_for(ReasonCode.DRIVER_FAILED, detail) from None
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        except OSError:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        try:
            self.socket.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
            self._has_header = True
        except OSError:
            self._has_header = False
        self.socket.setblocking(False)

    def read(self, peer: Address | None) -> Iterator[Seen]:
        """What has come so far, some hundred packets at most."""
        for _ in range(256):
            try:
                frame, (device, _, kind, hardware, _) = self.socket.recvfrom(LARGEST_PACKET)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # a device went down
                continue
            size = 0
            if self._has_header:
                _, gso, _, size, _, _ = VIRTIO_HEADER.unpack_from(frame)
                frame = frame[VIRTIO_HEADER.size :]
                size = size if gso & 0x7F == GSO_UDP_L4 else 0
            packet = frame[14:] if hardware in ETHERNET else frame
            if device == "lo" and kind == OUTGOING:
                continue  # it is seen again as it comes in
            for seen in sort_out(device, packet, kind == OUTGOING, peer):
                for one in datagrams(seen.data, size):
                    yield Seen(seen.interface, seen.outbound, one)

    def lost(self) -> int:
        """Packets that did not fit since the last call."""
        data = self.socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
        return int.from_bytes(data[4:], sys.byteorder)

    def close(self) -> None:
        self.socket.close()


class WiresharkFolder:
    """Tables for Wireshark beside the capture, in a configuration folder of their own, for its owner only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._esp: dict[str, None] = {}
        self._ike: dict[str, None] = {}
        try:
            folder.mkdir(mode=0o700)
        except OSError as error:
            raise error_for(ReasonCode.NOT_PRIVILEGED, f"cannot make {folder}: {error.strerror}") from None
        self._write("preferences", "\n".join(PREFERENCES) + "\n")

    def add(self, keys: dict[str, list[dict[str, object]]]) -> None:
        """What the agent gave out; keys of SAs that are gone stay."""
        for sa in keys["esp"]:
            number = "64-bit" if sa["extended_sequence"] else "32-bit"
            fields = [str(sa[name]) for name in _COLUMNS]
            self._esp[",".join(f'"{field}"' for field in (*fields, number, "0x00000000"))] = None
        for mode in keys["ike"]:
            self._ike[f"{mode['initiator_cookie']},{mode['key']}"] = None
        self._write("esp_sa", "".join(f"{line}\n" for line in self._esp))
        self._write("ikev1_decryption_table", "".join(f"{line}\n" for line in self._ike))

    def _write(self, name: str, text: str) -> None:
        path = self.folder / name
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        with open(os.open(path, flags, 0o600), "w") as file:
            file.write(text)


_COLUMNS = (
    "protocol",
    "source",
    "destination",
    "spi",
    "encryption",
    "encryption_key",
    "authentication",
    "authentication_key",
)
PREFERENCES = (
    "esp.enable_encryption_decode: TRUE",
    "esp.enable_authentication_check: TRUE",
    "esp.enable_null_encryption_decode_heuristic: FALSE",
)


def run_capture(
    paths: Paths,
    file: Path,
    *,
    seconds: float | None,
    count: int | None,
    peer: Address | None,
    keys: bool,
    form: str = "text",
    stop: Callable[[], bool] = lambda: False,
) -> int:
    """Capture until Ctrl-C, for so long, or so many packets. Errors: NOT_PRIVILEGED, AGENT_NOT_RUNNING (with
    `keys`), DRIVER_FAILED."""
    client = AgentClient(paths.socket)
    source = PacketSocket()
    folder: WiresharkFolder | None = None
    recording: Recording | None = None
    try:
        # What the kernel seals is seen in clear nowhere: it is opened here, with keys in memory.
        opener = PacketOpener() if _is_kernel(client) else None
        if keys:
            first = client.post("/v1/capture/keys")
            folder = WiresharkFolder(Path(f"{file}.wireshark"))
            folder.add(first)
        with _create(file) as output:
            _write_head(output, keys, file)
            print(f"capturing into {file}; Ctrl-C ends it", file=sys.stderr)
            recording = Recording(source, output, client, folder, opener)
            with suppress(KeyboardInterrupt):  # the usual way to end
                recording.run(seconds, count, peer, stop)
            recording.take_rest(count, peer)
            recording.fetch_keys()
        lost = source.lost()
    finally:
        source.close()
    answer = {
        "file": str(file),
        "packets": recording.written,
        "missing": lost,
        "not_opened": opener.unknown if opener is not None else 0,
        "keys": None if folder is None else str(folder.folder),
    }
    give(answer, form, None)
    _tell(file, folder, lost)
    return 0 if recording.written else 1


def _is_kernel(client: AgentClient) -> bool:
    try:
        return bool(client.get("/v1/status")["driver"] == "kernel")
    except StockadeError:
        return False  # none runs, or it is not for us: then there is the wire


class Recording:
    """Writes what a packet socket sees; `written` counts the packets, whatever ends it. `folder` and `opener`
    want keys of SAs as they come up."""

    def __init__(
        self,
        source: PacketSocket,
        output: BinaryIO,
        client: AgentClient,
        folder: WiresharkFolder | None,
        opener: PacketOpener | None,
    ) -> None:
        self._source, self._output, self._client = source, output, client
        self._folder, self._opener = folder, opener
        self.written = 0

    def run(
        self, seconds: float | None, count: int | None, peer: Address | None, stop: Callable[[], bool]
    ) -> None:
        """Until `stop`, for so long, or so many packets."""
        end = None if seconds is None else time.monotonic() + seconds
        wants_keys = self._folder is not None or self._opener is not None
        keyed = known = _established(self._client) if wants_keys else 0
        if self._opener is not None:
            self.fetch_keys()
        look = time.monotonic() + REFRESH_SECONDS
        while not stop() and (count is None or self.written < count):
            now = time.monotonic()
            if end is not None and now >= end:
                break
            wait = REFRESH_SECONDS if end is None else min(REFRESH_SECONDS, end - now)
            select.select([self._source.socket], [], [], min(wait, 0.2))
            for seen in self._source.read(peer):
                self._write(time.time_ns(), seen)
                if self.written == count:
                    break
            self._output.flush()
            if wants_keys and now >= look:
                look, known = now + REFRESH_SECONDS, _established(self._client)
                if known != keyed:  # each time that keys are given out is in the journal: only for new ones
                    keyed = known
                    self.fetch_keys()

    def take_rest(self, count: int | None, peer: Address | None) -> None:
        """What came before the end and is not read yet; bounded, for packets go on coming."""
        for _ in range(MAXIMUM_REST):
            seen = None
            for seen in self._source.read(peer):
                if count is not None and self.written >= count:
                    return
                self._write(time.time_ns(), seen)
            if seen is None:
                return

    def _write(self, stamp: int, seen: Seen) -> None:
        self._record(stamp, seen)
        if self._opener is not None and seen.interface == WIRE:
            inside = self._opener.open(seen.data, stamp, seen.outbound)
            if inside is not None:
                self._record(stamp, Seen(CLEAR, seen.outbound, inside))

    def _record(self, stamp: int, seen: Seen) -> None:
        self._output.write(pcapng_record(stamp, seen.data, None, seen.interface, seen.outbound))
        self.written += 1

    def fetch_keys(self) -> None:
        """Ask for the keys of the SAs that there are now."""
        if self._folder is None and self._opener is None:
            return
        try:
            keys = self._client.post(
                "/v1/capture/keys", {"kept": "memory" if self._folder is None else "file"}
            )
        except StockadeError as error:
            print(f"stockade: keys of new SAs are missing: {error}", file=sys.stderr)
            return
        if self._folder is not None:
            self._folder.add(keys)
        if self._opener is not None:
            for waited, inside in self._opener.learn(keys["sas"]):
                self._record(waited.stamp, Seen(CLEAR, waited.outbound, inside))


def _established(client: AgentClient) -> int:
    """A number that changes with every SA that comes up."""
    try:
        counters = client.get("/v1/status")["ike"]
        return int(counters["main_modes"]) + int(counters["key_additions"])
    except StockadeError:
        return 0


def _create(file: Path) -> BinaryIO:
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise error_for(ReasonCode.NAME_EXISTS, f"{file} is there already; nothing is overwritten") from None
    except OSError as error:
        raise error_for(ReasonCode.NOT_PRIVILEGED, f"cannot make {file}: {error.strerror}") from None
    return open(descriptor, "wb")


def _write_head(output: BinaryIO, keys: bool, file: Path) -> None:
    comment = "Captured by stockade capture. Interface 0: the wire; 1: before (out) and after (in) IPsec."
    if keys:
        comment += f" To decrypt: WIRESHARK_CONFIG_DIR={file.name}.wireshark wireshark {file.name}"
    output.write(pcapng_section(comment, f"stockade {__version__}"))
    output.write(pcapng_interface(LinkType.RAW, "wire", "ESP, AH and IKE as they are on the wire"))
    output.write(pcapng_interface(LinkType.RAW, "clear", "before IPsec (outbound), after IPsec (inbound)"))
    output.flush()


def _tell(file: Path, folder: WiresharkFolder | None, lost: int) -> None:
    if lost:
        print(f"{lost} packets came too fast and are missing", file=sys.stderr)
    if folder is not None:
        print(f"decrypted: WIRESHARK_CONFIG_DIR={folder.folder} wireshark {file}", file=sys.stderr)
        print(f"{folder.folder} holds keys: delete it when you are done", file=sys.stderr)
