"""The weight of a specific filter: one number, larger = looked at earlier.

Windows' own formula is not public beyond a few statements: the most specific filter wins, the masks dominate,
then the protocol, then the ports (the destination port before the source port where only one is set), and
"My → Any" < "My → subnet" < "My → host". This is a total order that follows all of them:

     bit  34       33        32 … 18            17 … 4            3          2          1        0
    +---------+--------+----------------+------------------+----------+------------+--------+--------+
    | exempt- | tunnel | address bits,  | address bits of  | protocol | destina-   | source | own    |
    | ion     | rule   | both ends      | the vaguer end   | given    | tion port  | port   | host   |
    +---------+--------+----------------+------------------+----------+------------+--------+--------+

* *Address bits* say how much of an address is fixed: the prefix length, 0 for any, the whole address for one
  host. The unit is 1/256 bit for IPv4 and 1/64 bit for IPv6, so a whole address of either family counts 8192
  and both families read alike. A range that is no prefix gets the logarithm of its size, rounded down.
* *Own host*: the end on this computer is one address ("Me" before remote). It only breaks ties.
* 35 bits: exact in JSON and JavaScript.

Among filters of one class and mode, a filter whose traffic another one covers never weighs less than it. It
weighs more, unless both are ranges that differ by less than the unit; for those (and only those) the compiler
looks at the number of addresses before it looks at the action.

Left out: XFRM and nftables priorities. A driver keeps the table's order.
"""

from dataclasses import dataclass

from stockade.model.addresses import AddressRange
from stockade.model.filters import Direction, FilterClass
from stockade.model.negotiation import Mode
from stockade.model.traffic import TrafficSelector

WHOLE_ADDRESS = 8192
_IPV4_UNIT = WHOLE_ADDRESS // 32

_OWN_HOST_SHIFT = 0
_SOURCE_PORT_SHIFT = 1
_DESTINATION_PORT_SHIFT = 2
_PROTOCOL_SHIFT = 3
_VAGUER_SHIFT = 4
_VAGUER_MASK = (1 << 14) - 1
_BOTH_SHIFT = 18
_BOTH_MASK = (1 << 15) - 1
_TUNNEL_SHIFT = 33
_EXEMPTION_SHIFT = 34
WEIGHT_BITS = 35


def address_bits(addresses: AddressRange) -> int:
    """How much of an address the range fixes: 0 (any) to `WHOLE_ADDRESS` (one host)."""
    unit = WHOLE_ADDRESS // addresses.bits
    prefix = addresses.prefix_length
    if prefix is not None:
        return prefix * unit
    # floor(unit * (bits - log2(size))) in whole numbers: no float decides about a filter's place
    return WHOLE_ADDRESS - int(addresses.size**unit - 1).bit_length()


def weight_of(
    selector: TrafficSelector,
    direction: Direction,
    *,
    mode: Mode = Mode.TRANSPORT,
    filter_class: FilterClass = FilterClass.POLICY,
) -> int:
    """The weight of a specific filter."""
    own = selector.source if direction is Direction.OUTBOUND else selector.destination
    return weight_of_parts(
        address_bits(selector.source),
        address_bits(selector.destination),
        own.is_host,
        selector.protocol,
        selector.source_port,
        selector.destination_port,
        tunnel=mode is Mode.TUNNEL,
        exemption=filter_class is FilterClass.EXEMPTION,
    )


def weight_of_parts(
    source: int,
    destination: int,
    own_is_host: bool,
    protocol: int,
    source_port: int,
    destination_port: int,
    *,
    tunnel: bool = False,
    exemption: bool = False,
) -> int:
    """`weight_of` for whoever has the address bits of both ends (`address_bits`) already."""
    return (
        exemption << _EXEMPTION_SHIFT
        | tunnel << _TUNNEL_SHIFT
        | (source + destination) << _BOTH_SHIFT
        | (source if source < destination else destination) << _VAGUER_SHIFT
        | (protocol != 0) << _PROTOCOL_SHIFT
        | (destination_port != 0) << _DESTINATION_PORT_SHIFT
        | (source_port != 0) << _SOURCE_PORT_SHIFT
        | own_is_host << _OWN_HOST_SHIFT
    )


@dataclass(frozen=True, slots=True)
class WeightParts:
    """A weight taken apart; the fields stand in the order in which they count."""

    exemption: bool
    tunnel: bool
    both_ends: int
    vaguer_end: int
    protocol: bool
    destination_port: bool
    source_port: bool
    own_host: bool

    @classmethod
    def of(cls, weight: int) -> "WeightParts":
        """Take `weight` apart; ValueError when it is none of `weight_of`."""
        if not 0 <= weight < 1 << WEIGHT_BITS:
            raise ValueError(f"{weight} is no filter weight")
        return cls(
            bool(weight >> _EXEMPTION_SHIFT & 1),
            bool(weight >> _TUNNEL_SHIFT & 1),
            weight >> _BOTH_SHIFT & _BOTH_MASK,
            weight >> _VAGUER_SHIFT & _VAGUER_MASK,
            bool(weight >> _PROTOCOL_SHIFT & 1),
            bool(weight >> _DESTINATION_PORT_SHIFT & 1),
            bool(weight >> _SOURCE_PORT_SHIFT & 1),
            bool(weight >> _OWN_HOST_SHIFT & 1),
        )


def _bits(units: int) -> str:
    return f"{units / _IPV4_UNIT:.2f}".rstrip("0").rstrip(".")


def explain_weight(weight: int) -> tuple[str, ...]:
    """The weight in words, one line per field, in the order in which the fields count. Address bits are in
    IPv4 measure (of 32 per end; four bits of an IPv6 address count as one)."""
    parts = WeightParts.of(weight)
    if parts.destination_port and parts.source_port:
        ports = "both ports are given"
    elif parts.destination_port:
        ports = "the destination port is given"
    elif parts.source_port:
        ports = "the source port is given"
    else:
        ports = "no port is given"
    return (
        "default exemption, above every rule" if parts.exemption else "filter of a rule",
        "tunnel rule, before transport rules" if parts.tunnel else "transport rule",
        f"source and destination fix {_bits(parts.both_ends)} of 64 address bits",
        f"the vaguer end fixes {_bits(parts.vaguer_end)} of 32 address bits",
        "one protocol" if parts.protocol else "any protocol",
        ports,
        "this computer's end is one address" if parts.own_host else "this computer's end is not one address",
    )


def compare_weights(winner: int, loser: int) -> str:
    """Why `winner` stands before `loser`, by the first field that differs; "" when they weigh the same."""
    first, second = WeightParts.of(winner), WeightParts.of(loser)
    if first.exemption != second.exemption:
        return "default exemptions stand above every rule"
    if first.tunnel != second.tunnel:
        return "tunnel rules stand before transport rules"
    if first.both_ends != second.both_ends:
        return (
            "its addresses are more specific"
            f" ({_bits(first.both_ends)} against {_bits(second.both_ends)} of 64 bits)"
        )
    if first.vaguer_end != second.vaguer_end:
        return (
            "its vaguer end is more specific"
            f" ({_bits(first.vaguer_end)} against {_bits(second.vaguer_end)} of 32 bits)"
        )
    if first.protocol != second.protocol:
        return "it names a protocol"
    if first.destination_port != second.destination_port:
        return "it names a destination port"
    if first.source_port != second.source_port:
        return "it names a source port"
    if first.own_host != second.own_host:
        return "its end on this computer is one address"
    return ""
