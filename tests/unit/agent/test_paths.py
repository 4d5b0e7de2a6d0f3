"""Folders hold keys and policy: they are the owner's alone."""

import pytest

from stockade.agent.paths import Paths
from stockade.model.reasons import HostError, ReasonCode


def test_home_puts_everything_under_one_folder(tmp_path, monkeypatch):
    paths = Paths.of(tmp_path / "one")
    assert {path.parent for path in (paths.policy, paths.state, paths.journal, paths.socket, paths.lock)} == {
        tmp_path / "one"
    }
    monkeypatch.setenv("STOCKADE_HOME", str(tmp_path / "two"))
    assert Paths.of().policy == tmp_path / "two" / "policy.db"
    monkeypatch.delenv("STOCKADE_HOME")
    assert str(Paths.of().policy) == "/var/lib/stockade/policy.db"


def test_new_folders_are_closed_to_others(tmp_path):
    paths = Paths.of(tmp_path / "home")
    paths.make_folders()
    assert (tmp_path / "home").stat().st_mode & 0o077 == 0


def test_a_folder_that_others_can_write_is_refused(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o777)
    with pytest.raises(HostError) as refusal:
        Paths.of(home).make_folders()
    assert refusal.value.reason.code is ReasonCode.STORE_UNREADABLE
    assert str(home) in str(refusal.value)
