"""What the commands say when they refuse: the word of the reason, what exactly was wrong, and what to do."""

import tracemalloc
from pathlib import Path

import pytest

from stockade.agent.oakley import NAME
from stockade.agent.paths import Paths
from stockade.console.main import main as stockade
from stockade.console.web_command import _password
from stockade.model.reasons import ReasonCode

TABLE = (
    # (words, reason, what stands in the text); {file} is a text file, {none} one that is not there
    ("lint", ReasonCode.NOT_ASSIGNED, "there is no policy"),
    ("policy diff 7", ReasonCode.UNKNOWN_NAME, "stockade policy history lists"),
    ("log --peer 10.0.0.2", ReasonCode.NOT_RECORDED, "property=ikelogging value=1"),
    ("netsh -f {none}", ReasonCode.FILE_UNUSABLE, "{none}"),
    ("netsh ipsec static importpolicy file={none}", ReasonCode.FILE_UNUSABLE, "{none}"),
    ("netsh ipsec static exportpolicy file={none}/x", ReasonCode.FILE_UNUSABLE, "{none}/x"),
    ("lint --policy-file {none}", ReasonCode.FILE_UNUSABLE, "{none}"),
    ("cert import {none}", ReasonCode.FILE_UNUSABLE, "{none}"),
    ("cert import {file}", ReasonCode.INVALID_FILE, "neither PEM nor a certificate"),
    ("policy simple --psk-file {none}", ReasonCode.FILE_UNUSABLE, "{none}"),
    ("init --peer 10.0.0.2 --psk-file {none}/x", ReasonCode.FILE_UNUSABLE, "{none}/x"),
    ("support-bundle {none}/x.tgz", ReasonCode.FILE_UNUSABLE, "{none}/x.tgz"),
    ("lab failover --scenario nothing", ReasonCode.UNKNOWN_NAME, "'nothing' is part of no scenario's name"),
    ("lab failover --client nothing", ReasonCode.UNKNOWN_NAME, "'nothing' is part of no client's name"),
    ("web user add alice", ReasonCode.SYNTAX, "--password-file"),
    ("web user add alice --password-file {none}", ReasonCode.FILE_UNUSABLE, "{none}: No such file"),
    ("rsop", ReasonCode.NOT_SET_UP, "[directory]"),
    ("netsh ipsec static set store location=domain", ReasonCode.NOT_SET_UP, "domain= of the command"),
    ("netsh -r another.example ipsec static show all", ReasonCode.NOT_AVAILABLE, ""),
)


@pytest.mark.parametrize(("line", "code", "told"), TABLE, ids=lambda one: str(one)[:60])
def test_a_refusal_names_its_object_and_a_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, code: ReasonCode, told: str
) -> None:
    text = tmp_path / "text"
    text.write_text("hello\n")
    names = {"file": str(text), "none": str(tmp_path / "none")}
    status = stockade(["--home", str(tmp_path / "home"), *(word.format(**names) for word in line.split())])
    said = capsys.readouterr()
    assert status == 1, said
    assert code.meaning in said.err, said.err
    assert told.format(**names) in said.err
    assert code.remedy in said.err


def test_rules_without_a_name_are_told_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = ["--home", str(tmp_path)]
    assert stockade([*home, "netsh", "ipsec", "static", "restorepolicyexamples"]) == 0
    assert stockade([*home, "netsh", "ipsec", "static", "delete", "filterlist", "All IP Traffic"]) == 1
    assert "is used by a rule without a name of policy “Server (Request Security)”" in capsys.readouterr().err


@pytest.mark.parametrize("keep", ["-1", "0", "all"])
def test_forgetting_wants_to_know_how_much_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], keep: str
) -> None:
    """A slip of the hand must not cost the history."""
    home = ["--home", str(tmp_path)]
    for name in ("one", "two", "three"):
        assert stockade([*home, "netsh", "ipsec", "static", "add", "filterlist", name]) == 0
    with pytest.raises(SystemExit) as ended:
        stockade([*home, "policy", "forget", keep])
    assert ended.value.code == 2
    assert f"'{keep}' is no number from 1 on" in capsys.readouterr().err
    assert stockade([*home, "policy", "history"]) == 0
    assert len([line for line in capsys.readouterr().out.splitlines() if "filterlist" in line]) >= 3


def test_a_log_that_is_no_file_is_told_as_that_and_not_as_a_missing_privilege(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (Paths.of(tmp_path).journal / NAME).mkdir(parents=True)
    assert stockade(["--home", str(tmp_path), "log"]) != 0
    told = capsys.readouterr().err
    assert "a file cannot be read or written" in told
    assert "Is a directory" in told


def test_of_a_long_password_file_no_more_is_read_than_a_password_can_have(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("correct horse battery staple\n" + 8_000_000 * "x", encoding="utf-8")
    tracemalloc.start()
    try:
        word = _password(str(file))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert word.startswith("correct horse")
    assert peak < 1_000_000
