"""Any text is a command or the caller's error: never another exception, and never half a change."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from stockade.model.reasons import CallerError
from stockade.netsh.commands import COMMANDS
from stockade.netsh.interpreter import decode_script, run_command, run_script
from stockade.netsh.session import Outcome, Session
from stockade.store.local import LocalStore

WORDS = sorted(
    {word for command in COMMANDS for word in command.path}
    | {f"{parameter.tag}=" for command in COMMANDS for parameter in command.parameters}
    | {
        "?",
        "help",
        "..",
        "all",
        "me",
        "any",
        "10.0.0.0/8",
        "::1",
        "yes",
        "n",
        "TCP",
        "23",
        '"',
        "=",
        "name",
        "P",
    }
    | {"3DES-SHA1-2", "ESP[3DES,SHA1]:100k/60s", "{72385230-70FA-11D1-864C-14A300000000}", "verbose", "table"}
)

chunks = st.sampled_from(WORDS) | st.text(max_size=8)
lines = st.one_of(
    st.text(max_size=60),
    st.lists(chunks, max_size=12).map(" ".join),
    st.lists(chunks, max_size=8).map("".join),
    st.tuples(st.sampled_from(COMMANDS), st.lists(chunks, max_size=8)).map(
        lambda pair: " ".join((*pair[0].path, *pair[1]))
    ),
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    folder: Path = tmp_path_factory.mktemp("any")
    return LocalStore(folder / "policy.db")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(line=lines, context=st.sampled_from([(), ("ipsec",), ("ipsec", "static"), ("ipsec", "dynamic")]))
@example(line="ipsec", context=("ipsec",))
@example(line="= =", context=())
@example(line="ipsec static add simplepolicy", context=())
@example(line="add policy ==", context=("ipsec", "static"))
@example(line="add filter L me any srcport=\u0663", context=("ipsec", "static"))
def test_any_line(store: LocalStore, line: str, context: tuple[str, ...]) -> None:
    session = Session(store, context)
    before = store.version()
    try:
        outcome = run_command(line, session)
    except CallerError as error:
        outcome = Outcome(str(error), status=1)
    assert not outcome.failed or outcome.text
    assert not outcome.failed or store.version() == before


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arguments=st.lists(chunks | st.text(st.characters(codec=None), max_size=8), max_size=10))
@example(arguments=["add", "policy", "name=\udcff"])
@example(arguments=["\udcff"])
def test_any_arguments(store: LocalStore, arguments: list[str]) -> None:
    try:
        run_command(arguments, Session(store, ("ipsec", "static")))
    except CallerError as error:
        str(error).encode()  # can be printed


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=200))
def test_any_bytes_are_a_script_or_refused(content: bytes) -> None:
    try:
        text = decode_script(content)
    except CallerError:
        return
    assert isinstance(text, str)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.lists(lines, max_size=5).map("\n".join), atomic=st.booleans())
def test_any_script(store: LocalStore, text: str, atomic: bool) -> None:
    before = store.version()
    outcomes = run_script(text, Session(store), atomic=atomic)
    if atomic and any(outcome.failed for outcome in outcomes):
        assert store.version() == before
