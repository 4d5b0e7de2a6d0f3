"""What the commands of `netsh ipsec dynamic` share: their parameters, and finding and building objects."""

from collections.abc import Iterable
from dataclasses import replace

from stockade.model.addresses import Address
from stockade.model.filters import Action
from stockade.model.reasons import ReasonCode, StockadeError, error_for
from stockade.netsh.config import DYNAMIC
from stockade.netsh.grammar import Arguments, Parameter
from stockade.netsh.session import Session
from stockade.netsh.static_common import (
    CONNECTION_TYPE,
    DESTINATION,
    DESTINATION_MASK,
    DESTINATION_PORT,
    MIRRORED,
    PROTOCOL_,
    SOURCE,
    SOURCE_MASK,
    SOURCE_PORT,
    by_name,
    filter_from,
    tunnel_endpoint,
)
from stockade.netsh.values import MAXIMUM_COUNT, NAME, TUNNEL_ENDPOINT, YES_NO, choice, number
from stockade.policy.dynamic import (
    DynamicRule,
    DynamicSet,
    MainModePolicyObject,
    PfsGroup,
    QuickModePolicyObject,
)
from stockade.policy.objects import ConnectionType, Filter

__all__ = ["DYNAMIC"]

SOFT_EXPIRATION = Parameter(
    "softsaexpirationtime",
    number(1, MAXIMUM_COUNT, "<minutes>", "minutes"),
    "minutes until a soft SA (clear traffic) ends",
    default_text="480",
)
PFS_GROUP = Parameter(
    "pfsgroup",
    choice(PfsGroup, "GRP1|GRP2|GRP3|GRPMM|NOPFS"),
    "group of the Diffie-Hellman exchange in each quick mode; GRPMM is that of main mode",
    default_text="NOPFS",
)
SOFT = Parameter("soft", YES_NO, "fall back to clear with computers that have no IPsec", default_text="no")
MAIN_MODE_POLICY = Parameter("mmpolicy", NAME, "name of the main-mode policy", required=True)
QUICK_MODE_POLICY = Parameter("qmpolicy", NAME, "name of the quick-mode policy, for a rule that negotiates")
ACTION_INBOUND = Parameter(
    "actioninbound", choice(Action), "what happens to inbound packets", default_text="negotiate"
)
ACTION_OUTBOUND = Parameter(
    "actionoutbound", choice(Action), "what happens to outbound packets", default_text="negotiate"
)
TUNNEL = Parameter("tunneldstaddress", TUNNEL_ENDPOINT, "other end of the tunnel; without it transport mode")
IDENTIFYING: tuple[Parameter[object], ...] = (
    SOURCE,
    DESTINATION,
    PROTOCOL_,
    SOURCE_PORT,
    DESTINATION_PORT,
    MIRRORED,
    CONNECTION_TYPE,
    SOURCE_MASK,
    DESTINATION_MASK,
    TUNNEL,
)


def main_mode_policy_named(objects: DynamicSet, name: str) -> MainModePolicyObject:
    return by_name("main-mode policy", name, objects.main_mode_policies)


def quick_mode_policy_named(objects: DynamicSet, name: str) -> QuickModePolicyObject:
    return by_name("quick-mode policy", name, objects.quick_mode_policies)


def require_new_name(kind: str, name: str, names: Iterable[str]) -> None:
    for other in names:
        if other.casefold() == name.casefold():
            raise error_for(ReasonCode.NAME_EXISTS, f"there is a {kind} “{other}” already", store="dynamic")


def tunnel_from(session: Session, arguments: Arguments) -> Address | None:
    """The end point that `tunneldstaddress=` names; a name is looked up now."""
    return tunnel_endpoint(session, arguments.get(TUNNEL))


def identified(session: Session, arguments: Arguments) -> tuple[Filter, Address | None, ConnectionType]:
    """The fields that tell a dynamic rule apart. A tunnel rule is never mirrored."""
    tunnel = tunnel_from(session, arguments)
    traffic = replace(filter_from(arguments), origin=session.origin)
    if tunnel is not None:
        traffic = replace(traffic, mirrored=False)
    return traffic, tunnel, arguments.get_or(CONNECTION_TYPE, ConnectionType.ALL)


def chosen_rule(
    objects: DynamicSet, traffic: Filter, tunnel: Address | None, connection_type: ConnectionType
) -> DynamicRule:
    """The rule with these fields; UNKNOWN_NAME where there is none."""
    found = find_rule(objects, traffic, tunnel, connection_type)
    if found is None:
        raise error_for(
            ReasonCode.UNKNOWN_NAME,
            "no dynamic rule has the same addresses, protocol, ports, mirroring, connection type and tunnel",
            rules=len(objects.rules),
        )
    return found


def find_rule(
    objects: DynamicSet, traffic: Filter, tunnel: Address | None, connection_type: ConnectionType
) -> DynamicRule | None:
    for rule in objects.rules:
        if (
            rule.filter.same_traffic(traffic)
            and rule.tunnel_endpoint == tunnel
            and rule.connection_type is connection_type
        ):
            return rule
    return None


def in_use(kind: str, name: str, rule: DynamicRule) -> StockadeError:
    return error_for(
        ReasonCode.IN_USE, f"{kind} “{name}” is used by the dynamic rule {rule.name}", rule=rule.name
    )
