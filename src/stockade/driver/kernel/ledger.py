"""What the SAs in the kernel are, for the agent that comes after the one that made them.

The kernel keeps an SA's numbers, keys and lifetimes. What it does not keep is what made it: the filter, the
rule, the other half, the idle time. That is written here, without keys, as it happens: a record for each SA
that came or went, at the end of a file in the agent's run folder. Nothing is flushed to a disk: a process
that is killed loses nothing by it, and what a power cut loses the kernel has lost too.

    length │ Came: the SA, without keys; seconds of the monotonic clock
    length │ Went: destination, SPI, protocol

A file that cannot be read or written costs the adoption and nothing else: SAs that no record tells of are
ended, and traffic negotiates anew."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from stockade.driver.userspace import messages
from stockade.model.addresses import Address
from stockade.model.sa import SecurityAssociation
from stockade.model.traffic import AH, ESP

SPARE_RECORDS: Final = 1024
"""Records of what is gone that the file may hold beside as many as there are SAs."""

MAXIMUM_SIZE: Final = 256 << 20

Key = tuple[Address, int, int]
"""Destination, SPI and protocol: what names an SA in the kernel."""


class Came(msgspec.Struct, frozen=True, tag=True):
    sa: messages.AddSa
    installed: float


class Went(msgspec.Struct, frozen=True, tag=True):
    destination: str
    spi: int
    protocol: int


Record = Came | Went

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)


class Ledger:
    """The file at `path`; None: nothing is kept. Raises nothing."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file = -1
        self._records = 0
        self._live: dict[Key, Came] = {}

    def read(self) -> Mapping[Key, tuple[SecurityAssociation, float]]:
        """What the earlier agent wrote: each SA (without keys) and when it was installed. What comes after a
        record that was cut off, or makes no sense, is not believed."""
        found: dict[Key, Came] = {}
        with suppress(OSError, ValueError, KeyError, msgspec.MsgspecError):
            if self._path is not None and self._path.stat().st_size <= MAXIMUM_SIZE:
                for frame in messages.Frames().feed(self._path.read_bytes()):
                    record = _decoder.decode(frame)
                    if isinstance(record, Came):
                        found[key_of(messages.sa_of(record.sa))] = record
                    else:
                        found.pop(
                            (messages.address_of(record.destination), record.spi, record.protocol), None
                        )
        return {key: (messages.sa_of(came.sa), came.installed) for key, came in found.items()}

    def begin(self, sas: Mapping[Key, tuple[SecurityAssociation, float]]) -> None:
        """A new file, with these in it."""
        self._live = {key: _came(sa, installed) for key, (sa, installed) in sas.items()}
        self._write_anew()

    def add(self, sa: SecurityAssociation, installed: float) -> None:
        record = self._live[key_of(sa)] = _came(sa, installed)
        self._append(record)

    def remove(self, key: Key) -> None:
        if self._live.pop(key, None) is not None:
            self._append(Went(str(key[0]), key[1], key[2]))

    def end(self) -> None:
        """Nothing is left that an agent could adopt."""
        self.close()
        self._live.clear()
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink()

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _append(self, record: Record) -> None:
        if self._file < 0:
            return
        if self._records > 2 * len(self._live) + SPARE_RECORDS:
            self._write_anew()
            return
        self._records += 1
        with suppress(OSError):
            os.write(self._file, _frame(record))

    def _write_anew(self) -> None:
        """In one step: a reader finds the old file or the new one, whole."""
        self.close()
        if self._path is None:
            return
        new = self._path.with_name(self._path.name + ".new")
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
            file = os.open(new, flags, 0o600)
        except OSError:
            with suppress(OSError):
                self._path.unlink()  # better no record than a wrong one
            return
        try:
            with open(file, "wb", closefd=False) as writer:
                writer.write(b"".join(map(_frame, self._live.values())))
            new.replace(self._path)
        except OSError:
            os.close(file)
            for path in (new, self._path):
                with suppress(OSError):
                    path.unlink()
            return
        self._file, self._records = file, len(self._live)


def key_of(sa: SecurityAssociation) -> Key:
    return sa.destination, sa.spi, ESP if sa.esp is not None else AH


def _came(sa: SecurityAssociation, installed: float) -> Came:
    return Came(messages.held_message(sa, 0.0)[0], installed)


def _frame(record: Record) -> bytes:
    body = _encoder.encode(record)
    return len(body).to_bytes(4, "big") + body
