"""The filter table as XFRM policies, and the way from one table to the next. Pure: no system is touched.

    permit      allow, no template            block      block
    negotiate   allow, template ESP or AH (or ESP and AH around it) with the request id of its negotiation;
                inbound with `accept_clear` the template is optional: what comes in clear passes too; inbound
                by a tunnel a second one for packets that are forwarded

A filter is one policy per pair of prefixes. The order of the table is the order of the priorities (a smaller
number is looked at earlier). The kernel knows no second policy with the same selector in the same direction;
the table has no use for one either, since the first match wins.

XFRM has no transactions. `steps_between` therefore orders the single changes so that after each of them every
packet meets the verdict of the old table or that of the new one, never a third:

* What both tables have keeps its priority, if the order of those is the same in both. New policies are added
  between them, heaviest first, changed ones replaced in their place; then what only the old table has goes,
  lightest first.
* Otherwise (or where no number is free between two) the old policies first move behind a border, lightest
  first, which keeps their order; the new table is then written before the border, heaviest first; then the
  rest goes.

Ours are told from those of other programs by a tag where the kernel keeps numbers that it does not look at:
the hard limit in packets says STOCKADE, the soft one is the id of the filter. So they are known again after a
restart, and an acquire names its filter."""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from enum import StrEnum
from hashlib import sha256
from ipaddress import IPv6Address
from typing import Final

from stockade.model.addresses import AddressRange, Network
from stockade.model.capabilities import Capabilities
from stockade.model.filters import Action, Direction, FilterTable, SpecificFilter
from stockade.model.negotiation import Mode, Negotiation
from stockade.model.reasons import ReasonCode, error_for
from stockade.model.traffic import AH, ESP
from stockade.wire.xfrm import (
    Limits,
    Policy,
    PolicyAction,
    PolicyDirection,
    Template,
    XfrmMode,
    XfrmSelector,
)

OWNER: Final = int.from_bytes(b"STOCKADE", "big")
FIRST_PRIORITY: Final = 0x400
"""Of a table that is written anew; filters that come before it later find room below."""

BORDER: Final = 0x8000_0000
LAST_PRIORITY: Final = 0xFFFF_0000
STEP: Final = 16
"""Between two priorities, so that filters can be added without moving the others."""

REQUEST_ID_BASE: Final = 0x5100_0000
_REQUEST_ID_MASK: Final = 0x00FF_FFFF
FEW_CHANGES: Final = 64
MAXIMUM_PIECES: Final = 4096
"""Policies that one filter may become; ranges that are worse are refused."""

DIRECTIONS: Final = {
    Direction.INBOUND: PolicyDirection.IN,
    Direction.OUTBOUND: PolicyDirection.OUT,
}
MODES: Final = {Mode.TRANSPORT: XfrmMode.TRANSPORT, Mode.TUNNEL: XfrmMode.TUNNEL}

Key = tuple[PolicyDirection, XfrmSelector]


class Change(StrEnum):
    ADD = "add"
    REPLACE = "replace"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Step:
    """One request to the kernel. The key (direction and selector) of the policy says which one is meant."""

    change: Change
    policy: Policy


def key_of(policy: Policy) -> Key:
    return policy.direction, policy.selector


def is_ours(policy: Policy) -> bool:
    return policy.limits.hard_packets == OWNER


def filter_id_of(policy: Policy) -> str:
    """The id of the filter that became this policy of ours."""
    return f"{policy.limits.soft_packets:016x}"


def request_ids(names: Sequence[str], known: Mapping[str, int]) -> dict[str, int]:
    """A number for each negotiation, by which SAs find their policies: steady over tables (`known`) and, but
    for collisions, over restarts."""
    found = {name: known[name] for name in names if name in known}
    taken = set(known.values())
    for name in names:
        if name in found:
            continue
        number = int.from_bytes(sha256(name.encode("utf-8", "surrogatepass")).digest()[:4], "big")
        while (request_id := REQUEST_ID_BASE | number & _REQUEST_ID_MASK) in taken:
            number += 1
        found[name] = request_id
        taken.add(request_id)
    return found


