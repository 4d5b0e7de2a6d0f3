"""The dynamic store's objects (`netsh ipsec dynamic`): what takes effect at once and is gone with the
service.

A dynamic rule is one filter with two policies by name and one action for each direction:

    DynamicRule ─ filter, action inbound, action outbound, authentication, tunnel, connection type
       ├ MainModePolicyObject    mmpolicy: main-mode methods, lifetime, quick modes per main mode
       └ QuickModePolicyObject   qmpolicy: quick-mode methods, soft, group of perfect forward secrecy

The compiler puts these rules into the same table as those of the other stores, with the same weights and
the same way to settle conflicts. Inbound *permit* beside outbound *negotiate* is what Windows calls inbound
pass-through: clear packets are let in and the answer is secured.

Here also is what the default response rule makes while it is in use (`response_filters`): filters for the
traffic that a peer asked for, kept by the agent as long as their SAs live.
"""

from bisect import insort
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from uuid import UUID, uuid4

from stockade.model.addresses import Address
from stockade.model.filters import Action, Direction, FilterTable, Provenance, SpecificFilter
from stockade.model.negotiation import (
    DEFAULT_MAIN_MODE_PROPOSALS,
    AuthenticationMethod,
    Kerberos,
    Negotiation,
    QuickModeMatch,
)
from stockade.model.suites import Group, MainModeProposal, QuickModeProposal
from stockade.model.traffic import TrafficSelector, protocol_name
from stockade.policy.objects import (
    DEFAULT_MAIN_MODE_MINUTES,
    DEFAULT_QUICK_MODE_PROPOSALS,
    DEFAULT_RESPONSE_ACTION,
    DYNAMIC_FILTER_LIST,
    ConnectionType,
    Filter,
    now,
)
from stockade.policy.specific import make_filter, table_order

DYNAMIC_STORE = "dynamic"


class PfsGroup(StrEnum):
    """`pfsgroup` of a quick-mode policy: no new Diffie-Hellman exchange, one in a given group, or in the
    group of main mode."""

    NOPFS = "nopfs"
    GRP1 = "grp1"
    GRP2 = "grp2"
    GRP3 = "grp3"
    GRPMM = "grpmm"

    @property
    def group(self) -> Group | None:
        """The group where one is given."""
        return {
            PfsGroup.GRP1: Group.MODP_768,
            PfsGroup.GRP2: Group.MODP_1024,
            PfsGroup.GRP3: Group.MODP_2048,
        }.get(self)


@dataclass(frozen=True, slots=True)
class MainModePolicyObject:
    """`mmpolicy`. Lifetimes in minutes; `quick_modes_per_main_mode` 0 means no limit."""

    name: str
    methods: tuple[MainModeProposal, ...] = DEFAULT_MAIN_MODE_PROPOSALS
    main_mode_minutes: int = DEFAULT_MAIN_MODE_MINUTES
    quick_modes_per_main_mode: int = 0
    soft_expiration_minutes: int = DEFAULT_MAIN_MODE_MINUTES
    guid: UUID = field(default_factory=uuid4)
    modified: datetime = field(default_factory=now)

    def __post_init__(self) -> None:
        if not self.methods:
            raise ValueError("a main-mode policy needs at least one security method")
        if self.main_mode_minutes < 1 or self.soft_expiration_minutes < 1:
            raise ValueError("lifetimes must be at least one minute")
        if self.quick_modes_per_main_mode < 0:
            raise ValueError("quick modes per main mode must be 0 (no limit) or more")


@dataclass(frozen=True, slots=True)
class QuickModePolicyObject:
    """`qmpolicy`."""

    name: str
    methods: tuple[QuickModeProposal, ...] = DEFAULT_QUICK_MODE_PROPOSALS
    soft: bool = False
    pfs_group: PfsGroup = PfsGroup.NOPFS
    guid: UUID = field(default_factory=uuid4)
    modified: datetime = field(default_factory=now)

    def __post_init__(self) -> None:
        if not self.methods:
            raise ValueError("a quick-mode policy needs at least one security method")


