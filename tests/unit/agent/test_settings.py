"""agent.toml: what it says counts, and what it says wrongly stops the start."""

import pytest

from stockade.agent.service_settings import ServiceSettings, with_asked
from stockade.agent.settings import Settings, read_settings
from stockade.model.reasons import CallerError, ReasonCode


def test_without_a_file_the_defaults_count(tmp_path):
    assert read_settings(tmp_path / "agent.toml") == Settings()


def test_what_the_file_says_counts(tmp_path):
    file = tmp_path / "agent.toml"
    file.write_text(
        'driver = "userspace"\n[ike]\nadvertise_cluster = true\nidle_seconds = 600\nreplay_window = 128\n'
    )
    settings = read_settings(file)
    assert settings.driver == "userspace"
    assert settings.ike.advertise_cluster
    assert (settings.ike.idle_seconds, settings.ike.replay_window) == (600, 128)
    assert settings.ike.microsoft_version == Settings().ike.microsoft_version


def test_the_time_of_dead_peers_can_be_said_here_and_set_config_outweighs_it(tmp_path):
    file = tmp_path / "agent.toml"
    file.write_text("[ike]\ndead_peer_seconds = 30\n")
    config = read_settings(file).ike
    assert config.notice_seconds == 30
    assert with_asked(config, ServiceSettings()).notice_seconds == 30
    assert with_asked(config, ServiceSettings(dead_peer_seconds=10)).notice_seconds == 10
    assert Settings().ike.notice_seconds is None


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("driver = 7", "driver"),
        ("drivr = 'auto'", "drivr"),
        ("ike = 1", "ike"),
        ("[ike]\nidle_seconds = 5", "300 to 3600"),
        ("[ike]\nstrong_crl_check = 3", "0 to 2"),
        ("[ike]\ndead_peer_seconds = 4", "5 to 3600"),
        ("[ike]\ndead_peer_seconds = 3601", "5 to 3600"),
        ("[ike]\nidle_seconds = true", "idle_seconds"),
        ("[ike]\nadvertise_cluster = 1", "true or false"),
        ("[ike]\nhalf_open_total = 7", "half_open_total"),
        ("[ike", "at end of document"),
        ("\xff\xfe", "agent.toml"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(tmp_path, text, named):
    file = tmp_path / "agent.toml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(CallerError) as refusal:
        read_settings(file)
    assert refusal.value.reason.code is ReasonCode.INVALID_SETTING
    assert named in str(refusal.value)
    assert str(file) in str(refusal.value)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ('security = "clear"', "gssapi, ldaps or starttls"),
        ('user = "a@LAB"', "go together"),
        ('user = "a@LAB"\npassword_file = "/p"', "over ldaps or starttls only"),
        ("domain = 3", "must be text"),
    ],
)
def test_a_directory_is_never_asked_in_clear(tmp_path, words, named):
    file = tmp_path / "agent.toml"
    file.write_text(f"[directory]\n{words}\n")
    with pytest.raises(CallerError) as refusal:
        read_settings(file)
    assert refusal.value.reason.code is ReasonCode.INVALID_SETTING
    assert named in str(refusal.value.reason)


def test_a_password_of_the_directory_is_read_from_its_owners_file_only(tmp_path):
    password, file = tmp_path / "password", tmp_path / "agent.toml"
    file.write_text(
        f'[directory]\ndomain = "lab.test"\nsecurity = "ldaps"\nuser = "a@LAB"\n'
        f'password_file = "{password}"\n'
    )
    settings = read_settings(file).directory
    for content, mode, named in (("", 0o600, "empty"), ("secret\n", 0o640, "others may read")):
        password.write_text(content)
        password.chmod(mode)
        with pytest.raises(CallerError, match=named):
            settings.login(None)
    password.chmod(0o600)
    login = settings.login(None)
    assert login.password is not None
    assert login.password.reveal() == b"secret"
    assert "secret" not in repr(login)
