"""From the core's objects to the messages of the local API. No I/O."""

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from stockade.agent import messages
from stockade.agent.core import HostCore
from stockade.agent.domain import DomainPolicy
from stockade.agent.facts_keeper import FactsKeeper
from stockade.agent.temporary import SoftAssociation
from stockade.driver.contract import DriverStatistics
from stockade.ike.contract import MainModeView, QuickModeView, UnderWay
from stockade.ike.liveness import explain
from stockade.model.addresses import Address, AddressRange
from stockade.model.filters import Direction, FilterClass, SpecificFilter
from stockade.model.negotiation import Negotiation
from stockade.model.reasons import Reason
from stockade.model.sa import SaCounters
from stockade.model.suites import QuickModeProposal
from stockade.model.traffic import protocol_name
from stockade.policy.objects import AddressKind

if TYPE_CHECKING:
    from stockade.agent.cluster import ClusterNode
    from stockade.agent.history import History
    from stockade.agent.web_keeper import WebKeeper


def web(keeper: "WebKeeper") -> messages.WebServed:
    return messages.WebServed(
        state=str(keeper.state),
        url=keeper.url,
        pid=keeper.pid,
        trouble=reason_message(keeper.trouble) if keeper.trouble else None,
    )


def series(history: "History") -> messages.Series:
    times, columns = history.columns()
    return messages.Series(time=times, columns=columns)


def cluster(node: "ClusterNode") -> messages.ClusterMessage:
    return messages.ClusterMessage(
        node=node.settings.node,
        addresses=[str(one) for one in node.settings.addresses],
        holds=[str(one) for one in node.replication.held],
        members=[
            messages.ClusterMember(
                name=one.name,
                address=str(one.address),
                alive=one.alive,
                holds=[str(address) for address in one.held],
                quick_modes=one.quick_modes,
            )
            for one in node.members()
        ],
        refused_messages=node.replication.refused,
    )


def reason_message(reason: Reason) -> messages.ReasonMessage:
    return messages.ReasonMessage(
        reason=reason.code.word,
        text=str(reason),
        remedy=reason.code.remedy,
        fault=reason.code.fault.value,
        windows_code=reason.code.windows_code,
        facts=dict(reason.facts),
    )


def filters(core: HostCore, statistics: DriverStatistics) -> messages.Filters:
    counters = {entry.filter_id: entry for entry in statistics.filters}

    def row(entry: SpecificFilter) -> messages.FilterRow:
        counted = counters.get(entry.id)
        return messages.FilterRow(
            id=entry.id,
            direction=entry.direction.value,
            protocol=protocol_name(entry.selector.protocol),
            source=_addresses(entry.selector.source),
            source_port=entry.selector.source_port,
            destination=_addresses(entry.selector.destination),
            destination_port=entry.selector.destination_port,
            action=entry.action.value,
            weight=entry.weight,
            exemption=entry.filter_class is FilterClass.EXEMPTION,
            accept_clear=entry.accept_clear,
            allow_soft=entry.allow_soft,
            negotiation=entry.negotiation,
            provenance=str(entry.provenance),
            packets=counted.packets if counted else 0,
            bytes=counted.bytes if counted else 0,
            store=entry.provenance.store,
            policy=entry.provenance.policy,
            rule=entry.provenance.rule,
            filter_list=entry.provenance.filter_list,
            filter_index=entry.provenance.filter_index,
            mirrored=entry.provenance.mirrored,
        )

    return messages.Filters(
        policy=core.table.policy_name,
        filters=[row(entry) for entry in core.table.filters],
        warnings=list(core.table.warnings),
    )


def sas(core: HostCore, statistics: DriverStatistics, now: float) -> messages.Sas:
    counters = {(entry.direction, entry.spi): entry for entry in statistics.sas}
    modes = {spi: sa.mode.value for (way, spi), sa in core.associations().items() if way is Direction.INBOUND}
    return messages.Sas(
        main_modes=[_main_mode(view) for view in core.engine.main_modes(now)],
        quick_modes=[_quick_mode(core, view, counters, modes) for view in core.engine.quick_modes(now)],
        soft=[_soft(core, soft, now) for soft in core.soft_associations],
        under_way=[_under_way(view) for view in core.engine.under_way(now)],
    )


