"""The kernel driver: the filter table and the SAs live in the kernel's XFRM, this process only writes and
listens.

    install_filters ──▶ policies (see `policies`)        ACQUIRE ──▶ Acquire      MAPPING ──▶ PeerMoved
    add_sa, remove_sa ──▶ states (see `states`)          EXPIRE  ──▶ SaExpired
    statistics ◀── dump of the states                    look every second ──▶ SaIdle, PacketRefused

What belongs to this process ends with it; states and policies do not. So a killed agent leaves a host that
secures what it secured and lets nothing pass that it did not: where an SA ends, nobody makes a new one. The
next start finds the policies by their tag and takes them over. It finds the SAs too: `survivors` lists those
that the `ledger` tells of, for the agent to keep or remove, and ends the others. Until it is asked, they stay
(ORPHAN_SECONDS at most, or HANDOVER_SECONDS after their peer has an SA of ours): their packets need not stop.

Held packets: the kernel queues up to 100 for a policy and sends them when an SA is there; it does not tell
how many, so `held_packets` counts the SAs that it waits for. `release` leaves them there, unless a soft SA
has opened the way for them: then they are looked up anew. The kernel forgets an unanswered acquire after 3 s
(see `system`), so that the next packet acquires anew; packets held for a negotiation that failed leave,
secured, with those of the next one that does not, or are dropped by the kernel within two minutes.

Counted are SAs, and the filters whose packets went through an SA. For permit and block the kernel keeps no
numbers."""

import errno
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from stockade.driver import probe
from stockade.driver.contract import (
    Acquire,
    DriverEvent,
    DriverFailed,
    DriverStatistics,
    FilterCounters,
    PacketRefused,
    PeerMoved,
    SaExpired,
    SaIdle,
    SaSilent,
    Survivor,
)
from stockade.driver.ended import EndedSas
from stockade.driver.kernel import policies, states
from stockade.driver.kernel.early import EarlyWatch
from stockade.driver.kernel.ledger import Ledger
from stockade.driver.kernel.listener import Listener, UnknownSpiWatch, bypass_socket, take_esp_in_udp
from stockade.driver.kernel.offload import HardwareOffload
from stockade.driver.kernel.policies import Change, Step
from stockade.driver.kernel.system import Claim, Settings, own_ipv6_addresses, read_refusals
from stockade.driver.limits import check_table
from stockade.driver.netlink import NetlinkError, NetlinkSocket
from stockade.driver.refusals import Refusals
from stockade.driver.silence import unanswered_since
from stockade.model.addresses import Address
from stockade.model.capabilities import Capabilities
from stockade.model.filters import Direction, FilterTable
from stockade.model.reasons import Reason, ReasonCode, StockadeError, error_for
from stockade.model.sa import MAXIMUM_SPI, MINIMUM_SPI, SaCounters, SecurityAssociation
from stockade.model.traffic import AH, ESP, PROTOCOLS_WITH_PORTS, Flow
from stockade.wire import xfrm, xfrm_decode
from stockade.wire.netlink import NLM_F_CREATE, NLM_F_EXCL
from stockade.wire.xfrm import (
    Acquired,
    Encapsulation,
    Expired,
    Mapped,
    MessageType,
    Offload,
    Policy,
    PolicyDirection,
    State,
)

LOOK_SECONDS: Final = 1.0
"""Between two looks at what the kernel does not tell by itself. With many SAs less often: a look may take a
fiftieth of the time."""

ACQUIRE_SECONDS: Final = 1.0
"""Between two acquires of the same filter and pair of hosts."""

MAXIMUM_REMEMBERED: Final = 4096
"""Pairs whose last acquire is remembered."""

ORPHAN_SECONDS: Final = 30.0
"""How long SAs of an earlier run stay at most."""

HANDOVER_SECONDS: Final = 2.0
"""How long they stay when their peer has an SA of this run."""

NAT_TRAVERSAL_PORT: Final = 4500

SINGLY: Final = 4
"""So many SAs of one round are removed at once; where there are more, the rest goes together, when the round
is over."""

MAXIMUM_DOOMED: Final = 1024

NOTHING_USED: Final = xfrm.Usage()

StateKey = tuple[Address, int, int]


@dataclass(slots=True)
class _Entry:
    """One of our SAs, and what was seen of it at the last look. Times of the monotonic clock."""

    sa: SecurityAssociation
    installed: float
    used: float
    usage: xfrm.Usage = NOTHING_USED
    idle_reported: bool = False
    unanswered: float | None = None
    in_card: bool = False
    given: int = 0
    """Packets that came early and were given to the kernel again: some may have come with the SA too."""


