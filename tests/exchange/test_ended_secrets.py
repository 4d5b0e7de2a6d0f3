"""What ends takes its keys with it: no object that holds one outlives its SA, without the garbage collector.

The collector is off, so that an object is gone only if nothing refers to it. Looked for are all objects that
hold SKEYIDs, ciphers, private values of Diffie-Hellman, nonces or keys of IPsec SAs; what there was before
(the pre-shared keys of the policy) may stay."""

import gc
from collections.abc import Iterator, Sequence
from dataclasses import replace
from ipaddress import ip_address
from types import GeneratorType

import core_harness
import pytest
from certificate_maker import NOW, root, root_name
from core_harness import me_to, policy_set, secure
from exchange_harness import (
    ALPHA,
    BETA,
    EXACT,
    Fate,
    Network,
    Node,
    Packet,
    Policy,
    deliver,
    established,
    negotiation,
    pairs_up,
    two_hosts,
)

from stockade.crypto import key_exchange
from stockade.crypto.ikev1_keys import MainModeKeys
from stockade.crypto.packet import cbc
from stockade.ike.contract import (
    DeletePeer,
    DeleteQuickMode,
    ProbePeer,
    RekeyQuickMode,
    ReportKind,
    Send,
    Shutdown,
)
from stockade.ike.proofs import RestartSecret
from stockade.ike.v1 import main_mode, quick_mode
from stockade.ike.v1.main_mode import MainModeOutcome
from stockade.ike.v1.protection import MessageCipher, MessageProtection
from stockade.ike.v1.quick_mode_pair import QuickModeOutcome
from stockade.ike.v1.steps import Incoming
from stockade.model.addresses import Endpoint
from stockade.model.filters import Direction
from stockade.model.negotiation import Certificate, Negotiation, PresharedKey
from stockade.model.reasons import Reason, ReasonCode
from stockade.model.sa import SecurityAssociation
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, Group, MainModeProposal
from stockade.pki.chain import ChainRules, Trust
from stockade.pki.credentials import Credentials

HOLDERS = (
    Secret,
    MainModeKeys,
    MainModeOutcome,
    QuickModeOutcome,
    SecurityAssociation,
    MessageCipher,
    MessageProtection,
    type(cbc(Encryption.AES_CBC_128, Secret(bytes(16)))),
    Incoming,
    main_mode._Agreement,
    key_exchange._ModpPrivateValue,
    key_exchange._EcpPrivateValue,
    key_exchange._MontgomeryPrivateValue,
)
EXCHANGES = {module.__file__ for module in (main_mode, quick_mode)}
BYE = Reason.of(ReasonCode.SA_DELETED)
HOUR = 3600.0


def holds_keys(thing: object) -> bool:
    if isinstance(thing, GeneratorType):
        return thing.gi_frame is not None and thing.gi_code.co_filename in EXCHANGES
    return type(thing) in HOLDERS


class Watch:
    """What has come since it began and holds keys."""

    def __init__(self) -> None:
        self._before = [thing for thing in gc.get_objects() if holds_keys(thing)]

    def left(self, *nodes: Node, known: Sequence[object] = ()) -> list[str]:
        """What is still there beside what is `known` and the keys of the nodes' policies and engines, with
        who refers to it."""
        known = {id(thing) for thing in (*self._before, *known)}
        for node in nodes:
            node.history.clear()  # the harness remembers everything
            node.reports.clear()
            rule, engine = node.policy.rule, node.engine
            methods = () if rule is None else rule.authentication
            own = gc.get_referents(engine._guard, engine._context.restart_secret, *methods)
            known.update(id(thing) for thing in own)
        found = [thing for thing in gc.get_objects() if holds_keys(thing) and id(thing) not in known]
        return [f"{type(thing).__name__} of {_referrers(thing, found)}" for thing in found]


def _referrers(thing: object, found: list[object]) -> str:
    others = [entry for entry in gc.get_referrers(thing) if entry is not found]
    return ", ".join(sorted({type(entry).__name__ for entry in others}))


@pytest.fixture
def watch() -> Iterator[Watch]:
    gc.collect()
    gc.disable()
    yield Watch()
    gc.enable()


def up(*, rule: Negotiation | None = None, fate: Fate = deliver) -> tuple[Network, Node, Node]:
    network, alpha, beta = two_hosts(rule, fate=fate)
    established(network, alpha, beta)
    return network, alpha, beta


