"""`[events]` and `[metrics]` of agent.toml: what is asked for, and who may ask for it."""

import os
from ipaddress import ip_address

import pytest

from stockade.agent.settings import read_settings
from stockade.model.reasons import CallerError, HostError, ReasonCode, StockadeError

WHOLE = """
[metrics]
listen = "[::1]:9495"
[events]
journald = true
[[events.notify]]
url = "https://alerts.example.net/hook?room=7"
token_file = "{folder}/token"
reasons = ["peer-dead"]
ids = [4653]
[[events.notify]]
command = ["/bin/true", "--ipsec"]
kinds = ["policy-refused"]
per_minute = 5
"""


def settings_of(tmp_path, text):
    path = tmp_path / "agent.toml"
    path.touch(0o600)
    path.write_text(text.replace("{folder}", str(tmp_path)))
    return read_settings(path).outputs


@pytest.fixture
def token(tmp_path):
    path = tmp_path / "token"
    path.touch(0o600)
    path.write_text("abc.def\n")
    return path


def test_everything_that_can_be_asked_for(tmp_path, token):
    outputs = settings_of(tmp_path, WHOLE)
    assert outputs.metrics == (ip_address("::1"), 9495)
    assert outputs.journald
    hook, program = outputs.notifiers
    assert hook.token.reveal() == b"abc.def"
    assert (hook.ids, hook.reasons, hook.per_minute) == ({4653}, {"peer-dead"}, 30)
    assert program.command == ("/bin/true", "--ipsec")
    assert hook.wants({"reason": "x", "kind": "y", "windows_events": [547, 4653]})
    assert hook.wants({"reason": "peer-dead"})
    assert not hook.wants({"reason": "x", "kind": "policy-refused", "windows_events": [5461]})
    assert program.wants({"reason": "x", "kind": "policy-refused"})
    assert "abc.def" not in repr(outputs)
    assert hook.name == "https://alerts.example.net", "the path and the query may be secret"


def test_without_the_tables_nothing_goes_out(tmp_path):
    assert settings_of(tmp_path, "") is None


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('[metrics]\nlisten = "9495"', "metrics.listen"),
        ('[metrics]\nlisten = "localhost:9495"', "metrics.listen"),
        ('[metrics]\nlisten = "127.0.0.1:70000"', "metrics.listen"),
        ("[metrics]\nlisten = 5", "metrics.listen"),
        ('[metrics]\nport = "9495"', "metrics.port"),
        ("metrics = 7", "metrics"),
        ("[events]\njournald = 1", "events.journald"),
        ("[events]\nnotify = 3", "events.notify"),
        ('[[events.notify]]\nreasons = ["peer-dead"]', "url or a command"),
        ('[[events.notify]]\nurl = "file:///etc/shadow"\nids = [541]', "http"),
        ('[[events.notify]]\nurl = "https://user:secret@host/"\nids = [541]', "http"),
        ('[[events.notify]]\nurl = "https://host:99999/"\nids = [541]', "http"),
        ('[[events.notify]]\nurl = "http://h/"\nids = [1]', "ids"),
        ('[[events.notify]]\nurl = "http://h/"\nreasons = ["bad-luck"]', "bad-luck"),
        ('[[events.notify]]\nurl = "http://h/"', "nothing"),
        ('[[events.notify]]\nurl = "http://h/"\nids = [541]\nper_minute = 0', "per_minute"),
        ('[[events.notify]]\nurl = "http://h/"\nids = [541]\ntoken_file = "/nowhere"', "nowhere"),
        ('[[events.notify]]\ncommand = "/bin/true"\nids = [541]', "list"),
        ('[[events.notify]]\ncommand = ["true"]\nids = [541]', "absolute"),
        ('[[events.notify]]\ncommand = ["/nowhere/at/all"]\nids = [541]', "nowhere"),
    ],
)
def test_what_makes_no_sense_stops_the_start_with_its_key(tmp_path, text, word):
    with pytest.raises(StockadeError) as refused:
        settings_of(tmp_path, text)
    assert isinstance(refused.value, CallerError | HostError)
    assert refused.value.reason.code is ReasonCode.INVALID_SETTING
    assert word in str(refused.value)
    assert "secret" not in str(refused.value)


def test_what_others_can_write_decides_nothing(tmp_path, token):
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o777)
    asked = f'[[events.notify]]\ncommand = ["{program}"]\nids = [541]'
    with pytest.raises(StockadeError, match="by others"):
        settings_of(tmp_path, asked)
    program.chmod(0o755)
    assert settings_of(tmp_path, asked).notifiers
    (tmp_path / "agent.toml").chmod(0o666)
    with pytest.raises(StockadeError, match="by others"):
        read_settings(tmp_path / "agent.toml")
    (tmp_path / "agent.toml").chmod(0o600)
    token.chmod(0o644)
    with pytest.raises(StockadeError, match="read or written by others"):
        settings_of(tmp_path, WHOLE)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_program_of_somebody_else_is_not_run(tmp_path):
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    os.chown(program, 1234, 1234)
    with pytest.raises(StockadeError, match="by others"):
        settings_of(tmp_path, f'[[events.notify]]\ncommand = ["{program}"]\nids = [541]')
