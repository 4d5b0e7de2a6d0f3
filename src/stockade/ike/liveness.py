"""One ladder for every way in which a peer can be dead.

    evidence ──▶ probe under the SA ──▶ quick mode ──▶ main mode ──▶ the peer is dead
                 RFC 3706                under the old   from the      what waits is told
                                         main mode       beginning

What counts as evidence, and what it may do:

| evidence | authenticated | leads to |
| --- | --- | --- |
| packets go out, none come back | – | the first rung that the peer can do |
| ICMP unreachable, INVALID-COOKIE, an unknown SPI | no | a question; nothing is torn down for it |
| delete, initial contact, a proof of lost state, a farewell | yes | main mode, at once |
| an idle pair | – | the pair goes; its next packet begins with quick mode |

Three things share it: Windows' fast failover ([MS-IKEE] §3.5 and the hotfix of KB 980915), dead-peer
detection, and the ordinary ageing of what is not used. `plan_for` says what is done about one peer, when, and
how long it takes at most; it is a pure function, and `stockade explain peer` prints it.

Microsoft's texts call a pair idle that was \"not used\". Their own figures (five minutes idle and one of IKE
for Windows 2000, \"about 15 s\" with the hotfix) come true only if a packet that is sent to a dead node does
not count as use. So unanswered packets are doubt after the idle time, too. With the hotfix the pair goes
then, as Windows' does; else a quick mode makes the next pair while this one goes on, so that a one-way stream
to a living peer loses nothing."""

from dataclasses import dataclass

from stockade.ike.config import EngineConfig
from stockade.model.quickly_made import quickly_made

LOOK_SECONDS = 1.0
"""How often a data plane looks for silent pairs: what one look misses the next one sees."""

DEFAULT_NOTICE_SECONDS = 20.0
"""Within so long a peer that can be asked is noticed to be dead, unless a person says otherwise ([MS-IKEE]
§3.12 waits 20 s)."""

SILENCE_SHARE = 0.4
PROBES = 16
"""Questions in one doubt: with 30 % of all packets lost, all of them and their answers are once in 50 000."""


@quickly_made
@dataclass(frozen=True, slots=True)
class PeerTraits:
    """What a peer said of itself in main mode: whether it can be asked (RFC 3706), is a member of a cluster
    (NLBS_PRESENT), proves lost state (Stockade)."""

    can_be_asked: bool = False
    cluster: bool = False
    proves: bool = False


@dataclass(frozen=True, slots=True)
class Rung:
    """One step: at most so many seconds, and why."""

    name: str
    seconds: float
    why: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done about one peer. `idle_seconds`: an unused pair goes. `silence_seconds`: unanswered
    packets for so long are doubt. `silence_is_idle`: then the pair goes as an idle one does. `probes`: waits
    after each question; empty where the peer cannot be asked. `quick_seconds`: how long an old main mode's
    quick mode may stay unanswered. `notes`: what shortens it, for people."""

    idle_seconds: float
    silence_seconds: float
    silence_is_idle: bool
    probes: tuple[float, ...]
    quick_seconds: float
    rungs: tuple[Rung, ...]
    notes: tuple[str, ...] = ()

    @property
    def notice_seconds(self) -> float:
        """From the first packet that is not answered to the beginning of a new main mode, at most."""
        return sum(rung.seconds for rung in self.rungs)


def explain(plan: Plan) -> tuple[str, ...]:
    """For people: what is done about a silent peer, and the worst case."""
    lines = [f"  {rung.name:<11} at most {rung.seconds:>6.1f} s   {rung.why}" for rung in plan.rungs]
    lines.append(
        f"  then        a new main mode, at most {plan.notice_seconds:g} s after the first packet without an "
        "answer"
    )
    lines += [f"  sooner      {note}" for note in plan.notes]
    lines.append(
        f"  a quick mode that carries nothing, in either direction, goes after {plan.idle_seconds:g} s"
    )
    return tuple(lines)


def plan_for(config: EngineConfig, traits: PeerTraits) -> Plan:
    """The plan for a peer."""
    hotfix = config.failover_idle_seconds if traits.cluster else None
    idle = config.idle_seconds
    if traits.cluster:
        idle = config.cluster_idle_seconds if hotfix is None else hotfix
    asked = config.dead_peer_detection and traits.can_be_asked and config.notice_seconds != 0
    notice = config.notice_seconds or (DEFAULT_NOTICE_SECONDS if asked else 0.0)
    notes = _notes(config, traits, asked=asked)
    if notice and (hotfix is None or asked or notice < hotfix + config.failover_quick_seconds):
        return _noticed(notice, idle, hotfix, config, notes, asked=asked)
    quick = sum(config.retransmission_intervals) if hotfix is None else config.failover_quick_seconds
    why = "Windows' idle time-out; it counts from the first packet that goes out without an answer"
    if traits.cluster:
        why = "NlbsIdleTime, for a peer in a cluster" if hotfix is not None else "the peer is in a cluster"
    rungs = (
        Rung("silence", idle + 2 * LOOK_SECONDS, why),
        Rung(
            "quick mode",
            quick,
            "NlbsQMRetransmitDuration" if hotfix is not None else "all repetitions, unanswered",
        ),
    )
    by_idleness = config.silence_is_idle or hotfix is not None
    return Plan(idle, idle, by_idleness, (), quick, rungs, notes)


def _notes(config: EngineConfig, traits: PeerTraits, *, asked: bool) -> tuple[str, ...]:
    notes = ["at once, when it says farewell, deletes its SAs or comes with initial contact"]
    if config.proofs and traits.proves:
        notes.append(
            "at once, when it proves that it lost its state: a restart, or another node of its cluster"
        )
    how = "asked" if asked else "tried by a quick mode"
    notes.append(f"{how} without waiting for silence, when the network says that it cannot be reached (ICMP)")
    return tuple(notes)


def _noticed(
    notice: float,
    idle: float,
    hotfix: float | None,
    config: EngineConfig,
    notes: tuple[str, ...],
    *,
    asked: bool,
) -> Plan:
    """Silence, and then a question or a quick mode, within `notice` seconds."""
    silence = notice * SILENCE_SHARE
    rest = notice - silence - 2 * LOOK_SECONDS
    quick = config.failover_quick_seconds if hotfix is not None else max(1.0, rest)
    origin = "that deadpeertime asks for" if config.notice_seconds else "for a peer that can be asked"
    first = Rung(
        "silence",
        silence + 2 * LOOK_SECONDS,
        f"{SILENCE_SHARE:.0%} of the {notice:g} s {origin}, and up to two looks of {LOOK_SECONDS:g} s",
    )
    second = (
        Rung("probe", rest, f"{PROBES} questions (RFC 3706) in the rest of the time")
        if asked
        else Rung("quick mode", quick, "the peer cannot be asked: a quick mode under the old main mode")
    )
    probes = (rest / PROBES,) * PROBES if asked else ()
    return Plan(idle, silence, False, probes, quick, (first, second), notes)
