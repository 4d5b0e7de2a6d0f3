"""A store that is damaged in any way: what was written last is shown, read-only, and the damage is told; no
agent has ever run here."""

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from stockade.console.main import main
from stockade.store.opening import last_good_path, last_saved_path

KEY = "correct horse battery staple"


def netsh(home: Path, *words: str) -> int:
    return main(["--home", str(home), "netsh", "ipsec", "static", *words])


@pytest.fixture
def home(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    for name in ("first", "second"):
        assert netsh(tmp_path, "add", "filterlist", f"name={name}") == 0
    capsys.readouterr()
    return tmp_path


def truncated(store: Path) -> None:
    store.write_bytes(store.read_bytes()[:5000])


def flipped(store: Path) -> None:
    content = bytearray(store.read_bytes())
    for place in range(100, len(content), 97):
        content[place] ^= 0xFF
    store.write_bytes(content)


def emptied(store: Path) -> None:
    store.write_bytes(b"")


def another_program(store: Path) -> None:
    store.unlink()
    connection = sqlite3.connect(store)
    connection.execute("CREATE TABLE policies (guid)")
    connection.commit()
    connection.close()


@pytest.mark.parametrize("damage", [truncated, flipped, emptied, another_program])
def test_what_was_written_last_is_shown_and_cannot_be_changed(home, capsys, damage):
    damage(home / "policy.db")
    assert netsh(home, "show", "filterlist", "all") == 0
    shown = capsys.readouterr()
    assert "first" in shown.out
    assert "second" in shown.out
    assert "last good copy" in shown.err
    before = (home / "policy.db").read_bytes()
    assert netsh(home, "add", "filterlist", "name=third") == 1
    refusal = capsys.readouterr().err
    assert "cannot be changed" in refusal
    assert "Traceback" not in refusal
    assert (home / "policy.db").read_bytes() == before


def test_a_log_that_is_half_written_is_what_was_committed(home, capsys):
    """kill -9 in the middle of a commit leaves a log whose end is rubbish: it is passed over."""
    script = (
        "import os, sys; from stockade.console.main import main;"
        f"main(['--home', {str(home)!r}, 'netsh', 'ipsec', 'static', 'show', 'filterlist', 'all']);"
        "from stockade.store.local import LocalStore; from pathlib import Path;"
        f"s = LocalStore(Path({str(home)!r}) / 'policy.db'); s.put_setting('ikelogging', '1');"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    log = home / "policy.db-wal"
    assert log.exists()
    with log.open("ab") as file:
        file.write(b"\x5a" * 3000)
    assert netsh(home, "show", "filterlist", "all") == 0
    shown = capsys.readouterr()
    assert "second" in shown.out
    assert shown.err == ""
    assert main(["--home", str(home), "netsh", "ipsec", "dynamic", "show", "config"]) == 0
    assert "IKElogging               : 1" in capsys.readouterr().out


def test_without_any_copy_it_is_refused_and_never_read_as_empty(home, capsys):
    last_saved_path(home / "policy.db").unlink()
    truncated(home / "policy.db")
    assert netsh(home, "show", "filterlist", "all") == 1
    assert "No. of" not in capsys.readouterr().out


def test_a_copy_that_is_damaged_too_gives_way_to_the_other_one(home, capsys):
    store = home / "policy.db"
    shutil.copy(last_saved_path(store), last_good_path(store))
    last_saved_path(store).write_bytes(b"rubbish")
    truncated(store)
    assert netsh(home, "show", "filterlist", "all") == 0
    assert "second" in capsys.readouterr().out


def test_forgotten_keys_are_in_no_copy(tmp_path, capsys):
    assert netsh(tmp_path, "add", "policy", "p") == 0
    assert netsh(tmp_path, "add", "filteraction", "a") == 0
    assert netsh(tmp_path, "add", "filterlist", "l") == 0
    assert netsh(tmp_path, "add", "rule", "r", "p", "l", "a", f"psk={KEY}") == 0
    assert netsh(tmp_path, "delete", "rule", "r", "policy=p") == 0
    assert main(["--home", str(tmp_path), "policy", "forget", "1"]) == 0
    copy = sqlite3.connect(last_saved_path(tmp_path / "policy.db"))
    assert copy.execute("SELECT count(*) FROM revisions").fetchone() == (1,)
    copy.close()


@pytest.mark.parametrize("words", [("lint",), ("show", "unused")])
def test_questions_about_a_damaged_store_are_answered_from_its_copy(home, capsys, words):
    assert netsh(home, "add", "filter", "filterlist=first", "me", "192.0.2.7") == 0
    assert netsh(home, "add", "filteraction", "stop", "action=block") == 0
    assert netsh(home, "add", "policy", "p", "assign=yes") == 0
    assert netsh(home, "add", "rule", "r", "p", "first", "stop") == 0
    truncated(home / "policy.db")
    assert main(["--home", str(home), *words]) in (0, 1)
    shown = capsys.readouterr()
    assert "last good copy" in shown.err
    assert "second" in shown.out or "default response" in shown.out


def test_the_history_is_that_of_the_copy_and_cannot_be_changed(home, capsys):
    ask = ["--home", str(home), "policy"]
    assert main([*ask, "history"]) == 0
    whole = capsys.readouterr().out
    truncated(home / "policy.db")
    assert main([*ask, "history"]) == 0
    shown = capsys.readouterr()
    assert shown.out == whole
    assert "last good copy" in shown.err
    assert main([*ask, "diff", "2"]) == 0
    assert "+add filterlist name=second" in capsys.readouterr().out
    copy = last_saved_path(home / "policy.db").read_bytes()
    for words in (["rollback", "2"], ["forget", "1"]):
        assert main([*ask, *words]) == 1
        assert "not be changed" in capsys.readouterr().err
    assert last_saved_path(home / "policy.db").read_bytes() == copy
