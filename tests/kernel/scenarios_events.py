"""Scenarios of kernel_scenarios.py: filters without SAs, what the kernel tells its driver, what it lacks."""

import socket
import threading
import time
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address

from kernel_drivers import SUITES, Here, sas_of, secure, table_of, two_drivers
from kernel_world import ALPHA, ALPHA6, BETA, BETA6, World, eventually, ping, xfrm

from stockade.driver.contract import Acquire, PacketRefused, SaExpired, SaIdle
from stockade.driver.kernel.offload import HardwareOffload
from stockade.driver.netlink import NetlinkSocket
from stockade.driver.probe import esp_trial, refusal_of
from stockade.model.addresses import AddressRange
from stockade.model.filters import Action, Direction, FilterTable, Provenance
from stockade.model.reasons import HostError, Reason, ReasonCode
from stockade.model.sa import Lifetime, SecurityAssociation
from stockade.model.secret import Secret
from stockade.model.suites import Encryption, EspSuite, Hash, QuickModeProposal
from stockade.model.traffic import AH, ICMP, Flow, TrafficSelector
from stockade.policy.specific import make_filter
from stockade.wire import xfrm as xfrm_wire


def the_kernel_reports_what_happens(world: World) -> None:
    """Acquire, soft and hard expiry, idle, an SPI that nobody knows, and packets that are not what they
    should be."""
    proposal = SUITES[6]
    with two_drivers(world) as (alpha, beta):
        tables = table_of(ALPHA, BETA, ICMP, proposal), table_of(BETA, ALPHA, ICMP, proposal)
        alpha.install_filters(tables[0])
        beta.install_filters(tables[1])
        # a reserved SPI is an SA to be
        spi = alpha.get_spi(ip_address(ALPHA), ip_address(BETA))
        assert any(f"{spi:#010x}" in text for text in xfrm(world.alpha, "state"))

        assert ping(world.alpha, BETA, 1, 1) == 0
        outbound = next(entry for entry in tables[0].filters if entry.direction is Direction.OUTBOUND)
        acquire = alpha.wait_for(Acquire)
        assert acquire == Acquire(outbound.id, Flow(ip_address(ALPHA), ip_address(BETA), ICMP)), acquire
        assert alpha.statistics().held_packets >= 1

        # Idle is noticed at a look, and a busy machine has few of them.
        lifetime = Lifetime(soft_seconds=2, hard_seconds=12)
        forth, back = secure(alpha, beta, (ALPHA, BETA), ICMP, proposal, lifetime=lifetime, idle_seconds=1.5)
        assert ping(world.alpha, BETA, 2) == 2
        alpha.wait_for(SaIdle)
        alpha.wait_for(SaExpired, spi=forth, direction=Direction.OUTBOUND, hard=False)
        alpha.wait_for(SaExpired, spi=back, direction=Direction.INBOUND, hard=True, seconds=30)
        alpha.wait_for(SaExpired, spi=forth, direction=Direction.OUTBOUND, hard=True)
        beta.wait_for(SaExpired, spi=forth, direction=Direction.INBOUND, hard=True)
        assert alpha.statistics().sas == ()

        # alpha still sends, beta knows nothing
        alpha.add_sa(sas_of(ALPHA, BETA, ICMP, proposal, 0x2000)[1])
        pinger = world.alpha.popen(["ping", "-n", "-c", "30", "-i", "0.2", BETA])
        refused = beta.wait_for(PacketRefused)
        assert (refused.reason.code, refused.spi, str(refused.source)) == (
            ReasonCode.UNKNOWN_SPI,
            0x2000,
            ALPHA,
        )
        pinger.kill()
        pinger.wait()

        # the wrong key at the other end
        alpha.remove_sa(0x2000, Direction.OUTBOUND, ip_address(BETA))
        alpha.add_sa(sas_of(ALPHA, BETA, ICMP, proposal, 0x3000)[1])
        wrong = QuickModeProposal(EspSuite(Encryption.AES_GCM_128, None))
        assert proposal.esp == wrong.esp
        sa = sas_of(ALPHA, BETA, ICMP, wrong, 0x3000)[0]
        beta.add_sa(
            SecurityAssociation(
                **{
                    **{name: getattr(sa, name) for name in sa.__slots__},
                    "encryption_key": Secret(b"\xff" * len(sa.encryption_key)),
                }
            )
        )
        beta.seen.clear()
        assert ping(world.alpha, BETA, 3, 1) == 0
        refused = beta.wait_for(PacketRefused, spi=0x3000)
        assert refused.reason.code is ReasonCode.INTEGRITY_FAILED


