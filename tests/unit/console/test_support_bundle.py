"""`stockade support-bundle` holds what helps, and no secret in any writing."""

import base64
import json
import tarfile
from pathlib import Path

import pytest

from stockade.agent.paths import Paths
from stockade.console.main import main
from stockade.console.support_command import REMOVED, cleaner, secrets_of

KEY, OLD_KEY, TOKEN = "first-key-äöü-4711", "an-older-key-0815", "token-of-the-webhook-99"
SCRIPT = """
ipsec static
add filterlist name=secured
add filter filterlist=secured srcaddr=me dstaddr=10.0.0.2 protocol=TCP
add filteraction name=require qmsecmethods="ESP[AES128,SHA1]:100000k/3600s"
add policy name=first activatedefaultrule=no mmsecmethods="AES128-SHA256-ECP256"
add rule name=secure policy=first filterlist=secured filteraction=require psk="{key}"
set policy name=first assign=yes
"""


def writings(secret: str) -> list[str]:
    raw = secret.encode()
    return [secret, raw.hex(), raw.hex().upper(), base64.b64encode(raw).decode(), json.dumps(secret)[1:-1]]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with keys in the present and in the past, an account, a token file and careless logs."""
    home = tmp_path / "home"
    script = tmp_path / "p.netsh"
    script.write_text(SCRIPT.format(key=OLD_KEY))
    assert main(["--home", str(home), "netsh", "-f", str(script)]) == 0
    change = f'ipsec static set rule name=secure policy=first psk="{KEY}"'
    script.write_text(change)
    assert main(["--home", str(home), "netsh", "-f", str(script)]) == 0
    password = tmp_path / "password"
    password.write_text("the password of ann")
    assert main(["--home", str(home), "web", "user", "add", "ann", "--password-file", str(password)]) == 0
    token = tmp_path / "token"
    token.write_text(TOKEN)
    paths = Paths.of(home)
    url = "https://user:pass-in-url@alerts.example/hook"
    paths.settings.write_text(f'# {TOKEN}\n[[events.notify]]\nurl = "{url}"\ntoken_file = "{token}"\n')
    paths.journal.mkdir(exist_ok=True)
    lines = [
        {"text": f"somebody printed {writing}"}
        for secret in (KEY, OLD_KEY, TOKEN)
        for writing in writings(secret)
    ]
    lines += [
        {"text": "-----BEGIN PRIVATE KEY-----\nMIIabc\n-----END PRIVATE KEY-----"},
        {"password": "hunter2hunter2"},
    ]
    paths.journal.joinpath("journal.jsonl").write_text(
        "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in lines)
    )
    return home


def test_nothing_secret_is_in_any_member(home: Path, tmp_path: Path) -> None:
    target = tmp_path / "bundle.tar.gz"
    assert main(["--home", str(home), "support-bundle", str(target)]) == 0
    assert target.stat().st_mode & 0o777 == 0o600
    with tarfile.open(target) as archive:
        members = {one.name: archive.extractfile(one) for one in archive.getmembers()}
        texts = {name: file.read().decode() for name, file in members.items() if file is not None}
    account = json.loads((Paths.of(home).web_accounts / "accounts.json").read_text())["accounts"][0]
    forbidden = [*writings(KEY), *writings(OLD_KEY), *writings(TOKEN), account["digest"], account["salt"]]
    forbidden += ["pass-in-url", "MIIabc", "hunter2", "the password of ann"]
    for name, text in texts.items():
        for secret in forbidden:
            assert secret not in text, (name, secret)
    assert REMOVED in texts["stockade-support/journal/journal.jsonl"]
    assert "alerts.example/hook" in texts["stockade-support/settings/agent.toml"]
    assert (
        'name="secure"' in texts["stockade-support/policy/local.netsh"]
        or "name=secure" in texts["stockade-support/policy/local.netsh"]
    )
    assert "stockade" in texts["stockade-support/version.txt"]
    assert (
        "agent-not-running" in texts["stockade-support/agent/status.json"]
        or "no agent" in texts["stockade-support/agent/status.json"]
    )


def test_a_file_that_is_there_is_not_overwritten(home: Path, tmp_path: Path) -> None:
    target = tmp_path / "bundle.tar.gz"
    target.write_text("mine")
    assert main(["--home", str(home), "support-bundle", str(target)]) == 1
    assert target.read_text() == "mine"


def test_keys_of_the_past_are_known(home: Path) -> None:
    known = secrets_of(Paths.of(home))
    assert KEY.encode() in known
    assert OLD_KEY.encode() in known
    assert TOKEN.encode() in known


def test_words_that_are_no_secrets_stay() -> None:
    clean = cleaner([b"tiny", b"long enough secret"])
    assert clean("a tiny thing; authentication preshared-key, key exchange") == (
        "a tiny thing; authentication preshared-key, key exchange"
    )
    assert clean("x long enough secret y") == f"x {REMOVED} y"
