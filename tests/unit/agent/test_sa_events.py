"""What the core makes of a driver's SA events: it must know whose SA it is, for peers choose SPIs freely."""

import os
from dataclasses import replace
from ipaddress import ip_address

import pytest

from stockade.agent.core import HostCore
from stockade.driver.contract import DriverEvent, SaExpired, SaIdle
from stockade.driver.memory import MemoryDriver
from stockade.ike.contract import Command, DeleteQuickMode, InstallSa, RekeyQuickMode
from stockade.model.addresses import Address, AddressRange
from stockade.model.filters import Direction
from stockade.model.negotiation import Mode
from stockade.model.sa import SecurityAssociation
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, EspSuite, Hash
from stockade.model.traffic import TrafficSelector

LOCAL, ONE, OTHER = (ip_address(f"10.0.0.{host}") for host in (1, 2, 3))
SAME = 0x4711


def pair(peer: Address, inbound: int) -> tuple[SecurityAssociation, SecurityAssociation]:
    """A pair whose outbound SPI is the same with every peer."""
    selector = TrafficSelector(AddressRange.host(LOCAL), AddressRange.host(peer))
    suite = EspSuite(Encryption.AES_CBC_128, Hash.SHA1)
    keys = Secret(bytes(16)), Secret(bytes(20))
    common = ("rule", "0" * 16, "")
    outbound = SecurityAssociation(
        SAME, Direction.OUTBOUND, LOCAL, peer, selector, Mode.TRANSPORT, suite, None, *keys, inbound, *common
    )
    return (
        replace(
            outbound,
            spi=inbound,
            direction=Direction.INBOUND,
            source=peer,
            destination=LOCAL,
            selector=selector.reversed(),
            pair=SAME,
        ),
        outbound,
    )


@pytest.mark.parametrize("last_removed", [False, True])
def test_event_of_an_outbound_sa_is_about_the_right_peer(
    monkeypatch: pytest.MonkeyPatch, last_removed: bool
) -> None:
    driver = MemoryDriver(lambda packet: None, lambda packet: None)
    host = HostCore(driver, [LOCAL], os.urandom)
    driver.start()
    for peer, inbound in ((ONE, 0x1001), (OTHER, 0x1002)):
        for sa in pair(peer, inbound):
            host._apply(InstallSa(sa), 0.0)
    commands: list[Command] = []
    monkeypatch.setattr(host.engine, "command", lambda command, now: commands.append(command))
    events: list[DriverEvent] = [
        SaExpired(SAME, Direction.OUTBOUND, False, ONE),
        SaExpired(SAME, Direction.OUTBOUND, True, OTHER),
        SaIdle(SAME, Direction.OUTBOUND, ONE),
    ]
    for event in reversed(events) if last_removed else events:
        host._on_driver_event(event, 1.0)
    found = [(type(command), command.inbound_spi) for command in commands]  # type: ignore[union-attr]
    wanted = [(RekeyQuickMode, 0x1001), (DeleteQuickMode, 0x1002), (DeleteQuickMode, 0x1001)]
    assert found == (wanted[::-1] if last_removed else wanted)
