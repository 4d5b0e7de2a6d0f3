"""Known peers survive restarts, stay bounded, and a damaged file costs nothing but the quick reconnect."""

from ipaddress import ip_address

from stockade.agent import known_peers as module
from stockade.agent.known_peers import KnownPeers, KnownQuickMode
from stockade.model.addresses import AddressRange
from stockade.model.traffic import TCP, TrafficSelector


def _known(peer: str, port: int = 0) -> KnownQuickMode:
    local = ip_address("10.0.0.1")
    selector = TrafficSelector(AddressRange.host(local), AddressRange.host(peer), TCP if port else 0, 0, port)
    return KnownQuickMode(local, ip_address(peer), selector)


def test_what_was_added_is_there_after_a_restart_without_close(tmp_path):
    first = KnownPeers(tmp_path / "state.db")
    first.add(_known("10.0.0.2"))
    first.add(_known("10.0.0.2", 80))
    first.add(_known("10.0.0.3"))
    first.remove(_known("10.0.0.3"))
    second = KnownPeers(tmp_path / "state.db")
    assert set(second.all()) == {_known("10.0.0.2"), _known("10.0.0.2", 80)}
    assert set(second.with_peer(ip_address("10.0.0.2"))) == set(second.all())
    assert second.with_peer(ip_address("10.0.0.3")) == ()


def test_changes_that_can_wait_are_written_together_and_at_the_end(tmp_path):
    waiting = []
    first = KnownPeers(tmp_path / "state.db", waiting.append)
    first.add(_known("10.0.0.2"))
    first.add(_known("10.0.0.3"))
    first.remove(_known("10.0.0.2"))
    assert len(waiting) == 1
    assert KnownPeers(tmp_path / "state.db").all() == ()
    waiting.pop()()
    assert KnownPeers(tmp_path / "state.db").all() == (_known("10.0.0.3"),)
    first.add(_known("10.0.0.4"))
    assert len(waiting) == 1
    first.close()
    waiting.pop()()  # the loop's last turn comes after the end
    assert {str(one.peer) for one in KnownPeers(tmp_path / "state.db").all()} == {"10.0.0.3", "10.0.0.4"}


def test_the_newest_come_first_and_the_number_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAXIMUM", 3)
    known = KnownPeers(tmp_path / "state.db")
    for last in range(2, 8):
        known.add(_known(f"10.0.0.{last}"))
    assert [str(entry.peer) for entry in known.all()] == ["10.0.0.7", "10.0.0.6", "10.0.0.5"]
    assert len(KnownPeers(tmp_path / "state.db").all()) == 3


def test_a_damaged_file_is_put_aside(tmp_path):
    (tmp_path / "state.db").write_bytes(b"this is no database, " * 100)
    known = KnownPeers(tmp_path / "state.db")
    assert known.all() == ()
    known.add(_known("10.0.0.2"))
    assert KnownPeers(tmp_path / "state.db").all() == (_known("10.0.0.2"),)
    assert (tmp_path / "state.damaged").exists()


def test_a_place_that_cannot_be_used_costs_the_memory_and_nothing_else(tmp_path):
    known = KnownPeers(tmp_path / "absent" / "state.db")
    assert "state.db" in known.trouble
    known.add(_known("10.0.0.2"))
    assert known.all() == (_known("10.0.0.2"),)
    known.remove(_known("10.0.0.2"))
    known.close()
