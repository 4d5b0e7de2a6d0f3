"""`stockade policy simple` and `netsh ipsec static add simplepolicy`."""

import json

from stockade.agent.paths import Paths
from stockade.console.main import main
from stockade.model.negotiation import Certificate, Kerberos, PresharedKey
from stockade.policy.objects import PolicySet
from stockade.store.local import LocalStore


def store_of(home) -> LocalStore:
    return LocalStore(Paths.of(str(home)).policy)


def methods_of(objects: PolicySet, name: str = "Simple policy"):
    policy = objects.policy(name)
    assert policy is not None
    return policy.rules[1].authentication


def test_it_is_written_not_assigned_and_the_fallback_is_quick(tmp_path, capsys):
    assert main(["--home", str(tmp_path), "policy", "simple"]) == 0
    assert "It is not in force" in capsys.readouterr().out
    objects = store_of(tmp_path).read()
    assert objects.assigned is None
    assert methods_of(objects) == (Kerberos(),)
    assert store_of(tmp_path).get_setting("simplepolicyupdate") == "1"


def test_a_key_from_a_file_is_taken_and_shown_nowhere(tmp_path, capsys):
    key = tmp_path / "key"
    key.write_bytes(b"correct horse battery staple\n")
    words = ["--home", str(tmp_path / "home"), "policy"]
    assert main([*words, "simple", "--assign", "--psk-file", str(key), "--rootca", "CN=Root"]) == 0
    objects = store_of(tmp_path / "home").read()
    assert objects.assigned is not None
    certificate, shared = methods_of(objects)
    assert isinstance(certificate, Certificate)
    assert isinstance(shared, PresharedKey)
    assert shared.key.reveal() == b"correct horse battery staple"
    assert main([*words, "history"]) == 0
    assert main([*words, "diff", "1"]) == 0
    printed = capsys.readouterr().out
    assert "battery" not in printed
    assert b"battery".hex() not in printed


def test_twice_needs_replace_and_stays_assigned(tmp_path, capsys):
    words = ["--home", str(tmp_path), "policy", "simple", "--name", "Ask"]
    assert main([*words, "--assign"]) == 0
    assert main([*words, "--rootca", "CN=Root"]) == 1
    assert "already" in capsys.readouterr().err
    assert main([*words, "--rootca", "CN=Root", "--replace", "--format", "json"]) == 0
    answer = json.loads(capsys.readouterr().out)["data"]
    assert answer["policy"] == "Ask"
    assert answer["assigned"] is True
    assert isinstance(methods_of(store_of(tmp_path).read(), "Ask")[0], Certificate)


def test_a_key_file_that_is_empty_or_missing_is_refused(tmp_path, capsys):
    words = ["--home", str(tmp_path / "home"), "policy", "simple", "--psk-file"]
    empty = tmp_path / "empty"
    empty.touch()
    for file in (empty, tmp_path / "missing"):
        assert main([*words, str(file)]) == 1
        assert str(file) in capsys.readouterr().err
    assert store_of(tmp_path / "home").read() == PolicySet()
