"""The Oakley log: what both ends tell of a negotiation, good and bad."""

from dataclasses import replace

from exchange_harness import (
    AES,
    ALPHA,
    BETA,
    ESP,
    EXACT,
    Network,
    Node,
    Policy,
    drop_numbers,
    established,
    negotiation,
    pairs_up,
    two_hosts,
)

from stockade.ike.contract import DeleteQuickMode, InstallSa, RemoveSa, Report, StoryLine
from stockade.model.addresses import Endpoint
from stockade.model.filters import Direction
from stockade.model.reasons import Reason, ReasonCode
from stockade.model.suites import Encryption, EspSuite, Group, Hash, MainModeProposal, QuickModeProposal

DES3 = MainModeProposal(Encryption.TRIPLE_DES_CBC, Hash.SHA1, Group.MODP_1024)
GCM = QuickModeProposal(EspSuite(Encryption.AES_GCM_256, None))


class Teller(Node):
    """A host that keeps its story."""

    def __init__(self, *arguments: object, **settings: object) -> None:
        super().__init__(*arguments, **settings)  # type: ignore[arg-type]
        self.story: list[StoryLine] = []
        self.engine.set_logging(True)

    def apply(self, effect: InstallSa | RemoveSa | Report | StoryLine) -> None:
        if isinstance(effect, StoryLine):
            self.story.append(effect)
        else:
            super().apply(effect)

    def told(self, event: str, phase: str = "") -> list[StoryLine]:
        return [line for line in self.story if line.event == event and line.phase.startswith(phase)]


def tellers(**rules: object) -> tuple[Network, Teller, Teller]:
    alpha = Teller(ALPHA, Policy(negotiation(**rules)))  # type: ignore[arg-type]
    beta = Teller(BETA, Policy(negotiation()))
    return Network([alpha, beta]), alpha, beta


def test_nothing_is_told_while_logging_is_off() -> None:
    network, alpha, beta = two_hosts()
    alpha.engine.set_logging(True)
    alpha.engine.set_logging(False)
    network.command(alpha, alpha.acquire(BETA))
    effects: list[object] = []
    beta.engine.receive(network.sent[0].send.datagram, beta.endpoint, Endpoint(ALPHA, 500), network.now)
    effects += beta.engine.effects()
    assert effects
    assert not any(isinstance(effect, StoryLine) for effect in effects)


def test_responder_tells_what_was_offered_what_it_chose_and_why_not_the_rest() -> None:
    other = replace(AES, group=Group.ECP_384)
    network, alpha, beta = tellers(main=(DES3, AES, other), quick=(GCM, ESP))
    beta.policy.rule = negotiation(main=(other, AES))
    established(network, alpha, beta)
    (offered,) = beta.told("offered", "main")
    assert [name for name, _ in offered.facts] == ["offer 1", "offer 2", "offer 3"]
    assert offered.facts[0][1].startswith("3DES-SHA1-2 by preshared-key")
    (chosen,) = beta.told("chosen", "main")
    assert chosen.text.startswith("we choose AES128-SHA1-ECP256 by preshared-key")
    verdicts = [why for _, why in chosen.facts]
    assert verdicts == ["encryption, we have AES128", "chosen", "fits, but an earlier one was chosen"]
    (chosen,) = beta.told("chosen", "quick")
    assert [why for _, why in chosen.facts] == ["algorithms, we have ESP[AES128,SHA1]", "chosen"]
    assert any("asks for" in line.text for line in beta.told("rule", "quick"))
    assert any("local/test/rule covers it" in line.text for line in beta.told("rule", "quick"))


def test_initiator_tells_what_it_offered_and_what_the_peer_made_of_it() -> None:
    network, alpha, beta = tellers(main=(DES3, AES), quick=(GCM, ESP))
    established(network, alpha, beta)
    assert "wants to secure any 10.9.0.1 -> 10.9.0.2" in alpha.told("begun", "main")[0].text
    (chosen,) = alpha.told("chosen", "main")
    assert [why.partition(" by")[0] for _, why in chosen.facts] == ["passed over", "chosen"]
    (chosen,) = alpha.told("chosen", "quick")
    assert [why.partition(" by")[0] for _, why in chosen.facts] == ["passed over", "chosen"]


