"""Running commands: one line, or a script.

A command is found from the context that the session is in; a word that is not there is looked for in the
contexts above it, so a full `netsh ipsec static …` works everywhere. Command words may be abbreviated as
long as they stay unique. Nothing is applied before the whole command was read, and what a command changes is
one transaction."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from stockade.model.filters import Origin
from stockade.model.reasons import HostError, ReasonCode, StockadeError, error_for
from stockade.netsh.batch_file import (
    COMMENT,
    BatchReader,
    Join,
    Kind,
    Segment,
    passed_over,
    refuse_control_flow,
    script_lines,
)
from stockade.netsh.commands import TREE
from stockade.netsh.dump import is_dump, refuse_blanks
from stockade.netsh.grammar import Command, Node, find, read_arguments
from stockade.netsh.help import command_help, node_help
from stockade.netsh.session import Outcome, Session, reason_data
from stockade.netsh.words import Word, matches, shown, split_arguments, split_line, syntax_error

MAXIMUM_SCRIPT = 4 * 1024 * 1024  # octets

_PROGRAM = ("netsh", "netsh.exe")
_HELP = ("?", "/?", "-?", "help")
_UP = ".."
_STATIC = ("ipsec", "static")
_CHANGES_OF_OBJECTS = (
    ("set", "policy"),
    ("set", "filterlist"),
    ("set", "filteraction"),
    ("set", "rule"),
    ("set", "defaultrule"),
)
_LEAVE = ("exit", "bye", "quit")
_STORE_FAILS = (ReasonCode.STORE_UNREADABLE, ReasonCode.STORE_BUSY)
MAXIMUM_DEPTH = 8  # scripts that call scripts


def run_command(command: str | Sequence[str], session: Session) -> Outcome:
    """Run one command: a line, or the arguments that a shell has split.

    Help and success are an `Outcome` with status 0; a command that this version does not have, one with
    status 1. A context without a command (`ipsec static`) is entered: it stays in `session.context`. Raises
    CallerError for what the caller can put right and HostError of the store; nothing is applied then."""
    if isinstance(command, str):
        words = [] if COMMENT.match(command) else split_line(command)
    else:
        words = split_arguments(command)
    if words and words[0].tag is None and _is_program(words[0].text):
        words = words[1:]
        if not words:
            session.context = ()
        if words and words[0].tag is None and words[0].text.startswith("-"):
            return _with_options(words, session)
    if not words:
        return Outcome()
    return _run(words, session)


def _is_program(word: str) -> bool:
    """`netsh`, `netsh.exe`, also with the folder that it is in."""
    return word.replace("\\", "/").rpartition("/")[2].casefold() in _PROGRAM


def _with_options(words: Sequence[Word], session: Session) -> Outcome:
    """`netsh -c "ipsec static" add …`, `netsh -f FILE`."""
    option = words[0].text.casefold()
    if option == "-r" and len(words) > 1 and session.world.is_this_computer(words[1].text):
        return _run(words[2:], session) if words[2:] else Outcome()
    if option in ("-r", "-u", "-p", "-a"):
        raise error_for(ReasonCode.NOT_AVAILABLE, f"netsh {option}: other computers, aliases")
    if option not in ("-c", "-f") or len(words) < 2:
        raise syntax_error(
            "netsh takes -c CONTEXT and -f FILE",
            word=words[0].text,
            position=words[0].position,
            expected="-c, -f",
        )
    if option == "-f":
        return run_file(words[1].text, session)
    before = session.context
    try:
        session.context = ()
        _run(split_line(words[1].text), session)
        return _run(words[2:], session) if words[2:] else Outcome()
    finally:
        session.context = before


def _run(words: Sequence[Word], session: Session) -> Outcome:
    first = words[0].text.casefold() if words[0].tag is None else ""
    if len(words) == 1:
        if first == _UP:
            session.context = session.context[:-1]
            return Outcome(data={"context": " ".join(session.context)})
        if first in _LEAVE:
            session.ended = True
            return Outcome()
    if first in _HELP:
        return _help(words[1:], session)
    found, rest = _find(words, session.context)
    if isinstance(found, Node):
        if rest:
            return node_help(found)  # the word that ended the search asks for help
        if found.enterable:
            session.context = found.path
            return Outcome(data={"context": " ".join(found.path)})
        everything = found.children.get("all")
        if found.path[-1] == "show" and isinstance(everything, Command):
            # The FAQ sends administrators to a bare `netsh ipsec static show` to see what is in force.
            return _run_found(everything, (), session)
        shown_help = node_help(found)
        return Outcome(f"{' '.join(found.path)} is not complete.\n{shown_help.text}", shown_help.data, 1)
    return _run_found(found, rest, session)


def _run_found(found: Command, rest: Sequence[Word], session: Session) -> Outcome:
    """Run a command with the words after it."""
    session.path = found.path
    if len(rest) == 1 and _asks_for_help(rest[0]):
        return command_help(found)
    if found.run is None:
        error = error_for(ReasonCode.NOT_AVAILABLE, " ".join(found.path))
        text = f"{' '.join(found.path)} is not available in this version."
        return Outcome(text, reason_data(error.reason), 1, reason=error.reason)
    arguments = read_arguments(found, rest)
    if _waits(found):
        session.join_group()
    else:
        session.end_group()
    if found.changes:
        session.describe(f"{' '.join(found.path)} {arguments.written}".rstrip())
    return found.run(session, arguments)


def _waits(command: Command) -> bool:
    """Whether what the command changes can be written together with what others change: objects of the
    store. Whatever reads the world, or changes it, comes after all that was written before it."""
    return command.context == _STATIC and (
        command.words[0] in ("add", "delete") or command.words in _CHANGES_OF_OBJECTS
    )


def _help(words: Sequence[Word], session: Session) -> Outcome:
    """`help`, `help add policy`."""
    if words:
        found, _ = _find(words, session.context)
    else:
        here = find(TREE, session.context)
        assert here is not None
        found = here
    return node_help(found) if isinstance(found, Node) else command_help(found)


def _asks_for_help(word: Word) -> bool:
    return word.tag is None and not word.whole_quoted and word.text.casefold() in _HELP


def _find(words: Sequence[Word], context: Sequence[str]) -> tuple[Node | Command, Sequence[Word]]:
    """What the first words name, and the words after it. Where the search stops at a word that asks for help,
    that word is the first of the rest."""
    here: Node | Command = _start(words[0], context)
    for place, word in enumerate(words):
        if isinstance(here, Command):
            return here, words[place:]
        if _asks_for_help(word):
            return here, words[place:]
        here = _child(here, word)
    return here, ()


def _start(word: Word, context: Sequence[str]) -> Node:
    """The context, from the session's upward, that has the first word: as it is, else abbreviated."""
    nodes = []
    for depth in range(len(context), -1, -1):
        node = find(TREE, context[:depth])
        assert isinstance(node, Node)
        nodes.append(node)
    if word.tag is None:
        for node in nodes:
            if word.text.casefold() in node.children:
                return node
        for node in nodes:
            if matches(word.text, node.children):
                return node
    return nodes[0]


