"""`stockade netsh`, `policy` and `ipseccmd` from the command line to the files, without an agent."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from stockade.agent.paths import Paths
from stockade.console import netsh_world
from stockade.console.main import main
from stockade.model.reasons import ReasonCode, error_for
from stockade.netsh.interpreter import run_command
from stockade.policy.dynamic import DynamicSet
from stockade.store.dynamic import DynamicMemory, dynamic_form, dynamic_of
from stockade.store.local import LocalStore
from stockade.store.opening import last_good_path

STATIC = ("netsh", "ipsec", "static")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def stockade(home: Path, *words: str) -> int:
    return main(["--home", str(home), *words])


def test_a_command_and_its_history(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert stockade(home, *STATIC, "add", "filterlist", "L") == 0
    assert stockade(home, *STATIC, "add", "filteraction", "A") == 0
    assert stockade(home, *STATIC, "add", "policy", "P") == 0
    assert stockade(home, *STATIC, "add", "rule", "R", "P", "L", "A", "psk=sesame") == 0
    capsys.readouterr()
    assert stockade(home, "policy", "history", "--format", "json") == 0
    revisions = json.loads(capsys.readouterr().out)["revisions"]
    assert [one["number"] for one in revisions] == [1, 2, 3, 4, 5]
    assert revisions[1]["command"] == "ipsec static add filterlist name=L"
    assert revisions[4]["command"].endswith("filteraction=A psk=***")
    assert stockade(home, "policy", "diff", "4") == 0
    shown = capsys.readouterr().out
    assert "+add rule name=R policy=P" in shown
    assert "sesame" not in shown
    assert stockade(home, "policy", "rollback", "3") == 0
    assert LocalStore(home / "policy.db").read().policies == ()
    assert stockade(home, "policy", "rollback", "99") == 1
    assert stockade(home, "policy", "forget", "1") == 0
    capsys.readouterr()
    assert stockade(home, "policy", "history") == 0
    assert "policy rollback 3" in capsys.readouterr().out


def test_a_changed_key_is_told_and_not_shown(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (("filterlist", "L"), ("filteraction", "A"), ("policy", "P")):
        stockade(home, *STATIC, "add", *words)
    stockade(home, *STATIC, "add", "rule", "R", "P", "L", "A", "psk=one")
    stockade(home, *STATIC, "set", "rule", "R", "policy=P", "psk=two")
    capsys.readouterr()
    assert stockade(home, "policy", "diff", "5", "6") == 0
    assert "pre-shared key of rule “R” of policy “P”" in capsys.readouterr().out


def test_scripts_their_notes_and_their_status(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "s.cmd"
    script.write_text("@echo off\nnetsh ipsec static add policy P > nul\n")
    assert stockade(home, "netsh", "-f", str(script)) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "passed over: echo off" in captured.err
    script.write_text("netsh ipsec static add policy Q\nnetsh ipsec static add plicy R\n")
    assert stockade(home, "netsh", "-f", str(script), "--atomic") == 1
    assert LocalStore(home / "policy.db").read().policy("Q") is None
    assert stockade(home, "netsh", "-f", str(script)) == 1
    assert LocalStore(home / "policy.db").read().policy("Q") is not None
    capsys.readouterr()
    assert stockade(home, "netsh", "--format", "json", "-f", str(script)) == 1
    answers = json.loads(capsys.readouterr().out)
    assert [answer["status"] for answer in answers] == [1, 1]


def test_json_also_after_the_command(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert stockade(home, *STATIC, "show", "store", "--format", "json") == 0
    assert json.loads(capsys.readouterr().out)["data"] == {"store": "local"}


def test_lines_from_a_pipe(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = "ipsec static\nadd policy P\nset batch enable\nadd policy Q\nadd plicy R\nshow store\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    assert stockade(home, "netsh") == 1
    captured = capsys.readouterr()
    assert "Local Store" in captured.out
    assert "plicy" in captured.err
    store = LocalStore(home / "policy.db")
    assert [policy.name for policy in store.read().policies] == ["P", "Q"]  # the batch was written at the end
    monkeypatch.setattr("sys.stdin", io.StringIO("ipsec static\nexit\nadd policy Z\n"))
    assert stockade(home, "netsh") == 0
    assert store.read().policy("Z") is None


def test_export_import_and_a_context(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert stockade(home, "netsh", "-c", "ipsec static", "add", "policy", "P") == 0
    assert stockade(home, *STATIC, "exportpolicy", "mine") == 0
    assert (tmp_path / "mine.ipsec").stat().st_mode & 0o777 == 0o600
    assert stockade(home, *STATIC, "delete", "all") == 0
    assert stockade(home, *STATIC, "importpolicy", "mine") == 0
    assert LocalStore(home / "policy.db").read().policy("P") is not None
    assert stockade(home, *STATIC, "exportpolicy", "no/such/folder/mine") == 1
    assert stockade(home, *STATIC, "importpolicy", "/") == 1
    assert "cannot be read" in capsys.readouterr().err


def test_a_damaged_store_is_shown_at_its_last_good_copy(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stockade(home, *STATIC, "add", "policy", "Kept")
    store = LocalStore(home / "policy.db")
    store.copy_to(last_good_path(store.path))
    store.close()
    store.path.write_bytes(b"junk")
    capsys.readouterr()
    assert stockade(home, *STATIC, "show", "policy", "all") == 0
    captured = capsys.readouterr()
    assert "Kept" in captured.out
    assert "last good copy" in captured.err
    assert stockade(home, *STATIC, "add", "policy", "More") == 1
    assert "cannot be changed" in capsys.readouterr().err
    assert stockade(home, "policy", "rollback", "1") == 1
    assert "not be changed" in capsys.readouterr().err


def test_ipseccmd(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        stockade(home, "ipseccmd", "-w", "REG", "-p", "P", "-r", "R", "-f", "*+0:23:TCP", "-n", "BLOCK") == 0
    )
    assert LocalStore(home / "policy.db").read().policy("P") is not None
    assert stockade(home, "ipseccmd", "-f", "0=*") == 1
    assert "no agent answers" in capsys.readouterr().err
    assert stockade(home, "ipseccmd", "-f") == 1


class FakeClient:
    """The agent's API for dynamic objects, without an agent."""

    def __init__(self) -> None:
        self.memory = DynamicMemory()

    def get(self, path: str, parameters: dict[str, str]) -> dict[str, object]:
        assert (path, parameters) == ("/v1/dynamic", {"keys": "yes"})
        return {
            "version": self.memory.version,
            "objects": dynamic_form(self.memory.read(), with_keys=True),
        }

    def put(self, path: str, content: dict[str, object]) -> None:
        content = json.loads(json.dumps(content))
        self.memory.require_version(content["version"])
        self.memory.replace(dynamic_of(content["objects"]))


