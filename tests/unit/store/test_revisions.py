"""Every change is a revision: who, when, by which command; what it was is there again after a rollback."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockade.model.filters import Action
from stockade.model.negotiation import PresharedKey
from stockade.model.reasons import CallerError, HostError, ReasonCode
from stockade.model.secret import Secret
from stockade.policy.objects import Filter, FilterAction, FilterAddress, FilterList, Policy, PolicySet, Rule
from stockade.store import revisions
from stockade.store.local import LocalStore, current_author

ME, ANY = FilterAddress.me(), FilterAddress.any()
LIST = FilterList("L", (Filter(ME, ANY, 6, 0, 80),))
ACTION = FilterAction("A", Action.BLOCK, ())
POLICY = Policy("P", (Rule("R", "L", "A", (PresharedKey(Secret(b"k")),)),), assigned=True)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "policy.db")


def test_each_change_says_who_when_and_how(store: LocalStore) -> None:
    store.describe("add filterlist name=L")
    with store.transaction() as change:
        change.put_filter_list(LIST)
    store.describe("add the rest")
    with store.transaction() as change:
        change.put_filter_action(ACTION)
        change.put_policy(POLICY)
        change.put_filter_list(replace(LIST, description="changed"))
    with store.transaction() as change:
        change.read()
    first, second, third = LocalStore(store.path).history()
    assert (first.number, second.number, third.number) == (1, 2, 3)
    assert [one.command for one in (second, third)] == ["add filterlist name=L", "add the rest"]
    assert {one.author for one in (first, second, third)} == {current_author()}
    assert (second.added, second.changed, second.removed) == (1, 0, 0)
    assert (third.added, third.changed, third.removed) == (2, 1, 0)
    assert second.made.tzinfo is not None


def test_a_rollback_brings_everything_back(store: LocalStore) -> None:
    with store.transaction() as change:
        change.put_filter_list(LIST)
        change.put_filter_action(ACTION)
        change.put_policy(POLICY)
    store.settings.set_number("ipsecexempt", 1)
    before = store.read()
    number = store.history()[-1].number
    with store.transaction() as change:  # a new name, another assignment, something gone
        change.put_filter_list(replace(LIST, name="Renamed"))
        change.put_policy(Policy("Other", assigned=True))
        change.delete_policy("P")
        change.delete_filter_action("A")
    store.settings.set_number("ikelogging", 1)
    store.settings.remove("ipsecexempt")
    version = store.version()
    store.rollback(number)
    assert store.read() == before
    assert store.version() != version
    assert store.settings.number("ipsecexempt", 3) == 1
    assert store.settings.number("ikelogging", 0) == 0
    newest = store.history()[-1]
    assert store.revision(newest.number) == before
    store.rollback(1)
    assert store.read() == PolicySet()


def test_a_rename_is_no_change_of_the_policies_that_use_it(store: LocalStore) -> None:
    with store.transaction() as change:
        change.put_filter_list(LIST)
        change.put_filter_action(ACTION)
        change.put_policy(POLICY)
    with store.transaction() as change:
        change.put_filter_list(replace(LIST, name="Renamed"))
    newest = store.history()[-1]
    assert (newest.added, newest.changed, newest.removed) == (0, 1, 0)
    assert store.revision(newest.number).policies[0].rules[0].filter_list == "Renamed"
    assert store.revision(newest.number - 1).policies[0].rules[0].filter_list == "L"


def test_a_failed_change_is_no_revision(store: LocalStore) -> None:
    with store.transaction() as change:
        change.put_filter_list(LIST)
    before = store.history()

    def half_a_change() -> None:
        with store.transaction() as change:
            change.put_filter_action(ACTION)
            change.delete_filter_list("nothing")

    with pytest.raises(CallerError):
        half_a_change()
    assert store.history() == before


@pytest.mark.parametrize("number", [0, -1, 99, 1 << 63, 10**30])
def test_a_number_that_no_revision_has_is_no_damage(store: LocalStore, number: int) -> None:
    for ask in (store.revision, store.rollback):
        with pytest.raises(CallerError) as error:
            ask(number)
        assert error.value.reason.code is ReasonCode.UNKNOWN_NAME


def test_an_unknown_revision(store: LocalStore) -> None:
    for call in (store.revision, store.rollback):
        with pytest.raises(CallerError) as error:
            call(7)
        assert error.value.reason.code is ReasonCode.UNKNOWN_NAME


def test_a_damaged_history_is_named_and_the_policies_stay(store: LocalStore) -> None:
    with store.transaction() as change:
        change.put_filter_list(LIST)
    connection = store._connect()
    connection.execute("UPDATE contents SET body = x'00'")
    with pytest.raises(HostError, match="history is damaged"):
        store.revision(2)
    assert store.read().filter_lists == (LIST,)


def test_the_history_is_bounded_in_number(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revisions, "KEPT_REVISIONS", 5)
    for number in range(12):
        with store.transaction() as change:
            change.put_filter_list(replace(LIST, description=str(number)))
    numbers = [one.number for one in store.history()]
    assert numbers[-5:] == [9, 10, 11, 12, 13]
    assert len(numbers) == 5  # all of one day: the newest five stand for it
    assert store.revision(9).filter_lists[0].description == "7"
    contents = store._connect().execute("SELECT count(*) FROM contents").fetchone()[0]
    assert contents == 5  # what no revision needs is gone


def test_the_last_of_each_day_is_kept(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(6):
        with store.transaction() as change:
            change.put_filter_list(replace(LIST, description=str(number)))
    connection = store._connect()
    for number in range(1, 8):
        day = f"2020-01-0{(number + 1) // 2}T00:00:0{number}+00:00"
        connection.execute("UPDATE revisions SET made = ? WHERE number = ?", (day, number))
    monkeypatch.setattr(revisions, "KEPT_REVISIONS", 2)
    with store.transaction() as change:
        change.put_filter_list(replace(LIST, description="now"))
    assert [one.number for one in store.history()] == [2, 4, 6, 7, 8]
    monkeypatch.setattr(revisions, "KEPT_DAYS", 3)
    with store.transaction() as change:
        change.put_filter_list(replace(LIST, description="later"))
    assert [one.number for one in store.history()] == [6, 7, 8, 9]


def test_the_history_is_bounded_in_size(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revisions, "MAXIMUM_BYTES", 20_000)
    chance = random.Random(1)
    for _ in range(20):
        filters = tuple(Filter(ME, ANY, 6, 0, chance.randrange(1, 65536)) for _ in range(500))
        with store.transaction() as change:
            change.put_filter_list(replace(LIST, filters=filters))
    size = store._connect().execute("SELECT total(length(body)) FROM contents").fetchone()[0]
    assert size <= 20_000
    assert len(store.history()) >= 2
    assert store.revision(store.history()[-1].number) == store.read()


@settings(max_examples=25, deadline=None)
@given(
    changes=st.lists(st.tuples(st.sampled_from("LPA-"), st.sampled_from("xyz"), st.booleans()), max_size=8)
)
def test_every_revision_is_what_was_there(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, str, bool]]
) -> None:
    store = LocalStore(tmp_path_factory.mktemp("r") / "policy.db")
    states = {}
    for kind, name, flag in changes:
        objects = store.read()
        with store.transaction() as change:
            if kind == "L":
                old = objects.filter_list(name)
                change.put_filter_list(replace(old, description="again") if old else FilterList(name))
            elif kind == "A":
                old_action = objects.filter_action(name)
                change.put_filter_action(replace(old_action, soft=flag) if old_action else FilterAction(name))
            elif kind == "P":
                rules = ()
                if objects.filter_lists and objects.filter_actions:
                    rules = (Rule("R", objects.filter_lists[0].name, objects.filter_actions[-1].name),)
                old_policy = objects.policy(name)
                new = replace(old_policy, assigned=flag) if old_policy else Policy(name, rules, flag)
                change.put_policy(new)
            elif objects.policies:
                change.delete_policy(objects.policies[0].name)
        newest = store.history()
        if newest:
            states[newest[-1].number] = store.read()
    for number, state in states.items():
        assert store.revision(number) == state
