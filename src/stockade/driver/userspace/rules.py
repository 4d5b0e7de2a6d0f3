"""The text of the nftables table: the whole of it, and the way from one filter table to the next. Pure.

    chain prerouting   what the TUN device brings gets the SECURE mark (see `system`: reverse-path filter)
    chain output       own packets pass; then the steps for outbound packets (see `layout`):
                       permit: accept · block: drop · negotiate: mark SECURE, and the kernel routes it anew
    chain guard        (postrouting) what is marked SECURE leaves by the TUN device or not at all
    chain input        what the TUN device brings passes, ESP and AH (nft looks behind the AH of IPv6); then
    the steps for inbound packets:
                       permit: accept · block: drop · negotiate: drop, or accept where clear may come in
                       (inpass)

So permitted traffic never leaves the kernel, blocked traffic dies in it, and with the agent killed the chains
go on: nothing that needs security passes in clear. Forwarded traffic is left alone but for tunnels
(`_forwarding`). Loopback is never touched, as in Windows. Each map element has a counter and its filter's id
as a comment; a filter that is a rule has a named counter, `f_` and its id.

IPv6 fragments meet the input chain one by one. Later ones have no ports and pass: without the first, which is
asked about (and which the kernel wants to hold the whole upper header, RFC 7112), nothing comes of them.

Two transactions make a change, `Change.first` and `Change.then`: what comes is added, and then what goes is
taken away. In between, and while the kernel works on either (a packet on its way may see one map before and
another one after), the filters in force are those of the old table and some of the new one's, or those of the
new one and some of the old one's. The first of such a mixture that matches a packet is the first that matches
in one of the two tables: no packet ever meets a third verdict. The chains with hooks stay for as long as
there is a table, for between two of them there would be a gap.

What the steps cannot say in place (tunnels that come or go, filters that change their order) is written
beside the old, under names of another *generation*, and the chains with hooks are turned to it.
"""

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from stockade.driver.limits import secures_ipv6, tunnels_of
from stockade.driver.nft_match import match_of
from stockade.driver.userspace.layout import ALONE, Layout, Step, Steps, merged
from stockade.driver.userspace.system import DEVICE, LOG_GROUP, MARK_MASK, OWN_MARK, SECURE_MARK
from stockade.model.filters import Action, Direction, FilterTable, SpecificFilter

TABLE: Final = "stockade"
COUNTER_PREFIX: Final = "f_"
BOOT_CHAIN: Final = "boot"
"""An empty chain that says: these are boot filters, and no agent's."""

_SECURE: Final = f"meta mark set meta mark & {~MARK_MASK & 0xFFFF_FFFF:#010x} | {SECURE_MARK:#010x}"
_UNMARK: Final = f"meta mark set meta mark & {~MARK_MASK & 0xFFFF_FFFF:#010x}"
_DISCOVERY: Final = "icmpv6 type 133-137 ip6 hoplimit 255 accept"
_ANSWERS: Final = "ct state established,related accept"

_HOOKS: Final = MappingProxyType(
    {
        "prerouting": "type filter hook prerouting priority raw",
        "output": "type route hook output priority mangle",
        "guard": "type filter hook postrouting priority raw",
        "input": "type filter hook input priority filter",
    }
)
_FORWARDING_HOOKS: Final = MappingProxyType(
    {
        "before_forwarding": "type filter hook prerouting priority mangle",
        "forward": "type filter hook forward priority raw",
    }
)
_HELPERS: Final = ("clear_refused", "secured")

_OUT: Final = MappingProxyType(
    {Action.PERMIT: "accept", Action.BLOCK: "drop", Action.NEGOTIATE: "goto secured"}
)
_IN: Final = MappingProxyType(
    {Action.PERMIT: "accept", Action.BLOCK: "drop", Action.NEGOTIATE: "goto clear_refused"}
)
_FORWARDED_IN: Final = MappingProxyType(
    {Action.PERMIT: "return", Action.BLOCK: "drop", Action.NEGOTIATE: "goto clear_refused"}
)


