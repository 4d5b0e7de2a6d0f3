"""`--format table` and `--format list`: every field, whatever the answer is.

Rows become a table each, or blocks of `name value`. Rows within a row (the rules of a policy) are a table of
their own after it, whose first column names what they belong to; in a list they follow their row."""

from collections.abc import Iterator, Mapping, Sequence

from rich.markup import escape

from stockade.console import printing
from stockade.console.output import visible

_NAMES = ("name", "number", "id", "peer", "gpo", "client")
"""Fields that name a row, the best one first."""


def show(answer: object, form: str, columns: Sequence[str] = ()) -> None:
    """Print it. `columns`: the fields that tables have; all of them by default."""
    if _is_rows(answer):
        _section("", _rows_of(answer), form, columns)
        return
    if not isinstance(answer, Mapping):
        print(_text(answer) or "none")
        return
    fields = dict(_flat(answer))
    single = {name: value for name, value in fields.items() if not _is_rows(value)}
    if single:
        _fields(single, form)
    for name, value in fields.items():
        if _is_rows(value):
            _section(name, _rows_of(value), form, columns)


def _flat(answer: Mapping[str, object], before: str = "") -> Iterator[tuple[str, object]]:
    for name, value in answer.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _is_rows(value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(row, Mapping) for row in value)


def _rows_of(value: object) -> list[dict[str, object]]:
    assert isinstance(value, Sequence)
    return [dict(_flat(row)) for row in value if isinstance(row, Mapping)]


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ("\n" if any(isinstance(one, str) and " " in one for one in value) else ", ").join(
            map(_text, value)
        )
    if isinstance(value, Mapping):
        return " ".join(f"{name}={_text(one)}" for name, one in _flat(value))
    return visible(str(value))


def _section(title: str, rows: list[dict[str, object]], form: str, columns: Sequence[str]) -> None:
    if form == "table":
        _table(title, rows, columns)
        return
    for row in rows:
        if title:
            print(f"[{title}]")
        _fields({name: value for name, value in row.items() if not _is_rows(value)}, form)
        for name, value in row.items():
            if _is_rows(value):
                _section(f"{title}.{name}".strip("."), _rows_of(value), form, ())


def _table(title: str, rows: list[dict[str, object]], wanted: Sequence[str]) -> None:
    inner = list(dict.fromkeys(name for row in rows for name, value in row.items() if _is_rows(value)))
    columns = list(wanted) or [
        name for name in dict.fromkeys(name for row in rows for name in row) if name not in inner
    ]
    if title:
        print(title)
    printing.table(columns, ([escape(_text(row.get(name))) for name in columns] for row in rows))
    for name in inner:
        within = [
            {"of": _name(row), **one}
            for row in rows
            if _is_rows(row.get(name))
            for one in _rows_of(row[name])
        ]
        _table(f"{title}.{name}".strip("."), within, ())


def _name(row: Mapping[str, object]) -> str:
    return next((_text(row[name]) for name in _NAMES if row.get(name)), "")


def _fields(fields: Mapping[str, object], form: str) -> None:
    if form == "table":
        printing.table(("name", "value"), ((name, escape(_text(value))) for name, value in fields.items()))
        return
    width = max(map(len, fields), default=0)
    for name, value in fields.items():
        first, *more = _text(value).split("\n")
        print(f"{name:<{width}}  {first}".rstrip())
        for line in more:
            print(f"{'':<{width}}  {line}".rstrip())
    print()
