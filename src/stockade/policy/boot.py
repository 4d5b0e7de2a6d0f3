"""What holds before a policy does: boot modes, boot exemptions, and the way from boot to policy without a
gap.

| mode     | outbound                     | inbound                                   |
| -------- | ---------------------------- | ----------------------------------------- |
| permit   | passes                       | passes                                    |
| block    | exemptions, DHCP             | exemptions, DHCP, answers                 |
| stateful | passes                       | exemptions, DHCP, answers                 |

An *answer* belongs to a conversation whose first packet was let through. Only connection tracking can tell,
so `BootTable.track_answers` asks the driver for it: packets of a tracked conversation pass before the table
is looked at; the table decides about first packets. Without tracking a driver must refuse the boot table,
not open it.

An exemption is written as `protocol:source port:destination port:inbound|outbound`, 0 = any port, as in
`tcp:0:3389:inbound`. It names the first packets of conversations; their answers pass by tracking. (Were
answers let in by a reversed filter, `tcp:0:389:outbound` would open every port of this computer to whoever
sends from port 389.)

DHCP is UDP 67/68 for IPv4 and 546/547 for IPv6. IPv6 needs neighbour discovery (RFC 4861) before DHCPv6, so
its addresses (link-local, link-scope multicast) pass for ICMPv6 in block and stateful mode.

From boot to policy:

    boot table ──▶ persistent policy over the boot table ──▶ persistent and static policy ──▶ policy changes
                   (`stand_over`; not readable: boot         (the boot table goes in the
                    table in mode block stays)                same step that brings it)

Each step installs the next table whole before it takes the former away. A stop of the service goes back to
permit, unless a persistent policy is assigned: then its table stays.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from stockade.model.addresses import AddressRange
from stockade.model.filters import Action, Direction, FilterTable, Provenance, SpecificFilter
from stockade.model.reasons import ReasonCode, error_for
from stockade.model.traffic import ICMPV6, UDP, TrafficSelector, check_protocol_and_ports, protocol_name
from stockade.policy.exemptions import LINK_LOCAL, LINK_SCOPE_MULTICAST
from stockade.policy.specific import make_filter, table_order
from stockade.policy.weights import weight_of

BOOT_STORE = "boot"
MAXIMUM_BOOT_EXEMPTIONS = 1024

_PROTOCOLS = {"any": 0, "icmp": 1, "tcp": 6, "udp": 17, "raw": 255, "icmpv6": 58, "esp": 50, "ah": 51}


class BootMode(StrEnum):
    PERMIT = "permit"
    BLOCK = "block"
    STATEFUL = "stateful"

    @property
    def operation_mode(self) -> int:
        """The registry's number for it (`OperationMode`)."""
        return {BootMode.PERMIT: 0, BootMode.BLOCK: 1, BootMode.STATEFUL: 3}[self]


def default_mode(ever_assigned: bool) -> BootMode:
    """The mode where none is set: stateful once a policy was assigned, permit before."""
    return BootMode.STATEFUL if ever_assigned else BootMode.PERMIT


@dataclass(frozen=True, slots=True)
class BootExemption:
    """First packets that pass while the computer starts. Protocol and ports 0 mean any."""

    protocol: int
    source_port: int
    destination_port: int
    direction: Direction

    def __post_init__(self) -> None:
        check_protocol_and_ports(self.protocol, self.source_port, self.destination_port)

    @classmethod
    def parse(cls, text: str) -> "BootExemption":
        """`tcp:0:3389:inbound`. CallerError SYNTAX_ERROR-like INVALID_FILTER, naming the part that is
        wrong."""
        parts = [part.strip() for part in text.split(":")]
        try:
            if len(parts) != 4:
                raise ValueError("it has the form protocol:source port:destination port:inbound|outbound")
            protocol_word, source_port, destination_port, direction = parts
            protocol = _PROTOCOLS.get(protocol_word.casefold())
            numbers = [_number(source_port), _number(destination_port)]
            if direction.casefold() not in ("inbound", "outbound"):
                raise ValueError(f"“{direction[:20]}” is neither inbound nor outbound")
            return cls(
                _number(protocol_word) if protocol is None else protocol,
                numbers[0],
                numbers[1],
                Direction(direction.casefold()),
            )
        except ValueError as problem:
            raise error_for(
                ReasonCode.INVALID_FILTER, f"boot exemption “{text[:60]}”: {problem}", exemption=text[:60]
            ) from None

    def __str__(self) -> str:
        return f"{protocol_name(self.protocol)}:{self.source_port}:{self.destination_port}:{self.direction}"


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5):
        raise ValueError(f"“{text[:20]}” is no number")
    return int(text)


