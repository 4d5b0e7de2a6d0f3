"""The kernel driver over netlink answers that are not what a kernel says: real ones (of Linux 6.1, by the
type of the request that got them), mutated. Whatever comes, a call ends, and with a result or with
the driver's own error."""

import errno
import json
import os
import random
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from stockade.driver.kernel import driver as driver_module
from stockade.driver.kernel import looks as looks_module
from stockade.driver.kernel.driver import KernelDriver
from stockade.driver.kernel.listener import Listener
from stockade.driver.netlink import NetlinkSocket
from stockade.model.capabilities import Capabilities
from stockade.model.filters import Direction
from stockade.model.negotiation import Mode
from stockade.model.reasons import HostError, Reason, ReasonCode
from stockade.model.suites import Encryption, Hash
from stockade.wire.netlink import HEADER, NLM_F_ACK, NLM_F_DUMP, NLMSG_DONE, NLMSG_ERROR, NetlinkMessage

RECORDED = json.loads((Path(__file__).parents[2] / "data" / "xfrm-answers.json").read_text(encoding="ascii"))
ANSWERS = {int(kind): [bytes.fromhex(each) for each in found] for kind, found in RECORDED["answers"].items()}
TOLD = [bytes.fromhex(each) for each in RECORDED["told"]]
EVERYTHING = Capabilities(
    "kernel", frozenset(Mode), frozenset(Encryption), frozenset(Hash), True, frozenset({4, 6})
)
FALLBACK = Reason.of(ReasonCode.SOFT_FALLBACK)
ROUNDS = 60


class Liar:
    """Stands for every netlink socket. How often an answer is changed is drawn anew for each driver, so that
    some get far."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.rate = chance.choice((0.0, 0.02, 0.1, 0.5))
        self.waiting: deque[bytes] = deque()
        self.sent = 0

    def send(self, data: bytes) -> int:
        self.sent += 1
        assert self.sent < 5000, "it asks and asks"
        offset, final = 0, False
        while offset < len(data):
            size, kind, flags, sequence, _ = HEADER.unpack_from(data, offset)
            offset += (size + 3) & ~3
            found = [each for each in ANSWERS.get(kind, []) if len(each) > 36]
            final = bool(flags & (NLM_F_ACK | NLM_F_DUMP))
            for each in self.chance.sample(found, min(len(found), 2)):
                self.waiting.append(self.bend(each, sequence))
            if final:
                is_dump = flags & NLM_F_DUMP == NLM_F_DUMP
                refusals = (errno.ESRCH, errno.ENOENT, errno.EEXIST, errno.EPERM, errno.ENOBUFS)
                number = self.chance.choice(refusals) if self.chance.random() < self.rate else 0
                body = (0 if is_dump else -number).to_bytes(4, "little", signed=True) + data[:16]
                end = NetlinkMessage(NLMSG_DONE if is_dump else NLMSG_ERROR, 0, sequence, body).encode()
                self.waiting.append(self.bend(end, sequence))
        return len(data)

    def recv(self, size: int) -> bytes:
        if not self.waiting:
            raise TimeoutError  # as the real one, after some seconds
        return self.waiting.popleft()[:size]

    def recvfrom(self, size: int) -> tuple[bytes, tuple[int, int]]:
        if self.chance.random() < 0.3:
            raise BlockingIOError
        return self.bend(self.chance.choice(TOLD), 0)[:size], (self.chance.choice((0, 0, 0, 77)), 0)

    def bend(self, datagram: bytes, sequence: int) -> bytes:
        """With the number of its request, and mostly as it was."""
        changed = bytearray(datagram)
        offset = 0
        while offset + HEADER.size <= len(changed):
            size = int.from_bytes(changed[offset : offset + 4], "little")
            changed[offset + 8 : offset + 12] = sequence.to_bytes(4, "little")
            offset += max(HEADER.size, (size + 3) & ~3)
        if self.chance.random() >= self.rate:
            return bytes(changed)
        kind = self.chance.randrange(5)
        if kind == 0:
            return bytes(changed[: self.chance.randrange(len(changed))])
        if kind == 1:
            return bytes(changed) + self.chance.randbytes(self.chance.randrange(1, 60))
        if kind == 2:
            return self.chance.randbytes(self.chance.randrange(200))
        for _ in range(self.chance.randrange(1, 12)):
            changed[self.chance.randrange(len(changed))] = self.chance.choice(
                (0, 1, 2, 10, 127, 128, 254, 255)
            )
        return bytes(changed)

    def __getattr__(self, name: str) -> object:  # settimeout, setsockopt, close
        return lambda *arguments: None


@pytest.fixture
def liars(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Liar]]:
    """The sockets that the next driver opens."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    opened: list[Liar] = []
    reading, writing = os.pipe()

    def lie(self: NetlinkSocket | Listener, *_: int) -> None:
        self._socket = Liar(chance)
        self._sequence = 0
        opened.append(self._socket)

    monkeypatch.setattr(NetlinkSocket, "__init__", lie)
    monkeypatch.setattr(Listener, "__init__", lie)
    monkeypatch.setattr(Listener, "fileno", lambda self: reading)
    monkeypatch.setattr(driver_module.probe, "esp_refusal", lambda: None)
    monkeypatch.setattr(driver_module.probe, "kernel_capabilities", lambda: EVERYTHING)
    for kind, method in (("Claim", "take"), ("Settings", "apply"), ("Settings", "restore")):
        monkeypatch.setattr(getattr(driver_module, kind), method, lambda self: None)
    monkeypatch.setattr(looks_module, "read_refusals", dict)
    yield opened
    for number in (reading, writing):
        os.close(number)


