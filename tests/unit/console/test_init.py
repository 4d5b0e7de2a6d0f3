"""`stockade init`: the first policy, as flags or answers ask for it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from stockade.console.init_command import questions
from stockade.console.main import main
from stockade.console.parser import make_parser
from stockade.model.reasons import CallerError


def init(home: Path, *words: str) -> int:
    return main(["--home", str(home), "init", *words])


def verdict(home: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    store = ["--policy-file", str(home / "policy.db"), "--local", "10.0.0.1"]
    assert main(["--home", str(home), "--format", "json", "explain", *words, *store]) == 0
    return str(json.loads(capsys.readouterr().out)["verdict"])


def test_traffic_with_the_peer_is_secured_and_ssh_stays_open(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, home = tmp_path / "key", tmp_path / "home"
    assert init(home, "--peer", "10.0.0.2", "--peer", "10.1.0.0/16", "--psk-file", str(key), "--require") == 0
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.read_text().strip() not in capsys.readouterr().out
    asked = {
        ("10.0.0.1", "10.0.0.2", "tcp", "--port", "80"): "secure",
        ("10.0.0.1", "10.1.7.7", "udp", "--port", "53"): "secure",
        ("10.0.0.2", "10.0.0.1", "tcp", "--port", "22"): "permit",
        ("10.0.0.1", "10.0.0.2", "tcp", "--port", "22"): "permit",
        ("10.0.0.1", "10.2.0.1", "tcp", "--port", "80"): "no-filter",
    }
    assert {words: verdict(home, capsys, *words) for words in asked} == asked


def test_the_same_key_file_serves_the_other_side(tmp_path: Path) -> None:
    key = tmp_path / "key"
    assert init(tmp_path / "a", "--peer", "10.0.0.2", "--psk-file", str(key), "--require") == 0
    before = key.read_bytes()
    assert init(tmp_path / "b", "--peer", "10.0.0.1", "--psk-file", str(key), "--require") == 0
    assert key.read_bytes() == before


def test_an_earlier_policy_is_replaced_only_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert init(tmp_path, "--peer", "10.0.0.2", "--kerberos", "--require") == 0
    assert init(tmp_path, "--peer", "10.0.0.3", "--kerberos", "--request") == 1
    assert "--replace" in capsys.readouterr().err
    assert verdict(tmp_path, capsys, "10.0.0.1", "10.0.0.2", "udp") == "secure"
    assert (
        init(
            tmp_path, "--peer", "10.0.0.3", "--rootca", "CN=Example CA", "--request", "--no-ssh", "--replace"
        )
        == 0
    )
    assert verdict(tmp_path, capsys, "10.0.0.1", "10.0.0.2", "udp") == "no-filter"
    assert verdict(tmp_path, capsys, "10.0.0.1", "10.0.0.3", "tcp", "--port", "22") == "secure"


@pytest.mark.parametrize(
    "words",
    [
        ["--peer", "everybody", "--kerberos", "--require"],
        ["--peer", "0.0.0.0/0", "--kerberos", "--require"],
        ["--peer", "224.0.0.1", "--kerberos", "--require"],
        ["--peer", "127.0.0.1", "--kerberos", "--require"],
        ["--peer", "10.0.0.2", "--psk-file", "{short}", "--require"],
        ["--peer", "10.0.0.2", "--psk-file", "{folder}/no/such/key", "--require"],
    ],
)
def test_what_makes_no_policy_is_refused_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    short = tmp_path / "short"
    short.write_text("tiny")
    home = tmp_path / "home"
    assert init(home, *(word.format(short=short, folder=tmp_path) for word in words)) == 1
    assert "what to do" in capsys.readouterr().err
    assert main(["--home", str(home), "netsh", "ipsec", "static", "show", "policy", "all"]) in (0, 1)
    assert "First policy" not in capsys.readouterr().out


def test_nobody_to_ask_is_an_error_and_not_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "stockade.console.main", "--home", str(tmp_path), "init"]
    result = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 1
    assert "--peer is missing" in result.stderr
    assert "Traceback" not in result.stderr


def test_three_questions_are_enough(tmp_path: Path) -> None:
    replies = iter(["10.0.0.2, 10.1.0.0/16", str(tmp_path / "key"), "require"])
    asked: list[str] = []

    def ask(question: str) -> str:
        asked.append(question)
        return next(replies)

    answers, path = questions(make_parser().parse_args(["init"]), ask)
    assert len(asked) == 3
    assert [str(peer) for peer in answers.peers] == ["10.0.0.2/32", "10.1.0.0/16"]
    assert answers.require
    assert path == tmp_path / "key"
    assert answers.key == path.read_bytes().strip()
    assert answers.key.decode() not in repr(answers)


def test_an_answer_that_is_none_of_the_words_is_refused() -> None:
    replies = iter(["10.0.0.2", "kerberos", "maybe"])
    with pytest.raises(CallerError, match="require or request"):
        questions(make_parser().parse_args(["init"]), lambda question: next(replies))
