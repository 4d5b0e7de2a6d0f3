"""The data-plane process as the driver holds it: how it is started or found, asked, heard and ended.

request ──▶ control ──▶ reply      one at a time: a late answer would be taken for the next one's,
events  ◀── events                 so a process that does not answer in time is ended
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

import stockade
from stockade.driver.contract import DriverEvent, DriverFailed
from stockade.driver.event_queue import EventQueue
from stockade.driver.userspace import messages, survival
from stockade.model.reasons import HostError, Reason, ReasonCode, error_for

REQUEST_SECONDS: Final = 2.0
START_SECONDS: Final = 15.0


class DataPlane:
    """At most one process at a time. `directory` takes its log; `door`: see `UserspaceDriver`; `times`: it
    writes into its log where its time went. `died` is called, once the process is ended, with what was
    wrong."""

    def __init__(
        self,
        directory: Path,
        events: EventQueue,
        died: Callable[[Reason], None],
        *,
        door: Path | None,
        times: bool,
    ) -> None:
        self._directory = directory
        self._events = events
        self._died = died
        self._door = door
        self._times = times
        self._child: subprocess.Popen[bytes] | survival.Foreign | None = None
        self._control: socket.socket | None = None
        self._event_socket: socket.socket | None = None
        self._event_frames = messages.Frames()
        self._ready = False
        self._started = float("-inf")

    @property
    def pid(self) -> int:
        """-1 while there is none."""
        return self._child.pid if self._child is not None else -1

    @property
    def is_there(self) -> bool:
        """Whether there is one, which may be loading still."""
        return self._control is not None

    @property
    def age(self) -> float:
        """Seconds since the last one was started or found."""
        return time.monotonic() - self._started

    @property
    def _log_path(self) -> Path:
        return self._directory / "dataplane.log"

    # ---- begin ---------------------------------------------------------------------------------------------

    def find(self, options: str) -> Mapping[str, int] | None:
        """Take over the process that an earlier agent left: its descriptors by their names, or None. It is
        there then; `await_ready`."""
        found = None if self._door is None or self._times else survival.find(self._door, options)
        if found is None:
            return None
        self._child, self._control, self._event_socket = found.process, found.control, found.events
        self._event_frames = messages.Frames()
        self._started = time.monotonic()
        return found.descriptors

    def end_orphan(self, options: str) -> None:
        """End the process that an earlier agent left, unless another one has it."""
        if self._door is not None:
            survival.end_orphan(self._door, options)

    def start(self, descriptors: Mapping[str, int], options: str) -> None:
        """Start one with these descriptors by name; `await_ready` waits for it.
        `HostError(DRIVER_FAILED)`."""
        self._started = time.monotonic()
        control, process_control = socket.socketpair()
        events, process_events = socket.socketpair()
        numbers = {**descriptors, "control": process_control.fileno(), "events": process_events.fileno()}
        door = self._make_door()
        if door is not None:
            numbers |= {"door": door[0].fileno(), "door_file": door[1]}
        try:
            self._child = self._spawn(numbers, options)
        except OSError as error:
            control.close()
            events.close()
            raise error_for(
                ReasonCode.DRIVER_FAILED, f"the data plane cannot be started: {error.strerror}"
            ) from None
        finally:
            process_control.close()
            process_events.close()
            if door is not None:
                door[0].close()
                os.close(door[1])
        self._control, self._event_socket = control, events
        self._event_frames = messages.Frames()

    def _make_door(self) -> tuple[socket.socket, int] | None:
        """Where it cannot be made the data plane ends with this process, as without one."""
        if self._door is None:
            return None
        try:
            return survival.make_door(self._door)
        except OSError as error:
            reason = Reason.of(
                ReasonCode.DRIVER_FAILED,
                f"SAs will not outlive this agent: {self._door}: {error.strerror}",
            )
            self._events.append(DriverFailed(reason))
            return None

    def _spawn(self, numbers: Mapping[str, int], options: str) -> "subprocess.Popen[bytes]":
        self._directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        package_folder = str(Path(stockade.__file__).resolve().parent.parent)
        try:
            return subprocess.Popen(
                [
                    sys.executable,
                    "-P",  # not the folder that we happen to stand in
                    "-m",
                    "stockade.driver.userspace.process",
                    "--descriptors",
                    ",".join(f"{name}={number}" for name, number in numbers.items()),
                    "--without",
                    options,
                    *(["--times"] if self._times else []),
                ],
                pass_fds=list(numbers.values()),
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                env={"PATH": os.environ.get("PATH", ""), "PYTHONPATH": package_folder},
                start_new_session=True,  # Ctrl-C is the agent's; the process follows it
            )
        finally:
            os.close(descriptor)

    def await_ready(self) -> None:
        """Wait until the process is ready; `HostError(DRIVER_FAILED)` if it does not get there."""
        events = self._event_socket
        if self._ready or events is None:
            return
        events.settimeout(START_SECONDS)
        try:
            first = messages.receive_frame(events, self._event_frames)
        except OSError:
            first = None
        if first is None:
            self.end()
            raise error_for(ReasonCode.DRIVER_FAILED, "the data plane ended at its start", log=self._log_path)
        events.setblocking(False)
        self._events.watch(events.fileno())
        self._ready = True

    # ---- talk ----------------------------------------------------------------------------------------------

    def request(
        self, request: messages.Request, seconds: float = REQUEST_SECONDS, descriptor: int | None = None
    ) -> messages.Reply:
        """Ask the process and wait for its answer. `HostError(DRIVER_FAILED)` if none comes: the process is
        ended then."""
        if self._control is None:
            raise error_for(ReasonCode.DRIVER_FAILED, "the data plane is not running")
        self.await_ready()
        self._control.settimeout(seconds)
        try:
            data = messages.encode(request)
            if descriptor is not None:  # with the first byte of its frame
                socket.send_fds(self._control, [data[:1]], [descriptor])
                data = data[1:]
            self._control.sendall(data)
            frame = messages.receive_frame(self._control, messages.Frames())
        except OSError:
            frame = None
        try:
            reply = messages.reply_decoder.decode(frame) if frame is not None else None
        except msgspec.MsgspecError:
            reply = None
        if reply is None:
            self._on_death("the data plane does not answer")
            raise error_for(ReasonCode.DRIVER_FAILED, "the data plane does not answer")
        if isinstance(reply, messages.Refused):
            messages.raise_refused(reply)
        return reply

    def tell(self, request: messages.Request) -> None:
        """Ask for something to be gone. Where the process is dead or dies of it, it is gone; `events`
        tells."""
        if self._control is not None:
            with suppress(HostError):
                self.request(request)

    def events(self) -> Iterator[DriverEvent]:
        """What it said since the last call; never blocks."""
        while self._ready and self._event_socket is not None:
            try:
                data = self._event_socket.recv(1 << 16)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._on_death("the data plane ended")
                return
            try:
                for frame in self._event_frames.feed(data):
                    event = messages.event_of(messages.event_decoder.decode(frame))
                    if event is not None:
                        yield event
            except (msgspec.MsgspecError, ValueError, KeyError):
                self._on_death("the data plane speaks nonsense")

    # ---- end -----------------------------------------------------------------------------------------------

    def _on_death(self, detail: str) -> None:
        child = self._child
        if child is not None and child.poll() is None:
            child.kill()
        self.end()
        status = child.returncode if child is not None else None
        self._died(Reason.of(ReasonCode.DRIVER_FAILED, detail, status=status, log=self._log_path))

    def end(self) -> None:
        """It ends when it is told to; what does not listen is killed."""
        self._ready = False
        if self._control is not None and self._child is not None:
            with suppress(OSError):
                self._control.settimeout(REQUEST_SECONDS)
                self._control.sendall(messages.encode(messages.Quit()))
        self._hang_up()
        child, self._child = self._child, None
        if isinstance(child, survival.Foreign):
            child.end()
        elif child is not None:
            try:
                child.wait(1.0)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def leave(self) -> None:
        """It goes on where it can be found and has SAs; else it ends by itself."""
        self._ready = False
        self._hang_up()
        if isinstance(self._child, survival.Foreign):
            self._child.close()
        self._child = None

    def _hang_up(self) -> None:
        if self._event_socket is not None:
            self._events.unwatch(self._event_socket.fileno())
            self._event_socket.close()
            self._event_socket = None
        if self._control is not None:
            self._control.close()
            self._control = None
