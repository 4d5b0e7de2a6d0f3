"""The grammar as data: contexts, groups (`add`, `show` …), commands and their parameters; and the reading of
parameters after the table.

    netsh ─ ipsec ─┬ static ─┬ add ─┬ policy   name= [description=] [mmpfs=] …
                   │         ├ set  ├ filter   …
                   └ dynamic └ …

Parameters may be given as `tag=value` in any order, with tags abbreviated, or without tags in the table's
order. Parameters with the same `place` are alternatives (`name=` or `guid=`) and share one place in that
order. Values without tags are read only as long as everything before them was given: after a gap their
meaning would be a guess."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar, cast

from stockade.model.reasons import ReasonCode
from stockade.netsh.session import Outcome, Session
from stockade.netsh.values import Kind
from stockade.netsh.words import Word, matches, quoted, shown, syntax_error

WITH_SECRETS = "--with-secrets"  # as the command line writes `secrets=yes`

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Parameter(Generic[T_co]):
    """One parameter. `default` is used by `Arguments.__getitem__` where it is not None, `default_text` by
    help. `unavailable`: the language has it, this version does not. `ours`: Windows has no such parameter; it
    has no place in the order, and an abbreviation means it only where it means none of Windows'."""

    tag: str
    kind: Kind[T_co]
    help: str = ""
    required: bool = False
    default: T_co | None = None
    default_text: str = ""
    repeatable: bool = False
    place: str = ""
    unavailable: bool = False
    ours: bool = False

    @property
    def slot(self) -> str:
        return self.place or self.tag


class Arguments:
    """The values of one command line, by parameter; iterating gives them in the order of the line. `written`
    is the parameters as text again, keys hidden."""

    __slots__ = ("_given", "written")

    def __init__(self, given: Sequence[tuple[Parameter[object], object]] = (), written: str = "") -> None:
        self._given = tuple(given)
        self.written = written

    def get(self, parameter: Parameter[T]) -> T | None:
        """The value given, or None."""
        for candidate, value in self._given:
            if candidate.tag == parameter.tag:
                return cast(T, value)  # the pair was made by this parameter's own kind
        return None

    def get_or(self, parameter: Parameter[T], otherwise: T) -> T:
        value = self.get(parameter)
        return otherwise if value is None else value

    def __getitem__(self, parameter: Parameter[T]) -> T:
        """The value given, or the default. For parameters that are required or have one."""
        value = self.get(parameter)
        if value is None:
            value = parameter.default
        if value is None:
            raise LookupError(f"parameter {parameter.tag} has neither value nor default")
        return value

    def given(self, parameter: Parameter[object]) -> bool:
        return any(candidate.tag == parameter.tag for candidate, _ in self._given)

    def __iter__(self) -> Iterator[tuple[Parameter[object], object]]:
        return iter(self._given)


@dataclass(frozen=True, slots=True)
class Command:
    """One command. `run` is None where this version does not have it yet."""

    context: tuple[str, ...]
    words: tuple[str, ...]
    help: str
    parameters: tuple[Parameter[object], ...] = ()
    run: Callable[[Session, Arguments], Outcome] | None = None
    notes: str = ""
    example: str = ""
    changes: bool = True  # it may change a store; the history names it then
    ours: bool = False  # Windows has no such command

    @property
    def path(self) -> tuple[str, ...]:
        return self.context + self.words

    @property
    def title(self) -> str:
        return " ".join(self.words)


@dataclass(frozen=True, slots=True)
class Node:
    """A step on the way to commands: a context that can be entered, or a group such as `add`."""

    path: tuple[str, ...]
    help: str
    enterable: bool = False
    children: dict[str, "Node | Command"] = field(default_factory=dict)


