"""What could come next on a line: command words, tags, values, names of objects. For the interactive
shell."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from stockade.model.reasons import StockadeError
from stockade.netsh.commands import TREE
from stockade.netsh.grammar import Command, Node, Parameter, find
from stockade.netsh.session import Session
from stockade.netsh.words import Word, matches, quoted, split_line
from stockade.policy.objects import PolicySet


@dataclass(frozen=True, slots=True)
class Completion:
    """`text` stands for the last `replaces` characters of the line; `about` says what it is."""

    text: str
    replaces: int
    about: str = ""


def complete(line: str, session: Session) -> list[Completion]:
    """The ways to go on with `line`, at its end."""
    try:
        words = split_line(line)
    except StockadeError:
        try:
            words = split_line(line + '"')  # inside quotes
        except StockadeError:
            return []
    begun = bool(line) and not line[-1].isspace()
    last = words[-1] if begun and words else None
    before = words[:-1] if last is not None else words
    nodes = [find(TREE, session.context[:depth]) for depth in range(len(session.context), -1, -1)]
    for start in nodes:
        found = _walk(start, before)
        if isinstance(found, Command):
            return list(_parameters(found, last, line, session))
        if found is not None and (before or start is nodes[0]):
            own = list(_children(found, last))
            if not before:  # what stands in the contexts above is a beginning too
                for above in nodes[1:]:
                    if isinstance(above, Node):
                        own += _children(above, last)
            return own
    return []


def may_hold_key(line: str, session: Session) -> bool:
    """Whether the line may hold a pre-shared key, with its tag or in its place. Rather one line too many."""
    folded = line.casefold()
    if "psk" in folded or "preshare" in folded:
        return True
    try:
        words = split_line(line)
    except StockadeError:
        return True
    for depth in range(len(session.context), -1, -1):
        found = _walk(find(TREE, session.context[:depth]), words)
        if isinstance(found, Command):
            return any(parameter.kind.secret for parameter in found.parameters)
    return False


def _walk(node: Node | Command | None, words: Iterable[Word]) -> Node | Command | None:
    for place, word in enumerate(words):
        if isinstance(node, Command):
            return node
        if place == 0 and word.tag is None and word.text.casefold() in ("netsh", "netsh.exe"):
            continue
        if node is None or word.tag is not None:
            return None
        found = matches(word.text, node.children)
        if len(found) != 1:
            return None
        node = node.children[found[0]]
    return node


def _children(node: Node | Command, last: Word | None) -> Iterator[Completion]:
    if isinstance(node, Command) or (last is not None and last.tag is not None):
        return
    typed = "" if last is None else last.text
    for name, child in sorted(node.children.items()):
        if name.startswith(typed.casefold()):
            yield Completion(name, len(typed), child.help)


def _parameters(command: Command, last: Word | None, line: str, session: Session) -> Iterator[Completion]:
    if last is not None and last.tag is not None:
        tags = [parameter.tag for parameter in command.parameters]
        found = matches(last.tag, tags)
        if len(found) == 1:
            parameter = next(p for p in command.parameters if p.tag == found[0])
            yield from _values(parameter, last.text, line, session)
        return
    typed = "" if last is None else last.text
    for parameter in command.parameters:
        if parameter.tag.startswith(typed.casefold()) and not parameter.unavailable:
            yield Completion(f"{parameter.tag}=", len(typed), parameter.help)


def _values(parameter: Parameter[object], typed: str, line: str, session: Session) -> Iterator[Completion]:
    if parameter.kind.secret:
        return
    names = [*parameter.kind.words, *_names(parameter, session)]
    replaces = len(line) - (line.rfind("=") + 1)
    for name in names:
        if name.casefold().startswith(typed.casefold()):
            yield Completion(quoted(name), replaces)


def _names(parameter: Parameter[object], session: Session) -> list[str]:
    if parameter.tag not in ("filterlist", "filteraction", "policy", "name", "rule"):
        return []
    try:
        objects = session.store.read()
    except StockadeError:
        return []
    return _names_in(objects, parameter.tag)


def _names_in(objects: PolicySet, tag: str) -> list[str]:
    lists = [entry.name for entry in objects.filter_lists]
    actions = [entry.name for entry in objects.filter_actions]
    policies = [entry.name for entry in objects.policies]
    rules = [rule.name for policy in objects.policies for rule in policy.rules if rule.name]
    return {
        "filterlist": lists,
        "filteraction": actions,
        "policy": policies,
        "rule": rules,
        "name": [*policies, *lists, *actions, *rules],
    }[tag]