def silence_from(number: int) -> Fate:
    """The wire is cut before this packet."""
    return lambda packet: deliver(packet) if packet.number < number else []


# ---- what ends as it should
def test_the_watch_sees_what_lives(watch: Watch) -> None:
    network, alpha, beta = up()
    left = " ".join(watch.left(alpha, beta))
    for kind in ("Secret", "MainModeKeys", "MessageCipher", "SecurityAssociation", "QuickModeOutcome"):
        assert kind in left
    assert network.now


@pytest.mark.parametrize("group", [Group.MODP_1024, Group.MODP_2048, Group.ECP_384, Group.CURVE_25519])
@pytest.mark.parametrize("pfs", [False, True])
def test_after_a_delete(watch: Watch, group: Group, pfs: bool) -> None:
    proposal = MainModeProposal(negotiation().main_mode.proposals[0].encryption,
                                negotiation().main_mode.proposals[0].hash, group)  # fmt: skip
    network, alpha, beta = up(rule=negotiation(main=(proposal,), pfs=pfs))
    network.command(alpha, DeletePeer(BETA, BYE))
    network.run(EXACT.departed_seconds + 1)
    assert not watch.left(alpha, beta)


def test_after_a_delete_that_nobody_acknowledges(watch: Watch) -> None:
    network, alpha, beta = up()
    network.nodes.remove(beta)
    del beta
    gc.collect()
    network.command(alpha, DeletePeer(BETA, BYE))
    network.run(HOUR)
    assert not watch.left(alpha)


def test_after_the_end_of_a_main_mode_with_a_peer_that_acknowledges_nothing(watch: Watch) -> None:
    network, alpha, beta = two_hosts(config=replace(EXACT, reliable_delete=False))
    established(network, alpha, beta)
    network.command(alpha, DeletePeer(BETA, BYE))
    network.run(EXACT.departed_seconds + 1)
    assert not watch.left(alpha, beta)


def test_after_the_lifetime(watch: Watch) -> None:
    network, alpha, beta = two_hosts(negotiation(lifetime=60), config=replace(EXACT, renew_main_modes=False))
    established(network, alpha, beta)
    network.run(2 * HOUR)
    assert not alpha.sas
    assert not beta.sas
    assert not watch.left(alpha, beta)


def test_after_shutting_down(watch: Watch) -> None:
    network, alpha, beta = up()
    network.command(alpha, Shutdown(Reason.of(ReasonCode.SHUTTING_DOWN)))
    network.run(60)
    assert not watch.left(alpha, beta)


def test_of_a_pair_that_was_replaced(watch: Watch) -> None:
    network, alpha, beta = up()
    old = {spi for spi, _ in alpha.sas}
    (spi,) = [sa.spi for sa in alpha.of(Direction.INBOUND)]
    network.command(alpha, RekeyQuickMode(spi))
    network.run(EXACT.linger_seconds + EXACT.rekey_grace_seconds + 60)
    watch.left(alpha, beta)
    alive = [thing for thing in gc.get_objects() if isinstance(thing, SecurityAssociation)]
    assert len(alive) == 4  # two of each host
    assert not old & {sa.spi for sa in alive}
    del alive


def test_of_a_pair_that_was_deleted(watch: Watch) -> None:
    network, alpha, beta = up()
    (spi,) = [sa.spi for sa in alpha.of(Direction.INBOUND)]
    network.command(alpha, DeleteQuickMode(spi, BYE))
    network.run(EXACT.linger_seconds + 10)
    assert not [text for text in watch.left(alpha, beta) if text.startswith(("Secur", "QuickModeO"))]


def test_of_main_modes_that_were_made_anew(watch: Watch) -> None:
    network, alpha, beta = up(rule=negotiation(lifetime=600))
    network.run(2000)
    assert len(alpha.engine.main_modes(network.now)) == 1
    left = watch.left(alpha, beta)
    assert sum(text.startswith("MainModeOutcome") for text in left) == 2


# ---- what fails
@pytest.mark.parametrize("number", range(1, 11))
def test_after_the_wire_is_cut_before_message(watch: Watch, number: int) -> None:
    """1 to 6 are main mode's, 7 to 9 quick mode's; both ends give up by themselves."""
    network, alpha, beta = two_hosts(negotiation(lifetime=3600), fate=silence_from(number))
    network.command(alpha, alpha.acquire(BETA))
    network.run(2 * HOUR)
    assert not alpha.engine.main_modes(network.now)
    assert not beta.engine.main_modes(network.now)
    assert not watch.left(alpha, beta)


