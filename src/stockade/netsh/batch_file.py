"""Scripts as administrators write them: the netsh commands inside a batch file.

    @echo off                                                   passed over, with a note
    set NETSH=netsh ipsec static                                kept; %NETSH% is filled in
    %NETSH% add filterlist Web > nul 2>&1 && echo done          the command runs; the rest is passed over
    if errorlevel 1 goto failed                                 refused, and the whole script with it

What a command shell does around its commands is either harmless here and passed over (echo, setlocal, pause,
redirections, pipes, other programs that are known), or acted on (`set NAME=value`, `%NAME%`, `&&`, `||`, `&`,
`exit /b`), or it decides what runs (goto, labels, if, for, call, blocks): such a script is refused before its
first command, for half of it could be applied wrongly.

A line belongs to the command shell where it begins with `netsh`, with `@` or with a word of the command
shell. All other lines are netsh's own, and `&`, `>` and `^` mean themselves there."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from stockade.model.reasons import ReasonCode, StockadeError
from stockade.netsh.words import MAXIMUM_LINE, shown, syntax_error

COMMENT = re.compile(r"\s*@?\s*(?:#|::|;|rem(?:\s|$))", re.IGNORECASE)
_CONTROL = re.compile(r"\s*@?\s*(?:(goto|if|for|call|shift|choice)(?=[\s:(/\"]|$)|([()]))", re.IGNORECASE)
_LABEL = re.compile(r"\s*:(?!:)\s*\S")
_NETSH = re.compile(r"\s*\"?(?:[^\s\"]*[\\/])?netsh(?:\.exe)?\"?(?:\s|$)", re.IGNORECASE)
_SET = re.compile(
    r"\s*set\s+(?:\"([A-Za-z_][^\s=\"]*)=([^\"]*)\"?|([A-Za-z_][^\s=\"]*)=(.*))\s*$", re.I | re.S
)
_ASKS = re.compile(r"\s*set\s+/", re.IGNORECASE)
_EXIT = re.compile(r"\s*exit(?:\s+/b)?(?:\s+(-?\d+))?\s*$", re.IGNORECASE)
_END_OF_FILE = re.compile(r"\s*@?\s*goto\s*:?\s*eof\s*$", re.IGNORECASE)
_CALL = re.compile(r"\s*call\s+(?=\"?(?:[^\s\"]*[\\/])?netsh)", re.IGNORECASE)
_HARMLESS = re.compile(
    r"\s*(?:echo|setlocal|endlocal|pause|cls|title|color|chcp|verify|ver|cd|chdir|prompt|mode|path|break|net|sc|reg"
    r"|gpupdate|timeout|ping|sleep|ipconfig|hostname|whoami|find|findstr|more|sort|tee|type|date|time|secedit|net1"
    r"|wevtutil|eventcreate|taskkill|tasklist|pushd|popd|ipsecmon)(?=[\s.:;,/(=+]|$)",
    re.IGNORECASE,
)
_VARIABLE = re.compile(
    r"%([A-Za-z_][A-Za-z0-9_.()\-]*)(:[^%]*)?%|%U\+([0-9A-Fa-f]{1,6})%|(%%)|(%[0-9*~])", re.I
)
_DELAYED = re.compile(r"!([A-Za-z_][A-Za-z0-9_.()\-]*)!")
_SIGN = re.compile(r"u\+([0-9a-f]{1,6})", re.IGNORECASE)

# What every Windows has, whatever the script sets.
_FIXED = {"systemroot": "C:\\Windows", "windir": "C:\\Windows"}
MAXIMUM_EXPANDED = MAXIMUM_LINE  # a variable in a variable in a variable … ends here


class Join(StrEnum):
    """When a segment runs, seen from the one before it."""

    ALWAYS = "&"
    AFTER_SUCCESS = "&&"
    AFTER_FAILURE = "||"
    PIPE = "|"


class Kind(StrEnum):
    COMMAND = "command"
    NOTE = "note"  # passed over; `text` says what
    SET = "set"
    EXIT = "exit"


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a line. `text`: the command; for a note what was passed over; for `set` the name."""

    kind: Kind
    text: str
    join: Join = Join.ALWAYS
    value: str = ""


@dataclass(frozen=True, slots=True)
class _Piece:
    text: str
    join: Join
    redirections: tuple[str, ...]


def script_lines(text: str) -> list[tuple[int, str]]:
    """The lines that are not blank, with their numbers; lines that a caret continues are joined."""
    lines: list[tuple[int, str]] = []
    continued: tuple[int, str] | None = None
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text.removeprefix("\ufeff")), start=1):
        if continued is not None:
            number, line = continued[0], continued[1] + line.lstrip()
            continued = None
        if _goes_on(line):
            continued = (number, line[:-1])
            continue
        if line.strip():
            lines.append((number, line))
    if continued is not None and continued[1].strip():
        lines.append(continued)
    return lines


