"""How a data-plane process outlives its agent, and how the next agent finds it again.

    agent 1 ──starts──▶ process, which listens at PATH (a socket in the agent's run folder)
    agent 1 dies        process: packets go on under the SAs that there are, filters and device stay
    agent 2 ──connects to PATH──▶ process:  Attach ──▶  both look at the other's credentials (SO_PEERCRED),
                                            ◀── Attached  generation and network; descriptors come beside it

The process has the device and the raw sockets open, so it can hand them back. It serves one agent at a time:
while one is there, others are sent away. Without an agent it ends when there is nothing left to do (no SA),
or when nobody could find it any more (its socket's file is gone).

*Generation* is a digest of the code that both share. An agent of another generation (after an upgrade) does
not try to understand what it finds: it ends the process, whose device and SAs go with it, and the
`unreachable` route and the filters hold what must be secured until a new process is there.
"""

import hashlib
import os
import select
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from struct import Struct
from typing import Final

import msgspec

import stockade
from stockade.driver.userspace import messages
from stockade.model.reasons import ReasonCode

ANSWER_SECONDS: Final = 5.0
GREETING_SECONDS: Final = 1.0
"""Packets wait meanwhile: whoever knocks has its words ready."""

END_SECONDS: Final = 3.0
MAXIMUM_DESCRIPTORS: Final = 32
MAXIMUM_READ: Final = 1 << 20

_SHARED_ROOMS: Final = ("crypto", "driver", "model", "wire")
_KINDS: Final = frozenset({".py", ".so", ".c", ".h"})
_CREDENTIALS: Final = Struct("3i")
"""SO_PEERCRED: process, user, group."""