@pytest.mark.parametrize("number", range(1, 10))
def test_after_a_delete_before_message(watch: Watch, number: int) -> None:
    """An administrator, or a policy, ends it in the midst of it."""
    network, alpha, beta = two_hosts(fate=silence_from(number))
    network.command(alpha, alpha.acquire(BETA))
    network.run(1)
    for node, peer in ((alpha, BETA), (beta, ALPHA)):
        node.engine.command(DeletePeer(peer, BYE), network.now)
    network.run(EXACT.departed_seconds + sum(EXACT.delete_intervals) + 60)
    assert not watch.left(alpha, beta)


@pytest.mark.parametrize("number", range(1, 10))
def test_after_a_message_was_spoilt(watch: Watch, number: int) -> None:
    """All copies of it: a bit of its last byte is another one."""
    seen: list[bytes] = []

    def spoil(packet: Packet) -> list[tuple[float, bytes]]:
        data = packet.send.datagram
        if packet.number == number:
            seen.append(data)
        if data in seen:
            data = data[:-1] + bytes([data[-1] ^ 1])
        return [(0.01, data)]

    network, alpha, beta = two_hosts(negotiation(lifetime=3600), fate=spoil)
    network.command(alpha, alpha.acquire(BETA))
    network.run(3 * HOUR)
    assert not watch.left(alpha, beta)


def test_after_another_key(watch: Watch) -> None:
    network, alpha, beta = two_hosts(negotiation(key=b"one"), negotiation(key=b"two"))
    network.command(alpha, alpha.acquire(BETA))
    network.run(70)
    assert alpha.codes(ReportKind.MAIN_MODE_FAILED) == [ReasonCode.PSK_MISMATCH]
    assert beta.codes(ReportKind.MAIN_MODE_FAILED) == [ReasonCode.PSK_MISMATCH]
    assert not watch.left(alpha, beta)


@pytest.mark.parametrize("meant", [0, 2, None])
def test_after_several_keys_were_tried(watch: Watch, meant: int | None) -> None:
    words = (b"key 0", b"key 1", b"key 2")
    many = replace(negotiation(), authentication=tuple(PresharedKey(Secret(word)) for word in words))
    one = negotiation(key=b"another" if meant is None else words[meant])
    network, alpha, beta = two_hosts(one, many)
    network.command(alpha, alpha.acquire(BETA))
    assert network.run(5, pairs_up(alpha, beta)) is (meant is not None)
    network.run(70)
    network.command(alpha, DeletePeer(BETA, BYE))
    network.run(EXACT.departed_seconds + 1)
    assert not watch.left(alpha, beta)


def test_after_no_proposal_or_no_rule_fits(watch: Watch) -> None:
    other = replace(negotiation().main_mode.proposals[0], group=Group.MODP_2048)
    network, alpha, beta = two_hosts(negotiation(), negotiation(main=(other,)))
    network.command(alpha, alpha.acquire(BETA))
    network.run(70)
    assert alpha.reported(ReportKind.MAIN_MODE_FAILED)
    assert not watch.left(alpha, beta)
    beta.policy.rule = None
    network.command(alpha, alpha.acquire(BETA))
    network.run(70)
    assert len(alpha.codes(ReportKind.MAIN_MODE_FAILED)) == 1  # the list was emptied
    assert not watch.left(alpha, beta)


def test_after_a_quick_mode_that_policy_refuses(watch: Watch) -> None:
    network, alpha, beta = up()
    network.command(alpha, DeletePeer(BETA, BYE))
    network.run(10)

    def nothing(local: object, peer: object, requested: object) -> Reason:
        return Reason.of(ReasonCode.INVALID_IDENTITY)

    beta.policy.for_quick_mode = nothing  # type: ignore[method-assign]
    network.command(alpha, alpha.acquire(BETA))
    network.run(10)
    assert alpha.reported(ReportKind.QUICK_MODE_FAILED)
    network.command(alpha, DeletePeer(BETA, BYE))
    network.run(EXACT.departed_seconds + 1)
    assert not watch.left(alpha, beta)