def build_tree(
    contexts: dict[tuple[str, ...], str], groups: dict[str, str], commands: Sequence[Command]
) -> Node:
    """The tree of the table. `contexts`: path → help; `groups`: help of `add`, `set` … ; every command's
    context must be one of the contexts (`ValueError`: a fault of the table)."""
    root = Node((), contexts.get((), ""), enterable=True)
    for path in sorted(contexts, key=len):
        if path:
            parent = find(root, path[:-1])
            if parent is None or isinstance(parent, Command):
                raise ValueError(f"context {path} has no parent")
            parent.children[path[-1]] = Node(path, contexts[path], enterable=True)
    for command in commands:
        place = find(root, command.context)
        if place is None or isinstance(place, Command):
            raise ValueError(f"command {command.path} stands in no context")
        for depth, word in enumerate(command.words[:-1], start=1):
            path = command.context + command.words[:depth]
            step = place.children.setdefault(word, Node(path, groups.get(word, "")))
            place = _as_group(step)
        if command.words[-1] in place.children:
            raise ValueError(f"{command.path} stands twice in the table")
        place.children[command.words[-1]] = command
    return root


def _as_group(step: Node | Command) -> Node:
    if isinstance(step, Node):
        return step
    raise ValueError(f"{step.path} is a command and a group")


def find(root: Node, path: Sequence[str]) -> Node | Command | None:
    """What stands at exactly this path."""
    here: Node | Command = root
    for word in path:
        if not isinstance(here, Node) or word not in here.children:
            return None
        here = here.children[word]
    return here


def read_arguments(command: Command, words: Sequence[Word]) -> Arguments:
    """The parameters of a command line; CallerError SYNTAX or NOT_AVAILABLE names the word that is wrong."""
    reader = _Reader(command)
    for word in words:
        reader.take(word)
    return reader.finish()


class _Layout:
    """What the reading of parameters needs to know of a command, found once."""

    def __init__(self, command: Command) -> None:
        self.command = command  # held, so that its id stays its own
        self.tags = [parameter.tag for parameter in command.parameters]
        self.theirs = [parameter.tag for parameter in command.parameters if not parameter.ours]
        self.ours = [parameter.tag for parameter in command.parameters if parameter.ours]
        self.by_tag = {parameter.tag: parameter for parameter in command.parameters}
        # The places that a value without a tag may fill.
        self.places = list(dict.fromkeys(p.slot for p in command.parameters if not p.ours))
        self.required = list(dict.fromkeys(p.slot for p in command.parameters if p.required))
        self.has_secret = any(parameter.kind.secret for parameter in command.parameters)


_layouts: dict[int, _Layout] = {}


