"""Events can be searched: over restarts, after kill -9, with a damaged database, in bounds."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time

import pytest

from stockade.agent import event_store
from stockade.agent.event_store import NAME, EventQuery, EventStore, find, newest_number, read_query
from stockade.agent.journal import Entry, Journal
from stockade.model.reasons import CallerError, Reason, ReasonCode


def failed(peer, code=ReasonCode.PSK_MISMATCH):
    return Entry("main-mode-failed", Reason.of(code), (("peer", f"{peer}:500"),))


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def in_database(folder):
    return newest_number(folder)


def numbers(records):
    return [record["number"] for record in records]


@pytest.fixture
def kept(tmp_path):
    """A journal with a store that is up to date: three events, a second apart."""
    clock = iter(range(1_700_000_000, 1_700_001_000))
    journal = Journal(tmp_path, wall_clock=lambda: float(next(clock)))
    store = EventStore(tmp_path)
    journal.kept = store.add
    store.start()
    journal.write(failed("10.0.0.2"))
    journal.write(failed("10.0.0.3", ReasonCode.NO_PROPOSAL_CHOSEN))
    journal.write(Entry("agent-stopped", Reason.of(ReasonCode.SHUTTING_DOWN)))
    store.close()
    journal.close()
    return tmp_path


def test_an_event_is_found_by_everything_that_it_has(kept):
    assert numbers(find(kept, EventQuery())) == [1, 2, 3]
    assert numbers(find(kept, EventQuery(last=2))) == [2, 3]
    assert numbers(find(kept, EventQuery(ids=frozenset({545})))) == [1]
    assert numbers(find(kept, EventQuery(ids=frozenset({546, 5479})))) == [2, 3]
    assert numbers(find(kept, EventQuery(kinds=frozenset({"main-mode-failed"})))) == [1, 2]
    assert numbers(find(kept, EventQuery(reasons=frozenset({"no-proposal-chosen"})))) == [2]
    assert numbers(find(kept, EventQuery(peer="10.0.0.3"))) == [2]
    assert numbers(find(kept, EventQuery(since=1_700_000_001.0, until=1_700_000_001.5))) == [2]
    assert numbers(find(kept, EventQuery(before=3, last=1))) == [2]
    assert numbers(find(kept, EventQuery(after=2))) == [3]


def test_the_lines_answer_as_the_database_does(kept):
    for query in (
        EventQuery(ids=frozenset({546, 5479})),
        EventQuery(peer="10.0.0.3"),
        EventQuery(after=1, last=1),
    ):
        from_database = find(kept, query)
        (kept / NAME).rename(kept / "aside")
        assert find(kept, query) == from_database
        (kept / "aside").rename(kept / NAME)


def test_numbers_go_on_over_restarts_also_when_the_lines_were_taken_away(kept):
    again = Journal(kept, newest=lambda: newest_number(kept))
    again.write(failed("10.0.0.4"))
    again.close()
    assert find(kept, EventQuery(last=1))[0]["number"] == 4
    (kept / "journal.jsonl").unlink()
    third = Journal(kept, newest=lambda: newest_number(kept))
    assert third.number == 3, "the database has three"
    third.close()


def test_what_a_killed_agent_told_is_in_the_database_after_the_next_start(tmp_path):
    program = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from stockade.agent.event_store import EventStore
        from stockade.agent.journal import Entry, Journal
        from stockade.model.reasons import Reason, ReasonCode
        folder = Path(sys.argv[1])
        journal, store = Journal(folder), EventStore(folder)
        journal.kept = store.add
        store.start()
        while True:
            journal.write(Entry("test", Reason.of(ReasonCode.INTERNAL)))
            print(journal.number, flush=True)
        """
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    said = 0
    while said < 500:
        said = int(child.stdout.readline())
    os.kill(child.pid, signal.SIGKILL)
    rest = child.stdout.read().split()
    child.wait()
    last = int(rest[-1]) if rest else said
    assert numbers(find(tmp_path, EventQuery(last=10_000)))[:last] == list(range(1, last + 1)), (
        "before a start"
    )
    store = EventStore(tmp_path)
    store.start()
    wait_for(lambda: in_database(tmp_path) >= last)
    store.close()
    assert numbers(find(tmp_path, EventQuery(last=10_000)))[:last] == list(range(1, last + 1))


@pytest.mark.parametrize("count", [event_store.ROWS_AT_ONCE - 1, event_store.ROWS_AT_ONCE + 1])
def test_more_than_one_statement_takes_are_all_kept(tmp_path, count):
    database = event_store.open_database(tmp_path / "events.db")
    records = [
        {"number": number, "kind": "k", "windows_events": [541, 4651]} for number in range(1, count + 1)
    ]
    event_store.insert(database, records)
    (kept,) = database.execute("SELECT count(*) FROM event").fetchone()
    (named,) = database.execute("SELECT count(*) FROM windows_event").fetchone()
    database.close()
    assert (kept, named) == (count, 2 * count)


def test_the_database_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(event_store, "SURPLUS", 10)
    journal, store = Journal(tmp_path), EventStore(tmp_path, rows=50)
    journal.kept = store.add
    for _ in range(300):
        journal.write(Entry("test", Reason.of(ReasonCode.INTERNAL)))
    store.start()
    store.close()
    journal.close()
    database = sqlite3.connect(tmp_path / NAME)
    ((rows, last),) = database.execute("SELECT count(*), max(number) FROM event").fetchall()
    database.close()
    assert rows <= 60
    assert last == 300


def test_a_damaged_database_is_made_again_from_the_lines(kept):
    for name in ("-wal", "-shm"):
        (kept / f"{NAME}{name}").unlink(missing_ok=True)
    (kept / NAME).write_bytes(b"no database at all" * 1000)
    assert numbers(find(kept, EventQuery())) == [1, 2, 3], "from the lines"
    store = EventStore(kept)
    store.start()
    wait_for(lambda: in_database(kept) == 3)
    store.close()
    assert (kept / f"{NAME}.damaged").exists()


def test_a_database_that_cannot_be_written_is_told_once_and_stops_nothing(tmp_path):
    (tmp_path / NAME).mkdir()
    told = []
    journal, store = Journal(tmp_path), EventStore(tmp_path, told.append)
    journal.kept = store.add
    store.start()
    wait_for(lambda: told)
    journal.write(failed("10.0.0.2"))
    assert numbers(find(tmp_path, EventQuery())) == [1]
    store.close()
    journal.close()
    assert [reason.code for reason in told] == [ReasonCode.STATE_UNUSABLE]


@pytest.mark.parametrize(
    "words",
    [
        {"id": "1"},
        {"id": "x"},
        {"last": "-1"},
        {"last": "9" * 30},
        {"reason": "bad-luck"},
        {"peer": "everybody"},
        {"since": "soon"},
        {"before": "'; drop table event"},
    ],
)
def test_a_question_that_makes_no_sense_is_refused_with_its_word(words):
    with pytest.raises(CallerError) as refused:
        read_query(words)
    assert next(iter(words)) in str(refused.value)


def test_lines_of_garbage_are_left_out(kept):
    with (kept / "journal.jsonl").open("ab") as file:
        file.write(b'\xff\xfe\n[1, 2]\n{"number": "x"}\n{"number": 4, "time": 7, "kind": []}\n{"cut')
    found = find(kept, EventQuery())
    assert numbers(found) == [1, 2, 3, 4]
    assert find(kept, EventQuery(since=1.0, after=3)) == []
    assert json.dumps(found)
