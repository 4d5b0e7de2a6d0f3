"""What happens to a packet, and why: `explain_flow`.

    flow, direction ─▶ filter table ─▶ the deciding filter, its weight taken apart, where it was written
                                  ├──▶ lighter filters that match too, and why they lost
                                  ├──▶ heavier filters that would decide for a port or protocol not given
                                  ├──▶ what would be negotiated, and the SA that carries the flow now
                                  ├──▶ what happens to clear packets, each way, and when negotiation fails
                                  └──▶ what happens to the answer

Pure: reads a table and a list of SAs. Keys are never shown; authentication is shown by method.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from stockade.model.addresses import Address
from stockade.model.filters import (
    Action,
    Direction,
    FilterClass,
    FilterTable,
    Overruled,
    Provenance,
    SpecificFilter,
)
from stockade.model.negotiation import Negotiation
from stockade.model.reasons import Reason, ReasonCode
from stockade.model.suites import QuickModeProposal
from stockade.model.traffic import PROTOCOLS_WITH_PORTS, Flow, TrafficSelector, protocol_name
from stockade.policy.objects import DYNAMIC_FILTER_LIST
from stockade.policy.weights import compare_weights, explain_weight

MAXIMUM_LISTED = 20
"""Lighter filters, and filters for other ports, that an explanation lists."""


class Verdict(StrEnum):
    PERMIT = "permit"
    BLOCK = "block"
    SECURE = "secure"
    EXEMPT = "exempt"
    NO_FILTER = "no-filter"


class QuickModeSummary(Protocol):
    """What `explain_flow` needs to know of a pair of SAs; the engine's `QuickModeView` has it. `selector` is
    the outbound one."""

    @property
    def inbound_spi(self) -> int: ...
    @property
    def outbound_spi(self) -> int: ...
    @property
    def peer(self) -> Address: ...
    @property
    def selector(self) -> TrafficSelector: ...
    @property
    def proposal(self) -> QuickModeProposal: ...
    @property
    def negotiation(self) -> str: ...
    @property
    def filter_id(self) -> str: ...


@dataclass(frozen=True, slots=True)
class OtherFilter:
    """A filter that does not decide, and why not."""

    entry: SpecificFilter
    why: str


@dataclass(frozen=True, slots=True)
class CarryingSa:
    """The SA of the flow's direction that carries it now."""

    spi: int
    peer: Address
    method: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """The answer. `deciding` is None when no filter speaks of the flow. `shadowed`: lighter filters that
    match too. `overruled`: filters about exactly the same packets, which lost the conflict. `depends`:
    heavier filters that match for some port or protocol that the question left open. `return_filter` decides
    about the answer's packets. `notes` are sentences for people. `inbound_clear`: whether packets of this
    conversation that come in clear are let in ("accept") or not ("drop"). `outbound`: what is done with those
    that leave: "send" in clear, "drop", or "secure". `on_failure`, where the packet is to be secured: what
    becomes of it when the negotiation fails, "clear" or "drop", else None."""

    flow: Flow
    direction: Direction
    verdict: Verdict
    reason: Reason
    deciding: SpecificFilter | None
    weight: tuple[str, ...]
    shadowed: tuple[OtherFilter, ...]
    overruled: tuple[Overruled, ...]
    depends: tuple[OtherFilter, ...]
    negotiation: Negotiation | None
    sa: CarryingSa | None
    return_verdict: Verdict
    return_filter: SpecificFilter | None
    notes: tuple[str, ...]
    inbound_clear: str
    outbound: str
    on_failure: str | None

    @property
    def why(self) -> tuple[str, ...]:
        """The verdict in sentences: who decides, what that filter stands before and why, what becomes of
        clear packets."""
        return tuple(_why(self))

    def as_dict(self) -> dict[str, object]:
        """The JSON form."""
        return {
            "flow": str(self.flow),
            "direction": self.direction.value,
            "verdict": self.verdict.value,
            "reason": self.reason.as_dict(),
            "filter": None if self.deciding is None else filter_as_dict(self.deciding),
            "action": None if self.deciding is None else self.deciding.action.value,
            "inbound_clear": self.inbound_clear,
            "outbound": self.outbound,
            "on_failure": self.on_failure,
            "policy": None if self.deciding is None else self.deciding.provenance.policy or None,
            "rule": None if self.deciding is None else self.deciding.provenance.rule,
            "filter_list": None if self.deciding is None else self.deciding.provenance.filter_list or None,
            "filter_index": None if self.deciding is None else self.deciding.provenance.filter_index or None,
            **origin_as_dict(None if self.deciding is None else self.deciding.provenance),
            "weight": None if self.deciding is None else self.deciding.weight,
            "weight_explained": list(self.weight),
            "why": list(self.why),
            "shadowed": [{**filter_as_dict(other.entry), "why": other.why} for other in self.shadowed],
            "overruled": [
                {"action": one.action.value, "provenance": str(one.provenance), "why": _CONFLICT}
                for one in self.overruled
            ],
            "depends": [{**filter_as_dict(other.entry), "why": other.why} for other in self.depends],
            "negotiation": None if self.negotiation is None else negotiation_as_dict(self.negotiation),
            "sa": None
            if self.sa is None
            else {"spi": f"{self.sa.spi:#010x}", "peer": str(self.sa.peer), "method": self.sa.method},
            "return_path": {
                "verdict": self.return_verdict.value,
                "filter": None if self.return_filter is None else filter_as_dict(self.return_filter),
            },
            "notes": list(self.notes),
        }

    def lines(self) -> tuple[str, ...]:
        """The text form, a line per fact, the verdict first."""
        return tuple(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"{self.direction} {self.flow}: {self.verdict}"
        yield f"  because    {self.reason.code.meaning}"
        if self.deciding is not None:
            yield f"  filter     {self.deciding} ({self.deciding.id})"
            yield f"  written in {self.deciding.provenance}"
            if self.deciding.provenance.description:
                yield f"             {self.deciding.provenance.description}"
            yield f"  weight     {self.deciding.weight}"
            yield from (f"             {line}" for line in self.weight)
        if self.negotiation is not None:
            yield from self._negotiation_lines(self.negotiation)
        for other in self.shadowed:
            yield f"  not        {other.entry} ({other.entry.provenance}): {other.why}"
        for lost in self.overruled:
            yield f"  not        {lost.action} ({lost.provenance}): {_CONFLICT}"
        for other in self.depends:
            yield f"  unless     {other.entry} ({other.entry.provenance}): {other.why}"
        yield f"  answer     {self.return_verdict}" + (
            "" if self.return_filter is None else f" by {self.return_filter} ({self.return_filter.id})"
        )
        failure = "" if self.on_failure is None else f"; when negotiation fails: {self.on_failure}"
        yield f"  clear in   {self.inbound_clear}; out: {self.outbound}{failure}"
        for note in self.notes:
            yield f"  note       {note}"

    def _negotiation_lines(self, negotiation: Negotiation) -> Iterator[str]:
        main_mode = ", ".join(str(method) for method in negotiation.main_mode.proposals)
        yield f"  main mode  {main_mode}; by {_methods(negotiation)}"
        quick_mode = ", ".join(str(method) for method in negotiation.quick_mode.proposals)
        yield f"  quick mode {negotiation.quick_mode.mode} {quick_mode}; {_pfs(negotiation)}"
        if self.sa is None:
            yield "  SA         none yet"
        else:
            yield f"  SA         {self.sa.spi:#010x} with {self.sa.peer}, {self.sa.method}"


def _methods(negotiation: Negotiation) -> str:
    return ", ".join(str(method) for method in negotiation.authentication)


def _pfs(negotiation: Negotiation) -> str:
    quick_mode = negotiation.quick_mode
    if not quick_mode.perfect_forward_secrecy:
        return "no perfect forward secrecy"
    return f"perfect forward secrecy with {quick_mode.group or 'the main-mode group'}"


def origin_as_dict(where: Provenance | None) -> dict[str, object]:
    """The file and the line in which a filter was written, as far as they are known."""
    origin = None if where is None else where.origin
    return {
        "file": None if origin is None else origin.file,
        "line": None if origin is None else origin.line or None,
    }


def filter_as_dict(entry: SpecificFilter) -> dict[str, object]:
    """The JSON form of a filter."""
    where = entry.provenance
    return {
        "id": entry.id,
        "selector": str(entry.selector),
        "direction": entry.direction.value,
        "action": entry.action.value,
        "weight": entry.weight,
        "exemption": bool(entry.filter_class),
        "negotiation": entry.negotiation,
        "accept_clear": entry.accept_clear,
        "allow_soft": entry.allow_soft,
        "provenance": {
            "text": str(where),
            "store": where.store,
            "policy": where.policy,
            "rule": where.rule,
            "filter_list": where.filter_list,
            "filter_index": where.filter_index,
            **origin_as_dict(where),
            "filter_action": where.filter_action,
            "mirrored": where.mirrored,
            "description": where.description,
        },
    }


def negotiation_as_dict(negotiation: Negotiation) -> dict[str, object]:
    """The JSON form of a negotiation, without its keys."""
    quick_mode = negotiation.quick_mode
    return {
        "name": negotiation.name,
        "authentication": [str(method) for method in negotiation.authentication],
        "main_mode": {
            "methods": [str(method) for method in negotiation.main_mode.proposals],
            "lifetime_seconds": negotiation.main_mode.lifetime_seconds,
            "quick_modes_per_main_mode": negotiation.main_mode.quick_modes_per_main_mode,
        },
        "quick_mode": {
            "methods": [str(method) for method in quick_mode.proposals],
            "mode": quick_mode.mode.value,
            "tunnel_endpoint": None
            if quick_mode.tunnel_endpoint is None
            else str(quick_mode.tunnel_endpoint),
            "perfect_forward_secrecy": quick_mode.perfect_forward_secrecy,
            "group": None if quick_mode.group is None else quick_mode.group.value,
        },
    }


def explain_flow(
    table: FilterTable, flow: Flow, direction: Direction, sas: Sequence[QuickModeSummary] = ()
) -> Explanation:
    """What happens to packets of `flow` in `direction`, and why. Protocol 0 or port 0 in the flow leaves it
    open: the verdict is that for a protocol or port that no filter names, and `depends` lists the others."""
    deciding = table.lookup(flow, direction)
    verdict = _verdict(deciding)
    negotiation = None
    if deciding is not None and deciding.negotiation is not None:
        negotiation = table.negotiations[deciding.negotiation]
    sa = None if deciding is None or negotiation is None else _carrying(flow, direction, deciding, sas)
    back = Direction.INBOUND if direction is Direction.OUTBOUND else Direction.OUTBOUND
    return_filter = table.lookup(flow.reversed(), back)
    inbound, outbound = (
        (deciding, return_filter) if direction is Direction.INBOUND else (return_filter, deciding)
    )
    return Explanation(
        flow=flow,
        direction=direction,
        verdict=verdict,
        reason=_reason(flow, deciding),
        deciding=deciding,
        weight=() if deciding is None else _weight_lines(deciding),
        shadowed=_shadowed(table, flow, direction, deciding),
        overruled=() if deciding is None else table.overruled.get(deciding.id, ()),
        depends=_depends(table, flow, direction, deciding),
        negotiation=negotiation,
        sa=sa,
        return_verdict=_verdict(return_filter),
        return_filter=return_filter,
        notes=tuple(_notes(table, direction, deciding, negotiation, sa, return_filter)),
        inbound_clear=_inbound_clear(inbound),
        outbound="send" if outbound is None else _OUTBOUND[outbound.action],
        on_failure=None if negotiation is None or deciding is None else _on_failure(deciding),
    )


_OUTBOUND = {Action.PERMIT: "send", Action.BLOCK: "drop", Action.NEGOTIATE: "secure"}


def _inbound_clear(entry: SpecificFilter | None) -> str:
    if entry is None or entry.action is Action.PERMIT or entry.accept_clear:
        return "accept"
    return "drop"


def _on_failure(entry: SpecificFilter) -> str:
    return "clear" if entry.allow_soft else "drop"


def _weight_lines(entry: SpecificFilter) -> tuple[str, ...]:
    if entry.provenance.filter_list == DYNAMIC_FILTER_LIST:
        return ("made by the default response rule: below every written filter",)
    return explain_weight(entry.weight)


_CONFLICT = "of two filters about the same packets the more restrictive one is kept"
_VERDICT_SENTENCES = {
    Verdict.NO_FILTER: "no filter speaks of this packet: it passes in clear",
    Verdict.PERMIT: "passes in clear, because of",
    Verdict.BLOCK: "is dropped, because of",
    Verdict.SECURE: "has to be secured, because of",
    Verdict.EXEMPT: "passes in clear whatever the rules say, because of",
}


def _why(what: Explanation) -> Iterator[str]:
    sentence = _VERDICT_SENTENCES[what.verdict]
    if what.deciding is None:
        yield sentence
    else:
        yield f"{what.flow} {sentence} {what.deciding.provenance}"
        for lost in what.overruled:
            yield f"{lost.action} of {lost.provenance} is not in force: {_CONFLICT}"
        for other in what.shadowed[:3]:
            yield f"that filter stands before {other.entry.provenance}: {other.why}"
        if len(what.shadowed) > 3:
            yield f"and before {len(what.shadowed) - 3} or more lighter filters that match too"
    yield {
        "accept": "packets of this conversation that come in clear are let in",
        "drop": "packets of this conversation that come in clear are dropped",
    }[what.inbound_clear]
    if what.on_failure is not None:
        yield {
            "clear": "when the negotiation fails, the traffic passes in clear (soft)",
            "drop": "when the negotiation fails, the traffic is dropped",
        }[what.on_failure]
    for other in what.depends:
        yield f"{other.why}, because of {other.entry.provenance}"
    yield from what.notes


def _verdict(entry: SpecificFilter | None) -> Verdict:
    if entry is None:
        return Verdict.NO_FILTER
    if entry.filter_class is FilterClass.EXEMPTION:
        return Verdict.EXEMPT
    return {
        Action.PERMIT: Verdict.PERMIT,
        Action.BLOCK: Verdict.BLOCK,
        Action.NEGOTIATE: Verdict.SECURE,
    }[entry.action]


def _reason(flow: Flow, entry: SpecificFilter | None) -> Reason:
    if entry is None:
        return Reason.of(ReasonCode.NO_FILTER, flow=flow)
    code = {
        Action.PERMIT: ReasonCode.PERMITTED,
        Action.BLOCK: ReasonCode.BLOCKED,
        Action.NEGOTIATE: ReasonCode.SECURED,
    }[entry.action]
    return Reason.of(code, flow=flow, filter=entry.id, where=entry.provenance)


def _shadowed(
    table: FilterTable, flow: Flow, direction: Direction, deciding: SpecificFilter | None
) -> tuple[OtherFilter, ...]:
    if deciding is None:
        return ()
    others = []
    for entry in table.about(flow.source, flow.destination, direction):
        if entry is deciding or not entry.selector.matches(flow):
            continue
        why = compare_weights(deciding.weight, entry.weight)
        if not why and deciding.action.restrictiveness > entry.action.restrictiveness:
            why = "the weights are equal and the deciding filter is more restrictive"
        others.append(OtherFilter(entry, why or "the weights are equal"))
        if len(others) == MAXIMUM_LISTED:
            break
    return tuple(others)


def _depends(
    table: FilterTable, flow: Flow, direction: Direction, deciding: SpecificFilter | None
) -> tuple[OtherFilter, ...]:
    """The heavier filters with another verdict that match once what the question left open is filled in."""
    others: list[OtherFilter] = []
    for entry in table.about(flow.source, flow.destination, direction):
        if entry is deciding or len(others) == MAXIMUM_LISTED:
            break
        selector = entry.selector
        if deciding is not None and entry.action is deciding.action:
            continue
        open_protocol = flow.protocol == 0 and selector.protocol != 0
        if not open_protocol and selector.protocol not in (0, flow.protocol):
            continue
        has_ports = open_protocol or flow.protocol in PROTOCOLS_WITH_PORTS
        conditions = [f"protocol {protocol_name(selector.protocol)}"] if open_protocol else []
        fits = True
        for word, asked, wanted in (
            ("source", flow.source_port, selector.source_port),
            ("destination", flow.destination_port, selector.destination_port),
        ):
            if not wanted or wanted == asked:
                continue
            if asked or not has_ports:
                fits = False
            else:
                conditions.append(f"{word} port {wanted}")
        if fits and conditions:
            others.append(OtherFilter(entry, f"for {' and '.join(conditions)} it is {_verdict(entry)}"))
    return tuple(others)


def _carrying(
    flow: Flow, direction: Direction, deciding: SpecificFilter, sas: Sequence[QuickModeSummary]
) -> CarryingSa | None:
    """The newest SA of the deciding filter's negotiation whose selector holds the flow; of several, one made
    for this very filter."""
    outbound = flow if direction is Direction.OUTBOUND else flow.reversed()
    fitting = [sa for sa in sas if sa.negotiation == deciding.negotiation and sa.selector.matches(outbound)]
    if not fitting:
        return None
    best = next((sa for sa in reversed(fitting) if sa.filter_id == deciding.id), fitting[-1])
    spi = best.outbound_spi if direction is Direction.OUTBOUND else best.inbound_spi
    return CarryingSa(spi, best.peer, str(best.proposal))


def _notes(
    table: FilterTable,
    direction: Direction,
    deciding: SpecificFilter | None,
    negotiation: Negotiation | None,
    sa: CarryingSa | None,
    return_filter: SpecificFilter | None,
) -> Iterator[str]:
    if deciding is None and table.default_response is not None:
        yield "if the other side asks for security, the default response rule answers"
    if deciding is not None and negotiation is not None:
        if direction is Direction.INBOUND and deciding.allow_soft and not deciding.accept_clear:
            yield "packets in clear are let in only while a soft SA exists (a failed negotiation)"
        if deciding.accept_clear:
            yield "packets in clear are let in too (inpass); the answer is secured"
        if sa is None and direction is Direction.OUTBOUND:
            yield "the first packet starts the negotiation and is held until the SA is up"
        if sa is None and direction is Direction.INBOUND and not deciding.accept_clear:
            yield "packets in clear are dropped: the peer has to negotiate first"
    there, back = _verdict(deciding), _verdict(return_filter)
    if there is Verdict.BLOCK:
        return
    if back is Verdict.BLOCK:
        yield "the answer is blocked: traffic in this direction only"
    elif (there is Verdict.SECURE) != (back is Verdict.SECURE):
        yield f"the two directions differ: {there} here, {back} for the answer; is the filter mirrored?"
    elif (
        deciding is not None
        and return_filter is not None
        and deciding.negotiation != return_filter.negotiation
    ):
        yield "the answer is secured by another rule: its SA may be another one"
