"""The seams of the IKE engine: what it asks of policy, the commands it takes, the effects it leaves.

The engine has five doors: `receive(datagram, local, remote, now)`, `command(command, now)`, `timeout(now)`,
`next_timeout()` and `effects()`. Times are seconds on one monotonic clock (float); randomness and SPIs come
from callables given to the constructor, so a run can be repeated.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from stockade.ike.auth.method import AuthMethod, Task
from stockade.model.addresses import Address, Endpoint
from stockade.model.filters import Direction
from stockade.model.identities import Identity
from stockade.model.negotiation import Negotiation, QuickModeMatch
from stockade.model.quickly_made import quickly_made
from stockade.model.reasons import Reason, StockadeError
from stockade.model.sa import SecurityAssociation
from stockade.model.secret import Secret
from stockade.model.suites import MainModeProposal, QuickModeProposal
from stockade.model.traffic import TrafficSelector


# ---- what the engine asks
class NegotiationLookup(Protocol):
    """Policy as the engine sees it. Implemented over the filter table by `stockade.policy.lookup`.

    Each method returns a choice or the `Reason` of the refusal; none raises.
    """

    def for_peer(self, local: Address, peer: Address) -> tuple[Negotiation, ...] | Reason:
        """The negotiations whose filters cover some traffic between the two hosts, heaviest filter first. A
        main mode that a peer begins is answered by these."""

    def for_quick_mode(
        self, local: Address, peer: Address, requested: TrafficSelector
    ) -> QuickModeMatch | Reason:
        """The rule for traffic that a peer asks to protect. `requested` is outbound as we see it (source =
        our side of the peer's identities)."""


class RandomSource(Protocol):
    def __call__(self, size: int, /) -> bytes: ...


class SpiSource(Protocol):
    """Reserves an inbound SPI: the driver's `get_spi`."""

    def __call__(self, local: Address, peer: Address, /) -> int: ...


# ---- commands
@quickly_made
@dataclass(frozen=True, slots=True)
class Acquire:
    """Secure this traffic: main mode if there is none with the peer, then quick mode. A second acquire for
    the same negotiation, selector and peer joins the one under way. `selector` is outbound (source = us) and
    host to host."""

    local: Address
    peer: Address
    selector: TrafficSelector
    negotiation: Negotiation
    filter_id: str


@dataclass(frozen=True, slots=True)
class RekeyQuickMode:
    """The soft lifetime of the inbound or outbound SA with this SPI of ours (inbound) has passed: make a new
    pair; the old one goes on until then."""

    inbound_spi: int


@dataclass(frozen=True, slots=True)
class DeleteQuickMode:
    """Delete a pair (tell the peer) because of `reason`: idle, hard lifetime, changed policy."""

    inbound_spi: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class DeletePeer:
    """Delete all main and quick modes with this peer and tell it."""

    peer: Address
    reason: Reason


@dataclass(frozen=True, slots=True)
class DeleteLocal:
    """Delete all main and quick modes on one of our own addresses: it leaves this host. `tell` the peers,
    while we still have it."""

    local: Address
    reason: Reason
    tell: bool


@dataclass(frozen=True, slots=True)
class ProbePeer:
    """Somebody doubts that this peer lives (traffic without an answer): ask, where it announced dead peer
    detection (RFC 3706). Silence deletes what there is with it, reason PEER_DEAD. Peers that cannot be asked
    are left alone."""

    local: Address
    peer: Address


@dataclass(frozen=True, slots=True)
class Silent:
    """Packets go out through the pair with this inbound SPI of ours, and nothing comes back: find out
    whether the peer lives, as `liveness.Plan` says."""

    inbound_spi: int


@dataclass(frozen=True, slots=True)
class PeerUnreachable:
    """Somebody (a router, a host, a forger) says that a packet from `local` to `peer` did not arrive. `spi`:
    of the ESP or AH packet that is quoted, which only who saw it knows; None where there is none. At most a
    question to the peer follows (`evidence.py`)."""

    local: Address
    peer: Address
    spi: int | None
    reason: Reason


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Delete everything and tell every peer once. Afterwards the engine refuses all."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class Performed:
    """A task is done: the method to go on with, or why not."""

    number: int
    outcome: AuthMethod | Reason


def perform(effect: "Perform") -> Performed:
    """Run the task here and now. Anything that it raises is a refusal: a library's fault must not end the
    thread that serves all peers."""
    task = effect.task
    try:
        return Performed(effect.number, task.run())
    except StockadeError as error:
        return Performed(effect.number, error.reason)
    except Exception as error:
        detail = f"{type(error).__name__} while getting {task.about}"
        return Performed(effect.number, Reason.of(task.broken, detail))


@dataclass(frozen=True, slots=True)
class FollowPeer:
    """An authentic packet of this pair (our inbound SPI) came from another UDP port: its peer's NAT has
    changed the mapping. What we say to it goes there from now on."""

    inbound_spi: int
    port: int


Command = (
    Acquire
    | RekeyQuickMode
    | DeleteQuickMode
    | DeletePeer
    | DeleteLocal
    | ProbePeer
    | Silent
    | PeerUnreachable
    | FollowPeer
    | Performed
    | Shutdown
)


# ---- effects
@quickly_made
@dataclass(frozen=True, slots=True)
class Send:
    """A UDP datagram. On port 4500 the datagram already begins with the non-ESP marker (RFC 3948 §2.2)."""

    datagram: bytes
    local: Endpoint
    remote: Endpoint


@dataclass(frozen=True, slots=True)
class InstallSa:
    """Give this SA to the driver. Inbound comes before outbound."""

    sa: SecurityAssociation


@quickly_made
@dataclass(frozen=True, slots=True)
class RemoveSa:
    """Take one direction out of the driver."""

    spi: int
    direction: Direction
    peer: Address
    reason: Reason


@dataclass(frozen=True, slots=True)
class Perform:
    """Run `task` where it may block (a Kerberos ticket or a revocation list is asked for over the network),
    and hand over what came of it by the command `Performed` with the same number."""

    number: int
    task: Task


class ReportKind(StrEnum):
    """What a report is about; the journal and the API use these words."""

    MAIN_MODE_ESTABLISHED = "main-mode-established"
    MAIN_MODE_FAILED = "main-mode-failed"
    MAIN_MODE_DELETED = "main-mode-deleted"
    QUICK_MODE_ESTABLISHED = "quick-mode-established"
    QUICK_MODE_ADOPTED = "quick-mode-adopted"
    QUICK_MODE_FAILED = "quick-mode-failed"
    QUICK_MODE_DELETED = "quick-mode-deleted"
    MESSAGE_REFUSED = "message-refused"
    NOTIFICATION = "notification"


@quickly_made
@dataclass(frozen=True, slots=True)
class Report:
    """Something that people may want to know. MESSAGE_REFUSED reports are rate limited by the engine.

    For QUICK_MODE_FAILED (and MAIN_MODE_FAILED, once per acquire that waited for it) `filter_id` is set, so
    that the agent can tell the driver to release what it holds.
    """

    kind: ReportKind
    reason: Reason
    local: Endpoint
    remote: Endpoint
    main_mode: str = ""
    filter_id: str = ""
    selector: TrafficSelector | None = None
    phase: str = ""
    """`main mode` or `quick mode`, where it is known which one a refused message is of."""
    initiator: bool | None = None
    seconds: float | None = None
    """For what came up: who began it, and how long it took."""


@quickly_made
@dataclass(frozen=True, slots=True)
class StoryLine:
    """One line of the Oakley log; only while logging is on (`Engine.set_logging`).

    `number` is the negotiation's, `under` that of a quick mode's main mode (else 0); `phase` is `main mode`
    or `quick mode`, or empty for a message that belongs to none. `elapsed` and `step`: seconds since the
    negotiation began, and since its last line. `facts` are for people, in order. `reason` is set where
    something was refused, failed or ended."""

    number: int
    under: int
    phase: str
    initiator: bool
    local: Endpoint
    remote: Endpoint
    event: str
    text: str
    facts: tuple[tuple[str, str], ...] = ()
    elapsed: float = 0.0
    step: float = 0.0
    reason: Reason | None = None


Effect = Send | InstallSa | RemoveSa | Report | Perform | StoryLine


# ---- what can be seen of it
@dataclass(frozen=True, slots=True)
class MainModeView:
    """One main mode as `show mmsas` prints it. Times in seconds; `remaining` until expiry."""

    cookies: str
    local: Endpoint
    remote: Endpoint
    initiator: bool
    established: bool
    proposal: MainModeProposal | None
    authentication: str
    local_identity: Identity | None
    peer_identity: Identity | None
    peer_vendor: str
    age: float
    remaining: float
    quick_modes: int


@dataclass(frozen=True, slots=True)
class UnderWay:
    """A negotiation that has not ended: `phase` is “main mode” or “quick mode”, `standing` what it waits for.
    `age` in seconds."""

    phase: str
    cookies: str
    local: Endpoint
    remote: Endpoint
    initiator: bool
    age: float
    standing: str


@dataclass(frozen=True, slots=True)
class QuickModeView:
    """One pair of SAs as `show qmsas` prints it."""

    inbound_spi: int
    outbound_spi: int
    local: Address
    peer: Address
    selector: TrafficSelector
    proposal: QuickModeProposal
    pfs_group: str
    initiator: bool
    main_mode: str
    negotiation: str
    filter_id: str
    age: float
    remaining: float
    peer_info: str = ""
    """What a peer with negotiation discovery says of it."""


@dataclass(frozen=True, slots=True)
class ExportedKeys:
    """Keys, for a capture to be decrypted: of main modes (initiator's cookie, the cipher's key), and SAs with
    theirs."""

    main_modes: tuple[tuple[bytes, Secret], ...]
    sas: tuple[SecurityAssociation, ...]
