"""What SAs carried that are no more: a few sums, however many they were."""

from stockade.model.filters import Direction
from stockade.model.sa import EndedCounters, SecurityAssociation, classes_of


class EndedSas:
    """Of one data plane."""

    def __init__(self) -> None:
        self._sums: dict[tuple[Direction, tuple[str, ...]], tuple[int, int]] = {}

    def add(self, sa: SecurityAssociation, packets: int, size: int) -> None:
        """An SA ends, which carried so many packets and bytes in all."""
        kind = sa.direction, classes_of(sa)
        before = self._sums.get(kind, (0, 0))
        self._sums[kind] = before[0] + packets, before[1] + size

    def totals(self) -> tuple[EndedCounters, ...]:
        return tuple(EndedCounters(*kind, *sums) for kind, sums in self._sums.items())