def _child(node: Node, word: Word) -> Node | Command:
    where = " ".join(("netsh", *node.path))
    if word.tag is not None:
        raise syntax_error(
            f"a command word is missing before {shown(word.tag)}=",
            word=word.tag,
            position=word.position,
            expected=", ".join(node.children),
            candidates=node.children,
        )
    found = matches(word.text, node.children)
    if len(found) == 1:
        return node.children[found[0]]
    if found:
        raise syntax_error(
            f"“{shown(word.text)}” may mean more than one word after {where}",
            word=word.text,
            position=word.position,
            expected=" or ".join(found),
        )
    raise syntax_error(
        f"{where} has no command “{shown(word.text)}”",
        word=word.text,
        position=word.position,
        expected=", ".join(node.children),
        candidates=node.children,
    )


# -- scripts


def decode_script(content: bytes, source: str = "") -> str:
    """The text of a script file: UTF-8, or UTF-16 as Windows' editors write it, with or without a byte order
    mark. CallerError SYNTAX for anything else, which names the file `source`."""
    where = {"file": source} if source else {}
    if len(content) > MAXIMUM_SCRIPT:
        raise error_for(ReasonCode.SYNTAX, f"the script is longer than {MAXIMUM_SCRIPT} octets", **where)
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    elif len(content) >= 2 and content[1] == 0 and content[0] != 0:
        encoding = "utf-16-le"  # a script begins with an ASCII character
    elif len(content) >= 2 and content[0] == 0 and content[1] != 0:
        encoding = "utf-16-be"
    else:
        encoding = "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise error_for(
            ReasonCode.SYNTAX,
            f"octet {error.start} of the script is not valid {encoding.upper().removesuffix('-SIG')}",
            expected="a file in UTF-8 or UTF-16",
            **where,
        ) from None


