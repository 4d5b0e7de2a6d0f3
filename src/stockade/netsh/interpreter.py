"""Running commands: one line, or a script.

A command is found from the context that the session is in; a word that is not there is looked for in the
contexts above it, so a full `netsh ipsec static …` works everywhere. Command words may be abbreviated as
long as they stay unique. Nothing is applied before the whole command was read, and what a command changes is
one transaction."""

import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

from stockade.model.reasons import HostError, ReasonCode, StockadeError, error_for
from stockade.netsh.commands import TREE
from stockade.netsh.grammar import Command, Node, find, read_arguments
from stockade.netsh.help import command_help, node_help
from stockade.netsh.session import Outcome, Session, reason_data
from stockade.netsh.words import Word, matches, shown, split_arguments, split_line, syntax_error
from stockade.policy.contract import PolicyStore, PolicyTransaction
from stockade.policy.objects import PolicySet

MAXIMUM_SCRIPT = 4 * 1024 * 1024  # octets

_PROGRAM = ("netsh", "netsh.exe")
_HELP = ("?", "/?", "-?", "help")
_UP = ".."
_LEAVE = ("exit", "bye", "quit")
_COMMENT = re.compile(r"\s*(?:#|::|rem(?:\s|$))", re.IGNORECASE)


def run_command(command: str | Sequence[str], session: Session) -> Outcome:
    """Run one command: a line, or the arguments that a shell has split.

    Help and success are an `Outcome` with status 0; a command that this version does not have, one with
    status 1. A context without a command (`ipsec static`) is entered: it stays in `session.context`. Raises
    CallerError for what the caller can put right and HostError of the store; nothing is applied then."""
    if isinstance(command, str):
        words = [] if _COMMENT.match(command) else split_line(command)
    else:
        words = split_arguments(command)
    if words and words[0].tag is None and words[0].text.casefold() in _PROGRAM:
        words = words[1:]
        if not words:
            session.context = ()
    if not words:
        return Outcome()
    return _run(words, session)


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
        shown_help = node_help(found)
        return Outcome(f"{' '.join(found.path)} is not complete.\n{shown_help.text}", shown_help.data, 1)
    if len(rest) == 1 and _asks_for_help(rest[0]):
        return command_help(found)
    if found.run is None:
        error = error_for(ReasonCode.NOT_AVAILABLE, " ".join(found.path))
        text = f"{' '.join(found.path)} is not available in this version."
        if found.words == ("dump",):
            text = "dump is not implemented, as in Windows."
        return Outcome(text, reason_data(error.reason), 1, reason=error.reason)
    return found.run(session, read_arguments(found, rest))


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


def decode_script(content: bytes) -> str:
    """The text of a script file: UTF-8, or UTF-16 as Windows' editors write it, with or without a byte order
    mark. CallerError SYNTAX for anything else."""
    if len(content) > MAXIMUM_SCRIPT:
        raise error_for(ReasonCode.SYNTAX, f"the script is longer than {MAXIMUM_SCRIPT} octets")
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
            f"octet {error.start} of the script is not valid {encoding.upper()}",
            expected="a file in UTF-8 or UTF-16",
        ) from None


def run_script(text: str, session: Session, *, source: str = "", atomic: bool = False) -> list[Outcome]:
    """Run the commands of a script, one outcome for each, with its line number.

    Blank lines and comments (`rem`, `::`, `#`) are passed over. As in netsh a failed command does not stop
    the script; a store that fails does. With `atomic` the script is one transaction: the first failure ends
    it and nothing of it is kept. The session's context is the same afterwards as before. A failed command is
    an outcome here, not an exception; HostError is raised only where an atomic script cannot begin or be
    kept."""
    context = session.context
    try:
        if not atomic:
            return list(_run_lines(text, session, source))
        return _run_atomic(text, session, source)
    finally:
        session.context = context


class _RollBackError(Exception):
    """Leaves the transaction of an atomic script."""


def _run_atomic(text: str, session: Session, source: str) -> list[Outcome]:
    outcomes: list[Outcome] = []
    try:
        with session.store.transaction() as change:
            inner = Session(_InTransaction(session.store, change), session.context)
            for outcome in _run_lines(text, inner, source):
                if outcome.failed:
                    note = f"{outcome.text}\nNothing of the script was applied."
                    outcomes.append(
                        Outcome(note, outcome.data, outcome.status, outcome.line, source, outcome.reason)
                    )
                    raise _RollBackError
                outcomes.append(outcome)
    except _RollBackError:
        pass
    return outcomes


def _run_lines(text: str, session: Session, source: str) -> Iterator[Outcome]:
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text.removeprefix("\ufeff")), start=1):
        if not line.strip() or _COMMENT.match(line):
            continue
        try:
            outcome = run_command(line, session)
        except StockadeError as error:
            where = f"{source}, line {number}" if source else f"line {number}"
            reason = error.reason
            yield Outcome(f"{where}: {reason}", reason_data(reason), 1, number, source, reason)
            if isinstance(error, HostError):
                return
            continue
        yield Outcome(outcome.text, outcome.data, outcome.status, number, source, outcome.reason)
        if session.ended:
            session.ended = False
            return


class _InTransaction:
    """A `PolicyStore` whose every transaction is part of one that is open already."""

    def __init__(self, store: PolicyStore, change: PolicyTransaction) -> None:
        self._store = store
        self._change = change

    @property
    def name(self) -> str:
        return self._store.name

    def read(self) -> PolicySet:
        return self._change.read()

    def transaction(self) -> AbstractContextManager[PolicyTransaction]:
        return nullcontext(self._change)

    def version(self) -> int:
        return self._store.version()
