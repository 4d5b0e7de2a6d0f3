"""What the web console knows the agent by, and how it gives up its privileges."""

import ctypes
import os
import pwd
import queue
import resource
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from stockade.agent.client import AgentClient
from stockade.model.reasons import ReasonCode, StockadeError, error_for

NOBODY = 65534
MAXIMUM_DESCRIPTORS = 512
REPORT_QUEUE = 200
AGENT_SECONDS = 10.0
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
NICENESS = 5
"""The agent's console never competes with the agent."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder that is held open: what is in it can be reached after its path cannot."""

    descriptor: int

    @classmethod
    def hold(cls, path: Path) -> "Folder":
        """HostError where it is not there or not ours to open."""
        try:
            return cls(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW))
        except FileNotFoundError:
            raise error_for(
                ReasonCode.AGENT_NOT_RUNNING, f"{path} is not there: the agent makes it", file=path
            ) from None
        except OSError as error:
            raise error_for(ReasonCode.NOT_PRIVILEGED, f"cannot open {path}: {error.strerror}") from error

    @property
    def path(self) -> Path:
        return Path(f"/proc/self/fd/{self.descriptor}")


def give_up_privileges(user: str) -> None:
    """Become `user` (nobody where there is none of that name) for good, with few descriptors and no debugger.
    Not as root: only the rest of it."""
    try:
        entry = pwd.getpwnam(user)
        uid, gid = entry.pw_uid, entry.pw_gid
    except KeyError:
        uid = gid = NOBODY
    if uid == 0:
        raise error_for(ReasonCode.INVALID_SETTING, f"user {user!r} is root: the web console must be nobody")
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAXIMUM_DESCRIPTORS, MAXIMUM_DESCRIPTORS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def die_with(parent: int) -> None:
    """The kernel kills this process when its parent, process `parent`, has died, however that was."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:  # it was over before the kernel knew of the wish
        raise error_for(ReasonCode.AGENT_NOT_RUNNING, f"process {parent}, which started this one, has ended")
    os.nice(NICENESS)


class Reporter:
    """Tells the agent's journal what was refused and what operators did. Never waits: a queue that is full
    counts what it left out."""

    def __init__(self, client: AgentClient) -> None:
        self._client = client
        self._queue: queue.Queue[dict[str, object]] = queue.Queue(REPORT_QUEUE)
        self._lost = 0
        threading.Thread(target=self._run, name="reporter", daemon=True).start()

    def tell(self, kind: str, text: str, **facts: object) -> None:
        """`kind` is action, request or login."""
        told = {name: str(value)[:200] for name, value in facts.items()}
        if self._lost:
            told["left_out"] = str(self._lost)
        try:
            self._queue.put_nowait({"kind": kind, "text": text[:300], "facts": told})
            self._lost = 0
        except queue.Full:
            self._lost += 1

    def _run(self) -> None:
        while True:
            report = self._queue.get()
            for pause in (0.0, 1.0, 5.0):
                time.sleep(pause)
                with suppress(StockadeError):
                    self._client.post_json("/v1/web/report", report)
                    break
