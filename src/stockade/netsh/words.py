"""Words of a command line: splitting a line, finding `tag=value`, unique abbreviations, the nearest word.

    netsh ipsec static add filter filterlist="Web servers" src = me 10.0.0.0/8
    └──────── command words ────┘ └── tag=value ──────────┘└ tagged┘└ by its place ┘

Blanks part words; double quotes keep blanks in, and `""` between quotes is one quote. Blanks may stand around
the `=`; after `tag=` and a blank the next word is the value unless it is a `tag=value` itself. An `=` between
quotes belongs to the value."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stockade.model.reasons import ReasonCode, StockadeError, error_for

MAXIMUM_LINE = 65_536  # characters; a command is never longer, so neither is the work it makes
_SHOWN_WORD = 80  # characters of an offending word in an error


@dataclass(frozen=True, slots=True)
class Word:
    """One word. `index` counts from 1; `column` too, and is 0 where the shell did the splitting. `tag` is
    what stood before `=`; `whole_quoted` says that the value began with a quote."""

    text: str
    index: int
    column: int = 0
    tag: str | None = None
    whole_quoted: bool = False

    @property
    def position(self) -> str:
        return f"word {self.index}, column {self.column}" if self.column else f"word {self.index}"


@dataclass(slots=True)
class _Raw:
    """A word before `=` is looked at. `equals` is where the first unquoted `=` stands."""

    text: str
    column: int
    equals: int | None = None
    begins_quoted: bool = False
    value_quoted: bool = False


def split_line(line: str) -> list[Word]:
    """The words of one line; CallerError SYNTAX for an open quote or a line without end."""
    if len(line) > MAXIMUM_LINE:
        raise error_for(ReasonCode.SYNTAX, f"the line has more than {MAXIMUM_LINE} characters")
    raws: list[_Raw] = []
    current: _Raw | None = None
    quote_column = 0
    place = 0
    while place < len(line):
        character = line[place]
        column = place + 1
        place += 1
        if quote_column:
            assert current is not None
            if character != '"':
                current.text += character
            elif line[place : place + 1] == '"':
                current.text += '"'
                place += 1
            else:
                quote_column = 0
        elif character in " \t":
            current = None
        else:
            if current is None:
                current = _Raw("", column, begins_quoted=character == '"')
                raws.append(current)
            if character == '"':
                quote_column = column
                current.value_quoted |= current.equals is not None
            else:
                if character == "=" and current.equals is None:
                    current.equals = len(current.text)
                current.text += character
    if quote_column:
        raise error_for(
            ReasonCode.SYNTAX,
            f"the double quote at column {quote_column} is not closed",
            expected='a second "',
            position=f"column {quote_column}",
        )
    return _join(raws)


def split_arguments(arguments: Sequence[str]) -> list[Word]:
    """The words of an argument list that a shell has split: quotes in it are part of the text."""
    if sum(map(len, arguments)) > MAXIMUM_LINE:
        raise error_for(ReasonCode.SYNTAX, f"the command has more than {MAXIMUM_LINE} characters")
    raws = []
    for argument in arguments:
        equals = argument.find("=")
        raws.append(_Raw(argument, 0, None if equals < 0 else equals))
    return _join(raws)


def _join(raws: Sequence[_Raw]) -> list[Word]:
    """Bring `tag = value`, `tag =value` and `tag= value` together."""
    words: list[Word] = []
    place = 0
    while place < len(raws):
        raw = raws[place]
        place += 1
        index = len(words) + 1
        following = raws[place] if place < len(raws) else None
        if raw.equals is None and following is not None and following.equals == 0:
            tag, value, value_quoted = raw.text, following.text[1:], following.value_quoted
            place += 1
        elif raw.equals is None:
            words.append(Word(raw.text, index, raw.column, whole_quoted=raw.begins_quoted))
            continue
        else:
            tag, value = raw.text[: raw.equals], raw.text[raw.equals + 1 :]
            value_quoted = raw.value_quoted
        if not value and not value_quoted and place < len(raws) and raws[place].equals is None:
            value = raws[place].text
            place += 1
        words.append(Word(value, index, raw.column, tag.strip()))
    return words


def quoted(text: str) -> str:
    """`text` as one value of a command line: in quotes where it needs them. Read back by `split_line`."""
    if text and not any(character in ' \t"=' for character in text):
        return text
    return '"' + text.replace('"', '""') + '"'


def matches(word: str, candidates: Iterable[str]) -> list[str]:
    """The candidates that `word` names, without regard to case: the equal one, else all that begin with
    it."""
    key = word.casefold()
    beginning = []
    for candidate in candidates:
        folded = candidate.casefold()
        if folded == key:
            return [candidate]
        if key and folded.startswith(key):
            beginning.append(candidate)
    return beginning


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate that `word` was most likely meant to be, or None."""
    by_key = {candidate.casefold(): candidate for candidate in candidates}
    close = difflib.get_close_matches(word.casefold()[:_SHOWN_WORD], by_key, n=1, cutoff=0.5)
    return by_key[close[0]] if close else None


def printable(text: str) -> str:
    """`text` with everything escaped that could disturb or deceive a terminal (control characters, marks
    that turn the writing direction)."""
    return "".join(
        character
        if character.isprintable()
        else character.encode("unicode_escape", "surrogatepass").decode("ascii")
        for character in text
    )


def shown(text: str) -> str:
    """A user's word for an error: printable, and cut where it is long."""
    clean = printable(text[:_SHOWN_WORD])
    return clean if len(text) <= _SHOWN_WORD else clean + "…"


def syntax_error(
    detail: str,
    *,
    word: str | None = None,
    position: str = "",
    expected: str = "",
    candidates: Iterable[str] = (),
    code: ReasonCode = ReasonCode.SYNTAX,
) -> StockadeError:
    """CallerError with the word, where it stands, what was expected and the nearest of `candidates`."""
    facts: dict[str, str] = {}
    if word is not None:
        facts["word"] = shown(word)
        closest = nearest(word, candidates)
        if closest is not None:
            facts["nearest"] = closest
    if position:
        facts["position"] = position
    if expected:
        facts["expected"] = expected
    return error_for(code, detail, **facts)
