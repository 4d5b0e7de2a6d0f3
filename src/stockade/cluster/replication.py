"""Who of the cluster has which peers: what this node tells, and what it knows of the others. Sans-IO.

    node 1                                            node 2
    HELLO (who are you?) ───────────────────────────▶
           ◀─────────────────────────── HELLO, for your session: I live
    ADD quick modes as they come ───────────────────▶
    REMOVE as they go, HELLO each half second ──────▶  number or digest differ?
           ◀─────────────────────────────────── WANT
    FULL, ADD … ────────────────────────────────────▶

A message counts if it is authentic and meant for this node's present session, and newer than the last: no
replay. A bare HELLO makes nothing but an answer, at a bounded rate.

What a node had on an address stays told when the address leaves it, or the node dies: that is what the next
holder needs. It is forgotten when another node tells that it holds the address (with what it has made of
it), or when this one takes it over.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from stockade.cluster.messages import (
    DIGEST,
    MAXIMUM_MESSAGE,
    SESSION,
    Hello,
    Kind,
    Message,
    decode,
    decode_entries,
    decode_hello,
    entry_digest,
    pack_entries,
)
from stockade.cluster.settings import ClusterSettings
from stockade.model.addresses import Address
from stockade.model.known_quick_mode import KnownQuickMode
from stockade.model.reasons import PeerError, Reason, ReasonCode

HELLO_SECONDS = 0.5
DEAD_SECONDS = 2.0
"""A member that was silent for so long is not believed to serve anybody."""
WANT_SECONDS = 0.2
MAXIMUM_KNOWN = 10_000
"""Quick modes of one member."""
_ROOM = MAXIMUM_MESSAGE - 160  # for head, name and code
_NOBODY = bytes(SESSION)


@dataclass(frozen=True, slots=True)
class MemberView:
    """One other node, for people."""

    name: str
    address: Address
    alive: bool
    held: tuple[Address, ...]
    quick_modes: int


@dataclass(slots=True, eq=False)
class _Member:
    name: str
    address: Address
    session: bytes = _NOBODY
    sequence: int = 0
    heard: float | None = None
    held: tuple[Address, ...] = ()
    known: dict[KnownQuickMode, None] = field(default_factory=dict)
    by_peer: dict[tuple[Address, Address], int] = field(default_factory=dict)
    digest: int = 0
    asked: float = float("-inf")
    answered: float = float("-inf")
    told: float = float("-inf")
    alive: bool = False

    def add(self, entry: KnownQuickMode) -> None:
        if entry not in self.known and len(self.known) < MAXIMUM_KNOWN:
            self.known[entry] = None
            self.digest ^= entry_digest(entry)
            ends = (entry.local, entry.peer)
            self.by_peer[ends] = self.by_peer.get(ends, 0) + 1

    def remove(self, entry: KnownQuickMode) -> None:
        if entry in self.known:
            del self.known[entry]
            self.digest ^= entry_digest(entry)
            ends = (entry.local, entry.peer)
            self.by_peer[ends] -= 1
            if not self.by_peer[ends]:
                del self.by_peer[ends]

    def clear(self) -> None:
        self.known.clear()
        self.by_peer.clear()
        self.digest = 0


class Replication:
    """`random(size)` gives the session; `note(kind, reason)` is told of members that come and go."""

    def __init__(
        self,
        settings: ClusterSettings,
        random: Callable[[int], bytes],
        note: Callable[[str, Reason], None] = lambda kind, reason: None,
    ) -> None:
        self._settings = settings
        self._note = note
        self._session = random(SESSION)
        self._sequence = 0
        self._members = {address: _Member(name, address) for name, address in sorted(settings.others.items())}
        self._own: dict[KnownQuickMode, None] = {}
        self._own_digest = 0
        self._held: tuple[Address, ...] = ()
        self._frozen: set[Address] = set()
        self._out: list[tuple[bytes, Address]] = []
        self.refused = 0
        """Messages that did not count."""

    # ---- what this node has

    @property
    def held(self) -> tuple[Address, ...]:
        """The virtual addresses that this node has now."""
        return self._held

    def hold(self, addresses: Iterable[Address], now: float) -> None:
        """What this host's addresses are now."""
        present = set(addresses)
        held = tuple(one for one in self._settings.addresses if one in present)
        for address in set(held) - set(self._held):
            self._frozen.discard(address)
        if held != self._held:
            self._held = held
            self._greet(now, at_once=True)

    def freeze(self, address: Address) -> None:
        """The address is about to leave, or has left: what goes now goes because of that."""
        self._frozen.add(address)

    def thaw(self, address: Address) -> None:
        """The address stays after all. What went meanwhile stays told until its peer comes again."""
        self._frozen.discard(address)

    def restore(self, entry: KnownQuickMode) -> None:
        """A quick mode that this node had before it was started anew."""
        if entry.local in self._settings.addresses and self._keep(entry):
            self._tell(Kind.ADD, entry)

    def add(self, entry: KnownQuickMode, now: float) -> None:
        """A quick mode came up."""
        if entry.local in self._held and self._keep(entry):
            self._tell(Kind.ADD, entry)

    def _keep(self, entry: KnownQuickMode) -> bool:
        if entry in self._own or len(self._own) >= MAXIMUM_KNOWN:
            return False
        self._own[entry] = None
        self._own_digest ^= entry_digest(entry)
        return True

    def remove(self, entry: KnownQuickMode, now: float) -> None:
        """A quick mode has gone, and its peer with it."""
        if entry in self._own and entry.local not in self._frozen and entry.local in self._held:
            self._forget(entry)
            self._tell(Kind.REMOVE, entry)

    def _forget(self, entry: KnownQuickMode) -> None:
        del self._own[entry]
        self._own_digest ^= entry_digest(entry)

    # ---- what this node knows of others

    def take(self, address: Address) -> list[KnownQuickMode]:
        """The quick modes that others had on an address that is ours now; newest first."""
        found: dict[KnownQuickMode, None] = {}
        for member in self._members.values():
            for entry in reversed(member.known):
                if entry.local == address:
                    found[entry] = None
        return list(found)

    def owner(self, local: Address, peer: Address, now: float) -> str | None:
        """The living other node that holds `local` too and has this peer."""
        for member in self._members.values():
            if (local, peer) in member.by_peer and local in member.held and self._is_alive(member, now):
                return member.name
        return None

    def holders(self, address: Address, now: float) -> tuple[str, ...]:
        """The living other nodes that hold this address; all others, where it is no virtual one: nobody can
        take it over."""
        members = self._members.values()
        if address not in self._settings.addresses:
            return tuple(member.name for member in members)
        return tuple(one.name for one in members if address in one.held and self._is_alive(one, now))

    def members(self, now: float) -> tuple[MemberView, ...]:
        return tuple(
            MemberView(one.name, one.address, self._is_alive(one, now), one.held, len(one.known))
            for one in self._members.values()
        )

    def _is_alive(self, member: _Member, now: float) -> bool:
        return member.heard is not None and now - member.heard < DEAD_SECONDS

    # ---- doors

    def receive(self, datagram: bytes, source: Address, now: float) -> None:
        """A datagram came from `source`. Never raises."""
        member = self._members.get(source)
        if member is None:
            self.refused += 1
            return
        try:
            message = decode(datagram, self._settings.secret)
            if message.name != member.name:
                self.refused += 1
            elif message.receiver == self._session:
                self._hear(member, message, now)
            elif message.kind is Kind.HELLO and now - member.answered >= WANT_SECONDS:
                # Perhaps a replay: it is told our session, and nothing is believed yet.
                member.answered = now
                self._send(member, Kind.HELLO, self._hello(), message.sender)
        except PeerError:
            self.refused += 1

    def timeout(self, now: float) -> None:
        """Say hello where it is due; note who has fallen silent."""
        for member in self._members.values():
            if member.alive and not self._is_alive(member, now):
                member.alive = False
                self._note("cluster-member-lost", self._reason(member, "is silent"))
        self._greet(now)

    def next_timeout(self) -> float | None:
        """When `timeout` is due; None: never, there is no other member."""
        return min((member.told + HELLO_SECONDS for member in self._members.values()), default=None)

    def outgoing(self) -> list[tuple[bytes, Address]]:
        """(datagram, member's address) to be sent; empty afterwards."""
        out, self._out = self._out, []
        return out

    # ---- inside

    def _hear(self, member: _Member, message: Message, now: float) -> None:
        if message.sender != member.session:
            member.session, member.sequence = message.sender, 0
            member.asked = member.told = float("-inf")  # it must hear of us at once
        if message.sequence <= member.sequence:
            self.refused += 1
            return
        member.sequence, member.heard = message.sequence, now
        if not member.alive:
            member.alive = True
            self._note("cluster-member-came", self._reason(member, "has come"))
        if message.kind is Kind.HELLO:
            self._hear_hello(member, decode_hello(message.body), now)
        elif message.kind is Kind.WANT:
            kind = Kind.FULL
            for body in pack_entries(self._own, _ROOM):
                self._send(member, kind, body)
                kind = Kind.ADD
        else:
            entries = decode_entries(message.body)
            if message.kind is Kind.FULL:
                member.clear()
            for entry in entries:
                if message.kind is Kind.REMOVE:
                    member.remove(entry)
                elif entry.local in self._settings.addresses:
                    member.add(entry)

    def _hear_hello(self, member: _Member, hello: Hello, now: float) -> None:
        came = set(hello.held) - set(member.held)
        member.held = tuple(one for one in hello.held if one in self._settings.addresses)
        for entry in [one for one in self._own if one.local in came and one.local not in self._held]:
            self._forget(entry)  # another node has taken our former peers over
        same = (hello.count, hello.digest) == (len(member.known), member.digest.to_bytes(DIGEST, "big"))
        if not same and now - member.asked >= WANT_SECONDS:
            member.asked = now
            self._send(member, Kind.WANT)
        if now - member.told >= HELLO_SECONDS:
            member.told = now
            self._send(member, Kind.HELLO, self._hello())

    def _greet(self, now: float, *, at_once: bool = False) -> None:
        for member in self._members.values():
            if at_once or now - member.told >= HELLO_SECONDS:
                member.told = now
                self._send(member, Kind.HELLO, self._hello())

    def _hello(self) -> bytes:
        return Hello(self._held, len(self._own), self._own_digest.to_bytes(DIGEST, "big")).encode()

    def _tell(self, kind: Kind, entry: KnownQuickMode) -> None:
        (body,) = pack_entries([entry], _ROOM)
        for member in self._members.values():
            if member.session != _NOBODY:
                self._send(member, kind, body)

    def _send(self, member: _Member, kind: Kind, body: bytes = b"", session: bytes | None = None) -> None:
        self._sequence += 1
        receiver = member.session if session is None else session
        message = Message(kind, self._settings.node, self._session, receiver, self._sequence, body)
        self._out.append((message.encode(self._settings.secret), member.address))

    def _reason(self, member: _Member, what: str) -> Reason:
        detail = f"node {member.name} {what}"
        return Reason.of(ReasonCode.CLUSTER_MEMBER, detail, node=member.name, address=member.address)
