"""The IKE engine (skeleton: the signatures are final, the inside is being written)."""

from stockade.ike.config import EngineConfig
from stockade.ike.contract import (
    Command,
    Effect,
    MainModeView,
    NegotiationLookup,
    QuickModeView,
    RandomSource,
    SpiSource,
)
from stockade.model.addresses import Endpoint

DEFAULT_CONFIG = EngineConfig()


class Engine:
    """IKEv1, sans-IO. See `stockade.ike.contract` for commands and effects."""

    def __init__(
        self,
        lookup: NegotiationLookup,
        get_spi: SpiSource,
        random: RandomSource,
        config: EngineConfig = DEFAULT_CONFIG,
    ) -> None:
        self.statistics: dict[str, int] = {}

    def receive(self, datagram: bytes, local: Endpoint, remote: Endpoint, now: float) -> None: ...

    def command(self, command: Command, now: float) -> None: ...

    def timeout(self, now: float) -> None: ...

    def next_timeout(self) -> float | None: ...

    def effects(self) -> list[Effect]:
        """What is to be done, in order; the queue is empty afterwards."""
        return []

    def main_modes(self, now: float) -> tuple[MainModeView, ...]:
        return ()

    def quick_modes(self, now: float) -> tuple[QuickModeView, ...]:
        return ()

    def set_lookup(self, lookup: NegotiationLookup, now: float) -> None: ...