def policies_of(
    table: FilterTable,
    ids: Mapping[str, int],
    capabilities: Capabilities,
    doubles: list[Policy] | None = None,
) -> list[Policy]:
    """The policies of a table, heaviest first, without priorities. `CallerError(DRIVER_LACKS)` names the rule
    that the kernel cannot express. `doubles` takes those that say the same as another one before them."""
    seen: set[Key] = set()
    policies = []
    for entry in table.filters:
        for policy in policies_of_filter(entry, table, ids, capabilities):
            if key_of(policy) not in seen:
                seen.add(key_of(policy))
                policies.append(policy)
            elif doubles is not None:
                doubles.append(policy)
    return policies


def policies_of_filter(
    entry: SpecificFilter, table: FilterTable, ids: Mapping[str, int], capabilities: Capabilities
) -> Iterator[Policy]:
    """What one filter becomes."""
    negotiation = table.negotiations[entry.negotiation] if entry.negotiation is not None else None
    templates: tuple[Template, ...] = ()
    directions: tuple[PolicyDirection, ...] = (DIRECTIONS[entry.direction],)
    if negotiation is not None:
        if negotiation.quick_mode.mode is Mode.TUNNEL and entry.direction is Direction.INBOUND:
            # What comes out of a tunnel for another host, or pretends to, is looked at there.
            directions = (PolicyDirection.IN, PolicyDirection.FORWARD)
            negotiation = _answered_by(entry, table) or negotiation
        templates = _templates(entry, negotiation, ids, capabilities)
    for selector in _selectors(entry, capabilities):
        for direction in directions:
            yield Policy(
                selector,
                direction,
                PolicyAction.BLOCK if entry.action is Action.BLOCK else PolicyAction.ALLOW,
                0,
                templates,
                Limits(soft_packets=int(entry.id, 16), hard_packets=OWNER),
            )


def has_tunnels(table: FilterTable) -> bool:
    return any(negotiation.quick_mode.mode is Mode.TUNNEL for negotiation in table.negotiations.values())


def _answered_by(entry: SpecificFilter, table: FilterTable) -> Negotiation | None:
    """The negotiation of the tunnel by which an answer to what this filter lets in would leave.

    Windows has one rule for each direction of a tunnel: the inbound one's end point is our own address and
    names no peer, and the SAs are made for the outbound one."""
    answer = entry.selector.reversed()
    for other in table.filters:
        if other.direction is Direction.OUTBOUND and other.selector == answer:
            found = table.negotiations.get(other.negotiation or "")
            return found if found is not None and found.quick_mode.mode is Mode.TUNNEL else None
    return None


def loopback_policies(addresses: Sequence[IPv6Address], interface: int) -> list[Policy]:
    """Policies that leave loopback alone over IPv6: the kernel looks at policies there, other than over IPv4.

    Outbound whatever goes to an address of our own; inbound what comes by the loopback interface, for a
    packet from the wire can bear any source."""
    everything = next(AddressRange.everything(6).networks())
    limits = Limits(soft_packets=0, hard_packets=OWNER)

    def permit(destination: Network, direction: PolicyDirection, number: int) -> Policy:
        selector = XfrmSelector(everything, destination, interface=number)
        return Policy(selector, direction, PolicyAction.ALLOW, 0, limits=limits)

    hosts = [next(AddressRange.host(address).networks()) for address in addresses]
    return [
        permit(everything, PolicyDirection.IN, interface),
        *(permit(host, PolicyDirection.OUT, 0) for host in hosts),
    ]


def steps_between(current: Sequence[Policy], wanted: Sequence[Policy]) -> list[Step]:
    """What to do, in this order. `current`: ours in the kernel, in any order; `wanted`: as from
    `policies_of`."""
    steps: list[Step] = []
    for direction in PolicyDirection:
        mine = sorted(
            (policy for policy in current if policy.direction is direction),
            key=lambda policy: policy.priority,
        )
        steps += _steps(mine, [policy for policy in wanted if policy.direction is direction])
    return steps


