"""The settings of the IKE engine. All times in seconds. The defaults are Windows' own where it has one
([MS-IKEE] §3.1.5 and §3.9, KB 980915); where ours differ the field says so."""

from dataclasses import dataclass
from enum import IntEnum


class NatScope(IntEnum):
    """Which end may be behind a NAT, beside the one that begins (AssumeUDPEncapsulationContextOnSendRule, KB
    885407). Whom a NAT sends a first message to is the NAT's choice, and may be another host tomorrow."""

    INITIATOR = 0
    RESPONDER = 1
    """The responder, where the initiator is not behind one too."""
    BOTH = 2


NOTICE_RANGE = (5, 3600)
CLUSTER_IDLE_RANGE = (5, 60)
CLUSTER_QUICK_RANGE = (3, 60)
"""Seconds: of `notice_seconds`, NlbsIdleTime and NlbsQMRetransmitDuration."""


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How an `Engine` behaves. Frozen: another configuration is another engine."""

    # -- what we say of ourselves
    microsoft_version: int = 8
    """The version in the vendor id `MS NT5 ISAKMPOAKLEY` (8 = Windows Server 2008 R2)."""
    advertise_cluster: bool = False
    """Send NLBS_PRESENT: peers then give up idle quick modes after 60 s (fast failover, [MS-IKEE] §3.5)."""

    negotiation_discovery: bool = True
    """Announce negotiation discovery, and tell peers that do what a rule takes in clear and always encrypts
    ([MS-IKEE] §3.7)."""

    nat_traversal: bool = True
    """Announce and do NAT traversal (RFC 3947). Every data plane can put ESP into UDP."""
    nat_scope: NatScope = NatScope.INITIATOR
    """Windows' default: no SA with a responder behind a NAT."""
    keepalive_seconds: float = 20.0
    """An end behind a NAT sends a keep-alive so often (RFC 3948 §2.3)."""

    fragmentation: bool = True
    """Announce and do IKE fragmentation ([MS-IKEE] §3.3). Received fragments are put together, and long
    messages that got no answer for two repetitions go out in fragments."""

    dead_peer_detection: bool = True
    """Announce dead peer detection (RFC 3706), answer it, and ask peers that announce it when told to
    doubt."""
    probe_intervals: tuple[float, ...] = (1, 2, 4)
    """Waits after each R-U-THERE; silent through all of them is dead."""

    # -- retransmission
    retransmission_intervals: tuple[float, ...] = (1, 2, 4, 8, 16, 16, 16)
    """Waits after each sending: sent at 0, 1, 3, 7, 15, 31, 47 s, failed at 63 s."""
    retransmission_jitter: float = 0.5
    """Up to so much is added to each wait (Vista and later)."""
    reliable_delete: bool = True
    """Repeat deletes to Microsoft's implementation (and ours) until they are acknowledged."""
    delete_intervals: tuple[float, ...] = (1, 2, 4, 8, 16, 16)
    """Waits after each sending of a delete ([MS-IKEE] §3.8, note 24): sent at 0, 1, 3, 7, 15, 31 s."""
    authentication_attempts: int = 5
    """Sendings of main mode message 5. Fewer than for the others: the path has carried four messages, so a
    silent peer most likely has another pre-shared key, and people want to hear that soon (31 s)."""
    confirmation_seconds: float = 3.0
    """How long an exchange waits for a better answer after an answer that it refused or an unprotected error
    notification. Neither is proof: anybody on the path can send one."""
    responder_retransmits_quick_mode: bool = True
    """Let a quick-mode responder repeat message 2 until message 3 comes. Windows' responder never runs a
    timer; but when message 3 is lost its outbound SA stays away although the initiator believes that all is
    well, and nothing would ever mend it. RFC 2408 §5.1 lets either end repeat."""
    commit_bit: bool = True
    """As a quick-mode responder, ask Microsoft's implementation (and ours) to wait for our word before it
    sends, as Windows does. Others' commit bits are obeyed in any case."""
    outbound_delay_seconds: float = 0.05
    """With a peer that is not Microsoft's (nor ours), the initiator of a quick mode waits so long after
    message 3 before it sends packets: strongSwan makes its SAs at message 3 and would lose what comes
    meanwhile."""
    rekey_delay_seconds: float = 0.25
    """The same where an old pair carries the traffic meanwhile: a busy peer may take longer. Where the old
    pair ends before that, the new one serves at once."""

    task_seconds: float = 20.0
    """How long a main mode waits for what may block: a ticket from a domain controller, a revocation list."""
    tasks_total: int = 64
    """How many such tasks may be under way; what needs one beyond them fails."""

    # -- the life of main and quick modes
    half_open_seconds: float = 63.0
    """A main mode that a peer began and does not finish is forgotten after this."""
    linger_seconds: float = 70.0
    """A finished exchange answers repeated requests for so long: longer than a peer retransmits."""
    departed_seconds: float = 5.0
    """A main mode that the peer deleted still authenticates deletes for so long: the network may bring the
    deletes of quick modes after that of their main mode."""
    renew_main_modes: bool = True
    """Make a main mode with whose peer something is secured anew before its lifetime ends."""
    rekey_grace_seconds: float = 5.0
    """After a rekey the old pair goes on for so long, for packets under way."""
    idle_seconds: float = 300.0
    cluster_idle_seconds: float = 60.0
    """Idle time of quick modes with a peer that sent NLBS_PRESENT."""
    replay_window: int = 64

    # -- dead peers (`liveness.py`)
    failover_idle_seconds: float | None = None
    """NlbsIdleTime of KB 980915, 5 to 60: idle time of quick modes with a cluster; None: the hotfix is
    off."""
    failover_quick_seconds: float = 3.0
    """NlbsQMRetransmitDuration, 3 to 60: then a quick mode under an old main mode with a cluster gives way to
    a new main mode."""
    notice_seconds: float | None = None
    """Notice a dead peer within so long, 5 to 3600. None: Windows' time-outs, and 20 s for peers with
    dead-peer detection; 0: Windows' time-outs only."""
    proofs: bool = True
    """Announce, give and believe proofs of lost state (`proofs.py`), where there is a secret for them."""
    proofs_per_second: float = 200.0
    """Proofs that we show, over all peers: what a flood of unknown SPIs can make us do."""
    proofs_per_second_and_peer: float = 2.0
    farewell_intervals: tuple[float, ...] = (0.05,) * 20 + (0.1,) * 20 + (0.25,) * 40 + (0.5,) * 40
    """Waits after each sending of main mode towards a peer that has announced its restart or fail-over under
    protection: for it to be found at once when it is back."""
    return_intervals: tuple[float, ...] = (0.25, 0.5, *(1.0,) * 62)
    """The same, towards a peer of ours that was found dead."""
    silence_is_idle: bool = False
    """Count a pair as idle when nothing comes in, whatever goes out, as Microsoft's own figures imply."""

    # -- limits
    half_open_per_peer: int = 35
    half_open_per_established_peer: int = 5
    half_open_total: int = 1000
    """The oldest is given up for a new one: a flood cannot lock others out for long."""
    cookie_threshold: int = 500
    """With more main modes half open than this, first messages must prove their sender's address (`flood.py`,
    [MS-IKEE] §3.9); 0: always."""
    cookie_end: int = 100
    """With fewer than this they no longer have to."""
    unproven_per_second: float = 50.0
    """First messages let in under `cookie_threshold` because they were repeated, from peers that know no
    cookies."""
    initiated_total: int = 1000
    """Main modes that we begin and that are not established."""
    acquire_interval: float = 1.0
    """How often a driver repeats an acquire; one that comes sooner after a pair came up crossed with it."""
    quick_modes_in_progress: int = 16
    """Per main mode, each direction of initiation counted by itself."""
    waiting_acquires: int = 64
    """Acquires that may wait for one main mode."""
    repeats_per_reply: int = 16
    """A stored reply is sent again at most so often."""
    reports_per_second: float = 5.0
    """Reports of refused messages, over all peers."""
    reports_per_second_and_peer: float = 1.0
    story_lines_per_second: float = 500.0
    """Lines of the Oakley log, over all negotiations."""
    notifications_per_second: float = 10.0
    """Unprotected notifications that we send, over all peers; one a second per peer."""

    def __post_init__(self) -> None:
        if not self.retransmission_intervals or min(self.retransmission_intervals) <= 0:
            raise ValueError("retransmission needs at least one positive interval")
        if not self.cookie_threshold >= 0 or self.cookie_end > max(1, self.cookie_threshold):
            raise ValueError("cookies must end below where they begin")
        for name, value, (least, most) in (
            ("failover_idle_seconds", self.failover_idle_seconds, CLUSTER_IDLE_RANGE),
            ("failover_quick_seconds", self.failover_quick_seconds, CLUSTER_QUICK_RANGE),
            ("notice_seconds", self.notice_seconds or None, NOTICE_RANGE),
        ):
            if value is not None and not least <= value <= most:
                raise ValueError(f"{name} must be from {least} to {most}, not {value:g}")
        if self.retransmission_jitter < 0:
            raise ValueError("jitter must not be negative")
        if not 1 <= self.authentication_attempts <= len(self.retransmission_intervals):
            raise ValueError("authentication attempts must be 1 or more, and not more than the intervals")
        if not 0 <= self.microsoft_version <= 0xFFFF_FFFF:
            raise ValueError("the Microsoft version is a 32-bit number")