def parse_exemptions(text: str) -> tuple[BootExemption, ...]:
    """A list of exemptions between blanks or commas; `none` or nothing: no exemption. Doubles are dropped."""
    words = text.replace(",", " ").split()
    if [word.casefold() for word in words] == ["none"]:
        return ()
    if len(words) > MAXIMUM_BOOT_EXEMPTIONS:
        raise error_for(
            ReasonCode.INVALID_FILTER,
            f"more than {MAXIMUM_BOOT_EXEMPTIONS} boot exemptions",
            given=len(words),
        )
    return tuple(dict.fromkeys(BootExemption.parse(word) for word in words))


@dataclass(frozen=True, slots=True)
class BootTable:
    """What a driver enforces before a policy does: `table` decides about the first packet of a conversation;
    with `track_answers` the other packets of a conversation that was let through pass too."""

    mode: BootMode
    table: FilterTable
    track_answers: bool


def compile_boot_table(mode: BootMode, exemptions: Sequence[BootExemption] = ()) -> BootTable:
    """The table for a boot mode. It speaks of all addresses: a computer that starts has none yet."""
    if mode is BootMode.PERMIT:
        return BootTable(mode, FilterTable(policy_name=f"boot mode {mode}"), track_answers=False)
    filters = [*_written(exemptions), *_always(), *_rest(mode)]
    unique = {entry.id: entry for entry in filters}
    return BootTable(
        mode,
        FilterTable(tuple(sorted(unique.values(), key=table_order)), policy_name=f"boot mode {mode}"),
        track_answers=True,
    )


def stand_over(persistent: FilterTable, boot: BootTable) -> BootTable:
    """The persistent policy over the boot table, while the rest of the policy is being read: persistent
    filters decide first; about what none of them speaks of, the boot table goes on deciding."""
    known = {entry.id for entry in persistent.filters}
    below = tuple(entry for entry in boot.table.filters if entry.id not in known)
    return BootTable(
        boot.mode,
        FilterTable(
            (*persistent.filters, *below),
            persistent.negotiations,
            f"{persistent.policy_name or 'no persistent policy'}, then {boot.table.policy_name}",
            persistent.warnings,
            persistent.default_response,
        ),
        boot.track_answers,
    )


def when_persistent_is_unreadable(exemptions: Sequence[BootExemption] = ()) -> BootTable:
    """What holds when the persistent store cannot be read: mode block, whatever the boot mode was, because
    nobody knows what the persistent policy would have blocked."""
    return compile_boot_table(BootMode.BLOCK, exemptions)


def _filter(selector: TrafficSelector, direction: Direction, action: Action, why: str) -> SpecificFilter:
    return make_filter(
        selector, direction, action, weight_of(selector, direction), Provenance(BOOT_STORE, "boot", why)
    )


def _written(exemptions: Iterable[BootExemption]) -> Iterator[SpecificFilter]:
    for exemption in exemptions:
        for version in (4, 6):
            everything = AddressRange.everything(version)
            selector = TrafficSelector(
                everything,
                everything,
                exemption.protocol,
                exemption.source_port,
                exemption.destination_port,
            )
            yield _filter(selector, exemption.direction, Action.PERMIT, f"boot exemption {exemption}")


def _always() -> Iterator[SpecificFilter]:
    """DHCP both ways (offers may come as broadcasts, which no tracking connects with the question), and IPv6
    neighbour discovery."""
    for version, client, server in ((4, 68, 67), (6, 546, 547)):
        everything = AddressRange.everything(version)
        selector = TrafficSelector(everything, everything, UDP, client, server)
        yield _filter(selector, Direction.OUTBOUND, Action.PERMIT, "DHCP")
        yield _filter(selector.reversed(), Direction.INBOUND, Action.PERMIT, "DHCP")
    everything = AddressRange.everything(6)
    for source, destination in (
        (everything, LINK_SCOPE_MULTICAST),
        (everything, LINK_LOCAL),
        (LINK_LOCAL, everything),
    ):
        for direction in Direction:
            selector = TrafficSelector(source, destination, ICMPV6)
            yield _filter(selector, direction, Action.PERMIT, "IPv6 neighbour discovery")


def _rest(mode: BootMode) -> Iterator[SpecificFilter]:
    for version in (4, 6):
        everything = AddressRange.everything(version)
        selector = TrafficSelector(everything, everything)
        outbound = Action.PERMIT if mode is BootMode.STATEFUL else Action.BLOCK
        yield _filter(selector, Direction.OUTBOUND, outbound, f"boot mode {mode}")
        yield _filter(selector, Direction.INBOUND, Action.BLOCK, f"boot mode {mode}")
