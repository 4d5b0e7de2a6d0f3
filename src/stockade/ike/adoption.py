"""Whether a pair of SAs that outlived an agent is one that today's policy would make.

The keys and the main mode that it came from are gone with the agent; what can be compared is what a driver
keeps: the traffic, the rule, the algorithms, the mode. In doubt it is refused: traffic negotiates anew."""

from stockade.ike.v1.quick_mode_pair import QuickModeOutcome
from stockade.model.negotiation import Mode, QuickModeMatch
from stockade.model.reasons import Reason, ReasonCode
from stockade.model.sa import SecurityAssociation
from stockade.model.suites import Integrity, QuickModeProposal
from stockade.model.traffic import TrafficSelector


def adopted_outcome(
    inbound: SecurityAssociation,
    outbound: SecurityAssociation,
    headers: tuple[SecurityAssociation, ...],
    match: QuickModeMatch,
) -> QuickModeOutcome | Reason:
    """As if it had just been negotiated under `match`, or why it would not be."""
    ah = headers[0].ah if headers else inbound.ah
    refusal = why_not(inbound, outbound.selector, ah, match)
    if refusal is not None:
        return refusal
    method = _methods(inbound, ah, match)[0]
    seconds = inbound.lifetime.hard_seconds
    proposal = QuickModeProposal(
        inbound.esp,
        ah,
        lifetime_seconds=max(1, int(seconds)) if seconds is not None else method.lifetime_seconds,
        lifetime_kilobytes=method.lifetime_kilobytes,
    )
    return QuickModeOutcome(inbound, outbound, outbound.selector, proposal, None, match, headers)


def why_not(
    inbound: SecurityAssociation, outbound: TrafficSelector, ah: Integrity | None, match: QuickModeMatch
) -> Reason | None:
    """Why `match` would not make a pair with this inbound half, for this outbound traffic; `ah`: its own, or
    that of its bundle."""
    policy = match.negotiation.quick_mode
    if match.filter_id != inbound.filter_id or match.negotiation.name != inbound.negotiation:
        return _refused("another rule decides about its traffic now")
    if match.selector != outbound:
        return _refused("the rule has other traffic now")
    if not _methods(inbound, ah, match):
        return _refused("the rule's security methods do not have its algorithms any more")
    if policy.mode is not inbound.mode:
        return _refused("the rule has another mode now")
    if policy.mode is Mode.TUNNEL and policy.tunnel_endpoint not in (None, inbound.source):
        return _refused("the rule has another tunnel end point now")
    return None


def _methods(
    inbound: SecurityAssociation, ah: Integrity | None, match: QuickModeMatch
) -> list[QuickModeProposal]:
    """The rule's methods with these algorithms."""
    proposals = match.negotiation.quick_mode.proposals
    return [method for method in proposals if (method.esp, method.ah) == (inbound.esp, ah)]


def _refused(detail: str) -> Reason:
    return Reason.of(ReasonCode.SA_NOT_ADOPTED, detail)
