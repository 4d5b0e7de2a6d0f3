"""Nodes that tell each other their peers: what is believed, what is kept, what is forgotten."""

import os
import random
from ipaddress import IPv4Address, ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockade.cluster import messages
from stockade.cluster.messages import Hello, Kind, Message, decode, decode_entries, decode_hello, pack_entries
from stockade.cluster.replication import DEAD_SECONDS, HELLO_SECONDS, Replication
from stockade.cluster.settings import ClusterSettings
from stockade.model.addresses import Address, AddressRange
from stockade.model.known_quick_mode import KnownQuickMode
from stockade.model.reasons import PeerError, Reason
from stockade.model.secret import Secret
from stockade.model.traffic import TrafficSelector

VIRTUAL = ip_address("10.0.0.100")
ADDRESSES = {name: ip_address(f"10.0.0.{number}") for number, name in enumerate(("a", "b", "c"), start=1)}
SECRET = b"a secret of sixteen or more"


def known(number: int, local: Address = VIRTUAL) -> KnownQuickMode:
    peer = IPv4Address(0x0A01_0000 + number)
    selector = TrafficSelector(AddressRange.host(local), AddressRange.host(peer), 6, 0, 0)
    return KnownQuickMode(local, peer, selector)


class Wire:
    """Nodes and what is between them; `lose` says which messages get lost."""

    def __init__(self, *names: str, secret: bytes = SECRET) -> None:
        self.now = 100.0
        self.notes: list[tuple[str, str]] = []
        self.nodes = {name: self.node(name, secret) for name in names}
        self.sent: list[tuple[str, str, bytes]] = []
        self.lose = lambda: False

    def node(self, name: str, secret: bytes = SECRET) -> Replication:
        names = ("a", "b", "c")
        settings = ClusterSettings(name, (VIRTUAL,), {one: ADDRESSES[one] for one in names}, Secret(secret))

        def note(kind: str, reason: Reason) -> None:
            self.notes.append((name, kind))

        return Replication(settings, os.urandom, note)

    def carry(self) -> None:
        for _ in range(20):
            moved = False
            for name, node in list(self.nodes.items()):
                for datagram, address in node.outgoing():
                    target = next(one for one, own in ADDRESSES.items() if own == address)
                    self.sent.append((name, target, datagram))
                    if target in self.nodes and not self.lose():
                        self.nodes[target].receive(datagram, ADDRESSES[name], self.now)
                        moved = True
            if not moved:
                return

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            for node in self.nodes.values():
                node.timeout(self.now)
            self.carry()
            self.now += 0.1


def test_a_node_knows_what_the_holder_of_the_address_has() -> None:
    wire = Wire("a", "b")
    wire.nodes["a"].hold([VIRTUAL], wire.now)
    wire.run(1)
    for number in range(100):
        wire.nodes["a"].add(known(number), wire.now)
    wire.nodes["a"].remove(known(7), wire.now)
    wire.carry()
    taken = wire.nodes["b"].take(VIRTUAL)
    assert taken == [known(number) for number in reversed(range(100)) if number != 7]
    assert wire.nodes["b"].members(wire.now)[0].held == (VIRTUAL,)
    assert wire.notes.count(("b", "cluster-member-came")) == 1
    assert wire.nodes["a"].take(VIRTUAL) == []


def test_who_else_lives_and_holds_an_address() -> None:
    wire = Wire("a", "b")
    wire.nodes["a"].hold([VIRTUAL], wire.now)
    wire.run(1)
    assert wire.nodes["b"].holders(VIRTUAL, wire.now) == ("a",)
    assert wire.nodes["a"].holders(VIRTUAL, wire.now) == ()
    assert set(wire.nodes["b"].holders(ADDRESSES["b"], wire.now)) == {"a", "c"}  # nobody takes that over
    del wire.nodes["a"]
    wire.run(DEAD_SECONDS + 0.5)
    assert wire.nodes["b"].holders(VIRTUAL, wire.now) == ()


def test_only_what_is_on_a_virtual_address_that_the_node_has_is_told() -> None:
    wire = Wire("a", "b")
    wire.run(1)
    wire.nodes["a"].add(known(1), wire.now)
    wire.nodes["a"].add(known(2, ip_address("10.0.0.1")), wire.now)
    wire.run(1)
    assert wire.nodes["b"].take(VIRTUAL) == []


def test_what_is_lost_on_the_way_is_told_again() -> None:
    seed = 5
    print("seed", seed)
    chance = random.Random(seed)
    wire = Wire("a", "b", "c")
    wire.lose = lambda: chance.random() < 0.3
    wire.nodes["a"].hold([VIRTUAL], wire.now)
    for number in range(300):
        wire.nodes["a"].add(known(number), wire.now)
        if number % 3 == 0:
            wire.nodes["a"].remove(known(number), wire.now)
        if number % 30 == 0:
            wire.run(0.2)
    wire.run(20)
    expected = {known(number) for number in range(300) if number % 3}
    for name in ("b", "c"):
        assert set(wire.nodes[name].take(VIRTUAL)) == expected


def test_what_a_node_had_when_the_address_left_it_or_it_died_stays_told() -> None:
    wire = Wire("a", "b", "c")
    wire.nodes["a"].hold([VIRTUAL], wire.now)
    wire.run(1)
    for number in range(3):
        wire.nodes["a"].add(known(number), wire.now)
    wire.nodes["a"].freeze(VIRTUAL)
    for number in range(3):  # its farewells
        wire.nodes["a"].remove(known(number), wire.now)
    wire.nodes["a"].hold([], wire.now)
    wire.run(1)
    assert len(wire.nodes["b"].take(VIRTUAL)) == 3
    del wire.nodes["a"]
    wire.run(DEAD_SECONDS + 1)
    assert ("b", "cluster-member-lost") in wire.notes
    assert not wire.nodes["b"].members(wire.now)[0].alive
    assert len(wire.nodes["b"].take(VIRTUAL)) == 3