class _Reader:
    """One pass over the words after the command."""

    def __init__(self, command: Command) -> None:
        self._command = command
        self._given: list[tuple[Parameter[object], object]] = []
        self._written: list[str] = []
        layout = _layouts.get(id(command))
        if layout is None:
            layout = _layouts[id(command)] = _Layout(command)
        self._layout = layout
        self._places = layout.places
        self._has_secret = layout.has_secret
        self._filled: set[str] = set()
        self._after_secret = False

    def take(self, word: Word) -> None:
        tag, text = word.tag, word.text
        if tag is None and text == WITH_SECRETS:
            tag, text = "secrets", "yes"
        if tag is None and word.whole_quoted:
            # `"name=My policy"`: the command shell of Windows takes such quotes off before netsh sees them.
            before, equals, after = text.partition("=")
            if equals and any(before.strip().casefold() == p.tag for p in self._command.parameters):
                tag, text = before.strip(), after
        parameter = self._by_place(word) if tag is None else self._by_tag(tag, word)
        self._after_secret = parameter.kind.secret
        if parameter.unavailable:
            raise syntax_error(
                f"{parameter.tag}= of {self._command.title}",
                word=parameter.tag,
                position=word.position,
                code=ReasonCode.NOT_AVAILABLE,
            )
        self._require_free(parameter, word)
        self._filled.add(parameter.slot)
        self._given.append((parameter, self._value(parameter, text, word)))
        self._written.append(f"{parameter.tag}={'***' if parameter.kind.secret else quoted(text)}")

    def finish(self) -> Arguments:
        for slot in self._layout.required:
            if slot not in self._filled:
                choices = [parameter for parameter in self._command.parameters if parameter.slot == slot]
                tags = " or ".join(f"{parameter.tag}=" for parameter in choices if not parameter.unavailable)
                raise syntax_error(
                    f"{self._command.title} needs {tags}",
                    expected=f"{tags[:-1]}={choices[0].kind.label}" if len(choices) == 1 else tags,
                    position="end of the command",
                )
        return Arguments(self._given, " ".join(self._written))

    def _by_tag(self, tag: str, word: Word) -> Parameter[object]:
        exact = self._layout.by_tag.get(tag)
        if exact is not None:
            return exact
        tags = self._layout.tags
        found = matches(tag, self._layout.theirs)
        if not found or found[0].casefold() != tag.casefold():
            ours = matches(tag, self._layout.ours)
            if not found or (ours and ours[0].casefold() == tag.casefold()):
                found = ours
        if len(found) == 1:
            return next(p for p in self._command.parameters if p.tag == found[0])
        if found:
            raise syntax_error(
                f"{shown(tag)}= may mean more than one parameter",
                word=f"{tag}=",
                position=word.position,
                expected=" or ".join(f"{name}=" for name in found),
            )
        if self._after_secret:
            # A key without quotes may hold blanks and equal signs: this may be a part of it.
            raise syntax_error(
                "what follows the key is no parameter; a key with blanks stands in double quotes",
                position=word.position,
                expected=", ".join(f"{name}=" for name in tags),
            )
        raise syntax_error(
            f"{self._command.title} has no parameter {shown(tag)}=",
            word=tag,
            position=word.position,
            expected=", ".join(f"{name}=" for name in tags) or "no parameters",
            candidates=tags,
        )

    def _by_place(self, word: Word) -> Parameter[object]:
        gap = False
        for slot in self._places:
            if slot not in self._filled:
                later = self._places[self._places.index(slot) + 1 :]
                gap = any(other in self._filled for other in later)
                if gap:
                    break
                return next(p for p in self._command.parameters if p.slot == slot and not p.ours)
        # What follows a key without quotes is most likely a part of the key: it is not repeated here.
        hidden = self._after_secret or word.text.casefold().startswith("psk")
        free = [f"{slot}=" for slot in self._places if slot not in self._filled]
        if hidden:
            detail = "a word without a tag follows the key; a key with blanks stands in double quotes"
        elif gap:
            detail = f"“{shown(word.text)}” has no tag, and the tags before it leave open what it stands for"
        else:
            detail = f"{self._command.title} takes nothing more"
        raise syntax_error(
            detail,
            word=None if hidden else word.text,
            position=word.position,
            expected=" or ".join(free) if free else "the end of the command",
            candidates=[] if hidden else [p.tag for p in self._command.parameters],
        )

    def _require_free(self, parameter: Parameter[object], word: Word) -> None:
        if parameter.slot not in self._filled:
            return
        earlier = next((p for p, _ in self._given if p.slot == parameter.slot), parameter)
        if parameter.repeatable and earlier.tag == parameter.tag:
            return
        if earlier.tag == parameter.tag:
            detail = f"{parameter.tag}= stands twice"
        else:
            detail = f"{earlier.tag}= and {parameter.tag}= exclude each other"
        raise syntax_error(detail, word=f"{parameter.tag}=", position=word.position, expected="one of them")

    def _value(self, parameter: Parameter[object], text: str, word: Word) -> object:
        kind = parameter.kind
        try:
            return kind.parse(text)
        except ValueError as error:
            problem = str(error)
        # A mistyped `psk:…` in the place of another value must not be repeated either; a key's own problems
        # never quote it.
        hidden = kind.secret
        if not hidden and self._has_secret and text.casefold().startswith("psk"):
            hidden, problem = True, "it cannot be read; a key is written psk=…"
        raise syntax_error(
            f"{parameter.tag}=: {problem}",
            word=None if hidden else text,
            position=word.position,
            expected=kind.expected,
            candidates=() if hidden else kind.words,
        ) from None