def _goes_on(line: str) -> bool:
    """Whether a caret at the line's end continues it. In a line that need not be the shell's (it may begin
    with a variable that holds `netsh`) a blank before the caret says so: a value hardly ends with ` ^`."""
    if not line.endswith("^") or line.endswith("^^") or line.count('"') % 2:
        return False
    return _is_shell_line(line) or line.lstrip().startswith("%") or line[-2:-1].isspace()


def _is_shell_line(line: str) -> bool:
    """Whether the command shell reads this line, not netsh."""
    return bool(
        line.lstrip().startswith("@")
        or _NETSH.match(line)
        or _HARMLESS.match(line)
        or _SET.match(line)
        or _ASKS.match(line)
        or _CALL.match(line)
        or re.match(r"\s*exit\s+/b", line, re.IGNORECASE)
    )


def refuse_control_flow(lines: Sequence[tuple[int, str]]) -> None:
    """CallerError SYNTAX where the script decides by itself what runs; its fact `line` says where."""
    jumps = any(re.match(r"\s*@?\s*(?:goto|call)\b", line, re.IGNORECASE) for _, line in lines)
    for number, line in lines:
        if COMMENT.match(line) or _END_OF_FILE.match(line):
            continue
        parts = [line]
        if _is_shell_line(line):
            parts = [piece.text for piece in _split(line.lstrip().removeprefix("@"))]
        for part in parts:
            found = None if _CALL.match(part) else _CONTROL.match(part)
            if found is not None and _END_OF_FILE.match(part) is None:
                raise _refused(number, found[1] or "a block in parentheses")
            if _ASKS.match(part):
                raise _refused(number, "set /a or /p")
        if jumps and _LABEL.match(line):
            raise _refused(number, "a label")


def _refused(line: int, what: str) -> StockadeError:
    error = syntax_error(
        f"line {line}: {what} decides what runs, and this is no command shell;"
        " write the commands one after the other, or call stockade netsh from a shell script",
        expected="netsh commands",
    )
    reason = error.reason
    return type(error)(type(reason)(reason.code, reason.detail, (*reason.facts, ("line", str(line)))))


class BatchReader:
    """Reads one line after the other, and keeps the variables."""

    def __init__(self, lines: Sequence[tuple[int, str]]) -> None:
        self._variables: dict[str, str] = {}
        self._is_batch = any(_is_shell_line(line) and not _NETSH.match(line) for _, line in lines)
        self._delayed = any("enabledelayedexpansion" in line.casefold() for _, line in lines)

    def set(self, name: str, value: str) -> None:
        """`set NAME=value`; an empty value forgets it."""
        if value:
            self._variables[name.casefold()] = value
        else:
            self._variables.pop(name.casefold(), None)

    def segments(self, line: str) -> list[Segment]:
        """What the line does, in its order. CallerError SYNTAX for an unknown variable, an open quote, a
        program that is not known."""
        if COMMENT.match(line):
            return []
        if _LABEL.match(line):
            return [Segment(Kind.NOTE, line.strip())]
        if _is_shell_line(line):
            raw = _split(line.lstrip().removeprefix("@"))
            if all(_HARMLESS.match(piece.text) for piece in raw):  # what is not run need not be known
                return [Segment(Kind.NOTE, piece.text.strip(), piece.join) for piece in raw]
        if _END_OF_FILE.match(line):
            return [Segment(Kind.EXIT, line.strip())]
        expanded, left = self._expanded(line)
        if not _is_shell_line(expanded):
            if left is not None:
                raise left
            return [Segment(Kind.COMMAND, expanded)]
        pieces = _split(expanded.lstrip().removeprefix("@"))
        # What is passed over is told as it is written: a variable in it may be a key.
        raw = _split(line.lstrip().removeprefix("@"))
        told = [piece.text for piece in raw] if len(raw) == len(pieces) else [""] * len(pieces)
        hidden = "psk" in expanded.casefold()
        segments: list[Segment] = []
        for piece, as_written in zip(pieces, told, strict=True):
            segments += self._segment(piece, as_written.strip(), hidden=hidden)
        return segments

    def _segment(self, piece: _Piece, as_written: str, *, hidden: bool) -> Iterator[Segment]:
        text = _CALL.sub("", piece.text).strip()
        assigned = _SET.match(text)
        if assigned is not None:
            name, value = (assigned[1], assigned[2]) if assigned[1] else (assigned[3], assigned[4])
            yield Segment(Kind.SET, name, piece.join, value)
        elif _NETSH.match(text):
            yield Segment(Kind.COMMAND, text, piece.join)
        elif (left := _EXIT.match(text)) is not None:
            yield Segment(Kind.EXIT, text, piece.join, left[1] or "0")
        elif _END_OF_FILE.match(text):
            yield Segment(Kind.EXIT, text, piece.join, "0")
        elif not text or COMMENT.match(text) or _HARMLESS.match(text) or piece.join is Join.PIPE:
            if text:
                yield Segment(Kind.NOTE, as_written or "a command", piece.join)
        else:
            raise syntax_error(
                "a program that is neither netsh nor known to be harmless; nothing of the line was run",
                word=None if hidden else text.split()[0],
                expected="netsh",
            )
        for redirection in piece.redirections:
            yield Segment(Kind.NOTE, redirection)

    def _expanded(self, line: str) -> tuple[str, StockadeError | None]:
        """The line with its variables filled in. An unknown one in the target of a redirection
        (`>> %TEMP%\\setup.log`) is left as it is, with the error that it would be if the line is not
        the shell's after all: where the shell would write to is nothing that is done here."""
        batch = self._is_batch or _NETSH.match(line) is not None
        targets = _redirection_places(line)
        left: list[StockadeError] = []

        def value(match: re.Match[str]) -> str:
            name, operation, sign, percent, argument = match.groups()
            if sign is not None:
                return _sign(sign)
            if percent is not None:
                return "%" if batch else percent
            if argument is not None:
                if not batch:
                    return argument
                raise self._unknown(match, line, "an argument of the batch file")
            found = self._variables.get(name.casefold(), _FIXED.get(name.casefold()))
            if found is None or operation:
                error = self._unknown(match, line, "a part of a variable" if operation else "a variable")
                if not any(start <= match.start() < end for start, end in targets):
                    raise error
                left.append(error)
                return match[0]
            return found

        expanded = _VARIABLE.sub(value, line)
        if self._delayed:
            expanded = _DELAYED.sub(
                lambda match: self._variables.get(match[1].casefold(), match[0]), expanded
            )
        if len(expanded) > MAXIMUM_EXPANDED:
            raise syntax_error(f"with its variables the line has more than {MAXIMUM_EXPANDED} characters")
        return expanded, left[0] if left else None

    @staticmethod
    def _unknown(match: re.Match[str], line: str, what: str) -> StockadeError:
        # A key may hold percent signs: then what looks like a variable is a part of it, and not repeated.
        hidden = re.search(r"psk", line[: match.start()], re.IGNORECASE) is not None
        return syntax_error(
            f"{what} that the script does not set, at column {match.start() + 1}",
            word=None if hidden else match[0],
            expected="set NAME=value before it; a percent sign itself is %U+0025%",
            code=ReasonCode.SYNTAX,
        )