def what_began_a_negotiation_goes_in_clear_where_the_way_is_open(world: World) -> None:
    """Negotiation discovery: a permit filter comes above the one that asked, and the held packet leaves."""
    with two_drivers(world) as (alpha, _):
        asks = table_of(ALPHA, BETA, ICMP, SUITES[6], accept_clear=True)
        alpha.install_filters(asks)
        answered: list[int] = []
        thread = threading.Thread(target=lambda: answered.append(ping(world.alpha, BETA, 1, 30)))
        thread.start()
        acquired = alpha.wait_for(Acquire)
        opened = tuple(
            make_filter(
                entry.selector,
                entry.direction,
                Action.PERMIT,
                entry.weight,
                entry.provenance,
                allow_soft=True,
            )
            for entry in asks.filters
        )
        alpha.install_filters(replace(asks, filters=(*opened, *asks.filters)))
        alpha.release(acquired.filter_id, ip_address(BETA), Reason.of(ReasonCode.SOFT_FALLBACK))
        thread.join(60)
        assert answered == [1]
        # what the kernel keeps of an acquire goes by itself
        assert eventually(lambda: not xfrm(world.alpha, "state"))


def loopback_is_left_alone(world: World) -> None:
    """Everything is blocked, but for what does not leave the host."""
    ranges = [AddressRange.everything(version) for version in (4, 6)]
    filters = (
        make_filter(
            TrafficSelector(everything, everything),
            direction,
            Action.BLOCK,
            1,
            Provenance("local", "test", "rule"),
        )
        for everything in ranges
        for direction in Direction
    )
    alpha = Here(world.alpha)
    alpha.start()
    try:
        alpha.install_filters(FilterTable(tuple(filters)))
        for address in (ALPHA, "127.0.0.1", ALPHA6, "::1"):
            assert ping(world.alpha, address, 1) == 1, address
        for address in (BETA, BETA6):
            assert world.alpha.run(["ping", "-c1", "-W1", address], check=False).returncode != 0, address
        assert ping(world.beta, ALPHA, 1, 1) == 0
        assert ping(world.beta, ALPHA6, 1, 1) == 0
    finally:
        alpha.stop()


def accept_clear_lets_clear_packets_in(world: World) -> None:
    """inpass: beta takes clear packets from alpha, and answers them secured (so alpha hears nothing)."""
    proposal = SUITES[6]
    beta = Here(world.beta)
    beta.start()
    try:
        table = table_of(BETA, ALPHA, ICMP, proposal, accept_clear=True)
        beta.install_filters(table)
        assert ping(world.alpha, BETA, 1, 1) == 0
        beta.wait_for(Acquire)  # of the answer: so the request came in
        beta.install_filters(table_of(BETA, ALPHA, ICMP, proposal))
        time.sleep(4)  # until the kernel forgets that it asked
        beta.events()
        beta.seen.clear()
        assert ping(world.alpha, BETA, 1, 1) == 0
        time.sleep(0.3)
        assert not any(isinstance(event, Acquire) for event in beta.events())
        assert dict(beta.statistics().refused).get("clear-dropped", 0) > 0
        # a second driver in the same namespace is refused and changes nothing
        second = Here(world.beta)
        before = xfrm(world.beta, "policy")
        with suppress(HostError):
            second.start()
            raise AssertionError("two drivers in one namespace")
        second.stop()
        assert xfrm(world.beta, "policy") == before
    finally:
        beta.stop()


def what_the_kernel_lacks_is_left_or_refused(world: World) -> None:
    """A network card that has no ESP: the SAs stay with the kernel's own. AH with GMAC: there is none."""
    with two_drivers(world) as (alpha, beta):
        for driver in (alpha, beta):
            driver.driver._hardware = HardwareOffload(wanted=True, devices=lambda: ("eth0",))
        alpha.install_filters(table_of(ALPHA, BETA, ICMP, SUITES[6]))
        beta.install_filters(table_of(BETA, ALPHA, ICMP, SUITES[6]))
        secure(alpha, beta, (ALPHA, BETA), ICMP, SUITES[6])
        assert ping(world.alpha, BETA, 2) == 2
        assert alpha.statistics().offloaded_sas == 0
        assert alpha.driver.capabilities.integrities == frozenset(Hash)
    netlink = world.alpha.call(lambda: NetlinkSocket(socket.NETLINK_XFRM))
    for is_aead in (False, True):
        gmac = xfrm_wire.Algorithm("rfc4543(gcm(aes))", Secret(bytes(20)), 128, is_aead=is_aead)
        state = replace(esp_trial(Encryption.NULL, Hash.SHA1), protocol=AH)
        state = replace(state, encryption=gmac if is_aead else None, integrity=None if is_aead else gmac)
        assert refusal_of(netlink, state) is not None, is_aead
    netlink.close()
