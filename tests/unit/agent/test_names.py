"""DNS names: asked for in threads, kept when the resolver fails, known again after a restart."""

import threading
import time
from ipaddress import ip_address

from stockade.agent.journal import Entry
from stockade.agent.names import MAXIMUM_ADDRESSES, RETRY_SECONDS, LookupFailed, NameKeeper, system_addresses

ONE, TWO = ip_address("192.0.2.1"), ip_address("192.0.2.2")


class World:
    """A resolver that says what `answers` holds (None: it fails), and a keeper that asks it."""

    def __init__(self, path=None, **answers):
        self.answers = {name.replace("_", "."): found for name, found in answers.items()}
        self.asked: list[str] = []
        self.woken = threading.Event()
        self.journal: list[Entry] = []
        self.threads: set[str] = set()
        self.keeper = NameKeeper(self.woken.set, self.journal.append, path, self.resolve, 60.0)

    def resolve(self, name):
        self.asked.append(name)
        self.threads.add(threading.current_thread().name)
        found = self.answers.get(name)
        if found is None:
            raise LookupFailed("no server answers")
        return found

    def turn(self, now, expected=1):
        """Ask for what is due and take in that many answers; whether something changed."""
        asked = len(self.asked) + expected
        self.keeper.ask_due(now)
        changed = False
        deadline = time.monotonic() + 60
        while (len(self.asked) < asked or self.keeper_waits()) and time.monotonic() < deadline:
            self.woken.wait(0.02)
            self.woken.clear()
            changed = self.keeper.collect(now) or changed
        return self.keeper.collect(now) or changed

    def keeper_waits(self):
        return any(row.asking for row in self.keeper.rows)

    def kinds(self):
        return [entry.kind for entry in self.journal]


def test_a_name_is_asked_for_in_another_thread_and_again_after_the_period():
    world = World(peer_example=(ONE,))
    world.keeper.want(["Peer.Example."], 0.0)
    assert world.keeper.answers == {}  # nothing known: the compiler treats it as pending
    assert world.turn(0.0)
    assert world.keeper.answers == {"peer.example": (ONE,)}
    assert world.threads == {"stockade-names"}
    assert not world.turn(59.0, expected=0)
    world.answers["peer.example"] = (TWO,)
    assert world.turn(60.0)
    assert world.keeper.answers == {"peer.example": (TWO,)}
    assert world.kinds() == ["name-resolved", "name-resolved"]


def test_a_resolver_that_fails_changes_nothing_and_is_told_once():
    world = World(peer_example=(ONE,))
    world.keeper.want(["peer.example"], 0.0)
    world.turn(0.0)
    world.answers["peer.example"] = None
    assert not world.turn(60.0)
    assert not world.turn(60.0 + RETRY_SECONDS)  # asked again sooner
    assert world.keeper.answers == {"peer.example": (ONE,)}
    assert world.kinds() == ["name-resolved", "name-not-resolved"]
    assert "the last answer stays: 192.0.2.1" in str(world.journal[-1].reason)
    (row,) = world.keeper.rows
    assert row.error == "no server answers"
    assert row.answered == 0.0
    world.answers["peer.example"] = (ONE,)
    assert not world.turn(200.0)
    assert world.keeper.rows[0].error == ""


def test_a_name_that_does_not_exist_is_known_to_have_no_address():
    world = World(gone_example=())
    world.keeper.want(["gone.example"], 0.0)
    assert world.turn(0.0)
    assert world.keeper.answers == {"gone.example": ()}


def test_what_was_known_is_known_after_a_restart(tmp_path):
    path = tmp_path / "names.json"
    world = World(path, peer_example=(ONE,))
    world.keeper.want(["peer.example"], 0.0)
    world.turn(0.0)
    assert path.stat().st_mode & 0o777 == 0o600
    again = World(path)
    again.keeper.want(["peer.example", "other.example"], 0.0)
    assert again.keeper.answers == {"peer.example": (ONE,)}
    assert again.keeper.rows[0].answered is None or again.keeper.rows[1].answered is None
    for damage in (b"", b"[]", b'{"a": 7}', b'{"a": ["x"]}', b"\xff\xfe", b"[" * 100_000):
        path.write_bytes(damage)
        assert NameKeeper(lambda: None, path=path).answers == {}


def test_a_slow_resolver_holds_nobody_up():
    free = threading.Event()
    keeper = NameKeeper(lambda: None, resolve=lambda name: (free.wait(120), ())[1])
    keeper.want([f"host{number}.example" for number in range(50)], 0.0)
    keeper.ask_due(0.0)
    assert not keeper.collect(0.0)
    assert all(row.asking for row in keeper.rows), "it waited until the resolver had answered"
    assert sum(thread.name.startswith("stockade-names") for thread in threading.enumerate()) < 20
    free.set()
    keeper.close()


def test_names_that_the_policy_forgot_are_forgotten():
    world = World(one_example=(ONE,), two_example=(TWO,))
    world.keeper.want(["one.example", "two.example"], 0.0)
    world.turn(0.0, expected=2)
    world.keeper.want(["two.example"], 1.0)
    assert world.keeper.answers == {"two.example": (TWO,)}


def test_a_name_with_very_many_addresses_is_cut():
    many = tuple(ip_address(0x0A000000 + number) for number in range(MAXIMUM_ADDRESSES + 9))
    world = World(big_example=many)
    world.keeper.want(["big.example"], 0.0)
    world.turn(0.0)
    assert len(world.keeper.answers["big.example"]) == MAXIMUM_ADDRESSES
    assert "name-too-long" in world.kinds()


def test_the_systems_resolver_knows_an_address_and_refuses_nonsense():
    assert system_addresses("192.0.2.77") == (ip_address("192.0.2.77"),)
    assert system_addresses("127.0.0.1") == ()  # loopback is no address that "me" or a peer has
