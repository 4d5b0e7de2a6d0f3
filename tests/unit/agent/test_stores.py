"""The agent's stores: persistent first, changes of any of them, damage at start."""

from pathlib import Path

import pytest

from stockade.agent.paths import Paths
from stockade.agent.stores import Stores
from stockade.model.reasons import HostError, Reason, ReasonCode
from stockade.policy.objects import FilterList, Policy
from stockade.store.local import LocalStore
from stockade.store.opening import last_good_path


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths.of(tmp_path)


def put(path: Path, name: str) -> None:
    with LocalStore(path).transaction() as change:
        change.put_policy(Policy(name, assigned=True))


def test_a_persistent_store_is_not_made_until_somebody_writes_to_it(paths: Paths) -> None:
    stores = Stores(paths)
    before = stores.versions()
    assert [one.store for one in stores.read().policy_sets] == ["persistent", "local"]
    stores.keep_good_copies()
    assert not paths.persistent.exists()
    assert not last_good_path(paths.persistent).exists()
    put(paths.persistent, "Always")
    assert stores.versions() != before
    persistent, local = stores.read().policy_sets
    assert (persistent.store, [one.name for one in persistent.policies]) == ("persistent", ["Always"])
    assert local.policies == ()


def test_every_change_is_noticed(paths: Paths) -> None:
    stores = Stores(paths)
    seen = [stores.versions()]
    put(paths.policy, "Usual")
    seen.append(stores.versions())
    put(paths.persistent, "Always")
    seen.append(stores.versions())
    LocalStore(paths.policy).settings.set_number("ipsecexempt", 1)
    seen.append(stores.versions())
    assert len(set(seen)) == 4
    assert stores.read().settings.exempt_level == 1


def test_a_damaged_store_at_start(paths: Paths) -> None:
    put(paths.policy, "Usual")
    put(paths.persistent, "Always")
    Stores(paths).keep_good_copies()
    paths.persistent.write_bytes(b"junk")
    told: list[Reason] = []
    stores = Stores(paths)
    configuration = stores.read_at_start(told.append)
    assert [one.policies[0].name for one in configuration.policy_sets] == ["Always", "Usual"]
    assert [reason.code for reason in told] == [ReasonCode.STORE_UNREADABLE]
    with pytest.raises(HostError):
        stores.read()
    last_good_path(paths.persistent).unlink()
    with pytest.raises(HostError) as error:
        Stores(paths).read_at_start(told.append)
    assert "persistent" in str(error.value)


def test_only_what_changed_is_copied_again(paths: Paths) -> None:
    put(paths.policy, "Usual")
    put(paths.persistent, "Always")
    stores = Stores(paths)
    stores.keep_good_copies()
    copies = [last_good_path(path) for path in (paths.policy, paths.persistent)]
    inodes = [copy.stat().st_ino for copy in copies]
    with LocalStore(paths.policy).transaction() as change:
        change.put_filter_list(FilterList("L"))
    stores.keep_good_copies()
    assert copies[0].stat().st_ino != inodes[0]
    assert copies[1].stat().st_ino == inodes[1]
    assert LocalStore(copies[0]).read().filter_list("L") is not None
