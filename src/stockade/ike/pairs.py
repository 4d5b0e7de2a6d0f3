"""Pairs of IPsec SAs as they live: installed, rekeyed, expired, deleted.

A pair that a rekey replaced goes on for some seconds, for packets under way. Whoever takes a pair out tells
the peer if there is a main mode to do it with: the pair's own, else the newest."""

from collections.abc import Iterable

from stockade.ike.config import EngineConfig
from stockade.ike.context import Context
from stockade.ike.contract import InstallSa, RemoveSa, ReportKind
from stockade.ike.liveness import PeerTraits
from stockade.ike.peers import PeerTable, QuickModePair
from stockade.ike.story import StoryEvent
from stockade.ike.v1 import informational
from stockade.ike.v1.association import MainMode
from stockade.ike.v1.quick_mode_pair import QuickModeOutcome
from stockade.ike.v1.quick_modes import QuickModeRun
from stockade.model.addresses import Endpoint
from stockade.model.filters import Direction
from stockade.model.reasons import Reason, ReasonCode
from stockade.wire.isakmp.constants import ProtocolId

MAXIMUM_DELETES = 64  # SPIs in one delete payload


class PairKeeper:
    """All pairs of one engine."""

    def __init__(self, context: Context, table: PeerTable) -> None:
        self._context = context
        self._config = context.config
        self._table = table

    def set_config(self, config: EngineConfig) -> None:
        """Other settings, for what begins from now on."""
        self._config = config

    def allowed(self, pair: QuickModePair) -> bool:
        """Whether the policy in force would make this pair again."""
        match = self._context.lookup.for_quick_mode(
            pair.local.address, pair.remote.address, pair.outcome.selector
        )
        if isinstance(match, Reason) or match.filter_id != pair.outcome.match.filter_id:
            return False
        if match.negotiation == pair.outcome.match.negotiation:
            return True
        policy, proposal = match.negotiation.quick_mode, pair.outcome.proposal
        return (
            match.negotiation.authentication == pair.outcome.match.negotiation.authentication
            and any((entry.esp, entry.ah) == (proposal.esp, proposal.ah) for entry in policy.proposals)
            and policy.mode is pair.outcome.inbound.mode
            and (pair.outcome.group is not None or not policy.perfect_forward_secrecy)
        )

    def adopt(
        self,
        outcome: QuickModeOutcome,
        ends: tuple[Endpoint, Endpoint],
        age: float,
        now: float,
        *,
        replaced: bool = False,
    ) -> None:
        """A pair that an earlier engine of this host made, `age` seconds ago, and that is in the driver. Its
        main mode is gone: it lives on until it is replaced, or as long as it may. One that was `replaced`
        before is in its last seconds."""
        pair = QuickModePair(outcome, *ends, True, now - age, PeerTraits(), replaced=replaced)
        self._table.add_pair(pair)
        end, due = (self._retire if replaced else self._expire), max(now, pair.expires)
        if replaced:
            due = min(due, now + self._config.rekey_grace_seconds)
        self._context.timers.set(pair, due, lambda moment: end(pair, moment))
        reason = Reason.of(
            ReasonCode.SA_ADOPTED,
            inbound=f"{outcome.inbound.spi:#010x}",
            outbound=f"{outcome.outbound.spi:#010x}",
            age=round(age, 1),
        )
        self._report(ReportKind.QUICK_MODE_ADOPTED, pair, reason)

    def establish(
        self, main_mode: MainMode, run: QuickModeRun, outcome: QuickModeOutcome, now: float
    ) -> None:
        ends = (main_mode.local, main_mode.remote)
        pair = QuickModePair(outcome, *ends, run.initiator, now, main_mode.traits, run.story)
        if main_mode.token is None and outcome.tokens:
            cookies = bytes.fromhex(main_mode.cookies.replace(":", ""))
            main_mode.token = dict(outcome.tokens).get(cookies)
        self._table.add_pair(pair)
        replaces = run.job.replaces if run.job is not None else None
        old = None if replaces is None else self._table.pair(replaces)
        if run.initiator:
            delay = self._delay(main_mode, outcome, old, now)
            if delay:
                pair.waits = True
                self._context.timers.set(
                    ("outbound", pair), now + delay, lambda moment: self._install_outbound(pair)
                )
            else:
                self._install_outbound(pair)
        self._context.count("quick_modes")
        self._context.timers.set(pair, pair.expires, lambda moment: self._expire(pair, moment))
        reason = Reason.of(
            ReasonCode.SA_ESTABLISHED,
            "quick mode is up",
            proposal=outcome.proposal,
            inbound=f"{outcome.inbound.spi:#010x}",
            outbound=f"{outcome.outbound.spi:#010x}",
        )
        began = run.story.started if run.story is not None else None
        self._report(ReportKind.QUICK_MODE_ESTABLISHED, pair, reason, began)
        if old is not None:
            self._context.count("rekeys")
            old.replaced, old.successor = True, pair
            until = min(now + self._config.rekey_grace_seconds, old.expires)
            self._context.timers.set(old, until, lambda moment: self._retire(old, moment))

    def _delay(
        self, main_mode: MainMode, outcome: QuickModeOutcome, old: QuickModePair | None, now: float
    ) -> float:
        """How long (seconds) the peer gets to make its inbound SA before we send on ours. While an old pair
        carries the traffic there is no hurry."""
        if main_mode.is_microsoft or outcome.connected:
            return 0.0
        if old is not None and now + self._config.rekey_delay_seconds < old.expires:
            return self._config.rekey_delay_seconds
        return self._config.outbound_delay_seconds

    def _install_outbound(self, pair: QuickModePair) -> None:
        pair.waits = False
        for sa in pair.outcome.of(Direction.OUTBOUND):
            self._context.count("key_additions")
            self._context.effects.append(InstallSa(sa))

    def _expire(self, pair: QuickModePair, now: float) -> None:
        self.delete([pair], Reason.of(ReasonCode.SA_EXPIRED), now)

    def _retire(self, pair: QuickModePair, now: float) -> None:
        self.delete([pair], Reason.of(ReasonCode.SA_REPLACED), now)

    def remove(self, pair: QuickModePair, reason: Reason, now: float) -> None:
        """Take a pair out, without a word to the peer."""
        if pair.successor is not None and pair.successor.waits:
            self._context.timers.cancel(("outbound", pair.successor))
            self._install_outbound(pair.successor)  # nothing carries the traffic meanwhile
        self._table.remove_pair(pair)
        self._context.timers.cancel(pair)
        self._context.timers.cancel(("outbound", pair))
        pair.waits = False
        outcome = pair.outcome
        for sa in (*outcome.of(Direction.OUTBOUND), *outcome.of(Direction.INBOUND)):
            self._context.count("key_deletions")
            self._context.effects.append(RemoveSa(sa.spi, sa.direction, pair.remote.address, reason))
        if pair.story is not None:
            pair.story.refuse(StoryEvent.DELETED, reason)
        self._report(ReportKind.QUICK_MODE_DELETED, pair, reason)

    def delete(self, pairs: Iterable[QuickModePair], reason: Reason, now: float) -> None:
        """Take pairs out and tell their peers, if there is a main mode to do it with."""
        told: dict[tuple[MainMode, ProtocolId], list[int]] = {}
        for pair in pairs:
            mode = self.speaker(pair)
            if mode is not None:
                for sa in pair.outcome.of(Direction.INBOUND):
                    protocol = ProtocolId.ESP if sa.esp is not None else ProtocolId.AH
                    told.setdefault((mode, protocol), []).append(sa.spi)
            self.remove(pair, reason, now)
        for (mode, protocol), spis in told.items():
            for start in range(0, len(spis), MAXIMUM_DELETES):
                part = spis[start : start + MAXIMUM_DELETES]
                mode.notices.deletes.send(informational.delete_quick_modes(protocol, part), now)

    def speaker(self, pair: QuickModePair) -> MainMode | None:
        """A main mode to tell the peer of this pair something: its own, else the newest."""
        modes = self._table.with_peer(pair.local.address, pair.remote.address)
        able = [mode for mode in modes if mode.established is not None and not mode.closed]
        own = [mode for mode in able if mode.cookies == pair.main_mode]
        best = own or able
        return best[-1] if best else None

    def _report(
        self, kind: ReportKind, pair: QuickModePair, reason: Reason, began: float | None = None
    ) -> None:
        # Without the filter's id: that is for failures, by which the agent releases held packets.
        self._context.report(
            kind,
            reason,
            pair.local,
            pair.remote,
            pair.main_mode,
            selector=pair.outcome.selector,
            initiator=pair.initiator,
            began=began,
        )
