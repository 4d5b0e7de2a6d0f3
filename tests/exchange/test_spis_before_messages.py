"""A data plane that keeps packets ahead of their SA (`driver/kernel/early.py`) is told to listen between an
SPI and the message that tells it to the peer: of the first pair, of one that an administrator has made anew,
and of one that the data plane itself asks for in the middle of a round."""

import pytest
from core_harness import ALPHA, BETA, Host, World, me_to, policy_set, secure

from stockade.driver.contract import DriverEvent, SaExpired
from stockade.ike.contract import RekeyQuickMode, Send
from stockade.model.addresses import Address
from stockade.model.filters import Direction


def test_the_data_plane_listens_between_an_spi_and_its_message(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    alpha, beta = Host(world, ALPHA), Host(world, BETA)
    order: list[str] = []
    to_tell: list[DriverEvent] = []
    get_spi, events, send_ike = alpha.driver.get_spi, alpha.driver.events, alpha._send_ike

    def record_spi(local: Address, peer: Address) -> int:
        order.append("spi")
        return get_spi(local, peer)

    def tell() -> list[DriverEvent]:
        told = [*events(), *to_tell]
        to_tell.clear()
        return told

    def record_send(send: Send) -> None:
        order.append("send")
        send_ike(send)

    monkeypatch.setattr(alpha.driver, "get_spi", record_spi)
    monkeypatch.setattr(alpha.driver, "listen_ahead", lambda: order.append("listen"), raising=False)
    monkeypatch.setattr(alpha.driver, "events", tell)
    monkeypatch.setattr(alpha, "_send_ike", record_send)
    core = alpha.start(policy_set((secure(), (me_to(BETA),), {})))
    beta.start(policy_set((secure(), (me_to(ALPHA),), {})))
    alpha.send(BETA, b"one")
    assert world.run(5, lambda: b"one" in beta.received)
    (pair,) = core.engine.quick_modes(world.clock.now)
    core.engine.command(RekeyQuickMode(pair.inbound_spi), world.clock.now)
    world.settle()
    assert world.run(5, lambda: order.count("spi") == 2 and len(core.engine.quick_modes(world.clock.now)) > 1)
    newest = min(core.engine.quick_modes(world.clock.now), key=lambda each: each.age)
    to_tell.append(SaExpired(newest.inbound_spi, Direction.INBOUND, False, BETA))
    world.settle()
    assert world.run(5, lambda: order.count("spi") == 3)
    world.settle()
    for place in (place for place, what in enumerate(order) if what == "spi"):
        assert "listen" in order[place : place + order[place:].index("send")], order