def test_dynamic_changes_go_to_the_agent_as_a_whole(home: Path) -> None:
    console = netsh_world.Console(Paths.of(home))
    client = FakeClient()
    dynamic = netsh_world.AgentDynamic(client)  # type: ignore[arg-type]
    console.session.world = replace(console.session.world, dynamic=dynamic)
    for line in ("add mmpolicy M", "add qmpolicy Q", "add rule me 10.0.0.2 M Q psk=sesame"):
        run_command(f"ipsec dynamic {line}", console.session)
    (rule,) = client.memory.read().rules
    assert rule.authentication == dynamic.read().rules[0].authentication

    def half_a_change() -> None:
        with dynamic.transaction() as change:
            change.replace(DynamicSet())
            raise OSError("not the store's business")

    with pytest.raises(OSError, match="not the store's business"):
        half_a_change()
    assert client.memory.read().rules == (rule,)


def test_an_agent_that_does_not_run_is_said(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert stockade(home, "netsh", "ipsec", "dynamic", "show", "mmsas") == 1
    assert error_for(ReasonCode.AGENT_NOT_RUNNING).reason.code.meaning in capsys.readouterr().err
    assert stockade(home, "netsh", "ipsec", "dynamic", "show", "config") == 0


def test_a_difference_tells_settings_too(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert stockade(home, "netsh", "ipsec", "static", "add", "filterlist", "L") == 0
    for level in ("0", "2"):
        assert stockade(home, "netsh", "ipsec", "dynamic", "set", "config", "ipsecexempt", level) == 0
    capsys.readouterr()
    assert stockade(home, "policy", "diff", "3") == 0
    assert capsys.readouterr().out.splitlines() == [
        "-set config property=ipsecexempt value=0",
        "+set config property=ipsecexempt value=2",
    ]
    assert stockade(home, "policy", "diff", "2", "3") == 0
    assert capsys.readouterr().out == "+set config property=ipsecexempt value=0\n"
    assert stockade(home, "policy", "diff", "4") == 0
    assert "No difference" in capsys.readouterr().out
