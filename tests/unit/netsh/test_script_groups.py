"""A script that is not all or nothing: many changes are written together, and each command still stands for
itself."""

from stockade.model.reasons import ReasonCode
from stockade.netsh import session as session_module
from stockade.netsh.interpreter import run_command, run_script
from stockade.netsh.session import Session
from stockade.store.local import LocalStore

SCRIPT = """netsh ipsec static add filterlist name=web
netsh ipsec static add filter web me any protocol=tcp srcport=443
netsh ipsec static add filter web me any protocol=tcp srcport=443
netsh ipsec static add nonsense
netsh ipsec static add filter web me 192.0.2.0/24
"""


def test_what_fails_is_left_out_and_the_rest_is_one_revision_that_names_its_lines(tmp_path):
    store = LocalStore(tmp_path / "policy.db")
    outcomes = run_script(SCRIPT, Session(store), source="web.cmd")
    assert [outcome.line for outcome in outcomes if outcome.failed] == [3, 4]
    (filter_list,) = store.read().filter_lists
    assert len(filter_list.filters) == 2
    assert store.history()[-1].command == "script web.cmd, lines 1 to 5"
    assert len(store.history()) == 2  # with the beginning


def test_what_looks_at_the_store_sees_everything_before_it(tmp_path):
    store = LocalStore(tmp_path / "policy.db")
    script = SCRIPT + "netsh ipsec static show filterlist name=web\nnetsh ipsec static add filterlist b\n"
    session = Session(store)
    outcomes = run_script(script, session, source="web.cmd")
    assert "No. of Filters           : 2" in outcomes[-2].text
    assert [entry.name for entry in store.read().filter_lists] == ["web", "b"]
    assert [one.command for one in store.history()[1:]] == [
        "script web.cmd, lines 1 to 5",
        "script web.cmd, lines 7 to 7",
    ]
    assert session.buffer is None
    assert session.store is store


def test_a_long_script_is_written_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(session_module, "MAXIMUM_GROUP", 3)
    store = LocalStore(tmp_path / "policy.db")
    run_script("".join(f"ipsec static add filterlist {n}\n" for n in range(8)), Session(store), source="s")
    assert len(store.read().filter_lists) == 8
    assert [one.command for one in store.history()[1:]] == [
        "script s, lines 1 to 3",
        "script s, lines 4 to 6",
        "script s, lines 7 to 8",
    ]


def test_somebody_else_in_between_is_not_overwritten_and_the_lines_that_are_lost_are_named(tmp_path):
    store, other = LocalStore(tmp_path / "policy.db"), LocalStore(tmp_path / "policy.db")

    class Busy(LocalStore):
        """The store of the script; between its look and its write another process writes."""

        def describe(self, command: str) -> None:
            super().describe(command)
            run_command("ipsec static add filterlist theirs", Session(other))

    outcomes = run_script(SCRIPT, Session(Busy(tmp_path / "policy.db")), source="web.cmd")
    last = outcomes[-1]
    assert last.reason is not None
    assert last.reason.code is ReasonCode.STORE_BUSY
    assert dict(last.reason.facts)["not_applied"] == "script web.cmd, lines 1 to 5"
    assert [entry.name for entry in store.read().filter_lists] == ["theirs"]


def test_a_script_that_ends_early_keeps_what_it_did(tmp_path):
    store = LocalStore(tmp_path / "policy.db")
    run_script("ipsec static add filterlist a\nexit\nipsec static add filterlist b\n", Session(store))
    assert [entry.name for entry in store.read().filter_lists] == ["a"]
