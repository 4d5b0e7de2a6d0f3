"""The burst path as Python sees it: SAs in C, flows taught to it, batches through it.

    burst = load()                       None where it was not built
    handle = burst.add(sa, mtu)          None for an SA that only the Python path has (AH, bundles)
    handle.learn(flow_key)               this flow may use this SA, decided by `datapath`
    batch = burst.outbound(device, …)    what was done, and what comes back for Python to do

One of Python's threads. A call gives up the interpreter's lock, and `run` lets the threads of C work that
`work` has made; outside of it they stand still, so all else here is as if they were not there. Keys are
copied into C and wiped there by `remove`.
"""

import ctypes
import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from struct import Struct
from typing import Final, NamedTuple, overload

from stockade.crypto.registry import encryption_algorithm, hash_algorithm
from stockade.driver.burst.build import LIBRARY
from stockade.driver.nat import address_difference
from stockade.model.filters import Direction
from stockade.model.negotiation import Mode
from stockade.model.sa import SecurityAssociation
from stockade.model.suites import Encryption, Hash

ABI: Final = 7
SLOTS: Final = 64
UNSENT: Final = 64
GRO_READS: Final = 8
_PUNTS, _TOUCHES = 1024, 2048
MAXIMUM_MTU: Final = 9216
WORKERS: Final = 4
"""Queues of the device with a thread each, at most."""

_GCM, _AES_CBC, _TRIPLE_DES, _NULL = 1, 2, 3, 4
_CIPHERS: Final = {
    Encryption.AES_GCM_128: _GCM,
    Encryption.AES_GCM_192: _GCM,
    Encryption.AES_GCM_256: _GCM,
    Encryption.AES_CBC_128: _AES_CBC,
    Encryption.AES_CBC_192: _AES_CBC,
    Encryption.AES_CBC_256: _AES_CBC,
    Encryption.TRIPLE_DES_CBC: _TRIPLE_DES,
    Encryption.DES_CBC: _TRIPLE_DES,  # with one key three times
    Encryption.NULL: _NULL,
}
_HASHES: Final = {Hash.MD5: 1, Hash.SHA1: 2, Hash.SHA_256: 3, Hash.SHA_384: 4, Hash.SHA_512: 5}
_MEND_ANEW, _MEND_BY_DIFFERENCE = 1, 2
_OPTION_PLAIN, _OPTION_NO_MERGE, _OPTION_TIMES, _OPTION_NO_IPSEC_MB, _OPTION_NO_REST = 1, 2, 4, 8, 16


class Verdict(IntEnum):
    """Why a packet came back. PUNTED: nothing happened to it, decide; the others are decided."""

    PUNTED = 1
    REPLAYED = 2
    INTEGRITY_FAILED = 3


class Watch(IntEnum):
    """What a descriptor of `Burst.run` is: the TUN device, raw sockets, the UDP socket of port 4500."""

    DEVICE = 1
    ESP = 2
    UDP = 3
    DATAGRAMS = 4


class _Parameters(ctypes.Structure):
    _fields_ = (
        ("id", ctypes.c_uint64),
        ("spi", ctypes.c_uint32),
        ("mtu", ctypes.c_uint32),
        ("window", ctypes.c_uint32),
        ("udp_source", ctypes.c_uint16),
        ("udp_destination", ctypes.c_uint16),
        ("outbound", ctypes.c_uint8),
        ("tunnel", ctypes.c_uint8),
        ("version", ctypes.c_uint8),
        ("udp", ctypes.c_uint8),
        ("cipher", ctypes.c_uint8),
        ("hash", ctypes.c_uint8),
        ("icv_size", ctypes.c_uint8),
        ("encryption_size", ctypes.c_uint8),
        ("integrity_size", ctypes.c_uint8),
        ("salt_size", ctypes.c_uint8),
        ("limited", ctypes.c_uint8),
        ("mend", ctypes.c_uint8),
        ("difference", ctypes.c_uint16),
        ("extended", ctypes.c_uint8),
        ("pad", ctypes.c_uint8 * 5),
        ("source", ctypes.c_uint8 * 16),
        ("destination", ctypes.c_uint8 * 16),
        ("encryption_key", ctypes.c_uint8 * 36),
        ("integrity_key", ctypes.c_uint8 * 64),
    )


class _Punt(ctypes.Structure):
    _fields_ = (
        ("address", ctypes.c_uint64),
        ("length", ctypes.c_uint32),
        ("verdict", ctypes.c_uint32),
        ("id", ctypes.c_uint64),
    )