def few_steps(
    installed: Mapping[Key, Policy],
    by_filter: Mapping[str, Sequence[Policy]],
    old: FilterTable,
    new: FilterTable,
    ids: Mapping[str, int],
    capabilities: Capabilities,
) -> list[Step] | None:
    """`steps_between` where few filters came or went, without a look at the others: every filter of `old` has
    all its policies in `installed` (`by_filter`: by its id). None where that is not so simple."""
    changes = new.since(old)
    if has_tunnels(old) or has_tunnels(new):
        return None  # a filter of a tunnel depends on another one, and is in two directions
    if changes.reordered or len(changes.came) + len(changes.went) > FEW_CHANGES:
        return None
    gone = [policy for entry_id in changes.went for policy in by_filter.get(entry_id, ())]
    taken = {policy.priority for policy in gone}
    placed: dict[str, list[Policy]] = {}
    steps: list[Step] = []
    keys: set[Key] = set()
    for number, entry in enumerate(new.filters):
        if entry.id not in changes.came:
            continue
        made = list(policies_of_filter(entry, new, ids, capabilities))
        if keys & {*map(key_of, made)} or any(key_of(policy) in installed for policy in made):
            return None
        keys.update(map(key_of, made))
        priorities = _between(number, new, placed, by_filter, len(made), taken)
        if priorities is None:
            return None
        placed[entry.id] = [
            replace(policy, priority=priority) for policy, priority in zip(made, priorities, strict=True)
        ]
        steps += [Step(Change.ADD, policy) for policy in placed[entry.id]]
    gone.sort(key=lambda policy: policy.priority, reverse=True)
    return steps + [Step(Change.REMOVE, policy) for policy in gone]