def run_script(text: str, session: Session, *, source: str = "", atomic: bool = False) -> list[Outcome]:
    """Run the commands of a script, one outcome for each, with its line number.

    Blank lines and comments (`rem`, `::`, `#`) are passed over; what a batch file has around its commands is
    passed over with a note, which is an outcome too (`Outcome.note`). As in netsh a failed command does not
    stop the script; a store that fails does. A script with control flow (goto, if, for …) is refused whole,
    and so is one of `dump` whose keys are not filled in. With `atomic` the script is one change: the first
    failure ends it and nothing of it is kept. The session's context and store are the same afterwards as
    before. A failed command is an outcome here, not an exception; HostError is raised only where an atomic
    script cannot begin or be kept."""
    context, store = session.context, session.store
    try:
        lines = script_lines(text)
        try:
            refuse_control_flow(lines)
            if is_dump(text):
                refuse_blanks(text)
        except StockadeError as error:
            line = int(dict(error.reason.facts).get("line", 0))
            return [replace(_failed(error, line, source), text=f"{error.reason}\nNothing was applied.")]
        if atomic and session.buffer is None:
            return _run_atomic(lines, session, source)
        return list(_run_lines(lines, session, source))
    finally:
        session.context = context
        if session.store is not store and session.buffer is None:
            session.store = store


def run_file(name: str, session: Session) -> Outcome:
    """Run the script in a file (`exec`, `netsh -f`); one outcome that joins those of its commands."""
    if session.depth >= MAXIMUM_DEPTH:
        raise error_for(ReasonCode.SYNTAX, f"scripts call each other more than {MAXIMUM_DEPTH} deep")
    text = decode_script(session.files.read(name), name)
    session.depth += 1
    try:
        outcomes = run_script(text, session, source=name)
    finally:
        session.depth -= 1
    failures = [outcome for outcome in outcomes if outcome.failed]
    said = "\n".join(outcome.text for outcome in outcomes if outcome.text)
    reason = failures[0].reason if failures else None
    return Outcome(said, [outcome.data for outcome in outcomes], int(bool(failures)), reason=reason)


def _run_atomic(lines: Sequence[tuple[int, str]], session: Session, source: str) -> list[Outcome]:
    outcomes: list[Outcome] = []
    session.begin_buffer()
    session.atomic = True
    keep = False
    try:
        for outcome in _run_lines(lines, session, source):
            if outcome.failed:
                outcomes.append(replace(outcome, text=f"{outcome.text}\nNothing of the script was applied."))
                return outcomes
            outcomes.append(outcome)
        keep = True
    finally:
        session.atomic = False
        session.end_buffer(f"script {source}".rstrip(), keep=keep)
    return outcomes


def _run_lines(lines: Sequence[tuple[int, str]], session: Session, source: str) -> Iterator[Outcome]:
    buffered, grouping = session.buffer is not None, session.grouping
    session.grouping = not buffered
    try:
        yield from _run_grouped(lines, session, source)
        try:
            session.end_group()
        except StockadeError as error:
            yield _failed(error, 0, source)
    finally:
        session.grouping = grouping
        if session.group:  # something that nobody expected: what was done before it counts, as in netsh
            session.end_group()
    if session.buffer is not None and not buffered:  # batch mode that the script switched on ends with it
        try:
            session.end_buffer(f"script {source} (batch mode)", keep=True)
        except StockadeError as error:
            yield _failed(error, 0, source)


def _run_grouped(lines: Sequence[tuple[int, str]], session: Session, source: str) -> Iterator[Outcome]:
    reader = BatchReader(lines)
    for number, line in lines:
        try:
            segments = reader.segments(line)
        except StockadeError as error:
            yield _failed(error, number, source)
            continue
        try:
            yield from _run_segments(segments, session, reader, number, source)
        except HostError as error:
            yield _failed(error, number, source)
            return
        if session.ended:
            session.ended = False
            return


def _run_segments(
    segments: Sequence[Segment], session: Session, reader: BatchReader, number: int, source: str
) -> Iterator[Outcome]:
    """The parts of one line, as `&&` and `||` say. HostError ends the script."""
    good = True
    for segment in segments:
        if (segment.join is Join.AFTER_SUCCESS and not good) or (segment.join is Join.AFTER_FAILURE and good):
            continue
        if segment.kind is Kind.NOTE:
            note = f"{_where(source, number)}: {passed_over(segment)}"
            yield Outcome(note, {"passed_over": shown(segment.text)}, 0, number, source, note=True)
        elif segment.kind is Kind.SET:
            reader.set(segment.text, segment.value)
        elif segment.kind is Kind.EXIT:
            session.ended = True
            return
        else:
            before, session.origin = session.origin, Origin(source, number) if source else None
            session.path = ()
            try:
                outcome = run_command(segment.text, session)
            except StockadeError as error:
                if error.reason.code in _STORE_FAILS:
                    raise
                outcome = _failed(error, number, source)
            finally:
                session.origin = before
            good = not outcome.failed
            yield replace(outcome, line=number, source=source, path=session.path)
            if session.ended:
                return


def _where(source: str, number: int) -> str:
    return f"{source}, line {number}" if source else f"line {number}"


def _failed(error: StockadeError, number: int, source: str) -> Outcome:
    reason = error.reason
    text = f"{_where(source, number)}: {reason}" if number else str(reason)
    return Outcome(text, reason_data(reason), 1, number, source, reason)