@dataclass(slots=True)
class _Orphan:
    """An SA of an earlier run, to be removed at `end`."""

    state: State
    end: float


class KernelDriver:
    """Implements `Driver`. One per network namespace: that of the thread that calls `start`. Not safe for
    several threads. `ledger`: the path of the file by which the next driver knows what our SAs are; without
    it none is adopted. `hardware`: whether network cards may carry SAs."""

    def __init__(self, ledger: Path | None = None, *, hardware: bool = True) -> None:
        self._ledger = Ledger(ledger)
        self._hardware = HardwareOffload(wanted=hardware)
        self._capabilities: Capabilities | None = None
        self._netlink: NetlinkSocket | None = None
        self._listener: Listener | None = None
        self._watch: UnknownSpiWatch | None = None
        self._watch_end = 0.0
        self._early = EarlyWatch()
        self._given = 0
        self._claim = Claim()
        self._settings = Settings()
        self._epoll = select.epoll()
        self._wake_reading, self._wake_writing = socket.socketpair(type=socket.SOCK_STREAM)
        self._wake_reading.setblocking(False)
        self._wake_writing.setblocking(False)
        self._epoll.register(self._wake_reading.fileno(), select.EPOLLIN)
        self._ticker: _Ticker | None = None
        self._next_look = 0.0
        self._table = FilterTable()
        self._installed: dict[policies.Key, Policy] = {}
        self._by_filter: dict[str, list[Policy]] = {}
        self._is_plain = False  # every filter of the table has all its policies, and nothing else is ours
        self._request_ids: dict[str, int] = {}
        self._entries: dict[StateKey, _Entry] = {}
        self._keys_by_spi: dict[int, list[StateKey]] = {}
        self._doomed: dict[StateKey, _Entry] = {}
        self._removed = 0
        self._orphans: dict[StateKey, _Orphan] = {}
        self._told: Mapping[StateKey, tuple[SecurityAssociation, float]] = {}
        self._acquired: dict[tuple[str, Address, Address], float] = {}
        self._finished: dict[str, tuple[int, int]] = {}
        self._ended = EndedSas()
        self._events: deque[DriverEvent] = deque()
        self._refusals = Refusals()
        self._counted: dict[ReasonCode, int] = {}
        self._start_counts: dict[ReasonCode, int] = {}

    # ---- Driver --------------------------------------------------------------------------------------------

    @property
    def capabilities(self) -> Capabilities:
        """Found out by trying, once; `HostError` where that is not allowed."""
        if self._capabilities is None:
            self._capabilities = probe.kernel_capabilities()
        return self._capabilities

    def start(self) -> None:
        """`HostError`: NOT_PRIVILEGED, or DRIVER_FAILED where the kernel has no ESP or another driver runs
        here."""
        if self._netlink is not None:
            return
        refusal = probe.esp_refusal()
        if refusal is not None:
            code = ReasonCode.NOT_PRIVILEGED if os.geteuid() else ReasonCode.DRIVER_FAILED
            raise error_for(code, f"the kernel data plane cannot run: {refusal}")
        self._claim.take()
        try:
            self._open()
        except OSError as error:
            self._let_go()
            raise error_for(ReasonCode.DRIVER_FAILED, f"XFRM netlink: {error.strerror}") from None
        except StockadeError:
            self._let_go()
            raise

    def _open(self) -> None:
        self._netlink = NetlinkSocket(socket.NETLINK_XFRM)
        self._listener = Listener()
        self._epoll.register(self._listener.fileno(), select.EPOLLIN)
        self._settings.apply()
        now = time.monotonic()
        self._installed = {policies.key_of(policy): policy for policy in self._read_policies()}
        self._orphans = {
            _key(state): _Orphan(state, now + ORPHAN_SECONDS)
            for state in self._read_states()
            if states.is_ours(state)
        }
        self._told = self._ledger.read()
        self._ledger.begin(self._told)  # an agent that dies before it has asked leaves all of it to the next
        self._start_counts = self._counted = read_refusals()
        self._ticker = _Ticker(self._wake, LOOK_SECONDS)
        self._ticker.start()

    def stop(self, keep_filters: bool = False) -> None:
        """May be called at any time, more than once, and without `start`: then it removes what a killed run
        left, unless another driver runs here. What the kernel refuses to remove does not keep the rest."""
        if self._netlink is None:
            with suppress(StockadeError, OSError):
                self._claim.take()
                self._netlink = NetlinkSocket(socket.NETLINK_XFRM)
            if self._netlink is None:
                self._claim.release()
                return
        refused: StockadeError | None = None
        try:
            ours = [
                xfrm.state_id(state.destination, state.spi, state.protocol)
                for state in self._read_states()
                if states.is_ours(state)
            ]
            for error in self._open_netlink().change_all(MessageType.DELETE_SA, ours):
                if error.number != errno.ESRCH:
                    refused = error
            if not keep_filters:
                gone = [
                    xfrm.policy_id(step.policy.selector, step.policy.direction)
                    for step in policies.steps_between(self._read_policies(), ())
                ]
                for error in self._open_netlink().change_all(MessageType.DELETE_POLICY, gone):
                    if error.number != errno.ENOENT:
                        refused = error
                self._installed.clear()
            self._is_plain = False
        finally:
            if not keep_filters:
                self._settings.restore()
            self._entries.clear()
            self._keys_by_spi.clear()
            self._orphans.clear()
            self._ledger.end()
            self._let_go()
        if refused is not None:
            raise refused

    def _let_go(self) -> None:
        with suppress(StockadeError):
            self._remove_doomed()
        if self._ticker is not None:
            self._ticker.stop()
            self._ticker = None
        self._close_watch()
        if self._listener is not None:
            self._epoll.unregister(self._listener.fileno())
            self._listener.close()
            self._listener = None
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None
        self._early.close()
        self._ledger.close()
        self._claim.release()

    def survivors(self) -> Sequence[Survivor]:
        """Those whose record agrees with what is in the kernel; the others are ended."""
        now = time.monotonic()
        found, unknown = [], []
        for key, orphan in self._orphans.items():
            sa, installed = self._told.get(key, (None, now))
            if sa is None or not self._is(orphan.state, sa):
                unknown.append(xfrm.state_id(*key))
                continue
            entry = _Entry(sa, min(installed, now), now, orphan.state.usage)
            self._keep(key, entry)
            found.append(Survivor(sa, now - entry.installed))
        for error in self._open_netlink().change_all(MessageType.DELETE_SA, unknown):
            if error.number != errno.ESRCH:
                raise error
        self._orphans.clear()
        self._told = {}
        self._ledger.begin({key: (entry.sa, entry.installed) for key, entry in self._entries.items()})
        return found

    def _is(self, state: State, sa: SecurityAssociation) -> bool:
        """Whether this is that SA, and the table's policies for its rule lead to it."""
        ports = None if sa.udp is None else Encapsulation(sa.udp.source_port, sa.udp.destination_port)
        return (
            (state.source, state.destination, state.spi) == (sa.source, sa.destination, sa.spi)
            and state.mode is policies.MODES[sa.mode]
            and state.request_id == self._request_ids.get(sa.negotiation)
            and state.encapsulation == ports
        )

    def leave(self) -> None:
        """States, policies and the ledger stay."""
        self._let_go()

    def free_ike_ports(self) -> None:
        """Nobody has them: the kernel takes ESP in UDP from the sockets of the key exchange."""

    def install_filters(self, table: FilterTable) -> None:
        capabilities = self.capabilities
        check_table(table, capabilities)
        names = list(table.negotiations)
        ids = policies.request_ids(names, self._request_ids)
        if self._install_few(table, ids, capabilities):
            return
        doubles: list[Policy] = []
        wanted = policies.policies_of(table, ids, capabilities, doubles)
        if any(entry.selector.version == 6 for entry in table.filters):
            wanted = [*policies.loopback_policies(*own_ipv6_addresses()), *wanted]
        before = list(self._installed.values())
        try:
            for step in policies.steps_between(before, wanted):
                self._apply(step)
        except StockadeError:
            with suppress(StockadeError):
                for step in policies.steps_between(list(self._installed.values()), before):
                    self._apply(step)
            raise
        self._by_filter = {}
        for policy in self._installed.values():
            self._by_filter.setdefault(policies.filter_id_of(policy), []).append(policy)
        for found in self._by_filter.values():
            found.sort(key=lambda policy: policy.priority)
        self._is_plain = not doubles and len(self._by_filter) == len(table.filters)
        # Ids of negotiations that are gone stay known while SAs of theirs may live.
        used = {entry.sa.negotiation for entry in self._entries.values()} | set(names)
        self._request_ids = {
            name: number for name, number in {**self._request_ids, **ids}.items() if name in used
        }
        self._table = table
        self._finished = {
            name: value for name, value in self._finished.items() if table.by_id(name) is not None
        }

    def _install_few(self, table: FilterTable, ids: dict[str, int], capabilities: Capabilities) -> bool:
        """A table that differs little from the one in force, without a look at all of it. False where that is
        not so simple, or failed: the whole difference is looked for then."""
        if not self._is_plain or table.negotiations != self._table.negotiations:
            return False
        if any(self._request_ids.get(name) != number for name, number in ids.items()):
            return False
        changes = table.since(self._table)
        if any(entry.selector.version == 6 for entry in table.filters if entry.id in changes.came):
            return False  # beside the first filter for IPv6 loopback gets policies
        steps = policies.few_steps(self._installed, self._by_filter, self._table, table, ids, capabilities)
        if steps is None:
            return False
        try:
            for step in steps:
                self._apply(step)
        except StockadeError:
            self._is_plain = False
            return False
        for entry_id in changes.went:
            self._by_filter.pop(entry_id, None)
            self._finished.pop(entry_id, None)
        for step in steps:
            if step.change is Change.ADD:
                self._by_filter.setdefault(policies.filter_id_of(step.policy), []).append(step.policy)
        self._table = table
        return True

    def get_spi(self, local: Address, peer: Address) -> int:
        """The kernel chooses and keeps it back for some seconds, so that no other program gets it."""
        larval = State(None, peer, local, 0, ESP, 0, xfrm.XfrmMode.TRANSPORT)
        body = xfrm.allocate_spi(larval, MINIMUM_SPI, MAXIMUM_SPI)
        answers = self._open_netlink().get(MessageType.ALLOCATE_SPI, body)
        for answer in answers:
            if answer.type == MessageType.NEW_SA:
                spi = xfrm_decode.decode_state(answer.body).spi
                self._early.expect(spi, local.version)
                return spi
        raise error_for(ReasonCode.NO_SPI, "the kernel gave none")

    def listen_ahead(self) -> None:
        if self._listener is not None:
            self._early.listen(time.monotonic())

    def add_sa(self, sa: SecurityAssociation) -> None:
        states.check_sa(sa, self.capabilities)
        ids = policies.request_ids([sa.negotiation], self._request_ids)
        state = states.state_of(sa, ids[sa.negotiation])
        key = _key(state)
        self._remove_doomed()
        if key in self._entries:
            # Replacing it would start its sequence numbers, and with AES-GCM its nonces, again.
            raise error_for(
                ReasonCode.DRIVER_LACKS, "this SPI is in use", spi=f"{sa.spi:#010x}", peer=sa.peer
            )
        self._offer_state(state, self._hardware.of(sa), reserved=sa.direction is Direction.INBOUND)
        self._request_ids.update(ids)
        now = time.monotonic()
        self._keep(key, _Entry(sa, now, now))
        self._ledger.add(sa, now)
        if sa.direction is Direction.INBOUND:
            self._take_early(sa, now)
        else:
            for orphan in self._orphans.values():
                if sa.peer in (orphan.state.source, orphan.state.destination):
                    orphan.end = min(orphan.end, now + HANDOVER_SECONDS)
            self._send_held(sa)

    def _take_early(self, sa: SecurityAssociation, now: float) -> None:
        """Have the kernel receive anew what came ahead of this SA, or of the bundle that it completes."""
        here = [(AH if sa.esp is None else ESP, sa.spi)]
        if sa.bundle is not None:
            here.append((ESP if sa.esp is None else AH, sa.bundle))
        entries = [self._entries.get((sa.destination, spi, protocol)) for protocol, spi in here]
        if entries[-1] is None:
            return  # the other half comes in a moment
        packets = self._early.take(sa.destination, here, now)
        for _, spi in here:
            self._early.settle(spi)
        if packets:
            for entry in entries:
                if entry is not None:
                    entry.given = len(packets)
            self._given += self._early.give(packets)

    def _send_held(self, sa: SecurityAssociation) -> None:
        """Send what waits for this SA. The kernel looks at its queue by a timer of up to a minute; a policy
        that is replaced, if only by itself, hands its queue on to be sent at once."""
        for policy in self._by_filter.get(sa.filter_id, ()):
            selector = policy.selector
            if policy.direction is PolicyDirection.OUT and (
                sa.selector.source.first in selector.source
                and sa.selector.destination.first in selector.destination
            ):
                self._open_netlink().change(MessageType.UPDATE_POLICY, policy.encode())
        for key in [key for key in self._acquired if (key[0], key[2]) == (sa.filter_id, sa.peer)]:
            del self._acquired[key]

    def _offer_state(self, state: State, offload: Offload | None, *, reserved: bool) -> None:
        """Add the SA, to a network card where there is one that takes it."""
        if offload is not None:
            with suppress(NetlinkError):  # not refused by the card, but by the kernel for it: without, then
                self._add_state(replace(state, offload=offload), reserved=reserved)
                return
        self._add_state(state, reserved=reserved)

    def _add_state(self, state: State, *, reserved: bool) -> None:
        """An inbound SPI may have a larval SA from `get_spi`, which is updated to become the SA."""
        netlink = self._open_netlink()
        if reserved:
            try:
                netlink.change(MessageType.UPDATE_SA, state.encode())
                return
            except NetlinkError as error:
                if error.number != errno.ESRCH:
                    raise
        netlink.change(MessageType.NEW_SA, state.encode(), NLM_F_CREATE | NLM_F_EXCL)

    def remove_sa(self, spi: int, direction: Direction, peer: Address) -> None:
        if direction is Direction.INBOUND:
            self._early.settle(spi)
        for key in tuple(self._keys_by_spi.get(spi, ())):
            entry = self._entries[key]
            if (entry.sa.direction, entry.sa.peer) == (direction, peer):
                self._drop(key)
                self._ledger.remove(key)
                self._doomed[key] = entry
        self._removed += 1
        if self._removed <= SINGLY or len(self._doomed) >= MAXIMUM_DOOMED:
            self._remove_doomed()

    def _remove_doomed(self) -> None:
        """Take SAs out of the kernel, and count what they carried until now."""
        doomed, self._doomed = self._doomed, {}
        if not doomed or self._netlink is None:
            return
        names = [xfrm.state_id(*key) for key in doomed]
        with suppress(StockadeError):
            for answer in self._netlink.get_all(MessageType.GET_SA, names):
                state = xfrm_decode.decode_state(answer.body)
                if (entry := doomed.get(_key(state))) is not None:
                    entry.usage = state.usage
        for entry in doomed.values():
            self._remember_counts(entry)
        refused: StockadeError | None = None
        for error in self._netlink.change_all(MessageType.DELETE_SA, names):
            if error.number != errno.ESRCH:
                refused = error
        if refused is not None:
            raise refused

    def _keep(self, key: StateKey, entry: _Entry) -> None:
        self._entries[key] = entry
        self._keys_by_spi.setdefault(key[1], []).append(key)

    def _drop(self, key: StateKey) -> None:
        del self._entries[key]
        keys = self._keys_by_spi[key[1]]
        keys.remove(key)
        if not keys:
            del self._keys_by_spi[key[1]]

    def release(self, filter_id: str, peer: Address, reason: Reason) -> None:
        for key in [key for key in self._acquired if key[0] == filter_id and key[2] == peer]:
            del self._acquired[key]
        if reason.code is ReasonCode.SOFT_FALLBACK:  # what is held goes in clear now, by the soft SA's policy
            for policy in self._by_filter.get(filter_id, ()):
                if policy.direction is PolicyDirection.OUT:
                    self._open_netlink().change(MessageType.UPDATE_POLICY, policy.encode())

    def events(self) -> Sequence[DriverEvent]:
        with suppress(BlockingIOError):
            while self._wake_reading.recv(4096):
                pass
        self._removed = 0
        try:
            self._remove_doomed()
        except StockadeError as error:
            self._events.append(DriverFailed(error.reason))
        if self._listener is not None:
            now = time.monotonic()
            self._early.listen(now)
            for event in self._listener.read():
                if isinstance(event, Acquired):
                    self._on_acquire(event, now)
                elif isinstance(event, Expired):
                    self._on_expire(event)
                else:
                    self._on_mapping(event)
            self._read_watch(now)
            if now >= self._next_look:
                self._look(now)
        events = list(self._events)
        self._events.clear()
        return events

    def fileno(self) -> int:
        return self._epoll.fileno()

    def statistics(self, *, filters: bool = True) -> DriverStatistics:
        if self._netlink is None:
            return DriverStatistics((), (), 0, ())
        self._remove_doomed()
        now = time.monotonic()
        larval = self._take_usage(now)
        counts = self._read_refusals()
        refused = tuple(
            (code.word, count - self._start_counts.get(code, 0))
            for code, count in counts.items()
            if count > self._start_counts.get(code, 0)
        )
        sas = tuple(
            SaCounters(
                entry.sa.spi,
                entry.sa.direction,
                entry.usage.packets,
                entry.usage.bytes,
                entry.usage.integrity_failures,
                entry.usage.replays,
                0,
                now - entry.installed,
                now - entry.used,
            )
            for entry in self._entries.values()
        )
        carried = sum(entry.in_card for entry in self._entries.values())
        return DriverStatistics(sas, self._filter_counters(), larval, refused, carried, self._ended.totals())

    # ---- sockets of the key exchange -----------------------------------------------------------------------

    def prepare_ike_socket(self, sock: socket.socket, port: int) -> None:
        """Let IKE pass whatever the filters say, and have the kernel take ESP in UDP from the socket of port
        4500. `HostError(DRIVER_FAILED)`."""
        try:
            bypass_socket(sock)
            version = 4 if sock.family == socket.AF_INET else 6
            if port == NAT_TRAVERSAL_PORT and version in self.capabilities.udp_versions:
                take_esp_in_udp(sock)
        except OSError as error:
            raise error_for(
                ReasonCode.DRIVER_FAILED, f"a socket for IKE cannot bypass IPsec: {error.strerror}"
            ) from None

    # ---- events --------------------------------------------------------------------------------------------

    def _on_acquire(self, acquired: Acquired, now: float) -> None:
        if not policies.is_ours(acquired.policy):
            return
        filter_id = policies.filter_id_of(acquired.policy)
        flow = _flow_of(acquired)
        key = (filter_id, flow.source, self._peer_of(filter_id) or flow.destination)
        if now - self._acquired.get(key, float("-inf")) < ACQUIRE_SECONDS:
            return
        if len(self._acquired) >= MAXIMUM_REMEMBERED:
            self._acquired.clear()
        self._acquired[key] = now
        self._events.append(Acquire(filter_id, flow))

    def _peer_of(self, filter_id: str) -> Address | None:
        """The other end of the tunnel of a filter; None where it has none."""
        entry = self._table.by_id(filter_id)
        if entry is None or entry.negotiation is None:
            return None
        return self._table.negotiations[entry.negotiation].quick_mode.tunnel_endpoint

    def _on_expire(self, expired: Expired) -> None:
        key = _key(expired.state)
        if expired.hard:
            self._orphans.pop(key, None)
        entry = self._entries.get(key)
        if entry is None:
            return
        if expired.hard:
            entry.usage = expired.state.usage
            self._forget(key, entry)
        self._events.append(SaExpired(entry.sa.spi, entry.sa.direction, expired.hard, entry.sa.peer))

    def _on_mapping(self, mapped: Mapped) -> None:
        """Both SAs of the pair follow to the new port; the kernel has verified the packet that tells. Another
        address is not followed: it is what policy chose the credentials by. An update keeps the state, its
        numbers and its window, so nothing is lost; MIGRATE, which makes another one, is for addresses."""
        entry = self._entries.get((mapped.destination, mapped.spi, mapped.protocol))
        if entry is None or entry.sa.udp is None or mapped.source != entry.sa.peer:
            return
        if entry.sa.udp.source_port == mapped.port:
            return  # said more than once
        moved = [(entry, replace(entry.sa.udp, source_port=mapped.port))]
        for other in self._entries.values():
            sa = other.sa
            is_partner = (sa.spi, sa.peer, sa.direction) == (entry.sa.pair, entry.sa.peer, Direction.OUTBOUND)
            if is_partner and sa.udp is not None:
                moved.append((other, replace(sa.udp, destination_port=mapped.port)))
        try:
            for each, udp in moved:
                sa = replace(each.sa, udp=udp)
                ids = policies.request_ids([sa.negotiation], self._request_ids)
                state = states.state_of(sa, ids[sa.negotiation])
                self._open_netlink().change(MessageType.UPDATE_SA, state.encode())
                each.sa = sa
                self._ledger.add(sa, each.installed)  # a next agent finds it as it is now
        except NetlinkError as error:
            if error.number != errno.ESRCH:  # it has just expired
                self._events.append(DriverFailed(error.reason))
                return
        self._events.append(PeerMoved(entry.sa.spi, entry.sa.peer, mapped.port))

    def _look(self, now: float) -> None:
        """What the kernel does not tell: idle SAs, packets that SAs refused, SPIs that nobody knows."""
        started = time.monotonic()
        try:
            if self._entries:
                self._take_usage(now)
                self._report_idle(now)
            for key, orphan in list(self._orphans.items()):
                if now >= orphan.end:
                    del self._orphans[key]
                    self._delete_state(orphan.state)
        except StockadeError as error:
            self._events.append(DriverFailed(error.reason))
        counts = self._read_refusals()
        if counts.get(ReasonCode.UNKNOWN_SPI, 0) > self._counted.get(ReasonCode.UNKNOWN_SPI, 0):
            self._open_watch(now)
        self._counted = counts
        self._events.extend(self._refusals.collect(now))
        self._next_look = now + max(LOOK_SECONDS * 0.9, 50 * (time.monotonic() - started))

    def _take_usage(self, now: float) -> int:
        """Read what the SAs carried, tell what they refused; returns how many SAs the kernel waits for. An SA
        that is no longer there (its expiry was lost) expires now."""
        found: set[StateKey] = set()
        larval = 0
        for state in self._read_states():
            key = _key(state)
            entry = self._entries.get(key)
            if entry is None:
                larval += state.spi == 0
                continue
            found.add(key)
            before, entry.usage = entry.usage, state.usage
            entry.in_card = state.offload is not None
            # The kernel's own time of the last use is not there in all versions, and in whole seconds.
            if state.usage.packets != before.packets:
                entry.used, entry.idle_reported = now, False
            self._refuse(entry, before, state.usage, now)
        for key, entry in list(self._entries.items()):
            if key not in found and now - entry.installed > LOOK_SECONDS:
                self._forget(key, entry)
                self._events.append(SaExpired(entry.sa.spi, entry.sa.direction, True, entry.sa.peer))
        return larval

    def _refuse(self, entry: _Entry, before: xfrm.Usage, after: xfrm.Usage, now: float) -> None:
        for code, count in (
            (ReasonCode.INTEGRITY_FAILED, after.integrity_failures - before.integrity_failures),
            (ReasonCode.REPLAYED, self._true_replays(entry, after.replays - before.replays)),
        ):
            if count > 0:
                self._note_refused(code, entry.sa.source, entry.sa.destination, entry.sa.spi, now, count)

    @staticmethod
    def _true_replays(entry: _Entry, count: int) -> int:
        """Without those that are packets which came while the SA was put in, and were given twice."""
        ours = min(count, entry.given)
        entry.given -= ours
        return count - ours

    def _read_refusals(self) -> dict[ReasonCode, int]:
        """As the kernel counts, but for packets that came early and were given to it again."""
        counts = read_refusals()
        if self._given and (unknown := counts.get(ReasonCode.UNKNOWN_SPI, 0)):
            counts[ReasonCode.UNKNOWN_SPI] = max(0, unknown - self._given)
        return counts

    def _note_refused(
        self, code: ReasonCode, source: Address, destination: Address, spi: int, now: float, count: int = 1
    ) -> None:
        event: PacketRefused | None = self._refusals.add(code, source, destination, now, spi=spi, count=count)
        if event is not None:
            self._events.append(event)

    def _report_idle(self, now: float) -> None:
        by_pair = {
            (entry.sa.direction, entry.sa.spi, entry.sa.peer): entry
            for entry in self._entries.values()
            if entry.sa.bundle is None or entry.sa.ah is None
        }
        for entry in self._entries.values():
            sa = entry.sa
            if sa.bundle is not None and sa.ah is not None:
                continue  # its ESP half speaks for both
            heard = by_pair.get((Direction.INBOUND, sa.pair, sa.peer))
            if sa.silence_seconds is not None and sa.direction is Direction.OUTBOUND and heard is not None:
                entry.unanswered, silent = unanswered_since(
                    entry.unanswered, entry.used, heard.used, sa.silence_seconds, now
                )
                if silent:
                    self._events.append(SaSilent(sa.spi, sa.direction, sa.peer))
            if sa.idle_seconds is None or entry.idle_reported or now - entry.used < sa.idle_seconds:
                continue
            other = Direction.OUTBOUND if sa.direction is Direction.INBOUND else Direction.INBOUND
            partner = by_pair.get((other, sa.pair, sa.peer))
            if partner is not None:
                if now - partner.used < sa.idle_seconds:
                    continue
                partner.idle_reported = True
            entry.idle_reported = True
            self._events.append(SaIdle(sa.spi, sa.direction, sa.peer))

    # ---- packets with an SPI that nobody knows -------------------------------------------------------------

    def _open_watch(self, now: float) -> None:
        self._watch_end = now + 2 * LOOK_SECONDS
        if self._watch is None:
            with suppress(OSError):
                self._watch = UnknownSpiWatch()
                self._epoll.register(self._watch.fileno(), select.EPOLLIN)

    def _close_watch(self) -> None:
        if self._watch is not None:
            self._epoll.unregister(self._watch.fileno())
            self._watch.close()
            self._watch = None

    def _read_watch(self, now: float) -> None:
        if self._watch is None:
            return
        for spi, source, destination in self._watch.read():
            if not self._kernel_has(destination, spi):
                self._note_refused(ReasonCode.UNKNOWN_SPI, source, destination, spi, now)
        if now >= self._watch_end:
            self._close_watch()

    def _kernel_has(self, destination: Address, spi: int) -> bool:
        if (destination, spi, ESP) in self._entries:
            return True
        try:
            return bool(self._open_netlink().get(MessageType.GET_SA, xfrm.state_id(destination, spi, ESP)))
        except NetlinkError:
            return False

    # ---- the kernel ----------------------------------------------------------------------------------------

    def _open_netlink(self) -> NetlinkSocket:
        if self._netlink is None:
            raise error_for(ReasonCode.DRIVER_FAILED, "the driver is not started")
        return self._netlink

    def _read_policies(self) -> list[Policy]:
        answers = self._open_netlink().dump(MessageType.GET_POLICY, xfrm.dump_policies())
        return [
            policy
            for policy in (
                xfrm_decode.decode_policy(answer.body) for answer in answers if _is_main_policy(answer.body)
            )
            if policies.is_ours(policy)
        ]

    def _read_states(self) -> list[State]:
        answers = self._open_netlink().dump(MessageType.GET_SA, xfrm.dump_states())
        found = []
        for answer in answers:
            with suppress(StockadeError):  # one of another program, of a mode that we do not know
                found.append(xfrm_decode.decode_state(answer.body))
        return found

    def _apply(self, step: Step) -> None:
        netlink, policy, key = self._open_netlink(), step.policy, policies.key_of(step.policy)
        if step.change is Change.REMOVE:
            try:
                netlink.change(MessageType.DELETE_POLICY, xfrm.policy_id(policy.selector, policy.direction))
            except NetlinkError as error:
                if error.number != errno.ENOENT:
                    raise
            self._installed.pop(key, None)
            return
        kind = MessageType.NEW_POLICY if step.change is Change.ADD else MessageType.UPDATE_POLICY
        try:
            netlink.change(
                kind, policy.encode(), NLM_F_CREATE | NLM_F_EXCL if kind is MessageType.NEW_POLICY else 0
            )
        except NetlinkError as error:
            if error.number == errno.EEXIST:
                raise error_for(
                    ReasonCode.DRIVER_FAILED,
                    f"another program has a policy for {policy.selector.source} -> "
                    f"{policy.selector.destination}",
                ) from None
            raise
        self._installed[key] = policy

    def _delete_state(self, state: State) -> None:
        self._delete(state.destination, state.spi, state.protocol)

    def _delete(self, destination: Address, spi: int, protocol: int) -> None:
        try:
            self._open_netlink().change(MessageType.DELETE_SA, xfrm.state_id(destination, spi, protocol))
        except NetlinkError as error:
            if error.number != errno.ESRCH:
                raise

    def _forget(self, key: StateKey, entry: _Entry) -> None:
        self._remember_counts(entry)
        self._drop(key)
        self._ledger.remove(key)

    def _remember_counts(self, entry: _Entry) -> None:
        self._ended.add(entry.sa, entry.usage.packets, entry.usage.bytes)
        packets, size = self._finished.get(entry.sa.filter_id, (0, 0))
        if self._table.by_id(entry.sa.filter_id) is not None:
            self._finished[entry.sa.filter_id] = (packets + entry.usage.packets, size + entry.usage.bytes)

    def _filter_counters(self) -> tuple[FilterCounters, ...]:
        totals = dict(self._finished)
        for entry in self._entries.values():
            packets, size = totals.get(entry.sa.filter_id, (0, 0))
            totals[entry.sa.filter_id] = (packets + entry.usage.packets, size + entry.usage.bytes)
        return tuple(FilterCounters(name, *total) for name, total in totals.items())

    def _wake(self) -> None:
        with suppress(OSError):
            self._wake_writing.send(b"\0")


class _Ticker(threading.Thread):
    """Calls `wake` every so often."""

    def __init__(self, wake: Callable[[], None], seconds: float) -> None:
        super().__init__(name="kernel-driver-ticker", daemon=True)
        self._wake = wake
        self._seconds = seconds
        self._end = threading.Event()

    def run(self) -> None:
        while not self._end.wait(self._seconds):
            self._wake()

    def stop(self) -> None:
        self._end.set()


def _key(state: State) -> StateKey:
    return state.destination, state.spi, state.protocol


def _flow_of(acquired: Acquired) -> Flow:
    selector = acquired.selector
    has_ports = selector.protocol in PROTOCOLS_WITH_PORTS  # for ICMP the kernel puts type and code there
    return Flow(
        selector.source.network_address,
        selector.destination.network_address,
        selector.protocol,
        selector.source_port if has_ports else 0,
        selector.destination_port if has_ports else 0,
    )


def _is_main_policy(body: bytes) -> bool:
    """Policies of single sockets are in the dump too; their direction is beyond the three."""
    return len(body) > 160 and body[160] < 3
