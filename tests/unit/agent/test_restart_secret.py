"""The secret that survives a restart."""

from ipaddress import ip_address
from pathlib import Path

import pytest

from stockade.agent.restart_secret import next_restart_secret
from stockade.cluster.settings import ClusterSettings
from stockade.ike.proofs import MAXIMUM_NODES, about_pair
from stockade.model.reasons import HostError, ReasonCode
from stockade.model.secret import Secret


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


OURS, PEER = ip_address("10.0.0.100"), ip_address("10.1.0.1")


def cluster(node: str, number: int = 3, key: bytes = b"a secret of the cluster") -> ClusterSettings:
    members = {f"n{at:02}": ip_address(f"10.0.0.{at + 1}") for at in range(number)}
    return ClusterSettings(node, (OURS,), members, Secret(key))


def test_nodes_of_a_cluster_prove_for_each_other_and_each_counts_its_own_starts(tmp_path: Path) -> None:
    first = next_restart_secret(tmp_path / "one.json", cluster("n00"))
    for _ in range(3):
        second = next_restart_secret(tmp_path / "two.json", cluster("n01"))
    assert (first.node, first.generation, second.node, second.generation) == ("n00", 0, "n01", 2)
    assert set(first.others) == {"n01", "n02"}
    token = first.token(about_pair(7), OURS, PEER)
    assert token in second.proofs(about_pair(7), OURS, PEER)
    assert token not in first.proofs(about_pair(7), OURS, PEER)
    assert token not in second.proofs(about_pair(7), OURS, PEER, ["n00"])
    stranger = next_restart_secret(tmp_path / "three.json", cluster("n02", key=b"the secret of others"))
    assert token not in stranger.proofs(about_pair(7), OURS, PEER)
    assert first.secret.reveal() != b"a secret of the cluster"


def test_a_large_cluster_is_served_as_far_as_one_message_goes(tmp_path: Path) -> None:
    found = next_restart_secret(tmp_path / "restart.json", cluster("n20", 24))
    assert found.others == ("n21", "n22", "n23", "n00", "n01", "n02", "n03")
    assert len(found.others) == MAXIMUM_NODES - 1


def test_a_cluster_of_one_has_a_secret_of_its_own(tmp_path: Path) -> None:
    alone = ClusterSettings("one", (OURS,))
    assert next_restart_secret(tmp_path / "restart.json", alone).others == ()
