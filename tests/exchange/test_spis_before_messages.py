"""A data plane that keeps packets ahead of their SA listens from its next round (`driver/kernel/early.py`).
So there is a round between an SPI and the message that tells the peer, of the first pair and of a new one."""

import pytest
from core_harness import ALPHA, BETA, Host, World, me_to, policy_set, secure

from stockade.ike.contract import RekeyQuickMode, Send


def test_the_data_plane_has_a_round_between_an_spi_and_its_message(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    alpha, beta = Host(world, ALPHA), Host(world, BETA)
    order: list[str] = []
    get_spi, events, send_ike = alpha.driver.get_spi, alpha.driver.events, alpha._send_ike

    def record_spi(*ends: object) -> int:
        order.append("spi")
        return get_spi(*ends)

    def record_events() -> object:
        order.append("round")
        return events()

    def record_send(send: Send) -> None:
        order.append("send")
        send_ike(send)

    monkeypatch.setattr(alpha.driver, "get_spi", record_spi)
    monkeypatch.setattr(alpha.driver, "events", record_events)
    monkeypatch.setattr(alpha, "_send_ike", record_send)
    core = alpha.start(policy_set((secure(), (me_to(BETA),), {})))
    beta.start(policy_set((secure(), (me_to(ALPHA),), {})))
    alpha.send(BETA, b"one")
    assert world.run(5, lambda: b"one" in beta.received)
    (pair,) = core.engine.quick_modes(world.clock.now)
    core.engine.command(RekeyQuickMode(pair.inbound_spi), world.clock.now)
    world.settle()
    assert world.run(5, lambda: len(core.engine.quick_modes(world.clock.now)) == 2)
    told = [place for place, what in enumerate(order) if what == "spi"]
    assert len(told) == 2
    for place in told:
        assert order[place + 1 :][: order[place + 1 :].index("send")].count("round") >= 1
