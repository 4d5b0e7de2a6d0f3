"""The journal: what happened and why, one JSON object a line, kept over `kill -9`.

Every line is written by one `write` to a file opened with O_APPEND, so a killed agent loses nothing that it
said. Files are rotated by size, so a noisy network cannot fill the disk: `FILES` files of `FILE_BYTES` each
at most. Entries that strangers can cause at will are limited per second and kind; what was left out is
counted in the next.

Every entry has a number that goes on over restarts, and the ids that Windows has for such an event.
`event_store.py` makes the entries searchable.
"""

import json
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import msgspec

from stockade.model.quickly_made import quickly_made
from stockade.model.reasons import Reason
from stockade.model.windows_events import windows_events

FILE_BYTES = 8 * 1024 * 1024
FILES = 5
RECENT = 1000
TAIL_BYTES = 256 * 1024
LIMITED_KINDS = frozenset(
    {"message-refused", "packets-refused", "main-mode-failed", "notification", "sa-refused", "web-refused"}
)
LIMIT_PER_SECOND = 20


@quickly_made
@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened. `kind` is a fixed word, `fields` names and values as text, without secrets."""

    kind: str
    reason: Reason
    fields: tuple[tuple[str, str], ...] = ()

    def as_dict(self) -> dict[str, object]:
        fields = dict(self.fields)
        ids = windows_events(self.kind, self.reason.code, {**dict(self.reason.facts), **fields})
        return {"kind": self.kind, "windows_events": ids, **self.reason.as_dict(), **fields}


class Journal:
    """Writes entries to `folder`/journal.jsonl, keeps the last `RECENT` in memory, tells listeners."""

    def __init__(
        self,
        folder: Path | None,
        wall_clock: Callable[[], float] = time.time,
        newest: Callable[[], int] = lambda: 0,
    ) -> None:
        """`newest` is asked for the newest entry's number where the files do not know it."""
        self._recent: deque[bytes] = deque(maxlen=RECENT)  # as lines, which take a quarter of the memory
        self.listeners: set[Callable[[dict[str, object]], None]] = set()
        self.kept: Callable[[dict[str, object], str], None] = lambda record, line: None
        """Gets each entry with its line, which need not be made again."""
        self.observe: Callable[[Entry], None] = lambda entry: None
        """Sees every entry, also those that the limits leave out."""
        self._folder = folder
        self._wall_clock = wall_clock
        self._file: int | None = None
        self._size = 0
        self._window: dict[str, tuple[int, int]] = {}
        self._suppressed: dict[str, int] = {}
        self.number = 0
        """The newest entry's."""
        if folder is not None:
            self._open(folder)
            self.number = last_number(folder) or newest()

    @property
    def recent(self) -> list[dict[str, object]]:
        """The last entries, oldest first."""
        return [msgspec.json.decode(line, type=dict[str, object]) for line in self._recent]

    def write(self, entry: Entry) -> None:
        """Keep an entry. Never raises: a full disk must not stop the key exchange; memory still has it."""
        self.observe(entry)
        when = self._wall_clock()
        if not self._within_limit(entry.kind, int(when)):
            return
        self.number += 1
        record = {"number": self.number, "time": timestamp(when), **entry.as_dict()}
        record["number"] = self.number  # whatever the entry's fields are called
        suppressed = self._suppressed.pop(entry.kind, 0)
        if suppressed:
            record["suppressed_before"] = suppressed
        line = encode(record)
        self._recent.append(line)
        if self._folder is not None:
            self._append(self._folder, line + b"\n")
        self.kept(record, line.decode())
        for listener in tuple(self.listeners):
            listener(record)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _within_limit(self, kind: str, second: int) -> bool:
        if kind not in LIMITED_KINDS:
            return True
        window, count = self._window.get(kind, (second, 0))
        count = count + 1 if window == second else 1
        self._window[kind] = (second, count)
        if count <= LIMIT_PER_SECOND:
            return True
        self._suppressed[kind] = self._suppressed.get(kind, 0) + 1
        return False

    def _open(self, folder: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._file = os.open(folder / "journal.jsonl", flags, 0o600)
        self._size = os.fstat(self._file).st_size

    def _append(self, folder: Path, line: bytes) -> None:
        try:
            if self._size + len(line) > FILE_BYTES:
                self._rotate(folder)
            if self._file is None:
                self._open(folder)
            assert self._file is not None
            self._size += os.write(self._file, line)
        except OSError:
            self.close()  # tried anew with the next entry; `recent` has this one

    def _rotate(self, folder: Path) -> None:
        self.close()
        for number in range(FILES - 1, 0, -1):
            older = folder / ("journal.jsonl" if number == 1 else f"journal.{number - 1}.jsonl")
            if older.exists():
                older.replace(folder / f"journal.{number}.jsonl")
        self._open(folder)


def files_of(folder: Path) -> list[Path]:
    """The journal's files, oldest first, whether they are there or not."""
    older = [folder / f"journal.{number}.jsonl" for number in range(FILES - 1, 0, -1)]
    return [*older, folder / "journal.jsonl"]


def last_number(folder: Path) -> int:
    """The number of the newest entry; 0 where there is none."""
    for path in reversed(files_of(folder)):
        try:
            with path.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
                lines = file.read().splitlines()
        except OSError:
            continue
        for line in reversed(lines):
            try:
                number = json.loads(line)["number"]
            except (ValueError, KeyError, TypeError):
                continue  # a line that a full disk cut, or of an older version
            if isinstance(number, int):
                return number
    return 0


def encode(record: dict[str, object]) -> bytes:
    """An entry as its line has it, without the end of the line. Never raises."""
    try:
        return msgspec.json.encode(record)
    except (TypeError, ValueError):  # text that is no Unicode, as a file's name may be
        return json.dumps(record, default=str).encode()


def timestamp(when: float) -> str:
    """Seconds since 1970 as the journal writes them."""
    return f"{_second(int(when))}.{int(when * 1000) % 1000:03d}Z"


@lru_cache(maxsize=4)  # a busy second has many entries
def _second(when: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(when))