@cache
def generation() -> str:
    """A digest of the code that agent and data plane share, as it is on disk now; some milliseconds."""
    digest = hashlib.sha256(sys.version.encode())
    base = Path(stockade.__file__).resolve().parent
    for room in _SHARED_ROOMS:
        for file in sorted((base / room).rglob("*")):
            if file.suffix in _KINDS:
                digest.update(f"{file.relative_to(base)}\0".encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()[:32]


def shape(options: str) -> str:
    """What must be the same at both ends: the generation, the network namespace of this thread, and how the
    process was started."""
    network = os.stat("/proc/thread-self/ns/net")
    return f"{generation()} {network.st_dev}:{network.st_ino} {options}"


def peer_of(connection: socket.socket) -> tuple[int, int]:
    """Process and user at the other end of a Unix socket, as the kernel says."""
    process, user, _ = _CREDENTIALS.unpack(
        connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    )
    return process, user


def receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    """What is there, and the descriptors beside it, which no child of ours inherits."""
    data, descriptors, _, _ = socket.recv_fds(connection, MAXIMUM_READ, MAXIMUM_DESCRIPTORS)
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return data, descriptors


def has_hung_up(connection: socket.socket) -> bool:
    """Whether the other end is closed; what it said before may still be there to read."""
    poll = select.poll()
    poll.register(connection.fileno(), 0)
    return bool(poll.poll(0))


# ---- the agent's side --------------------------------------------------------------------------------------


def make_door(path: Path) -> tuple[socket.socket, int]:
    """The socket at which a process can be found, and its file (O_PATH). It is bound and does not listen: the
    process does that, so that the kernel names it, and not us, to who connects. Raises OSError."""
    door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with suppress(FileNotFoundError):
            path.unlink()
        with _ShortName(path) as name:
            door.bind(name)
        path.chmod(0o600)
        return door, os.open(path, os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        door.close()
        raise


@dataclass(frozen=True, slots=True)
class Found:
    """A process of an earlier agent that serves us now. `descriptors`: by name, as `UserspaceDriver` started
    it with them, without those of the agent's own ends."""

    process: "Foreign"
    control: socket.socket
    events: socket.socket
    descriptors: Mapping[str, int]


class Foreign:
    """A process that is not our child: watched and killed by a descriptor of its own, so that its number
    cannot come to mean another one."""

    def __init__(self, process: int, descriptor: int) -> None:
        self.pid = process
        self._descriptor = descriptor

    @property
    def returncode(self) -> int | None:
        """Nobody but its parent is told."""
        return None

    def poll(self) -> int | None:
        """None while it runs, as of a child; -1 for any end."""
        return -1 if self.wait(0) else None

    def wait(self, seconds: float) -> bool:
        """Whether it ends within this time."""
        if self._descriptor < 0:
            return True
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        return bool(poll.poll(int(seconds * 1000)))

    def kill(self) -> None:
        if self._descriptor >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    def end(self) -> None:
        """It was told to end: give it a moment, then kill it."""
        if not self.wait(1.0):
            self.kill()
            self.wait(END_SECONDS)
        self.close()

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def find(path: Path, options: str = "") -> Found | None:
    """The process that listens at `path`, attached to us; None where there is none. One that cannot be used
    (another generation, network or `options`, no answer) is ended first; one that serves a living agent is
    left alone (None)."""
    connection = _connect(path)
    if connection is None:
        return None
    with connection:
        number, user = peer_of(connection)
        if user not in (0, os.geteuid()):
            return None  # not a process that an agent of ours started
        try:
            process = Foreign(number, os.pidfd_open(number))
        except OSError:
            return None
        if has_hung_up(connection):  # ended before we held it: the number may be another's already
            process.close()
            return None
        ours, theirs = socket.socketpair()
        try:
            answer = _attach(connection, theirs, options)
        except _Unusable:
            process.kill()
            process.wait(END_SECONDS)
            answer = None
        finally:
            theirs.close()
        if answer is None:
            ours.close()
            process.close()
            return None
        return Found(process, connection.dup(), ours, answer)


def end_orphan(path: Path, options: str = "") -> None:
    """End the process that listens at `path`, unless an agent has it."""
    found = find(path, options)
    if found is None:
        return
    for descriptor in found.descriptors.values():
        os.close(descriptor)
    with found.events, found.control, suppress(OSError):
        found.control.sendall(messages.encode(messages.Quit()))
    found.process.end()


class _Unusable(Exception):
    """It does not answer, or is not what we could work with."""


def _connect(path: Path) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(ANSWER_SECONDS)
    try:
        with _ShortName(path) as name:
            connection.connect(name)
    except OSError:
        connection.close()
        return None
    return connection


def _attach(connection: socket.socket, events: socket.socket, options: str) -> dict[str, int] | None:
    """Say who we are; the descriptors, or None where another agent has the process."""
    descriptors: list[int] = []
    try:
        frame = messages.encode(messages.Attach(shape(options)))
        socket.send_fds(connection, [frame], [events.fileno()])
        data, descriptors = receive(connection)
        frames = messages.Frames()
        whole = next(iter(frames.feed(data)), None) or messages.receive_frame(connection, frames)
        reply = messages.reply_decoder.decode(whole or b"")
        if isinstance(reply, messages.Refused) and reply.code == ReasonCode.AGENT_RUNNING.name:
            return None
        if not isinstance(reply, messages.Attached) or len(reply.names) != len(descriptors):
            raise ValueError("not what we could work with")
    except (OSError, ValueError, msgspec.MsgspecError):
        for descriptor in descriptors:
            os.close(descriptor)
        raise _Unusable from None
    return dict(zip(reply.names, descriptors, strict=True))


class _ShortName:
    """A context manager: a name for `path` that fits into a Unix socket's address, however long the folder's
    is."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folder = -1

    def __enter__(self) -> str:
        if len(os.fsencode(self._path)) < 100:
            return str(self._path)
        self._folder = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._folder}/{self._path.name}"

    def __exit__(self, *_: object) -> None:
        if self._folder >= 0:
            os.close(self._folder)


# ---- the process's side ------------------------------------------------------------------------------------


class Door:
    """Where the next agent comes in. To be made before privileges are given up: the kernel tells who connects
    what this process was then. `listening` and `file` are from `make_door`."""

    def __init__(self, listening: socket.socket, file: int, options: str) -> None:
        self._listening = listening
        self._user = os.geteuid()
        self._shape = shape(options)
        self._file = file
        listening.listen(4)
        listening.setblocking(False)

    def fileno(self) -> int:
        return self._listening.fileno()

    @property
    def can_be_found(self) -> bool:
        """Whether the socket's file is still there for an agent to find; privileges are not needed to see
        that."""
        return os.fstat(self._file).st_nlink > 0

    def accept(self) -> socket.socket | None:
        """Who knocks, if it is an agent of the user that started us."""
        try:
            connection, _ = self._listening.accept()
        except OSError:
            return None
        if peer_of(connection)[1] not in (0, self._user):
            connection.close()
            return None
        return connection

    def send_away(self, connection: socket.socket) -> None:
        """An agent is there already. Heard first: who closes upon unread words resets the connection."""
        connection.settimeout(GREETING_SECONDS)
        refusal = messages.Refused(ReasonCode.AGENT_RUNNING.name, "the data plane has an agent")
        with connection, suppress(OSError):
            for descriptor in receive(connection)[1]:
                os.close(descriptor)
            connection.sendall(messages.encode(refusal))

    def greet(self, connection: socket.socket, descriptors: Mapping[str, int]) -> socket.socket | None:
        """Hear who it is, and hand over the descriptors; the socket for events, or None if this is no agent
        that we can work with (it then ends us)."""
        connection.settimeout(GREETING_SECONDS)
        given: list[int] = []
        try:
            data, given = receive(connection)
            frame = next(iter(messages.Frames().feed(data)), b"")
            request = messages.request_decoder.decode(frame)
            if not isinstance(request, messages.Attach) or len(given) != 1:
                raise ValueError("no agent")
            if request.shape != self._shape:
                refusal = messages.Refused(ReasonCode.DRIVER_FAILED.name, "of another generation")
                connection.sendall(messages.encode(refusal))
                raise ValueError("another generation")
            reply = messages.encode(messages.Attached(tuple(descriptors)))
            socket.send_fds(connection, [reply], list(descriptors.values()))
        except (OSError, ValueError, msgspec.MsgspecError):
            for descriptor in given:
                os.close(descriptor)
            return None
        events = socket.socket(fileno=given[0])
        events.setblocking(False)
        connection.setblocking(False)
        return events
