"""What `show mmsas` and `show qmsas` print of the engine's state."""

from collections.abc import Iterator

from stockade.ike.contract import MainModeView, QuickModeView, UnderWay
from stockade.ike.peers import QuickModePair
from stockade.ike.v1.association import MainMode
from stockade.model.identities import Identity


def main_mode_view(mode: MainMode, quick_modes: int, now: float) -> MainModeView:
    outcome, choice = mode.outcome, mode.choice
    return MainModeView(
        cookies=mode.cookies,
        local=mode.local,
        remote=mode.remote,
        initiator=mode.initiator,
        established=mode.established is not None,
        proposal=None if choice is None else choice.candidate.proposal,
        authentication=mode.candidates[0].method.name if choice is None else choice.candidate.method.name,
        local_identity=None if outcome is None else Identity.address(mode.local.address),
        peer_identity=None if outcome is None else outcome.peer_identity,
        peer_vendor=mode.peer_vendor,
        age=now - (mode.created if mode.established is None else mode.established),
        remaining=0.0 if mode.expires is None else max(0.0, mode.expires - now),
        quick_modes=quick_modes,
    )


def under_way(mode: MainMode, now: float) -> Iterator[UnderWay]:
    """The exchanges of a main mode that have not ended."""
    exchanges: list[tuple[str, bool, float, str]] = []
    if not mode.exchange.done:
        exchanges.append(("main mode", mode.initiator, mode.created, mode.exchange.standing))
    for initiator in (True, False):
        for run in mode.quick_modes.running(initiator=initiator):
            if run.exchange is not None:
                exchanges.append(("quick mode", initiator, run.exchange.started, run.exchange.standing))
    for phase, initiator, began, standing in exchanges:
        yield UnderWay(phase, mode.cookies, mode.local, mode.remote, initiator, now - began, standing)


def quick_mode_view(pair: QuickModePair, now: float) -> QuickModeView:
    outcome = pair.outcome
    return QuickModeView(
        inbound_spi=outcome.inbound.spi,
        outbound_spi=outcome.outbound.spi,
        local=pair.local.address,
        peer=pair.remote.address,
        selector=outcome.selector,
        proposal=outcome.proposal,
        pfs_group="" if outcome.group is None else str(outcome.group),
        initiator=pair.initiator,
        main_mode=pair.main_mode,
        negotiation=outcome.inbound.negotiation,
        filter_id=outcome.inbound.filter_id,
        age=now - pair.established,
        remaining=max(0.0, pair.expires - now),
        peer_info="" if outcome.info is None else str(outcome.info),
    )
