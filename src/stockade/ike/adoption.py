"""Whether a pair of SAs that outlived an agent is one that today's policy would make.

The keys and the main mode that it came from are gone with the agent; what can be compared is what a driver
keeps: the traffic, the rule, the algorithms, the mode. In doubt it is refused: traffic negotiates anew."""

from stockade.ike.v1.quick_mode import QuickModeOutcome
from stockade.model.negotiation import Mode, QuickModeMatch
from stockade.model.reasons import Reason, ReasonCode
from stockade.model.sa import SecurityAssociation
from stockade.model.suites import QuickModeProposal


def adopted_outcome(
    inbound: SecurityAssociation,
    outbound: SecurityAssociation,
    headers: tuple[SecurityAssociation, ...],
    match: QuickModeMatch,
) -> QuickModeOutcome | Reason:
    """As if it had just been negotiated under `match`, or why it would not be."""
    policy = match.negotiation.quick_mode
    ah = headers[0].ah if headers else inbound.ah
    methods = [method for method in policy.proposals if (method.esp, method.ah) == (inbound.esp, ah)]
    if match.filter_id != outbound.filter_id or match.negotiation.name != outbound.negotiation:
        return _refused("another rule decides about its traffic now")
    if match.selector != outbound.selector:
        return _refused("the rule has other traffic now")
    if not methods:
        return _refused("the rule's security methods do not have its algorithms any more")
    if policy.mode is not outbound.mode:
        return _refused("the rule has another mode now")
    if policy.mode is Mode.TUNNEL and policy.tunnel_endpoint not in (None, outbound.destination):
        return _refused("the rule has another tunnel end point now")
    seconds = inbound.lifetime.hard_seconds
    proposal = QuickModeProposal(
        inbound.esp,
        ah,
        lifetime_seconds=max(1, int(seconds)) if seconds is not None else methods[0].lifetime_seconds,
        lifetime_kilobytes=methods[0].lifetime_kilobytes,
    )
    return QuickModeOutcome(inbound, outbound, outbound.selector, proposal, None, match, headers)


def _refused(detail: str) -> Reason:
    return Reason.of(ReasonCode.SA_NOT_ADOPTED, detail)