@dataclass(frozen=True, slots=True)
class Plane:
    """One use of the filters of a direction: at a hook of the host's own traffic, or of forwarded."""

    name: str
    direction: Direction
    verdicts: Mapping[Action, str]
    forwarded: bool

    def verdict(self, entry: SpecificFilter, tunnels: Set[str]) -> str:
        """Forwarded traffic is for tunnels: what other negotiations say is not for it."""
        if self.forwarded and entry.negotiation is not None and entry.negotiation not in tunnels:
            return self.verdicts[Action.PERMIT]
        if entry.accept_clear and entry.direction is Direction.INBOUND and entry.action is Action.NEGOTIATE:
            return "accept"
        return self.verdicts[entry.action]


PLANES: Final = (
    Plane("out", Direction.OUTBOUND, _OUT, forwarded=False),
    Plane("in", Direction.INBOUND, _IN, forwarded=False),
    Plane("fwdin", Direction.INBOUND, _FORWARDED_IN, forwarded=True),
    Plane("fwdout", Direction.OUTBOUND, _OUT, forwarded=True),
)


@dataclass(frozen=True, slots=True)
class Frame:
    """What of the rules does not depend on single filters. `track_answers`: packets of a conversation whose
    first packet passed are let through (boot filters)."""

    discovery: bool
    tunnels: frozenset[str]
    track_answers: bool = False

    @classmethod
    def of(cls, table: FilterTable, track_answers: bool = False) -> "Frame":
        return cls(secures_ipv6(table), frozenset(tunnels_of(table)), track_answers)

    @property
    def hooks(self) -> dict[str, str]:
        return {**_HOOKS, **(_FORWARDING_HOOKS if self.tunnels else {})}

    @property
    def planes(self) -> tuple[Plane, ...]:
        return tuple(plane for plane in PLANES if self.tunnels or not plane.forwarded)


@dataclass(frozen=True, slots=True)
class Change:
    """Two transactions for `nft -f`; "" where there is nothing to do. `touched`: elements and rules of
    filters that come or go."""

    first: str
    then: str
    touched: int = 0


@dataclass(frozen=True, slots=True)
class Leftovers:
    """Names in the table that is in the kernel."""

    chains: tuple[str, ...] = ()
    maps: tuple[str, ...] = ()
    counters: tuple[str, ...] = ()

    @property
    def generation(self) -> int:
        """A number that none of the names has."""
        ends = (name.rpartition("_g")[2] for name in (*self.chains, *self.maps))
        return max((int(end) for end in ends if end.isascii() and end.isdigit()), default=0) + 1

    @property
    def is_boot(self) -> bool:
        return BOOT_CHAIN in self.chains