def test_who_proved_what_and_how_long_each_step_took() -> None:
    network, alpha, beta = tellers()
    established(network, alpha, beta)
    for node, own, peer in ((alpha, ALPHA, BETA), (beta, BETA, ALPHA)):
        texts = {line.text for line in node.told("proved")}
        assert texts == {
            f"we prove by preshared-key that we are {own}",
            f"the peer proves by preshared-key that it is {peer}",
        }
        up = [line.phase for line in node.told("established")]
        assert up == ["main mode", "quick mode"]
        for phase in ("main mode", "quick mode"):
            times = [line.elapsed for line in node.story if line.phase == phase]
            assert times == sorted(times)
            assert times[-1] > 0
        quick = node.told("established", "quick")[0]
        assert quick.under == node.told("established", "main")[0].number
        spis = dict(quick.facts)
        assert spis["inbound SPI"] == f"{node.of(Direction.INBOUND)[0].spi:#010x}"
    assert "Windows Server 2008 R2" in str(alpha.told("peer")[0].facts)


def test_refused_offer_has_reason_remedy_and_windows_code() -> None:
    network, alpha, beta = tellers(main=(DES3,))
    network.command(alpha, alpha.acquire(BETA))
    network.run(70)
    failed = beta.told("failed")[0]
    assert failed.reason is not None
    assert failed.reason.code is ReasonCode.NO_PROPOSAL_CHOSEN
    assert failed.reason.code.windows_code
    assert failed.reason.code.remedy
    assert failed.facts == (("offer 1 3DES-SHA1-2:", "encryption, we have AES128"),)
    (failed,) = alpha.told("failed")
    assert failed.reason is not None
    assert failed.reason.code is ReasonCode.NO_PROPOSAL_CHOSEN
    assert alpha.told("doubted")  # the unprotected hint came before the end


def test_another_key_at_each_end_and_no_key_in_the_log() -> None:
    network, alpha, beta = tellers(key=b"battery staple")
    network.command(alpha, alpha.acquire(BETA))
    network.run(70)
    assert not pairs_up(alpha, beta)()
    failed = alpha.told("failed")[0]
    assert failed.reason is not None
    assert failed.reason.code is ReasonCode.PSK_MISMATCH
    for line in (*alpha.story, *beta.story):
        assert "battery" not in str(line)
        assert "correct horse" not in str(line)


def test_no_key_of_a_good_negotiation_is_in_the_log() -> None:
    network, alpha, beta = tellers(pfs=True)
    established(network, alpha, beta)
    told = " ".join(str(line) for line in (*alpha.story, *beta.story))
    for sa in (*alpha.sas.values(), *beta.sas.values()):
        for key in (sa.encryption_key, sa.integrity_key):
            assert key.reveal().hex() not in told
            assert repr(key.reveal()) not in told
    mode = alpha.engine._table.main_modes()[0]
    assert mode.outcome is not None
    assert mode.outcome.keys.skeyid_d.reveal().hex() not in told


def test_lost_messages_and_deletes_are_told() -> None:
    network, alpha, beta = tellers()
    network.fate = drop_numbers(3)
    established(network, alpha, beta)
    assert "main mode message 4" in alpha.told("sent-again")[0].text
    spi = alpha.of(Direction.INBOUND)[0].spi
    network.command(alpha, DeleteQuickMode(spi, Reason.of(ReasonCode.SA_IDLE, seconds=300)))
    network.run(2)
    for node, code in ((alpha, ReasonCode.SA_IDLE), (beta, ReasonCode.SA_DELETED)):
        (deleted,) = node.told("deleted", "quick")
        assert deleted.reason is not None
        assert deleted.reason.code is code


def test_flood_of_beginnings_costs_a_bounded_number_of_lines() -> None:
    config = replace(EXACT, story_lines_per_second=10.0)
    beta = Teller(BETA, Policy(negotiation()), config=config)
    network, alpha, _ = two_hosts()
    network.command(alpha, alpha.acquire(BETA))
    first = network.sent[0].send.datagram
    for number in range(1000):
        cookie = number.to_bytes(8, "big").replace(b"\0", b"\1")
        beta.engine.receive(cookie + first[8:], beta.endpoint, Endpoint(ALPHA, 500), 100.0)
    lines = [effect for effect in beta.engine.effects() if isinstance(effect, StoryLine)]
    assert len(lines) == 40  # four seconds' worth at once
    beta.engine.receive(b"\7" * 8 + first[8:], beta.endpoint, Endpoint(ALPHA, 500), 101.0)
    later = [effect for effect in beta.engine.effects() if isinstance(effect, StoryLine)]
    assert "left out" in later[0].facts[-1][0]
