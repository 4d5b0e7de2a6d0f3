"""Events that go out by themselves: to systemd's journal, to webhooks, to programs.

Nothing here may hold the agent up: journald gets a datagram that is dropped where there is no room, the
others a bounded queue and a thread each. What was dropped or failed is counted and told by an event that is
never itself sent. A webhook is asked at exactly the address of the settings: no redirect is followed, no
proxy of the environment used, nothing of an event becomes part of an address. Programs run without a shell,
with an empty environment and a time limit.
"""

import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urlsplit

from stockade.agent.journal import Entry
from stockade.agent.output_settings import Notifier, OutputSettings
from stockade.model.reasons import Fault, Reason, ReasonCode

JOURNALD = "/run/systemd/journal/socket"
QUEUE = 100
TIMEOUT_SECONDS = 10.0
PAUSES = (1.0, 5.0, 20.0)
"""Seconds before each further attempt at a webhook."""
FAILED = "event-not-sent"
TELL_SECONDS = 60.0
"""A failing receiver is told of so often at most."""

Record = dict[str, object]


class Outputs:
    """Everything that the settings name. `write` puts an entry into the journal, from any thread."""

    def __init__(self, settings: OutputSettings, write: Callable[[Entry], None]) -> None:
        self._journald = JournaldSender() if settings.journald else None
        self._senders = [Sender(notifier, write) for notifier in settings.notifiers]

    def start(self) -> None:
        for sender in self._senders:
            sender.start()

    def add(self, record: Record) -> None:
        """A journal entry, on its way. Never blocks, never raises."""
        if self._journald is not None:
            self._journald.send(record)
        for sender in self._senders:
            sender.add(record)

    def close(self) -> None:
        for sender in self._senders:
            sender.close()
        if self._journald is not None:
            self._journald.close()


class JournaldSender:
    """Speaks systemd's native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): one datagram, a field a line."""

    def __init__(self, path: str = JOURNALD) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        self.dropped = 0

    def send(self, record: Record) -> None:
        try:
            self._socket.sendto(journald_datagram(record), self._path)
        except OSError:  # not there, or no room: the journal of ours has it
            self.dropped += 1

    def close(self) -> None:
        self._socket.close()


def journald_datagram(record: Record) -> bytes:
    """The entry as fields that `journalctl STOCKADE_REASON=psk-mismatch` finds."""
    fields = [
        ("MESSAGE", f"{record.get('kind')}: {record.get('text')}"),
        ("PRIORITY", str(priority(record))),
        ("SYSLOG_IDENTIFIER", "stockade"),
    ]
    for name, value in record.items():
        key = f"STOCKADE_{name.upper().replace('-', '_')}"
        if not all(one == "_" or (one.isascii() and one.isalnum()) for one in key) or len(key) > 64:
            continue
        if name == "windows_events" and isinstance(value, list):
            fields += [("STOCKADE_WINDOWS_EVENT", str(number)) for number in value]
        elif name != "facts" and value not in (None, ""):
            fields.append((key, str(value)))
    return b"".join(_field(key, value) for key, value in fields)


def _field(key: str, value: str) -> bytes:
    """With the length in front where a line would break: a peer's text cannot make a field of its own."""
    data = value[:4096].encode(errors="replace")
    if b"\n" in data:
        return key.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"
    return key.encode() + b"=" + data + b"\n"


def priority(record: Record) -> int:
    """As syslog has them: 6 information, 4 warning, 3 error (this host's faults)."""
    kind = str(record.get("kind", ""))
    if kind.endswith(("-failed", "-refused", "-not-read", "-lost")):
        return 3 if record.get("fault") == Fault.HOST.value else 4
    return 4 if record.get("reason") == ReasonCode.PEER_DEAD.word else 6


