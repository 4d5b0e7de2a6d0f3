"""The secret that survives a restart."""

from pathlib import Path

import pytest

from stockade.agent.restart_secret import next_restart_secret
from stockade.model.reasons import HostError, ReasonCode


def test_the_secret_stays_and_each_start_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "restart.json"
    first, second, third = (next_restart_secret(path) for _ in range(3))
    assert first.secret == second.secret == third.secret
    assert [one.generation for one in (first, second, third)] == [0, 1, 2]
    assert path.stat().st_mode & 0o077 == 0
    assert first.secret.reveal().hex() not in repr(first)


@pytest.mark.parametrize("damage", ["", "{}", '{"secret": "00", "generation": 1}', "[1]", "\0\xff"])
def test_a_damaged_file_is_a_new_secret(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "restart.json"
    before = next_restart_secret(path)
    path.write_text(damage)
    assert next_restart_secret(path).secret != before.secret
    assert next_restart_secret(path).generation == 1


def test_what_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HostError) as error:
        next_restart_secret(tmp_path / "no" / "folder" / "restart.json")
    assert error.value.reason.code is ReasonCode.STATE_UNUSABLE
