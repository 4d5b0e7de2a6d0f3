"""A data plane that loses one half of a pair while quick mode is under way: no pair stays that only sends.

alpha (initiator)  message 1 ▶  beta (responder): inbound SA into the data plane, which fails or restarts
                 ◀ message 2
                   message 3 ▶  outbound SA: its other half is not there
"""

import pytest
from core_harness import ALPHA, BETA, Host, World, me_to, policy_set, secure

from stockade.driver.contract import SaExpired
from stockade.model.filters import Direction
from stockade.model.reasons import ReasonCode, error_for
from stockade.model.sa import SecurityAssociation


class Failing:
    """Stands before beta's data plane: the first inbound SA is refused, or lost soon after."""

    def __init__(self, host: Host, refuses: bool) -> None:
        self.host, self.refuses, self.failed = host, refuses, False
        self.add_sa, host.driver.add_sa = host.driver.add_sa, self  # type: ignore[method-assign]
        self.events, host.driver.events = host.driver.events, self.tell  # type: ignore[method-assign]
        self.told: list[SaExpired] = []

    def __call__(self, sa: SecurityAssociation) -> None:
        if self.failed or sa.direction is not Direction.INBOUND:
            return self.add_sa(sa)
        self.failed = True
        if self.refuses:
            raise error_for(ReasonCode.DRIVER_FAILED, "it dies just now")
        self.add_sa(sa)
        self.host.driver._datapath.remove_sa(sa.spi, sa.direction, sa.peer)
        self.told.append(SaExpired(sa.spi, sa.direction, True, sa.peer))
        return None

    def tell(self) -> list[object]:
        told, self.told = self.told, []
        return [*told, *self.events()]


@pytest.mark.parametrize("refuses", [True, False], ids=["refused", "lost"])
def test_traffic_comes_back_though_the_inbound_half_went_during_quick_mode(refuses: bool) -> None:
    world = World()
    alpha, beta = Host(world, ALPHA), Host(world, BETA)
    alpha.start(policy_set((secure(), (me_to(BETA),), {})))
    beta.start(policy_set((secure(), (me_to(ALPHA),), {})))
    failing = Failing(beta, refuses)

    def say(number: int = 0) -> None:
        alpha.send(BETA, str(number).encode())
        world.clock.call_later(0.1, lambda: say(number + 1))

    say()
    assert world.run(20, lambda: len(beta.received) > 5)
    assert failing.failed
    assert world.clear == []
    assert "sa-refused" in beta.kinds()
    for host in (alpha, beta):
        assert host.core is not None
        known = {pair.inbound_spi for pair in host.core.engine.quick_modes(world.clock.now)}
        there = {row.spi for row in host.driver.statistics().sas if row.direction is Direction.INBOUND}
        assert known == there
