"""`/metrics`: the agent's figures in the text form of Prometheus. Loaded when somebody asks.

What is configured is told whether it is up or not, so a tunnel that is down stays visible as a 0. Labels are
of closed lists, or of the policy; peers are bounded (`MAXIMUM_ROWS`), for strangers must not fill a database.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import generate_latest
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from stockade.agent.core import HostCore
from stockade.agent.metric_table import ACTIVE, BY_NAME, METRICS, MetricType
from stockade.agent.recorder import Histogram, Recorder, TrafficTotals
from stockade.driver.contract import DriverStatistics
from stockade.ike.contract import QuickModeView
from stockade.model.filters import Action, Direction, SpecificFilter
from stockade.model.negotiation import Mode
from stockade.model.reasons import Reason

MAXIMUM_ROWS = 2_000

Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Figures:
    """What the service knows at one moment. `started` in seconds since 1970, `now` monotonic."""

    core: HostCore
    statistics: DriverStatistics
    recorder: Recorder
    totals: TrafficTotals
    now: float
    started: float
    version: str
    driver: str
    refusal: Reason | None = None
    boot_filters: bool = False
    offloads: Mapping[str, bool] = field(default_factory=dict)
    domain: tuple[str, float] | None = None
    cluster: Mapping[str, bool] = field(default_factory=dict)
    holds: tuple[str, ...] = ()
    events_left_out: int = 0


class _Collector(Collector):
    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Family]:
        values = _values(self._figures)
        for metric in METRICS:
            rows = values[metric.name]
            if metric.type is MetricType.HISTOGRAM:
                histogram = HistogramMetricFamily(metric.name, metric.meaning, labels=metric.labels)
                for labels, row in rows.items():
                    assert isinstance(row, Histogram)
                    histogram.add_metric(labels, row.cumulative(), row.total)
                yield histogram
                continue
            kind = CounterMetricFamily if metric.type is MetricType.COUNTER else GaugeMetricFamily
            family = kind(metric.name, metric.meaning, labels=metric.labels)
            for labels, row in rows.items():
                assert not isinstance(row, Histogram)
                family.add_metric(labels, row)
            yield family


def render(figures: Figures) -> bytes:
    """The whole answer."""
    registry = CollectorRegistry()
    registry.register(_Collector(figures))
    ProcessCollector(registry=registry)
    return generate_latest(registry)


Rows = dict[Labels, float | Histogram]


def _values(figures: Figures) -> dict[str, Rows]:
    core, statistics, recorder = figures.core, figures.statistics, figures.recorder
    table = core.table
    quick_modes = core.engine.quick_modes(figures.now)
    main_modes = core.engine.main_modes(figures.now)
    up = sum(1 for one in main_modes if one.established)
    ike = core.ike_statistics
    associations = core.associations()
    tunnels = sum(
        1 for (way, _), sa in associations.items() if way is Direction.INBOUND and sa.mode is Mode.TUNNEL
    )
    rules, rules_left_out = _rules(core, quick_modes)
    peers, peers_left_out = _peers(recorder, quick_modes)
    actions = Counter(entry.action for entry in table.filters)
    refusal = figures.refusal
    totals = figures.totals
    values: dict[str, Rows] = {
        "stockade_agent_info": {(figures.version, figures.driver): 1},
        "stockade_start_time_seconds": {(): figures.started},
        "stockade_policy_info": {(table.policy_name or "",): 1},
        "stockade_policy_refused": {(refusal.code.word if refusal else "",): 1 if refusal else 0},
        "stockade_boot_filters": {(): int(figures.boot_filters)},
        "stockade_filters": {(action.value,): actions[action] for action in Action},
        "stockade_rule_configured": dict.fromkeys(rules, 1),
        "stockade_rule_up": dict(rules),
        "stockade_rule_packets_total": dict(_rule_packets(core, statistics)),
        "stockade_peer_up": dict(peers),
        "stockade_rows_left_out": {(): rules_left_out + peers_left_out},
        "stockade_main_modes": {("established",): up, ("negotiating",): len(main_modes) - up},
        "stockade_quick_modes": {(): len(quick_modes)},
        "stockade_tunnels": {(): tunnels},
        "stockade_soft_associations": {(): len(core.soft_associations)},
        "stockade_known_quick_modes": {(): len(core.known_peers.all())},
        "stockade_events_total": dict(recorder.events.items()),
        "stockade_handshake_seconds": dict(recorder.handshakes.items()),
        "stockade_reconnect_seconds": {(cause,): row for cause, row in recorder.reconnects.items()},
        "stockade_ike_total": {(name,): value for name, value in ike.items() if name not in ACTIVE},
        "stockade_ike_active": {(name,): value for name, value in ike.items() if name in ACTIVE},
        "stockade_packets_refused_total": {(word,): count for word, count in statistics.refused},
        "stockade_packets_held": {(): statistics.held_packets},
        "stockade_sa_packets_total": {(way.value,): totals.packets[way] for way in Direction},
        "stockade_sa_bytes_total": {(way.value,): totals.bytes[way] for way in Direction},
        "stockade_sa_class_bytes_total": {
            (name, way.value): count for (name, way), count in totals.by_class.items()
        },
        "stockade_offload": {(name,): int(there) for name, there in figures.offloads.items()},
        "stockade_domain_policy_age_seconds": {(figures.domain[0],): figures.domain[1]}
        if figures.domain
        else {},
        "stockade_cluster_member_alive": {(name,): int(alive) for name, alive in figures.cluster.items()},
        "stockade_cluster_holds": {(address,): 1 for address in figures.holds},
        "stockade_events_left_out_total": {(): figures.events_left_out},
    }
    assert values.keys() == BY_NAME.keys()
    return values


def _rules(core: HostCore, quick_modes: tuple[QuickModeView, ...]) -> tuple[dict[Labels, int], int]:
    """How many quick modes are up for each rule and peer that the policy wants secured, and how many rows
    are too many."""
    found: dict[Labels, int] = {}
    left_out: set[Labels] = set()
    row_of: dict[str, Labels] = {}
    for entry in core.compiled.filters:
        if entry.action is not Action.NEGOTIATE or entry.direction is not Direction.OUTBOUND:
            continue
        row = row_of[entry.id] = (*_rule(entry), _peer(core, entry))
        if row in found:
            continue
        if len(found) < MAXIMUM_ROWS:
            found[row] = 0
        else:
            left_out.add(row)
    for view in quick_modes:
        # an SA of an inbound filter, or of a tunnel's other rule: by what would send through it
        made_by = row_of.get(view.filter_id) or _row_of_view(core, view)
        if made_by in found:
            found[made_by] += 1
    return found, len(left_out)


def _row_of_view(core: HostCore, view: QuickModeView) -> Labels | None:
    for entry in core.compiled.about(
        view.selector.source.first, view.selector.destination.first, Direction.OUTBOUND
    ):
        if entry.action is Action.NEGOTIATE and entry.negotiation == view.negotiation:
            return (*_rule(entry), _peer(core, entry))
    return None


def _rule(entry: SpecificFilter) -> Labels:
    return entry.provenance.store, entry.provenance.policy, entry.provenance.rule


def _peer(core: HostCore, entry: SpecificFilter) -> str:
    """The other end of a tunnel, else whom the filter is about."""
    negotiation = core.compiled.negotiations.get(entry.negotiation or "")
    endpoint = negotiation.quick_mode.tunnel_endpoint if negotiation is not None else None
    if endpoint is not None:
        return str(endpoint)
    destination = entry.selector.destination
    return "any" if destination.is_everything else str(destination)


def _rule_packets(core: HostCore, statistics: DriverStatistics) -> Counter[Labels]:
    found: Counter[Labels] = Counter()
    for counted in statistics.filters:
        entry = core.table.by_id(counted.filter_id)
        if entry is not None and counted.packets:
            row = (*_rule(entry), entry.action.value)
            if row in found or len(found) < MAXIMUM_ROWS:
                found[row] += counted.packets
    return found


def _peers(recorder: Recorder, quick_modes: tuple[QuickModeView, ...]) -> tuple[dict[Labels, int], int]:
    up = Counter(str(view.peer) for view in quick_modes)
    names = [*recorder.peers, *(name for name in up if name not in recorder.peers)]
    kept = names[max(0, len(names) - MAXIMUM_ROWS) :]
    return {(name,): up[name] for name in kept}, len(names) - len(kept)
