"""A damaged store opens at its last good copy, read-only, and says so."""

from pathlib import Path

import pytest

from stockade.model.reasons import HostError, ReasonCode
from stockade.policy.objects import FilterList
from stockade.store.local import LocalStore
from stockade.store.opening import ReadOnlyStore, last_good_path, open_store


def test_a_sound_store_is_opened_as_it_is(tmp_path: Path) -> None:
    opened = open_store(tmp_path / "policy.db", "local")
    assert isinstance(opened.store, LocalStore)
    assert opened.damage is None


def damaged(tmp_path: Path, *, with_copy: bool) -> Path:
    path = tmp_path / "policy.db"
    store = LocalStore(path)
    with store.transaction() as change:
        change.put_filter_list(FilterList("Kept"))
    store.settings.set_text("bootmode", "block")
    if with_copy:
        store.copy_to(last_good_path(path))
    store.close()
    path.write_bytes(b"junk" * 100)
    return path


def test_a_damaged_one_gives_its_copy(tmp_path: Path) -> None:
    path = damaged(tmp_path, with_copy=True)
    assert last_good_path(path).name == "policy.last-good.db"
    opened = open_store(path, "local")
    assert opened.damage is not None
    assert opened.damage.code is ReasonCode.STORE_UNREADABLE
    assert opened.copied is not None
    store = opened.store
    assert isinstance(store, ReadOnlyStore)
    assert [entry.name for entry in store.read().filter_lists] == ["Kept"]
    assert store.get_setting("bootmode") == "block"
    assert isinstance(store.version(), int)
    for change in (store.transaction, lambda: store.put_setting("bootmode", "permit")):
        with pytest.raises(HostError, match="cannot be changed") as error:
            change()
        assert error.value.reason.code is ReasonCode.STORE_UNREADABLE
    assert path.read_bytes() == b"junk" * 100


def test_without_a_copy_the_damage_is_the_error(tmp_path: Path) -> None:
    with pytest.raises(HostError) as error:
        open_store(damaged(tmp_path, with_copy=False), "local")
    assert error.value.reason.code is ReasonCode.STORE_UNREADABLE


def test_a_copy_that_is_damaged_too_does_not_hide_the_first_damage(tmp_path: Path) -> None:
    path = damaged(tmp_path, with_copy=True)
    last_good_path(path).write_bytes(b"")
    with pytest.raises(HostError) as error:
        open_store(path, "local")
    assert str(path) in str(error.value)
