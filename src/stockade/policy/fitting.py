"""What rules negotiate, as a data plane can have it; the part of the compiler that asks its capabilities.

rule with its methods ─▶ narrow: methods of other protocols than the first one's go, with a doubt
                      ─▶ refuse: DRIVER_LACKS, naming store, policy, rule and method
"""

from collections.abc import Iterable

from stockade.model.capabilities import Capabilities
from stockade.model.filters import Provenance
from stockade.model.negotiation import Negotiation
from stockade.model.reasons import ReasonCode, error_for
from stockade.policy.candidates import Doubt, DoubtKind
from stockade.policy.objects import DEFAULT_RESPONSE_ACTION
from stockade.policy.places import Place


def fit(
    places: Iterable[Place], response: Negotiation | None, capabilities: Capabilities | None
) -> tuple[dict[str, Negotiation], tuple[Doubt, ...]]:
    """The negotiations that had to be narrowed, by name, and the doubts about them. `response`: the default
    response. `capabilities` None: everything can be done. CallerError DRIVER_LACKS for the first rule that
    cannot be had at all."""
    narrowed: dict[str, Negotiation] = {}
    doubts: list[Doubt] = []
    if capabilities is None:
        return narrowed, ()
    for negotiation, where, text in _asked(places, response):
        fitting, why = capabilities.narrow(negotiation)
        if why:
            narrowed[negotiation.name] = fitting
            doubts.append(Doubt(DoubtKind.METHODS, where, f"{text} {why}"))
        refused = capabilities.refusal_of(fitting)
        if refused is not None:
            sentence, method = refused
            facts: dict[str, object] = {"store": where.store, "policy": where.policy, "rule": where.rule}
            if method is not None:
                facts["method"] = method
            raise error_for(ReasonCode.DRIVER_LACKS, sentence, **facts)
    return narrowed, tuple(doubts)


def _asked(
    places: Iterable[Place], response: Negotiation | None
) -> Iterable[tuple[Negotiation, Provenance, str]]:
    for place in places:
        if place.negotiation is not None:
            where = Provenance(
                place.store, place.policy, place.rule, place.filter_list, filter_action=place.filter_action
            )
            yield place.negotiation, where, str(place)
    if response is not None:
        store, _, policy = response.name.removesuffix(f"/{DEFAULT_RESPONSE_ACTION}").partition("/")
        where = Provenance(store, policy, DEFAULT_RESPONSE_ACTION)
        yield response, where, f"the default response rule of policy “{policy}” ({store} store)"
