"""Filter lists: `FilterListData` ⇄ filters ([MS-GPIPSEC] §2.2.1.5).

Reading joins the two generations. Where the second part gives a count, only so many filters of the first are
meant: what follows them are ranges as subnets, for older readers. Without a count, filters of the first part
that look like such an expansion are passed over. A GUID in both parts is one filter, the second's.

Writing uses the first generation alone where it can say everything, in the form of Server 2003, which every
version reads; else the form of Vista, with a range in both parts."""

from dataclasses import dataclass
from uuid import UUID, uuid5

from stockade.model.addresses import AddressRange
from stockade.model.reasons import ReasonCode
from stockade.policy.objects import Filter, FilterAddress, FilterList
from stockade.store.formats.conversion import ends
from stockade.store.formats.conversion.names import description_of
from stockade.store.formats.ipsec_data import filters as blob
from stockade.store.formats.ipsec_data.filters import (
    FilterListData,
    FilterSpec1,
    FilterSpec2,
    PortSpec,
    SecondGeneration,
)
from stockade.store.formats.ipsec_data.text import WideText
from stockade.store.formats.problems import Problems

_MAXIMUM_EXPANSION = 200_000  # first-generation filters that ranges of one list may stand for
_Key = tuple[FilterAddress, FilterAddress, int, int, int, bool]


def _key(entry: Filter) -> _Key:
    return (entry.source, entry.destination, entry.protocol, entry.source_port, entry.destination_port,
            entry.mirrored)  # fmt: skip


def read_filters(data: FilterListData, where: str, problems: Problems) -> tuple[Filter, ...]:
    """The filters that can be said here, in order; others are losses that name their number."""
    first_specs = data.filters
    second: list[Filter] = []
    expansions: set[_Key] = set()
    guids: set[UUID] = set()
    if data.second is not None:
        if data.second.first_count:
            if data.second.first_count > len(first_specs):
                problems.note("it counts more first-generation filters than it has", where)
            first_specs = first_specs[: data.second.first_count]
        for number, spec2 in enumerate(data.second.filters, 1):
            guids.add(spec2.guid)
            found = _read_second(spec2, f"second-generation filter {number}", where, problems)
            if found is not None:
                second.append(found)
                if not data.second.first_count:  # without the count their looks must tell
                    expansions.update(_expansion(found, _MAXIMUM_EXPANSION - len(expansions)))
    guids.discard(UUID(int=0))
    first = []
    for number, spec in enumerate(first_specs, 1):
        if spec.guid in guids:
            continue
        found = _read_first(spec, f"filter {number}", where, problems)
        if found is not None and _key(found) not in expansions:
            first.append(found)
    return (*first, *second)


def _expansion(entry: Filter, room: int) -> list[_Key]:
    """The filter itself, and the subnets that stand for its ranges in the first part."""
    sides: list[list[FilterAddress]] = []
    for end in (entry.source, entry.destination):
        networks = [end]
        if end.addresses is not None and end.addresses.version == 4 and end.addresses.prefix_length is None:
            networks += [
                FilterAddress.of(AddressRange.network(network)) for network in end.addresses.networks()
            ]
        sides.append(networks)
    if len(sides[0]) * len(sides[1]) > room:
        return []
    return [
        (source, destination, entry.protocol, entry.source_port, entry.destination_port, entry.mirrored)
        for source in sides[0]
        for destination in sides[1]
    ]


def _read_first(spec: FilterSpec1, label: str, where: str, problems: Problems) -> Filter | None:
    of_destination = bool(spec.special & blob.SPECIAL_DESTINATION)
    special = spec.special & ~blob.SPECIAL_DESTINATION
    if spec.is_tunnel or any(spec.tunnel):
        problems.note(f"{label}: a tunnel end in a filter is not kept; the rule's counts", where)
    try:
        return Filter(
            ends.read_first(
                spec.source, spec.source_mask, spec.source_name.text, 0 if of_destination else special
            ),
            ends.read_first(
                spec.destination,
                spec.destination_mask,
                spec.destination_name.text,
                special if of_destination else 0,
            ),
            spec.protocol,
            spec.source_port,
            spec.destination_port,
            spec.mirrored != 0,
            description_of(spec.description.text, f"{where}, {label}", problems),
        )
    except ValueError as error:
        problems.loss(ReasonCode.NOT_EXPRESSIBLE, f"{label}: {error}", where)
        return None


