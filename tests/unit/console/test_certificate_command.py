"""`stockade cert`: what it prints, what it takes over, what it says when it cannot."""

import json
from pathlib import Path

import pytest
from certificate_maker import root

from stockade.console.main import main

ROOT = root()
HOST = ROOT.issue("host")


def test_import_and_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home, file, password = tmp_path / "home", tmp_path / "host.pfx", tmp_path / "password"
    file.write_bytes(HOST.pkcs12(b"hush", ROOT))
    password.write_text("hush\n", encoding="utf-8")
    words = ["--home", str(home), "cert", "import", str(file), "--password-file", str(password)]
    assert main(words) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("machine")
    assert told[1].startswith("left out")
    assert main([*words, "--trust-roots"]) == 0
    capsys.readouterr()
    assert main(["--home", str(home), "--format", "json", "cert", "list"]) == 0
    entries = json.loads(capsys.readouterr().out)["certificates"]
    assert [(entry["place"], entry["private_key"]) for entry in entries] == [
        ("machine", True),
        ("roots", False),
    ]
    assert entries[0]["issuer"] == "C=ZZ, O=Laboratory, CN=Root"


def test_a_wrong_password_is_told_with_the_files_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, password = tmp_path / "host.pfx", tmp_path / "password"
    file.write_bytes(HOST.pkcs12(b"hush"))
    password.write_text("loud", encoding="utf-8")
    words = ["cert", "import", str(file), "--password-file", str(password)]
    assert main(["--home", str(tmp_path / "home"), *words]) == 1
    told = capsys.readouterr().err
    assert "password" in told
    assert str(file) in told
    assert "hush" not in told
    assert "loud" not in told


def test_an_empty_store_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--home", str(tmp_path), "cert", "list"]) == 0
    assert "stockade cert import" in capsys.readouterr().out
