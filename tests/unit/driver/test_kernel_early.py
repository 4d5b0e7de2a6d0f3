"""For which SPIs the kernel's data plane waits. That it loses nothing then shows in tests/kernel."""

import struct
from ipaddress import ip_address

import pytest

from stockade.driver.kernel.early import READS, WATCHED, EarlyWatch, spi_filter
from stockade.model.traffic import AH, ESP, UDP


class Watch(EarlyWatch):
    """Opens no sockets; what each filter was made for."""

    def __init__(self) -> None:
        super().__init__()
        self.filters: list[list[int]] = []

    def _attach(self) -> None:
        self.filters.append(list(self._awaited))


def test_a_reserved_spi_is_waited_for_from_the_next_round_until_its_sa_is_there() -> None:
    watch = Watch()
    watch.expect(0x1000, 4)
    watch.expect(0x1001, 4)
    watch.listen(0.0)
    assert watch.filters == [[0x1000, 0x1001]], "before the message leaves that tells them, and once for both"
    watch.listen(0.1)
    watch.settle(0x1000)
    watch.listen(0.2)
    watch.settle(0x1001)
    watch.listen(0.3)
    watch.listen(0.4)
    assert watch.filters == [[0x1000, 0x1001], [0x1001], []]


def test_the_newest_are_waited_for_where_there_are_many() -> None:
    watch = Watch()
    for spi in range(0x1000, 0x1000 + 3 * WATCHED):
        watch.expect(spi, 4)
    watch.listen(0.0)
    assert watch.filters == [list(range(0x1000 + 2 * WATCHED, 0x1000 + 3 * WATCHED))]


def run_filter(program: bytes, packet: bytes) -> bool:
    """What the kernel's classic BPF makes of the few instructions that are used."""
    instructions = list(struct.iter_unpack("=HBBI", program))
    accumulator = index = place = 0
    while True:
        code, if_true, if_false, value = instructions[place]
        place += 1
        match code:
            case 0xB1:
                index = 4 * (packet[value] & 15)
            case 0x01:
                index = value
            case 0x40 | 0x48:
                size = 4 if code == 0x40 else 2
                part = packet[index + value : index + value + size]
                if len(part) < size:
                    return False
                accumulator = int.from_bytes(part, "big")
            case 0x15:
                place += if_true if accumulator == value else if_false
            case 0x06:
                return value > 0


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", [ESP, AH, UDP])
def test_the_filter_takes_its_spis_and_nothing_else(version: int, protocol: int) -> None:
    program = spi_filter(version, protocol, list(range(0x1000, 0x1000 + WATCHED)))
    assert len(program) // 8 < 4096

    def packet(spi: int, port: int = 4500) -> bytes:
        front = {ESP: b"", AH: bytes(4), UDP: struct.pack(">HHHH", 4500, port, 20, 0)}[protocol]
        header = b"\x46" + bytes(23) if version == 4 else b""
        return header + front + struct.pack(">II", spi, 1)

    for spi in (0x1000, 0x1000 + WATCHED - 1):
        assert run_filter(program, packet(spi))
    for spi in (0, 0xFFF, 0x1000 + WATCHED):
        assert not run_filter(program, packet(spi))
    assert not run_filter(program, packet(0x1000)[:-6])
    if protocol == UDP:
        assert not run_filter(program, packet(0x1000, port=500))
    assert not run_filter(spi_filter(version, protocol, []), packet(0x1000))


class Flood:
    """A receiver that is filled faster than it is read."""

    def __init__(self) -> None:
        self.given = 0

    def receive(self) -> list[bytes]:
        self.given += 1
        assert self.given < 100_000, "it is read without an end"
        return [b"\x45" + bytes(11) + bytes((10, 0, 0, 2, 10, 0, 0, 1)) + struct.pack(">II", 0x1000, 1)]


def test_who_sends_faster_than_we_read_keeps_nobody_waiting() -> None:
    watch, flood = Watch(), Flood()
    watch._sockets[4, ESP] = None, flood  # type: ignore[assignment]
    taken = watch.take(ip_address("10.0.0.1"), [(ESP, 0x1000)], 0.0)
    assert len(taken) == READS
    assert set(taken) == {flood.receive()[0]}
