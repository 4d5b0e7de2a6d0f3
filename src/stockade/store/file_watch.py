"""Whether a store's file is still a store: its first 100 octets, looked at on every call.

SQLite answers from its own memory as long as nobody changed the file through SQLite, so a file that another
program overwrote in place would go unnoticed. The header of an SQLite file ([fileformat2] §1.3) begins with
a magic text, and ours carries our application id at octet 68.

A file that another *store* was copied over in place has a sound header. It shows in the change counter, which
begins at a random number in every store: the one in the file itself is at most the one that SQLite tells
(which has the log too), and never falls.

The look needs a file descriptor, and closing any descriptor of a file drops all POSIX locks that the process
has on it, SQLite's too. So there is one descriptor per file and process, closed when no store of this process
has the file open any more."""

import os
import sqlite3
import threading
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from stockade.store.schema import APPLICATION_ID

_HEADER = 100
_MAGIC = b"SQLite format 3\0"


@dataclass(slots=True)
class _Shared:
    descriptor: int
    users: int


_lock = threading.Lock()
_shared: dict[tuple[int, int], _Shared] = {}


class FileWatch:
    """A look at the file that is at `path` now. `close()` it after the SQLite connection, never before."""

    def __init__(self, path: Path) -> None:
        """OSError where the file cannot be opened."""
        with _lock:
            status = os.stat(path)
            shared = _shared.get((status.st_dev, status.st_ino))
            if shared is None:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                status = os.fstat(descriptor)
                shared = _shared.get((status.st_dev, status.st_ino))
                if shared is None:
                    shared = _shared[(status.st_dev, status.st_ino)] = _Shared(descriptor, 0)
                # else: the path was replaced between the two looks by a file that we have open. This one more
                # descriptor stays open: closing it would drop the locks on that file.
            shared.users += 1
        self.identity = (status.st_dev, status.st_ino)
        self._descriptor = shared.descriptor
        self._looked_at: tuple[int, int] | None = None

    def problem(self) -> str:
        """What is wrong with the file's header; empty if nothing is."""
        header = os.pread(self._descriptor, _HEADER, 0)
        if not header:
            return "it is empty, which a store never is"
        if len(header) < _HEADER or not header.startswith(_MAGIC):
            return "it is no database: another program has overwritten it"
        if int.from_bytes(header[68:72], "big") != APPLICATION_ID:
            return "it is a database of another program"
        return ""

    def was_written(self) -> bool:
        """Whether the file itself (not its log) was written to since `change_counter` told something."""
        return self._stamp() != self._looked_at

    def change_counter(self) -> int | None:
        """The store's change counter as it is in the file itself; None where that cannot be read now, because
        another process is folding the log in."""
        stamp = self._stamp()
        content = bytearray(os.pread(self._descriptor, stamp[1], 0))
        if len(content) < _HEADER:
            return None
        content[18:20] = b"\x01\x01"  # without a log ([fileformat2] §1.3.3): this is the file alone
        try:
            with closing(sqlite3.connect(":memory:")) as memory:
                memory.deserialize(bytes(content))
                row = memory.execute("SELECT value FROM meta WHERE key = 'changes'").fetchone()
                counter = int(row[0])
        except (sqlite3.Error, TypeError, ValueError):
            return None
        if self._stamp() != stamp:
            return None
        self._looked_at = stamp
        return counter

    def _stamp(self) -> tuple[int, int]:
        status = os.fstat(self._descriptor)
        return status.st_mtime_ns, status.st_size

    def close(self) -> None:
        with _lock:
            shared = _shared.get(self.identity)
            if shared is None:
                return
            shared.users -= 1
            if not shared.users:
                del _shared[self.identity]
                os.close(shared.descriptor)