class _Touched(ctypes.Structure):
    _fields_ = (("id", ctypes.c_uint64), ("packets", ctypes.c_uint64), ("bytes", ctypes.c_uint64))


class _Result(ctypes.Structure):
    _fields_ = (
        ("received", ctypes.c_uint32),
        ("punts", ctypes.c_uint32),
        ("touched", ctypes.c_uint32),
        ("unsent", ctypes.c_uint32),
        ("dropped", ctypes.c_uint32),
        ("writes", ctypes.c_uint32),
        ("kind", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
        ("total_ns", ctypes.c_uint64),
        ("crypto_ns", ctypes.c_uint64),
        ("system_ns", ctypes.c_uint64),
        ("punt", _Punt * _PUNTS),
        ("touch", _Touched * _TOUCHES),
        ("not_sent", _Punt * UNSENT),
    )


_TOUCHED: Final = Struct("=QQQ")
"""The same, to read many at once."""

_Pointer = ctypes.c_void_p
_Number = ctypes.c_int | ctypes.c_uint32 | ctypes.c_uint64
_SIZES: Final = ctypes.sizeof(_Parameters) << 20 | ctypes.sizeof(_Result)


class _Library:
    """The functions of the shared library, with their types."""

    def __init__(self, path: Path) -> None:
        """`OSError` where it cannot be loaded, `AttributeError` where it lacks a function."""
        loaded = ctypes.CDLL(str(path))
        pointer, number, size = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int
        sequence = ctypes.c_uint64

        @overload
        def function(name: str, result: type[_Pointer], *arguments: type) -> Callable[..., int | None]: ...
        @overload
        def function(name: str, result: type[_Number], *arguments: type) -> Callable[..., int]: ...
        @overload
        def function(name: str, result: None, *arguments: type) -> Callable[..., None]: ...
        def function(name: str, result: type | None, *arguments: type) -> Callable[..., object]:
            found = loaded[name]
            found.restype, found.argtypes = result, arguments
            return found

        self.abi = function("burst_abi", number)
        self.sizes = function("burst_sizes", number)
        self.new = function("burst_new", pointer, number)
        self.free = function("burst_free", None, pointer)
        self.result = function("burst_result", pointer, pointer)
        self.sa_new = function("burst_sa_new", pointer, ctypes.POINTER(_Parameters), number)
        self.has_ipsec_mb = function("burst_has_ipsec_mb", size)
        self.sa_free = function("burst_sa_free", None, pointer)
        self.add = function("burst_add", size, pointer, pointer)
        self.remove = function("burst_remove", None, pointer, pointer)
        self.learn = function("burst_learn", None, pointer, pointer, ctypes.c_char_p, number)
        self.forget = function("burst_forget", None, pointer)
        self.outbound = function("burst_outbound", size, pointer, size, size, size)
        self.inbound = function("burst_inbound", size, pointer, size, size, size, size)
        self.inbound_gro = function("burst_inbound_gro", size, pointer, size, size)
        self.watch = function("burst_watch", size, pointer, size, size, size)
        self.unwatch = function("burst_unwatch", None, pointer, size)
        self.run = function("burst_run", size, pointer, size, size, size, size, size)
        self.work = function("burst_work", size, pointer, ctypes.POINTER(ctypes.c_int), number)
        self.worked = function("burst_worked", pointer, pointer, number)
        self.use_udp = function("burst_use_udp", None, pointer, size)
        self.replay_number = function("burst_sa_replay_number", sequence, pointer, number)
        self.check = function("burst_sa_check", size, pointer, sequence)
        self.accept = function("burst_sa_accept", size, pointer, sequence)
        self.top = function("burst_sa_top", sequence, pointer)
        self.sequence = function("burst_sa_sequence", sequence, pointer)
        self.set_sequence = function("burst_sa_set_sequence", None, pointer, sequence)
        self.number = function("burst_sa_number", number, pointer)
        self.set_number = function("burst_sa_set_number", None, pointer, number)
        self.set_budget = function("burst_sa_set_budget", None, pointer, sequence)
        self.set_mtu = function("burst_sa_set_mtu", None, pointer, number)
        self.set_ports = function("burst_sa_set_ports", None, pointer, number, number)
        self.preload_noise = function("burst_preload_noise", size, pointer, ctypes.c_char_p, number)


class Carried(NamedTuple):
    """What one SA (`id`) carried in a call, in packets and bytes of protected payload. A tuple, for with
    thousands of SAs thousands of them are made in a second."""

    id: int
    packets: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Returned:
    """A packet (outbound: a frame with its virtio_net_hdr) that comes back; `id` is the SA's, 0 for none."""

    packet: bytes
    verdict: Verdict
    id: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What one call did. `received`: packets or frames taken in. `unsent`: sealed packets that are too long
    for the interface. `kind` (of `Watch`, after `run`): what `returned` came by. `dropped`: sealed packets
    that the system did not take."""

    received: int
    carried: tuple[Carried, ...] = ()
    returned: tuple[Returned, ...] = ()
    unsent: tuple[bytes, ...] = ()
    dropped: int = 0
    kind: int = 0


_NOTHING: Final = Batch(0)
_DEVICE_GONE: Final = 2


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds in C since the start: everything, the ciphers, the system calls; the rest is segments,
    checksums and headers."""

    total: float
    crypto: float
    system: float


class BurstSa:
    """One SA in C. Sequence numbers and the replay window are kept there, for both paths; once it is removed,
    here, and then no inbound number is new."""

    __slots__ = ("_burst", "_kept_number", "_kept_sequence", "_library", "id", "pointer", "size")

    def __init__(self, burst: "Burst", library: _Library, pointer: int, number: int, window: int) -> None:
        self._burst, self._library = burst, library
        self.pointer: int | None = pointer
        self.id = number
        self.size = window
        self._kept_number = self._kept_sequence = 0

    def let_go(self) -> None:
        """Before the SA is freed in C."""
        self._kept_number, self._kept_sequence = self.number, self.sequence
        self.pointer = None

    def remove(self) -> None:
        self._burst.remove(self)

    def learn(self, key: bytes) -> None:
        """`key`, of `packets.flow_key`, may use this SA until `Burst.forget`."""
        if self.pointer is not None:
            self._library.learn(self._burst.pointer, self.pointer, key, len(key))

    @property
    def sequence(self) -> int:
        """The last sequence number that was used."""
        return self._kept_sequence if self.pointer is None else self._library.sequence(self.pointer)

    @sequence.setter
    def sequence(self, value: int) -> None:
        self._kept_sequence = value
        if self.pointer is not None:
            self._library.set_sequence(self.pointer, value)

    @property
    def number(self) -> int:
        """The IPv4 identification of the last outer header."""
        return self._kept_number if self.pointer is None else self._library.number(self.pointer)

    @number.setter
    def number(self, value: int) -> None:
        self._kept_number = value
        if self.pointer is not None:
            self._library.set_number(self.pointer, value)

    def set_ports(self, source: int, destination: int) -> None:
        """The UDP ports from now on: a NAT has moved the peer."""
        if self.pointer is not None:
            self._library.set_ports(self.pointer, source, destination)

    def set_budget(self, size: int) -> None:
        """After so many bytes `Burst.run` comes back at once, for Python to look at a lifetime."""
        if self.pointer is not None:
            self._library.set_budget(self.pointer, size)

    def set_mtu(self, mtu: int) -> None:
        if self.pointer is not None:
            self._library.set_mtu(self.pointer, mtu)

    # ---- the replay window: as `replay.ReplayWindow` -------------------------------------------------------

    @property
    def top(self) -> int:
        return 0 if self.pointer is None else self._library.top(self.pointer)

    def number_of(self, lower: int) -> int:
        return 0 if self.pointer is None else self._library.replay_number(self.pointer, lower)

    def check(self, sequence: int) -> bool:
        return self.pointer is not None and bool(self._library.check(self.pointer, sequence))

    def accept(self, sequence: int) -> bool:
        return self.pointer is not None and bool(self._library.accept(self.pointer, sequence))


class Burst:
    """The whole of it. `plain` is for tests: the descriptors take and give packets without addresses.
    `ipsec_mb`: use that library where it is there. `merge`: join TCP segments before they are written to the
    device. `rest`: let a raw socket gather a batch. `times`: measure, which costs some."""

    def __init__(
        self,
        library: _Library,
        *,
        merge: bool = True,
        ipsec_mb: bool = True,
        rest: bool = True,
        times: bool = False,
        plain: bool = False,
    ) -> None:
        self._library = library
        options = _OPTION_PLAIN * plain | _OPTION_NO_MERGE * (not merge) | _OPTION_TIMES * times
        options |= _OPTION_NO_IPSEC_MB * (not ipsec_mb) | _OPTION_NO_REST * (not rest)
        self._options = options
        pointer = library.new(options)
        if not pointer:
            raise MemoryError("no memory for the burst path")
        self.pointer = pointer
        address = library.result(pointer)
        assert address is not None
        self._result = _Result.from_address(address)
        self._worked: list[_Result] = []
        self._sas: dict[int, BurstSa] = {}
        self._last = 0

    def __del__(self) -> None:
        pointer = getattr(self, "pointer", None)
        if pointer:
            self._library.free(pointer)  # ends the threads
            for each in self._sas.values():
                self._library.sa_free(each.pointer)

    # ---- SAs -----------------------------------------------------------------------------------------------

    def add(self, sa: SecurityAssociation, mtu: int = 0) -> BurstSa | None:
        """None where this SA is not for the burst path."""
        parameters = _parameters(sa, mtu)
        if parameters is None:
            return None
        self._last += 1
        parameters.id = self._last
        try:
            pointer = self._library.sa_new(ctypes.byref(parameters), self._options)
        finally:
            ctypes.memset(ctypes.byref(parameters), 0, ctypes.sizeof(parameters))
        if not pointer:
            return None
        if self._library.add(self.pointer, pointer):
            self._library.sa_free(pointer)
            return None
        handle = BurstSa(self, self._library, pointer, self._last, sa.replay_window)
        self._sas[handle.id] = handle
        return handle

    def remove(self, handle: BurstSa) -> None:
        """Take it out and wipe its keys; `handle` must not be used again."""
        if self._sas.pop(handle.id, None) is not None:
            pointer = handle.pointer
            handle.let_go()
            self._library.remove(self.pointer, pointer)
            self._library.sa_free(pointer)

    def forget(self) -> None:
        """Filters or SAs changed: no flow is known any more."""
        self._library.forget(self.pointer)

    # ---- packets -------------------------------------------------------------------------------------------

    def outbound(self, device: int, send4: int, send6: int) -> Batch:
        """Read what waits in the device, seal and send it. -1 for a socket that there is not."""
        return self._batch() if self._library.outbound(self.pointer, device, send4, send6) else _NOTHING

    def inbound(self, receiving: int, device: int, version: int, *, udp: bool) -> Batch:
        """Take what waits in a raw socket, open it and write it to the device."""
        if not self._library.inbound(self.pointer, receiving, device, version, udp):
            return _NOTHING
        return self._batch()

    def watch(self, descriptor: int, kind: Watch, version: int = 4) -> None:
        """`run` is to carry what comes by it."""
        if self._library.watch(self.pointer, descriptor, kind, version):
            raise ValueError("too many descriptors")

    def unwatch(self, descriptor: int) -> None:
        self._library.unwatch(self.pointer, descriptor)

    def run(self, slow: int, device: int, sending: tuple[int, int], seconds: float) -> tuple[bool, Batch]:
        """Carry packets for so long, or until Python has to see to something: whether the epoll descriptor
        `slow` has something, and what was done. `sending`: the raw sockets for IPv4 and IPv6. A call tells
        its counters after 20 ms of packets at most, and at once where it comes back for another reason.
        `OSError` where somebody has removed the device."""
        milliseconds = max(0, int(seconds * 1000))
        ready = self._library.run(self.pointer, slow, device, *sending, milliseconds)
        if ready == _DEVICE_GONE:
            raise OSError(errno.EBADFD, "the TUN device is gone")
        result = self._result
        if not (result.received or result.punts):
            return bool(ready), _NOTHING
        return bool(ready), self._batch()

    def work(self, queues: Sequence[int]) -> bool:
        """Give each of these queues of the device a thread that carries what leaves by it, during `run`; once
        and before any packet. False where the system has no threads for us."""
        numbers = (ctypes.c_int * len(queues))(*queues)
        if self._library.work(self.pointer, numbers, len(queues)):
            return False
        for number in range(len(queues)):
            address = self._library.worked(self.pointer, number)
            assert address is not None
            self._worked.append(_Result.from_address(address))
        return True

    def worked(self) -> list[Batch]:
        """What the threads did during the last `run`, as it gives it; to be asked for after each."""
        return [self._batch(result) for result in self._worked if result.received]

    def use_udp(self, sock: int) -> None:
        """The UDP socket of port 4500 (IPv4): ESP in UDP goes out by it, many segments a call. -1 for
        none."""
        self._library.use_udp(self.pointer, sock)

    def inbound_gro(self, sock: int, device: int) -> Batch:
        """As `inbound` from that socket, whose datagrams may be merged ones; they come back as IP packets."""
        return self._batch() if self._library.inbound_gro(self.pointer, sock, device) else _NOTHING

    def _batch(self, result: _Result | None = None) -> Batch:
        result = result or self._result
        copy = ctypes.string_at
        touched = copy(ctypes.addressof(result.touch), result.touched * _TOUCHED.size)
        return Batch(
            result.received,
            tuple(map(Carried._make, _TOUCHED.iter_unpack(touched))),
            tuple(
                Returned(copy(each.address, each.length), Verdict(each.verdict), each.id)
                for each in result.punt[: result.punts]
            ),
            tuple(copy(each.address, each.length) for each in result.not_sent[: result.unsent]),
            result.dropped,
            result.kind,
        )

    def times(self) -> Times:
        lanes = [self._result, *self._worked]
        return Times(
            sum(lane.total_ns for lane in lanes) / 1e9,
            sum(lane.crypto_ns for lane in lanes) / 1e9,
            sum(lane.system_ns for lane in lanes) / 1e9,
        )

    def preload_noise(self, noise: bytes) -> None:
        """For tests: the next random blocks of CBC, at most 1024 bytes."""
        if self._library.preload_noise(self.pointer, noise, len(noise)):
            raise ValueError("too much noise")


def _parameters(sa: SecurityAssociation, mtu: int) -> _Parameters | None:
    suite = sa.esp
    if suite is None or sa.bundle is not None or suite.encryption not in _CIPHERS or mtu > MAXIMUM_MTU:
        return None
    if suite.integrity is not None and suite.integrity not in _HASHES:
        return None
    algorithm = encryption_algorithm(suite.encryption)
    wanted = parameters = _Parameters(
        spi=sa.spi,
        mtu=mtu,
        window=sa.replay_window,
        outbound=sa.direction is Direction.OUTBOUND,
        tunnel=sa.mode is Mode.TUNNEL,
        version=sa.source.version,
        cipher=_CIPHERS[suite.encryption],
        extended=sa.extended_sequence,
    )
    if sa.udp is not None:
        wanted.udp, wanted.udp_source, wanted.udp_destination = 1, sa.udp.source_port, sa.udp.destination_port
    if suite.integrity is None:
        wanted.icv_size = algorithm.icv_size
    else:
        wanted.hash = _HASHES[suite.integrity]
        wanted.icv_size = hash_algorithm(suite.integrity).icv_size
    wanted.salt_size = algorithm.salt_size
    wanted.limited = sa.lifetime.soft_bytes is not None or sa.lifetime.hard_bytes is not None
    if sa.udp is not None and sa.mode is Mode.TRANSPORT and sa.direction is Direction.INBOUND:
        wanted.mend = _MEND_ANEW
        if sa.original is not None:
            wanted.difference = address_difference(sa, sa.original)
            wanted.mend = _MEND_BY_DIFFERENCE if wanted.difference else 0
    key, integrity = sa.encryption_key.reveal(), sa.integrity_key.reveal()
    if suite.encryption is Encryption.DES_CBC:
        key *= 3
    if len(key) > 36 or len(integrity) > 64:
        return None
    wanted.encryption_size, wanted.integrity_size = len(key) - algorithm.salt_size, len(integrity)
    for target, value in (
        (parameters.source, sa.source.packed),
        (parameters.destination, sa.destination.packed),
        (parameters.encryption_key, key),
        (parameters.integrity_key, integrity),
    ):
        ctypes.memmove(target, value, len(value))
    return parameters


def load_library(path: Path = LIBRARY) -> _Library | None:
    """None where it was not built, or was built from other sources than these."""
    try:
        library = _Library(path)
        return library if library.abi() == ABI and library.sizes() == _SIZES & 0xFFFF_FFFF else None
    except (OSError, AttributeError):
        return None


def load(
    path: Path = LIBRARY,
    *,
    merge: bool = True,
    ipsec_mb: bool = True,
    rest: bool = True,
    times: bool = False,
    plain: bool = False,
) -> Burst | None:
    """The burst path, ready to be taught; None where there is none."""
    library = load_library(path)
    if library is None:
        return None
    return Burst(library, merge=merge, ipsec_mb=ipsec_mb, rest=rest, times=times, plain=plain)