def _between(
    number: int,
    table: FilterTable,
    placed: Mapping[str, Sequence[Policy]],
    by_filter: Mapping[str, Sequence[Policy]],
    count: int,
    taken: Set[int],
) -> list[int] | None:
    """Priorities for the policies of a filter, between those of its neighbours in the same direction."""
    filters = table.filters
    direction = filters[number].direction

    def neighbour(way: range) -> Sequence[Policy] | None:
        for position in way:
            entry = filters[position]
            if entry.direction is direction and (entry.id in placed or entry.id in by_filter):
                return placed.get(entry.id) or by_filter[entry.id]
        return None

    before = neighbour(range(number - 1, -1, -1))
    behind = neighbour(range(number + 1, len(filters)))
    last = before[-1].priority if before else 0
    end = behind[0].priority if behind else BORDER if last < BORDER else LAST_PRIORITY
    step = max(1, (end - last) // (count + 1)) if behind else STEP
    start = last if before or behind else FIRST_PRIORITY - STEP
    priorities: list[int] = []
    for position in range(count):
        last = max(last + 1, start + step * (position + 1))
        while last in taken:
            last += 1
        if last >= end:
            return None
        priorities.append(last)
    return priorities


def _steps(current: list[Policy], wanted: list[Policy]) -> list[Step]:
    priorities = _fitting_priorities({key_of(policy): policy.priority for policy in current}, wanted)
    steps: list[Step] = []
    if priorities is None:
        current = _behind_border(current, steps)
        priorities = [FIRST_PRIORITY + STEP * position for position in range(len(wanted))]
    now = {key_of(policy): replace(policy, index=0) for policy in current}
    for policy, priority in zip(wanted, priorities, strict=True):
        new = replace(policy, priority=priority)
        old = now.get(key_of(new))
        if old is None:
            steps.append(Step(Change.ADD, new))
        elif old != new:
            steps.append(Step(Change.REPLACE, new))
    wanted_keys = {key_of(policy) for policy in wanted}
    steps += [
        Step(Change.REMOVE, policy) for policy in reversed(current) if key_of(policy) not in wanted_keys
    ]
    return steps


def _fitting_priorities(current: Mapping[Key, int], wanted: Sequence[Policy]) -> list[int] | None:
    """A priority for each wanted policy, in which those that are there keep theirs; None where that cannot
    be.

    No number is given that any of the current ones has: two of one priority would have no order."""
    taken = set(current.values())
    priorities: list[int] = []
    waiting = 0
    last = 0
    for policy in [*wanted, None]:
        kept = current.get(key_of(policy)) if policy is not None else None
        if policy is not None and kept is None:
            waiting += 1
            continue
        if kept is not None and kept <= last:
            return None
        end = kept if kept is not None else BORDER if last < BORDER else LAST_PRIORITY
        step = max(1, (kept - last) // (waiting + 1)) if kept is not None else STEP
        start = last if last or kept is not None else FIRST_PRIORITY - STEP
        for position in range(waiting):
            last = max(last + 1, start + step * (position + 1))
            while last in taken:
                last += 1
            if last >= end:
                return None
            priorities.append(last)
        if kept is not None:
            priorities.append(kept)
            last, waiting = kept, 0
    return priorities


def _behind_border(current: list[Policy], steps: list[Step]) -> list[Policy]:
    """Move the policies behind the border, lightest first: each goes to a larger number, and none overtakes
    another."""
    moved = []
    for position in reversed(range(len(current))):
        policy = current[position]
        target = max(policy.priority, LAST_PRIORITY - STEP * (len(current) - position))
        if target != policy.priority:
            policy = replace(policy, priority=target, index=0)
            steps.append(Step(Change.REPLACE, policy))
        moved.append(policy)
    moved.reverse()
    return moved


def _selectors(entry: SpecificFilter, capabilities: Capabilities) -> Iterator[XfrmSelector]:
    selector = entry.selector
    sources, destinations = list(selector.source.networks()), list(selector.destination.networks())
    if len(sources) * len(destinations) > MAXIMUM_PIECES:
        raise error_for(
            ReasonCode.DRIVER_LACKS,
            f"the {capabilities.name} data plane would need {len(sources) * len(destinations)} policies "
            f"for one filter; the limit is {MAXIMUM_PIECES}",
            rule=entry.provenance.rule,
        )
    for source in sources:
        for destination in destinations:
            yield XfrmSelector(
                source,
                destination,
                selector.protocol,
                selector.source_port,
                selector.destination_port,
            )


def _templates(
    entry: SpecificFilter, negotiation: Negotiation, ids: Mapping[str, int], capabilities: Capabilities
) -> tuple[Template, ...]:
    """One, or for AH over ESP two, the inner one first: the tunnel is that of ESP, AH goes around it in
    transport mode."""
    quick_mode = negotiation.quick_mode
    kinds = {(proposal.esp is not None, proposal.ah is not None) for proposal in quick_mode.proposals}
    if len(kinds) > 1:
        # A template names one protocol, and must be there always: one that may be missing would let ESP that
        # relies on the AH around it in without.
        what = "choice between AH and ESP"
        if (True, True) in kinds:
            what = "choice between AH with ESP and either alone"
        raise error_for(
            ReasonCode.DRIVER_LACKS,
            f"the {capabilities.name} data plane has no {what}",
            rule=entry.provenance.rule,
        )
    ((has_esp, has_ah),) = kinds
    outbound = entry.direction is Direction.OUTBOUND
    end = quick_mode.tunnel_endpoint
    inner = Template(
        protocol=ESP if has_esp else AH,
        mode=MODES[quick_mode.mode],
        request_id=ids[negotiation.name],
        version=entry.selector.version if end is None else end.version,
        source=None if outbound else end,  # the peer's; None is any
        destination=end if outbound else None,
        optional=entry.accept_clear and not outbound,
    )
    if not (has_esp and has_ah):
        return (inner,)
    outer = replace(inner, protocol=AH, mode=XfrmMode.TRANSPORT, source=None, destination=None)
    return inner, outer
