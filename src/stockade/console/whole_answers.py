"""`--format table` and `--format list` for answers of the agent: every field, whatever the answer is."""

from collections.abc import Iterator, Mapping, Sequence

from rich.markup import escape

from stockade.console import printing
from stockade.console.events_command import clean


def show(answer: Mapping[str, object], form: str) -> None:
    """Rows become a table each, or blocks of `name value`; the rest is one more of them."""
    single = {name: value for name, value in _flat(answer) if not _is_rows(value)}
    if single:
        _rows("", [single], form)
    for name, value in _flat(answer):
        if _is_rows(value):
            assert isinstance(value, Sequence)
            _rows(name, [dict(_flat(row)) for row in value if isinstance(row, Mapping)], form)


def _flat(answer: Mapping[str, object], before: str = "") -> Iterator[tuple[str, object]]:
    for name, value in answer.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _is_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, Mapping) for row in value)


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(_text(one) for one in value)
    return clean(value)


def _rows(title: str, rows: list[dict[str, object]], form: str) -> None:
    if form == "table" and title:
        columns = list(dict.fromkeys(name for row in rows for name in row))
        print(title)
        printing.table(columns, ([escape(_text(row.get(name))) for name in columns] for row in rows))
        return
    if form == "table":
        pairs = [(name, escape(_text(value))) for row in rows for name, value in row.items()]
        printing.table(("name", "value"), pairs)
        return
    for row in rows:
        if title:
            print(f"[{title}]")
        width = max(map(len, row), default=0)
        for name, value in row.items():
            print(f"{name:<{width}}  {_text(value)}".rstrip())
        print()
