"""The event ids of Windows, each made to occur by whole hosts on a virtual clock.

Not here: those of the policy agent (5456-5474, tests/unit/agent/test_policy_event_ids.py), of the service
(5478, 5479, tests/host/test_watching.py), and those that the table says cannot occur."""

from dataclasses import replace

from certificate_maker import NOW, Made, root, root_name
from core_harness import ALPHA, BETA, QUICK, Host, World, key, me_to, policy_set, secure

from stockade.ike.config import EngineConfig
from stockade.ike.contract import DeletePeer, Shutdown
from stockade.model.negotiation import Certificate
from stockade.model.reasons import Reason, ReasonCode
from stockade.model.suites import Encryption, EspSuite, Hash
from stockade.pki.chain import ChainRules, Trust
from stockade.pki.credentials import Credentials

EXACT = EngineConfig(retransmission_jitter=0.0)


class Pair:
    """alpha begins with beta."""

    def __init__(self, ours: dict | None = None, theirs: dict | None = None, action=None) -> None:
        self.world = World()
        self.alpha, self.beta = Host(self.world, ALPHA), Host(self.world, BETA)
        self.core = self.alpha.start(policy_set((secure(), (me_to(BETA),), ours or {})), config=EXACT)
        self.beta.start(policy_set((action or secure(), (me_to(ALPHA),), theirs or {})), config=EXACT)

    def begin(self, seconds: float = 2.0) -> "Pair":
        self.alpha.send(BETA, b"hello")
        self.world.run(seconds)
        return self

    @staticmethod
    def ids(host: Host) -> set[int]:
        return {number for entry in host.journal for number in entry.as_dict()["windows_events"]}


ROOT = root()
BY_CERTIFICATE = {"authentication": (Certificate(root_name()),)}


def certified(*machine: Made) -> Credentials:
    """A machine store that trusts one root; `machine` are the host's own certificates."""
    return Credentials([one.own for one in machine], Trust((ROOT.read,)), ChainRules(), moment=lambda: NOW)


def certified_pair(alphas: Credentials, betas: Credentials) -> tuple[World, Host, Host]:
    """alpha begins, and a minute passes."""
    world = World()
    alpha, beta = Host(world, ALPHA), Host(world, BETA)
    for host, peer, credentials in ((alpha, BETA, alphas), (beta, ALPHA, betas)):
        policies = policy_set((secure(), (me_to(peer),), BY_CERTIFICATE))
        host.start(policies, config=EXACT, credentials=credentials)
    alpha.send(BETA, b"hello")
    world.run(70)
    return world, alpha, beta


def test_main_mode_by_certificate_is_4651() -> None:
    _, alpha, beta = certified_pair(certified(ROOT.issue("alpha")), certified(ROOT.issue("beta")))
    for host in (alpha, beta):
        assert {541, 4651, 5451} <= Pair.ids(host)
        assert not {544, 4650, 4652, 4653} & Pair.ids(host), host.kinds()


def test_a_certificate_that_is_refused_is_544_and_4652() -> None:
    ours, theirs = ROOT.issue("alpha"), ROOT.issue("beta")
    trust = Trust((ROOT.read,), (), (ROOT.revocation_list(ours),))
    knows = Credentials([theirs.own], trust, ChainRules(), moment=lambda: NOW)
    impostor = root()  # another key under the same name
    believes = Trust((impostor.read, ROOT.read))
    forged = Credentials([impostor.issue("beta").own], believes, ChainRules(), moment=lambda: NOW)
    for alphas, betas, code in (
        (certified(ours), knows, ReasonCode.CERTIFICATE_REVOKED),
        (certified(ours), forged, ReasonCode.CERTIFICATE_UNTRUSTED),
    ):
        _, alpha, beta = certified_pair(alphas, betas)
        told = [one.as_dict() for host in (alpha, beta) for one in host.journal]
        failed = [(one["reason"], one["windows_events"]) for one in told if one["kind"] == "main-mode-failed"]
        assert (code.word, [544, 4652]) in failed
        assert 5451 not in Pair.ids(alpha) | Pair.ids(beta)


def test_what_comes_up_and_ends() -> None:
    pair = Pair().begin()
    for host in (pair.alpha, pair.beta):
        assert {541, 4650, 5451} <= pair.ids(host)
        assert not {542, 543, 4655, 5452} & pair.ids(host)
    pair.core.engine.command(DeletePeer(BETA, Reason.of(ReasonCode.SA_DELETED)), pair.world.clock.now)
    pair.world.settle()
    pair.world.run(2)
    for host in (pair.alpha, pair.beta):
        assert {542, 5452, 543, 4655} <= pair.ids(host)


def test_a_wrong_key_is_545() -> None:
    pair = Pair({"authentication": key("one")}, {"authentication": key("another")}).begin(70)
    for host in (pair.alpha, pair.beta):
        failed = [one.as_dict()["windows_events"] for one in host.journal if one.kind == "main-mode-failed"]
        assert [545, 4653] in failed, host.kinds()


def test_quick_mode_methods_that_do_not_fit_are_546() -> None:
    other = replace(QUICK, esp=EspSuite(Encryption.AES_CBC_256, Hash.SHA_256))
    pair = Pair(action=replace(secure(), methods=(other,))).begin(5)
    assert {546, 4654, 4650} <= pair.ids(pair.alpha) | pair.ids(pair.beta)


def test_a_peer_that_does_not_answer_is_547() -> None:
    pair = Pair()
    pair.beta.wants_ike = False
    pair.begin(70)
    assert {547, 4653} <= pair.ids(pair.alpha)


def test_a_key_exchange_that_stops_is_5453() -> None:
    pair = Pair()
    pair.beta.wants_ike = False
    pair.begin(1)
    pair.core.engine.command(Shutdown(Reason.of(ReasonCode.SHUTTING_DOWN)), pair.world.clock.now)
    pair.world.settle()
    pair.world.run(3)
    assert 5453 in pair.ids(pair.alpha), pair.alpha.kinds()


def test_rubbish_is_4976_in_main_mode_and_4977_in_quick_mode() -> None:
    pair = Pair().begin()
    (mode,) = pair.core.engine.main_modes(pair.world.clock.now)
    initiator, responder = (bytes.fromhex(half) for half in mode.cookies.split(":"))
    # ISAKMP header (RFC 2408 §3.1): cookies, next payload, version 1.0, exchange, flags, message id, length
    for exchange, flags, message in ((2, 0, 0), (32, 1, 77)):
        body = bytes(range(32))
        head = initiator + responder + bytes([8, 0x10, exchange, flags]) + message.to_bytes(4, "big")
        datagram = head + (28 + len(body)).to_bytes(4, "big") + body
        pair.core.receive(datagram, mode.local, mode.remote, pair.world.clock.now)
        pair.world.settle()
        pair.world.run(3)  # such reports have a rate
    told = [one.as_dict() for one in pair.alpha.journal if one.kind == "message-refused"]
    ids = {number for one in told for number in one["windows_events"]}
    assert ids == {4976, 4977}, [(one["text"], one["facts"], one) for one in told]
