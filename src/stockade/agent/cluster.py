"""A node of a cluster: the socket between the nodes, the virtual addresses coming and going, takeover.

    address comes ─▶ policy expanded anew ─▶ take over: negotiate with the peers that the others had on it
    release       ─▶ farewell to all peers on it, nothing new on it ─▶ the address may be moved
    address goes  ─▶ what was made on it is forgotten; the others keep what we told of it
    quick mode up on an address that another living node holds too, and whose peer that node has ─▶ hook

What is decided about replication is in `stockade.cluster.replication`, without sockets.
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable
from ipaddress import ip_address

from stockade.agent.cluster_hook import ClusterHook
from stockade.agent.core import HostCore
from stockade.agent.journal import Entry
from stockade.cluster.messages import MAXIMUM_MESSAGE
from stockade.cluster.replication import MemberView, Replication
from stockade.cluster.settings import ClusterSettings
from stockade.model.addresses import Address
from stockade.model.known_quick_mode import KnownQuickMode
from stockade.model.reasons import Reason, ReasonCode, error_for

BATCH = 64
RELEASED_SECONDS = 30.0
"""An address that was released and does not leave is served again after this."""


class ClusterNode:
    """This node. `journal` keeps what happens."""

    def __init__(self, settings: ClusterSettings, core: HostCore, journal: Callable[[Entry], None]) -> None:
        self.settings = settings
        self._core = core
        self._journal = journal
        self.replication = Replication(settings, os.urandom, self._note)
        self._hook = ClusterHook(settings.hook, settings.node, self._hook_failed)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._socket: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._released: dict[Address, asyncio.TimerHandle] = {}
        core.established = self._on_established
        core.engine.set_living_holders(lambda address: self.replication.holders(address, time.monotonic()))
        core.known_peers.removed = self._on_removed
        self.replication.hold(core.local_addresses, time.monotonic())
        for known in reversed(core.known_peers.all()):
            self.replication.restore(known)

    # ---- life

    def start(self) -> None:
        """Open the socket and begin to speak. HostError PORT_TAKEN or INVALID_SETTING."""
        self._loop = asyncio.get_running_loop()
        if self.settings.others:
            self._socket = _open(self.settings)
            self._loop.add_reader(self._socket.fileno(), self._on_readable)
            self._on_timer()

    def stop(self) -> None:
        self._hook.stop()
        for timer in (*self._released.values(), self._timer):
            if timer is not None:
                timer.cancel()
        if self._socket is not None and self._loop is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()

    # ---- the virtual addresses

    def differs(self, present: set[Address]) -> bool:
        """Whether a virtual address has come or gone, for a host with these addresses."""
        held = set(self.replication.held)
        return held != {one for one in self.settings.addresses if one in present}

    def before_facts(self, present: set[Address], now: float) -> None:
        """The host's addresses are these now, and the core does not know it yet: what goes, goes with its
        address, and stays told to the others."""
        for address in set(self.replication.held) - present:
            self._let_go(address)
            self.replication.freeze(address)
            self._core.gone(address, now)
            self._note("cluster-address-left", _address_reason(address, "left this node"))

    def after_facts(self, now: float) -> None:
        """The core knows the host's addresses, and the policy is expanded: take over what came."""
        came = [one for one in self._core.local_addresses if one in self.settings.addresses]
        came = [one for one in came if one not in self.replication.held]
        known = {address: self._known_on(address) for address in came}
        self.replication.hold(self._core.local_addresses, now)
        for address, peers in known.items():
            begun = self._core.take_over(peers, now)
            for one in reversed(peers):
                self.replication.add(one, now)
            detail = f"came to this node; negotiating with {begun} of {len(peers)} known peers' traffic"
            self._note("cluster-address-came", _address_reason(address, detail))
        self._flush()

    def _known_on(self, address: Address) -> list[KnownQuickMode]:
        """Newest first: what the others told; what we had ourselves, where they say nothing."""
        told = self.replication.take(address)
        return told or [one for one in self._core.known_peers.all() if one.local == address]

    def release(self, address: Address | None, now: float) -> tuple[Address, ...]:
        """Say good-bye on an address (None: on all that this node holds), because it is going to be moved;
        which ones. CallerError UNKNOWN_NAME where it is not here."""
        held = self.replication.held
        if address is not None and address not in held:
            here = ", ".join(map(str, held)) or "none"
            raise error_for(
                ReasonCode.UNKNOWN_NAME, f"{address} is no virtual address of this node; it has {here}"
            )
        chosen = held if address is None else (address,)
        for one in chosen:
            self.replication.freeze(one)
            self._core.release(one, now)
            self._let_go(one)
            if self._loop is not None:
                self._released[one] = self._loop.call_later(RELEASED_SECONDS, self._keep, one)
            self._note("cluster-address-released", _address_reason(one, "may be moved now"))
        return chosen

    def _keep(self, address: Address) -> None:
        """It was released and did not leave."""
        del self._released[address]
        self._core.keep(address)
        self.replication.thaw(address)
        self._note("cluster-address-stayed", _address_reason(address, "was not moved, and is served again"))

    def _let_go(self, address: Address) -> None:
        timer = self._released.pop(address, None)
        if timer is not None:
            timer.cancel()

    # ---- what the core tells

    def _on_established(self, known: KnownQuickMode) -> None:
        if known.local not in self.settings.addresses:
            return
        now = time.monotonic()
        owner = self.replication.owner(known.local, known.peer, now)
        if owner is not None and self._hook.peer_of_another_node(known.local, known.peer, owner, now):
            detail = f"{known.peer} came to this node, and node {owner} has it"
            reason = Reason.of(
                ReasonCode.CLUSTER_PEER, detail, peer=known.peer, address=known.local, owner=owner
            )
            self._note("cluster-peer", reason)
        self.replication.add(known, now)
        self._flush()

    def _on_removed(self, known: KnownQuickMode) -> None:
        self.replication.remove(known, time.monotonic())
        self._flush()

    def _hook_failed(self, reason: Reason) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._note, "cluster-hook-failed", reason)

    def members(self) -> tuple[MemberView, ...]:
        return self.replication.members(time.monotonic())

    # ---- the socket

    def _on_readable(self) -> None:
        assert self._socket is not None
        now = time.monotonic()
        for _ in range(BATCH):
            try:
                datagram, source = self._socket.recvfrom(MAXIMUM_MESSAGE + 1)
            except BlockingIOError:
                break
            except OSError:
                continue  # an ICMP error: that node is away for now
            if source[1] == self.settings.port:
                self.replication.receive(datagram, ip_address(source[0].partition("%")[0]), now)
        self._flush()

    def _on_timer(self) -> None:
        assert self._loop is not None
        now = time.monotonic()
        self.replication.timeout(now)
        self._flush()
        due = self.replication.next_timeout()
        if due is not None:
            self._timer = self._loop.call_later(max(0.02, due - now), self._on_timer)

    def _flush(self) -> None:
        for datagram, address in self.replication.outgoing():
            if self._socket is not None:
                try:
                    self._socket.sendto(datagram, (str(address), self.settings.port))
                except OSError:
                    continue  # it is told again: digests differ until it has come

    def _note(self, kind: str, reason: Reason) -> None:
        self._journal(Entry(kind, reason))


def _open(settings: ClusterSettings) -> socket.socket:
    own = settings.members[settings.node]
    family = socket.AF_INET if own.version == 4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.bind((str(own), settings.port))
    except OSError as error:
        sock.close()
        detail = f"cluster: UDP {own} port {settings.port}: {error.strerror}"
        raise error_for(ReasonCode.PORT_TAKEN, detail) from error
    return sock


def _address_reason(address: Address, what: str) -> Reason:
    return Reason.of(ReasonCode.CLUSTER_ADDRESS, f"{address} {what}", address=address)
