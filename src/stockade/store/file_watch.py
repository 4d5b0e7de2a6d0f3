"""Whether a store's file is still a store: its first 100 octets, looked at on every call.

SQLite answers from its own memory as long as nobody changed the file through SQLite, so a file that another
program overwrote in place would go unnoticed. The header of an SQLite file ([fileformat2] §1.3) begins with
a magic text, and ours carries our application id at octet 68.

The look needs a file descriptor, and closing any descriptor of a file drops all POSIX locks that the process
has on it, SQLite's too. So there is one descriptor per file and process, closed when no store of this process
has the file open any more."""

import os
import threading
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

    def close(self) -> None:
        with _lock:
            shared = _shared.get(self.identity)
            if shared is None:
                return
            shared.users -= 1
            if not shared.users:
                del _shared[self.identity]
                os.close(shared.descriptor)