def methods(core: HostCore) -> messages.Methods:
    """The negotiations of the table, each with the rule that it is of."""
    found: dict[str, tuple[str, int]] = {}
    for entry in core.table.filters:
        if entry.negotiation is not None:
            where = entry.provenance
            text, number = found.get(entry.negotiation, ("", 0))
            text = text or f"{where.store} store, policy “{where.policy}”, rule “{where.rule}”"
            found[entry.negotiation] = text, number + 1
    return messages.Methods(
        policy=core.table.policy_name,
        methods=[
            _methods(name, negotiation, *found.get(name, ("", 0)))
            for name, negotiation in core.table.negotiations.items()
        ],
    )


def _methods(name: str, negotiation: Negotiation, where: str, filters: int) -> messages.MethodsRow:
    main, quick = negotiation.main_mode, negotiation.quick_mode
    pfs = "no"
    if quick.perfect_forward_secrecy:
        pfs = "the group of main mode" if quick.group is None else str(quick.group)
    return messages.MethodsRow(
        name=name,
        provenance=where or "default response",
        filters=filters,
        authentication=[str(method) for method in negotiation.authentication],
        main_mode_methods=[str(proposal) for proposal in main.proposals],
        main_mode_seconds=main.lifetime_seconds,
        quick_modes_per_main_mode=main.quick_modes_per_main_mode,
        quick_mode_methods=[_quick_mode_method(proposal) for proposal in quick.proposals],
        perfect_forward_secrecy=pfs,
        mode=quick.mode.value,
        tunnel_endpoint=str(quick.tunnel_endpoint or ""),
        soft_seconds=negotiation.soft_seconds,
    )


def _quick_mode_method(proposal: QuickModeProposal) -> messages.QuickModeMethodRow:
    esp = proposal.esp
    return messages.QuickModeMethodRow(
        method=str(proposal),
        ah=str(proposal.ah or ""),
        esp_encryption="" if esp is None else str(esp.encryption),
        esp_integrity="" if esp is None else str(esp.integrity or "none"),
        lifetime_seconds=proposal.lifetime_seconds or 0,
        lifetime_kilobytes=proposal.lifetime_kilobytes or 0,
    )


def _under_way(view: UnderWay) -> messages.UnderWayRow:
    return messages.UnderWayRow(
        phase=view.phase,
        cookies=view.cookies,
        local=str(view.local),
        peer=str(view.remote),
        role="initiator" if view.initiator else "responder",
        age=round(view.age, 3),
        standing=view.standing,
    )


def facts(keeper: FactsKeeper, now: float) -> messages.HostFactsMessage:
    known = keeper.facts
    return messages.HostFactsMessage(
        addresses=_texts(known.local),
        dns_servers=_texts(known.servers(AddressKind.DNS)),
        wins_servers=_texts(known.servers(AddressKind.WINS)),
        dhcp_servers=_texts(known.servers(AddressKind.DHCP)),
        gateways=_texts(known.servers(AddressKind.GATEWAY)),
        names=[
            messages.NameRow(
                name=row.name,
                addresses=None if row.addresses is None else _texts(row.addresses),
                age=None if row.answered is None else round(now - row.answered, 3),
                error=row.error,
            )
            for row in keeper.names.rows
        ],
        age=round(now - keeper.read_at, 3),
    )


def peer_plan(core: HostCore, peer: Address) -> messages.PeerPlan:
    """By the newest main mode with the peer; without one, for both kinds of peer that there are."""
    found = core.engine.plans(peer)
    if found:
        view, plan = found[-1]
        vendor = view.peer_vendor or "an unknown implementation"
        lines = [f"{peer}: {vendor}, main mode {view.cookies}", *explain(plan)]
    else:
        plan, askable = core.engine.plan_for_strangers(), core.engine.plan_for_strangers(can_be_asked=True)
        lines = [
            f"{peer}: no main mode with it now, so what it can do is not known",
            "if it can be asked whether it lives (RFC 3706; Stockade, strongSwan, libreswan):",
            *explain(askable),
            "if it cannot (Windows):",
            *explain(plan),
        ]
    return messages.PeerPlan(
        peer=str(peer),
        known=bool(found),
        notice_seconds=plan.notice_seconds,
        idle_seconds=plan.idle_seconds,
        rungs=[messages.PeerRung(rung.name, rung.seconds, rung.why) for rung in plan.rungs],
        lines=lines,
    )


