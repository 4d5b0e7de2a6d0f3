"""A quick mode that was up, as it is remembered over restarts and told to the other nodes of a cluster:
addresses and traffic, no keys."""

from dataclasses import dataclass

from stockade.model.addresses import Address
from stockade.model.quickly_made import quickly_made
from stockade.model.traffic import TrafficSelector


@quickly_made
@dataclass(frozen=True, slots=True)
class KnownQuickMode:
    """`selector` is outbound (source = us); in transport mode it is host to host, in tunnel mode what goes
    through the tunnel."""

    local: Address
    peer: Address
    selector: TrafficSelector
