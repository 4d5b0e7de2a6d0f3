"""Every metric, as a table: what `/metrics` says and the manual's page both come from it. Pure."""

from dataclasses import dataclass
from enum import StrEnum


class MetricType(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """`name` is the one that Prometheus shows (`_total` for counters); units are base units."""

    name: str
    type: MetricType
    meaning: str
    labels: tuple[str, ...] = ()


_COUNTER, _GAUGE, _HISTOGRAM = MetricType.COUNTER, MetricType.GAUGE, MetricType.HISTOGRAM
RULE = ("store", "policy", "rule", "peer")

METRICS = (
    Metric("stockade_agent_info", _GAUGE, "1; what runs", ("version", "driver")),
    Metric("stockade_start_time_seconds", _GAUGE, "when the agent started, since 1970"),
    Metric("stockade_policy_info", _GAUGE, "1; the policy in force (none: empty)", ("policy",)),
    Metric("stockade_policy_refused", _GAUGE, "1 while the newest policy is not in force", ("reason",)),
    Metric("stockade_boot_filters", _GAUGE, "1 while boot filters hold because no policy is in force"),
    Metric("stockade_filters", _GAUGE, "specific filters in force", ("action",)),
    Metric(
        "stockade_rule_configured",
        _GAUGE,
        "1 for every peer (address, network or any) that a rule wants secured",
        RULE,
    ),
    Metric("stockade_rule_up", _GAUGE, "quick modes up by that rule with that peer; 0: down", RULE),
    Metric(
        "stockade_rule_packets_total",
        _COUNTER,
        "packets that a rule's filters decided on, since the table was installed",
        ("store", "policy", "rule", "action"),
    ),
    Metric(
        "stockade_peer_up",
        _GAUGE,
        "quick modes up with a peer that had one since the agent's start or before; 0: down",
        ("peer",),
    ),
    Metric("stockade_rows_left_out", _GAUGE, "rows of rules and peers that are too many to be told"),
    Metric("stockade_main_modes", _GAUGE, "main modes", ("state",)),
    Metric("stockade_quick_modes", _GAUGE, "pairs of IPsec SAs"),
    Metric("stockade_tunnels", _GAUGE, "pairs of IPsec SAs in tunnel mode"),
    Metric("stockade_soft_associations", _GAUGE, "peers with which traffic passes in clear (soft)"),
    Metric("stockade_known_quick_modes", _GAUGE, "quick modes that a restart would negotiate anew"),
    Metric(
        "stockade_events_total", _COUNTER, "events since the start, by kind and reason", ("kind", "reason")
    ),
    Metric(
        "stockade_handshake_seconds",
        _HISTOGRAM,
        "how long main and quick modes took that came up",
        ("phase", "role"),
    ),
    Metric(
        "stockade_reconnect_seconds",
        _HISTOGRAM,
        "from the loss of a quick mode (noticed, or the agent's start) until it was up again",
        ("cause",),
    ),
    Metric(
        "stockade_ike_total",
        _COUNTER,
        "the counters of netsh ipsec dynamic show stats type=ike, since the start",
        ("counter",),
    ),
    Metric("stockade_ike_active", _GAUGE, "those of them that go up and down", ("counter",)),
    Metric("stockade_packets_refused_total", _COUNTER, "packets that were dropped", ("reason",)),
    Metric("stockade_packets_held", _GAUGE, "packets that wait for an SA"),
    Metric("stockade_sa_packets_total", _COUNTER, "packets through SAs", ("direction",)),
    Metric("stockade_sa_bytes_total", _COUNTER, "bytes through SAs", ("direction",)),
    Metric(
        "stockade_sa_class_bytes_total",
        _COUNTER,
        "the same by what Windows distinguishes: confidential, authenticated, transport, tunnel",
        ("class", "direction"),
    ),
    Metric("stockade_offload", _GAUGE, "1 where the data plane may use it", ("offload",)),
    Metric("stockade_domain_policy_age_seconds", _GAUGE, "since the domain's policy was read", ("domain",)),
    Metric("stockade_cluster_member_alive", _GAUGE, "1 for each other node that is heard", ("node",)),
    Metric("stockade_cluster_holds", _GAUGE, "1 for each virtual address that this node has", ("address",)),
    Metric("stockade_events_left_out_total", _COUNTER, "events that the disk was too slow to index"),
)
BY_NAME = {metric.name: metric for metric in METRICS}

ACTIVE = frozenset(
    {
        "active_acquire",
        "active_receive",
        "active_quick_modes",
        "isadb_list_size",
        "acquire_heap_size",
        "receive_heap_size",
        "connection_list_size",
    }
)
"""Of the IKE statistics, those that are no counters."""