def test_the_former_holder_forgets_when_another_holds_the_address() -> None:
    wire = Wire("a", "b")
    one, two = wire.nodes["a"], wire.nodes["b"]
    one.hold([VIRTUAL], wire.now)
    one.add(known(1), wire.now)
    one.freeze(VIRTUAL)
    one.hold([], wire.now)
    wire.run(1)
    assert two.take(VIRTUAL) == [known(1)]
    two.hold([VIRTUAL], wire.now)
    two.add(known(1), wire.now)
    wire.run(2)
    assert two.take(VIRTUAL) == []
    assert one.take(VIRTUAL) == [known(1)]


def test_a_node_that_was_started_anew_replaces_what_it_had_told() -> None:
    wire = Wire("a", "b")
    wire.nodes["a"].hold([VIRTUAL], wire.now)
    wire.nodes["a"].add(known(1), wire.now)
    wire.run(1)
    again = wire.nodes["a"] = wire.node("a")
    again.hold([VIRTUAL], wire.now)
    again.restore(known(2))
    wire.run(2)
    assert wire.nodes["b"].take(VIRTUAL) == [known(2)]


def test_the_owner_of_a_peer_is_a_living_node_that_has_the_address_too() -> None:
    wire = Wire("a", "b")
    wire.nodes["a"].hold([VIRTUAL], wire.now)
    wire.nodes["b"].hold([VIRTUAL], wire.now)
    wire.nodes["a"].add(known(1), wire.now)
    wire.run(1)
    two = wire.nodes["b"]
    assert two.owner(VIRTUAL, known(1).peer, wire.now) == "a"
    assert two.owner(VIRTUAL, known(2).peer, wire.now) is None
    assert two.owner(VIRTUAL, known(1).peer, wire.now + DEAD_SECONDS + 1) is None


def test_a_replay_of_everything_that_was_ever_said_changes_nothing() -> None:
    wire = Wire("a", "b")
    wire.nodes["a"].hold([VIRTUAL], wire.now)
    wire.run(1)
    wire.nodes["a"].add(known(1), wire.now)
    wire.carry()
    recorded = [(name, datagram) for name, target, datagram in wire.sent if target == "b"]
    wire.nodes["a"].remove(known(1), wire.now)
    wire.run(1)
    # To the same session, and to a node that was started anew and knows nothing.
    for node in (wire.nodes["b"], wire.node("b")):
        node.outgoing()
        for name, datagram in recorded:
            node.receive(datagram, ADDRESSES[name], wire.now)
        assert node.take(VIRTUAL) == []
        assert len(node.outgoing()) <= 1  # a hello, at a bounded rate
    assert wire.nodes["b"].members(wire.now)[0].alive
    wire.run(HELLO_SECONDS * 3)
    assert wire.nodes["b"].members(wire.now)[0].alive


def test_who_does_not_have_the_secret_is_not_believed() -> None:
    wire = Wire("a", "b")
    wire.nodes["a"] = wire.node("a", b"another secret, quite as long")
    wire.nodes["a"].hold([VIRTUAL], wire.now)
    wire.nodes["a"].add(known(1), wire.now)
    wire.run(2)
    two = wire.nodes["b"]
    assert two.take(VIRTUAL) == []
    assert not any(member.alive for member in two.members(wire.now))
    assert two.refused > 0
    # Nor is a node that takes another one's name or address.
    message = Message(Kind.HELLO, "c", bytes(16), bytes(16), 1).encode(Secret(SECRET))
    before = two.refused
    two.receive(message, ADDRESSES["a"], wire.now)
    two.receive(message, ip_address("10.9.9.9"), wire.now)
    assert two.refused == before + 2


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_any_body_under_a_right_code_is_decoded_or_refused(body: bytes) -> None:
    for reader in (decode_hello, decode_entries):
        try:
            found = reader(body)
        except PeerError:
            continue
        if isinstance(found, Hello):
            assert found.encode() == body
        else:
            assert b"".join(pack_entries(found, 10_000)) == body
    whole = messages.Message(Kind.ADD, "a", bytes(16), bytes(16), 1, body).encode(Secret(SECRET))
    assert decode(whole, Secret(SECRET)).body == body
    with pytest.raises(PeerError):
        decode(whole[:-1] + bytes([whole[-1] ^ 1]), Secret(SECRET))
    with pytest.raises(PeerError):
        decode(body, Secret(SECRET))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"addresses": ()}, "virtual addresses"),
        ({"node": "d"}, "this node"),
        ({"node": "no good name"}, "name of a node"),
        ({"secret": Secret(b"short")}, "16 bytes"),
        ({"port": 500}, "port"),
        ({"members": {"a": VIRTUAL}}, "own"),
        ({"members": {"a": ADDRESSES["a"], "b": ADDRESSES["a"]}}, "same address"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_settings_that_do_not_fit_are_named(changes: dict, word: str) -> None:
    good = {"node": "a", "addresses": (VIRTUAL,), "members": ADDRESSES, "secret": Secret(SECRET)}
    ClusterSettings(**good)
    with pytest.raises(ValueError, match=word):
        ClusterSettings(**{**good, **changes})