def _sign(digits: str) -> str:
    number = int(digits, 16)
    if number > 0x10FFFF or number in (0, ord('"')):
        raise syntax_error(f"U+{digits} is no character that a script can write", word=f"%U+{digits}%")
    return chr(number)


def _split(line: str) -> list[_Piece]:
    """A line of the command shell, parted at `&`, `&&`, `|`, `||` outside quotes; redirections taken out."""
    pieces: list[_Piece] = []
    text: list[str] = []
    redirections: list[str] = []
    join = Join.ALWAYS
    quoted = False
    place = 0

    def finish() -> None:
        if "".join(text).strip() or redirections:
            pieces.append(_Piece("".join(text), join, tuple(redirections)))
        text.clear()
        redirections.clear()

    while place < len(line):
        character = line[place]
        place += 1
        if character == '"':
            quoted = not quoted
            text.append(character)
        elif quoted:
            text.append(character)
        elif character == "^" and place < len(line):
            text.append(line[place])
            place += 1
        elif character in "&|":
            double = line[place : place + 1] == character
            place += double
            finish()
            join = Join(character * (2 if double else 1))
        elif character in "<>":
            redirection, place = _redirection(line, place - 1, text)
            redirections.append(redirection)
        else:
            text.append(character)
    finish()
    return pieces


def _redirection_places(line: str) -> list[tuple[int, int]]:
    """Where the redirections of a line begin and end, if the line is the shell's."""
    places: list[tuple[int, int]] = []
    if "<" not in line and ">" not in line:
        return places
    quoted, place = False, 0
    while place < len(line):
        character = line[place]
        quoted ^= character == '"'
        if not quoted and character in "<>":
            _, end = _redirection(line, place, [])
            places.append((place, end))
            place = end
        else:
            place += 2 if not quoted and character == "^" else 1
    return places


def _redirection(line: str, start: int, text: list[str]) -> tuple[str, int]:
    """The redirection at `start`, and the place after it. A handle in front of it is taken out of `text`."""
    handle = ""
    if text and text[-1].isdigit() and (len(text) == 1 or text[-2].isspace()):
        handle = text.pop()
    found = re.compile(r"(?:>>?|<)(?:&\d|\s*(?:\"[^\"]*\"|[^\s&|<>\"]+))?").match(line, start)
    assert found is not None  # it begins with < or >
    return handle + found[0], found.end()


def passed_over(segment: Segment) -> str:
    """The note for a segment that is not run."""
    return f"passed over: {shown(segment.text)}"