class Sender:
    """One receiver, with its queue and its thread."""

    def __init__(
        self,
        notifier: Notifier,
        write: Callable[[Entry], None],
        pauses: tuple[float, ...] = PAUSES,
        timeout: float = TIMEOUT_SECONDS,
    ) -> None:
        self._notifier = notifier
        self._write = write
        self._pauses = pauses
        self._timeout = timeout
        self._queue: deque[Record] = deque()
        self._wake = threading.Condition()
        self._stop = False
        self._left: float = notifier.per_minute
        self._last = time.monotonic()
        self._told = -TELL_SECONDS
        self.dropped = 0
        self.sent = 0
        self._thread = threading.Thread(target=self._run, name="notify", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def add(self, record: Record) -> None:
        """Send it, if it is asked for. Never blocks."""
        if record.get("kind") == FAILED or not self._notifier.wants(record):
            return
        with self._wake:
            if not self._admit():
                self.dropped += 1
                return
            self._queue.append(record)
            self._wake.notify()

    def _admit(self) -> bool:
        now, rate = time.monotonic(), self._notifier.per_minute
        self._left = min(rate, self._left + (now - self._last) * rate / 60)
        self._last = now
        if len(self._queue) >= QUEUE or self._left < 1:
            return False
        self._left -= 1
        return True

    def close(self) -> None:
        """What waits has a moment; an agent that stops does not wait for a dead receiver."""
        with self._wake:
            self._stop = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(timeout=2.0)

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._queue and not self._stop:
                    self._wake.wait()
                if not self._queue:
                    return
                record = self._queue.popleft()
            trouble = self._deliver(record)
            if trouble:
                self._tell(trouble)
            else:
                self.sent += 1

    def _deliver(self, record: Record) -> str:
        """Empty, or why not."""
        body = json.dumps(record, ensure_ascii=False).encode()
        if self._notifier.command:
            return run_program(self._notifier.command, body, self._timeout)
        trouble = ""
        for pause in (0.0, *self._pauses):
            if pause:
                with self._wake:
                    self._wake.wait_for(lambda: self._stop, pause)
                    if self._stop:
                        return trouble
            trouble = post(self._notifier, body, self._timeout)
            if not trouble:
                return ""
        return trouble

    def _tell(self, trouble: str) -> None:
        self.dropped += 1
        now = time.monotonic()
        if now - self._told < TELL_SECONDS:
            return
        self._told = now
        dropped, self.dropped = self.dropped, 0
        reason = Reason.of(
            ReasonCode.SEND_FAILED, trouble, receiver=self._notifier.name, events_not_sent=dropped
        )
        with suppress(Exception):  # the agent is stopping
            self._write(Entry(FAILED, reason))


def post(notifier: Notifier, body: bytes, timeout: float) -> str:
    """POST to the webhook: empty where it answers with 2xx, else what was wrong, without its address."""
    parts = urlsplit(notifier.url)
    assert parts.hostname is not None
    kind: type[http.client.HTTPConnection] = http.client.HTTPConnection
    options: dict[str, ssl.SSLContext] = {}
    if parts.scheme == "https":
        kind, options = http.client.HTTPSConnection, {"context": ssl.create_default_context()}
    headers = {"Content-Type": "application/json", "User-Agent": "stockade"}
    if notifier.token is not None:
        headers["Authorization"] = f"Bearer {notifier.token.reveal().decode()}"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection = kind(parts.hostname, parts.port, timeout=timeout, **options)  # type: ignore[arg-type]
    try:
        connection.request("POST", target, body, headers)
        answer = connection.getresponse()
        answer.read(1024)
    except (OSError, http.client.HTTPException) as error:
        return f"no answer: {type(error).__name__}"
    finally:
        connection.close()
    return "" if 200 <= answer.status < 300 else f"it answered with status {answer.status}"


def run_program(command: tuple[str, ...], body: bytes, timeout: float) -> str:
    """Run it with the event on its standard input; it and its children end with the time limit."""
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        return f"it cannot be run: {error.strerror}"
    try:
        child.communicate(body, timeout=timeout)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        return f"it did not end within {timeout:g} s"
    except OSError:
        child.wait()
    return "" if child.returncode == 0 else f"it ended with status {child.returncode}"
