"""SAs that outlived an agent, put together again: which four or two of them are one quick mode.

    inbound ESP ──pair──▶ outbound ESP          each names the SPI of the other
       │ bundle              │ bundle            AH over ESP: each half names its AH
    inbound AH  ──pair──▶ outbound AH

Whatever does not come together (an agent died between two installations) is left over."""

from collections.abc import Sequence
from dataclasses import dataclass

from stockade.driver.contract import Survivor
from stockade.model.addresses import Address
from stockade.model.filters import Direction
from stockade.model.sa import SecurityAssociation


@dataclass(frozen=True, slots=True)
class SurvivingPair:
    """A whole quick mode. `headers`: the two SAs of AH where AH and ESP go together, inbound first. `age` in
    seconds."""

    inbound: SecurityAssociation
    outbound: SecurityAssociation
    headers: tuple[SecurityAssociation, ...]
    age: float

    @property
    def sas(self) -> tuple[SecurityAssociation, ...]:
        return (self.inbound, self.outbound, *self.headers)


_Key = tuple[bool, Direction, int, Address]


def put_together(
    survivors: Sequence[Survivor],
) -> tuple[list[SurvivingPair], list[SecurityAssociation]]:
    """(whole pairs, oldest first; what is left over)."""
    by_key: dict[_Key, Survivor] = {_key(one.sa): one for one in survivors}
    left = dict(by_key)
    pairs: list[SurvivingPair] = []
    for survivor in survivors:
        sa = survivor.sa
        if sa.direction is Direction.OUTBOUND or (sa.ah is not None and sa.bundle is not None):
            continue
        outbound = by_key.get((sa.ah is not None, Direction.OUTBOUND, sa.pair, sa.peer))
        if outbound is None or not _belong_together(sa, outbound.sa):
            continue
        headers = _headers(sa, outbound.sa, by_key)
        if headers is None:
            continue
        pair = SurvivingPair(sa, outbound.sa, headers, survivor.age)
        pairs.append(pair)
        for each in pair.sas:
            left.pop(_key(each), None)
    return sorted(pairs, key=lambda pair: -pair.age), [survivor.sa for survivor in left.values()]


def _headers(
    inbound: SecurityAssociation, outbound: SecurityAssociation, by_key: dict[_Key, Survivor]
) -> tuple[SecurityAssociation, ...] | None:
    """The AH halves of a bundle; none for what is no bundle; None where they are not there."""
    if inbound.bundle is None and outbound.bundle is None:
        return ()
    if inbound.bundle is None or outbound.bundle is None:
        return None
    found = [
        by_key.get((True, Direction.INBOUND, inbound.bundle, inbound.peer)),
        by_key.get((True, Direction.OUTBOUND, outbound.bundle, outbound.peer)),
    ]
    return None if None in found else tuple(one.sa for one in found if one is not None)


def _key(sa: SecurityAssociation) -> _Key:
    return (sa.ah is not None, sa.direction, sa.spi, sa.peer)


def _belong_together(inbound: SecurityAssociation, outbound: SecurityAssociation) -> bool:
    return (
        outbound.pair == inbound.spi
        and (outbound.source, outbound.destination) == (inbound.destination, inbound.source)
        and outbound.selector == inbound.selector.reversed()
        and (outbound.mode, outbound.esp, outbound.ah) == (inbound.mode, inbound.esp, inbound.ah)
        and (outbound.negotiation, outbound.filter_id) == (inbound.negotiation, inbound.filter_id)
    )