def _read_second(spec: FilterSpec2, label: str, where: str, problems: Problems) -> Filter | None:
    if spec.flags & ~blob.FLAG_RANGE_IS_HERE:
        problems.note(f"{label}: flags {spec.flags:#x} are not all known", where)
    try:
        return Filter(
            ends.read_second(spec.source, spec.source_name.text, spec.destination),
            ends.read_second(spec.destination, spec.destination_name.text, spec.source),
            spec.protocol,
            _port(spec.source_port),
            _port(spec.destination_port),
            spec.mirrored != 0,
            description_of(spec.description.text, f"{where}, {label}", problems),
        )
    except ValueError as error:
        problems.loss(ReasonCode.NOT_EXPRESSIBLE, f"{label}: {error}", where)
        return None


def _port(spec: PortSpec) -> int:
    if spec.type == blob.PORT_ANY:
        return 0
    if spec.type == blob.PORT_SINGLE or (spec.type == blob.PORT_RANGE and spec.first == spec.last):
        return spec.first
    if spec.type == blob.PORT_RANGE:
        if spec.first <= 1 and spec.last == 65_535:
            return 0
        raise ValueError(f"a range of ports, {spec.first}-{spec.last}")
    raise ValueError(f"port type {spec.type} is not known")


@dataclass(frozen=True, slots=True)
class _Written:
    first: FilterSpec1 | None
    expanded: tuple[FilterSpec1, ...]
    second: FilterSpec2 | None


def write_filters(filter_list: FilterList, problems: Problems) -> FilterListData:
    """The list as a blob. GUIDs of filters follow from the list's and their place, so that the same list
    gives the same bytes."""
    written = []
    for number, entry in enumerate(filter_list.filters, 1):
        guid = uuid5(filter_list.guid, str(number))
        try:
            written.append(_write(entry, guid))
        except ValueError as error:
            problems.loss(
                ReasonCode.NOT_EXPRESSIBLE, f"filter {number}: {error}", f"filter list “{filter_list.name}”"
            )
    first = tuple(entry.first for entry in written if entry.first)
    expanded = tuple(spec for entry in written for spec in entry.expanded)
    second = tuple(entry.second for entry in written if entry.second)
    if not second:
        return FilterListData(first)
    return FilterListData((*first, *expanded), SecondGeneration(second, len(first)), trailer=b"")


def _write(entry: Filter, guid: UUID) -> _Written:
    source, destination = ends.write_first(entry.source), ends.write_first(entry.destination)
    if source and destination:
        return _Written(_spec1(entry, source, destination, guid), (), None)
    second = _spec2(entry, guid)
    expanded: list[FilterSpec1] = []
    sources, destinations = _subnets(entry.source), _subnets(entry.destination)
    if sources and destinations:
        expanded = [
            _spec1(entry, first, last, guid)  # the same GUID: it is the same filter
            for first in sources
            for last in destinations
        ]
    return _Written(None, tuple(expanded), second)


def _subnets(end: FilterAddress) -> list[tuple[bytes, bytes]]:
    """How the first generation says this end, as subnets where it is a range; empty where it cannot."""
    whole = ends.write_first(end)
    if whole:
        return [whole]
    if end.addresses is None or end.addresses.version != 4 or end.addresses.prefix_length is not None:
        return []
    parts = [
        ends.write_first(FilterAddress.of(AddressRange.network(network)))
        for network in end.addresses.networks()
    ]
    return [part for part in parts if part] if all(parts) else []


def _spec1(
    entry: Filter, source: tuple[bytes, bytes], destination: tuple[bytes, bytes], guid: UUID
) -> FilterSpec1:
    return FilterSpec1(
        *source,
        *destination,
        entry.protocol,
        entry.source_port,
        entry.destination_port,
        int(entry.mirrored),
        WideText.of(entry.description),
        ends.end_name(entry.source),
        ends.end_name(entry.destination),
        guid,
        special=ends.special_of(entry.source, entry.destination),
    )


def _spec2(entry: Filter, guid: UUID) -> FilterSpec2:
    both = (entry.source, entry.destination)
    family = next((end.family for end in both if end.family is not None), 4)
    is_range = any(end.addresses is not None and end.addresses.prefix_length is None for end in both)
    return FilterSpec2(
        ends.write_second(entry.source, family),
        ends.write_second(entry.destination, family),
        _port_spec(entry.source_port),
        _port_spec(entry.destination_port),
        entry.protocol,
        blob.FLAG_RANGE_IS_HERE if is_range and family == 4 else 0,
        int(entry.mirrored),
        WideText.of(entry.description),
        ends.end_name(entry.source),
        ends.end_name(entry.destination),
        guid,
    )


def _port_spec(port: int) -> PortSpec:
    return PortSpec(blob.PORT_SINGLE, port) if port else blob.ANY_PORTS
