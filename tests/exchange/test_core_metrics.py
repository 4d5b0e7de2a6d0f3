"""`/metrics` over whole hosts on a virtual clock: what is configured stays visible when it is down.

alpha has a rule for beta, which answers, and one for gamma, which never does."""

from dataclasses import replace

import pytest
from core_harness import ALPHA, BETA, GAMMA, Host, World, me_to, policy_set, secure
from prometheus_client.parser import text_string_to_metric_families

from stockade.agent.measuring import Measuring
from stockade.agent.metric_table import METRICS
from stockade.agent.metrics import Figures, render
from stockade.agent.recorder import Recorder
from stockade.ike.config import EngineConfig

EXACT = EngineConfig(retransmission_jitter=0.0)
POLICY = policy_set((secure("one"), (me_to(BETA),), {}), (secure("two"), (me_to(GAMMA),), {}))
ANSWER = policy_set((secure(), (me_to(ALPHA),), {}))


class Pair:
    def __init__(self) -> None:
        self.world = World()
        self.alpha, self.beta = Host(self.world, ALPHA), Host(self.world, BETA)
        self.measuring = Measuring()
        self.measuring.recorder = Recorder(lambda: self.world.clock.now)
        journal = self.alpha.journal

        class Both(list):
            def append(both, entry):
                self.measuring.recorder.saw(entry)
                journal.append(entry)

        self.alpha.journal = Both()
        self.core = self.alpha.start(POLICY, config=replace(EXACT, notice_seconds=5.0))
        self.beta.start(ANSWER, config=EXACT)

    def text(self) -> str:
        statistics = self.alpha.driver.statistics()
        self.measuring.look(self.core, statistics)
        recorder, totals = self.measuring.recorder, self.measuring.totals
        figures = Figures(self.core, statistics, recorder, totals, self.world.clock.now, 1.0, "1.2", "memory")
        return render(figures).decode()

    def value(self, name: str, **labels: str) -> float | None:
        found = [
            sample.value
            for family in text_string_to_metric_families(self.text())
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        assert len(found) <= 1, f"{name} {labels} is not one figure"
        return found[0] if found else None


@pytest.fixture
def pair() -> Pair:
    pair = Pair()
    pair.alpha.send(BETA, b"hello")
    pair.alpha.send(GAMMA, b"anybody?")
    assert pair.world.run(3, lambda: b"hello" in pair.beta.received)
    return pair


def test_a_rule_is_told_whether_it_is_up_or_not(pair: Pair) -> None:
    assert pair.value("stockade_rule_configured", rule="rule 1", peer=str(BETA)) == 1
    assert pair.value("stockade_rule_up", rule="rule 1", peer=str(BETA)) == 1
    assert pair.value("stockade_rule_configured", rule="rule 2", peer=str(GAMMA)) == 1
    assert pair.value("stockade_rule_up", rule="rule 2", peer=str(GAMMA)) == 0
    assert pair.value("stockade_peer_up", peer=str(BETA)) == 1
    assert pair.value("stockade_main_modes", state="established") == 1
    assert pair.value("stockade_main_modes", state="negotiating") == 1


def test_a_peer_that_died_stays_visible_and_its_return_is_measured(pair: Pair) -> None:
    pair.world.hosts.remove(pair.beta)
    pair.beta.core = None
    for second in range(40):
        pair.world.clock.call_later(float(second), lambda: pair.alpha.send(BETA, b"more"))
    assert pair.world.run(60, lambda: pair.value("stockade_peer_up", peer=str(BETA)) == 0)
    assert pair.value("stockade_rule_up", rule="rule 1", peer=str(BETA)) == 0
    assert pair.value("stockade_events_total", kind="quick-mode-deleted", reason="peer-dead") == 1
    died = pair.world.clock.now
    again = Host(pair.world, BETA)
    again.start(ANSWER, config=EXACT)
    assert pair.world.run(90, lambda: pair.value("stockade_peer_up", peer=str(BETA)) == 1)
    took = pair.world.clock.now - died
    assert pair.value("stockade_reconnect_seconds_count", cause="peer-dead") == 1
    assert pair.value("stockade_reconnect_seconds_sum", cause="peer-dead") == pytest.approx(took, abs=1.0)


def test_a_handshake_is_in_its_histogram(pair: Pair) -> None:
    assert pair.value("stockade_handshake_seconds_count", phase="main mode", role="initiator") == 1
    assert pair.value("stockade_handshake_seconds_count", phase="quick mode", role="initiator") == 1
    # Six messages at 5 ms each, of which the initiator sees five pass.
    total = pair.value("stockade_handshake_seconds_sum", phase="main mode", role="initiator")
    assert total == pytest.approx(0.03, abs=0.006)


def test_a_failure_is_counted_by_its_reason(pair: Pair) -> None:
    pair.world.run(90)
    reasons = {"kind": "main-mode-failed", "reason": "negotiation-timed-out"}
    assert pair.value("stockade_events_total", **reasons) >= 1
    assert pair.value("stockade_ike_total", counter="acquire_failures") >= 1


def test_bytes_are_summed_by_class_and_outlive_their_sa(pair: Pair) -> None:
    carried = pair.value("stockade_sa_bytes_total", direction="outbound")
    assert carried > 0
    for name in ("confidential", "authenticated", "transport"):
        labels = {"class": name, "direction": "outbound"}
        assert pair.value("stockade_sa_class_bytes_total", **labels) == carried
    pair.core.delete_peer(BETA, pair.world.clock.now)
    pair.world.settle()
    assert pair.value("stockade_quick_modes") == 0
    assert pair.value("stockade_sa_bytes_total", direction="outbound") == carried


def test_what_an_sa_carried_between_the_last_look_and_its_end_is_in_the_sums(pair: Pair) -> None:
    carried = pair.value("stockade_sa_bytes_total", direction="outbound")
    packets = pair.value("stockade_sa_packets_total", direction="outbound")
    assert (carried, packets) == (8 + len(b"hello"), 1), "with the UDP header"
    pair.alpha.send(BETA, bytes(100))
    assert pair.world.run(3, lambda: bytes(100) in pair.beta.received)
    pair.core.delete_peer(BETA, pair.world.clock.now)
    pair.world.settle()
    assert pair.value("stockade_quick_modes") == 0
    for _ in range(2):  # and only once
        assert pair.value("stockade_sa_bytes_total", direction="outbound") == carried + 108
        assert pair.value("stockade_sa_packets_total", direction="outbound") == packets + 1
        for name in ("confidential", "authenticated", "transport"):
            labels = {"class": name, "direction": "outbound"}
            assert pair.value("stockade_sa_class_bytes_total", **labels) == carried + 108
    # an SA that nobody ever looked at
    pair.alpha.send(BETA, b"again")
    assert pair.world.run(3, lambda: b"again" in pair.beta.received)
    pair.core.delete_peer(BETA, pair.world.clock.now)
    pair.world.settle()
    assert pair.value("stockade_sa_bytes_total", direction="outbound") == carried + 108 + 13


def test_every_metric_of_the_table_is_told_with_its_type_and_meaning(pair: Pair) -> None:
    told = {
        (family.name + ("_total" if family.type == "counter" else ""), family.type, family.documentation)
        for family in text_string_to_metric_families(pair.text())
    }
    assert {(one.name, one.type.value, one.meaning) for one in METRICS} <= told


def test_windows_statistics_are_complete(pair: Pair) -> None:
    ike = pair.core.ike_statistics
    for name in [
        "active_acquire",
        "active_receive",
        "acquire_failures",
        "receive_failures",
        "send_failures",
        "acquire_heap_size",
        "receive_heap_size",
        "negotiation_failures",
        "authentication_failures",
        "invalid_cookies_received",
        "total_acquire",
        "total_get_spi",
        "key_additions",
        "key_updates",
        "get_spi_failures",
        "key_addition_failures",
        "key_update_failures",
        "isadb_list_size",
        "connection_list_size",
        "main_modes",
        "quick_modes",
        "soft_associations",
        "invalid_packets_received",
    ]:
        assert isinstance(ike[name], int), name
    assert (ike["key_updates"], ike["key_additions"]) == (1, 2)
    ipsec = pair.measuring.ipsec_statistics(pair.core, pair.alpha.driver.statistics())
    assert ipsec["active_security_associations"] == 1
    assert ipsec["confidential_bytes_sent"] == ipsec["transport_bytes_sent"] > 0
    assert ipsec["active_tunnels"] == ipsec["bad_spi_packets"] == 0