@dataclass(frozen=True, slots=True)
class DynamicRule:
    """`rule` of the dynamic store: it has no name, its filter, tunnel and connection type tell it apart
    (`same_rule`). A tunnel rule is never mirrored: one rule for each direction."""

    filter: Filter
    main_mode_policy: str
    quick_mode_policy: str = ""
    action_inbound: Action = Action.NEGOTIATE
    action_outbound: Action = Action.NEGOTIATE
    authentication: tuple[AuthenticationMethod, ...] = (Kerberos(),)
    tunnel_endpoint: Address | None = None
    connection_type: ConnectionType = ConnectionType.ALL
    guid: UUID = field(default_factory=uuid4)
    modified: datetime = field(default_factory=now)

    def __post_init__(self) -> None:
        if self.tunnel_endpoint is not None and self.filter.mirrored:
            object.__setattr__(self, "filter", replace(self.filter, mirrored=False))
        if self.negotiates and not self.quick_mode_policy:
            raise ValueError("a rule that negotiates needs a quick-mode policy")

    @property
    def negotiates(self) -> bool:
        return Action.NEGOTIATE in (self.action_inbound, self.action_outbound)

    @property
    def name(self) -> str:
        """The rule in words, for explanations: dynamic rules have no names of their own."""
        traffic = self.filter
        parts = [f"{traffic.source} to {traffic.destination}"]
        if traffic.protocol:
            parts.append(protocol_name(traffic.protocol))
        if traffic.source_port:
            parts.append(f"source port {traffic.source_port}")
        if traffic.destination_port:
            parts.append(f"destination port {traffic.destination_port}")
        if self.tunnel_endpoint is not None:
            parts.append(f"tunnel to {self.tunnel_endpoint}")
        if self.connection_type is not ConnectionType.ALL:
            parts.append(f"{self.connection_type} only")
        return ", ".join(parts)

    def same_rule(self, other: "DynamicRule") -> bool:
        """Whether the two are one rule for `set rule` and `delete rule`."""
        return (
            self.filter.same_traffic(other.filter)
            and self.tunnel_endpoint == other.tunnel_endpoint
            and self.connection_type is other.connection_type
        )


@dataclass(frozen=True, slots=True)
class DynamicSet:
    """Everything that the dynamic store holds. Names are case-insensitive."""

    main_mode_policies: tuple[MainModePolicyObject, ...] = ()
    quick_mode_policies: tuple[QuickModePolicyObject, ...] = ()
    rules: tuple[DynamicRule, ...] = ()

    def main_mode_policy(self, name: str) -> MainModePolicyObject | None:
        return next((one for one in self.main_mode_policies if one.name.casefold() == name.casefold()), None)

    def quick_mode_policy(self, name: str) -> QuickModePolicyObject | None:
        return next((one for one in self.quick_mode_policies if one.name.casefold() == name.casefold()), None)


# ---- the default response rule while it is in use


def response_filters(
    negotiation: Negotiation, requested: TrafficSelector
) -> tuple[SpecificFilter, SpecificFilter]:
    """The temporary filters, outbound and inbound, for traffic that the default response rule secures.
    `requested` is outbound as this computer sees it. A peer that asks for this traffic again gets the same
    two.

    Their weight is 0, below every written filter: what no filter speaks of is secured, but a peer that asks
    for all traffic between the two hosts does not get past a filter that blocks a part of it."""
    store, _, rest = negotiation.name.partition("/")
    policy = rest.removesuffix(f"/{DEFAULT_RESPONSE_ACTION}")
    made = []
    for direction, selector in (
        (Direction.OUTBOUND, requested),
        (Direction.INBOUND, requested.reversed()),
    ):
        made.append(
            make_filter(
                selector,
                direction,
                Action.NEGOTIATE,
                0,
                Provenance(
                    store,
                    policy,
                    DEFAULT_RESPONSE_ACTION,
                    DYNAMIC_FILTER_LIST,
                    filter_action=DEFAULT_RESPONSE_ACTION,
                    mirrored=direction is Direction.INBOUND,
                    description="made for a peer that asked for security",
                ),
                negotiation=negotiation.name,
            )
        )
    return made[0], made[1]


def with_responses(table: FilterTable, matches: Iterable[QuickModeMatch]) -> FilterTable:
    """The table with the temporary filters of these matches of the default response rule. A match whose
    negotiation the table does not have any more is passed over: its policy is gone."""
    known = {entry.id for entry in table.filters}
    more = []
    for match in matches:
        if not match.dynamic or table.negotiations.get(match.negotiation.name) != match.negotiation:
            continue
        for entry in response_filters(match.negotiation, match.selector):
            if entry.id not in known:
                known.add(entry.id)
                more.append(entry)
    if not more:
        return table
    filters = list(table.filters)
    for entry in more:
        insort(filters, entry, key=table_order)
    made = replace(table, filters=tuple(filters))
    made.prepare(table)
    return made
