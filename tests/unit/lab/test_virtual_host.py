"""Virtual hosts: the real core and driver on a virtual wire, with what a host without IPsec sees of it."""

import random
from dataclasses import dataclass, field
from ipaddress import ip_address

import pytest

from stockade.agent.known_peers import KnownPeers
from stockade.lab.capture import WireWatch
from stockade.lab.errors import LabError
from stockade.lab.tcp import State
from stockade.lab.virtual import VirtualClock, VirtualNetwork
from stockade.lab.virtual_host import VirtualHost
from stockade.model.filters import Action
from stockade.model.negotiation import PresharedKey
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, EspSuite, Group, Hash, MainModeProposal, QuickModeProposal
from stockade.policy.objects import Filter, FilterAction, FilterAddress, FilterList, Policy, PolicySet, Rule

ALPHA, BETA, GAMMA = (ip_address(f"10.0.0.{number}") for number in (1, 2, 3))


def policy(key: bytes = b"a shared secret", protocol: int = 0) -> list[PolicySet]:
    """Secure everything (or one protocol) between this host and any other."""
    everything = FilterList("all", (Filter(FilterAddress.me(), FilterAddress.any(), protocol=protocol),))
    secure = FilterAction(
        "secure", Action.NEGOTIATE, (QuickModeProposal(EspSuite(Encryption.AES_GCM_128, None)),)
    )
    rule = Rule("secure all", "all", "secure", authentication=(PresharedKey(Secret(key)),))
    method = MainModeProposal(Encryption.AES_CBC_128, Hash.SHA_256, Group.ECP_256)
    assigned = Policy("test", (rule,), assigned=True, main_mode_methods=(method,))
    return [PolicySet((assigned,), (everything,), (secure,))]


@dataclass
class Scene:
    """alpha and beta with a policy (once `start` was called), gamma without."""

    network: VirtualNetwork
    alpha: VirtualHost
    beta: VirtualHost
    gamma: VirtualHost
    watch: WireWatch
    times: list[float] = field(default_factory=list)

    def start(self, beta_key: bytes = b"a shared secret") -> None:
        self.alpha.start_agent(policy())
        self.beta.start_agent(policy(beta_key))

    def run(self, seconds: float) -> None:
        self.network.clock.run(seconds)

    def ping(self, source: VirtualHost, target: VirtualHost, count: int = 1, seconds: float = 5.0) -> int:
        """How many of `count` pings, 0.1 s apart, are answered within `seconds` after the last."""
        answered: list[float] = []
        for _ in range(count):
            source.stack.ping(target.address, lambda sent, received: answered.append(received - sent))
            self.run(0.1)
        self.run(seconds)
        self.times = answered
        return len(answered)


@pytest.fixture
def scene() -> Scene:
    return make_scene()


def make_scene(**settings: float) -> Scene:
    network = VirtualNetwork(VirtualClock(), **settings)  # type: ignore[arg-type]
    source = random.Random(5)
    hosts = [
        VirtualHost(name, address, network, source.randbytes)
        for name, address in (("alpha", ALPHA), ("beta", BETA), ("gamma", GAMMA))
    ]
    watch = WireWatch(lambda flow: {flow.source, flow.destination} == {ALPHA, BETA})
    network.tap(lambda now, packet: watch.see(packet))
    return Scene(network, *hosts, watch)


def test_hosts_without_agents_talk_in_clear(scene: Scene) -> None:
    assert scene.ping(scene.alpha, scene.beta) == 1
    assert (scene.watch.tally().protected_clear, scene.watch.tally().esp) == (2, 0)


def test_the_first_ping_is_held_and_answered_and_nothing_is_clear(scene: Scene) -> None:
    scene.start()
    assert scene.ping(scene.alpha, scene.beta, count=10) == 10
    assert scene.watch.tally().protected_clear == 0
    assert scene.watch.tally().esp == 20
    # Main mode 6 and quick mode 3; where the first ESP packet overtakes the last of these, beta's answer asks
    # for a quick mode of its own.
    assert 9 <= scene.watch.tally().ike <= 12
    assert (
        scene.times[0] > 4 * 0.002 > scene.times[-1]
    )  # held for the key exchange; afterwards one round trip


def test_an_outsider_gets_no_answer_and_no_answer_leaks(scene: Scene) -> None:
    scene.start()
    assert scene.ping(scene.gamma, scene.beta, count=3) == 0
    connection = scene.gamma.stack.connect(BETA, 80)
    scene.run(30.0)
    assert connection.state is not State.OPEN


def test_different_keys_let_nothing_through_and_the_journal_says_why(scene: Scene) -> None:
    scene.start(beta_key=b"another secret")
    assert scene.ping(scene.alpha, scene.beta, count=3) == 0
    assert scene.watch.tally().protected_clear == 0
    said = {entry.reason.code.word for entry in scene.alpha.journal + scene.beta.journal}
    assert said & {"psk-mismatch", "authentication-failed", "decryption-failed"}


@pytest.mark.parametrize("seed", range(3))
def test_a_lossy_network_delays_but_does_not_break_the_key_exchange(seed: int) -> None:
    scene = make_scene(loss=0.2, duplication=0.1, jitter=0.01, seed=seed)
    scene.start()
    content, heard = random.Random(seed).randbytes(50_000), bytearray()
    scene.beta.stack.listen(80, lambda connection: setattr(connection, "on_data", heard.extend))
    connection = scene.alpha.stack.connect(BETA, 80)
    connection.send(content)
    scene.network.clock.run(300.0, lambda: len(heard) >= len(content))
    assert bytes(heard) == content
    assert scene.watch.tally().protected_clear == 0


def test_a_killed_agent_keeps_its_host_closed_and_a_new_one_reconnects(scene: Scene) -> None:
    known = KnownPeers()
    scene.alpha.start_agent(policy())
    scene.beta.start_agent(policy(), known)
    assert scene.ping(scene.alpha, scene.beta) == 1
    scene.beta.kill_agent()
    assert scene.ping(scene.alpha, scene.beta, count=2) == 0
    assert scene.ping(scene.gamma, scene.beta, count=2) == 0
    scene.beta.start_agent(policy(), known)
    assert scene.ping(scene.alpha, scene.beta, count=10) >= 9
    assert scene.watch.tally().protected_clear == 0


def test_a_stopped_agent_says_good_bye_and_opens_its_host(scene: Scene) -> None:
    scene.start()
    assert scene.ping(scene.alpha, scene.beta) == 1
    scene.beta.stop_agent()
    scene.run(1.0)
    assert scene.alpha.core is not None
    assert scene.alpha.core.engine.quick_modes(scene.network.clock.now) == ()
    assert scene.ping(scene.gamma, scene.beta) == 1


def test_an_agent_that_runs_is_not_started_twice(scene: Scene) -> None:
    scene.start()
    with pytest.raises(LabError, match="runs an agent already"):
        scene.beta.start_agent(policy())
    scene.beta.kill_agent()
    with pytest.raises(LabError, match="runs no agent"):
        scene.beta.kill_agent()
