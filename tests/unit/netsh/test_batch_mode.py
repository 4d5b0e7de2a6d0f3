"""Batch mode, interactive mode, other stores; and the store in memory against the one in a file."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockade.model.reasons import CallerError, HostError, ReasonCode
from stockade.netsh.interpreter import run_command, run_script
from stockade.netsh.session import Session
from stockade.policy.contract import PolicyStore
from stockade.policy.memory_store import MemoryStore
from stockade.policy.objects import Filter, FilterAction, FilterAddress, FilterList, Policy, PolicySet, Rule
from stockade.store.local import LocalStore


def run(session: Session, *lines: str) -> None:
    for line in lines:
        run_command(line, session)


def test_batch_mode_collects_and_writes_once(session: Session) -> None:
    store = session.store
    before = store.version()
    run(session, "set batch enable", "add filterlist A", "add filterlist B", "delete filterlist A")
    assert [one.name for one in session.store.read().filter_lists] == ["B"]
    assert store.version() == before
    run(session, "set batch disable")
    assert session.store is store
    assert store.version() == before + 1
    assert [one.name for one in store.read().filter_lists] == ["B"]


def test_batch_mode_ends_with_its_script(session: Session) -> None:
    session.context = ()
    before = session.store.version()
    outcomes = run_script(
        "ipsec static\nset batch enable\nadd policy A\nadd plicy B\nadd policy C\n", session
    )
    assert [outcome.status for outcome in outcomes] == [0, 0, 0, 1, 0]
    assert [one.name for one in session.store.read().policies] == ["A", "C"]
    assert session.store.version() == before + 1


def test_somebody_else_was_faster(session: Session) -> None:
    store = session.store
    run(session, "set batch enable", "add policy Mine")
    with store.transaction() as change:
        change.put_policy(Policy("Theirs"))
    with pytest.raises(HostError) as error:
        run(session, "set batch disable")
    assert error.value.reason.code is ReasonCode.STORE_BUSY
    assert [one.name for one in store.read().policies] == ["Theirs"]


def test_the_persistent_store(session: Session) -> None:
    run(session, "set store persistent", "add policy Always", "set store location=local", "add policy Usual")
    assert [one.name for one in session.store.read().policies] == ["Usual"]
    assert session.world.open_store is not None
    persistent = session.world.open_store("persistent").read()
    assert ([one.name for one in persistent.policies], persistent.store) == (["Always"], "persistent")
    run(session, "set store persistent")
    assert run_command("show store", session).data == {"store": "persistent"}


def test_an_atomic_script_over_two_stores_settings_and_the_agent(session: Session) -> None:
    script = (
        "ipsec static\nadd policy L\nset store persistent\nadd policy P\nipsec dynamic\nadd mmpolicy MM\n"
        "set config ikelogging 1\n"
    )
    session.context = ()
    failed = run_script(script + "nothing\n", session, atomic=True)[-1]
    assert failed.failed
    persistent = session.world.open_store("persistent")  # type: ignore[misc]
    assert session.store.read().policies == persistent.read().policies == ()
    assert session.dynamic.read().main_mode_policies == ()
    assert session.settings.get_setting("ikelogging") is None
    assert not any(outcome.failed for outcome in run_script(script, session, atomic=True))
    assert [one.name for one in session.store.read().policies] == ["L"]
    assert [one.name for one in persistent.read().policies] == ["P"]
    assert [one.name for one in session.dynamic.read().main_mode_policies] == ["MM"]
    assert session.settings.get_setting("ikelogging") == "1"


def test_interactive_mode_asks(session: Session) -> None:
    asked: list[str] = []

    def answer(value: bool) -> Callable[[str], bool]:
        def ask(question: str) -> bool:
            asked.append(question)
            return value

        return ask

    run(session, "add policy P", "set interactive enable")
    with pytest.raises(CallerError):
        run(session, "delete policy P")  # nobody is there
    session.world = replace(session.world, confirm=answer(False))
    assert run_command("delete policy P", session).text == "Nothing was deleted."
    run(session, "add filterlist L")  # adding is not asked about
    session.world = replace(session.world, confirm=answer(True))
    run(session, "delete all")
    assert session.store.read().policies == ()
    assert len(asked) == 2
    assert "“P”" in asked[0]


def test_a_long_script_is_quick(session: Session) -> None:
    lines = [f"add filter L me 10.{number >> 8}.{number & 255}.0/24" for number in range(2000)]
    session.context = ("ipsec", "static")
    begin = time.process_time()
    outcomes = run_script("\n".join(lines), session, atomic=True)
    assert not any(outcome.failed for outcome in outcomes)
    assert len(session.store.read().filter_lists[0].filters) == 2000
    assert time.process_time() - begin < 10


# -- the store in memory


NAMES = st.sampled_from(["A", "a", "B", "b", "Ä", "ä"])


@st.composite
def steps(draw: st.DrawFn) -> list[tuple[str, str, int]]:
    verbs = ("list", "action", "policy", "drop list", "drop action", "drop policy")
    return draw(st.lists(st.tuples(st.sampled_from(verbs), NAMES, st.integers(0, 2)), max_size=12))


Operation = tuple[str, object]


def operation(step: tuple[str, str, int], made: dict[tuple[str, int], UUID]) -> Operation:
    """What a step does to a transaction: the method's name and its argument."""
    verb, name, number = step
    if verb.startswith("drop"):
        kinds = {"list": "filter_list", "action": "filter_action", "policy": "policy"}
        return f"delete_{kinds[verb.removeprefix('drop ')]}", name
    guid = made.setdefault((verb, number), uuid4())
    if verb == "list":
        filters = (Filter(FilterAddress.me(), FilterAddress.any()),) * number
        return "put_filter_list", FilterList(name, filters, guid=guid)
    if verb == "action":
        return "put_filter_action", FilterAction(name)
    rules = (Rule("R", "A", "B"),) if number else ()
    return "put_policy", Policy(name, rules, assigned=number == 2, guid=guid)


def applied(store: PolicyStore, what: Operation) -> ReasonCode | None:
    """Why the store refuses it; None if it does not."""
    try:
        with store.transaction() as change:
            getattr(change, what[0])(what[1])
    except CallerError as error:
        return error.reason.code
    return None


@settings(max_examples=60, deadline=None)
@given(all_steps=steps())
def test_memory_and_file_follow_the_same_rules(
    tmp_path_factory: pytest.TempPathFactory, all_steps: list[tuple[str, str, int]]
) -> None:
    local = LocalStore(Path(tmp_path_factory.mktemp("s")) / "policy.db")
    memory = MemoryStore(PolicySet())
    made: dict[tuple[str, int], UUID] = {}
    for step in all_steps:
        what = operation(step, made)
        assert applied(memory, what) is applied(local, what), step
        assert memory.read() == local.read()