def test_a_kernel_that_talks_nonsense_gets_a_word_of_the_drivers_own(
    liars: list[Liar], hosts: SimpleNamespace, tmp_path: Path
) -> None:
    done, refused, codes = Counter[str](), Counter[str](), set[ReasonCode]()
    table = hosts.make_table(("negotiate", 17, 0), ("negotiate", 0, 0))
    outbound = hosts.make_sa(spi=0x1001)
    inbound = hosts.mirror(hosts.make_sa(spi=0x1000))

    def attempt(call: Callable[..., object], *arguments: object) -> None:
        name = call.__name__
        try:
            call(*arguments)
        except HostError as error:
            refused[name] += 1
            codes.add(error.reason.code)
        else:
            done[name] += 1

    def use(driver: KernelDriver) -> None:
        attempt(driver.install_filters, table)
        attempt(driver.survivors)
        for _ in range(4):
            attempt(driver.get_spi, hosts.ALPHA, hosts.BETA)
            if not any(entry.sa.spi == 0x1000 for entry in driver._sas):
                attempt(driver.add_sa, inbound)
                attempt(driver.add_sa, outbound)
            driver._looks._next_look = 0.0
            attempt(driver.events)
            attempt(driver.statistics)
            attempt(driver._tables.has_esp, hosts.ALPHA, 0x1000)
            attempt(driver.release, table.filters[0].id, hosts.BETA, FALLBACK)
            attempt(driver.install_filters, hosts.make_table(("block", 17, 0)))
            attempt(driver.install_filters, table)
            attempt(driver.remove_sa, 0x1000, Direction.INBOUND, hosts.BETA)
            attempt(driver.remove_sa, 0x1001, Direction.OUTBOUND, hosts.BETA)
        attempt(driver.stop)
        attempt(driver.stop)

    for number in range(ROUNDS):
        driver = KernelDriver(tmp_path / f"ledger-{number}")
        attempt(driver.start)
        if driver._tables.is_open:
            use(driver)
    print(done, refused)
    assert codes <= {ReasonCode.DRIVER_FAILED, ReasonCode.NOT_PRIVILEGED, ReasonCode.NO_SPI}
    assert all(done[name] and refused[name] for name in ("start", "install_filters", "get_spi", "add_sa"))
    assert done["events"]
    assert done["stop"]
