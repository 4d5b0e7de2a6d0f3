"""What the DNS names in filters stand for: asked for again and again, away from the event loop.

    names of the policy ─▶ due? ─▶ worker thread: the system's resolver ─▶ answer ─▶ kept, told if it changed
                                                                       └▶ failure: the last answer stays

A lookup may take as long as it likes: it runs in a thread of its own, a few at a time. The system's resolver
is asked (`getaddrinfo`: hosts file, DNS, whatever the host is set up with), which tells no time to live, so
every name is asked for anew after `refresh_seconds`, and sooner after a failure. The answers are kept in a
file: after a start, filters by name are in force before any resolver has answered.
"""

import json
import os
import queue
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from stockade.agent.journal import Entry
from stockade.model.addresses import Address
from stockade.model.reasons import Reason, ReasonCode
from stockade.policy.facts import usable_addresses
from stockade.policy.objects import normal_name

WORKERS = 4
MAXIMUM_NAMES = 10_000
MAXIMUM_ADDRESSES = 64
"""Of one name; what a resolver says beyond that is left out, with a warning."""

REFRESH_SECONDS = 60.0
RETRY_SECONDS = 5.0
_NONE = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))

Resolve = Callable[[str], tuple[Address, ...]]


class LookupFailed(Exception):
    """No answer: nothing is known about the name now."""


def system_addresses(name: str) -> tuple[Address, ...]:
    """What the system's resolver says; none where the name does not exist. LookupFailed without an answer.
    Blocks."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_DGRAM)
    except socket.gaierror as error:
        if error.errno in _NONE:
            return ()
        raise LookupFailed(error.strerror or str(error)) from None
    except (OSError, UnicodeError) as error:
        raise LookupFailed(str(error)) from None
    return usable_addresses(ip_address(str(entry[4][0]).partition("%")[0]) for entry in found)


@dataclass(slots=True)
class KnownName:
    """A name. Times on the monotonic clock: `answered` of the last answer, None if it is from before this
    start; `asked` of the last question; `due` of the next one. `error` of the newest failure, if it is newer
    than the answer."""

    name: str
    addresses: tuple[Address, ...] | None = None
    answered: float | None = None
    due: float = 0.0
    asking: bool = False
    error: str = ""


@dataclass(slots=True)
class _Done:
    name: str
    addresses: tuple[Address, ...] | None
    error: str = ""


@dataclass(slots=True)
class NameKeeper:
    """The names that the policy speaks of. `wake` is called in a worker thread when an answer is there;
    `collect` then takes it in, in the thread of the event loop, like all other calls."""

    wake: Callable[[], None]
    journal: Callable[[Entry], None] = lambda entry: None
    path: Path | None = None
    resolve: Resolve = system_addresses
    refresh_seconds: float = REFRESH_SECONDS
    _names: dict[str, KnownName] = field(default_factory=dict)
    _kept: dict[str, tuple[Address, ...]] = field(default_factory=dict)
    _questions: "queue.SimpleQueue[str | None]" = field(default_factory=queue.SimpleQueue)
    _answers: "queue.SimpleQueue[_Done]" = field(default_factory=queue.SimpleQueue)
    _workers: int = 0

    def __post_init__(self) -> None:
        self._kept = _read(self.path)

    def want(self, names: Iterable[str], now: float) -> None:
        """The policy speaks of these names, and of no others."""
        wanted = dict.fromkeys(sorted({normal_name(name) for name in names})[:MAXIMUM_NAMES])
        for name in self._names.keys() - wanted.keys():
            del self._names[name]
        for name in wanted:
            if name not in self._names:
                self._names[name] = KnownName(name, self._kept.get(name), due=now)

    @property
    def rows(self) -> tuple[KnownName, ...]:
        return tuple(self._names.values())

    @property
    def answers(self) -> dict[str, tuple[Address, ...]]:
        """For `HostFacts.names`: those about which something is known."""
        return {name: known.addresses for name, known in self._names.items() if known.addresses is not None}

    def ask_due(self, now: float) -> None:
        """Ask for what is due. Returns at once."""
        for known in self._names.values():
            if known.due <= now and not known.asking:
                known.asking = True
                self._questions.put(known.name)
                if self._workers < min(WORKERS, len(self._names)):
                    self._workers += 1
                    threading.Thread(target=self._work, name="stockade-names", daemon=True).start()

    def ask_again(self, now: float) -> None:
        """The resolver changed: ask for everything."""
        for known in self._names.values():
            known.due = now

    def next_due(self) -> float | None:
        return min((known.due for known in self._names.values() if not known.asking), default=None)

    def collect(self, now: float) -> bool:
        """Take in the answers that are there; True where what is known changed."""
        changed = False
        with suppress(queue.Empty):
            while True:
                changed = self._take(self._answers.get_nowait(), now) or changed
        if changed:
            self._write()
        return changed

    def close(self) -> None:
        """Let the workers go; one that waits for a resolver ends with the process."""
        for _ in range(self._workers):
            self._questions.put(None)
        self._workers = 0

    def _work(self) -> None:
        while (name := self._questions.get()) is not None:
            try:
                done = _Done(name, self.resolve(name))
            except LookupFailed as error:
                done = _Done(name, None, str(error))
            self._answers.put(done)
            self.wake()

    def _take(self, done: _Done, now: float) -> bool:
        known = self._names.get(done.name)
        if known is None:
            return False  # the policy changed meanwhile
        known.asking = False
        if done.addresses is None:
            known.due = now + min(RETRY_SECONDS, self.refresh_seconds)
            if not known.error:
                self._tell(known, f"{done.error}; {_what_stays(known)}", "name-not-resolved")
            known.error = done.error or "no answer"
            return False
        known.due, known.answered = now + self.refresh_seconds, now
        addresses = done.addresses[:MAXIMUM_ADDRESSES]
        if len(addresses) < len(done.addresses):
            self._tell(known, f"only {MAXIMUM_ADDRESSES} of {len(done.addresses)} are used", "name-too-long")
        known.error = ""
        if known.addresses == addresses:
            return False
        known.addresses = addresses
        self._tell(known, ", ".join(map(str, addresses)) or "it has no address", "name-resolved")
        return True

    def _tell(self, known: KnownName, detail: str, kind: str) -> None:
        code = ReasonCode.NAME_RESOLVED if kind == "name-resolved" else ReasonCode.NAME_NOT_RESOLVED
        self.journal(Entry(kind, Reason.of(code, detail, name=known.name)))

    def _write(self) -> None:
        self._kept = self.answers
        if self.path is None:
            return
        content = {name: [str(address) for address in found] for name, found in self._kept.items()}
        fresh = self.path.with_suffix(".new")
        with suppress(OSError):  # a full disk costs the names of the next start, nothing else
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(content, file)
            fresh.replace(self.path)


def _what_stays(known: KnownName) -> str:
    if known.addresses is None:
        return "nothing is known about it: filters that permit or secure are not in force, a block is for all"
    return f"the last answer stays: {', '.join(map(str, known.addresses)) or 'no address'}"


def _read(path: Path | None) -> dict[str, tuple[Address, ...]]:
    """What was known at the end of an earlier run; nothing where that cannot be read."""
    if path is None:
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {
            normal_name(name): usable_addresses(map(ip_address, found)) for name, found in content.items()
        }
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return {}