def test_after_certificates(watch: Watch) -> None:
    authority = root()
    made = {ALPHA: authority.issue("alpha"), BETA: authority.issue("beta")}
    rule = replace(negotiation(), authentication=(Certificate(root_name()),))
    nodes = [
        Node(address, Policy(rule), 0, EXACT,
             Credentials([entry.own], Trust((authority.read,)), ChainRules(), moment=lambda: NOW))
        for address, entry in made.items()
    ]  # fmt: skip
    network = Network(nodes)
    known = Watch()
    established(network, *nodes)
    network.command(nodes[0], DeletePeer(BETA, BYE))
    network.run(EXACT.departed_seconds + 1)
    assert not known.left(*nodes)


# ---- peers that go
def test_after_a_dead_peer(watch: Watch) -> None:
    network, alpha, beta = up()
    network.nodes.remove(beta)
    del beta
    gc.collect()
    network.command(alpha, ProbePeer(ALPHA, BETA))
    assert network.run(60, lambda: not alpha.sas)
    assert alpha.codes(ReportKind.MAIN_MODE_DELETED) == [ReasonCode.PEER_DEAD]
    assert not watch.left(alpha)


@pytest.mark.parametrize("proves", [False, True])
def test_after_a_peer_began_anew(watch: Watch, proves: bool) -> None:
    """It was killed, and says so (INITIAL-CONTACT), or proves it: only what is new is left."""

    def make(address: object, seed: int, generation: int) -> Node:
        node = Node(address, Policy(negotiation()), seed)  # type: ignore[arg-type]
        if proves:
            node.engine._context.restart_secret = RestartSecret(Secret(bytes(32)), generation, "", ())
        return node

    alpha, beta = make(ALPHA, 0, 0), make(BETA, 0, 0)
    network = Network([alpha, beta])
    established(network, alpha, beta)
    spi = alpha.of(Direction.OUTBOUND)[0].spi
    network.nodes[1] = beta = make(BETA, 9, 1)
    gc.collect()  # what the killed one had
    if proves:
        beta.engine.prove_lost(BETA, ALPHA, spi, network.now)
    else:
        network.command(beta, beta.acquire(ALPHA))
    assert network.run(5, pairs_up(alpha, beta))
    network.run(EXACT.linger_seconds + 60)
    left = watch.left(alpha, beta)
    assert sum(text.startswith("SecurityAssociation") for text in left) == 4
    assert sum(text.startswith("MainModeOutcome") for text in left) == 2
    network.command(alpha, DeletePeer(BETA, BYE))
    network.run(EXACT.departed_seconds + 1)
    assert not watch.left(alpha, beta)


def test_after_a_flood(watch: Watch) -> None:
    """Strangers begin, get an answer and are forgotten: when their time is over, or pushed out by others."""
    network, alpha, beta = two_hosts(fate=lambda packet: [])
    network.command(alpha, alpha.acquire(BETA))
    first = network.sent[0].send.datagram
    watching = Watch()
    for number in range(3000):
        source = Endpoint(ip_address(f"198.51.{number >> 8}.{number & 255}"), 500)
        beta.engine.receive(number.to_bytes(8, "big") + first[8:], beta.endpoint, source, network.now)
    assert any(isinstance(effect, Send) for effect in beta.engine.effects())
    network.run(EXACT.half_open_seconds + 1)
    assert beta.engine.statistics["active_receive"] == 0
    assert not watching.left(beta)
    assert alpha.address


# ---- the whole host: core and driver
@pytest.mark.parametrize("end", ["deleted", "policy", "shutdown"])
def test_a_host_keeps_no_key_of_what_has_ended(watch: Watch, end: str) -> None:
    rule = (secure(), (me_to(core_harness.BETA),), {})
    nothing = policy_set()
    world = core_harness.World()
    alpha, beta = core_harness.Host(world, core_harness.ALPHA), core_harness.Host(world, core_harness.BETA)
    one = alpha.start(policy_set(rule))
    other = beta.start(policy_set((secure(), (me_to(core_harness.ALPHA),), {})))
    alpha.send(beta.address, b"hello")
    assert world.run(5, lambda: beta.received == [b"hello"])
    assert len(one.associations()) == len(other.associations()) == 2
    match end:
        case "deleted":
            one.delete_peer(beta.address, world.clock.now)
        case "policy":
            one.load([nothing], world.clock.now)
        case "shutdown":
            one.shutdown(world.clock.now)
    world.settle()
    world.run(EXACT.departed_seconds + 60)
    kept = [thing for core in (one, other) for thing in gc.get_referents(core.engine._guard)]
    assert set(watch.left(known=kept)) <= {"Secret of PresharedKey"}
