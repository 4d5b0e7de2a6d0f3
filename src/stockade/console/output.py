"""What commands print, in the form that was asked for: the one place that knows about `--format`.

    text    for people: as each command tells it
    table   the same facts as tables
    list    every field of the answer, one to a line
    json    the answer itself, for programs

A command hands over its answer (what JSON has) and how it tells it as text; tables and lists are made from
the answer. Peers choose some of what is told, so nothing here lets a control character through."""

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from stockade.model.reasons import StockadeError

FORMS = ("text", "table", "list", "json")

Text: TypeAlias = Callable[[], object] | str | None

# What JSON allows in a string and a terminal or a reader should not meet: DEL and the C1 controls, characters
# that turn the direction of writing, line separators, and halves of surrogates (which cannot be encoded).
_HIDDEN = re.compile("[\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def give(answer: object, form: str, text: Text, columns: Sequence[str] = ()) -> None:
    """Print `answer`, anything that JSON has. `text`: how it is told to people (something that prints, or the
    text; None: nothing is said). `columns`: the fields that a table of rows has, where all would be too
    many."""
    if form == "json":
        print(as_json(answer))
    elif form in ("table", "list"):
        from stockade.console import whole_answers  # late: rich takes its time

        whole_answers.show(answer, form, columns)
    elif callable(text):
        text()
    elif text is not None:
        print(visible(text))
    sys.stdout.flush()


def give_record(record: Mapping[str, object], form: str, line: str) -> None:
    """Print one of many records that come one by one: with `json` a line each (JSON lines), with `list` a
    block each, else `line`."""
    if form == "json":
        print(as_json(record, indent=None), flush=True)
    elif form == "list":
        from stockade.console import whole_answers

        whole_answers.show(record, form)
        sys.stdout.flush()
    else:
        print(visible(line), flush=True)


def give_findings(answer: Mapping[str, object], form: str) -> None:
    """For rooms below this one, which print their text as they go and hand over what they found."""
    give(answer, form, None)


def give_refusal(error: StockadeError, form: str) -> None:
    """What was refused, where, why and what to do, on standard error."""
    if form == "json":
        print(as_json(error.reason.as_dict(), indent=None), file=sys.stderr)
        return
    print(f"stockade: {visible(str(error.reason))}", file=sys.stderr)
    if error.reason.code.remedy != "none":
        print(f"what to do: {error.reason.code.remedy}", file=sys.stderr)


def as_json(answer: object, indent: int | None = 2) -> str:
    """JSON as people can read it, in one encoding whatever the terminal's."""
    text = json.dumps(answer, indent=indent, ensure_ascii=False)
    return _HIDDEN.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def clean(text: object) -> str:
    """Without control characters: peers choose some of what is told, and must not steer a terminal."""
    told = str(text)
    return told if told.isprintable() else "".join(one if one.isprintable() else "�" for one in told)


def cleaned(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer with `clean` texts, for who prints it as text."""
    found = _cleaned(answer)
    assert isinstance(found, dict)
    return found


def _cleaned(value: object) -> object:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {name: _cleaned(one) for name, one in value.items()}
    return [_cleaned(one) for one in value] if isinstance(value, list) else value


def visible(text: str) -> str:
    """As `clean`, for texts of several lines."""
    return "\n".join(clean(line) for line in text.split("\n"))
