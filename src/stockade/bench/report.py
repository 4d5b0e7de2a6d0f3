"""How benchmarks speak: text for people as it comes, or one JSON document at the end.

A *figure* is a named number with its unit, and the limit or the peer that it is compared with. With the text
form, lines and figures are printed at once; with JSON, lines are left out and the figures are printed when
the benchmark is done, after what machine and what library versions it ran on.
"""

import json
import os
import platform
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number. `reference` is a limit or a peer's figure in the same unit, None if there is
    none; `against` says which."""

    name: str
    value: float
    unit: str
    reference: float | None = None
    against: str = "the limit"

    @property
    def ratio(self) -> float | None:
        """The figure divided by what it is compared with."""
        return None if not self.reference else self.value / self.reference

    def __str__(self) -> str:
        compared = "" if self.ratio is None else f"   {self.ratio:.2f} of {self.against} ({self.reference:g})"
        return f"{self.name:52} {self.value:12.3f} {self.unit}{compared}"

    def as_dict(self) -> dict[str, object]:
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "reference": self.reference,
            "against": self.against if self.reference is not None else None,
            "ratio": self.ratio,
        }


class Report:
    """Takes what a benchmark says."""

    def __init__(self, name: str, form: str = "text") -> None:
        self.name = name
        self.figures: list[Figure] = []
        self._text = form == "text"
        if self._text:
            print(f"stockade bench {name}: {_machine()}", flush=True)

    def line(self, text: str = "") -> None:
        """A heading or a row of a table: for people only."""
        if self._text:
            print(text, flush=True)

    def figure(
        self, name: str, value: float, unit: str, reference: float | None = None, against: str = "the limit"
    ) -> None:
        """One number of which something is expected."""
        self.figures.append(Figure(name, value, unit, reference, against))
        self.line(str(self.figures[-1]))

    def end(self) -> None:
        """Print what is to be printed at the end."""
        if not self._text:
            print(json.dumps(self.document(), indent=2))

    def document(self) -> dict[str, object]:
        """Everything for programs."""
        return {
            "benchmark": self.name,
            "machine": _machine(),
            "figures": [one.as_dict() for one in self.figures],
        }


def _machine() -> str:
    load = os.getloadavg()[0]
    return (
        f"Python {platform.python_version()}, {platform.system()} {platform.release()}, {platform.machine()},"
        f" {os.cpu_count()} processors, load {load:.1f}"
    )
