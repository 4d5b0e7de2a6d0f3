"""Any text, any arguments and any bytes are an outcome or the caller's error; and what fails changes nothing.

The corpus is real scripts (tests/data/scripts), mutated: octets changed, lines doubled, cut and swapped."""

import random
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from stockade.model.reasons import CallerError, StockadeError
from stockade.netsh.batch_file import BatchReader, refuse_control_flow, script_lines
from stockade.netsh.commands import COMMANDS
from stockade.netsh.completion import complete, may_hold_key
from stockade.netsh.contract import World
from stockade.netsh.dump import dump_policies, is_dump, refuse_blanks
from stockade.netsh.files import read_script
from stockade.netsh.interpreter import decode_script, run_command, run_script
from stockade.netsh.ipseccmd import run_ipseccmd
from stockade.netsh.session import Outcome, Session
from stockade.policy.memory_store import MemoryStore
from stockade.policy.objects import PolicySet

CORPUS = [path.read_bytes() for path in sorted((Path(__file__).parents[1] / "data" / "scripts").iterdir())]
SIGNS = "%&|<>^\"'=!@:;#()[]{}\\/ \t\n\r\x00\ufeff\u202eäΣ政\ud800"
WORDS = sorted(
    {word for command in COMMANDS for word in command.path}
    | {f"{parameter.tag}=" for command in COMMANDS for parameter in command.parameters}
    | {
        "netsh",
        "@echo off",
        "set X=1",
        "%X%",
        "> nul",
        "&&",
        "||",
        "rem",
        "all",
        "me",
        "any",
        "dns",
        "10.0.0.0/8",
    }
    | {
        "yes",
        "psk=k",
        "3DES-SHA1-2",
        "ESP[3DES,SHA1]:100k/60s",
        "%U+000A%",
        "goto",
        "exit /b",
        '"',
        "^",
        "P",
        "L",
    }
)
text_lines = st.lists(
    st.sampled_from(WORDS) | st.text(st.sampled_from(SIGNS), max_size=4) | st.text(max_size=6), max_size=10
).map(" ".join)


def session() -> Session:
    store = MemoryStore(PolicySet())
    return Session(store, world=World(open_store=lambda name: store))


def mutated(seed: int) -> bytes:
    chance = random.Random(seed)
    content = bytearray(chance.choice(CORPUS))
    for _ in range(chance.randrange(1, 8)):
        kind = chance.randrange(5)
        place = chance.randrange(len(content) + 1)
        if kind == 0 and content:
            content[min(place, len(content) - 1)] = chance.randrange(256)
        elif kind == 1:
            content[place:place] = chance.choice(SIGNS[:-1]).encode()
        elif kind == 2:
            del content[place : place + chance.randrange(1, 30)]
        elif kind == 3:
            lines = bytes(content).split(b"\n")
            chance.shuffle(lines)
            content = bytearray(b"\n".join(lines))
        else:
            other = chance.choice(CORPUS)
            begin = chance.randrange(len(other))
            content[place:place] = other[begin : begin + 80]
    return bytes(content)


def script_is_handled(content: bytes, *, atomic: bool) -> None:
    try:
        text = decode_script(content)
    except CallerError:
        return
    here = session()
    outcomes = run_script(text, here, source="s", atomic=atomic)
    failed = any(outcome.failed for outcome in outcomes)
    assert all(outcome.text for outcome in outcomes if outcome.failed)
    if atomic and failed:
        assert here.store.read() == PolicySet()
    assert here.buffer is None
    for outcome in outcomes:
        outcome.text.encode()  # can be printed


def fuzz_script(data: bytes) -> None:
    """The target of the guided harness: the first byte says whether all or nothing is applied."""
    script_is_handled(data[1:], atomic=bool(data[:1] and data[0] & 1))


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), atomic=st.booleans())
def test_mutated_scripts(seed: int, atomic: bool) -> None:
    script_is_handled(mutated(seed), atomic=atomic)


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=300), atomic=st.booleans())
def test_any_bytes(content: bytes, atomic: bool) -> None:
    script_is_handled(content, atomic=atomic)


@settings(max_examples=150, deadline=None)
@given(text=st.lists(text_lines, max_size=6).map("\n".join))
@example(text="netsh a ^")
@example(text="^")
@example(text="netsh >")
@example(text='netsh "&" &')
@example(text="set X=%X%\nset X=%X%%X%")
@example(text="%U+110000%")
@example(text="%U+0022%")
@example(text="@@@echo off\n@")
def test_any_lines(text: str) -> None:
    lines = script_lines(text)
    with suppress(CallerError):
        refuse_control_flow(lines)
    reader = BatchReader(lines)
    for _, line in lines:
        with suppress(CallerError):
            for segment in reader.segments(line):
                assert len(segment.text) <= 200_000
    script_is_handled(text.encode("utf-8", "surrogatepass"), atomic=False)


@settings(max_examples=150, deadline=None)
@given(line=text_lines, context=st.sampled_from([(), ("ipsec",), ("ipsec", "static"), ("ipsec", "dynamic")]))
def test_any_command_in_a_world_without_an_agent(line: str, context: tuple[str, ...]) -> None:
    here = session()
    here.context = context
    before = here.store.version()
    try:
        outcome = run_command(line, here)
    except StockadeError as error:
        outcome = Outcome(str(error), status=1)
    if outcome.failed:
        assert here.store.version() == before


@settings(max_examples=150, deadline=None)
@given(line=text_lines)
def test_any_beginning_can_be_completed(line: str) -> None:
    here = session()
    for found in complete(line, here):
        assert 0 <= found.replaces <= len(line)
    may_hold_key(line, here)


@settings(max_examples=100, deadline=None)
@given(text=st.lists(text_lines, max_size=4).map("\n".join))
def test_any_dump_like_text(text: str) -> None:
    content = f"# stockade policy script 1\n{text}".encode("utf-8", "surrogatepass")
    try:
        objects = read_script(content, "local", "x")
    except StockadeError:
        return
    assert is_dump(content.decode())
    refuse_blanks(content.decode())
    dump_policies(objects, with_secrets=True)  # what a script made, a script can say


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    arguments=st.lists(
        st.sampled_from(["-f", "-n", "-a", "-w", "-p", "-r", "-x"]) | st.text(max_size=10), max_size=8
    )
)
def test_any_one_liner(arguments: list[str]) -> None:
    here = session()
    try:
        run_ipseccmd(arguments, here)
    except StockadeError as error:
        str(error).encode("utf-8", "backslashreplace")


@pytest.mark.parametrize("size", [1_000, 100_000])
def test_long_lines_are_bounded(size: int) -> None:
    for line in (
        "x" * size,
        '"' * size,
        "=" * size,
        "%" * size,
        "^" * size,
        "&" * size,
        "a=" * size,
        "> " * size,
    ):
        script_is_handled(f"netsh {line}\n{line}\n".encode(), atomic=False)
