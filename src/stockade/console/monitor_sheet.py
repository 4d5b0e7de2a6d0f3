"""A table of the terminal monitor, and how values look in it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Answer = dict[str, Any]
"""What the agent answered, as JSON has it."""

Row = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sheet:
    """One table. `keys` name its rows, so that a cursor stays where it was; `targets` are what keys act on: a
    peer's address or an inbound SPI."""

    title: str
    columns: Row
    rows: tuple[Row, ...]
    targets: tuple[str, ...] = ()

    def narrowed(self, text: str) -> "Sheet":
        """The rows with this text in them, whatever its case."""
        wanted = text.casefold()
        kept = [
            place for place, row in enumerate(self.rows) if any(wanted in cell.casefold() for cell in row)
        ]
        targets = tuple(self.targets[place] for place in kept) if self.targets else ()
        return Sheet(self.title, self.columns, tuple(self.rows[place] for place in kept), targets)


def size(octets: int) -> str:
    """`0 B`, `12.3 KiB`, `4.0 GiB`."""
    value = float(octets)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def address_of(text: str) -> str:
    """Without a port: `a.b.c.d:500`, `[a::b]:500`."""
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text


def end_of(addresses: str, port: int) -> str:
    return f"{addresses}:{port}" if port else addresses


def action_of(row: Mapping[str, Any]) -> str:
    words = [word for word, name in (("inpass", "accept_clear"), ("soft", "allow_soft")) if row[name]]
    return f"{row['action']} ({', '.join(words)})" if words else str(row["action"])
