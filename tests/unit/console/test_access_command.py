"""`stockade access`."""

import json

from stockade.console.main import main


def test_entries_groups_and_accounts_come_and_go(tmp_path, capsys):
    home = ["--home", str(tmp_path / "home")]

    def run(*words: str) -> str:
        assert main([*home, "access", *words]) == 0
        return capsys.readouterr().out

    assert "everybody may connect" in run("list")
    run("allow", "group", "servers")
    run("deny", "computer", "host/old@LAB", "--rule", "web")
    run("group", "servers", "host/*@LAB", "A$@LAB")
    run("account", "A$@LAB", "--subject", "CN=a", "--issuer", "CN=Root")
    shown = json.loads(run("list", "--format", "json"))
    assert [entry["action"] for entry in shown["entries"]] == ["allow", "deny"]
    assert shown["groups"] == {"servers": ["host/*@LAB", "A$@LAB"]}
    assert shown["accounts"] == [{"account": "A$@LAB", "subject": "CN=a", "issuer": "CN=Root"}]
    assert "deny computer host/old@LAB for rule “web”" in run("list")
    run("remove", "2")
    run("group", "servers")
    run("account", "A$@LAB")
    shown = json.loads(run("list", "--format", "json"))
    assert (len(shown["entries"]), shown["groups"], shown["accounts"]) == (1, {}, [])


def test_what_is_not_there_cannot_be_removed(tmp_path, capsys):
    home = ["--home", str(tmp_path / "home")]
    for words in (("remove", "1"), ("group", "none"), ("account", "none"), ("allow", "ca", "no name")):
        assert main([*home, "access", *words]) != 0
        assert "Traceback" not in capsys.readouterr().err