def _texts(addresses: Iterable[Address]) -> list[str]:
    return [str(address) for address in addresses]


def _soft(core: HostCore, soft: SoftAssociation, now: float) -> messages.SoftRow:
    entry = core.table.by_id(soft.filter_id)
    return messages.SoftRow(
        local=str(soft.local),
        peer=str(soft.peer),
        traffic=str(soft.selector),
        rule=str(entry.provenance) if entry else "",
        why=str(soft.reason),
        age=round(now - soft.established, 3),
        remaining=round(soft.expires - now, 3),
    )


def _main_mode(view: MainModeView) -> messages.MainModeRow:
    return messages.MainModeRow(
        cookies=view.cookies,
        local=str(view.local),
        peer=str(view.remote),
        role="initiator" if view.initiator else "responder",
        established=view.established,
        suite=str(view.proposal) if view.proposal else "",
        authentication=view.authentication,
        local_identity=str(view.local_identity) if view.local_identity else "",
        peer_identity=str(view.peer_identity) if view.peer_identity else "",
        peer_vendor=view.peer_vendor,
        age=round(view.age, 3),
        remaining=round(view.remaining, 3),
        quick_modes=view.quick_modes,
    )


def _quick_mode(
    core: HostCore,
    view: QuickModeView,
    counters: dict[tuple[Direction, int], SaCounters],
    modes: dict[int, str],
) -> messages.QuickModeRow:
    inbound = counters.get((Direction.INBOUND, view.inbound_spi))
    outbound = counters.get((Direction.OUTBOUND, view.outbound_spi))
    entry = core.table.by_id(view.filter_id)
    idle = min((counter.idle for counter in (inbound, outbound) if counter is not None), default=0.0)
    return messages.QuickModeRow(
        inbound_spi=f"{view.inbound_spi:#010x}",
        outbound_spi=f"{view.outbound_spi:#010x}",
        local=str(view.local),
        peer=str(view.peer),
        mode=modes.get(view.inbound_spi, ""),
        traffic=str(view.selector),
        suite=str(view.proposal),
        pfs_group=view.pfs_group,
        role="initiator" if view.initiator else "responder",
        main_mode=view.main_mode,
        rule=str(entry.provenance) if entry else view.negotiation,
        age=round(view.age, 3),
        remaining=round(view.remaining, 3),
        inbound_packets=inbound.packets if inbound else 0,
        inbound_bytes=inbound.bytes if inbound else 0,
        outbound_packets=outbound.packets if outbound else 0,
        outbound_bytes=outbound.bytes if outbound else 0,
        idle=round(idle, 3),
    )


def _addresses(addresses: AddressRange) -> str:
    return "any" if addresses.is_everything else str(addresses)


def domain(keeper: DomainPolicy, name: str) -> messages.DomainMessage | None:
    if not keeper.configured:
        return None
    snapshot, found = keeper.snapshot, keeper.evaluation
    winner = found.resultant.winner if found else None
    policy = found.policy if found else None
    now = time.time()
    return messages.DomainMessage(
        domain=name,
        controller=snapshot.controller if snapshot else "",
        site=snapshot.site if snapshot else "",
        gpo=winner.gpo.name if winner else "",
        policy=policy.name if policy else "",
        age=max(0.0, round(now - snapshot.read, 1)) if snapshot else None,
        from_copy=keeper.from_cache,
        refused=reason_message(keeper.refusal) if keeper.refusal else None,
        next=max(0.0, round(keeper.due - now, 1)) if keeper.due is not None else None,
    )
