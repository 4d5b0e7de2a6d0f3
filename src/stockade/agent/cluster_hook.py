"""The command that is run when a peer comes that another node of the cluster serves.

It gets words and environment, no shell; it has ten seconds; it never holds the agent up. What it must not
miss is in the journal too. Environment: STOCKADE_EVENT (peer-of-another-node), STOCKADE_PEER,
STOCKADE_ADDRESS (the virtual one), STOCKADE_NODE (this one), STOCKADE_OWNER (the other one).
"""

import os
import signal
import subprocess
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress

from stockade.agent.workers import Workers
from stockade.model.addresses import Address
from stockade.model.reasons import Reason, ReasonCode

HOOK_SECONDS = 10.0
AGAIN_SECONDS = 10.0
"""The same peer is not told more often."""
MAXIMUM_WAITING = 64
EVENT = "peer-of-another-node"


class ClusterHook:
    """Runs `command`, one at a time; `failed(reason)` is called in a thread. With more than MAXIMUM_WAITING
    waiting, further calls are refused (and told)."""

    def __init__(
        self,
        command: tuple[str, ...],
        node: str,
        failed: Callable[[Reason], None],
        seconds: float = HOOK_SECONDS,
    ) -> None:
        self._command = command
        self._node = node
        self._failed = failed
        self._seconds = seconds
        self._workers = Workers(1, "stockade-cluster-hook")
        self._waiting = threading.BoundedSemaphore(MAXIMUM_WAITING)
        self._told: OrderedDict[tuple[Address, Address, str], float] = OrderedDict()

    def peer_of_another_node(self, local: Address, peer: Address, owner: str, now: float) -> bool:
        """False where it was told a moment ago."""
        key = (local, peer, owner)
        while self._told and next(iter(self._told.values())) <= now - AGAIN_SECONDS:
            self._told.popitem(last=False)
        if key in self._told:
            return False
        self._told[key] = now
        if not self._command:
            return True
        if not self._waiting.acquire(blocking=False):
            self._failed(self._reason("too many calls wait", peer))
            return True
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "STOCKADE_EVENT": EVENT,
            "STOCKADE_PEER": str(peer),
            "STOCKADE_ADDRESS": str(local),
            "STOCKADE_NODE": self._node,
            "STOCKADE_OWNER": owner,
        }
        self._workers.submit(lambda: self._run(environment, peer))
        return True

    def stop(self) -> None:
        """Begin no more; one that runs ends by itself or its limit."""
        self._workers.stop()

    def _run(self, environment: dict[str, str], peer: Address) -> None:
        try:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env=environment,
            )
        except OSError as error:
            self._failed(self._reason(error.strerror or "cannot be run", peer))
            return
        finally:
            self._waiting.release()
        try:
            status = process.wait(self._seconds)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            self._failed(self._reason(f"no end after {self._seconds:g} s", peer))
            return
        if status:
            self._failed(self._reason(f"exit status {status}", peer))

    def _reason(self, what: str, peer: Address) -> Reason:
        return Reason.of(
            ReasonCode.CLUSTER_HOOK_FAILED, f"{self._command[0]}: {what}", peer=peer, command=self._command[0]
        )