class Rules:
    """The text for one table; what `whole` and `since` say makes it the one in force."""

    def __init__(
        self,
        table: FilterTable,
        *,
        previous: "Rules | None" = None,
        generation: int = 1,
        track_answers: bool = False,
    ) -> None:
        self.layout: Layout = Layout(table, previous.layout if previous is not None else None)
        self.frame = Frame.of(table, track_answers)
        self.generation: int = generation if previous is None else previous.generation

    # ---- the whole table

    def whole(self, there: Leftovers = Leftovers()) -> Change:
        """The table, whatever was there."""
        frame = self.frame
        names = [*frame.hooks, *_HELPERS]
        if frame.track_answers:
            names.append(BOOT_CHAIN)
        lines = [f"add table inet {TABLE}\n"]
        for name in names:
            hook = f" {{ {frame.hooks[name]}; policy accept; }}" if name in frame.hooks else ""
            lines.append(f"add chain inet {TABLE} {name}{hook}\n")
            lines.append(f"flush chain inet {TABLE} {name}\n")
        lines.append(f"table inet {TABLE} {{\n")
        lines += self._objects()
        lines += self._helpers()
        lines += self._hooked()
        lines.append("}\n")
        return Change("".join(lines), self._without(there, {*names, *self.chains()}))

    def chains(self) -> Iterator[str]:
        """The chains of this generation."""
        for plane in self.frame.planes:
            for version in (4, 6):
                yield self._chain(plane, version)

    def _objects(self) -> Iterator[str]:
        """Counters, maps and the chains that look into them."""
        counters: dict[str, None] = {}
        for steps in self.layout.steps.values():
            counters |= dict.fromkeys(_counters(steps))
        for name in counters:
            yield f"\tcounter {name} {{\n\t}}\n"
        for plane in self.frame.planes:
            for version in (4, 6):
                steps = self.layout.steps[plane.direction, version]
                for step in steps.values():
                    if step.shape is not None:
                        yield f"\tmap {self._map(plane, version, step)} {{\n"
                        yield f"\t\ttype {step.shape.types} : verdict\n\t\tcounter\n"
                        yield f"\t\telements = {{ {self._elements(plane, step.members.items())} }}\n\t}}\n"
                yield f"\tchain {self._chain(plane, version)} {{\n"
                for step in steps.values():
                    yield f"\t\t{self._rule(plane, version, step)}\n"
                yield "\t}\n"

    def _helpers(self) -> Iterator[str]:
        yield f"""\
	chain clear_refused {{
		limit rate 100/second burst 100 packets log group {LOG_GROUP} snaplen 40
		drop
	}}
	chain secured {{
		{_SECURE} accept
	}}
"""

    def _hooked(self) -> Iterator[str]:
        first = "".join(f"\t\t{line}\n" for line in self._before_steps())
        yield f"""\
	chain prerouting {{
		iifname "{DEVICE}" {_SECURE}
	}}
	chain output {{
		meta mark & {MARK_MASK:#010x} == {OWN_MARK:#010x} accept
		oifname "lo" accept
{first}		{self._by_family("goto", PLANES[0])}
	}}
	chain guard {{
		meta mark & {MARK_MASK:#010x} == {SECURE_MARK:#010x} oifname != "{DEVICE}" drop
	}}
	chain input {{
		iifname {{ "lo", "{DEVICE}" }} accept
		meta l4proto {{ esp, ah }} accept
		ip6 nexthdr ah accept
		frag nexthdr ah accept
		frag frag-off != 0 accept
{first}		{self._by_family("goto", PLANES[1])}
	}}
"""
        if self.frame.tunnels:
            yield self._forwarding()

    def _before_steps(self) -> Iterator[str]:
        if self.frame.track_answers:
            yield _ANSWERS
        if self.frame.discovery:
            yield _DISCOVERY

    def _forwarding(self) -> str:
        """Forwarded traffic, by the tunnel filters and those that stand above them; the rest is left alone.

        Before routing, for the mark decides the way. What came out of a tunnel has the mark too and is routed
        without it (see `system`); it is taken off before the guard sees it."""
        return f"""\
	chain before_forwarding {{
		iifname {{ "lo", "{DEVICE}" }} accept
		fib daddr type != unicast accept
		{self._by_family("jump", PLANES[2])}
		{self._by_family("goto", PLANES[3])}
	}}
	chain forward {{
		iifname "{DEVICE}" {_UNMARK} accept
	}}
"""

    def _by_family(self, how: str, plane: Plane) -> str:
        ways = (f"ipv{version} : {how} {self._chain(plane, version)}" for version in (4, 6))
        return f"meta nfproto vmap {{ {', '.join(ways)} }}"

    def _without(self, there: Leftovers, kept_chains: Set[str]) -> str:
        """What is there and not ours. A chain of a hook that nobody needs goes too."""
        kept_maps = {
            self._map(plane, version, step)
            for plane in self.frame.planes
            for version in (4, 6)
            for step in self.layout.steps[plane.direction, version].values()
            if step.shape is not None
        }
        kept_counters = {name for steps in self.layout.steps.values() for name in _counters(steps)}
        chains = [name for name in there.chains if name not in kept_chains]
        lines = [f"flush chain inet {TABLE} {name}\n" for name in chains]
        lines += [f"delete chain inet {TABLE} {name}\n" for name in chains]
        lines += [f"delete map inet {TABLE} {name}\n" for name in there.maps if name not in kept_maps]
        lines += [
            f"delete counter inet {TABLE} {name}\n" for name in there.counters if name not in kept_counters
        ]
        return "".join(lines)

    # ---- a difference

    def since(self, previous: "Rules") -> Change | None:
        """What leads from `previous`, which is in force, to these; None where the whole has to be written, in
        another generation."""
        if self.frame != previous.frame or self.generation != previous.generation:
            return None
        first: list[str] = []
        then: list[str] = []
        touched = 0
        old_counters: dict[str, None] = {}
        new_counters: dict[str, None] = {}
        for place, new in self.layout.steps.items():
            old = previous.layout.steps[place]
            old_counters |= dict.fromkeys(_counters(old))
            new_counters |= dict.fromkeys(_counters(new))
        first += [f"add counter inet {TABLE} {name}\n" for name in new_counters if name not in old_counters]
        for plane in self.frame.planes:
            for version in (4, 6):
                old = previous.layout.steps[plane.direction, version]
                new = self.layout.steps[plane.direction, version]
                between = merged(list(old), list(new))
                if between is None:
                    return None
                touched += self._members(previous, plane, version, first, then)
                if between != list(old):
                    both = (
                        self._rule(plane, version, new[name])
                        if name in new
                        else previous._rule(plane, version, old[name])
                        for name in between
                    )
                    first += self._chain_anew(plane, version, both)
                if between != list(new):
                    only = (self._rule(plane, version, step) for step in new.values())
                    then += self._chain_anew(plane, version, only)
                    then += [
                        f"delete map inet {TABLE} {self._map(plane, version, step)}\n"
                        for step in old.values()
                        if step.name not in new and step.shape is not None
                    ]
        then += [f"delete counter inet {TABLE} {name}\n" for name in old_counters if name not in new_counters]
        return Change("".join(first), "".join(then), touched)

    def _members(
        self, previous: "Rules", plane: Plane, version: int, first: list[str], then: list[str]
    ) -> int:
        """Elements that come and go; how many."""
        old = previous.layout.steps[plane.direction, version]
        new = self.layout.steps[plane.direction, version]
        touched = sum(len(step.members) for name, step in old.items() if name not in new)
        for name, step in new.items():
            if name not in old:
                touched += len(step.members)
                if step.shape is not None:
                    made = self._map(plane, version, step)
                    first.append(
                        f"add map inet {TABLE} {made} {{ type {step.shape.types} : verdict; counter; }}\n"
                    )
                    first.append(self._add(made, plane, step.members.items()))
                continue
            changes = self.layout.moves(previous.layout, (plane.direction, version), name)
            if not changes or step.shape is None:
                continue
            made = self._map(plane, version, step)
            touched += len(changes)
            # A key has one place: the old filter leaves it in the transaction in which the new one takes it.
            replaced = [key for key, was, becomes in changes if was is not None and becomes is not None]
            if replaced:
                first.append(f"delete element inet {TABLE} {made} {{ {', '.join(replaced)} }}\n")
            come = [(key, becomes) for key, _, becomes in changes if becomes is not None]
            if come:
                first.append(self._add(made, plane, come))
            gone = [key for key, _, becomes in changes if becomes is None]
            if gone:
                then.append(f"delete element inet {TABLE} {made} {{ {', '.join(gone)} }}\n")
        return touched

    def _chain_anew(self, plane: Plane, version: int, rules: Iterable[str]) -> Iterator[str]:
        chain = self._chain(plane, version)
        yield f"flush chain inet {TABLE} {chain}\n"
        for rule in rules:
            yield f"add rule inet {TABLE} {chain} {rule}\n"

    # ---- parts

    def _chain(self, plane: Plane, version: int) -> str:
        return f"{plane.name}{version}_g{self.generation}"

    def _map(self, plane: Plane, version: int, step: Step) -> str:
        return f"{plane.name}{version}_{step.name}_g{self.generation}"

    def _rule(self, plane: Plane, version: int, step: Step) -> str:
        if step.shape is not None:
            return f"{step.shape.expression} vmap @{self._map(plane, version, step)}"
        entry = self.layout.entry(step.members[ALONE])
        verdict = plane.verdict(entry, self.frame.tunnels)
        return f"{match_of(entry.selector)} counter name {COUNTER_PREFIX}{entry.id} {verdict}"

    def _elements(self, plane: Plane, members: Iterable[tuple[str, str]]) -> str:
        entry, tunnels = self.layout.entry, self.frame.tunnels
        return ", ".join(
            [
                f'{key} comment "{entry_id}" : {plane.verdict(entry(entry_id), tunnels)}'
                for key, entry_id in members
            ]
        )

    def _add(self, name: str, plane: Plane, members: Iterable[tuple[str, str]]) -> str:
        return f"add element inet {TABLE} {name} {{ {self._elements(plane, members)} }}\n"


def _counters(steps: Steps) -> Iterator[str]:
    return (COUNTER_PREFIX + step.members[ALONE] for step in steps.values() if step.shape is None)
